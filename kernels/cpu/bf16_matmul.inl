/*
 * Products with BF16_PAIRS weights, for the instruction set whose v16 header is included before.
 *
 * Activations are floats that hold BF16 values.  Per unit of 32 columns each output has two chains
 * of fma, one over the even and one over the odd columns; their sum is added to the output in y.
 * BLOCK_GROUPS * BLOCK_TOKENS pairs of chains run at the same time.  With many tokens the weights
 * of a stretch of columns are widened once and stay in the first cache level while the tokens pass.
 */
#define STRETCH 4 /* units */
#define WIDE_UNIT (MOE_BF16_UNIT * MOE_GROUP_ROWS)
#define PACKED_UNIT (2 * WIDE_UNIT) /* bytes */

/* Some units of a few groups, and the tokens that pass. */
typedef struct stretch {
    const char *packed; /* group g at packed + g * group_bytes */
    int64_t group_bytes;
    const float *wide; /* (groups, STRETCH, 32, 16), or NULL */
    int64_t n_units;
    bool is_first; /* y holds nothing yet */
    const float *x[BLOCK_TOKENS];
    float *y;
    int64_t ldy;
    int last_lanes; /* outputs of the last group, 1..16 */
} stretch;

V16_FN void load_weights(const stretch *s, int g, int64_t unit, int pair, v16 *even, v16 *odd)
{
    if (s->wide != NULL) {
        const float *p = s->wide + (g * STRETCH + unit) * WIDE_UNIT + pair * 32;

        *even = v16_load(p);
        *odd = v16_load(p + 16);
    } else {
        v16_load_bf16_pairs(s->packed + g * s->group_bytes + unit * PACKED_UNIT + pair * 64, even,
                            odd);
    }
}

V16_FN void block_body(const stretch *s, const int n_groups, const int n_tokens)
{
    for (int64_t u = 0; u < s->n_units; u++) {
        v16 even[BLOCK_GROUPS][BLOCK_TOKENS], odd[BLOCK_GROUPS][BLOCK_TOKENS];

#pragma GCC unroll 16
        for (int t = 0; t < n_tokens; t++)
#pragma GCC unroll 4
            for (int g = 0; g < n_groups; g++)
                even[g][t] = odd[g][t] = v16_zero();
        for (int p = 0; p < MOE_BF16_UNIT / 2; p++) {
            v16 w_even[BLOCK_GROUPS], w_odd[BLOCK_GROUPS];

#pragma GCC unroll 4
            for (int g = 0; g < n_groups; g++)
                load_weights(s, g, u, p, &w_even[g], &w_odd[g]);
#pragma GCC unroll 16
            for (int t = 0; t < n_tokens; t++) {
                const float *x = s->x[t] + u * MOE_BF16_UNIT + 2 * p;
                v16 x_even = v16_set1(x[0]), x_odd = v16_set1(x[1]);

#pragma GCC unroll 4
                for (int g = 0; g < n_groups; g++) {
                    even[g][t] = v16_fma(w_even[g], x_even, even[g][t]);
                    odd[g][t] = v16_fma(w_odd[g], x_odd, odd[g][t]);
                }
            }
        }
#pragma GCC unroll 16
        for (int t = 0; t < n_tokens; t++)
#pragma GCC unroll 4
            for (int g = 0; g < n_groups; g++) {
                const int lanes = g < n_groups - 1 ? 16 : s->last_lanes;
                float *y = s->y + t * s->ldy + 16 * g;
                v16 sum = v16_add(even[g][t], odd[g][t]);

                if (lanes == 16)
                    v16_store(y, u == 0 && s->is_first ? sum : v16_add(v16_load(y), sum));
                else
                    v16_store_n(y, u == 0 && s->is_first ? sum : v16_add(v16_load_n(y, lanes), sum),
                                lanes);
            }
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
#if BLOCK_TOKENS > 2
        CASE(1, 3);
#endif
#if BLOCK_GROUPS > 1
        CASE(2, 1);
        CASE(2, 2);
        CASE(2, 3);
#endif
#if BLOCK_TOKENS > 3
        CASE(1, 4);
        CASE(1, 5);
        CASE(1, 6);
        CASE(2, 4);
        CASE(2, 5);
        CASE(2, 6);
#endif
    }
#undef CASE
}

static void widen_units(const char *packed, int64_t n_units, float *wide)
{
    for (int64_t i = 0; i < n_units * (MOE_BF16_UNIT / 2); i++) {
        v16 even, odd;

        v16_load_bf16_pairs(packed + 64 * i, &even, &odd);
        v16_store(wide + 32 * i, even);
        v16_store(wide + 32 * i + 16, odd);
    }
}

void ISA(moe_matmul_bf16)(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                          const moe_activations *x, const int32_t *rows, int64_t n_tokens, float *y,
                          int64_t ldy)
{
    _Alignas(64) float wide[BLOCK_GROUPS * STRETCH * WIDE_UNIT];
    const int64_t ld = moe_bf16_columns(w->n_cols), n_units = ld / MOE_BF16_UNIT;
    const bool widens = n_tokens > BLOCK_TOKENS;
    const float *rows_of_x = x->bf16;

    for (int64_t g = group_begin, n_groups; g < group_end; g += n_groups) {
        n_groups = group_end - g < BLOCK_GROUPS ? group_end - g : BLOCK_GROUPS;
        const int64_t rows_left = w->n_rows - 16 * (g + n_groups - 1);
        stretch s = {
            .group_bytes = (int64_t)moe_packed_group_bytes(w->type, w->n_cols),
            .wide = widens ? wide : NULL,
            .ldy = ldy,
            .last_lanes = rows_left < 16 ? (int)rows_left : 16,
        };

        for (int64_t u = 0; u < n_units; u += s.n_units) {
            s.n_units = widens && n_units - u > STRETCH ? STRETCH : n_units - u;
            s.packed = (const char *)w->packed + g * s.group_bytes + u * PACKED_UNIT;
            s.is_first = u == 0;
            for (int i = 0; widens && i < n_groups; i++)
                widen_units(s.packed + i * s.group_bytes, s.n_units,
                            wide + i * STRETCH * WIDE_UNIT);
            for (int64_t t = 0, n; t < n_tokens; t += n) {
                const int64_t parts = (n_tokens - t + BLOCK_TOKENS - 1) / BLOCK_TOKENS;

                n = (n_tokens - t + parts - 1) / parts;
                for (int i = 0; i < n; i++)
                    s.x[i] =
                        rows_of_x + (rows != NULL ? rows[t + i] : t + i) * ld + u * MOE_BF16_UNIT;
                s.y = y + t * ldy + 16 * g;
                run_block(&s, (int)n_groups, (int)n);
            }
        }
    }
}

void ISA(moe_round_bf16)(const float *x, int64_t n_cols, void *y)
{
    float *to = y;

    for (int64_t k = 0; k < moe_bf16_columns(n_cols); k += 16) {
        const int64_t n = n_cols - k < 0 ? 0 : n_cols - k < 16 ? n_cols - k : 16;

        v16_store(to + k, v16_round_bf16(v16_load_n(x + k, n)));
    }
}
