/*
 * Quantised kernels for AVX-512 with VNNI: one 32-bit lane per output row.
 *
 * vpdpbusd multiplies four unsigned codes of a row with four signed bytes that all lanes share.  A
 * unit of 32 columns takes eight of them with the high plane of a token's activations; the sum is
 * shifted to its place, and eight more add the low plane to it.  Sums within a sub-block are exact
 * in int32; scales, bias and minima are applied per sub-block.  The float steps are those of
 * quant_scalar.c.
 *
 * Two ways through a matrix:
 *   few tokens   (decode) every group is read once from memory and its codes are widened in
 *                registers;
 *   many tokens  (prefill) the codes and scales of up to 256 columns of two groups are widened
 *                into a tile on the stack, which stays in the first-level cache while all tokens
 *                of a batch pass over it, up to six at a time.
 * Both add the same numbers in the same order: a result does not depend on the way.
 *
 * Functions that take a type, a number of tokens or of groups are inlined into callers that give
 * constants; what depends on them is decided by the compiler.
 */
#include <immintrin.h>

#include "quant.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#define CHUNK_COLUMNS 256 /* columns of a tile */
#define CHUNK_UNITS (CHUNK_COLUMNS / MOE_QUANT_UNIT)
#define BATCH_TOKENS 48 /* tokens that pass over a tile, a multiple of TILE_TOKENS */
#define TILE_TOKENS 6   /* tokens whose sums are in registers together */
#define FEW_TOKENS 5    /* up to so many tokens the codes are widened in registers */
#define PREFETCH_BYTES 4096

/* The scales of a chunk of a group, ready for use. */
typedef struct chunk_scales {
    int bias;
    __m512 d[CHUNK_UNITS], m[CHUNK_UNITS]; /* per block of 32 columns; super-blocks: d, -m in [0] */
    __m512 sc[16];                         /* Q4_K, Q5_K (8), Q6_K (16) */
    __m512i mn[8];                         /* Q4_K, Q5_K, as int16: mn[j] and 128 * mn[j] */
} chunk_scales;

/* One token's activations of a chunk. */
typedef struct token_row {
    const int8_t *hi, *lo;
    const float *d;
    const int32_t *sums;
    int32_t term[16]; /* types with a bias: -bias * sums; Q4_K, Q5_K: the sum of sub-block j as
                       * two int16, its low seven bits and the bits above */
} token_row;

INLINE __m512i load(const void *p)
{
    return _mm512_loadu_si512(p);
}

INLINE __m512 load_f16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* Four bytes to all lanes. */
INLINE __m512i broadcast4(const void *p)
{
    int32_t v;

    __builtin_memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
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

/* The scales of n_units units that start at block `block` of a group. */
INLINE void load_scales(const moe_type type, const uint8_t *group, int64_t block, int n_units,
                        chunk_scales *s)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const uint8_t *p = group + moe_quant_body(form, block);
    int n_blocks = form.columns == 32 ? n_units : 1;

    s->bias = form.bias;
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

            x = _mm512_srai_epi32(_mm512_slli_epi32(x, 24 - 8 * (j % 4)), 24);
            s->sc[j] = _mm512_cvtepi32_ps(x);
        }
    } else if (form.columns == MOE_QUANT_SUPER) {
        __m512i w[4];

        widen_six_bits(p, w);
        UNROLL
        for (int j = 0; j < 8; j++) {
            __m512i mn = byte_of_lane(w[2 + j / 4], j % 4);

            s->sc[j] = _mm512_cvtepi32_ps(byte_of_lane(w[j / 4], j % 4));
            s->mn[j] = _mm512_or_si512(mn, _mm512_slli_epi32(mn, 16 + 7));
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

/* n vectors of codes of each group times 4n activations of each token. */
INLINE void dot(const int n_tokens, const int n_groups, const int n, const __m512i *const w[],
                const token_row a[], int column, __m512i sum[][2])
{
    UNROLL
    for (int low = 0; low < 2; low++) {
        UNROLL
        for (int t = 0; t < n_tokens; t++) {
            UNROLL
            for (int g = 0; g < n_groups; g++)
                sum[t][g] = low ? _mm512_slli_epi32(sum[t][g], 7) : _mm512_setzero_si512();
        }
        UNROLL
        for (int v = 0; v < n; v++) {
            UNROLL
            for (int t = 0; t < n_tokens; t++) {
                __m512i b = broadcast4((low ? a[t].lo : a[t].hi) + column + 4 * v);

                UNROLL
                for (int g = 0; g < n_groups; g++)
                    sum[t][g] = _mm512_dpbusd_epi32(sum[t][g], w[g][v], b);
            }
        }
    }
}

/* A block of 32 columns: codes w, unit u of the chunk. */
INLINE void add_block_32(const moe_type type, const int n_tokens, const int n_groups,
                         const __m512i *const w[], const chunk_scales *const s[],
                         const token_row a[], int u, __m512 acc[][2])
{
    const moe_quant_form form = moe_quant_form_of(type);
    __m512i sum[TILE_TOKENS][2];

    dot(n_tokens, n_groups, 8, w, a, 32 * u, sum);
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        __m512 d_a = _mm512_set1_ps(a[t].d[u]);

        UNROLL
        for (int g = 0; g < n_groups; g++) {
            if (!form.has_min)
                sum[t][g] = _mm512_add_epi32(sum[t][g], _mm512_set1_epi32(a[t].term[u]));
            acc[t][g] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][g]),
                                        _mm512_mul_ps(s[g]->d[u], d_a), acc[t][g]);
            if (form.has_min)
                acc[t][g] = _mm512_fmadd_ps(_mm512_set1_ps((float)a[t].sums[u]),
                                            _mm512_mul_ps(s[g]->m[u], d_a), acc[t][g]);
        }
    }
}

/* 32 columns of a super-block, one sub-block or two of Q6_K, added to total. */
INLINE void add_sub_blocks(const moe_type type, const int n_tokens, const int n_groups,
                           const __m512i *const w[], const chunk_scales *const s[],
                           const token_row a[], int u, __m512 total[][2])
{
    const int n_sub = type == MOE_TYPE_Q6_K ? 2 : 1;

    UNROLL
    for (int j = 0; j < n_sub; j++) {
        __m512i sum[TILE_TOKENS][2];
        const __m512i *from[2];

        UNROLL
        for (int g = 0; g < n_groups; g++)
            from[g] = w[g] + 4 * j;
        dot(n_tokens, n_groups, 8 / n_sub, from, a, 32 * u + 16 * j, sum);
        UNROLL
        for (int t = 0; t < n_tokens; t++) {
            UNROLL
            for (int g = 0; g < n_groups; g++) {
                if (type == MOE_TYPE_Q6_K)
                    sum[t][g] =
                        _mm512_add_epi32(sum[t][g], _mm512_set1_epi32(a[t].term[2 * u + j]));
                total[t][g] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][g]),
                                              s[g]->sc[n_sub * u + j], total[t][g]);
            }
        }
    }
}

/* The end of a super-block: scales and minima. */
INLINE void add_super_block(const moe_type type, const int n_tokens, const int n_groups,
                            const chunk_scales *const s[], const token_row a[], __m512 total[][2],
                            __m512 acc[][2])
{
    const moe_quant_form form = moe_quant_form_of(type);

    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        __m512 d_a = _mm512_set1_ps(a[t].d[0]);

        UNROLL
        for (int g = 0; g < n_groups; g++) {
            __m512i min = _mm512_setzero_si512();

            acc[t][g] = _mm512_fmadd_ps(total[t][g], _mm512_mul_ps(s[g]->d[0], d_a), acc[t][g]);
            if (!form.has_min)
                continue;
            UNROLL
            for (int j = 0; j < 8; j++)
                min = _mm512_dpwssd_epi32(min, s[g]->mn[j], _mm512_set1_epi32(a[t].term[j]));
            acc[t][g] =
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(min), _mm512_mul_ps(s[g]->m[0], d_a), acc[t][g]);
        }
    }
}

/* Adds the products of a chunk to acc (n_tokens, 2 groups).  The codes are in tiles q[g], or if
 * packed is not NULL (one group only), in the packed group at block `block`. */
INLINE void add_chunk(const moe_type type, const int n_tokens, const int n_groups,
                      const uint8_t *packed, int64_t block, const __m512i *const q[],
                      const chunk_scales *const s[], int n_units, const token_row a[],
                      __m512 acc[][2])
{
    const moe_quant_form form = moe_quant_form_of(type);
    __m512 total[TILE_TOKENS][2], sum[TILE_TOKENS][2];

    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        UNROLL
        for (int g = 0; g < n_groups; g++) {
            total[t][g] = _mm512_setzero_ps();
            sum[t][g] = acc[t][g];
        }
    }
    for (int u = 0; u < n_units; u++) {
        const __m512i *w[2];
        __m512i widened[8];

        if (packed) {
            const uint8_t *p = unit_of(type, packed, block, u);

            UNROLL
            for (size_t i = 0; i < moe_quant_unit_bytes(form); i += 64)
                _mm_prefetch((const char *)p + PREFETCH_BYTES + i, _MM_HINT_T0);
            widen_unit(form.bits, p, widened);
            w[0] = widened;
        } else {
            UNROLL
            for (int g = 0; g < n_groups; g++)
                w[g] = q[g] + 8 * u;
        }
        if (form.columns == 32)
            add_block_32(type, n_tokens, n_groups, w, s, a, u, sum);
        else
            add_sub_blocks(type, n_tokens, n_groups, w, s, a, u, total);
    }
    if (form.columns != 32)
        add_super_block(type, n_tokens, n_groups, s, a, total, sum);
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        UNROLL
        for (int g = 0; g < n_groups; g++)
            acc[t][g] = sum[t][g];
    }
}

/* The units of a chunk; the last may be shorter. */
INLINE int units_of(const moe_matrix *w, int64_t chunk)
{
    int64_t n = w->n_cols / MOE_QUANT_UNIT - chunk * CHUNK_UNITS;

    return n < CHUNK_UNITS ? (int)n : CHUNK_UNITS;
}

/* The activations of row `row`, chunk `chunk` of n_units units; bias is that of the codes. */
INLINE void set_row(const moe_type type, int bias, const moe_activations *x, int64_t row,
                    int64_t chunk, int n_units, token_row *a)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const moe_act_planes *planes = moe_quant_planes(form, x);
    int64_t first = row * x->n_cols + chunk * CHUNK_COLUMNS;

    a->hi = planes->hi + first;
    a->lo = planes->lo + first;
    a->d = planes->d + first / form.columns;
    a->sums = planes->sums + first / (form.columns == 32 ? 32 : 16);
    if (form.columns == 32 && !form.has_min) {
        __m256i sums = _mm256_maskz_loadu_epi32((__mmask8)((1u << n_units) - 1), a->sums);

        sums = _mm256_mullo_epi32(sums, _mm256_set1_epi32(-bias));
        _mm256_storeu_si256((__m256i *)a->term, sums);
    } else if (type == MOE_TYPE_Q6_K) {
        __m512i sums = _mm512_slli_epi32(load(a->sums), 5);

        _mm512_storeu_si512(a->term, _mm512_sub_epi32(_mm512_setzero_si512(), sums));
    } else if (form.columns == MOE_QUANT_SUPER) {
        const __m256i low = _mm256_set1_epi32(127), high = _mm256_set1_epi32(-65536);
        __m512i pairs = load(a->sums);
        __m256i sums;

        pairs = _mm512_add_epi32(pairs, _mm512_srli_epi64(pairs, 32));
        sums = _mm512_cvtepi64_epi32(pairs);
        sums = _mm256_or_si256(_mm256_and_si256(sums, low),
                               _mm256_and_si256(_mm256_slli_epi32(sums, 16 - 7), high));
        _mm256_storeu_si256((__m256i *)a->term, sums);
    }
}

/* Writes one group's results of one token; lanes past the last row stay out. */
INLINE void store(const moe_matrix *w, int64_t group, __m512 acc, float *y)
{
    int64_t n = w->n_rows - group * MOE_GROUP_ROWS;
    __mmask16 lanes = n >= MOE_GROUP_ROWS ? 0xFFFF : (__mmask16)((1u << n) - 1);

    _mm512_mask_storeu_ps(y + group * MOE_GROUP_ROWS, lanes, acc);
}

/* n_tokens <= FEW_TOKENS tokens with one group, straight from its packed form. */
INLINE void few_tokens(const moe_type type, const int n_tokens, const moe_matrix *w, int64_t group,
                       const moe_activations *x, const int32_t *rows, float *y, int64_t ldy)
{
    const int blocks_per_chunk = CHUNK_COLUMNS / moe_quant_form_of(type).columns;
    const uint8_t *packed =
        (const uint8_t *)w->packed + (size_t)group * moe_packed_group_bytes(type, w->n_cols);
    int64_t n_chunks = (w->n_cols + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS;
    __m512 acc[FEW_TOKENS][2];
    chunk_scales scales;
    const chunk_scales *const s[1] = {&scales};

    UNROLL
    for (int i = 0; i < n_tokens; i++)
        acc[i][0] = _mm512_setzero_ps();
    for (int64_t c = 0; c < n_chunks; c++) {
        int n_units = units_of(w, c);
        token_row a[FEW_TOKENS];

        UNROLL
        for (int i = 0; i < n_tokens; i++)
            set_row(type, moe_quant_form_of(type).bias, x, rows ? rows[i] : i, c, n_units, &a[i]);
        load_scales(type, packed, c * blocks_per_chunk, n_units, &scales);
        add_chunk(type, n_tokens, 1, packed, c * blocks_per_chunk, NULL, s, n_units, a, acc);
    }
    UNROLL
    for (int i = 0; i < n_tokens; i++)
        store(w, group, acc[i][0], y + i * ldy);
}

/* n_tokens tokens of a batch with the tiles of two groups. */
INLINE void tile_tokens(const moe_type type, const int n_tokens, const __m512i *const q[],
                        const chunk_scales *const s[], int n_units, const moe_activations *x,
                        const int64_t *token_rows, int64_t chunk, __m512 acc[][2])
{
    token_row a[TILE_TOKENS];

    UNROLL
    for (int i = 0; i < n_tokens; i++)
        set_row(type, s[0]->bias, x, token_rows[i], chunk, n_units, &a[i]);
    add_chunk(type, n_tokens, 2, NULL, 0, q, s, n_units, a, acc);
}

/* How many of n tokens to take together: six, but so that four and three use up the last ones. */
INLINE int next_tile(int n)
{
    if (n == 6 || n == 9 || n == 10 || n > 11)
        return 6;
    return n >= 4 ? 4 : n == 3 ? 3 : 1;
}

/* All tokens of a batch with the tiles of two groups. */
INLINE void pass(const moe_type type, const __m512i *const q[], const chunk_scales *const s[],
                 int n_units, const moe_activations *x, const int64_t *token_rows, int n_tokens,
                 int64_t chunk, __m512 acc[][2])
{
    for (int t = 0, n; t < n_tokens; t += n) {
        n = next_tile(n_tokens - t);
        if (n == 6)
            tile_tokens(type, 6, q, s, n_units, x, token_rows + t, chunk, acc + t);
        else if (n == 4)
            tile_tokens(type, 4, q, s, n_units, x, token_rows + t, chunk, acc + t);
        else if (n == 3)
            tile_tokens(type, 3, q, s, n_units, x, token_rows + t, chunk, acc + t);
        else
            tile_tokens(type, 1, q, s, n_units, x, token_rows + t, chunk, acc + t);
    }
}

/* Once widened, types that differ in the width of their codes or in the bias only are alike:
 * Q4_0 and Q5_0 pass as Q8_0, and Q5_1 as Q4_1. */
#define PASS(name, type)                                                                           \
    static void name(const __m512i *const q[], const chunk_scales *const s[], int n_units,         \
                     const moe_activations *x, const int64_t *token_rows, int n_tokens,            \
                     int64_t chunk, __m512 acc[][2])                                               \
    {                                                                                              \
        pass(type, q, s, n_units, x, token_rows, n_tokens, chunk, acc);                            \
    }
PASS(pass_32, MOE_TYPE_Q8_0)
PASS(pass_32_min, MOE_TYPE_Q4_1)
PASS(pass_q4_k, MOE_TYPE_Q4_K)
PASS(pass_q5_k, MOE_TYPE_Q5_K)
PASS(pass_q6_k, MOE_TYPE_Q6_K)
#undef PASS

/* Up to BATCH_TOKENS tokens with groups group[0] and group[1] (which may be the same). */
INLINE void batch(const moe_type type, const moe_matrix *w, const int64_t group[2],
                  const moe_activations *x, const int64_t *token_rows, int n_tokens, float *y,
                  int64_t ldy)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const int blocks_per_chunk = CHUNK_COLUMNS / form.columns;
    size_t group_bytes = moe_packed_group_bytes(type, w->n_cols);
    int64_t n_chunks = (w->n_cols + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS;
    __m512 acc[BATCH_TOKENS][2];
    __m512i codes[2][8 * CHUNK_UNITS];
    chunk_scales scales[2];
    const __m512i *const q[2] = {codes[0], codes[1]};
    const chunk_scales *const s[2] = {&scales[0], &scales[1]};

    for (int t = 0; t < n_tokens; t++)
        acc[t][0] = acc[t][1] = _mm512_setzero_ps();
    for (int64_t c = 0; c < n_chunks; c++) {
        int n_units = units_of(w, c);

        for (int g = 0; g < 2; g++) {
            const uint8_t *packed = (const uint8_t *)w->packed + (size_t)group[g] * group_bytes;

            load_scales(type, packed, c * blocks_per_chunk, n_units, &scales[g]);
            for (int u = 0; u < n_units; u++) {
                __m512i widened[8];

                widen_unit(form.bits, unit_of(type, packed, c * blocks_per_chunk, u), widened);
                UNROLL
                for (int v = 0; v < 8; v++)
                    codes[g][8 * u + v] = widened[v];
            }
        }
        switch (type) {
        case MOE_TYPE_Q4_K:
            pass_q4_k(q, s, n_units, x, token_rows, n_tokens, c, acc);
            break;
        case MOE_TYPE_Q5_K:
            pass_q5_k(q, s, n_units, x, token_rows, n_tokens, c, acc);
            break;
        case MOE_TYPE_Q6_K:
            pass_q6_k(q, s, n_units, x, token_rows, n_tokens, c, acc);
            break;
        default:
            (form.has_min ? pass_32_min : pass_32)(q, s, n_units, x, token_rows, n_tokens, c, acc);
        }
    }
    for (int t = 0; t < n_tokens; t++) {
        store(w, group[0], acc[t][0], y + t * ldy);
        store(w, group[1], acc[t][1], y + t * ldy);
    }
}

INLINE void matmul(const moe_type type, const moe_matrix *w, int64_t group_begin, int64_t group_end,
                   const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                   int64_t ldy)
{
    int64_t token_rows[BATCH_TOKENS];

    if (n_tokens <= FEW_TOKENS) {
        for (int64_t g = group_begin; g < group_end; g++) {
            switch (n_tokens) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        few_tokens(type, n, w, g, x, rows, y, ldy);                                                \
        break
                CASE(1);
                CASE(2);
                CASE(3);
                CASE(4);
                CASE(FEW_TOKENS);
#undef CASE
            }
        }
        return;
    }
    for (int64_t g = group_begin; g < group_end; g += 2) {
        int64_t group[2] = {g, g + 1 < group_end ? g + 1 : g};

        for (int64_t t = 0; t < n_tokens; t += BATCH_TOKENS) {
            int n = n_tokens - t < BATCH_TOKENS ? (int)(n_tokens - t) : BATCH_TOKENS;

            for (int i = 0; i < n; i++)
                token_rows[i] = rows ? rows[t + i] : t + i;
            batch(type, w, group, x, token_rows, n, y + t * ldy, ldy);
        }
    }
}

void moe_matmul_quant_avx512(const moe_matrix *w, int64_t group_begin, int64_t group_end,
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

/* The scale of a block of n columns, and what its activations are multiplied with: see
 * quant_scalar.c.  0 for both if the block becomes zeros. */
INLINE float scale_of(const float *x, const int n, float *inverse)
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
    *inverse = 16256.0f / amax;
    return amax / 16256.0f;
}

/* 16 activations to integers and their planes; returns the integers. */
INLINE __m512i split_16(const float *x, float inverse, int8_t *hi, int8_t *lo)
{
    __m512i q = _mm512_setzero_si512(), high;

    if (inverse != 0.0f)
        q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(inverse)));
    high = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(64)), 7);
    _mm_storeu_si128((__m128i *)hi, _mm512_cvtepi32_epi8(high));
    _mm_storeu_si128((__m128i *)lo,
                     _mm512_cvtepi32_epi8(_mm512_sub_epi32(q, _mm512_slli_epi32(high, 7))));
    return q;
}

void moe_quantize_32_avx512(const float *x, int64_t n_cols, int8_t *hi, int8_t *lo, float *d,
                            int32_t *sums)
{
    for (int64_t b = 0; b < n_cols / 32; b++, x += 32, hi += 32, lo += 32) {
        __m512i q;
        float inverse;

        d[b] = scale_of(x, 32, &inverse);
        q = split_16(x, inverse, hi, lo);
        q = _mm512_add_epi32(q, split_16(x + 16, inverse, hi + 16, lo + 16));
        sums[b] = _mm512_reduce_add_epi32(q);
    }
}

void moe_quantize_256_avx512(const float *x, int64_t n_cols, int8_t *hi, int8_t *lo, float *d,
                             int32_t *sums)
{
    for (int64_t b = 0; b < n_cols / 256; b++) {
        float inverse;

        d[b] = scale_of(x + 256 * b, 256, &inverse);
        for (int64_t i = 256 * b; i < 256 * (b + 1); i += 16)
            sums[i / 16] = _mm512_reduce_add_epi32(split_16(x + i, inverse, hi + i, lo + i));
    }
}
