/*-------------------------------------------------------------------------
 *
 * batch_scan.c
 *	  The executor's part of the node that calls models for many rows at once.
 *
 * The node reads rows of its input into a batch, and for each of them evaluates
 * the arguments of the calls, makes tokens of their inputs and queues them as
 * requests of one run per model.  When the batch is full the runs are computed, and
 * then the rows are handed out in their order, with the calls' values in the
 * additional columns.  Equal requests of a batch are queued once, unless their
 * answers are drawn at random.
 *
 * A batch is full when its requests hold enough tokens to keep the engine busy, or
 * the rows fill work_mem.  As it is not known how many rows will be asked for, the
 * first batch is one row, and each further one may be twice as long as the one
 * before.  Where a LIMIT tells the number, that is the first batch, and where an
 * aggregate, a sort or a command that writes reads all, there is no such bound.
 *
 * What is wrong with the input of a row is raised when that row is handed out, for
 * it may never be asked for.
 *
 * A batch lives in a memory context of its own: rows, requests, runs and values.
 * The runs end before the first row is handed out; rows point into the batch, which
 * is there until the next one is read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "batch.h"
#include "common/hashfn.h"
#include "common/int.h"
#include "compat.h"
#include "error.h"
#include "executor/executor.h"
#include "lib/stringinfo.h"
#include "nodes/extensible.h"
#include "nodes/nodeFuncs.h"
#include "nodes/value.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/ruleutils.h"

/* Tokens that a batch reads and may generate, with which it is full */
#define BATCH_TOKENS 32768

/* Rows from which on a batch gives way to those who wait for an answer */
#define BULK_ROWS 32

/* A model's run in the batch */
typedef struct BatchRun
{
	MoeOpenModel *model;
	MoeRun	   *run;
	List	   *jobs;
} BatchRun;

/* A request, for one or more rows */
typedef struct Job
{
	uint32		hash;
	BatchRun   *run;
	moe_request request;		/* without pointers, to compare */
	StringInfoData stop;		/* the stop strings, with their zeros; no data without */
	MoeInput	input;
	MoeSeq	   *seq;			/* NULL: the input is wrong */
	moe_error  *error;			/* to be raised for its rows, or NULL */
} Job;

typedef struct JobEntry
{
	Job		   *job;
	char		status;
} JobEntry;

static bool is_same_job(const Job *a, const Job *b);

#define SH_PREFIX jobs
#define SH_ELEMENT_TYPE JobEntry
#define SH_KEY_TYPE Job *
#define SH_KEY job
#define SH_HASH_KEY(tb, key) (key)->hash
#define SH_EQUAL(tb, a, b) is_same_job(a, b)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* One of the calls that the node computes */
typedef struct BatchCall
{
	const MoeFunction *function;
	FmgrInfo	flinfo;
	FunctionCallInfo fcinfo;	/* its arguments but the first are those of setup */
	List	   *args;			/* ExprState */
	int16	   *arg_len;		/* (n_args) their types */
	bool	   *arg_byval;
	ExprState  *guard;			/* or NULL */

	/* For the rows with the same arguments but the first; lost with the batch */
	MemoryContext setup_context;
	bool		is_setup;
	bool		gives_null;		/* whatever the input */
	MoeCall		call;
	BatchRun   *run;
} BatchCall;

/* For EXPLAIN */
typedef struct BatchCounters
{
	int64		inputs;			/* calls that were needed and not NULL */
	int64		distinct;		/* that the engine was asked */
	int64		failed;			/* that gave NULL for an error */
	MoeRunTotals tokens;
	int64		batches;
	int64		steps;
	int64		sequence_steps; /* summed up over the sequences */
	int64		expert_hits;	/* with a shared engine our share, by tokens */
	int64		expert_misses;
	double		queue_wait;		/* seconds until a run's first sequence was begun */
	double		seconds;
} BatchCounters;

typedef struct BatchState
{
	CustomScanState css;		/* must be first */
	BatchCall  *calls;			/* (n_calls) */
	int			n_calls;
	int			n_input;		/* columns of the input; the calls' come behind */
	bool		reads_all;		/* so the parent does */
	ExprState  *limit_count;	/* or NULL */
	ExprState  *limit_offset;

	/* What has been read since the scan began */
	bool		begun;
	bool		input_done;
	int64		max_rows;		/* asked for, -1 if not known */
	int64		n_read;
	int			batch_rows;		/* of the next batch, at most */

	/* The batch */
	MemoryContext context;
	int			n_rows;
	int			next_row;
	int			cap_rows;
	Datum	   *values;			/* (cap_rows, n_input + n_calls) */
	bool	   *nulls;			/* same shape */
	Job		  **row_jobs;		/* (cap_rows, n_calls); NULL for a NULL value */
	jobs_hash  *jobs;			/* those that may be shared */
	List	   *runs;			/* BatchRun */
	int64		n_tokens;
	Size		result_bytes;	/* what values will take, about */

	BatchCounters counters;
} BatchState;

/* ----------
 * Requests
 * ----------
 */

static bool
is_same_job(const Job *a, const Job *b)
{
	return a->run == b->run &&
		a->input.ends_in_think == b->input.ends_in_think &&
		a->input.null_on_error == b->input.null_on_error &&
		memcmp(&a->request, &b->request, sizeof(moe_request)) == 0 &&
		a->stop.len == b->stop.len &&
		(a->stop.len == 0 || memcmp(a->stop.data, b->stop.data, a->stop.len) == 0) &&
		memcmp(a->input.tokens.ids, b->input.tokens.ids,
			   sizeof(int32_t) * a->input.tokens.n) == 0;
}

/*
 * The run of a model in this batch
 */
static BatchRun *
run_of_model(BatchState *state, MoeOpenModel *model)
{
	BatchRun   *run;
	ListCell   *lc;

	foreach(lc, state->runs)
	{
		run = lfirst(lc);
		if (run->model == model)
			return run;
	}
	run = palloc0(sizeof(BatchRun));
	run->model = model;
	run->run = moe_run_begin(model);
	state->runs = lappend(state->runs, run);
	return run;
}

/*
 * Take the arguments of a row but the first for those of the rows to come, unless
 * they are the same as before
 */
static void
set_up_call(BatchState *state, BatchCall *call, const NullableDatum *args)
{
	FunctionCallInfo fcinfo = call->fcinfo;
	MemoryContext caller;
	bool		same = call->is_setup;

	for (int i = 1; i < fcinfo->nargs && same; i++)
		same = args[i].isnull == fcinfo->args[i].isnull &&
			(args[i].isnull || datumIsEqual(args[i].value, fcinfo->args[i].value,
											call->arg_byval[i], call->arg_len[i]));
	if (same)
		return;

	call->is_setup = false;
	MemoryContextReset(call->setup_context);
	caller = MemoryContextSwitchTo(call->setup_context);
	fcinfo->args[0].isnull = true;
	for (int i = 1; i < fcinfo->nargs; i++)
	{
		fcinfo->args[i] = args[i];
		if (!args[i].isnull)
			fcinfo->args[i].value = datumCopy(args[i].value, call->arg_byval[i],
											  call->arg_len[i]);
	}
	call->gives_null = !call->function->setup(&call->call, fcinfo);
	MemoryContextSwitchTo(state->context);
	if (!call->gives_null)
		call->run = run_of_model(state, call->call.model);
	MemoryContextSwitchTo(caller);
	call->is_setup = true;
}

/*
 * Keep what is wrong with an input for when its row is handed out, unless that gives
 * NULL
 */
static void
keep_error(Job *job, const moe_error *err)
{
	if (job->input.null_on_error || job->error != NULL)
		return;
	job->error = palloc(sizeof(moe_error));
	*job->error = *err;
}

/*
 * Queue a request, or find the equal one that is queued
 */
static Job *
add_job(BatchState *state, const BatchCall *call, const MoeInput *input)
{
	Job		   *job = palloc0(sizeof(Job));
	moe_error	err = {0};
	moe_request request;

	moe_call_request(&call->call, input->tokens, &request);
	request.bulk = state->batch_rows >= BULK_ROWS;
	memcpy(&job->request, &request, sizeof(moe_request));
	job->request.prompt = NULL;
	job->request.stop = NULL;
	job->run = call->run;
	job->input = *input;
	if (request.n_stop > 0)
		initStringInfo(&job->stop);
	for (int i = 0; i < request.n_stop; i++)
		appendBinaryStringInfo(&job->stop, request.stop[i], (int) strlen(request.stop[i]) + 1);
	job->hash = hash_bytes((const unsigned char *) input->tokens.ids,
						   (int) (sizeof(int32_t) * input->tokens.n));
	if (moe_call_is_repeatable(&call->call))
	{
		bool		found;
		JobEntry   *entry = jobs_insert(state->jobs, job, &found);

		if (found)
		{
			if (job->stop.data != NULL)
				pfree(job->stop.data);
			pfree(job);
			return entry->job;
		}
	}

	job->input.tokens.ids = palloc(sizeof(int32_t) * (input->tokens.n + 1));
	memcpy(job->input.tokens.ids, input->tokens.ids, sizeof(int32_t) * input->tokens.n);
	job->seq = moe_run_try_add(call->run->run, &request, &err);
	if (job->seq == NULL)
		keep_error(job, &err);
	call->run->jobs = lappend(call->run->jobs, job);
	state->n_tokens += request.n_prompt + request.max_tokens;
	state->counters.distinct++;
	return job;
}

/*
 * Bytes that the value of a call takes, about
 */
static Size
result_size(const MoeCall *call)
{
	const moe_model_info *info = moe_model_info_of(call->model->model);

	/* An array, and what it is cast to; or text of so many tokens */
	return call->task == MOE_TASK_EMBED ? 2 * sizeof(float) * info->n_embd
		: sizeof(int32_t) * Min(call->options.max_tokens, info->n_ctx);
}

/*
 * Evaluate a call's arguments for the row in econtext, and queue what it asks;
 * NULL if its value is
 */
static Job *
ask(BatchState *state, BatchCall *call, ExprContext *econtext)
{
	NullableDatum args[FUNC_MAX_ARGS];
	MemoryContext caller;
	MoeInput	input;
	moe_error	err = {0};
	ListCell   *lc;
	int			n = 0;

	if (call->guard != NULL)
	{
		bool		isnull;
		Datum		needed = ExecEvalExprSwitchContext(call->guard, econtext, &isnull);

		if (isnull || !DatumGetBool(needed))
			return NULL;
	}
	foreach(lc, call->args)
	{
		args[n].value = ExecEvalExprSwitchContext(lfirst(lc), econtext, &args[n].isnull);
		if (args[n].isnull && (n == 0 || call->flinfo.fn_strict))
			return NULL;
		n++;
	}
	set_up_call(state, call, args);
	if (call->gives_null)
		return NULL;

	caller = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	moe_call_read(call->function, &call->call, args[0].value, &input, &err);
	MemoryContextSwitchTo(caller);
	state->counters.inputs++;
	state->result_bytes += result_size(&call->call);
	if (input.tokens.ids == NULL)
	{
		Job		   *job = palloc0(sizeof(Job));

		job->input = input;
		keep_error(job, &err);
		return job;
	}
	return add_job(state, call, &input);
}

/* ----------
 * Batches
 * ----------
 */

/*
 * Forget the batch and all that belongs to it
 */
static void
reset_batch(BatchState *state)
{
	for (int i = 0; i < state->n_calls; i++)
	{
		state->calls[i].is_setup = false;
		MemoryContextReset(state->calls[i].setup_context);
	}
	MemoryContextReset(state->context);
	state->n_rows = state->next_row = state->cap_rows = 0;
	state->values = NULL;
	state->nulls = NULL;
	state->row_jobs = NULL;
	state->jobs = NULL;
	state->runs = NIL;
	state->n_tokens = 0;
	state->result_bytes = 0;
}

/*
 * Make room for one more row; the current context is the batch's
 */
static void
reserve_row(BatchState *state)
{
	Size		n_columns = state->n_input + state->n_calls;
	Size		cap = Max(state->cap_rows * 2, 16);

	if (state->n_rows < state->cap_rows)
		return;
	if (state->cap_rows == 0)
	{
		state->values = palloc_extended(sizeof(Datum) * cap * n_columns, MCXT_ALLOC_HUGE);
		state->nulls = palloc_extended(sizeof(bool) * cap * n_columns, MCXT_ALLOC_HUGE);
		state->row_jobs = palloc_extended(sizeof(Job *) * cap * state->n_calls, MCXT_ALLOC_HUGE);
	}
	else
	{
		state->values = repalloc_huge(state->values, sizeof(Datum) * cap * n_columns);
		state->nulls = repalloc_huge(state->nulls, sizeof(bool) * cap * n_columns);
		state->row_jobs = repalloc_huge(state->row_jobs, sizeof(Job *) * cap * state->n_calls);
	}
	state->cap_rows = (int) cap;
}

/*
 * Copy a row of the input to the end of the batch; the current context is the
 * batch's
 */
static void
store_row(BatchState *state, TupleTableSlot *slot)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;
	Size		first = (Size) state->n_rows * (state->n_input + state->n_calls);

	reserve_row(state);
	slot_getallattrs(slot);
	for (int i = 0; i < state->n_input; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		state->nulls[first + i] = slot->tts_isnull[i];
		state->values[first + i] = slot->tts_isnull[i] ? (Datum) 0
			: datumCopy(slot->tts_values[i], att->attbyval, att->attlen);
	}
	for (int i = state->n_input; i < state->n_input + state->n_calls; i++)
	{
		state->nulls[first + i] = true;
		state->values[first + i] = (Datum) 0;
	}
}

/*
 * Put a row of the batch into the scan slot
 */
static TupleTableSlot *
load_row(BatchState *state, int row)
{
	TupleTableSlot *slot = state->css.ss.ss_ScanTupleSlot;
	int			n_columns = state->n_input + state->n_calls;
	Size		first = (Size) row * n_columns;

	ExecClearTuple(slot);
	memcpy(slot->tts_values, state->values + first, sizeof(Datum) * n_columns);
	memcpy(slot->tts_isnull, state->nulls + first, sizeof(bool) * n_columns);
	return ExecStoreVirtualTuple(slot);
}

/*
 * Value of a part of LIMIT; it counts only where it is a sensible number
 */
static int64
evaluate_limit(ExprState *part, ExprContext *econtext, int64 if_null)
{
	bool		isnull;
	Datum		value;

	if (part == NULL)
		return if_null;
	value = ExecEvalExprSwitchContext(part, econtext, &isnull);
	return isnull ? if_null : DatumGetInt64(value);
}

/*
 * Find out how many rows the scan that begins is asked for at most, and tell the
 * input: a sort keeps no more, which it must know before it is rescanned
 */
static void
begin_scan(BatchState *state)
{
	ExprContext *econtext = state->css.ss.ps.ps_ExprContext;
	int64		count = evaluate_limit(state->limit_count, econtext, -1);
	int64		offset = evaluate_limit(state->limit_offset, econtext, 0);

	state->begun = true;
	state->max_rows = -1;
	state->batch_rows = state->reads_all ? INT_MAX : 1;
	if (count >= 0 && offset >= 0 && !pg_add_s64_overflow(count, offset, &state->max_rows))
		state->batch_rows = (int) Min(state->max_rows, INT_MAX);
	else
		state->max_rows = -1;
	if (state->limit_count != NULL)
		ExecSetTupleBound(state->max_rows, outerPlanState(state));
}

static bool
is_full(const BatchState *state)
{
	return state->n_rows >= state->batch_rows ||
		state->n_tokens >= BATCH_TOKENS ||
		MemoryContextMemAllocated(state->context, true) + state->result_bytes >=
		(Size) work_mem * 1024 ||
		(state->max_rows >= 0 && state->n_read >= state->max_rows);
}

/*
 * Read rows and queue what they ask.  False if there are no more rows.
 */
static bool
read_rows(BatchState *state)
{
	PlanState  *input = outerPlanState(state);
	ExprContext *econtext = state->css.ss.ps.ps_ExprContext;
	MemoryContext caller = MemoryContextSwitchTo(state->context);

	state->jobs = jobs_create(state->context, 64, NULL);
	while (!state->input_done && !is_full(state))
	{
		TupleTableSlot *slot;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(caller);
		slot = ExecProcNode(input);
		MemoryContextSwitchTo(state->context);
		if (TupIsNull(slot))
		{
			state->input_done = true;
			break;
		}
		store_row(state, slot);
		econtext->ecxt_scantuple = load_row(state, state->n_rows);
		for (int i = 0; i < state->n_calls; i++)
			state->row_jobs[(Size) state->n_rows * state->n_calls + i] =
				ask(state, &state->calls[i], econtext);
		state->n_rows++;
		state->n_read++;
		ResetExprContext(econtext);
	}
	MemoryContextSwitchTo(caller);
	return state->n_rows > 0;
}

/*
 * Seconds that a run's sequences have waited if the first of them has begun, else -1
 */
static double
waited(const BatchRun *run, double elapsed)
{
	ListCell   *lc;

	foreach(lc, run->jobs)
	{
		const MoeSeq *seq = ((Job *) lfirst(lc))->seq;

		if (seq != NULL && moe_run_usage(seq)->steps > 0)
			return Max(elapsed - moe_run_usage(seq)->seconds, 0);
	}
	return -1;
}

static double
seconds_since(instr_time start)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return INSTR_TIME_GET_DOUBLE(now);
}

/*
 * Compute all requests of a run
 */
static void
compute_run(BatchState *state, BatchRun *run)
{
	BatchCounters *counters = &state->counters;
	double		wait = -1;
	instr_time	start;
	ListCell   *lc;

	INSTR_TIME_SET_CURRENT(start);
	while (moe_run_step(run->run))
	{
		counters->steps++;
		if (wait < 0)
			wait = waited(run, seconds_since(start));
	}
	counters->queue_wait += Max(wait, 0);
	counters->seconds += seconds_since(start);
	foreach(lc, run->jobs)
	{
		const MoeSeq *seq = ((Job *) lfirst(lc))->seq;
		const moe_usage *usage = seq ? moe_run_usage(seq) : NULL;

		if (usage == NULL)
			continue;
		counters->tokens.prompt_tokens += usage->prompt_tokens;
		counters->tokens.cached_tokens += usage->cached_tokens;
		counters->tokens.generated_tokens += usage->generated_tokens;
		counters->sequence_steps += usage->steps;
		counters->expert_hits += usage->expert_hits;
		counters->expert_misses += usage->expert_misses;
	}
}

/*
 * Fill the calls' columns; values live in the batch's context
 */
static void
store_results(BatchState *state)
{
	MemoryContext caller = MemoryContextSwitchTo(state->context);

	for (int row = 0; row < state->n_rows; row++)
		for (int i = 0; i < state->n_calls; i++)
		{
			Size		column = (Size) row * (state->n_input + state->n_calls) + state->n_input + i;
			Job		   *job = state->row_jobs[(Size) row * state->n_calls + i];
			BatchCall  *call = &state->calls[i];

			CHECK_FOR_INTERRUPTS();
			if (job == NULL)
				continue;
			if (job->seq != NULL && moe_run_error(job->seq) != NULL)
				keep_error(job, moe_run_error(job->seq));
			else if (job->seq != NULL)
				state->values[column] = call->function->result(call->fcinfo, &job->input,
															   job->seq, &state->nulls[column]);
			if (state->nulls[column] && job->input.null_on_error)
				state->counters.failed++;
		}
	MemoryContextSwitchTo(caller);
}

/*
 * Read and compute the next batch.  False if there are no more rows.
 */
static bool
next_batch(BatchState *state)
{
	ListCell   *lc;

	reset_batch(state);
	if (!state->begun)
		begin_scan(state);
	if (!read_rows(state))
		return false;
	foreach(lc, state->runs)
		compute_run(state, lfirst(lc));
	store_results(state);
	foreach(lc, state->runs)
		moe_run_end(((BatchRun *) lfirst(lc))->run);
	state->runs = NIL;
	state->counters.batches++;
	if (state->n_rows >= state->batch_rows)
		state->batch_rows = Min(state->batch_rows, INT_MAX / 2) * 2;
	return true;
}

/* ----------
 * The node
 * ----------
 */

static void
begin_call(BatchState *state, BatchCall *call, FuncExpr *expr, Expr *guard)
{
	PlanState  *ps = &state->css.ss.ps;
	int			n_args = list_length(expr->args);
	ListCell   *lc;
	int			i = 0;

	moe_check_execute(expr->funcid);
	call->function = moe_batchable_function(expr->funcid);
	if (call->function == NULL)
		elog(ERROR, "function %u can't be batched", expr->funcid);
	fmgr_info(expr->funcid, &call->flinfo);
	fmgr_info_set_expr((Node *) expr, &call->flinfo);
	call->fcinfo = palloc0(SizeForFunctionCallInfo(n_args));
	InitFunctionCallInfoData(*call->fcinfo, &call->flinfo, n_args, expr->inputcollid, NULL, NULL);
	call->arg_len = palloc(sizeof(int16) * n_args);
	call->arg_byval = palloc(sizeof(bool) * n_args);
	foreach(lc, expr->args)
	{
		get_typlenbyval(exprType(lfirst(lc)), &call->arg_len[i], &call->arg_byval[i]);
		i++;
	}
	call->args = ExecInitExprList(expr->args, ps);
	call->guard = ExecInitExpr(guard, ps);
	call->setup_context = AllocSetContextCreate(CurrentMemoryContext, "pg_moe call",
												ALLOCSET_SMALL_SIZES);
}

static void
begin_batch_scan(CustomScanState *node, EState *estate, int eflags)
{
	BatchState *state = (BatchState *) node;
	CustomScan *plan = (CustomScan *) node->ss.ps.plan;

	outerPlanState(node) = ExecInitNode(outerPlan(plan), estate, eflags);

	state->n_calls = list_length(plan->custom_exprs);
	state->n_input = list_length(plan->custom_scan_tlist) - state->n_calls;
	state->calls = palloc0(sizeof(BatchCall) * state->n_calls);
	for (int i = 0; i < state->n_calls; i++)
	{
		TargetEntry *entry = list_nth(plan->custom_scan_tlist, state->n_input + i);

		begin_call(state, &state->calls[i], castNode(FuncExpr, entry->expr),
				   list_nth(plan->custom_exprs, i));
	}
	state->reads_all = boolVal(linitial(plan->custom_private));
	state->limit_count = ExecInitExpr(lsecond(plan->custom_private), &node->ss.ps);
	state->limit_offset = ExecInitExpr(lthird(plan->custom_private), &node->ss.ps);
	state->context = AllocSetContextCreate(CurrentMemoryContext, "pg_moe batch",
										   ALLOCSET_DEFAULT_SIZES);
}

/*
 * Raise what is wrong with the inputs of a row of the batch
 */
static void
check_row(const BatchState *state, int row)
{
	for (int i = 0; i < state->n_calls; i++)
	{
		const Job  *job = state->row_jobs[(Size) row * state->n_calls + i];

		if (job != NULL && job->error != NULL)
			moe_throw(job->error, NULL);
	}
}

static TupleTableSlot *
exec_batch_scan(CustomScanState *node)
{
	BatchState *state = (BatchState *) node;
	ExprContext *econtext = node->ss.ps.ps_ExprContext;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		ResetExprContext(econtext);
		if (state->next_row >= state->n_rows && !next_batch(state))
			return NULL;

		check_row(state, state->next_row);
		econtext->ecxt_scantuple = load_row(state, state->next_row++);
		if (!ExecQual(node->ss.ps.qual, econtext))
		{
			InstrCountFiltered1(node, 1);
			continue;
		}
		if (node->ss.ps.ps_ProjInfo == NULL)
			return econtext->ecxt_scantuple;
		return ExecProject(node->ss.ps.ps_ProjInfo);
	}
}

static void
rescan_batch_scan(CustomScanState *node)
{
	BatchState *state = (BatchState *) node;

	reset_batch(state);
	begin_scan(state);
	state->input_done = false;
	state->n_read = 0;
	if (outerPlanState(node)->chgParam == NULL)
		ExecReScan(outerPlanState(node));
}

static void
end_batch_scan(CustomScanState *node)
{
	reset_batch((BatchState *) node);
	ExecEndNode(outerPlanState(node));
}

/* ----------
 * EXPLAIN
 * ----------
 */

static void
explain_calls(CustomScanState *node, List *ancestors, ExplainState *es)
{
	BatchState *state = (BatchState *) node;
	CustomScan *plan = (CustomScan *) node->ss.ps.plan;
	List	   *context = set_deparse_context_plan(es->deparse_cxt, &plan->scan.plan, ancestors);
	bool		prefix = moe_explain_prefixes(es);
	List	   *calls = NIL;

	for (int i = 0; i < state->n_calls; i++)
	{
		TargetEntry *entry = list_nth(plan->custom_scan_tlist, state->n_input + i);

		calls = lappend(calls, deparse_expression((Node *) entry->expr, context, prefix, false));
	}
	ExplainPropertyList("Calls", calls, es);
}

static void
explain_batch_scan(CustomScanState *node, List *ancestors, ExplainState *es)
{
	const BatchCounters *c = &((BatchState *) node)->counters;
	double		n_steps = Max(c->steps, 1);
	double		tokens = (double) (c->tokens.prompt_tokens - c->tokens.cached_tokens +
								   c->tokens.generated_tokens);

	explain_calls(node, ancestors, es);
	if (!es->analyze)
		return;
	if (es->format == EXPLAIN_FORMAT_TEXT)
	{
		ExplainPropertyText("Inputs",
							psprintf("%lld  Distinct: %lld  Failed: %lld", (long long) c->inputs,
									 (long long) c->distinct, (long long) c->failed), es);
		ExplainPropertyText("Prompt Tokens",
							psprintf("%lld  Cached: %lld  Generated: %lld",
									 (long long) c->tokens.prompt_tokens,
									 (long long) c->tokens.cached_tokens,
									 (long long) c->tokens.generated_tokens), es);
		ExplainPropertyText("Batches",
							psprintf("%lld  Steps: %lld  Occupancy: %.1f sequences, %.1f tokens",
									 (long long) c->batches, (long long) c->steps,
									 c->sequence_steps / n_steps, tokens / n_steps), es);
		if (c->expert_hits + c->expert_misses > 0)
			ExplainPropertyText("Expert Cache",
								psprintf("%lld hits, %lld misses", (long long) c->expert_hits,
										 (long long) c->expert_misses), es);
		if (es->timing)
			ExplainPropertyText("Queue Wait",
								psprintf("%.3f ms  Compute: %.3f ms", c->queue_wait * 1000,
										 c->seconds * 1000), es);
		return;
	}
	ExplainPropertyInteger("Inputs", NULL, c->inputs, es);
	ExplainPropertyInteger("Distinct Inputs", NULL, c->distinct, es);
	ExplainPropertyInteger("Failed Inputs", NULL, c->failed, es);
	ExplainPropertyInteger("Prompt Tokens", NULL, c->tokens.prompt_tokens, es);
	ExplainPropertyInteger("Cached Tokens", NULL, c->tokens.cached_tokens, es);
	ExplainPropertyInteger("Generated Tokens", NULL, c->tokens.generated_tokens, es);
	ExplainPropertyInteger("Batches", NULL, c->batches, es);
	ExplainPropertyInteger("Steps", NULL, c->steps, es);
	ExplainPropertyFloat("Sequences per Step", NULL, c->sequence_steps / n_steps, 1, es);
	ExplainPropertyFloat("Tokens per Step", NULL, tokens / n_steps, 1, es);
	ExplainPropertyInteger("Expert Cache Hits", NULL, c->expert_hits, es);
	ExplainPropertyInteger("Expert Cache Misses", NULL, c->expert_misses, es);
	if (es->timing)
	{
		ExplainPropertyFloat("Queue Wait", "ms", c->queue_wait * 1000, 3, es);
		ExplainPropertyFloat("Compute Time", "ms", c->seconds * 1000, 3, es);
	}
}

static const CustomExecMethods exec_methods = {
	.CustomName = "MoeBatch",
	.BeginCustomScan = begin_batch_scan,
	.ExecCustomScan = exec_batch_scan,
	.EndCustomScan = end_batch_scan,
	.ReScanCustomScan = rescan_batch_scan,
	.ExplainCustomScan = explain_batch_scan,
};

static Node *
create_batch_state(CustomScan *plan)
{
	BatchState *state = (BatchState *) newNode(sizeof(BatchState), T_CustomScanState);

	state->css.methods = &exec_methods;
	return (Node *) state;
}

const CustomScanMethods moe_batch_methods = {
	.CustomName = "MoeBatch",
	.CreateCustomScanState = create_batch_state,
};
