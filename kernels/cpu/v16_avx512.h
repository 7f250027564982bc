/*
 * Sixteen float32 lanes in one AVX-512 register.  The operations are those of v16_scalar.h, where
 * they are described, bit for bit.
 */
#ifndef MOE_CPU_V16_H
#define MOE_CPU_V16_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>

#include "half.h"

#define V16_FN static inline __attribute__((always_inline))
#define V16_MATH_FN V16_FN

/* 3 * 9 accumulators, 3 weight vectors and one broadcast fill 31 of 32 registers. */
#define TILE_TOKENS 9
#define TILE_GROUPS 4
#define TILE_GROUPS_FOR(tokens) ((tokens) <= 6 ? 4 : 3)
/* clang-format off */
#define TILE_EACH(X) \
    X(1, 1) X(2, 1) X(3, 1) X(4, 1) \
    X(1, 2) X(2, 2) X(3, 2) X(4, 2) \
    X(1, 3) X(2, 3) X(3, 3) X(4, 3) \
    X(1, 4) X(2, 4) X(3, 4) X(4, 4) \
    X(1, 5) X(2, 5) X(3, 5) X(4, 5) \
    X(1, 6) X(2, 6) X(3, 6) X(4, 6) \
    X(1, 7) X(2, 7) X(3, 7) \
    X(1, 8) X(2, 8) X(3, 8) \
    X(1, 9) X(2, 9) X(3, 9)
/* clang-format on */

typedef __m512 v16;

V16_FN __mmask16 v16_first(int64_t n)
{
    return (__mmask16)((1u << n) - 1);
}

V16_FN v16 v16_set1(float f)
{
    return _mm512_set1_ps(f);
}

V16_FN v16 v16_zero(void)
{
    return _mm512_setzero_ps();
}

V16_FN v16 v16_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

V16_FN v16 v16_load_n(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps(v16_first(n), p);
}

V16_FN void v16_store(float *p, v16 a)
{
    _mm512_storeu_ps(p, a);
}

V16_FN void v16_store_n(float *p, v16 a, int64_t n)
{
    _mm512_mask_storeu_ps(p, v16_first(n), a);
}

V16_FN v16 v16_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

V16_FN v16 v16_load_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

V16_FN void v16_store_f16(uint16_t *p, v16 a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

V16_FN void v16_prefetch(const void *p)
{
    _mm_prefetch((const char *)p, _MM_HINT_T1);
}

V16_FN v16 v16_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}

V16_FN v16 v16_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}

V16_FN v16 v16_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}

V16_FN v16 v16_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}

V16_FN v16 v16_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}

V16_FN v16 v16_fnma(v16 a, v16 b, v16 c)
{
    return _mm512_fnmadd_ps(a, b, c);
}

V16_FN v16 v16_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}

V16_FN v16 v16_abs(v16 a)
{
    return _mm512_abs_ps(a);
}

V16_FN v16 v16_if_less(v16 a, v16 b, v16 x, v16 y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}

V16_FN v16 v16_keep(v16 a, int64_t begin, int64_t end, float other)
{
    int64_t from = begin < 0 ? 0 : begin > 16 ? 16 : begin;
    int64_t to = end < 0 ? 0 : end > 16 ? 16 : end;
    __mmask16 keep = (__mmask16)(v16_first(to) & ~v16_first(from));
    return _mm512_mask_blend_ps(keep, _mm512_set1_ps(other), a);
}

V16_FN v16 v16_add_exponent(v16 a, v16 t)
{
    __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), exponent));
}

V16_FN float v16_sum(v16 a)
{
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

V16_FN float v16_largest(v16 a)
{
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

V16_FN void v16_load_pairs(const float *p, v16 *even, v16 *odd)
{
    const __m512i evens =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    __m512 a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + 16);
    *even = _mm512_permutex2var_ps(a, evens, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), b);
}

V16_FN void v16_store_pairs(float *p, v16 even, v16 odd)
{
    const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_ps(p, _mm512_permutex2var_ps(even, low, odd));
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    _mm512_storeu_ps(p + 16, _mm512_permutex2var_ps(even, high, odd));
}

V16_FN void v16_load_bf16_pairs(const void *p, v16 *even, v16 *odd)
{
    __m512i pairs = _mm512_loadu_si512(p);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
}

V16_FN v16 v16_round_bf16(v16 a)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    __m512i bits = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    __mmask16 small = _mm512_cmp_ps_mask(_mm512_abs_ps(a), _mm512_set1_ps(0x1p-56f), _CMP_LT_OQ);

    sum = _mm512_mask_or_epi32(sum, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_castsi512_ps(_mm512_maskz_and_epi32((__mmask16)~small, sum, upper));
}

V16_FN void v16_transpose(v16 row[16])
{
    __m512 a[16], b[16];

    /* 4x4 blocks inside the 128-bit quarters, then the quarters themselves. */
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4) {
        for (int j = 0; j < 4; j += 2) {
            a[i + j] = _mm512_unpacklo_ps(row[i + j], row[i + j + 1]);
            a[i + j + 1] = _mm512_unpackhi_ps(row[i + j], row[i + j + 1]);
        }
        for (int j = 0; j < 2; j++) {
            __m512d x = _mm512_castps_pd(a[i + j]), y = _mm512_castps_pd(a[i + j + 2]);
            b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
            b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    }
#pragma GCC unroll 16
    for (int j = 0; j < 4; j++) {
        __m512 x = _mm512_shuffle_f32x4(b[j], b[j + 4], 0x88);
        __m512 y = _mm512_shuffle_f32x4(b[j], b[j + 4], 0xdd);
        __m512 z = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0x88);
        __m512 w = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0xdd);
        row[j] = _mm512_shuffle_f32x4(x, z, 0x88);
        row[j + 4] = _mm512_shuffle_f32x4(y, w, 0x88);
        row[j + 8] = _mm512_shuffle_f32x4(x, z, 0xdd);
        row[j + 12] = _mm512_shuffle_f32x4(y, w, 0xdd);
    }
}

#endif
