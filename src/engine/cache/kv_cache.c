/*
 * Pages of the KV cache: a stack of free page numbers over slabs of anonymous memory.
 */
#define _GNU_SOURCE
#include "kv_cache.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { SLAB_PAGES = 16 };

moe_status moe_kv_cache_create(const moe_model_spec *spec, bool f32, size_t max_bytes,
                               moe_kv_cache **out, moe_error *err)
{
    const size_t element = f32 ? 4 : 2;
    moe_kv_cache *kv = calloc(1, sizeof(*kv));
    size_t n_pages;

    *out = NULL;
    if (kv == NULL)
        return moe_fail_memory(err, sizeof(*kv));
    kv->f32 = f32;
    kv->n_layers = spec->causal ? spec->n_layers : 1;
    if (spec->attention == MOE_ATTENTION_MLA) {
        kv->values_in_keys = true;
        kv->n_kv_heads = 1;
        kv->d_k = spec->kv_lora_rank + spec->head_dim_rope;
        kv->d_v = spec->kv_lora_rank;
    } else {
        kv->n_kv_heads = spec->n_kv_heads;
        kv->d_k = spec->head_dim;
        kv->d_v = spec->head_dim_v;
    }
    kv->k_bytes = element * MOE_KV_PAGE * (size_t)kv->d_k;
    kv->v_bytes = kv->values_in_keys ? 0 : element * MOE_KV_PAGE * (size_t)kv->d_v;
    kv->layer_bytes = (size_t)kv->n_kv_heads * (kv->k_bytes + kv->v_bytes);
    kv->page_bytes = (size_t)kv->n_layers * kv->layer_bytes;

    n_pages = max_bytes / kv->page_bytes / SLAB_PAGES * SLAB_PAGES;
    if (n_pages < SLAB_PAGES)
        n_pages = SLAB_PAGES;
    if (n_pages > 1 << 24)
        n_pages = 1 << 24;
    kv->n_pages_max = (int)n_pages;
    kv->free_list = malloc(n_pages * sizeof(int32_t));
    kv->slabs = calloc(n_pages / SLAB_PAGES, sizeof(char *));
    if (kv->free_list == NULL || kv->slabs == NULL) {
        moe_kv_cache_free(kv);
        return moe_fail_memory(err, n_pages * sizeof(int32_t));
    }
    *out = kv;
    return MOE_OK;
}

void moe_kv_cache_free(moe_kv_cache *kv)
{
    if (kv == NULL)
        return;
    for (int i = 0; i < kv->n_slabs; i++)
        munmap(kv->slabs[i], kv->page_bytes * SLAB_PAGES);
    free(kv->slabs);
    free(kv->free_list);
    free(kv);
}

/* Adds a slab's pages to the free list; false when memory is short. */
static bool grow(moe_kv_cache *kv)
{
    void *slab;

    if (kv->n_pages + SLAB_PAGES > kv->n_pages_max)
        return false;
    slab = mmap(NULL, kv->page_bytes * SLAB_PAGES, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (slab == MAP_FAILED)
        return false;
    kv->slabs[kv->n_slabs++] = slab;
    for (int i = SLAB_PAGES - 1; i >= 0; i--)
        kv->free_list[kv->n_free++] = kv->n_pages + i;
    kv->n_pages += SLAB_PAGES;
    return true;
}

int32_t moe_kv_cache_take(moe_kv_cache *kv)
{
    if (kv->n_free == 0 && !grow(kv))
        return -1;
    kv->n_used++;
    return kv->free_list[--kv->n_free];
}

void moe_kv_cache_release(moe_kv_cache *kv, int32_t page)
{
    kv->free_list[kv->n_free++] = page;
    kv->n_used--;
}

static char *layer_start(const moe_kv_cache *kv, int32_t page, int layer)
{
    return kv->slabs[page / SLAB_PAGES] + (size_t)(page % SLAB_PAGES) * kv->page_bytes +
           (size_t)(kv->n_layers == 1 ? 0 : layer) * kv->layer_bytes;
}

void *moe_kv_cache_keys(const moe_kv_cache *kv, int32_t page, int layer, int head)
{
    return layer_start(kv, page, layer) + (size_t)head * kv->k_bytes;
}

void *moe_kv_cache_values(const moe_kv_cache *kv, int32_t page, int layer, int head)
{
    if (kv->values_in_keys)
        return NULL;
    return layer_start(kv, page, layer) + (size_t)kv->n_kv_heads * kv->k_bytes +
           (size_t)head * kv->v_bytes;
}
