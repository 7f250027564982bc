/*
 * The model file as the rest of the engine sees it: opening by kind, the table of tensors,
 * look-ups.
 *
 * Tensors stay in the order of the file; a second table of pointers, sorted by name, serves
 * look-ups and shows duplicates as neighbours.  Metadata is one array sorted by key.  All names and
 * values live in the file's arena or in the parsed JSON, and are valid until moe_file_close.
 */
#include "file_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- memory --------------------------------------------------------------------------------- */

typedef struct moe_arena_chunk {
    struct moe_arena_chunk *next;
    size_t size, used;
    _Alignas(16) char data[];
} moe_arena_chunk;

#define CHUNK_BYTES ((size_t)256 << 10)

void *moe_arena_alloc(moe_arena *arena, size_t size)
{
    size_t rounded, bytes;
    if (!moe_add(size, 15, &rounded))
        return NULL;
    rounded &= ~(size_t)15;
    moe_arena_chunk *chunk = arena->chunks;
    if (chunk == NULL || chunk->size - chunk->used < rounded) {
        size_t room = rounded > CHUNK_BYTES / 4 ? rounded : CHUNK_BYTES;
        if (!moe_add(sizeof(moe_arena_chunk), room, &bytes))
            return NULL;
        chunk = malloc(bytes);
        if (chunk == NULL)
            return NULL;
        *chunk = (moe_arena_chunk){.size = room};
        if (room > CHUNK_BYTES && arena->chunks != NULL) {
            /* A chunk of its own for something large: the current one still has room. */
            chunk->next = arena->chunks->next;
            arena->chunks->next = chunk;
        } else {
            chunk->next = arena->chunks;
            arena->chunks = chunk;
        }
    }
    void *p = chunk->data + chunk->used;
    chunk->used += rounded;
    arena->total += rounded;
    return p;
}

char *moe_arena_string(moe_arena *arena, const void *data, size_t len)
{
    char *s = len < SIZE_MAX ? moe_arena_alloc(arena, len + 1) : NULL;
    if (s == NULL)
        return NULL;
    if (len > 0)
        memcpy(s, data, len);
    s[len] = '\0';
    return s;
}

void moe_arena_free(moe_arena *arena)
{
    while (arena->chunks != NULL) {
        moe_arena_chunk *next = arena->chunks->next;
        free(arena->chunks);
        arena->chunks = next;
    }
    arena->total = 0;
}

/* Room for one more element of `size` bytes in a table; NULL if memory is short. */
static void *table_grow(void *table, size_t n, size_t *cap, size_t size)
{
    if (n < *cap)
        return table;
    size_t new_cap = *cap < 16 ? 16 : *cap * 2;
    void *grown = realloc(table, new_cap * size);
    if (grown != NULL)
        *cap = new_cap;
    return grown;
}

moe_status moe_names_add(moe_names *names, char *name, moe_error *err)
{
    char **grown =
        name == NULL ? NULL : table_grow(names->items, names->n, &names->cap, sizeof(char *));
    if (grown == NULL) {
        free(name);
        return moe_fail_memory(err, (names->n + 1) * sizeof(char *));
    }
    names->items = grown;
    names->items[names->n++] = name;
    return MOE_OK;
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void moe_names_sort(moe_names *names)
{
    if (names->n > 0)
        qsort(names->items, names->n, sizeof(char *), compare_strings);
}

void moe_names_free(moe_names *names)
{
    for (size_t i = 0; i < names->n; i++)
        free(names->items[i]);
    free(names->items);
    *names = (moe_names){0};
}

/* --- tables --------------------------------------------------------------------------------- */

moe_status moe_file_add_part(moe_file *file, const char *path, const char *name, moe_error *err)
{
    if (file->n_parts >= MOE_MAX_PARTS)
        return moe_fail(err, MOE_ERR_FORMAT, "model \"%s\" has more than %d files", file->name,
                        MOE_MAX_PARTS);
    moe_part *grown = table_grow(file->parts, file->n_parts, &file->cap_parts, sizeof(moe_part));
    if (grown == NULL)
        return moe_fail_memory(err, (file->n_parts + 1) * sizeof(moe_part));
    file->parts = grown;
    moe_status status = moe_part_open(path, name, false, &file->parts[file->n_parts], err);
    if (status == MOE_OK)
        file->n_parts++;
    return status;
}

bool moe_dims_product(const int64_t *dims, int n, uint64_t *out)
{
    *out = 1;
    for (int i = 0; i < n; i++) {
        if (dims[i] < 0 || __builtin_mul_overflow(*out, (uint64_t)dims[i], out))
            return false;
    }
    return true;
}

moe_status moe_file_add_tensor(moe_file *file, const moe_tensor *tensor, moe_error *err)
{
    const moe_part *part = &file->parts[tensor->part];
    uint64_t end;
    if (__builtin_add_overflow(tensor->offset, tensor->size, &end))
        return moe_fail(err, MOE_ERR_FORMAT, "offset and size of tensor \"%s\" overflow",
                        tensor->name);
    if (end > part->size) {
        moe_fail(err, MOE_ERR_FORMAT,
                 "tensor \"%s\" ends at byte %llu, beyond the file's end at %llu", tensor->name,
                 (unsigned long long)end, (unsigned long long)part->size);
        moe_detail(err, "The tensor is in file \"%s\".", part->name);
        return moe_hint(err, "The file seems to be truncated; fetch it again.");
    }
    if (file->n_tensors >= MOE_MAX_TENSORS)
        return moe_fail(err, MOE_ERR_FORMAT, "model \"%s\" has more than %u tensors", file->name,
                        MOE_MAX_TENSORS);
    moe_tensor *grown =
        table_grow(file->tensors, file->n_tensors, &file->cap_tensors, sizeof(moe_tensor));
    if (grown == NULL)
        return moe_fail_memory(err, (file->n_tensors + 1) * sizeof(moe_tensor));
    file->tensors = grown;
    file->tensors[file->n_tensors++] = *tensor;
    return MOE_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp((*(const moe_tensor *const *)a)->name, (*(const moe_tensor *const *)b)->name);
}

static int compare_places(const void *a, const void *b)
{
    const moe_tensor *s = *(const moe_tensor *const *)a, *t = *(const moe_tensor *const *)b;
    if (s->part != t->part)
        return s->part < t->part ? -1 : 1;
    if (s->offset != t->offset)
        return s->offset < t->offset ? -1 : 1;
    return s->size < t->size ? -1 : s->size > t->size;
}

moe_status moe_file_index(moe_file *file, moe_error *err)
{
    size_t n = file->n_tensors;
    if (n == 0)
        return MOE_OK;
    const moe_tensor **order = malloc(n * sizeof(*order));
    if (order == NULL)
        return moe_fail_memory(err, n * sizeof(*order));
    for (size_t i = 0; i < n; i++)
        order[i] = &file->tensors[i];
    file->by_name = order;

    qsort(order, n, sizeof(*order), compare_places);
    const moe_tensor *before = NULL; /* empty tensors take no place */
    for (size_t i = 0; i < n; i++) {
        if (order[i]->size == 0)
            continue;
        if (before != NULL && before->part == order[i]->part &&
            before->offset + before->size > order[i]->offset)
            return moe_fail(err, MOE_ERR_FORMAT, "tensors \"%s\" and \"%s\" overlap in the file",
                            before->name, order[i]->name);
        before = order[i];
    }
    qsort(order, n, sizeof(*order), compare_names);
    for (size_t i = 1; i < n; i++) {
        if (strcmp(order[i - 1]->name, order[i]->name) == 0)
            return moe_fail(err, MOE_ERR_FORMAT, "tensor \"%s\" occurs twice", order[i]->name);
    }
    return MOE_OK;
}

/* --- open and close ------------------------------------------------------------------------- */

static moe_status open_kind(moe_file *file, const char *path, moe_error *err)
{
    file->name = moe_path_base(path);
    if (file->name == NULL)
        return moe_fail_memory(err, strlen(path) + 1);
    struct stat st;
    if (stat(path, &st) != 0)
        return moe_fail_errno(err, file->name);
    if (S_ISDIR(st.st_mode)) {
        file->format = MOE_FILE_HF;
        return moe_hf_open(file, path, err);
    }
    file->format = MOE_FILE_GGUF;
    if (moe_ends_with(path, ".safetensors") || moe_ends_with(path, ".json")) {
        moe_fail(err, MOE_ERR_FORMAT, "file \"%s\" is only a part of a model", file->name);
        return moe_hint(err, "Give the folder that holds it together with config.json and "
                             "tokenizer.json.");
    }
    return moe_gguf_open(file, path, err);
}

moe_status moe_file_open(const char *path, moe_file **out, moe_error *err)
{
    moe_error unwanted;
    if (err == NULL)
        err = &unwanted;
    *out = NULL;
    moe_file *file = calloc(1, sizeof(*file));
    if (file == NULL)
        return moe_fail_memory(err, sizeof(*file));
    moe_status status = open_kind(file, path, err);
    if (status != MOE_OK) {
        moe_file_close(file);
        return status;
    }
    *out = file;
    return MOE_OK;
}

/* Frees everything but the parts and the tensors. */
static void free_metadata(moe_file *file)
{
    for (size_t i = 0; file->json != NULL && i < moe_hf_n_json; i++)
        json_decref(file->json[i]);
    free(file->json);
    free(file->chat_template);
    free(file->by_name);
    free(file->metas);
    moe_arena_free(&file->arena);
    file->json = NULL;
    file->chat_template = NULL;
    file->by_name = NULL;
    file->metas = NULL;
    file->n_metas = 0;
}

void moe_file_close(moe_file *file)
{
    if (file == NULL)
        return;
    for (size_t i = 0; i < file->n_parts; i++)
        moe_part_close(&file->parts[i]);
    free_metadata(file);
    free(file->parts);
    free(file->tensors);
    free(file->name);
    free(file);
}

moe_status moe_file_forget_metadata(moe_file *file, moe_error *err)
{
    moe_arena names = {0};
    size_t total = 0;
    for (size_t i = 0; i < file->n_tensors; i++)
        total += strlen(file->tensors[i].name) + 1;
    char *name = moe_arena_alloc(&names, total);
    if (name == NULL)
        return moe_fail_memory(err, total);
    for (size_t i = 0; i < file->n_tensors; i++) {
        size_t len = strlen(file->tensors[i].name) + 1;
        file->tensors[i].name = memcpy(name, file->tensors[i].name, len);
        name += len;
    }
    free_metadata(file);
    file->arena = names;
    return MOE_OK;
}

moe_status moe_file_check(const moe_file *file, moe_error *err)
{
    moe_status status = MOE_OK;
    for (size_t i = 0; i < file->n_parts && status == MOE_OK; i++)
        status = moe_part_check(&file->parts[i], err);
    return status;
}

void moe_file_accept(moe_file *file)
{
    struct stat st;
    for (size_t i = 0; i < file->n_parts; i++) {
        if (file->parts[i].fd >= 0 && fstat(file->parts[i].fd, &st) == 0 &&
            (uint64_t)st.st_size == file->parts[i].size)
            file->parts[i].modified = st.st_mtim;
    }
}

int moe_file_descriptors(const moe_file *file)
{
    int n = 0;
    for (size_t i = 0; i < file->n_parts; i++)
        n += file->parts[i].fd >= 0;
    return n;
}

moe_file_format moe_file_format_of(const moe_file *file)
{
    return file->format;
}

const char *moe_file_name(const moe_file *file)
{
    return file->name;
}

/* --- tensors -------------------------------------------------------------------------------- */

static int compare_name_to_tensor(const void *key, const void *element)
{
    return strcmp(key, (*(const moe_tensor *const *)element)->name);
}

const moe_tensor *moe_file_tensor(const moe_file *file, const char *name)
{
    if (file->n_tensors == 0)
        return NULL;
    const moe_tensor **found = bsearch(name, file->by_name, file->n_tensors, sizeof(*file->by_name),
                                       compare_name_to_tensor);
    return found == NULL ? NULL : *found;
}

size_t moe_file_n_tensors(const moe_file *file)
{
    return file->n_tensors;
}

const moe_tensor *moe_file_tensor_at(const moe_file *file, size_t i)
{
    return i < file->n_tensors ? &file->tensors[i] : NULL;
}

moe_status moe_file_read(const moe_file *file, const moe_tensor *tensor, uint64_t offset,
                         size_t len, void *dst, moe_error *err)
{
    moe_error unwanted;
    if (err == NULL)
        err = &unwanted;
    if (offset > tensor->size || len > tensor->size - offset)
        return moe_fail(err, MOE_ERR_INVALID,
                        "bytes %llu to %llu asked for of tensor \"%s\", which has %llu",
                        (unsigned long long)offset, (unsigned long long)(offset + len),
                        tensor->name, (unsigned long long)tensor->size);
    return moe_part_read(&file->parts[tensor->part], tensor->offset + offset, len, dst, err);
}

void moe_file_announce(const moe_file *file, const moe_tensor *tensor, uint64_t offset, size_t len)
{
    if (offset <= tensor->size && len <= tensor->size - offset)
        moe_part_announce(&file->parts[tensor->part], tensor->offset + offset, len);
}

/* --- metadata ------------------------------------------------------------------------------- */

const moe_meta *moe_file_meta(const moe_file *file, const char *key)
{
    return moe_meta_find(file->metas, file->n_metas, key);
}

int64_t moe_file_meta_int(const moe_file *file, const char *key, int64_t otherwise)
{
    const moe_meta *meta = moe_file_meta(file, key);
    if (meta != NULL && meta->kind == MOE_META_INT)
        return meta->i;
    if (meta != NULL && meta->kind == MOE_META_BOOL)
        return meta->b;
    return otherwise;
}

double moe_file_meta_float(const moe_file *file, const char *key, double otherwise)
{
    const moe_meta *meta = moe_file_meta(file, key);
    if (meta != NULL && meta->kind == MOE_META_FLOAT)
        return meta->f;
    if (meta != NULL && meta->kind == MOE_META_INT)
        return (double)meta->i;
    return otherwise;
}

bool moe_file_meta_bool(const moe_file *file, const char *key, bool otherwise)
{
    const moe_meta *meta = moe_file_meta(file, key);
    return meta != NULL && meta->kind == MOE_META_BOOL ? meta->b : otherwise;
}

const char *moe_file_meta_string(const moe_file *file, const char *key, const char *otherwise)
{
    const moe_meta *meta = moe_file_meta(file, key);
    return meta != NULL && meta->kind == MOE_META_STRING ? meta->s.data : otherwise;
}

const json_t *moe_file_json(const moe_file *file, const char *name)
{
    for (size_t i = 0; file->json != NULL && i < moe_hf_n_json; i++) {
        if (strcmp(moe_hf_json_names[i], name) == 0)
            return file->json[i];
    }
    return NULL;
}

/* The template of tokenizer_config.json: a string, or a list of {"name", "template"}. */
static const char *config_template(const json_t *config)
{
    const json_t *value = json_object_get(config, "chat_template");
    if (!json_is_array(value))
        return json_string_value(value);
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name != NULL && strcmp(name, "default") == 0)
            return json_string_value(json_object_get(item, "template"));
    }
    return NULL;
}

const char *moe_file_chat_template(const moe_file *file)
{
    const char *text = file->format == MOE_FILE_GGUF
                           ? moe_file_meta_string(file, "tokenizer.chat_template", NULL)
                       : file->chat_template != NULL
                           ? file->chat_template
                           : config_template(moe_file_json(file, "tokenizer_config.json"));
    return text != NULL && text[0] != '\0' ? text : NULL;
}
