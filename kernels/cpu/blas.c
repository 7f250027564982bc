/*
 * Products with unquantised weights through OpenBLAS.
 *
 * A tile of BLAS_GROUPS packed groups is unpacked to float32 in the caller's scratch as (n_cols,
 * rows of the tile) and multiplied with all tokens at once.  Scattered rows of activations are
 * gathered behind it first.
 */
#include "blas.h"

#include <cblas.h>
#include <string.h>

#include "half.h"

#define BLAS_GROUPS 16
#define BLAS_ROWS (BLAS_GROUPS * MOE_GROUP_ROWS)

size_t moe_blas_scratch_bytes(int64_t n_cols, int64_t n_tokens)
{
    return (size_t)n_cols * (size_t)(BLAS_ROWS + n_tokens) * sizeof(float);
}

/* One packed group (n_cols, 16) into 16 columns of the tile (n_cols, BLAS_ROWS). */
static void unpack_group(const moe_matrix *w, int64_t group, float *tile)
{
    const char *packed =
        (const char *)w->packed + (size_t)group * moe_packed_group_bytes(w->type, w->n_cols);

    for (int64_t k = 0; k < w->n_cols; k++, tile += BLAS_ROWS) {
        const uint16_t *half = (const uint16_t *)packed + k * MOE_GROUP_ROWS;
        if (w->type == MOE_TYPE_F32)
            memcpy(tile, (const float *)packed + k * MOE_GROUP_ROWS,
                   MOE_GROUP_ROWS * sizeof(float));
        else if (w->type == MOE_TYPE_F16)
            for (int i = 0; i < MOE_GROUP_ROWS; i++)
                tile[i] = moe_widen_f16(half[i]);
        else
            for (int i = 0; i < MOE_GROUP_ROWS; i++)
                tile[i] = moe_widen_bf16(half[i]);
    }
}

void moe_matmul_blas(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                     const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                     int64_t ldy, void *scratch)
{
    float *tile = scratch;
    float *gathered = tile + w->n_cols * BLAS_ROWS;
    const float *a = x->f32;
    int64_t lda = x->ld;

    if (rows != NULL) {
        for (int64_t t = 0; t < n_tokens; t++)
            memcpy(gathered + t * w->n_cols, x->f32 + rows[t] * x->ld,
                   (size_t)w->n_cols * sizeof(float));
        a = gathered;
        lda = w->n_cols;
    }
    for (int64_t group = group_begin; group < group_end; group += BLAS_GROUPS) {
        int64_t end = group_end - group < BLAS_GROUPS ? group_end : group + BLAS_GROUPS;
        int64_t row = group * MOE_GROUP_ROWS;
        int64_t end_row = end * MOE_GROUP_ROWS < w->n_rows ? end * MOE_GROUP_ROWS : w->n_rows;

        for (int64_t g = group; g < end; g++)
            unpack_group(w, g, tile + (g - group) * MOE_GROUP_ROWS);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)n_tokens,
                    (blasint)(end_row - row), (blasint)w->n_cols, 1.0f, a, (blasint)lda, tile,
                    BLAS_ROWS, 0.0f, y + row, (blasint)ldy);
    }
}
