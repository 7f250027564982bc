/*
 * Choosing experts: scores, ties, groups, biases, weights.
 */
#include "golden.h"

#include <math.h>

#include "../../src/engine/device/router.h"

static void route(const moe_moe_spec *moe, const float *logits, const float *bias, int32_t *ids,
                  float *weights)
{
    float copy[64];

    memcpy(copy, logits, sizeof(float) * (size_t)moe->n_experts);
    moe_route(moe_cpu_kernels(MOE_ISA_AUTO), moe, copy, bias, ids, weights);
}

static moe_moe_spec softmax_of(int n, int used)
{
    return (moe_moe_spec){.n_experts = n, .n_experts_used = used, .n_groups = 1,
                          .n_groups_used = 1, .scale = 1.0};
}

static void test_ties_go_to_the_lower_index(void **state)
{
    const float logits[] = {0, 2, 1, 2, 2, 1};
    moe_moe_spec moe = softmax_of(6, 4);
    int32_t ids[4];
    float weights[4];

    (void)state;
    route(&moe, logits, NULL, ids, weights);
    assert_int_equal(ids[0], 1);
    assert_int_equal(ids[1], 3);
    assert_int_equal(ids[2], 4);
    assert_int_equal(ids[3], 2);
}

static void test_all_experts_may_be_used(void **state)
{
    const float logits[] = {0, 2, 1};
    moe_moe_spec moe = softmax_of(3, 3);
    int32_t ids[3];
    float weights[3];

    (void)state;
    route(&moe, logits, NULL, ids, weights);
    assert_true(fabsf(weights[0] + weights[1] + weights[2] - 1.0f) < 1e-6f);
    assert_int_equal(ids[2], 0);
}

static void test_bias_changes_the_choice_but_not_the_weight(void **state)
{
    const float logits[] = {1, 0, 0.5f, -1}, bias[] = {0, 0, 0, 5};
    moe_moe_spec moe = softmax_of(4, 2);
    int32_t ids[2];
    float weights[2];

    (void)state;
    moe.score = MOE_ROUTER_SIGMOID;
    route(&moe, logits, bias, ids, weights);
    assert_int_equal(ids[0], 3);
    assert_int_equal(ids[1], 0);
    assert_true(fabs(weights[0] - 1.0 / (1.0 + exp(1.0))) < 1e-6);
    moe.normalise = true;
    moe.scale = 2.5;
    route(&moe, logits, bias, ids, weights);
    assert_true(fabsf(weights[0] + weights[1] - 2.5f) < 1e-5f);
}

static void test_groups_are_scored_by_top_two_or_maximum(void **state)
{
    /* Group 0 holds the best single expert, group 1 the best pair, group 2 the rest. */
    const float logits[] = {3, -4, -4, 2, 1.9f, -4, 0, 0, 0};
    moe_moe_spec moe = softmax_of(9, 2);
    int32_t ids[2];
    float weights[2];

    (void)state;
    moe.score = MOE_ROUTER_SIGMOID;
    moe.n_groups = 3;
    moe.n_groups_used = 1;
    moe.group_score = MOE_GROUP_TOP2_SUM;
    route(&moe, logits, NULL, ids, weights);
    assert_int_equal(ids[0], 3);
    assert_int_equal(ids[1], 4);
    moe.group_score = MOE_GROUP_MAX;
    route(&moe, logits, NULL, ids, weights);
    assert_int_equal(ids[0], 0);
    assert_int_equal(ids[1], 1);
}

static void test_negative_biased_scores_never_leave_their_groups(void **state)
{
    const float logits[] = {0, 0, 0, 0}, bias[] = {-3, -2, -9, -9};
    moe_moe_spec moe = softmax_of(4, 2);
    int32_t ids[2];
    float weights[2];

    (void)state;
    moe.score = MOE_ROUTER_SIGMOID;
    moe.n_groups = 2;
    moe.n_groups_used = 1;
    moe.group_score = MOE_GROUP_TOP2_SUM;
    route(&moe, logits, bias, ids, weights);
    assert_int_equal(ids[0], 1);
    assert_int_equal(ids[1], 0);
}

static void test_nan_still_gives_valid_experts(void **state)
{
    const float logits[] = {NAN, NAN, NAN, NAN};
    moe_moe_spec moe = softmax_of(4, 2);
    int32_t ids[2];
    float weights[2];

    (void)state;
    route(&moe, logits, NULL, ids, weights);
    assert_int_equal(ids[0], 0);
    assert_int_equal(ids[1], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ties_go_to_the_lower_index),
        cmocka_unit_test(test_all_experts_may_be_used),
        cmocka_unit_test(test_bias_changes_the_choice_but_not_the_weight),
        cmocka_unit_test(test_groups_are_scored_by_top_two_or_maximum),
        cmocka_unit_test(test_negative_biased_scores_never_leave_their_groups),
        cmocka_unit_test(test_nan_still_gives_valid_experts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
