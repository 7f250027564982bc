/*-------------------------------------------------------------------------
 *
 * weight_cache.c
 *	  What of the models is in memory: moe.weight_cache, moe.expert_stats,
 *	  moe.prewarm(), moe.evict().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "call.h"
#include "catalog/pg_authid.h"
#include "compat.h"
#include "error.h"
#include "funcapi.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "weight_store.h"

MOE_FUNCTION(pg_moe_weight_cache);
MOE_FUNCTION(pg_moe_expert_stats);
MOE_FUNCTION(pg_moe_prewarm);
MOE_FUNCTION(pg_moe_evict);

static void
add_cache_row(const MoeArenaInfo *info, void *arg)
{
	ReturnSetInfo *rsinfo = arg;
	moe_arena_stats stats;
	Datum		values[12];
	bool		nulls[12] = {0};
	int			i = 0;

	moe_arena_stats_of(info->arena, &stats);
	values[i++] = CStringGetTextDatum(info->key);
	values[i++] = BoolGetDatum(info->is_shared);
	nulls[i] = !info->is_shared;
	values[i++] = Int32GetDatum(info->users);
	values[i++] = Int64GetDatum(info->size);
	values[i++] = Int32GetDatum(stats.n_units);
	values[i++] = Int32GetDatum(stats.n_resident);
	values[i++] = Int64GetDatum(stats.bytes);
	values[i++] = Int64GetDatum(stats.resident_bytes);
	values[i++] = Int32GetDatum(stats.expert_pins);
	values[i++] = Int64GetDatum(stats.hits);
	values[i++] = Int64GetDatum(stats.misses);
	values[i++] = Int64GetDatum(stats.evictions);
	Assert(i == lengthof(values));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * moe.get_weight_cache() returns the rows of moe.weight_cache, by key: those of models
 * that the caller may use, or all that there are, also of models that were dropped
 */
Datum
pg_moe_weight_cache(PG_FUNCTION_ARGS)
{
	bool		all = has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, moe_store_keys())
		if (all || moe_may_use_weights(lfirst(lc)))
			(void) moe_store_visit(lfirst(lc), add_cache_row, fcinfo->resultinfo);
	return (Datum) 0;
}

static void
add_expert_rows(const MoeArenaInfo *info, void *arg)
{
	ReturnSetInfo *rsinfo = arg;
	moe_arena_unit unit;

	for (int n = 0; moe_arena_unit_of(info->arena, n, &unit); n++)
	{
		Datum		values[7];
		bool		nulls[7] = {0};
		int			i = 0;

		if (unit.expert < 0)
			continue;
		values[i++] = Int32GetDatum(unit.layer);
		values[i++] = Int32GetDatum(unit.expert);
		values[i++] = Int64GetDatum(unit.bytes);
		values[i++] = Int64GetDatum(unit.hits);
		values[i++] = Int64GetDatum(unit.misses);
		values[i++] = Int32GetDatum(unit.heat);
		values[i++] = BoolGetDatum(unit.resident);
		Assert(i == lengthof(values));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/*
 * moe.get_expert_stats(weights_key text) returns the rows of moe.expert_stats of
 * one model; none if it is not in memory
 */
Datum
pg_moe_expert_stats(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	(void) moe_store_visit(text_to_cstring(PG_GETARG_TEXT_PP(0)), add_expert_rows,
						   fcinfo->resultinfo);
	return (Datum) 0;
}

static Datum
units_and_bytes(FunctionCallInfo fcinfo, int n_units, Size n_bytes)
{
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int32GetDatum(n_units);
	values[1] = Int64GetDatum(n_bytes);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/*
 * moe.prewarm(model text) returns record: units and bytes that were loaded
 */
Datum
pg_moe_prewarm(PG_FUNCTION_ARGS)
{
	MoeModelRow *row = moe_model_require(moe_text_arg(fcinfo, 0));
	int			n_units;
	size_t		n_bytes;

	moe_host_prewarm(row, &n_units, &n_bytes);
	return units_and_bytes(fcinfo, n_units, n_bytes);
}

typedef struct Evicted
{
	int			n_units;
	size_t		n_bytes;
} Evicted;

static void
evict_arena(const MoeArenaInfo *info, void *arg)
{
	Evicted    *evicted = arg;

	moe_arena_evict(info->arena, &evicted->n_units, &evicted->n_bytes);
}

/*
 * moe.evict(model text) returns record: units and bytes that went
 *
 * What sessions have pinned stays.  If none has the model open, its memory is
 * given back as well.
 */
Datum
pg_moe_evict(PG_FUNCTION_ARGS)
{
	MoeModelRow *row = moe_model_require(moe_text_arg(fcinfo, 0));
	Evicted		evicted = {0};

	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s", "evict"),
				 errhint("Only superusers and members of pg_read_server_files may evict models.")));
	moe_host_close(row->name);
	(void) moe_store_visit(row->weights_key, evict_arena, &evicted);
	(void) moe_store_free(row->weights_key);
	return units_and_bytes(fcinfo, evicted.n_units, evicted.n_bytes);
}
