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

static bool
setup(MoeCall *call, FunctionCallInfo fcinfo)
{
	moe_call_begin(call, fcinfo, MOE_SCOPE_CHAT | MOE_SCOPE_VALUE);
	return true;
}

static void
read_messages(const MoeCall *call, MoePromptType type, Datum datum, MoeInput *input,
			  moe_error *err)
{
	input->tokens = moe_tokens_of_chat(call->model, datum, type, &call->options,
									   &input->ends_in_think, err);
}

static void
split_answer(const MoeInput *input, const MoeSeq *seq, moe_reply *reply)
{
	size_t		len;
	const char *answer = moe_run_text(seq, &len);

	moe_split_reasoning(answer, len, input->ends_in_think, reply);
}

/*
 * Is there to be a value with this text, if only to raise an error?
 */
static bool
may_have(const MoeInput *input, const char *s, size_t len)
{
	return !input->null_on_error || s == NULL || moe_server_can_hold(s, len);
}

static Datum
content(FunctionCallInfo fcinfo, const MoeInput *input, const MoeSeq *seq, bool *isnull)
{
	moe_reply	reply;

	split_answer(input, seq, &reply);
	*isnull = !may_have(input, reply.content, reply.content_len);
	return *isnull ? (Datum) 0
		: PointerGetDatum(moe_text_from_utf8(reply.content, reply.content_len));
}

static Datum
full(FunctionCallInfo fcinfo, const MoeInput *input, const MoeSeq *seq, bool *isnull)
{
	moe_reply	reply;

	split_answer(input, seq, &reply);
	*isnull = !may_have(input, reply.content, reply.content_len) ||
		!may_have(input, reply.reasoning, reply.reasoning_len);
	return *isnull ? (Datum) 0 : full_answer(seq, &reply);
}

const MoeFunction moe_chat_functions[] = {
	{"pg_moe_chat", MOE_PROMPT_TEXT, setup, read_messages, content},
	{"pg_moe_chat_json", MOE_PROMPT_JSON, setup, read_messages, content},
	{"pg_moe_chat_jsonb", MOE_PROMPT_JSONB, setup, read_messages, content},
	{"pg_moe_chat_full", MOE_PROMPT_TEXT, setup, read_messages, full},
	{"pg_moe_chat_full_json", MOE_PROMPT_JSON, setup, read_messages, full},
	{"pg_moe_chat_full_jsonb", MOE_PROMPT_JSONB, setup, read_messages, full},
	{NULL}
};

/*
 * moe.chat(prompt text, ...) returns text
 */
Datum
pg_moe_chat(PG_FUNCTION_ARGS)
{
	return moe_call_function(&moe_chat_functions[0], fcinfo);
}

/*
 * moe.chat(messages json, ...) returns text
 */
Datum
pg_moe_chat_json(PG_FUNCTION_ARGS)
{
	return moe_call_function(&moe_chat_functions[1], fcinfo);
}

/*
 * moe.chat(messages jsonb, ...) returns text
 */
Datum
pg_moe_chat_jsonb(PG_FUNCTION_ARGS)
{
	return moe_call_function(&moe_chat_functions[2], fcinfo);
}

/*
 * moe.chat_full(prompt text, ...) returns jsonb
 */
Datum
pg_moe_chat_full(PG_FUNCTION_ARGS)
{
	return moe_call_function(&moe_chat_functions[3], fcinfo);
}

/*
 * moe.chat_full(messages json, ...) returns jsonb
 */
Datum
pg_moe_chat_full_json(PG_FUNCTION_ARGS)
{
	return moe_call_function(&moe_chat_functions[4], fcinfo);
}

/*
 * moe.chat_full(messages jsonb, ...) returns jsonb
 */
Datum
pg_moe_chat_full_jsonb(PG_FUNCTION_ARGS)
{
	return moe_call_function(&moe_chat_functions[5], fcinfo);
}
