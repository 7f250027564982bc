/*
 * The weights of a model: slots that a family binds to tensors, and units that hold them in packed
 * form.
 *
 * A matrix slot holds n_mats matrices of (n_rows, n_cols), all of one type: n_mats is the number of
 * experts or of heads, 1 otherwise.  A vector slot holds n_cols float32 values.  Each slot lists
 * the pieces of file tensors that make it up, so that per-expert tensors, fused tensors and split
 * kv_b matrices all end in the same form.
 *
 * A unit is one contiguous range of bytes, its slots 64-byte aligned: what belongs to the whole
 * model, the dense part of one layer, or one expert of one layer (gate, up and down).  Units are
 * what the cache keeps, so each may lie anywhere in memory that processes share; none
 * holds pointers.  Where they lie in this process is told by moe_weights.at.
 */
#ifndef MOE_WEIGHTS_H
#define MOE_WEIGHTS_H

#include "../../../kernels/cpu/kernels.h"
#include "../device/thread_pool.h"
#include "model_spec.h"

/* Slots of a layer. */
typedef enum moe_layer_slot {
    MOE_ATTN_NORM,
    MOE_ATTN_NORM_BIAS, /* post_norm: after the attention's residual sum */
    MOE_Q,
    MOE_Q_BIAS,
    MOE_K,
    MOE_K_BIAS,
    MOE_V,
    MOE_V_BIAS,
    MOE_O,
    MOE_O_BIAS,
    MOE_Q_NORM,
    MOE_K_NORM, /* per head (head_dim) */
    MOE_Q_A,
    MOE_Q_A_NORM,
    MOE_Q_B, /* MLA with q_lora: q = Q_B · norm(Q_A · x); else MOE_Q */
    MOE_KV_A,
    MOE_KV_A_NORM, /* (kv_lora_rank + head_dim_rope, n_embd) */
    MOE_K_B,       /* n_heads × (kv_lora_rank, nope): q_nope' = K_B[h] · q_nope */
    MOE_V_B,       /* n_heads × (head_dim_v, kv_lora_rank) */
    MOE_FFN_NORM,
    MOE_FFN_NORM_BIAS, /* post_norm: after the feed-forward's residual sum */
    MOE_GATE,
    MOE_UP,
    MOE_DOWN,
    MOE_UP_BIAS,
    MOE_DOWN_BIAS,
    MOE_ROUTER,             /* (n_experts, n_embd) */
    MOE_ROUTER_SELECT_BIAS, /* (n_experts), added for the selection only */
    MOE_EXPERT_GATE,
    MOE_EXPERT_UP,
    MOE_EXPERT_DOWN, /* n_experts matrices */
    MOE_SHARED_GATE,
    MOE_SHARED_UP,
    MOE_SHARED_DOWN,
    MOE_SHARED_ROUTER, /* (1, n_embd): gate of the shared experts */
    MOE_N_LAYER_SLOTS
} moe_layer_slot;

/* Slots of the whole model. */
typedef enum moe_global_slot {
    MOE_TOKEN_EMBD, /* (n_vocab, n_embd) */
    MOE_POSITION_EMBD,
    MOE_TYPE_EMBD, /* (n_positions, n_embd), (n_token_types, n_embd) */
    MOE_EMBD_NORM,
    MOE_EMBD_NORM_BIAS,
    MOE_OUTPUT_NORM,
    MOE_OUTPUT_NORM_BIAS,
    MOE_OUTPUT, /* (n_vocab, n_embd); absent: tied to TOKEN_EMBD */
    MOE_N_GLOBAL_SLOTS
} moe_global_slot;

/* Rows [row, row + n_rows) of a tensor seen as (all other dims, dims[0]).  transposed: the piece is
 * the transpose of those rows, (dims[0], n_rows), a whole matrix.  In a vector: elements, not rows.
 */
typedef struct moe_piece {
    const moe_tensor *tensor;
    int64_t row, n_rows;
    bool transposed;
} moe_piece;

typedef struct moe_slot {
    bool present, is_vector;
    moe_type type;
    int64_t n_mats, n_rows, n_cols;
    moe_piece *pieces; /* in order; together n_mats * n_rows rows */
    int n_pieces;
    int32_t unit;      /* that holds it; matrix i of experts lies in unit + i */
    size_t offset;     /* of matrix 0, from the unit's start */
    size_t mat_stride; /* bytes from one matrix to the next in the unit; 0: one matrix per unit */
} moe_slot;

typedef struct moe_weight_unit {
    int32_t layer, expert; /* -1: the whole model, a dense part */
    size_t bytes;          /* a multiple of 64 */
} moe_weight_unit;

typedef struct moe_weights {
    int n_layers;
    moe_slot global[MOE_N_GLOBAL_SLOTS];
    moe_slot (*layers)[MOE_N_LAYER_SLOTS]; /* (n_layers) */
    int32_t n_units, n_dense; /* dense ones first: 0 is the whole model's, 1 + l layer l's */
    moe_weight_unit *units;   /* (n_units), known after moe_weights_layout */
    char **at;                /* (n_units) addresses in this process; NULL: not in memory */
    size_t size;              /* of all units */
    int64_t n_params;                      /* all, a tied output head counted once */
    int64_t n_params_active; /* read per token: without tables that are only looked up in, and
                              * n_experts_used / n_experts of the experts */
    moe_type main_type;      /* most common by bytes, without tables that are only looked up in */
} moe_weights;

moe_status moe_weights_init(moe_weights *w, int n_layers, moe_error *err);
void moe_weights_free(moe_weights *w);

/* Binding helpers for families.  name is printf-style.  A shape that differs from the wanted one is
 * MOE_ERR_FORMAT naming tensor, found and wanted shape.  optional: an absent tensor leaves the slot
 * absent; otherwise it is MOE_ERR_FORMAT "tensor … is missing". */
moe_status moe_bind_vector(moe_slot *slot, const moe_file *file, int64_t n, bool optional,
                           moe_error *err, const char *name, ...)
    __attribute__((format(printf, 6, 7)));
moe_status moe_bind_matrix(moe_slot *slot, const moe_file *file, int64_t n_mats, int64_t n_rows,
                           int64_t n_cols, bool optional, moe_error *err, const char *name, ...)
    __attribute__((format(printf, 8, 9)));
/* Adds one piece to a slot whose n_mats, n_rows, n_cols are given at the first call. */
moe_status moe_bind_piece(moe_slot *slot, const moe_tensor *tensor, int64_t row, int64_t n_rows,
                          bool transposed, int64_t n_mats, int64_t mat_rows, int64_t mat_cols,
                          moe_error *err);
/* A vector made of elements [first, first + n) of a 1-D tensor (fused biases). */
moe_status moe_bind_vector_piece(moe_slot *slot, const moe_tensor *tensor, int64_t first, int64_t n,
                                 moe_error *err);

/* Has every unquantised matrix packed as type, Q8_0 or BF16_PAIRS; to be called after binding and
 * before the layout.  With Q8_0 a weight is then off by up to 1/254 of the largest of its block of
 * 32, with BF16_PAIRS by up to 1/512 of itself.  Left as they are: routers, whose choices are
 * sensitive; tables that are only looked up in, which cost no time; matrices whose columns don't
 * fill blocks. */
void moe_weights_quantize(moe_weights *w, const moe_model_spec *spec, moe_type type);

/* Checks that every slot is complete and of a type the kernels compute with (columns a multiple of
 * the block), counts parameters, makes units. */
moe_status moe_weights_layout(moe_weights *w, const moe_model_spec *spec, moe_error *err);

/* The unit that holds the dense part of a layer. */
static inline int32_t moe_dense_unit(int layer)
{
    return 1 + layer;
}

typedef struct moe_loader moe_loader;

/* Reads and packs units with the packing of kernels, on all threads of the pool.  All arguments
 * must outlive it. */
moe_status moe_loader_create(const moe_weights *w, const moe_file *file, const moe_kernels *kernels,
                             moe_pool *pool, moe_loader **out, moe_error *err);
void moe_loader_free(moe_loader *loader);

/* Fills n units at their addresses (w->at, 64-byte aligned).  cancel is asked by the calling thread
 * only.  After an error what they hold is undefined. */
moe_status moe_loader_run(moe_loader *loader, const int32_t *units, int n, const moe_cancel *cancel,
                          moe_error *err);

/* Matrix i of a present matrix slot, and the floats of a vector slot (NULL if absent).  The unit
 * must be in memory. */
moe_matrix moe_slot_matrix(const moe_weights *w, const moe_slot *slot, int64_t i);
const float *moe_slot_vector(const moe_weights *w, const moe_slot *slot);

#endif
