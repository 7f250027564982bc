/*-------------------------------------------------------------------------
 *
 * encoding.c
 *	  Texts between the database's encoding and the engine's UTF-8.
 *
 * A character that the database's encoding does not have raises the server's
 * usual error.  The zero byte, which a model may emit and a text can't hold,
 * becomes U+FFFD.
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
	const char *converted;

	if (len == 0)
		return pstrdup("");
	if (memchr(s, '\0', len) != NULL)
	{
		StringInfoData buf;

		initStringInfo(&buf);
		for (size_t i = 0; i < len; i++)
		{
			if (s[i] == '\0')
				appendStringInfoString(&buf, "\xEF\xBF\xBD");
			else
				appendStringInfoCharMacro(&buf, s[i]);
		}
		s = buf.data;
		len = buf.len;
	}
	converted = pg_any_to_server(s, len, PG_UTF8);
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
