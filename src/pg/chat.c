/*-------------------------------------------------------------------------
 *
 * chat.c
 *	  moe.chat() and moe.chat_full(): answer messages by the model's template.
 *
 * A model that reasons writes its reasoning before its answer; chat() returns the
 * answer alone, chat_full() both and the counters.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "call.h"
#include "compat.h"
#include "encoding.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"

MOE_FUNCTION(pg_moe_chat);
MOE_FUNCTION(pg_moe_chat_json);
MOE_FUNCTION(pg_moe_chat_jsonb);
MOE_FUNCTION(pg_moe_chat_full);
MOE_FUNCTION(pg_moe_chat_full_json);
MOE_FUNCTION(pg_moe_chat_full_jsonb);

static void
append_text(StringInfo buf, const char *s, size_t len)
{
	if (s == NULL)
		appendStringInfoString(buf, "null");
	else
		escape_json(buf, moe_server_cstring(s, len));
}

/*
 * The object that chat_full() returns
 */
static Datum
full_answer(const MoeSeq *seq, const moe_reply *reply)
{
	const moe_usage *usage = moe_run_usage(seq);
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "{\"content\": ");
	append_text(&buf, reply->content, reply->content_len);
	appendStringInfoString(&buf, ", \"reasoning\": ");
	append_text(&buf, reply->reasoning, reply->reasoning_len);
	appendStringInfo(&buf,
					 ", \"tool_calls\": null"
					 ", \"usage\": {\"prompt_tokens\": %lld, \"cached_tokens\": %lld,"
					 " \"completion_tokens\": %lld, \"total_tokens\": %lld}"
					 ", \"finish_reason\": \"%s\"}",
					 (long long) usage->prompt_tokens, (long long) usage->cached_tokens,
					 (long long) usage->generated_tokens,
					 (long long) (usage->prompt_tokens + usage->generated_tokens),
					 moe_run_finish_reason(seq) == MOE_FINISH_STOP ? "stop" : "length");
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data));
}

static Datum
chat(FunctionCallInfo fcinfo, MoePromptType type, bool full)
{
	MoeCall		call;
	MoeTokens	tokens;
	bool		ends_in_think;
	MoeRun	   *run;
	MoeSeq	   *seq;
	const char *answer;
	size_t		len;
	moe_reply	reply;
	Datum		result;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();

	moe_call_begin(&call, fcinfo, MOE_SCOPE_CHAT);
	tokens = moe_tokens_of_chat(call.model, PG_GETARG_DATUM(0), type, &call.options,
								&ends_in_think);
	run = moe_run_begin(call.model);
	seq = moe_call_add(&call, run, tokens, false);
	moe_run_finish(run);
	answer = moe_run_text(seq, &len);
	moe_split_reasoning(answer, len, ends_in_think, &reply);
	result = full ? full_answer(seq, &reply)
		: PointerGetDatum(moe_text_from_utf8(reply.content, reply.content_len));
	moe_run_end(run);
	return result;
}

/*
 * moe.chat(prompt text, ...) returns text
 */
Datum
pg_moe_chat(PG_FUNCTION_ARGS)
{
	return chat(fcinfo, MOE_PROMPT_TEXT, false);
}

/*
 * moe.chat(messages json, ...) returns text
 */
Datum
pg_moe_chat_json(PG_FUNCTION_ARGS)
{
	return chat(fcinfo, MOE_PROMPT_JSON, false);
}

/*
 * moe.chat(messages jsonb, ...) returns text
 */
Datum
pg_moe_chat_jsonb(PG_FUNCTION_ARGS)
{
	return chat(fcinfo, MOE_PROMPT_JSONB, false);
}

/*
 * moe.chat_full(prompt text, ...) returns jsonb
 */
Datum
pg_moe_chat_full(PG_FUNCTION_ARGS)
{
	return chat(fcinfo, MOE_PROMPT_TEXT, true);
}

/*
 * moe.chat_full(messages json, ...) returns jsonb
 */
Datum
pg_moe_chat_full_json(PG_FUNCTION_ARGS)
{
	return chat(fcinfo, MOE_PROMPT_JSON, true);
}

/*
 * moe.chat_full(messages jsonb, ...) returns jsonb
 */
Datum
pg_moe_chat_full_jsonb(PG_FUNCTION_ARGS)
{
	return chat(fcinfo, MOE_PROMPT_JSONB, true);
}
