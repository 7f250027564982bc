/*
 * The register block of all float products: a few groups of 16 outputs times a few tokens.
 *
 *     to[t][16 g + lane] = from[t][16 g + lane] + sum over k of w[g][k][lane] * x[t][k]
 *
 * One chain of fma per output, k ascending, so an output does not depend on the block it is
 * computed in.  A chain can be cut anywhere: it goes on from the float32 where the last call left
 * it.  The same block serves unquantised weights (w a packed group), attention scores (w a slab of
 * 16 keys) and attention outputs (w a column of 16 of the values, k the position).
 *
 * To be included behind a v16 header and the definition of ISA; float_tile.inl has the code.
 */

typedef enum stored_type { STORED_F32, STORED_F16, STORED_BF16 } stored_type;

typedef struct tile_job {
    const void *w;   /* element (k, lane) of group g: w + g * w_group + k * w_step, 16 lanes */
    int64_t w_group; /* bytes */
    int64_t w_step;  /* bytes */
    int64_t n_k;     /* length of the chains, >= 0 */
    const float *x[TILE_TOKENS]; /* (n_k) per token */
    const float *from;           /* (n_tokens, ld_from); NULL: +0 */
    int64_t ld_from;
    float *to; /* (n_tokens, ld_to); may be `from` */
    int64_t ld_to;
    int last_lanes; /* outputs of the last group, 1..16; the others are not touched */
    int64_t ahead;  /* bytes between a vector of w and the line to prefetch with it */
} tile_job;

/* A good tile_job.ahead for w that is streamed from memory once. */
#define TILE_AHEAD 2048

V16_FN v16 tile_load(const char *p, stored_type stored)
{
    return stored == STORED_F32   ? v16_load((const float *)p)
           : stored == STORED_F16 ? v16_load_f16((const uint16_t *)p)
                                  : v16_load_bf16((const uint16_t *)p);
}

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
void ISA(moe_tile_run)(const tile_job *job, stored_type stored, int n_groups, int n_tokens);
