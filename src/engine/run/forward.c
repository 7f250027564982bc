/*
 * The forward pass.
 *
 * Pre-norm models: x += sublayer(norm(x)).  Post-norm models (BERT): x = norm(x + sublayer(x)), an
 * embedding norm in front and no final norm.
 */
#include "forward.h"

#include <xmmintrin.h>

static moe_status sublayer(const moe_forward *f, const moe_step *step, int layer, bool feed_forward,
                           moe_error *err)
{
    const moe_device_ops *ops = f->device->ops;
    const moe_slot *slots = f->weights->layers[layer];
    const moe_slot *weight = &slots[feed_forward ? MOE_FFN_NORM : MOE_ATTN_NORM];
    const moe_slot *bias = &slots[feed_forward ? MOE_FFN_NORM_BIAS : MOE_ATTN_NORM_BIAS];
    moe_buffer input = MOE_BUF_X;
    moe_status status = MOE_OK;

    if (!f->spec->post_norm) {
        ops->norm(f->device, step, weight, bias, MOE_BUF_X, MOE_BUF_H);
        input = MOE_BUF_H;
    }
    if (feed_forward)
        status = ops->feed_forward(f->device, step, layer, input, f->cancel, err);
    else
        ops->attention(f->device, step, layer, input);
    if (status != MOE_OK)
        return status;
    ops->residual(f->device, step);
    if (f->spec->post_norm)
        ops->norm(f->device, step, weight, bias, MOE_BUF_X, MOE_BUF_X);
    return MOE_OK;
}

static moe_status run(const moe_forward *f, const moe_step *step, const int32_t *rows, int n_out,
                      moe_logits_fn fn, void *ud, moe_error *err)
{
    const moe_device_ops *ops = f->device->ops;
    const moe_slot *slots = f->weights->global;
    moe_status status = ops->fetch(f->device, -1, f->cancel, err);

    if (status != MOE_OK)
        return status;
    if (!f->spec->causal) {
        for (int layer = 0; layer < f->spec->n_layers && status == MOE_OK; layer++)
            status = ops->fetch(f->device, layer, f->cancel, err);
        if (status != MOE_OK)
            return status;
        if (!ops->encode(f->device, step, f->cancel))
            return moe_fail(err, MOE_ERR_CANCELLED, "cancelled");
        if (f->computed != NULL)
            f->computed(ud);
        return MOE_OK;
    }
    ops->embed(f->device, step);
    if (slots[MOE_EMBD_NORM].present)
        ops->norm(f->device, step, &slots[MOE_EMBD_NORM], &slots[MOE_EMBD_NORM_BIAS], MOE_BUF_X,
                  MOE_BUF_X);
    for (int layer = 0; layer < f->spec->n_layers; layer++) {
        if (moe_cancelled(f->cancel))
            return moe_fail(err, MOE_ERR_CANCELLED, "cancelled");
        status = ops->fetch(f->device, layer, f->cancel, err);
        if (status == MOE_OK)
            status = sublayer(f, step, layer, false, err);
        if (status == MOE_OK)
            status = sublayer(f, step, layer, true, err);
        if (status != MOE_OK)
            return status;
    }
    /* Without a final norm (post-norm models) the states are copied to H by the same operation. */
    ops->norm(f->device, step, &slots[MOE_OUTPUT_NORM], &slots[MOE_OUTPUT_NORM_BIAS], MOE_BUF_X,
              MOE_BUF_H);
    ops->pool(f->device, step);
    if (f->computed != NULL)
        f->computed(ud);
    for (int i = 0; i < n_out; i += MOE_LOGIT_ROWS) {
        const int n = n_out - i < MOE_LOGIT_ROWS ? n_out - i : MOE_LOGIT_ROWS;
        const float *logits;

        if (moe_cancelled(f->cancel))
            return moe_fail(err, MOE_ERR_CANCELLED, "cancelled");
        logits = ops->logits(f->device, rows + i, n);
        for (int j = 0; j < n; j++) {
            status = fn(ud, i + j, logits + (int64_t)j * f->spec->n_vocab, err);
            if (status != MOE_OK)
                return status;
        }
    }
    return MOE_OK;
}

moe_status moe_forward_run(const moe_forward *f, const moe_step *step, const int32_t *rows,
                           int n_out, moe_logits_fn fn, void *ud, moe_error *err)
{
    /* Results must not depend on a rounding mode or flush-to-zero that some library has set. */
    const unsigned mxcsr = _mm_getcsr();
    moe_status status;

    _mm_setcsr(0x1f80);
    status = f->device->ops->begin(f->device, step, err);
    if (status == MOE_OK) {
        status = run(f, step, rows, n_out, fn, ud, err);
        f->device->ops->end(f->device);
    }
    _mm_setcsr(mxcsr);
    return status;
}
