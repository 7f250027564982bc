/*
 * Byte-pair encoding (Sennrich et al. 2016, on bytes as in GPT-2).  Of all adjacent pairs that have
 * a merge, the one of the lowest rank is merged, the leftmost of equals, until none is left.
 *
 * Three ways, by the length of the piece:
 *   - most pieces of ordinary text are one token.  Merges need not lead to it, so what BPE makes of
 *     a token's own text is found out once per token and remembered in `known`: threads may find
 *     out the same thing at the same time and store the same answer, so relaxed atomics suffice;
 *   - a short piece is an array of symbols beside the ranks of its pairs, searched from end to end
 *     for each merge;
 *   - a long piece is a doubly linked list with a heap of (rank, position).  A heap entry whose
 *     rank is no longer the rank of the pair at its position is stale and skipped.
 */
#include "bpe.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define SHORT_PIECE 64
#define NO_RANK UINT32_MAX

enum { UNKNOWN_YET, ONE_TOKEN, SEVERAL_TOKENS };

/* --- tables ----------------------------------------------------------------------------------- */

moe_status moe_bpe_init(moe_bpe *bpe, const moe_vocab *vocab, size_t n_merges, moe_error *err)
{
    *bpe = (moe_bpe){.vocab = vocab, .unknown = -1};
    if (n_merges > (size_t)1 << 28)
        return moe_fail(err, MOE_ERR_FORMAT, "the tokenizer has %zu merges", n_merges);
    size_t n_slots = 16;
    while (n_slots < 2 * n_merges)
        n_slots *= 2;
    bpe->merge_mask = (uint32_t)n_slots - 1;
    bpe->merges = malloc(n_slots * sizeof(*bpe->merges));
    bpe->known = calloc((size_t)vocab->n + 1, sizeof(*bpe->known));
    if (bpe->merges == NULL || bpe->known == NULL)
        return moe_fail_memory(err, n_slots * sizeof(*bpe->merges));
    for (size_t i = 0; i < n_slots; i++)
        bpe->merges[i].left = -1;
    return moe_token_map_init(&bpe->words, vocab, 0, err);
}

void moe_bpe_free(moe_bpe *bpe)
{
    moe_token_map_free(&bpe->words);
    free(bpe->merges);
    free((void *)bpe->known);
}

/* The slot that holds the pair, or the free one where it would go. */
static moe_merge *find_merge(const moe_bpe *bpe, int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * UINT64_C(0x9E3779B97F4A7C15);
    h ^= h >> 32;
    for (uint32_t i = (uint32_t)h & bpe->merge_mask;; i = (i + 1) & bpe->merge_mask) {
        moe_merge *merge = &bpe->merges[i];
        if ((merge->left == left && merge->right == right) || merge->left < 0)
            return merge;
    }
}

void moe_bpe_add_merge(moe_bpe *bpe, int32_t left, int32_t right, int32_t id)
{
    moe_merge *merge = find_merge(bpe, left, right);
    if (merge->left < 0)
        *merge = (moe_merge){left, right, bpe->n_merges, id};
    bpe->n_merges++;
}

void moe_bpe_finish(moe_bpe *bpe)
{
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        bpe->byte_ids[byte] = moe_token_map_find(&bpe->words, &c, 1);
    }
}

/* The rank of a pair, NO_RANK if it has no merge; *id is what it becomes. */
static inline uint32_t pair_rank(const moe_bpe *bpe, int32_t left, int32_t right, int32_t *id)
{
    const moe_merge *merge = find_merge(bpe, left, right);
    if (merge->left < 0)
        return NO_RANK;
    *id = merge->id;
    return merge->rank;
}

/* The symbols of the piece's bytes; returns how many.  Bytes without token become one `unknown` per
 * run of them, or nothing. */
static size_t first_symbols(const moe_bpe *bpe, const char *piece, size_t len, int32_t *symbols)
{
    size_t n = 0;
    bool last_unknown = false;
    for (size_t i = 0; i < len; i++) {
        int32_t id = bpe->byte_ids[(unsigned char)piece[i]];
        bool unknown = id < 0;
        if (unknown)
            id = last_unknown ? -1 : bpe->unknown;
        last_unknown = unknown;
        if (id >= 0)
            symbols[n++] = id;
    }
    return n;
}

/* --- short pieces ----------------------------------------------------------------------------- */

/* Merges symbols[0..n), n <= SHORT_PIECE, in place; returns how many are left. */
static size_t merge_short(const moe_bpe *bpe, int32_t *symbols, size_t n)
{
    uint32_t ranks[SHORT_PIECE]; /* of the pair that begins here */
    int32_t merged[SHORT_PIECE]; /* what it becomes */
    if (n < 2)
        return n;
    for (size_t i = 0; i + 1 < n; i++)
        ranks[i] = pair_rank(bpe, symbols[i], symbols[i + 1], &merged[i]);
    for (;;) {
        uint32_t best = NO_RANK;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            if (ranks[i] < best) {
                best = ranks[i];
                at = i;
            }
        }
        if (best == NO_RANK)
            return n;
        symbols[at] = merged[at];
        size_t tail = n - at - 2; /* symbols after the pair */
        memmove(symbols + at + 1, symbols + at + 2, tail * sizeof(*symbols));
        memmove(ranks + at, ranks + at + 1, tail * sizeof(*ranks));
        memmove(merged + at, merged + at + 1, tail * sizeof(*merged));
        n--;
        if (at + 1 < n)
            ranks[at] = pair_rank(bpe, symbols[at], symbols[at + 1], &merged[at]);
        if (at > 0)
            ranks[at - 1] = pair_rank(bpe, symbols[at - 1], symbols[at], &merged[at - 1]);
    }
}

/* --- long pieces ------------------------------------------------------------------------------ */

/* A list node; nodes keep their places, so positions order them. */
typedef struct node {
    int32_t symbol, merged;
    uint32_t rank; /* of the pair with the next node */
    uint32_t prev, next;
} node;

/* A binary heap of rank << 32 | position, the least on top. */
typedef struct heap {
    uint64_t *data;
    size_t len, cap;
} heap;

static bool heap_push(heap *h, uint64_t key)
{
    if (h->len == h->cap) {
        size_t cap = h->cap * 2, bytes;
        uint64_t *data = moe_mul(cap, sizeof(*data), &bytes) ? realloc(h->data, bytes) : NULL;
        if (data == NULL)
            return false;
        h->data = data;
        h->cap = cap;
    }
    size_t i = h->len++;
    for (; i > 0 && h->data[(i - 1) / 2] > key; i = (i - 1) / 2)
        h->data[i] = h->data[(i - 1) / 2];
    h->data[i] = key;
    return true;
}

static uint64_t heap_pop(heap *h)
{
    uint64_t top = h->data[0], key = h->data[--h->len];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < h->len; i = child) {
        if (child + 1 < h->len && h->data[child + 1] < h->data[child])
            child++;
        if (h->data[child] >= key)
            break;
        h->data[i] = h->data[child];
    }
    h->data[i] = key;
    return top;
}

/* Looks up the pair of nodes[at] and the node after it, n being the end of the list. */
static bool rank_pair(const moe_bpe *bpe, node *nodes, uint32_t at, uint32_t n, heap *h)
{
    node *left = &nodes[at];
    left->rank = NO_RANK;
    if (left->next < n)
        left->rank = pair_rank(bpe, left->symbol, nodes[left->next].symbol, &left->merged);
    return left->rank == NO_RANK || heap_push(h, (uint64_t)left->rank << 32 | at);
}

/* Merges the list; the node at 0 stays its head.  false: memory is short. */
static bool merge_list(const moe_bpe *bpe, node *nodes, uint32_t n, heap *h)
{
    for (uint32_t i = 0; i < n; i++) {
        nodes[i].prev = i - 1; /* of the head: never looked at */
        nodes[i].next = i + 1;
    }
    for (uint32_t i = 0; i < n; i++)
        if (!rank_pair(bpe, nodes, i, n, h))
            return false;
    while (h->len > 0) {
        uint64_t key = heap_pop(h);
        uint32_t at = (uint32_t)key;
        if (nodes[at].rank != key >> 32)
            continue;
        node *right = &nodes[nodes[at].next];
        nodes[at].symbol = nodes[at].merged;
        nodes[at].next = right->next;
        if (right->next < n)
            nodes[right->next].prev = at;
        right->rank = NO_RANK; /* what the heap still has of it is stale */
        if (!rank_pair(bpe, nodes, at, n, h))
            return false;
        if (at > 0 && !rank_pair(bpe, nodes, nodes[at].prev, n, h))
            return false;
    }
    return true;
}

static moe_status encode_long(const moe_bpe *bpe, const char *piece, size_t len, moe_ids *ids,
                              moe_error *err)
{
    if (len >= INT32_MAX)
        return moe_fail(err, MOE_ERR_INVALID, "a piece of the text is longer than 2 GiB");
    int32_t *symbols = malloc(len * sizeof(*symbols));
    node *nodes = malloc(len * sizeof(*nodes));
    heap h = {.data = malloc(len * sizeof(*h.data)), .cap = len};
    bool ok = symbols != NULL && nodes != NULL && h.data != NULL;
    if (ok) {
        uint32_t n = (uint32_t)first_symbols(bpe, piece, len, symbols);
        for (uint32_t i = 0; i < n; i++)
            nodes[i] = (node){.symbol = symbols[i]};
        ok = merge_list(bpe, nodes, n, &h);
        for (uint32_t i = 0; ok && i < n; i = nodes[i].next)
            ok = moe_ids_add(ids, nodes[i].symbol);
    }
    free(symbols);
    free(nodes);
    free(h.data);
    return ok ? MOE_OK : moe_fail_memory(err, len * sizeof(node));
}

/* --- public ----------------------------------------------------------------------------------- */

moe_status moe_bpe_encode(const moe_bpe *bpe, const char *piece, size_t len, moe_ids *ids,
                          moe_error *err)
{
    int32_t symbols[SHORT_PIECE];
    int32_t token = moe_token_map_find(&bpe->words, piece, len);
    int known = token < 0 ? SEVERAL_TOKENS
                : bpe->ignore_merges
                    ? ONE_TOKEN
                    : atomic_load_explicit(&bpe->known[token], memory_order_relaxed);
    if (known == ONE_TOKEN)
        return moe_ids_add(ids, token) ? MOE_OK : moe_fail_memory(err, sizeof(token));
    if (len > SHORT_PIECE)
        return encode_long(bpe, piece, len, ids, err);
    size_t n = merge_short(bpe, symbols, first_symbols(bpe, piece, len, symbols));
    if (known == UNKNOWN_YET)
        atomic_store_explicit(&bpe->known[token],
                              n == 1 && symbols[0] == token ? ONE_TOKEN : SEVERAL_TOKENS,
                              memory_order_relaxed);
    for (size_t i = 0; i < n; i++)
        if (!moe_ids_add(ids, symbols[i]))
            return moe_fail_memory(err, sizeof(symbols[i]));
    return MOE_OK;
}
