/*
 * Llama 2 and 3, Mistral without a sliding window, and Mixtral (the same network with experts in
 * place of the dense feed-forward; arXiv 2401.04088).
 *
 * GGUF calls all of them "llama" and stores the rows of q and k permuted, so that rotated pairs are
 * neighbours; Hugging Face checkpoints pair the halves of a head.  Llama 3's frequency-dependent
 * rope scaling is in config.json, or in GGUF the finished divisors (rope_freqs.weight).
 */
#include "bind.h"
#include "families.h"
#include "spec_read.h"

#include <math.h>
#include <stdlib.h>

static void read_rope_divisors(moe_reader *r, moe_rope_spec *rope)
{
    const moe_tensor *tensor = moe_file_tensor(r->file, "rope_freqs.weight");
    const int n = rope->n_rot / 2;
    const size_t size = (size_t)n * sizeof *rope->divisors;

    if (r->status != MOE_OK || r->arch == NULL || tensor == NULL)
        return;
    if (tensor->type != MOE_TYPE_F32 || tensor->dims[0] != n || tensor->dims[1] != 1 ||
        tensor->dims[2] != 1 || tensor->dims[3] != 1) {
        moe_read_fail(r, MOE_ERR_FORMAT, "tensor \"rope_freqs.weight\" must hold %d F32 values", n);
        return;
    }
    rope->divisors = malloc(size);
    if (rope->divisors == NULL) {
        r->status = moe_fail_memory(r->err, size);
        return;
    }
    r->status = moe_file_read(r->file, tensor, 0, size, rope->divisors, r->err);
    for (int i = 0; r->status == MOE_OK && i < n; i++) {
        if (!isfinite(rope->divisors[i]) || rope->divisors[i] <= 0.0f)
            moe_read_fail(r, MOE_ERR_FORMAT, "tensor \"rope_freqs.weight\" holds %g",
                          (double)rope->divisors[i]);
    }
}

static void read_experts(moe_reader *r, moe_model_spec *spec)
{
    moe_moe_spec *moe = &spec->moe;

    moe->n_experts = moe_read_int_or(r, "expert_count", "num_local_experts", 0, MOE_MAX_EXPERTS, 0);
    if (r->status != MOE_OK || moe->n_experts == 0)
        return;
    moe->n_experts_used =
        moe_read_int(r, "expert_used_count", "num_experts_per_tok", 1, MOE_MAX_EXPERTS);
    moe->n_ff = moe_read_int(r, "feed_forward_length", "intermediate_size", 1, MOE_MAX_FF);
    moe->score = MOE_ROUTER_SOFTMAX;
    moe->normalise = true;
    moe_check_moe(r, moe);
}

moe_status moe_llama_read_spec(const moe_file *file, moe_model_spec *spec, moe_error *err)
{
    moe_reader r;
    int n_ff;

    moe_reader_init(&r, file, err);
    moe_read_common(&r, spec);
    spec->norm = MOE_NORM_RMS;
    spec->norm_eps =
        (float)moe_read_double(&r, "attention.layer_norm_rms_epsilon", "rms_norm_eps", 0.0, 0.1);
    spec->activation = MOE_ACTIVATION_SILU;
    moe_read_silu(&r);
    moe_read_gqa(&r, spec);
    moe_refuse_window(&r, spec);

    spec->rope.n_rot = spec->head_dim;
    spec->rope.style = r.arch != NULL ? MOE_ROPE_INTERLEAVED : MOE_ROPE_HALVES;
    moe_read_rope(&r, &spec->rope, spec->n_ctx_train);
    read_rope_divisors(&r, &spec->rope);

    n_ff = moe_read_int(&r, "feed_forward_length", "intermediate_size", 1, MOE_MAX_FF);
    read_experts(&r, spec);
    for (int i = 0; r.status == MOE_OK && i < spec->n_layers; i++) {
        spec->layers[i].is_moe = spec->moe.n_experts > 0;
        spec->layers[i].n_ff = spec->layers[i].is_moe ? 0 : n_ff;
    }
    spec->family = spec->moe.n_experts > 0 ? "mixtral" : "llama";
    return moe_read_end(&r, spec);
}

moe_status moe_llama_bind(const moe_file *file, const moe_model_spec *spec,
                          struct moe_weights *weights, moe_error *err)
{
    static const moe_expert_names names = {"block_sparse_moe.gate.weight",
                                           "block_sparse_moe.experts", "w1.weight", "w3.weight",
                                           "w2.weight"};
    moe_binder b;

    moe_binder_init(&b, file, weights, err);
    moe_bind_decoder_globals(&b, spec);
    for (b.layer = 0; b.layer < spec->n_layers && b.status == MOE_OK; b.layer++) {
        moe_bind_gqa(&b, spec, false, false);
        moe_bind_dense(&b, spec);
        if (spec->layers[b.layer].is_moe)
            moe_bind_experts(&b, spec, &names);
    }
    return b.status;
}
