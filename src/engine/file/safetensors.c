/*
 * Reading safetensors files (format: README of huggingface/safetensors).
 *
 * Layout: u64 little-endian length N, N bytes of JSON {"name": {"dtype": "BF16", "shape": [rows,
 * cols], "data_offsets": [begin, end]}, …, "__metadata__": {…}}, then the data, from whose first
 * byte the offsets count.  Shapes are row-major with the longest stride first; they are turned
 * round here.
 */
#include "file_internal.h"

#include <stdlib.h>
#include <string.h>

/* The limit of the reference implementation. */
#define MAX_HEADER_BYTES ((uint64_t)100000000)

/* Types that have the same name and number in GGUF. */
static const int shared_types[] = {MOE_TYPE_F32, MOE_TYPE_F16, MOE_TYPE_BF16, 24, 25, 26, 27, 28};

/* Type number of a dtype, MOE_TYPE_NONE if it is not known. */
static int dtype_number(const char *dtype)
{
    for (size_t i = 0; i < sizeof(shared_types) / sizeof(shared_types[0]); i++) {
        if (strcmp(moe_type_info_of(shared_types[i])->name, dtype) == 0)
            return shared_types[i];
    }
    for (int type = 256; moe_type_info_of(type) != NULL; type++) {
        if (strcmp(moe_type_info_of(type)->name, dtype) == 0)
            return type;
    }
    return MOE_TYPE_NONE;
}

/* Turns a shape round into tensor->dims and counts its elements; false if it is not a shape. */
static bool read_shape(const json_t *shape, moe_tensor *tensor, uint64_t *n_elements)
{
    if (!json_is_array(shape))
        return false;
    size_t rank = json_array_size(shape);
    uint64_t bound = 1; /* the product without zeros must fit too: others multiply in any order */
    bool is_empty = false;
    for (size_t i = 0; i < rank; i++) {
        const json_t *item = json_array_get(shape, rank - 1 - i);
        int64_t dim = json_integer_value(item);
        if (!json_is_integer(item) || dim < 0 ||
            __builtin_mul_overflow(bound, (uint64_t)(dim > 0 ? dim : 1), &bound) ||
            bound > INT64_MAX)
            return false;
        is_empty = is_empty || dim == 0;
        if (i < 4)
            tensor->dims[i] = dim;
        else
            tensor->dims[3] *= dim;
    }
    *n_elements = is_empty ? 0 : bound;
    tensor->n_dims = rank < 4 ? (int)rank : 4;
    return true;
}

/* Reads [begin, end]. */
static bool read_offsets(const json_t *offsets, uint64_t *begin, uint64_t *end)
{
    const json_t *first = json_array_get(offsets, 0), *second = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(second) ||
        json_integer_value(first) < 0 || json_integer_value(second) < json_integer_value(first))
        return false;
    *begin = (uint64_t)json_integer_value(first);
    *end = (uint64_t)json_integer_value(second);
    return true;
}

/* Adds the tensor that one member of the header describes; data: where the offsets count from. */
static moe_status add_tensor(moe_file *file, int part, const char *name, const json_t *entry,
                             uint64_t data, moe_error *err)
{
    moe_tensor tensor = {.dims = {1, 1, 1, 1}, .part = part};
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    uint64_t n_elements, begin, end, size;
    if (dtype == NULL || name[0] == '\0' ||
        !read_shape(json_object_get(entry, "shape"), &tensor, &n_elements) ||
        !read_offsets(json_object_get(entry, "data_offsets"), &begin, &end))
        return moe_fail(err, MOE_ERR_FORMAT,
                        "tensor \"%s\" has no proper dtype, shape and data_offsets", name);
    tensor.type = dtype_number(dtype);
    const moe_type_info *info = moe_type_info_of(tensor.type);
    if (info == NULL)
        return moe_fail(err, MOE_ERR_UNSUPPORTED, "tensor \"%s\" has the unknown dtype \"%s\"",
                        name, dtype);
    tensor.type_name = info->name;
    if (n_elements % (uint64_t)info->block_columns != 0 ||
        __builtin_mul_overflow(n_elements / (uint64_t)info->block_columns,
                               (uint64_t)info->block_bytes, &size) ||
        size != end - begin)
        return moe_fail(err, MOE_ERR_FORMAT,
                        "tensor \"%s\" has %llu bytes, which does not fit its shape and dtype %s",
                        name, (unsigned long long)(end - begin), info->name);
    tensor.size = size;
    tensor.offset = data + begin; /* both are at most INT64_MAX */
    tensor.name = moe_arena_string(&file->arena, name, strlen(name));
    if (tensor.name == NULL)
        return moe_fail_memory(err, strlen(name) + 1);
    return moe_file_add_tensor(file, &tensor, err);
}

/* Reads and parses the JSON header; *data is the offset of the first byte after it. */
static moe_status read_header(const moe_part *part, json_t **header, uint64_t *data, moe_error *err)
{
    uint64_t len;
    if (part->size < sizeof(len))
        return moe_fail_content(part, "safetensors", err);
    moe_status status = moe_part_read(part, 0, sizeof(len), &len, err);
    if (status != MOE_OK)
        return status;
    char first = '\0';
    if (len >= 2 && len <= MAX_HEADER_BYTES && part->size > sizeof(len)) {
        status = moe_part_read(part, sizeof(len), 1, &first, err);
        if (status != MOE_OK)
            return status;
    }
    if (first != '{')
        return moe_fail_content(part, "safetensors", err);
    if (len > part->size - sizeof(len)) {
        moe_fail(err, MOE_ERR_FORMAT,
                 "the header of \"%s\" ends at byte %llu, beyond the file's end at %llu",
                 part->name, (unsigned long long)(len + sizeof(len)),
                 (unsigned long long)part->size);
        return moe_hint(err, "The file seems to be truncated; fetch it again.");
    }
    char *text = malloc((size_t)len + 1);
    if (text == NULL)
        return moe_fail_memory(err, (size_t)len + 1);
    status = moe_part_read(part, sizeof(len), (size_t)len, text, err);
    if (status == MOE_OK) {
        text[len] = '\0';
        status = moe_json_parse(text, (size_t)len, part->name, JSON_REJECT_DUPLICATES, header, err);
    }
    free(text);
    *data = sizeof(len) + len;
    return status;
}

moe_status moe_safetensors_add(moe_file *file, const char *path, const char *name, moe_error *err)
{
    moe_status status = moe_file_add_part(file, path, name, err);
    if (status != MOE_OK)
        return status;
    int part = (int)file->n_parts - 1;
    json_t *header = NULL;
    uint64_t data = 0;
    status = read_header(&file->parts[part], &header, &data, err);
    if (status != MOE_OK)
        return status;

    const char *key;
    json_t *entry;
    json_object_foreach(header, key, entry)
    {
        if (strcmp(key, "__metadata__") == 0)
            continue;
        status = add_tensor(file, part, key, entry, data, err);
        if (status != MOE_OK)
            break;
    }
    json_decref(header);
    return status;
}
