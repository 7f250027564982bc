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
 * What a segment gives back when it becomes smaller goes to the system,
 * page by page, and is taken anew before it is used, lest a write find no memory.
 *
 * Where shared memory can't be had (a container's small /dev/shm), the block
 * is private memory, and the caller gets a complaint to pass on as a WARNING.
 *
 * Which blocks there are and who is to have how much room is the affair of
 * weight_blocks.c; here is what a backend does with the blocks it uses.
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
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "weight_blocks.h"
#include "weight_store.h"
#include "weight_usage.h"

#define SAVE_INTERVAL (5 * USECS_PER_MINUTE)
#define MAX_ASKED 4				/* for the case that others take what was given */

/* A block that this backend uses */
typedef struct Mapping
{
	dlist_node	node;
	char		key[MOE_WEIGHTS_KEY_SIZE];
	int			users;			/* models of this backend */
	int			slot;			/* in moe_blocks->blocks, -1: private memory */
	bool		fresh;			/* we are to prepare it */
	dsm_segment *segment;
	void	   *address;
	size_t		size;
	MoeWeightSource *source;	/* malloc'ed; NULL if not told */
} Mapping;

static dlist_head mappings = DLIST_STATIC_INIT(mappings);
static int64 private_bytes = 0;
static char *complaint = NULL;
static bool waiting = false;

static moe_status store_acquire(void *ud, const char *key, size_t least, size_t most,
								void **arena, size_t *size, bool *fresh, moe_error *err);
static void store_ready(void *ud, const char *key);
static void store_release(void *ud, const char *key);

const moe_weight_store moe_shared_store = {
	.acquire = store_acquire,
	.ready = store_ready,
	.release = store_release,
};

/*
 * Remember that these are gone; without the lock
 */
static void
tell_evicted(MoeEvictedBlocks *evicted)
{
	while (evicted->n > 0)
		moe_usage_given_back(evicted->keys[--evicted->n]);
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
		LWLockAcquire(&moe_blocks->lock, LW_EXCLUSIVE);
		moe_blocks_leave(m->slot);
		LWLockRelease(&moe_blocks->lock);
		ConditionVariableBroadcast(&moe_blocks->changed);
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
	LWLockAcquire(&moe_blocks->lock, LW_EXCLUSIVE);
	if (!moe_blocks->blocks[m->slot].doomed)
	{
		MoeBlock   *b = &moe_blocks->blocks[m->slot];

		due = (leaving && b->users == 1) || now - b->saved > SAVE_INTERVAL;
		if (due)
			b->saved = now;
	}
	LWLockRelease(&moe_blocks->lock);
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
	ConditionVariableTimedSleep(&moe_blocks->changed, ms, moe_wait_event_load());
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
cut_arena(const MoeBlock *b, char *arena, uint64 size, bool *cancelled)
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
	if (moe_block_range == NULL && madvise(arena + size, b->size - size, MADV_REMOVE) != 0)
	{
		(void) moe_arena_resize(arena, b->size);
		return false;
	}
	return true;
}

/*
 * Make a block smaller; the caller has set resizing and is among the users
 */
static void
shrink_block(MoeBlock *b, uint64 size, bool *cancelled)
{
	const Mapping *m = find_mapping(b->key);
	dsm_segment *segment = NULL;
	char	   *why = NULL;
	char	   *arena;
	bool		done;

	if (moe_block_range)
		arena = moe_block_range + b->offset;
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

	LWLockAcquire(&moe_blocks->lock, LW_EXCLUSIVE);
	if (done)
		b->size = size;
	b->resizing = false;
	moe_blocks_leave(b - moe_blocks->blocks);
	LWLockRelease(&moe_blocks->lock);
}

/*
 * Have a block that is in use become smaller for one of `least` to `most` bytes, which
 * could have `size` bytes (0: less than it needs) without that, or wait for one
 * that is being made so.  Caller holds the lock; it is given up if there was
 * something to do.
 */
static bool
ask_for_room(uint64 least, uint64 most, uint64 size, int *n_asked, bool *cancelled)
{
	MoeBlock   *giver = NULL;
	uint64		kept;

	if (*n_asked == 0 || (size == 0 && *n_asked < MAX_ASKED))
		giver = moe_blocks_choose_giver(least, most, &kept);
	if (giver != NULL)
	{
		giver->resizing = true;
		giver->users++;
		LWLockRelease(&moe_blocks->lock);
		++*n_asked;
		shrink_block(giver, kept, cancelled);
		return true;
	}
	if (size > 0 || !moe_blocks_any_resizing())
		return false;
	LWLockRelease(&moe_blocks->lock);
	*cancelled = !wait_a_little(10);
	return true;
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
	MoeBlock   *b = &moe_blocks->blocks[m->slot];
	char	   *arena = m->address;
	uint64		before,
				after;

	if (b->size >= b->most)		/* the usual case; a glance without the lock does */
		return;
	LWLockAcquire(&moe_blocks->lock, LW_EXCLUSIVE);
	before = b->size;
	after = b->resizing ? before : Min(b->most, before + moe_blocks_room_behind(b));
	after -= after % MOE_BLOCK_ALIGN;
	if (after > before)
	{
		b->size = after;
		b->resizing = true;
	}
	LWLockRelease(&moe_blocks->lock);
	if (after <= before)
		return;
	if (moe_block_range || populate(arena + before, after - before))
		(void) moe_arena_resize(arena, after);
	else
	{
		(void) madvise(arena + before, after - before, MADV_REMOVE);
		after = before;
	}
	LWLockAcquire(&moe_blocks->lock, LW_EXCLUSIVE);
	b->size = after;
	b->resizing = false;
	LWLockRelease(&moe_blocks->lock);
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
	bool		cancelled = false;
	int			n_asked = 0;	/* blocks that became smaller for us */
	uint64		size,
				offset;
	MoeEvictedBlocks evicted;

	evicted.n = 0;
	*why = NULL;
	ConditionVariablePrepareToSleep(&moe_blocks->changed);
	for (;;)
	{
		MoeBlock   *b;
		int			slot;

		LWLockAcquire(&moe_blocks->lock, LW_EXCLUSIVE);
		slot = moe_blocks_find(m->key);
		if (slot >= 0 && moe_blocks->blocks[slot].state == MOE_BLOCK_LOADING)
		{
			/* Another backend is at it */
			LWLockRelease(&moe_blocks->lock);
			if (!wait_a_little(100))
			{
				fail(err, MOE_ERR_CANCELLED, "cancelled");
				break;
			}
			continue;
		}

		if (slot >= 0 && moe_blocks_has_outgrown(&moe_blocks->blocks[slot], most))
		{
			moe_blocks_free(&moe_blocks->blocks[slot]);
			slot = -1;
		}
		if (slot >= 0)
		{
			b = &moe_blocks->blocks[slot];
			b->users++;
			b->doomed = false;
			b->last_used = ++moe_blocks->clock;
			m->slot = slot;
			m->size = b->size;
			joined = true;
			LWLockRelease(&moe_blocks->lock);
			break;
		}

		/* Nobody has it: make room, then take a slot */
		size = moe_blocks_find_room(least, most, &offset, &evicted);
		if (size < most && ask_for_room(least, most, size, &n_asked, &cancelled))
		{
			if (!cancelled)
				continue;
			fail(err, MOE_ERR_CANCELLED, "cancelled");
			break;
		}
		if (size == 0)
		{
			LWLockRelease(&moe_blocks->lock);
			fail(err, MOE_ERR_MEMORY, "weights do not fit into moe.weight_cache_size");
			snprintf(err->detail, sizeof(err->detail),
					 "At least %zu MB are needed at a time; the limit is %d MB, of which other models keep what they need.",
					 (least + 1024 * 1024 - 1) / (1024 * 1024), moe_weight_cache_size);
			strlcpy(err->hint, "Raise moe.weight_cache_size, or drop a model that is not needed.",
					sizeof(err->hint));
			break;
		}
		for (slot = 0; slot < MOE_MAX_BLOCKS && moe_blocks->blocks[slot].state != MOE_BLOCK_FREE; slot++)
			 /* look on */ ;
		if (slot == MOE_MAX_BLOCKS)
		{
			bool		any = moe_blocks_evict_one(&evicted);

			LWLockRelease(&moe_blocks->lock);
			if (any)
				continue;
			*why = "too many models are in use";
			break;
		}
		b = &moe_blocks->blocks[slot];
		strlcpy(b->key, m->key, MOE_WEIGHTS_KEY_SIZE);
		b->state = MOE_BLOCK_LOADING;
		b->doomed = false;
		b->users = 1;
		b->handle = DSM_HANDLE_INVALID;
		b->offset = offset;
		b->size = size;
		b->least = least;
		b->most = most;
		b->capacity = size;
		b->last_used = ++moe_blocks->clock;
		b->saved = GetCurrentTimestamp();
		LWLockRelease(&moe_blocks->lock);
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
	MoeBlock   *b = &moe_blocks->blocks[m->slot];

	if (moe_block_range)
	{
		m->address = moe_block_range + b->offset;
		return true;
	}
	m->segment = get_segment(m->fresh ? m->size : 0, b->handle, why);
	if (m->segment != NULL)
	{
		m->address = dsm_segment_address(m->segment);
		if (m->fresh)
		{
			LWLockAcquire(&moe_blocks->lock, LW_EXCLUSIVE);
			b->handle = dsm_segment_handle(m->segment);
			LWLockRelease(&moe_blocks->lock);
		}
		return true;
	}
	if (*why == NULL)
		*why = strdup("too many dynamic shared memory segments");
	LWLockAcquire(&moe_blocks->lock, LW_EXCLUSIVE);
	moe_blocks_leave(m->slot);
	LWLockRelease(&moe_blocks->lock);
	ConditionVariableBroadcast(&moe_blocks->changed);
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

	if (strlen(key) >= MOE_WEIGHTS_KEY_SIZE)
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
	strlcpy(m->key, key, MOE_WEIGHTS_KEY_SIZE);
	m->users = 1;
	m->size = most;
	m->slot = -1;

	err->status = MOE_OK;
	if (!moe_blocks_attach())
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
	LWLockAcquire(&moe_blocks->lock, LW_EXCLUSIVE);
	moe_blocks->blocks[m->slot].state = MOE_BLOCK_READY;
	LWLockRelease(&moe_blocks->lock);
	ConditionVariableBroadcast(&moe_blocks->changed);
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
	if (!moe_blocks_attach())
		return;
	LWLockAcquire(&moe_blocks->lock, LW_EXCLUSIVE);
	slot = moe_blocks_find(key);
	if (slot >= 0)
	{
		MoeBlock   *b = &moe_blocks->blocks[slot];

		if (b->users == 0)
			moe_blocks_free(b);
		else
			b->doomed = true;
	}
	LWLockRelease(&moe_blocks->lock);
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
	if (!moe_blocks_attach())
		return false;
	LWLockAcquire(&moe_blocks->lock, LW_SHARED);
	slot = moe_blocks_find(key);
	found = slot >= 0 && moe_blocks->blocks[slot].state == MOE_BLOCK_READY;
	LWLockRelease(&moe_blocks->lock);
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

		if (moe_blocks_attach())
		{
			LWLockAcquire(&moe_blocks->lock, LW_EXCLUSIVE);
			slot = moe_blocks_find(key);
			if (slot >= 0 && moe_blocks->blocks[slot].state == MOE_BLOCK_READY)
				moe_blocks->blocks[slot].users++;
			else
				slot = -1;
			LWLockRelease(&moe_blocks->lock);
		}
		if (slot < 0)
			return false;
		m = calloc(1, sizeof(Mapping));
		if (m == NULL)
		{
			LWLockAcquire(&moe_blocks->lock, LW_EXCLUSIVE);
			moe_blocks_leave(slot);
			LWLockRelease(&moe_blocks->lock);
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
		}
		strlcpy(m->key, key, MOE_WEIGHTS_KEY_SIZE);
		m->slot = slot;
		m->size = moe_blocks->blocks[slot].size;
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
		info.size = moe_blocks->blocks[m->slot].size;
		info.users = moe_blocks->blocks[m->slot].users - (guest ? 1 : 0);
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
	char		(*keys)[MOE_WEIGHTS_KEY_SIZE] = palloc(MOE_MAX_BLOCKS * MOE_WEIGHTS_KEY_SIZE);
	List	   *list = NIL;
	dlist_iter	iter;
	int			n = 0;

	if (moe_blocks_attach())
	{
		LWLockAcquire(&moe_blocks->lock, LW_SHARED);
		for (int i = 0; i < MOE_MAX_BLOCKS; i++)
			if (moe_blocks->blocks[i].state == MOE_BLOCK_READY)
				strcpy(keys[n++], moe_blocks->blocks[i].key);
		LWLockRelease(&moe_blocks->lock);
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

	if (!moe_blocks_attach())
		return false;
	LWLockAcquire(&moe_blocks->lock, LW_EXCLUSIVE);
	slot = moe_blocks_find(key);
	if (slot >= 0 && moe_blocks->blocks[slot].state == MOE_BLOCK_READY &&
		moe_blocks->blocks[slot].users == 0)
	{
		moe_blocks_free(&moe_blocks->blocks[slot]);
		freed = true;
	}
	LWLockRelease(&moe_blocks->lock);
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
	if (!moe_blocks_attach())
		return;
	LWLockAcquire(&moe_blocks->lock, LW_SHARED);
	usage->shared_bytes = moe_blocks_total();
	for (int i = 0; i < MOE_MAX_BLOCKS; i++)
		usage->blocks += moe_blocks->blocks[i].state != MOE_BLOCK_FREE;
	LWLockRelease(&moe_blocks->lock);
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

	if (!moe_blocks_attach())
		return false;
	LWLockAcquire(&moe_blocks->lock, LW_SHARED);
	for (int i = 0; i < MOE_MAX_VERIFIED && !found; i++)
		found = moe_blocks->verified[i] == fingerprint;
	LWLockRelease(&moe_blocks->lock);
	return found;
}

/*
 * Remember a fingerprint
 */
void
moe_store_set_verified(uint64 fingerprint)
{
	if (!moe_blocks_attach())
		return;
	LWLockAcquire(&moe_blocks->lock, LW_EXCLUSIVE);
	moe_blocks->verified[moe_blocks->next_verified] = fingerprint;
	moe_blocks->next_verified = (moe_blocks->next_verified + 1) % MOE_MAX_VERIFIED;
	LWLockRelease(&moe_blocks->lock);
}
