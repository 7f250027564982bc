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
 * Tile registers hold the sums of one or two operands times two digits.  An operand is the
 * activations of 16 tokens; if they have two planes, the operands are the planes.  A step takes 64
 * columns of a group, up to four tile products.  An item is a super-block of a group: four steps,
 * after which the sums go through memory to vector registers, one token each, lanes across output
 * rows.
 *
 * The tile unit needs half of the time at most; vectors do the rest meanwhile.  So between any two
 * tile products stand a part of the float steps of the item before and a quarter of the widening of
 * a step three ahead.  That they alternate so finely matters: the processor looks ahead no more
 * than some 500 instructions, and those of one step are as many.
 *
 * The activations of a batch of tokens are gathered side by side for a stretch of columns.  Then
 * blocks of a few groups pass, whose results stay in the first-level cache for the whole stretch.
 */
#include <string.h>

#include "quant_chunk_avx512.h"

#define OPERAND_ROWS 16   /* tokens per operand */
#define MAX_ROWS 32       /* of two operands */
#define MIN_TOKENS 6      /* below, tiles are too empty */
#define STEP_COLUMNS 64   /* columns of a tile product */
#define STEPS 4           /* of an item, and widened steps that are kept */
#define BLOCK_GROUPS 4    /* groups whose results are kept together */
#define STRETCH_CHUNKS 16 /* chunks whose activations are gathered together */

/* Tile registers: sums of an operand and a digit; digits; operands. */
#define SUM_0_0 0
#define SUM_0_1 1
#define SUM_1_0 2
#define SUM_1_1 3
#define DIGIT_0 4
#define DIGIT_1 5
#define OPERAND_0 6
#define OPERAND_1 7

/* What LDTILECFG reads: all tiles 16 x 64 bytes. */
static const struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
} config = {
    .palette = 1,
    .bytes_per_row = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

/* The activations of a batch of tokens in one chunk: one row per token, or with two planes the high
 * plane of token t in row t, the low one in row OPERAND_ROWS + t. */
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
    _Alignas(64) __m512i ring[STEPS][2][16]; /* digits of the steps to come: low, high */
    int32_t sums[4][OPERAND_ROWS][MOE_GROUP_ROWS];
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
    __m512i *low = p->ring[s][0] + 8 * (q / 2), *high = p->ring[s][1] + 8 * (q / 2);

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

/* The sum of a token: of its digits, in one operand. */
INLINE __m512i digits_sum(const moe_type type, const pipeline *p, const int operand, int t)
{
    __m512i high = load(p->sums[2 * operand + 1][t]);

    high = _mm512_slli_epi32(high, type == MOE_TYPE_Q6_K ? 7 : 3);
    return _mm512_add_epi32(high, load(p->sums[2 * operand][t]));
}

/* The float steps of tokens [t, t + n) of an item whose sums are there. */
INLINE void finish(const moe_type type, const int planes, const pipeline *p, const item_scales *s,
                   const item *x, int t, const int n)
{
    UNROLL
    for (int i = t; i < t + n; i++) {
        __m512i sum;
        __m512 value;

        if (planes == 1)
            sum = digits_sum(type, p, i / OPERAND_ROWS, i % OPERAND_ROWS);
        else
            sum = _mm512_add_epi32(_mm512_slli_epi32(digits_sum(type, p, 0, i), 7),
                                   digits_sum(type, p, 1, i));
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
#define LOAD_DIGIT(j, s) _tile_loadd(DIGIT_##j, p->ring[s][j], 64)
#define LOAD_OPERAND(i, s, a)                                                                      \
    _tile_loadd(OPERAND_##i, (a)->rows[OPERAND_ROWS * (i)] + STEP_COLUMNS * (s), CHUNK_COLUMNS)

/* n_items items from `now` on; the results stand in p->results, but for the last item's. */
INLINE void run_items(const moe_type type, const int planes, const int n_operands, item now,
                      int64_t n_items, int n_groups, size_t group_bytes, pipeline *p)
{
    const int share = planes == 1 ? n_operands : 1; /* tokens of a sixteenth of the float steps */
    item before = now;

    open_item(type, planes, &now, p, &p->scales[0]);
    UNROLL
    for (int i = 0; i < 4 * (STEPS - 1); i++)
        widen_quarter(type, &now, i / 4, i % 4, p);
    FENCE();
    LOAD_DIGIT(0, 0);
    LOAD_DIGIT(1, 0);
    LOAD_OPERAND(0, 0, now.a);
    if (n_operands == 2)
        LOAD_OPERAND(1, 0, now.a);
    for (int64_t k = 0; k < n_items; k++) {
        const item next = k + 1 < n_items ? item_after(&now, n_groups, group_bytes) : now;
        const item after = k + 2 < n_items ? item_after(&next, n_groups, group_bytes) : now;
        const item_scales *scales = &p->scales[(k + 2) % 3];

        _tile_zero(SUM_0_0);
        _tile_zero(SUM_0_1);
        if (n_operands == 2) {
            _tile_zero(SUM_1_0);
            _tile_zero(SUM_1_1);
        }
#define MEANWHILE(s, q)                                                                            \
    do {                                                                                           \
        FENCE();                                                                                   \
        if (k > 0)                                                                                 \
            finish(type, planes, p, scales, &before, share *(4 * (s) + (q)), share);               \
        widen_quarter(type, (s) == 0 ? &now : &next, ((s) + 3) % STEPS, q, p);                     \
        prefetch_part(type, &after, 4 * (s) + (q));                                                \
        FENCE();                                                                                   \
    } while (0)
#define STEP(s, s_after, a_after)                                                                  \
    do {                                                                                           \
        MULTIPLY(0, 0);                                                                            \
        MEANWHILE(s, 0);                                                                           \
        MULTIPLY(0, 1);                                                                            \
        LOAD_OPERAND(0, s_after, a_after);                                                         \
        MEANWHILE(s, 1);                                                                           \
        if (n_operands == 2)                                                                       \
            MULTIPLY(1, 0);                                                                        \
        LOAD_DIGIT(0, s_after);                                                                    \
        MEANWHILE(s, 2);                                                                           \
        if (n_operands == 2) {                                                                     \
            MULTIPLY(1, 1);                                                                        \
            LOAD_OPERAND(1, s_after, a_after);                                                     \
        }                                                                                          \
        LOAD_DIGIT(1, s_after);                                                                    \
        MEANWHILE(s, 3);                                                                           \
    } while (0)
        STEP(0, 1, now.a);
        open_item(type, planes, &next, p, &p->scales[(k + 1) % 3]);
        STEP(1, 2, now.a);
        STEP(2, 3, now.a);
        STEP(3, 0, next.a);
        _tile_stored(SUM_0_0, p->sums[0], 64);
        _tile_stored(SUM_0_1, p->sums[1], 64);
        if (n_operands == 2) {
            _tile_stored(SUM_1_0, p->sums[2], 64);
            _tile_stored(SUM_1_1, p->sums[3], 64);
        }
        FENCE();
        before = now;
        now = next;
    }
    finish(type, planes, p, &p->scales[(n_items - 1) % 3], &before, 0, 16 * share);
}

/* Gathers chunk `chunk` of the activations of n tokens; absent tokens become zeros. */
INLINE void gather(const moe_type type, const int planes, const int n_operands,
                   const moe_activations *x, const int32_t *rows, int64_t first, int n,
                   int64_t chunk, operands *a)
{
    const int n_slots = planes == 1 ? OPERAND_ROWS * n_operands : OPERAND_ROWS;

    for (int t = 0; t < n_slots; t++) {
        token_terms terms;

        if (t >= n) {
            for (int i = 0; i < planes; i++)
                memset(a->rows[t + OPERAND_ROWS * i], 0, CHUNK_COLUMNS);
            a->d[t] = 0.0f;
            for (int j = 0; j < 8; j++)
                a->mins[j][t] = 0;
            continue;
        }
        const int64_t row = rows ? rows[first + t] : first + t;
        const int8_t *from[2];

        planes_of(type, planes, x, row, chunk, from);
        for (int i = 0; i < planes; i++)
            memcpy(a->rows[t + OPERAND_ROWS * i], from[i], CHUNK_COLUMNS);
        load_terms(type, planes, x, row, chunk, CHUNK_UNITS, &terms);
        a->d[t] = terms.d[0];
        if (moe_quant_form_of(type).has_min)
            for (int j = 0; j < (planes == 2 ? 8 : 4); j++)
                a->mins[j][t] = terms.ints[j];
    }
}

/* Tokens [first, first + n) with groups [group_begin, group_end). */
INLINE void batch(const moe_type type, const int planes, const int n_operands, const moe_matrix *w,
                  int64_t group_begin, int64_t group_end, const moe_activations *x,
                  const int32_t *rows, int64_t first, int n, float *y, int64_t ldy)
{
    const int64_t n_chunks = w->n_cols / CHUNK_COLUMNS;
    const size_t group_bytes = moe_packed_group_bytes(type, w->n_cols);
    operands a[STRETCH_CHUNKS];
    pipeline p;

    y += first * ldy;
    for (int64_t c = 0, n_c; c < n_chunks; c += n_c) {
        n_c = n_chunks - c < STRETCH_CHUNKS ? n_chunks - c : STRETCH_CHUNKS;
        for (int64_t i = 0; i < n_c; i++)
            gather(type, planes, n_operands, x, rows, first, n, c + i, &a[i]);
        for (int64_t g = group_begin, n_g; g < group_end; g += n_g) {
            n_g = group_end - g < BLOCK_GROUPS ? group_end - g : BLOCK_GROUPS;
            memset(p.results, 0, sizeof p.results);
            for (int64_t i = 0; c > 0 && i < n_g; i++)
                for (int t = 0; t < n; t++)
                    _mm512_store_ps(p.results[i][t],
                                    _mm512_maskz_loadu_ps(lanes_of(w, g + i),
                                                          y + t * ldy + (g + i) * MOE_GROUP_ROWS));
            run_items(
                type, planes, n_operands,
                (item){(const uint8_t *)w->packed + (size_t)g * group_bytes, c, a, p.results[0], 0},
                n_g * n_c, (int)n_g, group_bytes, &p);
            for (int64_t i = 0; i < n_g; i++)
                for (int t = 0; t < n; t++)
                    _mm512_mask_storeu_ps(y + t * ldy + (g + i) * MOE_GROUP_ROWS,
                                          lanes_of(w, g + i), _mm512_load_ps(p.results[i][t]));
        }
    }
}

/* Full batches, one of fewer tokens, and what is too little for a tile without AMX. */
INLINE void matmul(const moe_type type, const int planes, const moe_matrix *w, int64_t group_begin,
                   int64_t group_end, const moe_activations *x, const int32_t *rows,
                   int64_t n_tokens, float *y, int64_t ldy)
{
    int64_t t = 0;

    _tile_loadconfig(&config);
    if (planes == 1)
        for (; n_tokens - t > OPERAND_ROWS; t += MAX_ROWS)
            batch(type, 1, 2, w, group_begin, group_end, x, rows, t,
                  n_tokens - t < MAX_ROWS ? (int)(n_tokens - t) : MAX_ROWS, y, ldy);
    for (; n_tokens - t >= MIN_TOKENS; t += OPERAND_ROWS)
        batch(type, planes, planes, w, group_begin, group_end, x, rows, t,
              n_tokens - t < OPERAND_ROWS ? (int)(n_tokens - t) : OPERAND_ROWS, y, ldy);
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
