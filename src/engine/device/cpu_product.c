/*
 * Products of activations with packed weights, on all threads.
 *
 * A call gets a list of products that may run at the same time (q, k and v; gate and up of all
 * experts); pieces of their row groups form one long loop, so that threads share whatever there is
 * with one barrier at the end.  A piece is of one product: each call of a kernel gathers the
 * activations anew.
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

typedef struct convert_job {
    const cpu_device *d;
    cpu_acts *acts;
    const float *x;
    int64_t ld, n_cols;
    unsigned forms;
} convert_job;

typedef struct product_job {
    const cpu_device *d;
    const cpu_product *products;
    int n;
    int64_t piece; /* row groups */
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

    return form == MOE_ACT_Q12_256 || (form == MOE_ACT_Q15_32 && !d->spec->causal);
}

unsigned cpu_bytes_form(moe_type type)
{
    return 1u << (moe_act_form_of(type) == MOE_ACT_Q15_32 ? MOE_ACT_Q8_32 : MOE_ACT_Q8_256);
}

/* The part of a row of n columns from column `first` on, of a form with blocks of 32 or 256. */
static void quantize(const moe_kernels *k, const cpu_planes *p, int block, int64_t row,
                     int64_t n_cols, int64_t first, const float *x, int64_t n)
{
    const int64_t at = row * n_cols + first;

    (block == 32 ? k->quantize_32 : k->quantize_256)(x, n, p->hi + at, p->lo ? p->lo + at : NULL,
                                                     p->d + at / block,
                                                     p->sums + at / (block == 32 ? 32 : 16));
}

void cpu_convert(const cpu_device *d, cpu_acts *acts, unsigned forms, int64_t row, int64_t n_cols,
                 int64_t first, const float *x, int64_t n)
{
    const moe_kernels *k = d->kernels;
    const int64_t bf16 = row * moe_bf16_columns(n_cols) + first;

    if (forms & 1u << MOE_ACT_BF16)
        k->round_bf16(x, n, (char *)acts->bf16 + bf16 * k->bf16_bytes);
    if (forms & 1u << MOE_ACT_Q15_32)
        quantize(k, &acts->fine_32, 32, row, n_cols, first, x, n);
    if (forms & 1u << MOE_ACT_Q12_256)
        quantize(k, &acts->fine_256, 256, row, n_cols, first, x, n);
    if (forms & 1u << MOE_ACT_Q8_32)
        quantize(k, &acts->bytes_32, 32, row, n_cols, first, x, n);
    if (forms & 1u << MOE_ACT_Q8_256)
        quantize(k, &acts->bytes_256, 256, row, n_cols, first, x, n);
}

static moe_act_planes planes_of(const cpu_planes *p)
{
    return (moe_act_planes){p->hi, p->lo, p->d, p->sums};
}

void cpu_set_input(cpu_acts *acts, const float *x, int64_t ld, int64_t n_cols)
{
    acts->fine = acts->bytes = (moe_activations){
        .n_cols = n_cols,
        .f32 = x,
        .ld = ld,
        .bf16 = acts->bf16,
    };
    acts->fine.b32 = planes_of(&acts->fine_32);
    acts->fine.b256 = planes_of(&acts->fine_256);
    acts->bytes.b32 = planes_of(&acts->bytes_32);
    acts->bytes.b256 = planes_of(&acts->bytes_256);
}

static void convert_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const convert_job *job = arg;

    (void)thread;
    for (int64_t t = begin; t < end; t++)
        cpu_convert(job->d, job->acts, job->forms, t, job->n_cols, 0, job->x + t * job->ld,
                    job->n_cols);
}

unsigned cpu_prompt_form(const cpu_device *d, const moe_step *step, const moe_slot *slot)
{
    const unsigned exact = cpu_form(slot);
    unsigned forms = 0;

    if (exact == 0 || !bears_bytes(d, slot->type))
        return exact;
    if (step->n_prefill > 0)
        forms |= cpu_bytes_form(slot->type);
    if (step->n_prefill < step->n_rows)
        forms |= exact;
    return forms;
}

void cpu_prepare(cpu_device *d, cpu_acts *acts, const float *x, int64_t ld, int64_t n_rows,
                 int64_t n_cols, unsigned forms)
{
    cpu_set_input(acts, x, ld, n_cols);
    if (forms & ~(1u << MOE_ACT_F32)) {
        convert_job job = {d, acts, x, ld, n_cols, forms};

        cpu_for_rows(d, convert_rows, &job, n_rows);
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
        moe_matmul_blas(&p->w, begin, end, &p->x->fine, p->rows, p->n_tokens, p->y, p->ldy,
                        d->blas_scratch + (size_t)thread * d->blas_scratch_size);
    } else {
        const int64_t n = bears_bytes(d, p->w.type) ? p->n_bytes : 0;

        if (n > 0)
            kernels->matmul(&p->w, begin, end, &p->x->bytes, p->rows, n, p->y, p->ldy);
        if (n < p->n_tokens)
            kernels->matmul(&p->w, begin, end, &p->x->fine, p->rows + n, p->n_tokens - n,
                            p->y + n * p->ldy, p->ldy);
    }
    if (p->bias != NULL)
        for (int64_t t = 0; t < p->n_tokens; t++) {
            float *y = p->y + t * p->ldy + begin * MOE_GROUP_ROWS;

            kernels->add(y, p->bias + begin * MOE_GROUP_ROWS, row_end - begin * MOE_GROUP_ROWS, y);
        }
}

static int64_t pieces_of(const product_job *job, const cpu_product *p)
{
    return (groups_of(p) + job->piece - 1) / job->piece;
}

static void run_pieces(void *arg, int64_t begin, int64_t end, int thread)
{
    const product_job *job = arg;
    int64_t first = 0; /* number of the product's piece 0 in the long loop */

    for (int i = 0; i < job->n && first < end; i++) {
        const cpu_product *p = &job->products[i];
        const int64_t n = pieces_of(job, p);
        const int64_t from = begin > first ? begin - first : 0,
                      to = end - first < n ? end - first : n, last = groups_of(p);

        if (from < to)
            cpu_multiply(job->d, p, from * job->piece, to < n ? to * job->piece : last, thread);
        first += n;
    }
}

void cpu_run_products(cpu_device *d, const cpu_product *products, int n)
{
    product_job job = {d, products, n, 1};
    const int64_t most = moe_pool_threads(d->pool) * 16;
    int64_t groups = 0, pieces = 0, work = 0;

    for (int i = 0; i < n; i++) {
        groups += groups_of(&products[i]);
        work += products[i].w.n_rows * products[i].w.n_cols * products[i].n_tokens;
        if (goes_to_blas(d, &products[i]))
            job.piece = BLAS_GRAIN;
        else if (job.piece < FLOAT_GRAIN && products[i].n_tokens >= BLAS_MIN_TOKENS &&
                 moe_act_form_of(products[i].w.type) == MOE_ACT_F32)
            job.piece = FLOAT_GRAIN;
    }
    if (job.piece < groups / most)
        job.piece = (groups / most + 1) / 2 * 2; /* kernels take pairs of groups */
    for (int i = 0; i < n; i++)
        pieces += pieces_of(&job, &products[i]);
    moe_pool_run(d->pool, run_pieces, &job, pieces, work < PARALLEL_MIN_WORK ? pieces : 1);
}

cpu_product cpu_step_product(const cpu_device *d, const moe_step *step, const moe_slot *slot,
                             const moe_slot *bias, const cpu_acts *x, float *y)
{
    return (cpu_product){
        .w = moe_slot_matrix(d->weights, slot, 0),
        .x = x,
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

    product.n_bytes = step->n_prefill;
    return product;
}
