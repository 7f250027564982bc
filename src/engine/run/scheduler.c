/*
 * The scheduler: many sequences, one forward pass per step.
 *
 * A sequence waits for admission (admission.c); then its prompt goes through in chunks, then it
 * takes one row per step until it ends.  A step holds prompt chunks first and generated tokens
 * behind them, up to the budget of rows.  What a row computes depends on its own sequence only
 * (kernels/NUMERICS.md), so neither the company in a step nor the chunking changes a result.
 *
 * Every decoding sequence has its row in every step; at least a quarter of the budget is left for
 * prompts.  Groups share that by deficit round robin, QUANTUM rows at a time, and so do the
 * interactive prompts of a group; bulk ones are read one after the other.  Interactive prompts
 * go before bulk ones, but while both are there, bulk ones have an eighth of the rows coming.  So a
 * single interactive prompt gets at least 7/32 of the budget in every step, whatever bulk work
 * there is.
 *
 * When others wait for the end of a step (a second interactive sequence, an interactive one beside
 * bulk prompts, whoever the host knows of), prompts get fewer rows: as many as go through in
 * step_seconds at the speed of the steps before, which falls as attention spans more positions.
 * They do so for some seconds more, since who has had an answer is likely to ask again.
 *
 * Prompts of a step that begin alike share rows: what the later one has in common with an earlier
 * one is not computed again and costs no turn.
 *
 * A sequence whose next page is being computed by another waits for it, and spends its turns on
 * that other one.  There is always one that can go on: who waits for a page waits for somebody who
 * is at that page or an earlier one.
 *
 * A sequence that nobody hurries (moe_seq_pause_at) takes no row, but only as long as nobody waits
 * for the place and the pages that it holds: then it is computed to its end, out of the way.
 *
 * A step that fails or is cancelled on its way counts for those sequences whose rows and logits
 * were all done; the rest of it is done again.
 */
#include <stdlib.h>
#include <time.h>

#include "forward.h"
#include "scheduler_internal.h"

enum {
    DEFAULT_STEP_TOKENS = 512,
    ENCODER_STEP_TOKENS = 2048, /* per thread */
    DEFAULT_SEQS = 64,
    QUANTUM = 64,
    MIN_HURRIED_ROWS = 32, /* fewer hardly make a step shorter: it reads the weights all the same */
    HURRY_SECONDS = 5,     /* steps stay short for so long when nobody waits any more */
};

static int64_t min_int(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static double monotonic_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --- life and death --------------------------------------------------------------------------- */

moe_status moe_scheduler_create(moe_model *model, const moe_scheduler_options *options,
                                moe_scheduler **out, moe_error *err)
{
    const int n_pages = model->kv->n_pages_max;
    moe_scheduler *s = calloc(1, sizeof(*s));

    *out = NULL;
    if (s == NULL)
        return moe_fail_memory(err, sizeof(*s));
    s->model = model;
    s->max_step_tokens = DEFAULT_STEP_TOKENS;
    s->max_seqs = DEFAULT_SEQS;
    s->now = monotonic_seconds;
    if (!model->spec.causal) { /* all threads have enough texts, and end at about the same time */
        s->max_step_tokens = ENCODER_STEP_TOKENS * moe_pool_threads(model->engine->pool);
        s->max_seqs = s->max_step_tokens;
    }
    if (options != NULL) {
        s->cancel = options->cancel;
        s->max_waiting = options->max_waiting;
        s->step_seconds = options->step_seconds;
        if (options->max_step_tokens > 0)
            s->max_step_tokens = options->max_step_tokens;
        if (options->max_seqs > 0)
            s->max_seqs = options->max_seqs;
    }
    if (s->max_seqs > s->max_step_tokens - s->max_step_tokens / 4)
        s->max_seqs = s->max_step_tokens - s->max_step_tokens / 4;
    s->max_bulk_seqs = s->max_seqs - (s->max_seqs + 2) / 4;
    s->max_bulk_pages = n_pages - n_pages / 4;
    s->spans = malloc((size_t)s->max_seqs * sizeof(*s->spans));
    s->span_seq = malloc((size_t)s->max_seqs * sizeof(*s->span_seq));
    model->n_schedulers++;
    if (s->spans == NULL || s->span_seq == NULL) {
        moe_scheduler_free(s);
        return moe_fail_memory(err, (size_t)s->max_seqs * sizeof(*s->spans));
    }
    *out = s;
    return MOE_OK;
}

static void free_ring(moe_ring *ring)
{
    while (ring->n_flows > 0) {
        moe_flow *flow = ring->admit;

        /* The flow goes with the last of its sequences. */
        moe_seq_free(flow->waiting.first != NULL ? flow->waiting.first : flow->prompts.first);
    }
}

static void free_rows(moe_scheduler *s)
{
    free(s->tokens);
    free(s->out_rows);
    free(s->positions);
    free(s->wanted);
}

void moe_scheduler_free(moe_scheduler *s)
{
    if (s == NULL)
        return;
    free_ring(&s->rings[0]);
    free_ring(&s->rings[1]);
    while (s->decode.first != NULL)
        moe_seq_free(s->decode.first);
    while (s->done.first != NULL)
        moe_seq_free(s->done.first);
    s->model->n_schedulers--;
    free_rows(s);
    free(s->spans);
    free(s->span_seq);
    free(s);
}

static bool reserve_rows(moe_scheduler *s, int n)
{
    const size_t count = (size_t)n;

    if (n <= s->row_cap)
        return true;
    free_rows(s);
    s->tokens = malloc(count * sizeof(*s->tokens));
    s->out_rows = malloc(count * sizeof(*s->out_rows));
    s->positions = malloc(count * sizeof(*s->positions));
    s->wanted = malloc(count * sizeof(*s->wanted));
    s->row_cap = s->tokens && s->out_rows && s->positions && s->wanted ? n : 0;
    return s->row_cap == n;
}

moe_status moe_scheduler_add(moe_scheduler *s, const moe_request *request, moe_seq **out,
                             moe_error *err)
{
    const moe_kv_cache *kv = s->model->kv;
    moe_status status;
    moe_seq *seq;

    *out = NULL;
    if (s->max_waiting > 0 && s->n_waiting - (s->max_seqs - s->n_running) >= s->max_waiting) {
        moe_fail(err, MOE_ERR_BUSY, "too many requests are waiting");
        return moe_hint(err, "Try again later.");
    }
    status = moe_sequence_create(s->model, request, &seq, err);
    if (status != MOE_OK)
        return status;
    if (moe_sequence_pages(seq) > kv->n_pages_max) {
        moe_fail(err, MOE_ERR_TOO_LONG,
                 "the request may need %d tokens of KV cache, but the cache holds %d",
                 moe_sequence_pages(seq) * MOE_KV_PAGE, kv->n_pages_max * MOE_KV_PAGE);
        moe_sequence_destroy(seq);
        return moe_hint(err, "Lower max_tokens, or raise moe.kv_cache_size.");
    }
    seq->scheduler = s;
    if (request->task == MOE_TASK_GENERATE && request->max_tokens <= 0) {
        seq->finish = MOE_FINISH_LENGTH;
        moe_sequence_enter(seq, MOE_SEQ_DONE);
        moe_sequence_changed(seq);
    } else if (moe_join_flow(s, seq)) {
        moe_sequence_enter(seq, MOE_SEQ_WAITING);
    } else {
        moe_sequence_destroy(seq);
        return moe_fail_memory(err, sizeof(moe_flow));
    }
    s->model->n_sequences++;
    *out = seq;
    return MOE_OK;
}

/* Moves a sequence to another state's list. */
static void move(moe_seq *seq, moe_seq_state state)
{
    moe_sequence_leave(seq);
    moe_sequence_enter(seq, state);
}

void moe_sequence_changed(moe_seq *seq)
{
    moe_scheduler *s = seq->scheduler;

    if (seq->changed)
        return;
    seq->changed = true;
    seq->prev_changed = s->last_changed;
    seq->next_changed = NULL;
    *(s->last_changed != NULL ? &s->last_changed->next_changed : &s->first_changed) = seq;
    s->last_changed = seq;
}

static void forget_change(moe_seq *seq)
{
    moe_scheduler *s = seq->scheduler;
    moe_seq *prev = seq->prev_changed, *next = seq->next_changed;

    if (!seq->changed)
        return;
    seq->changed = false;
    *(prev != NULL ? &prev->next_changed : &s->first_changed) = next;
    *(next != NULL ? &next->prev_changed : &s->last_changed) = prev;
}

moe_seq *moe_scheduler_next_changed(moe_scheduler *s)
{
    moe_seq *seq = s->first_changed;

    if (seq != NULL)
        forget_change(seq);
    return seq;
}

void moe_seq_free(moe_seq *seq)
{
    if (seq == NULL)
        return;
    forget_change(seq);
    if (seq->state != MOE_SEQ_DONE)
        move(seq, MOE_SEQ_DONE);
    moe_sequence_leave(seq);
    seq->model->n_sequences--;
    moe_sequence_destroy(seq);
}

int64_t moe_scheduler_waiting(const moe_scheduler *s)
{
    return s->n_waiting;
}

int64_t moe_scheduler_running(const moe_scheduler *s)
{
    return s->n_running;
}

/* A sequence that is ahead of whoever takes its tokens. */
static bool rests(const moe_scheduler *s, const moe_seq *seq)
{
    const int64_t pause_at = seq->request.pause_at;

    return pause_at > 0 && seq->usage.generated_tokens >= pause_at && !s->crowded;
}

/* Sequences of a class whose prompt is read or that decode and do not rest. */
static int n_at_work(const moe_scheduler *s, bool bulk)
{
    int n = s->rings[bulk].n_prompts;

    for (const moe_seq *seq = s->decode.first; seq != NULL; seq = seq->next)
        n += seq->request.bulk == bulk && !rests(s, seq);
    return n;
}

moe_work moe_scheduler_work(const moe_scheduler *s)
{
    const moe_flow *flow = s->rings[0].admit;

    if (n_at_work(s, false) > 0)
        return MOE_WORK_INTERACTIVE;
    for (int i = 0; i < s->rings[0].n_flows; i++, flow = flow->next)
        if (flow->waiting.first != NULL)
            return MOE_WORK_INTERACTIVE;
    return s->n_waiting > 0 || n_at_work(s, true) > 0 ? MOE_WORK_BULK : MOE_WORK_NONE;
}

void moe_scheduler_hurry(moe_scheduler *s)
{
    s->hurried_until = s->now() + HURRY_SECONDS;
}

/* --- dealing rows ----------------------------------------------------------------------------- */

/* The sequence of this scheduler that computes a node's page, if it is another one.  Writers of
 * other schedulers are not waited for: they may rest. */
static moe_seq *other_writer(const moe_seq *seq, const moe_prefix_node *node)
{
    moe_seq *writer = (moe_seq *)node->writer;

    return writer != NULL && writer != seq && writer->scheduler == seq->scheduler ? writer : NULL;
}

/* Rows may come up to the first page that somebody else computes or has computed. */
void moe_sequence_look_ahead(moe_seq *seq)
{
    const moe_kv_lease *lease = &seq->lease;
    int page = (int)(seq->n_in_kv / MOE_KV_PAGE), end;

    for (; page < lease->n_shared; page++) {
        const int n_done = lease->shared[page]->n_done;
        const size_t upto = (size_t)page * MOE_KV_PAGE + (size_t)n_done;

        if (upto > seq->n_in_kv) {
            seq->model->n_prefix_hits += seq->usage.cached_tokens == 0;
            seq->model->n_cached_tokens += (int64_t)(upto - seq->n_in_kv);
            seq->usage.cached_tokens += (int64_t)(upto - seq->n_in_kv);
            seq->n_in_kv = upto;
        }
        if (n_done < MOE_KV_PAGE)
            break;
    }
    seq->n_ready = 0;
    seq->waits_for = page < lease->n_shared ? other_writer(seq, lease->shared[page]) : NULL;
    if (seq->waits_for != NULL)
        return;
    for (end = page; end < lease->n_shared; end++) {
        moe_prefix_node *node = lease->shared[end];

        if (other_writer(seq, node) != NULL || (end > page && node->n_done > 0))
            break;
        node->writer = seq;
    }
    seq->n_ready =
        (end < lease->n_shared ? (size_t)end * MOE_KV_PAGE : seq->n_prompt) - seq->n_in_kv;
}

/* An encoder sees its whole text at once. */
static bool is_whole(const moe_scheduler *s)
{
    return !s->model->spec.causal;
}

/* The next sequence that a flow would spend up to `room` rows on, and how many it can use; NULL if
 * there is none.  *too_long tells of texts that must be read whole and are longer: they are passed
 * over, or not (`in_order`); in a step of their own they may be longer than it. */
static moe_seq *next_prompt(const moe_scheduler *s, const moe_flow *flow, int64_t room,
                            bool in_order, int64_t *n, bool *too_long)
{
    *too_long = false;
    for (moe_seq *seq = flow->prompts.first; seq != NULL; seq = seq->next) {
        moe_seq *target = seq;

        while (target->n_ready == 0)
            target = target->waits_for;
        *n = (int64_t)target->n_ready - target->span_rows;
        if (*n <= 0)
            continue;
        if (*n <= room || !is_whole(s) || (s->n_spans == 0 && !in_order))
            return target;
        *too_long = true;
        if (in_order)
            break;
    }
    return NULL;
}

/* Finds the prompt of the step that begins like this one, for most of the n tokens that come next:
 * those are not computed again.  Returns how many they are, and notes them. */
static int64_t find_head(const moe_scheduler *s, moe_seq *seq, int64_t n)
{
    const size_t begin = seq->n_in_kv;

    seq->n_head = 0;
    for (int i = 0; i < s->n_spans && !is_whole(s); i++) {
        const moe_seq *other = s->span_seq[i];
        const size_t end = begin + (size_t)min_int(n, other->span_rows);
        size_t same = 0;

        if (other->n_in_kv != begin)
            continue;
        while (same < end && seq->ids.data[same] == other->ids.data[same])
            same++;
        if (same > begin + (size_t)seq->n_head) {
            seq->n_head = (int)(same - begin);
            seq->head = i;
        }
    }
    return seq->n_head;
}

/* Gives a sequence n further positions, of which n_rows are to be computed. */
static void give(moe_scheduler *s, moe_seq *seq, int64_t n, int64_t n_rows)
{
    if (seq->span_rows == 0)
        s->span_seq[s->n_spans++] = seq;
    seq->span_rows += (int)n;
    s->n_given += (int)n;
    s->n_rows += (int)n_rows;
}

/* Deals up to `room` rows to the flows of a ring; returns how many.  A flow that had nothing short
 * enough has the first turn in the next step. */
static int64_t deal_to(moe_scheduler *s, moe_ring *ring, int64_t room, bool in_order)
{
    moe_flow *put_off = NULL;
    int64_t left = room, n;
    int idle = 0; /* flows in a row that took nothing */

    while (left > 0 && idle < ring->n_flows) {
        moe_flow *flow = ring->deal;
        bool too_long;
        moe_seq *seq = next_prompt(s, flow, left, in_order, &n, &too_long);

        idle = seq == NULL ? idle + 1 : 0;
        if (too_long && seq == NULL && put_off == NULL)
            put_off = flow;
        if (too_long && in_order)
            break;
        if (seq != NULL && flow->deficit <= 0)
            flow->deficit += QUANTUM;
        if (seq != NULL && flow->deficit > 0) {
            const int64_t n_head = seq->span_rows == 0 ? find_head(s, seq, n) : 0;
            int64_t n_rows = n - n_head;

            if (!is_whole(s))
                n_rows = min_int(n_rows, min_int(flow->deficit, left));
            give(s, seq, n_head + n_rows, n_rows);
            flow->deficit -= n_rows;
            left -= n_rows;
            if (!seq->request.bulk && !is_whole(s))
                moe_sequence_step_back(seq);
        }
        if (seq == NULL && !too_long)
            flow->deficit = min_int(flow->deficit, 0);
        if (seq == NULL || flow->deficit <= 0)
            ring->deal = flow->next;
    }
    if (put_off != NULL)
        ring->deal = put_off;
    return room - left;
}

/* Does somebody wait for a step to end who may not get most of its rows, or did of late? */
static bool is_hurried(moe_scheduler *s)
{
    const int n_interactive = n_at_work(s, false);

    if (n_interactive > 1 || (n_interactive == 1 && s->rings[1].n_prompts > 0))
        moe_scheduler_hurry(s);
    return s->now() < s->hurried_until;
}

/* The rows of a step that prompts may have: what decoding leaves, and if others wait for its end
 * no more than the time for it allows. */
static int64_t room_for_prompts(moe_scheduler *s)
{
    const int64_t room = s->max_step_tokens - s->n_decode;
    double in_time = 0;

    if (s->step_seconds <= 0 || !is_hurried(s))
        return room;
    if (s->row_seconds > 0)
        in_time = s->step_seconds / s->row_seconds - s->n_decode;
    if (in_time < MIN_HURRIED_ROWS)
        in_time = MIN_HURRIED_ROWS;
    return in_time < (double)room ? (int64_t)in_time : room;
}

/* Deals the rows that decoding leaves among the prompts. */
static void deal(moe_scheduler *s)
{
    moe_ring *interactive = &s->rings[0], *bulk = &s->rings[1];
    int64_t room = room_for_prompts(s), longest = room, dealt;

    if (is_whole(s))
        longest = s->model->info.n_ctx;
    if (bulk->n_prompts > 0 && interactive->n_prompts > 0)
        s->bulk_credit = min_int(s->bulk_credit + (room + 7) / 8, longest);
    else
        s->bulk_credit = 0;
    dealt = deal_to(s, bulk, s->bulk_credit, true);
    s->bulk_credit -= dealt;
    room -= dealt;
    room -= deal_to(s, interactive, room, false);
    deal_to(s, bulk, room, false);
}

/* Lays out the rows of a sequence, from its first position that is not in the cache. */
static void lay_span(moe_scheduler *s, moe_seq *seq, moe_span *span)
{
    const moe_model_spec *spec = &s->model->spec;
    const int n = seq->span_rows, n_head = seq->n_head;
    const bool ends = seq->n_in_kv + (size_t)n == seq->ids.len;
    const moe_request *r = &seq->request;

    *span = (moe_span){.row = s->n_rows,
                       .n_rows = n - n_head,
                       .pos = (int64_t)seq->n_in_kv + n_head,
                       .n_head = n_head,
                       .head = n_head > 0 ? &s->spans[seq->head] : NULL,
                       .pages = seq->lease.pages};
    if (r->task == MOE_TASK_EMBED) {
        span->pooled = seq->pooled;
        span->pool_to = n;
        if (spec->pooling == MOE_POOLING_LAST)
            span->pool_from = n - ends;
        else if (spec->pooling != MOE_POOLING_MEAN)
            span->pool_to = seq->n_in_kv == 0;
    }
    seq->span_wanted = 0;
    for (int i = 0; i < n; i++) {
        const size_t position = seq->n_in_kv + (size_t)i;
        const bool want =
            r->task == MOE_TASK_SCORE
                ? position + 1 >= moe_sequence_next_scored(seq) && position + 1 < seq->n_prompt
                : r->task != MOE_TASK_EMBED && ends && i == n - 1;

        if (want) {
            seq->span_wanted++;
            s->out_rows[s->n_wanted] = moe_span_row(span, i);
            s->wanted[s->n_wanted++] = seq;
        }
        if (i >= n_head) {
            s->tokens[s->n_rows] = seq->ids.data[position];
            s->positions[s->n_rows++] = (int64_t)position;
        }
    }
}

/* Fills the step: prompt chunks, then one row of each decoding sequence that does not rest. */
static moe_status fill(moe_scheduler *s, moe_step *step, moe_error *err)
{
    int n_prefill;

    s->n_rows = s->n_given = s->n_spans = s->n_wanted = 0;
    deal(s);
    n_prefill = s->n_rows;
    for (moe_seq *seq = s->decode.first; seq != NULL; seq = seq->next)
        if (!rests(s, seq))
            give(s, seq, 1, 1);
    if (!reserve_rows(s, s->n_given))
        return moe_fail_memory(err, (size_t)s->n_given * sizeof(*s->positions));
    s->n_rows = 0;
    for (int i = 0; i < s->n_spans; i++)
        lay_span(s, s->span_seq[i], &s->spans[i]);
    *step = (moe_step){.n_rows = s->n_rows,
                       .n_prefill = n_prefill,
                       .tokens = s->tokens,
                       .positions = s->positions,
                       .spans = s->spans,
                       .n_spans = s->n_spans,
                       .kv = s->model->kv};
    return MOE_OK;
}

/* --- steps ------------------------------------------------------------------------------------ */

static void note_computed(void *ud)
{
    moe_scheduler *s = ud;

    s->computed = true;
}

static moe_status take_logits(void *ud, int i, const float *logits, moe_error *err)
{
    moe_scheduler *s = ud;
    moe_seq *seq = s->wanted[i];

    seq->span_wanted--;
    if (seq->finish == MOE_FINISH_NONE && moe_sequence_use_logits(seq, logits, err) != MOE_OK)
        moe_sequence_fail(seq, err);
    return MOE_OK;
}

/* Ends a sequence whose prompt is read and that was only read for it. */
static void finish_prompt(moe_seq *seq)
{
    moe_error err;

    if (seq->request.task == MOE_TASK_EMBED && moe_sequence_finish_embedding(seq, &err) != MOE_OK)
        moe_sequence_fail(seq, &err);
    else if (seq->finish == MOE_FINISH_NONE)
        seq->finish = MOE_FINISH_STOP;
}

/* Takes note that a sequence's rows of the step are done. */
static void advance(moe_seq *seq, double seconds)
{
    const bool prompt = seq->state == MOE_SEQ_PROMPT;

    seq->n_in_kv += (size_t)seq->span_rows;
    seq->usage.steps++;
    seq->usage.seconds += seconds;
    if (prompt)
        moe_kv_lease_computed(&seq->lease, seq->n_in_kv);
    if (prompt && seq->n_in_kv == seq->n_prompt) {
        if (seq->request.task != MOE_TASK_GENERATE)
            finish_prompt(seq);
        else if (seq->finish == MOE_FINISH_NONE)
            move(seq, MOE_SEQ_DECODE);
    }
    if (seq->finish != MOE_FINISH_NONE) {
        moe_kv_lease_close(seq->model->prefixes, &seq->lease);
        move(seq, MOE_SEQ_DONE);
    }
    if (seq->finish != MOE_FINISH_NONE || seq->n_out > seq->taken)
        moe_sequence_changed(seq);
}

/* Tells a sequence its share of what a step found and missed of experts. */
static void share_experts(moe_seq *seq, const moe_span *span, int n_rows, int64_t hits,
                          int64_t misses)
{
    const int64_t from = span->row, to = span->row + span->n_rows;

    seq->usage.expert_hits += hits * to / n_rows - hits * from / n_rows;
    seq->usage.expert_misses += misses * to / n_rows - misses * from / n_rows;
}

/* Learns from a step how long a row takes.  Steps of a few rows say nothing of longer ones; whole
 * texts fill more than half of the least room. */
static void note_speed(moe_scheduler *s, double seconds)
{
    const double row_seconds = seconds / s->n_rows;

    if (s->n_rows >= MIN_HURRIED_ROWS / 2)
        s->row_seconds = s->row_seconds > 0 ? (s->row_seconds + row_seconds) / 2 : row_seconds;
}

moe_status moe_scheduler_step(moe_scheduler *s, bool *busy, moe_error *err)
{
    moe_model *model = s->model;
    const moe_forward forward = {&model->spec, &model->weights, model->device, &s->cancel,
                                 note_computed};
    const moe_expert_cache *cache = &model->resident->cache;
    const int64_t hits = cache->hits, misses = cache->misses;
    const double start = s->now();
    double seconds;
    moe_step step;
    moe_status status = moe_admit(s, err);

    *busy = false;
    if (status != MOE_OK)
        return status;
    s->computed = false;
    status = fill(s, &step, err);
    if (status == MOE_OK && step.n_rows > 0) {
        *busy = true;
        status = moe_forward_run(&forward, &step, s->out_rows, s->n_wanted, take_logits, s, err);
    }
    seconds = s->now() - start;
    if (s->computed)
        note_speed(s, seconds);
    for (int i = 0; i < s->n_spans; i++) {
        moe_seq *seq = s->span_seq[i];

        if (s->computed)
            share_experts(seq, &s->spans[i], step.n_rows, cache->hits - hits,
                          cache->misses - misses);
        if (s->computed && (seq->span_wanted == 0 || seq->finish == MOE_FINISH_ERROR))
            advance(seq, seconds);
        seq->span_rows = seq->n_head = 0;
    }
    return status;
}
