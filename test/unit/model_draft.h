/*
 * What the tests of model descriptions and weights share: opening a model all
 * the way to its packed weights, comparing those with the file, and small
 * models written by the test itself.
 *
 * A draft is a list of keys and tensors that a test changes before it becomes a
 * GGUF file or a folder.  Header-only, so that every test program stays one
 * file.
 */
#ifndef MOE_TEST_MODEL_DRAFT_H
#define MOE_TEST_MODEL_DRAFT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../src/engine/model/weights.h"

/* --- opened models
 * ---------------------------------------------------------------------------
 */

typedef struct opened {
    moe_file *file;
    moe_model_spec spec;
    moe_weights weights;
    void *block;
    moe_error err;
} opened;

static inline void model_close(opened *m)
{
    moe_weights_free(&m->weights);
    moe_model_spec_free(&m->spec);
    moe_file_close(m->file);
    free(m->block);
    free(m);
}

/* Loads all units, one behind the other, with the best kernels and on that many threads. */
static inline moe_status load_on_threads(moe_weights *w, const moe_file *file, void *block,
                                         int n_threads, const moe_cancel *cancel, moe_error *err)
{
    int32_t *units = malloc((size_t)w->n_units * sizeof *units);
    char *at = block;
    moe_pool *pool;
    moe_loader *loader;
    moe_status status;

    assert_non_null(units);
    for (int32_t u = 0; u < w->n_units; u++) {
        units[u] = u;
        w->at[u] = at;
        at += w->units[u].bytes;
    }
    assert_int_equal(at - (char *)block, w->size);
    assert_int_equal(moe_pool_create(n_threads, &pool, err), MOE_OK);
    assert_int_equal(
        moe_loader_create(w, file, moe_cpu_kernels(MOE_ISA_AUTO), pool, &loader, err), MOE_OK);
    status = moe_loader_run(loader, units, w->n_units, cancel, err);
    moe_loader_free(loader);
    moe_pool_free(pool);
    free(units);
    return status;
}

/* Opens, describes, binds, lays out and loads (on one thread if it may be
 * cancelled); *status tells how far it came. */
static inline opened *model_try(const char *path, const moe_cancel *cancel, moe_status *status)
{
    opened *m = calloc(1, sizeof *m);
    const moe_family *family;

    assert_non_null(m);
    *status = moe_file_open(path, &m->file, &m->err);
    if (*status == MOE_OK)
        *status = moe_family_find(m->file, &family, &m->err);
    if (*status == MOE_OK)
        *status = family->read_spec(m->file, &m->spec, &m->err);
    if (*status == MOE_OK)
        *status = moe_weights_init(&m->weights, m->spec.n_layers, &m->err);
    if (*status == MOE_OK)
        *status = family->bind(m->file, &m->spec, &m->weights, &m->err);
    if (*status == MOE_OK)
        *status = moe_weights_layout(&m->weights, &m->spec, &m->err);
    if (*status == MOE_OK) {
        m->block = aligned_alloc(64, m->weights.size);
        assert_non_null(m->block);
        memset(m->block, 0xa5, m->weights.size);
        *status = load_on_threads(&m->weights, m->file, m->block, cancel != NULL ? 1 : 3, cancel,
                                  &m->err);
    }
    return m;
}

static inline opened *model_open(const char *path)
{
    moe_status status;
    opened *m = model_try(path, NULL, &status);

    if (status != MOE_OK)
        fail_msg("%s: %s (%s %s)", path, m->err.message, m->err.detail, m->err.hint);
    return m;
}

static inline void expect_error(const char *path, moe_status wanted, const char *text)
{
    moe_status status;
    opened *m = model_try(path, NULL, &status);

    if (status != wanted || strstr(m->err.message, text) == NULL)
        fail_msg("status %d \"%s\", expected %d with \"%s\"", status,
                 status == MOE_OK ? "" : m->err.message, wanted, text);
    model_close(m);
}

/* --- checks of loaded weights
 * ---------------------------------------------------------------- */

/* Row `row` of a tensor, dequantised. */
static inline void file_row(const opened *m, const moe_tensor *tensor, int64_t row, float *dst)
{
    const moe_type_info *info = moe_type_info_of(tensor->type);
    const size_t n = moe_type_row_bytes(info, tensor->dims[0]);
    char *raw = malloc(n);

    assert_non_null(raw);
    assert_int_equal(moe_file_read(m->file, tensor, (uint64_t)row * n, n, raw, NULL), MOE_OK);
    moe_dequantize((moe_type)tensor->type, raw, tensor->dims[0], dst);
    free(raw);
}

static inline float *packed_row(const opened *m, const moe_slot *slot, int64_t mat, int64_t row)
{
    const moe_matrix w = moe_slot_matrix(&m->weights, slot, mat);
    float *values = malloc((size_t)slot->n_cols * sizeof *values);

    assert_non_null(values);
    assert_true((const char *)w.packed >= (const char *)m->block);
    assert_true((const char *)w.packed + moe_packed_bytes(w.type, w.n_rows, w.n_cols) <=
                (const char *)m->block + m->weights.size);
    assert_int_equal((uintptr_t)w.packed % 64, 0);
    moe_unpack_row(&w, row, values);
    return values;
}

/* What is left of a row when it is quantised, by the rule of the GGUF type. */
static inline void through_q8_0(float *row, int64_t n)
{
    for (; n > 0; n -= 32, row += 32) {
        float amax = 0.0f, d, inverse;

        for (int i = 0; i < 32; i++)
            amax = fmaxf(amax, fabsf(row[i]));
        d = amax / 127.0f;
        inverse = d != 0.0f ? 1.0f / d : 0.0f;
        for (int i = 0; i < 32; i++)
            row[i] = roundf(row[i] * inverse) * moe_f16_to_f32(moe_f32_to_f16(d));
    }
}

/* What is left of a row when it is packed as the slot's type. */
static inline void requantise(const moe_slot *slot, float *row)
{
    if (slot->type == MOE_TYPE_Q8_0)
        through_q8_0(row, slot->n_cols);
    for (int64_t i = 0; slot->type == MOE_TYPE_BF16_PAIRS && i < slot->n_cols; i++) {
        const uint16_t half = moe_f32_to_bf16(row[i]);

        moe_dequantize(MOE_TYPE_BF16, &half, 1, &row[i]);
    }
}

/* The slot holds fewer bits than the file. */
static inline bool is_requantised(const moe_slot *slot)
{
    const moe_type stored = (moe_type)slot->pieces[0].tensor->type;

    return (slot->type == MOE_TYPE_Q8_0 || slot->type == MOE_TYPE_BF16_PAIRS) &&
           moe_type_info_of(stored)->block_columns == 1;
}

/* Rows of plain pieces, in order, are the rows of the matrices. */
static inline void check_matrices(const opened *m, const moe_slot *slot)
{
    int64_t k = 0;

    for (int p = 0; p < slot->n_pieces; p++) {
        const moe_piece *piece = &slot->pieces[p];
        float *want = malloc((size_t)slot->n_cols * sizeof *want);

        assert_non_null(want);
        for (int64_t r = 0; r < piece->n_rows; r++, k++) {
            float *got = packed_row(m, slot, k / slot->n_rows, k % slot->n_rows);

            file_row(m, piece->tensor, piece->row + r, want);
            if (is_requantised(slot)) {
                requantise(slot, want);
                for (int64_t c = 0; c < slot->n_cols; c++)
                    assert_true(got[c] == want[c]);
            } else {
                assert_memory_equal(got, want, (size_t)slot->n_cols * sizeof *want);
            }
            free(got);
        }
        free(want);
    }
    assert_int_equal(k, slot->n_mats * slot->n_rows);
}

static inline void check_transposed(const opened *m, const moe_slot *slot)
{
    for (int p = 0; p < slot->n_pieces; p++) {
        const moe_piece *piece = &slot->pieces[p];
        const bool narrow =
            moe_type_info_of(piece->tensor->type)->block_columns > 1 || slot->type == MOE_TYPE_F16;
        float *stored = malloc((size_t)(slot->n_rows * slot->n_cols) * sizeof *stored);
        float *want = malloc((size_t)slot->n_cols * sizeof *want);

        assert_non_null(stored);
        assert_non_null(want);
        for (int64_t c = 0; c < slot->n_cols; c++)
            file_row(m, piece->tensor, piece->row + c, stored + c * slot->n_rows);
        for (int64_t r = 0; r < slot->n_rows; r++) {
            float *got = packed_row(m, slot, p, r);

            for (int64_t c = 0; c < slot->n_cols; c++) {
                want[c] = stored[c * slot->n_rows + r];
                if (narrow)
                    want[c] = moe_f16_to_f32(moe_f32_to_f16(want[c]));
            }
            requantise(slot, want);
            for (int64_t c = 0; c < slot->n_cols; c++)
                assert_true(got[c] == want[c]);
            free(got);
        }
        free(stored);
        free(want);
    }
}

static inline void check_vector(const opened *m, const moe_slot *slot)
{
    const float *got = moe_slot_vector(&m->weights, slot);

    for (int p = 0; p < slot->n_pieces; p++) {
        const moe_piece *piece = &slot->pieces[p];
        float *want = malloc((size_t)piece->tensor->dims[0] * sizeof *want);

        assert_non_null(want);
        file_row(m, piece->tensor, 0, want);
        assert_memory_equal(got, want + piece->row, (size_t)piece->n_rows * sizeof *want);
        got += piece->n_rows;
        free(want);
    }
}

static inline void check_slot(const opened *m, const moe_slot *slot)
{
    if (!slot->present)
        assert_null(moe_slot_vector(&m->weights, slot));
    else if (slot->is_vector)
        check_vector(m, slot);
    else if (slot->pieces[0].transposed)
        check_transposed(m, slot);
    else
        check_matrices(m, slot);
}

/* Each expert is a unit: gate, up and down without a gap. */
static inline void check_expert_units(const opened *m, int layer)
{
    const moe_slot *slots = m->weights.layers[layer];
    const moe_slot *gate = &slots[MOE_EXPERT_GATE], *up = &slots[MOE_EXPERT_UP],
                   *down = &slots[MOE_EXPERT_DOWN];
    size_t n_gate, n_up, n_down;

    if (!gate->present)
        return;
    n_gate = moe_packed_bytes(gate->type, gate->n_rows, gate->n_cols);
    n_up = moe_packed_bytes(up->type, up->n_rows, up->n_cols);
    n_down = moe_packed_bytes(down->type, down->n_rows, down->n_cols);
    assert_int_equal(gate->n_mats, m->spec.moe.n_experts);
    assert_int_equal(gate->offset, 0);
    assert_int_equal(up->offset, n_gate);
    assert_int_equal(down->offset, n_gate + n_up);
    for (int e = 0; e < m->spec.moe.n_experts; e++) {
        const moe_weight_unit *unit = &m->weights.units[gate->unit + e];

        assert_int_equal(unit->layer, layer);
        assert_int_equal(unit->expert, e);
        assert_int_equal(unit->bytes, n_gate + n_up + n_down);
    }
    assert_int_equal(up->unit, gate->unit);
    assert_int_equal(down->unit, gate->unit);
}

static inline void check_weights(const opened *m)
{
    for (int s = 0; s < MOE_N_GLOBAL_SLOTS; s++)
        check_slot(m, &m->weights.global[s]);
    for (int l = 0; l < m->weights.n_layers; l++) {
        for (int s = 0; s < MOE_N_LAYER_SLOTS; s++)
            check_slot(m, &m->weights.layers[l][s]);
        check_expert_units(m, l);
    }
}

/* Packs the weights of an opened model once more, quantised. */
static inline void quantise(opened *m, moe_type type)
{
    moe_weights_quantize(&m->weights, &m->spec, type);
    assert_int_equal(moe_weights_layout(&m->weights, &m->spec, &m->err), MOE_OK);
    free(m->block);
    m->block = aligned_alloc(64, m->weights.size);
    assert_non_null(m->block);
    memset(m->block, 0xa5, m->weights.size);
    assert_int_equal(load_on_threads(&m->weights, m->file, m->block, 3, NULL, &m->err), MOE_OK);
}

/* --- models written by the test
 * -------------------------------------------------------------- */

enum { KEY_INT = 4, KEY_FLOAT = 6, KEY_BOOL = 7, KEY_STRING = 8, KEY_ARRAY = 9 };

typedef struct key {
    char name[64];
    int kind;
    double number;
    char text[32];
    int list[8], n_list; /* KEY_ARRAY, of u32 */
} key;

typedef struct blob {
    char name[80];
    int type;
    int n_dims;
    int64_t dims[4];
} blob;

/* What becomes a file. */
typedef struct draft {
    char arch[24];
    key keys[64];
    int n_keys;
    char config[4096]; /* of a folder: the inside of config.json's braces */
    blob blobs[128];
    int n_blobs;
} draft;

static inline key *draft_key(draft *d, const char *name)
{
    char full[64];
    key *k;

    if (strchr(name, '!') != NULL) /* "!name": without the architecture */
        snprintf(full, sizeof full, "%s", name + 1);
    else
        snprintf(full, sizeof full, "%s.%s", d->arch, name);
    for (int i = 0; i < d->n_keys; i++)
        if (strcmp(d->keys[i].name, full) == 0)
            return &d->keys[i];
    assert_true(d->n_keys < 64);
    k = &d->keys[d->n_keys++];
    memset(k, 0, sizeof *k);
    snprintf(k->name, sizeof k->name, "%s", full);
    return k;
}

static inline void set_int(draft *d, const char *name, int value)
{
    key *k = draft_key(d, name);

    k->kind = KEY_INT;
    k->number = value;
}

static inline void set_float(draft *d, const char *name, double value)
{
    key *k = draft_key(d, name);

    k->kind = KEY_FLOAT;
    k->number = value;
}

static inline void set_string(draft *d, const char *name, const char *value)
{
    key *k = draft_key(d, name);

    k->kind = KEY_STRING;
    snprintf(k->text, sizeof k->text, "%s", value);
}

static inline void remove_key(draft *d, const char *name)
{
    key *k = draft_key(d, name);

    *k = d->keys[--d->n_keys];
}

static inline blob *find_blob(draft *d, const char *name)
{
    for (int i = 0; i < d->n_blobs; i++)
        if (strcmp(d->blobs[i].name, name) == 0)
            return &d->blobs[i];
    return NULL;
}

static inline void remove_blob(draft *d, const char *name)
{
    blob *b = find_blob(d, name);

    assert_non_null(b);
    *b = d->blobs[--d->n_blobs];
}

/* Dimensions in file order, rows' length first; zeros at the end are left out.
 */
static inline void add_blob(draft *d, int type, int64_t d0, int64_t d1, int64_t d2, const char *fmt,
                            ...) __attribute__((format(printf, 6, 7)));
static inline void add_blob(draft *d, int type, int64_t d0, int64_t d1, int64_t d2, const char *fmt,
                            ...)
{
    blob *b = &d->blobs[d->n_blobs++];
    va_list args;

    assert_true(d->n_blobs <= 128);
    memset(b, 0, sizeof *b);
    va_start(args, fmt);
    vsnprintf(b->name, sizeof b->name, fmt, args);
    va_end(args);
    b->type = type;
    b->dims[0] = d0;
    b->dims[1] = d1;
    b->dims[2] = d2;
    b->n_dims = d2 > 0 ? 3 : d1 > 0 ? 2 : 1;
}

static inline size_t blob_bytes(const blob *b)
{
    const moe_type_info *info = moe_type_info_of(b->type);
    size_t n = moe_type_row_bytes(info, b->dims[0]);

    for (int i = 1; i < b->n_dims; i++)
        n *= (size_t)b->dims[i];
    return n;
}

/* Small positive bytes: finite in every type, and different from tensor to
 * tensor. */
static inline void write_data(FILE *f, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1103515245u + 12345u;
        fputc((int)(seed >> 16) & 0x3f, f);
    }
}

static inline void put(FILE *f, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        fputc((int)(value >> (8 * i)) & 0xff, f);
}

static inline void put_string(FILE *f, const char *s)
{
    put(f, strlen(s), 8);
    fputs(s, f);
}

static inline void put_key(FILE *f, const key *k)
{
    float number = (float)k->number;
    uint32_t bits;

    put_string(f, k->name);
    put(f, (uint64_t)k->kind, 4);
    memcpy(&bits, &number, 4);
    switch (k->kind) {
    case KEY_INT:
        put(f, (uint64_t)(int64_t)k->number, 4);
        break;
    case KEY_FLOAT:
        put(f, bits, 4);
        break;
    case KEY_BOOL:
        put(f, k->number != 0, 1);
        break;
    case KEY_STRING:
        put_string(f, k->text);
        break;
    default:
        put(f, KEY_INT, 4);
        put(f, (uint64_t)k->n_list, 8);
        for (int i = 0; i < k->n_list; i++)
            put(f, (uint64_t)k->list[i], 4);
    }
}

static char work_dir[64];

static inline const char *write_gguf(const draft *d)
{
    static char path[96];
    uint64_t offset = 0;
    FILE *f;

    snprintf(path, sizeof path, "%s/model.gguf", work_dir);
    f = fopen(path, "wb");
    assert_non_null(f);
    fputs("GGUF", f);
    put(f, 3, 4);
    put(f, (uint64_t)d->n_blobs, 8);
    put(f, (uint64_t)d->n_keys, 8);
    for (int i = 0; i < d->n_keys; i++)
        put_key(f, &d->keys[i]);
    for (int i = 0; i < d->n_blobs; i++) {
        const blob *b = &d->blobs[i];

        put_string(f, b->name);
        put(f, (uint64_t)b->n_dims, 4);
        for (int k = 0; k < b->n_dims; k++)
            put(f, (uint64_t)b->dims[k], 8);
        put(f, (uint64_t)b->type, 4);
        put(f, offset, 8);
        offset += (blob_bytes(b) + 31) / 32 * 32;
    }
    while (ftell(f) % 32 != 0)
        fputc(0, f);
    for (int i = 0; i < d->n_blobs; i++) {
        write_data(f, blob_bytes(&d->blobs[i]), (unsigned)i + 1);
        while (ftell(f) % 32 != 0)
            fputc(0, f);
    }
    assert_int_equal(fclose(f), 0);
    return path;
}

static inline void write_text(const char *name, const char *text)
{
    char path[128];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", work_dir, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static inline void remove_text(const char *name)
{
    char path[128];

    snprintf(path, sizeof path, "%s/%s", work_dir, name);
    unlink(path);
}

static inline const char *write_folder(const draft *d)
{
    char *header = calloc(1, 1 << 16), path[128];
    size_t len = 0, offset = 0;
    FILE *f;

    assert_non_null(header);
    snprintf(header, 1 << 16, "{%s}", d->config);
    write_text("config.json", header);
    for (int i = 0; i < d->n_blobs; i++) {
        const blob *b = &d->blobs[i];
        char shape[96] = "";

        for (int k = b->n_dims - 1; k >= 0; k--)
            snprintf(shape + strlen(shape), sizeof shape - strlen(shape), "%lld%s",
                     (long long)b->dims[k], k > 0 ? ", " : "");
        len += (size_t)snprintf(header + len, (1 << 16) - len,
                                "%s\"%s\": {\"dtype\": \"%s\", \"shape\": [%s], "
                                "\"data_offsets\": [%zu, %zu]}",
                                i == 0 ? "{" : ", ", b->name, moe_type_info_of(b->type)->name,
                                shape, offset, offset + blob_bytes(b));
        offset += blob_bytes(b);
    }
    len += (size_t)snprintf(header + len, (1 << 16) - len, "}");
    snprintf(path, sizeof path, "%s/model.safetensors", work_dir);
    f = fopen(path, "wb");
    assert_non_null(f);
    put(f, len, 8);
    fputs(header, f);
    for (int i = 0; i < d->n_blobs; i++)
        write_data(f, blob_bytes(&d->blobs[i]), (unsigned)i + 1);
    assert_int_equal(fclose(f), 0);
    free(header);
    return work_dir;
}

static inline int make_work_dir(void **state)
{
    (void)state;
    snprintf(work_dir, sizeof work_dir, "/tmp/moe_test_model_XXXXXX");
    if (mkdtemp(work_dir) == NULL)
        return -1;
    write_text("tokenizer.json", "{}");
    return 0;
}

static inline int remove_work_dir(void **state)
{
    static const char *const names[] = {"tokenizer.json", "config.json", "model.safetensors",
                                        "model.gguf"};
    char path[96];

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        remove_text(names[i]);
    snprintf(path, sizeof path, "%s/1_Pooling", work_dir);
    rmdir(path);
    return rmdir(work_dir);
}

#endif
