/*
 * The feed-forward sub-layer on the CPU: dense, or router and experts.
 *
 * Tokens are grouped by expert: every (token, rank) pair becomes a slot, slots are sorted by
 * expert, and the experts' products run as one parallel loop.  Behind the router four loops make a
 * layer: gate and up; activation; quantisation; down.  Shared experts ride along in the same loops.
 * Outputs are combined per token in rank order, the shared experts first.
 *
 * Where the cache can't hold all experts that a step uses at once, they are computed in
 * portions, each with its share of the slots; the sums are the same.
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

/* gate <- act(gate) * up (or up <- act(up)), then into acts in the form that `down` wants. */
static void activate(cpu_device *d, cpu_acts *acts, float *gate, float *up, int64_t n, int64_t n_ff,
                     const moe_slot *down)
{
    float *y = d->spec->gated_ffn ? gate : up;
    act_job job = {d, d->spec->gated_ffn ? gate : NULL, up, y, n_ff};

    cpu_for_rows(d, activate_rows, &job, n);
    cpu_prepare(d, acts, y, n_ff, n, n_ff, cpu_form(down));
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
    activate(d, &d->hidden, d->gate, d->up, step->n_rows, n_ff, &slots[MOE_DOWN]);
    products[0] =
        cpu_step_product(d, step, &slots[MOE_DOWN], &slots[MOE_DOWN_BIAS], &d->hidden, d->a);
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

/* Lists the experts that the step uses, in ascending order; returns how many. */
static int list_experts(cpu_device *d, int n_rows)
{
    const moe_moe_spec *moe = &d->spec->moe;
    int n = 0;

    for (int e = 0; e < moe->n_experts; e++)
        d->expert_place[e] = -1;
    for (int i = 0; i < n_rows * moe->n_experts_used; i++)
        d->expert_place[d->expert_id[i]] = 0;
    for (int e = 0; e < moe->n_experts; e++)
        if (d->expert_place[e] == 0)
            d->experts[n++] = e;
    return n;
}

/* Gives the (row, rank) pairs of n experts slots from first_slot on, sorted by their order in the
 * list, rows ascending within each: a counting sort.  Returns the end of the slots. */
static int32_t group_by_expert(cpu_device *d, int n_rows, const int32_t *experts, int n,
                               int32_t first_slot)
{
    const moe_moe_spec *moe = &d->spec->moe;
    const int n_pairs = n_rows * moe->n_experts_used;
    int32_t *begin = d->expert_begin;

    for (int e = 0; e < moe->n_experts; e++)
        d->expert_place[e] = -1;
    for (int i = 0; i < n; i++)
        d->expert_place[experts[i]] = i;
    memset(begin, 0, sizeof(*begin) * (size_t)(n + 1));
    begin[0] = first_slot;
    for (int i = 0; i < n_pairs; i++)
        if (d->expert_place[d->expert_id[i]] >= 0)
            begin[d->expert_place[d->expert_id[i]] + 1]++;
    for (int i = 0; i < n; i++)
        begin[i + 1] += begin[i];
    for (int i = 0; i < n_pairs; i++) {
        const int32_t place = d->expert_place[d->expert_id[i]];

        if (place >= 0) {
            const int32_t slot = begin[place]++;

            d->slot_of[i] = slot;
            d->slot_row[slot] = i / moe->n_experts_used;
        }
    }
    memmove(begin + 1, begin, sizeof(*begin) * (size_t)n);
    begin[0] = first_slot;
    return begin[n];
}

/* How many of the slots of the expert at a place of the portion are of prompt tokens. */
static int prompt_slots(const cpu_device *d, const moe_step *step, int place)
{
    const int32_t begin = d->expert_begin[place], end = d->expert_begin[place + 1];
    int n = 0;

    while (begin + n < end && d->slot_row[begin + n] < step->n_prefill)
        n++;
    return n;
}

/* A product of the expert at a place of the portion, over its slots.  The rows of x are `rows`, or
 * counted from the portion's first slot if that is NULL. */
static cpu_product expert_product(const cpu_device *d, const moe_slot *slot, const int32_t *experts,
                                  int place, const cpu_acts *x, const int32_t *rows, int n_bytes,
                                  float *y)
{
    const int32_t begin = d->expert_begin[place], end = d->expert_begin[place + 1];

    return (cpu_product){
        .w = moe_slot_matrix(d->weights, slot, experts[place]),
        .x = x,
        .rows = rows != NULL ? rows + begin : d->identity + (begin - d->expert_begin[0]),
        .n_tokens = end - begin,
        .n_bytes = n_bytes,
        .y = y + (int64_t)begin * slot->n_rows,
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

/* Routes all rows. */
static void route(cpu_device *d, const moe_step *step, const moe_slot *slots, const float *src)
{
    const moe_moe_spec *moe = &d->spec->moe;
    route_job job = {d, moe_slot_vector(d->weights, &slots[MOE_ROUTER_SELECT_BIAS])};
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
    cpu_for_rows(d, route_rows, &job, step->n_rows);
}

/* The outputs of some experts, in slots from first_slot on, and of the shared ones if they are to
 * ride along.  Returns the end of the slots. */
static int32_t compute_portion(cpu_device *d, const moe_step *step, const moe_slot *slots,
                               const int32_t *experts, int n_experts, int32_t first_slot,
                               bool shared)
{
    const moe_moe_spec *moe = &d->spec->moe;
    const int32_t end = group_by_expert(d, step->n_rows, experts, n_experts, first_slot);
    const int64_t first_float = (int64_t)first_slot * moe->n_ff;
    cpu_product *products = d->products;
    int n = 0;

    if (shared) {
        products[n++] =
            cpu_prompt_product(d, step, &slots[MOE_SHARED_GATE], NULL, &d->in, d->shared_gate);
        products[n++] =
            cpu_prompt_product(d, step, &slots[MOE_SHARED_UP], NULL, &d->in, d->shared_up);
    }
    for (int i = 0; i < n_experts; i++) {
        const int n_bytes = prompt_slots(d, step, i);

        products[n++] = expert_product(d, &slots[MOE_EXPERT_GATE], experts, i, &d->in, d->slot_row,
                                       n_bytes, d->expert_gate);
        products[n++] = expert_product(d, &slots[MOE_EXPERT_UP], experts, i, &d->in, d->slot_row,
                                       n_bytes, d->expert_up);
    }
    cpu_run_products(d, products, n);

    activate(d, &d->hidden, d->expert_gate + first_float, d->expert_up + first_float,
             end - first_slot, moe->n_ff, &slots[MOE_EXPERT_DOWN]);
    if (shared)
        activate(d, &d->shared, d->shared_gate, d->shared_up, step->n_rows, moe->n_ff_shared,
                 &slots[MOE_SHARED_DOWN]);

    n = 0;
    if (shared)
        products[n++] = cpu_step_product(d, step, &slots[MOE_SHARED_DOWN], NULL, &d->shared, d->a);
    for (int i = 0; i < n_experts; i++)
        products[n++] = expert_product(d, &slots[MOE_EXPERT_DOWN], experts, i, &d->hidden, NULL, 0,
                                       d->expert_out);
    cpu_run_products(d, products, n);
    return end;
}

static moe_status experts(cpu_device *d, const moe_step *step, int layer, const float *src,
                          const moe_cancel *cancel, moe_error *err)
{
    const moe_slot *slots = d->weights->layers[layer];
    const bool shared = d->spec->moe.n_ff_shared > 0;
    combine_job combine = {d, shared};
    int32_t *rest = d->experts;
    int32_t slot = 0;
    int n, n_pinned;

    route(d, step, slots, src);
    n = list_experts(d, step->n_rows);
    for (bool first = true; n > 0; first = false) {
        moe_status status =
            moe_resident_pin(d->resident, layer, rest, n, first, cancel, &n_pinned, err);

        if (status != MOE_OK)
            return status;
        slot = compute_portion(d, step, slots, rest, n_pinned, slot, shared && first);
        moe_resident_unpin(d->resident, layer, rest, n_pinned);
        rest += n_pinned;
        n -= n_pinned;
    }
    cpu_for_rows(d, combine_rows, &combine, step->n_rows);
    return MOE_OK;
}

moe_status cpu_feed_forward(moe_device *device, const moe_step *step, int layer, moe_buffer src,
                            const moe_cancel *cancel, moe_error *err)
{
    cpu_device *d = (cpu_device *)device;

    if (d->spec->layers[layer].is_moe)
        return experts(d, step, layer, cpu_buffer(d, src), cancel, err);
    dense(d, step, d->weights->layers[layer], cpu_buffer(d, src));
    return MOE_OK;
}
