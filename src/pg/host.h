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
#include "wire.h"

/* An open model; see moe_host_open() */
typedef struct MoeOpenModel
{
	dlist_node	node;
	char	   *name;
	char	   *path;
	char	   *digest;
	MoeModelSpec spec;			/* for the weight store and the shared engine */
	char	   *stamp;			/* of the files when they were last found right */
	char	   *options;		/* of load_model(), "" if none */
	char	   *query_prefix;	/* UTF-8, "" if none */
	char	   *passage_prefix;
	int			kv_cache_size;	/* moe.kv_cache_size when it was opened */
	bool		text_only;		/* without weights: text functions work here, and runs
								 * are the shared engine's */
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
extern void moe_host_prewarm(const MoeModelRow *row, int *n_units, size_t *n_bytes);
extern void moe_host_close(const char *name);
extern bool moe_host_is_shared(void);
extern void moe_host_open_options(moe_model_options *options, const MoeModelSpec *spec);
extern moe_status moe_host_create_engine(int threads, moe_engine **out, moe_error *err);
extern void moe_host_status(MoeHostStatus *status);

#endif							/* MOE_HOST_H */
