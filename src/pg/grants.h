/*-------------------------------------------------------------------------
 *
 * grants.h
 *	  Who may use which model.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_GRANTS_H
#define MOE_GRANTS_H

#include "catalog.h"

extern bool moe_may_use(const MoeModelRow *row);
extern bool moe_may_use_name(const char *name);
extern void moe_check_grant(const MoeModelRow *row);
extern void moe_check_registrar(const char *function);
extern void moe_grant_to_registrar(const char *model);
extern void moe_grants_remove(const char *model);
extern Oid	moe_role_oid(const char *name);

#endif							/* MOE_GRANTS_H */
