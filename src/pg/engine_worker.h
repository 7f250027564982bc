/*-------------------------------------------------------------------------
 *
 * engine_worker.h
 *	  The shared engine: a background worker that computes for all sessions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_ENGINE_WORKER_H
#define MOE_ENGINE_WORKER_H

extern void moe_engine_register(void);

#endif							/* MOE_ENGINE_WORKER_H */
