/*-------------------------------------------------------------------------
 *
 * host.h
 *	  This backend's engine and the models that it has open.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_HOST_H
#define MOE_HOST_H

#include "../engine/moe.h"
#include "catalog.h"
#include "lib/ilist.h"

/* An open model; see moe_host_open() */
typedef struct MoeOpenModel
{
	dlist_node	node;
	char	   *name;
	char	   *path;
	char	   *digest;
	char	   *weights_key;	/* in the store */
	char	   *stamp;			/* of the files when they were last found right */
	char	   *options;		/* of load_model(), "" if none */
	char	   *query_prefix;	/* UTF-8, "" if none */
	char	   *passage_prefix;
	int			kv_cache_size;	/* moe.kv_cache_size when it was opened */
	bool		text_only;		/* without weights: only text functions work */
	int			users;			/* runs that hold it */
	int			n_descriptors;	/* files that it keeps open */
	moe_model  *model;
} MoeOpenModel;

typedef struct MoeHostStatus
{
	const char *isa;
	int			threads;
	bool		reproducible;
	int			open_models;
	moe_counters counters;		/* summed up over the open models */
} MoeHostStatus;

extern const moe_cancel moe_cancel_by_interrupt;

extern MoeOpenModel *moe_host_open(const MoeModelRow *row, bool text_only);
extern void moe_host_close(const char *name);
extern void moe_host_status(MoeHostStatus *status);

#endif							/* MOE_HOST_H */
