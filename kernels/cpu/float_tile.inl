/*
 * The register block of all float products: a few groups of 16 outputs times a few tokens.
 *
 *     to[t][16 g + lane] = from[t][16 g + lane] + sum over k of w[g][k][lane] * x[t][k]
 *
 * One chain of fma per output, k ascending, so an output does not depend on the block it is
 * computed in.  A chain can be cut anywhere: it goes on from the float32 where the last call left
 * it.  The same block serves unquantised weights (w a packed group), attention scores (w a slab of
 * 16 keys) and attention outputs (w a column of 16 of the values, k the position).
 */

typedef enum stored_type { STORED_F32, STORED_F16, STORED_BF16 } stored_type;

typedef struct tile_job {
    const void *w;        /* element (k, lane) of group g: w + g * w_group + k * w_step, 16 lanes */
    int64_t w_group;      /* bytes */
    int64_t w_step;       /* bytes */
    int64_t n_k;          /* length of the chains, >= 0 */
    const float *x[TILE_TOKENS]; /* (n_k) per token */
    const float *from;    /* (n_tokens, ld_from); NULL: +0 */
    int64_t ld_from;
    float *to;            /* (n_tokens, ld_to); may be `from` */
    int64_t ld_to;
    int last_lanes;       /* outputs of the last group, 1..16; the others are not touched */
    int64_t ahead;        /* bytes between a vector of w and the line to prefetch with it */
} tile_job;

/* A good tile_job.ahead for w that is streamed from memory once. */
#define TILE_AHEAD 2048

V16_FN v16 tile_load(const char *p, stored_type stored)
{
    return stored == STORED_F32   ? v16_load((const float *)p)
           : stored == STORED_F16 ? v16_load_f16((const uint16_t *)p)
                                  : v16_load_bf16((const uint16_t *)p);
}

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

/* Widens n_vectors vectors; asks for the line `ahead` bytes behind each. */
static inline void widen(const void *src, stored_type stored, int64_t n_vectors, int64_t ahead,
                         float *dst)
{
    for (int64_t i = 0; i < n_vectors; i++) {
        const uint16_t *half = (const uint16_t *)src + 16 * i;
        v16_prefetch((const char *)half + ahead);
        v16_store(dst + 16 * i, stored == STORED_F16 ? v16_load_f16(half) : v16_load_bf16(half));
    }
}

/* The size of the next of the fewest equal parts, of at most `most`, that n falls into. */
static inline int64_t even_part(int64_t n, int64_t most)
{
    int64_t parts = (n + most - 1) / most;
    return (n + parts - 1) / parts;
}

/* Runs one block; n_groups must be at most TILE_GROUPS_FOR(n_tokens). */
static inline void tile_run(const tile_job *job, stored_type stored, int n_groups, int n_tokens)
{
    tile_table[n_groups - 1][n_tokens - 1][stored](job);
}
