/*-------------------------------------------------------------------------
 *
 * stats.h
 *	  What is computed now, and what models were used for.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_STATS_H
#define MOE_STATS_H

#define MOE_NAME_SIZE 64		/* a model's name with its zero */

/* What a request is at; names in stats.c */
typedef enum MoePhase
{
	MOE_PHASE_WAITING,			/* for its turn */
	MOE_PHASE_LOADING,			/* weights */
	MOE_PHASE_PROMPT,			/* reading it, nothing generated yet */
	MOE_PHASE_DECODE,			/* generating tokens; others' prompts may go along */
	MOE_PHASE_IDLE				/* a cursor holds it and wants no row now */
} MoePhase;

/* What it is for: moe_task of the engine, and one of our own */
typedef enum MoeTask
{
	MOE_STAT_GENERATE,
	MOE_STAT_EMBED,
	MOE_STAT_SCORE,
	MOE_STAT_NEXT,
	MOE_STAT_LOAD
} MoeTask;

/* How far a request is; sums over the sequences that run together */
typedef struct MoeProgress
{
	MoeTask		task;
	int			sequences;
	int64		prompt_read;
	int64		prompt_tokens;
	int64		generated_tokens;
} MoeProgress;

typedef struct MoeStatTotals
{
	int64		requests;
	int64		errors;
	int64		cancelled;		/* ended before they were done */
	int64		prompt_tokens;
	int64		cached_tokens;	/* of them taken from the cache */
	int64		generated_tokens;
	double		seconds;
} MoeStatTotals;

/*
 * A live request's entry.  The session that asks begins, ends and counts a request;
 * a process that computes for it may copy this and tell phase and progress.  An
 * entry that has ended meanwhile is left alone.
 */
typedef struct MoeStat
{
	int			entry;			/* -1: none was free */
	uint32		version;
} MoeStat;

extern MoeStat moe_stat_begin(const char *model, MoeTask task, MoePhase phase);
extern void moe_stat_phase(MoeStat stat, MoePhase phase);
extern void moe_stat_progress(MoeStat stat, const MoeProgress *progress);
extern void moe_stat_end(MoeStat stat);
extern void moe_stat_count(const char *model, const MoeStatTotals *totals);
extern void moe_stat_exit(void);
extern bool moe_stat_any_at_work(void);
extern bool moe_may_see_stats(Oid role);

#endif							/* MOE_STATS_H */
