/*
 * The regular expressions of tokenizers: Oniguruma's dialect, as the Rust library `tokenizers`
 * reads it, run by PCRE2.
 */
#ifndef MOE_EXPRESSION_H
#define MOE_EXPRESSION_H

#include "../support.h"

/* Compiled; never changes, so that threads can share it. */
typedef struct moe_expression moe_expression;

/* What one running call needs to match; not shared. */
typedef struct moe_match_work {
    void *data; /* pcre2_match_data, made when first needed */
} moe_match_work;

void moe_match_work_free(moe_match_work *work);

/* Compiles a pattern, valid UTF-8.  Errors: MOE_ERR_UNSUPPORTED for what PCRE2 lacks or reads in
 * another way, MOE_ERR_FORMAT for a pattern that does not compile. */
moe_status moe_expression_create(const char *pattern, size_t len, moe_expression **out,
                                 moe_error *err);

/* An expression that finds exactly this text. */
moe_status moe_expression_create_literal(const char *text, size_t len, moe_expression **out,
                                         moe_error *err);
void moe_expression_free(moe_expression *expression);

/* One match of several in a text.  Start with all zero. */
typedef struct moe_match {
    bool found;
    size_t start, end;
    bool any; /* there was a match before */
} moe_match;

/* The next match after *match in s[0..len), valid UTF-8, if only an empty one then not where the
 * last one ended.  match->found = false: none.  MOE_ERR_INVALID if matching takes more work than a
 * multiple of len. */
moe_status moe_expression_next(const moe_expression *expression, moe_match_work *work,
                               const char *s, size_t len, moe_match *match, moe_error *err);

#endif
