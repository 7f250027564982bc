/*
 * The forward pass of an encoder on the CPU.
 *
 * Texts don't see each other and are there as a whole, so nothing is kept in a KV cache and nothing
 * holds the layers of one text back for another.  A step is cut into blocks of whole texts, some
 * hundred tokens each, and a thread takes a block through all layers: what it computes next is in
 * its nearer caches, and it waits for nobody.  Only a step with fewer blocks than threads goes as
 * one block through loops that all threads share.
 *
 * The feed-forward network's wide middle is computed a stretch of columns at a time, so that its
 * activation and its conversion to the form that the next product takes find it in the cache.
 *
 * The final states of the step stay in `states`; everything else is a block's and lies in the room
 * of its thread.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "../../../kernels/cpu/blas.h"
#include "cpu_device.h"

enum {
    BLOCK_TOKENS = 128,      /* about so many: weights are read once per block */
    FAST_BLOCK_TOKENS = 256, /* where products take so little time that reading them shows */
    MIN_BLOCK_TOKENS = 48,   /* below, products are inefficient */
    MIDDLE_COLUMNS = 256,    /* of the feed-forward network's middle at a time */
};

/* Consecutive texts of a step. */
typedef struct text_block {
    int row, n_rows;
    int span, n_spans;
} text_block;

/* What a block needs; (n_rows, n_embd) unless said otherwise. */
typedef struct room {
    float *q, *k, *v, *o;
    float *a;      /* result of a sub-layer */
    float *middle; /* (n_rows, n_ff), or a stretch of columns of it */
    cpu_acts in, hidden;
    char *attention; /* per thread */
} room;

struct cpu_encoder {
    text_block *blocks;
    int n_blocks, max_blocks;
    char *memory;
    size_t memory_bytes;
    float *states;     /* (n_rows, n_embd) */
    int32_t *identity; /* 0, 1, 2, … (most rows of a block) */
    room *rooms;       /* (threads) */
    size_t attention_bytes;
    bool shared; /* all threads work on the one block */
};

/* A block on its way through the layers. */
typedef struct pass {
    cpu_device *d;
    const moe_step *step;
    room *room;
    text_block block;
    int thread;
    float *x; /* the block's states */

    /* Arguments of the loops. */
    const float *weight, *bias; /* of a norm */
    unsigned forms;             /* that the next product takes */
    float *middle;              /* (n_rows, ld_middle): columns [first, first + n_columns) */
    int64_t n_ff, first, n_columns, ld_middle;
} pass;

typedef struct encode_job {
    cpu_device *d;
    const moe_step *step;
    const moe_cancel *cancel;
    atomic_bool stop;
} encode_job;

/* --- room -----------------------------------------------------------------------------------
 */

static int64_t widest_middle(const cpu_device *d)
{
    int64_t n_ff = 0;

    for (int i = 0; i < d->spec->n_layers; i++)
        if (d->spec->layers[i].n_ff > n_ff)
            n_ff = d->spec->layers[i].n_ff;
    return n_ff;
}

static int longest_text(const moe_step *step)
{
    int n = 0;

    for (int i = 0; i < step->n_spans; i++)
        n = step->spans[i].n_rows > n ? step->spans[i].n_rows : n;
    return n;
}

static int most_rows(const cpu_encoder *e)
{
    int n = 0;

    for (int i = 0; i < e->n_blocks; i++)
        n = e->blocks[i].n_rows > n ? e->blocks[i].n_rows : n;
    return n;
}

static void lay_out(cpu_device *d, cpu_carver *c, const moe_step *step)
{
    cpu_encoder *e = d->encoder;
    const size_t embd = (size_t)d->spec->n_embd, n_ff = (size_t)widest_middle(d);
    const size_t rows = (size_t)most_rows(e), threads = (size_t)moe_pool_threads(d->pool);
    const size_t n = rows * embd + 16; /* attention reads 15 floats too far */

    e->states = cpu_carve(c, (size_t)step->n_rows * embd, sizeof(float));
    e->identity = cpu_carve(c, rows, sizeof(int32_t));
    e->attention_bytes =
        (moe_attn_text_scratch_bytes(longest_text(step), d->spec->head_dim) + 63) / 64 * 64;
    if (!d->reproducible && d->float_cols > 0) {
        d->blas_scratch_size =
            (moe_blas_scratch_bytes(d->float_cols, (int64_t)rows) + 63) / 64 * 64;
        d->blas_scratch = cpu_carve(c, threads, d->blas_scratch_size);
    }
    for (size_t i = 0; i < (e->shared ? 1 : threads); i++) {
        room *r = &e->rooms[i];

        r->q = cpu_carve(c, n, sizeof(float));
        r->k = cpu_carve(c, n, sizeof(float));
        r->v = cpu_carve(c, n, sizeof(float));
        r->o = cpu_carve(c, n, sizeof(float));
        r->a = cpu_carve(c, n, sizeof(float));
        r->middle = cpu_carve(c, rows * n_ff, sizeof(float));
        cpu_carve_acts(d, c, &r->in, rows * embd, rows);
        cpu_carve_acts(d, c, &r->hidden, rows * n_ff, rows);
        r->attention = cpu_carve(c, e->shared ? threads : 1, e->attention_bytes);
    }
}

/* Cuts the step into blocks: as large as serves the weights, as many as keep the threads busy. */
static moe_status cut(cpu_device *d, const moe_step *step, moe_error *err)
{
    cpu_encoder *e = d->encoder;
    const int threads = moe_pool_threads(d->pool);
    const bool is_float = moe_act_form_of(d->weights->layers[0][MOE_UP].type) == MOE_ACT_F32;
    const int most = is_float ? BLOCK_TOKENS : FAST_BLOCK_TOKENS;
    int target = step->n_rows / (4 * threads);

    if (step->n_spans > e->max_blocks) {
        free(e->blocks);
        e->max_blocks = 0;
        e->blocks = malloc(sizeof(*e->blocks) * (size_t)step->n_spans);
        if (e->blocks == NULL)
            return moe_fail_memory(err, sizeof(*e->blocks) * (size_t)step->n_spans);
        e->max_blocks = step->n_spans;
    }
    target = target > most ? most : target < MIN_BLOCK_TOKENS ? MIN_BLOCK_TOKENS : target;
    e->n_blocks = 0;
    for (int i = 0; i < step->n_spans; i++) {
        const moe_span *span = &step->spans[i];
        text_block *last = &e->blocks[e->n_blocks - 1];

        if (e->n_blocks > 0 && last->n_rows + span->n_rows / 2 <= target) {
            last->n_rows += span->n_rows;
            last->n_spans++;
        } else {
            e->blocks[e->n_blocks++] = (text_block){span->row, span->n_rows, i, 1};
        }
    }
    e->shared = e->n_blocks < threads;
    if (e->shared) {
        e->n_blocks = 1;
        e->blocks[0] = (text_block){0, step->n_rows, 0, step->n_spans};
    }
    return MOE_OK;
}

moe_status cpu_encoder_begin(cpu_device *d, const moe_step *step, moe_error *err)
{
    cpu_encoder *e = d->encoder;
    cpu_carver size = {0};
    moe_status status = cut(d, step, err);

    if (status != MOE_OK)
        return status;
    lay_out(d, &size, step);
    if (size.overflow || size.used > e->memory_bytes) {
        free(e->memory);
        e->memory_bytes = 0;
        e->memory = size.overflow ? NULL : aligned_alloc(64, size.used);
        if (e->memory == NULL)
            return moe_fail_memory(err, size.used);
        e->memory_bytes = size.used;
    }
    lay_out(d, &(cpu_carver){.base = e->memory}, step);
    for (int i = 0; i < most_rows(e); i++)
        e->identity[i] = i;
    return MOE_OK;
}

moe_status cpu_encoder_create(cpu_device *d, moe_error *err)
{
    const moe_model_spec *spec = d->spec;
    const size_t threads = (size_t)moe_pool_threads(d->pool);
    bool bert = spec->attention != MOE_ATTENTION_MLA && spec->n_kv_heads == spec->n_heads &&
                spec->head_dim == spec->head_dim_v &&
                spec->n_heads * spec->head_dim == spec->n_embd &&
                spec->rope.style == MOE_ROPE_NONE && spec->post_norm && !spec->gated_ffn &&
                spec->norm == MOE_NORM_LAYER && spec->residual_scale == 1.0f;

    for (int i = 0; i < spec->n_layers; i++)
        bert = bert && !spec->layers[i].is_moe;
    if (!bert)
        return moe_fail(err, MOE_ERR_UNSUPPORTED,
                        "an encoder that is not like BERT is not supported");
    d->encoder = calloc(1, sizeof(*d->encoder));
    if (d->encoder == NULL)
        return moe_fail_memory(err, sizeof(*d->encoder));
    d->encoder->rooms = calloc(threads, sizeof(*d->encoder->rooms));
    return d->encoder->rooms == NULL ? moe_fail_memory(err, threads * sizeof(room)) : MOE_OK;
}

void cpu_encoder_free(cpu_encoder *e)
{
    if (e == NULL)
        return;
    free(e->blocks);
    free(e->memory);
    free(e->rooms);
    free(e);
}

const float *cpu_encoder_state(const cpu_device *d, int row)
{
    return d->encoder->states + (int64_t)row * d->spec->n_embd;
}

/* --- rows -----------------------------------------------------------------------------------
 */

/* Runs fn over n items of a block: by this thread, or by all if they share the block. */
static void each(pass *p, moe_pool_fn fn, int64_t n)
{
    if (p->d->encoder->shared)
        cpu_for_rows(p->d, fn, p, n);
    else
        fn(p, 0, n, p->thread);
}

/* The form of activations for a matrix: all quantised types take 8 bits here, but for the
 * projection to values, which is small and where half of their error would come from. */
static unsigned form_of(const moe_slot *slot)
{
    const moe_act_form form = moe_act_form_of(slot->type);

    return form == MOE_ACT_F32 || form == MOE_ACT_BF16 ? 1u << form : cpu_bytes_form(slot->type);
}

static unsigned projection_forms(const moe_slot *slots)
{
    return form_of(&slots[MOE_Q]) | form_of(&slots[MOE_K]) |
           1u << moe_act_form_of(slots[MOE_V].type);
}

/* Norm of a row of states, where there is one, and its conversion. */
static void finish_row(const pass *p, int64_t t)
{
    const int64_t n = p->d->spec->n_embd;
    float *x = p->x + t * n;

    if (p->weight != NULL)
        p->d->kernels->layer_norm(x, p->weight, p->bias, p->d->spec->norm_eps, n, x);
    cpu_convert(p->d, &p->room->in, p->forms, t, n, 0, x, n);
}

static void embed_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const pass *p = arg;
    const int64_t n = p->d->spec->n_embd;

    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        cpu_embed_row(p->d, p->step, p->block.row + t, p->x + t * n, p->room->a + t * n);
        finish_row(p, t);
    }
}

static void add_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const pass *p = arg;
    const int64_t n = p->d->spec->n_embd;

    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        p->d->kernels->add(p->x + t * n, p->room->a + t * n, n, p->x + t * n);
        finish_row(p, t);
    }
}

static void convert_heads(void *arg, int64_t begin, int64_t end, int thread)
{
    const pass *p = arg;
    const int64_t n = p->d->spec->n_embd;

    (void)thread;
    for (int64_t t = begin; t < end; t++)
        cpu_convert(p->d, &p->room->hidden, p->forms, t, n, 0, p->room->o + t * n, n);
}

static void activate_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const pass *p = arg;
    const moe_kernels *k = p->d->kernels;

    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        float *y = p->middle + t * p->ld_middle;

        if (p->d->spec->activation == MOE_ACTIVATION_GELU_ERF)
            k->gelu_erf(y, p->n_columns, y);
        else
            k->gelu_tanh(y, p->n_columns, y);
        cpu_convert(p->d, &p->room->hidden, p->forms, t, p->n_ff, p->first, y, p->n_columns);
    }
}

/* Items are pairs of a text and a head. */
static void attend(void *arg, int64_t begin, int64_t end, int thread)
{
    const pass *p = arg;
    const cpu_device *d = p->d;
    const cpu_encoder *e = d->encoder;
    const int64_t n_heads = d->spec->n_heads, n = d->spec->n_embd, width = d->spec->head_dim;
    char *scratch = p->room->attention + (e->shared ? (size_t)thread * e->attention_bytes : 0);

    for (int64_t i = begin; i < end; i++) {
        const moe_span *span = &p->step->spans[p->block.span + i / n_heads];
        const int64_t at = (span->row - p->block.row) * n + i % n_heads * width;

        d->kernels->attn_text(p->room->q + at, p->room->k + at, p->room->v + at, n, span->n_rows,
                              (int)width, d->spec->attention_scale, p->room->o + at, scratch);
    }
}

/* --- layers ---------------------------------------------------------------------------------
 */

/* Rows [first, first + n_rows) of a slot's matrix times a block's activations; first is a multiple
 * of a group's. */
static cpu_product part_product(const pass *p, const moe_slot *slot, const moe_slot *bias,
                                int64_t first, int64_t n_rows, const cpu_acts *x, float *y,
                                int64_t ldy)
{
    const cpu_device *d = p->d;
    cpu_product product = {
        .w = moe_slot_matrix(d->weights, slot, 0),
        .x = x,
        .rows = d->encoder->identity,
        .n_tokens = p->block.n_rows,
        .n_bytes = p->block.n_rows,
        .y = y,
        .ldy = ldy,
        .bias = moe_slot_vector(d->weights, bias),
    };

    product.w.packed =
        (const char *)product.w.packed +
        (size_t)(first / MOE_GROUP_ROWS) * moe_packed_group_bytes(product.w.type, product.w.n_cols);
    product.w.n_rows = n_rows;
    if (product.bias != NULL)
        product.bias += first;
    return product;
}

static cpu_product whole_product(const pass *p, const moe_slot *slot, const moe_slot *bias,
                                 const cpu_acts *x, float *y)
{
    return part_product(p, slot, bias, 0, slot->n_rows, x, y, slot->n_rows);
}

static void multiply(const pass *p, const cpu_product *products, int n)
{
    if (p->d->encoder->shared) {
        cpu_run_products(p->d, products, n);
        return;
    }
    for (int i = 0; i < n; i++)
        cpu_multiply(p->d, &products[i], 0,
                     (products[i].w.n_rows + MOE_GROUP_ROWS - 1) / MOE_GROUP_ROWS, p->thread);
}

static void attention(pass *p, const moe_slot *slots)
{
    const moe_weights *w = p->d->weights;
    room *r = p->room;
    cpu_product products[3];

    cpu_set_input(&r->in, p->x, p->d->spec->n_embd, p->d->spec->n_embd);
    products[0] = whole_product(p, &slots[MOE_Q], &slots[MOE_Q_BIAS], &r->in, r->q);
    products[1] = whole_product(p, &slots[MOE_K], &slots[MOE_K_BIAS], &r->in, r->k);
    products[2] = whole_product(p, &slots[MOE_V], &slots[MOE_V_BIAS], &r->in, r->v);
    products[2].n_bytes = 0;
    multiply(p, products, 3);
    each(p, attend, (int64_t)p->block.n_spans * p->d->spec->n_heads);

    p->forms = form_of(&slots[MOE_O]);
    each(p, convert_heads, p->block.n_rows);
    cpu_set_input(&r->hidden, r->o, p->d->spec->n_embd, p->d->spec->n_embd);
    products[0] = whole_product(p, &slots[MOE_O], &slots[MOE_O_BIAS], &r->hidden, r->a);
    multiply(p, products, 1);

    p->weight = moe_slot_vector(w, &slots[MOE_ATTN_NORM]);
    p->bias = moe_slot_vector(w, &slots[MOE_ATTN_NORM_BIAS]);
    p->forms = form_of(&slots[MOE_UP]);
    each(p, add_rows, p->block.n_rows);
}

/* next: the slots of the layer behind, or NULL. */
static void feed_forward(pass *p, const moe_slot *slots, const moe_slot *next)
{
    const moe_weights *w = p->d->weights;
    const bool is_float = form_of(&slots[MOE_DOWN]) == 1u << MOE_ACT_F32;
    room *r = p->room;
    cpu_product product;

    cpu_set_input(&r->in, p->x, p->d->spec->n_embd, p->d->spec->n_embd);
    p->n_ff = slots[MOE_UP].n_rows;
    p->forms = form_of(&slots[MOE_DOWN]);
    p->n_columns = p->d->encoder->shared ? p->n_ff : MIDDLE_COLUMNS;
    for (p->first = 0; p->first < p->n_ff; p->first += p->n_columns) {
        if (p->n_columns > p->n_ff - p->first)
            p->n_columns = p->n_ff - p->first;
        /* converted columns leave their place to the next ones */
        p->middle = is_float ? r->middle + p->first : r->middle;
        p->ld_middle = is_float ? p->n_ff : p->n_columns;
        product = part_product(p, &slots[MOE_UP], &slots[MOE_UP_BIAS], p->first, p->n_columns,
                               &r->in, p->middle, p->ld_middle);
        multiply(p, &product, 1);
        each(p, activate_rows, p->block.n_rows);
    }
    cpu_set_input(&r->hidden, r->middle, p->n_ff, p->n_ff);
    product = whole_product(p, &slots[MOE_DOWN], &slots[MOE_DOWN_BIAS], &r->hidden, r->a);
    multiply(p, &product, 1);

    p->weight = moe_slot_vector(w, &slots[MOE_FFN_NORM]);
    p->bias = moe_slot_vector(w, &slots[MOE_FFN_NORM_BIAS]);
    p->forms = next != NULL ? projection_forms(next) : 0;
    each(p, add_rows, p->block.n_rows);
}

static void add_to_pools(const pass *p)
{
    const int64_t n = p->d->spec->n_embd;

    for (int i = 0; i < p->block.n_spans; i++) {
        const moe_span *span = &p->step->spans[p->block.span + i];
        const float *x = p->x + (span->row - p->block.row) * n;

        if (span->pooled != NULL)
            for (int r = span->pool_from; r < span->pool_to; r++)
                p->d->kernels->add(span->pooled, x + r * n, n, span->pooled);
    }
}

/* Asked before each layer; cancelling is looked at by the calling thread only. */
static bool goes_on(encode_job *job, int thread)
{
    if (thread == 0 && moe_cancelled(job->cancel))
        atomic_store_explicit(&job->stop, true, memory_order_relaxed);
    return !atomic_load_explicit(&job->stop, memory_order_relaxed);
}

static void run_block(encode_job *job, const text_block *block, int thread)
{
    cpu_device *d = job->d;
    const moe_slot(*layers)[MOE_N_LAYER_SLOTS] = d->weights->layers;
    pass p = {
        .d = d,
        .step = job->step,
        .room = &d->encoder->rooms[thread],
        .block = *block,
        .thread = thread,
        .x = d->encoder->states + (int64_t)block->row * d->spec->n_embd,
        .weight = moe_slot_vector(d->weights, &d->weights->global[MOE_EMBD_NORM]),
        .bias = moe_slot_vector(d->weights, &d->weights->global[MOE_EMBD_NORM_BIAS]),
        .forms = projection_forms(layers[0]),
    };

    each(&p, embed_rows, block->n_rows);
    for (int i = 0; i < d->spec->n_layers; i++) {
        if (!goes_on(job, thread))
            return;
        attention(&p, layers[i]);
        feed_forward(&p, layers[i], i + 1 < d->spec->n_layers ? layers[i + 1] : NULL);
    }
    add_to_pools(&p);
}

static void run_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    encode_job *job = arg;

    for (; begin < end && goes_on(job, thread); begin++)
        run_block(job, &job->d->encoder->blocks[begin], thread);
}

bool cpu_encode(moe_device *device, const moe_step *step, const moe_cancel *cancel)
{
    cpu_device *d = (cpu_device *)device;
    encode_job job = {.d = d, .step = step, .cancel = cancel};

    if (d->encoder->shared)
        run_blocks(&job, 0, 1, 0);
    else
        moe_pool_run(d->pool, run_blocks, &job, d->encoder->n_blocks, 1);
    return !job.stop;
}
