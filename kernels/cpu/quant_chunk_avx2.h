/*
 * Packed quantised weights in AVX2 registers: what the kernels for both forms of activations share.
 *
 * A register holds half a group, eight rows, one 32-bit lane each.  A chunk is 256 columns of a
 * group of 16 rows: one super-block, or up to eight blocks of 32.  Everything here is inlined into
 * functions that give the type as a constant.
 */
#ifndef MOE_CPU_QUANT_CHUNK_AVX2_H
#define MOE_CPU_QUANT_CHUNK_AVX2_H

#include <immintrin.h>

#include "quant.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* Has a sum computed here.  Left alone, gcc puts additions off and runs out of registers, which
 * costs a third of the speed. */
#define SETTLE(x) __asm__("" : "+x"(x))

#define CHUNK_COLUMNS 256
#define CHUNK_UNITS (CHUNK_COLUMNS / MOE_QUANT_UNIT)
#define PREFETCH_BYTES 4096

/* The product with 8-bit activations: see moe_kernels.matmul. */
void moe_matmul_bytes_avx2(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                           const moe_activations *x, const int32_t *rows, int64_t n_tokens,
                           float *y, int64_t ldy);

INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

INLINE __m256 load_f16(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

/* Four bytes to all lanes. */
INLINE __m256i broadcast4(const void *p)
{
    int32_t v;

    __builtin_memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

/* The bits of a where mask has them, else of b. */
INLINE __m256i blend_bits(__m256i mask, __m256i a, __m256i b)
{
    return _mm256_or_si256(_mm256_and_si256(mask, a), _mm256_andnot_si256(mask, b));
}

/* Three vectors of bytes to four vectors of six-bit codes; p points to this half. */
INLINE void widen_six_bits(const uint8_t *p, __m256i w[4])
{
    const __m256i low = _mm256_set1_epi8(63);
    __m256i a = load(p), b = load(p + 64), c = load(p + 128);
    __m256i top =
        blend_bits(_mm256_set1_epi8(12), _mm256_srli_epi16(b, 4), _mm256_srli_epi16(c, 2));

    w[0] = _mm256_and_si256(a, low);
    w[1] = _mm256_and_si256(b, low);
    w[2] = _mm256_and_si256(c, low);
    top = blend_bits(_mm256_set1_epi8(3), _mm256_srli_epi16(a, 6), top);
    w[3] = _mm256_and_si256(top, low);
}

/* Half a unit of codes to eight vectors of bytes. */
INLINE void widen_unit(const int bits, const uint8_t *p, __m256i w[8])
{
    const __m256i low = _mm256_set1_epi8(15), fifth = _mm256_set1_epi8(16);

    if (bits == 8) {
        UNROLL
        for (int v = 0; v < 8; v++)
            w[v] = load(p + 64 * v);
    } else if (bits == 6) {
        widen_six_bits(p, w);
        widen_six_bits(p + 192, w + 4);
    } else {
        UNROLL
        for (int v = 0; v < 4; v++) {
            __m256i x = load(p + 64 * v);

            w[v] = _mm256_and_si256(x, low);
            w[v + 4] = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
        }
    }
    if (bits == 5) {
        __m256i h = load(p + 256);

        UNROLL
        for (int v = 0; v < 8; v++) {
            __m256i shifted = v < 4 ? _mm256_slli_epi16(h, 4 - v) : _mm256_srli_epi16(h, v - 4);

            w[v] = _mm256_or_si256(w[v], _mm256_and_si256(shifted, fifth));
        }
    }
}

/* Byte i of every lane as an int32, without sign. */
INLINE __m256i byte_of_lane(__m256i x, const int i)
{
    return _mm256_and_si256(_mm256_srli_epi32(x, 8 * i), _mm256_set1_epi32(255));
}

/* Where unit u of the chunk that starts at block `block` is. */
INLINE const uint8_t *unit_of(const moe_type type, const uint8_t *group, int64_t block, int u)
{
    const moe_quant_form form = moe_quant_form_of(type);

    if (form.columns == 32)
        return group + moe_quant_body(form, block + u);
    return group + moe_quant_body(form, block) + moe_quant_scale_bytes(form) +
           (size_t)u * moe_quant_unit_bytes(form);
}

/* The units of a chunk; the last may be shorter. */
INLINE int units_of(const moe_matrix *w, int64_t chunk)
{
    int64_t n = w->n_cols / MOE_QUANT_UNIT - chunk * CHUNK_UNITS;

    return n < CHUNK_UNITS ? (int)n : CHUNK_UNITS;
}

#endif
