/*-------------------------------------------------------------------------
 *
 * guc.c
 *	  The settings of the extension.
 *
 * No setting acts on its own: the values are read when a function is called
 * (host.c compares them with those that the running engine was made with), so
 * that a change never touches a computation that is under way.  What limits
 * the use of the machine (threads, memory, tokens) can be set by superusers
 * only; a role gets its own limit by ALTER ROLE ... SET.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "compat.h"
#include "guc.h"
#include "utils/guc.h"

char	   *moe_default_model = NULL;
int			moe_threads = 0;
int			moe_cpu_isa = 0;
bool		moe_reproducible = true;
int			moe_kv_cache_size = 1024;
int			moe_weight_cache_size = -1;
int			moe_max_tokens_per_query = 0;
int			moe_max_backends = 0;
int			moe_host = MOE_HOST_AUTO;
int			moe_shared_threads = 0;
bool		moe_shared_engine = true;
bool		moe_autoprewarm = true;
int			moe_max_requests = 1000;
bool		moe_batching = true;

/* One useful value so far; the enum rejects all others */
static int	moe_device = 0;

static const struct config_enum_entry isa_options[] = {
	{"auto", 0, false},
	{"scalar", 1, false},
	{"avx2", 2, false},
	{"avx512", 3, false},
	{"avx512_bf16", 4, false},
	{"amx", 5, false},
	{NULL, 0, false}
};

static const struct config_enum_entry device_options[] = {
	{"auto", 0, false},
	{"cpu", 1, false},
	{NULL, 0, false}
};

static const struct config_enum_entry host_options[] = {
	{"auto", MOE_HOST_AUTO, false},
	{"backend", MOE_HOST_BACKEND, false},
	{"shared", MOE_HOST_SHARED, false},
	{NULL, 0, false}
};

/*
 * The name by which the engine knows an instruction set
 */
const char *
moe_isa_name(int isa)
{
	return isa_options[isa].name;
}

/*
 * Define all settings and reserve their prefix
 */
void
moe_define_settings(void)
{
	DefineCustomStringVariable("moe.default_model",
							   "Model that is used where a function call names none.",
							   NULL,
							   &moe_default_model,
							   "pocket",
							   PGC_USERSET, 0,
							   NULL, NULL, NULL);

	DefineCustomIntVariable("moe.threads",
							"Threads that a session computes with.",
							"0 means as many as the process may run on.",
							&moe_threads,
							0, 0, 1024,
							PGC_SUSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("moe.shared_threads",
							"Threads that the shared engine computes with.",
							"0 means as many as the process may run on.",
							&moe_shared_threads,
							0, 0, 1024,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomEnumVariable("moe.cpu_isa",
							 "Instruction set of the kernels.",
							 "\"auto\" takes the best one that the processor has.",
							 &moe_cpu_isa,
							 0, isa_options,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);

	DefineCustomBoolVariable("moe.reproducible",
							 "Uses only kernels whose results are the same on every processor.",
							 NULL,
							 &moe_reproducible,
							 true,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);

	DefineCustomIntVariable("moe.kv_cache_size",
							"Limit of the key/value cache that a session keeps for one model.",
							"The shared engine keeps one for all sessions, of the size that the configuration file says.",
							&moe_kv_cache_size,
							1024, 1, INT_MAX,
							PGC_SUSET, GUC_UNIT_MB,
							NULL, NULL, NULL);

	DefineCustomIntVariable("moe.weight_cache_size",
							"Limit of the shared memory that holds model weights.",
							"Weights that no session uses make room for others; -1 means no limit. "
							"If pg_moe is preloaded, so much is taken from the server's main shared memory.",
							&moe_weight_cache_size,
							-1, -1, INT_MAX,
							process_shared_preload_libraries_in_progress ? PGC_POSTMASTER : PGC_SIGHUP,
							GUC_UNIT_MB,
							NULL, NULL, NULL);

	DefineCustomIntVariable("moe.max_tokens_per_query",
							"Limit of the prompt and generated tokens of one statement.",
							"0 means no limit.",
							&moe_max_tokens_per_query,
							0, 0, INT_MAX,
							PGC_SUSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("moe.max_backends",
							"Number of backends that compute at the same time.",
							"The others take turns with them; 0 means no limit.",
							&moe_max_backends,
							0, 0, INT_MAX,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomBoolVariable("moe.batching",
							 "Computes calls for many rows of a query together.",
							 NULL,
							 &moe_batching,
							 true,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);

	DefineCustomEnumVariable("moe.device",
							 "Device that computes.",
							 NULL,
							 &moe_device,
							 0, device_options,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);

	DefineCustomEnumVariable("moe.host",
							 "Process that computes.",
							 "\"auto\" takes the shared engine where there is one, else the session's own backend.",
							 &moe_host,
							 MOE_HOST_AUTO, host_options,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);

	if (process_shared_preload_libraries_in_progress)
	{
		DefineCustomBoolVariable("moe.shared_engine",
								 "Starts the process that computes for all sessions.",
								 NULL,
								 &moe_shared_engine,
								 true,
								 PGC_POSTMASTER, 0,
								 NULL, NULL, NULL);

		DefineCustomBoolVariable("moe.autoprewarm",
								 "Loads at start the weights that were in memory at shutdown.",
								 NULL,
								 &moe_autoprewarm,
								 true,
								 PGC_POSTMASTER, 0,
								 NULL, NULL, NULL);

		DefineCustomIntVariable("moe.max_requests",
								"Calls that the shared engine accepts at a time, at work or waiting.",
								NULL,
								&moe_max_requests,
								1000, 1, 100000,
								PGC_POSTMASTER, 0,
								NULL, NULL, NULL);
	}

	MarkGUCPrefixReserved("moe");
}
