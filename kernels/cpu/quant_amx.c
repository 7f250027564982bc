/*
 * Quantised kernels for AMX: many tokens with tiles of 16 tokens times 16 output rows.
 *
 * A tile product multiplies the activations of 16 tokens (16 rows of 32 bytes, 16 in Q6_K) with a
 * unit of codes of a group, which the packed layout already keeps as AMX wants it: four columns of
 * 16 rows side by side.  It is cut as finely as the scales of the weights, so its 256 sums are the
 * exact integers of one block or sub-block, one tile for the high plane of the activations and one
 * for the low.  They go through memory to vector registers, one token each, lanes across output
 * rows, where the float steps of quant_scalar.c follow.  The tile unit computes the next sub-block
 * in the meantime: of two buffers for sums one is filled and the other read.
 *
 * For a batch of up to 64 tokens and a chunk of 256 columns the activations are gathered once, then
 * all groups pass.  Results are added up in y itself.  A tile has the same cost for one token as
 * for 16, so few tokens take the AVX-512 kernels; both give the same bits.
 */
#include <string.h>

#include "quant_chunk_avx512.h"

#define TILE_TOKENS 16
#define MIN_TOKENS 8  /* below, a tile is too empty */
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

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
} tile_config;

#define CONFIG(columns)                                                                            \
    {                                                                                              \
        .palette = 1, .bytes_per_row = {64, 64, 64, 64, columns, columns, 64, 64},                 \
        .rows = {16, 16, 16, 16, 16, 16, columns / 4, columns / 4},                                \
    }
static const tile_config config_32 = CONFIG(32), config_16 = CONFIG(16);

/* The codes of a chunk of a group, less their bias, and its scales. */
typedef struct chunk_codes {
    __m512i codes[8 * CHUNK_UNITS];
    chunk_scales scales;
} chunk_codes;

/* Sums of tile products on their way to vector registers. */
typedef struct tile_sums {
    _Alignas(64) int32_t hi[SUM_BUFFERS][TILE_TOKENS][MOE_GROUP_ROWS];
    int32_t lo[SUM_BUFFERS][TILE_TOKENS][MOE_GROUP_ROWS];
} tile_sums;

INLINE void widen_chunk(const moe_type type, const uint8_t *group, int64_t block, int n_units,
                        chunk_codes *c)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const __m512i bias = _mm512_set1_epi8((char)form.bias);

    load_scales(type, group, block, n_units, &c->scales);
    for (int u = 0; u < n_units; u++) {
        __m512i w[8];

        widen_unit(form.bits, unit_of(type, group, block, u), w);
        UNROLL
        for (int v = 0; v < 8; v++)
            c->codes[8 * u + v] = form.bias ? _mm512_sub_epi8(w[v], bias) : w[v];
    }
}

/* One group and chunk with the tiles of a batch.  A step is one sub-block of one tile: steps
 * [0, n_tiles * n_sub), sub-blocks ascending within a tile. */
typedef struct pipeline {
    const chunk_acts *acts;
    const chunk_codes *codes;
    int n_sub, n_steps;
    tile_sums sums;
} pipeline;

/* The tile products of a step, into tile registers SUM_*_b. */
#define PRODUCE(b, columns, tile, j)                                                               \
    do {                                                                                           \
        _tile_zero(SUM_HI_##b);                                                                    \
        _tile_zero(SUM_LO_##b);                                                                    \
        _tile_loadd(CODES_##b, p->codes->codes + (columns) / 4 * (j), 64);                         \
        _tile_loadd(ACT_HI, p->acts->planes[TILE_TOKENS * (tile)][0] + (columns) * (j),            \
                    2 * CHUNK_COLUMNS);                                                            \
        _tile_loadd(ACT_LO, p->acts->planes[TILE_TOKENS * (tile)][1] + (columns) * (j),            \
                    2 * CHUNK_COLUMNS);                                                            \
        _tile_dpbssd(SUM_HI_##b, ACT_HI, CODES_##b);                                               \
        _tile_dpbssd(SUM_LO_##b, ACT_LO, CODES_##b);                                               \
    } while (0)

INLINE void produce(const int columns, const pipeline *p, int step)
{
    if (step >= p->n_steps)
        return;
    if (step % 2 == 0)
        PRODUCE(0, columns, step / p->n_sub, step % p->n_sub);
    else
        PRODUCE(1, columns, step / p->n_sub, step % p->n_sub);
}

/* The sums of a step, from tile registers to memory. */
INLINE void store_sums(pipeline *p, int step)
{
    if (step >= p->n_steps)
        return;
    if (step % 2 == 0) {
        _tile_stored(SUM_HI_0, p->sums.hi[step % SUM_BUFFERS], 64);
        _tile_stored(SUM_LO_0, p->sums.lo[step % SUM_BUFFERS], 64);
    } else {
        _tile_stored(SUM_HI_1, p->sums.hi[step % SUM_BUFFERS], 64);
        _tile_stored(SUM_LO_1, p->sums.lo[step % SUM_BUFFERS], 64);
    }
}

/* Called before the sums of `step` are read: lets the tile unit run ahead. */
INLINE void advance(const int columns, pipeline *p, int step)
{
    produce(columns, p, step + LEAD + 1);
    store_sums(p, step + LEAD);
}

/* A token's sums of a step. */
INLINE __m512 sums_of(const pipeline *p, int step, int t)
{
    __m512i sum = _mm512_slli_epi32(load(p->sums.hi[step % SUM_BUFFERS][t]), 7);

    return _mm512_cvtepi32_ps(_mm512_add_epi32(sum, load(p->sums.lo[step % SUM_BUFFERS][t])));
}

/* acc += products of a super-block for n_tokens tokens of a tile. */
INLINE void add_sub_blocks(const moe_type type, const int n_tokens, pipeline *p, int tile,
                           __m512 acc[])
{
    const int columns = type == MOE_TYPE_Q6_K ? 16 : 32, n_sub = MOE_QUANT_SUPER / columns;
    const chunk_scales *scales = &p->codes->scales;
    __m512 total[TILE_TOKENS];

    UNROLL
    for (int t = 0; t < n_tokens; t++)
        total[t] = _mm512_setzero_ps();
    for (int j = 0; j < n_sub; j++) {
        const int step = tile * n_sub + j;

        advance(columns, p, step);
        UNROLL
        for (int t = 0; t < n_tokens; t++)
            total[t] = _mm512_fmadd_ps(sums_of(p, step, t), scales->sc[j], total[t]);
    }
    UNROLL
    for (int t = 0; t < n_tokens; t++)
        acc[t] = add_super_block(type, scales, p->acts->d[TILE_TOKENS * tile + t][0],
                                 p->acts->terms[TILE_TOKENS * tile + t], total[t], acc[t]);
}

/* The same for up to eight blocks of 32 columns. */
INLINE void add_blocks_32(const moe_type type, const int n_tokens, pipeline *p, int tile,
                          __m512 acc[])
{
    const chunk_scales *scales = &p->codes->scales;

    for (int j = 0; j < p->n_sub; j++) {
        const int step = tile * p->n_sub + j;

        advance(32, p, step);
        UNROLL
        for (int t = 0; t < n_tokens; t++) {
            const int token = TILE_TOKENS * tile + t;
            __m512 d_a = _mm512_set1_ps(p->acts->d[token][j]);

            acc[t] = _mm512_fmadd_ps(sums_of(p, step, t), _mm512_mul_ps(scales->d[j], d_a), acc[t]);
            if (moe_quant_form_of(type).has_min)
                acc[t] = _mm512_fmadd_ps(_mm512_set1_ps(p->acts->sums[token][j]),
                                         _mm512_mul_ps(scales->m[j], d_a), acc[t]);
        }
    }
}

/* One tile, of whose n_tokens tokens the first n count. */
INLINE void run_tile(const moe_type type, const int n_tokens, int n, pipeline *p, int tile,
                     bool is_first_chunk, __mmask16 lanes, float *y, int64_t ldy)
{
    __m512 acc[TILE_TOKENS];

    UNROLL
    for (int t = 0; t < n_tokens; t++)
        acc[t] = is_first_chunk || t >= n ? _mm512_setzero_ps()
                                          : _mm512_maskz_loadu_ps(lanes, y + t * ldy);
    if (moe_quant_form_of(type).columns == 32)
        add_blocks_32(type, n_tokens, p, tile, acc);
    else
        add_sub_blocks(type, n_tokens, p, tile, acc);
    UNROLL
    for (int t = 0; t < n_tokens; t++)
        if (t < n)
            _mm512_mask_storeu_ps(y + t * ldy, lanes, acc[t]);
}

/* A chunk of a batch of n_tokens tokens with groups [group_begin, group_end). */
INLINE void pass(const moe_type type, const moe_matrix *w, int64_t group_begin, int64_t group_end,
                 const chunk_acts *a, int n_tokens, int64_t chunk, float *y, int64_t ldy)
{
    const int columns = type == MOE_TYPE_Q6_K ? 16 : 32;
    const int64_t block = chunk * (CHUNK_COLUMNS / moe_quant_form_of(type).columns);
    const size_t group_bytes = moe_packed_group_bytes(w->type, w->n_cols);
    const int n_units = units_of(w, chunk), n_tiles = (n_tokens + TILE_TOKENS - 1) / TILE_TOKENS;
    chunk_codes c;
    pipeline p = {.acts = a, .codes = &c, .n_sub = n_units * MOE_QUANT_UNIT / columns};

    p.n_steps = n_tiles * p.n_sub;
    for (int64_t g = group_begin; g < group_end; g++) {
        const uint8_t *group = (const uint8_t *)w->packed + (size_t)g * group_bytes;

        widen_chunk(type, group, block, n_units, &c);
        if (g + 1 < group_end)
            prefetch_chunk(type, group + group_bytes, block, n_units);
        produce(columns, &p, 0);
        for (int step = 0; step < LEAD; step++) {
            produce(columns, &p, step + 1);
            store_sums(&p, step);
        }
        for (int i = 0; i < n_tiles; i++) {
            int n = n_tokens - TILE_TOKENS * i;
            float *to = y + TILE_TOKENS * i * ldy + g * MOE_GROUP_ROWS;

            if (n > TILE_TOKENS / 2)
                run_tile(type, TILE_TOKENS, n, &p, i, chunk == 0, lanes_of(w, g), to, ldy);
            else
                run_tile(type, TILE_TOKENS / 2, n, &p, i, chunk == 0, lanes_of(w, g), to, ldy);
        }
    }
}

INLINE void matmul(const moe_type type, const moe_matrix *w, int64_t group_begin, int64_t group_end,
                   const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                   int64_t ldy)
{
    const int64_t n_chunks = (w->n_cols + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS;
    chunk_acts a;

    memset(&a, 0, sizeof a); /* tokens that fill up a tile are zeros */
    _tile_loadconfig(type == MOE_TYPE_Q6_K ? &config_16 : &config_32);
    for (int64_t t = 0, n; t < n_tokens; t += n) {
        n = even_part(n_tokens - t, BATCH_TOKENS, TILE_TOKENS);
        for (int64_t c = 0; c < n_chunks; c++) {
            for (int64_t i = 0; i < n; i++)
                gather_token(type, x, rows ? rows[t + i] : t + i, c, units_of(w, c), &a, (int)i);
            __asm__ volatile("" ::: "memory"); /* tile loads are opaque to the compiler */
            pass(type, w, group_begin, group_end, &a, (int)n, c, y + t * ldy, ldy);
        }
    }
    _tile_release();
}

void moe_matmul_quant_amx(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                          const moe_activations *x, const int32_t *rows, int64_t n_tokens,
                          moe_role role, float *y, int64_t ldy)
{
    if (n_tokens < MIN_TOKENS) {
        moe_matmul_quant_avx512(w, group_begin, group_end, x, rows, n_tokens, role, y, ldy);
        return;
    }
    switch (w->type) {
#define CASE(type)                                                                                 \
    case type:                                                                                     \
        matmul(type, w, group_begin, group_end, x, rows, n_tokens, y, ldy);                        \
        break
        CASE(MOE_TYPE_Q8_0);
        CASE(MOE_TYPE_Q4_0);
        CASE(MOE_TYPE_Q4_1);
        CASE(MOE_TYPE_Q5_0);
        CASE(MOE_TYPE_Q5_1);
        CASE(MOE_TYPE_Q4_K);
        CASE(MOE_TYPE_Q5_K);
        CASE(MOE_TYPE_Q6_K);
#undef CASE
    default:
        break;
    }
}
