/*
 * Global functions: those of jinja2, and the two that transformers adds, raise_exception and
 * strftime_now.
 */
#include "jinja_eval.h"
#include "jinja_lib.h"

#include <string.h>
#include <time.h>

#define FUNCTION(name)                                                                             \
    static bool name(jinja *j, jinja_value self, const jinja_args *args, const jinja_value *a,     \
                     jinja_value *out)

enum { MAX_RANGE = 100000, MAX_TIME_TEXT = 1 << 16 };

/* range(stop), range(start, stop), range(start, stop, step) */
FUNCTION(global_range)
{
    (void)self, (void)args;
    int64_t bounds[3] = {0, 0, 1}, span, end;
    int given = a[1].kind == JINJA_MISSING ? 1 : 2;
    for (int i = 0; i < 3; i++) {
        if (a[i].kind == JINJA_MISSING)
            continue;
        if (!jinja_is_integer(a[i]))
            return moe_jinja_fail(j, "'%s' object cannot be interpreted as an integer",
                                  moe_jinja_type_name(a[i]));
        bounds[given == 1 && i == 0 ? 1 : i] = jinja_integer(a[i]);
    }
    int64_t start = bounds[0], stop = bounds[1], step = bounds[2];
    if (step == 0)
        return moe_jinja_fail(j, "range() arg 3 must not be zero");
    jinja_range *range = moe_jinja_alloc(j, 1, sizeof *range);
    if (range == NULL)
        return false;
    *range = (jinja_range){.start = start, .step = step};
    if (step > 0 ? start < stop : start > stop) {
        uint64_t stride = step > 0 ? (uint64_t)step : -(uint64_t)step;
        if (__builtin_sub_overflow(step > 0 ? stop : start, step > 0 ? start : stop, &span))
            return moe_jinja_fail(j, "range is too big");
        uint64_t len = ((uint64_t)span - 1) / stride + 1;
        if (len > MAX_RANGE)
            return moe_jinja_fail(j, "range is too big: more than %d items", MAX_RANGE);
        range->len = (size_t)len;
        /* one step past the last item must be a number too */
        if (__builtin_mul_overflow((int64_t)len, step, &end) ||
            __builtin_add_overflow(start, end, &end))
            return moe_jinja_fail(j, "range is too big");
    }
    *out = (jinja_value){.kind = JINJA_RANGE, .range = range};
    return true;
}

/* Pairs of an iterable into a dict. */
static bool add_pairs(jinja *j, jinja_dict *dict, jinja_value pairs)
{
    jinja_value list, pair;
    if (!moe_jinja_list_of(j, pairs, &list))
        return false;
    for (size_t i = 0; i < list.a->len; i++) {
        if (!moe_jinja_list_of(j, list.a->items[i], &pair))
            return false;
        if (pair.a->len != 2)
            return moe_jinja_fail(j, "dict() needs pairs of a key and a value");
        if (!moe_jinja_dict_set(j, dict, pair.a->items[0], pair.a->items[1]))
            return false;
    }
    return true;
}

/* dict(mapping or pairs, name=value, …) */
FUNCTION(global_dict)
{
    (void)self, (void)a;
    if (!moe_jinja_dict_new(j, out))
        return false;
    if (args->n_pos > 1)
        return moe_jinja_fail(j, "dict expected at most 1 argument, got %zu", args->n_pos);
    if (args->n_pos == 1 && args->pos[0].kind == JINJA_DICT) {
        const jinja_dict *from = args->pos[0].d;
        for (size_t i = 0; i < from->len; i++) {
            if (!moe_jinja_dict_set(j, out->d, from->entries[i].key, from->entries[i].value))
                return false;
        }
    } else if (args->n_pos == 1 && !add_pairs(j, out->d, args->pos[0])) {
        return false;
    }
    for (size_t i = 0; i < args->n_named; i++) {
        if (!moe_jinja_dict_set(j, out->d, args->names[i], args->values[i]))
            return false;
    }
    return true;
}

FUNCTION(global_namespace)
{
    if (!global_dict(j, self, args, a, out))
        return false;
    out->kind = JINJA_NAMESPACE;
    return true;
}

FUNCTION(global_cycler)
{
    (void)self, (void)a;
    if (args->n_pos == 0 || args->n_named > 0)
        return moe_jinja_fail(j, "at least one item has to be provided");
    jinja_cycler *cycler = moe_jinja_alloc(j, 1, sizeof *cycler);
    if (cycler == NULL)
        return false;
    cycler->items = (jinja_array){args->pos, args->n_pos};
    *out = (jinja_value){.kind = JINJA_CYCLER, .cycler = cycler};
    return true;
}

FUNCTION(global_joiner)
{
    (void)self, (void)args;
    jinja_joiner *joiner = moe_jinja_alloc(j, 1, sizeof *joiner);
    if (joiner == NULL)
        return false;
    joiner->separator = a[0];
    *out = (jinja_value){.kind = JINJA_JOINER, .joiner = joiner};
    return a[0].kind != JINJA_MISSING ||
           moe_jinja_string_share(j, ", ", 2, false, &joiner->separator);
}

/* The message becomes the error's, as it is. */
FUNCTION(global_raise_exception)
{
    (void)self, (void)args, (void)out;
    jinja_value text;
    if (!moe_jinja_to_string(j, a[0], &text))
        return false;
    int len = text.s->len < sizeof j->message ? (int)text.s->len : (int)sizeof j->message;
    moe_jinja_fail(j, "%.*s", len, text.s->data);
    j->plain = true;
    return false;
}

/* The format with what Python, but not C, defines for a time without a zone. */
static bool prepare_time_format(jinja *j, const jinja_string *format, jinja_value *out)
{
    size_t mark = moe_jinja_mark(j);
    for (size_t i = 0; i < format->len; i++) {
        const char *at = format->data + i;
        char next = i + 1 < format->len ? at[1] : '\0';
        bool ok = true;
        if (*at == '\0')
            return moe_jinja_fail(j, "embedded null character in a time format");
        if (*at == '%' && next == 'f')
            ok = moe_jinja_write(j, "000000", 6);
        else if (*at != '%' || (next != 'z' && next != 'Z'))
            ok = moe_jinja_write(j, at, *at == '%' && next != '\0' ? 2 : 1);
        if (!ok)
            return false;
        i += *at == '%' && next != '\0';
    }
    /* a last character that is cut off again: an empty result and a full buffer differ */
    return moe_jinja_write(j, ".", 2) && moe_jinja_take(j, mark, false, out);
}

FUNCTION(global_strftime_now)
{
    (void)self, (void)args;
    struct tm tm;
    time_t now = (time_t)j->now;
    jinja_value format;
    if (a[0].kind != JINJA_STRING)
        return moe_jinja_fail(j, "strftime_now() needs a string");
    if (localtime_r(&now, &tm) == NULL)
        return moe_jinja_fail(j, "the time can't be shown as a date");
    if (!prepare_time_format(j, a[0].s, &format))
        return false;
    for (size_t size = 256; size <= MAX_TIME_TEXT; size *= 4) {
        char *text = moe_jinja_alloc(j, size, 1);
        if (text == NULL)
            return false;
        size_t len = strftime(text, size, format.s->data, &tm);
        if (len > 0)
            return moe_jinja_utf8_valid(text, len - 1)
                       ? moe_jinja_string_share(j, text, len - 1, false, out)
                       : moe_jinja_fail(j, "the date is not valid UTF-8");
    }
    return moe_jinja_fail(j, "the date is too long");
}

static const jinja_builtin globals[] = {
    {"range", "start stop? step?", global_range},
    {"dict", NULL, global_dict},
    {"namespace", NULL, global_namespace},
    {"cycler", NULL, global_cycler},
    {"joiner", "sep?", global_joiner},
    {"raise_exception", "message", global_raise_exception},
    {"strftime_now", "format", global_strftime_now},
};

bool moe_jinja_add_globals(jinja *j, jinja_scope *scope)
{
    for (size_t i = 0; i < sizeof globals / sizeof globals[0]; i++) {
        jinja_value name, function = {.kind = JINJA_FUNCTION, .function = &globals[i]};
        if (!moe_jinja_intern(j, globals[i].name, strlen(globals[i].name), &name) ||
            !moe_jinja_scope_set(j, scope, name.s, function))
            return false;
    }
    return true;
}
