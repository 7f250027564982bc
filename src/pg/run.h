/*-------------------------------------------------------------------------
 *
 * run.h
 *	  A computation: a scheduler of the engine and its sequences.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_RUN_H
#define MOE_RUN_H

#include "host.h"

typedef struct MoeRun MoeRun;

/* Tokens of this session since it began */
typedef struct MoeRunTotals
{
	int64		prompt_tokens;
	int64		cached_tokens;
	int64		generated_tokens;
} MoeRunTotals;

extern MoeRun *moe_run_begin(MoeOpenModel *model);
extern moe_seq *moe_run_add(MoeRun *run, const moe_request *request);
extern bool moe_run_step(MoeRun *run);
extern void moe_run_finish(MoeRun *run);
extern void moe_run_end(MoeRun *run);
extern bool moe_runs_any(void);
extern void moe_runs_abort_all(void);
extern void moe_run_totals(MoeRunTotals *totals);

#endif							/* MOE_RUN_H */
