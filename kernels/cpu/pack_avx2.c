/*
 * Packing with AVX2: 8 rows of a group at a time.
 */
#include <immintrin.h>
#include <stdint.h>

#define LANES 8
#define PACK_GROUP moe_pack_group_avx2

typedef uint32_t words __attribute__((vector_size(32)));

static inline __m256i load_rows(const uint8_t *const rows[], size_t at)
{
    __m256i x = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(rows[0] + at)));

    return _mm256_inserti128_si256(x, _mm_loadu_si128((const __m128i *)(rows[4] + at)), 1);
}

/* With rows r and r + 4 side by side, four-by-four transpositions within the halves of the vectors
 * leave the lanes in order. */
static inline void load_quad(const uint8_t *const rows[], size_t at, words w[4])
{
    __m256i a = load_rows(rows, at), b = load_rows(rows + 1, at), c = load_rows(rows + 2, at),
            d = load_rows(rows + 3, at);
    __m256i ab = _mm256_unpacklo_epi32(a, b), cd = _mm256_unpacklo_epi32(c, d);

    w[0] = (words)_mm256_unpacklo_epi64(ab, cd);
    w[1] = (words)_mm256_unpackhi_epi64(ab, cd);
    ab = _mm256_unpackhi_epi32(a, b);
    cd = _mm256_unpackhi_epi32(c, d);
    w[2] = (words)_mm256_unpacklo_epi64(ab, cd);
    w[3] = (words)_mm256_unpackhi_epi64(ab, cd);
}

static inline void store(uint8_t *p, words w)
{
    _mm256_store_si256((__m256i *)p, (__m256i)w);
}

static inline void store_low_halves(uint8_t *p, words w)
{
    __m256i x = (__m256i)(w & 0xffff);

    x = _mm256_permute4x64_epi64(_mm256_packus_epi32(x, x), 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(x));
}

static inline void store_halves(uint8_t *p, words w)
{
    store_low_halves(p, w);
    store_low_halves(p + 32, w >> 16);
}

#include "pack.inl"
