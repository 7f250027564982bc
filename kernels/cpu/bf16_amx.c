/*
 * Products with BF16_PAIRS weights by AMX tiles.
 *
 * A unit of 32 columns of a packed group is a tile as TDPBF16PS wants it, and so is a unit of 16
 * tokens, read where they lie.  Four tiles of sums, 32 tokens times 32 output rows, stay in their
 * registers over all columns and are then stored to y.  Tokens that don't fill a tile are computed
 * twice: the last tile begins 16 tokens before the end.  Fewer than 16 tokens take tiles of so many
 * rows.  Tokens that do not lie side by side in x go run by run.
 *
 * The weights of two groups stay in the nearer caches while all tokens pass; meanwhile those of the
 * next two are fetched.
 */
#include <immintrin.h>
#include <string.h>

#include "amx_tiles.h"
#include "bf16_matmul.h"
#include "v16_avx512.h"

#define TILE 16
#define LINES_AHEAD 4 /* fetched per tile of sums and unit */

/* Tile registers. */
#define SUM_00 0 /* tokens 0-15, group 0 */
#define SUM_01 1
#define SUM_10 2
#define SUM_11 3
#define TOKENS_0 4
#define TOKENS_1 5
#define GROUP_0 6
#define GROUP_1 7

static void configure(int n_tokens)
{
    moe_tile_shapes shapes = {.palette = 1};

    for (int i = 0; i < 8; i++) {
        shapes.bytes_per_row[i] = 64;
        shapes.rows[i] = i >= GROUP_0 ? TILE : (uint8_t)n_tokens;
    }
    _tile_loadconfig(&shapes);
}

/* A run of tokens side by side, and one group or two. */
typedef struct strip {
    const char *w, *ahead, *ahead_end; /* packed weights, and what is to be fetched yet */
    int64_t group_bytes, n_units;
    const uint16_t *x; /* (n_tokens, ld) */
    int64_t ld;
    int tile_tokens; /* rows of a tile of tokens */
    float *y;
    int64_t ldy;
    int last_lanes; /* outputs of the last group */
} strip;

static inline void fetch(strip *s)
{
    for (int i = 0; s->ahead < s->ahead_end && i < LINES_AHEAD; i++, s->ahead += 64)
        _mm_prefetch(s->ahead, _MM_HINT_T1);
}

/* Stores a tile of sums whose group has fewer than 16 outputs. */
static void store_lanes(const strip *s, const float *sums, float *y, int lanes)
{
    for (int t = 0; t < s->tile_tokens; t++)
        memcpy(y + t * s->ldy, sums + t * TILE, (size_t)lanes * sizeof(float));
}

#define STORE(sum, to, lanes)                                                                      \
    do {                                                                                           \
        if ((lanes) == TILE) {                                                                     \
            _tile_stored(sum, to, (size_t)s->ldy * 4);                                             \
        } else {                                                                                   \
            _Alignas(64) float sums[TILE * TILE];                                                  \
            _tile_stored(sum, sums, 64);                                                           \
            store_lanes(s, sums, to, lanes);                                                       \
        }                                                                                          \
    } while (0)

/* Tokens [t0, t0 + 16) and [t1, t1 + 16), two groups. */
static void run_2_2(strip *s, int64_t t0, int64_t t1)
{
    const uint16_t *x0 = s->x + t0 * s->ld, *x1 = s->x + t1 * s->ld;
    const size_t stride = (size_t)s->ld * 2;
    const char *w = s->w;

    _tile_zero(SUM_00);
    _tile_zero(SUM_01);
    _tile_zero(SUM_10);
    _tile_zero(SUM_11);
    for (int64_t u = 0; u < s->n_units; u++, w += 1024, x0 += 32, x1 += 32) {
        _tile_loadd(GROUP_0, w, 64);
        _tile_loadd(TOKENS_0, x0, stride);
        _tile_dpbf16ps(SUM_00, TOKENS_0, GROUP_0);
        _tile_loadd(GROUP_1, w + s->group_bytes, 64);
        _tile_dpbf16ps(SUM_01, TOKENS_0, GROUP_1);
        _tile_loadd(TOKENS_1, x1, stride);
        _tile_dpbf16ps(SUM_10, TOKENS_1, GROUP_0);
        _tile_dpbf16ps(SUM_11, TOKENS_1, GROUP_1);
        fetch(s);
    }
    STORE(SUM_00, s->y + t0 * s->ldy, TILE);
    STORE(SUM_01, s->y + t0 * s->ldy + TILE, s->last_lanes);
    STORE(SUM_10, s->y + t1 * s->ldy, TILE);
    STORE(SUM_11, s->y + t1 * s->ldy + TILE, s->last_lanes);
}

/* One tile of tokens, two groups. */
static void run_1_2(strip *s, int64_t t0)
{
    const uint16_t *x0 = s->x + t0 * s->ld;
    const char *w = s->w;

    _tile_zero(SUM_00);
    _tile_zero(SUM_01);
    for (int64_t u = 0; u < s->n_units; u++, w += 1024, x0 += 32) {
        _tile_loadd(GROUP_0, w, 64);
        _tile_loadd(TOKENS_0, x0, (size_t)s->ld * 2);
        _tile_loadd(GROUP_1, w + s->group_bytes, 64);
        _tile_dpbf16ps(SUM_00, TOKENS_0, GROUP_0);
        _tile_dpbf16ps(SUM_01, TOKENS_0, GROUP_1);
        fetch(s);
    }
    STORE(SUM_00, s->y + t0 * s->ldy, TILE);
    STORE(SUM_01, s->y + t0 * s->ldy + TILE, s->last_lanes);
}

/* One tile of tokens, one group. */
static void run_1_1(strip *s, int64_t t0)
{
    const uint16_t *x0 = s->x + t0 * s->ld;
    const char *w = s->w;

    _tile_zero(SUM_00);
    for (int64_t u = 0; u < s->n_units; u++, w += 1024, x0 += 32) {
        _tile_loadd(GROUP_0, w, 64);
        _tile_loadd(TOKENS_0, x0, (size_t)s->ld * 2);
        _tile_dpbf16ps(SUM_00, TOKENS_0, GROUP_0);
    }
    STORE(SUM_00, s->y + t0 * s->ldy, s->last_lanes);
}

/* All tokens of a run with one group or two. */
static void run_tokens(strip *s, int n_groups, int64_t n_tokens)
{
    const int64_t last = n_tokens - s->tile_tokens; /* where the last tile begins */
    int64_t t = 0;

    for (; n_groups == 2 && t + TILE < n_tokens; t += 2 * TILE)
        run_2_2(s, t < last ? t : last, t + TILE < last ? t + TILE : last);
    for (; t < n_tokens; t += TILE) {
        if (n_groups == 2)
            run_1_2(s, t < last ? t : last);
        else
            run_1_1(s, t < last ? t : last);
    }
}

static int64_t run_length(const int32_t *rows, int64_t n)
{
    int64_t length = 1;

    while (length < n && rows[length] == rows[0] + length)
        length++;
    return length;
}

void moe_matmul_bf16_amx(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                         const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                         int64_t ldy)
{
    const size_t group_bytes = moe_packed_group_bytes(w->type, w->n_cols);
    int configured = 0;

    for (int64_t t = 0, n; t < n_tokens; t += n) {
        strip s = {.group_bytes = (int64_t)group_bytes, .ld = moe_bf16_columns(w->n_cols)};

        n = rows != NULL ? run_length(rows + t, n_tokens - t) : n_tokens;
        s.n_units = s.ld / MOE_BF16_UNIT;
        s.x = (const uint16_t *)x->bf16 + (rows != NULL ? rows[t] : t) * s.ld;
        s.ldy = ldy;
        s.tile_tokens = n < TILE ? (int)n : TILE;
        if (configured != s.tile_tokens)
            configure(s.tile_tokens);
        configured = s.tile_tokens;
        for (int64_t g = group_begin; g < group_end; g += 2) {
            const int n_groups = group_end - g < 2 ? 1 : 2;
            const int64_t left = w->n_rows - (g + n_groups - 1) * MOE_GROUP_ROWS;

            s.w = (const char *)w->packed + (size_t)g * group_bytes;
            s.ahead = s.w + (size_t)n_groups * group_bytes;
            s.ahead_end =
                s.ahead + (size_t)(group_end - g < 4 ? group_end - g - n_groups : 2) * group_bytes;
            s.y = y + t * ldy + g * MOE_GROUP_ROWS;
            s.last_lanes = left < MOE_GROUP_ROWS ? (int)left : MOE_GROUP_ROWS;
            run_tokens(&s, n_groups, n);
        }
    }
    _tile_release();
}

void moe_round_bf16_amx(const float *x, int64_t n_cols, void *y)
{
    uint16_t *to = y;

    for (int64_t k = 0; k < moe_bf16_columns(n_cols); k += 16) {
        const int64_t n = n_cols - k < 0 ? 0 : n_cols - k < 16 ? n_cols - k : 16;
        __m512i bits = _mm512_castps_si512(v16_round_bf16(v16_load_n(x + k, n)));

        _mm256_storeu_si256((__m256i *)(to + k),
                            _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
    }
}
