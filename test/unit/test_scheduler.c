/*
 * The scheduler with many users: shared beginnings of prompts, turns, admission, the queue,
 * cancellation at every point.  Runs from the repository's root on the model that comes with it.
 */
#include "../../src/engine/run/scheduler_internal.h"
#include "golden.h"

#include <math.h>

static const char POCKET[] = "share/pocket-q8_0.gguf";

enum { N_TOP = 8, MAX_TOKENS_OUT = 1200 };

/* What a request came to, bit by bit. */
typedef struct outcome {
    int32_t ids[MAX_TOKENS_OUT];
    float logprobs[MAX_TOKENS_OUT];
    int n;
    float embedding[512];
    int64_t prompt, cached, generated;
} outcome;

static void fill_ids(int32_t *ids, int n, int n_vocab, uint32_t seed)
{
    uint32_t x = seed;

    for (int i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        ids[i] = (int32_t)((x >> 8) % (uint32_t)n_vocab);
    }
}

static moe_request request_of(moe_task task, const int32_t *ids, size_t n, int max_tokens)
{
    return (moe_request){.task = task,
                         .prompt = ids,
                         .n_prompt = n,
                         .max_tokens = max_tokens,
                         .top_p = 1.0f,
                         .repeat_penalty = 1.0f,
                         .ignore_eos = true,
                         .logprobs = true,
                         .n_top = N_TOP,
                         .score_from = n > 1 ? 1 : n};
}

static moe_model *open_with_pages(moe_engine *engine, const char *path, int n_pages,
                                  size_t kv_idle_bytes)
{
    moe_model_options options = {.kv_bytes = 1, .kv_idle_bytes = kv_idle_bytes};
    moe_model *model;
    moe_error err = {0};

    if (n_pages != 16) { /* the smallest cache has 16 */
        assert_ok(moe_model_open(engine, path, &options, &model, &err), err);
        options.kv_bytes = (size_t)n_pages * model->kv->page_bytes;
        moe_model_close(model);
    }
    assert_ok(moe_model_open(engine, path, &options, &model, &err), err);
    assert_int_equal(model->kv->n_pages_max, n_pages);
    return model;
}

static moe_scheduler *open_scheduler(moe_model *model, moe_scheduler_options options)
{
    moe_scheduler *scheduler;
    moe_error err = {0};

    assert_ok(moe_scheduler_create(model, &options, &scheduler, &err), err);
    return scheduler;
}

static moe_seq *add(moe_scheduler *scheduler, moe_request request)
{
    moe_error err = {0};
    moe_seq *seq;

    assert_ok(moe_scheduler_add(scheduler, &request, &seq, &err), err);
    return seq;
}

static bool step(moe_scheduler *scheduler)
{
    moe_error err = {0};
    bool busy;

    assert_ok(moe_scheduler_step(scheduler, &busy, &err), err);
    return busy;
}

static void run(moe_scheduler *scheduler)
{
    while (step(scheduler))
        ;
}

static moe_counters counters_of(const moe_model *model)
{
    moe_counters counters;

    moe_model_counters(model, &counters);
    return counters;
}

/* Frees a scheduler and sees that nothing of its sequences is left. */
static void close_scheduler(moe_scheduler *scheduler, const moe_model *model)
{
    moe_counters c;

    moe_scheduler_free(scheduler);
    c = counters_of(model);
    assert_int_equal(c.schedulers + c.sequences + c.waiting + c.running + c.kv_pages_used, 0);
    assert_int_equal(model->prefixes->n_bulk_held, 0);
    assert_int_equal(model->prefixes->n_nodes, model->prefixes->n_idle);
    assert_int_equal(model->kv->n_used, model->prefixes->n_idle);
}

static outcome take(moe_seq *seq)
{
    outcome out = {0};
    moe_token token;
    const float *embedding;
    int n_embd;

    assert_true(moe_seq_done(seq));
    assert_null(moe_seq_error(seq));
    while (moe_seq_next(seq, &token)) {
        assert_true(out.n < MAX_TOKENS_OUT);
        out.ids[out.n] = token.id;
        out.logprobs[out.n++] = token.logprob;
    }
    embedding = moe_seq_embedding(seq, &n_embd);
    if (embedding != NULL)
        memcpy(out.embedding, embedding, sizeof(float) * (size_t)n_embd);
    out.prompt = moe_seq_usage(seq)->prompt_tokens;
    out.cached = moe_seq_usage(seq)->cached_tokens;
    out.generated = moe_seq_usage(seq)->generated_tokens;
    return out;
}

/* Equal up to who computed what. */
static void assert_same(const outcome *a, const outcome *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->ids, b->ids, sizeof(a->ids));
    assert_memory_equal(a->logprobs, b->logprobs, sizeof(a->logprobs));
    assert_memory_equal(a->embedding, b->embedding, sizeof(a->embedding));
    assert_int_equal(a->prompt, b->prompt);
    assert_int_equal(a->generated, b->generated);
}

static outcome run_alone(moe_model *model, moe_request request, int chunk)
{
    moe_scheduler *scheduler =
        open_scheduler(model, (moe_scheduler_options){.max_step_tokens = chunk});
    moe_seq *seq = add(scheduler, request);
    outcome out;

    run(scheduler);
    out = take(seq);
    close_scheduler(scheduler, model);
    return out;
}

/* Forgets all idle pages, as if memory had been needed. */
static void forget_prefixes(moe_model *model)
{
    moe_kv_lease lease = {.owner = &lease};
    moe_error err = {0};

    assert_ok(moe_kv_lease_open(model->prefixes, NULL, 0, model->kv->n_pages_max, &lease, &err),
              err);
    moe_kv_lease_close(model->prefixes, &lease);
    assert_int_equal(model->prefixes->n_nodes, 0);
}

/* --- shared beginnings
 * ----------------------------------------------------------------------------- */

/* A model that keeps pages, and one that never does. */
typedef struct pair {
    moe_engine *engine;
    moe_model *model, *cold;
} pair;

static pair open_pair(const char *path)
{
    moe_engine *engine = open_engine(1, "auto");
    const moe_model_options options = {.kv_bytes = (size_t)64 << 20, .kv_idle_bytes = 1};
    pair p = {engine, open_model(engine, path), NULL};
    moe_error err = {0};

    assert_ok(moe_model_open(engine, path, &options, &p.cold, &err), err);
    assert_int_equal(p.cold->prefixes->n_idle_max, 0);
    return p;
}

static void close_pair(pair *p)
{
    moe_model_close(p->model);
    moe_model_close(p->cold);
    moe_engine_free(p->engine);
}

static void set_pooling(pair *p, moe_pooling pooling)
{
    p->model->spec.pooling = p->cold->spec.pooling = pooling;
}

static void check_warm_bits(const char *path)
{
    static const int chunks[] = {512, 64, 37};
    static const moe_task tasks[] = {MOE_TASK_GENERATE, MOE_TASK_NEXT, MOE_TASK_SCORE,
                                     MOE_TASK_EMBED};
    pair p = open_pair(path);
    const int n = p.cold->info.n_ctx < 320 ? p.cold->info.n_ctx - 16 : 300;
    const int head = n * 2 / 3; /* as long as this the prompts are equal */
    int32_t first[300], second[300];

    fill_ids(first, n, p.cold->info.n_vocab, 1);
    fill_ids(second, n, p.cold->info.n_vocab, 2);
    memcpy(second, first, sizeof(int32_t) * (size_t)head);
    set_pooling(&p, MOE_POOLING_LAST);
    for (int k = 0; k < 4; k++) {
        moe_request r = request_of(tasks[k], second, (size_t)n, 8);
        outcome want, got;

        r.score_from = (size_t)head;
        want = run_alone(p.cold, r, 512);
        assert_int_equal(want.cached, 0);
        for (int i = 0; i < 3; i++) {
            forget_prefixes(p.model);
            run_alone(p.model, request_of(MOE_TASK_NEXT, first, (size_t)n, 0), chunks[i]);
            got = run_alone(p.model, r, chunks[(i + 1) % 3]);
            assert_same(&want, &got);
            assert_int_equal(got.cached, (tasks[k] == MOE_TASK_SCORE ? head - 1 : head) /
                                             MOE_KV_PAGE * MOE_KV_PAGE);
            assert_true(got.cached > 0);
        }
    }
    close_pair(&p);
}

static void test_a_warm_beginning_changes_no_bit(void **state)
{
    (void)state;
    check_warm_bits(POCKET);
}

static void test_nor_does_it_in_other_families(void **state)
{
    (void)state;
    need(shared_path("fixtures"));
    check_warm_bits(shared_path("fixtures/deepseek_v3/hf"));
    check_warm_bits(shared_path("fixtures/llama/hf"));
    check_warm_bits(shared_path("fixtures/qwen3_moe_quant/model-q5_k_m.gguf"));
}

static void test_what_must_be_computed_is_not_taken_from_the_cache(void **state)
{
    pair p = open_pair(POCKET);
    int32_t ids[300];
    moe_request next, score, embed;
    outcome a, b;

    (void)state;
    fill_ids(ids, 300, p.cold->info.n_vocab, 3);
    next = request_of(MOE_TASK_NEXT, ids, 256, 0);
    run_alone(p.model, next, 512);
    assert_int_equal(run_alone(p.model, next, 512).cached, 192); /* the last token has logits */
    next.n_prompt = 257;
    assert_int_equal(run_alone(p.model, next, 512).cached, 192); /* nobody needed page 4 yet */
    assert_int_equal(run_alone(p.model, next, 512).cached, 256);

    score = request_of(MOE_TASK_SCORE, ids, 257, 0);
    for (size_t from = 1; from <= 257; from += 32) {
        score.score_from = from;
        a = run_alone(p.model, score, 512);
        b = run_alone(p.cold, score, 512);
        assert_same(&a, &b);
        assert_int_equal(a.n, 257 - from);
        assert_int_equal(a.cached, (from - 1) / MOE_KV_PAGE * MOE_KV_PAGE);
    }

    embed = request_of(MOE_TASK_EMBED, ids, 300, 0);
    for (moe_pooling pooling = MOE_POOLING_MEAN; pooling <= MOE_POOLING_LAST; pooling++) {
        set_pooling(&p, pooling);
        a = run_alone(p.model, embed, 512);
        b = run_alone(p.cold, embed, 512);
        assert_same(&a, &b);
        assert_int_equal(a.cached, pooling == MOE_POOLING_LAST ? 256 : 0);
    }
    close_pair(&p);
}

static void test_generated_tokens_are_never_shared(void **state)
{
    pair p = open_pair(POCKET);
    int32_t ids[300];
    moe_request next;
    outcome a, b;

    (void)state;
    fill_ids(ids, 100, p.cold->info.n_vocab, 4);
    a = run_alone(p.model, request_of(MOE_TASK_GENERATE, ids, 100, 150), 512);
    memcpy(ids + 100, a.ids, sizeof(int32_t) * 150);
    next = request_of(MOE_TASK_NEXT, ids, 250, 0);
    a = run_alone(p.model, next, 512);
    b = run_alone(p.cold, next, 512);
    assert_same(&a, &b);
    assert_int_equal(a.cached, 64);
    close_pair(&p);
}

static void test_equal_beginnings_at_the_same_time_are_computed_once(void **state)
{
    enum { N = 5, HEAD = 200, LEN = 230 };
    pair p = open_pair(POCKET);
    int32_t ids[N][LEN];

    (void)state;
    for (int chunk = 16; chunk <= 256; chunk *= 4) {
        moe_scheduler *s =
            open_scheduler(p.model, (moe_scheduler_options){.max_step_tokens = chunk});
        moe_seq *seqs[N];
        int64_t cached = 0;

        for (int i = 0; i < N; i++) {
            fill_ids(ids[i], LEN, p.cold->info.n_vocab, (uint32_t)(chunk + 100 * i));
            memcpy(ids[i], ids[0], sizeof(int32_t) * HEAD);
            seqs[i] = add(s, request_of(MOE_TASK_GENERATE, ids[i], LEN, 3));
        }
        step(s);
        if (chunk > LEN) /* all got in */
            assert_int_equal(counters_of(p.model).kv_pages_used, 3 + N);
        run(s);
        for (int i = 0; i < N; i++) {
            const outcome got = take(seqs[i]);
            const outcome want =
                run_alone(p.cold, request_of(MOE_TASK_GENERATE, ids[i], LEN, 3), 512);

            assert_same(&want, &got);
            cached += got.cached;
        }
        assert_int_equal(cached, (N - 1) * 192);
        close_scheduler(s, p.model);
    }
    close_pair(&p);
}

/* Prompts that begin alike, all in one step or in many, without pages that could be shared: each has
 * the bits that it has alone, and what they have in common is computed once. */
static void check_shared_rows(const char *path)
{
    enum { N = 7, LEN = 40 };
    static const moe_task tasks[] = {MOE_TASK_GENERATE, MOE_TASK_NEXT, MOE_TASK_SCORE,
                                     MOE_TASK_EMBED};
    /* Whose first tokens a prompt has, how many, and how many tokens it has in all. */
    static const int like[N] = {0, 0, 1, 0, 1, 4, 6}, same[N] = {0, 39, 40, 20, 30, 35, 0},
                     len[N] = {40, 40, 40, 20, 38, 40, 40};
    static const int n_rows = 40 + 1 + 0 + 0 + 8 + 5 + 40;
    pair p = open_pair(path);
    int32_t ids[N][LEN];

    for (int i = 0; i < N; i++) {
        fill_ids(ids[i], LEN, p.cold->info.n_vocab, (uint32_t)(i + 7));
        memcpy(ids[i], ids[like[i]], sizeof(int32_t) * (size_t)same[i]);
    }
    for (int k = 0; k < 4; k++)
        for (int chunk = 16; chunk <= 1024; chunk *= 4) {
            moe_scheduler *s =
                open_scheduler(p.model, (moe_scheduler_options){.max_step_tokens = chunk});
            moe_seq *seqs[N];

            for (int i = 0; i < N; i++)
                seqs[i] = add(s, request_of(tasks[k], ids[i], (size_t)len[i], 3));
            step(s);
            if (chunk == 1024)
                assert_int_equal(s->n_rows, n_rows);
            run(s);
            for (int i = 0; i < N; i++) {
                const outcome got = take(seqs[i]);
                const outcome want =
                    run_alone(p.cold, request_of(tasks[k], ids[i], (size_t)len[i], 3), 512);

                assert_same(&want, &got);
            }
            close_scheduler(s, p.model);
        }
    close_pair(&p);
}

static void test_rows_that_prompts_of_a_step_share_are_computed_once(void **state)
{
    (void)state;
    check_shared_rows(POCKET);
}

static void test_and_so_they_are_in_other_families(void **state)
{
    (void)state;
    need(shared_path("fixtures"));
    check_shared_rows(shared_path("fixtures/llama/hf"));
    check_shared_rows(shared_path("fixtures/qwen3_moe_quant/model-q5_k_m.gguf"));
}

/* The one that computes the common pages goes, at every possible step. */
static void test_followers_go_on_when_the_writer_is_freed(void **state)
{
    enum { LEN = 140 };
    pair p = open_pair(POCKET);
    int32_t ids[LEN];
    moe_request r = request_of(MOE_TASK_GENERATE, ids, LEN, 4);

    (void)state;
    for (int steps = 0; steps < 9; steps++) {
        moe_scheduler *s = open_scheduler(p.model, (moe_scheduler_options){.max_step_tokens = 20});
        moe_seq *seqs[3];
        outcome want, got;

        fill_ids(ids, LEN, p.cold->info.n_vocab, (uint32_t)steps);
        want = run_alone(p.cold, r, 512);
        for (int i = 0; i < 3; i++)
            seqs[i] = add(s, r);
        for (int i = 0; i < steps; i++)
            step(s);
        moe_seq_free(seqs[0]);
        run(s);
        for (int i = 1; i < 3; i++) {
            got = take(seqs[i]);
            assert_same(&want, &got);
        }
        close_scheduler(s, p.model);
    }
    close_pair(&p);
}

static void test_two_schedulers_of_a_model_share_and_never_wait_for_each_other(void **state)
{
    enum { LEN = 200 };
    pair p = open_pair(POCKET);
    int32_t ids[LEN];
    moe_request r = request_of(MOE_TASK_GENERATE, ids, LEN, 4);

    (void)state;
    for (int steps = 1; steps < 12; steps++) {
        moe_scheduler *a = open_scheduler(p.model, (moe_scheduler_options){.max_step_tokens = 20});
        moe_scheduler *b = open_scheduler(p.model, (moe_scheduler_options){.max_step_tokens = 12});
        moe_seq *in_a, *in_b;
        outcome want, got;

        fill_ids(ids, LEN, p.cold->info.n_vocab, (uint32_t)(steps + 50));
        want = run_alone(p.cold, r, 512);
        in_a = add(a, r);
        in_b = add(b, r);
        for (int i = 0; i < steps; i++)
            step(a);
        for (int i = 0; i < 40; i++)
            step(i % 3 == 0 ? a : b);
        if (steps % 2) {
            run(b); /* while a rests */
            got = take(in_b);
            assert_same(&want, &got);
            assert_true(got.cached > 0);
        }
        run(a);
        run(b);
        got = take(in_a);
        assert_same(&want, &got);
        moe_scheduler_free(a);
        close_scheduler(b, p.model);
    }
    close_pair(&p);
}

static void test_idle_pages_go_by_age_when_memory_is_needed(void **state)
{
    moe_engine *engine = open_engine(1, "auto");
    moe_model *model = open_with_pages(engine, POCKET, 16, 0);
    int32_t ids[8][257];

    (void)state;
    for (int i = 0; i < 8; i++)
        fill_ids(ids[i], 257, model->info.n_vocab, (uint32_t)i + 9);
    for (int i = 0; i < 3; i++) /* 4 shareable pages each, and one that is not */
        run_alone(model, request_of(MOE_TASK_NEXT, ids[i], 257, 0), 512);
    assert_int_equal(counters_of(model).kv_pages_cached, 12);
    assert_int_equal(run_alone(model, request_of(MOE_TASK_NEXT, ids[0], 257, 0), 512).cached, 256);
    run_alone(model, request_of(MOE_TASK_NEXT, ids[3], 257, 0), 512);
    /* 17 pages were wanted: the last one of prompt 1, unused for longest, made room. */
    assert_int_equal(counters_of(model).kv_pages_cached, 15);
    assert_int_equal(run_alone(model, request_of(MOE_TASK_NEXT, ids[0], 257, 0), 512).cached, 256);
    assert_int_equal(run_alone(model, request_of(MOE_TASK_NEXT, ids[2], 257, 0), 512).cached, 256);
    assert_int_equal(run_alone(model, request_of(MOE_TASK_NEXT, ids[1], 257, 0), 512).cached, 192);
    /* A sequence that needs all of the cache gets all of it. */
    assert_int_equal(run_alone(model, request_of(MOE_TASK_GENERATE, ids[7], 257, 768), 512).n, 768);
    assert_true(counters_of(model).kv_pages_cached <= 4);
    moe_model_close(model);
    moe_engine_free(engine);
}

static void test_many_prompts_in_little_memory_stay_right(void **state)
{
    enum { N = 32 };
    pair p = open_pair(POCKET);
    moe_model *model = open_with_pages(p.engine, POCKET, 16, 0);
    moe_scheduler *s = open_scheduler(model, (moe_scheduler_options){.max_step_tokens = 200});
    static int32_t ids[N][300];
    moe_request requests[N];
    moe_seq *seqs[N];
    uint32_t x = 77;

    (void)state;
    for (int i = 0; i < N; i++) {
        int from = i == 0 ? -1 : (int)((x = x * 1664525u + 1013904223u) >> 8) % i;

        fill_ids(ids[i], 300, model->info.n_vocab, (uint32_t)i + 500);
        if (from >= 0)
            memcpy(ids[i], ids[from], sizeof(int32_t) * (x >> 9) % 300);
        requests[i] =
            request_of(i % 5 ? MOE_TASK_NEXT : MOE_TASK_GENERATE, ids[i], 70 + (x >> 12) % 230, 6);
        requests[i].group = (uint32_t)i % 7;
        requests[i].bulk = i % 3 == 0;
        seqs[i] = add(s, requests[i]);
    }
    for (int i = 0; step(s); i++)
        if (i % 4 == 0 && i / 4 < N && i % 3 == 0) {
            moe_seq_free(seqs[i / 4]); /* somebody gives up */
            seqs[i / 4] = NULL;
        }
    for (int i = 0; i < N; i++)
        if (seqs[i] != NULL) {
            const outcome got = take(seqs[i]), want = run_alone(p.cold, requests[i], 512);

            assert_same(&want, &got);
        }
    close_scheduler(s, model);
    assert_true(counters_of(model).prefix_hits > 0);
    moe_model_close(model);
    close_pair(&p);
}

/* --- turns
 * ----------------------------------------------------------------------------------------- */

typedef struct pocket {
    moe_engine *engine;
    moe_model *model;
    uint32_t seed;
} pocket;

static int open_pocket(void **state)
{
    pocket *p = calloc(1, sizeof(*p));

    p->engine = open_engine(1, "auto");
    p->model = open_model(p->engine, POCKET);
    p->seed = 1000;
    *state = p;
    return 0;
}

static int close_pocket(void **state)
{
    pocket *p = *state;

    moe_model_close(p->model);
    moe_engine_free(p->engine);
    free(p);
    return 0;
}

/* A request of n tokens that no other begins with. */
static moe_request fresh(pocket *p, moe_task task, int n, int max_tokens, uint32_t group, bool bulk)
{
    static int32_t ids[1024];
    moe_request r = request_of(task, ids, (size_t)n, max_tokens);

    fill_ids(ids, n, p->model->info.n_vocab, p->seed++);
    r.group = group;
    r.bulk = bulk;
    return r;
}

static int steps_to_first(moe_scheduler *s, moe_seq *seq)
{
    moe_token token;
    int steps = 0;

    while (!moe_seq_next(seq, &token)) {
        assert_true(step(s));
        assert_true(s->n_rows <= s->max_step_tokens);
        assert_true(++steps < 1000);
    }
    return steps;
}

static void test_somebody_waiting_is_answered_within_three_steps_under_bulk_load(void **state)
{
    pocket *p = *state;

    for (int budget = 64; budget <= 256; budget *= 4) {
        moe_scheduler *s =
            open_scheduler(p->model, (moe_scheduler_options){.max_step_tokens = budget});

        for (int i = 0; i < 80; i++)
            add(s, fresh(p, i % 2 ? MOE_TASK_GENERATE : MOE_TASK_EMBED, 400, 100, (uint32_t)i % 5,
                         true));
        for (int round = 0; round < 4; round++) {
            const moe_request r = fresh(p, MOE_TASK_GENERATE, budget / 2, 4, 99, false);

            for (int i = 0; i < 5; i++)
                step(s);
            assert_true(s->n_running > 1);
            assert_true(steps_to_first(s, add(s, r)) <= 3);
        }
        close_scheduler(s, p->model);
    }
}

/* Nor does somebody of the same group who has much to read. */
static void test_nor_does_a_long_prompt_of_the_same_group_keep_him_waiting(void **state)
{
    pocket *p = *state;
    moe_scheduler *s = open_scheduler(p->model, (moe_scheduler_options){.max_step_tokens = 64});
    moe_seq *long_one[3], *seq;

    for (int i = 0; i < 3; i++)
        long_one[i] = add(s, fresh(p, MOE_TASK_GENERATE, 900, 4, 1, false));
    step(s);
    seq = add(s, fresh(p, MOE_TASK_GENERATE, 60, 4, 1, false));
    assert_true(steps_to_first(s, seq) <= 5); /* four have a step each in turn */
    while (!moe_seq_done(seq))
        step(s);
    for (int i = 0; i < 3; i++)
        assert_in_range(moe_seq_prompt_read(long_one[i]), 64, 256);
    run(s);
    close_scheduler(s, p->model);
}

/* The page that the interactive request needs next is in the hands of a bulk one. */
static void test_a_bulk_writer_does_not_hold_an_interactive_follower_up(void **state)
{
    pocket *p = *state;
    moe_scheduler *s = open_scheduler(p->model, (moe_scheduler_options){.max_step_tokens = 256});
    moe_request r = fresh(p, MOE_TASK_GENERATE, 200, 4, 1, true);
    static int32_t ids[200];
    moe_seq *writer;

    memcpy(ids, r.prompt, sizeof(ids));
    for (int i = 0; i < 6; i++)
        add(s, fresh(p, MOE_TASK_EMBED, 900, 0, 2 + (uint32_t)i, true));
    r.prompt = ids;
    writer = add(s, r);
    step(s);
    assert_int_equal(writer->state, MOE_SEQ_PROMPT);
    assert_int_equal(writer->n_in_kv, 0);
    r.bulk = false;
    assert_true(steps_to_first(s, add(s, r)) <= 3);
    close_scheduler(s, p->model);
}

static void test_bulk_work_goes_on_under_interactive_load(void **state)
{
    pocket *p = *state;
    moe_scheduler *s =
        open_scheduler(p->model, (moe_scheduler_options){.max_step_tokens = 128, .max_seqs = 8});
    moe_seq *bulk;
    int steps = 0;

    /* Interactive requests are always waiting, in several groups, for places and for rows. */
    for (int i = 0; i < 120; i++)
        add(s, fresh(p, MOE_TASK_NEXT, 150, 0, (uint32_t)i % 3, false));
    bulk = add(s, fresh(p, MOE_TASK_EMBED, 150, 0, 7, true));
    while (!moe_seq_done(bulk) && ++steps < 1000) {
        step(s);
        add(s, fresh(p, MOE_TASK_NEXT, 150, 0, (uint32_t)steps % 3, false));
    }
    assert_true(s->n_waiting > 100);
    assert_true(steps < 60);
    close_scheduler(s, p->model);
}

static void test_groups_share_the_rows_of_a_step(void **state)
{
    pocket *p = *state;
    moe_scheduler *s = open_scheduler(p->model, (moe_scheduler_options){.max_step_tokens = 128});
    moe_seq *a[4], *b[2];
    int64_t rows_a = 0, rows_b = 0;

    /* One asks for a lot at once, the other for less: both advance alike. */
    for (int i = 0; i < 4; i++)
        a[i] = add(s, fresh(p, MOE_TASK_EMBED, 1000, 0, 1, false));
    for (int i = 0; i < 2; i++)
        b[i] = add(s, fresh(p, MOE_TASK_EMBED, 450, 0, 2, false));
    while (!moe_seq_done(b[1]))
        step(s);
    for (int i = 0; i < 4; i++)
        rows_a += (int64_t)a[i]->n_in_kv;
    for (int i = 0; i < 2; i++)
        rows_b += (int64_t)b[i]->n_in_kv;
    assert_int_equal(rows_b, 900);
    assert_true(rows_a >= 900 - 128 && rows_a <= 900 + 128);
    close_scheduler(s, p->model);
}

static void test_encoders_share_steps_too(void **state)
{
    moe_engine *engine = open_engine(1, "auto");
    moe_model *model;
    moe_scheduler *s;
    moe_seq *bulk[40], *seq;
    int32_t ids[60];
    size_t lengths[3] = {1};
    int n, n_bulk_done = 0;
    outcome want[3], got;

    (void)state;
    need(shared_path("fixtures"));
    model = open_model(engine, shared_path("fixtures/bert/hf"));
    n = model->info.n_ctx < 60 ? model->info.n_ctx : 60;
    lengths[1] = (size_t)n / 2;
    lengths[2] = (size_t)n;
    fill_ids(ids, n, model->info.n_vocab, 5);
    for (int i = 0; i < 3; i++)
        want[i] = run_alone(model, request_of(MOE_TASK_EMBED, ids, lengths[i], 0), 512);
    s = open_scheduler(model, (moe_scheduler_options){.max_step_tokens = n + n / 2});
    for (int i = 0; i < 40; i++) {
        moe_request r = request_of(MOE_TASK_EMBED, ids, lengths[i % 3], 0);

        r.bulk = true;
        r.group = (uint32_t)i % 4;
        bulk[i] = add(s, r);
    }
    step(s);
    for (int i = 0; i < 30; i++) { /* a stream of interactive ones that fill the steps alone */
        moe_request r = request_of(MOE_TASK_EMBED, ids, (size_t)n, 0);

        r.group = 8;
        for (int k = 0; k < 4; k++)
            add(s, r);
        r.group = 9;
        seq = add(s, r);
        for (int k = 0; k < 4; k++) /* two of the other group, one of bulk work, this one */
            step(s);
        assert_true(moe_seq_done(seq));
    }
    assert_true(s->rings[0].n_prompts > 0);
    for (int i = 0; i < 40; i++)
        n_bulk_done += moe_seq_done(bulk[i]);
    assert_true(n_bulk_done >= 5);
    run(s);
    for (int i = 0; i < 40; i++) {
        got = take(bulk[i]);
        assert_same(&want[i % 3], &got);
    }
    close_scheduler(s, model);
    moe_model_close(model);
    moe_engine_free(engine);
}

/* --- short steps
 * ----------------------------------------------------------------------------------- */

/* A clock by which a step takes so long for each of its rows, and that stands still between steps
 * but for what the last one took once more. */
static struct {
    const moe_scheduler *scheduler;
    double seconds, row_seconds;
} fake;

static double fake_now(void)
{
    return fake.seconds += fake.row_seconds * fake.scheduler->n_rows;
}

/* Steps are to take a quarter of a second, which is 64 rows. */
static moe_scheduler *open_hurried(moe_model *model, int max_step_tokens)
{
    moe_scheduler *s = open_scheduler(
        model,
        (moe_scheduler_options){.max_step_tokens = max_step_tokens, .step_seconds = 0.25});

    s->now = fake_now;
    fake.scheduler = s;
    fake.seconds = 0;
    fake.row_seconds = 1.0 / 256;
    return s;
}

static void test_steps_are_short_while_somebody_waits_for_their_end(void **state)
{
    pair p = open_pair(POCKET);
    moe_scheduler *s;
    static int32_t ids[1000];
    const moe_request long_one = request_of(MOE_TASK_GENERATE, ids, 1000, 4);
    moe_request short_one = request_of(MOE_TASK_GENERATE, ids + 500, 10, 4);
    outcome want[2], got;
    moe_seq *a, *b;
    size_t rest;

    (void)state;
    fill_ids(ids, 1000, p.cold->info.n_vocab, 3);
    short_one.group = 1;
    want[0] = run_alone(p.cold, long_one, 512);
    want[1] = run_alone(p.cold, short_one, 512);

    s = open_hurried(p.cold, 256);
    a = add(s, long_one);
    step(s);
    assert_int_equal(s->n_rows, 256); /* alone */
    b = add(s, short_one);
    for (int n = 0; !moe_seq_done(b); n++) {
        assert_true(n < 8);
        step(s);
        assert_int_equal(s->n_rows, 64);
    }
    step(s);
    assert_int_equal(s->n_rows, 64); /* for somebody who asks again */
    fake.seconds += 60;
    rest = a->n_prompt - a->n_in_kv;
    assert_true(rest > 64);
    step(s);
    assert_int_equal(s->n_rows, rest < 256 ? rest : 256); /* alone again */
    run(s);
    got = take(a);
    assert_same(&want[0], &got);
    got = take(b);
    assert_same(&want[1], &got);
    close_scheduler(s, p.cold);
    close_pair(&p);
}

static void test_and_get_shorter_as_rows_take_longer(void **state)
{
    pocket *p = *state;
    moe_scheduler *s = open_hurried(p->model, 512);
    int before;

    add(s, fresh(p, MOE_TASK_EMBED, 1000, 0, 1, false));
    moe_scheduler_hurry(s);
    step(s);
    assert_int_equal(s->n_rows, 32); /* how long they take is not known yet */
    step(s);
    assert_int_equal(s->n_rows, 64);
    fake.row_seconds = 1.0 / 192;
    step(s);
    before = s->n_rows;
    for (int i = 0; i < 3; i++, before = s->n_rows) {
        step(s);
        assert_in_range(s->n_rows, 48, before - 1);
    }
    fake.row_seconds = 1.0 / 32;
    step(s);
    for (int i = 0; i < 3; i++) {
        moe_scheduler_hurry(s);
        step(s);
        assert_int_equal(s->n_rows, 32); /* the least */
    }
    fake.seconds += 60;
    step(s);
    assert_int_equal(s->n_rows, 512);
    close_scheduler(s, p->model);
}

static void test_bulk_work_does_not_hurry(void **state)
{
    pocket *p = *state;
    moe_scheduler *s = open_hurried(p->model, 256);
    moe_seq *seq;

    assert_int_equal(moe_scheduler_work(s), MOE_WORK_NONE);
    for (int i = 0; i < 4; i++) /* some decode while the others' prompts are read */
        add(s, fresh(p, MOE_TASK_GENERATE, i % 2 ? 1000 : 200, 20, (uint32_t)i, true));
    assert_int_equal(moe_scheduler_work(s), MOE_WORK_BULK);
    for (int i = 0; i < 5; i++) {
        step(s);
        assert_int_equal(s->n_rows, 256);
    }
    assert_true(s->n_decode > 0);
    seq = add(s, fresh(p, MOE_TASK_GENERATE, 10, 4, 9, false));
    assert_int_equal(moe_scheduler_work(s), MOE_WORK_INTERACTIVE);
    step(s);
    assert_int_equal(s->n_rows, 64);
    moe_seq_pause_at(seq, 1); /* it rests, and nobody waits for it */
    fake.seconds += 60;
    step(s);
    assert_int_equal(s->n_rows, 255); /* its row stays empty */
    assert_int_equal(moe_scheduler_work(s), MOE_WORK_BULK);
    run(s);
    assert_false(moe_seq_done(seq));
    assert_int_equal(moe_scheduler_work(s), MOE_WORK_NONE);
    close_scheduler(s, p->model);
}

static void test_encoders_read_fewer_texts_in_a_hurry(void **state)
{
    moe_engine *engine = open_engine(1, "auto");
    moe_model *model;
    moe_scheduler *s;
    moe_request r;
    moe_seq *seqs[60];
    int32_t ids[60];
    outcome want, got;

    (void)state;
    need(shared_path("fixtures"));
    model = open_model(engine, shared_path("fixtures/bert/hf"));
    fill_ids(ids, 20, model->info.n_vocab, 5);
    r = request_of(MOE_TASK_EMBED, ids, 20, 0);
    r.bulk = true;
    want = run_alone(model, r, 512);
    s = open_hurried(model, 400);
    for (int i = 0; i < 60; i++)
        seqs[i] = add(s, r);
    step(s);
    assert_int_equal(s->n_rows, 400);
    moe_scheduler_hurry(s);
    step(s);
    assert_int_equal(s->n_rows, 60); /* whole texts within 64 rows */
    fake.row_seconds = 1.0 / 32;
    step(s);
    moe_scheduler_hurry(s);
    step(s);
    assert_int_equal(s->n_rows, 20); /* within 32 */
    fake.row_seconds = 1.0 / 256;
    for (int i = 0; s->n_rows < 60; i++) {
        assert_true(i < 12);
        step(s);
    }
    run(s);
    for (int i = 0; i < 60; i++) {
        got = take(seqs[i]);
        assert_same(&want, &got);
    }
    close_scheduler(s, model);
    moe_model_close(model);
    moe_engine_free(engine);
}

/* --- admission and the queue
 * ----------------------------------------------------------------------- */

static void test_bulk_work_leaves_places_and_pages(void **state)
{
    pocket *p = *state;
    moe_scheduler *s =
        open_scheduler(p->model, (moe_scheduler_options){.max_step_tokens = 128, .max_seqs = 8});
    moe_engine *engine = open_engine(1, "auto");
    moe_model *model;

    for (int i = 0; i < 20; i++)
        add(s, fresh(p, MOE_TASK_GENERATE, 10, 100, (uint32_t)i % 2, true));
    step(s);
    assert_int_equal(moe_scheduler_running(s), 6);
    assert_int_equal(moe_scheduler_waiting(s), 14);
    assert_int_equal(steps_to_first(s, add(s, fresh(p, MOE_TASK_GENERATE, 10, 100, 9, false))), 1);
    assert_int_equal(steps_to_first(s, add(s, fresh(p, MOE_TASK_GENERATE, 10, 100, 9, false))), 1);
    assert_int_equal(moe_scheduler_running(s), 8);
    close_scheduler(s, p->model);

    model = open_with_pages(engine, POCKET, 16, 0);
    s = open_scheduler(model, (moe_scheduler_options){0});
    for (int i = 0; i < 9; i++)
        add(s, fresh(p, MOE_TASK_GENERATE, 100, 100, 1, true)); /* 4 pages */
    step(s);
    assert_int_equal(moe_scheduler_running(s), 3);
    assert_int_equal(steps_to_first(s, add(s, fresh(p, MOE_TASK_GENERATE, 100, 100, 9, false))), 1);
    assert_int_equal(counters_of(model).kv_pages_used, 16);
    moe_scheduler_free(s);

    s = open_scheduler(model, (moe_scheduler_options){0});
    add(s, fresh(p, MOE_TASK_GENERATE, 900, 4, 1, true)); /* alone it may have all */
    step(s);
    assert_int_equal(moe_scheduler_running(s), 1);
    close_scheduler(s, model);
    moe_model_close(model);
    moe_engine_free(engine);
}

static void test_small_requests_pass_large_ones_but_not_for_ever(void **state)
{
    pocket *p = *state;
    moe_engine *engine = open_engine(1, "auto");
    moe_model *model = open_with_pages(engine, POCKET, 16, 0);
    moe_scheduler *s = open_scheduler(model, (moe_scheduler_options){.max_seqs = 4});
    moe_seq *large, *next;
    int steps = 0;

    add(s, fresh(p, MOE_TASK_GENERATE, 10, 300, 1, false)); /* 5 pages for long */
    step(s);
    large = add(s, fresh(p, MOE_TASK_GENERATE, 850, 3, 2, false)); /* 14 pages */
    next = add(s, fresh(p, MOE_TASK_NEXT, 10, 0, 3, false));
    step(s);
    assert_true(moe_seq_done(next));
    assert_int_equal(large->state, MOE_SEQ_WAITING);
    /* A stream of small ones in another group, so that there is never room by itself. */
    while (!moe_seq_done(large) && ++steps < 1000) {
        if (moe_scheduler_waiting(s) < 8)
            add(s, fresh(p, MOE_TASK_GENERATE, 150, 20, 3, false));
        step(s);
    }
    assert_true(moe_seq_done(large));
    close_scheduler(s, model);
    moe_model_close(model);
    moe_engine_free(engine);
}

static void test_a_full_queue_says_so(void **state)
{
    pocket *p = *state;
    moe_scheduler *s =
        open_scheduler(p->model, (moe_scheduler_options){.max_seqs = 2, .max_waiting = 3});
    moe_request r = fresh(p, MOE_TASK_GENERATE, 5, 2, 0, false);
    moe_error err = {0};
    moe_seq *seq;

    for (int i = 0; i < 5; i++) /* two of them have places */
        add(s, r);
    assert_int_equal(moe_scheduler_add(s, &r, &seq, &err), MOE_ERR_BUSY);
    assert_null(seq);
    assert_string_equal(err.message, "too many requests are waiting");
    assert_true(err.hint[0] != '\0');
    step(s);
    assert_int_equal(moe_scheduler_add(s, &r, &seq, &err), MOE_ERR_BUSY);
    step(s);
    add(s, r);
    run(s);
    add(s, r);
    close_scheduler(s, p->model);
}

static void test_a_sequence_rests_where_it_is_told_to(void **state)
{
    pocket *p = *state;
    const moe_request whole = fresh(p, MOE_TASK_GENERATE, 10, 60, 1, false);
    const outcome want = run_alone(p->model, whole, 512);
    moe_scheduler *s = open_scheduler(p->model, (moe_scheduler_options){0});
    moe_request r = whole;
    moe_seq *resting, *other;
    outcome got;

    r.pause_at = 8;
    resting = add(s, r);
    other = add(s, fresh(p, MOE_TASK_GENERATE, 10, 40, 2, false));
    run(s);
    assert_true(moe_seq_done(other));
    assert_false(moe_seq_done(resting));
    assert_int_equal(moe_seq_usage(resting)->generated_tokens, 8);
    moe_seq_pause_at(resting, 20);
    run(s);
    assert_int_equal(moe_seq_usage(resting)->generated_tokens, 20);
    assert_false(step(s));
    moe_seq_pause_at(resting, 1000);
    run(s);
    got = take(resting);
    assert_same(&want, &got);
    close_scheduler(s, p->model);
}

static void test_but_not_where_others_wait_for_its_room(void **state)
{
    pocket *p = *state;
    moe_engine *engine = open_engine(1, "auto");
    moe_model *model = open_with_pages(engine, POCKET, 16, 0);
    moe_request r = fresh(p, MOE_TASK_GENERATE, 10, 800, 1, false); /* 13 pages */

    r.pause_at = 8;
    for (int max_seqs = 2; max_seqs >= 1; max_seqs--) { /* pages are short, then places */
        moe_scheduler *s = open_scheduler(model, (moe_scheduler_options){.max_seqs = max_seqs});
        moe_seq *resting = add(s, r), *other;

        run(s);
        assert_int_equal(moe_seq_usage(resting)->generated_tokens, 8);
        other = add(s, fresh(p, MOE_TASK_GENERATE, max_seqs == 2 ? 200 : 5, 10, 2, false));
        run(s);
        assert_true(moe_seq_done(resting));
        assert_int_equal(moe_seq_usage(resting)->generated_tokens, 800);
        assert_true(moe_seq_done(other));
        close_scheduler(s, model);
    }
    moe_model_close(model);
    moe_engine_free(engine);
}

static void test_sequences_share_what_steps_found_of_experts(void **state)
{
    enum { N = 7 };
    pocket *p = *state;
    moe_scheduler *s = open_scheduler(p->model, (moe_scheduler_options){.max_step_tokens = 64});
    moe_arena_stats before, after;
    int64_t hits = 0, misses = 0;
    moe_seq *seqs[N];

    for (int round = 0; round < 2; round++) {
        moe_arena_stats_of(p->model->arena, &before);
        for (int i = 0; i < N; i++)
            seqs[i] = add(s, fresh(p, MOE_TASK_GENERATE, 1 + 30 * i, 3 * i, 0, false));
        run(s);
        moe_arena_stats_of(p->model->arena, &after);
        hits = misses = 0;
        for (int i = 0; i < N; i++) {
            hits += moe_seq_usage(seqs[i])->expert_hits;
            misses += moe_seq_usage(seqs[i])->expert_misses;
            moe_seq_free(seqs[i]);
        }
        assert_int_equal(hits, after.hits - before.hits);
        assert_int_equal(misses, after.misses - before.misses);
        assert_true(round == 0 ? misses > 0 : misses == 0);
        assert_true(hits > 0);
    }
    close_scheduler(s, p->model);
}

static void test_changed_sequences_are_told_once(void **state)
{
    pocket *p = *state;
    moe_scheduler *s = open_scheduler(p->model, (moe_scheduler_options){.max_step_tokens = 64});
    int marks[3] = {0};
    moe_seq *seqs[3], *seq;
    moe_token token;

    for (int i = 0; i < 3; i++) {
        moe_request r = fresh(p, MOE_TASK_GENERATE, 10 + 80 * i, i == 2 ? 0 : 3, 0, false);

        r.ud = &marks[i];
        seqs[i] = add(s, r);
        assert_ptr_equal(moe_seq_ud(seqs[i]), &marks[i]);
    }
    assert_ptr_equal(moe_scheduler_next_changed(s), seqs[2]); /* nothing to generate: done */
    assert_null(moe_scheduler_next_changed(s));
    step(s);
    assert_ptr_equal(moe_scheduler_next_changed(s), seqs[0]);
    assert_null(moe_scheduler_next_changed(s));
    while (step(s))
        while ((seq = moe_scheduler_next_changed(s)) != NULL) {
            int *mark = moe_seq_ud(seq);

            while (moe_seq_next(seq, &token))
                (*mark)++;
        }
    assert_int_equal(marks[0], 3);
    assert_int_equal(marks[1], 3);
    add(s, fresh(p, MOE_TASK_GENERATE, 10, 3, 0, false));
    step(s);
    seq = add(s, fresh(p, MOE_TASK_GENERATE, 10, 3, 0, false));
    step(s);
    moe_seq_free(seq);
    assert_non_null(moe_scheduler_next_changed(s));
    assert_null(moe_scheduler_next_changed(s));
    close_scheduler(s, p->model);
}

/* Nothing here says how long it takes, but it would be felt. */
static void test_thousands_wait_without_harm(void **state)
{
    enum { N = 20000 };
    pocket *p = *state;
    moe_scheduler *s = open_scheduler(p->model, (moe_scheduler_options){0});
    moe_seq **seqs = malloc(N * sizeof(*seqs));

    for (int i = 0; i < N; i++)
        seqs[i] = add(s, fresh(p, MOE_TASK_EMBED, 1, 0, (uint32_t)i % 50, i % 2));
    for (int i = 0; i < 5; i++)
        step(s);
    assert_int_equal(counters_of(p->model).waiting, N - 5 * 64);
    for (int i = 0; i < N; i += 2)
        moe_seq_free(seqs[i]);
    step(s);
    free(seqs);
    close_scheduler(s, p->model);
}

/* --- cancellation
 * ---------------------------------------------------------------------------------- */

typedef struct cancel_at {
    int polls, at;
} cancel_at;

static bool cancelled_once(void *ud)
{
    cancel_at *c = ud;

    return c->polls++ == c->at;
}

enum { N_MIXED = 6 };

/* All tasks, a shared beginning, chunks, more scored tokens than one round of logits takes. */
static void mixed_requests(const moe_model *model, moe_request *requests)
{
    static int32_t ids[N_MIXED][100];

    for (int i = 0; i < N_MIXED; i++)
        fill_ids(ids[i], 100, model->info.n_vocab, (uint32_t)(i + 40));
    memcpy(ids[1], ids[0], 80 * sizeof(int32_t));
    memcpy(ids[5], ids[3], 8 * sizeof(int32_t));
    requests[0] = request_of(MOE_TASK_GENERATE, ids[0], 90, 3);
    requests[1] = request_of(MOE_TASK_GENERATE, ids[1], 100, 3);
    requests[2] = request_of(MOE_TASK_SCORE, ids[2], 75, 0);
    requests[3] = request_of(MOE_TASK_EMBED, ids[3], 100, 0);
    requests[4] = request_of(MOE_TASK_NEXT, ids[4], 20, 0);
    requests[5] = request_of(MOE_TASK_EMBED, ids[5], 10, 0);
    requests[1].temperature = 0.9f;
    requests[1].seed = 3;
}

static void test_a_step_cancelled_anywhere_is_repeated_without_harm(void **state)
{
    pocket *p = *state;
    moe_request requests[N_MIXED];
    outcome want[N_MIXED];
    cancel_at c = {0, 0};

    mixed_requests(p->model, requests);
    for (int i = 0; i < N_MIXED; i++)
        want[i] = run_alone(p->model, requests[i], 512);
    for (; c.polls >= c.at; c.at++) {
        moe_model *model = p->model;
        moe_scheduler *s = open_scheduler(
            model, (moe_scheduler_options){.max_step_tokens = 160, .cancel = {cancelled_once, &c}});
        moe_seq *seqs[N_MIXED];
        moe_error err = {0};
        bool busy = true;
        int n_cancelled = 0;

        forget_prefixes(model);
        c.polls = 0;
        for (int i = 0; i < N_MIXED; i++)
            seqs[i] = add(s, requests[i]);
        while (busy) {
            const moe_status status = moe_scheduler_step(s, &busy, &err);

            n_cancelled += status == MOE_ERR_CANCELLED;
            assert_true(status == MOE_OK || status == MOE_ERR_CANCELLED);
        }
        assert_int_equal(n_cancelled, c.polls > c.at);
        for (int i = 0; i < N_MIXED; i++) {
            const outcome got = take(seqs[i]);

            assert_same(&want[i], &got);
            assert_int_equal(got.cached, i == 1 ? 64 : 0);
        }
        close_scheduler(s, model);
    }
    assert_true(c.at > 30);
}

static void test_sequences_freed_at_any_step_leave_nothing(void **state)
{
    pocket *p = *state;
    moe_request requests[N_MIXED];
    outcome want[N_MIXED];

    mixed_requests(p->model, requests);
    for (int i = 0; i < N_MIXED; i++)
        want[i] = run_alone(p->model, requests[i], 512);
    for (int gone = 0; gone < N_MIXED; gone++)
        for (int steps = 0; steps < 8; steps += 1 + gone % 2) {
            moe_scheduler *s =
                open_scheduler(p->model, (moe_scheduler_options){.max_step_tokens = 48});
            moe_seq *seqs[N_MIXED];

            for (int i = 0; i < N_MIXED; i++)
                seqs[i] = add(s, requests[i]);
            for (int i = 0; i < steps; i++)
                step(s);
            moe_seq_free(seqs[gone]);
            run(s);
            for (int i = 0; i < N_MIXED; i++)
                if (i != gone) {
                    const outcome got = take(seqs[i]);

                    assert_same(&want[i], &got);
                }
            close_scheduler(s, p->model);
        }
}

#define WITH_POCKET(test) cmocka_unit_test_setup_teardown(test, open_pocket, close_pocket)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_warm_beginning_changes_no_bit),
        cmocka_unit_test(test_nor_does_it_in_other_families),
        cmocka_unit_test(test_what_must_be_computed_is_not_taken_from_the_cache),
        cmocka_unit_test(test_generated_tokens_are_never_shared),
        cmocka_unit_test(test_equal_beginnings_at_the_same_time_are_computed_once),
        cmocka_unit_test(test_rows_that_prompts_of_a_step_share_are_computed_once),
        cmocka_unit_test(test_and_so_they_are_in_other_families),
        cmocka_unit_test(test_followers_go_on_when_the_writer_is_freed),
        cmocka_unit_test(test_two_schedulers_of_a_model_share_and_never_wait_for_each_other),
        cmocka_unit_test(test_idle_pages_go_by_age_when_memory_is_needed),
        cmocka_unit_test(test_many_prompts_in_little_memory_stay_right),
        WITH_POCKET(test_somebody_waiting_is_answered_within_three_steps_under_bulk_load),
        WITH_POCKET(test_nor_does_a_long_prompt_of_the_same_group_keep_him_waiting),
        WITH_POCKET(test_a_bulk_writer_does_not_hold_an_interactive_follower_up),
        WITH_POCKET(test_bulk_work_goes_on_under_interactive_load),
        WITH_POCKET(test_groups_share_the_rows_of_a_step),
        cmocka_unit_test(test_encoders_share_steps_too),
        cmocka_unit_test(test_steps_are_short_while_somebody_waits_for_their_end),
        WITH_POCKET(test_and_get_shorter_as_rows_take_longer),
        WITH_POCKET(test_bulk_work_does_not_hurry),
        cmocka_unit_test(test_encoders_read_fewer_texts_in_a_hurry),
        WITH_POCKET(test_bulk_work_leaves_places_and_pages),
        WITH_POCKET(test_small_requests_pass_large_ones_but_not_for_ever),
        WITH_POCKET(test_a_full_queue_says_so),
        WITH_POCKET(test_a_sequence_rests_where_it_is_told_to),
        WITH_POCKET(test_but_not_where_others_wait_for_its_room),
        WITH_POCKET(test_sequences_share_what_steps_found_of_experts),
        WITH_POCKET(test_changed_sequences_are_told_once),
        WITH_POCKET(test_thousands_wait_without_harm),
        WITH_POCKET(test_a_step_cancelled_anywhere_is_repeated_without_harm),
        WITH_POCKET(test_sequences_freed_at_any_step_leave_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
