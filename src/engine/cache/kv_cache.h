/*
 * The paged KV cache of one model in one process.
 *
 * A page holds MOE_KV_PAGE positions of every cached layer of one sequence: per layer the key slabs
 * of each KV head, then the value rows of each KV head (none for MLA, where values are a part of
 * the keys). Pages are taken from the operating system in slabs that cost memory only once written,
 * up to the limit given at creation.  A page has one owner: a sequence, or a node of the prefix
 * cache (prefix_cache.h), which counts who uses it.
 */
#ifndef MOE_KV_CACHE_H
#define MOE_KV_CACHE_H

#include "../../../kernels/cpu/kernels.h"
#include "../model/model_spec.h"

typedef struct moe_kv_cache {
    int n_layers; /* cached layers; 1 for encoders, which go through the cache layer by layer */
    int n_kv_heads, d_k, d_v;
    bool values_in_keys; /* MLA */
    bool f32;
    size_t k_bytes, v_bytes; /* of one KV head in one page */
    size_t layer_bytes, page_bytes;
    int n_pages, n_pages_max; /* made so far, limit */
    int n_used;               /* that have an owner */
    char **slabs;             /* n_pages / SLAB pages each */
    int n_slabs;
    int32_t *free_list; /* stack of n_free page numbers */
    int n_free;
} moe_kv_cache;

/* The width of keys and values in the cache, which depends on the attention kind. */
moe_status moe_kv_cache_create(const moe_model_spec *spec, bool f32, size_t max_bytes,
                               moe_kv_cache **out, moe_error *err);
void moe_kv_cache_free(moe_kv_cache *kv);

/* Takes a page; -1 when the limit is reached or memory is short. */
int32_t moe_kv_cache_take(moe_kv_cache *kv);
void moe_kv_cache_release(moe_kv_cache *kv, int32_t page);

/* Start of the keys and values of one KV head in a layer of a page; values NULL for MLA. */
void *moe_kv_cache_keys(const moe_kv_cache *kv, int32_t page, int layer, int head);
void *moe_kv_cache_values(const moe_kv_cache *kv, int32_t page, int layer, int head);

#endif
