/*-------------------------------------------------------------------------
 *
 * run_shared.c
 *	  Runs that the shared engine computes.
 *
 * The session sends its requests through a channel and keeps what comes back:
 * a step is to wait for the next message.  The engine goes on meanwhile, and what
 * the session does not take waits with it; but of a request with a pause_at it
 * stays at most so many tokens ahead of those taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "run_host.h"
#include "utils/memutils.h"
#include "wire.h"

/* A token whose piece is text[piece, piece + token.piece_len) */
typedef struct SharedToken
{
	moe_token	token;
	size_t		piece;
} SharedToken;

typedef struct SharedSeq
{
	MoeSeq		base;
	bool		generates;
	int64		ahead;			/* tokens that may be computed ahead; 0: any number */
	int64		pause_at;		/* what the engine was told last */
	bool		done;
	moe_finish	finish;
	moe_usage	usage;
	int64		prompt_read;	/* before the first token */
	moe_error  *error;			/* if finish says so */
	StringInfoData text;		/* pieces of all tokens; data is NULL before the first */
	SharedToken *tokens;
	int			n_tokens,
				max_tokens,
				taken;
	float	   *embedding;
	int			n_embedding;
} SharedSeq;

typedef struct SharedRun
{
	MoeRun		base;
	MoeChannel *channel;
	StringInfoData message;
	int			n_done;
} SharedRun;

static void
add_token(SharedSeq *seq, const moe_token *token, const char *piece)
{
	MemoryContext caller = MemoryContextSwitchTo(seq->base.run->context);

	if (seq->text.data == NULL)
		initStringInfo(&seq->text);
	if (seq->n_tokens == seq->max_tokens)
	{
		seq->max_tokens = Max(16, 2 * seq->max_tokens);
		seq->tokens = seq->tokens
			? repalloc_huge(seq->tokens, sizeof(SharedToken) * seq->max_tokens)
			: palloc(sizeof(SharedToken) * seq->max_tokens);
	}
	seq->tokens[seq->n_tokens++] = (SharedToken) {.token = *token, .piece = seq->text.len};
	appendBinaryStringInfo(&seq->text, piece, token->piece_len);
	if (seq->generates)
		seq->usage.generated_tokens++;
	MemoryContextSwitchTo(caller);
}

static void
take_event(SharedRun *run, const MoeEvent *event)
{
	MemoryContext context = run->base.context;
	const void *content = moe_event_content(event);
	SharedSeq  *seq;

	if (event->seq >= run->base.n_seqs)
		elog(ERROR, "the shared engine answered a request that was not made");
	seq = (SharedSeq *) run->base.seqs[event->seq];

	switch (event->type)
	{
		case MOE_EVENT_PROMPT:
			memcpy(&seq->usage, content, sizeof(moe_usage));
			return;
		case MOE_EVENT_READ:
			seq->prompt_read = *(const int64 *) content;
			return;
		case MOE_EVENT_TOKEN:
			add_token(seq, content, (const char *) content + sizeof(moe_token));
			return;
		case MOE_EVENT_EMBEDDING:
			seq->n_embedding = event->len / sizeof(float);
			seq->embedding = MemoryContextAlloc(context, event->len);
			memcpy(seq->embedding, content, event->len);
			return;
		case MOE_EVENT_DONE:
			seq->finish = ((const MoeDone *) content)->finish;
			seq->usage = ((const MoeDone *) content)->usage;
			break;
		case MOE_EVENT_ERROR:
			seq->finish = MOE_FINISH_ERROR;
			seq->error = MemoryContextAlloc(context, sizeof(moe_error));
			memcpy(seq->error, content, sizeof(moe_error));
			break;
	}
	seq->done = true;
	run->n_done++;
}

/*
 * Take what has come; false if there was nothing
 */
static bool
take_message(SharedRun *run)
{
	const MoeEvent *event;
	Size		len;
	Size		at = 0;
	const char *message = moe_channel_receive(run->channel, &len);

	if (message == NULL)
		return false;
	while ((event = moe_wire_next_event(message, len, &at)) != NULL)
		take_event(run, event);
	return true;
}

/*
 * Wait for the engine to do something
 *
 * Until it has begun with a prompt, the run waits in its queue.
 */
static void
wait_for_engine(SharedRun *run)
{
	MoeRun	   *base = &run->base;
	instr_time	start;
	instr_time	end;

	moe_stat_progress(base->stat, &base->progress);
	if (base->counted.prompt_tokens == 0)
		moe_stat_phase(base->stat, MOE_PHASE_WAITING);
	INSTR_TIME_SET_CURRENT(start);
	moe_channel_wait(run->channel);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_ACCUM_DIFF(base->computing, end, start);
}

/*
 * Send run->message
 *
 * While the engine has enough of this run to do, it takes no more.
 */
static void
send_message(SharedRun *run)
{
	while (!moe_channel_send(run->channel, run->message.data, run->message.len))
	{
		if (take_message(run))
			moe_run_note_news(&run->base);
		else
			wait_for_engine(run);
	}
}

static void
shared_begin(MoeRun *base)
{
	SharedRun  *run = (SharedRun *) base;
	MemoryContext caller = MemoryContextSwitchTo(base->context);

	initStringInfo(&run->message);
	MemoryContextSwitchTo(caller);
	run->channel = moe_channel_open();
	moe_wire_begin(&run->message, &base->model->spec, base->model->path, base->model->stamp);
	send_message(run);
}

static moe_status
shared_add(MoeRun *base, MoeSeq *seq, const moe_request *request, moe_error *err)
{
	SharedRun  *run = (SharedRun *) base;

	moe_request mine = *request;

	mine.group = GetUserId();	/* roles get equal shares */
	((SharedSeq *) seq)->generates = request->task == MOE_TASK_GENERATE;
	((SharedSeq *) seq)->ahead = ((SharedSeq *) seq)->pause_at = request->pause_at;
	resetStringInfo(&run->message);
	moe_wire_add(&run->message, seq->number, &mine);
	send_message(run);
	return MOE_OK;
}

static bool
shared_step(MoeRun *base)
{
	SharedRun  *run = (SharedRun *) base;

	if (run->n_done == base->n_seqs)
		return false;
	while (!take_message(run))
		wait_for_engine(run);
	return true;
}

static void
shared_free(MoeRun *base)
{
	SharedRun  *run = (SharedRun *) base;
	MoeMessage	end = {.type = MOE_MSG_END};

	if (run->channel == NULL)
		return;
	if (run->n_done == base->n_seqs && run->n_done > 0)
		moe_channel_finish(run->channel, &end, sizeof(end));
	else
		moe_channel_abort(run->channel);
	run->channel = NULL;
}

static bool
shared_done(const MoeSeq *seq)
{
	return ((const SharedSeq *) seq)->done;
}

/*
 * Let the engine go on with a request of which half of what it may compute ahead
 * has been taken
 */
static void
let_go_on(SharedSeq *seq)
{
	SharedRun  *run = (SharedRun *) seq->base.run;

	if (seq->ahead == 0 || seq->done || seq->pause_at - seq->taken > seq->ahead / 2)
		return;
	seq->pause_at = seq->taken + seq->ahead;
	resetStringInfo(&run->message);
	moe_wire_pause_at(&run->message, seq->base.number, seq->pause_at);
	send_message(run);
}

static bool
shared_next(MoeSeq *base, moe_token *token)
{
	SharedSeq  *seq = (SharedSeq *) base;

	if (seq->taken == seq->n_tokens)
		return false;
	seq->taken++;
	let_go_on(seq);				/* may receive more */
	*token = seq->tokens[seq->taken - 1].token;
	token->piece = seq->text.data + seq->tokens[seq->taken - 1].piece;
	return true;
}

static const char *
shared_text(const MoeSeq *base, size_t *len)
{
	const SharedSeq *seq = (const SharedSeq *) base;

	*len = seq->text.len;
	return seq->text.data ? seq->text.data : "";
}

static const float *
shared_embedding(const MoeSeq *base, int *n)
{
	const SharedSeq *seq = (const SharedSeq *) base;

	*n = seq->n_embedding;
	return seq->embedding;
}

static moe_finish
shared_finish(const MoeSeq *seq)
{
	return ((const SharedSeq *) seq)->finish;
}

static const moe_error *
shared_error(const MoeSeq *seq)
{
	return ((const SharedSeq *) seq)->error;
}

static const moe_usage *
shared_usage(const MoeSeq *seq)
{
	return &((const SharedSeq *) seq)->usage;
}

static int64
shared_prompt_read(const MoeSeq *base)
{
	const SharedSeq *seq = (const SharedSeq *) base;

	return seq->n_tokens > 0 ? base->prompt_tokens : seq->prompt_read;
}

const MoeRunHost moe_run_shared = {
	.run_size = sizeof(SharedRun),
	.seq_size = sizeof(SharedSeq),
	.begin = shared_begin,
	.add = shared_add,
	.step = shared_step,
	.free = shared_free,
	.done = shared_done,
	.next = shared_next,
	.text = shared_text,
	.embedding = shared_embedding,
	.finish = shared_finish,
	.error = shared_error,
	.usage = shared_usage,
	.prompt_read = shared_prompt_read,
};
