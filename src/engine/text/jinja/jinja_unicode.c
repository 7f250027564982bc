/*
 * Characters as Python sees them: decoding UTF-8, classes of characters, case mapping.
 *
 * Classes and the mappings of one character to one come from utf8proc; the table below adds the
 * characters that become several in upper case (Unicode SpecialCasing).  Nothing here allocates.
 */
#include "jinja_lib.h"

#include <string.h>
#include <utf8proc.h>

typedef struct special_case {
    uint16_t from, to[3];
} special_case;

static const special_case special_upper[] = {
    {0xDF, {0x53, 0x53}},
    {0x149, {0x2BC, 0x4E}},
    {0x1F0, {0x4A, 0x30C}},
    {0x390, {0x399, 0x308, 0x301}},
    {0x3B0, {0x3A5, 0x308, 0x301}},
    {0x587, {0x535, 0x552}},
    {0x1E96, {0x48, 0x331}},
    {0x1E97, {0x54, 0x308}},
    {0x1E98, {0x57, 0x30A}},
    {0x1E99, {0x59, 0x30A}},
    {0x1E9A, {0x41, 0x2BE}},
    {0x1F50, {0x3A5, 0x313}},
    {0x1F52, {0x3A5, 0x313, 0x300}},
    {0x1F54, {0x3A5, 0x313, 0x301}},
    {0x1F56, {0x3A5, 0x313, 0x342}},
    {0x1F80, {0x1F08, 0x399}},
    {0x1F81, {0x1F09, 0x399}},
    {0x1F82, {0x1F0A, 0x399}},
    {0x1F83, {0x1F0B, 0x399}},
    {0x1F84, {0x1F0C, 0x399}},
    {0x1F85, {0x1F0D, 0x399}},
    {0x1F86, {0x1F0E, 0x399}},
    {0x1F87, {0x1F0F, 0x399}},
    {0x1F88, {0x1F08, 0x399}},
    {0x1F89, {0x1F09, 0x399}},
    {0x1F8A, {0x1F0A, 0x399}},
    {0x1F8B, {0x1F0B, 0x399}},
    {0x1F8C, {0x1F0C, 0x399}},
    {0x1F8D, {0x1F0D, 0x399}},
    {0x1F8E, {0x1F0E, 0x399}},
    {0x1F8F, {0x1F0F, 0x399}},
    {0x1F90, {0x1F28, 0x399}},
    {0x1F91, {0x1F29, 0x399}},
    {0x1F92, {0x1F2A, 0x399}},
    {0x1F93, {0x1F2B, 0x399}},
    {0x1F94, {0x1F2C, 0x399}},
    {0x1F95, {0x1F2D, 0x399}},
    {0x1F96, {0x1F2E, 0x399}},
    {0x1F97, {0x1F2F, 0x399}},
    {0x1F98, {0x1F28, 0x399}},
    {0x1F99, {0x1F29, 0x399}},
    {0x1F9A, {0x1F2A, 0x399}},
    {0x1F9B, {0x1F2B, 0x399}},
    {0x1F9C, {0x1F2C, 0x399}},
    {0x1F9D, {0x1F2D, 0x399}},
    {0x1F9E, {0x1F2E, 0x399}},
    {0x1F9F, {0x1F2F, 0x399}},
    {0x1FA0, {0x1F68, 0x399}},
    {0x1FA1, {0x1F69, 0x399}},
    {0x1FA2, {0x1F6A, 0x399}},
    {0x1FA3, {0x1F6B, 0x399}},
    {0x1FA4, {0x1F6C, 0x399}},
    {0x1FA5, {0x1F6D, 0x399}},
    {0x1FA6, {0x1F6E, 0x399}},
    {0x1FA7, {0x1F6F, 0x399}},
    {0x1FA8, {0x1F68, 0x399}},
    {0x1FA9, {0x1F69, 0x399}},
    {0x1FAA, {0x1F6A, 0x399}},
    {0x1FAB, {0x1F6B, 0x399}},
    {0x1FAC, {0x1F6C, 0x399}},
    {0x1FAD, {0x1F6D, 0x399}},
    {0x1FAE, {0x1F6E, 0x399}},
    {0x1FAF, {0x1F6F, 0x399}},
    {0x1FB2, {0x1FBA, 0x399}},
    {0x1FB3, {0x391, 0x399}},
    {0x1FB4, {0x386, 0x399}},
    {0x1FB6, {0x391, 0x342}},
    {0x1FB7, {0x391, 0x342, 0x399}},
    {0x1FBC, {0x391, 0x399}},
    {0x1FC2, {0x1FCA, 0x399}},
    {0x1FC3, {0x397, 0x399}},
    {0x1FC4, {0x389, 0x399}},
    {0x1FC6, {0x397, 0x342}},
    {0x1FC7, {0x397, 0x342, 0x399}},
    {0x1FCC, {0x397, 0x399}},
    {0x1FD2, {0x399, 0x308, 0x300}},
    {0x1FD3, {0x399, 0x308, 0x301}},
    {0x1FD6, {0x399, 0x342}},
    {0x1FD7, {0x399, 0x308, 0x342}},
    {0x1FE2, {0x3A5, 0x308, 0x300}},
    {0x1FE3, {0x3A5, 0x308, 0x301}},
    {0x1FE4, {0x3A1, 0x313}},
    {0x1FE6, {0x3A5, 0x342}},
    {0x1FE7, {0x3A5, 0x308, 0x342}},
    {0x1FF2, {0x1FFA, 0x399}},
    {0x1FF3, {0x3A9, 0x399}},
    {0x1FF4, {0x38F, 0x399}},
    {0x1FF6, {0x3A9, 0x342}},
    {0x1FF7, {0x3A9, 0x342, 0x399}},
    {0x1FFC, {0x3A9, 0x399}},
    {0xFB00, {0x46, 0x46}},
    {0xFB01, {0x46, 0x49}},
    {0xFB02, {0x46, 0x4C}},
    {0xFB03, {0x46, 0x46, 0x49}},
    {0xFB04, {0x46, 0x46, 0x4C}},
    {0xFB05, {0x53, 0x54}},
    {0xFB06, {0x53, 0x54}},
    {0xFB13, {0x544, 0x546}},
    {0xFB14, {0x544, 0x535}},
    {0xFB15, {0x544, 0x53B}},
    {0xFB16, {0x54E, 0x546}},
    {0xFB17, {0x544, 0x53D}},
};

size_t moe_jinja_utf8_decode(const char *s, int32_t *cp)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) {
        *cp = u[0];
        return 1;
    }
    if (u[0] < 0xE0) {
        *cp = (u[0] & 0x1F) << 6 | (u[1] & 0x3F);
        return 2;
    }
    if (u[0] < 0xF0) {
        *cp = (u[0] & 0x0F) << 12 | (u[1] & 0x3F) << 6 | (u[2] & 0x3F);
        return 3;
    }
    *cp = (u[0] & 0x07) << 18 | (u[1] & 0x3F) << 12 | (u[2] & 0x3F) << 6 | (u[3] & 0x3F);
    return 4;
}

size_t moe_jinja_utf8_encode(int32_t cp, char text[4])
{
    return (size_t)utf8proc_encode_char(cp, (utf8proc_uint8_t *)text);
}

bool moe_jinja_utf8_valid(const char *s, size_t len)
{
    while (len > 0) {
        utf8proc_int32_t cp;
        /* a few bytes at a time: the length argument of utf8proc is signed */
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)s, len < 4 ? len : 4, &cp);
        if (n <= 0)
            return false;
        s += n;
        len -= (size_t)n;
    }
    return true;
}

size_t moe_jinja_utf8_count(const char *s, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += ((unsigned char)s[i] & 0xC0) != 0x80;
    return n;
}

size_t moe_jinja_utf8_offset(const jinja_string *s, size_t index)
{
    if (s->n_chars == s->len)
        return index;
    if (index >= s->n_chars)
        return s->len;
    size_t at = 0;
    while (index > 0) {
        at++;
        while (((unsigned char)s->data[at] & 0xC0) == 0x80)
            at++;
        index--;
    }
    return at;
}

bool moe_jinja_is_space(int32_t cp)
{
    return (cp >= 0x09 && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x20) || cp == 0x85 || cp == 0xA0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

bool moe_jinja_is_alpha(int32_t cp)
{
    utf8proc_category_t c = utf8proc_category(cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool moe_jinja_is_decimal(int32_t cp)
{
    return utf8proc_category(cp) == UTF8PROC_CATEGORY_ND;
}

bool moe_jinja_is_digit(int32_t cp)
{
    return moe_jinja_is_decimal(cp) || cp == 0xB2 || cp == 0xB3 || cp == 0xB9 || cp == 0x2070 ||
           (cp >= 0x2074 && cp <= 0x2079) || (cp >= 0x2080 && cp <= 0x2089) ||
           (cp >= 0x2460 && cp <= 0x2468) || (cp >= 0x2474 && cp <= 0x247C) ||
           (cp >= 0x2488 && cp <= 0x2490) || (cp >= 0x2776 && cp <= 0x277E);
}

bool moe_jinja_is_numeric(int32_t cp)
{
    utf8proc_category_t c = utf8proc_category(cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool moe_jinja_is_upper(int32_t cp)
{
    return utf8proc_category(cp) == UTF8PROC_CATEGORY_LU;
}

bool moe_jinja_is_lower(int32_t cp)
{
    return utf8proc_category(cp) == UTF8PROC_CATEGORY_LL || cp == 0xAA || cp == 0xBA;
}

bool moe_jinja_is_title(int32_t cp)
{
    return utf8proc_category(cp) == UTF8PROC_CATEGORY_LT;
}

bool moe_jinja_is_printable(int32_t cp)
{
    switch (utf8proc_category(cp)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    case UTF8PROC_CATEGORY_ZS:
        return cp == ' ';
    default:
        return true;
    }
}

static const special_case *find_special(int32_t cp)
{
    size_t low = 0, high = sizeof special_upper / sizeof special_upper[0];
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (special_upper[mid].from == cp)
            return &special_upper[mid];
        if (special_upper[mid].from < cp)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

/* Full case mapping of one character into at most three; returns how many. */
static int map_case(int32_t cp, jinja_case to, int32_t mapped[3])
{
    if (cp < 0x80) {
        if (to == JINJA_UPPER || to == JINJA_TITLE)
            mapped[0] = cp >= 'a' && cp <= 'z' ? cp - 32 : cp;
        else
            mapped[0] = cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
        return 1;
    }
    if (to == JINJA_LOWER) {
        mapped[0] = cp == 0x130 ? 'i' : utf8proc_tolower(cp);
        mapped[1] = 0x307;
        return cp == 0x130 ? 2 : 1;
    }
    if (to == JINJA_FOLD) {
        int last = 0;
        utf8proc_ssize_t n = utf8proc_decompose_char(cp, mapped, 3, UTF8PROC_CASEFOLD, &last);
        if (n >= 1 && n <= 3)
            return (int)n;
        mapped[0] = cp;
        return 1;
    }
    const special_case *special = find_special(cp);
    if (special == NULL) {
        mapped[0] = to == JINJA_TITLE ? utf8proc_totitle(cp) : utf8proc_toupper(cp);
        return 1;
    }
    if (to == JINJA_TITLE && utf8proc_totitle(cp) != cp && cp != 0xDF) {
        mapped[0] = utf8proc_totitle(cp);
        return 1;
    }
    int n = 0;
    while (n < 3 && special->to[n] != 0) {
        /* a title is the first letter in upper case and the rest in lower case; in U+0149 the
         * first character is an apostrophe */
        bool lower = to == JINJA_TITLE && n > 0 && cp != 0x149;
        mapped[n] = lower ? utf8proc_tolower(special->to[n]) : special->to[n];
        n++;
    }
    return n;
}

static bool is_cased(int32_t cp)
{
    return moe_jinja_is_upper(cp) || moe_jinja_is_lower(cp) || moe_jinja_is_title(cp);
}

/* Marks between letters don't end a word for the final sigma. */
static bool is_case_ignorable(int32_t cp)
{
    utf8proc_category_t c = utf8proc_category(cp);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_ME || c == UTF8PROC_CATEGORY_CF ||
           c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_SK || cp == '\'' || cp == '.' ||
           cp == ':' || cp == 0xB7 || cp == 0x2019;
}

/* Whether the sigma at byte `at` (2 bytes long) ends a word. */
static bool is_final_sigma(const char *s, size_t len, size_t at)
{
    int32_t cp = 0;
    size_t i = at;
    bool before = false;
    while (i > 0) {
        i--;
        while (i > 0 && ((unsigned char)s[i] & 0xC0) == 0x80)
            i--;
        moe_jinja_utf8_decode(s + i, &cp);
        if (is_case_ignorable(cp))
            continue;
        before = is_cased(cp);
        break;
    }
    if (!before)
        return false;
    for (i = at + 2; i < len;) {
        i += moe_jinja_utf8_decode(s + i, &cp);
        if (!is_case_ignorable(cp))
            return !is_cased(cp);
    }
    return true;
}

bool moe_jinja_write_case(jinja *j, const char *s, size_t len, jinja_case to)
{
    if (!moe_jinja_step(j, len / 8))
        return false;
    for (size_t i = 0; i < len;) {
        int32_t cp, mapped[3];
        size_t n_bytes = moe_jinja_utf8_decode(s + i, &cp);
        int n = map_case(cp, to, mapped);
        if (cp == 0x3A3 && to == JINJA_LOWER && is_final_sigma(s, len, i))
            mapped[0] = 0x3C2;
        for (int k = 0; k < n; k++) {
            char text[4];
            if (!moe_jinja_write(j, text, moe_jinja_utf8_encode(mapped[k], text)))
                return false;
        }
        i += n_bytes;
    }
    return true;
}
