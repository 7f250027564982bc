/*
 * Reading tensors and packing them into the block.
 *
 * Temporary memory is one chunk of about a megabyte (at least 16 rows) per slot; only transposed
 * pieces are held as a whole, and those are one attention head's.  Cancelling is looked at once per
 * chunk.
 */
#include "weights.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK_BYTES = 1 << 20 };

typedef struct loader {
    const moe_file *file;
    const moe_cancel *cancel;
    moe_error *err;
} loader;

static moe_status read_chunk(const loader *ld, const moe_tensor *tensor, uint64_t offset,
                             size_t len, void *dst)
{
    if (moe_cancelled(ld->cancel))
        return moe_fail(ld->err, MOE_ERR_CANCELLED, "loading the model was cancelled");
    return moe_file_read(ld->file, tensor, offset, len, dst, ld->err);
}

static moe_status load_vector(const loader *ld, const moe_slot *slot, float *dst)
{
    const size_t padded = (((size_t)slot->n_cols + 15) & ~(size_t)15) - (size_t)slot->n_cols;

    for (int i = 0; i < slot->n_pieces; i++) {
        const moe_piece *piece = &slot->pieces[i];
        const moe_type_info *info = moe_type_info_of(piece->tensor->type);
        const size_t width = (size_t)info->block_bytes, len = (size_t)piece->n_rows * width;
        char *raw = malloc(len);
        moe_status status;

        if (raw == NULL)
            return moe_fail_memory(ld->err, len);
        status = read_chunk(ld, piece->tensor, (uint64_t)piece->row * width, len, raw);
        if (status == MOE_OK)
            moe_dequantize((moe_type)piece->tensor->type, raw, piece->n_rows, dst);
        free(raw);
        if (status != MOE_OK)
            return status;
        dst += piece->n_rows;
    }
    memset(dst, 0, padded * sizeof *dst);
    return MOE_OK;
}

/* Packs rows that lie one after the other. */
static void pack_rows(const moe_slot *slot, const char *rows, size_t row_bytes, int64_t n_rows,
                      char *dst)
{
    const size_t group_bytes = moe_packed_group_bytes(slot->type, slot->n_cols);

    for (int64_t r = 0; r < n_rows; r += MOE_GROUP_ROWS, dst += group_bytes) {
        const void *group[MOE_GROUP_ROWS];
        int n = n_rows - r < MOE_GROUP_ROWS ? (int)(n_rows - r) : MOE_GROUP_ROWS;

        for (int i = 0; i < n; i++)
            group[i] = rows + (size_t)(r + i) * row_bytes;
        moe_pack_group(slot->type, group, n, slot->n_cols, dst);
    }
}

/* Where the next row of a slot comes from. */
typedef struct cursor {
    int piece;
    int64_t row; /* within the piece */
} cursor;

/* Reads the next n_rows rows of the slot, across pieces. */
static moe_status read_rows(const loader *ld, const moe_slot *slot, cursor *at, int64_t n_rows,
                            size_t row_bytes, char *dst)
{
    while (n_rows > 0) {
        const moe_piece *piece = &slot->pieces[at->piece];
        int64_t n = piece->n_rows - at->row;
        moe_status status;

        n = n < n_rows ? n : n_rows;
        status = read_chunk(ld, piece->tensor, (uint64_t)(piece->row + at->row) * row_bytes,
                            (size_t)n * row_bytes, dst);
        if (status != MOE_OK)
            return status;
        dst += (size_t)n * row_bytes;
        n_rows -= n;
        at->row += n;
        if (at->row == piece->n_rows) {
            at->piece++;
            at->row = 0;
        }
    }
    return MOE_OK;
}

static moe_status load_matrices(const loader *ld, const moe_slot *slot, char *dst)
{
    const size_t row_bytes = moe_type_row_bytes(moe_type_info_of(slot->type), slot->n_cols);
    const size_t group_bytes = moe_packed_group_bytes(slot->type, slot->n_cols);
    int64_t chunk = (int64_t)(CHUNK_BYTES / row_bytes) / MOE_GROUP_ROWS * MOE_GROUP_ROWS;
    moe_status status = MOE_OK;
    cursor at = {0, 0};
    char *rows;

    if (chunk < MOE_GROUP_ROWS)
        chunk = MOE_GROUP_ROWS;
    if (chunk > slot->n_rows)
        chunk = slot->n_rows;
    rows = malloc((size_t)chunk * row_bytes);
    if (rows == NULL)
        return moe_fail_memory(ld->err, (size_t)chunk * row_bytes);
    for (int64_t m = 0; m < slot->n_mats && status == MOE_OK; m++) {
        for (int64_t r = 0; r < slot->n_rows && status == MOE_OK; r += chunk) {
            int64_t n = slot->n_rows - r < chunk ? slot->n_rows - r : chunk;

            status = read_rows(ld, slot, &at, n, row_bytes, rows);
            if (status == MOE_OK)
                pack_rows(slot, rows, row_bytes, n,
                          dst + (size_t)m * slot->mat_stride +
                              (size_t)(r / MOE_GROUP_ROWS) * group_bytes);
        }
    }
    free(rows);
    return status;
}

/* Transposes (n_rows, n_cols) elements of `width` bytes. */
static void transpose(const char *src, int64_t n_rows, int64_t n_cols, size_t width, char *dst)
{
    for (int64_t c = 0; c < n_cols; c++)
        for (int64_t r = 0; r < n_rows; r++, dst += width)
            memcpy(dst, src + (size_t)(r * n_cols + c) * width, width);
}

/* Turns n_rows stored rows into F16 elements. */
static moe_status widen_to_f16(const loader *ld, moe_type type, const char *src, int64_t n_rows,
                               int64_t n_cols, uint16_t *dst)
{
    const size_t row_bytes = moe_type_row_bytes(moe_type_info_of(type), n_cols);
    float *row = malloc((size_t)n_cols * sizeof *row);

    if (row == NULL)
        return moe_fail_memory(ld->err, (size_t)n_cols * sizeof *row);
    for (int64_t r = 0; r < n_rows; r++) {
        moe_dequantize(type, src + (size_t)r * row_bytes, n_cols, row);
        for (int64_t c = 0; c < n_cols; c++)
            *dst++ = moe_f32_to_f16(row[c]);
    }
    free(row);
    return MOE_OK;
}

/* One piece that becomes one matrix, (piece rows, n) turned into (n, piece rows). */
static moe_status load_transposed(const loader *ld, const moe_slot *slot, const moe_piece *piece,
                                  char *dst)
{
    const moe_type stored = (moe_type)piece->tensor->type;
    const int64_t n_cols = piece->tensor->dims[0];
    const size_t width = (size_t)moe_type_info_of(slot->type)->block_bytes;
    const size_t row_bytes = moe_type_row_bytes(moe_type_info_of(stored), n_cols);
    size_t raw_bytes, elements, bytes;
    char *raw = NULL, *wide = NULL, *turned = NULL;
    moe_status status;

    if (!moe_mul((size_t)piece->n_rows, row_bytes, &raw_bytes) ||
        !moe_mul((size_t)piece->n_rows, (size_t)n_cols, &elements) ||
        !moe_mul(elements, width, &bytes))
        return moe_fail(ld->err, MOE_ERR_FORMAT, "tensor \"%s\" is too large", piece->tensor->name);
    raw = malloc(raw_bytes);
    turned = malloc(bytes);
    if (stored != slot->type)
        wide = malloc(bytes);
    if (raw == NULL || turned == NULL || (stored != slot->type && wide == NULL)) {
        status = moe_fail_memory(ld->err, bytes);
    } else {
        status = read_chunk(ld, piece->tensor, (uint64_t)piece->row * row_bytes, raw_bytes, raw);
        if (status == MOE_OK && wide != NULL)
            status = widen_to_f16(ld, stored, raw, piece->n_rows, n_cols, (uint16_t *)(void *)wide);
    }
    if (status == MOE_OK) {
        transpose(wide != NULL ? wide : raw, piece->n_rows, n_cols, width, turned);
        pack_rows(slot, turned, (size_t)piece->n_rows * width, n_cols, dst);
    }
    free(raw);
    free(wide);
    free(turned);
    return status;
}

static moe_status load_slot(const loader *ld, const moe_slot *slot, char *block)
{
    char *dst = block + slot->offset;

    if (!slot->present)
        return MOE_OK;
    if (slot->is_vector)
        return load_vector(ld, slot, (float *)(void *)dst);
    if (!slot->pieces[0].transposed)
        return load_matrices(ld, slot, dst);
    for (int i = 0; i < slot->n_pieces; i++) {
        moe_status status =
            load_transposed(ld, slot, &slot->pieces[i], dst + (size_t)i * slot->mat_stride);

        if (status != MOE_OK)
            return status;
    }
    return MOE_OK;
}

moe_status moe_weights_load(moe_weights *w, const moe_file *file, void *block,
                            const moe_cancel *cancel, moe_error *err)
{
    const loader ld = {file, cancel, err};
    moe_status status;

    for (int s = 0; s < MOE_N_GLOBAL_SLOTS; s++) {
        status = load_slot(&ld, &w->global[s], block);
        if (status != MOE_OK)
            return status;
    }
    for (int l = 0; l < w->n_layers; l++) {
        for (int s = 0; s < MOE_N_LAYER_SLOTS; s++) {
            status = load_slot(&ld, &w->layers[l][s], block);
            if (status != MOE_OK)
                return status;
        }
    }
    w->block = block;
    return MOE_OK;
}
