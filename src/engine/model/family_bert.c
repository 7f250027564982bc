/*
 * BERT encoders (arXiv 1810.04805): MiniLM, bge, gte and their like.
 *
 * Embeddings of token, position and token type 0 are added and normalised; every layer normalises
 * after each residual sum.  The pooler and the heads of masked-LM checkpoints are left out.  GELU
 * is the exact form in both file formats, as the checkpoints were trained.
 */
#include "bind.h"
#include "families.h"
#include "spec_read.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static moe_activation read_activation(moe_reader *r)
{
    const char *act = moe_read_string_or(r, NULL, "hidden_act", "gelu");

    if (strcmp(act, "gelu_new") == 0 || strcmp(act, "gelu_pytorch_tanh") == 0)
        return MOE_ACTIVATION_GELU_TANH;
    if (strcmp(act, "gelu") != 0)
        moe_read_fail(r, MOE_ERR_UNSUPPORTED,
                      "activation \"%.64s\" is not supported for this family", act);
    return MOE_ACTIVATION_GELU_ERF;
}

/* Refuses relatives that share the name but not the network. */
static void check_kind(moe_reader *r)
{
    const char *positions = moe_read_string_or(r, NULL, "position_embedding_type", "absolute");

    if (strcmp(positions, "absolute") != 0)
        moe_read_fail(r, MOE_ERR_UNSUPPORTED, "position_embedding_type \"%.64s\" is not supported",
                      positions);
    if (moe_read_bool_or(r, "attention.causal", "is_decoder", false))
        moe_read_fail(r, MOE_ERR_UNSUPPORTED, "BERT as a decoder is not supported");
}

static int read_token_types(moe_reader *r)
{
    const moe_tensor *table;

    if (r->arch == NULL)
        return moe_read_int_or(r, NULL, "type_vocab_size", 0, 4096, 2);
    table = moe_file_tensor(r->file, "token_types.weight");
    if (table == NULL)
        return 0;
    if (table->dims[1] < 1 || table->dims[1] > 4096)
        moe_read_fail(r, MOE_ERR_FORMAT, "tensor \"token_types.weight\" has %lld rows",
                      (long long)table->dims[1]);
    return (int)(table->dims[1] & 0xffff);
}

/* Texts are cut at the length that the sentence model was made for. */
static int read_max_tokens(moe_reader *r, int n_positions)
{
    const json_t *config = moe_file_json(r->file, "sentence_bert_config.json");
    json_int_t n = json_integer_value(json_object_get(config, "max_seq_length"));

    return n >= 1 && n < n_positions ? (int)n : n_positions;
}

moe_status moe_bert_read_spec(const moe_file *file, moe_model_spec *spec, moe_error *err)
{
    moe_reader r;
    int n_ff;

    moe_reader_init(&r, file, err);
    moe_read_common(&r, spec);
    check_kind(&r);
    spec->family = "bert";
    spec->causal = false;
    spec->post_norm = true;
    spec->norm = MOE_NORM_LAYER;
    spec->norm_eps =
        (float)moe_read_double(&r, "attention.layer_norm_epsilon", "layer_norm_eps", 0.0, 0.1);
    spec->activation = read_activation(&r);
    spec->gated_ffn = false;
    moe_read_gqa(&r, spec);
    spec->rope.style = MOE_ROPE_NONE;
    spec->n_positions = spec->n_ctx_train;
    spec->n_token_types = read_token_types(&r);
    spec->embed_max_tokens = read_max_tokens(&r, spec->n_positions);
    n_ff = moe_read_int(&r, "feed_forward_length", "intermediate_size", 1, MOE_MAX_FF);
    for (int i = 0; r.status == MOE_OK && i < spec->n_layers; i++)
        spec->layers[i].n_ff = n_ff;
    return moe_read_end(&r, spec);
}

/* LayerNorm weight and bias; checkpoints from TensorFlow days call them gamma and beta. */
static void bind_layer_norm(moe_binder *b, moe_layer_slot weight, moe_layer_slot bias, int64_t n,
                            const char *gguf, const char *hf)
{
    char gguf_name[2][64], hf_name[2][64];
    bool gamma;

    snprintf(hf_name[0], sizeof hf_name[0], "%s.gamma", hf);
    gamma = !b->gguf && moe_file_tensor(b->file, moe_layer_name(b, "", hf_name[0]).text) != NULL;
    snprintf(gguf_name[0], sizeof gguf_name[0], "%s.weight", gguf);
    snprintf(gguf_name[1], sizeof gguf_name[1], "%s.bias", gguf);
    snprintf(hf_name[0], sizeof hf_name[0], "%s.%s", hf, gamma ? "gamma" : "weight");
    snprintf(hf_name[1], sizeof hf_name[1], "%s.%s", hf, gamma ? "beta" : "bias");
    moe_bind_layer_vector(b, weight, n, false, gguf_name[0], hf_name[0]);
    moe_bind_layer_vector(b, bias, n, false, gguf_name[1], hf_name[1]);
}

/* Some GGUF files hold q, k and v as one tensor, q rows first. */
static void bind_fused_qkv(moe_binder *b, const moe_model_spec *spec)
{
    const moe_layer_slot slots[] = {MOE_Q, MOE_K, MOE_V};
    const moe_layer_slot biases[] = {MOE_Q_BIAS, MOE_K_BIAS, MOE_V_BIAS};
    const int64_t n = spec->n_embd;
    const moe_tensor *weight =
        moe_require_tensor(b, moe_layer_name(b, "attn_qkv.weight", "").text, 3 * n, n);
    const moe_tensor *bias =
        moe_require_tensor(b, moe_layer_name(b, "attn_qkv.bias", "").text, 1, 3 * n);

    for (int i = 0; i < 3 && b->status == MOE_OK; i++) {
        moe_bind_layer_piece(b, slots[i], weight, i * n, n, false, 1, n, n);
        if (b->status == MOE_OK)
            b->status = moe_bind_vector_piece(&b->weights->layers[b->layer][biases[i]], bias, i * n,
                                              n, b->err);
    }
}

static void bind_layer(moe_binder *b, const moe_model_spec *spec)
{
    const int64_t n = spec->n_embd, n_ff = spec->layers[b->layer].n_ff;

    if (b->gguf &&
        moe_file_tensor(b->file, moe_layer_name(b, "attn_qkv.weight", "").text) != NULL) {
        bind_fused_qkv(b, spec);
    } else {
        moe_bind_layer_matrix(b, MOE_Q, 1, n, n, "attn_q.weight", "attention.self.query.weight");
        moe_bind_layer_vector(b, MOE_Q_BIAS, n, false, "attn_q.bias", "attention.self.query.bias");
        moe_bind_layer_matrix(b, MOE_K, 1, n, n, "attn_k.weight", "attention.self.key.weight");
        moe_bind_layer_vector(b, MOE_K_BIAS, n, false, "attn_k.bias", "attention.self.key.bias");
        moe_bind_layer_matrix(b, MOE_V, 1, n, n, "attn_v.weight", "attention.self.value.weight");
        moe_bind_layer_vector(b, MOE_V_BIAS, n, false, "attn_v.bias", "attention.self.value.bias");
    }
    moe_bind_layer_matrix(b, MOE_O, 1, n, n, "attn_output.weight", "attention.output.dense.weight");
    moe_bind_layer_vector(b, MOE_O_BIAS, n, false, "attn_output.bias",
                          "attention.output.dense.bias");
    bind_layer_norm(b, MOE_ATTN_NORM, MOE_ATTN_NORM_BIAS, n, "attn_output_norm",
                    "attention.output.LayerNorm");
    moe_bind_layer_matrix(b, MOE_UP, 1, n_ff, n, "ffn_up.weight", "intermediate.dense.weight");
    moe_bind_layer_vector(b, MOE_UP_BIAS, n_ff, false, "ffn_up.bias", "intermediate.dense.bias");
    moe_bind_layer_matrix(b, MOE_DOWN, 1, n, n_ff, "ffn_down.weight", "output.dense.weight");
    moe_bind_layer_vector(b, MOE_DOWN_BIAS, n, false, "ffn_down.bias", "output.dense.bias");
    bind_layer_norm(b, MOE_FFN_NORM, MOE_FFN_NORM_BIAS, n, "layer_output_norm", "output.LayerNorm");
}

moe_status moe_bert_bind(const moe_file *file, const moe_model_spec *spec,
                         struct moe_weights *weights, moe_error *err)
{
    const int64_t n = spec->n_embd;
    moe_binder b;
    bool gamma;

    moe_binder_init(&b, file, weights, err);
    b.root = moe_file_tensor(file, "bert.embeddings.word_embeddings.weight") != NULL ? "bert." : "";
    b.layers = "encoder.layer.";
    gamma = moe_file_tensor(file, "bert.embeddings.LayerNorm.gamma") != NULL ||
            moe_file_tensor(file, "embeddings.LayerNorm.gamma") != NULL;
    moe_bind_global_matrix(&b, MOE_TOKEN_EMBD, spec->n_vocab, n, "token_embd.weight",
                           "embeddings.word_embeddings.weight");
    moe_bind_global_matrix(&b, MOE_POSITION_EMBD, spec->n_positions, n, "position_embd.weight",
                           "embeddings.position_embeddings.weight");
    if (spec->n_token_types > 0)
        moe_bind_global_matrix(&b, MOE_TYPE_EMBD, spec->n_token_types, n, "token_types.weight",
                               "embeddings.token_type_embeddings.weight");
    moe_bind_global_vector(&b, MOE_EMBD_NORM, n, "token_embd_norm.weight",
                           gamma ? "embeddings.LayerNorm.gamma" : "embeddings.LayerNorm.weight");
    moe_bind_global_vector(&b, MOE_EMBD_NORM_BIAS, n, "token_embd_norm.bias",
                           gamma ? "embeddings.LayerNorm.beta" : "embeddings.LayerNorm.bias");
    for (b.layer = 0; b.layer < spec->n_layers && b.status == MOE_OK; b.layer++)
        bind_layer(&b, spec);
    return b.status;
}
