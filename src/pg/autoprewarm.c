/*-------------------------------------------------------------------------
 *
 * autoprewarm.c
 *	  Loads after a restart what was in memory before it.
 *
 * If the library is preloaded, the postmaster starts a background worker once.
 * It takes the models of weight_usage.c whose weights were in shared memory, opens
 * all of them, the most recently used first, so that they divide the room among
 * themselves before any of it is filled, and then loads of each model as much as
 * there was, its dense parts and its hottest experts.  Then it ends, and what it
 * has loaded stays for whoever computes: sessions or the shared engine.
 *
 * It evicts nothing, has one thread, and loads a piece at a time: while requests
 * are at work, one a second.  A request for a model that is not complete
 * yet finds what is there and loads the rest of what it needs itself.
 *
 * Files that are gone or have changed are told to the log and left alone: what is
 * in memory under a model's key must be what was registered, and only a session can
 * know that.  The process is not started again, neither when it fails nor when
 * the server recovers from a crash, so that a file that makes it crash does so once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "autoprewarm.h"
#include "compat.h"
#include "host.h"
#include "postmaster/bgworker.h"
#include "stats.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "weight_store.h"
#include "weight_usage.h"

#define MAX_MODELS 64
#define PIECE_BYTES (64 * 1024 * 1024)
#define PAUSE_MS 1000

/* A model that is being loaded */
typedef struct Warm
{
	const MoeUsage *usage;
	moe_model  *model;
} Warm;

extern PGDLLEXPORT void pg_moe_autoprewarm_main(Datum arg);

static moe_engine *engine = NULL;
static Warm warm[MAX_MODELS];
static int	n_warm = 0;

/*
 * At the end of the process: give back what others may want, and stop the thread
 * while its memory is still there
 */
static void
warm_exit(int code, Datum arg)
{
	/* The postmaster died while the engine waited for us: its objects are in use */
	if (moe_store_is_waiting())
		return;

	while (n_warm > 0)
		moe_model_close(warm[--n_warm].model);
	moe_engine_free(engine);
	engine = NULL;
	moe_store_begin_exit();
}

static void
log_skipped(const MoeUsage *usage, const char *why)
{
	ereport(LOG,
			(errmsg("autoprewarm left out model file \"%s\": %s", usage->source.path, why)));
}

static void
open_model(const MoeUsage *usage)
{
	moe_model_options options = {0};
	MoeModelSpec spec = {.quantize = usage->source.quantize};
	moe_model  *model = NULL;
	moe_error	err = {0};
	char		stamp[MOE_STAMP_SIZE];
	char	   *complaint;

	if (moe_model_stamp(usage->source.path, stamp, sizeof(stamp), &err) != MOE_OK)
	{
		log_skipped(usage, err.message);
		return;
	}
	if (strcmp(stamp, usage->source.stamp) != 0)
	{
		log_skipped(usage, "it has changed");
		return;
	}
	strlcpy(spec.weights_key, usage->key, MOE_WEIGHTS_KEY_SIZE);
	moe_host_open_options(&options, &spec);
	if (moe_model_open(engine, usage->source.path, &options, &model, &err) != MOE_OK)
	{
		if (err.status != MOE_ERR_CANCELLED)
			log_skipped(usage, err.message);
		return;
	}
	complaint = moe_store_take_complaint();
	if (complaint != NULL)
	{
		log_skipped(usage, complaint);
		free(complaint);
		moe_model_close(model);
		return;
	}
	warm[n_warm++] = (Warm) {usage, model};
}

/*
 * Let requests go first, but not for ever
 */
static void
pause_for_requests(void)
{
	CHECK_FOR_INTERRUPTS();
	if (!moe_stat_any_at_work())
		return;
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, PAUSE_MS,
					 moe_wait_event_load());
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Load as much of a model as was in memory, or as there is room for
 */
static void
load_model(const Warm *w, int *n_units, uint64 *n_bytes)
{
	uint64		left = w->usage->resident_bytes;

	for (;;)
	{
		moe_error	err = {0};
		size_t		bytes;
		int			units;
		moe_status	status;

		pause_for_requests();
		status = moe_model_prewarm(w->model, Min(left, PIECE_BYTES), &moe_cancel_by_interrupt,
								   &units, &bytes, &err);
		*n_units += units;
		*n_bytes += bytes;
		if (status != MOE_OK && status != MOE_ERR_CANCELLED)
			log_skipped(w->usage, err.message);
		if (status != MOE_OK || units == 0 || bytes >= left)
			break;
		left -= bytes;
	}
	CHECK_FOR_INTERRUPTS();
}

void
pg_moe_autoprewarm_main(Datum arg)
{
	List	   *usages;
	ListCell   *lc;
	moe_error	err = {0};
	int			n_units = 0;
	uint64		n_bytes = 0;

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	before_shmem_exit(warm_exit, (Datum) 0);

	usages = moe_usage_list();
	if (usages == NIL)
		proc_exit(0);
	if (moe_host_create_engine(1, &engine, &err) != MOE_OK)
		ereport(ERROR, (errmsg("autoprewarm found no room for an engine: %s", err.message)));
	foreach(lc, usages)
	{
		CHECK_FOR_INTERRUPTS();
		if (n_warm < MAX_MODELS)
			open_model(lfirst(lc));
	}
	for (int i = 0; i < n_warm; i++)
		load_model(&warm[i], &n_units, &n_bytes);
	ereport(LOG,
			(errmsg("autoprewarm loaded %d units, %llu MB, of %d models", n_units,
					(unsigned long long) (n_bytes / (1024 * 1024)), n_warm)));
	proc_exit(0);
}

/*
 * Ask the postmaster to run the worker; to be called while libraries are
 * preloaded
 */
void
moe_autoprewarm_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "pg_moe", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "pg_moe_autoprewarm_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "pg_moe autoprewarm", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "pg_moe autoprewarm", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}
