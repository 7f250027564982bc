/*
 * Byte-pair encoding of pieces: bytes to symbols, then merges in the order of their ranks.
 */
#ifndef MOE_BPE_H
#define MOE_BPE_H

#include "vocabulary.h"

typedef struct moe_merge {
    int32_t left, right; /* left -1: a free slot */
    uint32_t rank;
    int32_t id; /* of both together */
} moe_merge;

/* Tables of a byte-level BPE model; texts of the vocabulary are plain bytes. */
typedef struct moe_bpe {
    const moe_vocab *vocab; /* must outlive it */
    moe_token_map words;    /* byte string to token */
    int32_t byte_ids[256];  /* the token of each byte; -1 if the vocabulary lacks it */
    int32_t unknown;        /* stands for bytes without token; -1: they are dropped */
    bool ignore_merges;     /* a piece that is a token is that token, whatever the merges say */
    moe_merge *merges;      /* (merge_mask + 1), open addressing, at most half full */
    uint32_t merge_mask;
    uint32_t n_merges;
    _Atomic unsigned char *known; /* (vocab->n) what BPE makes of a token's own text, found out when
                                   * first needed; see bpe.c */
} moe_bpe;

/* Prepares empty tables for up to n_merges merges.  moe_bpe_free also after a failure. */
moe_status moe_bpe_init(moe_bpe *bpe, const moe_vocab *vocab, size_t n_merges, moe_error *err);
void moe_bpe_free(moe_bpe *bpe);

/* Adds the merge of the next rank.  Of equal pairs the first one counts. */
void moe_bpe_add_merge(moe_bpe *bpe, int32_t left, int32_t right, int32_t id);

/* Fills byte_ids when all words are known. */
void moe_bpe_finish(moe_bpe *bpe);

/* Appends the tokens of one piece.  Time is O(n log n).  Thread-safe. */
moe_status moe_bpe_encode(const moe_bpe *bpe, const char *piece, size_t len, moe_ids *ids,
                          moe_error *err);

#endif
