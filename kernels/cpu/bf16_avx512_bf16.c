/*
 * Products with BF16_PAIRS weights by VDPBF16PS.
 *
 * The instruction multiplies two BF16 of a lane with two others and adds the products to a float32:
 * first that of the upper halves, then that of the lower ones, each by a fused multiply-add that
 * rounds to nearest even.  So with columns k (upper) and k + 2 (lower) in a lane it takes two steps
 * of the chain over the even columns or of the one over the odd columns (NUMERICS.md).  That it
 * takes denormals for zero can't show, since there are none.
 *
 * Four columns of a row of activations are therefore kept in the order 2, 0, 3, 1; weights are put
 * into that order as they are read: for one block of tokens in registers, for more once for all of
 * them, a stretch of columns of a few groups at a time, which stays in the first cache level while
 * the tokens pass.
 */
#include <immintrin.h>
#include <string.h>

#include "bf16_matmul.h"
#include "v16_avx512.h"

#define BLOCK_GROUPS 3
#define BLOCK_TOKENS 4 /* times groups, times two chains: 24 registers */
#define STRETCH 6      /* units */
#define UNIT_QUADS (MOE_BF16_UNIT / 4)
#define UNIT_BYTES (2 * MOE_BF16_UNIT * MOE_GROUP_ROWS)

/* Four columns of the rows of a group. */
typedef struct quad {
    __m512i even, odd;
} quad;

/* Some units of a few groups, and the tokens that pass. */
typedef struct stretch {
    const char *packed; /* group g at packed + g * group_bytes */
    int64_t group_bytes;
    const quad *joined; /* (groups, STRETCH, UNIT_QUADS), or NULL */
    int64_t n_units;
    bool is_first; /* y holds nothing yet */
    const uint16_t *x[BLOCK_TOKENS];
    float *y;
    int64_t ldy;
    int last_lanes; /* outputs of the last group, 1..16 */
} stretch;

V16_FN quad join(const char *packed)
{
    const __m512i first = _mm512_loadu_si512(packed), second = _mm512_loadu_si512(packed + 64);

    return (quad){
        .even = _mm512_mask_blend_epi16(0x55555555, _mm512_slli_epi32(first, 16), second),
        .odd = _mm512_mask_blend_epi16(0x55555555, first, _mm512_srli_epi32(second, 16)),
    };
}

V16_FN quad load_quad(const stretch *s, int g, int64_t unit, int q)
{
    if (s->joined != NULL)
        return s->joined[(g * STRETCH + unit) * UNIT_QUADS + q];
    return join(s->packed + g * s->group_bytes + unit * UNIT_BYTES + q * 128);
}

V16_FN __m512i two_columns(const uint16_t *x)
{
    int32_t pair;

    memcpy(&pair, x, sizeof pair);
    return _mm512_set1_epi32(pair);
}

V16_FN v16 multiply_add(v16 sum, __m512i a, __m512i b)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

bool moe_bf16_pairs_are_chains(void)
{
    static const struct {
        float sum, upper, lower, result;
    } cases[] = {
        {1.0f, 0x1p-24f, -1.0f, 0.0f},                  /* the upper product comes first, */
        {1.0f, 0x1p-24f, 0x1p-24f, 1.0f},               /* each sum is rounded, */
        {1.0f, 0x1.8p-24f, 0.0f, 0x1.000002p0f},        /* to nearest */
        {0x1.000002p0f, 0x1p-24f, 0.0f, 0x1.000004p0f}, /* even */
    };
    const __m512i ones = _mm512_set1_epi32(0x3f803f80);
    bool all = true;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const uint32_t upper = moe_f32_to_bf16(cases[i].upper),
                       lower = moe_f32_to_bf16(cases[i].lower);
        const v16 sum = multiply_add(v16_set1(cases[i].sum),
                                     _mm512_set1_epi32((int)(upper << 16 | lower)), ones);

        all = all && _mm512_cvtss_f32(sum) == cases[i].result;
    }
    return all;
}

/* y plus what a unit gave.  A masked store would not be forwarded to the load of the next unit. */
V16_FN void add_sum(float *y, v16 sum, bool is_first, int lanes)
{
    if (lanes == 16)
        v16_store(y, is_first ? sum : v16_add(v16_load(y), sum));
    else
        v16_store_n(y, is_first ? sum : v16_add(v16_load_n(y, lanes), sum), lanes);
}

V16_FN void block_body(const stretch *s, const int n_groups, const int n_tokens)
{
    for (int64_t u = 0; u < s->n_units; u++) {
        v16 even[BLOCK_GROUPS][BLOCK_TOKENS], odd[BLOCK_GROUPS][BLOCK_TOKENS];
        float *y = s->y;

        __asm__("" : "+r"(y)); /* keeps the compiler from holding results in registers */
#pragma GCC unroll 4
        for (int t = 0; t < n_tokens; t++)
#pragma GCC unroll 3
            for (int g = 0; g < n_groups; g++)
                even[g][t] = odd[g][t] = v16_zero();
#pragma GCC unroll 8
        for (int q = 0; q < UNIT_QUADS; q++) {
            quad w[BLOCK_GROUPS];

#pragma GCC unroll 3
            for (int g = 0; g < n_groups; g++)
                w[g] = load_quad(s, g, u, q);
#pragma GCC unroll 4
            for (int t = 0; t < n_tokens; t++) {
                const uint16_t *x = s->x[t] + u * MOE_BF16_UNIT + 4 * q;
                const __m512i x_even = two_columns(x), x_odd = two_columns(x + 2);

#pragma GCC unroll 3
                for (int g = 0; g < n_groups; g++) {
                    even[g][t] = multiply_add(even[g][t], w[g].even, x_even);
                    odd[g][t] = multiply_add(odd[g][t], w[g].odd, x_odd);
                }
            }
        }
#pragma GCC unroll 4
        for (int t = 0; t < n_tokens; t++)
#pragma GCC unroll 3
            for (int g = 0; g < n_groups; g++)
                add_sum(y + t * s->ldy + 16 * g, v16_add(even[g][t], odd[g][t]),
                        u == 0 && s->is_first, g < n_groups - 1 ? 16 : s->last_lanes);
    }
}

static void run_block(const stretch *s, int n_groups, int n_tokens)
{
#define CASE(groups, tokens)                                                                       \
    case 16 * groups + tokens:                                                                     \
        block_body(s, groups, tokens);                                                             \
        break
    switch (16 * n_groups + n_tokens) {
        CASE(1, 1);
        CASE(1, 2);
        CASE(1, 3);
        CASE(1, 4);
        CASE(2, 1);
        CASE(2, 2);
        CASE(2, 3);
        CASE(2, 4);
        CASE(3, 1);
        CASE(3, 2);
        CASE(3, 3);
        CASE(3, 4);
    }
#undef CASE
}

void moe_matmul_bf16_avx512_bf16(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                                 const moe_activations *x, const int32_t *rows, int64_t n_tokens,
                                 float *y, int64_t ldy)
{
    quad joined[BLOCK_GROUPS * STRETCH * UNIT_QUADS];
    const int64_t ld = moe_bf16_columns(w->n_cols), n_units = ld / MOE_BF16_UNIT;
    const bool joins = n_tokens > BLOCK_TOKENS;
    const uint16_t *rows_of_x = x->bf16;

    for (int64_t g = group_begin, n_groups; g < group_end; g += n_groups) {
        n_groups = group_end - g < BLOCK_GROUPS ? group_end - g : BLOCK_GROUPS;
        const int64_t rows_left = w->n_rows - 16 * (g + n_groups - 1);
        stretch s = {
            .group_bytes = (int64_t)moe_packed_group_bytes(w->type, w->n_cols),
            .joined = joins ? joined : NULL,
            .ldy = ldy,
            .last_lanes = rows_left < 16 ? (int)rows_left : 16,
        };

        for (int64_t u = 0; u < n_units; u += s.n_units) {
            s.n_units = joins && n_units - u > STRETCH ? STRETCH : n_units - u;
            s.packed = (const char *)w->packed + g * s.group_bytes + u * UNIT_BYTES;
            s.is_first = u == 0;
            for (int64_t i = 0; joins && i < n_groups; i++)
                for (int64_t q = 0; q < s.n_units * UNIT_QUADS; q++)
                    joined[i * STRETCH * UNIT_QUADS + q] =
                        join(s.packed + i * s.group_bytes + q * 128);
            for (int64_t t = 0, n; t < n_tokens; t += n) {
                n = n_tokens - t < BLOCK_TOKENS ? n_tokens - t : BLOCK_TOKENS;
                for (int i = 0; i < n; i++)
                    s.x[i] =
                        rows_of_x + (rows != NULL ? rows[t + i] : t + i) * ld + u * MOE_BF16_UNIT;
                s.y = y + t * ldy + 16 * g;
                run_block(&s, (int)n_groups, (int)n);
            }
        }
    }
}

void moe_round_bf16_avx512_bf16(const float *x, int64_t n_cols, void *y)
{
    const __m512i lower_halves = _mm512_setr_epi64(0, 2, 4, 6, 0, 0, 0, 0);
    uint16_t *to = y;

    for (int64_t k = 0; k < moe_bf16_columns(n_cols); k += 16) {
        const int64_t n = n_cols - k < 0 ? 0 : n_cols - k < 16 ? n_cols - k : 16;
        const __m512i bits = _mm512_castps_si512(v16_round_bf16(v16_load_n(x + k, n)));
        /* Of four columns the last two, below the first two. */
        const __m512i last = _mm512_shuffle_epi32(_mm512_srli_epi32(bits, 16), _MM_PERM_BADC);
        const __m512i quads = _mm512_permutexvar_epi64(lower_halves, _mm512_or_si512(bits, last));

        _mm256_storeu_si256((__m256i *)(to + k), _mm512_castsi512_si256(quads));
    }
}
