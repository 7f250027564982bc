/*
 * The scheduler: many sequences, one forward pass per step.
 *
 * A sequence waits until the KV cache has room for its whole life (prompt and max_tokens), so that
 * a running one never has to be evicted; then its prompt goes through in chunks, then it takes one
 * row per step until it ends.  A step holds prompt chunks first and generated tokens behind them,
 * up to the budget of rows.  What a row computes depends on its own sequence only
 * (kernels/NUMERICS.md), so neither the company in a step nor the chunking changes a result.
 *
 * Text: the bytes of generated tokens are collected in seq->text; what may be given out ends at a
 * complete character and before anything that could be the beginning of a stop string.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../model_internal.h"
#include "forward.h"

enum { DEFAULT_STEP_TOKENS = 512, DEFAULT_SEQS = 64, ENCODER_STEP_TOKENS = 2048 /* per thread */ };

typedef enum seq_state { SEQ_WAITING, SEQ_PROMPT, SEQ_DECODE, SEQ_DONE } seq_state;

/* A finished token that has not been taken yet; its piece is text[piece, piece + piece_len). */
typedef struct out_token {
    int32_t id;
    float logprob;
    int rank;
    int64_t position;
    size_t piece, piece_len;
} out_token;

struct moe_seq {
    moe_scheduler *scheduler;
    moe_seq *prev, *next;
    moe_request request; /* prompt and stop point to copies of our own */
    char **stop;
    seq_state state;
    moe_finish finish;

    moe_ids ids; /* prompt and generated tokens */
    size_t n_prompt;
    size_t n_in_kv; /* positions computed */
    int32_t *pages;
    int n_pages;

    float *pooled; /* embed: (n_embd) */
    moe_buf text;  /* bytes of all tokens in `out` */
    size_t given;  /* bytes of text that pieces cover */
    out_token *out;
    size_t n_out, cap_out, taken;
    moe_usage usage;
    moe_error error; /* if finish says so */

    int span_rows; /* rows in the current step */
};

/* A row of the current step whose logits are wanted. */
typedef struct wanted_logits {
    moe_seq *seq;
    int64_t position; /* of the token that the row is */
} wanted_logits;

struct moe_scheduler {
    moe_model *model;
    moe_cancel cancel;
    int max_step_tokens, max_seqs;
    moe_seq *first, *last; /* in order of arrival */

    /* The current step; (row_cap) each. */
    int row_cap;
    int32_t *tokens, *out_rows;
    int64_t *positions;
    moe_span *spans;
    moe_seq **span_seq;
    wanted_logits *wanted;
    int n_rows, n_spans, n_wanted;
};

/* --- life and death
 * --------------------------------------------------------------------------------- */

static bool reserve_rows(moe_scheduler *s, int n)
{
    const size_t count = (size_t)n;

    if (n <= s->row_cap)
        return true;
    free(s->tokens);
    free(s->out_rows);
    free(s->positions);
    free(s->spans);
    free(s->span_seq);
    free(s->wanted);
    s->tokens = malloc(count * sizeof(*s->tokens));
    s->out_rows = malloc(count * sizeof(*s->out_rows));
    s->positions = malloc(count * sizeof(*s->positions));
    s->spans = malloc(count * sizeof(*s->spans));
    s->span_seq = malloc(count * sizeof(*s->span_seq));
    s->wanted = malloc(count * sizeof(*s->wanted));
    s->row_cap =
        s->tokens && s->out_rows && s->positions && s->spans && s->span_seq && s->wanted ? n : 0;
    return s->row_cap == n;
}

moe_status moe_scheduler_create(moe_model *model, const moe_scheduler_options *options,
                                moe_scheduler **out, moe_error *err)
{
    moe_scheduler *s = calloc(1, sizeof(*s));

    *out = NULL;
    if (s == NULL)
        return moe_fail_memory(err, sizeof(*s));
    s->model = model;
    s->max_step_tokens = DEFAULT_STEP_TOKENS;
    s->max_seqs = DEFAULT_SEQS;
    if (!model->spec.causal) { /* all threads have enough texts, and end at about the same time */
        s->max_step_tokens = ENCODER_STEP_TOKENS * moe_pool_threads(model->engine->pool);
        s->max_seqs = s->max_step_tokens;
    }
    if (options != NULL) {
        s->cancel = options->cancel;
        if (options->max_step_tokens > 0)
            s->max_step_tokens = options->max_step_tokens;
        if (options->max_seqs > 0)
            s->max_seqs = options->max_seqs;
    }
    model->n_schedulers++;
    *out = s;
    return MOE_OK;
}

void moe_scheduler_free(moe_scheduler *s)
{
    if (s == NULL)
        return;
    while (s->first != NULL)
        moe_seq_free(s->first);
    s->model->n_schedulers--;
    free(s->tokens);
    free(s->out_rows);
    free(s->positions);
    free(s->spans);
    free(s->span_seq);
    free(s->wanted);
    free(s);
}

static void release_pages(moe_seq *seq)
{
    for (int i = 0; i < seq->n_pages; i++)
        moe_kv_cache_release(seq->scheduler->model->kv, seq->pages[i]);
    seq->n_pages = 0;
}

void moe_seq_free(moe_seq *seq)
{
    moe_scheduler *s;

    if (seq == NULL)
        return;
    s = seq->scheduler;
    *(seq->prev != NULL ? &seq->prev->next : &s->first) = seq->next;
    *(seq->next != NULL ? &seq->next->prev : &s->last) = seq->prev;
    s->model->n_sequences--;
    release_pages(seq);
    for (int i = 0; seq->stop != NULL && i < seq->request.n_stop; i++)
        free(seq->stop[i]);
    free(seq->stop);
    free(seq->pages);
    free(seq->pooled);
    free(seq->out);
    moe_ids_free(&seq->ids);
    moe_buf_free(&seq->text);
    free(seq);
}

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

/* Positions of the KV cache that the request may come to need. */
static size_t positions_needed(const moe_model *model, const moe_request *r)
{
    size_t n = tokens_read(model, r);

    if (!model->spec.causal)
        return 0; /* an encoder keeps nothing */
    if (r->task == MOE_TASK_GENERATE && r->max_tokens > 0)
        n += (size_t)r->max_tokens - 1; /* the last token is not read again */
    return n < (size_t)model->info.n_ctx ? n : (size_t)model->info.n_ctx;
}

static int pages_for(size_t positions)
{
    return (int)((positions + MOE_KV_PAGE - 1) / MOE_KV_PAGE);
}

moe_status moe_scheduler_add(moe_scheduler *s, const moe_request *request, moe_seq **out,
                             moe_error *err)
{
    moe_model *model = s->model;
    moe_status status = check_request(model, request, err);
    const int n_pages = pages_for(positions_needed(model, request));
    moe_seq *seq;
    bool ok = true;

    *out = NULL;
    if (status != MOE_OK)
        return status;
    if (n_pages > model->kv->n_pages_max) {
        moe_fail(err, MOE_ERR_TOO_LONG,
                 "the request may need %d tokens of KV cache, but the cache holds %d",
                 n_pages * MOE_KV_PAGE, model->kv->n_pages_max * MOE_KV_PAGE);
        return moe_hint(err, "Lower max_tokens, or raise moe.kv_cache_size.");
    }
    seq = calloc(1, sizeof(*seq));
    if (seq == NULL)
        return moe_fail_memory(err, sizeof(*seq));
    seq->scheduler = s;
    seq->prev = s->last;
    *(s->last != NULL ? &s->last->next : &s->first) = seq;
    s->last = seq;
    model->n_sequences++;

    seq->request = *request;
    seq->request.n_stop = 0;
    seq->request.prompt = NULL;
    seq->n_prompt = tokens_read(model, request);
    seq->request.n_prompt = seq->n_prompt;
    seq->pages = malloc(sizeof(int32_t) * ((size_t)n_pages + 1));
    ok = seq->pages != NULL;
    for (size_t i = 0; ok && i + 1 < seq->n_prompt; i++)
        ok = moe_ids_add(&seq->ids, request->prompt[i]);
    /* The last token (SEP) stays when a text is cut. */
    ok = ok && moe_ids_add(&seq->ids, request->prompt[request->n_prompt - 1]);
    if (ok && request->n_stop > 0) {
        seq->stop = calloc((size_t)request->n_stop, sizeof(char *));
        ok = seq->stop != NULL;
    }
    for (int i = 0; ok && i < request->n_stop; i++) {
        seq->stop[i] = strdup(request->stop[i]);
        ok = seq->stop[i] != NULL;
        seq->request.n_stop += ok;
    }
    if (ok && request->task == MOE_TASK_EMBED) {
        seq->pooled = calloc((size_t)model->spec.n_embd, sizeof(float));
        ok = seq->pooled != NULL;
    }
    if (!ok) {
        moe_seq_free(seq);
        return moe_fail_memory(err, request->n_prompt * sizeof(int32_t));
    }
    if (request->task == MOE_TASK_GENERATE && request->max_tokens <= 0) {
        seq->state = SEQ_DONE;
        seq->finish = MOE_FINISH_LENGTH;
    }
    *out = seq;
    return MOE_OK;
}

/* --- results
 * ---------------------------------------------------------------------------------------- */

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

static void finish(moe_seq *seq, moe_finish why)
{
    seq->state = SEQ_DONE;
    seq->finish = why;
    release_pages(seq);
}

/* Ends a sequence that went wrong; the others go on. */
static void fail(moe_seq *seq, const moe_error *err)
{
    seq->error = *err;
    finish(seq, MOE_FINISH_ERROR);
}

/* Appends a token's bytes to the text.  Embedding tables are often padded: a row behind the
 * vocabulary's end has no text. */
static moe_status append_piece(moe_seq *seq, int32_t id, bool show_special, moe_error *err)
{
    const moe_tokenizer *tokenizer = seq->scheduler->model->tokenizer;

    if (id >= moe_tokenizer_size(tokenizer))
        return MOE_OK;
    return moe_tokenizer_piece(tokenizer, id, show_special ? MOE_TEXT_SHOW_SPECIAL : 0, &seq->text,
                               err);
}

/* Appends a chosen token and decides whether the sequence goes on. */
static moe_status append_token(moe_seq *seq, int32_t id, float logprob, moe_error *err)
{
    const moe_model *model = seq->scheduler->model;
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
    if (why != MOE_FINISH_NONE)
        finish(seq, why);
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

/* What the logits of one wanted row mean for its sequence. */
static moe_status use_logits(moe_scheduler *s, const wanted_logits *wanted, const float *logits,
                             moe_error *err)
{
    moe_seq *seq = wanted->seq;
    moe_model *model = s->model;
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
        const int64_t position = wanted->position + 1;
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

static moe_status take_logits(void *ud, int i, const float *logits, moe_error *err)
{
    moe_scheduler *s = ud;
    moe_seq *seq = s->wanted[i].seq;

    if (seq->state != SEQ_DONE && use_logits(s, &s->wanted[i], logits, err) != MOE_OK)
        fail(seq, err);
    return MOE_OK;
}

/* --- steps
 * ------------------------------------------------------------------------------------------- */

/* Gives waiting sequences their pages, in order of arrival; stops at the first that does not fit.
 */
static moe_status admit(moe_scheduler *s, moe_error *err)
{
    moe_kv_cache *kv = s->model->kv;
    int active = 0;

    for (moe_seq *seq = s->first; seq != NULL; seq = seq->next)
        active += seq->state == SEQ_PROMPT || seq->state == SEQ_DECODE;
    for (moe_seq *seq = s->first; seq != NULL; seq = seq->next) {
        const int need =
            seq->state == SEQ_WAITING ? pages_for(positions_needed(s->model, &seq->request)) : 0;

        if (seq->state != SEQ_WAITING)
            continue;
        if (active >= s->max_seqs || need > moe_kv_cache_available(kv))
            break;
        while (seq->n_pages < need) {
            const int32_t page = moe_kv_cache_take(kv);

            if (page < 0) {
                release_pages(seq);
                return moe_fail_memory(err, (size_t)need * kv->page_bytes);
            }
            seq->pages[seq->n_pages++] = page;
        }
        seq->state = SEQ_PROMPT;
        seq->usage.prompt_tokens = (int64_t)seq->n_prompt;
        active++;
    }
    if (active == 0 && s->first != NULL)
        for (moe_seq *seq = s->first; seq != NULL; seq = seq->next)
            if (seq->state == SEQ_WAITING) {
                moe_fail(err, MOE_ERR_TOO_LONG, "the KV cache is full");
                return moe_hint(err, "Other open streams of this session hold it; close them, or "
                                     "raise moe.kv_cache_size.");
            }
    return MOE_OK;
}

/* Adds n rows of a sequence, from its first position that is not in the cache. */
static void add_span(moe_scheduler *s, moe_seq *seq, int n)
{
    const moe_model_spec *spec = &s->model->spec;
    const bool ends_prompt = seq->n_in_kv + (size_t)n == seq->ids.len;
    const moe_request *r = &seq->request;
    moe_span *span = &s->spans[s->n_spans];

    *span = (moe_span){
        .row = s->n_rows, .n_rows = n, .pos = (int64_t)seq->n_in_kv, .pages = seq->pages};
    if (r->task == MOE_TASK_EMBED) {
        const bool all = spec->pooling == MOE_POOLING_MEAN;

        span->pooled = seq->pooled;
        span->pool_from = spec->pooling == MOE_POOLING_LAST ? n - ends_prompt : 0;
        span->pool_to = all || spec->pooling == MOE_POOLING_LAST ? n : seq->n_in_kv == 0;
        if (spec->pooling == MOE_POOLING_LAST && !ends_prompt)
            span->pool_to = span->pool_from;
    }
    for (int i = 0; i < n; i++) {
        const size_t position = seq->n_in_kv + (size_t)i;
        const bool last = ends_prompt && i == n - 1;
        const bool want = r->task == MOE_TASK_SCORE
                              ? position + 1 >= r->score_from && position + 1 < seq->n_prompt
                              : r->task != MOE_TASK_EMBED && last;

        s->tokens[s->n_rows] = seq->ids.data[position];
        s->positions[s->n_rows] = (int64_t)position;
        if (want) {
            s->out_rows[s->n_wanted] = s->n_rows;
            s->wanted[s->n_wanted++] = (wanted_logits){seq, (int64_t)position};
        }
        s->n_rows++;
    }
    seq->span_rows = n;
    s->span_seq[s->n_spans++] = seq;
}

/* Fills the step: prompt chunks, then one row of each decoding sequence. */
static moe_status fill(moe_scheduler *s, moe_step *step, moe_error *err)
{
    const bool whole = !s->model->spec.causal; /* an encoder sees its whole text at once */
    int n_decode = 0, room, n_prefill;
    size_t longest = 0;

    for (moe_seq *seq = s->first; seq != NULL; seq = seq->next) {
        n_decode += seq->state == SEQ_DECODE;
        if (whole && seq->state == SEQ_PROMPT && seq->n_prompt > longest)
            longest = seq->n_prompt;
    }
    room = s->max_step_tokens > n_decode ? s->max_step_tokens - n_decode : 0;
    if (room == 0)
        room = 1; /* prompts go on even when decoding alone fills the budget */
    if (!reserve_rows(s, n_decode + room + (int)longest))
        return moe_fail_memory(err, (size_t)(n_decode + room) * 64);
    s->n_rows = s->n_spans = s->n_wanted = 0;
    for (moe_seq *seq = s->first; seq != NULL && room > 0; seq = seq->next) {
        const size_t left = seq->n_prompt - seq->n_in_kv;
        const int n = whole || left < (size_t)room ? (int)left : room;

        if (seq->state != SEQ_PROMPT || (n > room && s->n_rows > 0))
            continue;
        add_span(s, seq, n);
        room -= n;
    }
    n_prefill = s->n_rows;
    for (moe_seq *seq = s->first; seq != NULL; seq = seq->next)
        if (seq->state == SEQ_DECODE)
            add_span(s, seq, 1);
    *step = (moe_step){.n_rows = s->n_rows,
                       .n_prefill = n_prefill,
                       .tokens = s->tokens,
                       .positions = s->positions,
                       .spans = s->spans,
                       .n_spans = s->n_spans,
                       .kv = s->model->kv};
    return MOE_OK;
}

/* Mean where the model wants it, then length 1. */
static void finish_embedding(moe_seq *seq)
{
    const moe_model *model = seq->scheduler->model;
    const moe_kernels *k = model->engine->kernels;
    const int n = model->spec.n_embd;
    float length;

    if (model->spec.pooling == MOE_POOLING_MEAN)
        k->scale(seq->pooled, 1.0f / (float)seq->n_prompt, n, seq->pooled);
    length = sqrtf(k->dot(seq->pooled, seq->pooled, n));
    if (length > 0.0f)
        k->scale(seq->pooled, 1.0f / length, n, seq->pooled);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

moe_status moe_scheduler_step(moe_scheduler *s, bool *busy, moe_error *err)
{
    moe_model *model = s->model;
    const moe_forward forward = {&model->spec, &model->weights, model->device, &s->cancel};
    const double start = now();
    moe_step step;
    moe_status status = admit(s, err);

    *busy = false;
    if (status == MOE_OK)
        status = fill(s, &step, err);
    if (status != MOE_OK || step.n_rows == 0)
        return status;
    *busy = true;
    status = moe_forward_run(&forward, &step, s->out_rows, s->n_wanted, take_logits, s, err);
    if (status != MOE_OK)
        return status;
    for (int i = 0; i < s->n_spans; i++) {
        moe_seq *seq = s->span_seq[i];

        seq->n_in_kv += (size_t)seq->span_rows;
        seq->usage.steps++;
        seq->usage.seconds += now() - start;
        if (seq->state != SEQ_PROMPT || seq->n_in_kv < seq->n_prompt)
            continue;
        if (seq->request.task == MOE_TASK_GENERATE) {
            seq->state = SEQ_DECODE;
        } else {
            if (seq->request.task == MOE_TASK_EMBED) {
                if (moe_check_logits(seq->pooled, model->spec.n_embd, err) != MOE_OK) {
                    fail(seq, err);
                    continue;
                }
                finish_embedding(seq);
            }
            finish(seq, MOE_FINISH_STOP);
        }
    }
    return MOE_OK;
}

bool moe_seq_done(const moe_seq *seq)
{
    return seq->state == SEQ_DONE;
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
    *n = seq->scheduler->model->spec.n_embd;
    return seq->state == SEQ_DONE && seq->finish != MOE_FINISH_ERROR ? seq->pooled : NULL;
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
