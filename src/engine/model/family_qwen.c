/*
 * Qwen2, Qwen2-MoE, Qwen3 and Qwen3-MoE (arXiv 2407.10671, arXiv 2505.09388).
 *
 * The generations differ in two things: Qwen2 has biases at q, k and v, Qwen3 has RMS norms over
 * each head of q and k.  The MoE kinds route by softmax; Qwen2-MoE adds a shared expert behind a
 * sigmoid gate.  GGUF has no key for the renormalisation of the expert weights: it goes with the
 * architecture.
 */
#include "bind.h"
#include "families.h"
#include "spec_read.h"

#include <string.h>

typedef struct variant {
    const char *gguf_arch, *hf_class, *family;
    bool qkv_bias, qk_norm;
    bool experts, shared_expert;
    bool gguf_normalise;
} variant;

static const variant variants[] = {
    {"qwen2", "Qwen2ForCausalLM", "qwen2", .qkv_bias = true},
    {"qwen2moe", "Qwen2MoeForCausalLM", "qwen2_moe", .qkv_bias = true, .experts = true,
     .shared_expert = true},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", .qk_norm = true},
    {"qwen3moe", "Qwen3MoeForCausalLM", "qwen3_moe", .qk_norm = true, .experts = true,
     .gguf_normalise = true},
};

enum { N_VARIANTS = sizeof variants / sizeof variants[0] };

static const variant *find_variant(const moe_reader *r)
{
    for (int i = 0; i < N_VARIANTS; i++) {
        if (r->arch != NULL ? strcmp(variants[i].gguf_arch, r->arch) == 0
                            : strcmp(variants[i].hf_class, r->hf_class) == 0)
            return &variants[i];
    }
    return &variants[0]; /* not reached: the table of families holds the same names */
}

/* Which layers have experts: config.json may leave some dense. */
static void choose_moe_layers(moe_reader *r, moe_model_spec *spec)
{
    int every = moe_read_int_or(r, NULL, "decoder_sparse_step", 1, MOE_MAX_LAYERS, 1);
    const json_t *dense = json_object_get(r->config, "mlp_only_layers");
    size_t i;
    json_t *item;

    for (int l = 0; l < spec->n_layers; l++)
        spec->layers[l].is_moe = (l + 1) % every == 0;
    json_array_foreach(dense, i, item)
    {
        json_int_t l = json_integer_value(item);

        if (json_is_integer(item) && l >= 0 && l < spec->n_layers)
            spec->layers[l].is_moe = false;
    }
}

static void read_experts(moe_reader *r, moe_model_spec *spec, const variant *kind, int n_ff)
{
    moe_moe_spec *moe = &spec->moe;

    moe->n_experts = moe_read_int(r, "expert_count", "num_experts", 1, MOE_MAX_EXPERTS);
    moe->n_experts_used =
        moe_read_int(r, "expert_used_count", "num_experts_per_tok", 1, MOE_MAX_EXPERTS);
    /* old qwen2moe files split the dense width */
    moe->n_ff = moe_read_int_or(r, "expert_feed_forward_length", "moe_intermediate_size", 1,
                                MOE_MAX_FF, n_ff / moe->n_experts_used);
    moe->score = MOE_ROUTER_SOFTMAX;
    moe->normalise = moe_read_bool_or(r, "expert_weights_norm", "norm_topk_prob",
                                      r->arch != NULL && kind->gguf_normalise);
    if (kind->shared_expert) {
        moe->n_ff_shared = moe_read_int_or(r, "expert_shared_feed_forward_length",
                                           "shared_expert_intermediate_size", 1, MOE_MAX_FF, n_ff);
        moe->shared_gate = true;
    }
    moe_check_moe(r, moe);
    if (r->status == MOE_OK)
        choose_moe_layers(r, spec);
}

moe_status moe_qwen_read_spec(const moe_file *file, moe_model_spec *spec, moe_error *err)
{
    moe_reader r;
    const variant *kind;
    int n_ff;

    moe_reader_init(&r, file, err);
    kind = find_variant(&r);
    moe_read_common(&r, spec);
    spec->family = kind->family;
    spec->norm = MOE_NORM_RMS;
    spec->norm_eps =
        (float)moe_read_double(&r, "attention.layer_norm_rms_epsilon", "rms_norm_eps", 0.0, 0.1);
    spec->activation = MOE_ACTIVATION_SILU;
    moe_read_silu(&r);
    moe_read_gqa(&r, spec);
    spec->qk_norm_eps = kind->qk_norm ? spec->norm_eps : 0.0f;
    if (r.arch != NULL)
        moe_refuse_window(&r, spec);
    else if (moe_read_bool_or(&r, NULL, "use_sliding_window", false))
        moe_read_fail(
            &r, MOE_ERR_UNSUPPORTED,
            "sliding window attention (use_sliding_window) is not supported for this family");

    spec->rope.n_rot = spec->head_dim;
    spec->rope.style = MOE_ROPE_HALVES;
    moe_read_rope(&r, &spec->rope, spec->n_ctx_train);

    n_ff = moe_read_int(&r, "feed_forward_length", "intermediate_size", 1, MOE_MAX_FF);
    if (kind->experts)
        read_experts(&r, spec, kind, n_ff);
    for (int i = 0; r.status == MOE_OK && i < spec->n_layers; i++)
        spec->layers[i].n_ff = spec->layers[i].is_moe ? 0 : n_ff;
    return moe_read_end(&r, spec);
}

static void bind_moe(moe_binder *b, const moe_model_spec *spec)
{
    static const moe_expert_names names = {"mlp.gate.weight", "mlp.experts", "gate_proj.weight",
                                           "up_proj.weight", "down_proj.weight"};
    const int64_t n_embd = spec->n_embd, n_ff = spec->moe.n_ff_shared;

    moe_bind_experts(b, spec, &names);
    if (n_ff == 0)
        return;
    moe_bind_layer_matrix(b, MOE_SHARED_ROUTER, 1, 1, n_embd, "ffn_gate_inp_shexp.weight",
                          "mlp.shared_expert_gate.weight");
    moe_bind_layer_matrix(b, MOE_SHARED_GATE, 1, n_ff, n_embd, "ffn_gate_shexp.weight",
                          "mlp.shared_expert.gate_proj.weight");
    moe_bind_layer_matrix(b, MOE_SHARED_UP, 1, n_ff, n_embd, "ffn_up_shexp.weight",
                          "mlp.shared_expert.up_proj.weight");
    moe_bind_layer_matrix(b, MOE_SHARED_DOWN, 1, n_embd, n_ff, "ffn_down_shexp.weight",
                          "mlp.shared_expert.down_proj.weight");
}

moe_status moe_qwen_bind(const moe_file *file, const moe_model_spec *spec,
                         struct moe_weights *weights, moe_error *err)
{
    const bool qwen2 = strncmp(spec->family, "qwen2", 5) == 0;
    moe_binder b;

    moe_binder_init(&b, file, weights, err);
    moe_bind_decoder_globals(&b, spec);
    for (b.layer = 0; b.layer < spec->n_layers && b.status == MOE_OK; b.layer++) {
        moe_bind_gqa(&b, spec, qwen2, !qwen2);
        moe_bind_dense(&b, spec);
        if (spec->layers[b.layer].is_moe)
            bind_moe(&b, spec);
    }
    return b.status;
}
