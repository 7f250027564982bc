/*-------------------------------------------------------------------------
 *
 * call.h
 *	  What the functions that generate text have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_CALL_H
#define MOE_CALL_H

#include "fmgr.h"
#include "prompt.h"
#include "run.h"

/* A call of generate, chat or one of their streams, ready to be queued */
typedef struct MoeCall
{
	MoeOpenModel *model;
	MoeOptions	options;
	bool		bulk;			/* one of many prompts */
} MoeCall;

extern text *moe_text_arg(FunctionCallInfo fcinfo, int i);
extern void moe_call_begin(MoeCall *call, FunctionCallInfo fcinfo, int scope);
extern MoeSeq *moe_call_add(MoeCall *call, MoeRun *run, MoeTokens tokens, bool logprobs);

#endif							/* MOE_CALL_H */
