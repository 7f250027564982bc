/*-------------------------------------------------------------------------
 *
 * weight_store.h
 *	  Memory for packed weights, once for all sessions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_WEIGHT_STORE_H
#define MOE_WEIGHT_STORE_H

#include "../engine/moe.h"
#include "nodes/pg_list.h"

/* What the engine puts its weights into */
extern const moe_weight_store moe_shared_store;

typedef struct MoeStoreUsage
{
	int			blocks;
	int64		shared_bytes;	/* of all sessions together */
	int64		private_bytes;	/* of this one, where shared memory was short */
} MoeStoreUsage;

/* An arena of the engine's, see moe_arena_stats_of() */
typedef struct MoeArenaInfo
{
	const char *key;
	void	   *arena;
	Size		size;
	bool		is_shared;
	int			users;			/* backends that have its model open, if shared */
} MoeArenaInfo;

typedef void (*MoeArenaVisitor) (const MoeArenaInfo *info, void *arg);

extern void moe_store_begin_exit(void);
extern void moe_store_set_source(const char *key, const char *path, const char *stamp,
								 moe_quantize quantize);
extern void moe_store_grow(const char *key);
extern void moe_store_note_usage(const char *key);
extern bool moe_store_is_waiting(void);
extern char *moe_store_take_complaint(void);
extern void moe_store_drop(const char *key);
extern bool moe_store_holds(const char *key);
extern bool moe_store_visit(const char *key, MoeArenaVisitor fn, void *arg);
extern List *moe_store_keys(void);
extern bool moe_store_free(const char *key);
extern void moe_store_usage(MoeStoreUsage *usage);
extern bool moe_store_is_verified(uint64 fingerprint);
extern void moe_store_set_verified(uint64 fingerprint);

#endif							/* MOE_WEIGHT_STORE_H */
