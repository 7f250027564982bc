/*
 * Binding by pairs of names, and the parts that families share.
 */
#include "bind.h"

#include <stdio.h>
#include <string.h>

void moe_binder_init(moe_binder *b, const moe_file *file, moe_weights *weights, moe_error *err)
{
    memset(b, 0, sizeof *b);
    b->file = file;
    b->weights = weights;
    b->err = err;
    b->gguf = moe_file_format_of(file) == MOE_FILE_GGUF;
    /* embedding models are published without the head, and without the "model." around the rest */
    b->root = moe_file_tensor(file, "embed_tokens.weight") != NULL ? "" : "model.";
    b->layers = "layers.";
}

moe_tensor_name moe_layer_name(const moe_binder *b, const char *gguf, const char *hf)
{
    moe_tensor_name name;

    if (b->gguf)
        snprintf(name.text, sizeof name.text, "blk.%d.%s", b->layer, gguf);
    else
        snprintf(name.text, sizeof name.text, "%s%s%d.%s", b->root, b->layers, b->layer, hf);
    return name;
}

static moe_tensor_name global_name(const moe_binder *b, const char *gguf, const char *hf)
{
    moe_tensor_name name;

    snprintf(name.text, sizeof name.text, "%s%s", b->gguf ? "" : b->root, b->gguf ? gguf : hf);
    return name;
}

const moe_tensor *moe_require_tensor(moe_binder *b, const char *name, int64_t n_rows,
                                     int64_t n_cols)
{
    const moe_tensor *tensor = moe_file_tensor(b->file, name);
    int64_t rows;

    if (b->status != MOE_OK)
        return NULL;
    if (tensor == NULL) {
        b->status = moe_fail(b->err, MOE_ERR_FORMAT, "tensor \"%s\" is missing", name);
        return NULL;
    }
    if (tensor->dims[0] != n_cols ||
        __builtin_mul_overflow(tensor->dims[1], tensor->dims[2], &rows) ||
        __builtin_mul_overflow(rows, tensor->dims[3], &rows) || rows != n_rows) {
        b->status =
            moe_fail(b->err, MOE_ERR_FORMAT,
                     "tensor \"%s\" has shape (%lld, %lld, %lld), expected %lld rows of %lld", name,
                     (long long)tensor->dims[2], (long long)tensor->dims[1],
                     (long long)tensor->dims[0], (long long)n_rows, (long long)n_cols);
        return NULL;
    }
    return tensor;
}

void moe_bind_layer_vector(moe_binder *b, moe_layer_slot slot, int64_t n, bool optional,
                           const char *gguf, const char *hf)
{
    if (b->status == MOE_OK)
        b->status = moe_bind_vector(&b->weights->layers[b->layer][slot], b->file, n, optional,
                                    b->err, "%s", moe_layer_name(b, gguf, hf).text);
}

void moe_bind_layer_matrix(moe_binder *b, moe_layer_slot slot, int64_t n_mats, int64_t n_rows,
                           int64_t n_cols, const char *gguf, const char *hf)
{
    if (b->status == MOE_OK)
        b->status = moe_bind_matrix(&b->weights->layers[b->layer][slot], b->file, n_mats, n_rows,
                                    n_cols, false, b->err, "%s", moe_layer_name(b, gguf, hf).text);
}

void moe_bind_global_vector(moe_binder *b, moe_global_slot slot, int64_t n, const char *gguf,
                            const char *hf)
{
    if (b->status == MOE_OK)
        b->status = moe_bind_vector(&b->weights->global[slot], b->file, n, false, b->err, "%s",
                                    global_name(b, gguf, hf).text);
}

void moe_bind_global_matrix(moe_binder *b, moe_global_slot slot, int64_t n_rows, int64_t n_cols,
                            const char *gguf, const char *hf)
{
    if (b->status == MOE_OK)
        b->status = moe_bind_matrix(&b->weights->global[slot], b->file, 1, n_rows, n_cols, false,
                                    b->err, "%s", global_name(b, gguf, hf).text);
}

void moe_bind_layer_piece(moe_binder *b, moe_layer_slot slot, const moe_tensor *tensor, int64_t row,
                          int64_t n_rows, bool transposed, int64_t n_mats, int64_t mat_rows,
                          int64_t mat_cols)
{
    if (b->status == MOE_OK)
        b->status = moe_bind_piece(&b->weights->layers[b->layer][slot], tensor, row, n_rows,
                                   transposed, n_mats, mat_rows, mat_cols, b->err);
}

void moe_bind_decoder_globals(moe_binder *b, const moe_model_spec *spec)
{
    const char *head = b->gguf ? "output.weight" : "lm_head.weight";
    bool tied;

    moe_bind_global_matrix(b, MOE_TOKEN_EMBD, spec->n_vocab, spec->n_embd, "token_embd.weight",
                           "embed_tokens.weight");
    moe_bind_global_vector(b, MOE_OUTPUT_NORM, spec->n_embd, "output_norm.weight", "norm.weight");
    /* a tied checkpoint may still carry a copy of the table as its head */
    if (b->gguf)
        tied = moe_file_tensor(b->file, head) == NULL;
    else
        tied = json_is_true(
            json_object_get(moe_file_json(b->file, "config.json"), "tie_word_embeddings"));
    if (!tied && b->status == MOE_OK)
        b->status = moe_bind_matrix(&b->weights->global[MOE_OUTPUT], b->file, 1, spec->n_vocab,
                                    spec->n_embd, false, b->err, "%s", head);
}

void moe_bind_gqa(moe_binder *b, const moe_model_spec *spec, bool need_bias, bool need_qk_norm)
{
    const int64_t n_q = (int64_t)spec->n_heads * spec->head_dim;
    const int64_t n_k = (int64_t)spec->n_kv_heads * spec->head_dim;
    const int64_t n_v = (int64_t)spec->n_kv_heads * spec->head_dim_v;
    const int64_t n_o = (int64_t)spec->n_heads * spec->head_dim_v;

    moe_bind_layer_vector(b, MOE_ATTN_NORM, spec->n_embd, false, "attn_norm.weight",
                          "input_layernorm.weight");
    moe_bind_layer_matrix(b, MOE_Q, 1, n_q, spec->n_embd, "attn_q.weight",
                          "self_attn.q_proj.weight");
    moe_bind_layer_matrix(b, MOE_K, 1, n_k, spec->n_embd, "attn_k.weight",
                          "self_attn.k_proj.weight");
    moe_bind_layer_matrix(b, MOE_V, 1, n_v, spec->n_embd, "attn_v.weight",
                          "self_attn.v_proj.weight");
    moe_bind_layer_matrix(b, MOE_O, 1, spec->n_embd, n_o, "attn_output.weight",
                          "self_attn.o_proj.weight");
    moe_bind_layer_vector(b, MOE_Q_BIAS, n_q, !need_bias, "attn_q.bias", "self_attn.q_proj.bias");
    moe_bind_layer_vector(b, MOE_K_BIAS, n_k, !need_bias, "attn_k.bias", "self_attn.k_proj.bias");
    moe_bind_layer_vector(b, MOE_V_BIAS, n_v, !need_bias, "attn_v.bias", "self_attn.v_proj.bias");
    moe_bind_layer_vector(b, MOE_O_BIAS, spec->n_embd, true, "attn_output.bias",
                          "self_attn.o_proj.bias");
    if (need_qk_norm) {
        moe_bind_layer_vector(b, MOE_Q_NORM, spec->head_dim, false, "attn_q_norm.weight",
                              "self_attn.q_norm.weight");
        moe_bind_layer_vector(b, MOE_K_NORM, spec->head_dim, false, "attn_k_norm.weight",
                              "self_attn.k_norm.weight");
    }
}

void moe_bind_dense(moe_binder *b, const moe_model_spec *spec)
{
    const moe_layer_spec *layer = &spec->layers[b->layer];
    const moe_tensor_name bias = moe_layer_name(b, "ffn_gate.bias", "mlp.gate_proj.bias");

    moe_bind_layer_vector(b, MOE_FFN_NORM, spec->n_embd, false, "ffn_norm.weight",
                          "post_attention_layernorm.weight");
    if (layer->is_moe)
        return;
    if (b->status == MOE_OK && moe_file_tensor(b->file, bias.text) != NULL)
        b->status =
            moe_fail(b->err, MOE_ERR_UNSUPPORTED,
                     "tensor \"%s\": biases of the feed-forward are not supported for this family",
                     bias.text);
    moe_bind_layer_matrix(b, MOE_GATE, 1, layer->n_ff, spec->n_embd, "ffn_gate.weight",
                          "mlp.gate_proj.weight");
    moe_bind_layer_matrix(b, MOE_UP, 1, layer->n_ff, spec->n_embd, "ffn_up.weight",
                          "mlp.up_proj.weight");
    moe_bind_layer_matrix(b, MOE_DOWN, 1, spec->n_embd, layer->n_ff, "ffn_down.weight",
                          "mlp.down_proj.weight");
}

/* One tensor per expert: "<before>.K<after>" within the layer. */
static void bind_expert_list(moe_binder *b, moe_layer_slot slot, const char *before,
                             const char *after, int n_experts, int64_t n_rows, int64_t n_cols)
{
    for (int e = 0; e < n_experts && b->status == MOE_OK; e++) {
        char name[96];
        const moe_tensor *tensor;

        snprintf(name, sizeof name, "%s.%d.%s", before, e, after);
        tensor = moe_require_tensor(b, moe_layer_name(b, name, name).text, n_rows, n_cols);
        if (tensor != NULL)
            moe_bind_layer_piece(b, slot, tensor, 0, n_rows, false, n_experts, n_rows, n_cols);
    }
}

/* Gate and up of all experts in one tensor, (n_experts, 2 * n_ff, n_embd), gate rows first. */
static void bind_merged_gate_up(moe_binder *b, const moe_model_spec *spec, const char *name)
{
    const int64_t n_ff = spec->moe.n_ff;
    const moe_tensor *tensor =
        moe_require_tensor(b, name, spec->moe.n_experts * 2 * n_ff, spec->n_embd);

    for (int64_t e = 0; tensor != NULL && e < spec->moe.n_experts; e++) {
        moe_bind_layer_piece(b, MOE_EXPERT_GATE, tensor, e * 2 * n_ff, n_ff, false,
                             spec->moe.n_experts, n_ff, spec->n_embd);
        moe_bind_layer_piece(b, MOE_EXPERT_UP, tensor, e * 2 * n_ff + n_ff, n_ff, false,
                             spec->moe.n_experts, n_ff, spec->n_embd);
    }
}

void moe_bind_experts(moe_binder *b, const moe_model_spec *spec, const moe_expert_names *names)
{
    const int n_experts = spec->moe.n_experts;
    const int64_t n_ff = spec->moe.n_ff, n_embd = spec->n_embd;
    const struct {
        moe_layer_slot slot;
        const char *all, *old, *one; /* GGUF: all in one; one each. HF: one each */
        int64_t n_rows, n_cols;
    } parts[] = {
        {MOE_EXPERT_GATE, "ffn_gate_exps.weight", "ffn_gate", names->gate, n_ff, n_embd},
        {MOE_EXPERT_UP, "ffn_up_exps.weight", "ffn_up", names->up, n_ff, n_embd},
        {MOE_EXPERT_DOWN, "ffn_down_exps.weight", "ffn_down", names->down, n_embd, n_ff},
    };
    char gate_up[64], down[64];
    moe_tensor_name merged;
    bool old;

    moe_bind_layer_matrix(b, MOE_ROUTER, 1, n_experts, n_embd, "ffn_gate_inp.weight",
                          names->router);
    snprintf(gate_up, sizeof gate_up, "%s.gate_up_proj", names->experts);
    snprintf(down, sizeof down, "%s.down_proj", names->experts);
    merged = moe_layer_name(b, "ffn_gate_up_exps.weight", gate_up);
    if (moe_file_tensor(b->file, merged.text) != NULL) {
        bind_merged_gate_up(b, spec, merged.text);
        moe_bind_layer_matrix(b, MOE_EXPERT_DOWN, n_experts, n_embd, n_ff, "ffn_down_exps.weight",
                              down);
        return;
    }
    old = moe_file_tensor(b->file, moe_layer_name(b, "ffn_gate.0.weight", "").text) != NULL;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (b->gguf && !old)
            moe_bind_layer_matrix(b, parts[i].slot, n_experts, parts[i].n_rows, parts[i].n_cols,
                                  parts[i].all, NULL);
        else if (b->gguf)
            bind_expert_list(b, parts[i].slot, parts[i].old, "weight", n_experts, parts[i].n_rows,
                             parts[i].n_cols);
        else
            bind_expert_list(b, parts[i].slot, names->experts, parts[i].one, n_experts,
                             parts[i].n_rows, parts[i].n_cols);
    }
}
