/*-------------------------------------------------------------------------
 *
 * weight_blocks.h
 *	  Which blocks of memory for weights there are, and who has how much room.
 *
 * For weight_store.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_WEIGHT_BLOCKS_H
#define MOE_WEIGHT_BLOCKS_H

#include "channel.h"
#include "datatype/timestamp.h"
#include "storage/condition_variable.h"
#include "storage/dsm.h"
#include "storage/lwlock.h"

#define MOE_MAX_BLOCKS 64
#define MOE_MAX_VERIFIED 64
#define MOE_BLOCK_ALIGN 4096

typedef enum MoeBlockState
{
	MOE_BLOCK_FREE = 0,
	MOE_BLOCK_LOADING,			/* its creator prepares it */
	MOE_BLOCK_READY
} MoeBlockState;

typedef struct MoeBlock
{
	char		key[MOE_WEIGHTS_KEY_SIZE];
	MoeBlockState state;
	bool		doomed;			/* to be given back when users drops to 0 */
	bool		resizing;		/* a user makes it smaller or larger */
	int			users;			/* backends that have it mapped */
	dsm_handle	handle;			/* DSM_HANDLE_INVALID until it is created */
	uint64		offset;			/* in the range, if there is one */
	uint64		size;
	uint64		least;			/* size that its model needs, */
	uint64		most;			/* and that it can use */
	uint64		capacity;		/* of its segment */
	uint64		last_used;		/* value of moe_blocks->clock */
	TimestampTz saved;			/* when its usage was last written to disk */
} MoeBlock;

typedef struct MoeBlockControl
{
	LWLock		lock;
	ConditionVariable changed;	/* some block became ready or was abandoned */
	int			tranche;
	uint64		clock;
	int			next_verified;
	uint64		verified[MOE_MAX_VERIFIED]; /* see moe_store_is_verified() */
	MoeBlock	blocks[MOE_MAX_BLOCKS];
} MoeBlockControl;

/* Keys of blocks that made room for another one */
typedef struct MoeEvictedBlocks
{
	int			n;
	char		keys[MOE_MAX_BLOCKS][MOE_WEIGHTS_KEY_SIZE];
} MoeEvictedBlocks;

extern MoeBlockControl *moe_blocks; /* NULL before moe_blocks_attach() */
extern char *moe_block_range;	/* NULL: blocks are segments */

extern void moe_blocks_request_shmem(void);
extern bool moe_blocks_attach(void);
extern int moe_blocks_find(const char *key);
extern void moe_blocks_free(MoeBlock *b);
extern bool moe_blocks_evict_one(MoeEvictedBlocks *evicted);
extern uint64 moe_blocks_total(void);
extern uint64 moe_blocks_find_room(uint64 least, uint64 most, uint64 *offset,
								   MoeEvictedBlocks *evicted);
extern uint64 moe_blocks_room_behind(const MoeBlock *b);
extern bool moe_blocks_has_outgrown(MoeBlock *b, uint64 most);
extern bool moe_blocks_any_resizing(void);
extern MoeBlock *moe_blocks_choose_giver(uint64 least, uint64 most, uint64 *size);
extern void moe_blocks_leave(int slot);

#endif							/* MOE_WEIGHT_BLOCKS_H */
