/*-------------------------------------------------------------------------
 *
 * call.h
 *	  Functions that make one value of one input: embed, generate, chat.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_CALL_H
#define MOE_CALL_H

#include "fmgr.h"
#include "prompt.h"
#include "run.h"

/* A call but for its input: what is often the same for many rows */
typedef struct MoeCall
{
	MoeOpenModel *model;
	moe_task	task;
	MoeOptions	options;
	bool		bulk;			/* one of many prompts */
	bool		null_on_error;	/* a wrong input gives NULL */
	const char *prefix;			/* embed: before the text, UTF-8 */
} MoeCall;

/* An input as the engine takes it */
typedef struct MoeInput
{
	MoeTokens	tokens;			/* no ids if the input is wrong */
	bool		ends_in_think;	/* chat: the prompt ends within the reasoning */
	bool		null_on_error;	/* a value that can't be is NULL */
} MoeInput;

/*
 * The parts of which a function consists, be it called for a row or for many.  Its
 * first argument is the input, which is not NULL where these are called.
 *
 * setup reads the other arguments and opens the model, which must be held by a run
 * before another one is opened.  False means that the value is NULL whatever the
 * input.  read makes tokens of the input; if err is not NULL, what is wrong with
 * it is told there.  result makes the value of a sequence that is done, in
 * the current memory context; it is NULL if the database's encoding can't hold the
 * answer and input->null_on_error says so, or as the cast of embed_as() makes it.
 */
typedef struct MoeFunction
{
	const char *symbol;			/* by which the library exports it */
	MoePromptType type;			/* of the input */
	bool		(*setup) (MoeCall *call, FunctionCallInfo fcinfo);
	void		(*read) (const MoeCall *call, MoePromptType type, Datum datum, MoeInput *input,
						 moe_error *err);
	Datum		(*result) (FunctionCallInfo fcinfo, const MoeInput *input, const MoeSeq *seq,
						   bool *isnull);
} MoeFunction;

/* The functions of embed.c, generate.c and chat.c; a NULL symbol ends each list */
extern const MoeFunction moe_embed_functions[];
extern const MoeFunction moe_generate_functions[];
extern const MoeFunction moe_chat_functions[];

extern const MoeFunction *moe_function_by_symbol(const char *symbol);
extern Datum moe_call_function(const MoeFunction *function, FunctionCallInfo fcinfo);
extern Datum moe_call_for_array(const MoeFunction *function, FunctionCallInfo fcinfo);

extern text *moe_text_arg(FunctionCallInfo fcinfo, int i);
extern void moe_call_begin(MoeCall *call, FunctionCallInfo fcinfo, int scope);
extern void moe_call_read(const MoeFunction *function, const MoeCall *call, Datum datum,
						  MoeInput *input, moe_error *err);
extern bool moe_call_is_repeatable(const MoeCall *call);
extern void moe_call_request(const MoeCall *call, MoeTokens tokens, moe_request *request);

#endif							/* MOE_CALL_H */
