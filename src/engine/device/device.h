/*
 * The device interface: the coarse operations that the forward pass is made of.
 *
 * A device computes one model.  It holds the activations of a step in buffers of its own; the
 * forward pass only says what happens in which order.  Each operation covers all rows (tokens) of
 * the step, so that a device can group tokens by expert, fuse, and stay busy.  The CPU device
 * (cpu_device.h) is the reference.
 *
 * Buffers: X (n_rows, n_embd) is the residual stream, H (n_rows, n_embd) the normed input of a
 * sub-layer, A (n_rows, n_embd) its result.
 */
#ifndef MOE_DEVICE_H
#define MOE_DEVICE_H

#include "../model/weights.h"
#include "../cache/kv_cache.h"

/* Consecutive rows of a step that belong to one sequence: positions pos .. pos + n_rows - 1.
 *
 * Prompts that begin alike share rows: the n_head positions before pos are those of an earlier span
 * of the step, `head`, whose first position (its head included) is the same.  They are computed
 * once, and go to the pages and the sums of both. */
typedef struct moe_span moe_span;
struct moe_span {
    int row, n_rows;
    int64_t pos;
    int n_head;
    const moe_span *head;   /* NULL without */
    const int32_t *pages;   /* the sequence's KV pages: position p lies in pages[p / MOE_KV_PAGE] */
    float *pooled;          /* (n_embd) sum of final states is added here; NULL: not pooled */
    int pool_from, pool_to; /* positions that count for it, from the span's first on */
};

/* The row of a span's i-th position, its head included. */
static inline int moe_span_row(const moe_span *span, int i)
{
    while (i < span->n_head)
        span = span->head;
    return span->row + i - span->n_head;
}

/* The input of one forward pass.  Rows [0, n_prefill) are prompt tokens, the others generated ones.
 */
typedef struct moe_step {
    int n_rows, n_prefill;
    const int32_t *tokens;    /* (n_rows) */
    const int64_t *positions; /* (n_rows) */
    const moe_span *spans;    /* in row order, no span mixes roles */
    int n_spans;
    moe_kv_cache *kv;
} moe_step;

typedef enum moe_buffer { MOE_BUF_X, MOE_BUF_H, MOE_BUF_A } moe_buffer;

typedef struct moe_device moe_device;

typedef struct moe_device_ops {
    const char *name;
    /* Makes room for a step of n_rows rows.  This, fetch and feed_forward can fail; encode can be
     * cancelled. */
    moe_status (*begin)(moe_device *d, const moe_step *step, moe_error *err);
    void (*end)(moe_device *d);
    /* Brings the dense weights of a layer (-1: of the whole model) to where operations on the layer
     * find them; to be called before those in every step. */
    moe_status (*fetch)(moe_device *d, int layer, const moe_cancel *cancel, moe_error *err);
    /* X = embeddings of the tokens (and positions and token type 0, where the model has them). */
    void (*embed)(moe_device *d, const moe_step *step);
    /* dst = norm(src) with a weight slot and its bias slot; a copy if the weight slot is absent. */
    void (*norm)(moe_device *d, const moe_step *step, const moe_slot *weight, const moe_slot *bias,
                 moe_buffer src, moe_buffer dst);
    /* A = attention sub-layer over src: projections, rope, KV append, attention, output projection.
     */
    void (*attention)(moe_device *d, const moe_step *step, int layer, moe_buffer src);
    /* A = feed-forward sub-layer over src: dense, or router and experts as one operation, which
     * brings the chosen experts' weights itself. */
    moe_status (*feed_forward)(moe_device *d, const moe_step *step, int layer, moe_buffer src,
                               const moe_cancel *cancel, moe_error *err);
    /* X += A * residual_scale. */
    void (*residual)(moe_device *d, const moe_step *step);
    /* All of an encoder's pass, up to the pooled sums, instead of the operations above and pool; H
     * holds the final states. False if it was cancelled. */
    bool (*encode)(moe_device *d, const moe_step *step, const moe_cancel *cancel);
    /* Adds the rows of H that count to each span's pooled sum, in row order. */
    void (*pool)(moe_device *d, const moe_step *step);
    /* Logits of n rows of H, (n, n_vocab) in host memory that lives until the next call. n <=
     * MOE_LOGIT_ROWS. */
    const float *(*logits)(moe_device *d, const int32_t *rows, int n);
    /* Row of H in host memory, for tests and pooling of one row. */
    const float *(*hidden)(moe_device *d, int row);
    void (*free)(moe_device *d);
} moe_device_ops;

enum { MOE_LOGIT_ROWS = 32 };

struct moe_device {
    const moe_device_ops *ops;
};

#endif
