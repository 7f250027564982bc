/*
 * Sixteen float32 lanes in two AVX2 registers.  The operations are those of v16_scalar.h, where
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

/* 12 accumulators, 2 weight registers and one broadcast of 16 registers. */
#define TILE_TOKENS 6
#define TILE_GROUPS 4
#define TILE_GROUPS_FOR(tokens) ((tokens) == 1 ? 4 : (tokens) == 2 ? 3 : (tokens) == 3 ? 2 : 1)
/* clang-format off */
#define TILE_EACH(X) \
    X(1, 1) X(2, 1) X(3, 1) X(4, 1) \
    X(1, 2) X(2, 2) X(3, 2) \
    X(1, 3) X(2, 3) \
    X(1, 4) \
    X(1, 5) \
    X(1, 6)
/* clang-format on */

typedef struct v16 {
    __m256 lo, hi; /* lanes 0..7 and 8..15 */
} v16;

#define V16_BOTH(expr_lo, expr_hi) ((v16){.lo = (expr_lo), .hi = (expr_hi)})

/* All ones in lanes base + i < n. */
V16_FN __m256i v16_first(int base, int64_t n)
{
    __m256i lane =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(base));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}

V16_FN v16 v16_set1(float f)
{
    return V16_BOTH(_mm256_set1_ps(f), _mm256_set1_ps(f));
}

V16_FN v16 v16_zero(void)
{
    return V16_BOTH(_mm256_setzero_ps(), _mm256_setzero_ps());
}

V16_FN v16 v16_load(const float *p)
{
    return V16_BOTH(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}

V16_FN v16 v16_load_n(const float *p, int64_t n)
{
    return V16_BOTH(_mm256_maskload_ps(p, v16_first(0, n)),
                    _mm256_maskload_ps(p + 8, v16_first(8, n)));
}

V16_FN void v16_store(float *p, v16 a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}

V16_FN void v16_store_n(float *p, v16 a, int64_t n)
{
    _mm256_maskstore_ps(p, v16_first(0, n), a.lo);
    _mm256_maskstore_ps(p + 8, v16_first(8, n), a.hi);
}

V16_FN v16 v16_load_f16(const uint16_t *p)
{
    return V16_BOTH(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                    _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8))));
}

V16_FN v16 v16_load_bf16(const uint16_t *p)
{
    __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    __m256i hi = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 8)));
    return V16_BOTH(_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
                    _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16)));
}

V16_FN void v16_store_f16(uint16_t *p, v16 a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}

V16_FN void v16_prefetch(const void *p)
{
    _mm_prefetch((const char *)p, _MM_HINT_T1);
}

V16_FN v16 v16_add(v16 a, v16 b)
{
    return V16_BOTH(_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi));
}

V16_FN v16 v16_sub(v16 a, v16 b)
{
    return V16_BOTH(_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi));
}

V16_FN v16 v16_mul(v16 a, v16 b)
{
    return V16_BOTH(_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi));
}

V16_FN v16 v16_div(v16 a, v16 b)
{
    return V16_BOTH(_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi));
}

V16_FN v16 v16_fma(v16 a, v16 b, v16 c)
{
    return V16_BOTH(_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}

V16_FN v16 v16_fnma(v16 a, v16 b, v16 c)
{
    return V16_BOTH(_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi));
}

V16_FN v16 v16_max(v16 a, v16 b)
{
    return V16_BOTH(_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi));
}

V16_FN v16 v16_abs(v16 a)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return V16_BOTH(_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi));
}

V16_FN v16 v16_if_less(v16 a, v16 b, v16 x, v16 y)
{
    return V16_BOTH(_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
                    _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)));
}

V16_FN v16 v16_keep(v16 a, int64_t begin, int64_t end, float other)
{
    __m256 o = _mm256_set1_ps(other);
    __m256i lo = _mm256_andnot_si256(v16_first(0, begin), v16_first(0, end));
    __m256i hi = _mm256_andnot_si256(v16_first(8, begin), v16_first(8, end));
    return V16_BOTH(_mm256_blendv_ps(o, a.lo, _mm256_castsi256_ps(lo)),
                    _mm256_blendv_ps(o, a.hi, _mm256_castsi256_ps(hi)));
}

V16_FN v16 v16_add_exponent(v16 a, v16 t)
{
    __m256i lo = _mm256_slli_epi32(_mm256_castps_si256(t.lo), 23);
    __m256i hi = _mm256_slli_epi32(_mm256_castps_si256(t.hi), 23);
    return V16_BOTH(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.lo), lo)),
                    _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.hi), hi)));
}

V16_FN float v16_sum(v16 a)
{
    __m256 b = _mm256_add_ps(a.lo, a.hi);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

V16_FN float v16_largest(v16 a)
{
    __m256 b = _mm256_max_ps(a.lo, a.hi);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

V16_FN void v16_load_pairs(const float *p, v16 *even, v16 *odd)
{
    v16 a = v16_load(p), b = v16_load(p + 16);
#define V16_DEINTERLEAVE(x, y, imm)                                                                \
    _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(x, y, imm)), 0xd8))
    *even = V16_BOTH(V16_DEINTERLEAVE(a.lo, a.hi, 0x88), V16_DEINTERLEAVE(b.lo, b.hi, 0x88));
    *odd = V16_BOTH(V16_DEINTERLEAVE(a.lo, a.hi, 0xdd), V16_DEINTERLEAVE(b.lo, b.hi, 0xdd));
#undef V16_DEINTERLEAVE
}

V16_FN void v16_store_pairs(float *p, v16 even, v16 odd)
{
    __m256 a = _mm256_unpacklo_ps(even.lo, odd.lo), b = _mm256_unpackhi_ps(even.lo, odd.lo);
    __m256 c = _mm256_unpacklo_ps(even.hi, odd.hi), d = _mm256_unpackhi_ps(even.hi, odd.hi);
    _mm256_storeu_ps(p, _mm256_permute2f128_ps(a, b, 0x20));
    _mm256_storeu_ps(p + 8, _mm256_permute2f128_ps(a, b, 0x31));
    _mm256_storeu_ps(p + 16, _mm256_permute2f128_ps(c, d, 0x20));
    _mm256_storeu_ps(p + 24, _mm256_permute2f128_ps(c, d, 0x31));
}

V16_FN void v16_load_bf16_pairs(const void *p, v16 *even, v16 *odd)
{
    const __m256i *src = (const __m256i *)p, upper = _mm256_set1_epi32((int)0xffff0000);
    __m256i lo = _mm256_loadu_si256(src), hi = _mm256_loadu_si256(src + 1);
    *even = V16_BOTH(_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
                     _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16)));
    *odd = V16_BOTH(_mm256_castsi256_ps(_mm256_and_si256(lo, upper)),
                    _mm256_castsi256_ps(_mm256_and_si256(hi, upper)));
}

V16_FN __m256 v16_round_bf16_half(__m256 a)
{
    const __m256i sign = _mm256_set1_epi32((int)0x80000000);
    __m256i bits = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256 large = _mm256_cmp_ps(_mm256_andnot_ps(_mm256_castsi256_ps(sign), a),
                                 _mm256_set1_ps(0x1p-56f), _CMP_NLT_UQ);
    __m256 rounded = _mm256_blendv_ps(_mm256_castsi256_ps(sum), _mm256_castsi256_ps(quiet),
                                      _mm256_cmp_ps(a, a, _CMP_UNORD_Q));

    rounded = _mm256_and_ps(rounded, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xffff0000)));
    return _mm256_and_ps(rounded, large);
}

V16_FN v16 v16_round_bf16(v16 a)
{
    return V16_BOTH(v16_round_bf16_half(a.lo), v16_round_bf16_half(a.hi));
}

V16_FN void v16_transpose_8x8(__m256 r[8])
{
    __m256 a[8], b[8];

#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}

V16_FN void v16_transpose(v16 row[16])
{
    __m256 quarter[4][8]; /* upper left, upper right, lower left, lower right */

    for (int i = 0; i < 8; i++) {
        quarter[0][i] = row[i].lo;
        quarter[1][i] = row[i].hi;
        quarter[2][i] = row[i + 8].lo;
        quarter[3][i] = row[i + 8].hi;
    }
    for (int q = 0; q < 4; q++)
        v16_transpose_8x8(quarter[q]);
    for (int i = 0; i < 8; i++) {
        row[i] = V16_BOTH(quarter[0][i], quarter[2][i]);
        row[i + 8] = V16_BOTH(quarter[1][i], quarter[3][i]);
    }
}

#endif
