/*-------------------------------------------------------------------------
 *
 * pg_moe.c
 *	  Entry point of the library.
 *
 * Loading it defines settings, and hooks into the start of the executor to batch
 * the calls of many rows.  Threads, models and memory come into being when a
 * function needs them, in the backend that calls it.
 * The library works without shared_preload_libraries; preloaded, it asks for
 * the shared memory of its control block instead of taking it from the
 * server's reserve, and has the postmaster run the shared engine and, at its start, a
 * process that loads the weights that were in memory before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "autoprewarm.h"
#include "batch.h"
#include "channel.h"
#include "compat.h"
#include "engine_worker.h"
#include "guc.h"
#include "shared_state.h"
#include "weight_blocks.h"

#ifdef PG_MODULE_MAGIC_EXT
PG_MODULE_MAGIC_EXT(.name = "pg_moe", .version = "0.1.0");
#else
PG_MODULE_MAGIC;
#endif

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	moe_define_settings();
	moe_blocks_request_shmem();
	moe_batch_init();
	moe_shared_state_init();
	if (process_shared_preload_libraries_in_progress && moe_shared_engine && !IsBinaryUpgrade)
	{
		moe_engine_request_shmem();
		moe_engine_register();
	}
	if (process_shared_preload_libraries_in_progress && moe_autoprewarm && !IsBinaryUpgrade)
		moe_autoprewarm_register();
}
