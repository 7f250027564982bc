/*
 * Reading GGUF, versions 2 and 3, whole or split into parts (format: docs/gguf.md of the ggml
 * project).
 *
 * Layout, little-endian: "GGUF", u32 version, i64 number of tensors, i64 number of keys; then per
 * key a string (u64 length, bytes), u32 kind and the value; then per tensor its name, u32 n_dims,
 * i64 dims (row length first), u32 type, u64 offset; then, at the next multiple of
 * general.alignment, the data that the offsets count from.  A split set holds all metadata in its
 * first part; every part has its own tensor table.
 *
 * A reader walks the header with bounds checked against the file's size before each step, so a
 * count or a length never makes us allocate more than a small multiple of what the file really
 * holds.
 */
#include "file_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF values are read as they lie");

enum {
    KIND_U8,
    KIND_I8,
    KIND_U16,
    KIND_I16,
    KIND_U32,
    KIND_I32,
    KIND_F32,
    KIND_BOOL,
    KIND_STRING,
    KIND_ARRAY,
    KIND_U64,
    KIND_I64,
    KIND_F64,
    N_KINDS
};

/* Bytes of a value; strings begin with their length, arrays with kind and length. */
static const unsigned char kind_bytes[N_KINDS] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

static const moe_meta_kind kind_meta[N_KINDS] = {
    MOE_META_INT, MOE_META_INT,   MOE_META_INT,   MOE_META_INT,    MOE_META_INT,
    MOE_META_INT, MOE_META_FLOAT, MOE_META_BOOL,  MOE_META_STRING, MOE_META_ARRAY,
    MOE_META_INT, MOE_META_INT,   MOE_META_FLOAT,
};

/* --- the reader ----------------------------------------------------------------------------- */

#define READER_BYTES ((size_t)64 << 10)

typedef struct reader {
    moe_file *file; /* whose arena holds what is read */
    const moe_part *part;
    moe_error *err;
    uint64_t pos;       /* of the next byte, in the part */
    size_t at, len;     /* the buffer holds bytes [pos, pos + len - at) */
    unsigned char *buf; /* READER_BYTES */
} reader;

static moe_status fail_truncated(reader *r, uint64_t need)
{
    moe_fail(
        r->err, MOE_ERR_FORMAT,
        "metadata of \"%s\" has %llu bytes to come at byte %llu, beyond the file's end at %llu",
        r->part->name, (unsigned long long)need, (unsigned long long)r->pos,
        (unsigned long long)r->part->size);
    return moe_hint(r->err, "The file seems to be truncated; fetch it again.");
}

/* Fails unless `n` elements of at least `size` bytes can still follow. */
static moe_status expect(reader *r, uint64_t n, uint64_t size)
{
    uint64_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes))
        bytes = UINT64_MAX;
    return bytes <= r->part->size - r->pos ? MOE_OK : fail_truncated(r, bytes);
}

static moe_status read_bytes(reader *r, void *dst, size_t n)
{
    moe_status status = expect(r, n, 1);
    while (status == MOE_OK && n > 0) {
        if (r->at == r->len) {
            uint64_t left = r->part->size - r->pos;
            r->at = 0;
            r->len = left < READER_BYTES ? (size_t)left : READER_BYTES;
            status = moe_part_read(r->part, r->pos, r->len, r->buf, r->err);
            if (status != MOE_OK)
                break;
        }
        size_t piece = r->len - r->at < n ? r->len - r->at : n;
        memcpy(dst, r->buf + r->at, piece);
        r->at += piece;
        r->pos += piece;
        dst = (char *)dst + piece;
        n -= piece;
    }
    return status;
}

/* Room in the file's arena. */
static moe_status allocate(reader *r, size_t size, void *out)
{
    if (size > MOE_MAX_METADATA_BYTES || r->file->arena.total > MOE_MAX_METADATA_BYTES - size)
        return moe_fail(r->err, MOE_ERR_FORMAT, "metadata of \"%s\" needs more than %zu MiB",
                        r->part->name, MOE_MAX_METADATA_BYTES >> 20);
    void *p = moe_arena_alloc(&r->file->arena, size);
    memcpy(out, &p, sizeof(p));
    return p == NULL ? moe_fail_memory(r->err, size) : MOE_OK;
}

static moe_status read_string(reader *r, moe_string *out)
{
    uint64_t len;
    moe_status status = read_bytes(r, &len, sizeof(len));
    if (status == MOE_OK)
        status = expect(r, len, 1);
    if (status != MOE_OK)
        return status;
    char *data;
    status = allocate(r, (size_t)len + 1, &data);
    if (status == MOE_OK)
        status = read_bytes(r, data, (size_t)len);
    if (status != MOE_OK)
        return status;
    data[len] = '\0';
    *out = (moe_string){data, (size_t)len};
    return MOE_OK;
}

/* A key or a tensor's name: not empty, not huge, no zero byte. */
static moe_status read_name(reader *r, const char *what, const char **out)
{
    moe_string s;
    uint64_t at = r->pos;
    moe_status status = read_string(r, &s);
    if (status != MOE_OK)
        return status;
    if (s.len == 0 || s.len > MOE_MAX_NAME || memchr(s.data, '\0', s.len) != NULL)
        return moe_fail(r->err, MOE_ERR_FORMAT,
                        "the %s at byte %llu of \"%s\" is empty, too long or holds a zero byte",
                        what, (unsigned long long)at, r->part->name);
    *out = s.data;
    return MOE_OK;
}

/* --- metadata ------------------------------------------------------------------------------- */

/* An integer value of the kind; false for a u64 beyond int64 (its bits are in *out). */
static bool decode_int(unsigned kind, const unsigned char *raw, int64_t *out)
{
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        int64_t i64;
    } v;
    memcpy(&v, raw, kind_bytes[kind]);
    switch (kind) {
    case KIND_U8:
        *out = v.u8;
        return true;
    case KIND_BOOL:
        *out = v.u8 != 0;
        return true;
    case KIND_I8:
        *out = v.i8;
        return true;
    case KIND_U16:
        *out = v.u16;
        return true;
    case KIND_I16:
        *out = v.i16;
        return true;
    case KIND_U32:
        *out = v.u32;
        return true;
    case KIND_I32:
        *out = v.i32;
        return true;
    default:
        *out = v.i64;
        return kind == KIND_I64 || v.i64 >= 0;
    }
}

static double decode_float(unsigned kind, const unsigned char *raw)
{
    float f;
    double d;
    if (kind == KIND_F64) {
        memcpy(&d, raw, sizeof(d));
        return d;
    }
    memcpy(&f, raw, sizeof(f));
    return f;
}

static moe_status read_strings(reader *r, moe_meta *meta)
{
    moe_string *strings;
    moe_status status = allocate(r, meta->n * sizeof(*strings), &strings);
    for (size_t i = 0; status == MOE_OK && i < meta->n; i++)
        status = read_string(r, &strings[i]);
    meta->strings = strings;
    return status;
}

/* Numbers of an array, widened to int64 or double. */
static moe_status read_numbers(reader *r, unsigned kind, moe_meta *meta)
{
    void *values;
    moe_status status = allocate(r, meta->n * 8, &values);
    if (status != MOE_OK)
        return status;
    int64_t *ints = values;
    double *floats = values;
    bool is_float = kind_meta[kind] == MOE_META_FLOAT;
    unsigned char raw[4096];
    size_t size = kind_bytes[kind], per_round = sizeof(raw) / size;
    for (size_t done = 0; done < meta->n;) {
        size_t round = meta->n - done < per_round ? meta->n - done : per_round;
        status = read_bytes(r, raw, round * size);
        if (status != MOE_OK)
            return status;
        for (size_t i = 0; i < round; i++, done++) {
            if (is_float)
                floats[done] = decode_float(kind, raw + i * size);
            else if (!decode_int(kind, raw + i * size, &ints[done]))
                return moe_fail(r->err, MOE_ERR_FORMAT,
                                "array \"%s\" of \"%s\" holds an integer beyond 63 bits", meta->key,
                                r->part->name);
        }
    }
    if (is_float)
        meta->floats = floats;
    else
        meta->ints = ints;
    return MOE_OK;
}

static moe_status read_array(reader *r, moe_meta *meta)
{
    uint32_t kind;
    uint64_t n;
    moe_status status = read_bytes(r, &kind, sizeof(kind));
    if (status == MOE_OK)
        status = read_bytes(r, &n, sizeof(n));
    if (status != MOE_OK)
        return status;
    if (kind == KIND_ARRAY)
        return moe_fail(r->err, MOE_ERR_FORMAT, "key \"%s\" of \"%s\" is an array of arrays",
                        meta->key, r->part->name);
    if (kind >= N_KINDS)
        return moe_fail(r->err, MOE_ERR_FORMAT, "array \"%s\" of \"%s\" has the unknown kind %u",
                        meta->key, r->part->name, kind);
    status = expect(r, n, kind_bytes[kind]);
    if (status != MOE_OK)
        return status;
    if (n > MOE_MAX_METADATA_BYTES)
        return moe_fail(r->err, MOE_ERR_FORMAT, "array \"%s\" of \"%s\" has %llu elements",
                        meta->key, r->part->name, (unsigned long long)n);
    meta->element = kind_meta[kind];
    meta->n = (size_t)n;
    return kind == KIND_STRING ? read_strings(r, meta) : read_numbers(r, kind, meta);
}

static moe_status read_meta(reader *r, moe_meta *meta)
{
    *meta = (moe_meta){0};
    uint32_t kind;
    moe_status status = read_name(r, "metadata key", &meta->key);
    if (status == MOE_OK)
        status = read_bytes(r, &kind, sizeof(kind));
    if (status != MOE_OK)
        return status;
    if (kind >= N_KINDS)
        return moe_fail(r->err, MOE_ERR_FORMAT, "key \"%s\" of \"%s\" has the unknown kind %u",
                        meta->key, r->part->name, kind);
    meta->kind = kind_meta[kind];
    if (kind == KIND_STRING)
        return read_string(r, &meta->s);
    if (kind == KIND_ARRAY)
        return read_array(r, meta);

    unsigned char raw[8];
    status = read_bytes(r, raw, kind_bytes[kind]);
    if (status != MOE_OK)
        return status;
    if (meta->kind == MOE_META_FLOAT) {
        meta->f = decode_float(kind, raw);
    } else if (!decode_int(kind, raw, &meta->i)) {
        meta->kind = MOE_META_UINT64;
        meta->u = (uint64_t)meta->i;
        meta->i = 0;
    } else if (meta->kind == MOE_META_BOOL) {
        meta->b = meta->i != 0;
    }
    return MOE_OK;
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(((const moe_meta *)a)->key, ((const moe_meta *)b)->key);
}

const moe_meta *moe_meta_find(const moe_meta *metas, size_t n, const char *key)
{
    moe_meta wanted = {.key = key};
    return n == 0 ? NULL : bsearch(&wanted, metas, n, sizeof(*metas), compare_keys);
}

/* Reads n keys into *metas (malloc'ed, sorted). */
static moe_status read_metas(reader *r, uint64_t n, moe_meta **metas, size_t *n_metas)
{
    /* name length, one byte of name, kind, one byte of value */
    moe_status status = expect(r, n, 8 + 1 + 4 + 1);
    if (status != MOE_OK)
        return status;
    if (n > MOE_MAX_METAS)
        return moe_fail(r->err, MOE_ERR_FORMAT, "file \"%s\" claims to have %llu metadata keys",
                        r->part->name, (unsigned long long)n);
    size_t bytes = (size_t)(n > 0 ? n : 1) * sizeof(moe_meta);
    *metas = malloc(bytes);
    if (*metas == NULL)
        return moe_fail_memory(r->err, bytes);
    for (*n_metas = 0; *n_metas < n; ++*n_metas) {
        status = read_meta(r, &(*metas)[*n_metas]);
        if (status != MOE_OK)
            return status;
    }
    qsort(*metas, *n_metas, sizeof(moe_meta), compare_keys);
    for (size_t i = 1; i < *n_metas; i++) {
        if (strcmp((*metas)[i - 1].key, (*metas)[i].key) == 0)
            return moe_fail(r->err, MOE_ERR_FORMAT, "key \"%s\" occurs twice in \"%s\"",
                            (*metas)[i].key, r->part->name);
    }
    return MOE_OK;
}

/* --- tensors -------------------------------------------------------------------------------- */

static moe_status fail_unknown_type(reader *r, const char *name, uint32_t type)
{
    moe_fail(r->err, MOE_ERR_UNSUPPORTED, "tensor \"%s\" has type number %u, which is not known",
             name, type);
    return moe_hint(r->err, "The number was withdrawn from the GGUF format, is newer than this "
                            "version, or private to another engine; use a file with common types "
                            "such as Q4_K_M or Q8_0.");
}

/* Reads one entry of the tensor table.  The offset is still relative to the data. */
static moe_status read_tensor(reader *r, uint64_t alignment, moe_tensor *tensor)
{
    *tensor = (moe_tensor){.part = (int)(r->part - r->file->parts), .dims = {1, 1, 1, 1}};
    uint32_t n_dims, type;
    moe_status status = read_name(r, "tensor name", &tensor->name);
    if (status == MOE_OK)
        status = read_bytes(r, &n_dims, sizeof(n_dims));
    if (status != MOE_OK)
        return status;
    if (n_dims < 1 || n_dims > 4)
        return moe_fail(r->err, MOE_ERR_FORMAT, "tensor \"%s\" has %u dimensions, not 1 to 4",
                        tensor->name, n_dims);
    tensor->n_dims = (int)n_dims;
    status = read_bytes(r, tensor->dims, n_dims * sizeof(tensor->dims[0]));
    if (status == MOE_OK)
        status = read_bytes(r, &type, sizeof(type));
    if (status == MOE_OK)
        status = read_bytes(r, &tensor->offset, sizeof(tensor->offset));
    if (status != MOE_OK)
        return status;

    for (uint32_t i = 0; i < n_dims; i++) {
        if (tensor->dims[i] <= 0)
            return moe_fail(r->err, MOE_ERR_FORMAT, "dimension %u of tensor \"%s\" is %lld", i,
                            tensor->name, (long long)tensor->dims[i]);
    }
    /* Types of safetensors have numbers too, but not in this format. */
    const moe_type_info *info = type < 256 ? moe_type_info_of((int)type) : NULL;
    if (info == NULL)
        return fail_unknown_type(r, tensor->name, type);
    tensor->type = (int)type;
    tensor->type_name = info->name;
    if (tensor->dims[0] % info->block_columns != 0)
        return moe_fail(
            r->err, MOE_ERR_FORMAT,
            "tensor \"%s\" has rows of %lld columns, not a multiple of the %d of type %s",
            tensor->name, (long long)tensor->dims[0], info->block_columns, info->name);
    /* The number of elements must fit too: others compute with it. */
    uint64_t n_elements;
    if (!moe_dims_product(tensor->dims, 4, &n_elements) || n_elements > INT64_MAX ||
        __builtin_mul_overflow(n_elements / (uint64_t)info->block_columns,
                               (uint64_t)info->block_bytes, &tensor->size))
        return moe_fail(r->err, MOE_ERR_FORMAT, "the dimensions of tensor \"%s\" overflow",
                        tensor->name);
    if (tensor->offset % alignment != 0)
        return moe_fail(r->err, MOE_ERR_FORMAT,
                        "tensor \"%s\" is at offset %llu, not a multiple of the alignment %llu",
                        tensor->name, (unsigned long long)tensor->offset,
                        (unsigned long long)alignment);
    return MOE_OK;
}

static moe_status read_alignment(reader *r, const moe_meta *metas, size_t n_metas, uint64_t *out)
{
    const moe_meta *meta = moe_meta_find(metas, n_metas, "general.alignment");
    *out = 32;
    if (meta == NULL)
        return MOE_OK;
    if (meta->kind != MOE_META_INT || meta->i < 1 || meta->i > UINT32_MAX ||
        (meta->i & (meta->i - 1)) != 0)
        return moe_fail(r->err, MOE_ERR_FORMAT, "general.alignment of \"%s\" is not a power of two",
                        r->part->name);
    *out = (uint64_t)meta->i;
    return MOE_OK;
}

/* Reads the table of n tensors and adds them to the file. */
static moe_status read_tensors(reader *r, uint64_t n, uint64_t alignment)
{
    /* name length, one byte of name, n_dims, one dim, type, offset */
    moe_status status = expect(r, n, 8 + 1 + 4 + 8 + 4 + 8);
    if (status != MOE_OK)
        return status;
    if (n > MOE_MAX_TENSORS)
        return moe_fail(r->err, MOE_ERR_FORMAT, "file \"%s\" claims to have %llu tensors",
                        r->part->name, (unsigned long long)n);
    if (n == 0)
        return MOE_OK;
    moe_tensor *table = malloc((size_t)n * sizeof(*table));
    if (table == NULL)
        return moe_fail_memory(r->err, (size_t)n * sizeof(*table));
    for (uint64_t i = 0; status == MOE_OK && i < n; i++)
        status = read_tensor(r, alignment, &table[i]);

    /* The data begins after the table; pos is at most INT64_MAX, so this can't overflow. */
    uint64_t data = (r->pos + alignment - 1) & ~(alignment - 1);
    for (uint64_t i = 0; status == MOE_OK && i < n; i++) {
        if (__builtin_add_overflow(table[i].offset, data, &table[i].offset))
            status = moe_fail(r->err, MOE_ERR_FORMAT, "the offset of tensor \"%s\" overflows",
                              table[i].name);
        else
            status = moe_file_add_tensor(r->file, &table[i], r->err);
    }
    free(table);
    return status;
}

/* --- parts ---------------------------------------------------------------------------------- */

/* The first 24 bytes. */
static moe_status read_head(reader *r, uint64_t *n_tensors, uint64_t *n_metas)
{
    char magic[4] = "";
    uint32_t version;
    moe_status status = r->part->size < 4 ? MOE_OK : read_bytes(r, magic, sizeof(magic));
    if (status != MOE_OK)
        return status;
    if (memcmp(magic, "GGUF", 4) != 0)
        return moe_fail_content(r->part, "GGUF", r->err);
    status = read_bytes(r, &version, sizeof(version));
    if (status != MOE_OK)
        return status;
    if (version != 0 && (version & 0xFFFF) == 0) {
        moe_fail(r->err, MOE_ERR_UNSUPPORTED, "file \"%s\" is a big-endian GGUF file",
                 r->part->name);
        return moe_hint(r->err, "Fetch or convert the model as a little-endian file.");
    }
    if (version < 2) {
        moe_fail(r->err, MOE_ERR_UNSUPPORTED, "file \"%s\" has GGUF version %u, which is too old",
                 r->part->name, version);
        return moe_hint(r->err, "Versions 2 and 3 can be read; convert the model again with a "
                                "current converter.");
    }
    if (version > 3) {
        moe_fail(r->err, MOE_ERR_UNSUPPORTED, "file \"%s\" has the unknown GGUF version %u",
                 r->part->name, version);
        return moe_hint(r->err, "Versions 2 and 3 can be read.");
    }
    status = read_bytes(r, n_tensors, sizeof(*n_tensors));
    return status == MOE_OK ? read_bytes(r, n_metas, sizeof(*n_metas)) : status;
}

/* An integer key of one part's metadata, 0 if there is none. */
static int64_t part_int(const moe_meta *metas, size_t n, const char *key)
{
    const moe_meta *meta = moe_meta_find(metas, n, key);
    return meta != NULL && meta->kind == MOE_META_INT ? meta->i : 0;
}

/* Checks a part's split keys: part `no` (from 0) of `count`; for the first part *count is set. */
static moe_status check_split(const reader *r, const char *path, const moe_meta *metas, size_t n,
                              int no, int *count)
{
    int64_t found_no = part_int(metas, n, "split.no");
    int64_t found_count = part_int(metas, n, "split.count");
    if (found_count < 0 || found_count > MOE_MAX_PARTS || found_no < 0 ||
        (found_no > 0 && found_no >= found_count))
        return moe_fail(r->err, MOE_ERR_FORMAT, "file \"%s\" calls itself part %lld of %lld",
                        r->part->name, (long long)found_no + 1, (long long)found_count);
    if (no == 0) {
        if (found_no != 0)
            return moe_gguf_fail_not_first(path, (int)found_no + 1, (int)found_count, r->err);
        *count = found_count > 1 ? (int)found_count : 1;
    } else if (found_no != no || found_count != *count) {
        moe_fail(r->err, MOE_ERR_FORMAT, "file \"%s\" calls itself part %lld of %lld, not %d of %d",
                 r->part->name, (long long)found_no + 1, (long long)found_count, no + 1, *count);
        return moe_hint(r->err, "The parts seem to be of different sets; fetch them again.");
    }
    return MOE_OK;
}

/* Opens and reads part `no`; the first part's metadata becomes the file's. */
static moe_status read_part(moe_file *file, const char *path, int no, int *count,
                            unsigned char *buf, moe_error *err)
{
    char *name = moe_path_base(path);
    if (name == NULL)
        return moe_fail_memory(err, strlen(path) + 1);
    moe_status status = moe_file_add_part(file, path, name, err);
    free(name);
    if (status != MOE_OK)
        return status;

    reader r = {.file = file, .part = &file->parts[no], .err = err, .buf = buf};
    uint64_t n_tensors, n_keys, alignment;
    moe_meta *metas = NULL;
    size_t n_metas = 0;
    status = read_head(&r, &n_tensors, &n_keys);
    if (status == MOE_OK)
        status = read_metas(&r, n_keys, &metas, &n_metas);
    if (status == MOE_OK)
        status = check_split(&r, path, metas, n_metas, no, count);
    if (status == MOE_OK)
        status = read_alignment(&r, metas, n_metas, &alignment);
    if (status == MOE_OK)
        status = read_tensors(&r, n_tensors, alignment);
    if (status == MOE_OK && no == 0) {
        file->metas = metas;
        file->n_metas = n_metas;
    } else {
        free(metas);
    }
    return status;
}

/* --- split sets ----------------------------------------------------------------------------- */

#define SPLIT_TAIL "-00001-of-00001.gguf"

/* Five digits as a number, or -1. */
static int five_digits(const char *s)
{
    int value = 0;
    for (int i = 0; i < 5; i++) {
        if (s[i] < '0' || s[i] > '9')
            return -1;
        value = value * 10 + (s[i] - '0');
    }
    return value;
}

bool moe_gguf_split_name(const char *path, size_t *prefix_len, int *no, int *count)
{
    size_t len = strlen(path), tail_len = strlen(SPLIT_TAIL);
    if (len < tail_len)
        return false;
    const char *tail = path + len - tail_len;
    *prefix_len = len - tail_len;
    *no = five_digits(tail + 1);
    *count = five_digits(tail + 10);
    return tail[0] == '-' && memcmp(tail + 6, "-of-", 4) == 0 && strcmp(tail + 15, ".gguf") == 0 &&
           *no >= 1 && *no <= *count;
}

char *moe_gguf_part_path(const char *path, size_t prefix_len, int no, int count)
{
    char *out = malloc(prefix_len + sizeof(SPLIT_TAIL) + 16);
    if (out == NULL)
        return NULL;
    memcpy(out, path, prefix_len);
    snprintf(out + prefix_len, sizeof(SPLIT_TAIL) + 16, "-%05d-of-%05d.gguf", no, count);
    return out;
}

moe_status moe_gguf_fail_not_first(const char *path, int no, int count, moe_error *err)
{
    char *name = moe_path_base(path);
    size_t prefix_len;
    int name_no, name_count;
    char *first = NULL;
    if (name == NULL)
        return moe_fail_memory(err, strlen(path) + 1);
    if (moe_gguf_split_name(name, &prefix_len, &name_no, &name_count))
        first = moe_gguf_part_path(name, prefix_len, 1, count);
    moe_fail(err, MOE_ERR_FORMAT, "file \"%s\" is part %d of a model split into %d files", name, no,
             count);
    if (first != NULL)
        moe_hint(err, "Give the first file, \"%s\"; the others are found by their names.", first);
    else
        moe_hint(err, "Give the first file, whose name ends in \"-00001-of-%05d.gguf\".", count);
    free(name);
    free(first);
    return err->status;
}

static moe_status read_other_parts(moe_file *file, const char *path, int count, unsigned char *buf,
                                   moe_error *err)
{
    size_t prefix_len;
    int no, name_count;
    if (!moe_gguf_split_name(path, &prefix_len, &no, &name_count) || no != 1 ||
        name_count != count) {
        moe_fail(err, MOE_ERR_FORMAT,
                 "file \"%s\" is the first of %d files, but its name does not "
                 "tell those of the others",
                 file->name, count);
        return moe_hint(err, "Let the names of all parts end in \"-00001-of-%05d.gguf\" and so on.",
                        count);
    }
    moe_status status = MOE_OK;
    for (int i = 1; status == MOE_OK && i < count; i++) {
        char *part_path = moe_gguf_part_path(path, prefix_len, i + 1, count);
        if (part_path == NULL)
            return moe_fail_memory(err, strlen(path) + 1);
        status = read_part(file, part_path, i, &count, buf, err);
        free(part_path);
        if (status == MOE_ERR_NOT_FOUND)
            moe_hint(err, "Part %d of %d is missing; all parts must be in one folder.", i + 1,
                     count);
    }
    if (status != MOE_OK)
        return status;
    int64_t n_tensors = part_int(file->metas, file->n_metas, "split.tensors.count");
    if (n_tensors > 0 && (uint64_t)n_tensors != file->n_tensors)
        return moe_fail(err, MOE_ERR_FORMAT,
                        "the parts of \"%s\" hold %zu tensors in place of %lld", file->name,
                        file->n_tensors, (long long)n_tensors);
    return MOE_OK;
}

moe_status moe_gguf_open(moe_file *file, const char *path, moe_error *err)
{
    /* Pieces cut by bytes: "x.gguf-split-a", "x.gguf.part1of3". */
    const char *part = strstr(file->name, ".gguf.part");
    if (strstr(file->name, ".gguf-split-") != NULL ||
        (part != NULL && part[strlen(".gguf.part")] >= '0' && part[strlen(".gguf.part")] <= '9')) {
        moe_fail(err, MOE_ERR_UNSUPPORTED, "file \"%s\" is a piece of a file that was cut up",
                 file->name);
        return moe_hint(err, "Join the pieces in order (cat) and give the joined file.");
    }
    unsigned char *buf = malloc(READER_BYTES);
    if (buf == NULL)
        return moe_fail_memory(err, READER_BYTES);
    int count = 1;
    moe_status status = read_part(file, path, 0, &count, buf, err);
    if (status == MOE_OK && count > 1)
        status = read_other_parts(file, path, count, buf, err);
    free(buf);
    return status == MOE_OK ? moe_file_index(file, err) : status;
}
