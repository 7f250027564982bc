/*-------------------------------------------------------------------------
 *
 * host.c
 *	  This backend's engine and the models that it has open.
 *
 * Who computes is decided when a model is opened: this backend, which then opens
 * it with its weights, or the shared engine, for which the backend opens what
 * describes the model, since texts become tokens here.
 *
 * The engine is created when a function first needs it.  When a setting that it
 * was created with has changed, it is replaced as soon as no run holds one of
 * its models.  Open models are kept for the next call, the most recently used
 * first, and closed when there are too many, when their row in the catalog is
 * gone or says something else, or when the backend exits.  A model that a run
 * holds is never closed: the run goes on with it, and the next call opens what
 * the catalog then says.
 *
 * Before each use the files' stamp (sizes and modification times) is compared
 * with that of the registration.  If it differs, their digest is computed again,
 * once per server, and a model whose files are not the registered ones is
 * refused.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "client.h"
#include "common/hashfn.h"
#include "compat.h"
#include "error.h"
#include "guc.h"
#include "host.h"
#include "options.h"
#include "run.h"
#include "stats.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/procsignal.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "weight_store.h"

/* Models that a backend keeps open; one with weights and its text-only twin count as two */
#define MAX_OPEN_MODELS 8

/* How long a request waits for the shared engine when that is being started */
#define ENGINE_START_MS 10000

/* What a model is opened for */
typedef enum Purpose
{
	FOR_TEXT,					/* with weights or without */
	FOR_SHARED,					/* without */
	FOR_LOCAL					/* with them */
} Purpose;

static moe_engine *engine = NULL;
static int	engine_threads;		/* settings it was created with */
static int	engine_isa;
static bool engine_reproducible;

static MemoryContext host_context = NULL;
static dlist_head open_models = DLIST_STATIC_INIT(open_models); /* most recently used first */

static bool catalog_changed = false;	/* a model was dropped or replaced */

static bool cancel_requested(void *ud);

const moe_cancel moe_cancel_by_interrupt = {.requested = cancel_requested};

/*
 * Asked by the engine while it works: is the statement to end?
 *
 * Opening a large model takes minutes, so requests of other backends to all
 * processes (DROP DATABASE waits for them) are served here.
 */
static bool
cancel_requested(void *ud)
{
	if (ProcSignalBarrierPending && InterruptHoldoffCount == 0 && CritSectionCount == 0)
	{
		MemoryContext caller = CurrentMemoryContext;

		PG_TRY();
		{
			ProcessProcSignalBarrier();
		}
		PG_CATCH();
		{
			/* What failed stays pending, and is reported between two steps */
			MemoryContextSwitchTo(caller);
			FlushErrorState();
		}
		PG_END_TRY();
	}
	moe_look_for_client();
	return moe_interrupt_ends_statement();
}

/*
 * The server tells that a table changed; InvalidOid stands for any
 */
static void
table_changed(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == moe_catalog_relid())
		catalog_changed = true;
}

static void
close_model(MoeOpenModel *m)
{
	dlist_delete(&m->node);
	moe_model_close(m->model);
	for (int i = 0; i < m->n_descriptors; i++)
		ReleaseExternalFD();
	pfree(m->name);
	pfree(m->path);
	pfree(m->digest);
	pfree(m->stamp);
	pfree(m->options);
	pfree(m->query_prefix);
	pfree(m->passage_prefix);
	pfree(m);
}

/*
 * At the end of the process: stop the threads while their memory is still
 * there
 */
static void
host_exit(int code, Datum arg)
{
	/* The postmaster died while the engine waited for us: its objects are in use */
	if (moe_store_is_waiting())
		return;

	moe_runs_abort_all();
	while (!dlist_is_empty(&open_models))
		close_model(dlist_head_element(MoeOpenModel, node, &open_models));
	moe_engine_free(engine);
	engine = NULL;
	moe_store_begin_exit();
}

/*
 * Make sure that what we have is freed at the end, and that we learn of changes
 */
static void
ensure_host(void)
{
	if (host_context != NULL)
		return;
	host_context = AllocSetContextCreate(TopMemoryContext, "pg_moe", ALLOCSET_SMALL_SIZES);
	before_shmem_exit(host_exit, (Datum) 0);
	CacheRegisterRelcacheCallback(table_changed, (Datum) 0);
}

/*
 * Make sure that there is an engine, and one of the current settings if none is
 * at work
 */
static void
ensure_engine(void)
{
	moe_engine *created = NULL;
	moe_error	err = {0};

	ensure_host();
	if (engine != NULL &&
		((engine_threads == moe_threads && engine_isa == moe_cpu_isa &&
		  engine_reproducible == moe_reproducible) || moe_runs_any()))
		return;

	while (!dlist_is_empty(&open_models))
		close_model(dlist_head_element(MoeOpenModel, node, &open_models));
	moe_engine_free(engine);
	engine = NULL;

	moe_check(moe_host_create_engine(moe_threads, &created, &err), &err);
	engine = created;
	engine_threads = moe_threads;
	engine_isa = moe_cpu_isa;
	engine_reproducible = moe_reproducible;
}

/*
 * Does the shared engine compute as this session's settings say?
 */
static bool
settings_agree(const MoeEngineStatus *status)
{
	return status->isa_setting == moe_cpu_isa && status->reproducible == moe_reproducible;
}

/*
 * Is it the shared engine that computes for this session?
 */
bool
moe_host_is_shared(void)
{
	MoeEngineStatus status;

	if (moe_host == MOE_HOST_BACKEND)
		return false;
	if (!moe_engine_is_configured())
	{
		if (moe_host == MOE_HOST_AUTO)
			return false;
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this server has no shared engine"),
				 errhint("Add pg_moe to shared_preload_libraries, leave moe.shared_engine on, and restart the server; or set moe.host to backend.")));
	}
	if (!moe_engine_is_running() &&
		(moe_host == MOE_HOST_AUTO || !moe_engine_wait_for_start(ENGINE_START_MS)))
	{
		if (moe_host == MOE_HOST_AUTO)
			return false;
		ereport(ERROR,
				(errcode(ERRCODE_CANNOT_CONNECT_NOW),
				 errmsg("the shared engine is not running"),
				 errhint("The server's log says why; a background worker needs room in max_worker_processes. Meanwhile set moe.host to backend.")));
	}
	moe_engine_status(&status);
	if (settings_agree(&status))
		return true;
	if (moe_host == MOE_HOST_AUTO)
		return false;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the shared engine computes with other settings than this session"),
			 errdetail("There, moe.cpu_isa is %s and moe.reproducible is %s.",
					   moe_isa_name(status.isa_setting), status.reproducible ? "on" : "off"),
			 errhint("Use the same settings, or set moe.host to backend.")));
}

static uint64
fingerprint(const char *path, const char *stamp, const char *file_digest)
{
	char	   *all = psprintf("%s\n%s\n%s", path, stamp, file_digest);
	uint64		hash = hash_bytes_extended((unsigned char *) all, strlen(all), 0);

	pfree(all);
	return hash;
}

/*
 * Make sure that the files are those that were registered
 *
 * stamp receives their present stamp.
 */
static void
verify_files(const MoeModelRow *row, const char *path, char *stamp)
{
	char		digest[MOE_DIGEST_LEN + 1];
	moe_error	err = {0};
	char	   *doing = psprintf("could not open model \"%s\"", row->name);
	uint64		print;

	if (moe_model_stamp(path, stamp, MOE_STAMP_SIZE, &err) != MOE_OK)
		moe_throw(&err, doing);
	if (strcmp(stamp, row->stamp) == 0)
		return;
	print = fingerprint(path, stamp, row->file_digest);
	if (moe_store_is_verified(print))
		return;

	if (moe_model_digest(path, &moe_cancel_by_interrupt, digest, &err) != MOE_OK)
		moe_throw(&err, doing);
	if (strcmp(digest, row->file_digest) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("files of model \"%s\" have changed since it was registered", row->name),
				 row->builtin
				 ? errhint("Install the extension's files again.")
				 : errhint("If that was intended, register it again with moe.load_model(..., options => '{\"replace\": true}').")));
	moe_store_set_verified(print);
	pfree(doing);
}

/*
 * Is an open model what the row describes, and open as the settings say?
 */
static bool
is_current(const MoeOpenModel *m, const MoeModelRow *row, const char *path, const char *options)
{
	return strcmp(m->digest, row->digest) == 0 &&
		strcmp(m->path, path) == 0 &&
		strcmp(m->options, options) == 0 &&
		(m->text_only || m->kv_cache_size == moe_kv_cache_size);
}

/*
 * Find an open model by name, closing those of that name that are out of date
 */
static MoeOpenModel *
find_open(const MoeModelRow *row, const char *path, const char *options, Purpose purpose)
{
	MoeOpenModel *found = NULL;
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &open_models)
	{
		MoeOpenModel *m = dlist_container(MoeOpenModel, node, iter.cur);

		if (strcmp(m->name, row->name) != 0)
			continue;
		if (is_current(m, row, path, options))
		{
			if (found == NULL &&
				(purpose == FOR_TEXT || m->text_only == (purpose == FOR_SHARED)))
				found = m;
		}
		else if (m->users == 0)
			close_model(m);
	}
	return found;
}

/*
 * Close the models that were dropped or replaced meanwhile
 */
static void
close_stale(void)
{
	dlist_mutable_iter iter;

	catalog_changed = false;
	dlist_foreach_modify(iter, &open_models)
	{
		MoeOpenModel *m = dlist_container(MoeOpenModel, node, iter.cur);
		MoeModelRow *row;

		if (m->users > 0)
			continue;
		row = moe_model_lookup(m->name);
		if (row == NULL || strcmp(row->digest, m->digest) != 0)
			close_model(m);
	}
}

/*
 * Close the models used least recently until there is room for one more
 */
static void
make_room(void)
{
	int			n = 0;
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &open_models)
	{
		MoeOpenModel *m = dlist_container(MoeOpenModel, node, iter.cur);

		if (++n >= MAX_OPEN_MODELS && m->users == 0)
			close_model(m);
	}
}

/*
 * How a model is opened, here or in the shared engine
 */
void
moe_host_open_options(moe_model_options *options, const MoeModelSpec *spec)
{
	options->n_ctx = spec->n_ctx;
	options->kv_type = spec->kv_type;
	options->quantize = spec->quantize;
	options->kv_bytes = (size_t) moe_kv_cache_size * 1024 * 1024;
	options->kv_idle_bytes = options->kv_bytes / 8;
	options->store = &moe_shared_store;
	options->store_key = spec->weights_key;
	options->cancel = moe_cancel_by_interrupt;
}

/*
 * Create an engine of the current settings
 */
moe_status
moe_host_create_engine(int threads, moe_engine **out, moe_error *err)
{
	moe_engine_options options = {.n_threads = threads,
		.isa = moe_isa_name(moe_cpu_isa),
	.reproducible = moe_reproducible};
	moe_status	status;
	sigset_t	all,
				before;

	/* Its threads must inherit a mask that leaves all signals to this one */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	status = moe_engine_create(&options, out, err);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return status;
}

/*
 * Tell the user that weights went into private memory
 */
static void
warn_about_private_memory(const char *name)
{
	char	   *why = moe_store_take_complaint();
	char	   *copy;

	if (why == NULL)
		return;
	copy = pstrdup(why);
	free(why);
	ereport(WARNING,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("weights of model \"%s\" are not shared with other sessions", name),
			 errdetail("Shared memory could not be had: %s.", copy),
			 errhint("Enlarge /dev/shm (for a container, its --shm-size option), or drop models that are not needed.")));
}

/*
 * Open a model whose files have the stamp.  NULL and an error if that fails.
 */
static MoeOpenModel *
open_model(const MoeModelRow *row, const char *path, const char *stamp, const char *options_text,
		   bool text_only, moe_error *err)
{
	MoeOptions	options;
	MoeOpenModel *m;
	MemoryContext caller;
	moe_model_options open_options = {0};
	moe_model  *model = NULL;
	moe_status	status;

	moe_options_init(&options);
	moe_options_read(&options, row->options, MOE_SCOPE_LOAD);
	make_room();

	/*
	 * Allocate what can fail for lack of memory first: between opening the
	 * model and hanging it into the list nothing may raise an error.
	 */
	caller = MemoryContextSwitchTo(host_context);
	m = palloc0(sizeof(MoeOpenModel));
	m->name = pstrdup(row->name);
	m->path = pstrdup(path);
	m->digest = pstrdup(row->digest);
	m->stamp = pstrdup(stamp);
	m->options = pstrdup(options_text);
	m->query_prefix = pstrdup(options.query_prefix ? options.query_prefix : "");
	m->passage_prefix = pstrdup(options.passage_prefix ? options.passage_prefix : "");
	m->kv_cache_size = moe_kv_cache_size;
	m->text_only = text_only;
	MemoryContextSwitchTo(caller);
	strlcpy(m->spec.weights_key, row->weights_key, MOE_WEIGHTS_KEY_SIZE);
	m->spec.n_ctx = options.n_ctx;
	m->spec.kv_type = moe_options_kv_type(&options);
	m->spec.quantize = moe_options_quantize(&options);

	moe_host_open_options(&open_options, &m->spec);
	open_options.chat_template = options.chat_template;
	if (text_only)
		status = moe_model_describe(path, &open_options, &model, err);
	else
	{
		MoeStat		stat = moe_stat_begin(row->name, MOE_STAT_LOAD, MOE_PHASE_LOADING);

		status = moe_model_open(engine, path, &open_options, &model, err);
		moe_stat_end(stat);
	}

	dlist_push_head(&open_models, &m->node);
	m->model = model;
	m->n_descriptors = status == MOE_OK ? moe_model_descriptors(model) : 0;
	for (int i = 0; i < m->n_descriptors; i++)
		ReserveExternalFD();
	if (status != MOE_OK)
	{
		m->model = NULL;
		close_model(m);
		return NULL;
	}
	if (!text_only)
		moe_store_set_source(row->weights_key, path, stamp, m->spec.quantize);
	warn_about_private_memory(row->name);
	return m;
}

static moe_status
prewarm(const MoeOpenModel *m, int *n_units, size_t *n_bytes, moe_error *err)
{
	MoeStat		stat = moe_stat_begin(m->name, MOE_STAT_LOAD, MOE_PHASE_LOADING);
	moe_status	status = moe_model_prewarm(m->model, 0, &moe_cancel_by_interrupt, n_units, n_bytes, err);

	moe_stat_end(stat);
	return status;
}

/*
 * See to it that the weights are in shared memory
 *
 * So the shared engine, which opens models between two steps, keeps the other
 * sessions waiting for a moment only: reading and packing weights can take minutes.
 */
static void
load_weights(const MoeModelRow *row, const char *path, const char *stamp, const char *options_text)
{
	MoeOpenModel *m;
	moe_error	err = {0};
	moe_status	status;
	int			n_units;
	size_t		n_bytes;

	if (moe_store_holds(row->weights_key) || moe_engine_holds(row->weights_key))
		return;
	ensure_engine();
	m = open_model(row, path, stamp, options_text, false, &err);
	if (m == NULL && err.status == MOE_ERR_MEMORY)
		return;					/* the engine can close models to make room */
	if (m == NULL)
		moe_throw(&err, psprintf("could not open model \"%s\"", row->name));
	status = prewarm(m, &n_units, &n_bytes, &err);
	close_model(m);
	moe_check(status, &err);
}

static MoeOpenModel *
open_for(const MoeModelRow *row, Purpose purpose)
{
	char	   *path = moe_model_path(row);
	char	   *options_text = "";
	char		stamp[MOE_STAMP_SIZE];
	MoeOpenModel *m;
	moe_error	err = {0};

	ensure_host();
	if (purpose == FOR_LOCAL)
		ensure_engine();
	if (catalog_changed)
		close_stale();
	if (row->options)
		options_text = JsonbToCString(NULL, &row->options->root, VARSIZE(row->options));

	m = find_open(row, path, options_text, purpose);
	if (m != NULL)
	{
		/* The usual case, at the price of a few stat calls */
		if (moe_model_stamp(path, stamp, sizeof(stamp), &err) == MOE_OK && strcmp(stamp, m->stamp) == 0)
		{
			dlist_move_head(&open_models, &m->node);
			if (!m->text_only)
			{
				moe_store_grow(m->spec.weights_key);
				moe_store_note_usage(m->spec.weights_key);
			}
			return m;
		}
	}
	verify_files(row, path, stamp);
	if (m != NULL)
	{
		char	   *copy = MemoryContextStrdup(host_context, stamp);

		pfree(m->stamp);
		m->stamp = copy;
		moe_model_accept_files(m->model);
		if (!m->text_only)
			moe_store_set_source(m->spec.weights_key, path, stamp, m->spec.quantize);
		return m;
	}
	if (purpose == FOR_SHARED)
		load_weights(row, path, stamp, options_text);
	m = open_model(row, path, stamp, options_text, purpose != FOR_LOCAL, &err);
	if (m == NULL)
		moe_throw(&err, psprintf("could not open model \"%s\"", row->name));
	return m;
}

/*
 * The open model of a catalog row
 *
 * text_only asks for what the text functions need, which costs little.  The
 * result is valid until the next call, unless a run holds it (run.c).
 */
MoeOpenModel *
moe_host_open(const MoeModelRow *row, bool text_only)
{
	return open_for(row, text_only ? FOR_TEXT : moe_host_is_shared() ? FOR_SHARED : FOR_LOCAL);
}

/*
 * Load the weights of a model, whoever is to compute with them
 */
void
moe_host_prewarm(const MoeModelRow *row, int *n_units, size_t *n_bytes)
{
	MoeOpenModel *m = open_for(row, FOR_LOCAL);
	moe_error	err = {0};
	moe_status	status = prewarm(m, n_units, n_bytes, &err);

	if (moe_host_is_shared() && m->users == 0)
		close_model(m);
	moe_check(status, &err);
}

/*
 * Close the models of a name that no run holds
 */
void
moe_host_close(const char *name)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &open_models)
	{
		MoeOpenModel *m = dlist_container(MoeOpenModel, node, iter.cur);

		if (strcmp(m->name, name) == 0 && m->users == 0)
			close_model(m);
	}
}

/*
 * What moe.status shows of this backend
 */
void
moe_host_status(MoeHostStatus *status)
{
	dlist_iter	iter;

	memset(status, 0, sizeof(MoeHostStatus));
	ensure_engine();
	status->isa = moe_engine_isa(engine);
	status->threads = moe_engine_threads(engine);
	status->reproducible = engine_reproducible;
	dlist_foreach(iter, &open_models)
	{
		MoeOpenModel *m = dlist_container(MoeOpenModel, node, iter.cur);
		moe_counters c = {0};

		status->open_models++;
		if (m->text_only)
			continue;
		moe_model_counters(m->model, &c);
		status->counters.schedulers += c.schedulers;
		status->counters.sequences += c.sequences;
		status->counters.kv_pages_used += c.kv_pages_used;
		status->counters.kv_pages_total += c.kv_pages_total;
	}
}
