/*
 * Rotary embedding parameters from GGUF keys and from config.json's rope_theta and rope_scaling
 * (newer files: one object rope_parameters).
 *
 * Formulas of the magnitude: arXiv 2309.00071 §3.4; with mscale and mscale_all_dim as DeepSeek-V2
 * has them, the ratio of the two temperatures.
 */
#include "spec_read.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double moe_yarn_mscale(double factor, double mscale)
{
    return factor <= 1.0 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

static void read_scaling_gguf(moe_reader *r, moe_rope_spec *rope, int n_ctx_train)
{
    const char *type = moe_read_string_or(r, "rope.scaling.type", NULL, "none");
    double attn_factor = moe_read_double_or(r, "rope.scaling.attn_factor", NULL, 1e-3, 1e3, 1.0);

    rope->factor = moe_read_double_or(r, "rope.scaling.factor", NULL, 0.0, 1e6, 1.0);
    /* the key of files from before rope.scaling.type */
    if (moe_read_has(r, "rope.scale_linear", NULL)) {
        rope->factor = moe_read_double(r, "rope.scale_linear", NULL, 0.0, 1e6);
        type = rope->factor == 1.0 || rope->factor == 0.0 ? "none" : "linear";
    }
    if (strcmp(type, "linear") == 0 && rope->factor > 0.0) {
        rope->scaling = MOE_ROPE_SCALING_LINEAR;
    } else if (strcmp(type, "yarn") == 0 && rope->factor > 0.0) {
        rope->scaling = MOE_ROPE_SCALING_YARN;
        rope->orig_ctx = moe_read_double_or(r, "rope.scaling.original_context_length", NULL, 1.0,
                                            MOE_MAX_CTX, n_ctx_train);
        rope->beta_fast =
            moe_read_double_or(r, "rope.scaling.yarn_beta_fast", NULL, 1e-3, 1e6, 32.0);
        rope->beta_slow =
            moe_read_double_or(r, "rope.scaling.yarn_beta_slow", NULL, 1e-3, 1e6, 1.0);
        /* files with the multiplier are those whose mscale equals mscale_all_dim: the ratio is 1 */
        rope->magnitude = attn_factor;
        if (moe_read_double_or(r, "rope.scaling.yarn_log_multiplier", NULL, 0.0, 1e3, 0.0) == 0.0)
            rope->magnitude *= moe_yarn_mscale(rope->factor, 1.0);
    } else if (strcmp(type, "none") != 0) {
        moe_read_fail(r, MOE_ERR_UNSUPPORTED,
                      "rope scaling \"%.64s\" with factor %g is not supported", type, rope->factor);
    }
}

/* Names a key of the object that holds the scaling. */
typedef struct scaling_key {
    char text[96];
} scaling_key;

static scaling_key in_object(const char *object, const char *key)
{
    scaling_key out;

    snprintf(out.text, sizeof out.text, "%s.%s", object, key);
    return out;
}

static double scaling_double(moe_reader *r, const char *object, const char *key, double min,
                             double max)
{
    return moe_read_double(r, NULL, in_object(object, key).text, min, max);
}

static double scaling_double_or(moe_reader *r, const char *object, const char *key, double min,
                                double max, double otherwise)
{
    return moe_read_double_or(r, NULL, in_object(object, key).text, min, max, otherwise);
}

static void read_scaling_yarn(moe_reader *r, const char *object, moe_rope_spec *rope,
                              int n_ctx_train)
{
    double mscale = scaling_double_or(r, object, "mscale", 0.0, 1e3, 1.0);
    double mscale_all_dim = scaling_double_or(r, object, "mscale_all_dim", 0.0, 1e3, 0.0);

    rope->scaling = MOE_ROPE_SCALING_YARN;
    rope->orig_ctx = scaling_double_or(r, object, "original_max_position_embeddings", 1.0,
                                       MOE_MAX_CTX, n_ctx_train);
    rope->beta_fast = scaling_double_or(r, object, "beta_fast", 1e-3, 1e6, 32.0);
    rope->beta_slow = scaling_double_or(r, object, "beta_slow", 1e-3, 1e6, 1.0);
    rope->truncate = moe_read_bool_or(r, NULL, in_object(object, "truncate").text, true);
    rope->magnitude = scaling_double_or(r, object, "attention_factor", 1e-3, 1e3,
                                        moe_yarn_mscale(rope->factor, mscale) /
                                            moe_yarn_mscale(rope->factor, mscale_all_dim));
}

static void read_scaling_config(moe_reader *r, const char *object, moe_rope_spec *rope,
                                int n_ctx_train)
{
    const char *type = moe_read_string_or(r, NULL, in_object(object, "type").text, "default");

    type = moe_read_string_or(r, NULL, in_object(object, "rope_type").text, type);
    if (strcmp(type, "default") == 0)
        return;
    rope->factor = scaling_double_or(r, object, "factor", 1e-3, 1e6, 1.0);
    if (strcmp(type, "linear") == 0) {
        rope->scaling = MOE_ROPE_SCALING_LINEAR;
        rope->factor = scaling_double(r, object, "factor", 1e-3, 1e6);
    } else if (strcmp(type, "yarn") == 0) {
        rope->factor = scaling_double(r, object, "factor", 1e-3, 1e6);
        read_scaling_yarn(r, object, rope, n_ctx_train);
    } else if (strcmp(type, "llama3") == 0) {
        rope->scaling = MOE_ROPE_SCALING_LLAMA3;
        rope->factor = scaling_double(r, object, "factor", 1e-3, 1e6);
        rope->orig_ctx =
            scaling_double(r, object, "original_max_position_embeddings", 1.0, MOE_MAX_CTX);
        rope->low_freq = scaling_double(r, object, "low_freq_factor", 1e-3, 1e6);
        rope->high_freq = scaling_double(r, object, "high_freq_factor", 1e-3, 1e6);
        if (rope->high_freq <= rope->low_freq)
            moe_read_fail(r, MOE_ERR_FORMAT,
                          "config.json: high_freq_factor %g must exceed "
                          "low_freq_factor %g",
                          rope->high_freq, rope->low_freq);
    } else {
        moe_read_fail(r, MOE_ERR_UNSUPPORTED,
                      "config.json: rope scaling \"%.64s\" is not supported", type);
    }
}

void moe_read_rope(moe_reader *r, moe_rope_spec *rope, int n_ctx_train)
{
    const int width = rope->n_rot;

    /* the logarithm of the base is a divisor, so 1 is out */
    if (r->arch != NULL) {
        rope->base = moe_read_double_or(r, "rope.freq_base", NULL, 1.5, 1e15, 10000.0);
        rope->n_rot = moe_read_int_or(r, "rope.dimension_count", NULL, 1, MOE_MAX_HEAD_DIM, width);
        read_scaling_gguf(r, rope, n_ctx_train);
    } else if (r->config != NULL) {
        bool merged = json_is_object(json_object_get(r->config, "rope_parameters"));
        const char *object = merged ? "rope_parameters" : "rope_scaling";

        rope->base = moe_read_double_or(
            r, NULL, merged ? "rope_parameters.rope_theta" : "rope_theta", 1.5, 1e15, 10000.0);
        rope->n_rot =
            (int)(width * scaling_double_or(
                              r, object, "partial_rotary_factor", 0.0, 1.0,
                              moe_read_double_or(r, NULL, "partial_rotary_factor", 0.0, 1.0, 1.0)));
        if (json_is_object(json_object_get(r->config, object)))
            read_scaling_config(r, object, rope, n_ctx_train);
    }
    if (rope->n_rot < 2 || rope->n_rot % 2 != 0 || rope->n_rot > width)
        moe_read_fail(r, MOE_ERR_FORMAT, "%d of %d dimensions of a head can't be rotated",
                      rope->n_rot, width);
}
