/*-------------------------------------------------------------------------
 *
 * run.h
 *	  A computation: requests to one model that run together.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_RUN_H
#define MOE_RUN_H

#include "host.h"

typedef struct MoeRun MoeRun;
typedef struct MoeSeq MoeSeq;	/* a request of a run; lives as long as the run */

/* Tokens of this session since it began */
typedef struct MoeRunTotals
{
	int64		prompt_tokens;
	int64		cached_tokens;
	int64		generated_tokens;
} MoeRunTotals;

extern MoeRun *moe_run_begin(MoeOpenModel *model);
extern MoeSeq *moe_run_add(MoeRun *run, const moe_request *request);
extern MoeSeq *moe_run_try_add(MoeRun *run, const moe_request *request, moe_error *err);
extern bool moe_run_step(MoeRun *run);
extern void moe_run_finish(MoeRun *run);
extern void moe_run_end(MoeRun *run);
extern bool moe_runs_any(void);
extern void moe_runs_abort_all(void);
extern void moe_run_totals(MoeRunTotals *totals);

/* What a request has come to; texts and vectors belong to the run */
extern bool moe_run_done(const MoeSeq *seq);
extern bool moe_run_next(MoeSeq *seq, moe_token *token);
extern const char *moe_run_text(const MoeSeq *seq, size_t *len);
extern const float *moe_run_embedding(const MoeSeq *seq, int *n);
extern moe_finish moe_run_finish_reason(const MoeSeq *seq);
extern const moe_usage *moe_run_usage(const MoeSeq *seq);
extern const moe_error *moe_run_error(const MoeSeq *seq);

#endif							/* MOE_RUN_H */
