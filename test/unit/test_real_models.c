/*
 * Real models against reference outputs: SmolLM2-135M-Instruct and all-MiniLM-L6-v2, which
 * "make models" fetches.  Both the models and the references are optional.
 */
#include "golden.h"

#include <math.h>

static const char *models_path(const char *name)
{
    static char path[1024];
    const char *root = getenv("MOE_MODELS");

    snprintf(path, sizeof(path), "%s/%s", root != NULL ? root : ".models", name);
    return path;
}

/* Compares the logits of one position with a golden list of [id, log-probability]. */
static double worst_difference(const moe_model *model, const float *logits, json_t *top)
{
    double worst = 0.0;
    json_t *pair;
    size_t k;

    json_array_foreach(top, k, pair) {
        const int32_t id = (int32_t)json_integer_value(json_array_get(pair, 0));
        const float got = moe_logprob(model->engine->kernels, logits, model->spec.n_vocab, id);

        worst = fmax(worst, fabs(got - json_number_value(json_array_get(pair, 1))));
    }
    return worst;
}

static void test_smollm2_matches_the_exact_weights(void **state)
{
    moe_engine *engine;
    moe_model *model;
    json_t *golden, *one;
    moe_error err = {0};
    size_t i;

    (void)state;
    need(shared_path("fixtures_real/smollm2_golden.json"));
    need(models_path("smollm2-135m-instruct-q4_1.gguf"));
    engine = open_engine(2, "auto");
    model = open_model(engine, models_path("smollm2-135m-instruct-q4_1.gguf"));
    golden = json_load_file(shared_path("fixtures_real/smollm2_golden.json"), 0, NULL);
    json_array_foreach(json_object_get(golden, "cases"), i, one) {
        const char *prompt = json_string_value(json_object_get(one, "prompt"));
        json_t *want = json_object_get(one, "tokens"), *ids_json = json_object_get(one, "prompt_tokens");
        json_t *tops = json_object_get(one, "f32_top");
        int32_t *ids, all[1024];
        size_t n;
        double worst = 0.0;
        float *logits;
        moe_request request = {.task = MOE_TASK_GENERATE, .max_tokens = 32, .top_p = 1.0f,
                               .repeat_penalty = 1.0f, .ignore_eos = true};
        moe_scheduler *scheduler;
        moe_seq *seq;
        moe_token token;

        assert_ok(moe_tokenize(model, prompt, strlen(prompt),
                               MOE_TEXT_ADD_SPECIAL | MOE_TEXT_PARSE_SPECIAL, &ids, &n, &err), err);
        assert_int_equal(n, json_array_size(ids_json));
        for (size_t t = 0; t < n; t++)
            assert_int_equal(ids[t], json_integer_value(json_array_get(ids_json, t)));

        /* Log-probabilities after every golden token: what the exact weights give. */
        memcpy(all, ids, n * sizeof(int32_t));
        for (size_t t = 0; t < json_array_size(want); t++)
            all[n + t] = (int32_t)json_integer_value(json_array_get(want, t));
        logits = malloc(sizeof(float) * (n + 32) * (size_t)model->spec.n_vocab);
        assert_non_null(logits);
        run_prompt(model, all, (int)(n + json_array_size(want)), 4096, logits, NULL);
        for (size_t t = 0; t < json_array_size(want); t++)
            worst = fmax(worst, worst_difference(model,
                                                 logits + (n + t - 1) * (size_t)model->spec.n_vocab,
                                                 json_array_get(tops, t)));
        free(logits);
        print_message("%s: log-probabilities differ by at most %.4f\n",
                      json_string_value(json_object_get(one, "name")), worst);
        assert_true(worst < 0.05);

        /* The text: another token only where the exact weights are undecided. */
        request.prompt = ids;
        request.n_prompt = n;
        seq = run_request(model, &request, &scheduler);
        for (size_t t = 0; moe_seq_next(seq, &token); t++) {
            json_t *top = json_array_get(tops, t);
            const double first = json_number_value(json_array_get(json_array_get(top, 0), 1));
            const double second = json_number_value(json_array_get(json_array_get(top, 1), 1));

            if (token.id == json_integer_value(json_array_get(want, t)))
                continue;
            print_message("%s: token %zu differs, the first two are %.3f apart\n",
                          json_string_value(json_object_get(one, "name")), t, first - second);
            assert_true(first - second < 0.5);
            break; /* from here on the texts have nothing in common */
        }
        moe_scheduler_free(scheduler);
        free(ids);
    }
    json_decref(golden);
    moe_model_close(model);
    moe_engine_free(engine);
}

static void test_minilm_matches_sentence_transformers(void **state)
{
    moe_engine *engine;
    moe_model *model;
    json_t *texts, *text;
    golden g;
    size_t i, size, n_ids, at = 0, n_cut = 0;
    const float *want;
    const int32_t *counts, *want_ids;
    double smallest = 1.0;

    (void)state;
    need(shared_path("fixtures_real/minilm_golden.safetensors"));
    need(models_path("all-MiniLM-L6-v2"));
    engine = open_engine(2, "auto");
    model = open_model(engine, models_path("all-MiniLM-L6-v2"));
    g = golden_open(shared_path("fixtures_real/minilm_golden.safetensors"));
    texts = json_load_file(shared_path("fixtures_real/minilm_golden_texts.json"), 0, NULL);
    want = golden_tensor(&g, &size, "embeddings");
    counts = golden_tensor(&g, &size, "token_counts");
    want_ids = golden_tensor(&g, &n_ids, "token_ids");
    assert_int_equal(json_array_size(texts), size);
    json_array_foreach(texts, i, text) {
        moe_request request = {.task = MOE_TASK_EMBED};
        double cosine = 0.0;
        moe_scheduler *scheduler;
        moe_error err = {0};
        const float *got;
        int32_t *ids;
        int n_embd;

        assert_ok(moe_tokenize(model, json_string_value(text), json_string_length(text),
                               MOE_TEXT_ADD_SPECIAL, &ids, &request.n_prompt, &err), err);
        /* The engine cuts what is too long, all but the last token. */
        assert_true(request.n_prompt >= (size_t)counts[i]);
        n_cut += request.n_prompt > (size_t)counts[i];
        assert_memory_equal(ids, want_ids + at, sizeof(int32_t) * (size_t)(counts[i] - 1));
        assert_int_equal(ids[request.n_prompt - 1], want_ids[at + (size_t)counts[i] - 1]);
        at += (size_t)counts[i];
        request.prompt = ids;
        got = moe_seq_embedding(run_request(model, &request, &scheduler), &n_embd);
        for (int k = 0; k < n_embd; k++)
            cosine += (double)got[k] * want[i * (size_t)n_embd + (size_t)k];
        smallest = fmin(smallest, cosine);
        moe_scheduler_free(scheduler);
        free(ids);
    }
    print_message("MiniLM: smallest cosine %.7f\n", smallest);
    assert_true(smallest >= 0.9999);
    assert_true(n_cut > 0);
    json_decref(texts);
    golden_close(&g);
    moe_model_close(model);
    moe_engine_free(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smollm2_matches_the_exact_weights),
        cmocka_unit_test(test_minilm_matches_sentence_transformers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
