/*
 * Quantised kernels for AVX-512 with VNNI: one 32-bit lane per output row.
 *
 * vpdpbusd multiplies four unsigned codes of a row with four signed bytes that all lanes share.  A
 * unit of 32 columns takes eight of them with 8-bit activations, and sixteen with the two planes of
 * 15 bits.  Sums within a block are exact in int32; scales, bias and minima are applied per block.
 * The float steps are those of quant_scalar.c.  Types with blocks of 256 columns have a file of
 * their own, quant_super_avx512.c.
 *
 * Two ways through a matrix:
 *   few tokens   (decode) every group is read once from memory and its codes are widened in
 *                registers;
 *   many tokens  (prefill) the activations of a batch of tokens and a chunk of 256 columns are
 *                gathered; codes and scales of the chunk are widened for two groups at a time, and
 *                the batch passes over them, up to twelve tokens together.  Results add up in y.
 *
 * Many tokens with two planes meet words: the two planes put together are one, a code less its bias
 * is another.  vpdpwssd multiplies pairs of them, sixteen times per unit, and neither planes nor
 * bias are left to be added to the sums.  A vector of codes, four bytes to a lane, becomes one of
 * its even and one of its odd bytes; activations stand in pairs to match.
 *
 * Many tokens of one plane, with types that have no minima, have a file too, quant_bytes_avx512.c.
 *
 * All add the same numbers in the same order: a result does not depend on the way.
 *
 * Functions that take a type, a number of tokens or of groups are inlined into callers that give
 * constants; what depends on them is decided by the compiler.
 */
#include <string.h>

#include "quant_chunk_avx512.h"

#define TILE_TOKENS 12    /* tokens whose sums are in registers together */
#define FEW_TOKENS 5      /* up to so many tokens the codes are widened in registers */
#define TURN_GROUPS 16    /* groups that two halves of tokens pass over in turns */
#define STRETCH_CHUNKS 32 /* chunks whose terms are prepared together for few tokens */

/* One token's activations of a chunk. */
typedef struct token_row {
    const int8_t *planes[2];
    const token_terms *terms;
} token_row;

/* Four bytes to all lanes. */
INLINE __m512i broadcast4(const void *p)
{
    int32_t v;

    __builtin_memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
}

/* --- few tokens: one group, straight from its packed form ------------------------------------- */

/* Adds n vectors of codes times 4n activations of each token, in one plane. */
INLINE void dot_plane(const int n_tokens, const int n, const __m512i w[], const token_row a[],
                      const int plane, int column, __m512i sum[])
{
    UNROLL
    for (int v = 0; v < n; v++) {
        UNROLL
        for (int t = 0; t < n_tokens; t++)
            sum[t] =
                _mm512_dpbusd_epi32(sum[t], w[v], broadcast4(a[t].planes[plane] + column + 4 * v));
    }
}

/* The planes have sums of their own, so that chains of additions are short. */
INLINE void dot(const int planes, const int n_tokens, const int n, const __m512i w[],
                const token_row a[], int column, __m512i sum[])
{
    __m512i low[FEW_TOKENS];

    UNROLL
    for (int t = 0; t < n_tokens; t++)
        sum[t] = low[t] = _mm512_setzero_si512();
    dot_plane(n_tokens, n, w, a, 0, column, sum);
    if (planes == 1)
        return;
    dot_plane(n_tokens, n, w, a, 1, column, low);
    UNROLL
    for (int t = 0; t < n_tokens; t++)
        sum[t] = _mm512_add_epi32(_mm512_slli_epi32(sum[t], 7), low[t]);
}

/* Adds unit u of a chunk, a block with codes w, to acc. */
INLINE void add_unit(const moe_type type, const int planes, const int n_tokens, const __m512i w[],
                     const chunk_scales *s, const token_row a[], int u, __m512 acc[])
{
    __m512i sum[FEW_TOKENS];

    dot(planes, n_tokens, 8, w, a, MOE_QUANT_UNIT * u, sum);
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        if (!moe_quant_form_of(type).has_min)
            sum[t] = _mm512_add_epi32(sum[t], _mm512_set1_epi32(a[t].terms->ints[u]));
        acc[t] = add_block_32(type, s, a[t].terms, u, _mm512_cvtepi32_ps(sum[t]), acc[t]);
    }
}

/* The units of one chunk, from block `block` on, to acc. */
INLINE void add_packed_chunk(const moe_type type, const int planes, const int n_tokens,
                             const uint8_t *packed, int64_t block, int n_units, const token_row a[],
                             const bool fetch, __m512 acc[])
{
    const moe_quant_form form = moe_quant_form_of(type);
    chunk_scales s;

    load_scales(type, planes, packed, block, n_units, &s);
    for (int u = 0; u < n_units; u++) {
        const uint8_t *p = unit_of(type, packed, block, u);
        __m512i w[8];

        if (fetch)
            prefetch_ahead(p, moe_quant_unit_bytes(form));
        widen_unit(form.bits, p, w);
        add_unit(type, planes, n_tokens, w, &s, a, u, acc);
    }
}

/* n_tokens <= FEW_TOKENS tokens with groups [group_begin, group_end), a stretch of columns after
 * the other, so that the terms of the activations are prepared once for all groups. */
INLINE void few_tokens(const moe_type type, const int planes, const int n_tokens,
                       const moe_matrix *w, int64_t group_begin, int64_t group_end,
                       const moe_activations *x, const int32_t *rows, float *y, int64_t ldy)
{
    const int blocks_per_chunk = CHUNK_COLUMNS / moe_quant_form_of(type).columns;
    const size_t group_bytes = moe_packed_group_bytes(type, w->n_cols);
    const int64_t n_chunks = (w->n_cols + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS;
    const bool fetch = wants_prefetch();
    token_terms terms[STRETCH_CHUNKS][FEW_TOKENS];

    for (int64_t first = 0; first < n_chunks; first += STRETCH_CHUNKS) {
        const int64_t end = n_chunks - first < STRETCH_CHUNKS ? n_chunks : first + STRETCH_CHUNKS;

        for (int64_t c = first; c < end; c++)
            for (int t = 0; t < n_tokens; t++)
                load_terms(type, planes, x, rows ? rows[t] : t, c, units_of(w, c),
                           &terms[c - first][t]);
        for (int64_t g = group_begin; g < group_end; g++) {
            const uint8_t *packed = (const uint8_t *)w->packed + (size_t)g * group_bytes;
            const __mmask16 lanes = lanes_of(w, g);
            float *to = y + g * MOE_GROUP_ROWS;
            __m512 acc[FEW_TOKENS];

            UNROLL
            for (int t = 0; t < n_tokens; t++)
                acc[t] =
                    first == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, to + t * ldy);
            for (int64_t c = first; c < end; c++) {
                token_row a[FEW_TOKENS];

                UNROLL
                for (int t = 0; t < n_tokens; t++) {
                    planes_of(type, planes, x, rows ? rows[t] : t, c, a[t].planes);
                    a[t].terms = &terms[c - first][t];
                }
                add_packed_chunk(type, planes, n_tokens, packed, c * blocks_per_chunk,
                                 units_of(w, c), a, fetch, acc);
            }
            UNROLL
            for (int t = 0; t < n_tokens; t++)
                _mm512_mask_storeu_ps(to + t * ldy, lanes, acc[t]);
        }
    }
}

/* --- many tokens: tiles of two groups and a chunk, for a batch of tokens ------------------------
 */

/* A chunk of two groups, widened: eight vectors of bytes or sixteen of words for a unit. */
typedef struct pair_tile {
    __m512i codes[2][16 * CHUNK_UNITS];
    chunk_scales scales[2];
    int64_t group[2];
    __mmask16 lanes[2];
    int n_units;
} pair_tile;

/* Unit u of both groups times the activations of tokens [token, token + n_tokens). */
INLINE void dot_pair(const int n_tokens, const pair_tile *w, int u, const chunk_acts *a, int token,
                     __m512i sum[][2])
{
    const int8_t *from = a->planes[token][0] + MOE_QUANT_UNIT * u;
    const __m512i *codes[2] = {w->codes[0] + 8 * u, w->codes[1] + 8 * u};

    /* What is read lies at constant distances from these: without this the compiler keeps an
     * address for each token. */
    __asm__("" : "+r"(from), "+r"(codes[0]), "+r"(codes[1]));
    UNROLL
    for (int t = 0; t < n_tokens; t++)
        sum[t][0] = sum[t][1] = _mm512_setzero_si512();
    UNROLL
    for (int v = 0; v < 8; v++) {
        __m512i w0 = codes[0][v], w1 = codes[1][v];

        UNROLL
        for (int t = 0; t < n_tokens; t++) {
            const int8_t *x = from + 2 * t * CHUNK_COLUMNS + 4 * v;

            sum[t][0] = dot4(sum[t][0], w0, x);
            sum[t][1] = dot4(sum[t][1], w1, x);
        }
    }
}

/* Where the results of token t and group g of a tile are. */
INLINE float *place_of(const pair_tile *w, int t, int g, float *y, int64_t ldy)
{
    return y + t * ldy + w->group[g] * MOE_GROUP_ROWS;
}

/* sums (n_tokens, both groups) = unit u of a tile, in words, times tokens [token, token + n_tokens)
 * of a batch, in words as well, added to what is there. */
INLINE void add_words(const int n_tokens, const pair_tile *w, const chunk_acts *a, int token, int u,
                      __m512i sum[][2])
{
    const int16_t *from = a->words[token] + 32 * u;
    const __m512i *codes[2] = {w->codes[0] + 16 * u, w->codes[1] + 16 * u};

    __asm__("" : "+r"(from), "+r"(codes[0]), "+r"(codes[1])); /* as in dot_pair */
    UNROLL
    for (int v = 0; v < 16; v++) {
        __m512i w0 = codes[0][v], w1 = codes[1][v];

        UNROLL
        for (int t = 0; t < n_tokens; t++) {
            const int16_t *x = from + t * CHUNK_COLUMNS + 2 * v;

            sum[t][0] = dot2(sum[t][0], w0, x);
            sum[t][1] = dot2(sum[t][1], w1, x);
        }
    }
}

/* Words of tokens [token, token + n_tokens) of a batch with a tile: y += products.  The results are
 * in memory where the sums need the registers. */
INLINE void tile_words(const moe_type type, const int n_tokens, const pair_tile *w,
                       const chunk_acts *a, int token, bool is_first_chunk, float *y, int64_t ldy)
{
    const bool in_memory = n_tokens > TILE_TOKENS / 2;
    const __mmask16 lanes[2] = {w->lanes[0], w->lanes[1]};
    float *const to[2] = {place_of(w, 0, 0, y, ldy), place_of(w, 0, 1, y, ldy)};
    const token_terms *terms = &a->terms[token];
    __m512 results[TILE_TOKENS][2], (*acc)[2] = results;

    if (in_memory)
        __asm__("" : "+r"(acc));
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        UNROLL
        for (int g = 0; g < 2; g++)
            acc[t][g] = is_first_chunk ? _mm512_setzero_ps()
                                       : _mm512_maskz_loadu_ps(lanes[g], to[g] + t * ldy);
    }
    for (int u = 0; u < w->n_units; u++) {
        __m512i sum[TILE_TOKENS][2];

        UNROLL
        for (int t = 0; t < n_tokens; t++)
            sum[t][0] = sum[t][1] = _mm512_setzero_si512();
        add_words(n_tokens, w, a, token, u, sum);
        if (in_memory) /* or the compiler would move them to registers, and sums to memory */
            __asm__("" : "+r"(terms) : : "memory");
        UNROLL
        for (int t = 0; t < n_tokens; t++) {
            UNROLL
            for (int g = 0; g < 2; g++)
                acc[t][g] = add_block_32(type, &w->scales[g], &terms[t], u,
                                         _mm512_cvtepi32_ps(sum[t][g]), acc[t][g]);
        }
    }
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        UNROLL
        for (int g = 0; g < 2; g++)
            _mm512_mask_storeu_ps(to[g] + t * ldy, lanes[g], acc[t][g]);
    }
}

/* Bytes of tokens [token, token + n_tokens) of a batch with a tile: y += products.  The results are
 * in memory, since all registers hold sums. */
INLINE void tile_bytes(const moe_type type, const int n_tokens, const pair_tile *w,
                       const chunk_acts *a, int token, bool is_first_chunk, float *y, int64_t ldy)
{
    __m512 results[TILE_TOKENS][2], (*acc)[2] = results;

    __asm__("" : "+r"(acc)); /* keeps the compiler from holding them in registers */
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        UNROLL
        for (int g = 0; g < 2; g++)
            acc[t][g] = is_first_chunk
                            ? _mm512_setzero_ps()
                            : _mm512_maskz_loadu_ps(w->lanes[g], place_of(w, t, g, y, ldy));
    }
    for (int u = 0; u < w->n_units; u++) {
        __m512i sum[TILE_TOKENS][2];

        dot_pair(n_tokens, w, u, a, token, sum);
        UNROLL
        for (int t = 0; t < n_tokens; t++) {
            UNROLL
            for (int g = 0; g < 2; g++)
                acc[t][g] = add_block_32(type, &w->scales[g], &a->terms[token + t], u,
                                         _mm512_cvtepi32_ps(sum[t][g]), acc[t][g]);
        }
    }
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        UNROLL
        for (int g = 0; g < 2; g++)
            _mm512_mask_storeu_ps(place_of(w, t, g, y, ldy), w->lanes[g], acc[t][g]);
    }
}

/* How many of n tokens to take together. */
INLINE int next_tile(int n)
{
    if (n == TILE_TOKENS || n >= 2 * TILE_TOKENS)
        return TILE_TOKENS;
    return n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
}

/* All tokens of a batch with a tile.  Once widened, types that differ in the width of their codes
 * or in the bias only are alike: Q4_0 and Q5_0 pass as Q8_0, and Q5_1 as Q4_1. */
#define PASS(name, tile, type)                                                                     \
    static void name(const pair_tile *w, const chunk_acts *a, int n_tokens, bool is_first_chunk,   \
                     float *y, int64_t ldy)                                                        \
    {                                                                                              \
        for (int t = 0, n; t < n_tokens; t += n, y += n * ldy) {                                   \
            n = next_tile(n_tokens - t);                                                           \
            if (n == TILE_TOKENS)                                                                  \
                tile(type, TILE_TOKENS, w, a, t, is_first_chunk, y, ldy);                          \
            else if (n == 8)                                                                       \
                tile(type, 8, w, a, t, is_first_chunk, y, ldy);                                    \
            else if (n == 4)                                                                       \
                tile(type, 4, w, a, t, is_first_chunk, y, ldy);                                    \
            else if (n == 2)                                                                       \
                tile(type, 2, w, a, t, is_first_chunk, y, ldy);                                    \
            else                                                                                   \
                tile(type, 1, w, a, t, is_first_chunk, y, ldy);                                    \
        }                                                                                          \
    }
PASS(pass_words, tile_words, MOE_TYPE_Q8_0)
PASS(pass_words_min, tile_words, MOE_TYPE_Q4_1)
PASS(pass_bytes_min, tile_bytes, MOE_TYPE_Q4_1)
#undef PASS

/* Unit p to sixteen vectors of words, code - bias: the even bytes of the unit's eight vectors, then
 * the odd ones. */
INLINE void spread_unit(const moe_type type, const uint8_t *p, __m512i to[16])
{
    const moe_quant_form form = moe_quant_form_of(type);
    const __m512i low = _mm512_set1_epi16(255), bias = _mm512_set1_epi16((int16_t)form.bias);
    __m512i w[8];

    widen_unit(form.bits, p, w);
    UNROLL
    for (int v = 0; v < 8; v++) {
        to[v] = _mm512_sub_epi16(_mm512_and_si512(w[v], low), bias);
        to[v + 8] = _mm512_sub_epi16(_mm512_srli_epi16(w[v], 8), bias);
    }
}

/* As gather_token, but the planes are put together to words, in the order of spread_unit: columns
 * 4v and 4v + 2 of a unit for all v, then 4v + 1 and 4v + 3. */
INLINE void gather_words(const moe_type type, const moe_activations *x, int64_t row, int64_t chunk,
                         int n_units, chunk_acts *a, int t)
{
    const __m512i evens_first =
        _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 30, 28, 26, 24,
                         22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const int8_t *from[2];

    planes_of(type, 2, x, row, chunk, from);
    for (int u = 0; u < n_units; u++) {
        __m512i hi = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(from[0] + 32 * u)));
        __m512i lo = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(from[1] + 32 * u)));
        __m512i words = _mm512_add_epi16(_mm512_slli_epi16(hi, 7), lo);

        _mm512_store_si512(a->words[t] + 32 * u, _mm512_permutexvar_epi16(evens_first, words));
    }
    load_terms(type, 2, x, row, chunk, n_units, &a->terms[t]);
}

/* One chunk of a batch with groups [group_begin, group_end). */
INLINE void batch_chunk(const moe_type type, const int planes, const moe_matrix *w,
                        int64_t group_begin, int64_t group_end, const chunk_acts *a, int n_tokens,
                        int64_t chunk, float *y, int64_t ldy)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const size_t group_bytes = moe_packed_group_bytes(w->type, w->n_cols);
    const int64_t block = chunk * (CHUNK_COLUMNS / form.columns);
    pair_tile tile;

    tile.n_units = units_of(w, chunk); /* the rest is set as far as it is used */

    for (int64_t g = group_begin; g < group_end; g += 2) {
        for (int i = 0; i < 2; i++) {
            /* The last group of an odd number is taken twice. */
            const int64_t group = g + i < group_end ? g + i : g;
            const uint8_t *packed = (const uint8_t *)w->packed + (size_t)group * group_bytes;

            tile.group[i] = group;
            tile.lanes[i] = lanes_of(w, group);
            load_scales(type, planes, packed, block, tile.n_units, &tile.scales[i]);
            for (int u = 0; u < tile.n_units; u++) {
                const uint8_t *p = unit_of(type, packed, block, u);

                if (planes == 1)
                    widen_unit(form.bits, p, &tile.codes[i][8 * u]);
                else
                    spread_unit(type, p, &tile.codes[i][16 * u]);
            }
            if (group + 2 < group_end)
                prefetch_chunk(type, packed + 2 * group_bytes, block, tile.n_units);
        }
        if (planes == 1)
            pass_bytes_min(&tile, a, n_tokens, chunk == 0, y, ldy);
        else
            (form.has_min ? pass_words_min : pass_words)(&tile, a, n_tokens, chunk == 0, y, ldy);
    }
}

/* Batch by batch and chunk by chunk. */
INLINE void many_tokens(const moe_type type, const int planes, const moe_matrix *w,
                        int64_t group_begin, int64_t group_end, const moe_activations *x,
                        const int32_t *rows, int64_t n_tokens, float *y, int64_t ldy)
{
    const int64_t n_chunks = (w->n_cols + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS;
    chunk_acts a;

    for (int64_t t = 0, n; t < n_tokens; t += n) {
        n = even_part(n_tokens - t, BATCH_TOKENS, TILE_TOKENS);
        for (int64_t c = 0; c < n_chunks; c++) {
            for (int64_t i = 0; i < n; i++) {
                const int64_t row = rows ? rows[t + i] : t + i;

                if (planes == 2)
                    gather_words(type, x, row, c, units_of(w, c), &a, (int)i);
                else
                    gather_token(type, planes, x, row, c, units_of(w, c), &a, (int)i);
            }
            batch_chunk(type, planes, w, group_begin, group_end, &a, (int)n, c, y + t * ldy, ldy);
        }
    }
}

INLINE void matmul(const moe_type type, const int planes, const moe_matrix *w, int64_t group_begin,
                   int64_t group_end, const moe_activations *x, const int32_t *rows,
                   int64_t n_tokens, float *y, int64_t ldy)
{
    if (n_tokens > FEW_TOKENS) {
        if (planes == 1 && !moe_quant_form_of(type).has_min)
            moe_matmul_bytes_avx512(w, group_begin, group_end, x, rows, n_tokens, y, ldy);
        else
            many_tokens(type, planes, w, group_begin, group_end, x, rows, n_tokens, y, ldy);
        return;
    }
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
    }
}

void moe_matmul_quant_avx512(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                             const moe_activations *x, const int32_t *rows, int64_t n_tokens,
                             float *y, int64_t ldy)
{
    if (moe_quant_form_of(w->type).columns == MOE_QUANT_SUPER) {
        moe_matmul_super_avx512(w, group_begin, group_end, x, rows, n_tokens, y, ldy);
        return;
    }
    /* Somewhat more than few go in two halves over some groups at a time, which the second half
     * finds in the cache. */
    if (n_tokens > FEW_TOKENS && n_tokens <= 2 * FEW_TOKENS) {
        const int64_t half = (n_tokens + 1) / 2;
        int32_t list[2 * FEW_TOKENS];

        for (int64_t t = 0; t < n_tokens; t++)
            list[t] = rows ? rows[t] : (int32_t)t;
        for (int64_t g = group_begin, end; g < group_end; g = end) {
            end = g + TURN_GROUPS < group_end ? g + TURN_GROUPS : group_end;
            moe_matmul_quant_avx512(w, g, end, x, list, half, y, ldy);
            moe_matmul_quant_avx512(w, g, end, x, list + half, n_tokens - half, y + half * ldy,
                                    ldy);
        }
        return;
    }
    switch (w->type) {
#define CASE(type)                                                                                 \
    case type:                                                                                     \
        if (x->b32.lo == NULL)                                                                     \
            matmul(type, 1, w, group_begin, group_end, x, rows, n_tokens, y, ldy);                 \
        else                                                                                       \
            matmul(type, 2, w, group_begin, group_end, x, rows, n_tokens, y, ldy);                 \
        break
        CASE(MOE_TYPE_Q8_0);
        CASE(MOE_TYPE_Q4_0);
        CASE(MOE_TYPE_Q4_1);
        CASE(MOE_TYPE_Q5_0);
        CASE(MOE_TYPE_Q5_1);
#undef CASE
    default:
        break;
    }
}

/* The scale of a block of n columns, and what its activations are multiplied with: see
 * quant_scalar.c.  0 for both if the block becomes zeros. */
INLINE float scale_of(const float *x, const int n, const float top, float *inverse)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i max = _mm512_setzero_si512();
    uint32_t max_bits;
    float amax;

    for (int i = 0; i < n; i += 16)
        max = _mm512_max_epu32(max, _mm512_and_si512(load(x + i), magnitude));
    max_bits = _mm512_reduce_max_epu32(max);
    __builtin_memcpy(&amax, &max_bits, sizeof amax);
    *inverse = 0.0f;
    if (max_bits >= 0x7f800000)
        return __builtin_nanf("");
    if (amax < 0x1p-113f)
        return 0.0f;
    *inverse = top / amax;
    return amax / top;
}

/* 16 activations to integers and their planes, or one plane if lo is NULL; returns the integers. */
INLINE __m512i split_16(const float *x, float inverse, int8_t *hi, int8_t *lo)
{
    __m512i q = _mm512_setzero_si512(), high;

    if (inverse != 0.0f)
        q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(inverse)));
    if (lo == NULL) {
        _mm_storeu_si128((__m128i *)hi, _mm512_cvtepi32_epi8(q));
        return q;
    }
    high = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(64)), 7);
    _mm_storeu_si128((__m128i *)hi, _mm512_cvtepi32_epi8(high));
    _mm_storeu_si128((__m128i *)lo,
                     _mm512_cvtepi32_epi8(_mm512_sub_epi32(q, _mm512_slli_epi32(high, 7))));
    return q;
}

/* One block of n = 32 or 256 columns; sums over `span` columns each. */
INLINE void quantize(const int n, const int span, const float *x, int8_t *hi, int8_t *lo, float *d,
                     int32_t *sums)
{
    float inverse;

    *d = scale_of(x, n, moe_quant_top(n, lo == NULL), &inverse);
    for (int i = 0; i < n; i += span) {
        __m512i sum = _mm512_setzero_si512();

        UNROLL
        for (int k = i; k < i + span; k += 16)
            sum = _mm512_add_epi32(sum, split_16(x + k, inverse, hi + k, lo ? lo + k : NULL));
        sums[i / span] = _mm512_reduce_add_epi32(sum);
    }
}

void moe_quantize_32_avx512(const float *x, int64_t n_cols, int8_t *hi, int8_t *lo, float *d,
                            int32_t *sums)
{
    for (int64_t b = 0; b < n_cols / 32; b++)
        quantize(32, 32, x + 32 * b, hi + 32 * b, lo ? lo + 32 * b : NULL, d + b, sums + b);
}

void moe_quantize_256_avx512(const float *x, int64_t n_cols, int8_t *hi, int8_t *lo, float *d,
                             int32_t *sums)
{
    for (int64_t b = 0; b < n_cols / 256; b++)
        quantize(256, 16, x + 256 * b, hi + 256 * b, lo ? lo + 256 * b : NULL, d + b,
                 sums + 16 * b);
}
