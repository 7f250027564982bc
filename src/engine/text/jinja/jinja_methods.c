/*
 * The methods of lists, tuples, mappings, loops and cyclers, and the table of all methods.
 *
 * Methods that would change a list or a mapping are not here: as in the sandbox that chat templates
 * are written for, values never change.
 */
#include "jinja_eval.h"
#include "jinja_lib.h"

#include <string.h>

#define METHOD(name)                                                                               \
    static bool name(jinja *j, jinja_value self, const jinja_args *args, const jinja_value *a,     \
                     jinja_value *out)

/* --- mappings --------------------------------------------------------------------------------- */

METHOD(dict_get)
{
    (void)args;
    const jinja_value *found;
    if (!moe_jinja_dict_get(j, self.d, a[0], &found))
        return false;
    *out = found != NULL ? *found : a[1].kind != JINJA_MISSING ? a[1] : jinja_none();
    return true;
}

bool moe_jinja_dict_view(jinja *j, const jinja_dict *dict, jinja_view view, jinja_value *out)
{
    if (!moe_jinja_array_new(j, JINJA_VIEW, dict->len, out))
        return false;
    out->variant = (uint8_t)view;
    for (size_t i = 0; i < dict->len; i++) {
        const jinja_entry *entry = &dict->entries[i];
        jinja_value *item = &out->a->items[i];
        if (view != JINJA_ITEMS) {
            *item = view == JINJA_KEYS ? entry->key : entry->value;
            continue;
        }
        if (!moe_jinja_array_new(j, JINJA_TUPLE, 2, item))
            return false;
        item->a->items[0] = entry->key;
        item->a->items[1] = entry->value;
    }
    return true;
}

METHOD(dict_keys)
{
    (void)args, (void)a;
    return moe_jinja_dict_view(j, self.d, JINJA_KEYS, out);
}

METHOD(dict_values)
{
    (void)args, (void)a;
    return moe_jinja_dict_view(j, self.d, JINJA_VALUES, out);
}

METHOD(dict_items)
{
    (void)args, (void)a;
    return moe_jinja_dict_view(j, self.d, JINJA_ITEMS, out);
}

/* copy(): nothing can change the original. */
METHOD(copy)
{
    (void)args, (void)a;
    *out = self;
    return moe_jinja_step(j, 1);
}

/* --- lists and tuples ------------------------------------------------------------------------- */

METHOD(array_count)
{
    (void)args;
    int64_t n = 0;
    for (size_t i = 0; i < self.a->len; i++) {
        bool equal;
        if (!moe_jinja_step(j, 1) || !moe_jinja_equal(j, self.a->items[i], a[0], &equal))
            return false;
        n += equal;
    }
    *out = jinja_int(n);
    return true;
}

METHOD(array_index)
{
    (void)args;
    int64_t n = (int64_t)self.a->len, bounds[2] = {0, n};
    for (int i = 0; i < 2; i++) {
        if (a[1 + i].kind == JINJA_MISSING)
            continue;
        if (!jinja_is_integer(a[1 + i]))
            return moe_jinja_fail(j, "slice indices must be integers");
        int64_t at = jinja_integer(a[1 + i]);
        bounds[i] = at < -n ? 0 : at < 0 ? at + n : at > n ? n : at;
    }
    for (int64_t i = bounds[0]; i < bounds[1]; i++) {
        bool equal;
        if (!moe_jinja_step(j, 1) || !moe_jinja_equal(j, self.a->items[i], a[0], &equal))
            return false;
        if (equal) {
            *out = jinja_int(i);
            return true;
        }
    }
    return moe_jinja_fail(j, "the value is not in the %s", moe_jinja_type_name(self));
}

/* --- loops and cyclers ------------------------------------------------------------------------ */

METHOD(loop_cycle)
{
    (void)a;
    if (args->n_pos == 0 || args->n_named > 0)
        return moe_jinja_fail(j, "no items for cycling given");
    *out = args->pos[(size_t)self.loop->index0 % args->n_pos];
    return true;
}

METHOD(loop_changed)
{
    (void)a;
    jinja_value now;
    bool same = false;
    if (args->n_named > 0)
        return moe_jinja_fail(j, "changed() takes no keyword arguments");
    if (!moe_jinja_array_new(j, JINJA_TUPLE, args->n_pos, &now))
        return false;
    if (args->n_pos > 0)
        memcpy(now.a->items, args->pos, args->n_pos * sizeof(jinja_value));
    if (!moe_jinja_equal(j, self.loop->changed, now, &same))
        return false;
    self.loop->changed = now;
    *out = jinja_bool(!same);
    return true;
}

METHOD(cycler_next)
{
    (void)j, (void)args, (void)a;
    jinja_cycler *cycler = self.cycler;
    *out = cycler->items.items[cycler->pos];
    cycler->pos = (cycler->pos + 1) % cycler->items.len;
    return true;
}

METHOD(cycler_reset)
{
    (void)j, (void)args, (void)a;
    self.cycler->pos = 0;
    *out = jinja_none();
    return true;
}

/* --- tables ----------------------------------------------------------------------------------- */

static const jinja_builtin dict_methods[] = {
    {"get", "key default?", dict_get}, {"items", "", dict_items}, {"keys", "", dict_keys},
    {"values", "", dict_values},       {"copy", "", copy},
};

static const jinja_builtin array_methods[] = {
    {"count", "value", array_count},
    {"index", "value start? stop?", array_index},
    {"copy", "", copy}, /* not of tuples */
};

static const jinja_builtin loop_methods[] = {
    {"cycle", NULL, loop_cycle},
    {"changed", NULL, loop_changed},
};

static const jinja_builtin cycler_methods[] = {
    {"next", "", cycler_next},
    {"reset", "", cycler_reset},
};

const jinja_builtin *moe_jinja_find_in(const jinja_builtin *table, size_t n,
                                       const jinja_string *name)
{
    for (size_t i = 0; i < n; i++) {
        if (table[i].name[0] == (name->len > 0 ? name->data[0] : '\0') &&
            moe_jinja_string_is(name, table[i].name))
            return &table[i];
    }
    return NULL;
}

const jinja_builtin *moe_jinja_find_method(jinja_value obj, const jinja_string *name)
{
    switch (obj.kind) {
    case JINJA_STRING:
        return moe_jinja_find_string_method(name);
    case JINJA_DICT:
        return moe_jinja_find_in(dict_methods, sizeof dict_methods / sizeof dict_methods[0], name);
    case JINJA_LIST:
        return moe_jinja_find_in(array_methods, 3, name);
    case JINJA_TUPLE:
        return moe_jinja_find_in(array_methods, 2, name);
    case JINJA_LOOP:
        return moe_jinja_find_in(loop_methods, 2, name);
    case JINJA_CYCLER:
        return moe_jinja_find_in(cycler_methods, 2, name);
    default:
        return NULL;
    }
}
