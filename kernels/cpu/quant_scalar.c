/*
 * The quantised kernels that define the results.
 *
 * Activations are 15-bit integers a = 128 * hi + lo, |a| <= 16256, with one scale d_a per 32 or 256
 * columns.  With codes q and the scales of quant.h, a block of 32 columns is one exact integer:
 *
 *     S = sum_k (q - bias) * a               |S| <= 128 * 16256 * 32 < 2^26
 *     acc = fma((float)S, d * d_a, acc)
 *     acc = fma((float)A, m * d_a, acc)      Q4_1, Q5_1; A = sum_k a
 *
 * In a block of 256 columns the sub-blocks j are exact integers, small enough to be exact as floats
 * too, and are added in ascending order; the minima are one integer again:
 *
 *     s_j = sum_k (q - bias) * a             |s_j| <= 31 * 16256 * 32 < 2^24
 *     T = fma((float)s_j, (float)sc[j], T)   from T = +0
 *     M = sum_j mn[j] * sum_k a              |M| <= 63 * 16256 * 256 < 2^28
 *     acc = fma(T, d * d_a, acc)
 *     acc = fma(-(float)M, m * d_a, acc)     Q4_K, Q5_K
 *
 * With 8-bit activations q and one scale d_a per 32 columns a block of 32 columns is as above; a
 * block of 256 takes its units of 32 columns u in ascending order:
 *
 *     v_u = sum over the sub-blocks of u of sc[j] * sum_k (c - bias) * q      |v_u| < 2^24
 *     T = fma((float)v_u, d_a[u], T)                                          from T = +0
 *     N = fma((float)mn[u], (float)(sum_k q) * d_a[u], N)                     from N = +0
 *     acc = fma(T, d, acc)
 *     acc = fma(-N, m, acc)                                                   Q4_K, Q5_K
 *
 * Blocks follow each other in ascending order.  15 bits keep the error of the activations (2^-15
 * of the largest in a block) far below that of the weights; what is left is nearly that of float
 * sums.  The other instruction sets compute the integers in other ways and then take the same float
 * steps, one output row per lane.
 */
#include <string.h>

#include "quant.h"

static int32_t dot(const uint8_t *q, int bias, const int8_t *hi, const int8_t *lo, int n)
{
    int32_t sum = 0;

    for (int i = 0; i < n; i++)
        sum += (q[i] - bias) * (128 * hi[i] + lo[i]);
    return sum;
}

static int32_t dot_8(const uint8_t *c, int bias, const int8_t *q, int n)
{
    int32_t sum = 0;

    for (int i = 0; i < n; i++)
        sum += (c[i] - bias) * q[i];
    return sum;
}

/* acc plus the product of one opened block with the block b of activation row `row`. */
static float add_block_15(float acc, moe_type type, const moe_quant_block *block,
                          const moe_activations *x, int64_t row, int64_t b)
{
    moe_quant_form form = moe_quant_form_of(type);
    const moe_act_planes *planes = moe_quant_planes(form, x);
    int64_t first = row * x->n_cols + b * form.columns;
    const int8_t *hi = planes->hi + first, *lo = planes->lo + first;
    float d_a = planes->d[first / form.columns], value = 0.0f, min;

    if (form.columns == 32) {
        value = (float)dot(block->q, form.bias, hi, lo, 32);
        min = (float)planes->sums[first / 32];
    } else {
        const int32_t *sums = planes->sums + first / 16;
        int sub = type == MOE_TYPE_Q6_K ? 16 : 32;
        int32_t m = 0;

        for (int k = 0; k < MOE_QUANT_SUPER; k += sub)
            value = __builtin_fmaf((float)dot(block->q + k, form.bias, hi + k, lo + k, sub),
                                   (float)block->sc[k / sub], value);
        if (form.has_min)
            for (int j = 0; j < 8; j++)
                m += block->mn[j] * (sums[2 * j] + sums[2 * j + 1]);
        min = -(float)m;
    }
    acc = __builtin_fmaf(value, moe_f16_to_f32(block->d) * d_a, acc);
    return form.has_min ? __builtin_fmaf(min, moe_f16_to_f32(block->m) * d_a, acc) : acc;
}

/* The same with 8-bit activations. */
static float add_block_8(float acc, moe_type type, const moe_quant_block *block,
                         const moe_activations *x, int64_t row, int64_t b)
{
    moe_quant_form form = moe_quant_form_of(type);
    int64_t first = row * x->n_cols + b * form.columns;
    const int8_t *q = x->q8.q + first;
    const float *d_a = x->q8.d + first / 32;
    const int32_t *sums = x->q8.sums + first / 16;
    float d = moe_f16_to_f32(block->d), m = form.has_min ? moe_f16_to_f32(block->m) : 0.0f;
    float total = 0.0f, min = 0.0f;

    if (form.columns == 32) {
        acc = __builtin_fmaf((float)dot_8(block->q, form.bias, q, 32), d * d_a[0], acc);
        return form.has_min ? __builtin_fmaf((float)(sums[0] + sums[1]), m * d_a[0], acc) : acc;
    }
    for (int u = 0; u < 8; u++) {
        const uint8_t *c = block->q + 32 * u;
        int32_t value;

        if (type == MOE_TYPE_Q6_K)
            value = block->sc[2 * u] * dot_8(c, form.bias, q + 32 * u, 16) +
                    block->sc[2 * u + 1] * dot_8(c + 16, form.bias, q + 32 * u + 16, 16);
        else
            value = block->sc[u] * dot_8(c, form.bias, q + 32 * u, 32);
        total = __builtin_fmaf((float)value, d_a[u], total);
        if (form.has_min)
            min = __builtin_fmaf((float)block->mn[u],
                                 (float)(sums[2 * u] + sums[2 * u + 1]) * d_a[u], min);
    }
    acc = __builtin_fmaf(total, d, acc);
    return form.has_min ? __builtin_fmaf(-min, m, acc) : acc;
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
                y[t * ldy + r] = (x->q8.q ? add_block_8 : add_block_15)(
                    y[t * ldy + r], w->type, &block, x, rows ? rows[t] : t, b);
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

/* One block of activations to 15 bits, n = 32 or 256 columns; sums over `span` columns each. */
static void quantize(const float *x, int n, int span, int8_t *hi, int8_t *lo, float *d,
                     int32_t *sums)
{
    float inverse = scale_of(x, n, 16256.0f, d);

    memset(sums, 0, (size_t)(n / span) * sizeof *sums);
    for (int i = 0; i < n; i++) {
        int q = round_to_int(x[i], inverse);

        hi[i] = (int8_t)((q + 64) >> 7);
        lo[i] = (int8_t)(q - 128 * hi[i]);
        sums[i / span] += q;
    }
}

void moe_quantize_32_scalar(const float *x, int64_t n_cols, int8_t *hi, int8_t *lo, float *d,
                            int32_t *sums)
{
    for (int64_t b = 0; b < n_cols / 32; b++)
        quantize(x + 32 * b, 32, 32, hi + 32 * b, lo + 32 * b, d + b, sums + b);
}

void moe_quantize_256_scalar(const float *x, int64_t n_cols, int8_t *hi, int8_t *lo, float *d,
                             int32_t *sums)
{
    for (int64_t b = 0; b < n_cols / 256; b++)
        quantize(x + 256 * b, 256, 16, hi + 256 * b, lo + 256 * b, d + b, sums + 16 * b);
}

void moe_quantize_8_scalar(const float *x, int64_t n_cols, int8_t *q, float *d, int32_t *sums)
{
    for (int64_t b = 0; b < n_cols / 32; b++) {
        float inverse = scale_of(x + 32 * b, 32, 127.0f, d + b);

        sums[2 * b] = sums[2 * b + 1] = 0;
        for (int64_t i = 32 * b; i < 32 * b + 32; i++) {
            q[i] = (int8_t)round_to_int(x[i], inverse);
            sums[i / 16] += q[i];
        }
    }
}
