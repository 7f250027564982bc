/*
 * The feed-forward sub-layer on the CPU: dense, or router and experts.
 *
 * Tokens are grouped by expert: every (token, rank) pair becomes a slot, slots are sorted by
 * expert, and the experts' products run as one parallel loop.  Behind the router four loops make a
 * layer: gate and up; activation; quantisation; down.  Shared experts ride along in the same loops.  Outputs
 * are combined per token in rank order, the shared experts first.
 */
#include <string.h>

#include "cpu_device.h"
#include "router.h"

typedef struct act_job {
    cpu_device *d;
    const float *gate, *up; /* (n, n_ff); gate NULL: up alone */
    float *y;
    int64_t n_ff;
} act_job;

static void activate_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const act_job *job = arg;
    const moe_kernels *k = job->d->kernels;
    const moe_activation kind = job->d->spec->activation;

    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        const float *up = job->up + t * job->n_ff;
        float *y = job->y + t * job->n_ff;

        if (job->gate == NULL) {
            if (kind == MOE_ACTIVATION_GELU_ERF)
                k->gelu_erf(up, job->n_ff, y);
            else
                k->gelu_tanh(up, job->n_ff, y);
        } else if (kind == MOE_ACTIVATION_SILU) {
            k->silu_mul(job->gate + t * job->n_ff, up, job->n_ff, y);
        } else {
            k->gelu_mul(job->gate + t * job->n_ff, up, job->n_ff, y);
        }
    }
}

/* gate <- act(gate) * up (or up <- act(up)), then into acts in the forms that `down` wants. */
static void activate(cpu_device *d, const moe_step *step, cpu_acts *acts, float *gate, float *up,
                     int64_t n, int64_t n_ff, const moe_slot *down)
{
    float *y = d->spec->gated_ffn ? gate : up;
    act_job job = {d, d->spec->gated_ffn ? gate : NULL, up, y, n_ff};

    cpu_for_rows(d, activate_rows, &job, n);
    cpu_prepare(d, acts, y, n_ff, n, n_ff, cpu_prompt_form(d, step, down));
}

static void dense(cpu_device *d, const moe_step *step, const moe_slot *slots, const float *src)
{
    const int64_t n_ff = slots[MOE_UP].n_rows;
    cpu_product products[2];
    int n = 0;

    cpu_prepare(d, &d->in, src, d->spec->n_embd, step->n_rows, d->spec->n_embd,
                cpu_prompt_form(d, step, &slots[MOE_UP]) |
                    cpu_prompt_form(d, step, &slots[MOE_GATE]));
    if (d->spec->gated_ffn)
        products[n++] = cpu_prompt_product(d, step, &slots[MOE_GATE], NULL, &d->in, d->gate);
    products[n++] = cpu_prompt_product(d, step, &slots[MOE_UP], &slots[MOE_UP_BIAS], &d->in, d->up);
    cpu_run_products(d, products, n);
    activate(d, step, &d->hidden, d->gate, d->up, step->n_rows, n_ff, &slots[MOE_DOWN]);
    products[0] =
        cpu_prompt_product(d, step, &slots[MOE_DOWN], &slots[MOE_DOWN_BIAS], &d->hidden, d->a);
    cpu_run_products(d, products, 1);
}

typedef struct route_job {
    cpu_device *d;
    const float *select_bias;
} route_job;

static void route_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const route_job *job = arg;
    cpu_device *d = job->d;
    const moe_moe_spec *moe = &d->spec->moe;

    (void)thread;
    for (int64_t t = begin; t < end; t++)
        moe_route(d->kernels, moe, d->router + t * moe->n_experts, job->select_bias,
                  d->expert_id + t * moe->n_experts_used,
                  d->expert_weight + t * moe->n_experts_used);
}

/* Sorts the (row, rank) pairs by expert, rows ascending within each: a counting sort. */
static void group_by_expert(cpu_device *d, int n_rows)
{
    const moe_moe_spec *moe = &d->spec->moe;
    const int n_pairs = n_rows * moe->n_experts_used;
    int32_t *begin = d->expert_begin;

    memset(begin, 0, sizeof(*begin) * (size_t)(moe->n_experts + 1));
    for (int i = 0; i < n_pairs; i++)
        begin[d->expert_id[i] + 1]++;
    for (int e = 0; e < moe->n_experts; e++)
        begin[e + 1] += begin[e];
    for (int i = 0; i < n_pairs; i++) {
        const int slot = begin[d->expert_id[i]]++;

        d->slot_of[i] = slot;
        d->slot_row[slot] = i / moe->n_experts_used;
    }
    memmove(begin + 1, begin, sizeof(*begin) * (size_t)moe->n_experts);
    begin[0] = 0;
}

/* A product of expert e over its slots. */
static cpu_product expert_product(const cpu_device *d, const moe_step *step, const moe_slot *slot,
                                  int e, const cpu_acts *x, const int32_t *rows, float *y)
{
    const int begin = d->expert_begin[e], end = d->expert_begin[e + 1];
    int prefill = 0;

    while (begin + prefill < end && d->slot_row[begin + prefill] < step->n_prefill)
        prefill++;
    return (cpu_product){
        .w = moe_slot_matrix(d->weights, slot, e),
        .x = &x->act,
        .rows = rows + begin,
        .n_tokens = end - begin,
        .n_fast = prefill,
        .y = y + begin * slot->n_rows,
        .ldy = slot->n_rows,
    };
}

typedef struct combine_job {
    cpu_device *d;
    bool shared;
} combine_job;

static void combine_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const combine_job *job = arg;
    cpu_device *d = job->d;
    const int64_t n = d->spec->n_embd;
    const int used = d->spec->moe.n_experts_used;

    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        float *y = d->a + t * n;

        if (!job->shared)
            memset(y, 0, sizeof(float) * (size_t)n);
        else if (d->spec->moe.shared_gate)
            d->kernels->scale(y, d->shared_weight[t], n, y);
        for (int r = 0; r < used; r++)
            d->kernels->add_scaled(d->expert_out + (int64_t)d->slot_of[t * used + r] * n,
                                   d->expert_weight[t * used + r], n, y);
    }
}

static void experts(cpu_device *d, const moe_step *step, const moe_slot *slots, const float *src)
{
    const moe_moe_spec *moe = &d->spec->moe;
    const bool shared = moe->n_ff_shared > 0;
    const int64_t n_slots = (int64_t)step->n_rows * moe->n_experts_used;
    route_job route = {d, moe_slot_vector(d->weights, &slots[MOE_ROUTER_SELECT_BIAS])};
    combine_job combine = {d, shared};
    cpu_product *products = d->products;
    int n = 0;

    cpu_prepare(d, &d->in, src, d->spec->n_embd, step->n_rows, d->spec->n_embd,
                cpu_form(&slots[MOE_ROUTER]) | cpu_form(&slots[MOE_SHARED_ROUTER]) |
                    cpu_prompt_form(d, step, &slots[MOE_EXPERT_GATE]) |
                    cpu_prompt_form(d, step, &slots[MOE_EXPERT_UP]) |
                    cpu_prompt_form(d, step, &slots[MOE_SHARED_GATE]) |
                    cpu_prompt_form(d, step, &slots[MOE_SHARED_UP]));
    products[n++] = cpu_step_product(d, step, &slots[MOE_ROUTER], NULL, &d->in, d->router);
    if (moe->shared_gate)
        products[n++] =
            cpu_step_product(d, step, &slots[MOE_SHARED_ROUTER], NULL, &d->in, d->shared_weight);
    cpu_run_products(d, products, n);
    if (moe->shared_gate)
        d->kernels->sigmoid(d->shared_weight, step->n_rows, d->shared_weight);
    cpu_for_rows(d, route_rows, &route, step->n_rows);
    group_by_expert(d, step->n_rows);

    n = 0;
    if (shared) {
        products[n++] =
            cpu_prompt_product(d, step, &slots[MOE_SHARED_GATE], NULL, &d->in, d->shared_gate);
        products[n++] =
            cpu_prompt_product(d, step, &slots[MOE_SHARED_UP], NULL, &d->in, d->shared_up);
    }
    for (int e = 0; e < moe->n_experts; e++) {
        if (d->expert_begin[e] == d->expert_begin[e + 1])
            continue;
        products[n++] = expert_product(d, step, &slots[MOE_EXPERT_GATE], e, &d->in, d->slot_row,
                                       d->expert_gate);
        products[n++] =
            expert_product(d, step, &slots[MOE_EXPERT_UP], e, &d->in, d->slot_row, d->expert_up);
    }
    cpu_run_products(d, products, n);

    activate(d, step, &d->hidden, d->expert_gate, d->expert_up, n_slots, moe->n_ff,
             &slots[MOE_EXPERT_DOWN]);
    if (shared)
        activate(d, step, &d->shared, d->shared_gate, d->shared_up, step->n_rows, moe->n_ff_shared,
                 &slots[MOE_SHARED_DOWN]);

    n = 0;
    if (shared)
        products[n++] =
            cpu_prompt_product(d, step, &slots[MOE_SHARED_DOWN], NULL, &d->shared, d->a);
    for (int e = 0; e < moe->n_experts; e++)
        if (d->expert_begin[e] < d->expert_begin[e + 1])
            products[n++] = expert_product(d, step, &slots[MOE_EXPERT_DOWN], e, &d->hidden,
                                           d->identity, d->expert_out);
    cpu_run_products(d, products, n);
    cpu_for_rows(d, combine_rows, &combine, step->n_rows);
}

void cpu_feed_forward(moe_device *device, const moe_step *step, int layer, moe_buffer src)
{
    cpu_device *d = (cpu_device *)device;

    if (d->spec->layers[layer].is_moe)
        experts(d, step, d->weights->layers[layer], cpu_buffer(d, src));
    else
        dense(d, step, d->weights->layers[layer], cpu_buffer(d, src));
}
