/*
 * The attention sub-layer on the CPU: grouped-query attention and MLA over the paged KV cache.
 *
 * MLA runs in its absorbed form (arXiv 2405.04434, appendix C): the key up-projection is moved to
 * the queries, the value up-projection behind the attention, so that all heads share the latent row
 * in the cache.  Seen from the cache that is multi-query attention with wide heads, and the rest of
 * the code is the same for both kinds.
 *
 * Work is cut into tiles: some rows of a span with the query heads of one KV head.  A tile walks
 * over the blocks of MOE_ATTN_BLOCK keys in ascending order and folds each into its running result.
 * With too few tiles for the threads (decode of one long sequence) the blocks become tasks of their
 * own and are folded afterwards, in the same order and with the same bits.
 */
#include <math.h>
#include <string.h>

#include "cpu_device.h"

enum { PAGES_PER_BLOCK = MOE_ATTN_BLOCK / MOE_KV_PAGE, TILE_QUERIES = 256 };

typedef struct attention_job {
    cpu_device *d;
    const moe_step *step;
    int layer;
    const float *q; /* (n_rows, n_heads, d_k) */
    int tile_rows;  /* rows per tile */
    int64_t n_tiles;
    int split; /* 1, or blocks per tile that are tasks of their own; their results go to
                * d->partial: per (tile, block) m, l (n_queries) and o (n_queries, d_v) */
} attention_job;

/* One tile: rows [row, row + n_rows) of a span with one KV head. */
typedef struct tile {
    const moe_span *span;
    int row, n_rows, head;
    int n_queries, n_blocks;
} tile;

/* A thread's scratch. */
typedef struct tile_scratch {
    float *q;               /* (n_queries, d_k) */
    float *m, *l, *o;       /* running result: (n_queries), (n_queries), (n_queries, d_v) */
    float *m_b, *l_b, *o_b; /* of one block */
    int32_t *n_valid;
    void *kernel;
} tile_scratch;

static int group_size(const cpu_device *d)
{
    return d->spec->n_heads / d->n_kv_heads;
}

static int tile_queries(const cpu_device *d)
{
    const int group = group_size(d);

    return group >= TILE_QUERIES ? group : TILE_QUERIES / group * group;
}

static size_t result_floats(const cpu_device *d)
{
    return (size_t)tile_queries(d) * (size_t)(d->d_v + 2);
}

size_t cpu_attention_scratch_bytes(const cpu_device *d)
{
    const size_t n_queries = (size_t)tile_queries(d);
    size_t bytes = n_queries * (size_t)d->d_k * 4 + 2 * result_floats(d) * 4 + n_queries * 4;

    bytes += moe_attn_scratch_bytes(d->d_k, d->d_v, (int)n_queries);
    return (bytes + 8 * 64 + 63) / 64 * 64;
}

static void *cut(char **at, size_t bytes)
{
    void *p = *at;

    *at += (bytes + 63) / 64 * 64;
    return p;
}

static tile_scratch scratch_of(const cpu_device *d, int thread)
{
    const size_t n = (size_t)tile_queries(d);
    char *at = d->attn_scratch + (size_t)thread * d->attn_scratch_size;
    tile_scratch s;

    s.q = cut(&at, n * (size_t)d->d_k * 4);
    s.m = cut(&at, n * 4);
    s.l = cut(&at, n * 4);
    s.o = cut(&at, n * (size_t)d->d_v * 4);
    s.m_b = cut(&at, n * 4);
    s.l_b = cut(&at, n * 4);
    s.o_b = cut(&at, n * (size_t)d->d_v * 4);
    s.n_valid = cut(&at, n * 4);
    s.kernel = at;
    return s;
}

static int tiles_of(const attention_job *job, const moe_span *span)
{
    return (span->n_rows + job->tile_rows - 1) / job->tile_rows * job->d->n_kv_heads;
}

static tile tile_at(const attention_job *job, int64_t index)
{
    const cpu_device *d = job->d;
    const moe_span *span = job->step->spans;
    tile t;
    int64_t last;

    for (; index >= tiles_of(job, span); span++)
        index -= tiles_of(job, span);
    t.span = span;
    t.head = (int)(index % d->n_kv_heads);
    t.row = (int)(index / d->n_kv_heads) * job->tile_rows;
    t.n_rows = span->n_rows - t.row < job->tile_rows ? span->n_rows - t.row : job->tile_rows;
    t.n_queries = t.n_rows * group_size(d);
    last = span->pos + t.row + t.n_rows;
    t.n_blocks = (int)((last + MOE_ATTN_BLOCK - 1) / MOE_ATTN_BLOCK);
    return t;
}

/* Gathers the tile's queries, row by row, head by head. */
static void load_queries(const attention_job *job, const tile *t, float *q)
{
    const cpu_device *d = job->d;
    const int group = group_size(d);

    for (int r = 0; r < t->n_rows; r++) {
        const int64_t row = t->span->row + t->row + r;
        const float *src = job->q + (row * d->spec->n_heads + (int64_t)t->head * group) * d->d_k;

        memcpy(q + (int64_t)r * group * d->d_k, src, sizeof(float) * (size_t)(group * d->d_k));
    }
}

/* Block b of a tile: largest score, sum and weighted values of every query. */
static void run_block(const attention_job *job, const tile *t, int b, const tile_scratch *s,
                      float *m, float *l, float *o)
{
    const cpu_device *d = job->d;
    const moe_kv_cache *kv = job->step->kv;
    const moe_span *span = t->span;
    const int group = group_size(d);
    const int64_t first = (int64_t)b * MOE_ATTN_BLOCK;
    const void *keys[PAGES_PER_BLOCK], *values[PAGES_PER_BLOCK];
    moe_attn_block block = {.k_pages = keys,
                            .v_pages = kv->values_in_keys ? NULL : values,
                            .d_k = d->d_k,
                            .d_v = d->d_v,
                            .kv_f32 = kv->f32};

    block.n_keys = 0;
    for (int r = 0; r < t->n_rows; r++) {
        const int64_t seen = span->pos + t->row + r + 1 - first;
        const int n = seen < 0 ? 0 : seen > MOE_ATTN_BLOCK ? MOE_ATTN_BLOCK : (int)seen;

        for (int g = 0; g < group; g++)
            s->n_valid[r * group + g] = n;
        block.n_keys = n > block.n_keys ? n : block.n_keys;
    }
    for (int p = 0; p * MOE_KV_PAGE < block.n_keys; p++) {
        const int32_t page = span->pages[first / MOE_KV_PAGE + p];

        keys[p] = moe_kv_cache_keys(kv, page, job->layer, t->head);
        values[p] = moe_kv_cache_values(kv, page, job->layer, t->head);
    }
    d->kernels->attn_block(s->q, d->d_k, t->n_queries, d->spec->attention_scale, &block, s->n_valid,
                           NULL, m, l, o, s->kernel);
}

/* Divides by the sums and stores the tile's result in o (n_rows, n_heads, d_v). */
static void store_result(const attention_job *job, const tile *t, const float *l, const float *o)
{
    const cpu_device *d = job->d;
    const int group = group_size(d);

    for (int r = 0; r < t->n_rows; r++)
        for (int g = 0; g < group; g++) {
            const int64_t row = t->span->row + t->row + r, query = (int64_t)r * group + g;
            const int64_t head = (int64_t)t->head * group + g;

            d->kernels->scale(o + query * d->d_v, 1.0f / l[query], d->d_v,
                              d->o + (row * d->spec->n_heads + head) * d->d_v);
        }
}

static void clear_result(const cpu_device *d, const tile *t, const tile_scratch *s)
{
    for (int i = 0; i < t->n_queries; i++) {
        s->m[i] = -INFINITY;
        s->l[i] = 0.0f;
    }
    memset(s->o, 0, sizeof(float) * (size_t)(t->n_queries * d->d_v));
}

static void fold(const cpu_device *d, const tile *t, const tile_scratch *s, const float *m_b,
                 const float *l_b, const float *o_b)
{
    for (int i = 0; i < t->n_queries; i++)
        d->kernels->attn_combine(&s->m[i], &s->l[i], s->o + (int64_t)i * d->d_v, m_b[i], l_b[i],
                                 o_b + (int64_t)i * d->d_v, d->d_v);
}

static void run_tiles(void *arg, int64_t begin, int64_t end, int thread)
{
    const attention_job *job = arg;
    const tile_scratch s = scratch_of(job->d, thread);

    for (int64_t i = begin; i < end; i++) {
        const tile t = tile_at(job, i);

        load_queries(job, &t, s.q);
        clear_result(job->d, &t, &s);
        for (int b = 0; b < t.n_blocks; b++) {
            run_block(job, &t, b, &s, s.m_b, s.l_b, s.o_b);
            fold(job->d, &t, &s, s.m_b, s.l_b, s.o_b);
        }
        store_result(job, &t, s.l, s.o);
    }
}

/* Where the result of block b of tile i is kept when blocks are tasks of their own. */
static float *partial_of(const attention_job *job, int64_t i, int b)
{
    return job->d->partial + ((size_t)i * (size_t)job->split + (size_t)b) * result_floats(job->d);
}

static void run_tile_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    const attention_job *job = arg;
    const tile_scratch s = scratch_of(job->d, thread);

    for (int64_t i = begin; i < end; i++) {
        const tile t = tile_at(job, i / job->split);
        const int b = (int)(i % job->split);
        float *m = partial_of(job, i / job->split, b);

        if (b >= t.n_blocks)
            continue;
        load_queries(job, &t, s.q);
        run_block(job, &t, b, &s, m, m + t.n_queries, m + 2 * t.n_queries);
    }
}

static void fold_tile_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    const attention_job *job = arg;
    const tile_scratch s = scratch_of(job->d, thread);

    for (int64_t i = begin; i < end; i++) {
        const tile t = tile_at(job, i);

        clear_result(job->d, &t, &s);
        for (int b = 0; b < t.n_blocks; b++) {
            const float *m = partial_of(job, i, b);

            fold(job->d, &t, &s, m, m + t.n_queries, m + 2 * t.n_queries);
        }
        store_result(job, &t, s.l, s.o);
    }
}

/* How a step's attention is cut into tasks. */
static attention_job plan(cpu_device *d, const moe_step *step)
{
    const int threads = moe_pool_threads(d->pool);
    attention_job job = {.d = d, .step = step, .split = 1};
    int64_t longest = 0;

    job.tile_rows = tile_queries(d) / group_size(d);
    for (int i = 0; i < step->n_spans; i++) {
        const int64_t end = step->spans[i].pos + step->spans[i].n_rows;

        job.n_tiles += tiles_of(&job, &step->spans[i]);
        longest = end > longest ? end : longest;
    }
    if (job.n_tiles < 2 * threads && longest > 2 * MOE_ATTN_BLOCK)
        job.split = (int)((longest + MOE_ATTN_BLOCK - 1) / MOE_ATTN_BLOCK);
    return job;
}

size_t cpu_attention_partial_floats(const cpu_device *d, const moe_step *step)
{
    const attention_job job = plan((cpu_device *)d, step);

    return job.split == 1 ? 0 : (size_t)job.n_tiles * (size_t)job.split * result_floats(d);
}

/* o = attention of q over the cache of every span. */
static void attend(cpu_device *d, const moe_step *step, int layer, const float *q)
{
    attention_job job = plan(d, step);

    job.layer = layer;
    job.q = q;
    if (job.split == 1) {
        moe_pool_run(d->pool, run_tiles, &job, job.n_tiles, 1);
    } else {
        moe_pool_run(d->pool, run_tile_blocks, &job, job.n_tiles * job.split, 1);
        moe_pool_run(d->pool, fold_tile_blocks, &job, job.n_tiles, 1);
    }
}

typedef struct rows_job {
    cpu_device *d;
    const moe_step *step;
    int layer;
} rows_job;

static const moe_span *span_of(const moe_step *step, int64_t row)
{
    const moe_span *span = step->spans;

    while (row >= span->row + span->n_rows)
        span++;
    return span;
}

/* Stores the keys and values of a row, which are finished, at a position of a span. */
static void store_kv(const rows_job *job, int64_t row, const moe_span *span, int64_t pos)
{
    const cpu_device *d = job->d;
    const moe_kv_cache *kv = job->step->kv;
    const int32_t page = span->pages[pos / MOE_KV_PAGE];

    for (int h = 0; h < d->n_kv_heads; h++) {
        const int64_t head = row * d->n_kv_heads + h;

        d->kernels->kv_store(d->k + head * d->d_k, kv->values_in_keys ? NULL : d->v + head * d->d_v,
                             (int)(pos % MOE_KV_PAGE), d->d_k, d->d_v, kv->f32,
                             moe_kv_cache_keys(kv, page, job->layer, h),
                             moe_kv_cache_values(kv, page, job->layer, h));
    }
}

static void store_own_kv(const rows_job *job, int64_t row)
{
    const moe_span *span = span_of(job->step, row);

    store_kv(job, row, span, span->pos + row - span->row);
}

static void store_heads_of_spans(void *arg, int64_t begin, int64_t end, int thread)
{
    const rows_job *job = arg;

    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        const moe_span *span = &job->step->spans[i];

        for (int r = 0; r < span->n_head; r++)
            store_kv(job, moe_span_row(span, r), span, span->pos - span->n_head + r);
    }
}

/* Behind the loop that stores what is their own: gives spans the keys and values of their heads. */
static void store_heads(rows_job *job)
{
    const moe_step *step = job->step;

    for (int i = 0; i < step->n_spans; i++)
        if (step->spans[i].n_head > 0) {
            moe_pool_run(job->d->pool, store_heads_of_spans, job, step->n_spans, 4);
            return;
        }
}

static void rotate(const cpu_device *d, float *x, int64_t n_heads, int64_t width, int64_t row)
{
    const moe_rope_spec *rope = &d->spec->rope;
    const int64_t half = rope->n_rot / 2;

    if (rope->style != MOE_ROPE_NONE)
        d->kernels->rope(x, n_heads, width, rope->n_rot, d->cos + row * half, d->sin + row * half,
                         rope->style == MOE_ROPE_INTERLEAVED);
}

/* GQA: norms of q and k heads, rotation, KV append. */
static void finish_gqa_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const rows_job *job = arg;
    cpu_device *d = job->d;
    const moe_model_spec *spec = d->spec;
    const moe_slot *slots = d->weights->layers[job->layer];
    const float *q_norm = moe_slot_vector(d->weights, &slots[MOE_Q_NORM]);
    const float *k_norm = moe_slot_vector(d->weights, &slots[MOE_K_NORM]);

    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        float *q = d->q + t * spec->n_heads * spec->head_dim;
        float *k = d->k + t * d->n_kv_heads * d->d_k;

        if (q_norm != NULL)
            for (int h = 0; h < spec->n_heads; h++)
                d->kernels->rms_norm(q + h * spec->head_dim, q_norm, spec->qk_norm_eps,
                                     spec->head_dim, q + h * spec->head_dim);
        if (k_norm != NULL)
            for (int h = 0; h < d->n_kv_heads; h++)
                d->kernels->rms_norm(k + h * d->d_k, k_norm, spec->qk_norm_eps, d->d_k,
                                     k + h * d->d_k);
        rotate(d, q, spec->n_heads, spec->head_dim, t);
        rotate(d, k, d->n_kv_heads, d->d_k, t);
        store_own_kv(job, t);
    }
}

/* MLA: norm of the latent, rotation of the shared key part and of the queries' part, KV append. */
static void finish_mla_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const rows_job *job = arg;
    cpu_device *d = job->d;
    const moe_model_spec *spec = d->spec;
    const moe_slot *slots = d->weights->layers[job->layer];
    const float *norm = moe_slot_vector(d->weights, &slots[MOE_KV_A_NORM]);
    const int nope = spec->head_dim - spec->head_dim_rope, rank = spec->kv_lora_rank;

    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        float *k = d->k + t * d->d_k;

        d->kernels->rms_norm(k, norm, spec->norm_eps, rank, k);
        rotate(d, k + rank, 1, spec->head_dim_rope, t);
        store_own_kv(job, t);
        for (int h = 0; h < spec->n_heads; h++) {
            const float *src = d->q + (t * spec->n_heads + h) * spec->head_dim + nope;
            float *dst = d->q_absorbed + (t * spec->n_heads + h) * d->d_k + rank;

            memcpy(dst, src, sizeof(float) * (size_t)spec->head_dim_rope);
            rotate(d, dst, 1, spec->head_dim_rope, t);
        }
    }
}

static void norm_q_lora_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const rows_job *job = arg;
    cpu_device *d = job->d;
    const int64_t rank = d->spec->q_lora_rank;
    const float *norm = moe_slot_vector(d->weights, &d->weights->layers[job->layer][MOE_Q_A_NORM]);

    (void)thread;
    for (int64_t t = begin; t < end; t++)
        d->kernels->rms_norm(d->q_lora + t * rank, norm, d->spec->norm_eps, rank,
                             d->q_lora + t * rank);
}

/* y[t, h] = matrix h of the slot · x[t, h], x (n_rows, n_heads, ld_x), y (n_rows, n_heads, ld_y).
 */
static void project_heads(cpu_device *d, const moe_step *step, const moe_slot *slot, const float *x,
                          int64_t ld_x, float *y, int64_t ld_y)
{
    const int n_heads = d->spec->n_heads;

    cpu_prepare(d, &d->hidden, x, ld_x, (int64_t)step->n_rows * n_heads, slot->n_cols,
                cpu_form(slot));
    for (int h = 0; h < n_heads; h++)
        d->products[h] = (cpu_product){
            .w = moe_slot_matrix(d->weights, slot, h),
            .x = &d->hidden,
            .rows = d->head_rows + (int64_t)h * d->capacity,
            .n_tokens = step->n_rows,
            .y = y + h * ld_y,
            .ldy = n_heads * ld_y,
        };
    cpu_run_products(d, d->products, n_heads);
}

static void project_mla(cpu_device *d, const moe_step *step, int layer, const float *src)
{
    const moe_model_spec *spec = d->spec;
    const moe_slot *slots = d->weights->layers[layer];
    const bool lora = spec->q_lora_rank > 0;
    const moe_slot *first = lora ? &slots[MOE_Q_A] : &slots[MOE_Q];
    rows_job job = {d, step, layer};
    cpu_product products[2];

    cpu_prepare(d, &d->in, src, spec->n_embd, step->n_rows, spec->n_embd,
                cpu_form(first) | cpu_form(&slots[MOE_KV_A]));
    products[0] = cpu_step_product(d, step, first, NULL, &d->in, lora ? d->q_lora : d->q);
    products[1] = cpu_step_product(d, step, &slots[MOE_KV_A], NULL, &d->in, d->k);
    cpu_run_products(d, products, 2);
    if (lora) {
        cpu_for_rows(d, norm_q_lora_rows, &job, step->n_rows);
        cpu_prepare(d, &d->hidden, d->q_lora, spec->q_lora_rank, step->n_rows, spec->q_lora_rank,
                    cpu_form(&slots[MOE_Q_B]));
        products[0] = cpu_step_product(d, step, &slots[MOE_Q_B], NULL, &d->hidden, d->q);
        cpu_run_products(d, products, 1);
    }
    project_heads(d, step, &slots[MOE_K_B], d->q, spec->head_dim, d->q_absorbed, d->d_k);
    cpu_for_rows(d, finish_mla_rows, &job, step->n_rows);
    store_heads(&job);
}

static void project_gqa(cpu_device *d, const moe_step *step, int layer, const float *src)
{
    const moe_slot *slots = d->weights->layers[layer];
    rows_job job = {d, step, layer};
    cpu_product products[3];

    cpu_prepare(d, &d->in, src, d->spec->n_embd, step->n_rows, d->spec->n_embd,
                cpu_prompt_form(d, step, &slots[MOE_Q]) | cpu_prompt_form(d, step, &slots[MOE_K]) |
                    cpu_prompt_form(d, step, &slots[MOE_V]));
    products[0] = cpu_prompt_product(d, step, &slots[MOE_Q], &slots[MOE_Q_BIAS], &d->in, d->q);
    products[1] = cpu_prompt_product(d, step, &slots[MOE_K], &slots[MOE_K_BIAS], &d->in, d->k);
    products[2] = cpu_prompt_product(d, step, &slots[MOE_V], &slots[MOE_V_BIAS], &d->in, d->v);
    cpu_run_products(d, products, 3);
    cpu_for_rows(d, finish_gqa_rows, &job, step->n_rows);
    store_heads(&job);
}

void cpu_attention(moe_device *device, const moe_step *step, int layer, moe_buffer src)
{
    cpu_device *d = (cpu_device *)device;
    const moe_model_spec *spec = d->spec;
    const moe_slot *slots = d->weights->layers[layer];
    const float *heads = d->o; /* (n_rows, n_heads, head_dim_v) */
    cpu_product out;

    if (spec->attention == MOE_ATTENTION_MLA) {
        project_mla(d, step, layer, cpu_buffer(d, src));
        attend(d, step, layer, d->q_absorbed);
        project_heads(d, step, &slots[MOE_V_B], d->o, d->d_v, d->o_heads, spec->head_dim_v);
        heads = d->o_heads;
    } else {
        project_gqa(d, step, layer, cpu_buffer(d, src));
        attend(d, step, layer, d->q);
    }
    cpu_prepare(d, &d->hidden, heads, slots[MOE_O].n_cols, step->n_rows, slots[MOE_O].n_cols,
                cpu_form(&slots[MOE_O]));
    out = cpu_step_product(d, step, &slots[MOE_O], &slots[MOE_O_BIAS], &d->hidden, d->a);
    cpu_run_products(d, &out, 1);
}
