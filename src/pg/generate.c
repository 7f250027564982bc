/*-------------------------------------------------------------------------
 *
 * generate.c
 *	  moe.generate(): continue a text, a list of tokens, or a batch of texts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "call.h"
#include "compat.h"
#include "encoding.h"

MOE_FUNCTION(pg_moe_generate);
MOE_FUNCTION(pg_moe_generate_tokens);
MOE_FUNCTION(pg_moe_generate_batch);

static bool
setup(MoeCall *call, FunctionCallInfo fcinfo)
{
	moe_call_begin(call, fcinfo, MOE_SCOPE_GENERATE | MOE_SCOPE_VALUE);
	return true;
}

static void
read_prompt(const MoeCall *call, MoePromptType type, Datum datum, MoeInput *input, moe_error *err)
{
	input->tokens = moe_tokens_of_prompt(call->model, datum, type, &call->options, err);
}

static Datum
answer(FunctionCallInfo fcinfo, const MoeInput *input, const MoeSeq *seq, bool *isnull)
{
	size_t		len;
	const char *text = moe_run_text(seq, &len);

	*isnull = input->null_on_error && !moe_server_can_hold(text, len);
	return *isnull ? (Datum) 0 : PointerGetDatum(moe_text_from_utf8(text, len));
}

const MoeFunction moe_generate_functions[] = {
	{"pg_moe_generate", MOE_PROMPT_TEXT, setup, read_prompt, answer},
	{"pg_moe_generate_tokens", MOE_PROMPT_TOKENS, setup, read_prompt, answer},
	{NULL}
};

/*
 * moe.generate(prompt text, ...) returns text
 */
Datum
pg_moe_generate(PG_FUNCTION_ARGS)
{
	return moe_call_function(&moe_generate_functions[0], fcinfo);
}

/*
 * moe.generate(prompt int[], ...) returns text
 */
Datum
pg_moe_generate_tokens(PG_FUNCTION_ARGS)
{
	return moe_call_function(&moe_generate_functions[1], fcinfo);
}

/*
 * moe.generate(prompts text[], ...) returns table (ordinality, result)
 */
Datum
pg_moe_generate_batch(PG_FUNCTION_ARGS)
{
	return moe_call_for_array(&moe_generate_functions[0], fcinfo);
}
