/*
 * The code of float_tile.h: one function per stored type and size of block.
 */
#include "float_tile.h"

V16_FN void tile_body(const tile_job *job, stored_type stored, const int n_groups,
                      const int n_tokens)
{
    v16 acc[TILE_GROUPS][TILE_TOKENS], b[TILE_GROUPS];
    const float *x[TILE_TOKENS];
    const char *w = job->w;
    const int64_t w_group = job->w_group, w_step = job->w_step, n_k = job->n_k;
    const int64_t ahead = job->ahead;
    const int last = job->last_lanes;

#pragma GCC unroll 16
    for (int t = 0; t < n_tokens; t++) {
        x[t] = job->x[t];
#pragma GCC unroll 16
        for (int g = 0; g < n_groups; g++) {
            const float *from = job->from + t * job->ld_from + 16 * g;
            v16_prefetch(job->to + t * job->ld_to + 16 * g);
            if (job->from == NULL)
                acc[g][t] = v16_zero();
            else
                acc[g][t] = g < n_groups - 1 ? v16_load(from) : v16_load_n(from, last);
        }
    }
    for (int64_t k = 0; k < n_k; k++) {
#pragma GCC unroll 16
        for (int g = 0; g < n_groups; g++) {
            b[g] = tile_load(w + g * w_group, stored);
            /* Loads are scarce in the large blocks: one line, of the first group or as told. */
            if (g == 0 || n_tokens <= TILE_TOKENS * 2 / 3)
                v16_prefetch(w + g * w_group + ahead);
        }
#pragma GCC unroll 16
        for (int t = 0; t < n_tokens; t++) {
            v16 a = v16_set1(x[t][k]);
#pragma GCC unroll 16
            for (int g = 0; g < n_groups; g++)
                acc[g][t] = v16_fma(b[g], a, acc[g][t]);
        }
        w += w_step;
    }
#pragma GCC unroll 16
    for (int t = 0; t < n_tokens; t++) {
#pragma GCC unroll 16
        for (int g = 0; g < n_groups; g++) {
            float *to = job->to + t * job->ld_to + 16 * g;
            if (g < n_groups - 1)
                v16_store(to, acc[g][t]);
            else
                v16_store_n(to, acc[g][t], last);
        }
    }
}

#define TILE_DEFINE(groups, tokens)                                                                \
    static void tile_f32_##groups##_##tokens(const tile_job *job)                                  \
    {                                                                                              \
        tile_body(job, STORED_F32, groups, tokens);                                                \
    }                                                                                              \
    static void tile_f16_##groups##_##tokens(const tile_job *job)                                  \
    {                                                                                              \
        tile_body(job, STORED_F16, groups, tokens);                                                \
    }                                                                                              \
    static void tile_bf16_##groups##_##tokens(const tile_job *job)                                 \
    {                                                                                              \
        tile_body(job, STORED_BF16, groups, tokens);                                               \
    }
TILE_EACH(TILE_DEFINE)

#define TILE_ENTRY(groups, tokens)                                                                 \
    [groups - 1][tokens - 1] = {tile_f32_##groups##_##tokens, tile_f16_##groups##_##tokens,        \
                                tile_bf16_##groups##_##tokens},

typedef void (*tile_fn)(const tile_job *job);
static const tile_fn tile_table[TILE_GROUPS][TILE_TOKENS][3] = {TILE_EACH(TILE_ENTRY)};

void ISA(moe_tile_run)(const tile_job *job, stored_type stored, int n_groups, int n_tokens)
{
    tile_table[n_groups - 1][n_tokens - 1][stored](job);
}
