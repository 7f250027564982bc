/*-------------------------------------------------------------------------
 *
 * batch_plan.c
 *	  Puts nodes that batch model calls into finished plans.
 *
 * The executor calls a function row by row, wherever the planner put the call.
 * Here a plan is looked through when its execution starts.  Where a node
 * computes calls, in its target list or as a filter, a node is put beside it that
 * reads ahead, has all of a batch computed at once, and hands out the rows with
 * the values in place (batch_scan.c).  There are two places for it:
 *
 * Above the node.  The node below then returns what the expressions are made
 * of: columns, aggregates, window functions and sets.  A filter with a call moves
 * up, and all that come after it with it, so that filters are applied in the
 * planner's order, which is by security level, then by cost.  Each filter with a
 * call has a batching node of its own: what it rejects is not computed for the
 * next one, let alone for the target list.
 *
 * Below the node, for arguments of aggregates, window functions and sets.
 *
 * A call whose argument is another call is computed by a second batching node
 * above the first.  So each of them is a layer of a stack, which passes its
 * input's columns on and adds a column per call.
 *
 * CASE, COALESCE, AND, OR and the FILTER of an aggregate do not evaluate all of
 * their arguments for all rows.  The condition under which a row gets to a call
 * becomes the call's guard.  Where that can't be told beforehand, the call
 * stays where it is and is evaluated row by row, as are calls in the conditions
 * of outer joins, in hash and index keys, in RETURNING, MERGE and ON CONFLICT, and
 * those with volatile functions in their arguments, which could notice that rows
 * are read ahead.
 *
 * Why at the start of execution, and not in the planner: the setting moe.batching
 * then holds for prepared plans too; and the library need only be loaded while
 * the statement is planned, which the planner support function of the SQL
 * functions sees to.  What is changed is a copy of the plan, which belongs to
 * the execution.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/parallel.h"
#include "batch.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/executor.h"
#include "guc.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/value.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

MOE_FUNCTION(pg_moe_plan_support);

static ExecutorStart_hook_type prev_executor_start = NULL;

#define F_RANDOM_WITHOUT_BOUNDS 1598		/* random(); the name in fmgroids.h depends on the version */

/* A column that a layer adds */
typedef struct CallColumn
{
	FuncExpr   *call;
	Node	   *guard;			/* or NULL */
	AttrNumber	column;
} CallColumn;

/* Batching nodes above a plan; expressions refer to the columns of top by INDEX_VAR */
typedef struct Stack
{
	Plan	   *top;
	const Plan *origin;			/* node for whose expressions this is */
	int		   *next_node_id;
	bool		reads_all;		/* the rows will all be asked for */
	int			n_layers;
	List	   *columns;		/* CallColumn, of all layers */
} Stack;

/* One pass over expressions, which finds the calls of the next layer */
typedef struct Pass
{
	Stack	   *stack;
	int			n_columns;		/* of the stack's top */
	List	   *found;			/* CallColumn */
	List	   *conditions;		/* under which the node at hand is evaluated */
	bool		inside_only;	/* only calls within aggregates and the like */
	bool		inside;
} Pass;

static Node *resolve_mutator(Node *node, void *context);
static Plan *batch_plan(Plan *plan, bool reads_all, int *next_node_id);

/* ----------
 * Finding calls
 * ----------
 */

/*
 * The planner asks this function about each call of a function that may be
 * batched.  It knows nothing, but it is in the library, whose hook is then there
 * in time.
 */
Datum
pg_moe_plan_support(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(NULL);
}

/*
 * The parts of a function if calls of it may be batched, or NULL
 *
 * A function with settings or an owner's rights of its own, or one that is
 * watched, has to be called.
 */
const MoeFunction *
moe_batchable_function(Oid funcid)
{
	HeapTuple	tuple;
	Form_pg_proc proc;
	const MoeFunction *function = NULL;

	if (funcid < FirstNormalObjectId || FmgrHookIsNeeded(funcid))
		return NULL;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	if (!HeapTupleIsValid(tuple))
		return NULL;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	if (proc->prolang == ClanguageId && !proc->proretset && !proc->prosecdef &&
		heap_attisnull(tuple, Anum_pg_proc_proconfig, NULL))
	{
		bool		isnull;
		Datum		symbol = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &isnull);

		if (!isnull)
		{
			char	   *name = TextDatumGetCString(symbol);

			function = moe_function_by_symbol(name);
			pfree(name);
		}
	}
	ReleaseSysCache(tuple);
	return function;
}

static bool
is_call(const Node *node)
{
	return IsA(node, FuncExpr) && moe_batchable_function(((const FuncExpr *) node)->funcid) != NULL;
}

static bool
has_call_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return is_call(node) || expression_tree_walker(node, has_call_walker, context);
}

static bool
has_call(const void *expression)
{
	return has_call_walker(unconstify(void *, expression), NULL);
}

/*
 * Does a target list set several columns from one subquery?  What refers to that
 * must stay where it is evaluated for each row.
 */
static bool
has_multiexpr(const List *targetlist)
{
	ListCell   *lc;

	foreach(lc, targetlist)
	{
		const Expr *expr = ((const TargetEntry *) lfirst(lc))->expr;

		if (IsA(expr, SubPlan) && ((const SubPlan *) expr)->subLinkType == MULTIEXPR_SUBLINK)
			return true;
	}
	return false;
}

static bool
is_join(const Plan *plan)
{
	return IsA(plan, NestLoop) || IsA(plan, MergeJoin) || IsA(plan, HashJoin);
}

static bool
is_batch_node(const Plan *plan)
{
	return IsA(plan, CustomScan) && ((const CustomScan *) plan)->methods == &moe_batch_methods;
}

/*
 * Call a function for each place where a node keeps a child, until it returns true
 *
 * Not for all of them: a foreign scan may have a child that must look as it does,
 * another extension's node must be left alone, and there are no calls below a
 * Gather.  If all is true, these come too.
 */
static bool
walk_children(Plan *plan, bool all, bool (*walker) (Plan **child, void *context), void *context)
{
	List	   *others = NIL;
	ListCell   *lc;

	check_stack_depth();
	switch (nodeTag(plan))
	{
		case T_Append:
			others = ((Append *) plan)->appendplans;
			break;
		case T_MergeAppend:
			others = ((MergeAppend *) plan)->mergeplans;
			break;
		case T_SubqueryScan:
			if (walker(&((SubqueryScan *) plan)->subplan, context))
				return true;
			break;
		case T_CustomScan:
			others = ((CustomScan *) plan)->custom_plans;
			 /* FALLTHROUGH */
		case T_ForeignScan:
		case T_Gather:
		case T_GatherMerge:
			if (!all)
				return false;
			break;
		default:
			break;
	}
	foreach(lc, others)
		if (walker((Plan **) &lfirst(lc), context))
			return true;
	return (plan->lefttree != NULL && walker(&plan->lefttree, context)) ||
		(plan->righttree != NULL && walker(&plan->righttree, context));
}

/*
 * Does a plan compute calls where they could be batched?
 */
static bool
plan_has_calls(Plan **plan, void *context)
{
	return has_call((*plan)->targetlist) || has_call((*plan)->qual) ||
		(is_join(*plan) && has_call(((Join *) *plan)->joinqual)) ||
		walk_children(*plan, false, plan_has_calls, context);
}

static bool
statement_has_calls(PlannedStmt *stmt)
{
	ListCell   *lc;

	if (plan_has_calls(&stmt->planTree, NULL))
		return true;
	foreach(lc, stmt->subplans)
		if (lfirst(lc) != NULL && plan_has_calls((Plan **) &lfirst(lc), NULL))
			return true;
	return false;
}

static bool
raise_to_node_id(Plan **plan, void *context)
{
	int		   *next_node_id = context;

	*next_node_id = Max(*next_node_id, (*plan)->plan_node_id + 1);
	return walk_children(*plan, true, raise_to_node_id, context);
}

/* ----------
 * Layers
 * ----------
 */

static Expr *
var_for(int varno, AttrNumber column, const void *expression)
{
	return (Expr *) makeVar(varno, column, exprType(expression), exprTypmod(expression),
							exprCollation(expression), 0);
}

/*
 * What a node takes over from the one whose work it does or prepares
 */
static void
inherit(Plan *plan, const Plan *from, int *next_node_id)
{
	moe_inherit_disabled_nodes(plan, from);
	plan->startup_cost = from->startup_cost;
	plan->total_cost = from->total_cost;
	plan->plan_rows = from->plan_rows;
	plan->plan_width = from->plan_width;
	plan->extParam = bms_copy(from->extParam);
	plan->allParam = bms_copy(from->allParam);
	plan->plan_node_id = (*next_node_id)++;
}

/*
 * Put a node on the stack that adds columns
 */
static void
push_layer(Stack *stack, List *columns)
{
	CustomScan *scan = makeNode(CustomScan);
	Plan	   *plan = &scan->scan.plan;
	AttrNumber	resno = 1;
	ListCell   *lc;

	inherit(plan, stack->origin, stack->next_node_id);
	plan->lefttree = stack->top;
	scan->custom_plans = list_make1(stack->top);	/* where EXPLAIN counts what is disabled */
	plan->extParam = bms_add_members(plan->extParam, stack->top->extParam);
	plan->allParam = bms_add_members(plan->allParam, stack->top->allParam);
	scan->methods = &moe_batch_methods;
	scan->custom_private = list_make3(makeBoolean(stack->reads_all), NULL, NULL);

	foreach(lc, stack->top->targetlist)
	{
		Expr	   *expr = ((TargetEntry *) lfirst(lc))->expr;

		scan->custom_scan_tlist = lappend(scan->custom_scan_tlist,
										  makeTargetEntry(var_for(OUTER_VAR, resno, expr), resno,
														  NULL, false));
		resno++;
	}
	foreach(lc, columns)
	{
		CallColumn *column = lfirst(lc);

		Assert(column->column == resno);
		scan->custom_scan_tlist = lappend(scan->custom_scan_tlist,
										  makeTargetEntry((Expr *) column->call, resno++, NULL,
														  false));
		scan->custom_exprs = lappend(scan->custom_exprs, column->guard);
	}
	foreach(lc, scan->custom_scan_tlist)
	{
		TargetEntry *entry = lfirst(lc);

		plan->targetlist = lappend(plan->targetlist,
								   makeTargetEntry(var_for(INDEX_VAR, entry->resno, entry->expr),
												   entry->resno, NULL, false));
	}
	stack->top = plan;
	stack->n_layers++;
}

/* Where an expression is to be computed */
typedef struct Place
{
	int			n_columns;		/* of the input */
	bool		in_case;		/* CASE value WHEN: the value is there */
} Place;

static bool is_bound_walker(Node *node, void *context);

static bool
is_case_bound(const CaseExpr *expr, Place *place)
{
	Place		inner = {place->n_columns, true};
	ListCell   *lc;

	foreach(lc, expr->args)
	{
		CaseWhen   *when = lfirst(lc);

		if (is_bound_walker((Node *) when->expr, &inner) ||
			is_bound_walker((Node *) when->result, &inner))
			return true;
	}
	return is_bound_walker((Node *) expr->arg, place) ||
		is_bound_walker((Node *) expr->defresult, &inner);
}

/*
 * Does an expression need what is not there: columns of later layers, aggregates, the
 * value of a surrounding CASE?
 */
static bool
is_bound_walker(Node *node, void *context)
{
	Place	   *place = context;

	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Var:
			return ((Var *) node)->varno != INDEX_VAR ||
				((Var *) node)->varattno > place->n_columns;
		case T_CaseTestExpr:
			return !place->in_case;
		case T_CoerceToDomainValue:
		case T_Aggref:
		case T_WindowFunc:
		case T_GroupingFunc:
			return true;
		case T_CaseExpr:
			if (((CaseExpr *) node)->arg != NULL)
				return is_case_bound((CaseExpr *) node, place);
			break;
		case T_ArrayCoerceExpr:
			/* The other part is of its own elements only */
			return is_bound_walker((Node *) ((ArrayCoerceExpr *) node)->arg, context);
		default:
			break;
	}
	return expression_tree_walker(node, is_bound_walker, context);
}

static bool
is_bound(const void *expression, int n_columns)
{
	Place		place = {n_columns, false};

	return is_bound_walker(unconstify(void *, expression), &place);
}

/*
 * May a condition be evaluated twice, and by another node than its own?
 */
static bool
can_guard(Node *condition, int n_columns)
{
	return !is_bound(condition, n_columns) && !has_call(condition) &&
		!contain_volatile_functions(condition) && !contain_subplans(condition);
}

/*
 * Volatile functions of PostgreSQL that neither see nor leave a trace of when they are
 * called, but for the clock
 */
static bool
is_order_free(Oid funcid)
{
	return funcid == F_CLOCK_TIMESTAMP || funcid == F_TIMEOFDAY || funcid == F_GEN_RANDOM_UUID ||
		funcid == F_RANDOM_WITHOUT_BOUNDS;
}

static bool
needs_order(Oid funcid, void *context)
{
	return func_volatile(funcid) == PROVOLATILE_VOLATILE && !is_order_free(funcid);
}

/*
 * Does an expression do or see what depends on which rows have gone before?  It
 * must not be evaluated for rows that are read ahead.  What a subplan calls is not
 * looked at.
 */
static bool
needs_order_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return IsA(node, NextValueExpr) || check_functions_in_node(node, needs_order, NULL) ||
		expression_tree_walker(node, needs_order_walker, context);
}

/*
 * The column in which a layer gives the value of a call, or NULL if it can't yet,
 * or never
 */
static Node *
column_for_call(Pass *pass, FuncExpr *call)
{
	Stack	   *stack = pass->stack;
	Node	   *guard = NULL;
	CallColumn *column = NULL;
	ListCell   *lc;

	if (is_bound(call, pass->n_columns) ||
		expression_returns_set((Node *) call->args) ||
		needs_order_walker((Node *) call->args, NULL))
		return NULL;
	foreach(lc, pass->conditions)
		if (!can_guard(lfirst(lc), pass->n_columns))
			return NULL;
	if (pass->conditions != NIL)
		guard = (Node *) make_ands_explicit(pass->conditions);

	/* A volatile call is evaluated as often as it is written */
	if (!contain_volatile_functions((Node *) call))
	{
		foreach(lc, stack->columns)
		{
			CallColumn *other = lfirst(lc);

			if (equal(other->call, call) && (other->guard == NULL || equal(other->guard, guard)))
				return (Node *) var_for(INDEX_VAR, other->column, call);
		}
	}
	column = palloc(sizeof(CallColumn));
	column->call = call;
	column->guard = guard;
	column->column = pass->n_columns + list_length(pass->found) + 1;
	pass->found = lappend(pass->found, column);
	stack->columns = lappend(stack->columns, column);
	return (Node *) var_for(INDEX_VAR, column->column, call);
}

/*
 * Go on below a node that is evaluated only if a condition is true
 */
static Node *
resolve_if(Node *condition, Node *node, Pass *pass)
{
	List	   *saved = pass->conditions;

	if (condition != NULL)
		pass->conditions = lappend(list_copy(saved), condition);
	node = resolve_mutator(node, pass);
	pass->conditions = saved;
	return node;
}

/*
 * The condition that the first of these branches of a CASE which is taken has the
 * result true; without one, that is otherwise
 */
static Node *
case_condition(const CaseExpr *model, List *branches, bool otherwise)
{
	CaseExpr   *expr;

	if (branches == NIL)
		return NULL;
	expr = makeNode(CaseExpr);
	expr->casetype = BOOLOID;
	expr->arg = model->arg;
	expr->args = branches;
	expr->defresult = (Expr *) makeBoolConst(otherwise, false);
	expr->location = -1;
	return (Node *) expr;
}

static CaseWhen *
case_branch(Expr *condition, Expr *result)
{
	CaseWhen   *branch = makeNode(CaseWhen);

	branch->expr = condition;
	branch->result = result;
	branch->location = -1;
	return branch;
}

static Node *
resolve_case(const CaseExpr *original, Pass *pass)
{
	CaseExpr   *expr = makeNode(CaseExpr);
	List	   *before = NIL;	/* branches that come first, as false */
	ListCell   *lc;

	memcpy(expr, original, sizeof(CaseExpr));
	expr->arg = (Expr *) resolve_mutator((Node *) original->arg, pass);
	expr->args = NIL;
	foreach(lc, original->args)
	{
		CaseWhen   *when = lfirst(lc);
		Expr	   *condition;
		Expr	   *result;
		List	   *taken;

		condition = (Expr *) resolve_if(case_condition(expr, before, true), (Node *) when->expr,
										pass);
		taken = lappend(list_copy(before),
						case_branch(condition, (Expr *) makeBoolConst(true, false)));
		result = (Expr *) resolve_if(case_condition(expr, taken, false), (Node *) when->result,
									 pass);
		expr->args = lappend(expr->args, case_branch(condition, result));
		before = lappend(list_copy(before),
						 case_branch(condition, (Expr *) makeBoolConst(false, false)));
	}
	expr->defresult = (Expr *) resolve_if(case_condition(expr, before, true),
										  (Node *) original->defresult, pass);
	return (Node *) expr;
}

/*
 * Arguments that are evaluated one after the other, as long as each one before is
 * NULL (COALESCE), not false (AND), or not true (OR)
 */
static List *
resolve_in_turn(List *args, Pass *pass, const Expr *parent)
{
	List	   *saved = pass->conditions;
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, args)
	{
		Expr	   *arg = (Expr *) resolve_mutator(lfirst(lc), pass);
		Expr	   *condition;

		if (IsA(parent, CoalesceExpr))
		{
			NullTest   *test = makeNode(NullTest);

			test->arg = arg;
			test->nulltesttype = IS_NULL;
			test->location = -1;
			condition = (Expr *) test;
		}
		else
		{
			BooleanTest *test = makeNode(BooleanTest);

			test->arg = arg;
			test->booltesttype = is_andclause(parent) ? IS_NOT_FALSE : IS_NOT_TRUE;
			test->location = -1;
			condition = (Expr *) test;
		}
		result = lappend(result, arg);
		pass->conditions = lappend(list_copy(pass->conditions), condition);
	}
	pass->conditions = saved;
	return result;
}

/*
 * The arguments of a node of which a node below may compute calls; they are
 * evaluated if the filter is true, or always if it is NULL
 */
static List *
resolve_inside(List *args, Node *filter, Pass *pass)
{
	bool		saved = pass->inside;

	pass->inside = true;
	args = (List *) resolve_if(filter, (Node *) args, pass);
	pass->inside = saved;
	return args;
}

/* Does a node make rows or see several, so that no node above can compute it? */
static bool
is_opaque(const Node *node)
{
	return IsA(node, Aggref) || IsA(node, WindowFunc) || IsA(node, GroupingFunc) ||
		(IsA(node, FuncExpr) && ((const FuncExpr *) node)->funcretset) ||
		(IsA(node, OpExpr) && ((const OpExpr *) node)->opretset);
}

static Node *
resolve_opaque(Node *node, Pass *pass)
{
	if (IsA(node, Aggref))
	{
		Aggref	   *agg = makeNode(Aggref);

		memcpy(agg, node, sizeof(Aggref));
		agg->aggfilter = (Expr *) linitial(resolve_inside(list_make1(agg->aggfilter), NULL, pass));
		agg->args = resolve_inside(agg->args, (Node *) agg->aggfilter, pass);
		return (Node *) agg;
	}
	if (IsA(node, WindowFunc))
	{
		WindowFunc *func = makeNode(WindowFunc);

		memcpy(func, node, sizeof(WindowFunc));
		func->aggfilter = (Expr *) linitial(resolve_inside(list_make1(func->aggfilter), NULL,
														   pass));
		func->args = resolve_inside(func->args, (Node *) func->aggfilter, pass);
		return (Node *) func;
	}
	if (IsA(node, FuncExpr))
	{
		FuncExpr   *func = makeNode(FuncExpr);

		memcpy(func, node, sizeof(FuncExpr));
		func->args = resolve_inside(func->args, NULL, pass);
		return (Node *) func;
	}
	if (IsA(node, OpExpr))
	{
		OpExpr	   *op = makeNode(OpExpr);

		memcpy(op, node, sizeof(OpExpr));
		op->args = resolve_inside(op->args, NULL, pass);
		return (Node *) op;
	}
	return node;
}

/*
 * Replace calls by columns that the next layer adds, where that can be
 */
static Node *
resolve_mutator(Node *node, void *context)
{
	Pass	   *pass = context;

	if (node == NULL)
		return NULL;
	if (is_opaque(node))
		return resolve_opaque(node, pass);

	switch (nodeTag(node))
	{
		case T_FuncExpr:
			{
				Node	   *column = NULL;

				node = expression_tree_mutator(node, resolve_mutator, context);
				if ((pass->inside || !pass->inside_only) && is_call(node))
					column = column_for_call(pass, (FuncExpr *) node);
				return column ? column : node;
			}

		case T_CaseExpr:
			return resolve_case((CaseExpr *) node, pass);

		case T_CoalesceExpr:
			{
				CoalesceExpr *expr = makeNode(CoalesceExpr);

				memcpy(expr, node, sizeof(CoalesceExpr));
				expr->args = resolve_in_turn(expr->args, pass, (Expr *) node);
				return (Node *) expr;
			}

		case T_BoolExpr:
			if (((BoolExpr *) node)->boolop == NOT_EXPR)
				break;
			return (Node *) makeBoolExpr(((BoolExpr *) node)->boolop,
										 resolve_in_turn(((BoolExpr *) node)->args, pass,
														 (Expr *) node),
										 -1);

			/* These evaluate parts of themselves for some rows, or several times */
		case T_SubscriptingRef:
			{
				SubscriptingRef *ref = makeNode(SubscriptingRef);

				memcpy(ref, node, sizeof(SubscriptingRef));
				ref->refexpr = (Expr *) resolve_mutator((Node *) ref->refexpr, context);
				return (Node *) ref;
			}
		case T_ArrayCoerceExpr:
			{
				ArrayCoerceExpr *expr = makeNode(ArrayCoerceExpr);

				memcpy(expr, node, sizeof(ArrayCoerceExpr));
				expr->arg = (Expr *) resolve_mutator((Node *) expr->arg, context);
				return (Node *) expr;
			}
		case T_SubPlan:
			{
				SubPlan    *subplan = makeNode(SubPlan);

				memcpy(subplan, node, sizeof(SubPlan));
				subplan->args = (List *) resolve_mutator((Node *) subplan->args, context);
				return (Node *) subplan;
			}
		case T_RowCompareExpr:
			return node;

		default:
			if (moe_is_lazy_expression(node))
				return node;
			break;
	}
	return expression_tree_mutator(node, resolve_mutator, context);
}

/*
 * Put layers on the stack for the calls of an expression (or list), and return
 * it with their columns in place
 */
static void *
resolve(Stack *stack, void *expression, bool inside_only)
{
	for (;;)
	{
		Pass		pass = {0};

		pass.stack = stack;
		pass.n_columns = list_length(stack->top->targetlist);
		pass.inside_only = inside_only;
		expression = resolve_mutator(expression, &pass);
		if (pass.found == NIL)
			return expression;
		push_layer(stack, pass.found);
	}
}

/* ----------
 * Placing nodes
 * ----------
 */

/*
 * Replace what a node above can't compute by columns of this node, and collect these
 */
static Node *
split_mutator(Node *node, void *context)
{
	List	  **leaves = context;
	AttrNumber	column = 0;

	if (node == NULL)
		return NULL;
	if (!IsA(node, Var) && !is_opaque(node))
		return expression_tree_mutator(node, split_mutator, context);

	if (!contain_volatile_functions(node))
	{
		for (int i = 0; i < list_length(*leaves) && column == 0; i++)
			if (equal(list_nth_node(TargetEntry, *leaves, i)->expr, node))
				column = i + 1;
	}
	if (column == 0)
	{
		column = list_length(*leaves) + 1;
		*leaves = lappend(*leaves, makeTargetEntry((Expr *) node, column, NULL, false));
	}
	return (Node *) var_for(INDEX_VAR, column, node);
}

/* Columns of one kind of Var become those of another */
typedef struct Renumbering
{
	int			from;
	int			to;
} Renumbering;

static Node *
renumber_mutator(Node *node, void *context)
{
	const Renumbering *r = context;

	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && (int) ((Var *) node)->varno == r->from)
	{
		Var		   *var = copyObject((Var *) node);

		var->varno = r->to;
		return (Node *) var;
	}
	return expression_tree_mutator(node, renumber_mutator, context);
}

static void *
renumber(void *expression, int from, int to)
{
	Renumbering r = {from, to};

	return renumber_mutator(expression, &r);
}

/*
 * Cut the filters from the first one with a call off, and return them
 */
static List *
cut_quals(List **quals)
{
	for (int i = 0; i < list_length(*quals); i++)
		if (has_call(list_nth(*quals, i)))
		{
			List	   *cut = list_copy_tail(*quals, i);

			*quals = list_truncate(*quals, i);
			return cut;
		}
	return NIL;
}

/*
 * The filters that move up: where a condition of a join moves, what is tested
 * after it moves too
 */
static List *
take_quals(Plan *plan)
{
	List	   *quals = NIL;

	if (is_join(plan) && ((Join *) plan)->jointype == JOIN_INNER)
		quals = cut_quals(&((Join *) plan)->joinqual);
	if (quals == NIL)
		return cut_quals(&plan->qual);

	/* The match that was found first may not be the right one any more */
	((Join *) plan)->inner_unique = false;
	quals = list_concat(quals, plan->qual);
	plan->qual = NIL;
	return quals;
}

/*
 * Let a stack compute a node's target list
 */
static Plan *
finish_stack(Stack *stack, Plan *plan, List *targetlist)
{
	stack->top->targetlist = targetlist;
	stack->top->initPlan = plan->initPlan;
	plan->initPlan = NIL;
	plan->async_capable = false;	/* it is not the child of an Append any more */
	return stack->top;
}

/*
 * Put a stack above a node for the calls in its filters and its target list
 */
static Plan *
batch_above(Plan *plan, bool reads_all, int *next_node_id)
{
	Stack		stack = {.top = plan,.origin = plan,.next_node_id = next_node_id,
		.reads_all = reads_all};
	List	   *original = plan->targetlist;
	List	   *leaves = NIL;
	List	   *targetlist;
	List	   *quals;
	List	   *moved;

	if (has_multiexpr(original))
		return plan;
	quals = take_quals(plan);
	if (quals == NIL && !has_call(original))
		return plan;

	targetlist = (List *) split_mutator((Node *) original, &leaves);
	moved = (List *) split_mutator((Node *) quals, &leaves);
	plan->targetlist = leaves;
	for (int i = 0; i < list_length(moved); i++)
	{
		Node	   *qual = resolve(&stack, list_nth(moved, i), false);

		if (stack.n_layers > 0)
			stack.top->qual = lappend(stack.top->qual, qual);
		else
			plan->qual = lappend(plan->qual, list_nth(quals, i));
	}
	targetlist = resolve(&stack, targetlist, false);
	if (stack.n_layers > 0)
		return finish_stack(&stack, plan, targetlist);
	plan->targetlist = original;
	return plan;
}

/*
 * Put a stack in the place of a node that does nothing but compute its target list
 */
static Plan *
batch_instead(Plan *plan, bool reads_all, int *next_node_id)
{
	Stack		stack = {.top = plan->lefttree,.origin = plan,.next_node_id = next_node_id,
		.reads_all = reads_all};
	List	   *targetlist;

	if (has_multiexpr(plan->targetlist) || !has_call(plan->targetlist))
		return plan;
	targetlist = resolve(&stack, renumber(plan->targetlist, OUTER_VAR, INDEX_VAR), false);
	return stack.n_layers > 0 ? finish_stack(&stack, plan, targetlist) : plan;
}

/*
 * Put a stack below a node for the calls in arguments of what it makes of its
 * rows: aggregates, window functions and sets
 */
static void
batch_below(Plan *plan, bool reads_all, int *next_node_id)
{
	Stack		stack = {.top = plan->lefttree,.origin = plan->lefttree,.next_node_id = next_node_id,
		.reads_all = reads_all};
	List	   *lists;

	if (!has_call(plan->targetlist) && !has_call(plan->qual))
		return;
	lists = list_make2(plan->targetlist, plan->qual);
	lists = resolve(&stack, renumber(lists, OUTER_VAR, INDEX_VAR), true);
	if (stack.n_layers == 0)
		return;
	lists = renumber(lists, INDEX_VAR, OUTER_VAR);
	for (Plan *p = stack.top; p != plan->lefttree; p = p->lefttree)
	{
		/* Expressions that were this node's may depend on its parameters */
		p->extParam = bms_add_members(p->extParam, plan->extParam);
		p->allParam = bms_add_members(p->allParam, plan->allParam);
	}
	plan->targetlist = linitial(lists);
	plan->qual = lsecond(lists);
	plan->lefttree = stack.top;
}

/*
 * Tell batching nodes below a LIMIT of how many rows they are asked at most
 */
static void
pass_limit(const Limit *limit)
{
	if (limit->limitOption != LIMIT_OPTION_COUNT || limit->limitCount == NULL ||
		contain_volatile_functions(limit->limitCount) || contain_subplans(limit->limitCount) ||
		contain_volatile_functions(limit->limitOffset) || contain_subplans(limit->limitOffset))
		return;
	for (Plan *p = limit->plan.lefttree; is_batch_node(p) && p->qual == NIL; p = p->lefttree)
	{
		CustomScan *scan = (CustomScan *) p;

		lsecond(scan->custom_private) = limit->limitCount;
		lthird(scan->custom_private) = limit->limitOffset;
	}
}

/*
 * A node that keeps what it has read, for a parent that wants to go back
 */
static Plan *
materialize(Plan *plan, int *next_node_id)
{
	Material   *material = makeNode(Material);
	ListCell   *lc;

	inherit(&material->plan, plan, next_node_id);
	material->plan.lefttree = plan;
	foreach(lc, plan->targetlist)
	{
		TargetEntry *entry = flatCopyTargetEntry(lfirst(lc));

		entry->expr = var_for(OUTER_VAR, entry->resno, entry->expr);
		material->plan.targetlist = lappend(material->plan.targetlist, entry);
	}
	return &material->plan;
}

/*
 * The node below those that pass on what they are told about going back
 */
static const Plan *
below_results(const Plan *plan)
{
	while (IsA(plan, Result) && plan->lefttree != NULL)
		plan = plan->lefttree;
	return plan;
}

/* What a child's part of the work has to know */
typedef struct Parent
{
	Plan	   *plan;
	bool		reads_all;		/* its own rows will all be asked for */
	int		   *next_node_id;
} Parent;

/*
 * Will a node ask a child for all of its rows?  reads_all says whether it is asked
 * for all of its own.
 */
static bool
reads_all_of_child(const Plan *plan, Plan *const *child, bool reads_all)
{
	switch (nodeTag(plan))
	{
		case T_ModifyTable:
		case T_Sort:
		case T_Hash:
			return true;
		case T_Agg:
			return reads_all || ((const Agg *) plan)->aggstrategy == AGG_PLAIN ||
				((const Agg *) plan)->aggstrategy == AGG_HASHED;
		case T_NestLoop:
			return reads_all && child == &plan->lefttree;
		case T_HashJoin:
		case T_MergeJoin:
		case T_Limit:
			return false;
		default:
			return reads_all;
	}
}

/*
 * Put batching nodes into a child's plan; stops at none
 */
static bool
batch_child(Plan **child, void *context)
{
	const Parent *parent = context;

	*child = batch_plan(*child, reads_all_of_child(parent->plan, child, parent->reads_all),
						parent->next_node_id);
	return false;
}

/*
 * Put batching nodes into a plan, and return its new top
 */
static Plan *
batch_plan(Plan *plan, bool reads_all, int *next_node_id)
{
	Parent		parent = {plan, reads_all, next_node_id};

	walk_children(plan, false, batch_child, &parent);
	switch (nodeTag(plan))
	{
		case T_MergeJoin:
			/* It goes back in its inner input, through what only computes or filters */
			if (is_batch_node(below_results(plan->righttree)))
				plan->righttree = materialize(plan->righttree, next_node_id);
			 /* FALLTHROUGH */
		case T_NestLoop:
		case T_HashJoin:
		case T_SeqScan:
		case T_SampleScan:
		case T_IndexScan:
		case T_IndexOnlyScan:
		case T_BitmapHeapScan:
		case T_TidScan:
		case T_TidRangeScan:
		case T_SubqueryScan:
		case T_FunctionScan:
		case T_TableFuncScan:
		case T_ValuesScan:
		case T_CteScan:
		case T_NamedTuplestoreScan:
		case T_WorkTableScan:
		case T_Group:
		case T_Gather:
		case T_GatherMerge:
			return batch_above(plan, reads_all, next_node_id);

		case T_ForeignScan:
			/* One that changes rows itself has no target list to compute */
			return ((ForeignScan *) plan)->operation == CMD_SELECT
				? batch_above(plan, reads_all, next_node_id) : plan;

		case T_Agg:
		case T_ProjectSet:
			batch_below(plan, reads_all_of_child(plan, &plan->lefttree, reads_all), next_node_id);
			return batch_above(plan, reads_all, next_node_id);

		case T_WindowAgg:
			batch_below(plan, reads_all_of_child(plan, &plan->lefttree, reads_all), next_node_id);
			/* Its run condition refers to columns that it returns */
			return ((WindowAgg *) plan)->runCondition == NIL
				? batch_above(plan, reads_all, next_node_id) : plan;

		case T_Result:
			/* Without input it has one row */
			if (plan->lefttree == NULL)
				return plan;
			return ((Result *) plan)->resconstantqual == NULL && plan->qual == NIL
				? batch_instead(plan, reads_all, next_node_id) : batch_above(plan, reads_all, next_node_id);

		case T_Limit:
			pass_limit((Limit *) plan);
			return plan;

		default:
			return plan;
	}
}

/*
 * Put batching nodes into a statement's plans
 */
static void
batch_statement(PlannedStmt *stmt, int eflags)
{
	int			next_node_id = 0;
	ListCell   *lc;

	raise_to_node_id(&stmt->planTree, &next_node_id);
	foreach(lc, stmt->subplans)
		if (lfirst(lc) != NULL)
			raise_to_node_id((Plan **) &lfirst(lc), &next_node_id);

	foreach(lc, stmt->subplans)
		if (lfirst(lc) != NULL)
			lfirst(lc) = batch_plan(lfirst(lc), false, &next_node_id);
	stmt->planTree = batch_plan(stmt->planTree, false, &next_node_id);

	/* The cursor was told that it may go back */
	if ((eflags & EXEC_FLAG_BACKWARD) && !ExecSupportsBackwardScan(stmt->planTree))
		stmt->planTree = materialize(stmt->planTree, &next_node_id);
}

static void
executor_start(QueryDesc *queryDesc, int eflags)
{
	MemoryContext context = NULL;

	if (moe_batching && !IsParallelWorker() && statement_has_calls(queryDesc->plannedstmt))
	{
		MemoryContext caller;

		context = AllocSetContextCreate(CurrentMemoryContext, "pg_moe plan",
										ALLOCSET_DEFAULT_SIZES);
		caller = MemoryContextSwitchTo(context);
		queryDesc->plannedstmt = copyObject(queryDesc->plannedstmt);
		batch_statement(queryDesc->plannedstmt, eflags);
		MemoryContextSwitchTo(caller);
	}

	if (prev_executor_start)
		prev_executor_start(queryDesc, eflags);
	else
		standard_ExecutorStart(queryDesc, eflags);

	/* The plan lives as long as its execution */
	if (context != NULL)
		MemoryContextSetParent(context, queryDesc->estate->es_query_cxt);
}

/*
 * Make the executor know the node, and put it into plans from now on
 */
void
moe_batch_init(void)
{
	RegisterCustomScanMethods(&moe_batch_methods);
	prev_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = executor_start;
}
