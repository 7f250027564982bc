/*
 * Packed quantised weights in AVX2 registers: what the kernels for both forms of activations share.
 *
 * A register holds half a group, eight rows, one 32-bit lane each.  A chunk is 256 columns of a
 * group of 16 rows: one super-block, or up to eight blocks of 32.  Everything here is inlined into
 * functions that give the type as a constant.
 *
 * The sum of a super-block, scales included, is one int32.  Only the whole is sure to fit: parts of
 * it, taken before the bias is subtracted, may wrap around, which additions undo.
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

/* Makes every lane of four of its bytes, given by number; NO_BYTE stands for zeros. */
#define NO_BYTE 0x80
INLINE __m256i pick_bytes(__m256i x, const uint32_t b0, const uint32_t b1, const uint32_t b2,
                          const uint32_t b3)
{
    const __m256i lanes = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404,
                                            0x08080808, 0x0c0c0c0c);
    const uint32_t bytes = b0 | b1 << 8 | b2 << 16 | b3 << 24;

    return _mm256_shuffle_epi8(x, _mm256_add_epi8(lanes, _mm256_set1_epi32((int32_t)bytes)));
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

/* The scales of a chunk of half a group, ready for use. */
typedef struct chunk_scales {
    __m256 d[CHUNK_UNITS], m[CHUNK_UNITS]; /* per block of 32 columns; super-blocks: in [0] */
    __m256i sc[16];               /* of sub-block j, as int16, both words of a lane alike */
    __m256i of_sums[CHUNK_UNITS]; /* what the sums of a unit are multiplied with, see pack_sums:
                                   * Q4_K, Q5_K: mn, mn; Q6_K: bias * sc of both sub-blocks */
} chunk_scales;

/* The scales of n_units units that start at block `block` of a group, for one half. */
INLINE void load_scales(const moe_type type, const uint8_t *group, int half, int64_t block,
                        int n_units, chunk_scales *s)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const uint8_t *p = group + moe_quant_body(form, block) + 32 * half;
    const int n_blocks = form.columns == 32 ? n_units : 1;

    for (int b = 0; b < n_blocks; b++) {
        const uint8_t *head = group + moe_quant_head(form, block + b) + 16 * half;

        s->d[b] = load_f16(head);
        if (form.has_min)
            s->m[b] = load_f16(head + 32);
    }
    if (type == MOE_TYPE_Q6_K) {
        UNROLL
        for (int u = 0; u < CHUNK_UNITS; u++) {
            const uint32_t j = 2 * (u % 2);
            __m256i x = load(p + 64 * (u / 2)), both;

            /* The signed bytes in the upper halves of words, which are shifted to their place. */
            s->sc[2 * u] = _mm256_srai_epi16(pick_bytes(x, NO_BYTE, j, NO_BYTE, j), 8);
            s->sc[2 * u + 1] = _mm256_srai_epi16(pick_bytes(x, NO_BYTE, j + 1, NO_BYTE, j + 1), 8);
            both = pick_bytes(x, NO_BYTE, j, NO_BYTE, j + 1);
            s->of_sums[u] = _mm256_srai_epi16(both, 3);
            _Static_assert(32 == 1 << (8 - 3), "the bias of Q6_K");
        }
    } else if (form.columns == MOE_QUANT_SUPER) {
        __m256i w[4];

        widen_six_bits(p, w);
        UNROLL
        for (int u = 0; u < CHUNK_UNITS; u++) {
            const uint32_t j = u % 4;

            s->sc[u] = pick_bytes(w[u / 4], j, NO_BYTE, j, NO_BYTE);
            s->of_sums[u] = pick_bytes(w[2 + u / 4], j, NO_BYTE, j, NO_BYTE);
        }
    }
}

/* A token's sums over 16 columns of a super-block as int16, two per unit.  They fit: 16 * 2047 =
 * 32752. */
INLINE void pack_sums(const int32_t *sums, int32_t pairs[CHUNK_UNITS])
{
    __m256i packed = _mm256_packs_epi32(load(sums), load(sums + 8));

    _mm256_storeu_si256((__m256i *)pairs, _mm256_permute4x64_epi64(packed, 0xD8));
}

/* The minima of a super-block, or of Q6_K the scaled bias, times such sums. */
INLINE __m256i times_sums(const chunk_scales *s, const int32_t pairs[CHUNK_UNITS])
{
    __m256i total = _mm256_setzero_si256();

    UNROLL
    for (int u = 0; u < CHUNK_UNITS; u++)
        total =
            _mm256_add_epi32(total, _mm256_madd_epi16(s->of_sums[u], _mm256_set1_epi32(pairs[u])));
    return total;
}

/* acc plus a super-block: its exact sum, the minima and the scales. */
INLINE __m256 add_super_block(const moe_type type, __m256i sum, const chunk_scales *s,
                              const int32_t pairs[CHUNK_UNITS], float d_a, __m256 acc)
{
    __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), s->d[0]);

    if (moe_quant_form_of(type).has_min)
        t = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(times_sums(s, pairs)), s->m[0], t);
    return _mm256_fmadd_ps(t, _mm256_set1_ps(d_a), acc);
}

#endif
