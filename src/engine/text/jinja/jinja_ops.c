/*
 * Operators, attributes, subscripts and slices, with Python's meaning.
 *
 * Integers are 64 bits wide; what Python would compute in more bits is an error here.  Attribute
 * and item access follow the sandbox of jinja2: a.b looks for a method or attribute of Python's
 * type first and then for the key "b"; a["b"] the other way round; methods that would change a
 * list or dict don't exist.
 */
#include "jinja_eval.h"
#include "jinja_lib.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- arithmetic ------------------------------------------------------------------------------- */

static bool is_number(jinja_value v)
{
    return jinja_is_integer(v) || v.kind == JINJA_FLOAT;
}

static double to_double(jinja_value v)
{
    return v.kind == JINJA_FLOAT ? v.f : (double)jinja_integer(v);
}

static bool fail_overflow(jinja *j)
{
    return moe_jinja_fail(j, "the result does not fit a 64-bit integer");
}

static bool fail_zero(jinja *j)
{
    return moe_jinja_fail(j, "division by zero");
}

static bool power_integers(jinja *j, int64_t base, int64_t exponent, jinja_value *out)
{
    if (exponent < 0) {
        if (base == 0)
            return fail_zero(j);
        *out = jinja_float(pow((double)base, (double)exponent));
        return true;
    }
    int64_t result = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
            return fail_overflow(j);
        exponent >>= 1;
        if (exponent > 0 && __builtin_mul_overflow(base, base, &base))
            return fail_overflow(j);
    }
    *out = jinja_int(result);
    return true;
}

static bool binary_integers(jinja *j, jinja_op op, int64_t a, int64_t b, jinja_value *out)
{
    int64_t r = 0;
    switch (op) {
    case JINJA_ADD:
        if (__builtin_add_overflow(a, b, &r))
            return fail_overflow(j);
        break;
    case JINJA_SUB:
        if (__builtin_sub_overflow(a, b, &r))
            return fail_overflow(j);
        break;
    case JINJA_MUL:
        if (__builtin_mul_overflow(a, b, &r))
            return fail_overflow(j);
        break;
    case JINJA_POW:
        return power_integers(j, a, b, out);
    case JINJA_DIV:
        if (b == 0)
            return fail_zero(j);
        *out = jinja_float((double)((long double)a / (long double)b));
        return true;
    default:
        if (b == 0)
            return fail_zero(j);
        if (b == -1) { /* INT64_MIN / -1 traps */
            if (op == JINJA_FLOORDIV && __builtin_sub_overflow((int64_t)0, a, &r))
                return fail_overflow(j);
            break;
        }
        r = a % b;
        if (op == JINJA_MOD)
            r += r != 0 && (r < 0) != (b < 0) ? b : 0;
        else
            r = a / b - (r != 0 && (r < 0) != (b < 0));
        break;
    }
    *out = jinja_int(r);
    return true;
}

static bool binary_floats(jinja *j, jinja_op op, double a, double b, jinja_value *out)
{
    double r = 0, mod;
    switch (op) {
    case JINJA_ADD:
        r = a + b;
        break;
    case JINJA_SUB:
        r = a - b;
        break;
    case JINJA_MUL:
        r = a * b;
        break;
    case JINJA_DIV:
        if (b == 0)
            return fail_zero(j);
        r = a / b;
        break;
    case JINJA_POW:
        if (a == 0 && b < 0)
            return fail_zero(j);
        r = pow(a, b);
        if (isfinite(a) && isfinite(b) && !isfinite(r))
            return moe_jinja_fail(j, "the power is not a finite real number");
        break;
    default:
        if (b == 0)
            return fail_zero(j);
        mod = fmod(a, b);
        r = (a - mod) / b;
        if (mod != 0 && (b < 0) != (mod < 0)) {
            mod += b;
            r -= 1;
        } else if (mod == 0) {
            mod = copysign(0, b);
        }
        if (op == JINJA_MOD)
            r = mod;
        else if (r == 0)
            r = copysign(0, a / b);
        else
            r = r - floor(r) > 0.5 ? floor(r) + 1 : floor(r);
        break;
    }
    *out = jinja_float(r);
    return true;
}

/* --- sequences -------------------------------------------------------------------------------- */

static bool add_strings(jinja *j, jinja_value a, jinja_value b, jinja_value *out)
{
    if (a.s->safe == b.s->safe)
        return moe_jinja_string_concat(j, a.s, b.s, a.s->safe, out);
    /* markup and plain text: the plain side is escaped */
    size_t mark = moe_jinja_mark(j);
    return moe_jinja_write_escaped(j, a) && moe_jinja_write_escaped(j, b) &&
           moe_jinja_take(j, mark, true, out);
}

static bool add_arrays(jinja *j, jinja_value a, jinja_value b, jinja_value *out)
{
    size_t n = a.a->len, m = b.a->len;
    if (!moe_jinja_array_new(j, a.kind, n + m, out))
        return false;
    if (n > 0)
        memcpy(out->a->items, a.a->items, n * sizeof(jinja_value));
    if (m > 0)
        memcpy(out->a->items + n, b.a->items, m * sizeof(jinja_value));
    return true;
}

static bool repeat(jinja *j, jinja_value v, int64_t times, jinja_value *out)
{
    size_t count = times < 0 ? 0 : (size_t)times, len;
    if (v.kind == JINJA_STRING) {
        size_t mark = moe_jinja_mark(j);
        return moe_jinja_write_repeat(j, v.s->data, v.s->len, count) &&
               moe_jinja_take(j, mark, v.s->safe, out);
    }
    if (!moe_mul(v.a->len, count, &len))
        return moe_jinja_fail(j, "the list is too long");
    if (!moe_jinja_array_new(j, v.kind, len, out))
        return false;
    for (size_t i = 0; i < len; i++)
        out->a->items[i] = v.a->items[i % v.a->len];
    return true;
}

static bool is_repeatable(jinja_value v)
{
    return v.kind == JINJA_STRING || v.kind == JINJA_LIST || v.kind == JINJA_TUPLE;
}

bool moe_jinja_binary(jinja *j, jinja_op op, jinja_value a, jinja_value b, jinja_value *out)
{
    static const char *const signs[] = {"+", "-", "*", "/", "//", "%", "**"};
    if (jinja_is_integer(a) && jinja_is_integer(b))
        return binary_integers(j, op, jinja_integer(a), jinja_integer(b), out);
    if (is_number(a) && is_number(b))
        return binary_floats(j, op, to_double(a), to_double(b), out);
    if (op == JINJA_MOD && a.kind == JINJA_STRING)
        return moe_jinja_format_percent(j, a.s, b, out);
    if (a.kind == JINJA_UNDEFINED)
        return moe_jinja_fail_undefined(j, a);
    if (b.kind == JINJA_UNDEFINED)
        return moe_jinja_fail_undefined(j, b);
    if (op == JINJA_ADD && a.kind == JINJA_STRING && b.kind == JINJA_STRING)
        return add_strings(j, a, b, out);
    if (op == JINJA_ADD && a.kind == b.kind && (a.kind == JINJA_LIST || a.kind == JINJA_TUPLE))
        return add_arrays(j, a, b, out);
    if (op == JINJA_MUL && is_repeatable(a) && jinja_is_integer(b))
        return repeat(j, a, jinja_integer(b), out);
    if (op == JINJA_MUL && is_repeatable(b) && jinja_is_integer(a))
        return repeat(j, b, jinja_integer(a), out);
    return moe_jinja_fail(j, "unsupported operand type(s) for %s: '%s' and '%s'", signs[op],
                          moe_jinja_type_name(a), moe_jinja_type_name(b));
}

bool moe_jinja_unary(jinja *j, jinja_op op, jinja_value a, jinja_value *out)
{
    if (a.kind == JINJA_UNDEFINED)
        return moe_jinja_fail_undefined(j, a);
    if (!is_number(a))
        return moe_jinja_fail(j, "bad operand type for unary %s: '%s'", op == JINJA_NEG ? "-" : "+",
                              moe_jinja_type_name(a));
    if (a.kind == JINJA_FLOAT) {
        *out = jinja_float(op == JINJA_NEG ? -a.f : a.f);
        return true;
    }
    if (op == JINJA_NEG)
        return binary_integers(j, JINJA_SUB, 0, jinja_integer(a), out);
    *out = jinja_int(jinja_integer(a));
    return true;
}

bool moe_jinja_compare(jinja *j, jinja_op op, jinja_value a, jinja_value b, bool *out)
{
    bool ok;
    switch (op) {
    case JINJA_EQ:
        return moe_jinja_equal(j, a, b, out);
    case JINJA_NE:
        ok = moe_jinja_equal(j, a, b, out);
        *out = !*out;
        return ok;
    case JINJA_LT:
        return moe_jinja_less(j, a, b, out);
    case JINJA_GT:
        return moe_jinja_less(j, b, a, out);
    case JINJA_LE:
    case JINJA_GE:
        if (is_number(a) && is_number(b) && (isnan(to_double(a)) || isnan(to_double(b)))) {
            *out = false;
            return true;
        }
        ok = op == JINJA_LE ? moe_jinja_less(j, b, a, out) : moe_jinja_less(j, a, b, out);
        *out = !*out;
        return ok;
    case JINJA_IN:
        return moe_jinja_contains(j, b, a, out);
    default:
        ok = moe_jinja_contains(j, b, a, out);
        *out = !*out;
        return ok;
    }
}

/* --- slices ----------------------------------------------------------------------------------- */

/* A slice bound: not given, or an integer. */
static bool slice_bound(jinja *j, jinja_value v, bool *given, int64_t *bound)
{
    *given = v.kind != JINJA_NONE && v.kind != JINJA_MISSING;
    *bound = 0;
    if (*given && !jinja_is_integer(v))
        return moe_jinja_fail(j, "slice indices must be integers or None");
    if (*given)
        *bound = jinja_integer(v);
    return true;
}

static int64_t clamp(int64_t at, int64_t len, bool backwards)
{
    if (at < 0)
        at = at < -len ? (backwards ? -1 : 0) : at + len;
    else if (at >= len)
        at = backwards ? len - 1 : len;
    return at;
}

static bool slice_string(jinja *j, const jinja_string *s, int64_t start, int64_t step, size_t n,
                         jinja_value *out)
{
    if (n == 0)
        return moe_jinja_string_share(j, s->data, 0, s->safe, out);
    if (!moe_jinja_step(j, s->len / 64))
        return false;
    if (step == 1) {
        size_t from = moe_jinja_utf8_offset(s, (size_t)start);
        size_t to = moe_jinja_utf8_offset(s, (size_t)start + n);
        return moe_jinja_string_share(j, s->data + from, to - from, s->safe, out);
    }
    size_t *offsets = moe_jinja_alloc(j, s->n_chars + 1, sizeof *offsets), at = 0,
           mark = moe_jinja_mark(j);
    if (offsets == NULL)
        return false;
    for (size_t i = 0; i <= s->n_chars; i++) {
        int32_t cp;
        offsets[i] = at;
        if (i < s->n_chars)
            at += moe_jinja_utf8_decode(s->data + at, &cp);
    }
    for (size_t i = 0; i < n; i++) {
        size_t k = (size_t)(start + (int64_t)i * step);
        if (!moe_jinja_write(j, s->data + offsets[k], offsets[k + 1] - offsets[k]))
            return false;
    }
    return moe_jinja_take(j, mark, s->safe, out);
}

bool moe_jinja_slice(jinja *j, jinja_value v, jinja_value start, jinja_value stop, jinja_value step,
                     jinja_value *out)
{
    if (v.kind == JINJA_UNDEFINED)
        return moe_jinja_fail_undefined(j, v);
    if (v.kind != JINJA_STRING && v.kind != JINJA_LIST && v.kind != JINJA_TUPLE &&
        v.kind != JINJA_RANGE)
        return moe_jinja_fail(j, "'%s' object can't be sliced", moe_jinja_type_name(v));
    bool has_start, has_stop, has_step;
    int64_t from, to, by;
    if (!slice_bound(j, start, &has_start, &from) || !slice_bound(j, stop, &has_stop, &to) ||
        !slice_bound(j, step, &has_step, &by))
        return false;
    if (!has_step)
        by = 1;
    if (by == 0)
        return moe_jinja_fail(j, "slice step cannot be zero");
    size_t length;
    if (!moe_jinja_length(j, v, &length))
        return false;
    int64_t len = (int64_t)length;
    bool backwards = by < 0;
    from = has_start ? clamp(from, len, backwards) : backwards ? len - 1 : 0;
    to = has_stop ? clamp(to, len, backwards) : backwards ? -1 : len;
    uint64_t stride = backwards ? -(uint64_t)by : (uint64_t)by; /* by may be INT64_MIN */
    size_t n = 0;
    if (backwards ? to < from : from < to)
        n = (size_t)(((uint64_t)(backwards ? from - to : to - from) - 1) / stride + 1);
    if (n <= 1)
        by = 1; /* no multiples of a huge step */
    if (n == 0)
        from = 0;
    if (v.kind == JINJA_STRING)
        return slice_string(j, v.s, from, by, n, out);
    if (v.kind == JINJA_RANGE) {
        jinja_range *range = moe_jinja_alloc(j, 1, sizeof *range);
        if (range == NULL)
            return false;
        *range = (jinja_range){v.range->start + from * v.range->step, v.range->step * by, n};
        *out = (jinja_value){.kind = JINJA_RANGE, .range = range};
        return true;
    }
    if (!moe_jinja_array_new(j, v.kind, n, out))
        return false;
    for (size_t i = 0; i < n; i++)
        out->a->items[i] = v.a->items[from + (int64_t)i * by];
    return true;
}

/* --- attributes and items --------------------------------------------------------------------- */

static bool is_mutator(jinja_value obj, const jinja_string *name)
{
    static const char *const list[] = {"append", "clear",  "pop",    "reverse", "insert",
                                       "sort",   "extend", "remove", NULL};
    static const char *const dict[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    const char *const *names = obj.kind == JINJA_LIST ? list : obj.kind == JINJA_DICT ? dict : NULL;
    for (; names != NULL && *names != NULL; names++) {
        if (strlen(*names) == name->len && memcmp(*names, name->data, name->len) == 0)
            return true;
    }
    return false;
}

static bool undefined_mutator(jinja *j, jinja_value obj, const jinja_string *name, jinja_value *out)
{
    enum { SIZE = 96 };
    char *hint = moe_jinja_alloc(j, SIZE, 1);
    if (hint == NULL)
        return false;
    snprintf(hint, SIZE, "access to attribute '%.*s' of '%s' object is unsafe", (int)name->len,
             name->data, moe_jinja_type_name(obj));
    return moe_jinja_undefined_hint(j, hint, out);
}

/* Attributes that are not methods.  *out = MISSING if there is none of this name. */
static bool get_property(jinja *j, jinja_value obj, jinja_value name, jinja_value *out)
{
    const jinja_value *found;
    *out = jinja_missing();
    switch (obj.kind) {
    case JINJA_NAMESPACE:
        if (!moe_jinja_dict_get(j, obj.d, name, &found))
            return false;
        if (found != NULL)
            *out = *found;
        return true;
    case JINJA_LOOP:
        return moe_jinja_loop_attribute(j, obj.loop, name.s, out);
    case JINJA_MACRO:
        return moe_jinja_macro_attribute(j, obj.macro, name.s, out);
    case JINJA_CYCLER:
        if (moe_jinja_string_is(name.s, "current"))
            *out = obj.cycler->items.items[obj.cycler->pos];
        return true;
    case JINJA_TUPLE:
        if (obj.variant != 0 && moe_jinja_string_is(name.s, "grouper"))
            *out = obj.a->items[0];
        else if (obj.variant != 0 && moe_jinja_string_is(name.s, "list"))
            *out = obj.a->items[1];
        return true;
    default:
        return true;
    }
}

bool moe_jinja_getattr(jinja *j, jinja_value obj, jinja_value name, jinja_value *out)
{
    if (obj.kind == JINJA_UNDEFINED)
        return moe_jinja_fail_undefined(j, obj);
    const jinja_builtin *builtin = moe_jinja_find_method(obj, name.s);
    if (builtin != NULL) {
        jinja_method *method = moe_jinja_alloc(j, 1, sizeof *method);
        if (method == NULL)
            return false;
        *method = (jinja_method){builtin, obj};
        *out = (jinja_value){.kind = JINJA_METHOD, .method = method};
        return true;
    }
    if (is_mutator(obj, name.s))
        return undefined_mutator(j, obj, name.s, out);
    if (!get_property(j, obj, name, out))
        return false;
    if (out->kind != JINJA_MISSING)
        return true;
    const jinja_value *found = NULL;
    if (obj.kind == JINJA_DICT && !moe_jinja_dict_get(j, obj.d, name, &found))
        return false;
    if (found != NULL) {
        *out = *found;
        return true;
    }
    return moe_jinja_undefined_attribute(j, obj, name, out);
}

/* Item `index` of a sequence, counted from the end if negative; MISSING if out of range. */
static bool get_index(jinja *j, jinja_value obj, int64_t index, jinja_value *out)
{
    size_t length;
    *out = jinja_missing();
    if (!moe_jinja_length(j, obj, &length))
        return false;
    int64_t at = index < 0 ? index + (int64_t)length : index;
    if (at < 0 || at >= (int64_t)length)
        return true;
    if (obj.kind == JINJA_STRING)
        return slice_string(j, obj.s, at, 1, 1, out);
    if (obj.kind == JINJA_RANGE)
        *out = jinja_int(obj.range->start + at * obj.range->step);
    else
        *out = obj.a->items[at];
    return true;
}

bool moe_jinja_getitem(jinja *j, jinja_value obj, jinja_value key, jinja_value *out)
{
    const jinja_value *found = NULL;
    switch (obj.kind) {
    case JINJA_UNDEFINED:
        return moe_jinja_fail_undefined(j, obj);
    case JINJA_DICT:
        if (moe_jinja_hashable(key) && !moe_jinja_dict_get(j, obj.d, key, &found))
            return false;
        if (found != NULL) {
            *out = *found;
            return true;
        }
        break;
    case JINJA_STRING:
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_RANGE:
        if (jinja_is_integer(key)) {
            if (!get_index(j, obj, jinja_integer(key), out))
                return false;
            if (out->kind != JINJA_MISSING)
                return true;
        }
        break;
    default:
        break;
    }
    if (key.kind == JINJA_STRING)
        return moe_jinja_getattr(j, obj, key, out);
    return moe_jinja_undefined_attribute(j, obj, key, out);
}

bool moe_jinja_getpath(jinja *j, jinja_value obj, jinja_value path, jinja_value fallback,
                       jinja_value *out)
{
    bool has_fallback = fallback.kind != JINJA_MISSING && fallback.kind != JINJA_NONE;
    *out = obj;
    if (path.kind == JINJA_MISSING || path.kind == JINJA_NONE)
        return true;
    const char *at = path.kind == JINJA_STRING ? path.s->data : "";
    const char *end = path.kind == JINJA_STRING ? at + path.s->len : at;
    for (;;) {
        jinja_value part = path;
        const char *dot = end > at ? memchr(at, '.', (size_t)(end - at)) : NULL;
        size_t len = (size_t)((dot != NULL ? dot : end) - at), n_digits = 0;
        if (path.kind == JINJA_STRING) {
            while (n_digits < len && at[n_digits] >= '0' && at[n_digits] <= '9')
                n_digits++;
            if (len > 0 && n_digits == len && len < 18) {
                int64_t index = 0;
                for (size_t i = 0; i < len; i++)
                    index = index * 10 + (at[i] - '0');
                part = jinja_int(index);
            } else if (!moe_jinja_intern(j, at, len, &part)) {
                return false;
            }
        }
        if (!moe_jinja_getitem(j, *out, part, out))
            return false;
        if (has_fallback && out->kind == JINJA_UNDEFINED)
            *out = fallback;
        if (dot == NULL)
            return true;
        at = dot + 1;
    }
}
