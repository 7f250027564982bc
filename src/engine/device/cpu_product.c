/*
 * Products of activations with packed weights, on all threads.
 *
 * A call gets a list of products that may run at the same time (q, k and v; gate and up of all
 * experts); their row groups form one long loop, so that threads share whatever there is with one
 * barrier at the end.
 *
 * Where results need not be reproducible on other CPUs, products of unquantised weights with many
 * rows go to OpenBLAS.
 */
#include "../../../kernels/cpu/blas.h"
#include "cpu_device.h"

enum {
    BLAS_MIN_TOKENS = 32,
    BLAS_GRAIN = 16,
    FLOAT_GRAIN = 3, /* row groups that a block of registers of the float kernels spans */
    PARALLEL_MIN_WORK =
        100000, /* multiplications; below, waking threads costs more than it gains */
};

typedef struct quantize_job {
    const moe_kernels *kernels;
    cpu_acts *acts;
    const float *x;
    int64_t ld, n_cols;
    unsigned forms;
} quantize_job;

typedef struct product_job {
    const cpu_device *d;
    const cpu_product *products;
    int n;
} product_job;

void cpu_for_rows(cpu_device *d, moe_pool_fn fn, void *arg, int64_t n)
{
    if (n <= 2)
        fn(arg, 0, n, 0);
    else
        moe_pool_run(d->pool, fn, arg, n, n < 64 ? 1 : 8);
}

unsigned cpu_form(const moe_slot *slot)
{
    return slot != NULL && slot->present ? 1u << moe_act_form_of(slot->type) : 0;
}

/* Types with blocks of 32 columns are what small models come in, whose outliers 8 bits would hurt;
 * encoders bear them better: MiniLM as Q8_0 keeps a cosine of 0.999 to its exact weights. */
static bool bears_bytes(const cpu_device *d, moe_type type)
{
    const moe_act_form form = moe_act_form_of(type);

    return form == MOE_ACT_Q15_256 || (form == MOE_ACT_Q15_32 && !d->spec->causal);
}

static void quantize_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const quantize_job *job = arg;
    const cpu_planes *b32 = &job->acts->b32, *b256 = &job->acts->b256, *q8 = &job->acts->q8;
    const int64_t n = job->n_cols;

    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        const float *x = job->x + t * job->ld;

        if (job->forms & 1u << MOE_ACT_Q15_32)
            job->kernels->quantize_32(x, n, b32->hi + t * n, b32->lo + t * n, b32->d + t * (n / 32),
                                      b32->sums + t * (n / 32));
        if (job->forms & 1u << MOE_ACT_Q15_256)
            job->kernels->quantize_256(x, n, b256->hi + t * n, b256->lo + t * n,
                                       b256->d + t * (n / 256), b256->sums + t * (n / 16));
        if (job->forms & 1u << MOE_ACT_Q8)
            job->kernels->quantize_8(x, n, q8->hi + t * n, q8->d + t * (n / 32),
                                     q8->sums + t * (n / 16));
        if (job->forms & 1u << MOE_ACT_BF16)
            job->kernels->round_bf16(
                x, n, (char *)job->acts->bf16 + t * moe_bf16_columns(n) * job->kernels->bf16_bytes);
    }
}

unsigned cpu_prompt_form(const cpu_device *d, const moe_step *step, const moe_slot *slot)
{
    const unsigned exact = cpu_form(slot);
    unsigned forms = 0;

    if (exact == 0 || !bears_bytes(d, slot->type))
        return exact;
    if (step->n_prefill > 0)
        forms |= 1u << MOE_ACT_Q8;
    if (step->n_prefill < step->n_rows)
        forms |= exact;
    return forms;
}

void cpu_prepare(cpu_device *d, cpu_acts *acts, const float *x, int64_t ld, int64_t n_rows,
                 int64_t n_cols, unsigned forms)
{
    const cpu_planes *b32 = &acts->b32, *b256 = &acts->b256, *q8 = &acts->q8;

    acts->act = (moe_activations){
        .n_cols = n_cols,
        .f32 = x,
        .ld = ld,
        .b32 = {b32->hi, b32->lo, b32->d, b32->sums},
        .b256 = {b256->hi, b256->lo, b256->d, b256->sums},
        .q8 = {q8->hi, q8->d, q8->sums},
        .bf16 = acts->bf16,
    };
    if (forms & ~(1u << MOE_ACT_F32)) {
        quantize_job job = {d->kernels, acts, x, ld, n_cols, forms};

        cpu_for_rows(d, quantize_rows, &job, n_rows);
    }
}

static int64_t groups_of(const cpu_product *p)
{
    return (p->w.n_rows + MOE_GROUP_ROWS - 1) / MOE_GROUP_ROWS;
}

static bool goes_to_blas(const cpu_device *d, const cpu_product *p)
{
    return !d->reproducible && p->n_tokens >= BLAS_MIN_TOKENS &&
           moe_act_form_of(p->w.type) == MOE_ACT_F32;
}

void cpu_multiply(const cpu_device *d, const cpu_product *p, int64_t begin, int64_t end, int thread)
{
    const moe_kernels *kernels = d->kernels;
    const int64_t row_end = end * MOE_GROUP_ROWS < p->w.n_rows ? end * MOE_GROUP_ROWS : p->w.n_rows;

    if (goes_to_blas(d, p)) {
        moe_matmul_blas(&p->w, begin, end, p->x, p->rows, p->n_tokens, p->y, p->ldy,
                        d->blas_scratch + (size_t)thread * d->blas_scratch_size);
    } else {
        const int64_t n_fast = bears_bytes(d, p->w.type) ? p->n_fast : 0;
        moe_activations exact = *p->x;

        exact.q8.q = NULL;
        if (n_fast > 0)
            kernels->matmul(&p->w, begin, end, p->x, p->rows, n_fast, p->y, p->ldy);
        if (n_fast < p->n_tokens)
            kernels->matmul(&p->w, begin, end, &exact, p->rows + n_fast, p->n_tokens - n_fast,
                            p->y + n_fast * p->ldy, p->ldy);
    }
    if (p->bias != NULL)
        for (int64_t t = 0; t < p->n_tokens; t++) {
            float *y = p->y + t * p->ldy + begin * MOE_GROUP_ROWS;

            kernels->add(y, p->bias + begin * MOE_GROUP_ROWS, row_end - begin * MOE_GROUP_ROWS, y);
        }
}

static void run_groups(void *arg, int64_t begin, int64_t end, int thread)
{
    const product_job *job = arg;
    int64_t first = 0; /* number of the product's group 0 in the long loop */

    for (int i = 0; i < job->n && first < end; i++) {
        const cpu_product *p = &job->products[i];
        const int64_t n = groups_of(p);
        const int64_t from = begin > first ? begin - first : 0,
                      to = end - first < n ? end - first : n;

        if (from < to)
            cpu_multiply(job->d, p, from, to, thread);
        first += n;
    }
}

void cpu_run_products(cpu_device *d, const cpu_product *products, int n)
{
    product_job job = {d, products, n};
    int64_t groups = 0, grain = 1, work = 0;

    for (int i = 0; i < n; i++) {
        groups += groups_of(&products[i]);
        work += products[i].w.n_rows * products[i].w.n_cols * products[i].n_tokens;
        if (goes_to_blas(d, &products[i]))
            grain = BLAS_GRAIN;
        else if (grain < FLOAT_GRAIN && products[i].n_tokens >= BLAS_MIN_TOKENS &&
                 moe_act_form_of(products[i].w.type) == MOE_ACT_F32)
            grain = FLOAT_GRAIN;
    }
    if (grain < groups / (moe_pool_threads(d->pool) * 16))
        grain = groups / (moe_pool_threads(d->pool) * 16);
    if (work < PARALLEL_MIN_WORK)
        grain = groups;
    moe_pool_run(d->pool, run_groups, &job, groups, grain);
}

cpu_product cpu_step_product(const cpu_device *d, const moe_step *step, const moe_slot *slot,
                             const moe_slot *bias, const cpu_acts *x, float *y)
{
    return (cpu_product){
        .w = moe_slot_matrix(d->weights, slot, 0),
        .x = &x->act,
        .rows = d->identity,
        .n_tokens = step->n_rows,
        .y = y,
        .ldy = slot->n_rows,
        .bias = bias == NULL ? NULL : moe_slot_vector(d->weights, bias),
    };
}

cpu_product cpu_prompt_product(const cpu_device *d, const moe_step *step, const moe_slot *slot,
                               const moe_slot *bias, const cpu_acts *x, float *y)
{
    cpu_product product = cpu_step_product(d, step, slot, bias, x, y);

    product.n_fast = step->n_prefill;
    return product;
}
