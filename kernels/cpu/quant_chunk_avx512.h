/*
 * Packed quantised weights in AVX-512 registers: what the AVX-512 and AMX kernels share.
 *
 * A chunk is 256 columns of a group of 16 rows: one super-block, or up to eight blocks of 32.
 * Everything here is inlined into functions that give the type as a constant.
 */
#ifndef MOE_CPU_QUANT_CHUNK_AVX512_H
#define MOE_CPU_QUANT_CHUNK_AVX512_H

#include <immintrin.h>

#include "quant.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 24")

#define CHUNK_COLUMNS 256
#define CHUNK_UNITS (CHUNK_COLUMNS / MOE_QUANT_UNIT)
#define BATCH_TOKENS 48 /* tokens that pass over a chunk of codes while it is widened */

/* The scales of a chunk of a group, ready for use. */
typedef struct chunk_scales {
    __m512 d[CHUNK_UNITS], m[CHUNK_UNITS]; /* per block of 32 columns; super-blocks: d, -m in [0] */
    __m512i sc[16];                        /* Q4_K, Q5_K (8), Q6_K (16) */
    __m512i mn[8]; /* Q4_K, Q5_K, two int16: of two sub-blocks if activations have one plane,
                    * else mn[j] and 128 * mn[j] */
} chunk_scales;

INLINE __m512i load(const void *p)
{
    return _mm512_loadu_si512(p);
}

INLINE __m512 load_f16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* sum + four codes of every row times four activations, which are broadcast as they are loaded. */
INLINE __m512i dot4(__m512i sum, __m512i codes, const int8_t *activations)
{
    __asm__("vpdpbusd %2%{1to16%}, %1, %0"
            : "+v"(sum)
            : "v"(codes), "m"(*(const int8_t(*)[4])activations));
    return sum;
}

/* sum + two words of every row times two words, which are broadcast likewise. */
INLINE __m512i dot2(__m512i sum, __m512i words, const void *two)
{
    __asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(words), "m"(*(const char(*)[4])two));
    return sum;
}

/* Three vectors of bytes to four vectors of six-bit codes. */
INLINE void widen_six_bits(const uint8_t *p, __m512i w[4])
{
    const __m512i low = _mm512_set1_epi8(63);
    const __m512i first = _mm512_set1_epi8(3), second = _mm512_set1_epi8(12);
    __m512i a = load(p), b = load(p + 64), c = load(p + 128);
    __m512i top;

    w[0] = _mm512_and_si512(a, low);
    w[1] = _mm512_and_si512(b, low);
    w[2] = _mm512_and_si512(c, low);
    /* 0xCA selects by mask: the bits of `second` from b, else from c; those of `first` from a. */
    top = _mm512_ternarylogic_epi32(second, _mm512_srli_epi16(b, 4), _mm512_srli_epi16(c, 2), 0xCA);
    top = _mm512_ternarylogic_epi32(first, _mm512_srli_epi16(a, 6), top, 0xCA);
    w[3] = _mm512_and_si512(top, low);
}

/* A unit of codes to eight vectors of bytes. */
INLINE void widen_unit(const int bits, const uint8_t *p, __m512i w[8])
{
    const __m512i low = _mm512_set1_epi8(15), fifth = _mm512_set1_epi8(16);

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
            __m512i x = load(p + 64 * v);

            w[v] = _mm512_and_si512(x, low);
            w[v + 4] = _mm512_and_si512(_mm512_srli_epi16(x, 4), low);
        }
    }
    if (bits == 5) {
        __m512i h = load(p + 256);

        /* Bit v of every byte goes to bit 4; 0xF8: w | (h & fifth). */
        UNROLL
        for (int v = 0; v < 8; v++) {
            __m512i shifted = v < 4 ? _mm512_slli_epi16(h, 4 - v) : _mm512_srli_epi16(h, v - 4);

            w[v] = _mm512_ternarylogic_epi32(w[v], shifted, fifth, 0xF8);
        }
    }
}

/* Byte i of every lane as an int32, without sign. */
INLINE __m512i byte_of_lane(__m512i x, const int i)
{
    if (i == 3)
        return _mm512_srli_epi32(x, 24);
    return _mm512_and_si512(_mm512_srli_epi32(x, 8 * i), _mm512_set1_epi32(255));
}

/* The scales of n_units units that start at block `block` of a group, for activations of one plane
 * or two. */
INLINE void load_scales(const moe_type type, const int planes, const uint8_t *group, int64_t block,
                        int n_units, chunk_scales *s)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const uint8_t *p = group + moe_quant_body(form, block);
    int n_blocks = form.columns == 32 ? n_units : 1;

    for (int b = 0; b < n_blocks; b++) {
        const uint8_t *head = group + moe_quant_head(form, block + b);

        s->d[b] = load_f16(head);
        if (form.has_min)
            s->m[b] = load_f16(head + 32);
        if (form.has_min && form.columns == MOE_QUANT_SUPER)
            s->m[b] = _mm512_xor_ps(s->m[b], _mm512_set1_ps(-0.0f));
    }
    if (type == MOE_TYPE_Q6_K) {
        UNROLL
        for (int j = 0; j < 16; j++) {
            __m512i x = load(p + 64 * (j / 4));

            s->sc[j] = _mm512_srai_epi32(_mm512_slli_epi32(x, 24 - 8 * (j % 4)), 24);
        }
    } else if (form.columns == MOE_QUANT_SUPER) {
        __m512i w[4];

        widen_six_bits(p, w);
        UNROLL
        for (int j = 0; j < 8; j++) {
            __m512i mn = byte_of_lane(w[2 + j / 4], j % 4);

            s->sc[j] = byte_of_lane(w[j / 4], j % 4);
            if (planes == 2)
                s->mn[j] = _mm512_or_si512(mn, _mm512_slli_epi32(mn, 16 + 7));
            else if (j % 2 == 0)
                s->mn[j / 2] = mn;
            else
                s->mn[j / 2] = _mm512_or_si512(s->mn[j / 2], _mm512_slli_epi32(mn, 16));
        }
    }
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

/* Sums of 16 columns each to factors of chunk_scales.mn, two int16: the sums of two sub-blocks of
 * 32 columns, or with two planes per sub-block the low seven bits of its sum and the bits above. */
INLINE __m256i min_terms(const int planes, const int32_t sums[16])
{
    const __m256i low = _mm256_set1_epi32(127), high = _mm256_set1_epi32(-65536);
    __m512i pairs = load(sums);
    __m256i sum;

    pairs = _mm512_add_epi32(pairs, _mm512_srli_epi64(pairs, 32));
    sum = _mm512_cvtepi64_epi32(pairs);
    if (planes == 1)
        return _mm256_zextsi128_si256(_mm256_cvtepi32_epi16(sum));
    return _mm256_or_si256(_mm256_and_si256(sum, low),
                           _mm256_and_si256(_mm256_slli_epi32(sum, 16 - 7), high));
}

/* Whether weights that are read in order should be prefetched by instruction.  AMD's processors do
 * it better alone: for one token Zen 4 reads Q4_K at 24 GB/s with these instructions and at 27
 * without, Q6_K at 19 and 26. */
INLINE bool wants_prefetch(void)
{
    return __builtin_cpu_is("intel");
}

/* Fetches what comes 4 KiB behind n bytes that are read now. */
INLINE void prefetch_ahead(const uint8_t *p, size_t n)
{
    UNROLL
    for (size_t i = 0; i < n; i += 64)
        _mm_prefetch((const char *)p + 4096 + i, _MM_HINT_T0);
}

/* Fetches n_units units from block `block` on. */
INLINE void prefetch_chunk(const moe_type type, const uint8_t *group, int64_t block, int n_units)
{
    const uint8_t *begin = unit_of(type, group, block, 0);
    const uint8_t *end =
        unit_of(type, group, block, n_units - 1) + moe_quant_unit_bytes(moe_quant_form_of(type));

    for (begin -= moe_quant_scale_bytes(moe_quant_form_of(type)); begin < end; begin += 64)
        _mm_prefetch((const char *)begin, _MM_HINT_T0);
}

/* The units of a chunk; the last may be shorter. */
INLINE int units_of(const moe_matrix *w, int64_t chunk)
{
    int64_t n = w->n_cols / MOE_QUANT_UNIT - chunk * CHUNK_UNITS;

    return n < CHUNK_UNITS ? (int)n : CHUNK_UNITS;
}

/* What has to be added to sums of activations times codes for the bias of the codes: per 16 columns
 * in Q6_K, per 32 in the other types. */
INLINE void bias_terms(const moe_type type, const int32_t *sums, int n_units, int32_t terms[16])
{
    const int bias = moe_quant_form_of(type).bias;

    for (int i = 0; i < (type == MOE_TYPE_Q6_K ? 16 : n_units); i++)
        terms[i] = -bias * sums[i];
}

/* What is taken along of a token's activations of a chunk, besides the integers themselves. */
typedef struct token_terms {
    float d[CHUNK_UNITS];    /* super-blocks: in [0] */
    float mins[CHUNK_UNITS]; /* Q4_1, Q5_1: factors of minima, per unit */
    int32_t ints[16];        /* bias_terms; Q4_K, Q5_K: min_terms */
} token_terms;

/* The planes of row `row` from chunk `chunk` on. */
INLINE void planes_of(const moe_type type, const int planes, const moe_activations *x, int64_t row,
                      int64_t chunk, const int8_t *from[2])
{
    const moe_act_planes *form = moe_quant_planes(moe_quant_form_of(type), x);
    int64_t first = row * x->n_cols + chunk * CHUNK_COLUMNS;

    from[0] = form->hi + first;
    from[1] = planes == 2 ? form->lo + first : NULL;
}

/* The terms of row `row` for the n_units units of chunk `chunk`. */
INLINE void load_terms(const moe_type type, const int planes, const moe_activations *x, int64_t row,
                       int64_t chunk, int n_units, token_terms *a)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const moe_act_planes *from = moe_quant_planes(form, x);
    const int64_t first = row * x->n_cols + chunk * CHUNK_COLUMNS;
    const float *d = from->d + first / form.columns;
    const int32_t *sums = from->sums + first / (form.columns == 32 ? 32 : 16);

    for (int u = 0; u < (form.columns == 32 ? n_units : 1); u++)
        a->d[u] = d[u];
    if (!form.has_min)
        bias_terms(type, sums, n_units, a->ints);
    else if (form.columns == MOE_QUANT_SUPER)
        _mm256_storeu_si256((__m256i *)a->ints, min_terms(planes, sums));
    else
        for (int u = 0; u < n_units; u++)
            a->mins[u] = (float)sums[u];
}

/* Adds the scaled sum of a block of 32 columns, unit u, to acc. */
INLINE __m512 add_block_32(const moe_type type, const chunk_scales *s, const token_terms *a, int u,
                           __m512 sum, __m512 acc)
{
    __m512 d_a = _mm512_set1_ps(a->d[u]);

    acc = _mm512_fmadd_ps(sum, _mm512_mul_ps(s->d[u], d_a), acc);
    if (!moe_quant_form_of(type).has_min)
        return acc;
    return _mm512_fmadd_ps(_mm512_set1_ps(a->mins[u]), _mm512_mul_ps(s->m[u], d_a), acc);
}

/* The end of a super-block: acc + scaled total - minima. */
INLINE __m512 add_super_block(const moe_type type, const int planes, const chunk_scales *s,
                              const token_terms *a, __m512i total, __m512 acc)
{
    __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(total), s->d[0]);

    if (moe_quant_form_of(type).has_min) {
        __m512i min = _mm512_setzero_si512();

        UNROLL
        for (int j = 0; j < 8; j++)
            if (planes == 2 || j < 4)
                min = _mm512_dpwssd_epi32(min, s->mn[j], _mm512_set1_epi32(a->ints[j]));
        value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(min), s->m[0], value);
    }
    return _mm512_fmadd_ps(value, _mm512_set1_ps(a->d[0]), acc);
}

/* The activations of a batch of tokens in one chunk, side by side: rows that lie a power of two
 * apart would share few sets of the first-level cache. */
typedef struct chunk_acts {
    union {
        _Alignas(64) int8_t planes[BATCH_TOKENS][2][CHUNK_COLUMNS];
        int16_t words[BATCH_TOKENS][CHUNK_COLUMNS]; /* both planes put together */
    };
    token_terms terms[BATCH_TOKENS];
} chunk_acts;

/* Copies chunk `chunk` of n_units units of activation row `row` to token t of a batch. */
INLINE void gather_token(const moe_type type, const int planes, const moe_activations *x,
                         int64_t row, int64_t chunk, int n_units, chunk_acts *a, int t)
{
    const int8_t *from[2];

    planes_of(type, planes, x, row, chunk, from);
    for (int i = 0; i < planes; i++)
        for (int u = 0; u < n_units; u++)
            _mm256_store_si256((__m256i *)(a->planes[t][i] + 32 * u),
                               _mm256_loadu_si256((const __m256i *)(from[i] + 32 * u)));
    load_terms(type, planes, x, row, chunk, n_units, &a->terms[t]);
}

/* Tokens of the next batch: n in equal parts of whole tiles, none larger than `most`. */
INLINE int64_t even_part(int64_t n, int64_t most, int64_t tile)
{
    int64_t parts = (n + most - 1) / most;
    int64_t part = ((n + parts - 1) / parts + tile - 1) / tile * tile;

    return part < n ? part : n;
}

/* The lanes of a group that are rows of the matrix. */
INLINE __mmask16 lanes_of(const moe_matrix *w, int64_t group)
{
    int64_t n = w->n_rows - group * MOE_GROUP_ROWS;

    return n >= MOE_GROUP_ROWS ? 0xFFFF : (__mmask16)((1u << n) - 1);
}

#endif
