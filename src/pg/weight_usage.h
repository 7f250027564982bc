/*-------------------------------------------------------------------------
 *
 * weight_usage.h
 *	  What of a model was used, remembered across restarts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_WEIGHT_USAGE_H
#define MOE_WEIGHT_USAGE_H

extern void moe_usage_read(const char *key, void *arena);
extern void moe_usage_write(const char *key, const void *arena);
extern void moe_usage_forget(const char *key);

#endif							/* MOE_WEIGHT_USAGE_H */
