/*
 * Quantised kernels for AVX2: one 32-bit lane per output row, a group in two halves of eight rows.
 *
 * Many tokens (prefill): vpmaddwd multiplies pairs of int16 and adds them in int32.  The two planes
 * of the activations are put together again, once per chunk of 256 columns for several groups; a
 * vector of codes, four bytes to a lane, becomes one of its even and one of its odd bytes, and the
 * activations stand in pairs to match: columns 4v and 4v + 2, 4v + 1 and 4v + 3.  All tokens of a
 * batch pass over a tile of such codes and of scales (one group, one chunk) on the stack.  In a
 * super-block the codes of a tile are less their bias and multiplied with the scale of their
 * sub-block, |sc * (c - bias)| <= 128 * 32, so that nothing is left to do between sub-blocks.
 *
 * Few tokens (decode): codes are widened in registers, to bytes only.  vpmaddubsw multiplies them
 * with one plane of the activations and adds pairs in int16, where codes of b < 8 bits leave room
 * for a run of several products before vpmaddwd widens the sums, with the plane's factor in blocks
 * of 32 columns and the scale of the sub-block in super-blocks:
 *
 *                      high plane                           low plane, |lo| <= 64
 *     32 columns,      4 bits   8 * 2 * 15 * 127 = 30480       8 * 2 * 15 * 64 = 15360
 *     |hi| <= 127      5 bits   4 * 2 * 31 * 127 = 31496       8 * 2 * 31 * 64 = 31744
 *     256 columns,     4 bits   8 * 2 * 15 * 16 = 3840         8 * 2 * 15 * 64 = 15360
 *     |hi| <= 16       5 bits   8 * 2 * 31 * 16 = 7936         8 * 2 * 31 * 64 = 31744
 *                      6 bits   4 * 2 * 63 * 16 = 8064         4 * 2 * 63 * 64 = 32256
 *
 * Eight vectors are a unit, four a sub-block of Q6_K.  Codes of eight bits leave no room and take
 * the int16 form here too.  Either way every integer is exact, and the float steps are those of
 * quant_scalar.c.
 *
 * All this is for activations of two planes; products with 8-bit ones are in quant_bytes_avx2.c.
 */
#include "quant_chunk_avx2.h"

#define BATCH_TOKENS 32 /* tokens that pass over a tile, a multiple of TILE_TOKENS */
#define BATCH_GROUPS 4  /* groups whose tiles they pass over in turn */
#define TILE_TOKENS 4   /* tokens whose sums are in registers together */
#define FEW_TOKENS 3    /* up to so many tokens the codes are widened in registers */

/* One token's activations of a chunk. */
typedef struct token_row {
    const int8_t *hi, *lo;
    const float *d;
    const int32_t *sums;
    int32_t term[CHUNK_UNITS]; /* Q8_0, Q4_0, Q5_0: -bias * sums; super-blocks: see pack_sums */
    int32_t pairs[CHUNK_UNITS][2][8]; /* two int16: columns 4v and 4v + 2, or 4v + 1 and 4v + 3 */
} token_row;

/* The even (odd = 0) or odd bytes of vector v of a unit, as words.  w has both halves as words, or
 * if it is one half only, bytes. */
INLINE __m256i words_of(const int n_halves, const __m256i *w, int v, int odd, int half)
{
    if (n_halves == 2)
        return w[4 * v + 2 * odd + half];
    return odd ? _mm256_srli_epi16(w[v], 8) : _mm256_and_si256(w[v], _mm256_set1_epi16(255));
}

/* n vectors of codes w, as bytes, times one plane x of activations and a factor in int16, added to
 * sum.  Runs of `run` vectors stay in int16. */
INLINE __m256i dot_plane(const __m256i *w, const int n, const int run, const int8_t *x,
                         __m256i factor, __m256i sum)
{
    UNROLL
    for (int first = 0; first < n; first += run) {
        __m256i pairs = _mm256_maddubs_epi16(w[first], broadcast4(x + 4 * first));

        UNROLL
        for (int v = first + 1; v < first + run; v++) {
            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w[v], broadcast4(x + 4 * v)));
            SETTLE(pairs);
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, factor));
    }
    return sum;
}

/* Unit u, codes as words_of takes them, times activations as int16, added to sum. */
INLINE void dot_words(const int n_tokens, const int n_halves, const __m256i *w, const token_row a[],
                      int u, __m256i sum[][2])
{
    UNROLL
    for (int i = 0; i < 16; i++) {
        __m256i codes[2];

        UNROLL
        for (int h = 0; h < n_halves; h++)
            codes[h] = words_of(n_halves, w, i / 2, i % 2, h);
        UNROLL
        for (int t = 0; t < n_tokens; t++) {
            __m256i x = _mm256_set1_epi32(a[t].pairs[u][i % 2][i / 2]);

            UNROLL
            for (int h = 0; h < n_halves; h++) {
                sum[t][h] = _mm256_add_epi32(sum[t][h], _mm256_madd_epi16(codes[h], x));
                SETTLE(sum[t][h]);
            }
        }
    }
}

/* A block of 32 columns, unit u of the chunk.  One half stands for one token and codes straight
 * from the packed form. */
INLINE void add_block_32(const moe_type type, const int n_tokens, const int n_halves,
                         const __m256i *w, const chunk_scales s[], const token_row a[], int u,
                         __m256 acc[][2])
{
    const moe_quant_form form = moe_quant_form_of(type);
    __m256i sum[TILE_TOKENS][2];

    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        UNROLL
        for (int h = 0; h < n_halves; h++)
            sum[t][h] = _mm256_set1_epi32(form.has_min ? 0 : a[t].term[u]);
    }
    if (n_halves == 1 && form.bits < 8) {
        const __m256i high = _mm256_set1_epi16(128), low = _mm256_set1_epi16(1);

        sum[0][0] = dot_plane(w, 8, form.bits == 4 ? 8 : 4, a->hi + 32 * u, high, sum[0][0]);
        sum[0][0] = dot_plane(w, 8, 8, a->lo + 32 * u, low, sum[0][0]);
    } else {
        dot_words(n_tokens, n_halves, w, a, u, sum);
    }
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        __m256 d_a = _mm256_set1_ps(a[t].d[u]);

        UNROLL
        for (int h = 0; h < n_halves; h++) {
            acc[t][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t][h]),
                                        _mm256_mul_ps(s[h].d[u], d_a), acc[t][h]);
            if (form.has_min)
                acc[t][h] = _mm256_fmadd_ps(_mm256_set1_ps((float)a[t].sums[u]),
                                            _mm256_mul_ps(s[h].m[u], d_a), acc[t][h]);
        }
    }
}

/* Half a packed group, the chunk that starts at block `block`, with one token: acc + products. */
INLINE __m256 add_packed(const moe_type type, const uint8_t *packed, int half, int64_t block,
                         int n_units, const token_row *a, __m256 acc)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const int n_sub = type == MOE_TYPE_Q6_K ? 2 : 1, n = 8 / n_sub;
    __m256i high = _mm256_setzero_si256(), low = high;
    __m256 results[1][2] = {{acc}};
    chunk_scales s;

    load_scales(type, packed, half, block, n_units, &s);
    for (int u = 0; u < n_units; u++) {
        const uint8_t *p = unit_of(type, packed, block, u);
        __m256i w[8];

        if (half == 0) {
            UNROLL
            for (size_t i = 0; i < moe_quant_unit_bytes(form); i += 64)
                _mm_prefetch((const char *)p + PREFETCH_BYTES + i, _MM_HINT_T0);
        }
        widen_unit(form.bits, p + 32 * half, w);
        if (form.columns == 32) {
            add_block_32(type, 1, 1, w, &s, a, u, results);
            continue;
        }
        UNROLL
        for (int j = 0; j < n_sub; j++) {
            const int column = 32 * u + 16 * j;
            const __m256i sc = s.sc[n_sub * u + j];

            high = dot_plane(w + n * j, n, n, a->hi + column, sc, high);
            low = dot_plane(w + n * j, n, n, a->lo + column, sc, low);
        }
    }
    if (form.columns == 32)
        return results[0][0];
    low = _mm256_add_epi32(low, _mm256_slli_epi32(high, 7));
    if (!form.has_min)
        low = _mm256_sub_epi32(low, times_sums(&s, a->term));
    return add_super_block(type, low, &s, a->term, a->d[0], acc);
}

/* A tile with n_tokens tokens: acc += products. */
INLINE void add_tile(const moe_type type, const int n_tokens, const __m256i *codes,
                     const chunk_scales s[2], int n_units, const token_row a[], __m256 acc[][2])
{
    const bool super = moe_quant_form_of(type).columns == MOE_QUANT_SUPER;
    __m256i sum[TILE_TOKENS][2];
    __m256 results[TILE_TOKENS][2];

    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            sum[t][h] = _mm256_setzero_si256();
            results[t][h] = acc[t][h];
        }
    }
    for (int u = 0; u < n_units; u++) {
        if (super)
            dot_words(n_tokens, 2, codes + 32 * u, a, u, sum);
        else
            add_block_32(type, n_tokens, 2, codes + 32 * u, s, a, u, results);
    }
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        UNROLL
        for (int h = 0; h < 2; h++)
            acc[t][h] =
                super ? add_super_block(type, sum[t][h], &s[h], a[t].term, a[t].d[0], results[t][h])
                      : results[t][h];
    }
}

/* The activations of row `row`, chunk `chunk` of n_units units; the pairs only if asked for. */
INLINE void set_row(const moe_type type, const bool pairs, const moe_activations *x, int64_t row,
                    int64_t chunk, int n_units, token_row *a)
{
    const moe_quant_form form = moe_quant_form_of(type);
    const moe_act_planes *planes = moe_quant_planes(form, x);
    int64_t first = row * x->n_cols + chunk * CHUNK_COLUMNS;

    a->hi = planes->hi + first;
    a->lo = planes->lo + first;
    a->d = planes->d + first / form.columns;
    a->sums = planes->sums + first / (form.columns == 32 ? 32 : 16);
    for (int u = 0; pairs && u < n_units; u++) {
        __m256i hi = load(planes->hi + first + 32 * u), lo = load(planes->lo + first + 32 * u);
        /* Bytes in the upper half of a word; shifted right by one they are 128 times themselves. */
        __m256i hi_even = _mm256_slli_epi16(hi, 8), lo_even = _mm256_slli_epi16(lo, 8);
        __m256i hi_odd = _mm256_and_si256(hi, _mm256_set1_epi16(-256));
        __m256i *dst = (__m256i *)a->pairs[u];

        _mm256_storeu_si256(
            dst, _mm256_add_epi16(_mm256_srai_epi16(hi_even, 1), _mm256_srai_epi16(lo_even, 8)));
        _mm256_storeu_si256(
            dst + 1, _mm256_add_epi16(_mm256_srai_epi16(hi_odd, 1), _mm256_srai_epi16(lo, 8)));
    }
    if (form.columns == MOE_QUANT_SUPER)
        pack_sums(a->sums, a->term);
    for (int u = 0; form.columns == 32 && !form.has_min && u < n_units; u++)
        a->term[u] = -form.bias * a->sums[u];
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

/* One token, row `row` of the activations, with one group, straight from its packed form. */
INLINE void one_token(const moe_type type, const moe_matrix *w, int64_t group,
                      const moe_activations *x, int64_t row, float *y)
{
    const int blocks_per_chunk = CHUNK_COLUMNS / moe_quant_form_of(type).columns;
    const uint8_t *packed =
        (const uint8_t *)w->packed + (size_t)group * moe_packed_group_bytes(type, w->n_cols);
    int64_t n_chunks = (w->n_cols + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS;
    __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    token_row a;

    for (int64_t c = 0; c < n_chunks; c++) {
        int n_units = units_of(w, c);

        set_row(type, moe_quant_form_of(type).bits == 8, x, row, c, n_units, &a);
        UNROLL
        for (int half = 0; half < 2; half++)
            acc[half] =
                add_packed(type, packed, half, c * blocks_per_chunk, n_units, &a, acc[half]);
    }
    store(w, group, 0, acc[0], y);
    store(w, group, 1, acc[1], y);
}

/* The even or odd bytes of a vector of codes of a super-block, as words: less the bias and times
 * the scale sc, which stands in both words of a lane. */
INLINE __m256i scaled_words(const moe_type type, __m256i w, const int odd, __m256i sc)
{
    /* As a byte beside a zero, sc picks the even or the odd codes. */
    __m256i byte = odd ? _mm256_slli_epi16(sc, 8) : _mm256_and_si256(sc, _mm256_set1_epi16(255));
    __m256i words = _mm256_maddubs_epi16(w, byte);

    if (type == MOE_TYPE_Q6_K)
        words = _mm256_sub_epi16(words, _mm256_slli_epi16(sc, 5)); /* bias 32 */
    return words;
}

/* Fills a tile: the codes as words (vector, even or odd, half) and the scales of both halves. */
INLINE void fill_tile(const moe_type type, const uint8_t *packed, int64_t block, int n_units,
                      __m256i *codes, chunk_scales scales[2])
{
    const moe_quant_form form = moe_quant_form_of(type);

    for (int half = 0; half < 2; half++) {
        load_scales(type, packed, half, block, n_units, &scales[half]);
        for (int u = 0; u < n_units; u++) {
            const __m256i *sc = scales[half].sc + (type == MOE_TYPE_Q6_K ? 2 * u : u);
            __m256i widened[8];

            widen_unit(form.bits, unit_of(type, packed, block, u) + 32 * half, widened);
            UNROLL
            for (int i = 0; i < 16; i++)
                codes[32 * u + 2 * i + half] =
                    form.columns == 32 ? words_of(1, widened, i / 2, i % 2, 0)
                                       : scaled_words(type, widened[i / 2], i % 2,
                                                      sc[type == MOE_TYPE_Q6_K ? i / 8 : 0]);
        }
    }
}

/* Up to BATCH_TOKENS tokens with n_groups <= BATCH_GROUPS groups from `group` on. */
INLINE void batch(const moe_type type, const moe_matrix *w, int64_t group, int n_groups,
                  const moe_activations *x, const int64_t *token_rows, int n_tokens, float *y,
                  int64_t ldy)
{
    const int blocks_per_chunk = CHUNK_COLUMNS / moe_quant_form_of(type).columns;
    size_t group_bytes = moe_packed_group_bytes(type, w->n_cols);
    const uint8_t *packed = (const uint8_t *)w->packed + (size_t)group * group_bytes;
    int64_t n_chunks = (w->n_cols + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS;
    __m256 acc[BATCH_GROUPS][BATCH_TOKENS][2];
    __m256i codes[32 * CHUNK_UNITS];
    chunk_scales scales[2];
    token_row a[BATCH_TOKENS];

    for (int g = 0; g < n_groups; g++)
        for (int t = 0; t < n_tokens; t++)
            acc[g][t][0] = acc[g][t][1] = _mm256_setzero_ps();
    for (int64_t c = 0; c < n_chunks; c++) {
        int n_units = units_of(w, c);

        for (int t = 0; t < n_tokens; t++)
            set_row(type, true, x, token_rows[t], c, n_units, &a[t]);
        for (int g = 0; g < n_groups; g++) {
            int t = 0;

            fill_tile(type, packed + (size_t)g * group_bytes, c * blocks_per_chunk, n_units, codes,
                      scales);
            for (; t + TILE_TOKENS <= n_tokens; t += TILE_TOKENS)
                add_tile(type, TILE_TOKENS, codes, scales, n_units, a + t, acc[g] + t);
            for (; t < n_tokens; t++)
                add_tile(type, 1, codes, scales, n_units, a + t, acc[g] + t);
        }
    }
    for (int g = 0; g < n_groups; g++)
        for (int t = 0; t < n_tokens; t++) {
            store(w, group + g, 0, acc[g][t][0], y + t * ldy);
            store(w, group + g, 1, acc[g][t][1], y + t * ldy);
        }
}

INLINE void matmul(const moe_type type, const moe_matrix *w, int64_t group_begin, int64_t group_end,
                   const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                   int64_t ldy)
{
    int64_t token_rows[BATCH_TOKENS];

    if (n_tokens <= FEW_TOKENS) {
        for (int64_t g = group_begin; g < group_end; g++)
            for (int64_t t = 0; t < n_tokens; t++)
                one_token(type, w, g, x, rows ? rows[t] : t, y + t * ldy);
        return;
    }
    for (int64_t g = group_begin; g < group_end; g += BATCH_GROUPS) {
        int n_groups = group_end - g < BATCH_GROUPS ? (int)(group_end - g) : BATCH_GROUPS;

        for (int64_t t = 0; t < n_tokens; t += BATCH_TOKENS) {
            int n = n_tokens - t < BATCH_TOKENS ? (int)(n_tokens - t) : BATCH_TOKENS;

            for (int i = 0; i < n; i++)
                token_rows[i] = rows ? rows[t + i] : t + i;
            batch(type, w, g, n_groups, x, token_rows, n, y + t * ldy, ldy);
        }
    }
}

void moe_matmul_quant_avx2(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                           const moe_activations *x, const int32_t *rows, int64_t n_tokens,
                           float *y, int64_t ldy)
{
    if (moe_quant_planes(moe_quant_form_of(w->type), x)->lo == NULL) {
        moe_matmul_bytes_avx2(w, group_begin, group_end, x, rows, n_tokens, y, ldy);
        return;
    }
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

/* d = amax / top of a block of n columns and what its activations are multiplied with, top / amax;
 * false if q becomes zeros: see quant_scalar.c. */
INLINE bool scale_of(const int n, const float *x, const float top, float *d, __m256 *inverse)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i max = _mm256_setzero_si256();
    uint32_t max_bits;
    float amax;

    for (int i = 0; i < n; i += 8)
        max = _mm256_max_epu32(
            max, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + i)), magnitude));
    max_bits = largest(max);
    __builtin_memcpy(&amax, &max_bits, sizeof amax);
    if (max_bits >= 0x7f800000 || amax < 0x1p-113f) {
        *d = max_bits >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
        return false;
    }
    *d = amax / top;
    *inverse = _mm256_set1_ps(top / amax);
    return true;
}

/* Eight activations as integers. */
INLINE __m256i round_8(const float *x, __m256 inverse)
{
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), inverse));
}

/* One block of n = 32 or 256 columns: see quant_scalar.c.  Sums go over span = 32 or 16 columns. */
INLINE void quantize_block(const int n, const int span, const bool bytes, const float *x,
                           int8_t *hi, int8_t *lo, float *d, int32_t *sums)
{
    __m256 inverse;

    if (!scale_of(n, x, moe_quant_top(n, bytes), d, &inverse)) {
        __builtin_memset(hi, 0, (size_t)n);
        if (!bytes)
            __builtin_memset(lo, 0, (size_t)n);
        __builtin_memset(sums, 0, (size_t)(n / span) * sizeof *sums);
        return;
    }
    for (int i = 0; i < n; i += span) {
        __m256i sum = _mm256_setzero_si256();

        UNROLL
        for (int k = i; k < i + span; k += 16) {
            __m256i v = round_8(x + k, inverse);
            __m256i w = round_8(x + k + 8, inverse);
            __m256i q = _mm256_permute4x64_epi64(_mm256_packs_epi32(v, w), 0xD8);
            __m256i high = _mm256_srai_epi16(_mm256_add_epi16(q, _mm256_set1_epi16(64)), 7);
            __m256i low = _mm256_sub_epi16(q, _mm256_slli_epi16(high, 7));
            /* Packed: hi 0-7, lo 0-7, hi 8-15, lo 8-15. */
            __m256i both = _mm256_permute4x64_epi64(
                bytes ? _mm256_packs_epi16(q, q) : _mm256_packs_epi16(high, low), 0xD8);

            _mm_storeu_si128((__m128i *)(hi + k), _mm256_castsi256_si128(both));
            if (!bytes)
                _mm_storeu_si128((__m128i *)(lo + k), _mm256_extracti128_si256(both, 1));
            sum = _mm256_add_epi32(sum, _mm256_add_epi32(v, w));
        }
        sums[i / span] = total_of(sum);
    }
}

INLINE void quantize(const int n, const int span, const float *x, int64_t n_cols, int8_t *hi,
                     int8_t *lo, float *d, int32_t *sums)
{
    for (int64_t k = 0; k < n_cols; k += n, d++, sums += n / span) {
        if (lo)
            quantize_block(n, span, false, x + k, hi + k, lo + k, d, sums);
        else
            quantize_block(n, span, true, x + k, hi + k, NULL, d, sums);
    }
}

void moe_quantize_32_avx2(const float *x, int64_t n_cols, int8_t *hi, int8_t *lo, float *d,
                          int32_t *sums)
{
    quantize(32, 32, x, n_cols, hi, lo, d, sums);
}

void moe_quantize_256_avx2(const float *x, int64_t n_cols, int8_t *hi, int8_t *lo, float *d,
                           int32_t *sums)
{
    quantize(256, 16, x, n_cols, hi, lo, d, sums);
}
