/*-------------------------------------------------------------------------
 *
 * shared_state.h
 *	  What sessions know of each other: requests, statistics, limits.
 *
 * Used by stats.c, gate.c and budget.c, each of which owns a part.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_SHARED_STATE_H
#define MOE_SHARED_STATE_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "stats.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"

#define MOE_STAT_MODELS 64
#define MOE_BUDGETS 128

/* A live request; see stats.c for the protocol */
typedef struct MoeActivity
{
	pg_atomic_uint32 pid;		/* 0: free */
	pg_atomic_uint32 changes;	/* odd while the four below are written */
	Oid			role;
	Oid			database;
	TimestampTz started;
	char		model[MOE_NAME_SIZE];

	pg_atomic_uint32 phase;		/* MoePhase */
	pg_atomic_uint32 task;		/* MoeTask */
	pg_atomic_uint32 sequences;
	pg_atomic_uint64 prompt_read;
	pg_atomic_uint64 prompt_tokens;
	pg_atomic_uint64 generated_tokens;
} MoeActivity;

/* What a model was used for since it was first used or moe.stat_reset() */
typedef struct MoeModelStats
{
	Oid			database;		/* InvalidOid: free */
	char		model[MOE_NAME_SIZE];
	TimestampTz since;
	TimestampTz last_used;
	MoeStatTotals totals;
} MoeModelStats;

/* What a role has used of its budget in the window that began last */
typedef struct MoeBudgetUse
{
	Oid			database;		/* InvalidOid: free */
	Oid			role;
	TimestampTz began;
	TimestampTz ends;
	int64		used;
} MoeBudgetUse;

typedef struct MoeSharedState
{
	int			tranche;

	/* stats.c and budget.c; held for a few instructions */
	LWLock		lock;
	MoeModelStats models[MOE_STAT_MODELS];
	MoeBudgetUse budgets[MOE_BUDGETS];

	/* gate.c */
	LWLock		gate_lock;
	ConditionVariable gate_open;
	int			computing;		/* backends inside */
	int			waiting;		/* backends that want in */

	/* stats.c; no lock */
	int			n_activities;
	MoeActivity activities[FLEXIBLE_ARRAY_MEMBER];
} MoeSharedState;

extern void moe_shared_state_init(void);
extern MoeSharedState *moe_shared_state(void);

#endif							/* MOE_SHARED_STATE_H */
