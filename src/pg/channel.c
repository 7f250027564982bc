/*-------------------------------------------------------------------------
 *
 * channel.c
 *	  How sessions and the shared engine find each other and talk.
 *
 * A control block in main shared memory, there only if the library is
 * preloaded, says which process is the engine and has a slot for every run
 * that it works on or is to work on; there are moe.max_requests of them.
 *
 * A channel is a dynamic shared memory segment with two message queues: what
 * the session asks for, and what becomes of it (wire.h).  One run uses it at
 * a time.  To begin a run, the session takes a slot and a channel: the one it
 * kept from its last run, or a new one, whose handle it leaves in the slot for
 * the engine to find.  A run that came to its end leaves its channel empty, for
 * the next.  One that was broken off sets the flag "gone", which the engine looks
 * at even within a step, and leaves its channel, which tells the engine to forget
 * all that came through it.
 *
 * The engine never waits for a session: it sends and receives what can be
 * sent and received at once.  The session waits for its latch, serving
 * interrupts, and receives while it waits to send, since the engine takes up
 * no more requests than it can give answers to.  When the engine's process
 * ends, its queues are detached and the owners of all slots are woken.
 *
 * LOCKING: control->lock guards slots and status.  It is held for a few
 * instructions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "channel.h"
#include "client.h"
#include "compat.h"
#include "guc.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

#define CONTROL_NAME "pg_moe engine"
#define TRANCHE_NAME "MoeEngine"
#define RING_SIZE 32768
#define CHANNEL_MAGIC 0x6d6f6531

typedef enum SlotState
{
	SLOT_FREE = 0,
	SLOT_NEW,					/* the engine is to attach to the channel */
	SLOT_ATTACHED,
	SLOT_REFUSED				/* it could not */
} SlotState;

typedef struct Slot
{
	SlotState	state;
	dsm_handle	handle;
	Latch	   *owner;
} Slot;

typedef struct Control
{
	LWLock	   *lock;
	ConditionVariable started;	/* the engine has come up */
	pg_atomic_uint32 running;	/* number of the engine's process, 0: none */
	pg_atomic_uint32 n_new;		/* slots in state SLOT_NEW */
	pg_atomic_uint32 forgotten; /* see moe_engine_forget_models() */
	uint32		last_number;
	Latch	   *latch;			/* the engine's, if one runs */
	MoeEngineStatus status;
	int			n_slots;
	Slot		slots[FLEXIBLE_ARRAY_MEMBER];
} Control;

/* What a channel's segment begins with; the two queues follow */
typedef struct ChannelHeader
{
	uint32		magic;
	volatile uint32 gone;
	char		requests[RING_SIZE];
	char		events[RING_SIZE];
} ChannelHeader;

StaticAssertDecl(offsetof(ChannelHeader, requests) % MAXIMUM_ALIGNOF == 0 &&
				 RING_SIZE % MAXIMUM_ALIGNOF == 0, "queues must be aligned");

struct MoeChannel
{
	MemoryContext context;		/* holds this */
	dsm_segment *segment;
	ChannelHeader *header;
	shm_mq_handle *requests;
	shm_mq_handle *events;
	uint32		engine;			/* number of the process at the other end */
	int			slot;			/* -1 between two runs */
	bool		sending;		/* a message has been sent in part */
};

static Control *control = NULL;
static MoeChannel *idle_channel = NULL; /* for the next run */

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* ----------
 * The control block
 * ----------
 */

static Size
control_size(void)
{
	return add_size(offsetof(Control, slots), mul_size(moe_max_requests, sizeof(Slot)));
}

static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(MAXALIGN(control_size()));
	RequestNamedLWLockTranche(TRANCHE_NAME, 1);
}

static void
startup_shmem(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	control = ShmemInitStruct(CONTROL_NAME, control_size(), &found);
	if (!found)
	{
		memset(control, 0, control_size());
		control->lock = &GetNamedLWLockTranche(TRANCHE_NAME)->lock;
		ConditionVariableInit(&control->started);
		pg_atomic_init_u32(&control->running, 0);
		pg_atomic_init_u32(&control->n_new, 0);
		pg_atomic_init_u32(&control->forgotten, 0);
		control->n_slots = moe_max_requests;
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Ask for the control block; to be called while libraries are preloaded
 */
void
moe_engine_request_shmem(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}

/*
 * Does this server have a shared engine, running or not?
 */
bool
moe_engine_is_configured(void)
{
	return control != NULL;
}

bool
moe_engine_is_running(void)
{
	return control != NULL && pg_atomic_read_u32(&control->running) != 0;
}

/*
 * Wait until it runs; false if that takes too long
 */
bool
moe_engine_wait_for_start(int timeout_ms)
{
	ConditionVariablePrepareToSleep(&control->started);
	while (!moe_engine_is_running())
		if (ConditionVariableTimedSleep(&control->started, timeout_ms, moe_wait_event_engine()))
			break;
	ConditionVariableCancelSleep();
	return moe_engine_is_running();
}

/*
 * What the engine told of itself last
 */
void
moe_engine_status(MoeEngineStatus *status)
{
	LWLockAcquire(control->lock, LW_SHARED);
	*status = control->status;
	LWLockRelease(control->lock);
	status->requests_waiting += pg_atomic_read_u32(&control->n_new);
}

/*
 * Does the engine have a model open that uses these weights?
 */
bool
moe_engine_holds(const char *weights_key)
{
	bool		found = false;

	LWLockAcquire(control->lock, LW_SHARED);
	for (int i = 0; i < MOE_ENGINE_MODELS && !found; i++)
		found = strcmp(control->status.weights[i], weights_key) == 0;
	LWLockRelease(control->lock);
	return found;
}

/*
 * A model was dropped or replaced: the engine is to close those that nobody
 * uses, and the others when nobody does
 *
 * Not only the one in question; that happens rarely, and it costs little to
 * open one again whose weights are there.
 */
void
moe_engine_forget_models(void)
{
	Latch	   *latch;

	if (control == NULL)
		return;
	pg_atomic_fetch_add_u32(&control->forgotten, 1);
	LWLockAcquire(control->lock, LW_SHARED);
	latch = control->latch;
	LWLockRelease(control->lock);
	if (latch)
		SetLatch(latch);
}

/* ----------
 * A session's end
 * ----------
 */

_Noreturn static void
throw_stopped(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_SYSTEM_ERROR),
			 errmsg("the shared engine stopped while it worked on this request"),
			 errhint("It is started again at once; repeat the statement.")));
}

_Noreturn static void
throw_refused(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("the shared engine could not accept the request"),
			 errhint("The server's log says why.")));
}

static void
leave_slot(MoeChannel *channel)
{
	Slot	   *slot = &control->slots[channel->slot];

	LWLockAcquire(control->lock, LW_EXCLUSIVE);
	if (slot->state == SLOT_NEW)
		pg_atomic_fetch_sub_u32(&control->n_new, 1);
	memset(slot, 0, sizeof(Slot));
	LWLockRelease(control->lock);
	channel->slot = -1;
}

static void
free_channel(MoeChannel *channel)
{
	channel->header->gone = 1;
	if (channel->slot >= 0)
		leave_slot(channel);
	dsm_detach(channel->segment);	/* and both queues, which wakes the engine */
	MemoryContextDelete(channel->context);
}

/*
 * Make a channel, known to nobody yet
 */
static MoeChannel *
make_channel(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_moe channel",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	MoeChannel *channel = palloc0(sizeof(MoeChannel));
	shm_mq	   *queue;

	PG_TRY();
	{
		channel->context = context;
		channel->slot = -1;
		channel->segment = dsm_create(sizeof(ChannelHeader), 0);
		dsm_pin_mapping(channel->segment);
		channel->header = dsm_segment_address(channel->segment);
		channel->header->magic = CHANNEL_MAGIC;
		channel->header->gone = 0;

		queue = shm_mq_create(channel->header->requests, sizeof(channel->header->requests));
		shm_mq_set_sender(queue, MyProc);
		channel->requests = shm_mq_attach(queue, channel->segment, NULL);
		queue = shm_mq_create(channel->header->events, sizeof(channel->header->events));
		shm_mq_set_receiver(queue, MyProc);
		channel->events = shm_mq_attach(queue, channel->segment, NULL);
	}
	PG_CATCH();
	{
		if (channel->segment)
			dsm_detach(channel->segment);
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	return channel;
}

/*
 * Take a slot for a run, and announce the channel there if the engine does
 * not know it
 *
 * That there is none is an error also if the session could compute itself: the
 * limit is to hold where it matters, on a machine that has enough to do.
 */
static void
take_slot(MoeChannel *channel, bool announce)
{
	Latch	   *latch = NULL;
	int			i;

	LWLockAcquire(control->lock, LW_EXCLUSIVE);
	for (i = 0; i < control->n_slots && control->slots[i].state != SLOT_FREE; i++)
		 /* look on */ ;
	if (i < control->n_slots)
	{
		Slot	   *slot = &control->slots[i];

		slot->state = announce ? SLOT_NEW : SLOT_ATTACHED;
		slot->handle = dsm_segment_handle(channel->segment);
		slot->owner = MyLatch;
		channel->slot = i;
		if (announce)
		{
			channel->engine = pg_atomic_read_u32(&control->running);
			pg_atomic_fetch_add_u32(&control->n_new, 1);
			latch = control->latch;
		}
	}
	LWLockRelease(control->lock);
	if (latch)
		SetLatch(latch);
	if (channel->slot < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many requests for the shared engine"),
				 errdetail("It works on %d of them, as moe.max_requests allows.", control->n_slots),
				 errhint("Try again when some are done, raise moe.max_requests, or set moe.host to backend.")));
}

/*
 * Begin a run; end it with moe_channel_finish() or moe_channel_abort()
 */
MoeChannel *
moe_channel_open(void)
{
	MoeChannel *channel = idle_channel;
	bool		known;

	idle_channel = NULL;
	if (channel && channel->engine != pg_atomic_read_u32(&control->running))
	{
		free_channel(channel);
		channel = NULL;
	}
	known = channel != NULL;
	if (!known)
		channel = make_channel();

	PG_TRY();
	{
		take_slot(channel, !known);
	}
	PG_CATCH();
	{
		free_channel(channel);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return channel;
}

/*
 * Wait for something to happen at the other end
 */
void
moe_channel_wait(MoeChannel *channel)
{
	if (channel->engine == 0 || pg_atomic_read_u32(&control->running) != channel->engine)
		throw_stopped();
	if (control->slots[channel->slot].state == SLOT_REFUSED)
		throw_refused();
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, moe_wait_event_engine());
	ResetLatch(MyLatch);
	moe_check_for_interrupts();
}

/*
 * Send a message; false if that would mean waiting
 *
 * It may be sent in part then, and must be offered again before any other.
 */
bool
moe_channel_send(MoeChannel *channel, const void *message, Size len)
{
	shm_mq_result result = shm_mq_send(channel->requests, len, message, true, true);

	if (result == SHM_MQ_DETACHED)
		throw_stopped();
	channel->sending = result == SHM_MQ_WOULD_BLOCK;
	return !channel->sending;
}

/*
 * Receive a message, valid until the next one is received; NULL if there is none
 * at the moment
 */
void *
moe_channel_receive(MoeChannel *channel, Size *len)
{
	void	   *message;
	shm_mq_result result = shm_mq_receive(channel->events, len, &message, true);

	if (result == SHM_MQ_DETACHED)
		throw_stopped();
	return result == SHM_MQ_SUCCESS ? message : NULL;
}

/*
 * End a run whose last answer has been received, with a last message
 */
void
moe_channel_finish(MoeChannel *channel, const void *message, Size len)
{
	if (idle_channel != NULL || channel->sending ||
		shm_mq_send(channel->requests, len, message, true, true) != SHM_MQ_SUCCESS)
	{
		free_channel(channel);
		return;
	}
	leave_slot(channel);
	idle_channel = channel;
}

/*
 * End a run, come what may
 */
void
moe_channel_abort(MoeChannel *channel)
{
	free_channel(channel);
}

/* ----------
 * The engine's end
 * ----------
 */

/*
 * The engine's process ends: those who wait for it must not wait on
 *
 * Its queues are detached later, when its segments are.
 */
static void
engine_leaves(int code, Datum arg)
{
	LWLockAcquire(control->lock, LW_EXCLUSIVE);
	pg_atomic_write_u32(&control->running, 0);
	control->latch = NULL;
	memset(&control->status, 0, sizeof(MoeEngineStatus));
	for (int i = 0; i < control->n_slots; i++)
		if (control->slots[i].state != SLOT_FREE)
			SetLatch(control->slots[i].owner);
	LWLockRelease(control->lock);
}

/*
 * This process is the engine from now on
 */
void
moe_engine_enter(void)
{
	before_shmem_exit(engine_leaves, (Datum) 0);
	LWLockAcquire(control->lock, LW_EXCLUSIVE);
	control->latch = MyLatch;
	control->status.pid = MyProcPid;
	control->status.isa_setting = moe_cpu_isa;
	control->status.reproducible = moe_reproducible;
	if (++control->last_number == 0)
		control->last_number = 1;
	pg_atomic_write_u32(&control->running, control->last_number);
	LWLockRelease(control->lock);
	ConditionVariableBroadcast(&control->started);
}

/*
 * Tell of the engine what moe_engine_status() returns
 */
void
moe_engine_publish(const MoeEngineStatus *status)
{
	LWLockAcquire(control->lock, LW_EXCLUSIVE);
	control->status = *status;
	LWLockRelease(control->lock);
}

/*
 * How often moe_engine_forget_models() has been called
 */
uint32
moe_engine_models_forgotten(void)
{
	return pg_atomic_read_u32(&control->forgotten);
}

/*
 * Attach to a channel.  NULL if its session is gone.
 */
static MoePeer *
attach_peer(dsm_handle handle)
{
	dsm_segment *segment = dsm_attach(handle);
	ChannelHeader *header;
	MemoryContext context;
	MemoryContext caller;
	MoePeer    *peer;
	shm_mq	   *queue;

	if (segment == NULL)
		return NULL;
	header = dsm_segment_address(segment);
	if (header->magic != CHANNEL_MAGIC)
	{
		dsm_detach(segment);
		return NULL;
	}
	context = AllocSetContextCreate(TopMemoryContext, "pg_moe peer", ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	peer = palloc0(sizeof(MoePeer));
	peer->context = context;
	peer->segment = segment;
	peer->gone = &header->gone;
	queue = (shm_mq *) header->requests;
	shm_mq_set_receiver(queue, MyProc);
	peer->requests = shm_mq_attach(queue, segment, NULL);
	queue = (shm_mq *) header->events;
	shm_mq_set_sender(queue, MyProc);
	peer->events = shm_mq_attach(queue, segment, NULL);
	MemoryContextSwitchTo(caller);
	return peer;
}

/*
 * The next slot with a channel to attach to, now taken as attached; -1 if
 * there is none
 */
static int
next_new_slot(dsm_handle *handle)
{
	int			found = -1;

	if (pg_atomic_read_u32(&control->n_new) == 0)
		return -1;
	LWLockAcquire(control->lock, LW_EXCLUSIVE);
	for (int i = 0; i < control->n_slots && found < 0; i++)
		if (control->slots[i].state == SLOT_NEW)
			found = i;
	if (found >= 0)
	{
		*handle = control->slots[found].handle;
		control->slots[found].state = SLOT_ATTACHED;
		pg_atomic_fetch_sub_u32(&control->n_new, 1);
	}
	LWLockRelease(control->lock);
	return found;
}

/*
 * The next session that wants to talk; NULL if there is none at the moment
 */
MoePeer *
moe_peer_accept(void)
{
	MemoryContext caller = CurrentMemoryContext;
	MoePeer    *volatile peer = NULL;
	dsm_handle	handle;
	int			i;

	while (peer == NULL && (i = next_new_slot(&handle)) >= 0)
	{
		PG_TRY();
		{
			peer = attach_peer(handle);
		}
		PG_CATCH();
		{
			MemoryContextSwitchTo(caller);
			EmitErrorReport();
			FlushErrorState();
			LWLockAcquire(control->lock, LW_EXCLUSIVE);
			if (control->slots[i].state == SLOT_ATTACHED && control->slots[i].handle == handle)
			{
				control->slots[i].state = SLOT_REFUSED;
				SetLatch(control->slots[i].owner);
			}
			LWLockRelease(control->lock);
		}
		PG_END_TRY();
	}
	return peer;
}

/*
 * Leave a channel
 */
void
moe_peer_close(MoePeer *peer)
{
	dsm_detach(peer->segment);
	MemoryContextDelete(peer->context);
}
