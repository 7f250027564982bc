/*-------------------------------------------------------------------------
 *
 * engine_worker.c
 *	  The shared engine: a background worker that computes for all sessions.
 *
 * It has shared memory but no database.  Sessions send it token ids and the
 * files of a model (wire.h); rights, names and texts are their affair.  It opens
 * each model once, and as long as anybody uses it, one scheduler takes the
 * requests of all sessions, so that their tokens go through the weights together.
 *
 * The main loop takes what has arrived, runs one step of one model that has
 * work, hands the results on, and waits for its latch if there was nothing to do.
 * Models take turns by time: next is the one that has computed least, and one
 * that has work again after a rest begins level with that one.  While several
 * have work and somebody waits for an answer, steps are kept short.  The loop
 * never waits for a session: results that do not fit into a channel
 * stay in their sequence until they do.  A session that is gone is noticed
 * before the next step, and within a step if the step is for nobody else.
 *
 * What goes wrong with a request is its answer.  An error of PostgreSQL ends
 * the process; the postmaster starts another one.
 *
 * The engine, and with it threads, come with the first request.  Changed settings
 * take effect when no session uses a model.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "engine_worker.h"
#include "guc.h"
#include "host.h"
#include "portability/instr_time.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "weight_store.h"

#define RESTART_SECONDS 1

/*
 * Requests of one run that are taken into the scheduler, which fills its steps
 * with them; more wait in the channel, so that runs take turns
 */
#define MAX_TAKEN 64

/* Results of a run go in messages of about this size */
#define EVENTS_SIZE 8192

/* What a step may take about, in seconds, while others wait for its end */
#define STEP_SECONDS 0.25

/* An open model */
typedef struct SharedModel
{
	dlist_node	node;			/* in models, most recently used first */
	MoeModelSpec spec;
	moe_model  *model;
	moe_scheduler *scheduler;	/* NULL while nobody uses the model */
	int			users;			/* sessions in a run */
	bool		stale;			/* to be closed when nobody uses it */
	double		used;			/* seconds in steps, or what counts as such */
	bool		active;			/* had work at the last turn */
	bool		tried;			/* in this turn: had nothing to do after all */
} SharedModel;

/* A request */
typedef struct Job
{
	dlist_node	node;			/* in its session's jobs */
	uint32		number;			/* in the run */
	moe_seq    *seq;			/* NULL: it could not be queued */
	moe_error  *error;			/* then why */
	bool		started;		/* MOE_EVENT_PROMPT has been sent */
	int64		prompt_read;	/* that MOE_EVENT_READ has told */
} Job;

/* A session that has a channel to us */
typedef struct Session
{
	dlist_node	node;			/* in sessions */
	MoePeer    *peer;
	SharedModel *model;			/* of the current run */
	moe_error  *error;			/* why that has none */
	dlist_head	jobs;
	int			n_jobs;
	StringInfoData events;		/* to be sent */
	bool		lost;			/* the other end is gone */
} Session;

extern PGDLLEXPORT void pg_moe_engine_main(Datum arg);

static moe_engine *engine = NULL;
static int	engine_threads;		/* settings it was created with */
static int	engine_isa;
static bool engine_reproducible;

static MemoryContext worker_context = NULL;
static dlist_head models = DLIST_STATIC_INIT(models);
static dlist_head sessions = DLIST_STATIC_INIT(sessions);
static uint32 models_forgotten = 0; /* value of moe_engine_models_forgotten() acted upon */
static double least_used = 0;	/* the smallest of what active models have used */

/* ----------
 * Models
 * ----------
 */

static void
close_model(SharedModel *m)
{
	Assert(m->users == 0 && m->scheduler == NULL);
	dlist_delete(&m->node);
	moe_model_close(m->model);
	pfree(m);
}

/*
 * Close the models that are to be closed and that nobody uses, and those used
 * least recently of more than n
 */
static void
close_models(int n)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &models)
	{
		SharedModel *m = dlist_container(SharedModel, node, iter.cur);

		if (m->users == 0 && (m->stale || n <= 0))
			close_model(m);
		else
			n--;
	}
}

/*
 * Have all models closed, as soon as nobody uses them
 */
static void
forget_models(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &models)
		dlist_container(SharedModel, node, iter.cur)->stale = true;
	close_models(MOE_ENGINE_MODELS);
}

static bool
any_model_in_use(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &models)
		if (dlist_container(SharedModel, node, iter.cur)->users > 0)
			return true;
	return false;
}

static void
free_engine(void)
{
	close_models(0);
	moe_engine_free(engine);
	engine = NULL;
}

/*
 * Act upon what has changed: settings, and models that were dropped or replaced
 *
 * An engine with models in use stays as it is until they are not.
 */
static void
follow_changes(void)
{
	uint32		forgotten = moe_engine_models_forgotten();
	bool		reload = ConfigReloadPending;

	ConfigReloadPending = false;
	if (reload)
		ProcessConfigFile(PGC_SIGHUP);
	if (reload || forgotten != models_forgotten)
		forget_models();
	models_forgotten = forgotten;

	if (engine != NULL &&
		(engine_threads != moe_shared_threads || engine_isa != moe_cpu_isa ||
		 engine_reproducible != moe_reproducible) && !any_model_in_use())
		free_engine();
}

/*
 * Make sure that there is an engine
 */
static moe_status
ensure_engine(moe_error *err)
{
	if (engine != NULL)
		return MOE_OK;
	engine_threads = moe_shared_threads;
	engine_isa = moe_cpu_isa;
	engine_reproducible = moe_reproducible;
	return moe_host_create_engine(moe_shared_threads, &engine, err);
}

/*
 * Has a session a part in the step that is being computed?
 */
static bool
has_part(Session *s)
{
	dlist_iter	iter;

	dlist_foreach(iter, &s->jobs)
	{
		const Job  *job = dlist_container(Job, node, iter.cur);

		if (job->seq != NULL && moe_seq_in_step(job->seq))
			return true;
	}
	return false;
}

/*
 * Asked by the engine within a step: is it for nobody?
 */
static bool
step_is_vain(void *ud)
{
	dlist_iter	iter;

	if (moe_interrupt_ends_statement())
		return true;
	dlist_foreach(iter, &sessions)
	{
		Session    *s = dlist_container(Session, node, iter.cur);

		if (s->model == ud && !*s->peer->gone && has_part(s))
			return false;
	}
	return true;
}

/*
 * Give the model a scheduler, if it has none
 */
static moe_status
ensure_scheduler(SharedModel *m, moe_error *err)
{
	moe_scheduler_options options = {.step_seconds = STEP_SECONDS, .cancel = {step_is_vain, m}};

	if (m->scheduler != NULL)
		return MOE_OK;
	return moe_scheduler_create(m->model, &options, &m->scheduler, err);
}

/*
 * Tell the log that weights went into private memory; once per process and model
 */
static void
log_private_memory(const char *path)
{
	char	   *why = moe_store_take_complaint();

	if (why == NULL)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("weights of model file \"%s\" are not shared with sessions", path),
			 errdetail("Shared memory could not be had: %s.", why)));
	free(why);
}

static moe_status
open_model(const MoeModelSpec *spec, const char *path, SharedModel **out, moe_error *err)
{
	moe_model_options options = {0};
	SharedModel *m;
	moe_status	status;

	close_models(MOE_ENGINE_MODELS - 1);
	m = MemoryContextAllocZero(worker_context, sizeof(SharedModel));
	m->spec = *spec;
	moe_host_open_options(&options, &m->spec);
	options.kv_idle_bytes = options.kv_bytes / 2;	/* it serves all sessions */
	status = moe_model_open(engine, path, &options, &m->model, err);
	if (status != MOE_OK)
	{
		pfree(m);
		return status;
	}
	dlist_push_head(&models, &m->node);
	log_private_memory(path);
	*out = m;
	return MOE_OK;
}

/*
 * Find a model or open it, give it a scheduler, and hold it
 */
static moe_status
join_model(const MoeModelSpec *spec, const char *path, const char *stamp, SharedModel **out,
		   moe_error *err)
{
	SharedModel *m = NULL;
	dlist_iter	iter;
	moe_status	status = ensure_engine(err);

	*out = NULL;
	if (status != MOE_OK)
		return status;
	dlist_foreach(iter, &models)
	{
		SharedModel *candidate = dlist_container(SharedModel, node, iter.cur);

		if (strcmp(candidate->spec.weights_key, spec->weights_key) == 0 &&
			candidate->spec.n_ctx == spec->n_ctx &&
			candidate->spec.kv_type == spec->kv_type &&
			candidate->spec.quantize == spec->quantize)
			m = candidate;
	}
	if (m != NULL)
	{
		dlist_move_head(&models, &m->node);
		moe_model_accept_files(m->model);	/* the session has verified them */
	}
	else
	{
		status = open_model(spec, path, &m, err);
		if (status == MOE_ERR_MEMORY)
		{
			/* Models that nobody uses may take the room */
			close_models(0);
			status = open_model(spec, path, &m, err);
		}
	}
	if (status == MOE_OK)
	{
		moe_store_set_source(spec->weights_key, path, stamp, spec->quantize);
		moe_store_grow(spec->weights_key);
		status = ensure_scheduler(m, err);
	}
	if (status != MOE_OK)
		return status;
	m->users++;
	*out = m;
	return MOE_OK;
}

/*
 * Let a model go
 */
static void
leave_model(SharedModel *m)
{
	if (--m->users > 0)
		return;
	moe_scheduler_free(m->scheduler);
	m->scheduler = NULL;
	moe_store_note_usage(m->spec.weights_key);
	if (m->stale)
		close_model(m);
}

/* ----------
 * Sessions: what they ask for
 * ----------
 */

static void
free_job(Session *s, Job *job)
{
	moe_seq_free(job->seq);
	if (job->error)
		pfree(job->error);
	dlist_delete(&job->node);
	s->n_jobs--;
	pfree(job);
}

static void
end_run(Session *s)
{
	while (!dlist_is_empty(&s->jobs))
		free_job(s, dlist_head_element(Job, node, &s->jobs));
	if (s->model)
		leave_model(s->model);
	s->model = NULL;
	if (s->error)
		pfree(s->error);
	s->error = NULL;
}

static void
close_session(Session *s)
{
	end_run(s);
	dlist_delete(&s->node);
	moe_peer_close(s->peer);	/* and the session, which is in its context */
}

static void
accept_sessions(void)
{
	MoePeer    *peer;

	while ((peer = moe_peer_accept()) != NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(peer->context);
		Session    *s = palloc0(sizeof(Session));

		s->peer = peer;
		dlist_init(&s->jobs);
		initStringInfo(&s->events);
		dlist_push_tail(&sessions, &s->node);
		MemoryContextSwitchTo(caller);
	}
}

static moe_error *
keep_error(Session *s, const moe_error *err)
{
	moe_error  *copy = MemoryContextAlloc(s->peer->context, sizeof(moe_error));

	*copy = *err;
	return copy;
}

static void
begin_run(Session *s, const MoeMessage *message)
{
	moe_error	err = {0};
	const char *path,
			   *stamp;
	const MoeModelSpec *spec = moe_wire_spec(message, &path, &stamp);

	end_run(s);
	if (join_model(spec, path, stamp, &s->model, &err) != MOE_OK)
		s->error = keep_error(s, &err);
}

static void
add_job(Session *s, const MoeMessage *message)
{
	Job		   *job = MemoryContextAllocZero(s->peer->context, sizeof(Job));
	moe_error	err = {0};
	moe_request request;

	job->number = message->seq;
	dlist_push_tail(&s->jobs, &job->node);
	s->n_jobs++;
	if (s->model == NULL)
	{
		job->error = keep_error(s, s->error);
		return;
	}
	moe_wire_request(message, &request);
	if (moe_scheduler_add(s->model->scheduler, &request, &job->seq, &err) != MOE_OK)
		job->error = keep_error(s, &err);
}

static void
pause_job(Session *s, const MoeMessage *message)
{
	dlist_iter	iter;

	dlist_foreach(iter, &s->jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		if (job->number == message->seq && job->seq != NULL)
			moe_seq_pause_at(job->seq, *(const int64 *) (message + 1));
	}
}

/*
 * Take the messages of a session that can be taken now; false if there was none
 */
static bool
read_session(Session *s)
{
	bool		any = false;

	s->lost |= *s->peer->gone;
	while (!s->lost && s->n_jobs < MAX_TAKEN)
	{
		void	   *message;
		Size		len;
		shm_mq_result result = shm_mq_receive(s->peer->requests, &len, &message, true);

		s->lost = result == SHM_MQ_DETACHED;
		if (result != SHM_MQ_SUCCESS)
			break;
		any = true;
		switch (((MoeMessage *) message)->type)
		{
			case MOE_MSG_BEGIN:
				begin_run(s, message);
				break;
			case MOE_MSG_ADD:
				add_job(s, message);
				break;
			case MOE_MSG_PAUSE_AT:
				pause_job(s, message);
				break;
			case MOE_MSG_END:
				end_run(s);
				break;
		}
	}
	return any;
}

/* ----------
 * Sessions: what they get
 * ----------
 */

/*
 * Write what is new of a job; true if it is done and all of it is written
 */
static bool
write_job(Session *s, Job *job)
{
	StringInfo	buf = &s->events;
	const moe_error *err = job->seq ? moe_seq_error(job->seq) : job->error;
	moe_token	token;
	MoeDone		done;
	const float *embedding;
	int64		read;
	int			n;

	if (job->seq != NULL && !job->started && moe_seq_usage(job->seq)->prompt_tokens > 0)
	{
		moe_wire_event(buf, MOE_EVENT_PROMPT, job->number, moe_seq_usage(job->seq),
					   sizeof(moe_usage), NULL, 0);
		job->started = true;
	}
	if (job->seq != NULL && (read = moe_seq_prompt_read(job->seq)) > job->prompt_read &&
		read < moe_seq_usage(job->seq)->prompt_tokens)
	{
		job->prompt_read = read;
		moe_wire_event(buf, MOE_EVENT_READ, job->number, &job->prompt_read,
					   sizeof(job->prompt_read), NULL, 0);
	}
	while (job->seq != NULL && buf->len < EVENTS_SIZE && moe_seq_next(job->seq, &token))
		moe_wire_event(buf, MOE_EVENT_TOKEN, job->number, &token, sizeof(token),
					   token.piece, token.piece_len);
	if (buf->len >= EVENTS_SIZE)
		return false;
	if (err != NULL)
	{
		moe_wire_event(buf, MOE_EVENT_ERROR, job->number, err, sizeof(moe_error), NULL, 0);
		return true;
	}
	if (!moe_seq_done(job->seq))
		return false;
	embedding = moe_seq_embedding(job->seq, &n);
	if (embedding != NULL)
		moe_wire_event(buf, MOE_EVENT_EMBEDDING, job->number, embedding, sizeof(float) * n, NULL, 0);
	done.finish = moe_seq_finish(job->seq);
	done.usage = *moe_seq_usage(job->seq);
	moe_wire_event(buf, MOE_EVENT_DONE, job->number, &done, sizeof(done), NULL, 0);
	return true;
}

/*
 * Write what is new of a session's jobs, up to the size of a message
 */
static void
write_events(Session *s)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &s->jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		if (s->events.len >= EVENTS_SIZE)
			break;
		if (write_job(s, job))
			free_job(s, job);
	}
}

/*
 * Send a session what can be sent now; false if that was nothing
 */
static bool
write_session(Session *s)
{
	bool		any = false;

	while (!s->lost)
	{
		shm_mq_result result;

		/* A message that was sent in part must be offered again as it is */
		if (s->events.len == 0)
			write_events(s);
		if (s->events.len == 0)
			break;
		result = shm_mq_send(s->peer->events, s->events.len, s->events.data, true, true);
		if (result == SHM_MQ_WOULD_BLOCK)
			break;
		s->lost = result == SHM_MQ_DETACHED;
		any = true;
		resetStringInfo(&s->events);
	}
	return any;
}

/*
 * Take what sessions ask for, and forget those that are gone; false if there was
 * nothing to take
 */
static bool
read_sessions(void)
{
	bool		any = false;
	dlist_mutable_iter iter;

	accept_sessions();
	dlist_foreach_modify(iter, &sessions)
	{
		Session    *s = dlist_container(Session, node, iter.cur);

		any |= read_session(s);
		if (s->lost)
			close_session(s);
	}
	return any;
}

/*
 * Hand on what can be handed on; false if that was nothing
 */
static bool
write_sessions(void)
{
	bool		any = false;
	dlist_iter	iter;

	dlist_foreach(iter, &sessions)
	{
		Session    *s = dlist_container(Session, node, iter.cur);

		if (s->n_jobs > 0 || s->events.len > 0)
			any |= write_session(s);
	}
	return any;
}

/* ----------
 * Steps
 * ----------
 */

/*
 * A step failed as a whole: that is the answer to all who had a part in it
 */
static void
fail_jobs(SharedModel *m, const moe_error *err)
{
	dlist_iter	session_iter;

	dlist_foreach(session_iter, &sessions)
	{
		Session    *s = dlist_container(Session, node, session_iter.cur);
		dlist_iter	iter;

		if (s->model != m)
			continue;
		dlist_foreach(iter, &s->jobs)
		{
			Job		   *job = dlist_container(Job, node, iter.cur);

			if (job->seq == NULL || moe_seq_done(job->seq))
				continue;
			moe_seq_free(job->seq);
			job->seq = NULL;
			job->error = keep_error(s, err);
		}
	}
}

/*
 * Find out which models have work, and have their steps short if that of one is
 * waited for
 */
static void
begin_turn(void)
{
	bool		hurry = false;
	int			n_active = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &models)
	{
		SharedModel *m = dlist_container(SharedModel, node, iter.cur);
		moe_work	work = m->scheduler ? moe_scheduler_work(m->scheduler) : MOE_WORK_NONE;

		if (work != MOE_WORK_NONE && !m->active)
			m->used = Max(m->used, least_used);
		m->active = work != MOE_WORK_NONE;
		m->tried = false;
		n_active += m->active;
		hurry |= work == MOE_WORK_INTERACTIVE;
	}
	dlist_foreach(iter, &models)
	{
		SharedModel *m = dlist_container(SharedModel, node, iter.cur);

		if (m->active && hurry && n_active > 1)
			moe_scheduler_hurry(m->scheduler);
	}
}

/*
 * The model whose turn it is; NULL if there is none left to try
 */
static SharedModel *
next_model(void)
{
	SharedModel *next = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &models)
	{
		SharedModel *m = dlist_container(SharedModel, node, iter.cur);

		if (m->active && !m->tried && (next == NULL || m->used < next->used))
			next = m;
	}
	return next;
}

/*
 * Take note of the time that a step of a model took
 */
static void
charge_step(SharedModel *stepped, double seconds)
{
	dlist_iter	iter;

	stepped->used += seconds;
	least_used = stepped->used;
	dlist_foreach(iter, &models)
	{
		SharedModel *m = dlist_container(SharedModel, node, iter.cur);

		if (m->active)
			least_used = Min(least_used, m->used);
	}
}

/*
 * One step of the model whose turn it is; false if none had anything to do
 */
static bool
step_models(void)
{
	SharedModel *m;

	begin_turn();
	while ((m = next_model()) != NULL)
	{
		moe_error	err = {0};
		bool		busy = false;
		moe_status	status;
		instr_time	start,
					took;

		INSTR_TIME_SET_CURRENT(start);
		status = moe_scheduler_step(m->scheduler, &busy, &err);
		INSTR_TIME_SET_CURRENT(took);
		INSTR_TIME_SUBTRACT(took, start);

		/* If it was cancelled, there is nobody to tell */
		if (status != MOE_OK && status != MOE_ERR_CANCELLED)
			fail_jobs(m, &err);
		if (busy || status != MOE_OK)
		{
			charge_step(m, INSTR_TIME_GET_DOUBLE(took));
			return true;
		}
		m->tried = true;
	}
	return false;
}

/* ----------
 * The process
 * ----------
 */

static void
publish_status(void)
{
	MoeEngineStatus status = {0};
	dlist_iter	iter;

	status.pid = MyProcPid;
	status.isa_setting = engine ? engine_isa : moe_cpu_isa;
	status.reproducible = engine ? engine_reproducible : moe_reproducible;
	if (engine)
	{
		strlcpy(status.isa, moe_engine_isa(engine), sizeof(status.isa));
		status.threads = moe_engine_threads(engine);
	}
	dlist_foreach(iter, &models)
	{
		SharedModel *m = dlist_container(SharedModel, node, iter.cur);
		moe_counters c;

		if (status.open_models < MOE_ENGINE_MODELS)
			strlcpy(status.weights[status.open_models], m->spec.weights_key, MOE_WEIGHTS_KEY_SIZE);
		status.open_models++;
		moe_model_counters(m->model, &c);
		status.counters.schedulers += c.schedulers;
		status.counters.sequences += c.sequences;
		status.counters.kv_pages_used += c.kv_pages_used;
		status.counters.kv_pages_total += c.kv_pages_total;
		status.requests_running += c.running;
		status.requests_waiting += c.waiting;
	}
	moe_engine_publish(&status);
}

/*
 * At the end of the process: stop the threads while their memory is still
 * there
 */
static void
worker_exit(int code, Datum arg)
{
	dlist_iter	iter;

	/* The postmaster died while the engine waited for us: its objects are in use */
	if (moe_store_is_waiting())
		return;

	dlist_foreach(iter, &sessions)
		end_run(dlist_container(Session, node, iter.cur));
	free_engine();
	moe_store_begin_exit();
}

void
pg_moe_engine_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	worker_context = AllocSetContextCreate(TopMemoryContext, "pg_moe engine",
										   ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(AllocSetContextCreate(worker_context, "pg_moe engine turn",
												ALLOCSET_DEFAULT_SIZES));
	before_shmem_exit(worker_exit, (Datum) 0);
	models_forgotten = moe_engine_models_forgotten();
	moe_engine_enter();			/* after the line above, so that it leaves first */

	for (;;)
	{
		bool		busy;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		follow_changes();
		busy = read_sessions();
		busy |= step_models();
		busy |= write_sessions();
		publish_status();
		MemoryContextReset(CurrentMemoryContext);
		if (!busy)
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1,
							 moe_wait_event_engine());
	}
}

/*
 * Ask the postmaster to run the shared engine; to be called while libraries are
 * preloaded
 */
void
moe_engine_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = RESTART_SECONDS;
	strlcpy(worker.bgw_library_name, "pg_moe", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "pg_moe_engine_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "pg_moe engine", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "pg_moe engine", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}
