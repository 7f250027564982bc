/*-------------------------------------------------------------------------
 *
 * gate.c
 *	  moe.max_backends: how many backends compute at the same time.
 *
 * A backend is inside for one step of the engine and no longer.  No other code
 * runs there, so a backend never waits while it is inside, whatever calls what;
 * a stream that a cursor holds keeps nobody out; and a long computation takes
 * turns with the others.  Whoever comes while others wait joins them, so nobody is
 * overtaken for ever.  Each backend that leaves wakes the one that has waited
 * longest, and one that enters wakes the next if there is still room.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "client.h"
#include "compat.h"
#include "gate.h"
#include "guc.h"
#include "shared_state.h"

static bool inside = false;
static bool queued = false;

static MoeSharedState *
require_state(void)
{
	MoeSharedState *s = moe_shared_state();

	if (s == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("there is no shared memory for moe.max_backends"),
				 errhint("Add pg_moe to shared_preload_libraries.")));
	return s;
}

/*
 * Enter if that takes no waiting.  Without a limit everybody may.
 */
bool
moe_gate_try_enter(void)
{
	MoeSharedState *s;

	Assert(!inside && !queued);
	if (moe_max_backends <= 0)
		return true;

	s = require_state();
	LWLockAcquire(&s->gate_lock, LW_EXCLUSIVE);
	if (s->waiting == 0 && s->computing < moe_max_backends)
	{
		s->computing++;
		inside = true;
	}
	LWLockRelease(&s->gate_lock);
	return inside;
}

/*
 * Enter after others, if there is room now
 */
static bool
take_turn(MoeSharedState *s)
{
	bool		more = false;

	LWLockAcquire(&s->gate_lock, LW_EXCLUSIVE);
	if (s->computing < moe_max_backends)
	{
		s->computing++;
		s->waiting--;
		inside = true;
		queued = false;
		more = s->waiting > 0 && s->computing < moe_max_backends;
	}
	LWLockRelease(&s->gate_lock);
	if (more)
		ConditionVariableSignal(&s->gate_open);
	return inside;
}

/*
 * Wait no longer.  Whoever woke us may have meant the place for the next one.
 */
static void
leave_queue(MoeSharedState *s)
{
	bool		others;

	LWLockAcquire(&s->gate_lock, LW_EXCLUSIVE);
	s->waiting--;
	queued = false;
	others = s->waiting > 0;
	LWLockRelease(&s->gate_lock);
	if (others)
		ConditionVariableSignal(&s->gate_open);
}

/*
 * Wait until there is room, and enter.  Can be interrupted.
 */
void
moe_gate_wait(void)
{
	MoeSharedState *s = require_state();

	LWLockAcquire(&s->gate_lock, LW_EXCLUSIVE);
	s->waiting++;
	queued = true;
	LWLockRelease(&s->gate_lock);

	PG_TRY();
	{
		ConditionVariablePrepareToSleep(&s->gate_open);
		while (!take_turn(s))
		{
			(void) ConditionVariableTimedSleep(&s->gate_open, MOE_CLIENT_LOOK_MS,
											   moe_wait_event_gate());
			moe_check_for_interrupts();
		}
		ConditionVariableCancelSleep();
	}
	PG_CATCH();
	{
		ConditionVariableCancelSleep();
		leave_queue(s);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/*
 * Let the next one in
 */
void
moe_gate_leave(void)
{
	MoeSharedState *s;
	bool		others;

	if (!inside)
		return;
	s = moe_shared_state();
	LWLockAcquire(&s->gate_lock, LW_EXCLUSIVE);
	s->computing--;
	inside = false;
	others = s->waiting > 0;
	LWLockRelease(&s->gate_lock);
	if (others)
		ConditionVariableSignal(&s->gate_open);
}

/*
 * The process exits, maybe out of the wait
 */
void
moe_gate_exit(void)
{
	if (queued)
	{
		ConditionVariableCancelSleep();
		leave_queue(moe_shared_state());
	}
	moe_gate_leave();
}

/*
 * How many backends are inside, and how many wait
 */
void
moe_gate_counts(int *computing, int *waiting)
{
	MoeSharedState *s = moe_shared_state();

	*computing = *waiting = 0;
	if (s == NULL)
		return;
	LWLockAcquire(&s->gate_lock, LW_SHARED);
	*computing = s->computing;
	*waiting = s->waiting;
	LWLockRelease(&s->gate_lock);
}
