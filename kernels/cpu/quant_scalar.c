/*
 * The quantised kernels that define the results.
 *
 * Activations are integers q with one scale d_a per block of 32 or 256 columns, of 8 bits or of 15
 * and 12 bits (kernels.h).  With codes c and the scales of quant.h, a block of 32 columns is one
 * exact integer, and its minima, if it has them, are another:
 *
 *     S = sum_k (c - bias) * q               |S| <= 128 * 16256 * 32 < 2^26
 *     acc = fma((float)S, d * d_a, acc)
 *     acc = fma((float)A, m * d_a, acc)      Q4_1, Q5_1; A = sum_k q
 *
 * So is a block of 256 columns, the scales of its sub-blocks j included:
 *
 *     S = sum_j sc[j] * sum_k (c - bias) * q |S| <= 128 * 32 * 2047 * 256 < 2^31
 *     M = sum_j mn[j] * sum_k q              |M| <= 63 * 2047 * 256
 *     t = (float)S * d
 *     t = fma(-(float)M, m, t)               Q4_K, Q5_K
 *     acc = fma(t, d_a, acc)
 *
 * Blocks follow each other in ascending order.  The other instruction sets compute the integers in
 * other ways and then take the same float steps, one output row per lane.
 */
#include <string.h>

#include "quant.h"

/* Codes less their bias times n activations. */
static int32_t dot(const uint8_t *c, int bias, const int8_t *hi, const int8_t *lo, int n)
{
    int32_t sum = 0;

    for (int i = 0; i < n; i++)
        sum += (c[i] - bias) * (lo ? 128 * hi[i] + lo[i] : hi[i]);
    return sum;
}

/* acc plus the product of one opened block with the block b of activation row `row`. */
static float add_block(float acc, moe_type type, const moe_quant_block *block,
                       const moe_activations *x, int64_t row, int64_t b)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const moe_act_planes *planes = moe_quant_planes(form, x);
    const int64_t first = row * x->n_cols + b * form.columns;
    const int8_t *hi = planes->hi + first, *lo = planes->lo ? planes->lo + first : NULL;
    const float d = moe_f16_to_f32(block->d), m = form.has_min ? moe_f16_to_f32(block->m) : 0.0f;
    const float d_a = planes->d[first / form.columns];
    const int sub = type == MOE_TYPE_Q6_K ? 16 : 32;
    const int32_t *sums = planes->sums + first / 16;
    int32_t value = 0, min = 0;
    float total;

    if (form.columns == 32) {
        acc = __builtin_fmaf((float)dot(block->q, form.bias, hi, lo, 32), d * d_a, acc);
        return form.has_min ? __builtin_fmaf((float)planes->sums[first / 32], m * d_a, acc) : acc;
    }
    for (int k = 0; k < MOE_QUANT_SUPER; k += sub)
        value += block->sc[k / sub] * dot(block->q + k, form.bias, hi + k, lo ? lo + k : NULL, sub);
    total = (float)value * d;
    if (form.has_min) {
        for (int j = 0; j < 8; j++)
            min += block->mn[j] * (sums[2 * j] + sums[2 * j + 1]);
        total = __builtin_fmaf(-(float)min, m, total);
    }
    return __builtin_fmaf(total, d_a, acc);
}

void moe_matmul_quant_scalar(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                             const moe_activations *x, const int32_t *rows, int64_t n_tokens,
                             float *y, int64_t ldy)
{
    size_t group_bytes = moe_packed_group_bytes(w->type, w->n_cols);
    int64_t n_blocks = w->n_cols / moe_quant_form_of(w->type).columns;
    int64_t end = group_end * MOE_GROUP_ROWS < w->n_rows ? group_end * MOE_GROUP_ROWS : w->n_rows;
    moe_quant_block block;

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

/* Finds d = amax / top of a block and gives top / amax; 0 if the block becomes zeros.
 *
 * amax is found among the bit patterns, which order finite magnitudes as integers and put
 * infinities and NaNs above them.  A block that has one of those becomes d = NaN, q = 0, so that
 * it makes every product with it a NaN.  Below 2^-113 a block counts as zeros: 16256 / amax
 * overflows a little below 2^-114. */
static float scale_of(const float *x, int n, float top, float *d)
{
    uint32_t max_bits = 0, bits;
    float amax;

    for (int i = 0; i < n; i++) {
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffff;
        max_bits = bits > max_bits ? bits : max_bits;
    }
    memcpy(&amax, &max_bits, sizeof amax);
    *d = max_bits >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
    if (max_bits >= 0x7f800000 || amax < 0x1p-113f)
        return 0.0f;
    *d = amax / top;
    return top / amax;
}

/* x * inverse to the nearest integer, ties to even. */
static int round_to_int(float x, float inverse)
{
    float rounded;

    if (inverse == 0.0f) /* x may be infinite */
        return 0;
    rounded = x * inverse + 0x1.8p23f; /* adding and subtracting 1.5 * 2^23 rounds */
    return (int)(rounded - 0x1.8p23f);
}

/* One block of activations, n = 32 or 256 columns; sums over `span` columns each. */
static void quantize(const float *x, int n, int span, int8_t *hi, int8_t *lo, float *d,
                     int32_t *sums)
{
    float inverse = scale_of(x, n, moe_quant_top(n, lo == NULL), d);

    memset(sums, 0, (size_t)(n / span) * sizeof *sums);
    for (int i = 0; i < n; i++) {
        int q = round_to_int(x[i], inverse);

        hi[i] = (int8_t)(lo ? (q + 64) >> 7 : q);
        if (lo)
            lo[i] = (int8_t)(q - 128 * hi[i]);
        sums[i / span] += q;
    }
}

void moe_quantize_32_scalar(const float *x, int64_t n_cols, int8_t *hi, int8_t *lo, float *d,
                            int32_t *sums)
{
    for (int64_t b = 0; b < n_cols / 32; b++)
        quantize(x + 32 * b, 32, 32, hi + 32 * b, lo ? lo + 32 * b : NULL, d + b, sums + b);
}

void moe_quantize_256_scalar(const float *x, int64_t n_cols, int8_t *hi, int8_t *lo, float *d,
                             int32_t *sums)
{
    for (int64_t b = 0; b < n_cols / 256; b++)
        quantize(x + 256 * b, 256, 16, hi + 256 * b, lo ? lo + 256 * b : NULL, d + b,
                 sums + 16 * b);
}
