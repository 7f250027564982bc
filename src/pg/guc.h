/*-------------------------------------------------------------------------
 *
 * guc.h
 *	  The settings of the extension, all under "moe.".
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_GUC_H
#define MOE_GUC_H

extern char *moe_default_model;
extern int	moe_threads;		/* 0: as many as the engine sees fit */
extern int	moe_cpu_isa;		/* index for moe_isa_name() */
extern bool moe_reproducible;
extern int	moe_kv_cache_size;	/* MB */
extern int	moe_weight_cache_size;	/* MB, -1: no limit */
extern int	moe_max_tokens_per_query;	/* 0: no limit */
extern int	moe_max_backends;	/* 0: no limit */

extern void moe_define_settings(void);
extern const char *moe_isa_name(int isa);

#endif							/* MOE_GUC_H */
