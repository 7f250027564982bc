/*
 * Added tokens: texts that are found in the input before it is normalized and cut.
 */
#ifndef MOE_ADDED_TOKENS_H
#define MOE_ADDED_TOKENS_H

#include "../support.h"

typedef struct moe_added_token {
    char *text; /* malloc'ed, not empty */
    size_t len;
    int32_t id;
    bool special;        /* found only when special tokens are parsed */
    bool single_word;    /* only where no word character touches it */
    bool lstrip, rstrip; /* takes the spaces before, after it along */
} moe_added_token;

/* Tokens sorted by text.  All zero: none. */
typedef struct moe_added_tokens {
    moe_added_token *tokens;
    size_t n, cap;
    size_t first[257]; /* tokens[first[b]..first[b + 1]) begin with byte b */
} moe_added_tokens;

/* Adds a copy of *token; an empty text is left out. */
moe_status moe_added_tokens_add(moe_added_tokens *added, const moe_added_token *token,
                                moe_error *err);
/* Sorts when all are added; of equal texts the one with the smallest id stays. */
void moe_added_tokens_finish(moe_added_tokens *added);
void moe_added_tokens_free(moe_added_tokens *added);

/* The first token in s[0..len), valid UTF-8, from `from` on: of those that begin leftmost the
 * longest.  [*start, *end) is what it takes, with its spaces.  A special token is found, and its
 * text skipped, but not returned unless parse_special.  NULL: none. */
const moe_added_token *moe_added_tokens_find(const moe_added_tokens *added, const char *s,
                                             size_t len, size_t from, bool parse_special,
                                             size_t *start, size_t *end);

#endif
