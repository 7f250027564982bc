/*-------------------------------------------------------------------------
 *
 * generate.c
 *	  moe.generate(): continue a text, a list of tokens, or a batch of texts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "call.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "encoding.h"
#include "funcapi.h"
#include "utils/builtins.h"

MOE_FUNCTION(pg_moe_generate);
MOE_FUNCTION(pg_moe_generate_tokens);
MOE_FUNCTION(pg_moe_generate_batch);

static Datum
generate(FunctionCallInfo fcinfo, MoePromptType type)
{
	MoeCall		call;
	MoeTokens	tokens;
	MoeRun	   *run;
	MoeSeq	   *seq;
	const char *answer;
	size_t		len;
	text	   *result;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();

	moe_call_begin(&call, fcinfo, MOE_SCOPE_GENERATE);
	tokens = moe_tokens_of_prompt(call.model, PG_GETARG_DATUM(0), type, &call.options);
	run = moe_run_begin(call.model);
	seq = moe_call_add(&call, run, tokens, false);
	moe_run_finish(run);
	answer = moe_run_text(seq, &len);
	result = moe_text_from_utf8(answer, len);
	moe_run_end(run);
	PG_RETURN_TEXT_P(result);
}

/*
 * moe.generate(prompt text, ...) returns text
 */
Datum
pg_moe_generate(PG_FUNCTION_ARGS)
{
	return generate(fcinfo, MOE_PROMPT_TEXT);
}

/*
 * moe.generate(prompt int[], ...) returns text
 */
Datum
pg_moe_generate_tokens(PG_FUNCTION_ARGS)
{
	return generate(fcinfo, MOE_PROMPT_TOKENS);
}

/*
 * moe.generate(prompts text[], ...) returns table (ordinality, result)
 *
 * All prompts run together.  A NULL prompt gives a NULL result.
 */
Datum
pg_moe_generate_batch(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MoeCall		call;
	MoeRun	   *run;
	MoeSeq	  **seqs;
	Datum	   *prompts;
	bool	   *nulls;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT,
					  &prompts, &nulls, &n);
	moe_call_begin(&call, fcinfo, MOE_SCOPE_GENERATE);
	call.bulk = n > 1;
	run = moe_run_begin(call.model);
	seqs = palloc0(sizeof(MoeSeq *) * (n + 1));
	for (int i = 0; i < n; i++)
	{
		MoeTokens	tokens;

		if (nulls[i])
			continue;
		tokens = moe_tokens_of_prompt(call.model, prompts[i], MOE_PROMPT_TEXT, &call.options);
		seqs[i] = moe_call_add(&call, run, tokens, false);
		pfree(tokens.ids);
	}
	moe_run_finish(run);

	for (int i = 0; i < n; i++)
	{
		Datum		values[2];
		bool		isnull[2] = {false, seqs[i] == NULL};
		size_t		len = 0;
		const char *answer = seqs[i] ? moe_run_text(seqs[i], &len) : NULL;

		values[0] = Int64GetDatum(i + 1);
		values[1] = answer ? PointerGetDatum(moe_text_from_utf8(answer, len)) : (Datum) 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
		if (answer)
			pfree(DatumGetPointer(values[1]));
	}
	moe_run_end(run);
	return (Datum) 0;
}
