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

/*
 * moe.is_resident(weights_key text) returns bool: are the weights in memory?
 */
Datum
pg_moe_is_resident(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(moe_store_holds(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}

/*
 * moe.get_status() returns the one row of moe.status
 *
 * Everything is this session's, but for the shared memory and the backends that
 * moe.max_backends has let in or keeps waiting.  While no cursor
 * holds a stream, schedulers, sequences and kv_pages_used are zero.
 */
Datum
pg_moe_status(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	MoeHostStatus host;
	MoeStoreUsage store;
	MoeRunTotals totals;
	int			computing;
	int			waiting;
	Datum		values[18];
	bool		nulls[18] = {0};
	int			i = 0;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	moe_host_status(&host);
	moe_store_usage(&store);
	moe_run_totals(&totals);
	moe_gate_counts(&computing, &waiting);

	values[i++] = CStringGetTextDatum("backend");
	values[i++] = CStringGetTextDatum("cpu");
	values[i++] = CStringGetTextDatum(host.isa);
	values[i++] = Int32GetDatum(host.threads);
	values[i++] = BoolGetDatum(host.reproducible);
	values[i++] = Int32GetDatum(host.open_models);
	values[i++] = Int32GetDatum(store.blocks);
	values[i++] = Int64GetDatum(store.shared_bytes);
	values[i++] = Int64GetDatum(store.private_bytes);
	values[i++] = Int64GetDatum(host.counters.schedulers);
	values[i++] = Int64GetDatum(host.counters.sequences);
	values[i++] = Int64GetDatum(host.counters.kv_pages_used);
	values[i++] = Int64GetDatum(host.counters.kv_pages_total);
	values[i++] = Int64GetDatum(totals.prompt_tokens);
	values[i++] = Int64GetDatum(totals.cached_tokens);
	values[i++] = Int64GetDatum(totals.generated_tokens);
	values[i++] = Int32GetDatum(computing);
	values[i++] = Int32GetDatum(waiting);
	Assert(i == lengthof(values) && i == desc->natts);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}
