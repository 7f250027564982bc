/*-------------------------------------------------------------------------
 *
 * weight_usage.h
 *	  What of a model was used, remembered across restarts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_WEIGHT_USAGE_H
#define MOE_WEIGHT_USAGE_H

#include "../engine/moe.h"
#include "catalog.h"
#include "channel.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

/* Where the weights of a model come from */
typedef struct MoeWeightSource
{
	char		path[MAXPGPATH];
	char		stamp[MOE_STAMP_SIZE];	/* of the files when they were last found right */
	moe_quantize quantize;
} MoeWeightSource;

/* A model that was in shared memory when its file was last written */
typedef struct MoeUsage
{
	char		key[MOE_WEIGHTS_KEY_SIZE];
	MoeWeightSource source;
	TimestampTz written;
	uint64		resident_bytes;
} MoeUsage;

extern void moe_usage_read(const char *key, void *arena);
extern void moe_usage_write(const char *key, const void *arena, const MoeWeightSource *source);
extern void moe_usage_given_back(const char *key);
extern void moe_usage_forget(const char *key);
extern List *moe_usage_list(void);

#endif							/* MOE_WEIGHT_USAGE_H */
