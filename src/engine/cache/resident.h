/*
 * The weights of an open model, as far as they are in memory: loads what a step needs.
 *
 * It joins a model's units, its open files and an arena of the expert cache.  What is dense is
 * loaded when it is first needed and stays pinned while the model is open; experts are pinned for
 * the time of one product, so that others may take their frames.
 */
#ifndef MOE_RESIDENT_H
#define MOE_RESIDENT_H

#include "expert_cache.h"

typedef struct moe_resident {
    moe_expert_cache cache;
    moe_weights *weights;
    moe_file *file;
    moe_loader *loader;
    bool *held;       /* (n_dense) pinned by this one */
    int32_t *claimed; /* (n_units) scratch */
} moe_resident;

/* Takes a prepared arena; all arguments must outlive it.  MOE_ERR_INVALID if the arena is for other
 * weights. */
moe_status moe_resident_create(moe_weights *weights, moe_file *file, const moe_kernels *kernels,
                               moe_pool *pool, void *arena, moe_resident **out, moe_error *err);
void moe_resident_free(moe_resident *r);

/* Has a dense unit in memory from now on. */
moe_status moe_resident_dense(moe_resident *r, int32_t unit, const moe_cancel *cancel,
                              moe_error *err);

/* Pins experts of a layer, in one portion or several: moves those that it could pin to the front of
 * the list, at least one, and gives their number.  The caller computes with them, unpins them and
 * calls again for the others.  first: the first call of a step for this layer.  Errors: those of
 * reading files, MOE_ERR_MEMORY, MOE_ERR_CANCELLED; nothing is pinned then. */
moe_status moe_resident_pin(moe_resident *r, int layer, int32_t *experts, int n, bool first,
                            const moe_cancel *cancel, int *n_pinned, moe_error *err);
void moe_resident_unpin(moe_resident *r, int layer, const int32_t *experts, int n);

/* See moe_model_prewarm. */
moe_status moe_resident_prewarm(moe_resident *r, size_t max_bytes, const moe_cancel *cancel,
                                int *n_units, size_t *n_bytes, moe_error *err);

#endif
