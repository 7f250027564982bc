/*
 * Rotary frequencies and angles against double precision libm and published figures.
 */
#include "golden.h"

#include <math.h>

#include "../../src/engine/model/rope.h"

static void test_angles_match_libm_up_to_long_contexts(void **state)
{
    const moe_rope_spec rope = {.n_rot = 128, .base = 1000000.0};
    double freq[64];
    float c[64], s[64];

    (void)state;
    moe_rope_frequencies(&rope, freq);
    for (int64_t position = 0; position < 1 << 20; position = position * 3 + 1) {
        moe_rope_angles(freq, 64, position, 1.0, c, s);
        for (int i = 0; i < 64; i++) {
            const double angle = (double)position * pow(1000000.0, -2.0 * i / 128);

            assert_true(fabs(c[i] - cos(angle)) < 1e-7);
            assert_true(fabs(s[i] - sin(angle)) < 1e-7);
        }
    }
}

/* DeepSeek-V3: 64 rotated dimensions, factor 40, original context 4096, ramp from 10 to 23. */
static void test_yarn_ramp_of_deepseek_v3(void **state)
{
    const moe_rope_spec rope = {.n_rot = 64, .base = 10000.0, .scaling = MOE_ROPE_SCALING_YARN,
                                .factor = 40.0, .orig_ctx = 4096.0, .beta_fast = 32.0,
                                .beta_slow = 1.0, .truncate = true};
    double freq[32];

    (void)state;
    moe_rope_frequencies(&rope, freq);
    for (int i = 0; i < 32; i++) {
        const double f = pow(10000.0, -2.0 * i / 64);
        const double ramp = i <= 10 ? 0.0 : i >= 23 ? 1.0 : (i - 10) / 13.0;

        assert_true(fabs(freq[i] / (f / 40.0 * ramp + f * (1.0 - ramp)) - 1.0) < 1e-12);
    }
}

static void test_llama3_keeps_short_waves_and_divides_long_ones(void **state)
{
    const moe_rope_spec rope = {.n_rot = 128, .base = 500000.0, .scaling = MOE_ROPE_SCALING_LLAMA3,
                                .factor = 8.0, .orig_ctx = 8192.0, .low_freq = 1.0,
                                .high_freq = 4.0};
    double freq[64];

    (void)state;
    moe_rope_frequencies(&rope, freq);
    assert_true(fabs(freq[0] - 1.0) < 1e-12);
    assert_true(fabs(freq[63] / (pow(500000.0, -126.0 / 128) / 8.0) - 1.0) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_angles_match_libm_up_to_long_contexts),
        cmocka_unit_test(test_yarn_ramp_of_deepseek_v3),
        cmocka_unit_test(test_llama3_keeps_short_waves_and_divides_long_ones),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
