/*
 * Nodes in hash buckets, idle ones in a list by age, leases that hold them.
 */
#include "prefix_cache.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_BUCKETS = 64 };

moe_status moe_prefix_cache_create(moe_kv_cache *kv, size_t max_idle_bytes, moe_prefix_cache **out,
                                   moe_error *err)
{
    const size_t max_idle = max_idle_bytes / kv->page_bytes;
    moe_prefix_cache *cache = calloc(1, sizeof(*cache));

    *out = NULL;
    if (cache == NULL)
        return moe_fail_memory(err, sizeof(*cache));
    cache->kv = kv;
    cache->n_idle_max = max_idle < (size_t)kv->n_pages_max ? (int)max_idle : kv->n_pages_max;
    cache->n_buckets = FIRST_BUCKETS;
    cache->buckets = calloc(cache->n_buckets, sizeof(*cache->buckets));
    if (cache->buckets == NULL) {
        free(cache);
        return moe_fail_memory(err, FIRST_BUCKETS * sizeof(*cache->buckets));
    }
    *out = cache;
    return MOE_OK;
}

void moe_prefix_cache_free(moe_prefix_cache *cache)
{
    if (cache == NULL)
        return;
    for (size_t i = 0; i < cache->n_buckets; i++)
        while (cache->buckets[i] != NULL) {
            moe_prefix_node *node = cache->buckets[i];

            cache->buckets[i] = node->next;
            free(node);
        }
    free(cache->buckets);
    free(cache);
}

int moe_prefix_cache_held(const moe_prefix_cache *cache)
{
    return cache->kv->n_used - cache->n_idle;
}

int moe_prefix_cache_available(const moe_prefix_cache *cache)
{
    return cache->kv->n_pages_max - moe_prefix_cache_held(cache);
}

/* --- nodes ------------------------------------------------------------------------------------ */

static uint64_t hash_of(const moe_prefix_node *parent, const int32_t *tokens)
{
    uint64_t h = parent != NULL ? parent->hash : 0;

    for (int i = 0; i < MOE_KV_PAGE; i++) {
        h = (h ^ (uint32_t)tokens[i]) * 0x9e3779b97f4a7c15u;
        h ^= h >> 32;
    }
    return h;
}

static moe_prefix_node **bucket_of(const moe_prefix_cache *cache, uint64_t hash)
{
    return &cache->buckets[hash & (cache->n_buckets - 1)];
}

static moe_prefix_node *find(const moe_prefix_cache *cache, const moe_prefix_node *parent,
                             const int32_t *tokens)
{
    const uint64_t hash = hash_of(parent, tokens);
    moe_prefix_node *node = *bucket_of(cache, hash);

    while (node != NULL && (node->hash != hash || node->parent != parent ||
                            memcmp(node->tokens, tokens, sizeof(node->tokens)) != 0))
        node = node->next;
    return node;
}

/* Doubles the buckets when they are as many as the nodes; without memory they just get longer. */
static void grow_buckets(moe_prefix_cache *cache)
{
    const size_t n_old = cache->n_buckets;
    moe_prefix_node **old = cache->buckets, **grown;

    if (cache->n_nodes < n_old)
        return;
    grown = calloc(2 * n_old, sizeof(*grown));
    if (grown == NULL)
        return;
    cache->buckets = grown;
    cache->n_buckets = 2 * n_old;
    for (size_t i = 0; i < n_old; i++)
        while (old[i] != NULL) {
            moe_prefix_node *node = old[i], **bucket = bucket_of(cache, node->hash);

            old[i] = node->next;
            node->next = *bucket;
            *bucket = node;
        }
    free(old);
}

static void remove_node(moe_prefix_cache *cache, moe_prefix_node *node)
{
    moe_prefix_node **link = bucket_of(cache, node->hash);

    while (*link != node)
        link = &(*link)->next;
    *link = node->next;
    cache->n_nodes--;
    moe_kv_cache_release(cache->kv, node->page);
    free(node);
}

static void leave_idle(moe_prefix_cache *cache, moe_prefix_node *node)
{
    *(node->older != NULL ? &node->older->newer : &cache->oldest) = node->newer;
    *(node->newer != NULL ? &node->newer->older : &cache->newest) = node->older;
    cache->n_idle--;
}

static void evict_oldest(moe_prefix_cache *cache)
{
    moe_prefix_node *node = cache->oldest;

    leave_idle(cache, node);
    remove_node(cache, node);
}

static void enter_idle(moe_prefix_cache *cache, moe_prefix_node *node)
{
    node->older = cache->newest;
    node->newer = NULL;
    *(cache->newest != NULL ? &cache->newest->newer : &cache->oldest) = node;
    cache->newest = node;
    if (++cache->n_idle > cache->n_idle_max)
        evict_oldest(cache);
}

static int32_t take_page(moe_prefix_cache *cache)
{
    int32_t page = moe_kv_cache_take(cache->kv);

    if (page >= 0 || cache->oldest == NULL)
        return page;
    evict_oldest(cache);
    return moe_kv_cache_take(cache->kv);
}

/* A new node, held by nobody yet. */
static moe_prefix_node *make_node(moe_prefix_cache *cache, moe_prefix_node *parent,
                                  const int32_t *tokens, const void *writer)
{
    const int32_t page = take_page(cache);
    moe_prefix_node *node = page < 0 ? NULL : calloc(1, sizeof(*node)), **bucket;

    if (node == NULL) {
        if (page >= 0)
            moe_kv_cache_release(cache->kv, page);
        return NULL;
    }
    node->parent = parent;
    node->hash = hash_of(parent, tokens);
    node->page = page;
    node->writer = writer;
    memcpy(node->tokens, tokens, sizeof(node->tokens));
    grow_buckets(cache);
    bucket = bucket_of(cache, node->hash);
    node->next = *bucket;
    *bucket = node;
    cache->n_nodes++;
    return node;
}

static bool is_bulk_held(const moe_prefix_node *node)
{
    return node->users > 0 && node->users == node->bulk_users;
}

static void hold(moe_prefix_cache *cache, moe_prefix_node *node, bool bulk)
{
    cache->n_bulk_held -= is_bulk_held(node);
    if (node->users == 0 && node->n_done == MOE_KV_PAGE)
        leave_idle(cache, node);
    node->users++;
    node->bulk_users += bulk;
    cache->n_bulk_held += is_bulk_held(node);
}

static void let_go(moe_prefix_cache *cache, moe_prefix_node *node, const moe_kv_lease *lease)
{
    cache->n_bulk_held -= is_bulk_held(node);
    node->users--;
    node->bulk_users -= lease->bulk;
    cache->n_bulk_held += is_bulk_held(node);
    if (node->writer == lease->owner)
        node->writer = NULL;
    if (node->users > 0)
        return;
    if (node->n_done == MOE_KV_PAGE)
        enter_idle(cache, node);
    else
        remove_node(cache, node);
}

/* --- leases ----------------------------------------------------------------------------------- */

int moe_kv_lease_cost(const moe_prefix_cache *cache, const int32_t *tokens, int n_shared,
                      int n_pages)
{
    const moe_prefix_node *node = NULL;
    int cost = n_pages;

    for (int i = 0; i < n_shared; i++) {
        node = find(cache, node, tokens + (size_t)i * MOE_KV_PAGE);
        if (node == NULL)
            break;
        cost -= node->users > 0;
    }
    return cost;
}

moe_status moe_kv_lease_open(moe_prefix_cache *cache, const int32_t *tokens, int n_shared,
                             int n_pages, moe_kv_lease *lease, moe_error *err)
{
    moe_prefix_node *node = NULL;

    /* What is there already comes first in the path, so it is held before anything is evicted. */
    lease->pages = malloc(sizeof(*lease->pages) * (size_t)(n_pages > 0 ? n_pages : 1));
    lease->shared = malloc(sizeof(*lease->shared) * (size_t)(n_shared > 0 ? n_shared : 1));
    lease->n_pages = lease->n_shared = 0;
    while (lease->pages != NULL && lease->shared != NULL && lease->n_shared < n_shared) {
        const int32_t *page_tokens = tokens + (size_t)lease->n_shared * MOE_KV_PAGE;
        moe_prefix_node *child = find(cache, node, page_tokens);

        node = child != NULL ? child : make_node(cache, node, page_tokens, lease->owner);
        if (node == NULL)
            break;
        hold(cache, node, lease->bulk);
        lease->pages[lease->n_pages++] = node->page;
        lease->shared[lease->n_shared++] = node;
    }
    while (lease->pages != NULL && lease->n_shared == n_shared && lease->n_pages < n_pages) {
        const int32_t page = take_page(cache);

        if (page < 0)
            break;
        lease->pages[lease->n_pages++] = page;
        cache->n_bulk_held += lease->bulk;
    }
    if (lease->n_pages < n_pages) {
        moe_kv_lease_close(cache, lease);
        return moe_fail_memory(err, (size_t)n_pages * cache->kv->page_bytes);
    }
    return MOE_OK;
}

void moe_kv_lease_close(moe_prefix_cache *cache, moe_kv_lease *lease)
{
    while (lease->n_pages > lease->n_shared) {
        moe_kv_cache_release(cache->kv, lease->pages[--lease->n_pages]);
        cache->n_bulk_held -= lease->bulk;
    }
    while (lease->n_shared > 0)
        let_go(cache, lease->shared[--lease->n_shared], lease);
    lease->n_pages = 0;
    free(lease->pages);
    free(lease->shared);
    lease->pages = NULL;
    lease->shared = NULL;
}

void moe_kv_lease_computed(moe_kv_lease *lease, size_t n)
{
    for (int i = 0; i < lease->n_shared && n > (size_t)i * MOE_KV_PAGE; i++) {
        moe_prefix_node *node = lease->shared[i];
        const size_t in_page = n - (size_t)i * MOE_KV_PAGE;

        if (node->n_done < MOE_KV_PAGE && (size_t)node->n_done < in_page)
            node->n_done = in_page < MOE_KV_PAGE ? (int)in_page : MOE_KV_PAGE;
    }
}
