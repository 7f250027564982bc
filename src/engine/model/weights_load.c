/*
 * Reading tensors and packing them into units.
 *
 * The work is cut into tasks that the threads of a pool take one by one, in the order of the units
 * and their slots: a vector, a transposed piece, or a chunk of rows of one matrix.  A chunk is
 * small enough for what was read to be still in a core's cache when it is packed.  Each thread has
 * a buffer for a chunk; only transposed pieces are held as a whole, and those are one attention
 * head's.
 *
 * The first task that fails ends the loading: no thread begins another one.  Cancelling is looked
 * at before each task of the calling thread, and by no other thread.
 *
 * Most of the time goes into memory traffic: zeroed pages from the kernel, the copy out of the page
 * cache, the packed bytes.  So the pages that a task packs into are asked for, all at once, right
 * before, and are still in a cache when they are written to.  Where memory comes in huge pages, a
 * thread takes as many tasks in a row as fill one, lest several threads ask for the same.
 *
 * A slot whose type is not that of its elements is quantised on the way, a group of rows at a time.
 */
#define _GNU_SOURCE
#include "weights.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

enum {
    CHUNK_BYTES = 512 << 10,
    PAGE_BYTES = 4096,
    HUGE_PAGE_BYTES = 2 << 20,
};

/* A present slot of a unit, or one matrix of it, and the number of its first task. */
typedef struct job {
    const moe_slot *slot;
    int64_t first_mat, n_mats;
    char *dst;
    int64_t first_task;
} job;

struct moe_loader {
    const moe_weights *w;
    const moe_file *file;
    const moe_kernels *kernels;
    moe_pool *pool;
    size_t buffer_bytes; /* what the largest task needs */
    char *buffers;       /* (threads, buffer_bytes); NULL until something is loaded */

    /* of a run */
    const moe_cancel *cancel;
    job *jobs;
    int n_jobs, max_jobs;
    int64_t n_tasks;
    atomic_bool failed;
    moe_error err; /* of the thread that set failed */
};

typedef struct moe_loader loader;

/* --- tasks ----------------------------------------------------------------------------------- */

static moe_status load_vector(const loader *ld, const moe_slot *slot, float *dst, moe_error *err)
{
    const size_t padded = (((size_t)slot->n_cols + 15) & ~(size_t)15) - (size_t)slot->n_cols;

    for (int i = 0; i < slot->n_pieces; i++) {
        const moe_piece *piece = &slot->pieces[i];
        const moe_type_info *info = moe_type_info_of(piece->tensor->type);
        const size_t width = (size_t)info->block_bytes, len = (size_t)piece->n_rows * width;
        char *raw = malloc(len);
        moe_status status;

        if (raw == NULL)
            return moe_fail_memory(err, len);
        status =
            moe_file_read(ld->file, piece->tensor, (uint64_t)piece->row * width, len, raw, err);
        if (status == MOE_OK)
            moe_dequantize((moe_type)piece->tensor->type, raw, piece->n_rows, dst);
        free(raw);
        if (status != MOE_OK)
            return status;
        dst += piece->n_rows;
    }
    memset(dst, 0, padded * sizeof *dst);
    return MOE_OK;
}

/* Rows of blocks of 32 as Q8_0, by the rule of the GGUF type: d = max|x| / 127 in half precision,
 * q = x * (1 / d) with d before that rounding, to nearest, halves away from zero.  A block that is
 * not finite gets a scale that is not either, which shows in every result. */
static void quantize_q8_0(const float *x, int64_t n_cols, char *dst)
{
    for (; n_cols > 0; n_cols -= 32, x += 32, dst += 34) {
        float amax = 0.0f, d, factor;
        bool finite = true;
        uint16_t half;
        int8_t *q = (int8_t *)dst + 2;

        for (int i = 0; i < 32; i++) {
            amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
            finite &= fabsf(x[i]) <= FLT_MAX;
        }
        d = finite ? amax / 127.0f : NAN;
        factor = finite && d > 0.0f ? 1.0f / d : 0.0f;
        half = moe_f32_to_f16(d);
        memcpy(dst, &half, sizeof half);
        for (int i = 0; i < 32; i++) {
            float v = finite ? x[i] * factor : 0.0f;
            int whole = (int)v;
            float rest = v - (float)whole;

            q[i] = (int8_t)(whole + (rest >= 0.5f) - (rest <= -0.5f));
        }
    }
}

static void round_row(const float *x, int64_t n_cols, char *dst)
{
    for (int64_t i = 0; i < n_cols; i++) {
        const uint16_t half = moe_f32_to_bf16(x[i]);

        memcpy(dst + 2 * i, &half, sizeof half);
    }
}

/* The type of a slot's rows before they are packed: as stored, but for quantised pieces that are
 * transposed. */
static moe_type element_type(const moe_piece *piece)
{
    const moe_type stored = (moe_type)piece->tensor->type;

    return piece->transposed && moe_type_info_of(stored)->block_columns > 1 ? MOE_TYPE_F16 : stored;
}

static size_t row_bytes_of(moe_type type, int64_t n_cols)
{
    return moe_type_row_bytes(moe_type_info_of(type), n_cols);
}

/* Bytes that pack_rows needs to quantise a group of the slot's rows, after one of its rows as
 * float32. */
static size_t quantize_bytes(const moe_slot *slot)
{
    return (size_t)slot->n_cols * sizeof(float) +
           MOE_GROUP_ROWS * row_bytes_of(slot->type, slot->n_cols);
}

/* Packs rows that lie one after the other.  scratch: quantize_bytes(slot), 4-byte aligned; not
 * used if the slot has the rows' type. */
static void pack_rows(const loader *ld, const moe_slot *slot, moe_type type, const char *rows,
                      int64_t n_rows, char *scratch, char *dst)
{
    const size_t row_bytes = row_bytes_of(type, slot->n_cols);
    const size_t packed_row_bytes = row_bytes_of(slot->type, slot->n_cols);
    const size_t group_bytes = moe_packed_group_bytes(slot->type, slot->n_cols);
    float *wide = (float *)(void *)scratch;

    for (int64_t r = 0; r < n_rows; r += MOE_GROUP_ROWS, dst += group_bytes) {
        const void *group[MOE_GROUP_ROWS];
        int n = n_rows - r < MOE_GROUP_ROWS ? (int)(n_rows - r) : MOE_GROUP_ROWS;

        for (int i = 0; i < n; i++) {
            const char *row = rows + (size_t)(r + i) * row_bytes;

            group[i] = row;
            if (type != slot->type) {
                char *quantised = (char *)(wide + slot->n_cols) + (size_t)i * packed_row_bytes;

                moe_dequantize(type, row, slot->n_cols, wide);
                if (slot->type == MOE_TYPE_Q8_0)
                    quantize_q8_0(wide, slot->n_cols, quantised);
                else
                    round_row(wide, slot->n_cols, quantised);
                group[i] = quantised;
            }
        }
        ld->kernels->pack_group(slot->type, group, n, slot->n_cols, dst);
    }
}

static size_t stored_row_bytes(const moe_slot *slot)
{
    return row_bytes_of((moe_type)slot->pieces[0].tensor->type, slot->n_cols);
}

/* Bytes of a chunk as stored, up to where scratch may begin. */
static size_t chunk_bytes(int64_t n_rows, const moe_slot *slot)
{
    return ((size_t)n_rows * stored_row_bytes(slot) + 63) / 64 * 64;
}

/* Rows per task of a matrix slot, a multiple of a group's but for a matrix of fewer. */
static int64_t chunk_rows(const moe_slot *slot)
{
    int64_t rows =
        (int64_t)(CHUNK_BYTES / stored_row_bytes(slot)) / MOE_GROUP_ROWS * MOE_GROUP_ROWS;

    if (rows < MOE_GROUP_ROWS)
        rows = MOE_GROUP_ROWS;
    return rows < slot->n_rows ? rows : slot->n_rows;
}

static int64_t chunks_per_matrix(const moe_slot *slot)
{
    return (slot->n_rows + chunk_rows(slot) - 1) / chunk_rows(slot);
}

/* Reads rows [row, row + n_rows) of the slot, counted through its pieces. */
static moe_status read_rows(const loader *ld, const moe_slot *slot, int64_t row, int64_t n_rows,
                            char *dst, moe_error *err)
{
    const size_t row_bytes = stored_row_bytes(slot);
    const moe_piece *piece = slot->pieces;

    for (; row >= piece->n_rows; piece++)
        row -= piece->n_rows;
    for (; n_rows > 0; piece++, row = 0) {
        int64_t n = piece->n_rows - row < n_rows ? piece->n_rows - row : n_rows;
        size_t len = (size_t)n * row_bytes;
        moe_status status = moe_file_read(ld->file, piece->tensor,
                                          (uint64_t)(piece->row + row) * row_bytes, len, dst, err);

        if (status != MOE_OK)
            return status;
        dst += len;
        n_rows -= n;
    }
    return MOE_OK;
}

/* Has the kernel provide memory in one go, which takes a fraction of the time of faults page by
 * page.  Where it can't, the faults will do. */
static void populate(char *begin, size_t bytes)
{
    char *page = (char *)((uintptr_t)begin & ~(uintptr_t)(PAGE_BYTES - 1));

    madvise(page, (size_t)(begin - page) + bytes, MADV_POPULATE_WRITE);
}

static moe_status load_chunk(const loader *ld, const job *job, int64_t chunk, char *buffer,
                             moe_error *err)
{
    const moe_slot *slot = job->slot;
    const int64_t per_matrix = chunks_per_matrix(slot), rows = chunk_rows(slot);
    const int64_t m = chunk / per_matrix, r = chunk % per_matrix * rows;
    const int64_t n = slot->n_rows - r < rows ? slot->n_rows - r : rows;
    const size_t group_bytes = moe_packed_group_bytes(slot->type, slot->n_cols);
    char *dst =
        job->dst + (size_t)m * slot->mat_stride + (size_t)(r / MOE_GROUP_ROWS) * group_bytes;
    moe_status status =
        read_rows(ld, slot, (job->first_mat + m) * slot->n_rows + r, n, buffer, err);

    if (status != MOE_OK)
        return status;
    populate(dst, (size_t)((n + MOE_GROUP_ROWS - 1) / MOE_GROUP_ROWS) * group_bytes);
    pack_rows(ld, slot, (moe_type)slot->pieces[0].tensor->type, buffer, n,
              buffer + chunk_bytes(rows, slot), dst);
    return MOE_OK;
}

/* Transposes (n_rows, n_cols) elements of `width` bytes. */
static void transpose(const char *src, int64_t n_rows, int64_t n_cols, size_t width, char *dst)
{
    for (int64_t c = 0; c < n_cols; c++)
        for (int64_t r = 0; r < n_rows; r++, dst += width)
            memcpy(dst, src + (size_t)(r * n_cols + c) * width, width);
}

/* Turns n_rows stored rows into F16 elements. */
static moe_status widen_to_f16(moe_type type, const char *src, int64_t n_rows, int64_t n_cols,
                               uint16_t *dst, moe_error *err)
{
    const size_t row_bytes = moe_type_row_bytes(moe_type_info_of(type), n_cols);
    float *row = malloc((size_t)n_cols * sizeof *row);

    if (row == NULL)
        return moe_fail_memory(err, (size_t)n_cols * sizeof *row);
    for (int64_t r = 0; r < n_rows; r++) {
        moe_dequantize(type, src + (size_t)r * row_bytes, n_cols, row);
        for (int64_t c = 0; c < n_cols; c++)
            *dst++ = moe_f32_to_f16(row[c]);
    }
    free(row);
    return MOE_OK;
}

/* One piece that becomes one matrix, (piece rows, n) turned into (n, piece rows). */
static moe_status load_transposed(const loader *ld, const moe_slot *slot, const moe_piece *piece,
                                  char *dst, moe_error *err)
{
    const moe_type stored = (moe_type)piece->tensor->type, type = element_type(piece);
    const int64_t n_cols = piece->tensor->dims[0];
    const size_t width = (size_t)moe_type_info_of(type)->block_bytes;
    const size_t row_bytes = row_bytes_of(stored, n_cols);
    size_t raw_bytes, elements, bytes;
    char *raw = NULL, *wide = NULL, *turned = NULL, *scratch = NULL;
    moe_status status;

    if (!moe_mul((size_t)piece->n_rows, row_bytes, &raw_bytes) ||
        !moe_mul((size_t)piece->n_rows, (size_t)n_cols, &elements) ||
        !moe_mul(elements, width, &bytes))
        return moe_fail(err, MOE_ERR_FORMAT, "tensor \"%s\" is too large", piece->tensor->name);
    raw = malloc(raw_bytes);
    turned = malloc(bytes);
    scratch = malloc(quantize_bytes(slot));
    if (stored != type)
        wide = malloc(bytes);
    if (raw == NULL || turned == NULL || scratch == NULL || (stored != type && wide == NULL)) {
        status = moe_fail_memory(err, bytes);
    } else {
        status = moe_file_read(ld->file, piece->tensor, (uint64_t)piece->row * row_bytes, raw_bytes,
                               raw, err);
        if (status == MOE_OK && wide != NULL)
            status =
                widen_to_f16(stored, raw, piece->n_rows, n_cols, (uint16_t *)(void *)wide, err);
    }
    if (status == MOE_OK) {
        transpose(wide != NULL ? wide : raw, piece->n_rows, n_cols, width, turned);
        pack_rows(ld, slot, type, turned, n_cols, scratch, dst);
    }
    free(scratch);
    free(raw);
    free(wide);
    free(turned);
    return status;
}

static int64_t tasks_of(const job *job)
{
    if (job->slot->is_vector)
        return 1;
    if (job->slot->pieces[0].transposed)
        return job->n_mats; /* a piece is a matrix */
    return job->n_mats * chunks_per_matrix(job->slot);
}

static moe_status run_task(const loader *ld, int64_t task, char *buffer, moe_error *err)
{
    int low = 0, high = ld->n_jobs;
    const moe_slot *slot;
    const job *job;

    while (high - low > 1) {
        int middle = low + (high - low) / 2;

        if (ld->jobs[middle].first_task <= task)
            low = middle;
        else
            high = middle;
    }
    job = &ld->jobs[low];
    slot = job->slot;
    task -= job->first_task;
    if (slot->is_vector)
        return load_vector(ld, slot, (float *)(void *)job->dst, err);
    if (slot->pieces[0].transposed)
        return load_transposed(ld, slot, &slot->pieces[job->first_mat + task],
                               job->dst + (size_t)task * slot->mat_stride, err);
    return load_chunk(ld, job, task, buffer, err);
}

/* --- threads --------------------------------------------------------------------------------- */

/* Keeps the first error of all threads. */
static void give_up(loader *ld, const moe_error *err)
{
    if (!atomic_exchange(&ld->failed, true))
        ld->err = *err;
}

/* Asked before each piece of work: is it to be done? */
static bool goes_on(loader *ld, int thread)
{
    moe_error err;

    if (thread == 0 && moe_cancelled(ld->cancel)) {
        moe_fail(&err, MOE_ERR_CANCELLED, "loading weights was cancelled");
        give_up(ld, &err);
    }
    return !atomic_load_explicit(&ld->failed, memory_order_relaxed);
}

static void run_tasks(void *arg, int64_t begin, int64_t end, int thread)
{
    loader *ld = arg;
    char *buffer = ld->buffers + (size_t)thread * ld->buffer_bytes;
    moe_error err;

    for (; begin < end && goes_on(ld, thread); begin++)
        if (run_task(ld, begin, buffer, &err) != MOE_OK)
            give_up(ld, &err);
}

/* --- runs ------------------------------------------------------------------------------------ */

/* Bytes of buffer that the tasks of a slot need. */
static size_t task_bytes(const moe_slot *slot)
{
    if (!slot->present || slot->is_vector || slot->pieces[0].transposed)
        return 0;
    return (chunk_bytes(chunk_rows(slot), slot) + quantize_bytes(slot) + 63) / 64 * 64;
}

static void note_buffer(loader *ld, const moe_slot *slot)
{
    const size_t bytes = task_bytes(slot);

    ld->buffer_bytes = bytes > ld->buffer_bytes ? bytes : ld->buffer_bytes;
}

moe_status moe_loader_create(const moe_weights *w, const moe_file *file, const moe_kernels *kernels,
                             moe_pool *pool, moe_loader **out, moe_error *err)
{
    loader *ld = calloc(1, sizeof *ld);

    *out = ld;
    if (ld == NULL)
        return moe_fail_memory(err, sizeof *ld);
    ld->w = w;
    ld->file = file;
    ld->kernels = kernels;
    ld->pool = pool;
    for (int s = 0; s < MOE_N_GLOBAL_SLOTS; s++)
        note_buffer(ld, &w->global[s]);
    for (int l = 0; l < w->n_layers; l++)
        for (int s = 0; s < MOE_N_LAYER_SLOTS; s++)
            note_buffer(ld, &w->layers[l][s]);
    return MOE_OK;
}

void moe_loader_free(moe_loader *loader)
{
    if (loader == NULL)
        return;
    free(loader->buffers);
    free(loader->jobs);
    free(loader);
}

/* Room for n more elements; false if memory is short. */
static bool grow(void **array, int n, int *max, size_t size)
{
    void *grown;

    if (n <= *max)
        return true;
    n = n < 64 ? 64 : n + n / 2;
    grown = realloc(*array, (size_t)n * size);
    if (grown == NULL)
        return false;
    *array = grown;
    *max = n;
    return true;
}

static void add_job(loader *ld, const moe_slot *slot, int32_t unit)
{
    const bool own_units = slot->mat_stride == 0;
    job *job = &ld->jobs[ld->n_jobs];

    if (!slot->present || unit < slot->unit ||
        unit >= slot->unit + (own_units ? (int32_t)slot->n_mats : 1))
        return;
    *job = (struct job){
        .slot = slot,
        .first_mat = unit - slot->unit,
        .n_mats = own_units ? 1 : slot->n_mats,
        .dst = ld->w->at[unit] + slot->offset,
        .first_task = ld->n_tasks,
    };
    ld->n_jobs++;
    ld->n_tasks += tasks_of(job);
}

/* Announces the rows that a job will read, but for transposed pieces, which are small. */
static void announce(const loader *ld, const job *job)
{
    const moe_slot *slot = job->slot;
    const size_t row_bytes = slot->is_vector ? 0 : stored_row_bytes(slot);
    int64_t row = job->first_mat * slot->n_rows, n_rows = job->n_mats * slot->n_rows;

    if (slot->is_vector || slot->pieces[0].transposed)
        return;
    for (const moe_piece *piece = slot->pieces; n_rows > 0; piece++) {
        const int64_t left = piece->n_rows - row, n = left < n_rows ? left : n_rows;

        if (n > 0) {
            moe_file_announce(ld->file, piece->tensor, (uint64_t)(piece->row + row) * row_bytes,
                              (size_t)n * row_bytes);
            n_rows -= n;
            row = 0;
        } else {
            row -= piece->n_rows;
        }
    }
}

/* Lists what is to be done for a unit. */
static bool add_unit(loader *ld, int32_t u)
{
    const moe_weight_unit *unit = &ld->w->units[u];
    const moe_slot *slots = unit->layer < 0 ? ld->w->global : ld->w->layers[unit->layer];
    const int n_slots = unit->layer < 0 ? MOE_N_GLOBAL_SLOTS : MOE_N_LAYER_SLOTS;

    if (!grow((void **)&ld->jobs, ld->n_jobs + n_slots, &ld->max_jobs, sizeof *ld->jobs))
        return false;
    for (int s = 0; s < n_slots; s++)
        add_job(ld, &slots[s], u);
    return true;
}

moe_status moe_loader_run(moe_loader *ld, const int32_t *units, int n, const moe_cancel *cancel,
                          moe_error *err)
{
    const size_t buffers_bytes = (size_t)moe_pool_threads(ld->pool) * ld->buffer_bytes + 1;
    int64_t grain;

    if (ld->buffers == NULL)
        ld->buffers = malloc(buffers_bytes);
    if (ld->buffers == NULL)
        return moe_fail_memory(err, buffers_bytes);
    ld->n_jobs = 0;
    ld->n_tasks = 0;
    for (int i = 0; i < n; i++)
        if (!add_unit(ld, units[i]))
            return moe_fail_memory(err, (size_t)n * sizeof *ld->jobs);
    for (int i = 0; i < ld->n_jobs; i++)
        announce(ld, &ld->jobs[i]);
    ld->cancel = cancel;
    ld->err = (moe_error){0};
    atomic_store(&ld->failed, false);
    grain = ld->n_tasks / (2 * moe_pool_threads(ld->pool));
    if (grain > HUGE_PAGE_BYTES / CHUNK_BYTES)
        grain = HUGE_PAGE_BYTES / CHUNK_BYTES;
    moe_pool_run(ld->pool, run_tasks, ld, ld->n_tasks, grain < 1 ? 1 : grain);
    if (ld->err.status != MOE_OK && err != NULL)
        *err = ld->err;
    return ld->err.status;
}
