/*
 * Sixteen float32 lanes in plain C: the definition of every operation that the float kernels use.
 *
 * vector_ops.inl, float_matmul.inl and attention.inl are written once over this small set of
 * operations and compiled once per instruction set; v16_avx2.h and v16_avx512.h implement the same
 * set with the same bits.  Each arithmetic operation is one IEEE operation per lane, rounded to
 * nearest even; fma is fused.
 */
#ifndef MOE_CPU_V16_H
#define MOE_CPU_V16_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "half.h"

#define V16_FN static inline __attribute__((always_inline))
/* For the functions of v16_math.inl, whose plain C is too long to repeat at every use. */
#define V16_MATH_FN static __attribute__((noinline, unused))

/* Register blocks of the matrix product (float_tile.h): the most tokens of a tile, the most
 * groups at all and for a number of tokens, and every (groups, tokens) that follows from them. */
#define TILE_TOKENS 2
#define TILE_GROUPS 2
#define TILE_GROUPS_FOR(tokens) ((tokens) > 0 ? 2 : 0)
#define TILE_EACH(X) X(1, 1) X(2, 1) X(1, 2) X(2, 2)

typedef struct v16 {
    float lane[16];
} v16;

#define V16_EACH for (int i = 0; i < 16; i++)

V16_FN v16 v16_set1(float f)
{
    v16 r;
    V16_EACH r.lane[i] = f;
    return r;
}

V16_FN v16 v16_zero(void)
{
    return v16_set1(0.0f);
}

V16_FN v16 v16_load(const float *p)
{
    v16 r;
    memcpy(r.lane, p, sizeof r.lane);
    return r;
}

/* The first n (0..16) elements of p; the other lanes are +0 and their memory is not touched. */
V16_FN v16 v16_load_n(const float *p, int64_t n)
{
    v16 r;
    V16_EACH r.lane[i] = i < n ? p[i] : 0.0f;
    return r;
}

V16_FN void v16_store(float *p, v16 a)
{
    memcpy(p, a.lane, sizeof a.lane);
}

/* Stores the first n (0..16) lanes only. */
V16_FN void v16_store_n(float *p, v16 a, int64_t n)
{
    V16_EACH if (i < n) p[i] = a.lane[i];
}

V16_FN v16 v16_load_f16(const uint16_t *p)
{
    v16 r;
    V16_EACH r.lane[i] = moe_widen_f16(p[i]);
    return r;
}

V16_FN v16 v16_load_bf16(const uint16_t *p)
{
    v16 r;
    V16_EACH r.lane[i] = moe_widen_bf16(p[i]);
    return r;
}

V16_FN void v16_store_f16(uint16_t *p, v16 a)
{
    V16_EACH p[i] = moe_narrow_f16(a.lane[i]);
}

/* Asks for the cache line of p in the second level. */
V16_FN void v16_prefetch(const void *p)
{
    __builtin_prefetch(p, 0, 2);
}

V16_FN v16 v16_add(v16 a, v16 b)
{
    V16_EACH a.lane[i] += b.lane[i];
    return a;
}

V16_FN v16 v16_sub(v16 a, v16 b)
{
    V16_EACH a.lane[i] -= b.lane[i];
    return a;
}

V16_FN v16 v16_mul(v16 a, v16 b)
{
    V16_EACH a.lane[i] *= b.lane[i];
    return a;
}

V16_FN v16 v16_div(v16 a, v16 b)
{
    V16_EACH a.lane[i] /= b.lane[i];
    return a;
}

/* a * b + c, rounded once. */
V16_FN v16 v16_fma(v16 a, v16 b, v16 c)
{
    V16_EACH c.lane[i] = fmaf(a.lane[i], b.lane[i], c.lane[i]);
    return c;
}

/* -(a * b) + c, rounded once. */
V16_FN v16 v16_fnma(v16 a, v16 b, v16 c)
{
    V16_EACH c.lane[i] = fmaf(-a.lane[i], b.lane[i], c.lane[i]);
    return c;
}

/* a > b ? a : b, so b if they are equal or not comparable. */
V16_FN v16 v16_max(v16 a, v16 b)
{
    V16_EACH a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}

/* The sign bits cleared. */
V16_FN v16 v16_abs(v16 a)
{
    V16_EACH a.lane[i] = fabsf(a.lane[i]);
    return a;
}

/* a < b ? x : y; a comparison with a NaN is false. */
V16_FN v16 v16_if_less(v16 a, v16 b, v16 x, v16 y)
{
    V16_EACH x.lane[i] = a.lane[i] < b.lane[i] ? x.lane[i] : y.lane[i];
    return x;
}

/* Lanes begin <= i < end of a; `other` in the rest. */
V16_FN v16 v16_keep(v16 a, int64_t begin, int64_t end, float other)
{
    V16_EACH a.lane[i] = i >= begin && i < end ? a.lane[i] : other;
    return a;
}

/* a * 2^n for t = 1.5 * 2^23 + n: n is added to the exponent field without any check. */
V16_FN v16 v16_add_exponent(v16 a, v16 t)
{
    V16_EACH
    {
        uint32_t exponent = moe_float_to_bits(t.lane[i]) << 23;
        a.lane[i] = moe_bits_to_float(moe_float_to_bits(a.lane[i]) + exponent);
    }
    return a;
}

/* The sum of all lanes by the tree (i, i+8), (i, i+4), (i, i+2), (i, i+1). */
V16_FN float v16_sum(v16 a)
{
    for (int step = 8; step > 0; step /= 2)
        for (int i = 0; i < step; i++)
            a.lane[i] += a.lane[i + step];
    return a.lane[0];
}

/* The largest lane, by the same tree. */
V16_FN float v16_largest(v16 a)
{
    for (int step = 8; step > 0; step /= 2)
        for (int i = 0; i < step; i++)
            a.lane[i] = a.lane[i] > a.lane[i + step] ? a.lane[i] : a.lane[i + step];
    return a.lane[0];
}

/* 32 floats as their even and their odd elements, and back. */
V16_FN void v16_load_pairs(const float *p, v16 *even, v16 *odd)
{
    V16_EACH
    {
        even->lane[i] = p[2 * i];
        odd->lane[i] = p[2 * i + 1];
    }
}

V16_FN void v16_store_pairs(float *p, v16 even, v16 odd)
{
    V16_EACH
    {
        p[2 * i] = even.lane[i];
        p[2 * i + 1] = odd.lane[i];
    }
}

/* 16 pairs of BF16 as floats. */
V16_FN void v16_load_bf16_pairs(const void *p, v16 *even, v16 *odd)
{
    V16_EACH
    {
        uint16_t pair[2];
        memcpy(pair, (const char *)p + 4 * i, sizeof pair);
        even->lane[i] = moe_widen_bf16(pair[0]);
        odd->lane[i] = moe_widen_bf16(pair[1]);
    }
}

/* moe_narrow_bf16, kept as floats. */
V16_FN v16 v16_round_bf16(v16 a)
{
    V16_EACH a.lane[i] = moe_widen_bf16(moe_narrow_bf16(a.lane[i]));
    return a;
}

/* Transposes a matrix of 16 vectors. */
V16_FN void v16_transpose(v16 row[16])
{
    for (int r = 0; r < 16; r++) {
        for (int c = 0; c < r; c++) {
            float f = row[r].lane[c];
            row[r].lane[c] = row[c].lane[r];
            row[c].lane[r] = f;
        }
    }
}

#endif
