/*
 * The splits of a pre-tokenizer, run depth first: a piece found by one split goes straight through
 * all later ones before the next piece is looked for, so nothing is collected and memory does not
 * depend on the text.  The behaviours are those of `tokenizers`' NormalizedString::split, which
 * defines them over the list of matches and gaps; here at most one piece is held back until its
 * neighbour is known.
 *
 * Byte-level models map bytes to visible characters before they look pieces up.  Our token tables
 * hold plain bytes, so the mapping is skipped, except when a split follows it: that split must see
 * the mapped text (Falcon counts digits there), and its pieces are mapped back.
 */
#include "pretokenize.h"

#include <string.h>

#include "byte_alphabet.h"

/* One running call. */
typedef struct moe_pretokenize_call {
    const moe_pretokenizer *pretokenizer;
    bool mapped; /* pieces reach the sink in the byte alphabet */
    moe_match_work work[MOE_MAX_SPLITS];
    moe_buf bytes; /* a piece mapped back */
    moe_piece_sink sink;
    void *ud;
    moe_error *err;
} moe_pretokenize_call;

/* The piece that a split holds back. */
typedef struct held_piece {
    const char *s;
    size_t len;
    bool last_was_match; /* what was added last, false at first */
} held_piece;

static moe_status run(moe_pretokenize_call *call, size_t step, const char *s, size_t len);

/* --- building --------------------------------------------------------------------------------- */

moe_status moe_pretokenizer_add(moe_pretokenizer *pretokenizer, moe_split split, moe_error *err)
{
    bool twice = split.kind == MOE_SPLIT_BYTE_LEVEL && moe_pretokenizer_is_byte_level(pretokenizer);
    if (pretokenizer->n == MOE_MAX_SPLITS || twice) {
        moe_expression_free(split.expression);
        return moe_fail(err, MOE_ERR_UNSUPPORTED, "the tokenizer has %s",
                        twice ? "two ByteLevel pre-tokenizers" : "too many pre-tokenizers");
    }
    pretokenizer->splits[pretokenizer->n++] = split;
    return MOE_OK;
}

moe_status moe_pretokenizer_add_pattern(moe_pretokenizer *pretokenizer, const char *pattern,
                                        moe_error *err)
{
    moe_split split = {.kind = MOE_SPLIT_EXPRESSION};
    moe_status status = moe_expression_create(pattern, strlen(pattern), &split.expression, err);
    return status == MOE_OK ? moe_pretokenizer_add(pretokenizer, split, err) : status;
}

bool moe_pretokenizer_is_byte_level(const moe_pretokenizer *pretokenizer)
{
    for (size_t i = 0; i < pretokenizer->n; i++)
        if (pretokenizer->splits[i].kind == MOE_SPLIT_BYTE_LEVEL)
            return true;
    return false;
}

void moe_pretokenizer_free(moe_pretokenizer *pretokenizer)
{
    for (size_t i = 0; i < pretokenizer->n; i++)
        moe_expression_free(pretokenizer->splits[i].expression);
    pretokenizer->n = 0;
}

/* --- running ---------------------------------------------------------------------------------- */

/* Passes the held piece on, if there is one. */
static moe_status release(moe_pretokenize_call *call, size_t step, held_piece *held)
{
    const char *s = held->s;
    size_t len = held->len;
    held->len = 0;
    return len == 0 ? MOE_OK : run(call, step + 1, s, len);
}

/* Takes the next match or gap of a split, in order and without holes. */
static moe_status take(moe_pretokenize_call *call, size_t step, held_piece *held, const char *s,
                       size_t len, bool is_match)
{
    const moe_split *split = &call->pretokenizer->splits[step];
    bool join = false;
    is_match = is_match != split->invert;
    switch (split->behavior) {
    case MOE_SPLIT_ISOLATED:
        return len == 0 ? MOE_OK : run(call, step + 1, s, len);
    case MOE_SPLIT_REMOVED:
        return len == 0 || is_match ? MOE_OK : run(call, step + 1, s, len);
    case MOE_SPLIT_MERGED_WITH_PREVIOUS:
        join = is_match && !held->last_was_match;
        break;
    case MOE_SPLIT_MERGED_WITH_NEXT:
        join = !is_match && held->last_was_match;
        break;
    case MOE_SPLIT_CONTIGUOUS:
        join = is_match == held->last_was_match;
        break;
    }
    held->last_was_match = is_match;
    if (join && held->len > 0) {
        held->len += len;
        return MOE_OK;
    }
    moe_status status = release(call, step, held);
    held->s = s;
    held->len = len;
    return status;
}

static moe_status split_by_expression(moe_pretokenize_call *call, size_t step, const char *s,
                                      size_t len)
{
    const moe_split *split = &call->pretokenizer->splits[step];
    held_piece held = {0};
    moe_status status = MOE_OK;
    moe_match match = {0};
    size_t done = 0; /* bytes passed on */
    for (;;) {
        status =
            moe_expression_next(split->expression, &call->work[step], s, len, &match, call->err);
        if (status != MOE_OK || !match.found)
            break;
        if (match.start > done)
            status = take(call, step, &held, s + done, match.start - done, false);
        if (status == MOE_OK)
            status = take(call, step, &held, s + match.start, match.end - match.start, true);
        if (status != MOE_OK)
            break;
        done = match.end;
    }
    if (status == MOE_OK && done < len)
        status = take(call, step, &held, s + done, len - done, false);
    return status == MOE_OK ? release(call, step, &held) : status;
}

static moe_status split_by_class(moe_pretokenize_call *call, size_t step, const char *s, size_t len)
{
    const moe_split *split = &call->pretokenizer->splits[step];
    held_piece held = {0};
    moe_status status = MOE_OK;
    size_t done = 0, n;
    for (size_t i = 0; status == MOE_OK && i < len; i += n) {
        int32_t cp;
        n = moe_utf8_get(s + i, &cp);
        if (!split->is_match(cp))
            continue;
        if (i > done)
            status = take(call, step, &held, s + done, i - done, false);
        if (status == MOE_OK)
            status = take(call, step, &held, s + i, n, true);
        done = i + n;
    }
    if (status == MOE_OK && done < len)
        status = take(call, step, &held, s + done, len - done, false);
    return status == MOE_OK ? release(call, step, &held) : status;
}

/* Runs the later splits on a changed copy of the piece. */
static moe_status run_changed(moe_pretokenize_call *call, size_t step, const char *s, size_t len)
{
    moe_buf changed = {0};
    bool ok = call->pretokenizer->splits[step].kind == MOE_SPLIT_PREFIX_SPACE
                  ? moe_buf_add(&changed, " ", 1) && moe_buf_add(&changed, s, len)
                  : moe_alphabet_encode(s, len, &changed);
    moe_status status =
        ok ? run(call, step + 1, changed.data, changed.len) : moe_fail_memory(call->err, len);
    moe_buf_free(&changed);
    return status;
}

/* Sends a piece that is not empty through the splits from `step` on. */
static moe_status run(moe_pretokenize_call *call, size_t step, const char *s, size_t len)
{
    const moe_pretokenizer *pretokenizer = call->pretokenizer;
    if (step == pretokenizer->n) {
        if (!call->mapped)
            return call->sink(call->ud, s, len, call->err);
        bool whole;
        call->bytes.len = 0;
        if (!moe_alphabet_decode(s, len, &call->bytes, &whole))
            return moe_fail_memory(call->err, len);
        return call->sink(call->ud, call->bytes.data, call->bytes.len, call->err);
    }
    switch (pretokenizer->splits[step].kind) {
    case MOE_SPLIT_EXPRESSION:
        return split_by_expression(call, step, s, len);
    case MOE_SPLIT_CLASS:
        return split_by_class(call, step, s, len);
    case MOE_SPLIT_PREFIX_SPACE:
        return s[0] == ' ' ? run(call, step + 1, s, len) : run_changed(call, step, s, len);
    case MOE_SPLIT_BYTE_LEVEL:
        return call->mapped ? run_changed(call, step, s, len) : run(call, step + 1, s, len);
    }
    return MOE_OK;
}

moe_status moe_pretokenize(const moe_pretokenizer *pretokenizer, const char *text, size_t len,
                           moe_piece_sink sink, void *ud, moe_error *err)
{
    moe_pretokenize_call call = {
        .pretokenizer = pretokenizer,
        .mapped = moe_pretokenizer_is_byte_level(pretokenizer) &&
                  pretokenizer->splits[pretokenizer->n - 1].kind != MOE_SPLIT_BYTE_LEVEL,
        .sink = sink,
        .ud = ud,
        .err = err,
    };
    moe_status status = len == 0 ? MOE_OK : run(&call, 0, text, len);
    for (size_t i = 0; i < pretokenizer->n; i++)
        moe_match_work_free(&call.work[i]);
    moe_buf_free(&call.bytes);
    return status;
}
