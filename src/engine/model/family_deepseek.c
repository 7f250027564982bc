/*
 * DeepSeek-V2, V2-Lite, V3, R1, V3.1 and Kimi-K2: multi-head latent attention and experts with
 * shared ones.
 *
 * Reference: arXiv 2405.04434 (V2), arXiv 2412.19437 (V3), and the model code published with
 * the checkpoints.  V2 routes by softmax and scores a group of experts by its best one; V3 routes
 * by sigmoid with a selection bias and scores a group by its two best.  GGUF files of several ages
 * are read: those with key_length_mla keep kv_b split into attn_k_b (transposed) and attn_v_b,
 * older ones keep attn_kv_b as it is in the checkpoint; the oldest lack the keys for gating
 * function and groups.
 */
#include "bind.h"
#include "families.h"
#include "spec_read.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A selection bias in any layer tells V3 from V2 in GGUF files without the gating key. */
static bool has_select_bias(const moe_file *file, int n_layers)
{
    for (int i = 0; i < n_layers; i++) {
        char name[48];

        snprintf(name, sizeof name, "blk.%d.exp_probs_b.bias", i);
        if (moe_file_tensor(file, name) != NULL)
            return true;
        snprintf(name, sizeof name, "blk.%d.exp_probs_b", i);
        if (moe_file_tensor(file, name) != NULL)
            return true;
    }
    return false;
}

static void read_router_gguf(moe_reader *r, moe_model_spec *spec)
{
    enum { GATING_NONE, GATING_SOFTMAX, GATING_SIGMOID };
    moe_moe_spec *moe = &spec->moe;
    const bool bias = has_select_bias(r->file, spec->n_layers);
    int gating = moe_read_int_or(r, "expert_gating_func", NULL, 0, 255, GATING_NONE);
    int n_groups = 1, n_groups_used = 1;

    if (gating == GATING_NONE)
        gating = bias ? GATING_SIGMOID : GATING_SOFTMAX;
    if (gating != GATING_SOFTMAX && gating != GATING_SIGMOID)
        moe_read_fail(r, MOE_ERR_UNSUPPORTED, "expert gating function %d is not supported", gating);
    moe->score = gating == GATING_SIGMOID ? MOE_ROUTER_SIGMOID : MOE_ROUTER_SOFTMAX;
    moe->group_score = gating == GATING_SIGMOID ? MOE_GROUP_TOP2_SUM : MOE_GROUP_MAX;

    /* converters wrote no groups before October 2025; the published models have these */
    if (gating == GATING_SIGMOID && bias && moe->n_experts == 256) {
        n_groups = 8;
        n_groups_used = 4;
    } else if (gating == GATING_SOFTMAX && moe->n_experts == 160) {
        n_groups = 8;
        n_groups_used = 3;
    }
    moe->n_groups = moe_read_int_or(r, "expert_group_count", NULL, 0, MOE_MAX_EXPERTS, n_groups);
    moe->n_groups_used =
        moe_read_int_or(r, "expert_group_used_count", NULL, 0, MOE_MAX_EXPERTS, n_groups_used);
    if (moe->n_groups == 0 || moe->n_groups_used == 0)
        moe->n_groups = moe->n_groups_used = 1;
}

static void read_router_config(moe_reader *r, moe_model_spec *spec, bool v3)
{
    moe_moe_spec *moe = &spec->moe;
    const char *score = moe_read_string_or(r, NULL, "scoring_func", v3 ? "sigmoid" : "softmax");
    const char *method = moe_read_string_or(r, NULL, "topk_method", v3 ? "noaux_tc" : "greedy");

    if (strcmp(score, "sigmoid") == 0)
        moe->score = MOE_ROUTER_SIGMOID;
    else if (strcmp(score, "softmax") == 0)
        moe->score = MOE_ROUTER_SOFTMAX;
    else
        moe_read_fail(r, MOE_ERR_UNSUPPORTED, "scoring_func \"%.64s\" is not supported", score);
    if (strcmp(method, "noaux_tc") == 0)
        moe->group_score = MOE_GROUP_TOP2_SUM;
    else if (strcmp(method, "group_limited_greedy") == 0 || strcmp(method, "greedy") == 0)
        moe->group_score = MOE_GROUP_MAX;
    else
        moe_read_fail(r, MOE_ERR_UNSUPPORTED, "topk_method \"%.64s\" is not supported", method);
    if (strcmp(method, "greedy") == 0)
        return; /* whatever the group keys say */
    moe->n_groups = moe_read_int_or(r, NULL, "n_group", 1, MOE_MAX_EXPERTS, 1);
    moe->n_groups_used = moe_read_int_or(r, NULL, "topk_group", 1, MOE_MAX_EXPERTS, 1);
}

static void read_experts(moe_reader *r, moe_model_spec *spec, bool v3)
{
    moe_moe_spec *moe = &spec->moe;
    int first, every, n_shared;

    moe->n_experts = moe_read_int_or(r, "expert_count", "n_routed_experts", 0, MOE_MAX_EXPERTS, 0);
    if (r->status != MOE_OK || moe->n_experts == 0)
        return;
    moe->n_experts_used =
        moe_read_int(r, "expert_used_count", "num_experts_per_tok", 1, MOE_MAX_EXPERTS);
    moe->n_ff =
        moe_read_int(r, "expert_feed_forward_length", "moe_intermediate_size", 1, MOE_MAX_FF);
    n_shared = moe_read_int_or(r, "expert_shared_count", "n_shared_experts", 0, MOE_MAX_EXPERTS, 0);
    if (n_shared > MOE_MAX_FF / moe->n_ff)
        moe_read_fail(r, MOE_ERR_FORMAT, "%d shared experts of width %d are too many", n_shared,
                      moe->n_ff);
    else
        moe->n_ff_shared = n_shared * moe->n_ff;
    moe->normalise = moe_read_bool_or(r, "expert_weights_norm", "norm_topk_prob", v3);
    moe->normalise_floor = moe->normalise ? 1e-20 : 0.0;
    moe->scale =
        moe_read_double_or(r, "expert_weights_scale", "routed_scaling_factor", 0.0, 1e6, 1.0);
    if (moe->scale == 0.0 && r->arch != NULL)
        moe->scale = 1.0; /* GGUF: unset */

    if (r->arch != NULL)
        read_router_gguf(r, spec);
    else
        read_router_config(r, spec, v3);
    moe_check_moe(r, moe);

    first = moe_read_int_or(r, "leading_dense_block_count", "first_k_dense_replace", 0,
                            MOE_MAX_LAYERS, 0);
    every = moe_read_int_or(r, NULL, "moe_layer_freq", 1, MOE_MAX_LAYERS, 1);
    for (int i = 0; i < spec->n_layers; i++)
        spec->layers[i].is_moe = i >= first && i % every == 0;
}

static void read_attention(moe_reader *r, moe_model_spec *spec)
{
    spec->attention = MOE_ATTENTION_MLA;
    spec->n_heads =
        moe_read_int(r, "attention.head_count", "num_attention_heads", 1, MOE_MAX_HEADS);
    spec->n_kv_heads = 1;
    spec->kv_lora_rank = moe_read_int(r, "attention.kv_lora_rank", "kv_lora_rank", 1, MOE_MAX_EMBD);
    spec->q_lora_rank =
        moe_read_int_or(r, "attention.q_lora_rank", "q_lora_rank", 0, MOE_MAX_EMBD, 0);
    spec->head_dim_rope =
        moe_read_int(r, "rope.dimension_count", "qk_rope_head_dim", 2, MOE_MAX_HEAD_DIM);
    if (r->arch == NULL) {
        spec->head_dim =
            spec->head_dim_rope + moe_read_int(r, NULL, "qk_nope_head_dim", 1, MOE_MAX_HEAD_DIM);
        spec->head_dim_v = moe_read_int(r, NULL, "v_head_dim", 1, MOE_MAX_HEAD_DIM);
    } else {
        /* with the _mla keys, key_length and value_length are those of the latent cache */
        bool mla = moe_read_has(r, "attention.key_length_mla", NULL);

        spec->head_dim = moe_read_int(r, mla ? "attention.key_length_mla" : "attention.key_length",
                                      NULL, 1, MOE_MAX_HEAD_DIM);
        spec->head_dim_v =
            moe_read_int(r, mla ? "attention.value_length_mla" : "attention.value_length", NULL, 1,
                         MOE_MAX_HEAD_DIM);
    }
    if (spec->head_dim <= spec->head_dim_rope)
        moe_read_fail(r, MOE_ERR_FORMAT, "heads of width %d can't have a rotated part of %d",
                      spec->head_dim, spec->head_dim_rope);
    if (moe_read_bool_or(r, NULL, "attention_bias", false))
        moe_read_fail(r, MOE_ERR_UNSUPPORTED, "attention_bias is not supported for this family");
}

/* YaRN's temperature goes into the scores, mscale^2 / sqrt(head_dim), as in DeepSeek's own code. */
static void read_attention_scale(moe_reader *r, moe_model_spec *spec)
{
    double mscale_all_dim, mscale = 1.0;

    if (r->arch != NULL) {
        /* stored as 0.1 * mscale_all_dim in float32: past the sixth digit there is only rounding */
        mscale_all_dim =
            moe_read_double_or(r, "rope.scaling.yarn_log_multiplier", NULL, 0.0, 1e3, 0.0);
        mscale_all_dim = rint(mscale_all_dim * 1e7) / 1e6;
    } else if (json_is_object(json_object_get(r->config, "rope_parameters"))) {
        mscale_all_dim =
            moe_read_double_or(r, NULL, "rope_parameters.mscale_all_dim", 0.0, 1e4, 0.0);
    } else {
        mscale_all_dim = moe_read_double_or(r, NULL, "rope_scaling.mscale_all_dim", 0.0, 1e4, 0.0);
    }
    if (spec->rope.scaling == MOE_ROPE_SCALING_YARN)
        mscale = moe_yarn_mscale(spec->rope.factor, mscale_all_dim);
    spec->attention_scale = (float)(mscale * mscale / sqrt(spec->head_dim));
}

moe_status moe_deepseek_read_spec(const moe_file *file, moe_model_spec *spec, moe_error *err)
{
    moe_reader r;
    bool v3;
    int n_ff;

    moe_reader_init(&r, file, err);
    moe_read_common(&r, spec);
    v3 = r.hf_class != NULL && strcmp(r.hf_class, "DeepseekV3ForCausalLM") == 0;
    spec->norm = MOE_NORM_RMS;
    spec->norm_eps =
        (float)moe_read_double(&r, "attention.layer_norm_rms_epsilon", "rms_norm_eps", 0.0, 0.1);
    spec->activation = MOE_ACTIVATION_SILU;
    moe_read_silu(&r);
    read_attention(&r, spec);

    spec->rope.n_rot = spec->head_dim_rope;
    spec->rope.style = moe_read_bool_or(&r, NULL, "rope_interleave", true) ? MOE_ROPE_INTERLEAVED
                                                                           : MOE_ROPE_HALVES;
    moe_read_rope(&r, &spec->rope, spec->n_ctx_train);
    if (spec->rope.n_rot != spec->head_dim_rope)
        moe_read_fail(&r, MOE_ERR_UNSUPPORTED, "partial rotation is not supported for this family");
    read_attention_scale(&r, spec);

    n_ff = moe_read_int(&r, "feed_forward_length", "intermediate_size", 1, MOE_MAX_FF);
    read_experts(&r, spec, v3);
    for (int i = 0; r.status == MOE_OK && i < spec->n_layers; i++)
        spec->layers[i].n_ff = spec->layers[i].is_moe ? 0 : n_ff;
    spec->family = spec->moe.score == MOE_ROUTER_SIGMOID ? "deepseek_v3" : "deepseek_v2";
    return moe_read_end(&r, spec);
}

/* kv_b holds for each head the rows of k (nope, rank), then of v (head_dim_v, rank). */
static void bind_kv_b(moe_binder *b, const moe_model_spec *spec)
{
    const int64_t nope = spec->head_dim - spec->head_dim_rope, rank = spec->kv_lora_rank;
    const int64_t per_head = nope + spec->head_dim_v;
    const moe_tensor *kv_b = moe_require_tensor(
        b, moe_layer_name(b, "attn_kv_b.weight", "self_attn.kv_b_proj.weight").text,
        spec->n_heads * per_head, rank);

    if (kv_b == NULL)
        return;
    for (int64_t h = 0; h < spec->n_heads; h++) {
        moe_bind_layer_piece(b, MOE_K_B, kv_b, h * per_head, nope, true, spec->n_heads, rank, nope);
        moe_bind_layer_piece(b, MOE_V_B, kv_b, h * per_head + nope, spec->head_dim_v, false,
                             spec->n_heads, spec->head_dim_v, rank);
    }
}

static void bind_attention(moe_binder *b, const moe_model_spec *spec)
{
    const int64_t n_embd = spec->n_embd, n_heads = spec->n_heads, rank = spec->kv_lora_rank;
    const int64_t nope = spec->head_dim - spec->head_dim_rope;
    const int64_t n_q = n_heads * spec->head_dim;

    moe_bind_layer_vector(b, MOE_ATTN_NORM, n_embd, false, "attn_norm.weight",
                          "input_layernorm.weight");
    if (spec->q_lora_rank == 0) {
        moe_bind_layer_matrix(b, MOE_Q, 1, n_q, n_embd, "attn_q.weight", "self_attn.q_proj.weight");
    } else {
        moe_bind_layer_matrix(b, MOE_Q_A, 1, spec->q_lora_rank, n_embd, "attn_q_a.weight",
                              "self_attn.q_a_proj.weight");
        moe_bind_layer_vector(b, MOE_Q_A_NORM, spec->q_lora_rank, false, "attn_q_a_norm.weight",
                              "self_attn.q_a_layernorm.weight");
        moe_bind_layer_matrix(b, MOE_Q_B, 1, n_q, spec->q_lora_rank, "attn_q_b.weight",
                              "self_attn.q_b_proj.weight");
    }
    moe_bind_layer_matrix(b, MOE_KV_A, 1, rank + spec->head_dim_rope, n_embd,
                          "attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight");
    moe_bind_layer_vector(b, MOE_KV_A_NORM, rank, false, "attn_kv_a_norm.weight",
                          "self_attn.kv_a_layernorm.weight");
    if (b->gguf &&
        moe_file_tensor(b->file, moe_layer_name(b, "attn_k_b.weight", "").text) != NULL) {
        moe_bind_layer_matrix(b, MOE_K_B, n_heads, rank, nope, "attn_k_b.weight", NULL);
        moe_bind_layer_matrix(b, MOE_V_B, n_heads, spec->head_dim_v, rank, "attn_v_b.weight", NULL);
    } else {
        bind_kv_b(b, spec);
    }
    moe_bind_layer_matrix(b, MOE_O, 1, n_embd, n_heads * spec->head_dim_v, "attn_output.weight",
                          "self_attn.o_proj.weight");
}

static void bind_moe(moe_binder *b, const moe_model_spec *spec)
{
    static const moe_expert_names names = {"mlp.gate.weight", "mlp.experts", "gate_proj.weight",
                                           "up_proj.weight", "down_proj.weight"};
    const int64_t n_embd = spec->n_embd, n_ff = spec->moe.n_ff_shared;
    const bool bare =
        b->gguf && moe_file_tensor(b->file, moe_layer_name(b, "exp_probs_b", "").text) != NULL;

    moe_bind_experts(b, spec, &names);
    moe_bind_layer_vector(
        b, MOE_ROUTER_SELECT_BIAS, spec->moe.n_experts, spec->moe.score == MOE_ROUTER_SOFTMAX,
        bare ? "exp_probs_b" : "exp_probs_b.bias", "mlp.gate.e_score_correction_bias");
    if (n_ff == 0)
        return;
    moe_bind_layer_matrix(b, MOE_SHARED_GATE, 1, n_ff, n_embd, "ffn_gate_shexp.weight",
                          "mlp.shared_experts.gate_proj.weight");
    moe_bind_layer_matrix(b, MOE_SHARED_UP, 1, n_ff, n_embd, "ffn_up_shexp.weight",
                          "mlp.shared_experts.up_proj.weight");
    moe_bind_layer_matrix(b, MOE_SHARED_DOWN, 1, n_embd, n_ff, "ffn_down_shexp.weight",
                          "mlp.shared_experts.down_proj.weight");
}

moe_status moe_deepseek_bind(const moe_file *file, const moe_model_spec *spec,
                             struct moe_weights *weights, moe_error *err)
{
    moe_binder b;

    moe_binder_init(&b, file, weights, err);
    moe_bind_decoder_globals(&b, spec);
    for (b.layer = 0; b.layer < spec->n_layers && b.status == MOE_OK; b.layer++) {
        bind_attention(&b, spec);
        moe_bind_dense(&b, spec);
        if (spec->layers[b.layer].is_moe)
            bind_moe(&b, spec);
    }
    return b.status;
}
