/*
 * Packing with AVX-512: all 16 rows of a group at a time.
 *
 * A vector of a group is a cache line.  It is not written round the caches: the line is there,
 * since the kernel has just zeroed the page, and a product with it follows.
 */
#include <immintrin.h>
#include <stdint.h>

#define LANES 16
#define PACK_GROUP moe_pack_group_avx512

typedef uint32_t words __attribute__((vector_size(64)));

static inline __m512i load_rows(const uint8_t *const rows[], size_t at)
{
    __m512i x = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(rows[0] + at)));

    x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(rows[4] + at)), 1);
    x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(rows[8] + at)), 2);
    return _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(rows[12] + at)), 3);
}

/* With rows r, r + 4, r + 8 and r + 12 side by side, four-by-four transpositions within the
 * quarters of the vectors leave the lanes in order. */
static inline void load_quad(const uint8_t *const rows[], size_t at, words w[4])
{
    __m512i a = load_rows(rows, at), b = load_rows(rows + 1, at), c = load_rows(rows + 2, at),
            d = load_rows(rows + 3, at);
    __m512i ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);

    w[0] = (words)_mm512_unpacklo_epi64(ab, cd);
    w[1] = (words)_mm512_unpackhi_epi64(ab, cd);
    ab = _mm512_unpackhi_epi32(a, b);
    cd = _mm512_unpackhi_epi32(c, d);
    w[2] = (words)_mm512_unpacklo_epi64(ab, cd);
    w[3] = (words)_mm512_unpackhi_epi64(ab, cd);
}

static inline void store(uint8_t *p, words w)
{
    _mm512_store_si512((void *)p, (__m512i)w);
}

static inline void store_halves(uint8_t *p, words w)
{
    __m256i low = _mm512_cvtepi32_epi16((__m512i)w);
    __m256i high = _mm512_cvtepi32_epi16((__m512i)(w >> 16));

    store(p, (words)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
}

#include "pack.inl"
