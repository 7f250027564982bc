/*
 * The token table and its hash tables.  Texts lie end to end in one buffer, so that a vocabulary
 * of 200,000 tokens is three allocations.  A table's slots hold the hash beside the id: a
 * text that is not there is nearly always refused without touching the texts.
 */
#include "vocabulary.h"

#include <stdlib.h>
#include <string.h>

moe_status moe_vocab_init(moe_vocab *vocab, int32_t n, moe_error *err)
{
    *vocab = (moe_vocab){.n = n};
    vocab->entries = calloc((size_t)n + 1, sizeof(*vocab->entries));
    if (vocab->entries == NULL || !moe_buf_add(&vocab->texts, "", 1))
        return moe_fail_memory(err, (size_t)n * sizeof(*vocab->entries));
    return MOE_OK;
}

void moe_vocab_free(moe_vocab *vocab)
{
    moe_buf_free(&vocab->texts);
    free(vocab->entries);
}

moe_status moe_vocab_set(moe_vocab *vocab, int32_t id, const char *text, size_t len,
                         moe_token_kind kind, moe_error *err)
{
    if (len > UINT32_MAX - vocab->texts.len)
        return moe_fail(err, MOE_ERR_FORMAT, "the vocabulary's texts are longer than 4 GiB");
    uint32_t start = (uint32_t)vocab->texts.len;
    if (!moe_buf_add(&vocab->texts, text, len))
        return moe_fail_memory(err, len);
    vocab->entries[id] = (moe_token_entry){start, (uint32_t)len, (uint8_t)kind};
    return MOE_OK;
}

/* Folds eight bytes at a time; a final multiply and shift spread what differs over all bits. */
static uint32_t hash_bytes(const char *s, size_t len)
{
    uint64_t h = len * UINT64_C(0x9E3779B97F4A7C15), word;
    for (; len >= 8; s += 8, len -= 8) {
        memcpy(&word, s, 8);
        h = (h ^ word) * UINT64_C(0xD6E8FEB86659FD93);
        h ^= h >> 32;
    }
    word = 0;
    for (size_t i = 0; i < len; i++)
        word = word << 8 | (unsigned char)s[i];
    h = (h ^ word) * UINT64_C(0xD6E8FEB86659FD93);
    h ^= h >> 32;
    h *= UINT64_C(0xD6E8FEB86659FD93);
    return (uint32_t)(h >> 32);
}

moe_status moe_token_map_init(moe_token_map *map, const moe_vocab *vocab, size_t skip,
                              moe_error *err)
{
    uint32_t n_slots = 16;
    while (n_slots < 2 * (uint32_t)vocab->n)
        n_slots *= 2;
    *map = (moe_token_map){.vocab = vocab, .skip = skip, .mask = n_slots - 1};
    size_t size = n_slots * sizeof(*map->slots);
    map->slots = malloc(size);
    if (map->slots == NULL)
        return moe_fail_memory(err, size);
    for (uint32_t i = 0; i < n_slots; i++)
        map->slots[i] = (moe_token_slot){0, -1};
    return MOE_OK;
}

void moe_token_map_free(moe_token_map *map)
{
    free(map->slots);
}

/* The slot that holds the text, or the free one where it would go. */
static moe_token_slot *find_slot(const moe_token_map *map, const char *text, size_t len,
                                 uint32_t hash)
{
    for (uint32_t i = hash & map->mask;; i = (i + 1) & map->mask) {
        moe_token_slot *slot = &map->slots[i];
        if (slot->id < 0)
            return slot;
        if (slot->hash != hash)
            continue;
        size_t have_len;
        const char *have = moe_vocab_text(map->vocab, slot->id, &have_len);
        if (have_len == len + map->skip && memcmp(have + map->skip, text, len) == 0)
            return slot;
    }
}

void moe_token_map_add(moe_token_map *map, int32_t id)
{
    size_t len;
    const char *text = moe_vocab_text(map->vocab, id, &len) + map->skip;
    len -= map->skip;
    uint32_t hash = hash_bytes(text, len);
    moe_token_slot *slot = find_slot(map, text, len, hash);
    if (slot->id >= 0)
        return;
    *slot = (moe_token_slot){hash, id};
    if (len > map->longest)
        map->longest = len;
}

int32_t moe_token_map_find(const moe_token_map *map, const char *text, size_t len)
{
    if (len > map->longest)
        return -1;
    return find_slot(map, text, len, hash_bytes(text, len))->id;
}
