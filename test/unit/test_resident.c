/*
 * Whole models whose weights come and go: caches that are too small, shared
 * arenas, files that change, cancelling.  Runs from the repository's root.
 */
#include "golden.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

static const char POCKET[] = "share/pocket-q8_0.gguf";

/* --- a store of one arena -------------------------------------------------------------------- */

typedef struct store {
    moe_weight_store ops;
    double share; /* of what lies between least and most */
    void *arena;  /* NULL: not made yet */
    size_t size;
    int users;
} store;

static moe_status store_acquire(void *ud, const char *key, size_t least, size_t most, void **arena,
                                size_t *size, bool *fresh, moe_error *err)
{
    store *s = ud;

    (void)err;
    assert_string_equal(key, "key");
    *fresh = s->arena == NULL;
    if (*fresh) {
        s->size = least + (size_t)((double)(most - least) * s->share) / 4096 * 4096;
        s->arena = aligned_alloc(4096, s->size);
        assert_non_null(s->arena);
        memset(s->arena, 0xee, s->size);
    }
    s->users++;
    *arena = s->arena;
    *size = s->size;
    return MOE_OK;
}

static void store_ready(void *ud, const char *key)
{
    (void)ud;
    (void)key;
}

static void store_release(void *ud, const char *key)
{
    (void)key;
    ((store *)ud)->users--;
}

static store make_store(double share)
{
    return (store){.ops = {store_acquire, store_ready, store_release, NULL}, .share = share};
}

static void free_store(store *s)
{
    moe_arena_stats stats;

    assert_int_equal(s->users, 0);
    moe_arena_stats_of(s->arena, &stats);
    assert_int_equal(stats.pins, 0);
    free(s->arena);
}

static moe_model *open_in(moe_engine *engine, const char *path, store *s)
{
    moe_model *model;
    moe_error err = {0};

    s->ops.ud = s;
    assert_ok(moe_model_open(engine, path,
                             &(moe_model_options){.store = &s->ops, .store_key = "key"}, &model,
                             &err),
              err);
    return model;
}

static moe_arena_stats stats_of(const store *s)
{
    moe_arena_stats stats;

    moe_arena_stats_of(s->arena, &stats);
    return stats;
}

/* --- what a model answers -------------------------------------------------------------------- */

enum { N_PROMPT = 40, N_GENERATE = 24 };

typedef struct answer {
    float logprobs[N_PROMPT + N_GENERATE];
    int32_t ids[N_PROMPT + N_GENERATE];
} answer;

/* Log-probabilities of a prompt, and what is generated behind it. */
static void ask(moe_model *model, uint32_t seed, answer *out)
{
    int32_t prompt[N_PROMPT];
    moe_request request = {.prompt = prompt,
                           .n_prompt = N_PROMPT,
                           .score_from = 1,
                           .max_tokens = N_GENERATE,
                           .temperature = 1.0f,
                           .top_p = 1.0f,
                           .repeat_penalty = 1.0f,
                           .seed = seed,
                           .ignore_eos = true,
                           .logprobs = true};
    int n = 0;

    memset(out, 0, sizeof *out);
    for (int i = 0; i < N_PROMPT; i++) {
        seed = seed * 1664525u + 1013904223u;
        prompt[i] = (int32_t)((seed >> 8) % (uint32_t)model->spec.n_vocab);
    }
    for (int t = 0; t < 2; t++) {
        moe_scheduler *scheduler;
        moe_token token;
        moe_seq *seq;

        request.task = t == 0 ? MOE_TASK_SCORE : MOE_TASK_GENERATE;
        seq = run_request(model, &request, &scheduler);
        while (moe_seq_next(seq, &token)) {
            assert_true(n < N_PROMPT + N_GENERATE);
            out->logprobs[n] = token.logprob;
            out->ids[n++] = token.id;
        }
        moe_scheduler_free(scheduler);
    }
    assert_int_equal(n, N_PROMPT - 1 + N_GENERATE);
}

static void check_sizes(const char *path)
{
    static const double shares[] = {0.0, 0.1, 0.25, 0.6};
    moe_engine *engine = open_engine(2, "auto");
    moe_model *model = open_model(engine, path);
    answer want, got;

    ask(model, 5, &want);
    moe_model_close(model);
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        store s = make_store(shares[i]);
        moe_arena_stats stats;

        model = open_in(engine, path, &s);
        ask(model, 5, &got);
        assert_memory_equal(&got, &want, sizeof want);
        stats = stats_of(&s);
        assert_true(stats.evictions > 0);
        assert_true(stats.n_resident < stats.n_units);
        assert_true(stats.resident_bytes < s.size);
        assert_int_equal(stats.pins, model->weights.n_dense);
        assert_int_equal(stats.expert_pins, 0);
        moe_model_close(model);
        free_store(&s);
    }
    moe_engine_free(engine);
}

static void small_caches_give_the_same_bits(void **state)
{
    (void)state;
    check_sizes(POCKET);
}

static void small_caches_give_the_same_bits_in_every_family(void **state)
{
    static const char *const names[] = {"deepseek_v2_lite", "deepseek_v3", "qwen2_moe", "qwen3_moe",
                                        "mixtral"};

    (void)state;
    need(shared_path("fixtures/deepseek_v3/model.gguf"));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        check_sizes(shared_path("fixtures/%s/model.gguf", names[i]));
}

static void weights_are_loaded_when_they_are_needed_and_once(void **state)
{
    moe_engine *engine = open_engine(2, "auto");
    store s = make_store(1.0);
    moe_model *first = open_in(engine, POCKET, &s), *second;
    moe_arena_stats before, after;
    answer want, got;

    (void)state;
    assert_int_equal(stats_of(&s).n_resident, 0);
    ask(first, 5, &want);
    before = stats_of(&s);
    assert_true(before.loads > 0 && before.hits > 0 && before.misses > 0);
    assert_int_equal(before.evictions, 0);
    assert_int_equal(before.loads, before.n_resident);

    second = open_in(engine, POCKET, &s);
    assert_int_equal(s.users, 2);
    ask(second, 5, &got);
    after = stats_of(&s);
    assert_memory_equal(&got, &want, sizeof want);
    assert_int_equal(after.loads, before.loads);
    assert_int_equal(after.misses, before.misses);
    moe_model_close(first);
    ask(second, 5, &got);
    assert_memory_equal(&got, &want, sizeof want);
    moe_model_close(second);
    free_store(&s);
    moe_engine_free(engine);
}

/* --- several models at once ------------------------------------------------------------------ */

typedef struct session {
    store *store;
    answer answers[3];
} session;

static pthread_mutex_t store_mutex = PTHREAD_MUTEX_INITIALIZER;

static void *session_main(void *arg)
{
    session *s = arg;
    moe_engine *engine;
    moe_model *model;

    pthread_mutex_lock(&store_mutex);
    engine = open_engine(2, "auto");
    model = open_in(engine, POCKET, s->store);
    pthread_mutex_unlock(&store_mutex);
    for (uint32_t i = 0; i < 3; i++)
        ask(model, i, &s->answers[i]);
    pthread_mutex_lock(&store_mutex);
    moe_model_close(model);
    moe_engine_free(engine);
    pthread_mutex_unlock(&store_mutex);
    return NULL;
}

static void sessions_share_a_small_cache(void **state)
{
    enum { SESSIONS = 3 };
    store s = make_store(0.05);
    moe_engine *engine = open_engine(1, "auto");
    moe_model *model = open_model(engine, POCKET);
    session sessions[SESSIONS];
    pthread_t threads[SESSIONS];

    (void)state;
    for (int i = 0; i < SESSIONS; i++) {
        sessions[i].store = &s;
        assert_int_equal(pthread_create(&threads[i], NULL, session_main, &sessions[i]), 0);
    }
    for (int i = 0; i < SESSIONS; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t k = 0; k < 3; k++) {
        answer want;

        ask(model, k, &want);
        for (int i = 0; i < SESSIONS; i++)
            assert_memory_equal(&sessions[i].answers[k], &want, sizeof want);
    }
    assert_true(stats_of(&s).evictions > 0);
    free_store(&s);
    moe_model_close(model);
    moe_engine_free(engine);
}

/* --- prewarming ------------------------------------------------------------------------------ */

static void prewarming_takes_the_hottest_as_far_as_there_is_room(void **state)
{
    moe_engine *engine = open_engine(2, "auto");
    store s = make_store(0.25);
    moe_model *model = open_in(engine, POCKET, &s);
    const int n_units = model->weights.n_units, n_dense = model->weights.n_dense;
    uint16_t *heat = calloc((size_t)n_units, sizeof *heat);
    const int n_frames = moe_cache_frames(&model->resident->cache);
    moe_error err = {0};
    moe_arena_unit unit;
    size_t n_bytes;
    int n;

    (void)state;
    for (int u = n_dense; u < n_units; u++)
        heat[u] = (uint16_t)(u * 7919 % 4099);
    assert_true(moe_arena_remember(s.arena, heat, n_units));

    /* piece by piece */
    assert_ok(moe_model_prewarm(model, 1, NULL, &n, &n_bytes, &err), err);
    assert_int_equal(n, n_dense);
    assert_ok(moe_model_prewarm(model, 1, NULL, &n, &n_bytes, &err), err);
    assert_int_equal(n, 1);
    assert_ok(moe_model_prewarm(model, 2 * n_bytes, NULL, &n, &n_bytes, &err), err);
    assert_int_equal(n, 2);

    assert_ok(moe_model_prewarm(model, 0, NULL, &n, &n_bytes, &err), err);
    assert_int_equal(n, n_frames - 3);
    assert_int_equal(stats_of(&s).n_resident, n_dense + n_frames);
    for (int u = n_dense; u < n_units; u++) {
        int hotter = 0;

        for (int v = n_dense; v < n_units; v++)
            hotter += heat[v] > heat[u];
        assert_true(moe_arena_unit_of(s.arena, u, &unit));
        assert_int_equal(unit.resident, hotter < n_frames);
    }
    assert_int_equal(stats_of(&s).evictions, 0);
    assert_ok(moe_model_prewarm(model, 0, NULL, &n, &n_bytes, &err), err);
    assert_int_equal(n, 0);
    free(heat);
    moe_model_close(model);
    free_store(&s);
    moe_engine_free(engine);
}

/* --- what goes wrong ------------------------------------------------------------------------- */

/* A copy of pocket in a temporary file, whose name comes back. */
static const char *copy_pocket(void)
{
    static char path[] = "/tmp/moe_test_resident_XXXXXX";
    const int from = open(POCKET, O_RDONLY);
    int to;
    char buffer[65536];
    ssize_t n;

    strcpy(path + sizeof path - 7, "XXXXXX");
    to = mkstemp(path);
    assert_true(from >= 0 && to >= 0);
    while ((n = read(from, buffer, sizeof buffer)) > 0)
        assert_int_equal(write(to, buffer, (size_t)n), n);
    close(from);
    close(to);
    return path;
}

/* Runs a short prompt and returns how that ended. */
static moe_status try(moe_model *model, const moe_cancel *cancel, moe_error *err)
{
    const int32_t prompt[4] = {5, 6, 7, 8};
    const moe_request request = {
        .task = MOE_TASK_NEXT, .prompt = prompt, .n_prompt = 4, .n_top = 1};
    moe_scheduler_options options = {.cancel = cancel != NULL ? *cancel : (moe_cancel){0}};
    moe_scheduler *scheduler;
    moe_status status = MOE_OK;
    moe_seq *seq;
    bool busy = true;

    assert_ok(moe_scheduler_create(model, &options, &scheduler, err), *err);
    assert_ok(moe_scheduler_add(scheduler, &request, &seq, err), *err);
    while (busy && status == MOE_OK)
        status = moe_scheduler_step(scheduler, &busy, err);
    moe_scheduler_free(scheduler);
    return status;
}

static void a_file_that_is_cut_short_ends_the_step_alone(void **state)
{
    const char *path = copy_pocket();
    moe_engine *engine = open_engine(2, "auto");
    store s = make_store(1.0);
    moe_model *model = open_in(engine, path, &s);
    moe_error err = {0};
    struct stat st;

    (void)state;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size / 2), 0);
    assert_int_equal(try(model, NULL, &err), MOE_ERR_IO);
    assert_non_null(strstr(err.message, "has changed while the model is open"));
    assert_true(err.hint[0] != '\0');
    assert_int_equal(stats_of(&s).n_resident, 0);
    assert_int_equal(stats_of(&s).pins, 0);
    moe_model_close(model);
    free_store(&s);
    unlink(path);
    moe_engine_free(engine);
}

static void a_file_with_another_time_must_be_accepted(void **state)
{
    const char *path = copy_pocket();
    moe_engine *engine = open_engine(2, "auto");
    store s = make_store(1.0);
    moe_model *model = open_in(engine, path, &s);
    const struct timespec times[2] = {{1, 0}, {1, 0}};
    moe_error err = {0};

    (void)state;
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    assert_int_equal(try(model, NULL, &err), MOE_ERR_IO);
    moe_model_accept_files(model);
    assert_ok(try(model, NULL, &err), err);
    /* one that is gone, or replaced by another, can still be read */
    unlink(path);
    moe_arena_evict(s.arena, &(int){0}, &(size_t){0});
    assert_ok(try(model, NULL, &err), err);
    assert_int_equal(moe_model_descriptors(model), 1);
    moe_model_close(model);
    free_store(&s);
    moe_engine_free(engine);
}

static bool cancel_after(void *ud)
{
    int *left = ud;

    return (*left)-- <= 0;
}

static void loading_can_be_cancelled_at_any_point(void **state)
{
    moe_engine *engine = open_engine(2, "auto");
    store s = make_store(0.0);
    moe_model *model = open_in(engine, POCKET, &s);
    moe_error err = {0};
    int n_cancelled = 0;

    (void)state;
    for (int calls = 0;; calls++) {
        int left = calls;
        const moe_cancel cancel = {cancel_after, &left};
        const moe_status status = try(model, &cancel, &err);
        moe_arena_stats stats = stats_of(&s);

        assert_true(stats.pins <= model->weights.n_dense);
        assert_int_equal(stats.expert_pins, 0);
        if (status == MOE_OK)
            break;
        assert_int_equal(status, MOE_ERR_CANCELLED);
        n_cancelled++;
        assert_true(calls < 100000);
    }
    assert_true(n_cancelled > 10);
    moe_model_close(model);
    free_store(&s);
    moe_engine_free(engine);
}

static void prewarming_can_be_cancelled(void **state)
{
    moe_engine *engine = open_engine(2, "auto");
    store s = make_store(1.0);
    moe_model *model = open_in(engine, POCKET, &s);
    moe_error err = {0};
    int n, resident = 0;
    size_t n_bytes;

    (void)state;
    for (int calls = 0;; calls++) {
        int left = calls;
        const moe_cancel cancel = {cancel_after, &left};
        const moe_status status = moe_model_prewarm(model, 0, &cancel, &n, &n_bytes, &err);

        assert_int_equal(stats_of(&s).expert_pins, 0);
        assert_true(stats_of(&s).n_resident >= resident);
        resident = stats_of(&s).n_resident;
        if (status == MOE_OK)
            break;
        assert_int_equal(status, MOE_ERR_CANCELLED);
    }
    assert_int_equal(resident, model->weights.n_units);
    moe_model_close(model);
    free_store(&s);
    moe_engine_free(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_caches_give_the_same_bits),
        cmocka_unit_test(small_caches_give_the_same_bits_in_every_family),
        cmocka_unit_test(weights_are_loaded_when_they_are_needed_and_once),
        cmocka_unit_test(sessions_share_a_small_cache),
        cmocka_unit_test(prewarming_takes_the_hottest_as_far_as_there_is_room),
        cmocka_unit_test(a_file_that_is_cut_short_ends_the_step_alone),
        cmocka_unit_test(a_file_with_another_time_must_be_accepted),
        cmocka_unit_test(loading_can_be_cancelled_at_any_point),
        cmocka_unit_test(prewarming_can_be_cancelled),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
