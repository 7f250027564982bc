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
 * with pairs of activations; a part is eight columns.  Sums wait in memory for the next part, those
 * of a super-block, which are scaled, until its end.  They are exact integers; the float steps are
 * those of quant_scalar.c.
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
    float d[BATCH_TOKENS][CHUNK_UNITS];              /* per block */
    int32_t terms[BATCH_TOKENS][CHUNK_UNITS]; /* Q4_1, Q5_1: the sum; Q4_0, Q5_0: -bias * sum;
                                               * super-blocks: see pack_sums */
} chunk_acts;

/* Token t of a batch: row `row`, chunk `chunk` of n_units units. */
INLINE void gather_token(const moe_type type, const moe_activations *x, int64_t row, int64_t chunk,
                         int n_units, chunk_acts *a, int t)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const moe_act_planes *planes = moe_quant_planes(form, x);
    const int64_t first = row * x->n_cols + chunk * CHUNK_COLUMNS;
    const float *d = planes->d + first / form.columns;
    const int32_t *sums = planes->sums + first / (form.columns == 32 ? 32 : 16);

    a->d[t][0] = d[0];
    if (form.columns == MOE_QUANT_SUPER)
        pack_sums(sums, a->terms[t]);
    for (int u = 0; u < n_units; u++) {
        const __m256i q = load(planes->hi + first + 32 * u);

        if (form.columns == 32) {
            a->d[t][u] = d[u];
            a->terms[t][u] = form.has_min ? sums[u] : -form.bias * sums[u];
        }
        if (form.bits == 8) {
            _mm256_storeu_si256((__m256i *)a->pairs[u][t][0],
                                _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8));
            _mm256_storeu_si256((__m256i *)a->pairs[u][t][1], _mm256_srai_epi16(q, 8));
        } else {
            _mm256_storeu_si256((__m256i *)a->q[u][t], q);
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

/* A part of a unit of codes, both halves, times activations: added to `sum`, or if `fresh` in place
 * of it.  Codes of four bits: sums in int16, not scaled yet. */
INLINE void dot_part(const int bits, const int part, const bool fresh, __m256i w[2][4],
                     __m256i sc[2], const void *activations, __m256i sum[2])
{
    const int run = bits == 8 ? 1 : bits == 6 ? 2 : 4;
    const int8_t *x = (const int8_t *)activations + (bits == 8 ? 8 : 16) * part;
    __m256i pairs[2];

    UNROLL
    for (int v = 0; v < 4; v++) {
        __m256i four = broadcast4(bits == 8 ? x + 4 * (v / 2) + 32 * (v % 2) : x + 4 * v);

        UNROLL
        for (int h = 0; h < 2; h++) {
            __m256i product =
                bits == 8 ? _mm256_madd_epi16(w[h][v], four) : _mm256_maddubs_epi16(w[h][v], four);

            if (bits == 4) {
                sum[h] = fresh && v == 0 ? product : _mm256_add_epi16(sum[h], product);
                SETTLE(sum[h]);
                continue;
            }
            pairs[h] = v % run == 0 ? product : _mm256_add_epi16(pairs[h], product);
            SETTLE(pairs[h]);
            if (v % run == run - 1) {
                product = bits == 8 ? pairs[h] : _mm256_madd_epi16(pairs[h], sc[h]);
                sum[h] = fresh && v < run ? product : _mm256_add_epi32(sum[h], product);
                SETTLE(sum[h]);
            }
        }
    }
}

/* A block of 32 columns, unit u: acc plus its sum, not widened yet for codes of four bits. */
INLINE __m256 add_block_32(const moe_type type, __m256i sum, const chunk_scales *s, float d,
                           int32_t term, int u, __m256 acc)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const __m256 d_a = _mm256_set1_ps(d);

    if (form.bits == 4)
        sum = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
    if (!form.has_min && form.bits != 8)
        sum = _mm256_add_epi32(sum, _mm256_set1_epi32(term));
    acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(s->d[u], d_a), acc);
    if (form.has_min)
        acc = _mm256_fmadd_ps(_mm256_set1_ps((float)term), _mm256_mul_ps(s->m[u], d_a), acc);
    return acc;
}

/* Unit u of a chunk, at p, with the tokens of a batch: added to acc for blocks of 32 columns, to
 * the exact totals of a super-block else. */
INLINE void add_unit(const moe_type type, const uint8_t *p, const chunk_scales s[2],
                     const chunk_acts *a, int u, int n_tokens, __m256i totals[][2], __m256 acc[][2])
{
    const moe_quant_form form = moe_quant_form_of(type);
    const bool super = form.columns == MOE_QUANT_SUPER;
    const int n_parts = form.bits == 8 ? 4 : 2;
    /* What goes from part to part, starting anew with each unit or not. */
    const bool anew = !super || form.bits == 4;
    __m256i unit[BATCH_TOKENS][2];
    __m256i(*sums)[2] = anew ? unit : totals;

    UNROLL
    for (int part = 0; part < n_parts; part++) {
        const bool fresh = anew && part == 0, last = part == n_parts - 1;
        __m256i w[2][4], sc[2];

        UNROLL
        for (int h = 0; h < 2; h++) {
            widen_part(form.bits, p + 32 * h, part, w[h]);
            sc[h] = !super                  ? _mm256_set1_epi16(1)
                    : type == MOE_TYPE_Q6_K ? s[h].sc[2 * u + part]
                                            : s[h].sc[u];
        }
        _Pragma("GCC unroll 2") for (int t = 0; t < n_tokens; t++)
        {
            const void *x = form.bits == 8 ? (const void *)a->pairs[u][t] : a->q[u][t];
            __m256i sum[2];

            if (!fresh) {
                sum[0] = sums[t][0];
                sum[1] = sums[t][1];
            }
            dot_part(form.bits, part, fresh, w, sc, x, sum);
            UNROLL
            for (int h = 0; h < 2; h++) {
                if (!last || !anew)
                    sums[t][h] = sum[h];
                else if (super)
                    totals[t][h] = _mm256_add_epi32(totals[t][h], _mm256_madd_epi16(sum[h], sc[h]));
                else
                    acc[t][h] =
                        add_block_32(type, sum[h], &s[h], a->d[t][u], a->terms[t][u], u, acc[t][h]);
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
    const bool super = form.columns == MOE_QUANT_SUPER;
    __m256i totals[BATCH_TOKENS][2];
    __m256 acc[BATCH_TOKENS][2];
    chunk_scales s[2];

    y += group * MOE_GROUP_ROWS;
    UNROLL
    for (int h = 0; h < 2; h++) {
        load_scales(type, packed, h, block, n_units, &s[h]);
        for (int t = 0; t < n_tokens; t++) {
            if (super)
                totals[t][h] = _mm256_setzero_si256();
            else
                acc[t][h] = chunk == 0 ? _mm256_setzero_ps()
                                       : _mm256_maskload_ps(y + t * ldy + 8 * h, rows[h]);
        }
    }
    for (int u = 0; u < n_units; u++) {
        const uint8_t *p = unit_of(type, packed, block, u);

        UNROLL
        for (size_t i = 0; i < moe_quant_unit_bytes(form); i += 64)
            _mm_prefetch((const char *)p + PREFETCH_BYTES + i, _MM_HINT_T0);
        add_unit(type, p, s, a, u, n_tokens, totals, acc);
    }
    for (int t = 0; t < n_tokens; t++, y += ldy) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            __m256 result;

            if (super) {
                __m256i total = totals[t][h];

                if (!form.has_min)
                    total = _mm256_sub_epi32(total, times_sums(&s[h], a->terms[t]));
                result = chunk == 0 ? _mm256_setzero_ps() : _mm256_maskload_ps(y + 8 * h, rows[h]);
                result = add_super_block(type, total, &s[h], a->terms[t], a->d[t][0], result);
            } else {
                result = acc[t][h];
            }
            _mm256_maskstore_ps(y + 8 * h, rows[h], result);
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
