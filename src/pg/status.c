/*-------------------------------------------------------------------------
 *
 * status.c
 *	  What the views moe.models and moe.status show.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "funcapi.h"
#include "gate.h"
#include "host.h"
#include "run.h"
#include "utils/builtins.h"
#include "weight_store.h"

MOE_FUNCTION(pg_moe_is_resident);
MOE_FUNCTION(pg_moe_status);

/* Columns of moe.status */
enum
{
	STATUS_HOST,
	STATUS_DEVICE,
	STATUS_ISA,
	STATUS_THREADS,
	STATUS_REPRODUCIBLE,
	STATUS_OPEN_MODELS,
	STATUS_BLOCKS,
	STATUS_SHARED_BYTES,
	STATUS_PRIVATE_BYTES,
	STATUS_SCHEDULERS,
	STATUS_SEQUENCES,
	STATUS_KV_PAGES_USED,
	STATUS_KV_PAGES_TOTAL,
	STATUS_PROMPT_TOKENS,
	STATUS_CACHED_TOKENS,
	STATUS_GENERATED_TOKENS,
	STATUS_WORKER_PID,
	STATUS_REQUESTS_RUNNING,
	STATUS_REQUESTS_WAITING,
	STATUS_COMPUTING,
	STATUS_WAITING,
	N_STATUS
};

/*
 * moe.is_resident(weights_key text) returns bool: are the weights in memory?
 */
Datum
pg_moe_is_resident(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(moe_store_holds(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}

static void
put_counters(Datum *values, const moe_counters *counters)
{
	values[STATUS_SCHEDULERS] = Int64GetDatum(counters->schedulers);
	values[STATUS_SEQUENCES] = Int64GetDatum(counters->sequences);
	values[STATUS_KV_PAGES_USED] = Int64GetDatum(counters->kv_pages_used);
	values[STATUS_KV_PAGES_TOTAL] = Int64GetDatum(counters->kv_pages_total);
}

/*
 * The part of moe.status that tells of the shared engine
 */
static void
shared_status(Datum *values, bool *nulls)
{
	MoeEngineStatus engine;

	moe_engine_status(&engine);
	values[STATUS_HOST] = CStringGetTextDatum("shared");
	values[STATUS_WORKER_PID] = Int32GetDatum(engine.pid);
	values[STATUS_ISA] = CStringGetTextDatum(engine.isa);
	nulls[STATUS_ISA] = engine.isa[0] == '\0';
	values[STATUS_THREADS] = Int32GetDatum(engine.threads);
	nulls[STATUS_THREADS] = engine.threads == 0;
	values[STATUS_REPRODUCIBLE] = BoolGetDatum(engine.reproducible);
	values[STATUS_OPEN_MODELS] = Int32GetDatum(engine.open_models);
	put_counters(values, &engine.counters);
	values[STATUS_REQUESTS_RUNNING] = Int32GetDatum(engine.requests_running);
	values[STATUS_REQUESTS_WAITING] = Int32GetDatum(engine.requests_waiting);
}

/*
 * The part of moe.status that tells of this backend's engine
 */
static void
backend_status(Datum *values, bool *nulls)
{
	MoeHostStatus host;

	moe_host_status(&host);
	values[STATUS_HOST] = CStringGetTextDatum("backend");
	nulls[STATUS_WORKER_PID] = true;
	values[STATUS_ISA] = CStringGetTextDatum(host.isa);
	values[STATUS_THREADS] = Int32GetDatum(host.threads);
	values[STATUS_REPRODUCIBLE] = BoolGetDatum(host.reproducible);
	values[STATUS_OPEN_MODELS] = Int32GetDatum(host.open_models);
	put_counters(values, &host.counters);
	nulls[STATUS_REQUESTS_RUNNING] = true;
	nulls[STATUS_REQUESTS_WAITING] = true;
}

/*
 * moe.get_status() returns the one row of moe.status
 *
 * It tells of the host that computes for this session, and of the backends that
 * moe.max_backends has let in or keeps waiting.  Token counts are the session's.
 */
Datum
pg_moe_status(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	MoeStoreUsage store;
	MoeRunTotals totals;
	int			computing;
	int			waiting;
	Datum		values[N_STATUS] = {0};
	bool		nulls[N_STATUS] = {0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	Assert(desc->natts == N_STATUS);
	moe_store_usage(&store);
	moe_run_totals(&totals);
	moe_gate_counts(&computing, &waiting);

	values[STATUS_DEVICE] = CStringGetTextDatum("cpu");
	if (moe_host_is_shared())
		shared_status(values, nulls);
	else
		backend_status(values, nulls);
	values[STATUS_BLOCKS] = Int32GetDatum(store.blocks);
	values[STATUS_SHARED_BYTES] = Int64GetDatum(store.shared_bytes);
	values[STATUS_PRIVATE_BYTES] = Int64GetDatum(store.private_bytes);
	values[STATUS_PROMPT_TOKENS] = Int64GetDatum(totals.prompt_tokens);
	values[STATUS_CACHED_TOKENS] = Int64GetDatum(totals.cached_tokens);
	values[STATUS_GENERATED_TOKENS] = Int64GetDatum(totals.generated_tokens);
	values[STATUS_COMPUTING] = Int32GetDatum(computing);
	values[STATUS_WAITING] = Int32GetDatum(waiting);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}
