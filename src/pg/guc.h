/*-------------------------------------------------------------------------
 *
 * guc.h
 *	  The settings of the extension, all under "moe.".
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_GUC_H
#define MOE_GUC_H

/* moe.host */
typedef enum MoeHostSetting
{
	MOE_HOST_AUTO,
	MOE_HOST_BACKEND,
	MOE_HOST_SHARED
} MoeHostSetting;

extern char *moe_default_model;
extern int	moe_host;			/* a MoeHostSetting */
extern int	moe_threads;		/* 0: as many as the engine sees fit */
extern int	moe_cpu_isa;		/* index for moe_isa_name() */
extern bool moe_reproducible;
extern int	moe_kv_cache_size;	/* MB */
extern int	moe_weight_cache_size;	/* MB, -1: no limit */
extern int	moe_max_tokens_per_query;	/* 0: no limit */
extern int	moe_max_backends;	/* 0: no limit */
extern bool moe_batching;

extern int	moe_shared_threads; /* 0: as many as the engine sees fit */
extern bool moe_shared_engine;	/* this and the next two only if preloaded */
extern bool moe_autoprewarm;
extern int	moe_max_requests;

extern void moe_define_settings(void);
extern const char *moe_isa_name(int isa);

#endif							/* MOE_GUC_H */
