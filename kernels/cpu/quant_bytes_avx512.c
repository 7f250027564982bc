/*
 * Products of many tokens for AVX-512 with VNNI, where both weights without minima in blocks of 32
 * columns and their activations are bytes: what encoders take.
 *
 * Eight tokens times three groups of 16 rows have their sums in registers, so that a vector of
 * codes serves eight multiplications and a broadcast of activations three; VPDPBUSD then is what
 * limits.  Sums start at what the bias of the codes takes off, and end in the float steps of
 * quant_scalar.c.  For a batch of tokens and a chunk of 256 columns the activations are gathered,
 * then all groups pass; results add up in y.
 */
#include "quant_chunk_avx512.h"

#define TILE_GROUPS 3
#define TILE_TOKENS 8

/* A chunk of a few groups. */
typedef struct chunk_tile {
    const __m512i
        *codes[TILE_GROUPS][CHUNK_UNITS];      /* of a unit, in the packed group or in `wide` */
    __m512i wide[TILE_GROUPS][CHUNK_UNITS][8]; /* codes of fewer than eight bits */
    __m512 d[TILE_GROUPS][CHUNK_UNITS];
    __mmask16 lanes[TILE_GROUPS];
    int n_units;
    bool is_first; /* y holds nothing yet */
} chunk_tile;

/* A chunk of a batch of tokens. */
typedef struct byte_acts {
    _Alignas(64) int8_t q[BATCH_TOKENS][CHUNK_COLUMNS];
    float d[BATCH_TOKENS][CHUNK_UNITS];
    int32_t bias[BATCH_TOKENS][CHUNK_UNITS]; /* what sums begin with */
} byte_acts;

INLINE __m512i four_columns(const int8_t *q)
{
    int32_t v;

    __builtin_memcpy(&v, q, sizeof v);
    return _mm512_set1_epi32(v);
}

/* Adds unit u of tokens [token, token + n_tokens) to acc. */
INLINE void add_unit(const int n_groups, const int n_tokens, const chunk_tile *w,
                     const byte_acts *a, int token, int u, __m512 (*acc)[TILE_GROUPS])
{
    const int8_t *q = a->q[token] + MOE_QUANT_UNIT * u;
    __m512i sum[TILE_TOKENS][TILE_GROUPS];

    /* All tokens lie at constant distances from one address; results are not kept from one unit to
     * the next, for all registers hold sums. */
    __asm__("" : "+r"(q), "+r"(acc));
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        UNROLL
        for (int g = 0; g < n_groups; g++)
            sum[t][g] = _mm512_set1_epi32(a->bias[token + t][u]);
    }
    UNROLL
    for (int v = 0; v < 8; v++) {
        __m512i codes[TILE_GROUPS];

        UNROLL
        for (int g = 0; g < n_groups; g++)
            codes[g] = w->codes[g][u][v];
        UNROLL
        for (int t = 0; t < n_tokens; t++) {
            const __m512i x = four_columns(q + t * CHUNK_COLUMNS + 4 * v);

            UNROLL
            for (int g = 0; g < n_groups; g++)
                sum[t][g] = _mm512_dpbusd_epi32(sum[t][g], codes[g], x);
        }
    }
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        const __m512 d = _mm512_set1_ps(a->d[token + t][u]);

        UNROLL
        for (int g = 0; g < n_groups; g++)
            acc[t][g] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][g]), _mm512_mul_ps(w->d[g][u], d),
                                        acc[t][g]);
    }
}

/* Tokens [token, token + n_tokens) of a batch: y += products. */
INLINE void tile_tokens(const int n_groups, const int n_tokens, const chunk_tile *w,
                        const byte_acts *a, int token, float *y, int64_t ldy)
{
    __m512 acc[TILE_TOKENS][TILE_GROUPS];

    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        UNROLL
        for (int g = 0; g < n_groups; g++)
            acc[t][g] = w->is_first
                            ? _mm512_setzero_ps()
                            : _mm512_maskz_loadu_ps(w->lanes[g], y + t * ldy + g * MOE_GROUP_ROWS);
    }
    for (int u = 0; u < w->n_units; u++)
        add_unit(n_groups, n_tokens, w, a, token, u, acc);
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        UNROLL
        for (int g = 0; g < n_groups; g++)
            _mm512_mask_storeu_ps(y + t * ldy + g * MOE_GROUP_ROWS, w->lanes[g], acc[t][g]);
    }
}

/* All tokens of a batch with a tile. */
INLINE void pass(const int n_groups, const chunk_tile *w, const byte_acts *a, int n_tokens,
                 float *y, int64_t ldy)
{
    int t = 0;

    for (; n_tokens - t >= TILE_TOKENS; t += TILE_TOKENS)
        tile_tokens(n_groups, TILE_TOKENS, w, a, t, y + t * ldy, ldy);
    for (; n_tokens - t >= 4; t += 4)
        tile_tokens(n_groups, 4, w, a, t, y + t * ldy, ldy);
    for (; t < n_tokens; t++)
        tile_tokens(n_groups, 1, w, a, t, y + t * ldy, ldy);
}

/* Opens chunk `chunk` of n_groups groups from `group` on. */
INLINE void open_chunk(const moe_type type, const moe_matrix *w, int64_t group, int n_groups,
                       int64_t chunk, chunk_tile *tile)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const size_t group_bytes = moe_packed_group_bytes(type, w->n_cols);
    const int64_t block = chunk * CHUNK_UNITS;

    tile->n_units = units_of(w, chunk);
    tile->is_first = chunk == 0;
    for (int g = 0; g < n_groups; g++) {
        const uint8_t *packed = (const uint8_t *)w->packed + (size_t)(group + g) * group_bytes;

        tile->lanes[g] = lanes_of(w, group + g);
        for (int u = 0; u < tile->n_units; u++) {
            const uint8_t *unit = unit_of(type, packed, block, u);

            tile->d[g][u] = load_f16(packed + moe_quant_head(form, block + u));
            if (form.bits == 8) {
                tile->codes[g][u] = (const __m512i *)unit;
                continue;
            }
            widen_unit(form.bits, unit, tile->wide[g][u]);
            tile->codes[g][u] = tile->wide[g][u];
        }
    }
}

/* Chunk `chunk` of n_tokens activation rows from token t on. */
INLINE void gather(const moe_type type, const moe_matrix *w, const moe_activations *x,
                   const int32_t *rows, int64_t t, int n_tokens, int64_t chunk, byte_acts *a)
{
    const int n_units = units_of(w, chunk);

    for (int i = 0; i < n_tokens; i++) {
        const int64_t first = (rows ? rows[t + i] : t + i) * x->n_cols + chunk * CHUNK_COLUMNS;

        for (int u = 0; u < n_units; u++) {
            const int64_t block = first / MOE_QUANT_UNIT + u;

            _mm256_store_si256(
                (__m256i *)(a->q[i] + MOE_QUANT_UNIT * u),
                _mm256_loadu_si256((const __m256i *)(x->b32.hi + first + MOE_QUANT_UNIT * u)));
            a->d[i][u] = x->b32.d[block];
            a->bias[i][u] = -moe_quant_form_of(type).bias * x->b32.sums[block];
        }
    }
}

INLINE void matmul(const moe_type type, const moe_matrix *w, int64_t group_begin, int64_t group_end,
                   const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                   int64_t ldy)
{
    const int64_t n_chunks = (w->n_cols + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS;
    chunk_tile tile;
    byte_acts a;

    for (int64_t t = 0, n; t < n_tokens; t += n) {
        n = even_part(n_tokens - t, BATCH_TOKENS, TILE_TOKENS);
        for (int64_t c = 0; c < n_chunks; c++) {
            gather(type, w, x, rows, t, (int)n, c, &a);
            for (int64_t g = group_begin, n_groups; g < group_end; g += n_groups) {
                float *to = y + t * ldy + g * MOE_GROUP_ROWS;

                n_groups = group_end - g < TILE_GROUPS ? group_end - g : TILE_GROUPS;
                open_chunk(type, w, g, (int)n_groups, c, &tile);
                if (n_groups == 3)
                    pass(3, &tile, &a, (int)n, to, ldy);
                else if (n_groups == 2)
                    pass(2, &tile, &a, (int)n, to, ldy);
                else
                    pass(1, &tile, &a, (int)n, to, ldy);
            }
        }
    }
}

void moe_matmul_bytes_avx512(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                             const moe_activations *x, const int32_t *rows, int64_t n_tokens,
                             float *y, int64_t ldy)
{
    if (w->type == MOE_TYPE_Q8_0)
        matmul(MOE_TYPE_Q8_0, w, group_begin, group_end, x, rows, n_tokens, y, ldy);
    else if (w->type == MOE_TYPE_Q5_0)
        matmul(MOE_TYPE_Q5_0, w, group_begin, group_end, x, rows, n_tokens, y, ldy);
    else
        matmul(MOE_TYPE_Q4_0, w, group_begin, group_end, x, rows, n_tokens, y, ldy);
}
