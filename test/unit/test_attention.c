/*
 * Attention over a block of the KV cache: every instruction set gives the bits
 * of the definition, which is written down here a second time, key by key;
 * stale memory behind the last key and neighbouring queries have no influence;
 * blocks combined are attention over all keys.
 */
#include "kernel_testing.h"

/* A block of the cache, its queries and what they see. */
typedef struct problem {
    int n_queries, n_keys, d_k, d_v;
    int64_t ldq;
    bool f32, mla;
    float *q;
    float *k, *v; /* (MOE_ATTN_BLOCK, d_k or d_v), as the cache holds them, widened */
    int32_t *n_valid, *n_first;
    void *pages[8];
    const void *k_pages[4], *v_pages[4];
    moe_attn_block kv;
    float *m, *l, *o, *scratch;
    float *expected_m, *expected_l, *expected_o;
} problem;

static float as_stored(float f, bool f32)
{
    return f32 ? f : moe_f16_to_f32(moe_f32_to_f16(f));
}

/* The definition of moe_kernels.attn_block for one query. */
static void attend(const problem *p, int query, float scale, float *m, float *l, float *o)
{
    const moe_kernels *k = moe_cpu_kernels(MOE_ISA_SCALAR);
    float score[MOE_ATTN_BLOCK], lane[16] = {0};
    int first = p->n_first != NULL ? p->n_first[query] : 0, end = p->n_valid[query];

    *m = -INFINITY;
    for (int t = first; t < end; t++) {
        score[t] = 0.0f;
        for (int i = 0; i < p->d_k; i++)
            score[t] = fmaf(p->q[query * p->ldq + i], p->k[t * p->d_k + i], score[t]);
        score[t] *= scale;
        *m = score[t] > *m ? score[t] : *m;
    }
    for (int j = 0; j < p->d_v; j++)
        o[j] = 0.0f;
    for (int t = first; t < end; t++) {
        float probability = score[t] - *m;
        k->exp(&probability, 1, &probability);
        lane[t % 16] += probability;
        for (int j = 0; j < p->d_v; j++)
            o[j] = fmaf(probability, p->v[t * p->d_v + j], o[j]);
    }
    *l = lane_sum(lane);
}

static void make_problem(problem *p, uint64_t *state, int n_queries, int n_keys, int d_k, int d_v,
                         bool f32, bool mla, bool windows, int flavour)
{
    const moe_kernels *k = moe_cpu_kernels(MOE_ISA_SCALAR);
    int n_pages = (n_keys + MOE_KV_PAGE - 1) / MOE_KV_PAGE;
    size_t element = f32 ? 4 : 2;

    memset(p, 0, sizeof *p);
    p->n_queries = n_queries;
    p->n_keys = n_keys;
    p->d_k = d_k;
    p->d_v = d_v;
    p->f32 = f32;
    p->mla = mla;
    p->ldq = d_k + random_int(state, 0, 3);
    p->q = new_floats(n_queries * p->ldq);
    p->k = new_floats(MOE_ATTN_BLOCK * d_k);
    p->v = new_floats(MOE_ATTN_BLOCK * d_v);
    fill(state, p->q, n_queries * p->ldq, flavour == OUTLIERS ? PLAIN : flavour);
    fill(state, p->k, n_keys * d_k, flavour);
    fill(state, p->v, n_keys * d_v, flavour);
    for (int i = 0; i < n_pages; i++) {
        p->pages[i] = new_array((size_t)(MOE_KV_PAGE * d_k), element);
        memset(p->pages[i], 0xff, (size_t)(MOE_KV_PAGE * d_k) * element); /* NaNs */
        p->k_pages[i] = p->pages[i];
        p->pages[4 + i] = new_array((size_t)(MOE_KV_PAGE * d_v), element);
        memset(p->pages[4 + i], 0xff, (size_t)(MOE_KV_PAGE * d_v) * element);
        p->v_pages[i] = p->pages[4 + i];
    }
    for (int t = 0; t < n_keys; t++) {
        float *key = p->k + t * d_k, *value = p->v + t * d_v;
        if (mla)
            memcpy(value, key, (size_t)d_v * sizeof *value);
        k->kv_store(key, mla ? NULL : value, t % MOE_KV_PAGE, d_k, d_v, f32,
                    p->pages[t / MOE_KV_PAGE], mla ? NULL : p->pages[4 + t / MOE_KV_PAGE]);
        for (int i = 0; i < d_k; i++)
            key[i] = as_stored(key[i], f32);
        for (int i = 0; i < d_v; i++)
            value[i] = as_stored(value[i], f32);
    }
    p->kv = (moe_attn_block){.k_pages = p->k_pages,
                             .v_pages = mla ? NULL : p->v_pages,
                             .n_keys = n_keys,
                             .d_k = d_k,
                             .d_v = d_v,
                             .kv_f32 = f32};

    /* Causal with gaps, all, or (with windows) anything, nothing included. */
    p->n_valid = new_array((size_t)n_queries, sizeof(int32_t));
    if (windows)
        p->n_first = new_array((size_t)n_queries, sizeof(int32_t));
    int start = random_int(state, 0, n_keys), style = random_int(state, 0, 2);
    for (int i = 0; i < n_queries; i++) {
        p->n_valid[i] = style == 0   ? n_keys
                        : style == 1 ? (start + i < n_keys ? start + i : n_keys)
                                     : random_int(state, 0, n_keys);
        if (windows)
            p->n_first[i] = style < 2 ? (p->n_valid[i] > 20 ? p->n_valid[i] - 20 : 0)
                                      : random_int(state, 0, n_keys);
    }

    size_t scratch_bytes = moe_attn_scratch_bytes(d_k, d_v, n_queries);
    p->scratch = new_array(scratch_bytes, 1);
    p->m = new_floats(n_queries);
    p->l = new_floats(n_queries);
    p->o = new_floats(n_queries * d_v);
    p->expected_m = new_floats(n_queries);
    p->expected_l = new_floats(n_queries);
    p->expected_o = new_floats(n_queries * d_v);
    memset(p->scratch, 0xff, scratch_bytes);
    for (int i = 0; i < n_queries; i++)
        attend(p, i, 0.125f, &p->expected_m[i], &p->expected_l[i], p->expected_o + i * d_v);
}

static void free_problem(problem *p)
{
    free(p->q);
    free(p->k);
    free(p->v);
    free(p->n_valid);
    free(p->n_first);
    for (int i = 0; i < 8; i++)
        free(p->pages[i]);
    free(p->scratch);
    free(p->m);
    free(p->l);
    free(p->o);
    free(p->expected_m);
    free(p->expected_l);
    free(p->expected_o);
}

static void check_all_tables(problem *p)
{
    const moe_kernels *tables[N_TABLES];
    int n_tables = tables_present(tables);

    for (int i = 0; i < n_tables; i++) {
        memset(p->o, 0xff, (size_t)(p->n_queries * p->d_v) * sizeof *p->o);
        tables[i]->attn_block(p->q, p->ldq, p->n_queries, 0.125f, &p->kv, p->n_valid, p->n_first,
                              p->m, p->l, p->o, p->scratch);
        same_floats(p->expected_m, p->m, p->n_queries, "m", tables[i]->name);
        same_floats(p->expected_l, p->l, p->n_queries, "l", tables[i]->name);
        same_floats(p->expected_o, p->o, p->n_queries * p->d_v, "o", tables[i]->name);
    }
}

static void blocks_of_all_shapes_follow_the_definition(void **unused)
{
    uint64_t state = 1;
    problem p;

    (void)unused;
    for (int i = 1; i <= 140; i++) {
        bool mla = i % 4 == 0;
        int d_v = i % 3 == 0 ? 16 * random_int(&state, 1, 5) : random_int(&state, 1, 70);
        int d_k = mla ? d_v + random_int(&state, 0, 20) : random_int(&state, 1, 70);
        int n_queries = i % 5 == 0 ? random_int(&state, 20, 140) : random_int(&state, 1, 19);
        make_problem(&p, &state, n_queries, random_int(&state, 1, MOE_ATTN_BLOCK), d_k, d_v,
                     i % 7 == 0, mla, i % 2, i % N_FLAVOURS);
        check_all_tables(&p);
        free_problem(&p);
    }
}

static void blocks_of_usual_shapes_follow_the_definition(void **unused)
{
    static const int shapes[][3] = {{1, 64, 64},    {4, 128, 128},  {8, 128, 128},
                                    {16, 192, 128}, {16, 576, 512}, {40, 96, 96}};
    uint64_t state = 2;
    problem p;

    (void)unused;
    for (int i = 0; i < 6; i++) {
        for (int n_keys = 256; n_keys > 0; n_keys -= 97) {
            make_problem(&p, &state, shapes[i][0], n_keys, shapes[i][1], shapes[i][2], i == 1,
                         shapes[i][1] == 576, false, PLAIN);
            check_all_tables(&p);
            free_problem(&p);
        }
    }
}

static void a_query_is_not_influenced_by_its_companions(void **unused)
{
    const moe_kernels *tables[N_TABLES];
    int n_tables = tables_present(tables);
    uint64_t state = 3;
    problem p;

    (void)unused;
    for (int round = 0; round < 6; round++) {
        make_problem(&p, &state, 60, 200, 48, 40, false, round % 2, true, PLAIN);
        for (int i = 0; i < n_tables; i++) {
            for (int query = 0, n; query < p.n_queries; query += n) {
                n = random_int(&state, 1, 10);
                n = n < p.n_queries - query ? n : p.n_queries - query;
                tables[i]->attn_block(p.q + query * p.ldq, p.ldq, n, 0.125f, &p.kv,
                                      p.n_valid + query, p.n_first + query, p.m + query,
                                      p.l + query, p.o + query * p.d_v, p.scratch);
            }
            same_floats(p.expected_m, p.m, p.n_queries, "m", tables[i]->name);
            same_floats(p.expected_l, p.l, p.n_queries, "l", tables[i]->name);
            same_floats(p.expected_o, p.o, p.n_queries * p.d_v, "o", tables[i]->name);
        }
        free_problem(&p);
    }
}

static void keys_and_values_are_stored_alike(void **unused)
{
    const moe_kernels *tables[N_TABLES];
    int n_tables = tables_present(tables);
    uint64_t state = 4;

    (void)unused;
    for (int round = 0; round < 40; round++) {
        int d_k = random_int(&state, 1, 70), d_v = random_int(&state, 1, 70);
        bool f32 = round % 2;
        size_t element = f32 ? 4 : 2, k_bytes = (size_t)(MOE_KV_PAGE * d_k) * element,
               v_bytes = (size_t)(MOE_KV_PAGE * d_v) * element;
        float *k = new_floats(d_k), *v = new_floats(d_v);
        char *k_page[2], *v_page[2];

        for (int i = 0; i < 2; i++) {
            k_page[i] = new_array(k_bytes, 1);
            v_page[i] = new_array(v_bytes, 1);
        }
        for (int pos = 0; pos < MOE_KV_PAGE; pos += 5) {
            fill(&state, k, d_k, round % N_FLAVOURS);
            fill(&state, v, d_v, round % N_FLAVOURS);
            for (int i = 0; i < n_tables; i++)
                tables[i]->kv_store(k, v, pos, d_k, d_v, f32, k_page[i > 0], v_page[i > 0]);
            for (int i = 0; i < d_k; i++) {
                int at = (pos / 16 * d_k + i) * 16 + pos % 16;
                uint16_t half = moe_f32_to_f16(k[i]);
                if (f32)
                    assert_memory_equal(k_page[0] + at * 4, &k[i], 4);
                else
                    assert_memory_equal(k_page[0] + at * 2, &half, 2);
            }
            for (int i = 0; i < d_v; i++) {
                uint16_t half = moe_f32_to_f16(v[i]);
                if (f32)
                    assert_memory_equal(v_page[0] + (pos * d_v + i) * 4, &v[i], 4);
                else
                    assert_memory_equal(v_page[0] + (pos * d_v + i) * 2, &half, 2);
            }
        }
        if (n_tables > 1) {
            assert_memory_equal(k_page[0], k_page[1], k_bytes);
            assert_memory_equal(v_page[0], v_page[1], v_bytes);
        }
        for (int i = 0; i < 2; i++) {
            free(k_page[i]);
            free(v_page[i]);
        }
        free(k);
        free(v);
    }
}

/* Softmax over all keys of several blocks in double against the blocks
 * combined. */
static void combined_blocks_are_attention_over_all_keys(void **unused)
{
    enum { BLOCKS = 4, D = 40 };
    const moe_kernels *tables[N_TABLES];
    int n_tables = tables_present(tables);
    uint64_t state = 5;
    problem p[BLOCKS];
    float first_m = 0, first_l = 0, first_o[D];

    (void)unused;
    for (int b = 0; b < BLOCKS; b++) {
        make_problem(&p[b], &state, 1, b == BLOCKS - 1 ? 77 : 256, D, D, false, false, false,
                     PLAIN);
        memcpy(p[b].q, p[0].q, D * sizeof(float));
        p[b].n_valid[0] = b == 1 ? 0 : p[b].n_keys;
    }
    for (int i = 0; i < n_tables; i++) {
        float m = -INFINITY, l = 0.0f, o[D] = {0};
        for (int b = 0; b < BLOCKS; b++) {
            tables[i]->attn_block(p[b].q, p[b].ldq, 1, 0.125f, &p[b].kv, p[b].n_valid, NULL, p[b].m,
                                  p[b].l, p[b].o, p[b].scratch);
            tables[i]->attn_combine(&m, &l, o, p[b].m[0], p[b].l[0], p[b].o, D);
        }
        if (i == 0) {
            double sum = 0, exact[D] = {0};
            for (int b = 0; b < BLOCKS; b++) {
                for (int t = 0; t < p[b].n_valid[0]; t++) {
                    double score = 0, weight;
                    for (int j = 0; j < D; j++)
                        score += (double)p[b].q[j] * p[b].k[t * D + j];
                    weight = exp(score * 0.125);
                    sum += weight;
                    for (int j = 0; j < D; j++)
                        exact[j] += weight * p[b].v[t * D + j];
                }
            }
            for (int j = 0; j < D; j++)
                assert_true(fabs(o[j] / l - exact[j] / sum) <= 2e-6);
            first_m = m;
            first_l = l;
            memcpy(first_o, o, sizeof o);
        }
        same_floats(&first_m, &m, 1, "combined m", tables[i]->name);
        same_floats(&first_l, &l, 1, "combined l", tables[i]->name);
        same_floats(first_o, o, D, "combined o", tables[i]->name);
    }
    for (int b = 0; b < BLOCKS; b++)
        free_problem(&p[b]);
}

static void combining_leaves_out_what_sees_nothing(void **unused)
{
    const moe_kernels *tables[N_TABLES];
    int n_tables = tables_present(tables);

    (void)unused;
    for (int i = 0; i < n_tables; i++) {
        float m = -INFINITY, l = 0.0f, o[3] = {0}, seen[3] = {1.0f, -2.0f, 3.0f}, none[3] = {0};
        tables[i]->attn_combine(&m, &l, o, -INFINITY, 0.0f, none, 3);
        assert_true(m == -INFINITY && l == 0.0f && o[0] == 0.0f);
        tables[i]->attn_combine(&m, &l, o, -5.0f, 2.0f, seen, 3);
        assert_true(m == -5.0f && l == 2.0f);
        same_floats(seen, o, 3, "block taken over", tables[i]->name);
        tables[i]->attn_combine(&m, &l, o, -INFINITY, 0.0f, none, 3);
        assert_true(m == -5.0f && l == 2.0f);
        same_floats(seen, o, 3, "block kept", tables[i]->name);
        tables[i]->attn_combine(&m, &l, o, -5.0f, 2.0f, seen, 3);
        assert_true(m == -5.0f && l == 4.0f && o[1] == -4.0f);
    }
}

/* One head of a text by the definition: blocks of keys in ascending order,
 * folded. */
static void attend_text(const float *q, const float *k, const float *v, int64_t ld, int n, int d,
                        float scale, float *o)
{
    const moe_kernels *scalar = moe_cpu_kernels(MOE_ISA_SCALAR);
    float *keys = new_floats(MOE_ATTN_BLOCK * d), *values = new_floats(MOE_ATTN_BLOCK * d);
    float *part = new_floats(d);

    for (int query = 0; query < n; query++) {
        float m = -INFINITY, l = 0.0f, *to = o + query * ld;

        for (int first = 0; first < n; first += MOE_ATTN_BLOCK) {
            int32_t n_keys = n - first < MOE_ATTN_BLOCK ? n - first : MOE_ATTN_BLOCK;
            const problem p = {.d_k = d,
                               .d_v = d,
                               .q = (float *)q + query * ld,
                               .k = keys,
                               .v = values,
                               .n_valid = &n_keys};
            float m_b, l_b;

            for (int t = 0; t < n_keys; t++) {
                memcpy(keys + t * d, k + (first + t) * ld, sizeof(float) * (size_t)d);
                memcpy(values + t * d, v + (first + t) * ld, sizeof(float) * (size_t)d);
            }
            attend(&p, 0, scale, &m_b, &l_b, part);
            scalar->attn_combine(&m, &l, to, m_b, l_b, part, d);
        }
        scalar->scale(to, 1.0f / l, d, to);
    }
    free(keys);
    free(values);
    free(part);
}

static void texts_follow_the_definition(void **unused)
{
    static const int lengths[] = {1, 2, 9, 15, 16, 17, 40, 64, 65, 130, 256, 257, 300, 513};
    static const int widths[] = {32, 16, 64, 5, 20, 33};
    const moe_kernels *tables[N_TABLES];
    const int n_tables = tables_present(tables);
    uint64_t state = 8;

    (void)unused;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        for (size_t j = 0; j < (lengths[i] > 65 ? 2 : sizeof widths / sizeof widths[0]); j++) {
            const int n = lengths[i], d = widths[j], ld = 2 * d + 3;
            const int64_t size = (int64_t)n * ld;
            float *x[3], *expected = new_floats(size), *o = new_floats(size);
            void *scratch = aligned_alloc(64, (moe_attn_text_scratch_bytes(n, d) + 63) / 64 * 64);

            assert_non_null(scratch);
            for (int a = 0; a < 3; a++) {
                x[a] = new_floats(size + 15);
                fill(&state, x[a], size, PLAIN);
            }
            attend_text(x[0] + d, x[1] + d, x[2] + d, ld, n, d, 0.3f, expected + d);
            for (int table = 0; table < n_tables; table++) {
                memset(o, 0, sizeof(float) * (size_t)size);
                tables[table]->attn_text(x[0] + d, x[1] + d, x[2] + d, ld, n, d, 0.3f, o + d,
                                         scratch);
                same_floats(expected, o, size, "attention over a text", tables[table]->name);
            }
            free(scratch);
            for (int a = 0; a < 3; a++)
                free(x[a]);
            free(expected);
            free(o);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_and_values_are_stored_alike),
        cmocka_unit_test(blocks_of_all_shapes_follow_the_definition),
        cmocka_unit_test(blocks_of_usual_shapes_follow_the_definition),
        cmocka_unit_test(a_query_is_not_influenced_by_its_companions),
        cmocka_unit_test(combined_blocks_are_attention_over_all_keys),
        cmocka_unit_test(combining_leaves_out_what_sees_nothing),
        cmocka_unit_test(texts_follow_the_definition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
