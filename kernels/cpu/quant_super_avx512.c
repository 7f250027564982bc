/*
 * Products with super-blocks (Q4_K, Q5_K, Q6_K) for AVX-512 with VNNI: one 32-bit lane per output
 * row, a super-block of 256 columns after the other.
 *
 * The integers of a super-block are summed exactly, so their order is free (NUMERICS.md); its float
 * steps are those of quant_scalar.c.  Three ways through a matrix, which all add the same numbers:
 *
 *   few tokens    (decode) codes are widened in registers as a group is read from memory.  vpdpbusd
 *                 sums 16 columns, which fit a word; vpdpwssd multiplies two such sums with the
 *                 scale of their sub-block and adds them up.
 *   many, bytes   codes of a super-block are widened to memory for a batch of tokens, which passes
 *                 over them twelve at a time: so the totals of the super-block stay in registers
 *                 beside the sums of the sub-block.
 *   many, words   with two planes, a code less its bias and times its scale is a word, |sc * (c -
 *                 bias)| <= 128 * 32, and so are the two planes put together.  vpdpwssd multiplies
 *                 pairs of them, and nothing is left to do between sub-blocks: 24 tokens at a time.
 *
 * Activations of a batch are gathered for a stretch of super-blocks at a time, side by side, since
 * rows that lie a power of two apart would share few sets of the first-level cache.
 *
 * Functions that take a type, planes or a number of tokens are inlined into callers that give
 * constants; what depends on them is decided by the compiler.
 */
#include "quant_chunk_avx512.h"

enum {
    FEW_TOKENS = 5,            /* up to so many the codes are widened in registers */
    MOST_TOKENS = 72,          /* of a batch; a multiple of both tiles */
    TILE_BYTES = 12,           /* tokens that pass over widened codes together */
    TILE_WORDS = 24,           /* the same with words */
    STRETCH_BYTES = 128 << 10, /* of gathered activations: less than a second-level cache */
};

#define LANE_CODES 64 /* vectors of bytes that hold the codes of a super-block */

/* What a token's activations of a super-block take along. */
typedef struct super_terms {
    int32_t ints[16]; /* Q6_K: bias_terms; else sums as words, for the minima: min_words */
    float d;
} super_terms;

/* Activations of a batch, super-block by super-block, token by token. */
typedef struct stretch {
    _Alignas(64) int8_t acts[STRETCH_BYTES];
    super_terms terms[STRETCH_BYTES / MOE_QUANT_SUPER];
} stretch;

/* --- scales ------------------------------------------------------------------------------------
 */

/* Bytes `first` and `second` of every lane as words without sign. */
INLINE __m512i words_of(__m512i x, const int first, const int second)
{
    const __m128i lanes = _mm_setr_epi32(0x00000000, 0x00040004, 0x00080008, 0x000c000c);
    const int pick = (int)0x80008000 | second << 16 | first;

    return _mm512_shuffle_epi8(x,
                               _mm512_broadcast_i32x4(_mm_add_epi8(lanes, _mm_set1_epi32(pick))));
}

/* Byte j % 4 of every lane of vector j / 4, with its sign: scale j of Q6_K. */
INLINE __m512i signed_scale(const uint8_t *scales, const int j)
{
    return _mm512_srai_epi32(_mm512_slli_epi32(load(scales + 64 * (j / 4)), 24 - 8 * (j % 4)), 24);
}

/* The factors of the sums that min_words gives, `count` vectors of two words, from the minima
 * mn[0-3] and mn[4-7] of every lane: of two sub-blocks each, or with two planes twice that of one.
 */
INLINE __m512i min_factors(const int planes, const __m512i mn[2], const int i)
{
    if (planes == 1)
        return words_of(mn[i / 2], 2 * (i % 2), 2 * (i % 2) + 1);
    return words_of(mn[i / 4], i % 4, i % 4);
}

/* The sums that meet min_factors, two words each: of two sub-blocks of 32 columns or, with two
 * planes, of the halves of one, since twelve bits times 32 are more than a word. */
INLINE void min_words(const int planes, const int32_t sums[16], int32_t words[8])
{
    __m512i x = load(sums);

    if (planes == 2) {
        _mm256_storeu_si256((__m256i *)words, _mm512_cvtepi32_epi16(x));
        return;
    }
    x = _mm512_add_epi32(x, _mm512_srli_epi64(x, 32));
    _mm_storeu_si128((__m128i *)words, _mm256_cvtepi32_epi16(_mm512_cvtepi64_epi32(x)));
}

/* The end of a super-block: acc + scaled total - minima. */
INLINE __m512 finish(const bool has_min, const int planes, __m512 d, __m512 minus_m,
                     const __m512i factors[8], const super_terms *terms, __m512i total, __m512 acc)
{
    __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(total), d);

    if (has_min) {
        __m512i min = _mm512_setzero_si512();

        UNROLL
        for (int i = 0; i < 4 * planes; i++)
            min = dot2(min, factors[i], &terms->ints[i]);
        value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(min), minus_m, value);
    }
    return _mm512_fmadd_ps(value, _mm512_set1_ps(terms->d), acc);
}

INLINE __m512 load_d(const moe_type type, const uint8_t *group, int64_t block)
{
    return load_f16(group + moe_quant_head(moe_quant_form_of(type), block));
}

INLINE __m512 load_minus_m(const moe_type type, const uint8_t *group, int64_t block)
{
    return _mm512_xor_ps(load_f16(group + moe_quant_head(moe_quant_form_of(type), block) + 32),
                         _mm512_set1_ps(-0.0f));
}

/* --- activations --------------------------------------------------------------------------------
 */

INLINE void gather_terms(const moe_type type, const int planes, const moe_activations *x,
                         int64_t block, super_terms *to)
{
    const int32_t *sums = x->b256.sums + 16 * block;

    to->d = x->b256.d[block];
    if (moe_quant_form_of(type).has_min)
        min_words(planes, sums, to->ints);
    else
        bias_terms(type, sums, CHUNK_UNITS, to->ints);
}

/* Both planes of 256 activations put together to words.  Per unit of 32 columns: 4v and 4v + 2 for
 * all v, then 4v + 1 and 4v + 3, as scale_unit has its codes. */
INLINE void gather_words(const int8_t *hi, const int8_t *lo, int16_t *to)
{
    const __m256i low = _mm256_set1_epi16(255);

    for (int u = 0; u < CHUNK_UNITS; u++) {
        __m256i h = _mm256_loadu_si256((const __m256i *)(hi + 32 * u));
        __m256i l = _mm256_loadu_si256((const __m256i *)(lo + 32 * u));
        /* Bytes in the upper half of a word; shifted right by one they are 128 times themselves. */
        __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(h, 8), 1);
        __m256i odd = _mm256_srai_epi16(_mm256_andnot_si256(low, h), 1);

        even = _mm256_add_epi16(even, _mm256_srai_epi16(_mm256_slli_epi16(l, 8), 8));
        _mm256_store_si256((__m256i *)(to + 32 * u), even);
        _mm256_store_si256((__m256i *)(to + 32 * u + 16),
                           _mm256_add_epi16(odd, _mm256_srai_epi16(l, 8)));
    }
}

/* Super-blocks [first, first + n_blocks) of n_tokens rows to a stretch: a row of a super-block
 * takes 256 bytes per plane, as words if they are wanted. */
INLINE void gather(const moe_type type, const int planes, const bool words,
                   const moe_activations *x, const int32_t *rows, int64_t n_tokens, int64_t first,
                   int64_t n_blocks, stretch *s)
{
    const int64_t blocks_per_row = x->n_cols / MOE_QUANT_SUPER;
    int8_t *to = s->acts;
    super_terms *terms = s->terms;

    for (int64_t b = first; b < first + n_blocks; b++) {
        for (int64_t t = 0; t < n_tokens; t++, to += MOE_QUANT_SUPER * planes, terms++) {
            const int64_t block = (rows ? rows[t] : t) * blocks_per_row + b;
            const int8_t *hi = x->b256.hi + MOE_QUANT_SUPER * block;
            const int8_t *lo = planes == 2 ? x->b256.lo + MOE_QUANT_SUPER * block : NULL;

            gather_terms(type, planes, x, block, terms);
            if (words) {
                gather_words(hi, lo, (int16_t *)(void *)to);
                continue;
            }
            for (int i = 0; i < MOE_QUANT_SUPER; i += 64) {
                _mm512_store_si512(to + i, load(hi + i));
                if (planes == 2)
                    _mm512_store_si512(to + MOE_QUANT_SUPER + i, load(lo + i));
            }
        }
    }
}

/* How many super-blocks of n_tokens rows a stretch may hold. */
INLINE int64_t blocks_per_stretch(const int planes, int64_t n_tokens, int64_t n_blocks)
{
    const int64_t most = STRETCH_BYTES / (MOE_QUANT_SUPER * planes * n_tokens);

    return n_blocks < most ? n_blocks : most;
}

/* --- few tokens ---------------------------------------------------------------------------------
 */

/* Sums of 16 columns: per token, plane and half of a unit. */
typedef __m512i unit_sums[FEW_TOKENS][2][2];

/* Both halves of a unit, four vectors of 16 columns each.  Where 4-bit codes need no fifth bit,
 * those of the second half stay where they are, in the upper halves of the bytes: 16 times
 * themselves. */
INLINE void dot_unit(const moe_type type, const int planes, const int n_tokens, const uint8_t *p,
                     const int8_t *acts, unit_sums sum)
{
    __m512i wide[8];

    if (type != MOE_TYPE_Q4_K)
        widen_unit(moe_quant_form_of(type).bits, p, wide);
    UNROLL
    for (int v = 0; v < 4; v++) {
        __m512i w[2];

        if (type == MOE_TYPE_Q4_K) {
            __m512i x = load(p + 64 * v);

            w[0] = _mm512_and_si512(x, _mm512_set1_epi8(15));
            w[1] = _mm512_andnot_si512(_mm512_set1_epi8(15), x);
        } else {
            w[0] = wide[v];
            w[1] = wide[v + 4];
        }
        UNROLL
        for (int t = 0; t < n_tokens; t++) {
            UNROLL
            for (int i = 0; i < planes; i++) {
                const int8_t *from = acts + MOE_QUANT_SUPER * (planes * t + i) + 4 * v;

                sum[t][i][0] = dot4(sum[t][i][0], w[0], from);
                sum[t][i][1] = dot4(sum[t][i][1], w[1], from + 16);
            }
        }
    }
}

/* Adds unit u of Q4_K or Q5_K: 16 sums of up to 31 * 64 fit a word, but 31 * 127 do not. */
INLINE void add_unit_min(const moe_type type, const int planes, const int n_tokens,
                         const uint8_t *p, __m512i scale, const int8_t *acts,
                         __m512i total[FEW_TOKENS])
{
    const int shift = type == MOE_TYPE_Q4_K ? 12 : 16; /* of the second half to the upper word */
    const __m512i scale_128 = _mm512_slli_epi16(scale, 7);
    unit_sums sum;

    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        UNROLL
        for (int i = 0; i < planes; i++)
            sum[t][i][0] = sum[t][i][1] = _mm512_setzero_si512();
    }
    dot_unit(type, planes, n_tokens, p, acts, sum);
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        if (type == MOE_TYPE_Q5_K && planes == 1) {
            const __m512i both = _mm512_add_epi32(sum[t][0][0], sum[t][0][1]);

            total[t] =
                _mm512_add_epi32(total[t], _mm512_mullo_epi32(both, _mm512_srli_epi32(scale, 16)));
            continue;
        }
        UNROLL
        for (int i = 0; i < planes; i++) {
            const __m512i upper = _mm512_slli_epi32(sum[t][i][1], shift);
            const __m512i words = _mm512_mask_blend_epi16(0xAAAAAAAA, sum[t][i][0], upper);

            total[t] = _mm512_dpwssd_epi32(total[t], words, i < planes - 1 ? scale_128 : scale);
        }
    }
}

/* Adds unit u of Q6_K, two sub-blocks. */
INLINE void add_unit_q6_k(const int planes, const int n_tokens, const bool odd, const uint8_t *p,
                          const uint8_t *scales, int u, const int8_t *acts,
                          const super_terms *terms, __m512i total[FEW_TOKENS])
{
    /* Scales 2u and 2u + 1, at the top of a lane. */
    const __m512i x = _mm512_slli_epi32(load(scales + 64 * (u / 2)), odd ? 0 : 16);
    const __m512i scale[2] = {_mm512_srai_epi32(_mm512_slli_epi32(x, 8), 24),
                              _mm512_srai_epi32(x, 24)};
    unit_sums sum;

    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            sum[t][0][h] = sum[t][1][h] = _mm512_setzero_si512();
            sum[t][planes - 1][h] = _mm512_set1_epi32(terms[t].ints[2 * u + h]);
        }
    }
    dot_unit(MOE_TYPE_Q6_K, planes, n_tokens, p, acts, sum);
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            __m512i s = sum[t][planes - 1][h];

            if (planes == 2)
                s = _mm512_add_epi32(_mm512_slli_epi32(sum[t][0][h], 7), s);
            total[t] = _mm512_add_epi32(total[t], _mm512_mullo_epi32(s, scale[h]));
        }
    }
}

/* One super-block of a group, straight from its packed form, to acc. */
INLINE void few_block(const moe_type type, const int planes, const int n_tokens,
                      const uint8_t *group, int64_t block, const int8_t *acts,
                      const super_terms *terms, const bool fetch, __m512 acc[FEW_TOKENS])
{
    const moe_quant_form form = moe_quant_form_of(type);
    const uint8_t *scales = group + moe_quant_body(form, block);
    const uint8_t *p = scales + moe_quant_scale_bytes(form);
    const __m512 d = load_d(type, group, block);
    __m512 minus_m = _mm512_setzero_ps();
    __m512i total[FEW_TOKENS], six[4] = {_mm512_setzero_si512()}, factors[8];

    if (form.has_min)
        widen_six_bits(scales, six);
    UNROLL
    for (int t = 0; t < n_tokens; t++)
        total[t] = _mm512_setzero_si512();
    for (int half = 0; half < 2; half++) {
        const __m512i sc = six[half];

        UNROLL
        for (int j = 0; j < 4; j++, p += moe_quant_unit_bytes(form), acts += 32) {
            if (fetch)
                prefetch_ahead(p, moe_quant_unit_bytes(form));
            if (form.has_min)
                add_unit_min(type, planes, n_tokens, p, words_of(sc, j, j), acts, total);
            else
                add_unit_q6_k(planes, n_tokens, j % 2 != 0, p, scales, 4 * half + j, acts, terms,
                              total);
        }
    }
    if (form.has_min) {
        minus_m = load_minus_m(type, group, block);
        UNROLL
        for (int i = 0; i < 4 * planes; i++)
            factors[i] = min_factors(planes, six + 2, i);
    }
    UNROLL
    for (int t = 0; t < n_tokens; t++)
        acc[t] = finish(form.has_min, planes, d, minus_m, factors, &terms[t], total[t], acc[t]);
}

INLINE void few_tokens(const moe_type type, const int planes, const int n_tokens,
                       const moe_matrix *w, int64_t group_begin, int64_t group_end,
                       const moe_activations *x, const int32_t *rows, float *y, int64_t ldy)
{
    const size_t group_bytes = moe_packed_group_bytes(type, w->n_cols);
    const int64_t n_blocks = w->n_cols / MOE_QUANT_SUPER;
    const int64_t most = blocks_per_stretch(planes, n_tokens, n_blocks);
    const bool fetch = wants_prefetch();
    stretch s;

    for (int64_t first = 0, n; first < n_blocks; first += n) {
        n = n_blocks - first < most ? n_blocks - first : most;
        gather(type, planes, false, x, rows, n_tokens, first, n, &s);
        for (int64_t g = group_begin; g < group_end; g++) {
            const uint8_t *group = (const uint8_t *)w->packed + (size_t)g * group_bytes;
            const __mmask16 lanes = lanes_of(w, g);
            const int8_t *acts = s.acts;
            const super_terms *terms = s.terms;
            float *to = y + g * MOE_GROUP_ROWS;
            __m512 acc[FEW_TOKENS];

            UNROLL
            for (int t = 0; t < n_tokens; t++)
                acc[t] =
                    first == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, to + t * ldy);
            for (int64_t b = first; b < first + n; b++) {
                few_block(type, planes, n_tokens, group, b, acts, terms, fetch, acc);
                acts += MOE_QUANT_SUPER * planes * n_tokens;
                terms += n_tokens;
            }
            UNROLL
            for (int t = 0; t < n_tokens; t++)
                _mm512_mask_storeu_ps(to + t * ldy, lanes, acc[t]);
        }
    }
}

/* --- many tokens --------------------------------------------------------------------------------
 */

/* A super-block of a group, widened. */
typedef struct wide_block {
    __m512i codes[2 * LANE_CODES]; /* bytes, or words times their scales in scale_unit's order */
    __m512i scales[16];            /* with bytes: per sub-block */
    __m512i factors[8];            /* min_factors */
    __m512 d, minus_m;
} wide_block;

/* Unit u to sixteen vectors of words sc * (code - bias): the even bytes of the unit's eight
 * vectors, then the odd ones. */
INLINE void scale_unit(const moe_type type, const __m512i w[8], const __m512i *scales, int u,
                       __m512i to[16])
{
    const int n_sub = type == MOE_TYPE_Q6_K ? 2 : 1, n = 8 / n_sub;

    UNROLL
    for (int i = 0; i < n_sub; i++) {
        const __m512i sc = scales[n_sub * u + i];
        /* As a byte beside a zero, a scale picks the even or the odd codes. */
        const __m512i byte = _mm512_and_si512(sc, _mm512_set1_epi32(255));
        const __m512i even = _mm512_or_si512(byte, _mm512_slli_epi32(byte, 16));
        const __m512i odd = _mm512_slli_epi16(even, 8);
        /* The bias, 32, times the scale. */
        const __m512i bias = _mm512_srai_epi16(odd, 3);

        UNROLL
        for (int v = n * i; v < n * i + n; v++) {
            to[v] = _mm512_maddubs_epi16(w[v], even);
            to[v + 8] = _mm512_maddubs_epi16(w[v], odd);
            if (type == MOE_TYPE_Q6_K) {
                to[v] = _mm512_sub_epi16(to[v], bias);
                to[v + 8] = _mm512_sub_epi16(to[v + 8], bias);
            }
        }
    }
}

INLINE void widen_block(const moe_type type, const int planes, const uint8_t *group, int64_t block,
                        wide_block *w)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const uint8_t *scales = group + moe_quant_body(form, block);
    const uint8_t *p = scales + moe_quant_scale_bytes(form);

    w->d = load_d(type, group, block);
    if (form.has_min) {
        __m512i six[4];

        widen_six_bits(scales, six);
        UNROLL
        for (int j = 0; j < 8; j++)
            w->scales[j] = byte_of_lane(six[j / 4], j % 4);
        UNROLL
        for (int i = 0; i < 4 * planes; i++)
            w->factors[i] = min_factors(planes, six + 2, i);
        w->minus_m = load_minus_m(type, group, block);
    } else {
        UNROLL
        for (int j = 0; j < 16; j++)
            w->scales[j] = signed_scale(scales, j);
    }
    for (int u = 0; u < CHUNK_UNITS; u++, p += moe_quant_unit_bytes(form)) {
        __m512i bytes[8];

        widen_unit(form.bits, p, bytes);
        if (planes == 2) {
            scale_unit(type, bytes, w->scales, u, &w->codes[16 * u]);
            continue;
        }
        UNROLL
        for (int v = 0; v < 8; v++)
            w->codes[8 * u + v] = bytes[v];
    }
    /* What comes next is wanted when the batch has passed, too late for the processor to guess. */
    for (size_t i = 0; i < moe_quant_body_bytes(form) + MOE_QUANT_VECTOR; i += 64)
        _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

/* n_tokens <= TILE_BYTES rows of bytes with a block whose sub-blocks are n vectors of codes. */
INLINE void tile_bytes(const int n, const bool has_min, const int n_tokens, const wide_block *w,
                       const int8_t *acts, const super_terms *terms, __m512 *acc)
{
    const __m512i *codes = w->codes;
    __m512i total[TILE_BYTES];

    UNROLL
    for (int t = 0; t < n_tokens; t++)
        total[t] = _mm512_setzero_si512();
    for (int j = 0; j < LANE_CODES / n; j++, codes += n, acts += 4 * n) {
        __m512i sum[TILE_BYTES];

        /* What is read lies at constant distances from these: without this the compiler keeps an
         * address for each token. */
        __asm__("" : "+r"(codes), "+r"(acts));
        UNROLL
        for (int t = 0; t < n_tokens; t++)
            sum[t] = has_min ? _mm512_setzero_si512() : _mm512_set1_epi32(terms[t].ints[j]);
        UNROLL
        for (int v = 0; v < n; v++) {
            UNROLL
            for (int t = 0; t < n_tokens; t++)
                sum[t] = dot4(sum[t], codes[v], acts + MOE_QUANT_SUPER * t + 4 * v);
        }
        UNROLL
        for (int t = 0; t < n_tokens; t++)
            total[t] = _mm512_add_epi32(total[t], _mm512_mullo_epi32(sum[t], w->scales[j]));
    }
    UNROLL
    for (int t = 0; t < n_tokens; t++)
        acc[t] = finish(has_min, 1, w->d, w->minus_m, w->factors, &terms[t], total[t], acc[t]);
}

/* n_tokens <= TILE_WORDS rows of words with a block of words. */
INLINE void tile_words(const bool has_min, const int n_tokens, const wide_block *w,
                       const int8_t *acts, const super_terms *terms, __m512 *acc)
{
    const __m512i *codes = w->codes;
    __m512i sum[TILE_WORDS];

    UNROLL
    for (int t = 0; t < n_tokens; t++)
        sum[t] = _mm512_setzero_si512();
    for (int u = 0; u < CHUNK_UNITS; u++, codes += 16, acts += 64) {
        __asm__("" : "+r"(codes), "+r"(acts)); /* as in tile_bytes */
        UNROLL
        for (int v = 0; v < 16; v++) {
            UNROLL
            for (int t = 0; t < n_tokens; t++)
                sum[t] = dot2(sum[t], codes[v], acts + 2 * MOE_QUANT_SUPER * t + 4 * v);
        }
    }
    UNROLL
    for (int t = 0; t < n_tokens; t++)
        acc[t] = finish(has_min, 2, w->d, w->minus_m, w->factors, &terms[t], sum[t], acc[t]);
}

/* All rows of a batch with a block.  Once widened, Q5_K is as Q4_K. */
#define TILE(n, call)                                                                              \
    if (n_tokens >= (n)) {                                                                         \
        call;                                                                                      \
        acts += row_bytes * (n), terms += (n), acc += (n), n_tokens -= (n);                        \
        continue;                                                                                  \
    }
#define PASS_BYTES(name, n_vectors, has_min)                                                       \
    static void name(const wide_block *w, const int8_t *acts, const super_terms *terms,            \
                     int64_t n_tokens, __m512 *acc)                                                \
    {                                                                                              \
        const int row_bytes = MOE_QUANT_SUPER;                                                     \
                                                                                                   \
        while (n_tokens > 0) {                                                                     \
            TILE(12, tile_bytes(n_vectors, has_min, 12, w, acts, terms, acc))                      \
            TILE(8, tile_bytes(n_vectors, has_min, 8, w, acts, terms, acc))                        \
            TILE(6, tile_bytes(n_vectors, has_min, 6, w, acts, terms, acc))                        \
            TILE(4, tile_bytes(n_vectors, has_min, 4, w, acts, terms, acc))                        \
            TILE(2, tile_bytes(n_vectors, has_min, 2, w, acts, terms, acc))                        \
            TILE(1, tile_bytes(n_vectors, has_min, 1, w, acts, terms, acc))                        \
        }                                                                                          \
    }
#define PASS_WORDS(name, has_min)                                                                  \
    static void name(const wide_block *w, const int8_t *acts, const super_terms *terms,            \
                     int64_t n_tokens, __m512 *acc)                                                \
    {                                                                                              \
        const int row_bytes = 2 * MOE_QUANT_SUPER;                                                 \
                                                                                                   \
        while (n_tokens > 0) {                                                                     \
            TILE(24, tile_words(has_min, 24, w, acts, terms, acc))                                 \
            TILE(16, tile_words(has_min, 16, w, acts, terms, acc))                                 \
            TILE(12, tile_words(has_min, 12, w, acts, terms, acc))                                 \
            TILE(8, tile_words(has_min, 8, w, acts, terms, acc))                                   \
            TILE(6, tile_words(has_min, 6, w, acts, terms, acc))                                   \
            TILE(4, tile_words(has_min, 4, w, acts, terms, acc))                                   \
            TILE(2, tile_words(has_min, 2, w, acts, terms, acc))                                   \
            TILE(1, tile_words(has_min, 1, w, acts, terms, acc))                                   \
        }                                                                                          \
    }
PASS_BYTES(pass_bytes_min, 8, true)
PASS_BYTES(pass_bytes_q6_k, 4, false)
PASS_WORDS(pass_words_min, true)
PASS_WORDS(pass_words_q6_k, false)
#undef PASS_BYTES
#undef PASS_WORDS
#undef TILE

INLINE void many_tokens(const moe_type type, const int planes, const moe_matrix *w,
                        int64_t group_begin, int64_t group_end, const moe_activations *x,
                        const int32_t *rows, int64_t n_tokens, float *y, int64_t ldy)
{
    const bool has_min = moe_quant_form_of(type).has_min;
    const size_t group_bytes = moe_packed_group_bytes(type, w->n_cols);
    const int64_t n_blocks = w->n_cols / MOE_QUANT_SUPER;
    const int64_t most = blocks_per_stretch(planes, n_tokens, n_blocks);
    stretch s;

    for (int64_t first = 0, n; first < n_blocks; first += n) {
        n = n_blocks - first < most ? n_blocks - first : most;
        gather(type, planes, planes == 2, x, rows, n_tokens, first, n, &s);
        for (int64_t g = group_begin; g < group_end; g++) {
            const uint8_t *group = (const uint8_t *)w->packed + (size_t)g * group_bytes;
            const __mmask16 lanes = lanes_of(w, g);
            const int8_t *acts = s.acts;
            const super_terms *terms = s.terms;
            float *to = y + g * MOE_GROUP_ROWS;
            __m512 acc[MOST_TOKENS];
            wide_block wide;

            for (int64_t t = 0; t < n_tokens; t++) {
                acc[t] =
                    first == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, to + t * ldy);
                _mm_prefetch((const char *)(to + t * ldy), _MM_HINT_T0);
            }
            for (int64_t b = first; b < first + n; b++) {
                widen_block(type, planes, group, b, &wide);
                if (planes == 1)
                    (has_min ? pass_bytes_min : pass_bytes_q6_k)(&wide, acts, terms, n_tokens, acc);
                else
                    (has_min ? pass_words_min : pass_words_q6_k)(&wide, acts, terms, n_tokens, acc);
                acts += MOE_QUANT_SUPER * planes * n_tokens;
                terms += n_tokens;
            }
            for (int64_t t = 0; t < n_tokens; t++)
                _mm512_mask_storeu_ps(to + t * ldy, lanes, acc[t]);
        }
    }
}

/* --- all ways ------------------------------------------------------------------------------------
 */

INLINE void batch(const moe_type type, const int planes, const moe_matrix *w, int64_t group_begin,
                  int64_t group_end, const moe_activations *x, const int32_t *rows,
                  int64_t n_tokens, float *y, int64_t ldy)
{
    switch (n_tokens) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        few_tokens(type, planes, n, w, group_begin, group_end, x, rows, y, ldy);                   \
        break
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
        CASE(FEW_TOKENS);
#undef CASE
    default:
        many_tokens(type, planes, w, group_begin, group_end, x, rows, n_tokens, y, ldy);
    }
}

static void typed_batch(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                        const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                        int64_t ldy)
{
    switch (w->type) {
#define CASE(type)                                                                                 \
    case type:                                                                                     \
        if (x->b256.lo == NULL)                                                                    \
            batch(type, 1, w, group_begin, group_end, x, rows, n_tokens, y, ldy);                  \
        else                                                                                       \
            batch(type, 2, w, group_begin, group_end, x, rows, n_tokens, y, ldy);                  \
        break
        CASE(MOE_TYPE_Q4_K);
        CASE(MOE_TYPE_Q5_K);
        CASE(MOE_TYPE_Q6_K);
#undef CASE
    default:
        break;
    }
}

void moe_matmul_super_avx512(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                             const moe_activations *x, const int32_t *rows, int64_t n_tokens,
                             float *y, int64_t ldy)
{
    int32_t list[MOST_TOKENS];

    for (int64_t t = 0, n; t < n_tokens; t += n, y += n * ldy) {
        n = even_part(n_tokens - t, MOST_TOKENS, TILE_WORDS);
        for (int64_t i = 0; i < n; i++)
            list[i] = rows ? rows[t + i] : (int32_t)(t + i);
        typed_batch(w, group_begin, group_end, x, list, n, y, ldy);
    }
}
