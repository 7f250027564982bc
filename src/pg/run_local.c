/*-------------------------------------------------------------------------
 *
 * run_local.c
 *	  Runs that this backend computes.
 *
 * Each has a scheduler of its own.  moe.max_backends may make a step wait (gate.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "error.h"
#include "gate.h"
#include "run_host.h"

typedef struct LocalSeq
{
	MoeSeq		base;
	moe_seq    *seq;			/* freed with the scheduler */
} LocalSeq;

typedef struct LocalRun
{
	MoeRun		base;
	moe_scheduler *scheduler;
} LocalRun;

static moe_seq *
seq_of(const MoeSeq *seq)
{
	return ((const LocalSeq *) seq)->seq;
}

static void
local_begin(MoeRun *run)
{
	moe_scheduler_options options = {.cancel = moe_cancel_by_interrupt};
	moe_error	err = {0};

	moe_check(moe_scheduler_create(run->model->model, &options, &((LocalRun *) run)->scheduler,
								   &err), &err);
}

static moe_status
local_add(MoeRun *run, MoeSeq *seq, const moe_request *request, moe_error *err)
{
	moe_request mine = *request;

	mine.pause_at = 0;			/* it computes when it is told to step */
	return moe_scheduler_add(((LocalRun *) run)->scheduler, &mine, &((LocalSeq *) seq)->seq, err);
}

/*
 * Wait until it is our turn to compute
 */
static void
wait_for_turn(MoeRun *run)
{
	if (!moe_gate_try_enter())
	{
		moe_stat_phase(run->stat, MOE_PHASE_WAITING);
		moe_gate_wait();
	}
	moe_stat_progress(run->stat, &run->progress);
}

static bool
local_step(MoeRun *run)
{
	instr_time	start;
	instr_time	end;
	moe_error	err = {0};
	moe_status	status;
	bool		busy = false;

	wait_for_turn(run);
	INSTR_TIME_SET_CURRENT(start);
	status = moe_scheduler_step(((LocalRun *) run)->scheduler, &busy, &err);
	INSTR_TIME_SET_CURRENT(end);
	moe_gate_leave();
	INSTR_TIME_ACCUM_DIFF(run->computing, end, start);
	run->failed = status != MOE_OK && status != MOE_ERR_CANCELLED;
	moe_check(status, &err);
	return busy;
}

static void
local_free(MoeRun *run)
{
	moe_scheduler_free(((LocalRun *) run)->scheduler);
}

static bool
local_done(const MoeSeq *seq)
{
	return moe_seq_done(seq_of(seq));
}

static bool
local_next(MoeSeq *seq, moe_token *token)
{
	return moe_seq_next(seq_of(seq), token);
}

static const char *
local_text(const MoeSeq *seq, size_t *len)
{
	return moe_seq_text(seq_of(seq), len);
}

static const float *
local_embedding(const MoeSeq *seq, int *n)
{
	return moe_seq_embedding(seq_of(seq), n);
}

static moe_finish
local_finish(const MoeSeq *seq)
{
	return moe_seq_finish(seq_of(seq));
}

static const moe_error *
local_error(const MoeSeq *seq)
{
	return moe_seq_error(seq_of(seq));
}

static const moe_usage *
local_usage(const MoeSeq *seq)
{
	return moe_seq_usage(seq_of(seq));
}

static int64
local_prompt_read(const MoeSeq *seq)
{
	return (int64) moe_seq_prompt_read(seq_of(seq));
}

const MoeRunHost moe_run_local = {
	.run_size = sizeof(LocalRun),
	.seq_size = sizeof(LocalSeq),
	.begin = local_begin,
	.add = local_add,
	.step = local_step,
	.free = local_free,
	.done = local_done,
	.next = local_next,
	.text = local_text,
	.embedding = local_embedding,
	.finish = local_finish,
	.error = local_error,
	.usage = local_usage,
	.prompt_read = local_prompt_read,
};
