/*
 * One sequence: its request, its tokens, what has come of it.
 *
 * sequence.c knows what logits mean for a sequence, and nothing of queues; scheduler.c decides when
 * its rows are computed.
 */
#ifndef MOE_SEQUENCE_H
#define MOE_SEQUENCE_H

#include "../model_internal.h"

typedef enum moe_seq_state {
    MOE_SEQ_WAITING,
    MOE_SEQ_PROMPT,
    MOE_SEQ_DECODE,
    MOE_SEQ_DONE
} moe_seq_state;

/* A finished token that has not been taken yet; its piece is text[piece, piece + piece_len). */
typedef struct out_token {
    int32_t id;
    float logprob;
    int rank;
    int64_t position;
    size_t piece, piece_len;
} out_token;

/* Sequences in order; one is in one list at a time. */
typedef struct moe_seq_list {
    moe_seq *first, *last;
} moe_seq_list;

struct moe_seq {
    moe_model *model;
    moe_request request; /* stop points to copies of our own; the prompt is in ids */
    char **stop;
    moe_finish finish;

    moe_ids ids; /* prompt and generated tokens */
    size_t n_prompt;
    size_t n_in_kv; /* positions computed */
    moe_kv_lease lease;

    float *pooled; /* embed: (n_embd) */
    moe_buf text;  /* bytes of all tokens in `out` */
    size_t given;  /* bytes of text that pieces cover */
    out_token *out;
    size_t n_out, cap_out, taken;
    moe_usage usage;
    moe_error error; /* if finish says so */

    /* The scheduler's. */
    moe_scheduler *scheduler;
    moe_seq_state state;
    struct moe_flow *flow; /* while it waits or its prompt is read */
    moe_seq_list *list;    /* that it is in */
    moe_seq *prev, *next;
    bool changed; /* and in the list of these */
    moe_seq *prev_changed, *next_changed;
    size_t n_ready;     /* prompt rows that can be computed now */
    moe_seq *waits_for; /* with none ready: computes the page that comes next */
    int span_rows;      /* positions in the current step */
    int n_head, head;   /* the first of them whose rows are those of another, and its place in it */
    int span_wanted;    /* logits of them that are wanted and did not come yet */
};

/* Checks and copies a request.  The sequence holds no pages yet. */
moe_status moe_sequence_create(moe_model *model, const moe_request *request, moe_seq **out,
                               moe_error *err);
void moe_sequence_destroy(moe_seq *seq);

/* Pages of the KV cache that it may come to need, and how many of these, from the first, may be
 * shared: full pages of prompt tokens of which nothing but keys and values is needed.  The last
 * token of a prompt is needed for its logits, and so are all scored ones; a mean over all tokens
 * needs the last; encoders compute layer by layer and keep nothing. */
int moe_sequence_pages(const moe_seq *seq);
int moe_sequence_shareable_pages(const moe_seq *seq);

/* score: the position whose token is scored next, by the logits of the position before it. */
size_t moe_sequence_next_scored(const moe_seq *seq);

/* Takes the logits of the next row that has some for it; may set seq->finish. */
moe_status moe_sequence_use_logits(moe_seq *seq, const float *logits, moe_error *err);

/* Makes the embedding of the sum in seq->pooled: the mean where the model wants it, then length 1.
 * MOE_ERR_NUMERIC. */
moe_status moe_sequence_finish_embedding(moe_seq *seq, moe_error *err);

/* Ends a sequence that went wrong. */
void moe_sequence_fail(moe_seq *seq, const moe_error *err);

#endif
