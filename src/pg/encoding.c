/*-------------------------------------------------------------------------
 *
 * encoding.c
 *	  Texts between the database's encoding and the engine's UTF-8.
 *
 * A character that the database's encoding does not have raises the server's
 * usual error; callers that want none ask before.  What a model may emit and a
 * text can't hold, the zero byte and a token that is a part of a character,
 * becomes U+FFFD.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "compat.h"
#include "encoding.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

/* Bytes that are tried at a time whether they can be converted */
#define TRIAL_BYTES 1024

static bool
is_convertible(const char *s, size_t len, int from, int to)
{
	unsigned char converted[TRIAL_BYTES * MAX_CONVERSION_GROWTH + 1];
	Oid			proc;

	if (from == to)
		return true;
	if (from == PG_SQL_ASCII || to == PG_SQL_ASCII)
		return pg_encoding_verifymbstr(PG_UTF8, s, (int) len) == (int) len;
	proc = FindDefaultConversionProc(from, to);
	while (len > 0 && OidIsValid(proc))
	{
		int			n = (int) Min(len, TRIAL_BYTES);
		int			done = pg_do_encoding_conversion_buf(proc, from, to, (unsigned char *) s, n,
														 converted, sizeof(converted), true);

		/* The last character of a piece may be cut; nothing at all means that it can't be */
		if (done <= 0)
			return false;
		s += done;
		len -= done;
	}
	return true;
}

/*
 * Can a string in the database's encoding be converted to UTF-8?
 */
bool
moe_utf8_exists(const char *s, size_t len)
{
	return is_convertible(s, len, GetDatabaseEncoding(), PG_UTF8);
}

/*
 * A text value, which must be detoasted and outlive the result
 */
MoeUtf8
moe_utf8_from_text(const text *t)
{
	const char *data = VARDATA_ANY(t);
	int			len = VARSIZE_ANY_EXHDR(t);
	MoeUtf8		result;

	result.data = pg_server_to_any(data, len, PG_UTF8);
	result.len = result.data == data ? (size_t) len : strlen(result.data);
	return result;
}

/*
 * A string in the database's encoding as a palloc'ed C string in UTF-8
 */
char *
moe_utf8_cstring(const char *s, size_t len)
{
	const char *converted = pg_server_to_any(s, len, PG_UTF8);

	return converted == s ? pnstrdup(s, len) : unconstify(char *, converted);
}

/*
 * UTF-8 in which what can't be in a text is replaced: the string itself, or palloc'ed
 */
static MoeUtf8
repair(const char *s, size_t len)
{
	size_t		valid = pg_encoding_verifymbstr(PG_UTF8, s, (int) len);
	StringInfoData buf;

	if (valid == len)
		return (MoeUtf8) {s, len};

	initStringInfo(&buf);
	for (;;)
	{
		appendBinaryStringInfo(&buf, s, valid);
		s += valid;
		len -= valid;
		if (len == 0)
			break;
		appendStringInfoString(&buf, GetDatabaseEncoding() == PG_UTF8 ? "\xEF\xBF\xBD" : "?");
		s++;
		len--;
		valid = pg_encoding_verifymbstr(PG_UTF8, s, (int) len);
	}
	return (MoeUtf8) {buf.data, buf.len};
}

/*
 * Can UTF-8 be converted to the database's encoding?
 */
bool
moe_server_can_hold(const char *s, size_t len)
{
	MoeUtf8		repaired;

	if (len == 0 || GetDatabaseEncoding() == PG_UTF8)
		return true;
	repaired = repair(s, len);
	return is_convertible(repaired.data, repaired.len, PG_UTF8, GetDatabaseEncoding());
}

/*
 * UTF-8 as a palloc'ed C string in the database's encoding
 */
char *
moe_server_cstring(const char *s, size_t len)
{
	MoeUtf8		repaired;
	const char *converted;

	if (len == 0)
		return pstrdup("");
	repaired = repair(s, len);
	converted = pg_any_to_server(repaired.data, (int) repaired.len, PG_UTF8);
	return converted == s ? pnstrdup(s, len) : unconstify(char *, converted);
}

/*
 * UTF-8 as a palloc'ed text value
 */
text *
moe_text_from_utf8(const char *s, size_t len)
{
	return cstring_to_text(moe_server_cstring(s, len));
}
