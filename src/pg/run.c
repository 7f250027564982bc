/*-------------------------------------------------------------------------
 *
 * run.c
 *	  A computation: requests to one model that run together.
 *
 * A run lives in a memory context below the caller's.  When that is deleted,
 * by moe_run_end() or because an error, a closed cursor or a LIMIT ended the
 * query, a callback frees what the host has of it and lets the model go.  Between
 * two steps of the engine interrupts are served and tokens are counted.
 *
 * What a run counts goes to three places: the session's sums (moe.status), the limits
 * of the statement and of its roles (budget.c), and what all may see (stats.c).
 *
 * The host is this backend if it has opened the model with its weights
 * (run_local.c), else the shared engine (run_shared.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "client.h"
#include "compat.h"
#include "error.h"
#include "guc.h"
#include "run_host.h"
#include "utils/memutils.h"

StaticAssertDecl((int) MOE_STAT_GENERATE == (int) MOE_TASK_GENERATE &&
				 (int) MOE_STAT_NEXT == (int) MOE_TASK_NEXT, "tasks are numbered alike");

static dlist_head runs = DLIST_STATIC_INIT(runs);
static MoeRunTotals totals;

/* What the running statement has used of moe.max_tokens_per_query */
static TimestampTz budget_statement = 0;
static int64 budget_used = 0;

static void
add_usage(MoeRunTotals *sum, const MoeSeq *seq)
{
	const moe_usage *usage = moe_run_usage(seq);

	sum->prompt_tokens += usage->prompt_tokens;
	sum->cached_tokens += usage->cached_tokens;
	sum->generated_tokens += usage->generated_tokens;
}

/*
 * A statement begins with nothing used
 */
static void
note_statement(void)
{
	if (budget_statement != GetCurrentStatementStartTimestamp())
	{
		budget_statement = GetCurrentStatementStartTimestamp();
		budget_used = 0;
	}
}

/*
 * Add the tokens of the last step to the session's and the statement's sums
 */
static void
count_tokens(MoeRun *run)
{
	MoeRunTotals now;
	int64		fresh;

	while (run->counted_upto < run->n_seqs && moe_run_done(run->seqs[run->counted_upto]))
	{
		run->read_by_done += run->seqs[run->counted_upto]->prompt_tokens;
		add_usage(&run->done, run->seqs[run->counted_upto++]);
	}
	now = run->done;
	run->progress.prompt_read = run->read_by_done;
	run->queued = 0;
	for (int i = run->counted_upto; i < run->n_seqs; i++)
	{
		const MoeSeq *seq = run->seqs[i];

		add_usage(&now, seq);
		if (moe_run_usage(seq)->prompt_tokens == 0 && !moe_run_done(seq))
			run->queued += seq->prompt_tokens;
		run->progress.prompt_read += moe_run_done(seq)
			? seq->prompt_tokens : run->host->prompt_read(seq);
	}
	run->progress.generated_tokens = now.generated_tokens;

	fresh = (now.prompt_tokens - run->counted.prompt_tokens) +
		(now.generated_tokens - run->counted.generated_tokens);
	totals.prompt_tokens += now.prompt_tokens - run->counted.prompt_tokens;
	totals.cached_tokens += now.cached_tokens - run->counted.cached_tokens;
	totals.generated_tokens += now.generated_tokens - run->counted.generated_tokens;
	run->counted = now;

	note_statement();
	budget_used += fresh;
	moe_budgets_charge(&run->budgets, fresh);
}

/*
 * Add a run that ends to the totals of its model
 */
static void
count_run(MoeRun *run)
{
	MoeStatTotals t = {0};

	count_tokens(run);
	t.requests = run->n_seqs + run->adding;
	t.errors = run->adding;
	for (int i = 0; i < run->n_seqs; i++)
	{
		bool		done = moe_run_done(run->seqs[i]);

		if (run->host->error(run->seqs[i]) != NULL || (!done && run->failed))
			t.errors++;
		else if (!done)
			t.cancelled++;
	}
	t.prompt_tokens = run->counted.prompt_tokens;
	t.cached_tokens = run->counted.cached_tokens;
	t.generated_tokens = run->counted.generated_tokens;
	t.seconds = INSTR_TIME_GET_DOUBLE(run->computing);
	moe_stat_count(run->model->name, &t);
	moe_stat_end(run->stat);
}

static void
free_run(MoeRun *run)
{
	if (!run->alive)
		return;
	run->alive = false;
	count_run(run);
	run->host->free(run);
	run->model->users--;
	dlist_delete(&run->node);
}

static void
run_deleted(void *arg)
{
	free_run(arg);
}

/*
 * Begin a run of the model in a context below the current one
 */
MoeRun *
moe_run_begin(MoeOpenModel *model)
{
	const MoeRunHost *host = model->text_only ? &moe_run_shared : &moe_run_local;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_moe run",
												  ALLOCSET_SMALL_SIZES);
	MoeRun	   *run = MemoryContextAllocZero(context, host->run_size);

	run->host = host;
	run->context = context;
	run->model = model;
	run->max_seqs = 8;
	run->seqs = MemoryContextAlloc(context, sizeof(MoeSeq *) * run->max_seqs);
	INSTR_TIME_SET_ZERO(run->computing);
	moe_budgets_find(&run->budgets);
	run->on_delete.func = run_deleted;
	run->on_delete.arg = run;
	MemoryContextRegisterResetCallback(context, &run->on_delete);

	model->users++;
	dlist_push_head(&runs, &run->node);
	run->alive = true;
	run->stat = moe_stat_begin(model->name, MOE_STAT_GENERATE, MOE_PHASE_IDLE);
	host->begin(run);
	return run;
}

/*
 * Prompt tokens of this session that are queued and not counted yet
 */
static int64
queued_tokens(void)
{
	int64		n = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &runs)
	{
		n += dlist_container(MoeRun, node, iter.cur)->queued;
	}
	return n;
}

/*
 * Raise an error if the statement or its role has used all that it may, or has
 * too little left for what is queued and a further prompt
 */
static void
check_limits(const MoeRun *run, int64 prompt)
{
	int64		queued = prompt > 0 ? queued_tokens() : 0;

	note_statement();
	if (moe_max_tokens_per_query > 0 && budget_used + queued + prompt > moe_max_tokens_per_query)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("statement needs more tokens than moe.max_tokens_per_query allows (%d)",
						moe_max_tokens_per_query),
				 errhint("Shorten the prompt or lower max_tokens.")));
	moe_budgets_check(&run->budgets, queued, prompt);
}

/*
 * Raise the error of a sequence that has failed, if there is one
 */
static void
check_sequences(const MoeRun *run)
{
	for (int i = run->counted_upto; i < run->n_seqs; i++)
	{
		const moe_error *err = run->host->error(run->seqs[i]);

		if (err != NULL && !(run->seqs[i]->may_fail && moe_is_input_error(err)))
			moe_throw(err, NULL);
	}
}

/*
 * Says in the detail of a cancellation how far a generation had come
 */
static void
cancelled_callback(void *arg)
{
	MoeRun	   *run = arg;

	if (geterrcode() != ERRCODE_QUERY_CANCELED || run->requested == 0)
		return;
	count_tokens(run);
	errdetail_plural("%lld of %lld token had been generated.",
					 "%lld of %lld tokens had been generated.",
					 (unsigned long) run->requested,
					 (long long) run->counted.generated_tokens, (long long) run->requested);
}

static void
push_callback(MoeRun *run, ErrorContextCallback *callback)
{
	callback->callback = cancelled_callback;
	callback->arg = run;
	callback->previous = error_context_stack;
	error_context_stack = callback;
}

/*
 * A host that computes while requests are queued tells of what has come: it
 * counts at once
 */
void
moe_run_note_news(MoeRun *run)
{
	check_sequences(run);
	count_tokens(run);
	moe_stat_progress(run->stat, &run->progress);
	check_limits(run, 0);
}

/*
 * Queue a request that may turn out to be wrong
 *
 * What is wrong with it alone is told, not raised: if it is found now by NULL and
 * *err, later by moe_run_error().
 */
MoeSeq *
moe_run_try_add(MoeRun *run, const moe_request *request, moe_error *err)
{
	MoeSeq	   *seq = MemoryContextAllocZero(run->context, run->host->seq_size);
	ErrorContextCallback callback;
	moe_status	status;

	check_limits(run, request->n_prompt);
	if (run->n_seqs == run->max_seqs)
	{
		run->max_seqs *= 2;
		run->seqs = repalloc_huge(run->seqs, sizeof(MoeSeq *) * run->max_seqs);
	}
	seq->run = run;
	seq->number = run->n_seqs;
	seq->prompt_tokens = request->n_prompt;
	seq->may_fail = true;

	run->progress.task = (MoeTask) request->task;
	push_callback(run, &callback);
	run->adding = true;
	status = run->host->add(run, seq, request, err);
	if (status != MOE_OK && !moe_is_input_error(err))
		moe_throw(err, NULL);
	run->adding = false;
	error_context_stack = callback.previous;
	if (status != MOE_OK)
	{
		pfree(seq);
		return NULL;
	}

	run->seqs[run->n_seqs++] = seq;
	run->progress.sequences = run->n_seqs;
	run->progress.prompt_tokens += request->n_prompt;
	run->queued += request->n_prompt;
	if (request->task == MOE_TASK_GENERATE)
		run->requested += request->max_tokens;
	return seq;
}

/*
 * Queue a request.  The sequence lives as long as the run.
 */
MoeSeq *
moe_run_add(MoeRun *run, const moe_request *request)
{
	moe_error	err = {0};
	MoeSeq	   *seq = moe_run_try_add(run, request, &err);

	if (seq == NULL)
	{
		run->adding = true;		/* it counts as failed */
		moe_throw(&err, NULL);
	}
	seq->may_fail = false;
	return seq;
}

static bool
step(MoeRun *run)
{
	ErrorContextCallback callback;
	bool		busy;

	push_callback(run, &callback);
	moe_check_for_interrupts();
	busy = run->host->step(run);
	error_context_stack = callback.previous;

	check_sequences(run);
	count_tokens(run);
	if (busy)
		check_limits(run, 0);
	return busy;
}

/*
 * One step of the engine.  False if there was nothing left to do.
 */
bool
moe_run_step(MoeRun *run)
{
	bool		busy = step(run);

	moe_stat_progress(run->stat, &run->progress);
	moe_stat_phase(run->stat, MOE_PHASE_IDLE);
	return busy;
}

/*
 * Step until all sequences are done
 */
void
moe_run_finish(MoeRun *run)
{
	while (step(run))
		 /* go on */ ;
}

/*
 * End a run and free all that belongs to it
 */
void
moe_run_end(MoeRun *run)
{
	MemoryContextDelete(run->context);
}

/*
 * Is any run alive?  (A stream that a cursor holds is.)
 */
bool
moe_runs_any(void)
{
	return !dlist_is_empty(&runs);
}

/*
 * Free what the hosts have of all runs; the process exits
 */
void
moe_runs_abort_all(void)
{
	while (!dlist_is_empty(&runs))
		free_run(dlist_head_element(MoeRun, node, &runs));
}

/*
 * Tokens of this session so far
 */
void
moe_run_totals(MoeRunTotals *out)
{
	*out = totals;
}

/* ----------
 * What a request has come to
 * ----------
 */

/*
 * Is it done?
 */
bool
moe_run_done(const MoeSeq *seq)
{
	return seq->run->host->done(seq);
}

/*
 * The next token that has not been taken; false if there is none at the moment
 */
bool
moe_run_next(MoeSeq *seq, moe_token *token)
{
	return seq->run->host->next(seq, token);
}

/*
 * The text so far
 */
const char *
moe_run_text(const MoeSeq *seq, size_t *len)
{
	return seq->run->host->text(seq, len);
}

/*
 * The embedding of n components, NULL before it is done
 */
const float *
moe_run_embedding(const MoeSeq *seq, int *n)
{
	return seq->run->host->embedding(seq, n);
}

/*
 * Why it ended
 */
moe_finish
moe_run_finish_reason(const MoeSeq *seq)
{
	return seq->run->host->finish(seq);
}

/*
 * Tokens and time
 */
const moe_usage *
moe_run_usage(const MoeSeq *seq)
{
	return seq->run->host->usage(seq);
}

/*
 * What went wrong with it, NULL if nothing did
 */
const moe_error *
moe_run_error(const MoeSeq *seq)
{
	return seq->run->host->error(seq);
}
