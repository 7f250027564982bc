/*-------------------------------------------------------------------------
 *
 * run_host.h
 *	  What a run is made of, for run.c and the two hosts that compute.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_RUN_HOST_H
#define MOE_RUN_HOST_H

#include "budget.h"
#include "portability/instr_time.h"
#include "run.h"
#include "stats.h"
#include "utils/palloc.h"

/* Functions of a host; those with a "may raise" may raise errors */
typedef struct MoeRunHost
{
	Size		run_size;		/* of its structs, which begin with MoeRun and MoeSeq */
	Size		seq_size;
	void		(*begin) (MoeRun *run); /* may raise; free is called then, too */
	moe_status	(*add) (MoeRun *run, MoeSeq *seq, const moe_request *request,
						moe_error *err);	/* may raise what is not the request's fault */
	bool		(*step) (MoeRun *run);	/* may raise; false if nothing was left to do */
	void		(*free) (MoeRun *run);

	bool		(*done) (const MoeSeq *seq);
	bool		(*next) (MoeSeq *seq, moe_token *token);	/* may raise */
	const char *(*text) (const MoeSeq *seq, size_t *len);
	const float *(*embedding) (const MoeSeq *seq, int *n);
	moe_finish	(*finish) (const MoeSeq *seq);
	const moe_error *(*error) (const MoeSeq *seq);	/* NULL unless it failed */
	const moe_usage *(*usage) (const MoeSeq *seq);
	int64		(*prompt_read) (const MoeSeq *seq); /* tokens of the prompt so far */
} MoeRunHost;

struct MoeSeq
{
	MoeRun	   *run;
	uint32		number;			/* in the run */
	int64		prompt_tokens;
	bool		may_fail;		/* an error of its input is told, not raised */
};

struct MoeRun
{
	const MoeRunHost *host;
	dlist_node	node;			/* in the list of runs */
	bool		alive;			/* it holds the model, and is in the list */
	MemoryContext context;
	MemoryContextCallback on_delete;
	MoeOpenModel *model;
	MoeSeq	  **seqs;
	int			n_seqs,
				max_seqs;
	int			counted_upto;	/* sequences before this one are done and counted */
	MoeRunTotals counted;		/* what of this run is in totals */
	MoeRunTotals done;			/* tokens of the sequences before counted_upto */
	int64		requested;		/* sum of the sequences' max_tokens */
	MoeBudgets	budgets;
	MoeStat		stat;
	MoeProgress progress;
	int64		read_by_done;	/* prompt tokens of the sequences before counted_upto */
	int64		queued;			/* prompt tokens that are not counted yet */
	instr_time	computing;		/* time in steps, set by the host */
	bool		adding;			/* a request is being queued */
	bool		failed;			/* a step went wrong, set by the host */
};

extern void moe_run_note_news(MoeRun *run);	/* may raise */

extern const MoeRunHost moe_run_local;	/* run_local.c: this backend computes */
extern const MoeRunHost moe_run_shared; /* run_shared.c: the shared engine does */

#endif							/* MOE_RUN_HOST_H */
