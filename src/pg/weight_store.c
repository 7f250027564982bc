/*-------------------------------------------------------------------------
 *
 * weight_store.c
 *	  Memory for packed weights, once for all sessions.
 *
 * The engine asks for an arena by key: the digest of the model's files and, if
 * its weights are re-encoded, how.  What is in the arena is the engine's affair
 * (its expert cache); here it is a block of memory that several backends map.
 *
 * If the library is preloaded and moe.weight_cache_size is set, blocks are cut
 * from one range of that size in the server's main shared memory, huge pages
 * included.  Otherwise each block is a dynamic shared memory segment, pinned, so
 * that it outlives its users, and the setting limits their sum.  A block is
 * as large as its model, or, where the limit is smaller, as large as can be had.
 * Blocks without users make room for others, those used least recently
 * first.  If that is not enough, one with users becomes smaller at its end, so that
 * who comes has about as much as it keeps, but neither less than it needs.
 * It becomes larger again when a session begins to compute with its model and
 * there is room behind it.  What a segment gives back so goes
 * to the system, page by page, and is taken anew before it is used, lest a
 * write find no memory.  A block that had to be small and can't grow where it is
 * is made anew when it is next opened without users and there is more room.
 *
 * Where shared memory can't be had (a container's small /dev/shm), the block
 * is private memory, and the caller gets a complaint to pass on as a WARNING.
 *
 * A small control block in the server's main shared memory says which blocks
 * there are.  It is found by name with ShmemInitStruct, which works in any
 * backend: 13 kB come from the reserve that the server has for such uses, or, if
 * the library is preloaded, from what was requested for it.  The server empties
 * all shared memory when it restarts after a crash, so nothing in here can
 * outlast a backend that died.
 *
 * LOCKING: control->lock guards all of the control block but for the
 * condition variable.  It is held for a few instructions, or while a segment
 * is given back, but never across engine work, waiting, or the creation of a
 * segment.  A block with users > 0 stays where it is; one with resizing set
 * keeps its size but for the backend that set it.
 *
 * The functions of moe_shared_store are called by the engine and so must
 * neither raise an error nor let one pass: what may raise is caught and
 * becomes a moe_error, and waiting does not process interrupts but looks at
 * their flags.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/mman.h>

#include "compat.h"
#include "guc.h"
#include "host.h"
#include "lib/ilist.h"
#include "storage/condition_variable.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "weight_store.h"
#include "weight_usage.h"

#define MAX_BLOCKS 64
#define MAX_VERIFIED 64
#define MAX_KEY 128
#define SAVE_INTERVAL (5 * USECS_PER_MINUTE)
#define BLOCK_ALIGN 4096
#define MAX_ASKED 4				/* for the case that others take what was given */
#define CONTROL_NAME "pg_moe weights"
#define RANGE_NAME "pg_moe weight cache"
#define TRANCHE_NAME "MoeWeights"

typedef enum BlockState
{
	BLOCK_FREE = 0,
	BLOCK_LOADING,				/* its creator prepares it */
	BLOCK_READY
} BlockState;

typedef struct Block
{
	char		key[MAX_KEY];
	BlockState	state;
	bool		doomed;			/* to be given back when users drops to 0 */
	bool		resizing;		/* a user makes it smaller or larger */
	int			users;			/* backends that have it mapped */
	dsm_handle	handle;			/* DSM_HANDLE_INVALID until it is created */
	uint64		offset;			/* in the range, if there is one */
	uint64		size;
	uint64		least;			/* size that its model needs, */
	uint64		most;			/* and that it can use */
	uint64		capacity;		/* of its segment */
	uint64		last_used;		/* value of control->clock */
	TimestampTz saved;			/* when its usage was last written to disk */
} Block;

typedef struct Control
{
	LWLock		lock;
	ConditionVariable changed;	/* some block became ready or was abandoned */
	int			tranche;
	uint64		clock;
	int			next_verified;
	uint64		verified[MAX_VERIFIED]; /* see moe_store_is_verified() */
	Block		blocks[MAX_BLOCKS];
} Control;

/* Keys of blocks that made room for another one */
typedef struct Evicted
{
	int			n;
	char		keys[MAX_BLOCKS][MAX_KEY];
} Evicted;

/* A block that this backend uses */
typedef struct Mapping
{
	dlist_node	node;
	char		key[MAX_KEY];
	int			users;			/* models of this backend */
	int			slot;			/* in control->blocks, -1: private memory */
	bool		fresh;			/* we are to prepare it */
	dsm_segment *segment;
	void	   *address;
	size_t		size;
	MoeWeightSource *source;	/* malloc'ed; NULL if not told */
} Mapping;

static Control *control = NULL;
static char *range = NULL;		/* NULL: blocks are segments */
static Size range_size = 0;		/* set in the postmaster */
static dlist_head mappings = DLIST_STATIC_INIT(mappings);
static int64 private_bytes = 0;
static char *complaint = NULL;
static bool waiting = false;
static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static moe_status store_acquire(void *ud, const char *key, size_t least, size_t most,
								void **arena, size_t *size, bool *fresh, moe_error *err);
static void store_ready(void *ud, const char *key);
static void store_release(void *ud, const char *key);

const moe_weight_store moe_shared_store = {
	.acquire = store_acquire,
	.ready = store_ready,
	.release = store_release,
};

/* ----------
 * The control block
 * ----------
 */

static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(Control)));
	if (moe_weight_cache_size > 0)
	{
		range_size = (Size) moe_weight_cache_size * 1024 * 1024;
		RequestAddinShmemSpace(add_size(range_size, BLOCK_ALIGN));
	}
}

static bool attach_control(void);

/*
 * Take what was requested, before somebody else does
 */
static void
startup_shmem(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	control = NULL;				/* after a crash all is new */
	(void) attach_control();
}

/*
 * Ask for the control block's memory and for that of the blocks, if it is not
 * too late for that
 */
void
moe_store_request_shmem(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}

/*
 * Find or make the control block; false if there is no memory for it
 */
static bool
attach_control(void)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		found;

	if (control != NULL)
		return true;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	PG_TRY();
	{
		Control    *c = ShmemInitStruct(CONTROL_NAME, sizeof(Control), &found);

		if (!found)
		{
			memset(c, 0, sizeof(Control));
			c->tranche = moe_new_lwlock_tranche(TRANCHE_NAME);
			LWLockInitialize(&c->lock, c->tranche);
			ConditionVariableInit(&c->changed);
		}
		moe_register_lwlock_tranche(c->tranche, TRANCHE_NAME);
		if (range_size > 0)
			range = (char *) TYPEALIGN(BLOCK_ALIGN,
									   ShmemInitStruct(RANGE_NAME, range_size + BLOCK_ALIGN, &found));
		control = c;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		HOLD_INTERRUPTS();		/* the error reset the count; release expects it */
	}
	PG_END_TRY();
	LWLockRelease(AddinShmemInitLock);
	return control != NULL;
}

static int
find_slot(const char *key)
{
	for (int i = 0; i < MAX_BLOCKS; i++)
		if (control->blocks[i].state != BLOCK_FREE && strcmp(control->blocks[i].key, key) == 0)
			return i;
	return -1;
}

/*
 * Give a block without users back.  Caller holds the lock.
 */
static void
free_slot(Block *b)
{
	if (b->state == BLOCK_READY && range == NULL)
		dsm_unpin_segment(b->handle);
	memset(b, 0, sizeof(Block));
}

/*
 * Give back the block without users that was used least recently, if there is
 * one, and note its key.  Caller holds the lock.
 */
static bool
evict_one(Evicted *evicted)
{
	Block	   *victim = NULL;

	for (int i = 0; i < MAX_BLOCKS; i++)
	{
		Block	   *b = &control->blocks[i];

		if (b->state == BLOCK_READY && b->users == 0 &&
			(victim == NULL || b->last_used < victim->last_used))
			victim = b;
	}
	if (victim == NULL)
		return false;
	if (evicted->n < MAX_BLOCKS)
		strcpy(evicted->keys[evicted->n++], victim->key);
	free_slot(victim);
	return true;
}

/*
 * Remember that these are gone; without the lock
 */
static void
tell_evicted(Evicted *evicted)
{
	while (evicted->n > 0)
		moe_usage_given_back(evicted->keys[--evicted->n]);
}

static uint64
total_bytes(void)
{
	uint64		total = 0;

	for (int i = 0; i < MAX_BLOCKS; i++)
		if (control->blocks[i].state != BLOCK_FREE)
			total += control->blocks[i].size;
	return total;
}

static int
compare_offsets(const void *a, const void *b)
{
	const Block *x = *(const Block *const *) a,
			   *y = *(const Block *const *) b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/*
 * The largest gap between the blocks of the range.  Caller holds the lock.
 */
static uint64
largest_gap(uint64 *offset)
{
	const Block *used[MAX_BLOCKS];
	uint64		end = 0,
				largest = 0;
	int			n = 0;

	for (int i = 0; i < MAX_BLOCKS; i++)
		if (control->blocks[i].state != BLOCK_FREE)
			used[n++] = &control->blocks[i];
	qsort(used, n, sizeof(used[0]), compare_offsets);
	*offset = 0;
	for (int i = 0; i <= n; i++)
	{
		uint64		next = i < n ? used[i]->offset : range_size;

		if (next - end > largest)
		{
			largest = next - end;
			*offset = end;
		}
		if (i < n)
			end = TYPEALIGN(BLOCK_ALIGN, next + used[i]->size);
	}
	return largest;
}

/*
 * Bytes that a block could have as things are, at most `most`.  Caller holds the
 * lock.
 */
static uint64
free_room(uint64 most, uint64 *offset)
{
	uint64		room = most;

	*offset = 0;
	if (range)
		room = largest_gap(offset);
	else if (moe_weight_cache_size >= 0)
	{
		uint64		limit = (uint64) moe_weight_cache_size * 1024 * 1024,
					total = total_bytes();

		room = total < limit ? limit - total : 0;
	}
	return Min(room, most);
}

/*
 * Room for a block: as many of `most` bytes as can be had, after blocks without
 * users have made room.  0 if that is less than `least`.  Caller holds the lock.
 */
static uint64
find_room(uint64 least, uint64 most, uint64 *offset, Evicted *evicted)
{
	uint64		room;

	do
		room = free_room(most, offset);
	while (room < most && evict_one(evicted));
	return room < least ? 0 : room;
}

/*
 * Bytes that are free at the end of a block, and that its memory can have there.
 * Caller holds the lock.
 */
static uint64
room_behind(const Block *b)
{
	uint64		end = b->offset + b->size,
				next = range_size,
				offset;

	if (range == NULL)
		return free_room(b->capacity - b->size, &offset);
	for (int i = 0; i < MAX_BLOCKS; i++)
		if (control->blocks[i].state != BLOCK_FREE && control->blocks[i].offset >= end)
			next = Min(next, control->blocks[i].offset);
	return next > end ? next - end : 0;
}

/*
 * Would a block without users that is smaller than its model be much larger if
 * it were made anew, and not by growing where it is?  Caller holds the lock.
 */
static bool
has_outgrown(Block *b, uint64 most)
{
	BlockState	state = b->state;
	uint64		room,
				here,
				offset;

	if (b->users > 0 || b->size >= most)
		return false;
	here = Min(b->size + room_behind(b), most);
	b->state = BLOCK_FREE;
	room = free_room(most, &offset);
	b->state = state;
	return (room == most && here < most) || room > here + here / 4;
}

/*
 * Is room about to be given?  Caller holds the lock.
 */
static bool
any_resizing(void)
{
	for (int i = 0; i < MAX_BLOCKS; i++)
		if (control->blocks[i].state == BLOCK_READY && control->blocks[i].resizing)
			return true;
	return false;
}

/*
 * The block with users that is to become smaller for one of `least` to `most` bytes;
 * NULL if that gives none more than it could have as things are.  *size receives
 * the size that is left.  Caller holds the lock.
 */
static Block *
choose_giver(uint64 least, uint64 most, uint64 *size)
{
	Block	   *giver = NULL;
	uint64		offset,
				free = free_room(most, &offset),
				best = free;

	for (int i = 0; i < MAX_BLOCKS; i++)
	{
		Block	   *b = &control->blocks[i];
		uint64		behind,
					both,
					wanted,
					kept;

		if (b->state != BLOCK_READY || b->users == 0 || b->resizing)
			continue;
		behind = range ? room_behind(b) : free;
		both = b->size + behind;
		wanted = Max(least, Min(most, both / 2));
		kept = both > wanted ? both - wanted : 0;
		kept = Max(b->least, kept - kept % BLOCK_ALIGN);
		if (kept < b->size && both - kept >= least && both - kept > best)
		{
			giver = b;
			*size = kept;
			best = both - kept;
		}
	}
	return giver;
}

/*
 * Drop this backend's part in a block.  Caller holds the lock.
 */
static void
leave_slot(int slot)
{
	Block	   *b = &control->blocks[slot];

	b->users--;
	if (b->users == 0 && (b->doomed || b->state == BLOCK_LOADING))
		free_slot(b);
}

/* ----------
 * Segments
 * ----------
 */

/*
 * Create (size > 0) or attach a segment that lives as long as this backend
 * wants.  NULL if that fails; *why is then a malloc'ed message.
 */
static dsm_segment *
get_segment(Size size, dsm_handle handle, char **why)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	dsm_segment *volatile segment = NULL;

	*why = NULL;

	/* Without an owner the mapping is not the transaction's */
	CurrentResourceOwner = NULL;
	PG_TRY();
	{
		if (size > 0)
			segment = dsm_create(size, DSM_CREATE_NULL_IF_MAXSEGMENTS);
		else
			segment = dsm_attach(handle);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		*why = strdup(error->message);
		FreeErrorData(error);
	}
	PG_END_TRY();
	CurrentResourceOwner = owner;
	return segment;
}

static Mapping *
find_mapping(const char *key)
{
	dlist_iter	iter;

	dlist_foreach(iter, &mappings)
	{
		Mapping    *m = dlist_container(Mapping, node, iter.cur);

		if (strcmp(m->key, key) == 0)
			return m;
	}
	return NULL;
}

/*
 * Forget a mapping and give its memory back
 */
static void
free_mapping(Mapping *m)
{
	if (m->segment)
		dsm_detach(m->segment);
	else if (m->address && m->slot < 0)
	{
		munmap(m->address, m->size);
		private_bytes -= m->size;
	}
	if (m->slot >= 0)
	{
		LWLockAcquire(&control->lock, LW_EXCLUSIVE);
		leave_slot(m->slot);
		LWLockRelease(&control->lock);
		ConditionVariableBroadcast(&control->changed);
	}
	dlist_delete(&m->node);
	free(m->source);
	free(m);
}

/*
 * Write down what of the block was used, if nobody else will do so, or has done
 * for a while
 *
 * Who has not told the source has not used the block.
 */
static void
save_usage(Mapping *m, bool leaving)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		due = false;

	if (m->fresh || m->source == NULL)
		return;
	if (m->slot < 0)
	{
		if (leaving)
			moe_usage_write(m->key, m->address, NULL);
		return;
	}
	LWLockAcquire(&control->lock, LW_EXCLUSIVE);
	if (!control->blocks[m->slot].doomed)
	{
		Block	   *b = &control->blocks[m->slot];

		due = (leaving && b->users == 1) || now - b->saved > SAVE_INTERVAL;
		if (due)
			b->saved = now;
	}
	LWLockRelease(&control->lock);
	if (due)
		moe_usage_write(m->key, m->address, m->source);
}

static moe_status
fail(moe_error *err, moe_status status, const char *message)
{
	memset(err, 0, sizeof(moe_error));
	err->status = status;
	strlcpy(err->message, message, sizeof(err->message));
	return status;
}

/* ----------
 * What the engine calls
 * ----------
 */

/*
 * Give the mapping private memory, because shared memory is short
 */
static moe_status
map_private(Mapping *m, const char *why, moe_error *err)
{
	void	   *p = mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
	{
		fail(err, MOE_ERR_MEMORY, "out of memory");
		snprintf(err->detail, sizeof(err->detail), "%zu bytes for weights can't be had.", m->size);
		return MOE_ERR_MEMORY;
	}
	/* Fewer page faults, if the kernel has huge pages to give */
	madvise(p, m->size, MADV_HUGEPAGE);

	m->slot = -1;
	m->address = p;
	m->fresh = true;
	private_bytes += m->size;

	free(complaint);
	complaint = strdup(why);
	return MOE_OK;
}

/*
 * Wait a little for other processes, with an eye on the flags; false if the
 * statement is to end
 */
static bool
wait_a_little(long ms)
{
	waiting = true;
	HOLD_INTERRUPTS();
	ConditionVariableTimedSleep(&control->changed, ms, moe_wait_event_load());
	RESUME_INTERRUPTS();
	waiting = false;
	return !moe_cancel_by_interrupt.requested(NULL);
}

/*
 * Have a block that other backends use end at `size` bytes, and what was behind
 * that given back, if it is a segment; false if that could not be done
 *
 * The caller has set resizing and is among the users.  cancelled is set if
 * the statement is to end.
 */
static bool
cut_arena(const Block *b, char *arena, uint64 size, bool *cancelled)
{
	while (!moe_arena_resize(arena, size))
	{
		if (!wait_a_little(10))
		{
			*cancelled = true;
			(void) moe_arena_resize(arena, b->size);
			return false;
		}
	}
	if (range == NULL && madvise(arena + size, b->size - size, MADV_REMOVE) != 0)
	{
		(void) moe_arena_resize(arena, b->size);
		return false;
	}
	return true;
}

/*
 * Make a block smaller; the caller has set resizing and is among the users
 */
static bool
shrink_block(Block *b, uint64 size, bool *cancelled)
{
	const Mapping *m = find_mapping(b->key);
	dsm_segment *segment = NULL;
	char	   *why = NULL;
	char	   *arena;
	bool		done;

	if (range)
		arena = range + b->offset;
	else if (m != NULL && m->slot >= 0)
		arena = m->address;
	else
	{
		segment = get_segment(0, b->handle, &why);
		arena = segment ? dsm_segment_address(segment) : NULL;
		free(why);
	}
	done = arena != NULL && cut_arena(b, arena, size, cancelled);
	if (segment)
		dsm_detach(segment);

	LWLockAcquire(&control->lock, LW_EXCLUSIVE);
	if (done)
		b->size = size;
	b->resizing = false;
	leave_slot(b - control->blocks);
	LWLockRelease(&control->lock);
	return done;
}

/*
 * Memory for a part of a segment that has none any more; false if it can't be had
 */
static bool
populate(char *address, Size size)
{
#ifdef MADV_POPULATE_WRITE
	return madvise(address, size, MADV_POPULATE_WRITE) == 0;
#else
	return false;
#endif
}

/*
 * Give a block that is smaller than its model what is free behind it
 */
static void
grow_block(const Mapping *m)
{
	Block	   *b = &control->blocks[m->slot];
	char	   *arena = m->address;
	uint64		before,
				after;

	if (b->size >= b->most)		/* the usual case; a glance without the lock does */
		return;
	LWLockAcquire(&control->lock, LW_EXCLUSIVE);
	before = b->size;
	after = b->resizing ? before : Min(b->most, before + room_behind(b));
	after -= after % BLOCK_ALIGN;
	if (after > before)
	{
		b->size = after;
		b->resizing = true;
	}
	LWLockRelease(&control->lock);
	if (after <= before)
		return;
	if (range || populate(arena + before, after - before))
		(void) moe_arena_resize(arena, after);
	else
	{
		(void) madvise(arena + before, after - before, MADV_REMOVE);
		after = before;
	}
	LWLockAcquire(&control->lock, LW_EXCLUSIVE);
	b->size = after;
	b->resizing = false;
	LWLockRelease(&control->lock);
}

/*
 * Find the key's slot or make one, and join its users
 *
 * Returns false if the block can't be shared: *why then says so, or err is
 * filled.  Otherwise m->slot and m->size are set, and m->fresh tells whether
 * the caller must create the block.
 */
static bool
join_slot(Mapping *m, size_t least, size_t most, const char **why, moe_error *err)
{
	bool		joined = false;
	uint64		size,
				offset,
				kept;
	int			n_asked = 0;	/* blocks that became smaller for us */
	Evicted		evicted;

	evicted.n = 0;
	*why = NULL;
	ConditionVariablePrepareToSleep(&control->changed);
	for (;;)
	{
		Block	   *b;
		int			slot;

		LWLockAcquire(&control->lock, LW_EXCLUSIVE);
		slot = find_slot(m->key);
		if (slot >= 0 && control->blocks[slot].state == BLOCK_LOADING)
		{
			/* Another backend is at it */
			LWLockRelease(&control->lock);
			if (!wait_a_little(100))
			{
				fail(err, MOE_ERR_CANCELLED, "cancelled");
				break;
			}
			continue;
		}

		if (slot >= 0 && has_outgrown(&control->blocks[slot], most))
		{
			free_slot(&control->blocks[slot]);
			slot = -1;
		}
		if (slot >= 0)
		{
			b = &control->blocks[slot];
			b->users++;
			b->doomed = false;
			b->last_used = ++control->clock;
			m->slot = slot;
			m->size = b->size;
			joined = true;
			LWLockRelease(&control->lock);
			break;
		}

		/* Nobody has it: make room, then take a slot */
		size = find_room(least, most, &offset, &evicted);
		b = NULL;
		if (size < most && n_asked < MAX_ASKED && (size == 0 || n_asked == 0))
			b = choose_giver(least, most, &kept);
		if (b != NULL || (size == 0 && any_resizing()))
		{
			bool		cancelled = false;

			if (b != NULL)
			{
				b->resizing = true;
				b->users++;
			}
			LWLockRelease(&control->lock);
			if (b == NULL)
				cancelled = !wait_a_little(10);
			else
				(void) shrink_block(b, kept, &cancelled);
			n_asked += b != NULL;
			if (!cancelled)
				continue;
			fail(err, MOE_ERR_CANCELLED, "cancelled");
			break;
		}
		if (size == 0)
		{
			LWLockRelease(&control->lock);
			fail(err, MOE_ERR_MEMORY, "weights do not fit into moe.weight_cache_size");
			snprintf(err->detail, sizeof(err->detail),
					 "At least %zu MB are needed at a time; the limit is %d MB, of which other models keep what they need.",
					 (least + 1024 * 1024 - 1) / (1024 * 1024), moe_weight_cache_size);
			strlcpy(err->hint, "Raise moe.weight_cache_size, or drop a model that is not needed.",
					sizeof(err->hint));
			break;
		}
		for (slot = 0; slot < MAX_BLOCKS && control->blocks[slot].state != BLOCK_FREE; slot++)
			 /* look on */ ;
		if (slot == MAX_BLOCKS)
		{
			bool		any = evict_one(&evicted);

			LWLockRelease(&control->lock);
			if (any)
				continue;
			*why = "too many models are in use";
			break;
		}
		b = &control->blocks[slot];
		strlcpy(b->key, m->key, MAX_KEY);
		b->state = BLOCK_LOADING;
		b->doomed = false;
		b->users = 1;
		b->handle = DSM_HANDLE_INVALID;
		b->offset = offset;
		b->size = size;
		b->least = least;
		b->most = most;
		b->capacity = size;
		b->last_used = ++control->clock;
		b->saved = GetCurrentTimestamp();
		LWLockRelease(&control->lock);
		m->slot = slot;
		m->size = size;
		m->fresh = true;
		joined = true;
		break;
	}
	ConditionVariableCancelSleep();
	tell_evicted(&evicted);
	return joined;
}

/*
 * Map the joined block, creating its segment if it is fresh
 */
static bool
map_slot(Mapping *m, char **why)
{
	Block	   *b = &control->blocks[m->slot];

	if (range)
	{
		m->address = range + b->offset;
		return true;
	}
	m->segment = get_segment(m->fresh ? m->size : 0, b->handle, why);
	if (m->segment != NULL)
	{
		m->address = dsm_segment_address(m->segment);
		if (m->fresh)
		{
			LWLockAcquire(&control->lock, LW_EXCLUSIVE);
			b->handle = dsm_segment_handle(m->segment);
			LWLockRelease(&control->lock);
		}
		return true;
	}
	if (*why == NULL)
		*why = strdup("too many dynamic shared memory segments");
	LWLockAcquire(&control->lock, LW_EXCLUSIVE);
	leave_slot(m->slot);
	LWLockRelease(&control->lock);
	ConditionVariableBroadcast(&control->changed);
	m->slot = -1;
	return false;
}

/*
 * store_acquire() but for errors that can't happen
 */
static moe_status
acquire(const char *key, size_t least, size_t most, void **arena, size_t *size, bool *fresh,
		moe_error *err)
{
	Mapping    *m;
	const char *why = NULL;
	char	   *why_copy = NULL;
	moe_status	status = MOE_OK;

	if (strlen(key) >= MAX_KEY)
		return fail(err, MOE_ERR_INVALID, "key of a weight block is too long");
	m = find_mapping(key);
	if (m != NULL)
	{
		if (m->fresh || m->size < least)
			return fail(err, MOE_ERR_INVALID, "a weight block was asked for in two ways");
		m->users++;
		*arena = m->address;
		*size = m->size;
		*fresh = false;
		return MOE_OK;
	}

	m = calloc(1, sizeof(Mapping));
	if (m == NULL)
		return fail(err, MOE_ERR_MEMORY, "out of memory");
	strlcpy(m->key, key, MAX_KEY);
	m->users = 1;
	m->size = most;
	m->slot = -1;

	err->status = MOE_OK;
	if (!attach_control())
		status = map_private(m, "the control block does not fit into shared memory", err);
	else if (!join_slot(m, least, most, &why, err))
		status = why ? map_private(m, why, err) : err->status;
	else if (!map_slot(m, &why_copy))
	{
		m->size = most;
		status = map_private(m, why_copy ? why_copy : "out of memory", err);
	}
	free(why_copy);
	if (status != MOE_OK)
	{
		free(m);
		return status;
	}

	if (m->slot >= 0 && !m->fresh)
		grow_block(m);
	dlist_push_head(&mappings, &m->node);
	*arena = m->address;
	*size = m->size;
	*fresh = m->fresh;
	return MOE_OK;
}

static moe_status
store_acquire(void *ud, const char *key, size_t least, size_t most, void **arena, size_t *size,
			  bool *fresh, moe_error *err)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile moe_status status = MOE_ERR_MEMORY;

	PG_TRY();
	{
		status = acquire(key, least, most, arena, size, fresh, err);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		/* The engine's callers hold no lock, so all that are held are ours */
		LWLockReleaseAll();
		ConditionVariableCancelSleep();
		waiting = false;
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		fail(err, MOE_ERR_MEMORY, error->message);
		FreeErrorData(error);
	}
	PG_END_TRY();
	return status;
}

static void
store_ready(void *ud, const char *key)
{
	Mapping    *m = find_mapping(key);

	m->fresh = false;
	moe_usage_read(key, m->address);
	if (m->slot < 0)
		return;
	if (m->segment)
		dsm_pin_segment(m->segment);
	LWLockAcquire(&control->lock, LW_EXCLUSIVE);
	control->blocks[m->slot].state = BLOCK_READY;
	LWLockRelease(&control->lock);
	ConditionVariableBroadcast(&control->changed);
}

static void
store_release(void *ud, const char *key)
{
	Mapping    *m = find_mapping(key);

	if (--m->users > 0)
		return;
	save_usage(m, true);
	free_mapping(m);
}

/* ----------
 * What the rest of the extension calls
 * ----------
 */

/*
 * Give back whatever this backend still has; it is about to exit
 */
void
moe_store_begin_exit(void)
{
	while (!dlist_is_empty(&mappings))
		free_mapping(dlist_head_element(Mapping, node, &mappings));
}

/*
 * Tell where the weights of a block that this backend uses come from, and that
 * the files have been found right
 */
void
moe_store_set_source(const char *key, const char *path, const char *stamp, moe_quantize quantize)
{
	Mapping    *m = find_mapping(key);

	if (m == NULL || strlen(path) >= MAXPGPATH)
		return;
	if (m->source == NULL)
		m->source = calloc(1, sizeof(MoeWeightSource));
	if (m->source == NULL)
		return;
	strlcpy(m->source->path, path, MAXPGPATH);
	strlcpy(m->source->stamp, stamp, MOE_STAMP_SIZE);
	m->source->quantize = quantize;
}

/*
 * Give a block that this backend uses more room, if it had to be small and there
 * is some by now
 */
void
moe_store_grow(const char *key)
{
	Mapping    *m = find_mapping(key);

	if (m != NULL && m->slot >= 0 && !m->fresh)
		grow_block(m);
}

/*
 * Write down what of a block that this backend uses was used, if nobody has done
 * so for a while
 */
void
moe_store_note_usage(const char *key)
{
	Mapping    *m = find_mapping(key);

	if (m != NULL)
		save_usage(m, false);
}

/*
 * Are we inside store_acquire(), and so inside the engine?
 *
 * Only the postmaster's death can end the process there.
 */
bool
moe_store_is_waiting(void)
{
	return waiting;
}

/*
 * Why the last block was not shared, malloc'ed, or NULL; told once
 */
char *
moe_store_take_complaint(void)
{
	char	   *result = complaint;

	complaint = NULL;
	return result;
}

/*
 * Give a block back, if it is in use as soon as it is not
 */
void
moe_store_drop(const char *key)
{
	int			slot;

	moe_usage_forget(key);
	if (!attach_control())
		return;
	LWLockAcquire(&control->lock, LW_EXCLUSIVE);
	slot = find_slot(key);
	if (slot >= 0)
	{
		Block	   *b = &control->blocks[slot];

		if (b->users == 0)
			free_slot(b);
		else
			b->doomed = true;
	}
	LWLockRelease(&control->lock);
}

/*
 * Is a block in memory, shared or this backend's?
 */
bool
moe_store_holds(const char *key)
{
	bool		found;
	int			slot;

	if (find_mapping(key) != NULL)
		return true;
	if (!attach_control())
		return false;
	LWLockAcquire(&control->lock, LW_SHARED);
	slot = find_slot(key);
	found = slot >= 0 && control->blocks[slot].state == BLOCK_READY;
	LWLockRelease(&control->lock);
	return found;
}

/*
 * Calls fn with an arena, if there is one of that key: this backend's own, or
 * mapped for the time of the call.  fn may raise errors.
 *
 * users receives the number of backends that have it mapped, without such guests,
 * and 0 for private memory.
 */
bool
moe_store_visit(const char *key, MoeArenaVisitor fn, void *arg)
{
	Mapping    *m = find_mapping(key);
	bool		guest = false;
	MoeArenaInfo info = {0};

	if (m == NULL)
	{
		char	   *why = NULL;
		int			slot = -1;

		if (attach_control())
		{
			LWLockAcquire(&control->lock, LW_EXCLUSIVE);
			slot = find_slot(key);
			if (slot >= 0 && control->blocks[slot].state == BLOCK_READY)
				control->blocks[slot].users++;
			else
				slot = -1;
			LWLockRelease(&control->lock);
		}
		if (slot < 0)
			return false;
		m = calloc(1, sizeof(Mapping));
		if (m == NULL)
		{
			LWLockAcquire(&control->lock, LW_EXCLUSIVE);
			leave_slot(slot);
			LWLockRelease(&control->lock);
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		}
		strlcpy(m->key, key, MAX_KEY);
		m->slot = slot;
		m->size = control->blocks[slot].size;
		if (!map_slot(m, &why))
		{
			free(why);
			free(m);
			return false;
		}
		dlist_push_head(&mappings, &m->node);
		guest = true;
	}

	info.key = m->key;
	info.arena = m->address;
	info.size = m->size;
	info.is_shared = m->slot >= 0;
	if (info.is_shared)
	{
		info.size = control->blocks[m->slot].size;
		info.users = control->blocks[m->slot].users - (guest ? 1 : 0);
	}
	PG_TRY();
	{
		fn(&info, arg);
	}
	PG_FINALLY();
	{
		if (guest)
			free_mapping(m);
	}
	PG_END_TRY();
	return true;
}

/*
 * The keys of all arenas, shared or this backend's, as a List of palloc'ed strings
 */
List *
moe_store_keys(void)
{
	char		(*keys)[MAX_KEY] = palloc(MAX_BLOCKS * MAX_KEY);
	List	   *list = NIL;
	dlist_iter	iter;
	int			n = 0;

	if (attach_control())
	{
		LWLockAcquire(&control->lock, LW_SHARED);
		for (int i = 0; i < MAX_BLOCKS; i++)
			if (control->blocks[i].state == BLOCK_READY)
				strcpy(keys[n++], control->blocks[i].key);
		LWLockRelease(&control->lock);
	}
	for (int i = 0; i < n; i++)
		list = lappend(list, keys[i]);
	dlist_foreach(iter, &mappings)
	{
		Mapping    *m = dlist_container(Mapping, node, iter.cur);

		if (m->slot < 0 && !m->fresh)
			list = lappend(list, pstrdup(m->key));
	}
	return list;
}

/*
 * Give a block back now, if no backend has it mapped; else false
 */
bool
moe_store_free(const char *key)
{
	bool		freed = false;
	int			slot;

	if (!attach_control())
		return false;
	LWLockAcquire(&control->lock, LW_EXCLUSIVE);
	slot = find_slot(key);
	if (slot >= 0 && control->blocks[slot].state == BLOCK_READY &&
		control->blocks[slot].users == 0)
	{
		free_slot(&control->blocks[slot]);
		freed = true;
	}
	LWLockRelease(&control->lock);
	if (freed)
		moe_usage_given_back(key);
	return freed;
}

/*
 * Memory in use
 */
void
moe_store_usage(MoeStoreUsage *usage)
{
	usage->blocks = 0;
	usage->shared_bytes = 0;
	usage->private_bytes = private_bytes;
	if (!attach_control())
		return;
	LWLockAcquire(&control->lock, LW_SHARED);
	usage->shared_bytes = total_bytes();
	for (int i = 0; i < MAX_BLOCKS; i++)
		usage->blocks += control->blocks[i].state != BLOCK_FREE;
	LWLockRelease(&control->lock);
}

/*
 * Has some backend read the files behind this fingerprint and found their
 * digest right?
 *
 * The fingerprint is a hash over path, stamp and digest (host.c).  The last
 * MAX_VERIFIED ones are kept, so that a file that was not registered on this
 * very machine is read once per server and not once per session.
 */
bool
moe_store_is_verified(uint64 fingerprint)
{
	bool		found = false;

	if (!attach_control())
		return false;
	LWLockAcquire(&control->lock, LW_SHARED);
	for (int i = 0; i < MAX_VERIFIED && !found; i++)
		found = control->verified[i] == fingerprint;
	LWLockRelease(&control->lock);
	return found;
}

/*
 * Remember a fingerprint
 */
void
moe_store_set_verified(uint64 fingerprint)
{
	if (!attach_control())
		return;
	LWLockAcquire(&control->lock, LW_EXCLUSIVE);
	control->verified[control->next_verified] = fingerprint;
	control->next_verified = (control->next_verified + 1) % MAX_VERIFIED;
	LWLockRelease(&control->lock);
}
