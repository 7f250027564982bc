/*
 * Products with unquantised weights, for the instruction set whose v16 header is included before.
 *
 * Packed layout (pack.c): per group of 16 rows, for k ascending, 16 consecutive elements of the
 * stored type.  With few tokens the groups are streamed once, several at a time.  With many, a
 * chunk of tokens passes over MATMUL_K columns of a few groups at a time, which stay in the first
 * cache level meanwhile and are widened to float32 once per chunk; the chains are parked in
 * `parked` between the stretches of columns.
 */
#include "float_tile.inl"

#define MATMUL_CHUNK 144 /* most tokens that share a widened stretch of weights */
#define MATMUL_K 128    /* columns of such a stretch */

typedef struct matmul_chunk {
    const moe_matrix *w;
    const float *x[MATMUL_CHUNK]; /* rows of activations */
    int64_t n_tokens;
    float *y; /* (n_tokens, ldy) */
    int64_t ldy;
} matmul_chunk;

static stored_type stored_type_of(moe_type type)
{
    return type == MOE_TYPE_F32 ? STORED_F32 : type == MOE_TYPE_F16 ? STORED_F16 : STORED_BF16;
}

/* Groups [group, group + n_groups), all tokens of the chunk. */
static void matmul_groups(const matmul_chunk *chunk, int64_t group, int n_groups)
{
    _Alignas(64) float wide[TILE_GROUPS * MATMUL_K * 16];
    _Alignas(64) float parked[MATMUL_CHUNK * TILE_GROUPS * 16];
    const moe_matrix *w = chunk->w;
    stored_type stored = stored_type_of(w->type);
    int64_t step = stored == STORED_F32 ? 64 : 32;
    int64_t group_bytes = (int64_t)moe_packed_group_bytes(w->type, w->n_cols);
    int64_t rows_left = w->n_rows - 16 * (group + n_groups - 1);
    bool blocked = chunk->n_tokens > 2 * TILE_TOKENS;
    int64_t stretch = blocked ? MATMUL_K : w->n_cols;
    bool widened = blocked && stored != STORED_F32;

    for (int64_t k = 0; k < w->n_cols; k += stretch) {
        const char *packed = (const char *)w->packed + group * group_bytes + k * step;
        bool last = k + stretch >= w->n_cols;
        tile_job job = {
            .w = packed,
            .w_group = group_bytes,
            .w_step = step,
            .n_k = last ? w->n_cols - k : stretch,
        };
        if (widened) {
            for (int g = 0; g < n_groups; g++)
                widen(packed + g * group_bytes, stored, job.n_k, stretch * step,
                      wide + g * MATMUL_K * 16);
            job.w = wide;
            job.w_group = MATMUL_K * 64;
            job.w_step = 64;
        }
        int64_t n;
        for (int64_t t = 0, tile = 0; t < chunk->n_tokens; t += n, tile++) {
            n = even_part(chunk->n_tokens - t, TILE_TOKENS);
            float *park = parked + t * TILE_GROUPS * 16;
            for (int i = 0; i < n; i++)
                job.x[i] = chunk->x[t + i] + k;
            job.from = k > 0 ? park : NULL;
            job.ld_from = TILE_GROUPS * 16;
            job.to = last ? chunk->y + t * chunk->ldy + 16 * group : park;
            job.ld_to = last ? chunk->ldy : TILE_GROUPS * 16;
            job.last_lanes = last && rows_left < 16 ? (int)rows_left : 16;
            /* In a blocked product tile i fetches what the next stretch needs of group i. */
            job.ahead = !blocked                      ? TILE_AHEAD
                        : widened || tile >= n_groups ? 0
                                                      : tile * group_bytes + stretch * step;
            ISA(moe_tile_run)(&job, widened ? STORED_F32 : stored, n_groups, (int)n);
        }
    }
}

void ISA(moe_matmul_float)(const moe_matrix *w, int64_t group_begin, int64_t group_end,
                           const moe_activations *x, const int32_t *rows, int64_t n_tokens,
                           float *y, int64_t ldy)
{
    matmul_chunk chunk = {.w = w, .ldy = ldy};

    for (int64_t t = 0; t < n_tokens; t += chunk.n_tokens) {
        chunk.n_tokens = even_part(n_tokens - t, MATMUL_CHUNK);
        chunk.y = y + t * ldy;
        for (int64_t i = 0; i < chunk.n_tokens; i++)
            chunk.x[i] = x->f32 + (rows != NULL ? rows[t + i] : t + i) * x->ld;

        int64_t n_groups = TILE_GROUPS_FOR(even_part(chunk.n_tokens, TILE_TOKENS));
        for (int64_t g = group_begin; g < group_end; g += n_groups) {
            int64_t n = group_end - g < n_groups ? group_end - g : n_groups;
            matmul_groups(&chunk, g, (int)n);
        }
    }
}
