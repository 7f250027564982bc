/*
 * Memory and values of a template rendering: arenas, bounds, strings, arrays, dictionaries,
 * comparison and iteration.
 *
 * An arena is a list of chunks that only grows; the two arenas together stay under MAX_MEMORY.
 * A longer string that comes from a sum has room behind it, so that a text that is put together
 * piece by piece costs no more than a few times its length.  Dictionaries keep their entries in
 * order of insertion and get a hash table once they are larger than a few entries.
 */
#define _GNU_SOURCE
#include "jinja_lib.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MEMORY ((size_t)512 << 20)
#define MAX_STEPS 20000000u
#define MAX_DEPTH 1500
#define CHUNK_SIZE ((size_t)32 << 10)
#define MAX_CHUNK_SIZE ((size_t)4 << 20)
#define SMALL_DICT 8

struct jinja_chunk {
    jinja_chunk *next;
    size_t size;
};

/* --- memory ----------------------------------------------------------------------------------- */

static void arena_free(jinja_arena *arena)
{
    for (jinja_chunk *chunk = arena->chunks, *next; chunk != NULL; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
}

void moe_jinja_free(jinja *j)
{
    arena_free(&j->objects);
    arena_free(&j->bytes);
}

/* Gives the arena a chunk with at least `need` bytes. */
static bool arena_grow(jinja *j, jinja_arena *arena, size_t need)
{
    size_t size = arena->chunks == NULL ? CHUNK_SIZE : arena->chunks->size * 2;
    if (size > MAX_CHUNK_SIZE)
        size = MAX_CHUNK_SIZE;
    if (size < need)
        size = need;
    if (size > MAX_MEMORY || j->allocated > MAX_MEMORY - size)
        return moe_jinja_fail(j, "the template needs too much memory");
    jinja_chunk *chunk = malloc(sizeof *chunk + size);
    if (chunk == NULL) {
        moe_jinja_fail(j, "out of memory");
        j->status = MOE_ERR_MEMORY;
        return false;
    }
    j->allocated += size;
    chunk->next = arena->chunks;
    chunk->size = size;
    arena->chunks = chunk;
    arena->pos = (char *)(chunk + 1);
    arena->end = arena->pos + size;
    return true;
}

void *moe_jinja_alloc(jinja *j, size_t count, size_t size)
{
    size_t total;
    if (!moe_mul(count, size, &total) || total > MAX_MEMORY) {
        moe_jinja_fail(j, "the template needs too much memory");
        return NULL;
    }
    total = (total + 15) & ~(size_t)15;
    if ((j->objects.chunks == NULL || (size_t)(j->objects.end - j->objects.pos) < total) &&
        !arena_grow(j, &j->objects, total))
        return NULL;
    char *p = j->objects.pos;
    j->objects.pos += total;
    return memset(p, 0, total);
}

static char *alloc_bytes(jinja *j, size_t len)
{
    if ((j->bytes.chunks == NULL || (size_t)(j->bytes.end - j->bytes.pos) < len) &&
        !arena_grow(j, &j->bytes, len))
        return NULL;
    char *p = j->bytes.pos;
    j->bytes.pos += len;
    return p;
}

/* --- failures and bounds ---------------------------------------------------------------------- */

bool moe_jinja_fail(jinja *j, const char *fmt, ...)
{
    if (j->status == MOE_OK) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(j->message, sizeof j->message, fmt, args);
        va_end(args);
        j->message[moe_utf8_complete(j->message, strlen(j->message))] = '\0';
        j->status = MOE_ERR_TEMPLATE;
    }
    return false;
}

bool moe_jinja_fail_undefined(jinja *j, jinja_value v)
{
    const jinja_undefined *u = v.undefined;
    if (u->hint != NULL)
        return moe_jinja_fail(j, "%s", u->hint);
    size_t mark = moe_jinja_mark(j);
    jinja_value name;
    if (!moe_jinja_write_repr(j, u->name) || !moe_jinja_take(j, mark, false, &name))
        return false;
    int len = name.s->len < 200 ? (int)name.s->len : 200;
    if (u->obj.kind == JINJA_MISSING)
        return moe_jinja_fail(j, "%.*s is undefined", len, name.s->data);
    return moe_jinja_fail(
        j, "%s has no %s %.*s", u->obj.kind == JINJA_NONE ? "None" : moe_jinja_type_name(u->obj),
        u->name.kind == JINJA_STRING ? "attribute" : "element", len, name.s->data);
}

bool moe_jinja_step(jinja *j, size_t cost)
{
    if (cost >= MAX_STEPS - j->steps)
        return moe_jinja_fail(j, "the template takes too many steps");
    uint64_t before = j->steps;
    j->steps += cost;
    if (before >> 10 != j->steps >> 10 && moe_cancelled(j->cancel)) {
        moe_jinja_fail(j, "rendering of the chat template was cancelled");
        j->status = MOE_ERR_CANCELLED;
        return false;
    }
    return true;
}

bool moe_jinja_enter(jinja *j)
{
    if (++j->depth > MAX_DEPTH)
        return moe_jinja_fail(j, "the template nests too deeply");
    return true;
}

void moe_jinja_leave(jinja *j)
{
    j->depth--;
}

/* --- strings ---------------------------------------------------------------------------------- */

bool moe_jinja_string_share(jinja *j, const char *data, size_t len, bool safe, jinja_value *out)
{
    jinja_string *s = moe_jinja_alloc(j, 1, sizeof *s);
    if (s == NULL)
        return false;
    *s = (jinja_string){data, len, moe_jinja_utf8_count(data, len), safe, NULL};
    *out = (jinja_value){.kind = JINJA_STRING, .s = s};
    return true;
}

bool moe_jinja_string_copy(jinja *j, const char *data, size_t len, jinja_value *out)
{
    char *copy = alloc_bytes(j, len);
    if (copy == NULL)
        return false;
    if (len > 0)
        memcpy(copy, data, len);
    return moe_jinja_string_share(j, copy, len, false, out) && moe_jinja_step(j, len / 256);
}

bool moe_jinja_string_concat(jinja *j, const jinja_string *a, const jinja_string *b, bool safe,
                             jinja_value *out)
{
    jinja_buffer *buffer = a->buffer;
    jinja_string *s = moe_jinja_alloc(j, 1, sizeof *s);
    size_t cost = b->len;
    if (s == NULL)
        return false;
    if (a->len > MAX_MEMORY / 4 || b->len > MAX_MEMORY / 4)
        return moe_jinja_fail(j, "the template needs too much memory");
    *s = (jinja_string){a->data, a->len + b->len, a->n_chars + b->n_chars, safe, buffer};
    *out = (jinja_value){.kind = JINJA_STRING, .s = s};
    if (buffer == NULL || a->data + a->len != buffer->data + buffer->used ||
        buffer->cap - buffer->used < b->len) {
        /* a longer text may be one that is put together piece by piece: give it room */
        buffer = moe_jinja_alloc(j, 1, sizeof *buffer);
        if (buffer == NULL)
            return false;
        buffer->cap = s->len < 256 ? s->len : s->len * 2;
        buffer->data = alloc_bytes(j, buffer->cap);
        if (buffer->data == NULL)
            return false;
        if (a->len > 0)
            memcpy(buffer->data, a->data, a->len);
        buffer->used = a->len;
        s->data = buffer->data;
        s->buffer = buffer;
        cost = s->len;
    }
    if (b->len > 0)
        memcpy(buffer->data + buffer->used, b->data, b->len);
    buffer->used += b->len;
    return moe_jinja_step(j, cost / 256);
}

bool moe_jinja_string_is(const jinja_string *s, const char *text)
{
    return strlen(text) == s->len && memcmp(s->data, text, s->len) == 0;
}

bool moe_jinja_intern(jinja *j, const char *data, size_t len, jinja_value *out)
{
    jinja_string probe = {.data = data, .len = len};
    const jinja_value *found;
    jinja_value key = {.kind = JINJA_STRING, .s = &probe};
    if (!moe_jinja_dict_get(j, j->names, key, &found))
        return false;
    if (found != NULL) {
        *out = *found;
        return true;
    }
    return moe_jinja_string_copy(j, data, len, out) && moe_jinja_dict_set(j, j->names, *out, *out);
}

/* --- arrays ----------------------------------------------------------------------------------- */

bool moe_jinja_array_new(jinja *j, jinja_kind kind, size_t len, jinja_value *out)
{
    jinja_array *array = moe_jinja_alloc(j, 1, sizeof *array);
    if (array == NULL)
        return false;
    array->items = moe_jinja_alloc(j, len, sizeof(jinja_value));
    if (array->items == NULL || !moe_jinja_step(j, len / 16))
        return false;
    array->len = len;
    *out = (jinja_value){.kind = (uint8_t)kind, .a = array};
    return true;
}

bool moe_jinja_array_add(jinja *j, jinja_array *array, size_t *cap, jinja_value item)
{
    if (array->len >= *cap) {
        size_t grown = *cap < 8 ? 8 : *cap * 2;
        jinja_value *items = moe_jinja_alloc(j, grown, sizeof *items);
        if (items == NULL)
            return false;
        if (array->len > 0)
            memcpy(items, array->items, array->len * sizeof *items);
        array->items = items;
        *cap = grown;
    }
    array->items[array->len++] = item;
    return true;
}

/* --- dictionaries ----------------------------------------------------------------------------- */

bool moe_jinja_hashable(jinja_value v)
{
    return v.kind != JINJA_LIST && v.kind != JINJA_DICT &&
           !(v.kind == JINJA_VIEW && v.variant != JINJA_VALUES);
}

/* Equal values have equal hashes: 1, 1.0 and True are the same key.  Fails for lists and dicts. */
static bool hash_value(jinja *j, jinja_value v, uint64_t *hash)
{
    uint64_t h = 0xCBF29CE484222325u;
    switch (v.kind) {
    case JINJA_STRING:
        for (size_t i = 0; i < v.s->len; i++)
            h = (h ^ (unsigned char)v.s->data[i]) * 0x100000001B3u;
        if (!moe_jinja_step(j, v.s->len / 32))
            return false;
        break;
    case JINJA_BOOL:
    case JINJA_INT:
        h ^= (uint64_t)jinja_integer(v) * 0x9E3779B97F4A7C15u;
        break;
    case JINJA_FLOAT:
        if (v.f >= -9.2e18 && v.f <= 9.2e18 && (double)(int64_t)v.f == v.f)
            return hash_value(j, jinja_int((int64_t)v.f), hash);
        memcpy(&h, &v.f, sizeof h);
        break;
    case JINJA_TUPLE: {
        bool ok = moe_jinja_enter(j) && moe_jinja_step(j, 1);
        for (size_t i = 0; ok && i < v.a->len; i++) {
            uint64_t item;
            ok = hash_value(j, v.a->items[i], &item);
            if (ok)
                h = (h ^ item) * 0x100000001B3u;
        }
        moe_jinja_leave(j);
        if (!ok)
            return false;
        break;
    }
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        h ^= v.kind;
        break;
    default:
        if (!moe_jinja_hashable(v))
            return moe_jinja_fail(j, "unhashable type: '%s'", moe_jinja_type_name(v));
        h ^= (uint64_t)(uintptr_t)v.a;
        break;
    }
    *hash = h ^ h >> 29;
    return true;
}

bool moe_jinja_dict_new(jinja *j, jinja_value *out)
{
    jinja_dict *dict = moe_jinja_alloc(j, 1, sizeof *dict);
    *out = (jinja_value){.kind = JINJA_DICT, .d = dict};
    return dict != NULL;
}

/* *found: the entry with this key or NULL. */
static bool find_entry(jinja *j, const jinja_dict *dict, jinja_value key, uint64_t hash,
                       jinja_entry **found)
{
    *found = NULL;
    size_t mask = dict->n_slots - 1, slot = hash & mask;
    for (size_t i = 0;; i++) {
        jinja_entry *entry;
        if (dict->slots == NULL) {
            if (i >= dict->len)
                return true;
            entry = &dict->entries[i];
        } else {
            uint32_t at = dict->slots[(slot + i) & mask];
            if (at == 0)
                return true;
            entry = &dict->entries[at - 1];
        }
        if (entry->hash != hash)
            continue;
        bool equal;
        if (!moe_jinja_equal(j, entry->key, key, &equal))
            return false;
        if (equal) {
            *found = entry;
            return true;
        }
    }
}

static bool dict_grow(jinja *j, jinja_dict *dict)
{
    size_t cap = dict->cap == 0 ? SMALL_DICT : dict->cap * 2;
    if (cap > UINT32_MAX / 2)
        return moe_jinja_fail(j, "the template needs too much memory");
    jinja_entry *entries = moe_jinja_alloc(j, cap, sizeof *entries);
    if (entries == NULL)
        return false;
    if (dict->len > 0)
        memcpy(entries, dict->entries, dict->len * sizeof *entries);
    dict->entries = entries;
    dict->cap = cap;
    if (cap <= SMALL_DICT)
        return true;
    dict->slots = moe_jinja_alloc(j, cap * 2, sizeof *dict->slots);
    if (dict->slots == NULL)
        return false;
    dict->n_slots = cap * 2;
    for (size_t i = 0; i < dict->len; i++) {
        size_t slot = entries[i].hash & (dict->n_slots - 1);
        while (dict->slots[slot] != 0)
            slot = (slot + 1) & (dict->n_slots - 1);
        dict->slots[slot] = (uint32_t)i + 1;
    }
    return true;
}

bool moe_jinja_dict_set(jinja *j, jinja_dict *dict, jinja_value key, jinja_value value)
{
    uint64_t hash;
    jinja_entry *entry;
    if (!hash_value(j, key, &hash) || !find_entry(j, dict, key, hash, &entry))
        return false;
    if (entry != NULL) {
        entry->value = value;
        return true;
    }
    if (dict->len == dict->cap && !dict_grow(j, dict))
        return false;
    dict->entries[dict->len++] = (jinja_entry){key, value, hash};
    if (dict->slots != NULL) {
        size_t slot = hash & (dict->n_slots - 1);
        while (dict->slots[slot] != 0)
            slot = (slot + 1) & (dict->n_slots - 1);
        dict->slots[slot] = (uint32_t)dict->len;
    }
    return true;
}

bool moe_jinja_dict_get(jinja *j, const jinja_dict *dict, jinja_value key, const jinja_value **out)
{
    uint64_t hash;
    jinja_entry *entry;
    *out = NULL;
    if (!hash_value(j, key, &hash) || !find_entry(j, dict, key, hash, &entry))
        return false;
    if (entry != NULL)
        *out = &entry->value;
    return true;
}

/* --- undefined -------------------------------------------------------------------------------- */

static bool undefined_new(jinja *j, const char *hint, jinja_value obj, jinja_value name,
                          jinja_value *out)
{
    jinja_undefined *u = moe_jinja_alloc(j, 1, sizeof *u);
    if (u == NULL)
        return false;
    *u = (jinja_undefined){hint, obj, name};
    *out = (jinja_value){.kind = JINJA_UNDEFINED, .undefined = u};
    return true;
}

bool moe_jinja_undefined_name(jinja *j, jinja_value name, jinja_value *out)
{
    return undefined_new(j, NULL, jinja_missing(), name, out);
}

bool moe_jinja_undefined_attribute(jinja *j, jinja_value obj, jinja_value name, jinja_value *out)
{
    return undefined_new(j, NULL, obj, name, out);
}

bool moe_jinja_undefined_hint(jinja *j, const char *hint, jinja_value *out)
{
    return undefined_new(j, hint, jinja_missing(), jinja_none(), out);
}

/* --- JSON ------------------------------------------------------------------------------------- */

static bool from_json_object(jinja *j, const json_t *json, jinja_value *out)
{
    if (!moe_jinja_dict_new(j, out))
        return false;
    /* jansson walks an object in order of insertion; its iterators take no const object */
    json_t *object = (json_t *)json;
    for (void *at = json_object_iter(object); at != NULL; at = json_object_iter_next(object, at)) {
        jinja_value key, value;
        const char *name = json_object_iter_key(at);
        if (!moe_jinja_intern(j, name, json_object_iter_key_len(at), &key) ||
            !moe_jinja_from_json(j, json_object_iter_value(at), &value) ||
            !moe_jinja_dict_set(j, out->d, key, value))
            return false;
    }
    return true;
}

bool moe_jinja_from_json(jinja *j, const json_t *json, jinja_value *out)
{
    bool ok = true;
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        ok = moe_jinja_enter(j) && from_json_object(j, json, out);
        moe_jinja_leave(j);
        return ok;
    case JSON_ARRAY:
        ok = moe_jinja_enter(j) && moe_jinja_array_new(j, JINJA_LIST, json_array_size(json), out);
        for (size_t i = 0; ok && i < out->a->len; i++)
            ok = moe_jinja_from_json(j, json_array_get(json, i), &out->a->items[i]);
        moe_jinja_leave(j);
        return ok;
    case JSON_STRING: {
        /* jansson lets a caller make strings that are not UTF-8 */
        const char *data = json_string_value(json);
        size_t len = json_string_length(json);
        if (!moe_jinja_utf8_valid(data, len))
            return moe_jinja_fail(j, "a string among the variables is not valid UTF-8");
        return moe_jinja_string_copy(j, data, len, out);
    }
    case JSON_INTEGER:
        *out = jinja_int(json_integer_value(json));
        return true;
    case JSON_REAL:
        *out = jinja_float(json_real_value(json));
        return true;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = jinja_bool(json_is_true(json));
        return true;
    default:
        *out = jinja_none();
        return true;
    }
}

/* --- properties ------------------------------------------------------------------------------- */

const char *moe_jinja_type_name(jinja_value v)
{
    static const char *const views[] = {"dict_keys", "dict_values", "dict_items"};
    switch (v.kind) {
    case JINJA_UNDEFINED:
        return "Undefined";
    case JINJA_NONE:
        return "NoneType";
    case JINJA_BOOL:
        return "bool";
    case JINJA_INT:
        return "int";
    case JINJA_FLOAT:
        return "float";
    case JINJA_STRING:
        return v.s->safe ? "Markup" : "str";
    case JINJA_LIST:
        return "list";
    case JINJA_TUPLE:
        return "tuple";
    case JINJA_DICT:
        return "dict";
    case JINJA_VIEW:
        return views[v.variant];
    case JINJA_RANGE:
        return "range";
    case JINJA_ITER:
        return "generator";
    case JINJA_NAMESPACE:
        return "Namespace";
    case JINJA_LOOP:
        return "LoopContext";
    case JINJA_CYCLER:
        return "Cycler";
    case JINJA_JOINER:
        return "Joiner";
    case JINJA_MACRO:
        return "Macro";
    default:
        return "function";
    }
}

bool moe_jinja_truth(jinja_value v)
{
    switch (v.kind) {
    case JINJA_MISSING:
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return v.b;
    case JINJA_INT:
        return v.i != 0;
    case JINJA_FLOAT:
        return v.f != 0;
    case JINJA_STRING:
        return v.s->len > 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_VIEW:
        return v.a->len > 0;
    case JINJA_DICT:
        return v.d->len > 0;
    case JINJA_RANGE:
        return v.range->len > 0;
    default:
        return true;
    }
}

/* --- comparison ------------------------------------------------------------------------------- */

static bool is_number(jinja_value v)
{
    return jinja_is_integer(v) || v.kind == JINJA_FLOAT;
}

/* -1, 0, 1; 2 if one is not a number.  long double holds every int64 exactly. */
static int compare_numbers(jinja_value a, jinja_value b)
{
    long double x = a.kind == JINJA_FLOAT ? (long double)a.f : (long double)jinja_integer(a);
    long double y = b.kind == JINJA_FLOAT ? (long double)b.f : (long double)jinja_integer(b);
    return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
}

static int compare_strings(const jinja_string *a, const jinja_string *b)
{
    size_t n = a->len < b->len ? a->len : b->len;
    int c = n > 0 ? memcmp(a->data, b->data, n) : 0;
    if (c != 0)
        return c < 0 ? -1 : 1;
    return a->len < b->len ? -1 : a->len > b->len;
}

static bool equal_arrays(jinja *j, const jinja_array *a, const jinja_array *b, bool *out)
{
    *out = a->len == b->len;
    for (size_t i = 0; *out && i < a->len; i++) {
        if (!moe_jinja_equal(j, a->items[i], b->items[i], out))
            return false;
    }
    return true;
}

static bool equal_dicts(jinja *j, const jinja_dict *a, const jinja_dict *b, bool *out)
{
    *out = a->len == b->len;
    for (size_t i = 0; *out && i < a->len; i++) {
        const jinja_value *other;
        if (!moe_jinja_dict_get(j, b, a->entries[i].key, &other))
            return false;
        *out = other != NULL;
        if (other != NULL && !moe_jinja_equal(j, a->entries[i].value, *other, out))
            return false;
    }
    return true;
}

bool moe_jinja_equal(jinja *j, jinja_value a, jinja_value b, bool *out)
{
    *out = false;
    if (is_number(a) && is_number(b)) {
        *out = compare_numbers(a, b) == 0;
        return true;
    }
    if (a.kind != b.kind)
        return true;
    bool ok = true;
    switch (a.kind) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        *out = true;
        return true;
    case JINJA_STRING:
        *out = a.s == b.s || (a.s->len == b.s->len && compare_strings(a.s, b.s) == 0);
        return moe_jinja_step(j, a.s->len / 256);
    case JINJA_LIST:
    case JINJA_TUPLE:
        ok = moe_jinja_step(j, 1) && moe_jinja_enter(j) && equal_arrays(j, a.a, b.a, out);
        moe_jinja_leave(j);
        return ok;
    case JINJA_VIEW:
        if (a.variant != b.variant || a.variant == JINJA_VALUES) {
            *out = a.a == b.a;
            return true;
        }
        /* keys and items compare as sets */
        ok = moe_jinja_step(j, 1) && moe_jinja_enter(j);
        *out = a.a->len == b.a->len;
        for (size_t i = 0; ok && *out && i < a.a->len; i++)
            ok = moe_jinja_contains(j, b, a.a->items[i], out);
        moe_jinja_leave(j);
        return ok;
    case JINJA_DICT:
        ok = moe_jinja_step(j, 1) && moe_jinja_enter(j) && equal_dicts(j, a.d, b.d, out);
        moe_jinja_leave(j);
        return ok;
    case JINJA_RANGE:
        *out = a.range->len == b.range->len &&
               (a.range->len == 0 || (a.range->start == b.range->start &&
                                      (a.range->len == 1 || a.range->step == b.range->step)));
        return true;
    case JINJA_METHOD:
        if (a.method->builtin != b.method->builtin)
            return true;
        return moe_jinja_equal(j, a.method->self, b.method->self, out);
    case JINJA_FUNCTION:
        *out = a.function == b.function;
        return true;
    default:
        *out = a.a == b.a;
        return true;
    }
}

bool moe_jinja_less(jinja *j, jinja_value a, jinja_value b, bool *out)
{
    if (is_number(a) && is_number(b)) {
        *out = compare_numbers(a, b) == -1;
        return true;
    }
    if (a.kind == JINJA_STRING && b.kind == JINJA_STRING) {
        *out = compare_strings(a.s, b.s) < 0;
        return moe_jinja_step(j, a.s->len / 256);
    }
    if (a.kind == JINJA_UNDEFINED)
        return moe_jinja_fail_undefined(j, a);
    if (b.kind == JINJA_UNDEFINED)
        return moe_jinja_fail_undefined(j, b);
    if (a.kind != b.kind || (a.kind != JINJA_LIST && a.kind != JINJA_TUPLE))
        return moe_jinja_fail(j, "'<' not supported between instances of '%s' and '%s'",
                              moe_jinja_type_name(a), moe_jinja_type_name(b));
    bool ok = moe_jinja_step(j, 1) && moe_jinja_enter(j);
    size_t n = a.a->len < b.a->len ? a.a->len : b.a->len;
    *out = a.a->len < b.a->len;
    for (size_t i = 0; ok && i < n; i++) {
        bool equal;
        ok = moe_jinja_equal(j, a.a->items[i], b.a->items[i], &equal);
        if (ok && !equal) {
            ok = moe_jinja_less(j, a.a->items[i], b.a->items[i], out);
            break;
        }
    }
    moe_jinja_leave(j);
    return ok;
}

bool moe_jinja_length(jinja *j, jinja_value v, size_t *out)
{
    switch (v.kind) {
    case JINJA_UNDEFINED:
        *out = 0;
        return true;
    case JINJA_STRING:
        *out = v.s->n_chars;
        return true;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_VIEW:
        *out = v.a->len;
        return true;
    case JINJA_DICT:
        *out = v.d->len;
        return true;
    case JINJA_RANGE:
        *out = v.range->len;
        return true;
    case JINJA_LOOP: {
        jinja_value name, length;
        if (!moe_jinja_intern(j, "length", 6, &name) || !moe_jinja_getattr(j, v, name, &length))
            return false;
        *out = (size_t)length.i;
        return true;
    }
    default:
        return moe_jinja_fail(j, "object of type '%s' has no len()", moe_jinja_type_name(v));
    }
}

bool moe_jinja_contains(jinja *j, jinja_value container, jinja_value item, bool *out)
{
    *out = false;
    if (container.kind == JINJA_STRING) {
        if (item.kind != JINJA_STRING)
            return moe_jinja_fail(j, "'in <string>' requires string as left operand, not %s",
                                  moe_jinja_type_name(item));
        *out = item.s->len == 0 ||
               memmem(container.s->data, container.s->len, item.s->data, item.s->len) != NULL;
        return moe_jinja_step(j, container.s->len / 16);
    }
    if (container.kind == JINJA_DICT) {
        const jinja_value *found;
        if (!moe_jinja_dict_get(j, container.d, item, &found))
            return false;
        *out = found != NULL;
        return true;
    }
    if (!moe_jinja_iterable(container))
        return moe_jinja_fail(j, "argument of type '%s' is not iterable",
                              moe_jinja_type_name(container));
    jinja_iter it;
    if (!moe_jinja_iter_open(j, container, &it))
        return false;
    while (!*out) {
        jinja_value other;
        bool done;
        if (!moe_jinja_iter_next(j, &it, &other, &done))
            return false;
        if (done)
            return true;
        if (!moe_jinja_equal(j, other, item, out))
            return false;
    }
    return true;
}

/* --- iteration -------------------------------------------------------------------------------- */

bool moe_jinja_iterable(jinja_value v)
{
    switch (v.kind) {
    case JINJA_UNDEFINED:
    case JINJA_STRING:
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_DICT:
    case JINJA_VIEW:
    case JINJA_RANGE:
    case JINJA_ITER:
        return true;
    default:
        return false;
    }
}

bool moe_jinja_iter_open(jinja *j, jinja_value v, jinja_iter *out)
{
    static const jinja_array nothing;
    *out = (jinja_iter){.kind = JINJA_ITER_ARRAY};
    switch (v.kind) {
    case JINJA_UNDEFINED:
        out->array = &nothing;
        return true;
    case JINJA_STRING:
        out->kind = JINJA_ITER_STRING;
        out->string = v.s;
        return true;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_VIEW:
        out->array = v.a;
        return true;
    case JINJA_DICT:
        out->kind = JINJA_ITER_DICT;
        out->dict = v.d;
        return true;
    case JINJA_RANGE:
        out->kind = JINJA_ITER_RANGE;
        out->range = v.range;
        return true;
    case JINJA_ITER:
        out->kind = JINJA_ITER_SHARED;
        out->source = v.iter;
        return true;
    default:
        return moe_jinja_fail(j, "'%s' object is not iterable", moe_jinja_type_name(v));
    }
}

/* The next item of a lazy map or select. */
static bool next_lazy(jinja *j, jinja_iter *it, jinja_value *item, bool *done)
{
    jinja_iter source;
    jinja_value shared;
    if (it->source == NULL) {
        if (!moe_jinja_iter_open(j, it->over, &source) || !moe_jinja_iter_new(j, &source, &shared))
            return false;
        it->source = shared.iter;
    }
    for (;;) {
        if (!moe_jinja_iter_next(j, it->source, item, done))
            return false;
        if (*done)
            return true;
        jinja_value v = *item, result;
        if (it->attribute.kind != JINJA_MISSING &&
            !moe_jinja_getpath(j, *item, it->attribute, it->fallback, &v))
            return false;
        result = v;
        if (it->builtin != NULL && !moe_jinja_call_builtin(j, it->builtin, v, &it->args, &result))
            return false;
        if (it->kind == JINJA_ITER_MAP) {
            *item = result;
            return true;
        }
        if (moe_jinja_truth(result) != it->negate)
            return true;
    }
}

bool moe_jinja_iter_next(jinja *j, jinja_iter *it, jinja_value *item, bool *done)
{
    *done = false;
    if (!moe_jinja_step(j, 1))
        return false;
    switch (it->kind) {
    case JINJA_ITER_ARRAY:
        *done = it->pos >= it->array->len;
        if (!*done)
            *item = it->array->items[it->pos++];
        return true;
    case JINJA_ITER_DICT:
        *done = it->pos >= it->dict->len;
        if (!*done)
            *item = it->dict->entries[it->pos++].key;
        return true;
    case JINJA_ITER_RANGE:
        *done = it->pos >= it->range->len;
        if (!*done)
            *item = jinja_int(it->range->start + (int64_t)it->pos++ * it->range->step);
        return true;
    case JINJA_ITER_STRING: {
        *done = it->pos >= it->string->len;
        if (*done)
            return true;
        int32_t cp;
        const char *at = it->string->data + it->pos;
        size_t n = moe_jinja_utf8_decode(at, &cp);
        it->pos += n;
        return moe_jinja_string_share(j, at, n, false, item);
    }
    case JINJA_ITER_SHARED:
    default: {
        bool ok = moe_jinja_enter(j) &&
                  (it->kind == JINJA_ITER_SHARED ? moe_jinja_iter_next(j, it->source, item, done)
                                                 : next_lazy(j, it, item, done));
        moe_jinja_leave(j);
        return ok;
    }
    }
}

bool moe_jinja_iter_new(jinja *j, const jinja_iter *it, jinja_value *out)
{
    jinja_iter *copy = moe_jinja_alloc(j, 1, sizeof *copy);
    if (copy == NULL)
        return false;
    *copy = *it;
    *out = (jinja_value){.kind = JINJA_ITER, .iter = copy};
    return true;
}

bool moe_jinja_list_of(jinja *j, jinja_value v, jinja_value *out)
{
    jinja_iter it;
    size_t cap = 0;
    if (!moe_jinja_iter_open(j, v, &it))
        return false;
    if (it.kind == JINJA_ITER_ARRAY) {
        if (!moe_jinja_array_new(j, JINJA_LIST, it.array->len, out))
            return false;
        if (it.array->len > 0)
            memcpy(out->a->items, it.array->items, it.array->len * sizeof(jinja_value));
        return true;
    }
    if (!moe_jinja_array_new(j, JINJA_LIST, 0, out))
        return false;
    for (;;) {
        jinja_value item;
        bool done;
        if (!moe_jinja_iter_next(j, &it, &item, &done))
            return false;
        if (done)
            return true;
        if (!moe_jinja_array_add(j, out->a, &cap, item))
            return false;
    }
}
