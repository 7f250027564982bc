/*
 * What a sequence makes of its logits: tokens, text, scores, an embedding.
 *
 * The bytes of generated tokens are collected in seq->text; what may be given out ends at a
 * complete character and before anything that could be the beginning of a stop string.
 */
#include "sequence.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- life and death --------------------------------------------------------------------------- */

static moe_status check_request(const moe_model *model, const moe_request *r, moe_error *err)
{
    const moe_model_info *info = &model->info;

    if (r->n_prompt == 0) {
        moe_fail(err, MOE_ERR_INVALID, "the prompt has no tokens");
        return moe_hint(err, "Give at least one token.");
    }
    if (r->n_prompt > (size_t)info->n_ctx && !info->is_encoder) {
        moe_fail(err, MOE_ERR_TOO_LONG,
                 "the prompt has %zu tokens, but the context of the model is %d tokens",
                 r->n_prompt, info->n_ctx);
        return moe_hint(err, "Shorten the prompt.");
    }
    for (size_t i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] < 0 || r->prompt[i] >= info->n_vocab) {
            moe_fail(err, MOE_ERR_INVALID, "token id %d is not in the vocabulary of %d tokens",
                     r->prompt[i], info->n_vocab);
            return moe_hint(err, "moe.tokenize() gives the ids of a text for a model.");
        }
    if (info->is_encoder && r->task != MOE_TASK_EMBED) {
        moe_fail(err, MOE_ERR_INVALID, "the model is an encoder: it makes embeddings, not text");
        return moe_hint(err, "Use moe.embed with this model, or another model to generate.");
    }
    if (r->task == MOE_TASK_SCORE && (r->score_from < 1 || r->score_from > r->n_prompt))
        return moe_fail(err, MOE_ERR_INVALID,
                        "the first scored position must lie behind the first token");
    return MOE_OK;
}

/* Tokens of a prompt that are read: encoders cut what is too long. */
static size_t tokens_read(const moe_model *model, const moe_request *r)
{
    const size_t n_ctx = (size_t)model->info.n_ctx;

    return r->n_prompt < n_ctx ? r->n_prompt : n_ctx;
}

/* Positions of the KV cache that a request may come to need. */
static size_t positions_needed(const moe_model *model, const moe_request *r)
{
    size_t n = tokens_read(model, r);

    if (!model->spec.causal)
        return 0; /* an encoder keeps nothing */
    if (r->task == MOE_TASK_GENERATE && r->max_tokens > 0)
        n += (size_t)r->max_tokens - 1; /* the last token is not read again */
    return n < (size_t)model->info.n_ctx ? n : (size_t)model->info.n_ctx;
}

moe_status moe_sequence_create(moe_model *model, const moe_request *r, moe_seq **out,
                               moe_error *err)
{
    moe_status status = check_request(model, r, err);
    moe_seq *seq;
    bool ok = true;

    *out = NULL;
    if (status != MOE_OK)
        return status;
    seq = calloc(1, sizeof(*seq));
    if (seq == NULL)
        return moe_fail_memory(err, sizeof(*seq));
    seq->model = model;
    seq->lease.owner = seq;
    seq->lease.bulk = r->bulk;
    seq->request = *r;
    seq->request.n_stop = 0;
    seq->request.prompt = NULL;
    seq->n_prompt = tokens_read(model, r);
    seq->request.n_prompt = seq->n_prompt;
    for (size_t i = 0; ok && i + 1 < seq->n_prompt; i++)
        ok = moe_ids_add(&seq->ids, r->prompt[i]);
    /* The last token (SEP) stays when a text is cut. */
    ok = ok && moe_ids_add(&seq->ids, r->prompt[r->n_prompt - 1]);
    if (ok && r->n_stop > 0) {
        seq->stop = calloc((size_t)r->n_stop, sizeof(char *));
        ok = seq->stop != NULL;
    }
    for (int i = 0; ok && i < r->n_stop; i++) {
        seq->stop[i] = strdup(r->stop[i]);
        ok = seq->stop[i] != NULL;
        seq->request.n_stop += ok;
    }
    if (ok && r->task == MOE_TASK_EMBED) {
        seq->pooled = calloc((size_t)model->spec.n_embd, sizeof(float));
        ok = seq->pooled != NULL;
    }
    if (!ok) {
        moe_sequence_destroy(seq);
        return moe_fail_memory(err, r->n_prompt * sizeof(int32_t));
    }
    *out = seq;
    return MOE_OK;
}

void moe_sequence_destroy(moe_seq *seq)
{
    moe_kv_lease_close(seq->model->prefixes, &seq->lease);
    for (int i = 0; seq->stop != NULL && i < seq->request.n_stop; i++)
        free(seq->stop[i]);
    free(seq->stop);
    free(seq->pooled);
    free(seq->out);
    moe_ids_free(&seq->ids);
    moe_buf_free(&seq->text);
    free(seq);
}

int moe_sequence_pages(const moe_seq *seq)
{
    return (int)((positions_needed(seq->model, &seq->request) + MOE_KV_PAGE - 1) / MOE_KV_PAGE);
}

int moe_sequence_shareable_pages(const moe_seq *seq)
{
    const moe_model_spec *spec = &seq->model->spec;
    size_t last = seq->n_prompt; /* positions from last - 1 on must be computed */

    if (!spec->causal)
        return 0;
    if (seq->request.task == MOE_TASK_EMBED && spec->pooling != MOE_POOLING_LAST)
        return 0;
    if (seq->request.task == MOE_TASK_SCORE)
        last = seq->request.score_from;
    return (int)((last - 1) / MOE_KV_PAGE);
}

/* --- results ---------------------------------------------------------------------------------- */

static bool add_out(moe_seq *seq, out_token token)
{
    if (seq->n_out == seq->cap_out) {
        const size_t cap = seq->cap_out ? 2 * seq->cap_out : 16;
        out_token *grown = realloc(seq->out, cap * sizeof(*grown));

        if (grown == NULL)
            return false;
        seq->out = grown;
        seq->cap_out = cap;
    }
    seq->out[seq->n_out++] = token;
    return true;
}

/* Length of the longest end of text that begins a stop string without completing it. */
static size_t held_back(const moe_seq *seq)
{
    size_t longest = 0;

    for (int i = 0; i < seq->request.n_stop; i++) {
        const size_t len = strlen(seq->stop[i]);
        size_t n = len > 0 ? len - 1 : 0;

        for (n = n < seq->text.len ? n : seq->text.len; n > longest; n--)
            if (memcmp(seq->text.data + seq->text.len - n, seq->stop[i], n) == 0)
                longest = n;
    }
    return longest;
}

/* Where the first stop string in text begins, looking only at ends after `from`; false if there is
 * none. */
static bool find_stop(const moe_seq *seq, size_t from, size_t *at)
{
    bool found = false;

    for (int i = 0; i < seq->request.n_stop; i++) {
        const size_t len = strlen(seq->stop[i]);
        size_t start = from + 1 > len ? from + 1 - len : 0;

        for (; len > 0 && start + len <= seq->text.len && (!found || start < *at); start++)
            if (memcmp(seq->text.data + start, seq->stop[i], len) == 0) {
                *at = start;
                found = true;
                break;
            }
    }
    return found;
}

/* Appends a token's bytes to the text.  Embedding tables are often padded: a row behind the
 * vocabulary's end has no text. */
static moe_status append_piece(moe_seq *seq, int32_t id, bool show_special, moe_error *err)
{
    const moe_tokenizer *tokenizer = seq->model->tokenizer;

    if (id >= moe_tokenizer_size(tokenizer))
        return MOE_OK;
    return moe_tokenizer_piece(tokenizer, id, show_special ? MOE_TEXT_SHOW_SPECIAL : 0, &seq->text,
                               err);
}

/* Appends a chosen token and decides whether the sequence goes on. */
static moe_status append_token(moe_seq *seq, int32_t id, float logprob, moe_error *err)
{
    const moe_model *model = seq->model;
    const moe_request *r = &seq->request;
    const size_t before = seq->text.len;
    const bool end = !r->ignore_eos && moe_tokenizer_is_end(model->tokenizer, id);
    out_token token = {.id = id, .logprob = logprob, .position = (int64_t)seq->ids.len};
    moe_finish why = MOE_FINISH_NONE;
    size_t safe, stop_at = 0;

    if (!moe_ids_add(&seq->ids, id))
        return moe_fail_memory(err, seq->ids.len * sizeof(int32_t));
    seq->usage.generated_tokens++;
    if (end) {
        why = MOE_FINISH_STOP;
    } else {
        moe_status status = append_piece(seq, id, r->show_special, err);

        if (status != MOE_OK)
            return status;
        if (seq->text.len > before && find_stop(seq, before, &stop_at)) {
            seq->text.len = stop_at;
            seq->text.data[stop_at] = '\0';
            why = MOE_FINISH_STOP;
        } else if (seq->usage.generated_tokens >= r->max_tokens) {
            why = MOE_FINISH_LENGTH;
        } else if (seq->ids.len > (size_t)model->info.n_ctx) {
            why = MOE_FINISH_CONTEXT;
        }
    }
    safe = seq->text.len;
    if (why == MOE_FINISH_NONE)
        safe = moe_utf8_complete(seq->text.data != NULL ? seq->text.data : "",
                                 seq->text.len - held_back(seq));
    if (safe < seq->given) /* a stop string never reaches into what was given out */
        safe = seq->given;
    token.piece = seq->given;
    token.piece_len = safe - seq->given;
    seq->given = safe;
    if (!add_out(seq, token))
        return moe_fail_memory(err, seq->n_out * sizeof(out_token));
    seq->finish = why;
    return MOE_OK;
}

/* Adds a row of score or next: a token whose piece stands in the text on its own. */
static moe_status add_row(moe_seq *seq, out_token token, moe_error *err)
{
    moe_status status = append_piece(seq, token.id, true, err);

    if (status != MOE_OK)
        return status;
    token.piece = seq->given;
    token.piece_len = seq->text.len - seq->given;
    seq->given = seq->text.len;
    return add_out(seq, token) ? MOE_OK : moe_fail_memory(err, seq->n_out * sizeof(out_token));
}

size_t moe_sequence_next_scored(const moe_seq *seq)
{
    return seq->request.score_from + seq->n_out;
}

moe_status moe_sequence_use_logits(moe_seq *seq, const float *logits, moe_error *err)
{
    moe_model *model = seq->model;
    const moe_kernels *kernels = model->engine->kernels;
    const int n_vocab = model->info.n_vocab;
    const moe_request *r = &seq->request;
    moe_status status = MOE_OK;

    if (r->task == MOE_TASK_GENERATE) {
        int32_t id;
        float logprob = NAN;

        status = moe_sample(model->sampler, r, logits, seq->ids.data, seq->ids.len, &id, err);
        if (status != MOE_OK)
            return status;
        if (r->logprobs)
            logprob = moe_logprob(kernels, logits, n_vocab, id);
        return append_token(seq, id, logprob, err);
    }
    status = moe_check_logits(logits, n_vocab, err);
    if (status != MOE_OK)
        return status;
    if (r->task == MOE_TASK_SCORE) {
        const int64_t position = (int64_t)moe_sequence_next_scored(seq);
        const int32_t id = seq->ids.data[position];

        return add_row(seq,
                       (out_token){.id = id,
                                   .position = position,
                                   .logprob = moe_logprob(kernels, logits, n_vocab, id),
                                   .rank = moe_rank(logits, n_vocab, id)},
                       err);
    } else {
        const moe_candidate *top;
        const int n = moe_top(model->sampler, logits, r->n_top, &top);

        for (int k = 0; k < n && status == MOE_OK; k++)
            status =
                add_row(seq,
                        (out_token){.id = top[k].id,
                                    .rank = k + 1,
                                    .position = (int64_t)seq->n_prompt,
                                    .logprob = moe_logprob(kernels, logits, n_vocab, top[k].id)},
                        err);
        return status;
    }
}

/* Mean where the model wants it, then length 1. */
moe_status moe_sequence_finish_embedding(moe_seq *seq, moe_error *err)
{
    const moe_model *model = seq->model;
    const moe_kernels *k = model->engine->kernels;
    const int n = model->spec.n_embd;
    float length;
    moe_status status = moe_check_logits(seq->pooled, n, err);

    if (status != MOE_OK)
        return status;
    if (model->spec.pooling == MOE_POOLING_MEAN)
        k->scale(seq->pooled, 1.0f / (float)seq->n_prompt, n, seq->pooled);
    length = sqrtf(k->dot(seq->pooled, seq->pooled, n));
    if (length > 0.0f)
        k->scale(seq->pooled, 1.0f / length, n, seq->pooled);
    return MOE_OK;
}

void moe_sequence_fail(moe_seq *seq, const moe_error *err)
{
    seq->error = *err;
    seq->finish = MOE_FINISH_ERROR;
}

/* --- what a host sees ------------------------------------------------------------------------- */

void moe_seq_pause_at(moe_seq *seq, int64_t n_tokens)
{
    seq->request.pause_at = n_tokens;
}

bool moe_seq_in_step(const moe_seq *seq)
{
    return seq->span_rows > 0;
}

bool moe_seq_done(const moe_seq *seq)
{
    return seq->state == MOE_SEQ_DONE;
}

bool moe_seq_next(moe_seq *seq, moe_token *token)
{
    const out_token *t = &seq->out[seq->taken];

    if (seq->taken == seq->n_out)
        return false;
    seq->taken++;
    *token = (moe_token){.id = t->id,
                         .logprob = t->logprob,
                         .rank = t->rank,
                         .position = t->position,
                         .piece = seq->text.data != NULL ? seq->text.data + t->piece : "",
                         .piece_len = t->piece_len};
    return true;
}

const char *moe_seq_text(const moe_seq *seq, size_t *len)
{
    *len = seq->text.len;
    return seq->text.data != NULL ? seq->text.data : "";
}

const float *moe_seq_embedding(const moe_seq *seq, int *n)
{
    *n = seq->model->spec.n_embd;
    return seq->state == MOE_SEQ_DONE && seq->finish != MOE_FINISH_ERROR ? seq->pooled : NULL;
}

moe_finish moe_seq_finish(const moe_seq *seq)
{
    return seq->finish;
}

const moe_error *moe_seq_error(const moe_seq *seq)
{
    return seq->finish == MOE_FINISH_ERROR ? &seq->error : NULL;
}

const moe_usage *moe_seq_usage(const moe_seq *seq)
{
    return &seq->usage;
}

size_t moe_seq_prompt_read(const moe_seq *seq)
{
    return seq->n_in_kv < seq->n_prompt ? seq->n_in_kv : seq->n_prompt;
}

void *moe_seq_ud(const moe_seq *seq)
{
    return seq->request.ud;
}
