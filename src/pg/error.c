/*-------------------------------------------------------------------------
 *
 * error.c
 *	  The engine's errors as PostgreSQL's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "error.h"
#include "mb/pg_wchar.h"

/*
 * SQLSTATE of an engine status
 */
static int
sqlstate_of(moe_status status)
{
	switch (status)
	{
		case MOE_ERR_INVALID:
		case MOE_ERR_TEMPLATE:
			return ERRCODE_INVALID_PARAMETER_VALUE;
		case MOE_ERR_NOT_FOUND:
			return ERRCODE_UNDEFINED_FILE;
		case MOE_ERR_PERMISSION:
			return ERRCODE_INSUFFICIENT_PRIVILEGE;
		case MOE_ERR_IO:
			return ERRCODE_IO_ERROR;
		case MOE_ERR_FORMAT:
			return ERRCODE_INVALID_BINARY_REPRESENTATION;
		case MOE_ERR_UNSUPPORTED:
			return ERRCODE_FEATURE_NOT_SUPPORTED;
		case MOE_ERR_MEMORY:
			return ERRCODE_OUT_OF_MEMORY;
		case MOE_ERR_TOO_LONG:
			return ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		case MOE_ERR_NUMERIC:
			return ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
		case MOE_ERR_CANCELLED:
			return ERRCODE_QUERY_CANCELED;
		case MOE_ERR_BUSY:
			return ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
		case MOE_OK:
			break;
	}
	return ERRCODE_INTERNAL_ERROR;
}

/*
 * Copy a message of the engine for the client
 *
 * A message may quote bytes of a broken file and may have been cut in the
 * middle of a character, and nothing must go wrong here: what is not valid
 * UTF-8 ends the text, and a server in another encoding gets question marks.
 */
static char *
message_for_client(const char *s)
{
	int			len = pg_encoding_verifymbstr(PG_UTF8, s, strlen(s));
	char	   *copy = pnstrdup(s, len);

	if (GetDatabaseEncoding() != PG_UTF8)
	{
		for (char *p = copy; *p; p++)
			if (IS_HIGHBIT_SET(*p))
				*p = '?';
	}
	return copy;
}

/*
 * What helps against most errors of a kind, where the engine has no better hint
 */
static const char *
usual_hint(moe_status status)
{
	switch (status)
	{
		case MOE_ERR_NOT_FOUND:
			return "The server reads the path, on its own machine.";
		case MOE_ERR_PERMISSION:
			return "The operating system user that runs the server must be allowed to read it.";
		case MOE_ERR_FORMAT:
			return "The file is damaged, or is not what its name says; fetch it again.";
		case MOE_ERR_UNSUPPORTED:
			return "The manual lists the families, types and file formats that work.";
		case MOE_ERR_MEMORY:
			return "Free some memory, or use a smaller model or a smaller moe.kv_cache_size.";
		case MOE_ERR_TEMPLATE:
			return "This comes from the chat template; see moe.apply_chat_template().";
		default:
			return NULL;
	}
}

/*
 * Raise an error of the engine
 *
 * doing, if not NULL, says what could not be done and stands before the
 * message ("could not load model ...").
 */
void
moe_throw(const moe_error *err, const char *doing)
{
	char	   *message = message_for_client(err->message);
	const char *hint = err->hint[0] ? message_for_client(err->hint) : usual_hint(err->status);

	if (err->status == MOE_ERR_CANCELLED)
	{
		/* The flag that made us stop is still up, and says why */
		CHECK_FOR_INTERRUPTS();
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling statement due to user request")));
	}

	ereport(ERROR,
			(errcode(sqlstate_of(err->status)),
			 doing ? errmsg("%s: %s", doing, message) : errmsg("%s", message),
			 err->detail[0] ? errdetail("%s", message_for_client(err->detail)) : 0,
			 hint ? errhint("%s", hint) : 0));
	pg_unreachable();
}

/*
 * Does an error come from the one text that was given, so that another could do?
 */
bool
moe_is_input_error(const moe_error *err)
{
	switch (err->status)
	{
		case MOE_ERR_INVALID:
		case MOE_ERR_TOO_LONG:
		case MOE_ERR_NUMERIC:
		case MOE_ERR_TEMPLATE:
			return true;
		default:
			return false;
	}
}
