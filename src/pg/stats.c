/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  What is computed now, and what models were used for: moe.stat_requests,
 *	  moe.stat_models.
 *
 * A live request has an entry from moe_stat_begin() to moe_stat_end().  An entry is
 * taken by setting its pid, without a lock.  What does not change afterwards is written
 * between two increments of its change count, as in the server's own
 * backend_status.c, and read again if the count has moved; how far the request is are
 * single values that may be written at any time, by this process or by one that
 * computes for it.
 *
 * Totals of a model are added when its requests end.  They are kept until the
 * server restarts; of more than MOE_STAT_MODELS models the one that was used least
 * recently is forgotten.
 *
 * A row is shown to those who have the request's role or pg_read_all_stats; of
 * models' totals those of this database and of models that one may use.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "compat.h"
#include "funcapi.h"
#include "grants.h"
#include "shared_state.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

MOE_FUNCTION(pg_moe_stat_requests);
MOE_FUNCTION(pg_moe_stat_models);
MOE_FUNCTION(pg_moe_stat_reset);

static const char *const phase_names[] = {"waiting", "loading", "prompt", "decode", "idle"};
static const char *const task_names[] = {"generate", "embed", "score", "next", "load"};

/* ----------
 * Live requests
 * ----------
 */

/*
 * Show a request that begins; it must be ended
 */
MoeStat
moe_stat_begin(const char *model, MoeTask task, MoePhase phase)
{
	MoeSharedState *s = moe_shared_state();
	MoeStat		stat = {-1, 0};

	for (int i = 0; s != NULL && i < s->n_activities; i++)
	{
		int			entry = (MyProcPid + i) % s->n_activities;
		MoeActivity *a = &s->activities[entry];
		uint32		unused = 0;

		if (!pg_atomic_compare_exchange_u32(&a->pid, &unused, MyProcPid))
			continue;

		pg_atomic_fetch_add_u32(&a->changes, 1);
		a->role = GetOuterUserId();
		a->database = MyDatabaseId;
		a->started = GetCurrentTimestamp();
		strlcpy(a->model, model, MOE_NAME_SIZE);
		pg_atomic_write_u32(&a->phase, phase);
		pg_atomic_write_u32(&a->task, task);
		pg_atomic_write_u32(&a->sequences, 0);
		pg_atomic_write_u64(&a->prompt_read, 0);
		pg_atomic_write_u64(&a->prompt_tokens, 0);
		pg_atomic_write_u64(&a->generated_tokens, 0);
		stat.version = pg_atomic_add_fetch_u32(&a->changes, 1);
		stat.entry = entry;
		break;
	}
	return stat;
}

/*
 * The entry, or NULL if it has none or has ended
 */
static MoeActivity *
live_entry(MoeStat stat)
{
	MoeSharedState *s = moe_shared_state();
	MoeActivity *a;

	if (s == NULL || stat.entry < 0)
		return NULL;
	a = &s->activities[stat.entry];
	return pg_atomic_read_u32(&a->changes) == stat.version ? a : NULL;
}

/*
 * Tell what the request is at
 */
void
moe_stat_phase(MoeStat stat, MoePhase phase)
{
	MoeActivity *a = live_entry(stat);

	if (a != NULL)
		pg_atomic_write_u32(&a->phase, phase);
}

/*
 * Tell how far it is; the phase follows from that
 */
void
moe_stat_progress(MoeStat stat, const MoeProgress *progress)
{
	MoeActivity *a = live_entry(stat);

	if (a == NULL)
		return;
	pg_atomic_write_u32(&a->task, progress->task);
	pg_atomic_write_u32(&a->sequences, progress->sequences);
	pg_atomic_write_u64(&a->prompt_read, progress->prompt_read);
	pg_atomic_write_u64(&a->prompt_tokens, progress->prompt_tokens);
	pg_atomic_write_u64(&a->generated_tokens, progress->generated_tokens);
	pg_atomic_write_u32(&a->phase, progress->generated_tokens > 0
						? MOE_PHASE_DECODE : MOE_PHASE_PROMPT);
}

static void
free_entry(MoeActivity *a)
{
	pg_atomic_fetch_add_u32(&a->changes, 1);
	a->role = InvalidOid;		/* not shown until all is written anew */
	pg_atomic_fetch_add_u32(&a->changes, 1);
	pg_atomic_write_u32(&a->pid, 0);
}

/*
 * Show a request no more
 */
void
moe_stat_end(MoeStat stat)
{
	MoeActivity *a = live_entry(stat);

	if (a != NULL)
		free_entry(a);
}

/*
 * Show none of this process any more; it exits
 */
void
moe_stat_exit(void)
{
	MoeSharedState *s = moe_shared_state();

	for (int i = 0; i < s->n_activities; i++)
		if (pg_atomic_read_u32(&s->activities[i].pid) == (uint32) MyProcPid)
			free_entry(&s->activities[i]);
}

/*
 * Read an entry; false if it is free
 */
static bool
read_entry(MoeActivity *a, MoeActivity *copy)
{
	for (;;)
	{
		uint32		before = pg_atomic_read_u32(&a->changes);

		pg_read_barrier();
		if (pg_atomic_read_u32(&a->pid) == 0)
			return false;
		memcpy(copy, a, sizeof(MoeActivity));
		pg_read_barrier();
		if ((before & 1) == 0 && pg_atomic_read_u32(&a->changes) == before)
			return OidIsValid(copy->role);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Does any request compute, or wait for that?
 */
bool
moe_stat_any_at_work(void)
{
	MoeSharedState *s = moe_shared_state();

	for (int i = 0; s != NULL && i < s->n_activities; i++)
		if (pg_atomic_read_u32(&s->activities[i].pid) != 0 &&
			pg_atomic_read_u32(&s->activities[i].phase) != MOE_PHASE_IDLE)
			return true;
	return false;
}

/*
 * May the caller see what a role does?
 */
bool
moe_may_see_stats(Oid role)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS) ||
		has_privs_of_role(GetUserId(), role);
}

/*
 * moe.get_stat_requests() returns the rows of moe.stat_requests
 */
Datum
pg_moe_stat_requests(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MoeSharedState *s = moe_shared_state();

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; s != NULL && i < s->n_activities; i++)
	{
		MoeActivity a;
		Datum		values[11];
		bool		nulls[11] = {0};
		int			n = 0;

		if (!read_entry(&s->activities[i], &a) || !moe_may_see_stats(a.role))
			continue;
		values[n++] = Int32GetDatum((int32) pg_atomic_read_u32(&a.pid));
		values[n++] = ObjectIdGetDatum(a.role);
		values[n++] = ObjectIdGetDatum(a.database);
		values[n++] = CStringGetTextDatum(a.model);
		values[n++] = CStringGetTextDatum(task_names[pg_atomic_read_u32(&a.task)]);
		values[n++] = CStringGetTextDatum(phase_names[pg_atomic_read_u32(&a.phase)]);
		values[n++] = Int32GetDatum((int32) pg_atomic_read_u32(&a.sequences));
		values[n++] = Int64GetDatum((int64) pg_atomic_read_u64(&a.prompt_read));
		values[n++] = Int64GetDatum((int64) pg_atomic_read_u64(&a.prompt_tokens));
		values[n++] = Int64GetDatum((int64) pg_atomic_read_u64(&a.generated_tokens));
		values[n++] = TimestampTzGetDatum(a.started);
		Assert(n == lengthof(values) && n == rsinfo->setDesc->natts);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ----------
 * Totals of models
 * ----------
 */

/*
 * The entry of a model of this database, made if need be.  Caller holds the lock.
 */
static MoeModelStats *
model_entry(MoeSharedState *s, const char *model)
{
	MoeModelStats *oldest = &s->models[0];

	for (int i = 0; i < MOE_STAT_MODELS; i++)
	{
		MoeModelStats *m = &s->models[i];

		if (m->database == MyDatabaseId && strcmp(m->model, model) == 0)
			return m;
		if (m->last_used < oldest->last_used)
			oldest = m;
	}
	memset(oldest, 0, sizeof(MoeModelStats));
	oldest->database = MyDatabaseId;
	strlcpy(oldest->model, model, MOE_NAME_SIZE);
	oldest->since = GetCurrentTimestamp();
	return oldest;
}

/*
 * Add to the totals of a model of this database
 */
void
moe_stat_count(const char *model, const MoeStatTotals *totals)
{
	MoeSharedState *s = moe_shared_state();
	MoeModelStats *m;

	if (s == NULL)
		return;
	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	m = model_entry(s, model);
	m->last_used = GetCurrentTimestamp();
	m->totals.requests += totals->requests;
	m->totals.errors += totals->errors;
	m->totals.cancelled += totals->cancelled;
	m->totals.prompt_tokens += totals->prompt_tokens;
	m->totals.cached_tokens += totals->cached_tokens;
	m->totals.generated_tokens += totals->generated_tokens;
	m->totals.seconds += totals->seconds;
	LWLockRelease(&s->lock);
}

static bool
may_see_model(const MoeModelStats *m)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS) ||
		(m->database == MyDatabaseId && moe_may_use_name(m->model));
}

/*
 * moe.get_stat_models() returns the rows of moe.stat_models
 */
Datum
pg_moe_stat_models(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MoeSharedState *s = moe_shared_state();
	MoeModelStats *models = palloc0(sizeof(MoeModelStats) * MOE_STAT_MODELS);

	InitMaterializedSRF(fcinfo, 0);
	if (s != NULL)
	{
		LWLockAcquire(&s->lock, LW_SHARED);
		memcpy(models, s->models, sizeof(MoeModelStats) * MOE_STAT_MODELS);
		LWLockRelease(&s->lock);
	}
	for (int i = 0; i < MOE_STAT_MODELS; i++)
	{
		const MoeModelStats *m = &models[i];
		Datum		values[10];
		bool		nulls[10] = {0};
		int			n = 0;

		if (!OidIsValid(m->database) || !may_see_model(m))
			continue;
		values[n++] = ObjectIdGetDatum(m->database);
		values[n++] = CStringGetTextDatum(m->model);
		values[n++] = Int64GetDatum(m->totals.requests);
		values[n++] = Int64GetDatum(m->totals.errors);
		values[n++] = Int64GetDatum(m->totals.cancelled);
		values[n++] = Int64GetDatum(m->totals.prompt_tokens);
		values[n++] = Int64GetDatum(m->totals.cached_tokens);
		values[n++] = Int64GetDatum(m->totals.generated_tokens);
		values[n++] = Float8GetDatum(m->totals.seconds);
		values[n++] = TimestampTzGetDatum(m->since);
		Assert(n == lengthof(values) && n == rsinfo->setDesc->natts);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * moe.stat_reset() returns void
 */
Datum
pg_moe_stat_reset(PG_FUNCTION_ARGS)
{
	MoeSharedState *s = moe_shared_state();

	if (s != NULL)
	{
		LWLockAcquire(&s->lock, LW_EXCLUSIVE);
		memset(s->models, 0, sizeof(s->models));
		LWLockRelease(&s->lock);
	}
	PG_RETURN_VOID();
}
