/*
 * The CPU device: inner parts shared by its files.
 *
 * cpu_device.c holds memory, embedding, norms and the output head; cpu_product.c multiplies
 * activations with packed weights on all threads; cpu_attention.c and cpu_feed_forward.c are the
 * two sub-layers; cpu_encoder.c is the pass of models that see a whole text at once. All scratch
 * lives in one arena that is laid out for a number of rows and grows with it.
 */
#ifndef MOE_CPU_DEVICE_H
#define MOE_CPU_DEVICE_H

#include "../cache/resident.h"
#include "device.h"
#include "thread_pool.h"

/* Room for one integer form; lo is NULL where 8 bits suffice. */
typedef struct cpu_planes {
    int8_t *hi, *lo;
    float *d;
    int32_t *sums;
} cpu_planes;

/* Activations with room for the integer forms that the model's weights want. */
typedef struct cpu_acts {
    moe_activations fine, bytes; /* the same rows: at full precision, and integers of 8 bits */
    cpu_planes fine_32, fine_256, bytes_32, bytes_256;
    void *bf16;
} cpu_acts;

/* Hands out 64-byte aligned pieces of a block; with base NULL it only adds up sizes. */
typedef struct cpu_carver {
    char *base;
    size_t used;
    bool overflow;
} cpu_carver;

/* y (n_tokens, ldy) = w · x [+ bias].  The first n_bytes tokens take 8-bit activations, if the type
 * of w bears them. */
typedef struct cpu_product {
    moe_matrix w;
    const cpu_acts *x;
    const int32_t *rows; /* which rows of x; never NULL */
    int64_t n_tokens, n_bytes;
    float *y;
    int64_t ldy;
    const float *bias; /* (w.n_rows) or NULL */
} cpu_product;

typedef struct cpu_encoder cpu_encoder; /* cpu_encoder.c */

typedef struct cpu_device {
    moe_device base;
    const moe_model_spec *spec;
    const moe_weights *weights;
    moe_resident *resident; /* brings the weights */
    const moe_kernels *kernels;
    moe_pool *pool;
    bool reproducible;

    int64_t float_cols; /* most columns of an unquantised matrix */
    unsigned forms;     /* bits 1 << moe_act_form that the model's matrices use */
    int d_k, d_v;       /* cached widths, see moe_kv_cache */
    int n_kv_heads;
    double *freq;         /* (n_rot / 2) */
    cpu_encoder *encoder; /* NULL: a causal model, for which all that follows is */

    char *arena;
    size_t arena_size;
    int capacity;   /* rows the arena is laid out for */
    float *partial; /* attention results of single key blocks, see cpu_attention.c */
    size_t partial_floats;

    /* Everything below lies in the arena.  n_slots = n_rows * n_experts_used. */
    float *x, *h, *a;   /* (n_rows, n_embd) */
    float *cos, *sin;   /* (n_rows, n_rot / 2) */
    float *q;           /* (n_rows, n_heads, head_dim) */
    float *q_lora;      /* (n_rows, q_lora_rank) */
    float *q_absorbed;  /* MLA (n_rows, n_heads, d_k) */
    float *k, *v;       /* (n_rows, n_kv_heads, d_k), (…, d_v); MLA: k is latent and rope part */
    float *o;           /* (n_rows, n_heads, d_v) attention result */
    float *o_heads;     /* MLA (n_rows, n_heads, head_dim_v) */
    float *router;      /* (n_rows, n_experts) */
    int32_t *expert_id; /* (n_rows, n_experts_used) */
    float *expert_weight;  /* (n_rows, n_experts_used) */
    int32_t *slot_of;      /* (n_rows, n_experts_used): slot that holds this expert's output */
    int32_t *slot_row;     /* (n_slots): row of each slot, slots sorted by expert */
    int32_t *experts;      /* (n_experts): those that the step uses */
    int32_t *expert_begin; /* (n_experts + 1): first slot of each of these */
    int32_t *expert_place; /* (n_experts): where an expert stands among them, -1: nowhere */
    float *gate, *up;      /* dense (n_rows, n_ff) */
    float *shared_gate, *shared_up; /* (n_rows, n_ff_shared) */
    float *expert_gate, *expert_up; /* (n_slots, n_ff) */
    float *expert_out;              /* (n_slots, n_embd) */
    float *shared_weight;           /* (n_rows) */
    float *logits;                  /* (MOE_LOGIT_ROWS, n_vocab) */
    int32_t *identity;              /* 0, 1, 2, … (most rows of any product) */
    int32_t *head_rows;             /* MLA (n_heads, n_rows): t * n_heads + h */
    cpu_product *products;          /* work list of one call */
    cpu_acts in, hidden, shared;
    char *attn_scratch; /* per thread */
    size_t attn_scratch_size;
    char *blas_scratch; /* per thread; only if not reproducible */
    size_t blas_scratch_size;
} cpu_device;

/* What a thread needs for one attention tile, cut from attn_scratch; see cpu_attention.c. */
size_t cpu_attention_scratch_bytes(const cpu_device *d);
/* Floats of d->partial that a step needs; 0 if its attention is not split by key blocks. */
size_t cpu_attention_partial_floats(const cpu_device *d, const moe_step *step);

void *cpu_carve(cpu_carver *c, size_t n, size_t element);
/* Room for the forms, other than float, of n activations in all, in at most n_rows rows. */
void cpu_carve_acts(const cpu_device *d, cpu_carver *c, cpu_acts *acts, size_t n, size_t n_rows);

/* Runs fn over n cheap items: on the calling thread if they are few. */
void cpu_for_rows(cpu_device *d, moe_pool_fn fn, void *arg, int64_t n);

/* The form bit of a slot's weights; 0 for an absent slot. */
unsigned cpu_form(const moe_slot *slot);

/* The bit of the 8-bit form for a quantised type. */
unsigned cpu_bytes_form(moe_type type);

/* Has acts stand for rows x (n_rows, n_cols), row stride ld, whose other forms are in its room. */
void cpu_set_input(cpu_acts *acts, const float *x, int64_t ld, int64_t n_cols);

/* Columns [first, first + n) of a row of activations to the forms beside float that are wanted
 * (bits).  first is a multiple of 256. */
void cpu_convert(const cpu_device *d, cpu_acts *acts, unsigned forms, int64_t row, int64_t n_cols,
                 int64_t first, const float *x, int64_t n);

/* Makes acts hold rows x (n_rows, n_cols), row stride ld, in the wanted forms (bits). */
void cpu_prepare(cpu_device *d, cpu_acts *acts, const float *x, int64_t ld, int64_t n_rows,
                 int64_t n_cols, unsigned forms);

/* Row groups [begin, end) of one product, on the calling thread. */
void cpu_multiply(const cpu_device *d, const cpu_product *p, int64_t begin, int64_t end,
                  int thread);

/* Runs n products as one parallel loop over all their row groups. */
void cpu_run_products(cpu_device *d, const cpu_product *products, int n);

/* A product over all rows of a step with a slot's matrix; bias may be an absent slot or NULL. */
cpu_product cpu_step_product(const cpu_device *d, const moe_step *step, const moe_slot *slot,
                             const moe_slot *bias, const cpu_acts *x, float *y);

/* The same for products with a normalised state, which carry most of a prompt's arithmetic and bear
 * a coarser rounding: with weights of K-quants, prompt tokens take 8-bit activations (NUMERICS.md).
 * cpu_prompt_form: the forms that a slot's weights need for that in this step. */
cpu_product cpu_prompt_product(const cpu_device *d, const moe_step *step, const moe_slot *slot,
                               const moe_slot *bias, const cpu_acts *x, float *y);
unsigned cpu_prompt_form(const cpu_device *d, const moe_step *step, const moe_slot *slot);

/* x (n_embd) = embedding of row t of the step; other is scratch of the same size. */
void cpu_embed_row(const cpu_device *d, const moe_step *step, int64_t t, float *x, float *other);

/* The forward pass of encoders; see moe_device_ops. */
moe_status cpu_encoder_create(cpu_device *d, moe_error *err);
void cpu_encoder_free(cpu_encoder *e);
moe_status cpu_encoder_begin(cpu_device *d, const moe_step *step, moe_error *err);
bool cpu_encode(moe_device *device, const moe_step *step, const moe_cancel *cancel);
const float *cpu_encoder_state(const cpu_device *d, int row);

/* Device operations; see moe_device_ops. */
void cpu_attention(moe_device *device, const moe_step *step, int layer, moe_buffer src);
moe_status cpu_feed_forward(moe_device *device, const moe_step *step, int layer, moe_buffer src,
                            const moe_cancel *cancel, moe_error *err);
float *cpu_buffer(cpu_device *d, moe_buffer which);

/* The CPU device for one model.  All arguments must outlive it. */
moe_status moe_cpu_device_create(const moe_model_spec *spec, moe_resident *resident,
                                 const moe_kernels *kernels, moe_pool *pool, bool reproducible,
                                 moe_device **out, moe_error *err);

#endif
