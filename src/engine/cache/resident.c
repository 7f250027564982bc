/*
 * Loading units on demand.
 *
 * Nobody waits for another process while that one could wait for him: who has claims fills them
 * before he looks at anything else, and who finds all frames pinned goes on with what he has got,
 * or sleeps with no pins at all.
 */
#include "resident.h"

#include <stdlib.h>

enum {
    WAIT_MS = 100,     /* between two looks at the cancel flag */
    WAIT_ROOM_MS = 10, /* a wake-up for room may be missed */
    PREWARM_BATCH = 16,
};

moe_status moe_resident_create(moe_weights *weights, moe_file *file, const moe_kernels *kernels,
                               moe_pool *pool, void *arena, moe_resident **out, moe_error *err)
{
    const size_t n = (size_t)weights->n_units;
    moe_resident *r = calloc(1, sizeof *r);
    moe_status status;

    *out = NULL;
    if (r == NULL)
        return moe_fail_memory(err, sizeof *r);
    r->weights = weights;
    r->file = file;
    r->held = calloc((size_t)weights->n_dense, sizeof *r->held);
    r->claimed = malloc(n * sizeof *r->claimed);
    if (r->held == NULL || r->claimed == NULL)
        status = moe_fail_memory(err, n * sizeof *r->claimed);
    else if (!moe_cache_attach(&r->cache, weights, arena))
        status = moe_fail(err, MOE_ERR_INVALID, "the weights in memory are not this model's");
    else
        status = moe_loader_create(weights, file, kernels, pool, &r->loader, err);
    if (status != MOE_OK) {
        moe_resident_free(r);
        return status;
    }
    *out = r;
    return MOE_OK;
}

void moe_resident_free(moe_resident *r)
{
    if (r == NULL)
        return;
    for (int32_t u = 0; r->loader != NULL && u < r->weights->n_dense; u++)
        if (r->held[u])
            moe_cache_unpin(&r->cache, u);
    moe_loader_free(r->loader);
    free(r->held);
    free(r->claimed);
    free(r);
}

/* Fills the first n units of r->claimed and ends the claims. */
static moe_status fill(moe_resident *r, int n, const moe_cancel *cancel, moe_error *err)
{
    moe_status status = moe_file_check(r->file, err);

    if (status == MOE_OK)
        status = moe_loader_run(r->loader, r->claimed, n, cancel, err);
    for (int i = 0; i < n; i++)
        moe_cache_settle(&r->cache, r->claimed[i], status == MOE_OK);
    return status;
}

moe_status moe_resident_dense(moe_resident *r, int32_t unit, const moe_cancel *cancel,
                              moe_error *err)
{
    while (!r->held[unit]) {
        switch (moe_cache_pin(&r->cache, unit, true, &r->weights->at[unit])) {
        case MOE_PIN_READY:
            r->held[unit] = true;
            break;
        case MOE_PIN_CLAIMED: {
            moe_status status;

            r->claimed[0] = unit;
            status = fill(r, 1, cancel, err);
            if (status != MOE_OK)
                return status;
            r->held[unit] = true;
            break;
        }
        default:
            if (moe_cancelled(cancel))
                return moe_fail(err, MOE_ERR_CANCELLED, "cancelled");
            moe_cache_wait(&r->cache, unit, WAIT_MS);
        }
    }
    return MOE_OK;
}

static int32_t first_unit(const moe_resident *r, int layer)
{
    return r->weights->layers[layer][MOE_EXPERT_UP].unit;
}

void moe_resident_unpin(moe_resident *r, int layer, const int32_t *experts, int n)
{
    const int32_t first = first_unit(r, layer);

    for (int i = 0; i < n; i++)
        moe_cache_unpin(&r->cache, first + experts[i]);
}

/* One look at the experts behind the first *n_ready: pins, and claims if it may, what it can. */
typedef struct look {
    int n_claimed;
    int32_t loading; /* a unit that somebody else fills, or -1 */
    bool full;
} look;

static look look_at(moe_resident *r, int32_t first, int32_t *experts, int n, bool may_claim,
                    bool count, int *n_ready)
{
    look seen = {0, -1, false};

    for (int i = *n_ready; i < n && !seen.full; i++) {
        const int32_t expert = experts[i], unit = first + expert;
        const moe_pin_result result =
            moe_cache_pin(&r->cache, unit, may_claim, &r->weights->at[unit]);

        if (count)
            moe_cache_touch(&r->cache, unit, result == MOE_PIN_READY);
        if (result == MOE_PIN_READY || result == MOE_PIN_CLAIMED) {
            experts[i] = experts[*n_ready];
            experts[(*n_ready)++] = expert;
        }
        if (result == MOE_PIN_CLAIMED)
            r->claimed[seen.n_claimed++] = unit;
        if (result == MOE_PIN_LOADING)
            seen.loading = unit;
        seen.full = result == MOE_PIN_FULL;
    }
    return seen;
}

moe_status moe_resident_pin(moe_resident *r, int layer, int32_t *experts, int n, bool first,
                            const moe_cancel *cancel, int *n_pinned, moe_error *err)
{
    const int32_t unit = first_unit(r, layer);
    moe_status status = MOE_OK;
    int n_ready = 0;
    look seen;

    if (first)
        moe_cache_visit(&r->cache, layer);
    seen = look_at(r, unit, experts, n, false, first, &n_ready);
    while (n_ready < n) {
        seen = look_at(r, unit, experts, n, true, false, &n_ready);
        if (seen.n_claimed > 0) {
            status = fill(r, seen.n_claimed, cancel, err);
            if (status != MOE_OK) {
                n_ready -= seen.n_claimed; /* they are the last ones, and pinned no more */
                break;
            }
        }
        if (seen.full && n_ready > 0)
            break;
        if (n_ready < n && moe_cancelled(cancel)) {
            status = moe_fail(err, MOE_ERR_CANCELLED, "cancelled");
            break;
        }
        if (seen.full)
            moe_cache_wait_room(&r->cache, WAIT_ROOM_MS);
        else if (seen.loading >= 0)
            moe_cache_wait(&r->cache, seen.loading, WAIT_MS);
    }
    if (status != MOE_OK) {
        moe_resident_unpin(r, layer, experts, n_ready);
        return status;
    }
    *n_pinned = n_ready;
    return MOE_OK;
}

/* --- prewarming ------------------------------------------------------------------------------ */

typedef struct warm_unit {
    uint32_t heat;
    int32_t unit;
} warm_unit;

/* The hottest first, then in the order of the model. */
static int compare_warm(const void *a, const void *b)
{
    const warm_unit *x = a, *y = b;

    if (x->heat != y->heat)
        return x->heat > y->heat ? -1 : 1;
    return x->unit < y->unit ? -1 : 1;
}

/* Experts that are not in memory. */
static int list_absent(const moe_resident *r, warm_unit *list)
{
    int n = 0;

    for (int32_t u = r->weights->n_dense; u < r->weights->n_units; u++)
        if (!moe_cache_resident(&r->cache, u))
            list[n++] = (warm_unit){moe_cache_heat(&r->cache, u), u};
    qsort(list, (size_t)n, sizeof *list, compare_warm);
    return n;
}

moe_status moe_resident_prewarm(moe_resident *r, size_t max_bytes, const moe_cancel *cancel,
                                int *n_units, size_t *n_bytes, moe_error *err)
{
    const moe_weight_unit *units = r->weights->units;
    const size_t list_bytes = ((size_t)r->weights->n_units + 1) * sizeof(warm_unit);
    warm_unit *list = malloc(list_bytes);
    moe_status status = MOE_OK;
    int n;

    *n_units = 0;
    *n_bytes = 0;
    if (list == NULL)
        return moe_fail_memory(err, list_bytes);
    for (int32_t u = 0; u < r->weights->n_dense && status == MOE_OK; u++) {
        if (!moe_cache_resident(&r->cache, u)) {
            ++*n_units;
            *n_bytes += units[u].bytes;
        }
        status = moe_resident_dense(r, u, cancel, err);
    }
    n = list_absent(r, list);
    for (int i = 0; i < n && status == MOE_OK;) {
        int n_claimed = 0;

        for (; i < n && n_claimed < PREWARM_BATCH && moe_cache_has_room(&r->cache) &&
               (max_bytes == 0 || *n_units + n_claimed == 0 ||
                *n_bytes + units[list[i].unit].bytes <= max_bytes);
             i++) {
            const int32_t u = list[i].unit;
            const moe_pin_result result = moe_cache_pin(&r->cache, u, true, &r->weights->at[u]);

            if (result == MOE_PIN_READY)
                moe_cache_unpin(&r->cache, u);
            if (result != MOE_PIN_CLAIMED)
                continue;
            r->claimed[n_claimed++] = u;
            *n_bytes += units[u].bytes;
        }
        if (n_claimed == 0)
            break;
        status = fill(r, n_claimed, cancel, err);
        for (int k = 0; k < n_claimed && status == MOE_OK; k++)
            moe_cache_unpin(&r->cache, r->claimed[k]);
        *n_units += n_claimed;
    }
    free(list);
    return status;
}
