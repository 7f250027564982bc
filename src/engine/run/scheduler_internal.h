/*
 * What the scheduler consists of; shared by scheduler.c (queue and steps) and admission.c (who gets
 * in).
 *
 * A flow is what one group has asked for in one class, interactive or bulk.  It has a queue of
 * waiting sequences and a list of those whose prompt is being read; it lives as long as one of them
 * has a member.  The flows of a class form a ring, in which admission and the dealing of rows go
 * round, each from where it stopped.
 */
#ifndef MOE_SCHEDULER_INTERNAL_H
#define MOE_SCHEDULER_INTERNAL_H

#include "sequence.h"

typedef struct moe_flow moe_flow;
struct moe_flow {
    moe_flow *prev, *next; /* around the ring */
    uint32_t group;
    bool bulk;
    moe_seq_list waiting, prompts;
    int64_t deficit; /* rows that it may still take; negative: that it has had too many */
    int64_t n_ready; /* rows that could be computed of those prompts, before dealing */
    int64_t since;   /* s->n_admitted when its first waiting sequence became the first */
};

typedef struct moe_ring {
    moe_flow *admit, *deal; /* whose turn it is; NULL if the ring is empty */
    int n_flows;
    int n_prompts; /* sequences whose prompt is being read */
} moe_ring;

struct moe_scheduler {
    moe_model *model;
    moe_cancel cancel;
    int max_step_tokens, max_seqs, max_bulk_seqs, max_bulk_pages;
    int64_t max_waiting; /* 0: no bound */
    moe_ring rings[2];   /* interactive, bulk */
    moe_seq_list decode, done;
    moe_seq *first_changed, *last_changed; /* for moe_scheduler_next_changed */
    int64_t n_waiting, n_admitted;
    int n_decode, n_running, n_bulk; /* n_running: prompts and decode; bulk ones among them */
    int64_t bulk_credit;             /* rows that bulk prompts have coming */
    bool crowded;                    /* somebody waits for a place or for pages */

    /* Steps whose end others wait for. */
    double step_seconds;  /* that they are to take; 0: no bound */
    double row_seconds;   /* that a row takes, measured; 0: not yet */
    double hurried_until; /* by now() */
    double (*now)(void);  /* in seconds */

    /* The current step. */
    moe_seq **span_seq; /* (max_seqs) in order of their rows */
    moe_span *spans;    /* (max_seqs) */
    int row_cap;
    int32_t *tokens, *out_rows; /* (row_cap) */
    int64_t *positions;         /* (row_cap) */
    moe_seq **wanted;           /* (row_cap) whose logits those of out_rows are */
    int n_rows, n_spans, n_wanted;
    int n_given;   /* positions that sequences get: rows, and those that they share */
    bool computed; /* all layers of it are done */
};

/* Puts a sequence into the list of a state, and counts it there. */
void moe_sequence_enter(moe_seq *seq, moe_seq_state state);
/* Moves it to the end of its list. */
void moe_sequence_step_back(moe_seq *seq);
/* Takes it out of its list. */
void moe_sequence_leave(moe_seq *seq);

/* Passes over what others have computed of a prompt, and finds out how many rows may come next. */
void moe_sequence_look_ahead(moe_seq *seq);

/* Puts it into the list of changed ones. */
void moe_sequence_changed(moe_seq *seq);

/* Gives a new sequence its flow; false if memory is short. */
bool moe_join_flow(moe_scheduler *s, moe_seq *seq);

/* Looks ahead in the prompts that are being read, then lets waiting sequences in, as far as there
 * is room, and says in s->crowded whether some must wait for it.  One for which memory fails ends
 * with that error; MOE_ERR_TOO_LONG if nothing runs and still nothing fits. */
moe_status moe_admit(moe_scheduler *s, moe_error *err);

#endif
