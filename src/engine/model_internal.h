/*
 * What an open model and an engine consist of; shared by engine.c, text_api.c and run/.
 */
#ifndef MOE_MODEL_INTERNAL_H
#define MOE_MODEL_INTERNAL_H

#include "device/device.h"
#include "device/thread_pool.h"
#include "cache/prefix_cache.h"
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

    const moe_weight_store *store; /* where block comes from; NULL: malloc */
    char *store_key;
    void *block;

    moe_device *device;
    moe_kv_cache *kv;
    moe_prefix_cache *prefixes;
    moe_sampler *sampler;
    int64_t n_schedulers, n_sequences, n_waiting, n_running; /* open ones */
    int64_t n_prefix_hits, n_cached_tokens;                  /* since opening */
};

#endif
