/*
 * Products of quantised weights with 8-bit activations for AVX2.
 *
 * A unit of codes, 32 columns of a group, is widened to registers in parts, sixteen columns of both
 * halves of the group at a time; then one token after the other passes over each part.  vpmaddubsw
 * multiplies the unsigned codes of a vector with four activations that all lanes share and adds
 * pairs in int16, where codes of b < 8 bits leave room for a run of several products before
 * vpmaddwd widens the sums and applies the scale of the sub-block:
 *
 *     4 bits   8 * 2 * 15 * 127 = 30480   eight vectors: a unit
 *     5 bits   4 * 2 * 31 * 127 = 31496   four: a part
 *     6 bits   2 * 2 * 63 * 127 = 32004   two
 *
 * Codes of eight bits leave none: those of Q8_0 become signed int16, and vpmaddwd multiplies them
 * with pairs of activations; a part is eight columns.  Sums wait in memory for the next part.  They
 * are exact integers, and those of a unit, with scales and less the bias, are below 2^24; the float
 * steps are those of quant_scalar.c.
 *
 * For a batch of tokens and a chunk of 256 columns the activations are gathered side by side, since
 * rows 2^n bytes apart would push each other out of the first-level cache; then all groups pass, or
 * for few tokens some groups, so that memory is read nearly in order.  Results add up in y itself,
 * chunk by chunk.
 */
#include "quant_chunk_avx2.h"

#define BATCH_TOKENS 32 /* tokens that pass over a part of a unit */
#define FEW_TOKENS 8    /* up to so many take FEW_GROUPS groups at a time */
#define FEW_GROUPS 8

/* The activations of a batch of tokens in a chunk. */
typedef struct chunk_acts {
    int8_t q[CHUNK_UNITS][BATCH_TOKENS][32];         /* not for Q8_0 */
    int16_t pairs[CHUNK_UNITS][BATCH_TOKENS][2][16]; /* for Q8_0: columns 4v and 4v + 2 for all v,
                                                      * then 4v + 1 and 4v + 3 */
    float d[CHUNK_UNITS][BATCH_TOKENS];
    float mins[CHUNK_UNITS][BATCH_TOKENS];    /* Q4_1, Q5_1: the sum; Q4_K, Q5_K: times d */
    int32_t terms[CHUNK_UNITS][BATCH_TOKENS]; /* Q4_0, Q5_0: -bias * sum; Q6_K, two int16: the sums
                                               * of both sub-blocks with the sign changed */
} chunk_acts;

/* The scales of a chunk, for both halves of a group, ready for use. */
typedef struct chunk_scales {
    __m256 d[CHUNK_UNITS][2], m[CHUNK_UNITS][2]; /* per block of 32 columns; super-blocks: in [0] */
    __m256i sc[CHUNK_UNITS][2][2];               /* super-blocks, int16, by unit and part of it */
    __m256i bias_sc[CHUNK_UNITS][2];             /* Q6_K, two int16: bias * sc of both sub-blocks */
    __m256 mn[CHUNK_UNITS][2];                   /* Q4_K, Q5_K */
} chunk_scales;

/* Token t of a batch: row `row`, chunk `chunk` of n_units units. */
INLINE void gather_token(const moe_type type, const moe_activations *x, int64_t row, int64_t chunk,
                         int n_units, chunk_acts *a, int t)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const int64_t first = row * x->n_cols + chunk * CHUNK_COLUMNS;
    const float *d = x->q8.d + first / 32;
    const int32_t *sums = x->q8.sums + first / 16;

    for (int u = 0; u < n_units; u++, sums += 2) {
        const __m256i q = load(x->q8.q + first + 32 * u);

        a->d[u][t] = d[u];
        if (form.bits == 8) {
            _mm256_storeu_si256((__m256i *)a->pairs[u][t][0],
                                _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8));
            _mm256_storeu_si256((__m256i *)a->pairs[u][t][1], _mm256_srai_epi16(q, 8));
            continue;
        }
        _mm256_storeu_si256((__m256i *)a->q[u][t], q);
        if (type == MOE_TYPE_Q6_K)
            a->terms[u][t] = (-sums[0] & 0xffff) | (int32_t)((uint32_t)-sums[1] << 16);
        else if (!form.has_min)
            a->terms[u][t] = -form.bias * (sums[0] + sums[1]);
        else if (form.columns == 32)
            a->mins[u][t] = (float)(sums[0] + sums[1]);
        else
            a->mins[u][t] = (float)(sums[0] + sums[1]) * d[u];
    }
}

/* Makes every lane of four of its bytes, given by number; NO_BYTE stands for zeros. */
#define NO_BYTE 0x80
INLINE __m256i pick_bytes(__m256i x, const uint32_t b0, const uint32_t b1, const uint32_t b2,
                          const uint32_t b3)
{
    const __m256i lanes = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404,
                                            0x08080808, 0x0c0c0c0c);
    const uint32_t bytes = b0 | b1 << 8 | b2 << 16 | b3 << 24;

    return _mm256_shuffle_epi8(x, _mm256_add_epi8(lanes, _mm256_set1_epi32((int32_t)bytes)));
}

/* The scales of n_units units that start at block `block` of a group, for half h. */
INLINE void load_scales(const moe_type type, const uint8_t *group, int64_t block, int n_units,
                        const int h, chunk_scales *s)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const uint8_t *p = group + moe_quant_body(form, block) + 32 * h;
    const int n_blocks = form.columns == 32 ? n_units : 1;

    for (int b = 0; b < n_blocks; b++) {
        const uint8_t *head = group + moe_quant_head(form, block + b) + 16 * h;

        s->d[b][h] = load_f16(head);
        if (form.has_min)
            s->m[b][h] = load_f16(head + 32);
    }
    if (type == MOE_TYPE_Q6_K) {
        UNROLL
        for (int u = 0; u < CHUNK_UNITS; u++) {
            const uint32_t j = 2 * (u % 2);
            __m256i x = load(p + 64 * (u / 2)), both;

            /* The signed bytes in the upper halves of words, which are shifted to their place. */
            s->sc[u][0][h] = _mm256_srai_epi16(pick_bytes(x, NO_BYTE, j, NO_BYTE, j), 8);
            s->sc[u][1][h] = _mm256_srai_epi16(pick_bytes(x, NO_BYTE, j + 1, NO_BYTE, j + 1), 8);
            both = pick_bytes(x, NO_BYTE, j, NO_BYTE, j + 1);
            s->bias_sc[u][h] = _mm256_srai_epi16(both, 3);
            _Static_assert(32 == 1 << (8 - 3), "the bias of Q6_K");
        }
    } else if (form.columns == MOE_QUANT_SUPER) {
        __m256i w[4];

        widen_six_bits(p, w);
        UNROLL
        for (int u = 0; u < CHUNK_UNITS; u++) {
            const uint32_t j = u % 4;
            __m256i mn = pick_bytes(w[2 + u / 4], j, NO_BYTE, NO_BYTE, NO_BYTE);

            s->sc[u][0][h] = s->sc[u][1][h] = pick_bytes(w[u / 4], j, NO_BYTE, j, NO_BYTE);
            s->mn[u][h] = _mm256_cvtepi32_ps(mn);
        }
    }
}

/* Part `part` of half a unit of codes: four vectors of bytes, or, if they have eight bits, two
 * vectors as int16, even and odd bytes apart; p points to this half. */
INLINE void widen_part(const int bits, const uint8_t *p, const int part, __m256i w[4])
{
    const __m256i low = _mm256_set1_epi8(15), fifth = _mm256_set1_epi8(16);

    if (bits == 8) {
        UNROLL
        for (int v = 0; v < 2; v++) {
            __m256i x = _mm256_xor_si256(load(p + 64 * (2 * part + v)), _mm256_set1_epi8(-128));

            w[2 * v] = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8);
            w[2 * v + 1] = _mm256_srai_epi16(x, 8);
        }
    } else if (bits == 6) {
        widen_six_bits(p + 192 * part, w);
    } else {
        UNROLL
        for (int v = 0; v < 4; v++) {
            __m256i x = load(p + 64 * v), h;

            w[v] = _mm256_and_si256(part == 0 ? x : _mm256_srli_epi16(x, 4), low);
            if (bits == 4)
                continue;
            h = load(p + 256);
            h = part == 0 ? _mm256_slli_epi16(h, 4 - v) : _mm256_srli_epi16(h, v);
            w[v] = _mm256_or_si256(w[v], _mm256_and_si256(h, fifth));
        }
    }
    UNROLL
    for (int v = 0; v < 4; v++)
        SETTLE(w[v]);
}

/* A part of a unit of codes, both halves, times activations: added to `sum`, or in place of it for
 * the first part.  Codes of four bits: sums in int16, not scaled yet. */
INLINE void dot_part(const int bits, const int part, __m256i w[2][4], __m256i sc[2],
                     const void *activations, __m256i sum[2])
{
    const int run = bits == 8 ? 1 : bits == 6 ? 2 : 4;
    const int8_t *x = (const int8_t *)activations + (bits == 8 ? 8 : 16) * part;
    __m256i pairs[2];

    UNROLL
    for (int v = 0; v < 4; v++) {
        __m256i four = broadcast4(bits == 8 ? x + 4 * (v / 2) + 32 * (v % 2) : x + 4 * v);

        UNROLL
        for (int h = 0; h < 2; h++) {
            const bool is_first = part == 0 && v < run;
            __m256i product =
                bits == 8 ? _mm256_madd_epi16(w[h][v], four) : _mm256_maddubs_epi16(w[h][v], four);

            if (bits == 4) {
                sum[h] = part == 0 && v == 0 ? product : _mm256_add_epi16(sum[h], product);
                SETTLE(sum[h]);
                continue;
            }
            pairs[h] = v % run == 0 ? product : _mm256_add_epi16(pairs[h], product);
            SETTLE(pairs[h]);
            if (v % run == run - 1) {
                product = bits == 8 ? pairs[h] : _mm256_madd_epi16(pairs[h], sc[h]);
                sum[h] = is_first ? product : _mm256_add_epi32(sum[h], product);
                SETTLE(sum[h]);
            }
        }
    }
}

/* The sum of unit u as a float, less its bias. */
INLINE __m256 finish_sum(const moe_type type, __m256i sum, __m256i sc, __m256i bias_sc,
                         int32_t term)
{
    const moe_quant_form form = moe_quant_form_of(type);
    __m256i terms = _mm256_set1_epi32(term);

    if (form.bits == 4)
        sum = _mm256_madd_epi16(sum, sc);
    if (type == MOE_TYPE_Q6_K)
        terms = _mm256_madd_epi16(bias_sc, terms);
    if (!form.has_min && form.bits != 8)
        sum = _mm256_add_epi32(sum, terms);
    return _mm256_cvtepi32_ps(sum);
}

/* Unit u of a chunk, at p, with the tokens of a batch.  Added to `to`: the results for blocks of 32
 * columns, the totals of a super-block else. */
INLINE void add_unit(const moe_type type, const uint8_t *p, const chunk_scales *s,
                     const chunk_acts *a, int u, int n_tokens, __m256 to[][2])
{
    const moe_quant_form form = moe_quant_form_of(type);
    const int n_parts = form.bits == 8 ? 4 : 2;
    __m256i sums[BATCH_TOKENS][2];

    UNROLL
    for (int part = 0; part < n_parts; part++) {
        __m256i w[2][4], sc[2], bias_sc[2];

        UNROLL
        for (int h = 0; h < 2; h++) {
            widen_part(form.bits, p + 32 * h, part, w[h]);
            sc[h] = form.columns == 32 ? _mm256_set1_epi16(1) : s->sc[u][part % 2][h];
            bias_sc[h] = s->bias_sc[u][h];
        }
        _Pragma("GCC unroll 2") for (int t = 0; t < n_tokens; t++)
        {
            const void *x = form.bits == 8 ? (const void *)a->pairs[u][t] : a->q[u][t];
            __m256 d_a = _mm256_set1_ps(a->d[u][t]);
            __m256i sum[2];

            if (part > 0) {
                sum[0] = sums[t][0];
                sum[1] = sums[t][1];
            }
            dot_part(form.bits, part, w, sc, x, sum);
            if (part < n_parts - 1) {
                sums[t][0] = sum[0];
                sums[t][1] = sum[1];
                continue;
            }
            UNROLL
            for (int h = 0; h < 2; h++) {
                __m256 value = finish_sum(type, sum[h], sc[h], bias_sc[h], a->terms[u][t]);
                __m256 scale = form.columns == 32 ? _mm256_mul_ps(s->d[u][h], d_a) : d_a;

                to[t][h] = _mm256_fmadd_ps(value, scale, to[t][h]);
                if (form.columns == 32 && form.has_min)
                    to[t][h] = _mm256_fmadd_ps(_mm256_set1_ps(a->mins[u][t]),
                                               _mm256_mul_ps(s->m[u][h], d_a), to[t][h]);
            }
        }
    }
}

/* The rows of half a group that there are, as a mask of lanes. */
INLINE __m256i rows_of(const moe_matrix *w, int64_t group, int half)
{
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    int64_t n = w->n_rows - group * MOE_GROUP_ROWS - 8 * half;

    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n < 0 ? 0 : n < 8 ? (int)n : 8), lanes);
}

/* The end of a super-block: acc + scaled total - minima, for token t and half h. */
INLINE __m256 add_super_block(const moe_type type, const chunk_scales *s, const chunk_acts *a,
                              int t, const int h, __m256 total, __m256 acc)
{
    __m256 min = _mm256_setzero_ps();

    acc = _mm256_fmadd_ps(total, s->d[0][h], acc);
    if (!moe_quant_form_of(type).has_min)
        return acc;
    UNROLL
    for (int u = 0; u < CHUNK_UNITS; u++)
        min = _mm256_fmadd_ps(s->mn[u][h], _mm256_set1_ps(a->mins[u][t]), min);
    return _mm256_fnmadd_ps(min, s->m[0][h], acc);
}

/* A chunk of a group with the tokens of a batch: y += products. */
INLINE void add_chunk(const moe_type type, const moe_matrix *w, int64_t group, int64_t chunk,
                      const chunk_acts *a, int n_tokens, float *y, int64_t ldy)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const uint8_t *packed =
        (const uint8_t *)w->packed + (size_t)group * moe_packed_group_bytes(type, w->n_cols);
    const int64_t block = chunk * (CHUNK_COLUMNS / form.columns);
    const int n_units = units_of(w, chunk);
    const __m256i rows[2] = {rows_of(w, group, 0), rows_of(w, group, 1)};
    __m256 to[BATCH_TOKENS][2];
    chunk_scales s;

    y += group * MOE_GROUP_ROWS;
    UNROLL
    for (int h = 0; h < 2; h++) {
        load_scales(type, packed, block, n_units, h, &s);
        for (int t = 0; t < n_tokens; t++)
            to[t][h] = form.columns == MOE_QUANT_SUPER || chunk == 0
                           ? _mm256_setzero_ps()
                           : _mm256_maskload_ps(y + t * ldy + 8 * h, rows[h]);
    }
    for (int u = 0; u < n_units; u++) {
        const uint8_t *p = unit_of(type, packed, block, u);

        UNROLL
        for (size_t i = 0; i < moe_quant_unit_bytes(form); i += 64)
            _mm_prefetch((const char *)p + PREFETCH_BYTES + i, _MM_HINT_T0);
        add_unit(type, p, &s, a, u, n_tokens, to);
    }
    for (int t = 0; t < n_tokens; t++, y += ldy) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            __m256 acc = to[t][h];

            if (form.columns == MOE_QUANT_SUPER) {
                acc = chunk == 0 ? _mm256_setzero_ps() : _mm256_maskload_ps(y + 8 * h, rows[h]);
                acc = add_super_block(type, &s, a, t, h, to[t][h], acc);
            }
            _mm256_maskstore_ps(y + 8 * h, rows[h], acc);
        }
    }
}

/* Up to BATCH_TOKENS tokens with groups [group_begin, group_end). */
INLINE void batch(const moe_type type, const moe_matrix *w, int64_t group_begin, int64_t group_end,
                  const moe_activations *x, const int64_t *token_rows, int n_tokens, float *y,
                  int64_t ldy)
{
    const int64_t n_chunks = (w->n_cols + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS;
    chunk_acts a;

    for (int64_t c = 0; c < n_chunks; c++) {
        for (int t = 0; t < n_tokens; t++)
            gather_token(type, x, token_rows[t], c, units_of(w, c), &a, t);
        for (int64_t g = group_begin; g < group_end; g++) {
            if (n_tokens == 1) /* sums stay in registers */
                add_chunk(type, w, g, c, &a, 1, y, ldy);
            else
                add_chunk(type, w, g, c, &a, n_tokens, y, ldy);
        }
    }
}

INLINE void matmul(const moe_type type, const moe_matrix *w, int64_t group_begin, int64_t group_end,
                   const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                   int64_t ldy)
{
    int64_t token_rows[BATCH_TOKENS];

    for (int64_t t = 0; t < n_tokens; t += BATCH_TOKENS) {
        int n = n_tokens - t < BATCH_TOKENS ? (int)(n_tokens - t) : BATCH_TOKENS;
        int64_t n_together = n <= FEW_TOKENS ? FEW_GROUPS : group_end - group_begin;

        for (int i = 0; i < n; i++)
            token_rows[i] = rows ? rows[t + i] : t + i;
        for (int64_t g = group_begin, end; g < group_end; g = end) {
            end = group_end - g < n_together ? group_end : g + n_together;
            batch(type, w, g, end, x, token_rows, n, y + t * ldy, ldy);
        }
    }
}

void moe_matmul_bytes_avx2(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                           const moe_activations *x, const int32_t *rows, int64_t n_tokens,
                           float *y, int64_t ldy)
{
    switch (w->type) {
#define CASE(type)                                                                                 \
    case type:                                                                                     \
        matmul(type, w, group_begin, group_end, x, rows, n_tokens, y, ldy);                        \
        break
        MOE_QUANT_CASES(CASE);
#undef CASE
    default:
        break;
    }
}
