/*
 * The token table: what each id stands for, and the way from a text to its id.
 */
#ifndef MOE_VOCABULARY_H
#define MOE_VOCABULARY_H

#include "../support.h"

/* More ids than any published model has; bounds what a broken file can make us allocate. */
#define MOE_MAX_TOKEN_ID ((int64_t)(1 << 24) - 1)

typedef enum moe_token_kind {
    MOE_TOKEN_HOLE, /* an id without a token; its text is empty */
    MOE_TOKEN_NORMAL,
    MOE_TOKEN_CONTROL, /* special: parsed from text and shown only on request */
    MOE_TOKEN_USER,    /* user-defined: always found in a text, before anything else */
    MOE_TOKEN_UNUSED,  /* in the table, but no part of the text model */
} moe_token_kind;

typedef struct moe_token_entry {
    uint32_t start, len; /* in moe_vocab.texts */
    uint8_t kind;        /* moe_token_kind */
} moe_token_entry;

typedef struct moe_vocab {
    int32_t n;                /* ids 0..n-1 */
    moe_buf texts;            /* the tokens' bytes, end to end */
    moe_token_entry *entries; /* (n) */
} moe_vocab;

/* n ids without tokens. */
moe_status moe_vocab_init(moe_vocab *vocab, int32_t n, moe_error *err);
void moe_vocab_free(moe_vocab *vocab);

/* Gives id, 0 <= id < n, a text (copied) and a kind; what it had is forgotten. */
moe_status moe_vocab_set(moe_vocab *vocab, int32_t id, const char *text, size_t len,
                         moe_token_kind kind, moe_error *err);

static inline const char *moe_vocab_text(const moe_vocab *vocab, int32_t id, size_t *len)
{
    *len = vocab->entries[id].len;
    return vocab->texts.data + vocab->entries[id].start;
}

typedef struct moe_token_slot {
    uint32_t hash;
    int32_t id; /* -1: free */
} moe_token_slot;

/* A hash table from text to id over some of a vocabulary's tokens; texts count without their first
 * `skip` bytes.  The vocabulary must outlive it. */
typedef struct moe_token_map {
    const moe_vocab *vocab;
    size_t skip;
    size_t longest; /* bytes of the longest text */
    uint32_t mask;
    moe_token_slot *slots; /* (mask + 1), open addressing, at most half full */
} moe_token_map;

/* An empty table for up to vocab->n tokens. */
moe_status moe_token_map_init(moe_token_map *map, const moe_vocab *vocab, size_t skip,
                              moe_error *err);
void moe_token_map_free(moe_token_map *map);

/* Adds a token whose text is at least `skip` long, once; of equal texts the first one stays. */
void moe_token_map_add(moe_token_map *map, int32_t id);

/* The id of text[0..len), -1 if there is none. */
int32_t moe_token_map_find(const moe_token_map *map, const char *text, size_t len);

#endif
