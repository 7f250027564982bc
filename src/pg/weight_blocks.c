/*-------------------------------------------------------------------------
 *
 * weight_blocks.c
 *	  Which blocks of memory for weights there are, and who has how much room.
 *
 * Blocks without users make room for others, those used least recently first.
 * If that is not enough, one with users becomes smaller at its end, so that who
 * comes has about as much as it keeps, but neither less than it needs.  It becomes
 * larger again when a session begins to compute with its model and there is room
 * behind it.  A block that had to be small and can't grow where it is is made anew
 * when it is next opened without users and there is more room.
 *
 * A small control block in the server's main shared memory says which blocks
 * there are.  It is found by name with ShmemInitStruct, which works in any
 * backend: 13 kB come from the reserve that the server has for such uses, or, if
 * the library is preloaded, from what was requested for it.  The server empties
 * all shared memory when it restarts after a crash, so nothing in here can
 * outlast a backend that died.
 *
 * LOCKING: moe_blocks->lock guards all of the control block but for the
 * condition variable.  It is held for a few instructions, or while a segment
 * is given back, but never across engine work, waiting, or the creation of a
 * segment.  A block with users > 0 stays where it is; one with resizing set
 * keeps its size but for the backend that set it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "guc.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "weight_blocks.h"

#define CONTROL_NAME "pg_moe weights"
#define RANGE_NAME "pg_moe weight cache"
#define TRANCHE_NAME "MoeWeights"

MoeBlockControl *moe_blocks = NULL;
char	   *moe_block_range = NULL;

static Size range_size = 0;		/* set in the postmaster */
static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(MoeBlockControl)));
	if (moe_weight_cache_size > 0)
	{
		range_size = (Size) moe_weight_cache_size * 1024 * 1024;
		RequestAddinShmemSpace(add_size(range_size, MOE_BLOCK_ALIGN));
	}
}

/*
 * Take what was requested, before somebody else does
 */
static void
startup_shmem(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	moe_blocks = NULL;			/* after a crash all is new */
	(void) moe_blocks_attach();
}

/*
 * Ask for the control block's memory and for that of the blocks, if it is not
 * too late for that
 */
void
moe_blocks_request_shmem(void)
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
bool
moe_blocks_attach(void)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		found;

	if (moe_blocks != NULL)
		return true;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	PG_TRY();
	{
		MoeBlockControl *c = ShmemInitStruct(CONTROL_NAME, sizeof(MoeBlockControl), &found);

		if (!found)
		{
			memset(c, 0, sizeof(MoeBlockControl));
			c->tranche = moe_new_lwlock_tranche(TRANCHE_NAME);
			LWLockInitialize(&c->lock, c->tranche);
			ConditionVariableInit(&c->changed);
		}
		moe_register_lwlock_tranche(c->tranche, TRANCHE_NAME);
		if (range_size > 0)
			moe_block_range = (char *)
				TYPEALIGN(MOE_BLOCK_ALIGN,
						  ShmemInitStruct(RANGE_NAME, range_size + MOE_BLOCK_ALIGN, &found));
		moe_blocks = c;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		HOLD_INTERRUPTS();		/* the error reset the count; release expects it */
	}
	PG_END_TRY();
	LWLockRelease(AddinShmemInitLock);
	return moe_blocks != NULL;
}

/*
 * The slot of a key, or -1.  Caller holds the lock.
 */
int
moe_blocks_find(const char *key)
{
	for (int i = 0; i < MOE_MAX_BLOCKS; i++)
		if (moe_blocks->blocks[i].state != MOE_BLOCK_FREE &&
			strcmp(moe_blocks->blocks[i].key, key) == 0)
			return i;
	return -1;
}

/*
 * Give a block without users back.  Caller holds the lock.
 */
void
moe_blocks_free(MoeBlock *b)
{
	if (b->state == MOE_BLOCK_READY && moe_block_range == NULL)
		dsm_unpin_segment(b->handle);
	memset(b, 0, sizeof(MoeBlock));
}

/*
 * Give back the block without users that was used least recently, if there is
 * one, and note its key.  Caller holds the lock.
 */
bool
moe_blocks_evict_one(MoeEvictedBlocks *evicted)
{
	MoeBlock   *victim = NULL;

	for (int i = 0; i < MOE_MAX_BLOCKS; i++)
	{
		MoeBlock   *b = &moe_blocks->blocks[i];

		if (b->state == MOE_BLOCK_READY && b->users == 0 &&
			(victim == NULL || b->last_used < victim->last_used))
			victim = b;
	}
	if (victim == NULL)
		return false;
	if (evicted->n < MOE_MAX_BLOCKS)
		strcpy(evicted->keys[evicted->n++], victim->key);
	moe_blocks_free(victim);
	return true;
}

/*
 * Bytes of all blocks.  Caller holds the lock.
 */
uint64
moe_blocks_total(void)
{
	uint64		total = 0;

	for (int i = 0; i < MOE_MAX_BLOCKS; i++)
		if (moe_blocks->blocks[i].state != MOE_BLOCK_FREE)
			total += moe_blocks->blocks[i].size;
	return total;
}

static int
compare_offsets(const void *a, const void *b)
{
	const MoeBlock *x = *(const MoeBlock *const *) a,
			   *y = *(const MoeBlock *const *) b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/*
 * The largest gap between the blocks of the range.  Caller holds the lock.
 */
static uint64
largest_gap(uint64 *offset)
{
	const MoeBlock *used[MOE_MAX_BLOCKS];
	uint64		end = 0,
				largest = 0;
	int			n = 0;

	for (int i = 0; i < MOE_MAX_BLOCKS; i++)
		if (moe_blocks->blocks[i].state != MOE_BLOCK_FREE)
			used[n++] = &moe_blocks->blocks[i];
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
			end = TYPEALIGN(MOE_BLOCK_ALIGN, next + used[i]->size);
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
	if (moe_block_range)
		room = largest_gap(offset);
	else if (moe_weight_cache_size >= 0)
	{
		uint64		limit = (uint64) moe_weight_cache_size * 1024 * 1024,
					total = moe_blocks_total();

		room = total < limit ? limit - total : 0;
	}
	return Min(room, most);
}

/*
 * Room for a block: as many of `most` bytes as can be had, after blocks without
 * users have made room.  0 if that is less than `least`.  Caller holds the lock.
 */
uint64
moe_blocks_find_room(uint64 least, uint64 most, uint64 *offset, MoeEvictedBlocks *evicted)
{
	uint64		room;

	do
		room = free_room(most, offset);
	while (room < most && moe_blocks_evict_one(evicted));
	return room < least ? 0 : room;
}

/*
 * Bytes that are free at the end of a block, and that its memory can have there.
 * Caller holds the lock.
 */
uint64
moe_blocks_room_behind(const MoeBlock *b)
{
	uint64		end = b->offset + b->size,
				next = range_size,
				offset;

	if (moe_block_range == NULL)
		return free_room(b->capacity - b->size, &offset);
	for (int i = 0; i < MOE_MAX_BLOCKS; i++)
		if (moe_blocks->blocks[i].state != MOE_BLOCK_FREE && moe_blocks->blocks[i].offset >= end)
			next = Min(next, moe_blocks->blocks[i].offset);
	return next > end ? next - end : 0;
}

/*
 * Would a block without users that is smaller than its model be much larger if
 * it were made anew, and not by growing where it is?  Caller holds the lock.
 */
bool
moe_blocks_has_outgrown(MoeBlock *b, uint64 most)
{
	MoeBlockState	state = b->state;
	uint64		room,
				here,
				offset;

	if (b->users > 0 || b->size >= most)
		return false;
	here = Min(b->size + moe_blocks_room_behind(b), most);
	b->state = MOE_BLOCK_FREE;
	room = free_room(most, &offset);
	b->state = state;
	return (room == most && here < most) || room > here + here / 4;
}

/*
 * Is room about to be given?  Caller holds the lock.
 */
bool
moe_blocks_any_resizing(void)
{
	for (int i = 0; i < MOE_MAX_BLOCKS; i++)
		if (moe_blocks->blocks[i].state == MOE_BLOCK_READY && moe_blocks->blocks[i].resizing)
			return true;
	return false;
}

/*
 * The block with users that is to become smaller for one of `least` to `most` bytes;
 * NULL if that gives none more than it could have as things are.  *size receives
 * the size that is left.  Caller holds the lock.
 */
MoeBlock *
moe_blocks_choose_giver(uint64 least, uint64 most, uint64 *size)
{
	MoeBlock   *giver = NULL;
	uint64		offset,
				free = free_room(most, &offset),
				best = free;

	for (int i = 0; i < MOE_MAX_BLOCKS; i++)
	{
		MoeBlock   *b = &moe_blocks->blocks[i];
		uint64		behind,
					both,
					wanted,
					kept;

		if (b->state != MOE_BLOCK_READY || b->users == 0 || b->resizing)
			continue;
		behind = moe_block_range ? moe_blocks_room_behind(b) : free;
		both = b->size + behind;
		wanted = Max(least, Min(most, both / 2));
		kept = both > wanted ? both - wanted : 0;
		kept = Max(b->least, kept - kept % MOE_BLOCK_ALIGN);
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
void
moe_blocks_leave(int slot)
{
	MoeBlock   *b = &moe_blocks->blocks[slot];

	b->users--;
	if (b->users == 0 && (b->doomed || b->state == MOE_BLOCK_LOADING))
		moe_blocks_free(b);
}
