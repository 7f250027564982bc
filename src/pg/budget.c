/*-------------------------------------------------------------------------
 *
 * budget.c
 *	  Token budgets of roles: moe.set_budget(), moe.budget.
 *
 * A budget is a number of prompt and generated tokens in a window of time.  A window
 * begins with the first token after the last one has ended.  Budgets are rows of
 * moe.budget_catalog, so they belong to a database; what is used of them is counted in
 * shared memory, for all sessions together, and starts from zero when the server does.
 *
 * The roles that pay are the one that logged in and, after SET ROLE, the current one:
 * a budget can be escaped neither by SET ROLE nor by a function that is SECURITY
 * DEFINER.  Members of a role have not its budget, as they have not its ALTER ROLE
 * ... SET.  Superusers are held to a budget that was set for them.
 *
 * A request is refused if its prompt does not fit into what is left.  One that
 * uses up the budget while it runs is ended by the next step, so the sum of several
 * sessions may exceed a budget by a step of each.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "budget.h"
#include "call.h"
#include "catalog/indexing.h"
#include "compat.h"
#include "funcapi.h"
#include "grants.h"
#include "shared_state.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

MOE_FUNCTION(pg_moe_set_budget);
MOE_FUNCTION(pg_moe_budget);

/* Columns of moe.budget_catalog */
enum
{
	COL_ROLE = 1,
	COL_TOKENS,
	COL_WINDOW,
	N_COLUMNS = COL_WINDOW
};

#define TABLE "budget_catalog"
#define MIN_WINDOW USECS_PER_SEC
#define MAX_WINDOW (INT64CONST(3660) * USECS_PER_DAY)

/* ----------
 * The table
 * ----------
 */

/*
 * An interval in microseconds; a month has 30 days, as where intervals are
 * compared.  -1 if it is too long.
 */
static int64
microseconds(const Interval *interval)
{
	double		days = (double) interval->month * DAYS_PER_MONTH + interval->day +
		(double) interval->time / USECS_PER_DAY;

	if (fabs(days) > (double) (MAX_WINDOW / USECS_PER_DAY))
		return -1;
	return ((int64) interval->month * DAYS_PER_MONTH + interval->day) * USECS_PER_DAY +
		interval->time;
}

static MoeBudget
budget_of_tuple(HeapTuple tuple, TupleDesc desc)
{
	MoeBudget	b;
	bool		isnull;

	b.role = DatumGetObjectId(heap_getattr(tuple, COL_ROLE, desc, &isnull));
	b.tokens = DatumGetInt64(heap_getattr(tuple, COL_TOKENS, desc, &isnull));
	b.window = microseconds(DatumGetIntervalP(heap_getattr(tuple, COL_WINDOW, desc, &isnull)));
	return b;
}

/*
 * The budgets that what the caller computes now counts against
 */
void
moe_budgets_find(MoeBudgets *budgets)
{
	Oid			roles[2] = {GetSessionUserId(), GetOuterUserId()};
	Relation	rel = moe_catalog_open(TABLE, AccessShareLock);

	budgets->n = 0;
	for (int i = 0; i < (roles[0] == roles[1] ? 1 : 2); i++)
	{
		SysScanDesc scan = moe_catalog_scan_key(rel, F_OIDEQ, ObjectIdGetDatum(roles[i]));
		HeapTuple	tuple = systable_getnext(scan);

		if (HeapTupleIsValid(tuple))
			budgets->budgets[budgets->n++] = budget_of_tuple(tuple, RelationGetDescr(rel));
		systable_endscan(scan);
	}
	table_close(rel, AccessShareLock);

	if (budgets->n > 0 && moe_shared_state() == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("there is no shared memory for token budgets"),
				 errhint("Add pg_moe to shared_preload_libraries.")));
}

/* ----------
 * What is used
 * ----------
 */

/*
 * A role's count, or NULL.  Caller holds the lock.
 */
static MoeBudgetUse *
find_use(MoeSharedState *s, Oid role)
{
	for (int i = 0; i < MOE_BUDGETS; i++)
		if (s->budgets[i].database == MyDatabaseId && s->budgets[i].role == role)
			return &s->budgets[i];
	return NULL;
}

/*
 * A new count, in place of the one whose window ends or has ended first.  Caller
 * holds the lock.
 */
static MoeBudgetUse *
make_use(MoeSharedState *s, Oid role)
{
	MoeBudgetUse *first = &s->budgets[0];

	for (int i = 1; i < MOE_BUDGETS; i++)
		if (s->budgets[i].ends < first->ends)
			first = &s->budgets[i];
	memset(first, 0, sizeof(MoeBudgetUse));
	first->database = MyDatabaseId;
	first->role = role;
	return first;
}

/*
 * What is used of a budget, and when that is forgotten (0: not known yet)
 */
static int64
used_of(const MoeBudget *b, TimestampTz *resets_at)
{
	MoeSharedState *s = moe_shared_state();
	int64		used = 0;

	*resets_at = 0;
	if (s == NULL)
		return 0;
	LWLockAcquire(&s->lock, LW_SHARED);
	{
		const MoeBudgetUse *use = find_use(s, b->role);

		if (use != NULL && GetCurrentTimestamp() < use->began + b->window)
		{
			used = use->used;
			*resets_at = use->began + b->window;
		}
	}
	LWLockRelease(&s->lock);
	return used;
}

/*
 * Count tokens against budgets
 */
void
moe_budgets_charge(const MoeBudgets *budgets, int64 tokens)
{
	MoeSharedState *s = moe_shared_state();
	TimestampTz now;

	if (budgets->n == 0 || tokens == 0 || s == NULL)
		return;
	now = GetCurrentTimestamp();
	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	for (int i = 0; i < budgets->n; i++)
	{
		const MoeBudget *b = &budgets->budgets[i];
		MoeBudgetUse *use = find_use(s, b->role);

		if (use == NULL)
			use = make_use(s, b->role);
		if (now >= use->began + b->window)
		{
			use->began = now;
			use->used = 0;
		}
		use->ends = use->began + b->window;
		use->used += tokens;
	}
	LWLockRelease(&s->lock);
}

/*
 * Raise an error if a budget has too little left for a prompt, behind those that
 * are queued
 */
void
moe_budgets_check(const MoeBudgets *budgets, int64 queued, int64 prompt)
{
	for (int i = 0; i < budgets->n; i++)
	{
		const MoeBudget *b = &budgets->budgets[i];
		TimestampTz resets_at;
		int64		used = used_of(b, &resets_at);

		if (used + queued + prompt <= b->tokens)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 used >= b->tokens
				 ? errmsg("token budget of role \"%s\" is used up",
						  GetUserNameFromId(b->role, false))
				 : errmsg("token budget of role \"%s\" is too small for the prompt",
						  GetUserNameFromId(b->role, false)),
				 used >= b->tokens
				 ? errdetail("%lld of %lld tokens are used.",
							 (long long) used, (long long) b->tokens)
				 : queued > 0
				 ? errdetail("%lld of %lld tokens are used, queued prompts have %lld, and this one has %lld.",
							 (long long) used, (long long) b->tokens, (long long) queued,
							 (long long) prompt)
				 : errdetail("%lld of %lld tokens are used, and the prompt has %lld.",
							 (long long) used, (long long) b->tokens, (long long) prompt),
				 resets_at != 0
				 ? errhint("The budget is whole again at %s.", timestamptz_to_str(resets_at))
				 : errhint("Shorten the prompt, or ask for a larger budget.")));
	}
}

/* ----------
 * SQL functions
 * ----------
 */

static void
check_values(int64 tokens, const Interval *window)
{
	if (tokens < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a budget must not be negative"),
				 errhint("0 forbids all use of models; NULL removes the budget.")));
	if (microseconds(window) < MIN_WINDOW)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the window of a budget must be between one second and ten years"),
				 errhint("A budget is whole again after its window, for example '1 day'.")));
}

/*
 * Forget what a role has used
 */
static void
forget_use(Oid role)
{
	MoeSharedState *s = moe_shared_state();
	MoeBudgetUse *use;

	if (s == NULL)
		return;
	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	use = find_use(s, role);
	if (use != NULL)
		memset(use, 0, sizeof(MoeBudgetUse));
	LWLockRelease(&s->lock);
}

/*
 * moe.set_budget(role text, tokens bigint, window interval) returns void
 *
 * NULL tokens remove a budget and what was used of it.  Budgets of roles that were
 * dropped go as well.
 */
Datum
pg_moe_set_budget(PG_FUNCTION_ARGS)
{
	bool		remove = PG_ARGISNULL(1);
	Datum		values[N_COLUMNS];
	bool		nulls[N_COLUMNS] = {0};
	Oid			role;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	PreventCommandIfReadOnly("moe.set_budget()");
	if (PG_ARGISNULL(0) || (!remove && PG_ARGISNULL(2)))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("role and window must not be null"),
				 errhint("For example moe.set_budget('intern', 100000, '1 day').")));
	role = moe_role_oid(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (!remove)
		check_values(PG_GETARG_INT64(1), PG_GETARG_INTERVAL_P(2));

	rel = moe_catalog_open(TABLE, ShareRowExclusiveLock);
	scan = moe_catalog_scan(rel);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Oid			owner = budget_of_tuple(tuple, RelationGetDescr(rel)).role;

		if (owner == role || !SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(owner)))
			CatalogTupleDelete(rel, &tuple->t_self);
	}
	systable_endscan(scan);
	if (remove)
		forget_use(role);
	else
	{
		values[COL_ROLE - 1] = ObjectIdGetDatum(role);
		values[COL_TOKENS - 1] = PG_GETARG_DATUM(1);
		values[COL_WINDOW - 1] = PG_GETARG_DATUM(2);
		tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
		CatalogTupleInsert(rel, tuple);
		heap_freetuple(tuple);
	}
	table_close(rel, NoLock);
	CommandCounterIncrement();
	PG_RETURN_VOID();
}

/*
 * moe.get_budgets() returns the rows of moe.budget: those that the caller may see
 */
Datum
pg_moe_budget(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	InitMaterializedSRF(fcinfo, 0);
	rel = moe_catalog_open(TABLE, AccessShareLock);
	scan = moe_catalog_scan(rel);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		MoeBudget	b = budget_of_tuple(tuple, RelationGetDescr(rel));
		TimestampTz resets_at;
		Datum		values[5];
		bool		nulls[5] = {0};

		if (!moe_may_see_stats(b.role) || !SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(b.role)))
			continue;
		values[0] = ObjectIdGetDatum(b.role);
		values[1] = Int64GetDatum(b.tokens);
		values[2] = heap_getattr(tuple, COL_WINDOW, RelationGetDescr(rel), &nulls[2]);
		values[3] = Int64GetDatum(used_of(&b, &resets_at));
		values[4] = TimestampTzGetDatum(resets_at);
		nulls[4] = resets_at == 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return (Datum) 0;
}
