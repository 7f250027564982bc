/*
 * Choosing tokens: ties, cut-offs, penalties, the generator, log-probabilities.
 */
#include "golden.h"

#include <math.h>

enum { N = 6 };

static moe_sampler *sampler_of(int n)
{
    moe_sampler *s;
    moe_error err = {0};

    assert_ok(moe_sampler_create(moe_cpu_kernels(MOE_ISA_AUTO), n, &s, &err), err);
    return s;
}

static moe_request plain(float temperature)
{
    return (moe_request){.temperature = temperature, .top_p = 1.0f, .repeat_penalty = 1.0f};
}

/* How often each id is drawn in 20000 draws. */
static void histogram(const moe_request *request, const float *logits, const int32_t *history,
                      size_t n_history, double *share)
{
    moe_sampler *s = sampler_of(N);
    moe_request r = *request;
    moe_error err = {0};
    int32_t id;

    memset(share, 0, N * sizeof(double));
    for (int i = 0; i < 20000; i++) {
        r.seed = (uint64_t)i;
        assert_ok(moe_sample(s, &r, logits, history, n_history, &id, &err), err);
        share[id] += 1.0 / 20000;
    }
    moe_sampler_free(s);
}

static void test_greedy_takes_the_lowest_id_of_equals(void **state)
{
    const float logits[N] = {1, 3, 2, 3, 3, 0};
    const moe_request r = plain(0.0f);
    moe_sampler *s = sampler_of(N);
    moe_error err = {0};
    int32_t id;

    (void)state;
    assert_ok(moe_sample(s, &r, logits, NULL, 0, &id, &err), err);
    assert_int_equal(id, 1);
    moe_sampler_free(s);
}

static void test_draws_follow_the_softmax(void **state)
{
    const float logits[N] = {0.0f, 1.0f, 2.0f, -1.0f, 0.5f, 1.5f};
    double share[N], sum = 0.0;

    (void)state;
    for (int i = 0; i < N; i++)
        sum += exp(logits[i] / 0.7);
    histogram(&(moe_request){.temperature = 0.7f, .top_p = 1.0f, .repeat_penalty = 1.0f}, logits,
              NULL, 0, share);
    for (int i = 0; i < N; i++)
        assert_true(fabs(share[i] - exp(logits[i] / 0.7) / sum) < 0.015);
}

static void test_top_k_top_p_and_min_p_cut_the_tail(void **state)
{
    /* Probabilities 0.4, 0.3, 0.15, 0.1, 0.04, 0.01 in the order of ids 2 0 5 1 4 3. */
    const float logits[N] = {logf(0.3f), logf(0.1f), logf(0.4f), logf(0.01f), logf(0.04f),
                             logf(0.15f)};
    moe_request r = plain(1.0f);
    double share[N];

    (void)state;
    r.top_k = 2;
    histogram(&r, logits, NULL, 0, share);
    assert_true(fabs(share[2] - 4.0 / 7) < 0.015 && fabs(share[0] - 3.0 / 7) < 0.015);
    r.top_k = 0;
    r.top_p = 0.69f; /* the second token passes it */
    histogram(&r, logits, NULL, 0, share);
    assert_true(share[2] > 0 && share[0] > 0 && share[5] == 0 && share[1] == 0);
    r.top_p = 0.8f;
    histogram(&r, logits, NULL, 0, share);
    assert_true(share[5] > 0 && share[1] == 0);
    r.top_p = 1.0f;
    r.min_p = 0.2f; /* at least 0.08 */
    histogram(&r, logits, NULL, 0, share);
    assert_true(share[1] > 0 && share[4] == 0 && share[3] == 0);
}

static void test_repetition_penalty_looks_back_only_so_far(void **state)
{
    const float logits[N] = {3.0f, 2.0f, -1.0f, -1.1f, -5, -5};
    const int32_t history[] = {0, 2, 4};
    moe_sampler *s = sampler_of(N);
    moe_request r = plain(0.0f);
    moe_error err = {0};
    int32_t id;

    (void)state;
    r.repeat_penalty = 2.0f;
    r.repeat_last_n = -1;
    assert_ok(moe_sample(s, &r, logits, history, 3, &id, &err), err);
    assert_int_equal(id, 1); /* 3 / 2 < 2 */
    r.repeat_last_n = 2;
    assert_ok(moe_sample(s, &r, logits, history, 3, &id, &err), err);
    assert_int_equal(id, 0);
    moe_sampler_free(s);
}

static void test_values_that_are_not_finite_are_an_error(void **state)
{
    float logits[N] = {0, 1, 2, 3, 4, 5};
    const moe_request r = plain(0.0f);
    moe_sampler *s = sampler_of(N);
    moe_error err = {0};
    int32_t id;

    (void)state;
    logits[3] = NAN;
    assert_int_equal(moe_sample(s, &r, logits, NULL, 0, &id, &err), MOE_ERR_NUMERIC);
    logits[3] = INFINITY;
    assert_int_equal(moe_sample(s, &r, logits, NULL, 0, &id, &err), MOE_ERR_NUMERIC);
    moe_sampler_free(s);
}

static void test_rank_logprob_and_top_agree(void **state)
{
    enum { MANY = 1000 };
    float logits[MANY];
    moe_sampler *s = sampler_of(MANY);
    const moe_candidate *top;
    double sum = 0.0;

    (void)state;
    for (int i = 0; i < MANY; i++)
        logits[i] = (float)((i * 7919) % 97) * 0.1f;
    for (int i = 0; i < MANY; i++)
        sum += exp(logits[i]);
    assert_int_equal(moe_top(s, logits, 50, &top), 50);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(moe_rank(logits, MANY, top[i].id), i + 1);
        assert_true(fabs(moe_logprob(s->kernels, logits, MANY, top[i].id) -
                         (top[i].logit - log(sum))) < 1e-5);
    }
    moe_sampler_free(s);
}

/* Known answers of Philox4x32-10 for counter 0 and key 0 (Random123, kat_vectors): 6627e8d5 e169c58d … */
static void test_the_generator_is_philox(void **state)
{
    (void)state;
    assert_true(moe_philox_uniform(0, 0) ==
                (double)((0x6627e8d5ull << 32 | 0xe169c58dull) >> 11) * 0x1p-53);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_takes_the_lowest_id_of_equals),
        cmocka_unit_test(test_draws_follow_the_softmax),
        cmocka_unit_test(test_top_k_top_p_and_min_p_cut_the_tail),
        cmocka_unit_test(test_repetition_penalty_looks_back_only_so_far),
        cmocka_unit_test(test_values_that_are_not_finite_are_an_error),
        cmocka_unit_test(test_rank_logprob_and_top_agree),
        cmocka_unit_test(test_the_generator_is_philox),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
