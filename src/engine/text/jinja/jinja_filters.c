/*
 * Filters over sequences and mappings: sorting, grouping, selecting, mapping, summing.
 *
 * map, select and reject (and their attr forms) are lazy, as generators are: they do their work
 * when they are walked, once.  Filters over text are in jinja_text_filters.c.
 */
#include "jinja_eval.h"
#include "jinja_lib.h"

#include <string.h>

#define FILTER(name)                                                                               \
    static bool name(jinja *j, jinja_value self, const jinja_args *args, const jinja_value *a,     \
                     jinja_value *out)

static bool is_given(jinja_value v)
{
    return v.kind != JINJA_MISSING && v.kind != JINJA_NONE;
}

/* --- sorting ---------------------------------------------------------------------------------- */

typedef struct sort_pair {
    jinja_value key, item;
} sort_pair;

/* Whether b must come before a. */
static bool comes_before(jinja *j, const sort_pair *b, const sort_pair *a, bool reverse, bool *out)
{
    if (!moe_jinja_step(j, 1))
        return false;
    return reverse ? moe_jinja_less(j, a->key, b->key, out)
                   : moe_jinja_less(j, b->key, a->key, out);
}

static bool merge(jinja *j, const sort_pair *from, sort_pair *to, size_t low, size_t mid,
                  size_t high, bool reverse)
{
    size_t left = low, right = mid;
    for (size_t i = low; i < high; i++) {
        bool take_right = left >= mid;
        if (!take_right && right < high &&
            !comes_before(j, &from[right], &from[left], reverse, &take_right))
            return false;
        to[i] = take_right ? from[right++] : from[left++];
    }
    return true;
}

bool moe_jinja_sort(jinja *j, jinja_value *keys, jinja_value *items, size_t n, bool reverse)
{
    sort_pair *from = moe_jinja_alloc(j, n, sizeof *from), *to = moe_jinja_alloc(j, n, sizeof *to);
    if (from == NULL || to == NULL)
        return false;
    for (size_t i = 0; i < n; i++)
        from[i] = (sort_pair){keys[i], items[i]};
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t low = 0; low < n; low += 2 * width) {
            size_t mid = low + width < n ? low + width : n;
            size_t high = low + 2 * width < n ? low + 2 * width : n;
            if (!merge(j, from, to, low, mid, high, reverse))
                return false;
        }
        sort_pair *swap = from;
        from = to;
        to = swap;
    }
    for (size_t i = 0; i < n; i++) {
        keys[i] = from[i].key;
        items[i] = from[i].item;
    }
    return true;
}

/* The key of an item: what is at the path, strings in lower case unless case matters. */
static bool key_of(jinja *j, jinja_value item, jinja_value path, jinja_value fallback,
                   bool case_sensitive, jinja_value *out)
{
    if (!moe_jinja_getpath(j, item, path, fallback, out))
        return false;
    return case_sensitive || out->kind != JINJA_STRING ||
           moe_jinja_string_case(j, out->s, JINJA_LOWER, out);
}

static bool keys_of(jinja *j, jinja_value list, jinja_value path, jinja_value fallback,
                    bool case_sensitive, jinja_value *out)
{
    if (!moe_jinja_array_new(j, JINJA_LIST, list.a->len, out))
        return false;
    for (size_t i = 0; i < list.a->len; i++) {
        if (!key_of(j, list.a->items[i], path, fallback, case_sensitive, &out->a->items[i]))
            return false;
    }
    return true;
}

/* Paths of "a,b.c": a list of strings, or of the one path that is no string. */
static bool split_paths(jinja *j, jinja_value attribute, jinja_value *out)
{
    jinja_value comma;
    if (attribute.kind == JINJA_STRING)
        return moe_jinja_string_share(j, ",", 1, false, &comma) &&
               moe_jinja_string_split(j, attribute.s, comma, -1, false, out);
    if (!moe_jinja_array_new(j, JINJA_LIST, 1, out))
        return false;
    out->a->items[0] = attribute;
    return true;
}

FILTER(filter_sort)
{
    (void)args;
    jinja_value paths, keys;
    bool case_sensitive = moe_jinja_truth(a[1]);
    if (!split_paths(j, a[2], &paths) || !moe_jinja_list_of(j, self, out) ||
        !moe_jinja_array_new(j, JINJA_LIST, out->a->len, &keys))
        return false;
    for (size_t i = 0; i < out->a->len; i++) {
        jinja_value *key = &keys.a->items[i];
        if (!moe_jinja_array_new(j, JINJA_LIST, paths.a->len, key))
            return false;
        for (size_t k = 0; k < paths.a->len; k++) {
            if (!key_of(j, out->a->items[i], paths.a->items[k], jinja_missing(), case_sensitive,
                        &key->a->items[k]))
                return false;
        }
    }
    return moe_jinja_sort(j, keys.a->items, out->a->items, out->a->len, moe_jinja_truth(a[0]));
}

FILTER(filter_dictsort)
{
    (void)args;
    jinja_value keys;
    bool by_value = a[1].kind == JINJA_STRING && moe_jinja_string_is(a[1].s, "value");
    if (self.kind != JINJA_DICT)
        return moe_jinja_fail(j, "'%s' object has no attribute 'items'", moe_jinja_type_name(self));
    if (is_given(a[1]) && !by_value &&
        !(a[1].kind == JINJA_STRING && moe_jinja_string_is(a[1].s, "key")))
        return moe_jinja_fail(j, "you can only sort by either \"key\" or \"value\"");
    return moe_jinja_dict_view(j, self.d, JINJA_ITEMS, out) && moe_jinja_list_of(j, *out, out) &&
           keys_of(j, *out, jinja_int(by_value), jinja_missing(), moe_jinja_truth(a[0]), &keys) &&
           moe_jinja_sort(j, keys.a->items, out->a->items, out->a->len, moe_jinja_truth(a[2]));
}

FILTER(filter_groupby)
{
    (void)args;
    jinja_value items, keys, *first = NULL;
    bool case_sensitive = moe_jinja_truth(a[2]), same;
    size_t cap = 0, group_cap = 0;
    if (!moe_jinja_list_of(j, self, &items) ||
        !keys_of(j, items, a[0], a[1], case_sensitive, &keys) ||
        !moe_jinja_sort(j, keys.a->items, items.a->items, items.a->len, false) ||
        !moe_jinja_array_new(j, JINJA_LIST, 0, out))
        return false;
    for (size_t i = 0; i < items.a->len; i++) {
        jinja_value pair;
        if (first != NULL && !moe_jinja_equal(j, *first, keys.a->items[i], &same))
            return false;
        if (first == NULL || !same) {
            first = &keys.a->items[i];
            group_cap = 0;
            if (!moe_jinja_array_new(j, JINJA_TUPLE, 2, &pair) ||
                !moe_jinja_getpath(j, items.a->items[i], a[0], a[1], &pair.a->items[0]) ||
                !moe_jinja_array_new(j, JINJA_LIST, 0, &pair.a->items[1]))
                return false;
            pair.variant = 1;
            if (!moe_jinja_array_add(j, out->a, &cap, pair))
                return false;
        }
        jinja_value group = out->a->items[out->a->len - 1].a->items[1];
        if (!moe_jinja_array_add(j, group.a, &group_cap, items.a->items[i]))
            return false;
    }
    return true;
}

FILTER(filter_unique)
{
    (void)args;
    jinja_value items, seen, unique;
    size_t cap = 0;
    if (!moe_jinja_list_of(j, self, &items) || !moe_jinja_dict_new(j, &seen) ||
        !moe_jinja_array_new(j, JINJA_LIST, 0, &unique))
        return false;
    for (size_t i = 0; i < items.a->len; i++) {
        jinja_value key, item = items.a->items[i];
        size_t before = seen.d->len;
        if (!key_of(j, item, a[1], jinja_missing(), moe_jinja_truth(a[0]), &key) ||
            !moe_jinja_dict_set(j, seen.d, key, item))
            return false;
        if (seen.d->len > before && !moe_jinja_array_add(j, unique.a, &cap, item))
            return false;
    }
    jinja_iter it;
    return moe_jinja_iter_open(j, unique, &it) && moe_jinja_iter_new(j, &it, out);
}

/* --- one of many ------------------------------------------------------------------------------ */

static bool extreme(jinja *j, jinja_value self, const jinja_value *a, bool max, jinja_value *out)
{
    jinja_value items, keys;
    if (!moe_jinja_list_of(j, self, &items) ||
        !keys_of(j, items, a[1], jinja_missing(), moe_jinja_truth(a[0]), &keys))
        return false;
    if (items.a->len == 0)
        return moe_jinja_undefined_hint(j, "no aggregated item, sequence was empty", out);
    size_t best = 0;
    for (size_t i = 1; i < items.a->len; i++) {
        bool better;
        jinja_value key = keys.a->items[i], best_key = keys.a->items[best];
        if (!(max ? moe_jinja_less(j, best_key, key, &better)
                  : moe_jinja_less(j, key, best_key, &better)))
            return false;
        best = better ? i : best;
    }
    *out = items.a->items[best];
    return true;
}

FILTER(filter_min)
{
    (void)args;
    return extreme(j, self, a, false, out);
}

FILTER(filter_max)
{
    (void)args;
    return extreme(j, self, a, true, out);
}

FILTER(filter_sum)
{
    (void)args;
    jinja_iter it;
    *out = a[1].kind != JINJA_MISSING ? a[1] : jinja_int(0);
    if (out->kind == JINJA_STRING)
        return moe_jinja_fail(j, "sum() can't sum strings");
    if (!moe_jinja_iter_open(j, self, &it))
        return false;
    for (;;) {
        jinja_value item;
        bool done;
        if (!moe_jinja_iter_next(j, &it, &item, &done))
            return false;
        if (done)
            return true;
        if (!moe_jinja_getpath(j, item, a[0], jinja_missing(), &item) ||
            !moe_jinja_binary(j, JINJA_ADD, *out, item, out))
            return false;
    }
}

FILTER(filter_first)
{
    (void)args, (void)a;
    jinja_iter it;
    bool done;
    if (!moe_jinja_iter_open(j, self, &it) || !moe_jinja_iter_next(j, &it, out, &done))
        return false;
    return !done || moe_jinja_undefined_hint(j, "no first item, sequence was empty", out);
}

static bool reversed(jinja *j, jinja_value self, jinja_value *out)
{
    if (self.kind == JINJA_ITER)
        return moe_jinja_fail(j, "'generator' object is not reversible");
    if (!moe_jinja_list_of(j, self, out))
        return false;
    for (size_t i = 0, n = out->a->len; i < n / 2; i++) {
        jinja_value v = out->a->items[i];
        out->a->items[i] = out->a->items[n - 1 - i];
        out->a->items[n - 1 - i] = v;
    }
    return true;
}

FILTER(filter_last)
{
    (void)args, (void)a;
    jinja_value items;
    if (!reversed(j, self, &items))
        return false;
    if (items.a->len == 0)
        return moe_jinja_undefined_hint(j, "no last item, sequence was empty", out);
    *out = items.a->items[0];
    return true;
}

FILTER(filter_reverse)
{
    (void)args, (void)a;
    jinja_iter it;
    if (self.kind == JINJA_STRING)
        return moe_jinja_slice(j, self, jinja_none(), jinja_none(), jinja_int(-1), out);
    if (self.kind == JINJA_ITER)
        return moe_jinja_list_of(j, self, &self) && reversed(j, self, out);
    return reversed(j, self, &self) && moe_jinja_iter_open(j, self, &it) &&
           moe_jinja_iter_new(j, &it, out);
}

/* --- lists of lists --------------------------------------------------------------------------- */

static bool want_count(jinja *j, jinja_value v, int64_t *count)
{
    if (!jinja_is_integer(v) || jinja_integer(v) < 1)
        return moe_jinja_fail(j, "a number of at least 1 is required");
    *count = jinja_integer(v);
    return true;
}

/* items[from, to) as a list, with a filler behind them `fill` times. */
static bool add_part(jinja *j, jinja_value parts, size_t *cap, const jinja_array *items,
                     size_t from, size_t to, jinja_value filler, size_t fill)
{
    jinja_value part;
    if (!moe_jinja_array_new(j, JINJA_LIST, to - from + fill, &part))
        return false;
    for (size_t i = 0; i < part.a->len; i++)
        part.a->items[i] = i < to - from ? items->items[from + i] : filler;
    return moe_jinja_array_add(j, parts.a, cap, part);
}

FILTER(filter_batch)
{
    (void)args;
    jinja_value items, parts;
    jinja_iter it;
    int64_t count;
    size_t cap = 0;
    if (!want_count(j, a[0], &count) || !moe_jinja_list_of(j, self, &items) ||
        !moe_jinja_array_new(j, JINJA_LIST, 0, &parts))
        return false;
    for (size_t from = 0, n = items.a->len; from < n;) {
        size_t len = n - from < (size_t)count ? n - from : (size_t)count;
        size_t fill = is_given(a[1]) ? (size_t)count - len : 0;
        if (!add_part(j, parts, &cap, items.a, from, from + len, a[1], fill))
            return false;
        from += len;
    }
    return moe_jinja_iter_open(j, parts, &it) && moe_jinja_iter_new(j, &it, out);
}

FILTER(filter_slice)
{
    (void)args;
    jinja_value items, parts;
    jinja_iter it;
    int64_t count;
    size_t cap = 0, from = 0;
    if (!want_count(j, a[0], &count) || !moe_jinja_list_of(j, self, &items) ||
        !moe_jinja_array_new(j, JINJA_LIST, 0, &parts))
        return false;
    size_t each = items.a->len / (size_t)count, extra = items.a->len % (size_t)count;
    for (size_t i = 0; i < (size_t)count; i++) {
        size_t len = each + (i < extra);
        size_t fill = is_given(a[1]) && i >= extra;
        if (!moe_jinja_step(j, 1) ||
            !add_part(j, parts, &cap, items.a, from, from + len, a[1], fill))
            return false;
        from += len;
    }
    return moe_jinja_iter_open(j, parts, &it) && moe_jinja_iter_new(j, &it, out);
}

/* --- lazy filters ----------------------------------------------------------------------------- */

/* A lazy iterator over the value; over nothing if the value counts as false. */
static bool lazy_over(jinja *j, jinja_value self, jinja_iter_kind kind, jinja_iter *it)
{
    *it = (jinja_iter){
        .kind = kind, .over = self, .attribute = jinja_missing(), .fallback = jinja_missing()};
    return moe_jinja_truth(self) || moe_jinja_array_new(j, JINJA_LIST, 0, &it->over);
}

/* The first `skipped` arguments gone, the rest for the filter or test. */
static void pass_args(const jinja_args *args, size_t skipped, jinja_iter *it)
{
    it->args = *args;
    it->args.pos += skipped;
    it->args.n_pos -= skipped;
}

FILTER(filter_map)
{
    (void)a;
    jinja_iter it;
    if (!lazy_over(j, self, JINJA_ITER_MAP, &it))
        return false;
    if (args->n_pos > 0) {
        if (args->pos[0].kind == JINJA_STRING)
            it.builtin = moe_jinja_find_filter(args->pos[0].s);
        if (it.builtin == NULL)
            return moe_jinja_fail(j, "map: there is no such filter");
        pass_args(args, 1, &it);
        return moe_jinja_iter_new(j, &it, out);
    }
    for (size_t i = 0; i < args->n_named; i++) {
        if (moe_jinja_string_is(args->names[i].s, "attribute"))
            it.attribute = args->values[i];
        else if (moe_jinja_string_is(args->names[i].s, "default"))
            it.fallback = args->values[i];
        else
            return moe_jinja_fail(j, "map: unexpected keyword argument");
    }
    if (it.attribute.kind == JINJA_MISSING)
        return moe_jinja_fail(j, "map requires a filter argument");
    return moe_jinja_iter_new(j, &it, out);
}

static bool select_items(jinja *j, jinja_value self, const jinja_args *args, bool by_attribute,
                         bool negate, jinja_value *out)
{
    jinja_iter it;
    size_t n = by_attribute;
    if (!lazy_over(j, self, JINJA_ITER_SELECT, &it))
        return false;
    it.negate = negate;
    if (args->n_pos < n)
        return moe_jinja_fail(j, "missing parameter for attribute name");
    if (by_attribute)
        it.attribute = args->pos[0];
    if (args->n_pos > n) {
        if (args->pos[n].kind == JINJA_STRING)
            it.builtin = moe_jinja_find_test(args->pos[n].s);
        if (it.builtin == NULL)
            return moe_jinja_fail(j, "there is no such test");
        pass_args(args, n + 1, &it);
    }
    return moe_jinja_iter_new(j, &it, out);
}

FILTER(filter_select)
{
    (void)a;
    return select_items(j, self, args, false, false, out);
}

FILTER(filter_reject)
{
    (void)a;
    return select_items(j, self, args, false, true, out);
}

FILTER(filter_selectattr)
{
    (void)a;
    return select_items(j, self, args, true, false, out);
}

FILTER(filter_rejectattr)
{
    (void)a;
    return select_items(j, self, args, true, true, out);
}

/* --- the rest --------------------------------------------------------------------------------- */

FILTER(filter_length)
{
    (void)args, (void)a;
    size_t n;
    if (!moe_jinja_length(j, self, &n))
        return false;
    *out = jinja_int((int64_t)n);
    return true;
}

FILTER(filter_list)
{
    (void)args, (void)a;
    return moe_jinja_list_of(j, self, out);
}

FILTER(filter_items)
{
    (void)args, (void)a;
    jinja_value view = self;
    jinja_iter it;
    if (self.kind != JINJA_UNDEFINED && self.kind != JINJA_DICT)
        return moe_jinja_fail(j, "can only get item pairs from a mapping");
    if (self.kind == JINJA_DICT && !moe_jinja_dict_view(j, self.d, JINJA_ITEMS, &view))
        return false;
    return moe_jinja_iter_open(j, view, &it) && moe_jinja_iter_new(j, &it, out);
}

FILTER(filter_default)
{
    (void)args;
    bool use = self.kind == JINJA_UNDEFINED || (moe_jinja_truth(a[1]) && !moe_jinja_truth(self));
    *out = use ? a[0] : self;
    return out->kind != JINJA_MISSING || moe_jinja_string_share(j, "", 0, false, out);
}

/* Like a.b, but without looking for a key. */
FILTER(filter_attr)
{
    (void)args;
    if (a[0].kind != JINJA_STRING)
        return moe_jinja_fail(j, "attr: the name must be a string");
    if (self.kind == JINJA_DICT && moe_jinja_find_method(self, a[0].s) == NULL)
        return moe_jinja_undefined_attribute(j, self, a[0], out);
    return moe_jinja_getattr(j, self, a[0], out);
}

static const jinja_builtin filters[] = {
    {"attr", "name", filter_attr},
    {"batch", "linecount fill_with?", filter_batch},
    {"count", "", filter_length},
    {"d", "default_value? boolean?", filter_default},
    {"default", "default_value? boolean?", filter_default},
    {"dictsort", "case_sensitive? by? reverse?", filter_dictsort},
    {"first", "", filter_first},
    {"groupby", "attribute default? case_sensitive?", filter_groupby},
    {"items", "", filter_items},
    {"last", "", filter_last},
    {"length", "", filter_length},
    {"list", "", filter_list},
    {"map", NULL, filter_map},
    {"max", "case_sensitive? attribute?", filter_max},
    {"min", "case_sensitive? attribute?", filter_min},
    {"reject", NULL, filter_reject},
    {"rejectattr", NULL, filter_rejectattr},
    {"reverse", "", filter_reverse},
    {"select", NULL, filter_select},
    {"selectattr", NULL, filter_selectattr},
    {"slice", "slices fill_with?", filter_slice},
    {"sort", "reverse? case_sensitive? attribute?", filter_sort},
    {"sum", "attribute? start?", filter_sum},
    {"unique", "case_sensitive? attribute?", filter_unique},
};

const jinja_builtin *moe_jinja_find_filter(const jinja_string *name)
{
    const jinja_builtin *found =
        moe_jinja_find_in(filters, sizeof filters / sizeof filters[0], name);
    return found != NULL ? found : moe_jinja_find_text_filter(name);
}
