/*
 * Admission: who of the waiting gets pages of the KV cache and a place among the running.
 *
 * A sequence gets pages for its whole life (prompt and max_tokens; what it shares with others is
 * counted once), so that a running one never has to be evicted.  Groups take turns, the
 * interactive ones before the bulk ones.  A quarter of places and pages is closed to bulk work, so
 * that somebody who asks while a bulk job runs gets in at once; only a single bulk sequence that
 * needs more may have it.  Nobody gets in ahead of time: a group whose prompts fill a step waits
 * until they have been read, but that a few interactive ones are read side by side.  What does not fit is passed over by smaller ones of other groups, but
 * not for ever: once so many have passed it that all groups had their turn twice, the rest waits
 * until it fits.
 */
#include "scheduler_internal.h"

#include <stdlib.h>

/* --- lists and flows -------------------------------------------------------------------------- */

static moe_ring *ring_of(moe_scheduler *s, const moe_flow *flow)
{
    return &s->rings[flow->bulk];
}

static void link_flow(moe_ring *ring, moe_flow *flow)
{
    if (ring->n_flows++ == 0) {
        ring->admit = ring->deal = flow->prev = flow->next = flow;
        return;
    }
    flow->next = ring->admit; /* the last whose turn it will be */
    flow->prev = ring->admit->prev;
    flow->prev->next = flow;
    flow->next->prev = flow;
}

static void drop_flow(moe_ring *ring, moe_flow *flow)
{
    ring->n_flows--;
    if (ring->admit == flow)
        ring->admit = ring->n_flows > 0 ? flow->next : NULL;
    if (ring->deal == flow)
        ring->deal = ring->n_flows > 0 ? flow->next : NULL;
    flow->prev->next = flow->next;
    flow->next->prev = flow->prev;
    free(flow);
}

bool moe_join_flow(moe_scheduler *s, moe_seq *seq)
{
    moe_ring *ring = &s->rings[seq->request.bulk];
    moe_flow *flow = ring->admit;

    for (int i = 0; i < ring->n_flows && flow->group != seq->request.group; i++)
        flow = flow->next;
    if (flow == NULL || flow->group != seq->request.group) {
        flow = calloc(1, sizeof(*flow));
        if (flow == NULL)
            return false;
        flow->group = seq->request.group;
        flow->bulk = seq->request.bulk;
        link_flow(ring, flow);
    }
    seq->flow = flow;
    return true;
}

static void append(moe_seq_list *list, moe_seq *seq)
{
    seq->list = list;
    seq->prev = list->last;
    seq->next = NULL;
    *(list->last != NULL ? &list->last->next : &list->first) = seq;
    list->last = seq;
}

/* Counts a sequence in or out (by = 1 or -1) where its state is counted. */
static void count(moe_seq *seq, int by)
{
    moe_scheduler *s = seq->scheduler;

    if (seq->state == MOE_SEQ_WAITING) {
        s->n_waiting += by;
        s->model->n_waiting += by;
    } else if (seq->state != MOE_SEQ_DONE) {
        s->n_running += by;
        s->model->n_running += by;
        s->n_bulk += seq->request.bulk ? by : 0;
        s->n_decode += seq->state == MOE_SEQ_DECODE ? by : 0;
        s->rings[seq->request.bulk].n_prompts += seq->state == MOE_SEQ_PROMPT ? by : 0;
    }
}

void moe_sequence_enter(moe_seq *seq, moe_seq_state state)
{
    moe_scheduler *s = seq->scheduler;
    moe_flow *flow = seq->flow;

    if (state == MOE_SEQ_WAITING) {
        if (flow->waiting.first == NULL)
            flow->since = s->n_admitted;
        append(&flow->waiting, seq);
    } else if (state == MOE_SEQ_PROMPT) {
        append(&flow->prompts, seq);
    } else {
        append(state == MOE_SEQ_DECODE ? &s->decode : &s->done, seq);
        if (flow != NULL && flow->waiting.first == NULL && flow->prompts.first == NULL)
            drop_flow(ring_of(s, flow), flow);
        seq->flow = NULL;
    }
    seq->state = state;
    count(seq, 1);
}

static void take_out(moe_seq *seq)
{
    moe_seq_list *list = seq->list;

    *(seq->prev != NULL ? &seq->prev->next : &list->first) = seq->next;
    *(seq->next != NULL ? &seq->next->prev : &list->last) = seq->prev;
}

void moe_sequence_step_back(moe_seq *seq)
{
    take_out(seq);
    append(seq->list, seq);
}

void moe_sequence_leave(moe_seq *seq)
{
    take_out(seq);
    if (seq->state == MOE_SEQ_WAITING && seq->prev == NULL)
        seq->flow->since = seq->scheduler->n_admitted;
    count(seq, -1);
}

/* --- admission -------------------------------------------------------------------------------- */

enum {
    SIDE_BY_SIDE = 8, /* interactive prompts of a group that are let in, however long they are */
};

static bool has_few_prompts(const moe_flow *flow)
{
    int n = 0;

    for (const moe_seq *seq = flow->prompts.first; seq != NULL && n < SIDE_BY_SIDE; seq = seq->next)
        n++;
    return n < SIDE_BY_SIDE;
}

/* Has a flow somebody to let in? */
static bool wants(const moe_scheduler *s, const moe_flow *flow)
{
    return flow->waiting.first != NULL &&
           (flow->n_ready < s->max_step_tokens || (!flow->bulk && has_few_prompts(flow)));
}

typedef enum fit { FITS, NO_ROOM, NO_BULK_ROOM } fit;

static fit fit_of(const moe_scheduler *s, const moe_seq *seq)
{
    const moe_prefix_cache *prefixes = s->model->prefixes;
    const bool limited = seq->request.bulk && s->n_bulk > 0;
    int cost;

    if (limited && s->n_bulk >= s->max_bulk_seqs)
        return NO_BULK_ROOM;
    if (s->n_running >= s->max_seqs)
        return NO_ROOM;
    cost = moe_kv_lease_cost(prefixes, seq->ids.data, moe_sequence_shareable_pages(seq),
                             moe_sequence_pages(seq));
    if (limited && prefixes->n_bulk_held + cost > s->max_bulk_pages)
        return NO_BULK_ROOM;
    return cost <= moe_prefix_cache_available(prefixes) ? FITS : NO_ROOM;
}

/* The flow of a ring that has been passed over for longest, if that is too long. */
static moe_flow *overdue(const moe_scheduler *s, const moe_ring *ring)
{
    const int64_t patience = 2 * (s->max_seqs + s->rings[0].n_flows + s->rings[1].n_flows);
    moe_flow *flow = ring->admit, *oldest = NULL;

    for (int i = 0; i < ring->n_flows; i++, flow = flow->next)
        if (wants(s, flow) && s->n_admitted - flow->since > patience &&
            (oldest == NULL || flow->since < oldest->since))
            oldest = flow;
    return oldest;
}

/* The next flow of a ring whose first waiting sequence fits. */
static moe_flow *next_that_fits(const moe_scheduler *s, const moe_ring *ring)
{
    moe_flow *flow = ring->admit;

    for (int i = 0; i < ring->n_flows; i++, flow = flow->next)
        if (wants(s, flow) && fit_of(s, flow->waiting.first) == FITS)
            return flow;
    return NULL;
}

/* The flow whose first waiting sequence is to be let in; NULL if none can be. */
static moe_flow *choose(const moe_scheduler *s)
{
    bool closed[2] = {false, false};
    moe_flow *flow = NULL;

    /* With nothing running there is nothing that an overdue one could wait for. */
    for (int bulk = 1; bulk >= 0 && s->n_running > 0; bulk--) {
        moe_flow *late = overdue(s, &s->rings[bulk]);
        const fit fit = late == NULL ? FITS : fit_of(s, late->waiting.first);

        if (late != NULL && fit == FITS)
            return late;
        closed[bulk] |= fit != FITS;
        closed[!bulk] |= fit == NO_ROOM;
    }
    for (int bulk = 0; bulk < 2 && flow == NULL; bulk++)
        if (!closed[bulk])
            flow = next_that_fits(s, &s->rings[bulk]);
    return flow;
}

/* Does a flow of the ring have somebody to let in who must wait for others to end? */
static bool lacks_room(const moe_scheduler *s, const moe_ring *ring)
{
    moe_flow *flow = ring->admit;

    for (int i = 0; i < ring->n_flows; i++, flow = flow->next)
        if (wants(s, flow) && fit_of(s, flow->waiting.first) == NO_ROOM)
            return true;
    return false;
}

/* The rows that a prompt adds to those that could be computed: what it has in common with the one
 * before it in its flow they are likely to share. */
static int64_t added_rows(const moe_seq *seq)
{
    const moe_seq *before = seq->prev;
    const size_t begin = seq->n_in_kv, end = begin + seq->n_ready;
    size_t same = begin;

    if (before == NULL || before->n_in_kv != begin || !seq->model->spec.causal)
        return (int64_t)seq->n_ready;
    while (same < end && same < begin + before->n_ready &&
           seq->ids.data[same] == before->ids.data[same])
        same++;
    return (int64_t)(end - same);
}

static void let_in(moe_scheduler *s, moe_flow *flow)
{
    moe_seq *seq = flow->waiting.first;
    moe_error err;

    s->rings[flow->bulk].admit = flow->next;
    s->n_admitted++;
    moe_sequence_leave(seq);
    if (moe_kv_lease_open(s->model->prefixes, seq->ids.data, moe_sequence_shareable_pages(seq),
                          moe_sequence_pages(seq), &seq->lease, &err) != MOE_OK) {
        moe_sequence_fail(seq, &err);
        moe_sequence_enter(seq, MOE_SEQ_DONE);
        moe_sequence_changed(seq);
        return;
    }
    seq->usage.prompt_tokens = (int64_t)seq->n_prompt;
    moe_sequence_enter(seq, MOE_SEQ_PROMPT);
    moe_sequence_look_ahead(seq);
    flow->n_ready += added_rows(seq);
}

static void look_ahead_all(moe_ring *ring)
{
    moe_flow *flow = ring->admit;

    for (int i = 0; i < ring->n_flows; i++, flow = flow->next) {
        flow->n_ready = 0;
        for (moe_seq *seq = flow->prompts.first; seq != NULL; seq = seq->next) {
            moe_sequence_look_ahead(seq);
            flow->n_ready += added_rows(seq);
        }
    }
}

moe_status moe_admit(moe_scheduler *s, moe_error *err)
{
    moe_flow *flow;

    look_ahead_all(&s->rings[0]);
    look_ahead_all(&s->rings[1]);
    while (s->n_waiting > 0 && s->n_running < s->max_seqs && (flow = choose(s)) != NULL)
        let_in(s, flow);
    s->crowded = lacks_room(s, &s->rings[0]) || lacks_room(s, &s->rings[1]);
    if (s->n_running > 0 || s->n_waiting == 0)
        return MOE_OK;
    moe_fail(err, MOE_ERR_TOO_LONG, "the KV cache is full");
    return moe_hint(err, "Other open streams of this session hold it; close them, or raise "
                         "moe.kv_cache_size.");
}
