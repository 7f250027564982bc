/*
 * The description of one model: everything that the forward pass needs to know and that is not a
 * weight.
 *
 * There is one forward pass (run/forward.c); families differ only in the values here.  A family
 * file (family_*.c) turns GGUF metadata or config.json into a moe_model_spec and binds tensor names
 * to slots (weights.h).  A difference between models that the forward pass can't see here is a
 * missing field of this struct, never an "if (family == …)".
 */
#ifndef MOE_MODEL_SPEC_H
#define MOE_MODEL_SPEC_H

#include "../file/model_file.h"

typedef enum moe_norm_kind { MOE_NORM_RMS, MOE_NORM_LAYER } moe_norm_kind;

typedef enum moe_attention_kind {
    MOE_ATTENTION_GQA, /* MHA and MQA are its ends */
    MOE_ATTENTION_MLA, /* latent keys and values, DeepSeek-V2 (arXiv 2405.04434) §2.1 */
} moe_attention_kind;

typedef enum moe_activation {
    MOE_ACTIVATION_SILU,      /* silu(gate) * up */
    MOE_ACTIVATION_GELU_TANH, /* tanh form; with a gate: gelu(gate) * up */
    MOE_ACTIVATION_GELU_ERF,  /* exact form */
} moe_activation;

typedef enum moe_router_score { MOE_ROUTER_SOFTMAX, MOE_ROUTER_SIGMOID } moe_router_score;

/* How the score of a group of experts is made. */
typedef enum moe_group_score { MOE_GROUP_MAX, MOE_GROUP_TOP2_SUM } moe_group_score;

typedef enum moe_rope_style {
    MOE_ROPE_NONE,
    MOE_ROPE_INTERLEAVED, /* pairs (2i, 2i+1) */
    MOE_ROPE_HALVES,      /* pairs (i, i + n_rot/2) */
} moe_rope_style;

typedef enum moe_rope_scaling {
    MOE_ROPE_SCALING_NONE,
    MOE_ROPE_SCALING_LINEAR, /* frequencies / factor */
    MOE_ROPE_SCALING_YARN,   /* arXiv 2309.00071 */
    MOE_ROPE_SCALING_LLAMA3, /* frequency-dependent, config key rope_type "llama3" */
} moe_rope_scaling;

typedef struct moe_rope_spec {
    moe_rope_style style;
    int n_rot;   /* rotated width of a head, even */
    double base; /* theta */
    moe_rope_scaling scaling;
    double factor;
    double orig_ctx;             /* YaRN, llama3: context of the original training */
    double beta_fast, beta_slow; /* YaRN */
    bool truncate;               /* YaRN: ramp bounds floored and ceiled (default true) */
    double magnitude;            /* cos and sin are multiplied by this (1: nothing) */
    double low_freq, high_freq;  /* llama3: low_freq_factor, high_freq_factor */
    float *divisors;             /* (n_rot / 2) or NULL: rope_freqs.weight, applied first */
} moe_rope_spec;

typedef enum moe_pooling { MOE_POOLING_MEAN, MOE_POOLING_CLS, MOE_POOLING_LAST } moe_pooling;

typedef struct moe_moe_spec {
    int n_experts, n_experts_used;
    int n_ff; /* width of a routed expert */
    moe_router_score score;
    int n_groups, n_groups_used; /* 1, 1: no groups */
    moe_group_score group_score;
    bool normalise;         /* divide the chosen weights by their sum */
    double normalise_floor; /* added to that sum (HF DeepSeek: 1e-20); 0 for none */
    double scale;           /* of the weights, after normalising */
    int n_ff_shared;        /* total width of the shared experts; 0: none */
    bool shared_gate;       /* shared output times sigmoid(gate·x) (Qwen2-MoE) */
} moe_moe_spec;

typedef struct moe_layer_spec {
    bool is_moe;
    int n_ff; /* dense layers */
} moe_layer_spec;

typedef struct moe_model_spec {
    const char *family; /* a constant string: "deepseek_v3", "qwen3", … */
    char name[128];     /* general.name or the folder's name */

    int n_layers, n_embd, n_vocab, n_ctx_train;
    bool causal;    /* false: encoder */
    bool post_norm; /* BERT: norms after the residual sums, none before */
    moe_norm_kind norm;
    float norm_eps;

    moe_attention_kind attention;
    int n_heads, n_kv_heads;  /* MLA: n_kv_heads = 1 in the cache */
    int head_dim, head_dim_v; /* GQA: width of q and k heads, of v heads. MLA: nope + rope, and v */
    int q_lora_rank;          /* MLA; 0: q is one projection */
    int kv_lora_rank;         /* MLA */
    int head_dim_rope;        /* MLA: rotated part of a head; nope part = head_dim - this */
    float attention_scale;    /* of q·k, everything included (1/sqrt(head_dim), mscale²) */
    float qk_norm_eps;        /* used if the Q_NORM / K_NORM slots are present (per head) */

    moe_rope_spec rope;
    moe_activation activation;
    bool gated_ffn; /* gate and up; false: up only */
    moe_moe_spec moe;
    moe_layer_spec *layers; /* (n_layers) */

    int n_positions;   /* learned position embeddings; 0: none */
    int n_token_types; /* token type embeddings; row 0 is added; 0: none */
    moe_pooling pooling;
    int embed_max_tokens; /* embeddings: longer texts are cut here (encoders); 0: no cut */
    float embedding_scale, residual_scale, logit_scale; /* 1: nothing */
} moe_model_spec;

/* A family: one line in the table of families.c. */
struct moe_weights;
typedef struct moe_family {
    const char *gguf_arch; /* general.architecture, or NULL */
    const char *hf_class;  /* architectures[0] of config.json, or NULL */
    /* Fills *spec from the file's metadata, checking every value's range. */
    moe_status (*read_spec)(const moe_file *file, moe_model_spec *spec, moe_error *err);
    /* Binds the file's tensors to slots, checking shapes. */
    moe_status (*bind)(const moe_file *file, const moe_model_spec *spec,
                       struct moe_weights *weights, moe_error *err);
} moe_family;

/* The family of a file; MOE_ERR_UNSUPPORTED names the family found and hints at the supported ones.
 */
moe_status moe_family_find(const moe_file *file, const moe_family **out, moe_error *err);

void moe_model_spec_free(moe_model_spec *spec);

#endif
