/*
 * Pre-tokenizers: cutting a text into the pieces that the token model encodes one by one.
 */
#ifndef MOE_PRETOKENIZE_H
#define MOE_PRETOKENIZE_H

#include "expression.h"
#include "unicode.h"

#define MOE_MAX_SPLITS 32

/* What becomes of the matches of a split: pieces of their own, dropped, joined to the text before
 * or after them, or joined to each other. */
typedef enum moe_split_behavior {
    MOE_SPLIT_ISOLATED,
    MOE_SPLIT_REMOVED,
    MOE_SPLIT_MERGED_WITH_PREVIOUS,
    MOE_SPLIT_MERGED_WITH_NEXT,
    MOE_SPLIT_CONTIGUOUS,
} moe_split_behavior;

typedef enum moe_split_kind {
    MOE_SPLIT_EXPRESSION,   /* the matches of an expression */
    MOE_SPLIT_CLASS,        /* every character of a class is a match */
    MOE_SPLIT_PREFIX_SPACE, /* no split: puts a space before a piece that has none */
    MOE_SPLIT_BYTE_LEVEL,   /* no split: from here on pieces are in the byte alphabet */
} moe_split_kind;

typedef struct moe_split {
    moe_split_kind kind;
    moe_expression *expression; /* owned by the pre-tokenizer */
    moe_char_class is_match;
    moe_split_behavior behavior;
    bool invert; /* what does not match counts as the match */
} moe_split;

/* Splits applied in order, each to the pieces that the one before it left.  All zero: no split. */
typedef struct moe_pretokenizer {
    moe_split splits[MOE_MAX_SPLITS];
    size_t n;
} moe_pretokenizer;

/* Appends a split and takes its expression over, also when it fails (too many splits, or a second
 * BYTE_LEVEL: MOE_ERR_UNSUPPORTED). */
moe_status moe_pretokenizer_add(moe_pretokenizer *pretokenizer, moe_split split, moe_error *err);
/* Appends an expression split, ISOLATED. */
moe_status moe_pretokenizer_add_pattern(moe_pretokenizer *pretokenizer, const char *pattern,
                                        moe_error *err);
bool moe_pretokenizer_is_byte_level(const moe_pretokenizer *pretokenizer);
void moe_pretokenizer_free(moe_pretokenizer *pretokenizer);

/* Receives one piece, never empty; valid during the call.  Of a byte-level pre-tokenizer pieces are
 * bytes, and may end inside a character if a split came after BYTE_LEVEL. */
typedef moe_status (*moe_piece_sink)(void *ud, const char *piece, size_t len, moe_error *err);

/* Cuts text[0..len), valid UTF-8, and hands the pieces over in order. */
moe_status moe_pretokenize(const moe_pretokenizer *pretokenizer, const char *text, size_t len,
                           moe_piece_sink sink, void *ud, moe_error *err);

#endif
