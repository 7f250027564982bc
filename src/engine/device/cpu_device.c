/*
 * The CPU device: scratch memory, embedding, norms, pooling and output head.
 */
#include "cpu_device.h"

#include <stdlib.h>
#include <string.h>

#include "../../../kernels/cpu/blas.h"
#include "../model/rope.h"
#include "router.h"

float *cpu_buffer(cpu_device *d, moe_buffer which)
{
    return which == MOE_BUF_X ? d->x : which == MOE_BUF_H ? d->h : d->a;
}

/* --- scratch ------------------------------------------------------------------------------------
 */

void *cpu_carve(cpu_carver *c, size_t n, size_t element)
{
    size_t bytes;
    void *p = c->base == NULL ? NULL : c->base + c->used;

    if (!moe_mul(n, element, &bytes) || bytes > SIZE_MAX / 2 - 64 - c->used) {
        c->overflow = true;
        return NULL;
    }
    c->used += (bytes + 63) / 64 * 64;
    return p;
}

/* One plane or two of n values with a scale per `block` and a sum per `part` columns. */
static cpu_planes carve_planes(cpu_carver *c, int planes, size_t n, size_t block, size_t part)
{
    return (cpu_planes){
        .hi = cpu_carve(c, n, 1),
        .lo = planes == 2 ? cpu_carve(c, n, 1) : NULL,
        .d = cpu_carve(c, n / block + 1, sizeof(float)),
        .sums = cpu_carve(c, n / part + 1, sizeof(int32_t)),
    };
}

void cpu_carve_acts(const cpu_device *d, cpu_carver *c, cpu_acts *acts, size_t n, size_t n_rows)
{
    if (d->forms & 1u << MOE_ACT_Q15_32) {
        acts->fine_32 = carve_planes(c, 2, n, 32, 32);
        if (!d->spec->causal)
            acts->bytes_32 = carve_planes(c, 1, n, 32, 32);
    }
    if (d->forms & 1u << MOE_ACT_Q12_256) {
        acts->fine_256 = carve_planes(c, 2, n, 256, 16);
        acts->bytes_256 = carve_planes(c, 1, n, 256, 16);
    }
    if (d->forms & 1u << MOE_ACT_BF16) /* rows are filled up to units of 32 columns */
        acts->bf16 = cpu_carve(c, n + 31 * n_rows, (size_t)d->kernels->bf16_bytes);
}

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Lays the arena out for n_rows rows. */
static void lay_out(cpu_device *d, cpu_carver *c, size_t n_rows)
{
    const moe_model_spec *spec = d->spec;
    const moe_moe_spec *moe = &spec->moe;
    const size_t heads = (size_t)spec->n_heads, embd = (size_t)spec->n_embd;
    const size_t threads = (size_t)moe_pool_threads(d->pool);
    const size_t used = moe->n_experts > 0 ? (size_t)moe->n_experts_used : 0;
    const size_t n_slots = n_rows * used;
    const size_t row_max = max_size(n_rows, MOE_LOGIT_ROWS);
    size_t n_ff = 0, hidden, n_products = max_size(heads, 2 * (size_t)moe->n_experts + 2);

    for (int i = 0; i < spec->n_layers; i++)
        if (!spec->layers[i].is_moe)
            n_ff = max_size(n_ff, (size_t)spec->layers[i].n_ff);

    d->x = cpu_carve(c, n_rows * embd, sizeof(float));
    d->h = cpu_carve(c, n_rows * embd, sizeof(float));
    d->a = cpu_carve(c, n_rows * embd, sizeof(float));
    d->cos = cpu_carve(c, n_rows * (size_t)(spec->rope.n_rot / 2), sizeof(float));
    d->sin = cpu_carve(c, n_rows * (size_t)(spec->rope.n_rot / 2), sizeof(float));
    d->q = cpu_carve(c, n_rows * heads * (size_t)spec->head_dim, sizeof(float));
    d->k = cpu_carve(c, n_rows * (size_t)(d->n_kv_heads * d->d_k), sizeof(float));
    d->v = cpu_carve(c, n_rows * (size_t)(d->n_kv_heads * d->d_v), sizeof(float));
    d->o = cpu_carve(c, n_rows * heads * (size_t)d->d_v, sizeof(float));
    if (spec->attention == MOE_ATTENTION_MLA) {
        d->q_lora = cpu_carve(c, n_rows * (size_t)spec->q_lora_rank, sizeof(float));
        d->q_absorbed = cpu_carve(c, n_rows * heads * (size_t)d->d_k, sizeof(float));
        d->o_heads = cpu_carve(c, n_rows * heads * (size_t)spec->head_dim_v, sizeof(float));
        d->head_rows = cpu_carve(c, n_rows * heads, sizeof(int32_t));
    }
    d->gate = cpu_carve(c, n_rows * n_ff, sizeof(float));
    d->up = cpu_carve(c, n_rows * n_ff, sizeof(float));
    if (used > 0) {
        d->router = cpu_carve(c, n_rows * (size_t)moe->n_experts, sizeof(float));
        d->expert_id = cpu_carve(c, n_slots, sizeof(int32_t));
        d->expert_weight = cpu_carve(c, n_slots, sizeof(float));
        d->slot_of = cpu_carve(c, n_slots, sizeof(int32_t));
        d->slot_row = cpu_carve(c, n_slots, sizeof(int32_t));
        d->experts = cpu_carve(c, (size_t)moe->n_experts, sizeof(int32_t));
        d->expert_begin = cpu_carve(c, (size_t)moe->n_experts + 1, sizeof(int32_t));
        d->expert_place = cpu_carve(c, (size_t)moe->n_experts, sizeof(int32_t));
        d->expert_gate = cpu_carve(c, n_slots * (size_t)moe->n_ff, sizeof(float));
        d->expert_up = cpu_carve(c, n_slots * (size_t)moe->n_ff, sizeof(float));
        d->expert_out = cpu_carve(c, n_slots * embd, sizeof(float));
        d->shared_gate = cpu_carve(c, n_rows * (size_t)moe->n_ff_shared, sizeof(float));
        d->shared_up = cpu_carve(c, n_rows * (size_t)moe->n_ff_shared, sizeof(float));
        d->shared_weight = cpu_carve(c, n_rows, sizeof(float));
    }
    d->logits = cpu_carve(c, (size_t)spec->n_vocab * MOE_LOGIT_ROWS, sizeof(float));
    d->identity = cpu_carve(c, max_size(row_max, n_slots), sizeof(int32_t));
    d->products = cpu_carve(c, n_products, sizeof(cpu_product));

    cpu_carve_acts(d, c, &d->in, row_max * embd, row_max);
    hidden = max_size(heads * (size_t)max_size((size_t)spec->head_dim, (size_t)d->d_v), n_ff);
    hidden = max_size(hidden, heads * (size_t)spec->head_dim_v);
    hidden = max_size(hidden, (size_t)spec->q_lora_rank);
    cpu_carve_acts(d, c, &d->hidden, max_size(n_rows * hidden, n_slots * (size_t)moe->n_ff),
                   max_size(n_rows * heads, n_slots));
    cpu_carve_acts(d, c, &d->shared, n_rows * (size_t)moe->n_ff_shared, n_rows);

    d->attn_scratch_size = cpu_attention_scratch_bytes(d);
    d->attn_scratch = cpu_carve(c, threads, d->attn_scratch_size);
    if (!d->reproducible && d->float_cols > 0) {
        d->blas_scratch_size =
            (moe_blas_scratch_bytes(d->float_cols, (int64_t)row_max) + 63) / 64 * 64;
        d->blas_scratch = cpu_carve(c, threads, d->blas_scratch_size);
    }
}

static moe_status reserve(cpu_device *d, int n_rows, moe_error *err)
{
    cpu_carver size = {0};
    size_t identity;

    if (n_rows <= d->capacity)
        return MOE_OK;
    n_rows = n_rows < 8 ? 8 : (n_rows + 63) / 64 * 64;
    free(d->arena);
    d->arena = NULL;
    d->capacity = 0;
    lay_out(d, &size, (size_t)n_rows);
    if (!size.overflow)
        d->arena = aligned_alloc(64, size.used);
    if (d->arena == NULL)
        return moe_fail_memory(err, size.used);
    lay_out(d, &(cpu_carver){.base = d->arena}, (size_t)n_rows);
    d->arena_size = size.used;
    d->capacity = n_rows;

    identity = max_size(max_size((size_t)n_rows, MOE_LOGIT_ROWS),
                        (size_t)n_rows * (size_t)d->spec->moe.n_experts_used);
    for (size_t i = 0; i < identity; i++)
        d->identity[i] = (int32_t)i;
    if (d->spec->attention == MOE_ATTENTION_MLA)
        for (int h = 0; h < d->spec->n_heads; h++)
            for (int t = 0; t < n_rows; t++)
                d->head_rows[(size_t)h * (size_t)n_rows + (size_t)t] = t * d->spec->n_heads + h;
    return MOE_OK;
}

static moe_status begin(moe_device *device, const moe_step *step, moe_error *err)
{
    cpu_device *d = (cpu_device *)device;
    const moe_rope_spec *rope = &d->spec->rope;
    size_t partial;
    moe_status status;

    if (d->encoder != NULL)
        return cpu_encoder_begin(d, step, err);
    partial = cpu_attention_partial_floats(d, step);
    status = reserve(d, step->n_rows, err);
    if (status != MOE_OK)
        return status;
    if (partial > d->partial_floats) {
        free(d->partial);
        d->partial_floats = 0;
        d->partial = malloc(partial * sizeof(float));
        if (d->partial == NULL)
            return moe_fail_memory(err, partial * sizeof(float));
        d->partial_floats = partial;
    }
    if (rope->style == MOE_ROPE_NONE)
        return MOE_OK;
    for (int t = 0; t < step->n_rows; t++)
        moe_rope_angles(d->freq, rope->n_rot / 2, step->positions[t], rope->magnitude,
                        d->cos + (int64_t)t * (rope->n_rot / 2),
                        d->sin + (int64_t)t * (rope->n_rot / 2));
    return MOE_OK;
}

static void end(moe_device *device)
{
    (void)device;
}

static moe_status fetch(moe_device *device, int layer, const moe_cancel *cancel, moe_error *err)
{
    return moe_resident_dense(((cpu_device *)device)->resident, moe_dense_unit(layer), cancel, err);
}

/* --- rows
 * ----------------------------------------------------------------------------------------- */

typedef struct rows_job {
    cpu_device *d;
    const moe_step *step;
    const float *weight, *bias, *src;
    float *dst;
} rows_job;

void cpu_embed_row(const cpu_device *d, const moe_step *step, int64_t t, float *x, float *other)
{
    const moe_model_spec *spec = d->spec;
    const moe_slot *slots = d->weights->global;
    const moe_matrix words = moe_slot_matrix(d->weights, &slots[MOE_TOKEN_EMBD], 0);

    moe_unpack_row(&words, step->tokens[t], x);
    if (spec->embedding_scale != 1.0f)
        d->kernels->scale(x, spec->embedding_scale, spec->n_embd, x);
    if (spec->n_token_types > 0) {
        const moe_matrix types = moe_slot_matrix(d->weights, &slots[MOE_TYPE_EMBD], 0);

        moe_unpack_row(&types, 0, other);
        d->kernels->add(x, other, spec->n_embd, x);
    }
    if (spec->n_positions > 0) {
        const moe_matrix places = moe_slot_matrix(d->weights, &slots[MOE_POSITION_EMBD], 0);

        moe_unpack_row(&places, step->positions[t], other);
        d->kernels->add(x, other, spec->n_embd, x);
    }
}

static void embed_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const rows_job *job = arg;
    const cpu_device *d = job->d;
    const int64_t n = d->spec->n_embd;

    (void)thread;
    for (int64_t t = begin; t < end; t++)
        cpu_embed_row(d, job->step, t, d->x + t * n, d->h + t * n);
}

static void embed(moe_device *device, const moe_step *step)
{
    cpu_device *d = (cpu_device *)device;
    rows_job job = {.d = d, .step = step};

    cpu_for_rows(d, embed_rows, &job, step->n_rows);
}

static void norm_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const rows_job *job = arg;
    const moe_model_spec *spec = job->d->spec;
    const moe_kernels *k = job->d->kernels;
    const int64_t n = spec->n_embd;

    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        if (job->weight == NULL) /* a model without this norm */
            memcpy(job->dst + t * n, job->src + t * n, sizeof(float) * (size_t)n);
        else if (spec->norm == MOE_NORM_RMS)
            k->rms_norm(job->src + t * n, job->weight, spec->norm_eps, n, job->dst + t * n);
        else
            k->layer_norm(job->src + t * n, job->weight, job->bias, spec->norm_eps, n,
                          job->dst + t * n);
    }
}

static void norm(moe_device *device, const moe_step *step, const moe_slot *weight,
                 const moe_slot *bias, moe_buffer src, moe_buffer dst)
{
    cpu_device *d = (cpu_device *)device;
    rows_job job = {
        .d = d,
        .weight = moe_slot_vector(d->weights, weight),
        .bias = moe_slot_vector(d->weights, bias),
        .src = cpu_buffer(d, src),
        .dst = cpu_buffer(d, dst),
    };

    cpu_for_rows(d, norm_rows, &job, step->n_rows);
}

static void residual_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const rows_job *job = arg;
    cpu_device *d = job->d;
    const int64_t n = d->spec->n_embd;

    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        if (d->spec->residual_scale == 1.0f)
            d->kernels->add(d->x + t * n, d->a + t * n, n, d->x + t * n);
        else
            d->kernels->add_scaled(d->a + t * n, d->spec->residual_scale, n, d->x + t * n);
    }
}

static void residual(moe_device *device, const moe_step *step)
{
    cpu_device *d = (cpu_device *)device;
    rows_job job = {.d = d};

    cpu_for_rows(d, residual_rows, &job, step->n_rows);
}

static void pool_spans(void *arg, int64_t begin, int64_t end, int thread)
{
    const rows_job *job = arg;
    const cpu_device *d = job->d;
    const int64_t n = d->spec->n_embd;

    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        const moe_span *span = &job->step->spans[i];

        if (span->pooled != NULL)
            for (int r = span->pool_from; r < span->pool_to; r++)
                d->kernels->add(span->pooled, d->h + moe_span_row(span, r) * n, n, span->pooled);
    }
}

static void pool(moe_device *device, const moe_step *step)
{
    cpu_device *d = (cpu_device *)device;
    rows_job job = {.d = d, .step = step};

    moe_pool_run(d->pool, pool_spans, &job, step->n_spans, 1);
}

static const float *logits(moe_device *device, const int32_t *rows, int n)
{
    cpu_device *d = (cpu_device *)device;
    const moe_slot *slots = d->weights->global;
    const moe_slot *head = slots[MOE_OUTPUT].present ? &slots[MOE_OUTPUT] : &slots[MOE_TOKEN_EMBD];
    const int64_t n_embd = d->spec->n_embd;
    cpu_product product;

    for (int i = 0; i < n; i++)
        memcpy(d->a + i * n_embd, d->h + rows[i] * n_embd, sizeof(float) * (size_t)n_embd);
    cpu_prepare(d, &d->in, d->a, n_embd, n, n_embd, cpu_form(head));
    product = (cpu_product){
        .w = moe_slot_matrix(d->weights, head, 0),
        .x = &d->in,
        .rows = d->identity,
        .n_tokens = n,
        .y = d->logits,
        .ldy = d->spec->n_vocab,
    };
    cpu_run_products(d, &product, 1);
    if (d->spec->logit_scale != 1.0f)
        d->kernels->scale(d->logits, d->spec->logit_scale, (int64_t)n * d->spec->n_vocab,
                          d->logits);
    return d->logits;
}

static const float *hidden(moe_device *device, int row)
{
    const cpu_device *d = (const cpu_device *)device;

    return d->encoder != NULL ? cpu_encoder_state(d, row) : d->h + (int64_t)row * d->spec->n_embd;
}

static void destroy(moe_device *device)
{
    cpu_device *d = (cpu_device *)device;

    cpu_encoder_free(d->encoder);
    free(d->arena);
    free(d->partial);
    free(d->freq);
    free(d);
}

static const moe_device_ops cpu_ops = {
    .name = "cpu",
    .begin = begin,
    .end = end,
    .fetch = fetch,
    .embed = embed,
    .norm = norm,
    .attention = cpu_attention,
    .feed_forward = cpu_feed_forward,
    .residual = residual,
    .encode = cpu_encode,
    .pool = pool,
    .logits = logits,
    .hidden = hidden,
    .free = destroy,
};

/* Notes which forms of activations a matrix slot wants. */
static void note_slot(cpu_device *d, const moe_slot *slot)
{
    if (!slot->present || slot->is_vector)
        return;
    d->forms |= cpu_form(slot);
    if (moe_act_form_of(slot->type) == MOE_ACT_F32 && slot->n_cols > d->float_cols)
        d->float_cols = slot->n_cols;
}

/* A spec that the CPU device can't compute is refused here, so that no operation has to. */
static moe_status check_spec(const moe_model_spec *spec, moe_error *err)
{
    const moe_moe_spec *moe = &spec->moe;

    if (spec->gated_ffn && spec->activation == MOE_ACTIVATION_GELU_ERF)
        return moe_fail(err, MOE_ERR_UNSUPPORTED,
                        "a gated feed-forward with exact GELU is not supported");
    if (!spec->gated_ffn && spec->activation == MOE_ACTIVATION_SILU)
        return moe_fail(err, MOE_ERR_UNSUPPORTED,
                        "a feed-forward with SiLU and no gate is not supported");
    if (moe->n_experts > MOE_MAX_EXPERTS || moe->n_groups > MOE_MAX_GROUPS)
        return moe_fail(err, MOE_ERR_UNSUPPORTED,
                        "more than %d experts or %d groups are not supported", MOE_MAX_EXPERTS,
                        MOE_MAX_GROUPS);
    return MOE_OK;
}

moe_status moe_cpu_device_create(const moe_model_spec *spec, moe_resident *resident,
                                 const moe_kernels *kernels, moe_pool *pool, bool reproducible,
                                 moe_device **out, moe_error *err)
{
    const moe_weights *weights = resident->weights;
    const int n_half = spec->rope.n_rot / 2;
    moe_status status = check_spec(spec, err);
    cpu_device *d;

    *out = NULL;
    if (status != MOE_OK)
        return status;
    d = calloc(1, sizeof(*d));
    if (d == NULL)
        return moe_fail_memory(err, sizeof(*d));
    d->base.ops = &cpu_ops;
    d->spec = spec;
    d->weights = weights;
    d->resident = resident;
    d->kernels = kernels;
    d->pool = pool;
    d->reproducible = reproducible;
    for (int s = 0; s < MOE_N_GLOBAL_SLOTS; s++)
        note_slot(d, &weights->global[s]);
    for (int i = 0; i < weights->n_layers; i++)
        for (int s = 0; s < MOE_N_LAYER_SLOTS; s++)
            note_slot(d, &weights->layers[i][s]);
    if (spec->attention == MOE_ATTENTION_MLA) {
        d->n_kv_heads = 1;
        d->d_k = spec->kv_lora_rank + spec->head_dim_rope;
        d->d_v = spec->kv_lora_rank;
    } else {
        d->n_kv_heads = spec->n_kv_heads;
        d->d_k = spec->head_dim;
        d->d_v = spec->head_dim_v;
    }
    if (!spec->causal) {
        status = cpu_encoder_create(d, err);
        if (status != MOE_OK) {
            destroy(&d->base);
            return status;
        }
    }
    d->freq = malloc(sizeof(double) * (size_t)(n_half > 0 ? n_half : 1));
    if (d->freq == NULL) {
        destroy(&d->base);
        return moe_fail_memory(err, sizeof(double) * (size_t)n_half);
    }
    if (spec->rope.style != MOE_ROPE_NONE)
        moe_rope_frequencies(&spec->rope, d->freq);
    *out = &d->base;
    return MOE_OK;
}
