/*-------------------------------------------------------------------------
 *
 * gate.h
 *	  moe.max_backends: how many backends compute at the same time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_GATE_H
#define MOE_GATE_H

extern bool moe_gate_try_enter(void);
extern void moe_gate_wait(void);
extern void moe_gate_leave(void);
extern void moe_gate_exit(void);
extern void moe_gate_counts(int *computing, int *waiting);

#endif							/* MOE_GATE_H */
