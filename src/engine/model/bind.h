/*
 * Binding by pairs of names: each tensor is called by its GGUF name and its Hugging Face name in
 * one line, and a family reads as a table of both.  GGUF names get "blk.N." in front; Hugging Face
 * names the root ("model.") and, for layers, "layers.N.".  Failures stick as in spec_read.h.
 */
#ifndef MOE_BIND_H
#define MOE_BIND_H

#include "weights.h"

typedef struct moe_binder {
    const moe_file *file;
    moe_weights *weights;
    bool gguf;
    const char *root;   /* in front of every Hugging Face name */
    const char *layers; /* between it and the layer's number */
    int layer;          /* that layer_… functions work on */
    moe_status status;
    moe_error *err;
} moe_binder;

typedef struct moe_tensor_name {
    char text[128];
} moe_tensor_name;

/* A decoder whose names start with "model.", or with nothing where the head was left out. */
void moe_binder_init(moe_binder *b, const moe_file *file, moe_weights *weights, moe_error *err);

moe_tensor_name moe_layer_name(const moe_binder *b, const char *gguf, const char *hf);

/* The tensor of that name with n_rows rows in all; a missing one or another shape is a failure and
 * gives NULL. */
const moe_tensor *moe_require_tensor(moe_binder *b, const char *name, int64_t n_rows,
                                     int64_t n_cols);

void moe_bind_layer_vector(moe_binder *b, moe_layer_slot slot, int64_t n, bool optional,
                           const char *gguf, const char *hf);
void moe_bind_layer_matrix(moe_binder *b, moe_layer_slot slot, int64_t n_mats, int64_t n_rows,
                           int64_t n_cols, const char *gguf, const char *hf);
void moe_bind_global_vector(moe_binder *b, moe_global_slot slot, int64_t n, const char *gguf,
                            const char *hf);
void moe_bind_global_matrix(moe_binder *b, moe_global_slot slot, int64_t n_rows, int64_t n_cols,
                            const char *gguf, const char *hf);

/* One piece of a slot of the layer. */
void moe_bind_layer_piece(moe_binder *b, moe_layer_slot slot, const moe_tensor *tensor, int64_t row,
                          int64_t n_rows, bool transposed, int64_t n_mats, int64_t mat_rows,
                          int64_t mat_cols);

/* Embedding table, final norm and output head of a decoder. */
void moe_bind_decoder_globals(moe_binder *b, const moe_model_spec *spec);

/* Norms, q, k, v, output projection; biases and QK norms where the file has them, or always if
 * required. */
void moe_bind_gqa(moe_binder *b, const moe_model_spec *spec, bool need_bias, bool need_qk_norm);

/* The norm before the feed-forward and, for a dense layer, gate, up and down. */
void moe_bind_dense(moe_binder *b, const moe_model_spec *spec);

/* How Hugging Face files name the parts of an MoE layer, without "model.layers.N.". */
typedef struct moe_expert_names {
    const char *router;  /* "mlp.gate.weight" */
    const char *experts; /* "mlp.experts": followed by ".K.<gate>" */
    const char *gate, *up, *down;
} moe_expert_names;

/* Router and experts: one tensor per expert, one for all, or gate and up of all in one. */
void moe_bind_experts(moe_binder *b, const moe_model_spec *spec, const moe_expert_names *names);

#endif
