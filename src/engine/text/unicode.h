/*
 * UTF-8 and the character classes that tokenizers are defined by.  The data is utf8proc's; the
 * classes follow the Rust library `tokenizers`, whose files most models ship.
 */
#ifndef MOE_UNICODE_H
#define MOE_UNICODE_H

#include "../support.h"

/* Decodes the character at s, which must be valid UTF-8; returns its bytes, 1 to 4. */
static inline size_t moe_utf8_get(const char *s, int32_t *cp)
{
    const unsigned char *p = (const unsigned char *)s;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    if (p[0] < 0xE0) {
        *cp = (p[0] & 0x1F) << 6 | (p[1] & 0x3F);
        return 2;
    }
    if (p[0] < 0xF0) {
        *cp = (p[0] & 0x0F) << 12 | (p[1] & 0x3F) << 6 | (p[2] & 0x3F);
        return 3;
    }
    *cp = (p[0] & 0x07) << 18 | (p[1] & 0x3F) << 12 | (p[2] & 0x3F) << 6 | (p[3] & 0x3F);
    return 4;
}

/* The character that ends just before s + at, at > 0; returns its bytes. */
static inline size_t moe_utf8_get_last(const char *s, size_t at, int32_t *cp)
{
    size_t start = at - 1;
    while (start > 0 && ((unsigned char)s[start] & 0xC0) == 0x80)
        start--;
    return moe_utf8_get(s + start, cp);
}

static inline bool moe_utf8_is_continuation(char c)
{
    return ((unsigned char)c & 0xC0) == 0x80;
}

/* Writes the character; returns its bytes. */
size_t moe_utf8_put(int32_t cp, char text[4]);

/* Whether s[0..len) is UTF-8 without overlong forms and surrogates. */
bool moe_utf8_is_valid(const char *s, size_t len);

/* Appends s[0..len); every maximal part of an ill-formed sequence becomes one U+FFFD (Unicode
 * 15, 3.9). false: memory is short. */
bool moe_utf8_add_repaired(moe_buf *out, const char *s, size_t len);

typedef bool (*moe_char_class)(int32_t cp);

bool moe_char_is_space(int32_t cp);           /* White_Space */
bool moe_char_is_punctuation(int32_t cp);     /* category P; in ASCII S too */
bool moe_char_is_numeric(int32_t cp);         /* category N */
bool moe_char_is_word(int32_t cp);            /* \w: Alphabetic, M, Nd, Pc, Join_Control */
bool moe_char_is_mark(int32_t cp);            /* category M */
bool moe_char_is_nonspacing_mark(int32_t cp); /* Mn */
bool moe_char_is_control(int32_t cp); /* Cc, Cf, Co, but not tab, newline, carriage return */
bool moe_char_is_cjk(int32_t cp);     /* the ideographs that BERT puts spaces around */

/* Full lower case without context: one or two characters; returns how many. */
int moe_char_lower(int32_t cp, int32_t lower[2]);

#endif
