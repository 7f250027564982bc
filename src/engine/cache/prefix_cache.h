/*
 * Prompts that begin alike share pages of the KV cache.
 *
 * A node is one full page of prompt tokens.  Its parent is the page before it, so a path from the
 * root spells out a prompt's beginning; a node is found by a hash of its parent and its tokens, and
 * both are compared.  Only prompt tokens are ever shared: generated ones have another arithmetic
 * (kernels/NUMERICS.md).  Keys and values of a prompt token depend on the tokens before it and on
 * nothing else, so it makes no difference to a single bit who computed them, or when.
 *
 * A sequence holds its pages by a lease from admission to its end.  Nodes that nobody had are made
 * then, still empty, with the lease's owner as their writer; who asks for the same pages meanwhile
 * shares the empty ones and follows the writer.  n_done says how far a page is computed.  Positions
 * before n_done are never written again; the writer, and only it, writes behind.  A writer that
 * goes leaves its pages to the next one who comes to them.
 *
 * A finished page that no lease holds stays, idle, until its memory is needed: the one unused for
 * longest goes first.  A lease gives back the last page first, so a child is always older in that
 * sense than its parent, and what goes has no children.
 *
 * Who may use a model may learn from the speed of an answer, and from usage.cached_tokens, whether
 * somebody has recently sent a prompt that begins with the same 64, 128, … tokens.
 */
#ifndef MOE_PREFIX_CACHE_H
#define MOE_PREFIX_CACHE_H

#include "kv_cache.h"

typedef struct moe_prefix_node moe_prefix_node;
struct moe_prefix_node {
    moe_prefix_node *parent;        /* NULL: the first page of a prompt */
    moe_prefix_node *next;          /* in its bucket */
    moe_prefix_node *older, *newer; /* among the idle ones */
    uint64_t hash;
    int32_t page;
    int users, bulk_users; /* leases that hold it; those of bulk work among them */
    int n_done;            /* positions computed, from the page's first */
    const void *writer;    /* owner of the lease that computes it; NULL: none does */
    int32_t tokens[MOE_KV_PAGE];
};

typedef struct moe_prefix_cache {
    moe_kv_cache *kv;
    moe_prefix_node **buckets; /* (n_buckets), a power of two */
    size_t n_buckets, n_nodes;
    moe_prefix_node *oldest, *newest; /* idle nodes */
    int n_idle, n_idle_max;
    int n_bulk_held; /* pages that only leases of bulk work hold */
} moe_prefix_cache;

/* The pages of one sequence: `n_shared` nodes of the cache, then pages of its own. */
typedef struct moe_kv_lease {
    const void *owner;
    bool bulk;
    int32_t *pages; /* (n_pages) */
    int n_pages;
    moe_prefix_node **shared; /* (n_shared) */
    int n_shared;
} moe_kv_lease;

/* At most max_idle_bytes of pages are kept idle. */
moe_status moe_prefix_cache_create(moe_kv_cache *kv, size_t max_idle_bytes, moe_prefix_cache **out,
                                   moe_error *err);
void moe_prefix_cache_free(moe_prefix_cache *cache); /* all leases must be closed */

/* Pages that leases hold, shared ones counted once; and what is left for further ones. */
int moe_prefix_cache_held(const moe_prefix_cache *cache);
int moe_prefix_cache_available(const moe_prefix_cache *cache);

/* How much moe_prefix_cache_held would grow by a lease of n_pages pages whose first n_shared may be
 * shared; tokens (n_shared * MOE_KV_PAGE at least) spell them out. */
int moe_kv_lease_cost(const moe_prefix_cache *cache, const int32_t *tokens, int n_shared,
                      int n_pages);

/* Opens such a lease; *lease holds the owner and whether it is bulk work.  MOE_ERR_MEMORY if memory
 * is short or the cost exceeds what is available: nothing is held then. */
moe_status moe_kv_lease_open(moe_prefix_cache *cache, const int32_t *tokens, int n_shared,
                             int n_pages, moe_kv_lease *lease, moe_error *err);
void moe_kv_lease_close(moe_prefix_cache *cache, moe_kv_lease *lease);

/* Notes that the positions before n are computed. */
void moe_kv_lease_computed(moe_kv_lease *lease, size_t n);

#endif
