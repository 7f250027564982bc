/*
 * The engine as a whole, on the model that comes with it: answers, reproducibility, batches,
 * sampling, stops, cancellation, errors.  Runs from the repository's root.
 */
#include "golden.h"

#include <math.h>

static const char POCKET[] = "share/pocket-q8_0.gguf";

/* --- answers --------------------------------------------------------------------------------------- */

static json_t *golden_chats(void)
{
    json_t *all = json_load_file("test/data/pocket_golden.json", 0, NULL);

    assert_non_null(all);
    return all;
}

/* How many of the golden greedy answers the model at path gives word for word. */
static int equal_answers(const char *path, int *total)
{
    moe_engine *engine = open_engine(2, "auto");
    moe_model *model = open_model(engine, path);
    json_t *all = golden_chats(), *chat;
    moe_error err = {0};
    size_t i;
    int equal = 0;

    json_array_foreach(json_object_get(all, "chat"), i, chat) {
        char *messages = json_dumps(json_object_get(chat, "messages"), 0), *prompt;
        const char *options = json_is_true(json_object_get(chat, "enable_thinking"))
                                  ? "{\"enable_thinking\": true}" : "{\"enable_thinking\": false}";
        json_t *want_ids = json_object_get(chat, "prompt_ids");
        const char *want = json_string_value(json_object_get(chat, "output"));
        moe_request request = {.task = MOE_TASK_GENERATE, .max_tokens = 200, .top_p = 1.0f,
                               .repeat_penalty = 1.0f};
        moe_scheduler *scheduler;
        moe_seq *seq;
        int32_t *ids;
        size_t len, n;
        const char *text;

        assert_ok(moe_chat_render(model, messages, options, &prompt, &len, &err), err);
        assert_string_equal(prompt, json_string_value(json_object_get(chat, "prompt")));
        assert_ok(moe_tokenize(model, prompt, len, MOE_TEXT_PARSE_SPECIAL, &ids, &n, &err), err);
        assert_int_equal(n, json_array_size(want_ids));
        for (size_t t = 0; t < n; t++)
            assert_int_equal(ids[t], json_integer_value(json_array_get(want_ids, t)));
        request.prompt = ids;
        request.n_prompt = n;
        seq = run_request(model, &request, &scheduler);
        text = moe_seq_text(seq, &len);
        if (strcmp(text, want) == 0)
            equal++;
        else
            print_message("%s: \"%s\" instead of \"%s\"\n", path, text, want);
        moe_scheduler_free(scheduler);
        free(ids);
        free(prompt);
        free(messages);
    }
    *total = (int)i;
    json_decref(all);
    moe_model_close(model);
    moe_engine_free(engine);
    return equal;
}

static void test_pocket_gives_all_golden_answers(void **state)
{
    int total;

    (void)state;
    assert_int_equal(equal_answers(POCKET, &total), 30);
    assert_int_equal(total, 30);
}

static void test_pocket_unquantised_gives_all_golden_answers(void **state)
{
    int total;

    (void)state;
    need(shared_path("models/pocket"));
    assert_int_equal(equal_answers(shared_path("models/pocket"), &total), 30);
}

static void test_pocket_in_4_bits_gives_nearly_all_golden_answers(void **state)
{
    int total;

    (void)state;
    need(shared_path("models/pocket"));
    assert_true(equal_answers(shared_path("models/pocket/pocket-q4_k_m.gguf"), &total) >= 28);
}

/* The smallest cosine between a model's embeddings and the golden ones of the float32 model. */
static double smallest_cosine(const char *path, moe_quantize quantize)
{
    moe_engine *engine = open_engine(2, "auto");
    moe_model *model = open_model_as(engine, path, quantize);
    golden g = golden_open(shared_path("models/pocket/golden.safetensors"));
    json_t *all = golden_chats(), *entry;
    double smallest = 1.0;
    size_t i, size;

    json_array_foreach(json_object_get(all, "embeddings"), i, entry) {
        const char *text = json_string_value(json_object_get(entry, "text"));
        const float *want = (const float *)golden_tensor(&g, &size, "embeddings") + i * 256;
        moe_request request = {.task = MOE_TASK_EMBED};
        double cosine = 0.0;
        moe_scheduler *scheduler;
        moe_error err = {0};
        const float *got;
        int32_t *ids;
        int n_embd;

        assert_ok(moe_tokenize(model, text, strlen(text), MOE_TEXT_ADD_SPECIAL, &ids,
                               &request.n_prompt, &err), err);
        request.prompt = ids;
        got = moe_seq_embedding(run_request(model, &request, &scheduler), &n_embd);
        assert_int_equal(n_embd, 256);
        for (int k = 0; k < 256; k++)
            cosine += (double)got[k] * want[k];
        smallest = cosine < smallest ? cosine : smallest;
        moe_scheduler_free(scheduler);
        free(ids);
    }
    golden_close(&g);
    json_decref(all);
    moe_model_close(model);
    moe_engine_free(engine);
    return smallest;
}

static void test_pocket_embeddings_match(void **state)
{
    (void)state;
    need(shared_path("models/pocket"));
    assert_true(smallest_cosine(shared_path("models/pocket"), MOE_QUANTIZE_NONE) > 0.999999);
    assert_true(smallest_cosine(shared_path("models/pocket"), MOE_QUANTIZE_Q8_0) > 0.995);
    assert_true(smallest_cosine(POCKET, MOE_QUANTIZE_NONE) > 0.995);
}

/* --- the same bits ------------------------------------------------------------------------------------ */

enum { N_IDS = 300 };

/* Tokens that mean nothing, but reach many experts and two attention blocks. */
static void fill_ids(int32_t *ids, int n, int n_vocab)
{
    uint32_t x = 1;

    for (int i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        ids[i] = (int32_t)((x >> 8) % (uint32_t)n_vocab);
    }
}

static float *logits_of(const char *path, moe_quantize quantize, int threads, const char *isa,
                        int chunk, size_t *bytes)
{
    moe_engine *engine = open_engine(threads, isa);
    moe_model *model = open_model_as(engine, path, quantize);
    int32_t ids[N_IDS];
    float *out;

    *bytes = sizeof(float) * N_IDS * (size_t)model->spec.n_vocab;
    out = malloc(*bytes);
    fill_ids(ids, N_IDS, model->spec.n_vocab);
    run_prompt(model, ids, N_IDS, chunk, out, NULL);
    moe_model_close(model);
    moe_engine_free(engine);
    return out;
}

static void check_same_bits(const char *path, moe_quantize quantize)
{
    static const char *const isas[] = {"scalar", "avx2", "avx512", "avx512_bf16", "amx"};
    static const int chunks[] = {512, 64, 37, 1};
    size_t bytes, other_bytes;
    float *want = logits_of(path, quantize, 2, "auto", 512, &bytes), *got;
    moe_isa isa;

    for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
        moe_isa_by_name(isas[i], &isa);
        if (moe_cpu_kernels(isa) == NULL) {
            print_message("skipped: this CPU has no %s\n", isas[i]);
            continue;
        }
        got = logits_of(path, quantize, 1, isas[i], 128, &other_bytes);
        assert_memory_equal(want, got, bytes);
        free(got);
    }
    for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) {
        got = logits_of(path, quantize, 3, "auto", chunks[i], &other_bytes);
        assert_memory_equal(want, got, bytes);
        free(got);
    }
    free(want);
}

static void test_bits_do_not_depend_on_instruction_set_threads_or_chunks(void **state)
{
    (void)state;
    check_same_bits(POCKET, MOE_QUANTIZE_NONE);
}

static void test_bits_of_other_types_do_not_depend_on_them_either(void **state)
{
    (void)state;
    need(shared_path("fixtures"));
    check_same_bits(shared_path("models/pocket"), MOE_QUANTIZE_NONE);
    check_same_bits(shared_path("models/pocket"), MOE_QUANTIZE_Q8_0);
    check_same_bits(shared_path("models/pocket/pocket-q4_k_m.gguf"), MOE_QUANTIZE_NONE);
    check_same_bits(shared_path("fixtures/deepseek_v3/hf"), MOE_QUANTIZE_NONE);
    check_same_bits(shared_path("fixtures/qwen3_moe_quant/model-q4_0.gguf"), MOE_QUANTIZE_NONE);
    check_same_bits(shared_path("fixtures/qwen3_moe_quant/model-q5_k_m.gguf"), MOE_QUANTIZE_NONE);
    check_same_bits(shared_path("fixtures/qwen3_moe_quant/model-q6_k.gguf"), MOE_QUANTIZE_NONE);
    check_same_bits(shared_path("fixtures/llama/hf"), MOE_QUANTIZE_NONE);
}

static void check_batch(const char *path)
{
    enum { N = 9, LEN = 40 };
    moe_engine *engine = open_engine(2, "auto");
    moe_model *model = open_model(engine, path);
    moe_scheduler *scheduler;
    moe_seq *seqs[N];
    int32_t ids[N * LEN];
    moe_error err = {0};
    bool busy = true;

    fill_ids(ids, N * LEN, model->spec.n_vocab);
    assert_ok(moe_scheduler_create(model, &(moe_scheduler_options){.max_step_tokens = 48},
                                   &scheduler, &err), err);
    for (int i = 0; i < N; i++) {
        const moe_request request = {
            .task = i % 3 == 2 ? MOE_TASK_EMBED : MOE_TASK_GENERATE, .prompt = ids + i * LEN,
            .n_prompt = (size_t)(LEN - 3 * i), .max_tokens = 20, .top_p = 1.0f,
            .repeat_penalty = 1.0f, .ignore_eos = true, .logprobs = true,
            .temperature = i % 2 ? 0.8f : 0.0f, .seed = (uint64_t)i};

        assert_ok(moe_scheduler_add(scheduler, &request, &seqs[i], &err), err);
    }
    while (busy)
        assert_ok(moe_scheduler_step(scheduler, &busy, &err), err);
    for (int i = 0; i < N; i++) {
        moe_scheduler *alone;
        const moe_request request = {
            .task = i % 3 == 2 ? MOE_TASK_EMBED : MOE_TASK_GENERATE, .prompt = ids + i * LEN,
            .n_prompt = (size_t)(LEN - 3 * i), .max_tokens = 20, .top_p = 1.0f,
            .repeat_penalty = 1.0f, .ignore_eos = true, .logprobs = true,
            .temperature = i % 2 ? 0.8f : 0.0f, .seed = (uint64_t)i};
        moe_seq *seq = run_request(model, &request, &alone);
        moe_token a, b;
        int n_embd;

        while (moe_seq_next(seq, &a)) {
            assert_true(moe_seq_next(seqs[i], &b));
            assert_int_equal(a.id, b.id);
            assert_memory_equal(&a.logprob, &b.logprob, sizeof(float));
        }
        if (request.task == MOE_TASK_EMBED)
            assert_memory_equal(moe_seq_embedding(seq, &n_embd),
                                moe_seq_embedding(seqs[i], &n_embd), 256 * sizeof(float));
        moe_scheduler_free(alone);
    }
    moe_scheduler_free(scheduler);
    moe_model_close(model);
    moe_engine_free(engine);
}

static void test_a_batch_gives_the_bits_of_single_requests(void **state)
{
    (void)state;
    check_batch(POCKET);
}

static void test_prompts_with_8_bits_keep_them_in_company(void **state)
{
    (void)state;
    need(shared_path("models"));
    check_batch(shared_path("models/pocket/pocket-q4_k_m.gguf"));
}

/* --- requests ------------------------------------------------------------------------------------------ */

typedef struct pocket {
    moe_engine *engine;
    moe_model *model;
    int32_t *ids; /* of a question with a long answer */
    size_t n_ids;
} pocket;

static int open_pocket(void **state)
{
    static const char text[] = "VACUUM reclaims";
    pocket *p = calloc(1, sizeof(*p));
    moe_error err = {0};

    p->engine = open_engine(2, "auto");
    p->model = open_model(p->engine, POCKET);
    assert_ok(moe_tokenize(p->model, text, strlen(text), MOE_TEXT_ADD_SPECIAL, &p->ids, &p->n_ids,
                           &err), err);
    *state = p;
    return 0;
}

static int close_pocket(void **state)
{
    pocket *p = *state;
    moe_counters counters;

    moe_model_counters(p->model, &counters);
    assert_int_equal(counters.schedulers, 0);
    assert_int_equal(counters.sequences, 0);
    assert_int_equal(counters.kv_pages_used, 0);
    free(p->ids);
    moe_model_close(p->model);
    moe_engine_free(p->engine);
    free(p);
    return 0;
}

static moe_request generate(const pocket *p, int max_tokens)
{
    return (moe_request){.task = MOE_TASK_GENERATE, .prompt = p->ids, .n_prompt = p->n_ids,
                         .max_tokens = max_tokens, .top_p = 1.0f, .repeat_penalty = 1.0f,
                         .ignore_eos = true};
}

/* Runs a request and copies its text; *pieces gets the pieces joined, if wanted. */
static void texts_of(const pocket *p, const moe_request *request, char *text, char *pieces)
{
    moe_scheduler *scheduler;
    moe_seq *seq = run_request(p->model, request, &scheduler);
    moe_token token;
    size_t len, at = 0;

    strcpy(text, moe_seq_text(seq, &len));
    while (moe_seq_next(seq, &token)) {
        memcpy(pieces + at, token.piece, token.piece_len);
        at += token.piece_len;
    }
    pieces[at] = '\0';
    moe_scheduler_free(scheduler);
}

static void test_stop_strings_end_the_text_and_never_show(void **state)
{
    const pocket *p = *state;
    moe_request request = generate(p, 24);
    char whole[1024], stopped[1024], pieces[1024];

    texts_of(p, &request, whole, pieces);
    assert_string_equal(whole, pieces);
    assert_true(strlen(whole) > 20);
    for (size_t from = 3; from < 18; from++)
        for (size_t len = 1; len < 8; len += 2) {
            char stop[16];
            const char *const stops[] = {"never in it", stop};

            memcpy(stop, whole + from, len);
            stop[len] = '\0';
            request.stop = stops;
            request.n_stop = 2;
            texts_of(p, &request, stopped, pieces);
            assert_string_equal(stopped, pieces);
            assert_null(strstr(stopped, stop));
            assert_int_equal(strlen(stopped), (size_t)(strstr(whole, stop) - whole));
        }
}

static void test_a_seed_repeats_a_text(void **state)
{
    const pocket *p = *state;
    moe_request request = generate(p, 24);
    char a[1024], b[1024], c[1024], pieces[1024];

    request.temperature = 1.0f;
    request.seed = 7;
    texts_of(p, &request, a, pieces);
    texts_of(p, &request, b, pieces);
    request.seed = 8;
    texts_of(p, &request, c, pieces);
    assert_string_equal(a, b);
    assert_string_not_equal(a, c);
}

static void test_score_agrees_with_generate(void **state)
{
    const pocket *p = *state;
    moe_request request = generate(p, 12), score;
    moe_scheduler *first, *second;
    moe_seq *seq, *scored;
    moe_token a, b;
    int32_t ids[64];
    size_t n = p->n_ids;

    request.logprobs = true;
    memcpy(ids, p->ids, n * sizeof(int32_t));
    seq = run_request(p->model, &request, &first);
    while (moe_seq_next(seq, &a))
        ids[n++] = a.id;
    moe_scheduler_free(first);
    seq = run_request(p->model, &request, &first);
    score = (moe_request){.task = MOE_TASK_SCORE, .prompt = ids, .n_prompt = n,
                          .score_from = p->n_ids};
    scored = run_request(p->model, &score, &second);
    while (moe_seq_next(seq, &a)) {
        assert_true(moe_seq_next(scored, &b));
        assert_int_equal(a.id, b.id);
        assert_int_equal(a.position, b.position);
        assert_int_equal(b.rank, 1);
        assert_true(fabsf(a.logprob - b.logprob) < 1e-3f);
    }
    assert_false(moe_seq_next(scored, &b));
    moe_scheduler_free(first);
    moe_scheduler_free(second);
}

static void test_next_tokens_come_in_order(void **state)
{
    const pocket *p = *state;
    const moe_request request = {.task = MOE_TASK_NEXT, .prompt = p->ids, .n_prompt = p->n_ids,
                                 .n_top = 5000};
    moe_scheduler *scheduler;
    moe_seq *seq = run_request(p->model, &request, &scheduler);
    double sum = 0.0, last = 1.0;
    moe_token token;
    int n = 0;

    while (moe_seq_next(seq, &token)) {
        assert_true(token.logprob <= last);
        assert_int_equal(token.rank, ++n);
        last = token.logprob;
        sum += exp(token.logprob);
    }
    assert_int_equal(n, p->model->spec.n_vocab);
    assert_true(fabs(sum - 1.0) < 1e-4);
    moe_scheduler_free(scheduler);
}

static bool after_some_polls(void *ud)
{
    return --*(int *)ud < 0;
}

static void test_cancel_ends_a_step_and_leaks_nothing(void **state)
{
    const pocket *p = *state;
    const moe_request request = generate(p, 500);
    moe_error err = {0};

    for (int polls = 0; polls < 40; polls += 3) {
        int left = polls;
        const moe_scheduler_options options = {.cancel = {after_some_polls, &left}};
        moe_scheduler *scheduler;
        moe_seq *seq;
        bool busy = true;
        moe_status status = MOE_OK;

        assert_ok(moe_scheduler_create(p->model, &options, &scheduler, &err), err);
        assert_ok(moe_scheduler_add(scheduler, &request, &seq, &err), err);
        while (status == MOE_OK && busy)
            status = moe_scheduler_step(scheduler, &busy, &err);
        assert_int_equal(status, MOE_ERR_CANCELLED);
        moe_scheduler_free(scheduler);
    }
}

static void test_bad_requests_are_refused(void **state)
{
    const pocket *p = *state;
    static int32_t many[2000];
    moe_request r = generate(p, 10);
    moe_scheduler *scheduler;
    moe_seq *seq;
    moe_error err = {0};
    const int32_t outside = 4096;

    assert_ok(moe_scheduler_create(p->model, NULL, &scheduler, &err), err);
    r.n_prompt = 0;
    assert_int_equal(moe_scheduler_add(scheduler, &r, &seq, &err), MOE_ERR_INVALID);
    r.prompt = many;
    r.n_prompt = 1025;
    assert_int_equal(moe_scheduler_add(scheduler, &r, &seq, &err), MOE_ERR_TOO_LONG);
    assert_non_null(strstr(err.message, "1025 tokens"));
    r.prompt = &outside;
    r.n_prompt = 1;
    assert_int_equal(moe_scheduler_add(scheduler, &r, &seq, &err), MOE_ERR_INVALID);
    moe_scheduler_free(scheduler);
}

static void test_a_generation_ends_at_the_context(void **state)
{
    const pocket *p = *state;
    static int32_t ids[1024];
    moe_request r = generate(p, 100);
    moe_scheduler *scheduler;
    moe_seq *seq;

    fill_ids(ids, 1024, 4096);
    r.prompt = ids;
    r.n_prompt = 1020;
    seq = run_request(p->model, &r, &scheduler);
    assert_int_equal(moe_seq_finish(seq), MOE_FINISH_CONTEXT);
    assert_int_equal(moe_seq_usage(seq)->generated_tokens, 5);
    moe_scheduler_free(scheduler);
}

static void test_a_prompt_is_read_by_and_by(void **state)
{
    const pocket *p = *state;
    static int32_t ids[200];
    moe_request r = generate(p, 2);
    moe_scheduler *scheduler;
    moe_seq *seq;
    moe_error err = {0};
    size_t read = 0;
    bool busy;

    fill_ids(ids, 200, 4096);
    r.prompt = ids;
    r.n_prompt = 200;
    assert_ok(moe_scheduler_create(p->model, &(moe_scheduler_options){.max_step_tokens = 64},
                                   &scheduler, &err),
              err);
    assert_ok(moe_scheduler_add(scheduler, &r, &seq, &err), err);
    assert_int_equal(moe_seq_prompt_read(seq), 0);
    while (moe_seq_usage(seq)->generated_tokens == 0) {
        assert_true(read < 200);
        assert_ok(moe_scheduler_step(scheduler, &busy, &err), err);
        assert_true(moe_seq_prompt_read(seq) > read);
        read = moe_seq_prompt_read(seq);
    }
    assert_int_equal(read, 200);
    assert_ok(moe_scheduler_step(scheduler, &busy, &err), err);
    assert_true(moe_seq_done(seq));
    assert_int_equal(moe_seq_prompt_read(seq), 200);
    moe_scheduler_free(scheduler);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pocket_gives_all_golden_answers),
        cmocka_unit_test(test_pocket_unquantised_gives_all_golden_answers),
        cmocka_unit_test(test_pocket_in_4_bits_gives_nearly_all_golden_answers),
        cmocka_unit_test(test_pocket_embeddings_match),
        cmocka_unit_test(test_bits_do_not_depend_on_instruction_set_threads_or_chunks),
        cmocka_unit_test(test_bits_of_other_types_do_not_depend_on_them_either),
        cmocka_unit_test(test_a_batch_gives_the_bits_of_single_requests),
        cmocka_unit_test(test_prompts_with_8_bits_keep_them_in_company),
        cmocka_unit_test_setup_teardown(test_stop_strings_end_the_text_and_never_show, open_pocket,
                                        close_pocket),
        cmocka_unit_test_setup_teardown(test_a_seed_repeats_a_text, open_pocket, close_pocket),
        cmocka_unit_test_setup_teardown(test_a_prompt_is_read_by_and_by, open_pocket,
                                        close_pocket),
        cmocka_unit_test_setup_teardown(test_score_agrees_with_generate, open_pocket,
                                        close_pocket),
        cmocka_unit_test_setup_teardown(test_next_tokens_come_in_order, open_pocket, close_pocket),
        cmocka_unit_test_setup_teardown(test_cancel_ends_a_step_and_leaks_nothing, open_pocket,
                                        close_pocket),
        cmocka_unit_test_setup_teardown(test_bad_requests_are_refused, open_pocket, close_pocket),
        cmocka_unit_test_setup_teardown(test_a_generation_ends_at_the_context, open_pocket,
                                        close_pocket),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
