/*
 * UTF-8 checks and repair, and character classes on top of utf8proc's property table.
 */
#include "unicode.h"

#include <string.h>
#include <utf8proc.h>

size_t moe_utf8_put(int32_t cp, char text[4])
{
    return (size_t)utf8proc_encode_char(cp, (utf8proc_uint8_t *)text);
}

/* Bytes of the well-formed character at s[0..len), or 0; then *bad is the length of the longest
 * ill-formed part that begins one, at least 1 (Unicode 15, tables 3-7 and 3-8). */
static size_t utf8_step(const unsigned char *s, size_t len, size_t *bad)
{
    *bad = 1;
    if (s[0] < 0x80)
        return 1;
    size_t n = s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    if (n == 0)
        return 0;
    unsigned char low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
    unsigned char high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
    for (size_t i = 1; i < n; i++) {
        if (i == len || s[i] < low || s[i] > high)
            return 0;
        *bad = i + 1;
        low = 0x80;
        high = 0xBF;
    }
    return n;
}

/* Bytes of the longest well-formed prefix. */
static size_t valid_prefix(const char *s, size_t len)
{
    size_t i = 0, bad;
    while (i < len) {
        uint64_t eight;
        while (len - i >= 8) {
            memcpy(&eight, s + i, 8);
            if ((eight & UINT64_C(0x8080808080808080)) != 0)
                break;
            i += 8;
        }
        if (i == len)
            break;
        size_t n = utf8_step((const unsigned char *)s + i, len - i, &bad);
        if (n == 0)
            break;
        i += n;
    }
    return i;
}

bool moe_utf8_is_valid(const char *s, size_t len)
{
    return valid_prefix(s, len) == len;
}

bool moe_utf8_add_repaired(moe_buf *out, const char *s, size_t len)
{
    for (;;) {
        size_t good = valid_prefix(s, len), bad;
        if (!moe_buf_add(out, s, good))
            return false;
        if (good == len)
            return true;
        utf8_step((const unsigned char *)s + good, len - good, &bad);
        if (!moe_buf_add_str(out, "\xEF\xBF\xBD"))
            return false;
        s += good + bad;
        len -= good + bad;
    }
}

bool moe_char_is_space(int32_t cp)
{
    return (cp >= 0x09 && cp <= 0x0D) || cp == 0x20 || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F ||
           cp == 0x205F || cp == 0x3000;
}

bool moe_char_is_punctuation(int32_t cp)
{
    if (cp < 0x80)
        return cp > 0x20 && cp < 0x7F && !((cp | 0x20) >= 'a' && (cp | 0x20) <= 'z') &&
               !(cp >= '0' && cp <= '9');
    utf8proc_category_t category = utf8proc_category(cp);
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

bool moe_char_is_numeric(int32_t cp)
{
    utf8proc_category_t category = utf8proc_category(cp);
    return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool moe_char_is_word(int32_t cp)
{
    utf8proc_category_t category = utf8proc_category(cp);
    if (category == UTF8PROC_CATEGORY_SO) /* circled letters: Other_Alphabetic */
        return (cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) ||
               (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) ||
           category == UTF8PROC_CATEGORY_PC || cp == 0x200C || cp == 0x200D;
}

bool moe_char_is_mark(int32_t cp)
{
    utf8proc_category_t category = utf8proc_category(cp);
    return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

bool moe_char_is_nonspacing_mark(int32_t cp)
{
    return utf8proc_category(cp) == UTF8PROC_CATEGORY_MN;
}

bool moe_char_is_control(int32_t cp)
{
    if (cp == '\t' || cp == '\n' || cp == '\r')
        return false;
    utf8proc_category_t category = utf8proc_category(cp);
    return category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
           category == UTF8PROC_CATEGORY_CO;
}

bool moe_char_is_cjk(int32_t cp)
{
    return (cp >= 0x4E00 && cp <= 0x9FFF) || (cp >= 0x3400 && cp <= 0x4DBF) ||
           (cp >= 0x20000 && cp <= 0x2A6DF) || (cp >= 0x2A700 && cp <= 0x2B73F) ||
           (cp >= 0x2B740 && cp <= 0x2B81F) || (cp >= 0x2B920 && cp <= 0x2CEAF) ||
           (cp >= 0xF900 && cp <= 0xFAFF) || (cp >= 0x2F800 && cp <= 0x2FA1F);
}

int moe_char_lower(int32_t cp, int32_t lower[2])
{
    lower[0] = utf8proc_tolower(cp);
    if (cp != 0x130) /* the one entry of SpecialCasing.txt for lower case without a condition */
        return 1;
    lower[0] = 'i';
    lower[1] = 0x307;
    return 2;
}
