/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Everything that differs between the PostgreSQL versions we build for.
 *
 * Include it after postgres.h and fmgr.h.  No other file tests
 * PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_COMPAT_H
#define MOE_COMPAT_H

#include "catalog/objectaccess.h"
#include "catalog/pg_proc.h"
#include "commands/explain.h"
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#endif
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/plannodes.h"
#include "nodes/primnodes.h"
#include "storage/lwlock.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/wait_event.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#if PG_VERSION_NUM < 150000
#error "pg_moe needs PostgreSQL 15 or newer"
#endif

/*
 * The library is compiled with hidden symbols.  Up to 15 the server's macros
 * do not mark a module's entry points as exported.
 */
#if PG_VERSION_NUM < 160000
#undef PGDLLEXPORT
#define PGDLLEXPORT __attribute__((visibility("default")))
#endif

/* The first minor versions let nobody set anything inside a parallel query */
#ifndef GUC_ALLOW_IN_PARALLEL
#define GUC_ALLOW_IN_PARALLEL 0
#endif

/* Declares an SQL-callable function, exported on every version */
#define MOE_FUNCTION(name) \
	extern PGDLLEXPORT Datum name(PG_FUNCTION_ARGS); \
	PG_FUNCTION_INFO_V1(name)

/* The error unless the current user may call a function, as where one is called */
static inline void
moe_check_execute(Oid funcid)
{
#if PG_VERSION_NUM >= 160000
	AclResult	result = object_aclcheck(ProcedureRelationId, funcid, GetUserId(), ACL_EXECUTE);
#else
	AclResult	result = pg_proc_aclcheck(funcid, GetUserId(), ACL_EXECUTE);
#endif

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FUNCTION, get_func_name(funcid));
	InvokeFunctionExecuteHook(funcid);
}

/*
 * Expressions that newer servers have and that do not evaluate all of their parts
 * for all rows
 */
static inline bool
moe_is_lazy_expression(const Node *node)
{
#if PG_VERSION_NUM >= 170000
	return IsA(node, JsonExpr);
#else
	return false;
#endif
}

/* True if a plan names columns together with their tables, as those of the server do */
static inline bool
moe_explain_prefixes(const ExplainState *es)
{
#if PG_VERSION_NUM >= 180000
	return es->rtable_size > 1 || es->verbose;	/* GROUP BY's own entry does not count */
#else
	return list_length(es->rtable) > 1 || es->verbose;
#endif
}

/* A plan node counts the disabled nodes that another one counted: EXPLAIN compares it with its neighbours */
static inline void
moe_inherit_disabled_nodes(Plan *plan, const Plan *from)
{
#if PG_VERSION_NUM >= 180000
	plan->disabled_nodes = from->disabled_nodes;
#endif
}

/* The index behind a table's primary key, or InvalidOid */
static inline Oid
moe_primary_key_index(Relation rel)
{
#if PG_VERSION_NUM >= 180000
	return RelationGetPrimaryKeyIndex(rel, false);
#else
	return RelationGetPrimaryKeyIndex(rel);
#endif
}

/* Wait event shown while a backend waits for another one to load weights */
static inline uint32
moe_wait_event_load(void)
{
#if PG_VERSION_NUM >= 170000
	static uint32 event = 0;

	if (event == 0)
		event = WaitEventExtensionNew("MoeModelLoad");
	return event;
#else
	return PG_WAIT_EXTENSION;
#endif
}

/* Wait event shown while a backend waits for its turn to compute */
static inline uint32
moe_wait_event_gate(void)
{
#if PG_VERSION_NUM >= 170000
	static uint32 event = 0;

	if (event == 0)
		event = WaitEventExtensionNew("MoeMaxBackends");
	return event;
#else
	return PG_WAIT_EXTENSION;
#endif
}

/* Wait event of a backend that waits for the shared engine, and of that while it has no work */
static inline uint32
moe_wait_event_engine(void)
{
#if PG_VERSION_NUM >= 170000
	static uint32 event = 0;

	if (event == 0)
		event = WaitEventExtensionNew("MoeEngine");
	return event;
#else
	return PG_WAIT_EXTENSION;
#endif
}

/* A tranche id for our LWLocks, to be stored in shared memory */
static inline int
moe_new_lwlock_tranche(const char *name)
{
#if PG_VERSION_NUM >= 190000
	return LWLockNewTrancheId(name);
#else
	return LWLockNewTrancheId();
#endif
}

/* Tells this process the tranche's name */
static inline void
moe_register_lwlock_tranche(int tranche, const char *name)
{
#if PG_VERSION_NUM < 190000
	LWLockRegisterTranche(tranche, name);
#endif
}

/*
 * True if CHECK_FOR_INTERRUPTS() would end the running statement for a reason
 * that a flag shows.
 */
static inline bool
moe_interrupt_ends_statement(void)
{
	if (!InterruptPending || InterruptHoldoffCount != 0 || CritSectionCount != 0)
		return false;
	if (ProcDiePending || ClientConnectionLost)
		return true;
#if PG_VERSION_NUM >= 170000
	if (TransactionTimeoutPending)
		return true;
#endif
	return QueryCancelPending && QueryCancelHoldoffCount == 0;
}

#endif							/* MOE_COMPAT_H */
