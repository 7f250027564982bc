/*-------------------------------------------------------------------------
 *
 * autoprewarm.h
 *	  Loads after a restart what was in memory before it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_AUTOPREWARM_H
#define MOE_AUTOPREWARM_H

extern void moe_autoprewarm_register(void);

#endif							/* MOE_AUTOPREWARM_H */
