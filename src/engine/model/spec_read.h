/*
 * Reading a model's description from either file format with one call per value.
 *
 * Every value has two names: the GGUF key without its "<architecture>." prefix, and the config.json
 * key
 * ("a.b" reaches into an object).  A NULL name means that the format has no such key.  Failures
 * stick: the first one fills the error and sets the status, later reads do nothing and return a
 * value inside their range, so that a family reads everything in a row and looks at the status
 * once.
 */
#ifndef MOE_SPEC_READ_H
#define MOE_SPEC_READ_H

#include "model_spec.h"

/* Limits of what a file may claim; far above every published model, far below any overflow. */
enum {
    MOE_MAX_LAYERS = 1024,
    MOE_MAX_EMBD = 65536,
    MOE_MAX_VOCAB = 4 << 20,
    MOE_MAX_EXPERTS = 4096,
    MOE_MAX_HEADS = 4096,
    MOE_MAX_HEAD_DIM = 8192,
    MOE_MAX_FF = 1 << 20,
    MOE_MAX_CTX = 1 << 24,
};

typedef struct moe_reader {
    const moe_file *file;
    const char *arch;     /* GGUF: general.architecture; NULL for a folder */
    const json_t *config; /* folder: config.json; NULL for a GGUF file */
    const char *hf_class; /* folder: architectures[0]; NULL for a GGUF file */
    moe_status status;    /* of the first failure */
    moe_error *err;
} moe_reader;

void moe_reader_init(moe_reader *r, const moe_file *file, moe_error *err);

/* Integers and numbers in [min, max].  Without _or the key is required.  A GGUF array counts as one
 * value if all its elements are equal; MOE_ERR_UNSUPPORTED if they differ. */
int moe_read_int(moe_reader *r, const char *gguf, const char *hf, int min, int max);
int moe_read_int_or(moe_reader *r, const char *gguf, const char *hf, int min, int max,
                    int otherwise);
double moe_read_double(moe_reader *r, const char *gguf, const char *hf, double min, double max);
double moe_read_double_or(moe_reader *r, const char *gguf, const char *hf, double min, double max,
                          double otherwise);
bool moe_read_bool_or(moe_reader *r, const char *gguf, const char *hf, bool otherwise);
const char *moe_read_string_or(moe_reader *r, const char *gguf, const char *hf,
                               const char *otherwise);
bool moe_read_has(const moe_reader *r, const char *gguf, const char *hf);

/* Records a failure found by the caller, unless there was one before. */
void moe_read_fail(moe_reader *r, moe_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Starts *spec: the values that mean "nothing", name, sizes (layers, embedding, vocabulary,
 * context), layer table, pooling. */
void moe_read_common(moe_reader *r, moe_model_spec *spec);

/* Attention by heads of their own or shared ones: n_heads, n_kv_heads, head_dim, head_dim_v,
 * attention_scale. */
void moe_read_gqa(moe_reader *r, moe_model_spec *spec);

/* rope->n_rot must hold the width of the head and is replaced by the rotated width. */
void moe_read_rope(moe_reader *r, moe_rope_spec *rope, int n_ctx_train);

/* YaRN's temperature: 0.1 * mscale * ln(factor) + 1 (arXiv 2309.00071 §3.4, with DeepSeek's
 * weight). */
double moe_yarn_mscale(double factor, double mscale);

/* The decoders' feed-forward is gated by SiLU; anything else is MOE_ERR_UNSUPPORTED. */
void moe_read_silu(moe_reader *r);

/* A sliding window narrower than the context is MOE_ERR_UNSUPPORTED. */
void moe_refuse_window(moe_reader *r, const moe_model_spec *spec);

/* Checks the routing numbers against each other. */
void moe_check_moe(moe_reader *r, const moe_moe_spec *moe);

/* Ends reading: on failure frees what *spec holds.  Returns the status. */
moe_status moe_read_end(moe_reader *r, moe_model_spec *spec);

#endif
