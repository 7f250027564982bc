/*-------------------------------------------------------------------------
 *
 * budget.h
 *	  Token budgets of roles.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_BUDGET_H
#define MOE_BUDGET_H

/* A budget as it is set */
typedef struct MoeBudget
{
	Oid			role;
	int64		tokens;
	int64		window;			/* microseconds */
} MoeBudget;

/* Those that a computation counts against: of the login role and of the current one */
typedef struct MoeBudgets
{
	int			n;
	MoeBudget	budgets[2];
} MoeBudgets;

extern void moe_budgets_find(MoeBudgets *budgets);
extern void moe_budgets_check(const MoeBudgets *budgets, int64 queued, int64 prompt);
extern void moe_budgets_charge(const MoeBudgets *budgets, int64 tokens);

#endif							/* MOE_BUDGET_H */
