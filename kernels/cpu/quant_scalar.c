/*
 * The quantised kernels that define the results.
 *
 * Activations are int8 with one scale d_a per 32 or 256 columns.  Within a block everything is an
 * exact integer; with codes q, activations a and the scales of quant.h,
 *
 *     S = sum_k (q - bias) * a               32 columns, A = sum_k a where there is an m
 *     S = sum_j sc[j] * sum_k (q - bias) * a    256 columns, M = sum_j mn[j] * sum_k a
 *
 * (sums over k run over the block or over sub-block j).  Blocks are added in ascending order:
 *
 *     acc = fma((float)S, d * d_a, acc)
 *     acc = fma((float)A, m * d_a, acc)      Q4_1, Q5_1
 *     acc = fma(-(float)M, m * d_a, acc)     Q4_K, Q5_K
 *
 * Every |S|, |A| and |M| is below 2^28.  The other instruction sets compute these integers in other
 * ways and then take the same float steps, one output row per lane.
 */
#include <string.h>

#include "quant.h"

static int32_t dot(const uint8_t *q, int bias, const int8_t *a, int n)
{
    int32_t sum = 0;

    for (int i = 0; i < n; i++)
        sum += (q[i] - bias) * a[i];
    return sum;
}

/* acc plus the product of one opened block with the block b of activation row `row`. */
static float add_block(float acc, moe_type type, const moe_quant_block *block,
                       const moe_activations *x, int64_t row, int64_t b)
{
    moe_quant_form form = moe_quant_form_of(type);
    int64_t first = row * x->n_cols + b * form.columns;
    int64_t scale = first / form.columns;
    int32_t s = 0, min = 0;
    float d_a;

    if (form.columns == 32) {
        d_a = x->d32[scale];
        s = dot(block->q, form.bias, x->q32 + first, 32);
        min = x->s32[scale];
    } else {
        const int16_t *sums = x->s256 + first / 16;
        int sub = type == MOE_TYPE_Q6_K ? 16 : 32;

        d_a = x->d256[scale];
        for (int j = 0; j < MOE_QUANT_SUPER / sub; j++)
            s += block->sc[j] * dot(block->q + sub * j, form.bias, x->q256 + first + sub * j, sub);
        if (form.has_min)
            for (int j = 0; j < 8; j++)
                min += block->mn[j] * (sums[2 * j] + sums[2 * j + 1]);
    }
    acc = __builtin_fmaf((float)s, moe_f16_to_f32(block->d) * d_a, acc);
    if (!form.has_min)
        return acc;
    return __builtin_fmaf(form.columns == 32 ? (float)min : -(float)min,
                          moe_f16_to_f32(block->m) * d_a, acc);
}

void moe_matmul_quant_scalar(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                             const moe_activations *x, const int32_t *rows, int64_t n_tokens,
                             moe_role role, float *y, int64_t ldy)
{
    size_t group_bytes = moe_packed_group_bytes(w->type, w->n_cols);
    int64_t n_blocks = w->n_cols / moe_quant_form_of(w->type).columns;
    int64_t end = group_end * MOE_GROUP_ROWS < w->n_rows ? group_end * MOE_GROUP_ROWS : w->n_rows;
    moe_quant_block block;

    (void)role; /* both roles have the same arithmetic */
    for (int64_t r = group_begin * MOE_GROUP_ROWS; r < end; r++) {
        const uint8_t *group =
            (const uint8_t *)w->packed + (size_t)(r / MOE_GROUP_ROWS) * group_bytes;

        for (int64_t t = 0; t < n_tokens; t++)
            y[t * ldy + r] = 0.0f;
        for (int64_t b = 0; b < n_blocks; b++) {
            moe_quant_read_packed(w->type, group, (int)(r % MOE_GROUP_ROWS), b, &block);
            for (int64_t t = 0; t < n_tokens; t++)
                y[t * ldy + r] =
                    add_block(y[t * ldy + r], w->type, &block, x, rows ? rows[t] : t, b);
        }
    }
}

/* One block of activations to int8, n = 32 or 256 columns; sums over `span` columns each.
 *
 * amax is found among the bit patterns, which order finite magnitudes as integers and put
 * infinities and NaNs above them.  A block that has one of those becomes d = NaN, q = 0, so that
 * it makes every product with it a NaN.  Below 2^-120, where 127 / amax could overflow, a block
 * counts as zeros. */
static void quantize(const float *x, int n, int span, int8_t *q, float *d, int16_t *sums)
{
    uint32_t max_bits = 0, bits;
    float amax, inverse;

    for (int i = 0; i < n; i++) {
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffff;
        max_bits = bits > max_bits ? bits : max_bits;
    }
    memcpy(&amax, &max_bits, sizeof amax);
    if (max_bits >= 0x7f800000 || amax < 0x1p-120f) {
        *d = max_bits >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
        memset(q, 0, (size_t)n);
        memset(sums, 0, (size_t)(n / span) * sizeof *sums);
        return;
    }
    *d = amax / 127.0f;
    inverse = 127.0f / amax;
    for (int i = 0; i < n; i++) {
        /* Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even. */
        float rounded = x[i] * inverse + 0x1.8p23f;

        q[i] = (int8_t)(rounded - 0x1.8p23f);
    }
    for (int j = 0; j < n / span; j++) {
        int sum = 0;

        for (int i = 0; i < span; i++)
            sum += q[j * span + i];
        sums[j] = (int16_t)sum;
    }
}

void moe_quantize_32_scalar(const float *x, int64_t n_cols, int8_t *q, float *d, int16_t *sums)
{
    for (int64_t b = 0; b < n_cols / 32; b++)
        quantize(x + 32 * b, 32, 32, q + 32 * b, d + b, sums + b);
}

void moe_quantize_256_scalar(const float *x, int64_t n_cols, int8_t *q, float *d, int16_t *sums)
{
    for (int64_t b = 0; b < n_cols / 256; b++)
        quantize(x + 256 * b, 256, 16, q + 256 * b, d + b, sums + 16 * b);
}
