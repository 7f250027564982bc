/*-------------------------------------------------------------------------
 *
 * encoding.c
 *	  Texts between the database's encoding and the engine's UTF-8.
 *
 * A character that the database's encoding does not have raises the server's
 * usual error.  What a model may emit and a text can't hold, the zero byte and a
 * token that is a part of a character, becomes U+FFFD.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "encoding.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

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
 * UTF-8 as a palloc'ed C string in the database's encoding
 */
char *
moe_server_cstring(const char *s, size_t len)
{
	size_t		valid;
	StringInfoData buf;

	if (len == 0)
		return pstrdup("");
	valid = pg_encoding_verifymbstr(PG_UTF8, s, (int) len);
	if (valid == len)
	{
		const char *converted = pg_any_to_server(s, len, PG_UTF8);

		return converted == s ? pnstrdup(s, len) : unconstify(char *, converted);
	}

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
	return pg_any_to_server(buf.data, buf.len, PG_UTF8);
}

/*
 * UTF-8 as a palloc'ed text value
 */
text *
moe_text_from_utf8(const char *s, size_t len)
{
	return cstring_to_text(moe_server_cstring(s, len));
}
