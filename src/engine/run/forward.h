/*
 * The forward pass: one for all families, driven by the model's spec, over the device interface.
 */
#ifndef MOE_FORWARD_H
#define MOE_FORWARD_H

#include "../device/device.h"

/* What a forward pass computes with; all borrowed. */
typedef struct moe_forward {
    const moe_model_spec *spec;
    const moe_weights *weights;
    moe_device *device;
    const moe_cancel *cancel;
    void (*computed)(void *ud); /* all layers are done and the pooled sums added to; may be NULL */
} moe_forward;

/* Gets the logits (n_vocab) of output i of the `rows` of moe_forward_run; an error stops the pass.
 */
typedef moe_status (*moe_logits_fn)(void *ud, int i, const float *logits, moe_error *err);

/* Runs a step through all layers, adds final states to the spans' pooled sums, then gives the
 * logits of the n_out rows to fn, in order; ud goes to both callbacks.  Errors: MOE_ERR_MEMORY,
 * MOE_ERR_CANCELLED, those of reading weights, or what fn returned.  If that comes before
 * `computed` was called, the KV cache holds garbage at the step's own positions, and nothing else
 * has changed. */
moe_status moe_forward_run(const moe_forward *f, const moe_step *step, const int32_t *rows,
                           int n_out, moe_logits_fn fn, void *ud, moe_error *err);

#endif
