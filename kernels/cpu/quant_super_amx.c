/*
 * Products of K-quants, with blocks of 256 columns, for AMX.
 *
 * A super-block is one exact integer, sub-block scales included (quant_scalar.c), so tiles can add
 * it up alone.  Scale times code has too many bits for a byte and is cut into two digits, each a
 * byte that the tile unit multiplies with the activations:
 *
 *     Q4_K, Q5_K   sc = 8 * high + low, both of 3 bits: digits high * c and low * c, at most
 *                  7 * 31, so that one 16-bit multiplication makes two of them; S = 8 * H + L
 *     Q6_K         sc * (c - 32), 13 bits with a sign: its bits from 7 on and the low 7 bits;
 *                  S = 128 * H + L
 *
 * Tile registers hold the sums of one or two operands times two digits; an operand is one plane of
 * the activations of 16 tokens.  A step takes 64 columns of a group, up to four tile products.  A
 * pass is the four steps of a super-block; then its sums go through memory to vector registers, one
 * token each, lanes across output rows.  An item, a super-block of a group, is one pass for up to
 * 32 tokens, two for 64, or if activations have two planes, one for each plane of 32.
 *
 * Vectors work while the tile unit does.  So between any two tile products stand a part of the
 * float steps of the pass or item before and, around the end of an item, a quarter of the widening
 * of a step of the next.  That they alternate so finely matters: the processor looks ahead no more
 * than some 500 instructions, and those of one step are as many.
 *
 * The activations of a batch of tokens are gathered side by side for a stretch of columns.  Then
 * blocks of a few groups pass, whose results stay in the first-level cache for the whole stretch.
 */
#include <string.h>

#include "amx_tiles.h"
#include "quant_chunk_avx512.h"

#define OPERAND_ROWS 16  /* tokens per operand */
#define PASS_ROWS 32     /* of the two operands of a pass */
#define MAX_ROWS 64      /* of two passes */
#define MIN_TOKENS 6     /* below, tiles are too empty */
#define STEP_COLUMNS 64  /* columns of a tile product */
#define STEPS 4          /* of a pass, and widened steps that are kept */
#define BLOCK_GROUPS 4   /* groups whose results are kept together */
#define STRETCH_CHUNKS 8 /* chunks whose activations are gathered together */

/* Tile registers: sums of an operand and a digit; digits; operands. */
#define SUM_0_0 0
#define SUM_0_1 1
#define SUM_1_0 2
#define SUM_1_1 3
#define DIGIT_0 4
#define DIGIT_1 5
#define OPERAND_0 6
#define OPERAND_1 7

/* All are 16 x 64 bytes, but that sums and operands may have fewer rows: a product costs as many
 * cycles as it has rows. */
INLINE void configure(uint8_t n)
{
    const moe_tile_shapes shapes = {
        .palette = 1,
        .bytes_per_row = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {n, n, n, n, 16, 16, n, n},
    };

    _tile_loadconfig(&shapes);
}

/* The activations of a batch of tokens in one chunk: one row per token, or with two planes the high
 * plane of token t in row t, the low one in row PASS_ROWS + t. */
typedef struct operands {
    _Alignas(64) int8_t rows[MAX_ROWS][CHUNK_COLUMNS];
    float d[MAX_ROWS];
    int32_t mins[8][MAX_ROWS]; /* min_terms */
} operands;

/* A super-block of a group, the activations for it and where its results are added. */
typedef struct item {
    const uint8_t *packed; /* the group */
    int64_t block;
    const operands *a;
    float (*to)[MOE_GROUP_ROWS]; /* (tokens) */
    int place;                   /* of the group in its block of groups */
} item;

/* What the float steps of an item need of its scales; see chunk_scales. */
typedef struct item_scales {
    __m512 d, m;
    __m512i mn[8];
} item_scales;

/* A batch of tokens with a block of groups. */
typedef struct pipeline {
    _Alignas(
        64) __m512i digits[STEPS][2][16]; /* of an item, overwritten with the next: low, high */
    int32_t sums[2][4][OPERAND_ROWS][MOE_GROUP_ROWS]; /* two planes: of each, else in [0] */
    float results[BLOCK_GROUPS][MAX_ROWS][MOE_GROUP_ROWS];
    item_scales scales[3]; /* of the item before, this one and the next */
    __m512i sc[16];        /* of the item that is widened, twice in each lane as int16 */
} pipeline;

/* The compiler does not see what tile instructions read and write, and is to leave the order. */
#define FENCE() __asm__ volatile("" ::: "memory")

/* Opens an item: its scales for the float steps, and those for widening its codes. */
INLINE void open_item(const moe_type type, const int planes, const item *x, pipeline *p,
                      item_scales *to)
{
    chunk_scales s;

    load_scales(type, planes, x->packed, x->block, CHUNK_UNITS, &s);
    to->d = s.d[0];
    if (moe_quant_form_of(type).has_min) {
        to->m = s.m[0];
        UNROLL
        for (int j = 0; j < 8; j++)
            if (planes == 2 || j < 4)
                to->mn[j] = s.mn[j];
    }
    UNROLL
    for (int j = 0; j < 16; j++)
        if (type == MOE_TYPE_Q6_K || j < 8)
            p->sc[j] = _mm512_or_si512(_mm512_slli_epi32(s.sc[j], 16),
                                       _mm512_and_si512(s.sc[j], _mm512_set1_epi32(0xffff)));
}

/* The bits of a where mask has them, else of b. */
INLINE __m512i blend_bits(__m512i mask, __m512i a, __m512i b)
{
    return _mm512_ternarylogic_epi32(mask, a, b, 0xCA);
}

/* Four vectors of six-bit codes of one sub-block to digits. */
INLINE void split_six_bits(__m512i sc, const __m512i w[4], __m512i *low, __m512i *high)
{
    const __m512i even_bytes = _mm512_set1_epi16(255);

    UNROLL
    for (int v = 0; v < 4; v++) {
        __m512i c = _mm512_sub_epi8(w[v], _mm512_set1_epi8(32));
        __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(c, 8), 8);
        __m512i odd = _mm512_srai_epi16(c, 8);

        even = _mm512_mullo_epi16(even, sc);
        odd = _mm512_mullo_epi16(odd, sc);
        low[v] = _mm512_and_si512(blend_bits(even_bytes, even, _mm512_slli_epi16(odd, 8)),
                                  _mm512_set1_epi8(127));
        high[v] = blend_bits(even_bytes, _mm512_srai_epi16(even, 7), _mm512_slli_epi16(odd, 1));
    }
}

/* Quarter q of the codes of step s of an item, half a unit, to digits. */
INLINE void widen_quarter(const moe_type type, const item *x, const int s, const int q, pipeline *p)
{
    const int u = 2 * s + q / 2, half = q % 2;
    const uint8_t *from = unit_of(type, x->packed, x->block, u);
    __m512i *low = p->digits[s][0] + 8 * (q / 2), *high = p->digits[s][1] + 8 * (q / 2);

    if (type == MOE_TYPE_Q6_K) {
        __m512i w[4];

        widen_six_bits(from + 192 * half, w);
        split_six_bits(p->sc[2 * u + half], w, low + 4 * half, high + 4 * half);
    } else {
        const __m512i sc_low = _mm512_and_si512(p->sc[u], _mm512_set1_epi16(7));
        const __m512i sc_high = _mm512_srli_epi16(p->sc[u], 3);
        const __m512i four = _mm512_set1_epi8(15), fifth = _mm512_set1_epi8(16);
        const __m512i h = type == MOE_TYPE_Q5_K ? load(from + 256) : _mm512_setzero_si512();

        UNROLL
        for (int v = 2 * half; v < 2 * half + 2; v++) {
            __m512i x = load(from + 64 * v), w[2];

            w[0] = _mm512_and_si512(x, four);
            w[1] = _mm512_and_si512(_mm512_srli_epi16(x, 4), four);
            if (type == MOE_TYPE_Q5_K) { /* bits v and v + 4 of every byte; 0xF8: w | (h & fifth) */
                w[0] = _mm512_ternarylogic_epi32(w[0], _mm512_slli_epi16(h, 4 - v), fifth, 0xF8);
                w[1] = _mm512_ternarylogic_epi32(w[1], _mm512_srli_epi16(h, v), fifth, 0xF8);
            }
            UNROLL
            for (int i = 0; i < 2; i++) {
                low[v + 4 * i] = _mm512_mullo_epi16(w[i], sc_low);
                high[v + 4 * i] = _mm512_mullo_epi16(w[i], sc_high);
            }
        }
    }
}

/* The sum of row r of a pass: of both digits. */
INLINE __m512i digits_sum(const moe_type type, const int32_t sums[4][OPERAND_ROWS][MOE_GROUP_ROWS],
                          int r)
{
    const int operand = r / OPERAND_ROWS;
    __m512i high = load(sums[2 * operand + 1][r % OPERAND_ROWS]);

    high = _mm512_slli_epi32(high, type == MOE_TYPE_Q6_K ? 7 : 3);
    return _mm512_add_epi32(high, load(sums[2 * operand][r % OPERAND_ROWS]));
}

/* The float steps of tokens [t, t + n) of an item whose sums are there. */
INLINE void finish(const moe_type type, const int planes, const pipeline *p, const item_scales *s,
                   const item *x, int t, const int n)
{
    UNROLL
    for (int i = t; i < t + n; i++) {
        __m512i sum = digits_sum(type, p->sums[0], i % PASS_ROWS);
        __m512 value;

        if (planes == 2)
            sum = _mm512_add_epi32(_mm512_slli_epi32(sum, 7), digits_sum(type, p->sums[1], i));
        value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), s->d);
        if (moe_quant_form_of(type).has_min) {
            __m512i min = _mm512_setzero_si512();

            UNROLL
            for (int j = 0; j < 8; j++)
                if (planes == 2 || j < 4)
                    min = _mm512_dpwssd_epi32(min, s->mn[j], _mm512_set1_epi32(x->a->mins[j][i]));
            value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(min), s->m, value);
        }
        _mm512_store_ps(
            x->to[i], _mm512_fmadd_ps(value, _mm512_set1_ps(x->a->d[i]), _mm512_load_ps(x->to[i])));
    }
}

/* The item after x: the next group of n_groups, or the first with the next super-block. */
INLINE item item_after(const item *x, int n_groups, size_t group_bytes)
{
    if (x->place + 1 < n_groups)
        return (item){x->packed + group_bytes, x->block, x->a, x->to + MAX_ROWS, x->place + 1};
    return (item){x->packed - (size_t)x->place * group_bytes, x->block + 1, x->a + 1,
                  x->to - x->place * MAX_ROWS, 0};
}

/* Fetches a sixteenth of an item. */
INLINE void prefetch_part(const moe_type type, const item *x, const int part)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const size_t size = (moe_quant_body_bytes(form) + 16 * 64 - 1) / (16 * 64) * 64;
    const uint8_t *begin = x->packed + moe_quant_body(form, x->block) + (size_t)part * size;

    UNROLL
    for (size_t i = 0; i < size; i += 64)
        _mm_prefetch((const char *)begin + i, _MM_HINT_T0);
}

/* Tile product of operand i and digit j.  Digits of Q4_K and Q5_K have no sign. */
#define MULTIPLY(i, j)                                                                             \
    do {                                                                                           \
        if (type == MOE_TYPE_Q6_K)                                                                 \
            _tile_dpbssd(SUM_##i##_##j, OPERAND_##i, DIGIT_##j);                                   \
        else                                                                                       \
            _tile_dpbsud(SUM_##i##_##j, OPERAND_##i, DIGIT_##j);                                   \
    } while (0)
#define LOAD_DIGIT(j, s) _tile_loadd(DIGIT_##j, p->digits[s][j], 64)
#define LOAD_OPERAND(i, row, s)                                                                    \
    _tile_loadd(OPERAND_##i, (row) + OPERAND_ROWS * (i)*CHUNK_COLUMNS + STEP_COLUMNS * (s),        \
                CHUNK_COLUMNS)

/* Operands of a pass of n_tiles tiles of 16 tokens. */
INLINE int operands_of(const int planes, const int n_tiles, const int pass)
{
    const int n = planes == 2 ? n_tiles : n_tiles - 2 * pass;

    return n < 2 ? n : 2;
}

/* Items on their way: the one before is finished, the next is widened, the one after is fetched. */
typedef struct item_window {
    item before, now, next, after;
    const item_scales *scales_before, *scales_now;
    item_scales *scales_next;
    bool is_first;
    int n_rows; /* of a tile that is alone */
} item_window;

/* What vectors do meanwhile, part q of four in step s of a pass. */
INLINE void meanwhile(const moe_type type, const int planes, const int n_tiles, const int pass,
                      const int s, const int q, const item_window *x, pipeline *p)
{
    const int n_passes = planes == 2 || n_tiles > 2 ? 2 : 1, part = 4 * s + q;
    const int previous = pass > 0 ? pass - 1 : n_passes - 1;
    const int share = planes == 2 ? n_tiles : operands_of(planes, n_tiles, previous);

    if (n_tiles == 1 && part >= x->n_rows) {
        /* nothing to finish */
    } else if (planes == 2) {
        if (pass == 0 && !x->is_first)
            finish(type, 2, p, x->scales_before, &x->before, share * part, share);
    } else if (pass > 0) {
        finish(type, 1, p, x->scales_now, &x->now, PASS_ROWS * previous + share * part, share);
    } else if (!x->is_first) {
        finish(type, 1, p, x->scales_before, &x->before, PASS_ROWS * previous + share * part,
               share);
    }
    if (pass == 0 && s == 0) {
        widen_quarter(type, &x->now, STEPS - 1, q, p);
    } else if (pass == n_passes - 1 && s > 0) {
        if (s == 1 && q == 0)
            open_item(type, planes, &x->next, p, x->scales_next);
        widen_quarter(type, &x->next, s - 1, q, p);
    }
    if (pass == 0)
        prefetch_part(type, &x->after, part);
}

/* One step of a pass; then the operands of the next one are loaded, of step s_next from `row` on.
 */
#define STEP(s, row, s_next)                                                                       \
    do {                                                                                           \
        MULTIPLY(0, 0);                                                                            \
        FENCE();                                                                                   \
        meanwhile(type, planes, n_tiles, pass, s, 0, x, p);                                        \
        FENCE();                                                                                   \
        MULTIPLY(0, 1);                                                                            \
        LOAD_OPERAND(0, row, s_next);                                                              \
        FENCE();                                                                                   \
        meanwhile(type, planes, n_tiles, pass, s, 1, x, p);                                        \
        FENCE();                                                                                   \
        if (n == 2)                                                                                \
            MULTIPLY(1, 0);                                                                        \
        LOAD_DIGIT(0, s_next);                                                                     \
        FENCE();                                                                                   \
        meanwhile(type, planes, n_tiles, pass, s, 2, x, p);                                        \
        FENCE();                                                                                   \
        if (n == 2)                                                                                \
            MULTIPLY(1, 1);                                                                        \
        LOAD_DIGIT(1, s_next);                                                                     \
        if (n_tiles > 1)                                                                           \
            LOAD_OPERAND(1, row, s_next);                                                          \
        FENCE();                                                                                   \
        meanwhile(type, planes, n_tiles, pass, s, 3, x, p);                                        \
        FENCE();                                                                                   \
    } while (0)

/* A pass; row_next: where the operands of the next one begin. */
INLINE void run_pass(const moe_type type, const int planes, const int n_tiles, const int pass,
                     const int8_t *row_next, const item_window *x, pipeline *p)
{
    const int n = operands_of(planes, n_tiles, pass), plane = planes == 2 ? pass : 0;
    const int8_t *row = x->now.a->rows[PASS_ROWS * pass];

    _tile_zero(SUM_0_0);
    _tile_zero(SUM_0_1);
    if (n == 2) {
        _tile_zero(SUM_1_0);
        _tile_zero(SUM_1_1);
    }
    STEP(0, row, 1);
    STEP(1, row, 2);
    STEP(2, row, 3);
    STEP(3, row_next, 0);
    _tile_stored(SUM_0_0, p->sums[plane][0], 64);
    _tile_stored(SUM_0_1, p->sums[plane][1], 64);
    if (n == 2) {
        _tile_stored(SUM_1_0, p->sums[plane][2], 64);
        _tile_stored(SUM_1_1, p->sums[plane][3], 64);
    }
    FENCE();
}

/* n_items items from `first` on: adds to p->results. */
INLINE void run_items(const moe_type type, const int planes, const int n_tiles, int n_rows,
                      const item *first, int64_t n_items, int n_groups, size_t group_bytes,
                      pipeline *p)
{
    const int n_passes = planes == 2 || n_tiles > 2 ? 2 : 1;
    const int last = planes == 2 ? 0 : n_passes - 1; /* the pass whose tokens are finished late */
    const int n_last = 16 * (planes == 2 ? n_tiles : operands_of(planes, n_tiles, last));
    item_window x = {.before = *first, .now = *first, .next = *first, .is_first = true, .n_rows = n_rows};
    const int8_t *row = first->a->rows[0];

    open_item(type, planes, first, p, &p->scales[0]);
    UNROLL
    for (int i = 0; i < 4 * (STEPS - 1); i++)
        widen_quarter(type, first, i / 4, i % 4, p);
    FENCE();
    LOAD_DIGIT(0, 0);
    LOAD_DIGIT(1, 0);
    LOAD_OPERAND(0, row, 0);
    if (n_tiles > 1)
        LOAD_OPERAND(1, row, 0);
    for (int64_t k = 0; k < n_items; k++) {
        x.next = k + 1 < n_items ? item_after(&x.now, n_groups, group_bytes) : x.now;
        x.after = k + 2 < n_items ? item_after(&x.next, n_groups, group_bytes) : x.now;
        x.scales_before = &p->scales[(k + 2) % 3];
        x.scales_now = &p->scales[k % 3];
        x.scales_next = &p->scales[(k + 1) % 3];
        run_pass(type, planes, n_tiles, 0,
                 n_passes == 1 ? x.next.a->rows[0] : x.now.a->rows[PASS_ROWS], &x, p);
        if (n_passes == 2)
            run_pass(type, planes, n_tiles, 1, x.next.a->rows[0], &x, p);
        x.before = x.now;
        x.now = x.next;
        x.is_first = false;
    }
    for (int t = 0; t < (n_tiles == 1 ? n_rows : n_last); t += 4)
        finish(type, planes, p, x.scales_now, &x.before, PASS_ROWS * last + t, 4);
}

/* Gathers chunk `chunk` of the activations of n tokens; those that fill up a tile become zeros. */
INLINE void gather(const moe_type type, const int planes, const int n_tiles,
                   const moe_activations *x, const int32_t *rows, int64_t first, int n,
                   int64_t chunk, operands *a)
{
    for (int t = 0; t < n; t++) {
        const int64_t row = rows ? rows[first + t] : first + t;
        const int8_t *from[2];
        token_terms terms;

        planes_of(type, planes, x, row, chunk, from);
        for (int i = 0; i < planes; i++)
            memcpy(a->rows[t + PASS_ROWS * i], from[i], CHUNK_COLUMNS);
        load_terms(type, planes, x, row, chunk, CHUNK_UNITS, &terms);
        a->d[t] = terms.d[0];
        if (moe_quant_form_of(type).has_min)
            for (int j = 0; j < (planes == 2 ? 8 : 4); j++)
                a->mins[j][t] = terms.ints[j];
    }
    for (int t = n; t < OPERAND_ROWS * n_tiles; t++) {
        for (int i = 0; i < planes; i++)
            memset(a->rows[t + PASS_ROWS * i], 0, CHUNK_COLUMNS);
        a->d[t] = 0.0f;
        for (int j = 0; j < 8; j++)
            a->mins[j][t] = 0;
    }
}

/* The results of n_groups groups from `group` on so far, or zeros. */
INLINE void load_results(const moe_matrix *w, int64_t group, int n_groups, int n, int n_rows,
                         bool are_zero, const float *y, int64_t ldy, pipeline *p)
{
    for (int g = 0; g < n_groups; g++)
        for (int t = 0; t < n_rows; t++)
            _mm512_store_ps(p->results[g][t],
                            are_zero || t >= n ? _mm512_setzero_ps()
                                               : _mm512_maskz_loadu_ps(
                                                     lanes_of(w, group + g),
                                                     y + t * ldy + (group + g) * MOE_GROUP_ROWS));
}

INLINE void store_results(const moe_matrix *w, int64_t group, int n_groups, int n, float *y,
                          int64_t ldy, const pipeline *p)
{
    for (int g = 0; g < n_groups; g++)
        for (int t = 0; t < n; t++)
            _mm512_mask_storeu_ps(y + t * ldy + (group + g) * MOE_GROUP_ROWS,
                                  lanes_of(w, group + g), _mm512_load_ps(p->results[g][t]));
}

/* Tokens [first, first + n), which fill n_tiles tiles, with groups [group_begin, group_end). */
INLINE void batch(const moe_type type, const int planes, const int n_tiles, const moe_matrix *w,
                  int64_t group_begin, int64_t group_end, const moe_activations *x,
                  const int32_t *rows, int64_t first, int n, float *y, int64_t ldy)
{
    const int64_t n_chunks = w->n_cols / CHUNK_COLUMNS;
    const size_t group_bytes = moe_packed_group_bytes(type, w->n_cols);
    const int n_rows = n < OPERAND_ROWS ? (n + 3) / 4 * 4 : OPERAND_ROWS;
    operands a[STRETCH_CHUNKS];
    pipeline p;

    configure((uint8_t)n_rows);
    y += first * ldy;
    for (int64_t c = 0, n_c; c < n_chunks; c += n_c) {
        n_c = n_chunks - c < STRETCH_CHUNKS ? n_chunks - c : STRETCH_CHUNKS;
        for (int64_t i = 0; i < n_c; i++)
            gather(type, planes, n_tiles, x, rows, first, n, c + i, &a[i]);
        for (int64_t g = group_begin; g < group_end; g += BLOCK_GROUPS) {
            const int n_g = group_end - g < BLOCK_GROUPS ? (int)(group_end - g) : BLOCK_GROUPS;
            const item begin = {
                .packed = (const uint8_t *)w->packed + (size_t)g * group_bytes,
                .block = c,
                .a = a,
                .to = p.results[0],
            };

            load_results(w, g, n_g, n, OPERAND_ROWS * n_tiles, c == 0, y, ldy, &p);
            run_items(type, planes, n_tiles, n_rows, &begin, n_g * n_c, n_g, group_bytes, &p);
            store_results(w, g, n_g, n, y, ldy, &p);
        }
    }
}

/* Batch after batch, as large as tokens are left for; what is too little for a tile goes without.
 */
INLINE void matmul(const moe_type type, const int planes, const moe_matrix *w, int64_t group_begin,
                   int64_t group_end, const moe_activations *x, const int32_t *rows,
                   int64_t n_tokens, float *y, int64_t ldy)
{
    const int64_t most = planes == 1 ? MAX_ROWS : PASS_ROWS;
    int64_t t = 0;

    for (int64_t left; (left = n_tokens - t) >= MIN_TOKENS;) {
        const int n = (int)(left < most ? left : most);

        if (planes == 1 && n > PASS_ROWS + OPERAND_ROWS) {
            batch(type, 1, 4, w, group_begin, group_end, x, rows, t, n, y, ldy);
            t += n;
        } else if (n > OPERAND_ROWS) {
            const int part = n < PASS_ROWS ? n : PASS_ROWS;

            batch(type, planes, 2, w, group_begin, group_end, x, rows, t, part, y, ldy);
            t += part;
        } else {
            batch(type, planes, 1, w, group_begin, group_end, x, rows, t, n, y, ldy);
            t += n;
        }
    }
    _tile_release();
    if (t < n_tokens) {
        int32_t rest[MIN_TOKENS];

        for (int64_t i = t; i < n_tokens; i++)
            rest[i - t] = rows ? rows[i] : (int32_t)i;
        moe_matmul_quant_avx512(w, group_begin, group_end, x, rest, n_tokens - t, y + t * ldy, ldy);
    }
}

void moe_matmul_super_amx(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                          const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                          int64_t ldy)
{
    switch (w->type) {
#define CASE(type)                                                                                 \
    case type:                                                                                     \
        if (x->b256.lo == NULL)                                                                    \
            matmul(type, 1, w, group_begin, group_end, x, rows, n_tokens, y, ldy);                 \
        else                                                                                       \
            matmul(type, 2, w, group_begin, group_end, x, rows, n_tokens, y, ldy);                 \
        break
        CASE(MOE_TYPE_Q4_K);
        CASE(MOE_TYPE_Q5_K);
        CASE(MOE_TYPE_Q6_K);
#undef CASE
    default:
        break;
    }
}
