/*-------------------------------------------------------------------------
 *
 * call.c
 *	  What the functions that generate text have in common.
 *
 * All of them have the arguments (prompt, model, max_tokens, temperature, seed,
 * stop, options).  NULL for any but the prompt means the default.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "call.h"
#include "compat.h"

/*
 * A text argument, or NULL
 */
text *
moe_text_arg(FunctionCallInfo fcinfo, int i)
{
	return PG_ARGISNULL(i) ? NULL : PG_GETARG_TEXT_PP(i);
}

/*
 * Read the arguments after the prompt and open the model
 *
 * The model must be held by a run before another one is opened.
 */
void
moe_call_begin(MoeCall *call, FunctionCallInfo fcinfo, int scope)
{
	MoeOptions *options = &call->options;

	moe_options_init(options);
	if (!PG_ARGISNULL(2))
		options->max_tokens = PG_GETARG_INT32(2);
	if (!PG_ARGISNULL(3))
		options->temperature = PG_GETARG_FLOAT8(3);
	if (!PG_ARGISNULL(4))
	{
		options->has_seed = true;
		options->seed = PG_GETARG_INT64(4);
	}
	if (!PG_ARGISNULL(5))
		moe_options_set_stop(options, PG_GETARG_ARRAYTYPE_P(5));
	moe_options_read(options, PG_ARGISNULL(6) ? NULL : PG_GETARG_JSONB_P(6), scope);
	moe_options_check(options);

	call->bulk = false;
	call->model = moe_host_open(moe_model_require(moe_text_arg(fcinfo, 1)), false);
}

/*
 * Queue a prompt
 */
MoeSeq *
moe_call_add(MoeCall *call, MoeRun *run, MoeTokens tokens, bool logprobs)
{
	moe_request request;

	moe_options_request(&call->options, &request);
	request.prompt = tokens.ids;
	request.n_prompt = tokens.n;
	request.logprobs = logprobs;
	request.bulk = call->bulk;
	return moe_run_add(run, &request);
}
