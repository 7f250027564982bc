/*
 * Products of quantised weights for AMX: many tokens with tiles of 16 tokens times 16 output rows.
 *
 * This is for types with blocks of 32 columns; quant_super_amx.c has those of 256.  A tile product
 * multiplies the activations of 16 tokens (16 rows of 32 bytes) with a unit of codes of a group,
 * which the packed layout already keeps as AMX wants it: four columns of 16 rows side by side.  Its
 * 256 sums are the exact integers of one block; activations of two planes take two.  The sums go
 * through memory to vector registers, one token each, lanes across output rows, where the float
 * steps of quant_scalar.c follow.  Meanwhile the tile unit computes the next blocks: it runs a few
 * steps ahead.
 *
 * For a batch of tokens and a chunk of 256 columns the activations are gathered once, then all
 * groups pass.  Results are added up in y itself.  A tile costs as many cycles as it has rows, so
 * fewer than 16 tokens take a lower one; the fewest take the AVX-512 kernels, which do without the
 * way through memory.  All give the same bits.
 */
#include <string.h>

#include "amx_tiles.h"
#include "quant_chunk_avx512.h"

#define TILE_TOKENS 16
#define MIN_TOKENS 11 /* below, reading the codes takes longer than multiplying */
#define LEAD 2        /* tile products whose sums are stored ahead of their use */
#define SUM_BUFFERS 4 /* at least LEAD + 1 */

/* Tile registers; for sums and codes two each that take turns. */
#define SUM_HI_0 0
#define SUM_HI_1 1
#define SUM_LO_0 2
#define SUM_LO_1 3
#define ACT_HI 4
#define ACT_LO 5
#define CODES_0 6
#define CODES_1 7

/* Sums n_rows x 64 bytes, activations n_rows x 32, codes 8 x 64. */
INLINE void configure(uint8_t n_rows)
{
    const moe_tile_shapes shapes = {
        .palette = 1,
        .bytes_per_row = {64, 64, 64, 64, 32, 32, 64, 64},
        .rows = {n_rows, n_rows, n_rows, n_rows, n_rows, n_rows, 8, 8},
    };

    _tile_loadconfig(&shapes);
}

/* The codes of a chunk of a group, less their bias, and its scales. */
typedef struct chunk_codes {
    __m512i codes[8 * CHUNK_UNITS];
    chunk_scales scales;
} chunk_codes;

INLINE void widen_chunk(const moe_type type, const int planes, const uint8_t *group, int64_t block,
                        int n_units, chunk_codes *c)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const __m512i bias = _mm512_set1_epi8((char)form.bias);

    load_scales(type, planes, group, block, n_units, &c->scales);
    for (int u = 0; u < n_units; u++) {
        __m512i w[8];

        widen_unit(form.bits, unit_of(type, group, block, u), w);
        UNROLL
        for (int v = 0; v < 8; v++)
            c->codes[8 * u + v] = form.bias ? _mm512_sub_epi8(w[v], bias) : w[v];
    }
}

/* A place in the sequence of steps: one step is a unit of a tile, units ascending. */
typedef struct place {
    int tile, unit;
} place;

/* One group and chunk with the tiles of a batch: the steps, and the sums on their way from tile to
 * vector registers. */
typedef struct pipeline {
    _Alignas(64) int32_t hi[SUM_BUFFERS][TILE_TOKENS][MOE_GROUP_ROWS];
    int32_t lo[SUM_BUFFERS][TILE_TOKENS][MOE_GROUP_ROWS];
    const chunk_acts *acts;
    const chunk_codes *codes;
    int n_units, n_steps;
    int produced, stored, used; /* steps so far */
    place next;                 /* to be produced */
} pipeline;

#define PRODUCE(b)                                                                                 \
    do {                                                                                           \
        _tile_zero(SUM_HI_##b);                                                                    \
        _tile_loadd(CODES_##b, p->codes->codes + 8 * p->next.unit, 64);                            \
        _tile_loadd(ACT_HI, hi, sizeof p->acts->planes[0]);                                        \
        _tile_dpbssd(SUM_HI_##b, ACT_HI, CODES_##b);                                               \
        if (planes == 2) {                                                                         \
            _tile_zero(SUM_LO_##b);                                                                \
            _tile_loadd(ACT_LO, hi + CHUNK_COLUMNS, sizeof p->acts->planes[0]);                    \
            _tile_dpbssd(SUM_LO_##b, ACT_LO, CODES_##b);                                           \
        }                                                                                          \
    } while (0)

/* The tile products of the next step. */
INLINE void produce(const int planes, pipeline *p)
{
    const int8_t *hi;

    if (p->produced == p->n_steps)
        return;
    hi = p->acts->planes[TILE_TOKENS * p->next.tile][0] + 32 * p->next.unit;
    if (p->produced++ % 2 == 0)
        PRODUCE(0);
    else
        PRODUCE(1);
    if (++p->next.unit == p->n_units)
        p->next = (place){p->next.tile + 1, 0};
}

/* The sums of the next step, from tile registers to memory. */
INLINE void store_sums(const int planes, pipeline *p)
{
    const int buffer = p->stored % SUM_BUFFERS;

    if (p->stored == p->n_steps)
        return;
    if (p->stored++ % 2 == 0) {
        _tile_stored(SUM_HI_0, p->hi[buffer], 64);
        if (planes == 2)
            _tile_stored(SUM_LO_0, p->lo[buffer], 64);
    } else {
        _tile_stored(SUM_HI_1, p->hi[buffer], 64);
        if (planes == 2)
            _tile_stored(SUM_LO_1, p->lo[buffer], 64);
    }
}

/* Goes to the next step, whose sums are then to be had from the buffer that is returned. */
INLINE int advance(const int planes, pipeline *p)
{
    produce(planes, p);
    store_sums(planes, p);
    return p->used++ % SUM_BUFFERS;
}

/* A token's sums. */
INLINE __m512 sums_of(const int planes, const pipeline *p, int buffer, int t)
{
    __m512i sum = load(p->hi[buffer][t]);

    if (planes == 2)
        sum = _mm512_add_epi32(_mm512_slli_epi32(sum, 7), load(p->lo[buffer][t]));
    return _mm512_cvtepi32_ps(sum);
}

/* Fetches a unit; returns where the next one is, or near it. */
INLINE const uint8_t *fetch_unit(const moe_type type, const uint8_t *p)
{
    const size_t bytes = moe_quant_unit_bytes(moe_quant_form_of(type));

    UNROLL
    for (size_t i = 0; i < bytes + 32; i += 64)
        _mm_prefetch((const char *)p + i, _MM_HINT_T0);
    return p + bytes + 32; /* heads lie between, of 64 bytes or, without minima, for two units */
}

/* One tile, of whose n_tokens tokens the first n count: y += products.  Meanwhile units from
 * `ahead` on are fetched, one after the other, if it is not NULL. */
INLINE void run_tile(const moe_type type, const int planes, const int n_tokens, int n, pipeline *p,
                     const token_terms terms[], bool is_first_chunk, __mmask16 lanes,
                     const uint8_t *ahead, float *y, int64_t ldy)
{
    __m512 acc[TILE_TOKENS];

    UNROLL
    for (int t = 0; t < n_tokens; t++)
        acc[t] = is_first_chunk || t >= n ? _mm512_setzero_ps()
                                          : _mm512_maskz_loadu_ps(lanes, y + t * ldy);
    for (int u = 0; u < p->n_units; u++) {
        const int buffer = advance(planes, p);

        if (ahead != NULL)
            ahead = fetch_unit(type, ahead);
        UNROLL
        for (int t = 0; t < n_tokens; t++)
            acc[t] = add_block_32(type, &p->codes->scales, &terms[t], u,
                                  sums_of(planes, p, buffer, t), acc[t]);
    }
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        if (t >= n)
            break;
        _mm512_mask_storeu_ps(y + t * ldy, lanes, acc[t]);
    }
}

/* A chunk of a batch of n_tokens tokens with groups [group_begin, group_end). */
INLINE void pass(const moe_type type, const int planes, const moe_matrix *w, int64_t group_begin,
                 int64_t group_end, const chunk_acts *a, int n_tokens, int64_t chunk, float *y,
                 int64_t ldy)
{
    const int64_t block = chunk * CHUNK_UNITS;
    const size_t group_bytes = moe_packed_group_bytes(w->type, w->n_cols);
    const int n_tiles = (n_tokens + TILE_TOKENS - 1) / TILE_TOKENS;
    const uint8_t *ahead;
    chunk_codes c;
    pipeline p;

    p.acts = a;
    p.codes = &c;
    p.n_units = units_of(w, chunk);
    p.n_steps = n_tiles * p.n_units;
    for (int64_t g = group_begin; g < group_end; g++) {
        const uint8_t *group = (const uint8_t *)w->packed + (size_t)g * group_bytes;
        float *to = y + g * MOE_GROUP_ROWS;

        widen_chunk(type, planes, group, block, p.n_units, &c);
        ahead = g + 1 < group_end ? unit_of(type, group + group_bytes, block, 0) : NULL;
        __asm__ volatile("" ::: "memory"); /* the compiler does not see what tile loads read */
        p.produced = p.stored = p.used = 0;
        p.next = (place){0, 0};
        produce(planes, &p);
        for (int i = 0; i < LEAD; i++) {
            produce(planes, &p);
            store_sums(planes, &p);
        }
        for (int t = 0; t < n_tokens; t += TILE_TOKENS) {
            int n = n_tokens - t < TILE_TOKENS ? n_tokens - t : TILE_TOKENS;

            switch ((n + 3) / 4) {
#define CASE(n_tokens)                                                                             \
    case n_tokens / 4:                                                                             \
        run_tile(type, planes, n_tokens, n, &p, a->terms + t, chunk == 0, lanes_of(w, g),          \
                 t == 0 ? ahead : NULL, to + t * ldy, ldy);                                        \
        break
                CASE(4);
                CASE(8);
                CASE(12);
                CASE(TILE_TOKENS);
#undef CASE
            }
        }
    }
}

INLINE void matmul(const moe_type type, const int planes, const moe_matrix *w, int64_t group_begin,
                   int64_t group_end, const moe_activations *x, const int32_t *rows,
                   int64_t n_tokens, float *y, int64_t ldy)
{
    const int64_t n_chunks = (w->n_cols + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS;
    chunk_acts a;

    configure(n_tokens < TILE_TOKENS ? (uint8_t)((n_tokens + 3) / 4 * 4) : TILE_TOKENS);
    for (int64_t t = 0, n, n_filled; t < n_tokens; t += n) {
        n = even_part(n_tokens - t, BATCH_TOKENS, TILE_TOKENS);
        n_filled = (n + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS;
        memset(a.planes[n], 0, (size_t)(n_filled - n) * sizeof a.planes[0]);
        memset(&a.terms[n], 0, (size_t)(n_filled - n) * sizeof a.terms[0]);
        for (int64_t c = 0; c < n_chunks; c++) {
            for (int64_t i = 0; i < n; i++)
                gather_token(type, planes, x, rows ? rows[t + i] : t + i, c, units_of(w, c), &a,
                             (int)i);
            pass(type, planes, w, group_begin, group_end, &a, (int)n, c, y + t * ldy, ldy);
        }
    }
    _tile_release();
}

void moe_matmul_quant_amx(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                          const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                          int64_t ldy)
{
    if (moe_quant_form_of(w->type).columns == MOE_QUANT_SUPER) {
        moe_matmul_super_amx(w, group_begin, group_end, x, rows, n_tokens, y, ldy);
        return;
    }
    if (n_tokens < MIN_TOKENS) {
        moe_matmul_quant_avx512(w, group_begin, group_end, x, rows, n_tokens, y, ldy);
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
