/*-------------------------------------------------------------------------
 *
 * score.c
 *	  moe.next_tokens() and moe.score(): likelihoods without generating.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "call.h"
#include "compat.h"
#include "encoding.h"
#include "funcapi.h"
#include "utils/builtins.h"

MOE_FUNCTION(pg_moe_next_tokens);
MOE_FUNCTION(pg_moe_next_tokens_tokens);
MOE_FUNCTION(pg_moe_score);
MOE_FUNCTION(pg_moe_score_tokens);

static MoeTokens
prompt_tokens(const MoeOpenModel *model, FunctionCallInfo fcinfo, MoePromptType type)
{
	MoeOptions	options;

	moe_options_init(&options);
	return moe_tokens_of_prompt(model, PG_GETARG_DATUM(0), type, &options, NULL);
}

static Datum
piece_datum(const moe_token *token)
{
	return PointerGetDatum(moe_text_from_utf8(token->piece, token->piece_len));
}

static Datum
next_tokens(FunctionCallInfo fcinfo, MoePromptType type)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			k = PG_ARGISNULL(2) ? 10 : PG_GETARG_INT32(2);
	MoeOpenModel *model;
	MoeTokens	tokens;
	MoeRun	   *run;
	MoeSeq	   *seq;
	moe_request request = {0};
	moe_token	token;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	if (k < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("k must be at least 1"),
				 errhint("It is the number of rows to return.")));

	model = moe_host_open(moe_model_require(moe_text_arg(fcinfo, 1)), false);
	tokens = prompt_tokens(model, fcinfo, type);
	request.task = MOE_TASK_NEXT;
	request.prompt = tokens.ids;
	request.n_prompt = tokens.n;
	request.n_top = Min(k, moe_model_info_of(model->model)->n_vocab);
	request.show_special = true;
	request.logprobs = true;

	run = moe_run_begin(model);
	seq = moe_run_add(run, &request);
	moe_run_finish(run);
	for (int rank = 1; moe_run_next(seq, &token); rank++)
	{
		Datum		values[4] = {Int32GetDatum(rank), Int32GetDatum(token.id),
		piece_datum(&token), Float4GetDatum(token.logprob)};
		bool		nulls[4] = {0};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	moe_run_end(run);
	return (Datum) 0;
}

/*
 * moe.next_tokens(prompt text, model, k) returns table (rank, token_id, piece, logprob)
 */
Datum
pg_moe_next_tokens(PG_FUNCTION_ARGS)
{
	return next_tokens(fcinfo, MOE_PROMPT_TEXT);
}

/*
 * moe.next_tokens(prompt int[], model, k)
 */
Datum
pg_moe_next_tokens_tokens(PG_FUNCTION_ARGS)
{
	return next_tokens(fcinfo, MOE_PROMPT_TOKENS);
}

/*
 * Score tokens from an index on into the function's result set
 *
 * Positions are those of an SQL array, the first being 1.
 */
static void
score(FunctionCallInfo fcinfo, MoeOpenModel *model, MoeTokens tokens, size_t from)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	moe_request request = {0};
	MoeRun	   *run;
	MoeSeq	   *seq;
	moe_token	token;

	/* The first token has nothing before it that could foretell it */
	if (from >= tokens.n)
		return;
	request.task = MOE_TASK_SCORE;
	request.prompt = tokens.ids;
	request.n_prompt = tokens.n;
	request.score_from = from;
	request.show_special = true;
	request.logprobs = true;

	run = moe_run_begin(model);
	seq = moe_run_add(run, &request);
	moe_run_finish(run);
	while (moe_run_next(seq, &token))
	{
		Datum		values[5] = {Int32GetDatum((int32) token.position + 1), Int32GetDatum(token.id),
			piece_datum(&token), Float4GetDatum(token.logprob),
		Int32GetDatum(token.rank)};
		bool		nulls[5] = {0};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	moe_run_end(run);
}

/*
 * moe.score(prompt text, completion text, model) returns table (position,
 * token_id, piece, logprob, rank)
 *
 * The rows are the completion's tokens.  Prompt and completion are tokenised
 * apart, so that a score does not depend on where the two would have merged.
 */
Datum
pg_moe_score(PG_FUNCTION_ARGS)
{
	MoeOpenModel *model;
	MoeTokens	prompt;
	MoeTokens	completion;
	MoeTokens	all;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		return (Datum) 0;

	model = moe_host_open(moe_model_require(moe_text_arg(fcinfo, 2)), false);
	prompt = moe_tokens_of_text(model, "", PG_GETARG_TEXT_PP(0), MOE_TEXT_ADD_SPECIAL, NULL);
	completion = moe_tokens_of_text(model, "", PG_GETARG_TEXT_PP(1), 0, NULL);
	all.n = prompt.n + completion.n;
	all.ids = palloc_array(int32, all.n + 1);
	memcpy(all.ids, prompt.ids, sizeof(int32) * prompt.n);
	memcpy(all.ids + prompt.n, completion.ids, sizeof(int32) * completion.n);
	score(fcinfo, model, all, Max(prompt.n, 1));
	return (Datum) 0;
}

/*
 * moe.score(tokens int[], model)
 *
 * The rows are all tokens but the first.
 */
Datum
pg_moe_score_tokens(PG_FUNCTION_ARGS)
{
	MoeOpenModel *model;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	model = moe_host_open(moe_model_require(moe_text_arg(fcinfo, 1)), false);
	score(fcinfo, model, moe_tokens_of_array(PG_GETARG_ARRAYTYPE_P(0), NULL), 1);
	return (Datum) 0;
}
