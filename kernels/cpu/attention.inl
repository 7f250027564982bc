/*
 * Attention over one block of the KV cache, for the instruction set whose v16 header is included
 * before.
 *
 * Scores and outputs are products of the kind of float_tile.h.  Scores: the keys are the weights
 * (a slab of (d_k, 16 positions) is a packed group), the queries the tokens.  Outputs: 16 columns
 * of the values are a group, the position runs along the chain, the probabilities are the tokens.
 *
 * With few queries keys and values are read where they lie.  With many, the block is widened to
 * float32 once.  Values that are stored as part of the keys (MLA), or whose width is no multiple
 * of 16, always go through scratch: (width / 16, 256 positions, 16), zero-filled on the right.
 *
 * A position at or past n_valid, or before n_first, never enters a sum: not its score, which is
 * masked, and not its value, over which the chains of the outputs do not run.  So a query's result
 * does not depend on the queries beside it, and stale memory past n_keys does no harm.
 */
#include "v16_math.inl"
#include "float_tile.h"

#define SLABS_PER_PAGE (MOE_KV_PAGE / 16)
#define SLABS_PER_BLOCK (MOE_ATTN_BLOCK / 16)

/* A call of attn_block. */
typedef struct attn_call {
    const moe_attn_block *kv;
    stored_type stored;
    int element;    /* bytes of a stored element */
    const float *q; /* (n_queries, ldq) */
    int64_t ldq;
    float scale;
    const int32_t *n_valid, *n_first;
    const float *wide_k;  /* (SLABS_PER_BLOCK, d_k, 16), or NULL: read the pages */
    const float *panel_v; /* (width / 16, MOE_ATTN_BLOCK, 16), or NULL: read the pages */
    float *scores;        /* (MOE_ATTN_CHUNK, MOE_ATTN_BLOCK) */
    float *o;             /* (n_queries, d_v) */
} attn_call;

static inline int first_of(const attn_call *call, int query)
{
    return call->n_first != NULL && call->n_first[query] > 0 ? call->n_first[query] : 0;
}

static inline int end_of(const attn_call *call, int query)
{
    int n_valid = call->n_valid[query];
    return n_valid < call->kv->n_keys ? n_valid : call->kv->n_keys;
}

static inline int64_t distance(const void *from, const void *to)
{
    return (int64_t)((intptr_t)to - (intptr_t)from);
}

/* Bytes from page `page` of the keys or values to the page that is read after it, 0 at the end. */
static int64_t to_next_page(const attn_call *call, const void *const *pages, int page)
{
    const moe_attn_block *kv = call->kv;

    if ((page + 1) * MOE_KV_PAGE < kv->n_keys)
        return distance(pages[page], pages[page + 1]);
    if (pages == kv->k_pages && kv->v_pages != NULL)
        return distance(pages[page], kv->v_pages[0]);
    return 0;
}

/* --- bringing the block into scratch
 * ------------------------------------------------------------------- */

static void widen_keys(const attn_call *call, int n_slabs, float *wide)
{
    const moe_attn_block *kv = call->kv;
    int64_t slab = (int64_t)kv->d_k * 16;

    for (int s = 0; s < n_slabs; s++) {
        int page = s / SLABS_PER_PAGE;
        const uint16_t *src = (const uint16_t *)kv->k_pages[page] + s % SLABS_PER_PAGE * slab;
        widen(src, STORED_F16, kv->d_k, to_next_page(call, kv->k_pages, page), wide + s * slab);
    }
}

/* Columns [16 g, 16 g + 16) of the values, which are rows of the slabs of keys: a transposition. */
static void panel_from_keys(const attn_call *call, int n_slabs, int g, float *panel)
{
    const moe_attn_block *kv = call->kv;
    const int64_t step = 16 * call->element;
    int n_rows = kv->d_v - 16 * g < 16 ? kv->d_v - 16 * g : 16;

    for (int s = 0; s < n_slabs; s++) {
        const char *src = (const char *)kv->k_pages[s / SLABS_PER_PAGE];
        v16 row[16];

        src += ((int64_t)(s % SLABS_PER_PAGE) * kv->d_k + 16 * g) * step;
        if (n_rows == 16) {
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                row[i] = tile_load(src + i * step, call->stored);
        } else {
            for (int i = 0; i < 16; i++)
                row[i] = i < n_rows ? tile_load(src + i * step, call->stored) : v16_zero();
        }
        v16_transpose(row);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            v16_store(panel + (s * 16 + i) * 16, row[i]);
    }
}

/* Columns [16 g, 16 g + 16) of the values, from their pages. */
static void panel_from_values(const attn_call *call, int n_keys, int g, float *panel)
{
    const moe_attn_block *kv = call->kv;
    int n_columns = kv->d_v - 16 * g < 16 ? kv->d_v - 16 * g : 16;

    for (int t = 0; t < n_keys; t++, panel += 16) {
        const char *src = (const char *)kv->v_pages[t / MOE_KV_PAGE];
        src += ((int64_t)(t % MOE_KV_PAGE) * kv->d_v + 16 * g) * call->element;
        if (n_columns == 16) {
            v16_store(panel, tile_load(src, call->stored));
        } else {
            _Alignas(64) char part[64] = {0};
            memcpy(part, src, (size_t)(n_columns * call->element));
            v16_store(panel, tile_load(part, call->stored));
        }
    }
}

/* --- one chunk of queries ------------------------------------------------------------------- */

/* The raw scores of queries [query, query + n) for the slabs that they see any of. */
static void chunk_scores(const attn_call *call, int query, int n)
{
    const moe_attn_block *kv = call->kv;
    const int64_t slab_bytes = (int64_t)kv->d_k * 16 * (call->wide_k ? 4 : call->element);
    const int part = (int)even_part(n, TILE_TOKENS);
    const int most = TILE_GROUPS_FOR(part);
    int n_slabs;

    for (int s = 0; s < SLABS_PER_BLOCK; s += n_slabs) {
        int page = s / SLABS_PER_PAGE, limit = SLABS_PER_BLOCK;
        tile_job job = {.w_group = slab_bytes,
                        .w_step = slab_bytes / kv->d_k,
                        .n_k = kv->d_k,
                        .ld_to = MOE_ATTN_BLOCK,
                        .last_lanes = 16};
        if (s * 16 >= kv->n_keys)
            return;
        if (call->wide_k != NULL) {
            job.w = (const char *)call->wide_k + s * slab_bytes;
        } else {
            job.w = (const char *)kv->k_pages[page] + s % SLABS_PER_PAGE * slab_bytes;
            job.ahead = to_next_page(call, kv->k_pages, page);
            limit = (page + 1) * SLABS_PER_PAGE;
        }
        if (limit > (kv->n_keys + 15) / 16)
            limit = (kv->n_keys + 15) / 16;
        n_slabs = limit - s < most ? limit - s : most;

        int size;
        for (int t = 0; t < n; t += size) {
            int first = MOE_ATTN_BLOCK, end = 0;
            size = (int)even_part(n - t, TILE_TOKENS);
            for (int i = 0; i < size; i++) {
                int query_first = first_of(call, query + t + i);
                int query_end = end_of(call, query + t + i);
                first = query_first < first ? query_first : first;
                end = query_end > end ? query_end : end;
                job.x[i] = call->q + (query + t + i) * call->ldq;
            }
            if (s * 16 >= end || (s + n_slabs) * 16 <= first)
                continue;
            job.to = call->scores + t * MOE_ATTN_BLOCK + s * 16;
            ISA(moe_tile_run)(&job, call->wide_k ? STORED_F32 : call->stored, n_slabs, size);
        }
    }
}

/* Turns the raw scores of a query into exp(score - m), in place; gives m and the sum.  Only the
 * first and the last vector can hold masked positions. */
static void probabilities(float *scores, int first, int end, float scale, float *m, float *l)
{
    const v16 factor = v16_set1(scale);
    const int begin = first / 16 * 16;
    v16 largest = v16_set1(-INFINITY), sum = v16_zero();

    if (first >= end) {
        *m = -INFINITY;
        *l = 0.0f;
        return;
    }
    for (int t = begin; t < end; t += 16) {
        v16 s = v16_mul(v16_load(scores + t), factor);
        if (t < first || t + 16 > end)
            s = v16_keep(s, first - t, end - t, -INFINITY);
        largest = v16_max(largest, s);
        v16_store(scores + t, s);
    }
    *m = v16_largest(largest);
    largest = v16_set1(*m);
    for (int t = begin; t < end; t += 16) {
        v16 p = v16_exp_falling(v16_sub(v16_load(scores + t), largest));
        if (t < first || t + 16 > end)
            p = v16_keep(p, first - t, end - t, 0.0f);
        sum = v16_add(sum, p);
        v16_store(scores + t, p);
    }
    *l = v16_sum(sum);
}

/* o += p v over positions [begin, end) for n_groups * 16 columns from 16 g on and n queries. */
static void outputs_over(const attn_call *call, int query, const float *p, int n, int begin,
                         int end, int g, int n_groups)
{
    const moe_attn_block *kv = call->kv;
    int left = kv->d_v - 16 * (g + n_groups - 1);
    tile_job job = {.to = call->o + (int64_t)query * kv->d_v + 16 * g,
                    .ld_to = kv->d_v,
                    .last_lanes = left < 16 ? left : 16};
    int stop;

    if (begin >= end)
        return;
    job.from = job.to;
    job.ld_from = job.ld_to;
    for (int t = begin; t < end; t = stop) {
        if (call->panel_v != NULL) {
            stop = end;
            job.w = call->panel_v + ((int64_t)g * MOE_ATTN_BLOCK + t) * 16;
            job.w_group = MOE_ATTN_BLOCK * 64;
            job.w_step = 64;
        } else {
            int page = t / MOE_KV_PAGE;
            int page_end = (page + 1) * MOE_KV_PAGE;
            stop = page_end < end ? page_end : end;
            job.w_step = (int64_t)kv->d_v * call->element;
            job.w = (const char *)kv->v_pages[page] + t % MOE_KV_PAGE * job.w_step +
                    16 * g * call->element;
            job.w_group = 16 * call->element;
            job.ahead = to_next_page(call, kv->v_pages, page);
        }
        job.n_k = stop - t;
        for (int i = 0; i < n; i++)
            job.x[i] = p + i * MOE_ATTN_BLOCK + t;
        ISA(moe_tile_run)(&job, call->panel_v ? STORED_F32 : call->stored, n_groups, n);
    }
}

/* The outputs of n queries that form a tile: together over the positions that all of them see,
 * each alone over what it sees before and behind these. */
static void tile_outputs(const attn_call *call, int query, const float *p, int n, int g,
                         int n_groups)
{
    int first = 0, end = MOE_ATTN_BLOCK;

    for (int i = 0; i < n; i++) {
        int query_first = first_of(call, query + i), query_end = end_of(call, query + i);
        first = query_first > first ? query_first : first;
        end = query_end < end ? query_end : end;
    }
    if (first >= end)
        first = end = MOE_ATTN_BLOCK; /* nothing in common: all of it is "before" */
    for (int i = 0; i < n; i++) {
        int query_end = end_of(call, query + i);
        outputs_over(call, query + i, p + i * MOE_ATTN_BLOCK, 1, first_of(call, query + i),
                     query_end < first ? query_end : first, g, n_groups);
    }
    outputs_over(call, query, p, n, first, end, g, n_groups);
    for (int i = 0; i < n; i++)
        outputs_over(call, query + i, p + i * MOE_ATTN_BLOCK, 1, end, end_of(call, query + i), g,
                     n_groups);
}

static void chunk_outputs(const attn_call *call, int query, int n)
{
    const int width = (call->kv->d_v + 15) / 16;
    const int most = TILE_GROUPS_FOR(even_part(n, TILE_TOKENS));

    memset(call->o + (int64_t)query * call->kv->d_v, 0,
           (size_t)n * (size_t)call->kv->d_v * sizeof(float));
    for (int g = 0; g < width; g += most) {
        int n_groups = width - g < most ? width - g : most, size;
        for (int t = 0; t < n; t += size) {
            size = (int)even_part(n - t, TILE_TOKENS);
            tile_outputs(call, query + t, call->scores + t * MOE_ATTN_BLOCK, size, g, n_groups);
        }
    }
}

/* --- entries of the table ------------------------------------------------------------------- */

void ISA(moe_attn_block)(const float *q, int64_t ldq, int n_queries, float scale,
                         const moe_attn_block *kv, const int32_t *n_valid, const int32_t *n_first,
                         float *m, float *l, float *o, void *scratch)
{
    const int n_slabs = (kv->n_keys + 15) / 16;
    const bool many = n_queries > 2 * TILE_TOKENS && !kv->kv_f32;
    float *next = scratch;
    attn_call call = {
        .kv = kv,
        .stored = kv->kv_f32 ? STORED_F32 : STORED_F16,
        .element = kv->kv_f32 ? 4 : 2,
        .q = q,
        .ldq = ldq,
        .scale = scale,
        .n_valid = n_valid,
        .n_first = n_first,
        .scores = next,
        .o = o,
    };

    next += (n_queries < MOE_ATTN_CHUNK ? n_queries : MOE_ATTN_CHUNK) * MOE_ATTN_BLOCK;
    if (many) {
        widen_keys(&call, n_slabs, next);
        call.wide_k = next;
        next += (int64_t)MOE_ATTN_BLOCK * kv->d_k;
    }
    if (many || kv->v_pages == NULL || kv->d_v % 16 != 0) {
        for (int g = 0; g * 16 < kv->d_v; g++) {
            float *panel = next + (int64_t)g * MOE_ATTN_BLOCK * 16;
            if (kv->v_pages == NULL)
                panel_from_keys(&call, n_slabs, g, panel);
            else
                panel_from_values(&call, kv->n_keys, g, panel);
        }
        call.panel_v = next;
    }

    int n;
    for (int query = 0; query < n_queries; query += n) {
        n = (int)even_part(n_queries - query, MOE_ATTN_CHUNK);
        chunk_scores(&call, query, n);
        for (int i = 0; i < n; i++)
            probabilities(call.scores + i * MOE_ATTN_BLOCK, first_of(&call, query + i),
                          end_of(&call, query + i), scale, &m[query + i], &l[query + i]);
        chunk_outputs(&call, query, n);
    }
}

static float exp_1(float x)
{
    float y[16];
    v16_store(y, v16_exp(v16_set1(x)));
    return y[0];
}

void ISA(moe_attn_combine)(float *m, float *l, float *o, float m_b, float l_b, const float *o_b,
                           int d_v)
{
    if (m_b == -INFINITY)
        return;
    if (*l == 0.0f) {
        *m = m_b;
        *l = l_b;
        memcpy(o, o_b, (size_t)d_v * sizeof(float));
        return;
    }
    const float largest = *m > m_b ? *m : m_b;
    const float a = exp_1(*m - largest), c = exp_1(m_b - largest);
    const v16 old_factor = v16_set1(a), new_factor = v16_set1(c);

    *m = largest;
    *l = fmaf(*l, a, l_b * c);
    for (int j = 0; j < d_v; j += 16) {
        int n = d_v - j < 16 ? d_v - j : 16;
        v16 added = v16_mul(v16_load_n(o_b + j, n), new_factor);
        v16_store_n(o + j, v16_fma(v16_load_n(o + j, n), old_factor, added), n);
    }
}

void ISA(moe_kv_store)(const float *k, const float *v, int pos_in_page, int d_k, int d_v,
                       bool kv_f32, void *k_page, void *v_page)
{
    int64_t k_offset = (int64_t)(pos_in_page / 16) * d_k * 16 + pos_in_page % 16;
    int64_t v_offset = (int64_t)pos_in_page * d_v;

    if (kv_f32) {
        float *keys = (float *)k_page + k_offset;
        for (int i = 0; i < d_k; i++)
            keys[i * 16] = k[i];
        if (v != NULL)
            memcpy((float *)v_page + v_offset, v, (size_t)d_v * sizeof(float));
        return;
    }
    uint16_t *keys = (uint16_t *)k_page + k_offset;
    uint16_t half[16];
    for (int i = 0; i < d_k; i += 16) {
        int n = d_k - i < 16 ? d_k - i : 16;
        v16_store_f16(half, v16_load_n(k + i, n));
        for (int j = 0; j < n; j++)
            keys[(i + j) * 16] = half[j];
    }
    for (int i = 0; v != NULL && i < d_v; i += 16) {
        int n = d_v - i < 16 ? d_v - i : 16;
        v16_store_f16(half, v16_load_n(v + i, n));
        memcpy((uint16_t *)v_page + v_offset + i, half, (size_t)n * sizeof *half);
    }
}

/* --- a whole text --------------------------------------------------------------------------- */

/* Rows of keys to slabs of (d, 16 positions); positions behind the last are zeros. */
static void transpose_keys(const float *k, int64_t ld, int n, int d, float *slabs)
{
    for (int t = 0; t < n; t += 16) {
        const int rows = n - t < 16 ? n - t : 16;

        for (int j = 0; j < d; j += 16) {
            const int width = d - j < 16 ? d - j : 16;
            v16 row[16];

            if (rows == 16 && width == 16) {
#pragma GCC unroll 16
                for (int i = 0; i < 16; i++)
                    row[i] = v16_load(k + (t + i) * ld + j);
            } else {
                for (int i = 0; i < 16; i++)
                    row[i] = i < rows ? v16_load_n(k + (t + i) * ld + j, width) : v16_zero();
            }
            v16_transpose(row);
            for (int i = 0; i < width; i++)
                v16_store(slabs + (int64_t)t * d + (j + i) * 16, row[i]);
        }
    }
}

/* One product of n_rows rows of x (ld_x) with the vectors of w, into `to` (ld_to). */
static void text_product(tile_job job, int n_groups, const float *x, int64_t ld_x, int n_rows,
                         int last_lanes)
{
    const int most = TILE_GROUPS_FOR(even_part(n_rows, TILE_TOKENS));
    const char *w = job.w;
    float *to = job.to;
    int groups, n;

    for (int g = 0; g < n_groups; g += groups) {
        groups = n_groups - g < most ? n_groups - g : most;
        job.last_lanes = g + groups == n_groups ? last_lanes : 16;
        job.w = w + g * job.w_group;
        for (int t = 0; t < n_rows; t += n) {
            n = (int)even_part(n_rows - t, TILE_TOKENS);
            for (int i = 0; i < n; i++)
                job.x[i] = x + (t + i) * ld_x;
            job.to = to + t * job.ld_to + 16 * g;
            ISA(moe_tile_run)(&job, STORED_F32, groups, n);
        }
    }
}

void ISA(moe_attn_text)(const float *q, const float *k, const float *v, int64_t ld, int n, int d,
                        float scale, float *o, void *scratch)
{
    float m[2][MOE_ATTN_CHUNK], l[2][MOE_ATTN_CHUNK]; /* [0]: running result, [1]: of a block */
    float *slabs = scratch;
    float *scores = slabs + (int64_t)(n + 15) / 16 * 16 * d;
    float *sums[2] = {scores + MOE_ATTN_CHUNK * MOE_ATTN_BLOCK,
                      scores + MOE_ATTN_CHUNK * (MOE_ATTN_BLOCK + d)};
    const int width = (d + 15) / 16;
    int rows;

    transpose_keys(k, ld, n, d, slabs);
    for (int query = 0; query < n; query += rows) {
        rows = (int)even_part(n - query, MOE_ATTN_CHUNK);
        for (int first = 0; first < n; first += MOE_ATTN_BLOCK) {
            const int n_keys = n - first < MOE_ATTN_BLOCK ? n - first : MOE_ATTN_BLOCK;
            const int b = first > 0;
            const tile_job score = {.w = slabs + (int64_t)first * d,
                                    .w_group = (int64_t)d * 64,
                                    .w_step = 64,
                                    .n_k = d,
                                    .to = scores,
                                    .ld_to = MOE_ATTN_BLOCK};
            const tile_job output = {.w = v + first * ld,
                                     .w_group = 64,
                                     .w_step = ld * 4,
                                     .n_k = n_keys,
                                     .to = sums[b],
                                     .ld_to = d};

            text_product(score, (n_keys + 15) / 16, q + query * ld, ld, rows, 16);
            for (int i = 0; i < rows; i++)
                probabilities(scores + i * MOE_ATTN_BLOCK, 0, n_keys, scale, &m[b][i], &l[b][i]);
            text_product(output, width, scores, MOE_ATTN_BLOCK, rows, d - 16 * (width - 1));
            for (int i = 0; b > 0 && i < rows; i++)
                ISA(moe_attn_combine)
                (&m[0][i], &l[0][i], sums[0] + i * d, m[1][i], l[1][i], sums[1] + i * d, d);
        }
        for (int i = 0; i < rows; i++) {
            const v16 factor = v16_set1(1.0f / l[0][i]);

            for (int j = 0; j < d; j += 16) {
                const int lanes = d - j < 16 ? d - j : 16;
                v16 sum = v16_load_n(sums[0] + i * d + j, lanes);

                v16_store_n(o + (query + i) * ld + j, v16_mul(factor, sum), lanes);
            }
        }
    }
}
