/*-------------------------------------------------------------------------
 *
 * shared_state.c
 *	  What sessions know of each other: requests, statistics, limits.
 *
 * One block of the server's main shared memory.  If the library is preloaded, it
 * is requested at start and has an entry for every backend.  Else the first
 * session that needs it makes a smaller one, 22 kB from the reserve that the server
 * has for such uses; requests that find no entry then are counted, but not shown
 * while they run.  The server empties the block when it restarts after a crash; a
 * process that exits otherwise gives back what it holds.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "gate.h"
#include "shared_state.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#define STATE_NAME "pg_moe state"
#define TRANCHE_NAME "MoeState"
#define SMALL_ACTIVITIES 64
#define SPARE_ACTIVITIES 64		/* streams that cursors hold, beside one per backend */

static MoeSharedState *state = NULL;
static bool preloaded = false;
static bool exit_registered = false;
static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static int
count_activities(void)
{
	return preloaded ? MaxBackends + SPARE_ACTIVITIES : SMALL_ACTIVITIES;
}

static Size
state_size(void)
{
	return offsetof(MoeSharedState, activities) +
		sizeof(MoeActivity) * (Size) count_activities();
}

static void
init_state(MoeSharedState *s)
{
	memset(s, 0, state_size());
	s->tranche = moe_new_lwlock_tranche(TRANCHE_NAME);
	LWLockInitialize(&s->lock, s->tranche);
	LWLockInitialize(&s->gate_lock, s->tranche);
	ConditionVariableInit(&s->gate_open);
	s->n_activities = count_activities();
	for (int i = 0; i < s->n_activities; i++)
	{
		MoeActivity *a = &s->activities[i];

		pg_atomic_init_u32(&a->pid, 0);
		pg_atomic_init_u32(&a->changes, 0);
		pg_atomic_init_u32(&a->phase, 0);
		pg_atomic_init_u32(&a->task, 0);
		pg_atomic_init_u32(&a->sequences, 0);
		pg_atomic_init_u64(&a->prompt_read, 0);
		pg_atomic_init_u64(&a->prompt_tokens, 0);
		pg_atomic_init_u64(&a->generated_tokens, 0);
	}
}

static void
attach(void)
{
	MoeSharedState *s;
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	s = ShmemInitStruct(STATE_NAME, state_size(), &found);
	if (!found)
		init_state(s);
	moe_register_lwlock_tranche(s->tranche, TRANCHE_NAME);
	state = s;
	LWLockRelease(AddinShmemInitLock);
}

static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(state_size());
}

static void
startup_shmem(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	attach();
}

/*
 * At load time: ask for the memory, if it is not too late for that
 */
void
moe_shared_state_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	preloaded = true;
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}

static void
leave_state(int code, Datum arg)
{
	moe_gate_exit();
	moe_stat_exit();
}

/*
 * The state, or NULL if there is no memory for it
 */
MoeSharedState *
moe_shared_state(void)
{
	if (state == NULL)
	{
		MemoryContext caller = CurrentMemoryContext;
		uint32		holdoff = InterruptHoldoffCount;

		PG_TRY();
		{
			attach();
		}
		PG_CATCH();
		{
			/* No memory: the block is not there, or the lock would not be held */
			MemoryContextSwitchTo(caller);
			FlushErrorState();
			InterruptHoldoffCount = holdoff + 1;	/* the error reset the count */
			LWLockRelease(AddinShmemInitLock);
		}
		PG_END_TRY();
	}
	if (state != NULL && !exit_registered)
	{
		before_shmem_exit(leave_state, (Datum) 0);
		exit_registered = true;
	}
	return state;
}
