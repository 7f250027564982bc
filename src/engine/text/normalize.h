/*
 * Normalizers: the changes that a tokenizer makes to a text before it is cut into pieces.
 */
#ifndef MOE_NORMALIZE_H
#define MOE_NORMALIZE_H

#include "expression.h"

#define MOE_MAX_NORMAL_STEPS 32

typedef enum moe_normal_kind {
    MOE_NORMAL_NFC,
    MOE_NORMAL_NFD,
    MOE_NORMAL_NFKC,
    MOE_NORMAL_NFKD,
    MOE_NORMAL_LOWERCASE,
    MOE_NORMAL_STRIP_ACCENTS, /* drops combining marks, does not decompose */
    MOE_NORMAL_STRIP,         /* spaces at the ends: strip_left, strip_right */
    MOE_NORMAL_PREPEND,       /* text, unless the input is empty */
    MOE_NORMAL_REPLACE,       /* every match of expression by text */
    MOE_NORMAL_BERT,          /* clean_text, pad_cjk, strip_accents, lowercase: in this order */
} moe_normal_kind;

typedef struct moe_normal_step {
    moe_normal_kind kind;
    bool strip_left, strip_right;
    bool clean_text;    /* drop control characters, make every space a plain one */
    bool pad_cjk;       /* spaces around ideographs */
    bool strip_accents; /* decompose and drop nonspacing marks */
    bool lowercase;
    moe_expression *expression; /* owned by the normalizer, as text */
    char *text;                 /* malloc'ed */
    size_t text_len;
} moe_normal_step;

/* Steps applied in order.  All zero: the text stays as it is. */
typedef struct moe_normalizer {
    moe_normal_step steps[MOE_MAX_NORMAL_STEPS];
    size_t n;
} moe_normalizer;

/* Appends a step and takes its expression and text over, also when it fails. */
moe_status moe_normalizer_add(moe_normalizer *normalizer, moe_normal_step step, moe_error *err);
void moe_normalizer_free(moe_normalizer *normalizer);

/* Replaces the content of *out by the normalized text[0..len), valid UTF-8, which must not lie in
 * *out. */
moe_status moe_normalize(const moe_normalizer *normalizer, const char *text, size_t len,
                         moe_buf *out, moe_error *err);

#endif
