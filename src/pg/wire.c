/*-------------------------------------------------------------------------
 *
 * wire.c
 *	  What sessions and the shared engine say to each other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "wire.h"

StaticAssertDecl(sizeof(MoeMessage) % MAXIMUM_ALIGNOF == 0, "what follows must be aligned");
StaticAssertDecl(sizeof(MoeEvent) % MAXIMUM_ALIGNOF == 0, "what follows must be aligned");
StaticAssertDecl(sizeof(moe_request) % sizeof(int32) == 0, "the prompt must be aligned");

static void
append(StringInfo buf, const void *data, size_t len)
{
	appendBinaryStringInfoNT(buf, data, len);
}

static void
append_header(StringInfo buf, MoeMessageType type, uint32 seq)
{
	MoeMessage	message = {.type = type, .seq = seq};

	append(buf, &message, sizeof(message));
}

/*
 * Write MOE_MSG_BEGIN
 */
void
moe_wire_begin(StringInfo buf, const MoeModelSpec *spec, const char *path, const char *stamp)
{
	append_header(buf, MOE_MSG_BEGIN, 0);
	append(buf, spec, sizeof(MoeModelSpec));
	append(buf, path, strlen(path) + 1);
	append(buf, stamp, strlen(stamp) + 1);
}

/*
 * Write MOE_MSG_ADD
 */
void
moe_wire_add(StringInfo buf, uint32 seq, const moe_request *request)
{
	append_header(buf, MOE_MSG_ADD, seq);
	append(buf, request, sizeof(moe_request));
	append(buf, request->prompt, sizeof(int32_t) * request->n_prompt);
	for (int i = 0; i < request->n_stop; i++)
		append(buf, request->stop[i], strlen(request->stop[i]) + 1);
}

/*
 * Write MOE_MSG_PAUSE_AT
 */
void
moe_wire_pause_at(StringInfo buf, uint32 seq, int64 n_tokens)
{
	append_header(buf, MOE_MSG_PAUSE_AT, seq);
	append(buf, &n_tokens, sizeof(n_tokens));
}

/*
 * Write MOE_MSG_END
 */
void
moe_wire_end(StringInfo buf)
{
	append_header(buf, MOE_MSG_END, 0);
}

/*
 * What MOE_MSG_BEGIN says; it points into the message
 */
const MoeModelSpec *
moe_wire_spec(const MoeMessage *message, const char **path, const char **stamp)
{
	const MoeModelSpec *spec = (const MoeModelSpec *) (message + 1);

	*path = (const char *) (spec + 1);
	*stamp = *path + strlen(*path) + 1;
	return spec;
}

/*
 * What MOE_MSG_ADD says; the prompt points into the message, the list of stop
 * strings is palloc'ed
 */
void
moe_wire_request(const MoeMessage *message, moe_request *request)
{
	const char *p = (const char *) (message + 1);
	const char **stop;

	memcpy(request, p, sizeof(moe_request));
	p += sizeof(moe_request);
	request->prompt = (const int32_t *) p;
	p += sizeof(int32_t) * request->n_prompt;
	stop = palloc_array(const char *, request->n_stop + 1);
	for (int i = 0; i < request->n_stop; i++)
	{
		stop[i] = p;
		p += strlen(p) + 1;
	}
	request->stop = stop;
}

/*
 * Write an event; its content may come in two pieces
 */
void
moe_wire_event(StringInfo buf, MoeEventType type, uint32 seq,
			   const void *content, size_t len, const void *more, size_t more_len)
{
	static const char padding[MAXIMUM_ALIGNOF] = {0};
	MoeEvent	event = {.type = type, .seq = seq, .len = len + more_len};

	append(buf, &event, sizeof(event));
	append(buf, content, len);
	if (more_len > 0)
		append(buf, more, more_len);
	append(buf, padding, MAXALIGN(event.len) - event.len);
}

/*
 * The event at *at, which moves behind it; NULL at the end of the message
 */
const MoeEvent *
moe_wire_next_event(const char *message, Size len, Size *at)
{
	const MoeEvent *event = (const MoeEvent *) (message + *at);

	if (*at >= len)
		return NULL;
	*at += sizeof(MoeEvent) + MAXALIGN(event->len);
	return event;
}
