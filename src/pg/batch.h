/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  A plan node that calls models for many rows at once.
 *
 * The planner's part (batch_plan.c) makes it, the executor's part
 * (batch_scan.c) runs it.  This is what a node consists of:
 *
 * lefttree is the input.  custom_scan_tlist describes a row of the scan: the
 * input's columns in their order, then a column per call.  custom_exprs has
 * a guard per call: an expression that says whether the row needs the call,
 * or NULL if every row does.  Calls and guards refer to the input's columns by
 * INDEX_VAR.  custom_private says whether all rows will be asked for, and holds
 * the expressions of the count and the offset of a LIMIT that reads the node's
 * rows without losing any, or NULLs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_BATCH_H
#define MOE_BATCH_H

#include "call.h"
#include "nodes/extensible.h"
#include "nodes/plannodes.h"

extern const CustomScanMethods moe_batch_methods;

extern void moe_batch_init(void);
extern const MoeFunction *moe_batchable_function(Oid funcid);

#endif							/* MOE_BATCH_H */
