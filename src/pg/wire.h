/*-------------------------------------------------------------------------
 *
 * wire.h
 *	  What sessions and the shared engine say to each other.
 *
 * Both are children of one postmaster and so run the same library: structs go
 * as they are in memory, and only pointers are made good at the other end.
 *
 * A session sends MOE_MSG_BEGIN, then MOE_MSG_ADD for each request, then, when
 * all are done, MOE_MSG_END.  Meanwhile MOE_MSG_PAUSE_AT lets a request go on that
 * was told to pause; if it is done by then, that means nothing.  The engine answers with messages that are a
 * sequence of events.  Each request gets, in this order, at most one PROMPT, any
 * number of TOKENs or at most one EMBEDDING, and DONE or ERROR.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_WIRE_H
#define MOE_WIRE_H

#include "../engine/moe.h"
#include "channel.h"
#include "lib/stringinfo.h"

/* ----------
 * From a session
 * ----------
 */

typedef enum MoeMessageType
{
	MOE_MSG_BEGIN,				/* MoeModelSpec, path, stamp of the files */
	MOE_MSG_ADD,				/* moe_request, prompt, stop strings */
	MOE_MSG_PAUSE_AT,			/* int64: see moe_seq_pause_at() */
	MOE_MSG_END
} MoeMessageType;

typedef struct MoeMessage
{
	MoeMessageType type;
	uint32		seq;			/* ADD, PAUSE_AT: number of the request in its run, from 0 */
} MoeMessage;

/* Which model to compute with; the path is not part of its identity */
typedef struct MoeModelSpec
{
	char		weights_key[MOE_WEIGHTS_KEY_SIZE];
	int			n_ctx;
	moe_kv_type kv_type;
	moe_quantize quantize;
} MoeModelSpec;

extern void moe_wire_begin(StringInfo buf, const MoeModelSpec *spec, const char *path,
						   const char *stamp);
extern void moe_wire_add(StringInfo buf, uint32 seq, const moe_request *request);
extern void moe_wire_pause_at(StringInfo buf, uint32 seq, int64 n_tokens);
extern void moe_wire_end(StringInfo buf);

extern const MoeModelSpec *moe_wire_spec(const MoeMessage *message, const char **path,
										const char **stamp);
extern void moe_wire_request(const MoeMessage *message, moe_request *request);

/* ----------
 * From the engine
 * ----------
 */

typedef enum MoeEventType
{
	MOE_EVENT_PROMPT,			/* moe_usage: the prompt is being read */
	MOE_EVENT_READ,				/* int64: tokens of it so far */
	MOE_EVENT_TOKEN,			/* moe_token, piece */
	MOE_EVENT_EMBEDDING,		/* floats */
	MOE_EVENT_DONE,				/* moe_finish, moe_usage: see MoeDone */
	MOE_EVENT_ERROR				/* moe_error */
} MoeEventType;

/* Stands before each event's content, which is padded to MAXALIGN */
typedef struct MoeEvent
{
	MoeEventType type;
	uint32		seq;
	uint64		len;
} MoeEvent;

typedef struct MoeDone
{
	moe_finish	finish;
	moe_usage	usage;
} MoeDone;

extern void moe_wire_event(StringInfo buf, MoeEventType type, uint32 seq,
						   const void *content, size_t len, const void *more, size_t more_len);
extern const MoeEvent *moe_wire_next_event(const char *message, Size len, Size *at);

/* What follows an event's header */
static inline const void *
moe_event_content(const MoeEvent *event)
{
	return event + 1;
}

#endif							/* MOE_WIRE_H */
