/*-------------------------------------------------------------------------
 *
 * text_funcs.c
 *	  Functions on texts and tokens, which need no weights: moe.tokenize(),
 *	  moe.detokenize(), moe.count_tokens(), moe.apply_chat_template().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "call.h"
#include "compat.h"
#include "encoding.h"
#include "error.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

MOE_FUNCTION(pg_moe_tokenize);
MOE_FUNCTION(pg_moe_detokenize);
MOE_FUNCTION(pg_moe_count_tokens);
MOE_FUNCTION(pg_moe_apply_chat_template_json);
MOE_FUNCTION(pg_moe_apply_chat_template_jsonb);

static MoeOpenModel *
open_for_text(FunctionCallInfo fcinfo, int arg)
{
	return moe_host_open(moe_model_require(moe_text_arg(fcinfo, arg)), true);
}

/*
 * moe.tokenize(text, model, add_special, parse_special) returns int[]
 */
Datum
pg_moe_tokenize(PG_FUNCTION_ARGS)
{
	unsigned	flags = 0;
	MoeTokens	tokens;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (!PG_ARGISNULL(2) && PG_GETARG_BOOL(2))
		flags |= MOE_TEXT_ADD_SPECIAL;
	if (!PG_ARGISNULL(3) && PG_GETARG_BOOL(3))
		flags |= MOE_TEXT_PARSE_SPECIAL;
	tokens = moe_tokens_of_text(open_for_text(fcinfo, 1), "", PG_GETARG_TEXT_PP(0), flags,
								NULL);
	return moe_array_of_tokens(tokens.ids, tokens.n);
}

/*
 * moe.count_tokens(text, model) returns int
 */
Datum
pg_moe_count_tokens(PG_FUNCTION_ARGS)
{
	MoeTokens	tokens;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	tokens = moe_tokens_of_text(open_for_text(fcinfo, 1), "", PG_GETARG_TEXT_PP(0), 0, NULL);
	PG_RETURN_INT32((int32) tokens.n);
}

/*
 * moe.detokenize(int[], model) returns text
 *
 * Special tokens are written out, so that nothing of the tokens is hidden.
 */
Datum
pg_moe_detokenize(PG_FUNCTION_ARGS)
{
	MoeOpenModel *model;
	MoeTokens	tokens;
	char	   *s = NULL;
	size_t		len = 0;
	moe_error	err = {0};

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	tokens = moe_tokens_of_array(PG_GETARG_ARRAYTYPE_P(0), NULL);
	model = open_for_text(fcinfo, 1);
	moe_check(moe_detokenize(model->model, tokens.ids, tokens.n, MOE_TEXT_SHOW_SPECIAL,
							 &s, &len, &err), &err);
	PG_RETURN_TEXT_P(moe_text_from_utf8(moe_adopt(s, len), len));
}

/*
 * Render messages; template_json is the template's options for the engine
 */
static Datum
apply_chat_template(FunctionCallInfo fcinfo, MoePromptType type, const MoeOptions *options,
					const char *template_json)
{
	char	   *messages = moe_chat_messages(PG_GETARG_DATUM(0), type, NULL);
	char	   *prompt;
	size_t		len;

	prompt = moe_chat_prompt(open_for_text(fcinfo, 1), messages, template_json, &len, NULL);
	PG_RETURN_TEXT_P(moe_text_from_utf8(prompt, len));
}

/*
 * moe.apply_chat_template(messages json, model, options json) returns text
 *
 * Also the function's form for messages of type text, which is JSON as well.  The
 * options go to the engine as they are written, since a template shows the order
 * of an object's keys.
 */
Datum
pg_moe_apply_chat_template_json(PG_FUNCTION_ARGS)
{
	MoeOptions	options;
	char	   *json = NULL;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	(void) DirectFunctionCall1(json_in,
							   CStringGetDatum(text_to_cstring(PG_GETARG_TEXT_PP(0))));
	moe_options_init(&options);
	if (!PG_ARGISNULL(2))
	{
		json = text_to_cstring(PG_GETARG_TEXT_PP(2));
		moe_options_read(&options,
						 DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json))),
						 MOE_SCOPE_TEMPLATE);
		json = moe_utf8_cstring(json, strlen(json));
	}
	return apply_chat_template(fcinfo, MOE_PROMPT_JSON, &options, json);
}

/*
 * moe.apply_chat_template(messages jsonb, model, options jsonb) returns text
 */
Datum
pg_moe_apply_chat_template_jsonb(PG_FUNCTION_ARGS)
{
	MoeOptions	options;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	moe_options_init(&options);
	moe_options_read(&options, PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2),
					 MOE_SCOPE_TEMPLATE);
	return apply_chat_template(fcinfo, MOE_PROMPT_JSONB, &options,
							   moe_options_template_json(&options));
}
