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
 * Where the library is not preloaded, a client may name a setting at the start of a
 * session in which nothing is known of it.  The server takes that value in place of
 * those of the configuration file, the database and the role, and finds out that it is
 * not allowed when the setting is defined.  So these are looked up then, and count as if
 * the library had been there from the start.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "guc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"

#define PREFIX "moe"

/*
 * A setting gets what was said of it before when it is defined, and the first call of a
 * session may stand inside a parallel query, in the leader.
 */
#define LATE GUC_ALLOW_IN_PARALLEL

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

/* A value that was given to a setting before it was defined */
typedef struct GivenValue
{
	char	   *name;
	char	   *value;
	GucContext	context;
	GucSource	source;
} GivenValue;

/*
 * Add a value to the list if the setting is one of ours
 */
static List *
add_given(List *given, const char *name, const char *value, GucContext context, GucSource source)
{
	GivenValue *g;

	if (pg_strncasecmp(name, PREFIX ".", strlen(PREFIX ".")) != 0)
		return given;
	g = palloc(sizeof(GivenValue));
	g->name = pstrdup(name);
	g->value = pstrdup(value);
	g->context = context;
	g->source = source;
	return lappend(given, g);
}

/*
 * Add what a configuration file says; what of it cannot be read says nothing
 */
static List *
add_file(List *given, const char *file, bool must_exist)
{
	ConfigVariable *head = NULL;
	ConfigVariable *tail = NULL;

	(void) ParseConfigFile(file, must_exist, NULL, 0, 0, DEBUG1, &head, &tail);
	for (ConfigVariable *v = head; v != NULL; v = v->next)
		if (v->errmsg == NULL && !v->ignore)
			given = add_given(given, v->name, v->value, PGC_SIGHUP, PGC_S_FILE);
	FreeConfigVariables(head);
	return given;
}

/*
 * Add what ALTER ROLE and ALTER DATABASE ... SET say for a database and a role, of which
 * either may be InvalidOid, for all.  Who may say it was checked then.
 */
static List *
add_role_settings(List *given, Relation rel, Oid database, Oid role, GucSource source)
{
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_db_role_setting_setdatabase, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(database));
	ScanKeyInit(&keys[1], Anum_pg_db_role_setting_setrole, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(role));
	scan = systable_beginscan(rel, DbRoleSettingDatidRolidIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		config = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
										  RelationGetDescr(rel), &isnull);
		Datum	   *items;
		int			n = 0;

		if (!isnull)
			deconstruct_array(DatumGetArrayTypeP(config), TEXTOID, -1, false, TYPALIGN_INT,
							  &items, NULL, &n);
		for (int i = 0; i < n; i++)
		{
			char	   *name;
			char	   *value;

			ParseLongOption(TextDatumGetCString(items[i]), &name, &value);
			if (value != NULL)
				given = add_given(given, name, value, PGC_SUSET, source);
		}
	}
	systable_endscan(scan);
	return given;
}

/*
 * The values of our settings that a session begins with if its client says nothing, in
 * the order in which they override one another.  None while the server starts, and for a
 * server of a single user, which gets no such settings either.
 */
static List *
given_values(void)
{
	List	   *given = NIL;
	Relation	rel;
	Oid			role;

	if (!IsUnderPostmaster)
		return NIL;
	given = add_file(given, ConfigFileName, true);
	given = add_file(given, PG_AUTOCONF_FILENAME, false);
	if (!IsTransactionState() || !OidIsValid(MyDatabaseId))
		return given;

	role = GetAuthenticatedUserId();
	rel = table_open(DbRoleSettingRelationId, AccessShareLock);
	given = add_role_settings(given, rel, InvalidOid, InvalidOid, PGC_S_GLOBAL);
	given = add_role_settings(given, rel, MyDatabaseId, InvalidOid, PGC_S_DATABASE);
	given = add_role_settings(given, rel, InvalidOid, role, PGC_S_USER);
	given = add_role_settings(given, rel, MyDatabaseId, role, PGC_S_DATABASE_USER);
	table_close(rel, AccessShareLock);
	return given;
}

static void
define_settings(void)
{
	DefineCustomStringVariable("moe.default_model",
							   "Model that is used where a function call names none.",
							   NULL,
							   &moe_default_model,
							   "pocket",
							   PGC_USERSET, LATE,
							   NULL, NULL, NULL);

	DefineCustomIntVariable("moe.threads",
							"Threads that a session computes with.",
							"0 means as many as the process may run on.",
							&moe_threads,
							0, 0, 1024,
							PGC_SUSET, LATE,
							NULL, NULL, NULL);

	DefineCustomIntVariable("moe.shared_threads",
							"Threads that the shared engine computes with.",
							"0 means as many as the process may run on.",
							&moe_shared_threads,
							0, 0, 1024,
							PGC_SIGHUP, LATE,
							NULL, NULL, NULL);

	DefineCustomEnumVariable("moe.cpu_isa",
							 "Instruction set of the kernels.",
							 "\"auto\" takes the best one that the processor has.",
							 &moe_cpu_isa,
							 0, isa_options,
							 PGC_SUSET, LATE,
							 NULL, NULL, NULL);

	DefineCustomBoolVariable("moe.reproducible",
							 "Uses only kernels whose results are the same on every processor.",
							 NULL,
							 &moe_reproducible,
							 true,
							 PGC_USERSET, LATE,
							 NULL, NULL, NULL);

	DefineCustomIntVariable("moe.kv_cache_size",
							"Limit of the key/value cache that a session keeps for one model.",
							"The shared engine keeps one for all sessions, of the size that the configuration file says.",
							&moe_kv_cache_size,
							1024, 1, INT_MAX,
							PGC_SUSET, GUC_UNIT_MB | LATE,
							NULL, NULL, NULL);

	DefineCustomIntVariable("moe.weight_cache_size",
							"Limit of the shared memory that holds model weights.",
							"Weights that no session uses make room for others; -1 means no limit. "
							"If pg_moe is preloaded, so much is taken from the server's main shared memory.",
							&moe_weight_cache_size,
							-1, -1, INT_MAX,
							process_shared_preload_libraries_in_progress ? PGC_POSTMASTER : PGC_SIGHUP,
							GUC_UNIT_MB | LATE,
							NULL, NULL, NULL);

	DefineCustomIntVariable("moe.max_tokens_per_query",
							"Limit of the prompt and generated tokens of one statement.",
							"0 means no limit.",
							&moe_max_tokens_per_query,
							0, 0, INT_MAX,
							PGC_SUSET, LATE,
							NULL, NULL, NULL);

	DefineCustomIntVariable("moe.max_backends",
							"Number of backends that compute at the same time.",
							"The others take turns with them; 0 means no limit.",
							&moe_max_backends,
							0, 0, INT_MAX,
							PGC_SIGHUP, LATE,
							NULL, NULL, NULL);

	DefineCustomBoolVariable("moe.batching",
							 "Computes calls for many rows of a query together.",
							 NULL,
							 &moe_batching,
							 true,
							 PGC_USERSET, LATE,
							 NULL, NULL, NULL);

	DefineCustomEnumVariable("moe.device",
							 "Device that computes.",
							 NULL,
							 &moe_device,
							 0, device_options,
							 PGC_USERSET, LATE,
							 NULL, NULL, NULL);

	DefineCustomEnumVariable("moe.host",
							 "Process that computes.",
							 "\"auto\" takes the shared engine where there is one, else the session's own backend.",
							 &moe_host,
							 MOE_HOST_AUTO, host_options,
							 PGC_USERSET, LATE,
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
}

/*
 * Define all settings, with the values that they are given by others than the client, and
 * reserve their prefix.  What the client gave and may give stays above these, as does what
 * the session has set since; what is wrong with a value the server has said already.
 */
void
moe_define_settings(void)
{
	List	   *given = given_values();	/* may fail, when nothing is defined yet */
	ListCell   *lc;

	define_settings();
	foreach(lc, given)
	{
		const GivenValue *g = lfirst(lc);

		(void) set_config_option(g->name, g->value, g->context, g->source, GUC_ACTION_SET, true,
								 DEBUG1, false);
	}
	MarkGUCPrefixReserved(PREFIX);
}
