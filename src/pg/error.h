/*-------------------------------------------------------------------------
 *
 * error.h
 *	  The engine's errors as PostgreSQL's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_PG_ERROR_H
#define MOE_PG_ERROR_H

#include "../engine/moe.h"

_Noreturn extern void moe_throw(const moe_error *err, const char *doing);
extern bool moe_is_input_error(const moe_error *err);

/* Raises the engine's error if a call did not end well */
static inline void
moe_check(moe_status status, const moe_error *err)
{
	if (status != MOE_OK)
		moe_throw(err, NULL);
}

#endif							/* MOE_PG_ERROR_H */
