/*-------------------------------------------------------------------------
 *
 * encoding.h
 *	  Texts between the database's encoding and the engine's UTF-8.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MOE_ENCODING_H
#define MOE_ENCODING_H

/* A palloc'ed or borrowed, not always zero-terminated, UTF-8 text */
typedef struct MoeUtf8
{
	const char *data;
	size_t		len;
} MoeUtf8;

extern bool moe_utf8_exists(const char *s, size_t len);
extern bool moe_server_can_hold(const char *s, size_t len);
extern MoeUtf8 moe_utf8_from_text(const text *t);
extern char *moe_utf8_cstring(const char *s, size_t len);
extern char *moe_server_cstring(const char *s, size_t len);
extern text *moe_text_from_utf8(const char *s, size_t len);

#endif							/* MOE_ENCODING_H */
