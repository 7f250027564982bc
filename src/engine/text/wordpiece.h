/*
 * WordPiece: words to the longest known parts, from left to right.
 */
#ifndef MOE_WORDPIECE_H
#define MOE_WORDPIECE_H

#include "vocabulary.h"

typedef struct moe_wordpiece {
    moe_token_map beginnings;    /* parts that begin a word */
    moe_token_map continuations; /* parts that go on with one */
    int32_t unknown;             /* stands for a word that can't be put together */
    size_t max_chars;            /* longer words are unknown */
} moe_wordpiece;

void moe_wordpiece_free(moe_wordpiece *wordpiece);

/* Appends the tokens of one word, valid UTF-8. */
moe_status moe_wordpiece_encode(const moe_wordpiece *wordpiece, const char *word, size_t len,
                                moe_ids *ids, moe_error *err);

#endif
