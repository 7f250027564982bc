/*
 * What an open model and an engine consist of; shared by engine.c, text_api.c and run/.
 */
#ifndef MOE_MODEL_INTERNAL_H
#define MOE_MODEL_INTERNAL_H

#include "device/device.h"
#include "device/thread_pool.h"
#include "cache/prefix_cache.h"
#include "cache/resident.h"
#include "run/sampler.h"
#include "text/tokenizer.h"

struct moe_engine {
    const moe_kernels *kernels;
    moe_pool *pool;
    bool reproducible;
};

struct moe_model {
    moe_engine *engine; /* NULL: only described */
    moe_model_info info;
    moe_model_spec spec;
    moe_weights weights;
    moe_tokenizer *tokenizer;
    char *chat_template; /* NULL if the model has none */
    moe_cancel cancel;

    moe_file *file;                /* open for as long as weights may have to be read */
    const moe_weight_store *store; /* where the arena comes from; NULL: private memory */
    char *store_key;
    void *arena;
    size_t arena_size;
    moe_resident *resident;

    moe_device *device;
    moe_kv_cache *kv;
    moe_prefix_cache *prefixes;
    moe_sampler *sampler;
    int64_t n_schedulers, n_sequences, n_waiting, n_running; /* open ones */
    int64_t n_prefix_hits, n_cached_tokens;                  /* since opening */
};

#endif
