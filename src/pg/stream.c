/*-------------------------------------------------------------------------
 *
 * stream.c
 *	  moe.generate_stream() and moe.chat_stream(): a row per token, as it comes.
 *
 * The functions return one row per call.  In the select list, and through a
 * cursor on that, each row is handed on before the next token is computed, and a
 * stream that is not read to its end computes nothing more.  (The shared engine
 * works a few tokens ahead, so that neither waits for the other.)  (In FROM the server
 * collects all rows first.)  The run hangs on the context of the set-returning
 * call, which the server deletes when the set is done, the cursor is closed or the
 * transaction fails.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "call.h"
#include "compat.h"
#include "encoding.h"
#include "funcapi.h"
#include "utils/builtins.h"

MOE_FUNCTION(pg_moe_generate_stream);
MOE_FUNCTION(pg_moe_generate_stream_tokens);
MOE_FUNCTION(pg_moe_chat_stream);
MOE_FUNCTION(pg_moe_chat_stream_json);
MOE_FUNCTION(pg_moe_chat_stream_jsonb);

/* Tokens that the shared engine may be ahead */
#define STREAM_AHEAD 16

typedef struct Stream
{
	MoeRun	   *run;			/* NULL: no prompt, no rows */
	MoeSeq	   *seq;
} Stream;

static Stream *
begin_stream(FunctionCallInfo fcinfo, MoePromptType type, bool is_chat)
{
	Stream	   *stream = palloc0(sizeof(Stream));
	MoeCall		call;
	MoeTokens	tokens;
	moe_request request;
	bool		ends_in_think;

	if (PG_ARGISNULL(0))
		return stream;

	moe_call_begin(&call, fcinfo,
				   (is_chat ? MOE_SCOPE_CHAT : MOE_SCOPE_GENERATE) | MOE_SCOPE_STREAM);
	tokens = is_chat
		? moe_tokens_of_chat(call.model, PG_GETARG_DATUM(0), type, &call.options, &ends_in_think, NULL)
		: moe_tokens_of_prompt(call.model, PG_GETARG_DATUM(0), type, &call.options, NULL);
	moe_call_request(&call, tokens, &request);
	request.logprobs = call.options.logprobs;
	request.pause_at = STREAM_AHEAD;
	stream->run = moe_run_begin(call.model);
	stream->seq = moe_run_add(stream->run, &request);
	return stream;
}

/*
 * The next token, computed if need be.  False at the end.
 */
static bool
next_token(Stream *stream, moe_token *token)
{
	if (stream->run == NULL)
		return false;
	while (!moe_run_next(stream->seq, token))
	{
		if (moe_run_done(stream->seq) || !moe_run_step(stream->run))
			return moe_run_next(stream->seq, token);
	}
	return true;
}

static Datum
stream(FunctionCallInfo fcinfo, MoePromptType type, bool is_chat)
{
	FuncCallContext *funcctx;
	moe_token	token;
	Datum		values[4];
	bool		nulls[4] = {0};

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext caller;
		TupleDesc	desc;

		funcctx = SRF_FIRSTCALL_INIT();
		caller = MemoryContextSwitchTo(funcctx->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		funcctx->tuple_desc = BlessTupleDesc(desc);
		funcctx->user_fctx = begin_stream(fcinfo, type, is_chat);
		MemoryContextSwitchTo(caller);
	}

	funcctx = SRF_PERCALL_SETUP();
	if (!next_token(funcctx->user_fctx, &token))
		SRF_RETURN_DONE(funcctx);

	values[0] = Int32GetDatum((int32) funcctx->call_cntr + 1);
	values[1] = Int32GetDatum(token.id);
	values[2] = PointerGetDatum(moe_text_from_utf8(token.piece, token.piece_len));
	values[3] = Float4GetDatum(token.logprob);
	nulls[3] = isnan(token.logprob);
	SRF_RETURN_NEXT(funcctx,
					HeapTupleGetDatum(heap_form_tuple(funcctx->tuple_desc, values, nulls)));
}

/*
 * moe.generate_stream(prompt text, ...) returns table (seq, token_id, piece, logprob)
 */
Datum
pg_moe_generate_stream(PG_FUNCTION_ARGS)
{
	return stream(fcinfo, MOE_PROMPT_TEXT, false);
}

/*
 * moe.generate_stream(prompt int[], ...)
 */
Datum
pg_moe_generate_stream_tokens(PG_FUNCTION_ARGS)
{
	return stream(fcinfo, MOE_PROMPT_TOKENS, false);
}

/*
 * moe.chat_stream(prompt text, ...)
 */
Datum
pg_moe_chat_stream(PG_FUNCTION_ARGS)
{
	return stream(fcinfo, MOE_PROMPT_TEXT, true);
}

/*
 * moe.chat_stream(messages json, ...)
 */
Datum
pg_moe_chat_stream_json(PG_FUNCTION_ARGS)
{
	return stream(fcinfo, MOE_PROMPT_JSON, true);
}

/*
 * moe.chat_stream(messages jsonb, ...)
 */
Datum
pg_moe_chat_stream_jsonb(PG_FUNCTION_ARGS)
{
	return stream(fcinfo, MOE_PROMPT_JSONB, true);
}
