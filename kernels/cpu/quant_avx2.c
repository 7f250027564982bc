/*
 * Quantised kernels for AVX2: one 32-bit lane per output row, a group in two halves of eight rows.
 *
 * vpmaddubsw multiplies unsigned codes with signed activations and adds pairs in int16.  Codes of
 * b < 8 bits leave room there for a run of several products before the pairs are widened:
 *
 *     4 bits   8 * 2 *  15 * 127 = 30480     eight vectors, a unit
 *     5 bits   4 * 2 *  31 * 127 = 31496     four
 *     6 bits   2 * 2 *  63 * 127 = 32004     two
 *     8 bits   1 * 2 * 128 * 127 = 32512     one: |q| times the activation with the sign of q
 *
 * vpmaddwd, which widens a run to int32, multiplies it with the scale of the sub-block as well.
 * So every integer is exact; the float steps are those of quant_scalar.c.
 *
 * Two ways through a matrix, as in quant_avx512.c: few tokens widen the codes in registers, many
 * pass over a tile of widened codes and scales (one group, up to 256 columns) on the stack.
 */
#include <immintrin.h>

#include "quant.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* Has a sum computed here.  Left alone, gcc puts additions off and runs out of registers, which
 * costs a third of the speed. */
#define SETTLE(x) __asm__("" : "+x"(x))

#define CHUNK_COLUMNS 256 /* columns of a tile */
#define CHUNK_UNITS (CHUNK_COLUMNS / MOE_QUANT_UNIT)
#define BATCH_TOKENS 64 /* tokens that pass over a tile, a multiple of TILE_TOKENS */
#define TILE_TOKENS 4   /* tokens whose sums are in registers together */
#define FEW_TOKENS 3    /* up to so many tokens the codes are widened in registers */
#define PREFETCH_BYTES 4096

/* The scales of a chunk of half a group, ready for use. */
typedef struct chunk_scales {
    __m256 d[CHUNK_UNITS], m[CHUNK_UNITS]; /* per block of 32 columns; super-blocks: d, -m in [0] */
    __m256i sc[16];                        /* as int16, each twice: 8, or 16 for Q6_K */
    __m256i pairs[8]; /* as int16: mn[j] twice (Q4_K, Q5_K), sc[2j] and sc[2j+1] (Q6_K) */
} chunk_scales;

/* One token's activations from some column on. */
typedef struct token_row {
    const int8_t *q;
    const float *d;
    const int16_t *sums;
} token_row;

INLINE __m256i load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

INLINE __m256 load_f16(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

/* Four bytes (four activations or two sums) to all lanes. */
INLINE __m256i broadcast4(const void *p)
{
    int32_t v;

    __builtin_memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

/* The bits of a where mask has them, else of b. */
INLINE __m256i blend_bits(__m256i mask, __m256i a, __m256i b)
{
    return _mm256_or_si256(_mm256_and_si256(mask, a), _mm256_andnot_si256(mask, b));
}

/* Three vectors of bytes to four vectors of six-bit codes; p points to this half. */
INLINE void widen_six_bits(const uint8_t *p, __m256i w[4])
{
    const __m256i low = _mm256_set1_epi8(63);
    __m256i a = load(p), b = load(p + 64), c = load(p + 128);
    __m256i top =
        blend_bits(_mm256_set1_epi8(12), _mm256_srli_epi16(b, 4), _mm256_srli_epi16(c, 2));

    w[0] = _mm256_and_si256(a, low);
    w[1] = _mm256_and_si256(b, low);
    w[2] = _mm256_and_si256(c, low);
    top = blend_bits(_mm256_set1_epi8(3), _mm256_srli_epi16(a, 6), top);
    w[3] = _mm256_and_si256(top, low);
}

/* Half a unit of codes to eight vectors of bytes: codes, or the signed bytes of eight bits. */
INLINE void widen_unit(const int bits, const uint8_t *p, __m256i w[8])
{
    const __m256i low = _mm256_set1_epi8(15), fifth = _mm256_set1_epi8(16);

    if (bits == 8) {
        UNROLL
        for (int v = 0; v < 8; v++)
            w[v] = _mm256_xor_si256(load(p + 64 * v), _mm256_set1_epi8(-128));
    } else if (bits == 6) {
        widen_six_bits(p, w);
        widen_six_bits(p + 192, w + 4);
    } else {
        UNROLL
        for (int v = 0; v < 4; v++) {
            __m256i x = load(p + 64 * v);

            w[v] = _mm256_and_si256(x, low);
            w[v + 4] = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
        }
    }
    if (bits == 5) {
        __m256i h = load(p + 256);

        UNROLL
        for (int v = 0; v < 8; v++) {
            __m256i shifted = v < 4 ? _mm256_slli_epi16(h, 4 - v) : _mm256_srli_epi16(h, v - 4);

            w[v] = _mm256_or_si256(w[v], _mm256_and_si256(shifted, fifth));
        }
    }
}

/* Bytes i and k of every lane as two int16 with their signs. */
INLINE __m256i bytes_of_lane(__m256i x, const int i, const int k)
{
    const __m128i to_high = _mm_setr_epi8(-1, i, -1, k, -1, 4 + i, -1, 4 + k, -1, 8 + i, -1, 8 + k,
                                          -1, 12 + i, -1, 12 + k);

    x = _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(to_high));
    return _mm256_srai_epi16(x, 8);
}

/* Byte i of every lane as two int16, without sign. */
INLINE __m256i byte_of_lane_twice(__m256i x, const int i)
{
    const __m128i lane = _mm_setr_epi8(i, -1, i, -1, 4 + i, -1, 4 + i, -1, 8 + i, -1, 8 + i, -1,
                                       12 + i, -1, 12 + i, -1);

    return _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(lane));
}

/* The scales of n_units units that start at block `block` of a group, for one half. */
INLINE void load_scales(const moe_type type, const uint8_t *group, int half, int64_t block,
                        int n_units, chunk_scales *s)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const uint8_t *p = group + moe_quant_body(form, block) + 32 * half;
    int n_blocks = form.columns == 32 ? n_units : 1;

    for (int b = 0; b < n_blocks; b++) {
        const uint8_t *head = group + moe_quant_head(form, block + b) + 16 * half;

        s->d[b] = load_f16(head);
        if (form.has_min)
            s->m[b] = load_f16(head + 32);
        if (form.has_min && form.columns == MOE_QUANT_SUPER)
            s->m[b] = _mm256_xor_ps(s->m[b], _mm256_set1_ps(-0.0f));
    }
    if (type == MOE_TYPE_Q6_K) {
        UNROLL
        for (int j = 0; j < 16; j++)
            s->sc[j] = bytes_of_lane(load(p + 64 * (j / 4)), j % 4, j % 4);
        UNROLL
        for (int j = 0; j < 8; j++)
            s->pairs[j] = bytes_of_lane(load(p + 64 * (j / 2)), j % 2 * 2, j % 2 * 2 + 1);
    } else if (form.columns == MOE_QUANT_SUPER) {
        __m256i w[4];

        widen_six_bits(p, w);
        UNROLL
        for (int j = 0; j < 8; j++) {
            s->sc[j] = byte_of_lane_twice(w[j / 4], j % 4);
            s->pairs[j] = byte_of_lane_twice(w[2 + j / 4], j % 4);
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

/* Adds codes w, `stride` vectors apart, of unit u times activations, times scales if there are
 * any, to total. */
INLINE void dot_unit(const moe_type type, const int n_tokens, const __m256i *w, const int stride,
                     const chunk_scales *s, const token_row a[], int u, __m256i total[])
{
    const moe_quant_form form = moe_quant_form_of(type);
    const int run = form.bits == 4 ? 8 : form.bits == 5 ? 4 : form.bits == 6 ? 2 : 1;

    UNROLL
    for (int first = 0; first < 8; first += run) {
        __m256i factor = _mm256_set1_epi16(1);
        __m256i pairs[TILE_TOKENS];

        if (type == MOE_TYPE_Q6_K)
            factor = s->sc[2 * u + first / 4];
        else if (form.columns == MOE_QUANT_SUPER)
            factor = s->sc[u];
        UNROLL
        for (int v = first; v < first + run; v++) {
            __m256i code = w[stride * v];
            __m256i magnitude = form.bits == 8 ? _mm256_abs_epi8(code) : code;

            UNROLL
            for (int t = 0; t < n_tokens; t++) {
                __m256i x = broadcast4(a[t].q + 32 * u + 4 * v);

                if (form.bits == 8)
                    x = _mm256_sign_epi8(x, code);
                x = _mm256_maddubs_epi16(magnitude, x);
                pairs[t] = v == first ? x : _mm256_add_epi16(pairs[t], x);
                SETTLE(pairs[t]);
            }
        }
        UNROLL
        for (int t = 0; t < n_tokens; t++) {
            total[t] = _mm256_add_epi32(total[t], _mm256_madd_epi16(pairs[t], factor));
            SETTLE(total[t]);
        }
    }
}

/* The end of a block of 32 columns. */
INLINE void add_block_32(const moe_type type, const int n_tokens, const chunk_scales *s,
                         const token_row a[], int u, const __m256i total[], __m256 acc[])
{
    const moe_quant_form form = moe_quant_form_of(type);

    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        __m256 d_a = _mm256_set1_ps(a[t].d[u]);

        acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[t]), _mm256_mul_ps(s->d[u], d_a), acc[t]);
        if (form.has_min)
            acc[t] = _mm256_fmadd_ps(_mm256_set1_ps((float)a[t].sums[u]),
                                     _mm256_mul_ps(s->m[u], d_a), acc[t]);
    }
}

/* The end of a super-block: minima or bias, and the float steps. */
INLINE void add_super_block(const moe_type type, const int n_tokens, const chunk_scales *s,
                            const token_row a[], const __m256i total[], __m256 acc[])
{
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        __m256 d_a = _mm256_set1_ps(a[t].d[0]);
        __m256i sum = _mm256_setzero_si256(), exact = total[t];

        UNROLL
        for (int j = 0; j < 8; j++)
            sum = _mm256_add_epi32(sum,
                                   _mm256_madd_epi16(s->pairs[j], broadcast4(a[t].sums + 2 * j)));
        if (type == MOE_TYPE_Q6_K)
            exact = _mm256_sub_epi32(exact, _mm256_slli_epi32(sum, 5));
        acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact), _mm256_mul_ps(s->d[0], d_a), acc[t]);
        if (type != MOE_TYPE_Q6_K)
            acc[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(s->m[0], d_a), acc[t]);
    }
}

/* Adds the products of a chunk with half a group to acc (n_tokens).  The codes are in the tile q,
 * two vectors apart, or if packed is not NULL, in the packed group at block `block`. */
INLINE void add_chunk(const moe_type type, const int n_tokens, const uint8_t *packed, int half,
                      int64_t block, const __m256i *q, const chunk_scales *s, int n_units,
                      const token_row a[], __m256 acc[])
{
    const moe_quant_form form = moe_quant_form_of(type);
    __m256i total[TILE_TOKENS];
    __m256 sum[TILE_TOKENS];

    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        total[t] = _mm256_setzero_si256();
        sum[t] = acc[t];
    }
    for (int u = 0; u < n_units; u++) {
        __m256i widened[8];

        if (packed) {
            const uint8_t *p = unit_of(type, packed, block, u);

            if (half == 0) {
                UNROLL
                for (size_t i = 0; i < moe_quant_unit_bytes(form); i += 64)
                    _mm_prefetch((const char *)p + PREFETCH_BYTES + i, _MM_HINT_T0);
            }
            widen_unit(form.bits, p + 32 * half, widened);
        }
        if (form.columns == 32) {
            UNROLL
            for (int t = 0; t < n_tokens; t++)
                total[t] = form.bits == 8 ? _mm256_setzero_si256()
                                          : _mm256_set1_epi32(-form.bias * a[t].sums[u]);
        }
        if (packed)
            dot_unit(type, n_tokens, widened, 1, s, a, u, total);
        else
            dot_unit(type, n_tokens, q + 16 * u, 2, s, a, u, total);
        if (form.columns == 32)
            add_block_32(type, n_tokens, s, a, u, total, sum);
    }
    if (form.columns != 32)
        add_super_block(type, n_tokens, s, a, total, sum);
    UNROLL
    for (int t = 0; t < n_tokens; t++)
        acc[t] = sum[t];
}

/* The activations of row `row` from chunk `chunk` on. */
INLINE token_row row_at(const moe_type type, const moe_activations *x, int64_t row, int64_t chunk)
{
    int64_t first = row * x->n_cols + chunk * CHUNK_COLUMNS;

    if (moe_quant_form_of(type).columns == 32)
        return (token_row){x->q32 + first, x->d32 + first / 32, x->s32 + first / 32};
    return (token_row){x->q256 + first, x->d256 + first / 256, x->s256 + first / 16};
}

/* The units of a chunk; the last may be shorter. */
INLINE int units_of(const moe_matrix *w, int64_t chunk)
{
    int64_t n = w->n_cols / MOE_QUANT_UNIT - chunk * CHUNK_UNITS;

    return n < CHUNK_UNITS ? (int)n : CHUNK_UNITS;
}

/* Writes half a group's results of one token; lanes past the last row stay out. */
INLINE void store(const moe_matrix *w, int64_t group, int half, __m256 acc, float *y)
{
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    int64_t first = group * MOE_GROUP_ROWS + 8 * half, n = w->n_rows - first;

    if (n >= 8)
        _mm256_storeu_ps(y + first, acc);
    else if (n > 0)
        _mm256_maskstore_ps(y + first, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lanes), acc);
}

/* n_tokens tokens from token t on with one group, straight from its packed form. */
INLINE void few_tokens(const moe_type type, const int n_tokens, const moe_matrix *w, int64_t group,
                       const moe_activations *x, const int32_t *rows, int64_t t, float *y,
                       int64_t ldy)
{
    const int blocks_per_chunk = CHUNK_COLUMNS / moe_quant_form_of(type).columns;
    const uint8_t *packed =
        (const uint8_t *)w->packed + (size_t)group * moe_packed_group_bytes(type, w->n_cols);
    int64_t n_chunks = (w->n_cols + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS;
    __m256 acc[2][TILE_TOKENS];
    chunk_scales scales;

    UNROLL
    for (int i = 0; i < n_tokens; i++)
        acc[0][i] = acc[1][i] = _mm256_setzero_ps();
    for (int64_t c = 0; c < n_chunks; c++) {
        int n_units = units_of(w, c);
        token_row a[TILE_TOKENS];

        UNROLL
        for (int i = 0; i < n_tokens; i++)
            a[i] = row_at(type, x, rows ? rows[t + i] : t + i, c);
        for (int half = 0; half < 2; half++) {
            load_scales(type, packed, half, c * blocks_per_chunk, n_units, &scales);
            add_chunk(type, n_tokens, packed, half, c * blocks_per_chunk, NULL, &scales, n_units, a,
                      acc[half]);
        }
    }
    UNROLL
    for (int i = 0; i < n_tokens; i++) {
        store(w, group, 0, acc[0][i], y + (t + i) * ldy);
        store(w, group, 1, acc[1][i], y + (t + i) * ldy);
    }
}

/* n_tokens tokens of a batch with half a tile. */
INLINE void tile_tokens(const moe_type type, const int n_tokens, const __m256i *q,
                        const chunk_scales *s, int n_units, const moe_activations *x,
                        const int64_t *token_rows, int64_t chunk, __m256 acc[])
{
    token_row a[TILE_TOKENS];

    UNROLL
    for (int i = 0; i < n_tokens; i++)
        a[i] = row_at(type, x, token_rows[i], chunk);
    add_chunk(type, n_tokens, NULL, 0, 0, q, s, n_units, a, acc);
}

/* Up to BATCH_TOKENS tokens with one group. */
INLINE void batch(const moe_type type, const moe_matrix *w, int64_t group, const moe_activations *x,
                  const int64_t *token_rows, int n_tokens, float *y, int64_t ldy)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const int blocks_per_chunk = CHUNK_COLUMNS / form.columns;
    const uint8_t *packed =
        (const uint8_t *)w->packed + (size_t)group * moe_packed_group_bytes(type, w->n_cols);
    int64_t n_chunks = (w->n_cols + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS;
    __m256 acc[2][BATCH_TOKENS];
    __m256i codes[16 * CHUNK_UNITS]; /* (vector, half) */
    chunk_scales scales;

    for (int t = 0; t < n_tokens; t++)
        acc[0][t] = acc[1][t] = _mm256_setzero_ps();
    for (int64_t c = 0; c < n_chunks; c++) {
        int n_units = units_of(w, c);

        for (int half = 0; half < 2; half++) {
            int t = 0;

            for (int u = 0; u < n_units; u++) {
                const uint8_t *p = unit_of(type, packed, c * blocks_per_chunk, u) + 32 * half;
                __m256i widened[8];

                widen_unit(form.bits, p, widened);
                UNROLL
                for (int v = 0; v < 8; v++)
                    codes[16 * u + 2 * v + half] = widened[v];
            }
            load_scales(type, packed, half, c * blocks_per_chunk, n_units, &scales);
            for (; t + TILE_TOKENS <= n_tokens; t += TILE_TOKENS)
                tile_tokens(type, TILE_TOKENS, codes + half, &scales, n_units, x, token_rows + t, c,
                            acc[half] + t);
            for (; t < n_tokens; t++)
                tile_tokens(type, 1, codes + half, &scales, n_units, x, token_rows + t, c,
                            acc[half] + t);
        }
    }
    for (int t = 0; t < n_tokens; t++) {
        store(w, group, 0, acc[0][t], y + t * ldy);
        store(w, group, 1, acc[1][t], y + t * ldy);
    }
}

INLINE void matmul(const moe_type type, const moe_matrix *w, int64_t group_begin, int64_t group_end,
                   const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                   int64_t ldy)
{
    int64_t token_rows[BATCH_TOKENS];

    for (int64_t g = group_begin; g < group_end; g++) {
        if (n_tokens <= FEW_TOKENS) {
            for (int64_t t = 0; t < n_tokens; t++)
                few_tokens(type, 1, w, g, x, rows, t, y, ldy);
            continue;
        }
        for (int64_t t = 0; t < n_tokens; t += BATCH_TOKENS) {
            int n = n_tokens - t < BATCH_TOKENS ? (int)(n_tokens - t) : BATCH_TOKENS;

            for (int i = 0; i < n; i++)
                token_rows[i] = rows ? rows[t + i] : t + i;
            batch(type, w, g, x, token_rows, n, y + t * ldy, ldy);
        }
    }
}

void moe_matmul_quant_avx2(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                           const moe_activations *x, const int32_t *rows, int64_t n_tokens,
                           moe_role role, float *y, int64_t ldy)
{
    (void)role; /* both roles have the same arithmetic */
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

INLINE uint32_t largest(__m256i x)
{
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));

    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4E));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xB1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

INLINE int32_t total_of(__m256i x)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));

    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1));
    return _mm_cvtsi128_si32(s);
}

/* One block of 32 or 256 columns: see quant_scalar.c.  Sums go over `span` = 32 or 16 columns. */
INLINE void quantize(const int n, const int span, const float *x, int8_t *q, float *d,
                     int16_t *sums)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i max = _mm256_setzero_si256();
    uint32_t max_bits;
    float amax;
    __m256 inverse;

    for (int i = 0; i < n; i += 8)
        max = _mm256_max_epu32(
            max, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + i)), magnitude));
    max_bits = largest(max);
    __builtin_memcpy(&amax, &max_bits, sizeof amax);
    if (max_bits >= 0x7f800000 || amax < 0x1p-120f) {
        *d = max_bits >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
        __builtin_memset(q, 0, (size_t)n);
        __builtin_memset(sums, 0, (size_t)(n / span) * sizeof *sums);
        return;
    }
    *d = amax / 127.0f;
    inverse = _mm256_set1_ps(127.0f / amax);
    for (int i = 0; i < n; i += span) {
        __m256i sum = _mm256_setzero_si256();

        UNROLL
        for (int k = 0; k < span; k += 16) {
            const float *p = x + i + k;
            __m256i v = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(p), inverse));
            __m256i w = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(p + 8), inverse));
            __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v, w), 0xD8);
            __m128i bytes =
                _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));

            _mm_storeu_si128((__m128i *)(q + i + k), bytes);
            sum = _mm256_add_epi32(sum, _mm256_add_epi32(v, w));
        }
        sums[i / span] = (int16_t)total_of(sum);
    }
}

void moe_quantize_32_avx2(const float *x, int64_t n_cols, int8_t *q, float *d, int16_t *sums)
{
    for (int64_t b = 0; b < n_cols / 32; b++)
        quantize(32, 32, x + 32 * b, q + 32 * b, d + b, sums + b);
}

void moe_quantize_256_avx2(const float *x, int64_t n_cols, int8_t *q, float *d, int16_t *sums)
{
    for (int64_t b = 0; b < n_cols / 256; b++)
        quantize(256, 16, x + 256 * b, q + 256 * b, d + b, sums + 16 * b);
}
