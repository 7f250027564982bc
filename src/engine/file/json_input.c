/*
 * JSON files as model repositories have them.
 *
 * They are written by Python, whose json module writes NaN and Infinity as bare words and integers
 * of any length ("model_max_length": 1000000000000000019884624838656); jansson refuses both.  So
 * the text is scanned once for such tokens outside strings, and only if there are any a copy is
 * made in which the words read null and the integers end in ".0".  Depth is bounded by jansson
 * (2048 levels), size by MOE_MAX_JSON_BYTES.
 */
#include "file_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A piece of the text that jansson would refuse. */
typedef struct oddity {
    size_t begin, end;
    bool is_integer;
} oddity;

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_number_char(char c)
{
    return is_digit(c) || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-';
}

/* Index after the string that begins with the quote at i. */
static size_t skip_string(const char *text, size_t len, size_t i)
{
    for (i++; i < len && text[i] != '"'; i++) {
        if (text[i] == '\\')
            i++;
    }
    return i < len ? i + 1 : len;
}

/* Index after the number at i; *is_odd if it is an integer outside int64.  text is zero-terminated.
 */
static size_t skip_number(const char *text, size_t len, size_t i, bool *is_odd)
{
    size_t begin = i;
    bool is_integer = true;
    for (; i < len && is_number_char(text[i]); i++)
        is_integer = is_integer && (is_digit(text[i]) || i == begin);
    *is_odd = false;
    if (is_integer && i - begin > 18) {
        errno = 0;
        strtoll(text + begin, NULL, 10);
        *is_odd = errno == ERANGE;
    }
    return i;
}

/* The first oddity at or after `from`. */
static bool find_oddity(const char *text, size_t len, size_t from, oddity *out)
{
    static const char *const words[] = {"NaN", "Infinity", "-Infinity"};
    for (size_t i = from; i < len;) {
        if (text[i] == '"') {
            i = skip_string(text, len, i);
            continue;
        }
        for (size_t w = 0; w < sizeof(words) / sizeof(words[0]); w++) {
            size_t n = strlen(words[w]);
            if (text[i] == words[w][0] && len - i >= n && memcmp(text + i, words[w], n) == 0) {
                *out = (oddity){i, i + n, false};
                return true;
            }
        }
        if (is_digit(text[i]) || text[i] == '-') {
            bool is_odd;
            size_t end = skip_number(text, len, i, &is_odd);
            if (is_odd) {
                *out = (oddity){i, end, true};
                return true;
            }
            i = end;
            continue;
        }
        i++;
    }
    return false;
}

/* Appends text from `from` on to *copy, with every oddity put right; `odd` is the first one. */
static bool rewrite(const char *text, size_t len, oddity odd, moe_buf *copy)
{
    size_t from = 0;
    do {
        size_t keep = odd.is_integer ? odd.end : odd.begin;
        if (!moe_buf_add(copy, text + from, keep - from) ||
            !moe_buf_add_str(copy, odd.is_integer ? ".0" : "null"))
            return false;
        from = odd.end;
    } while (find_oddity(text, len, from, &odd));
    return moe_buf_add(copy, text + from, len - from);
}

moe_status moe_json_parse(const char *text, size_t len, const char *name, size_t flags,
                          json_t **out, moe_error *err)
{
    if (len >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) { /* a byte order mark */
        text += 3;
        len -= 3;
    }
    moe_buf copy = {0};
    oddity odd;
    if (find_oddity(text, len, 0, &odd)) {
        if (!rewrite(text, len, odd, &copy)) {
            moe_buf_free(&copy);
            return moe_fail_memory(err, len);
        }
        text = copy.data;
        len = copy.len;
    }

    json_error_t why;
    *out = json_loadb(text, len, JSON_ALLOW_NUL | flags, &why);
    moe_buf_free(&copy);
    if (*out != NULL)
        return MOE_OK;
    if (json_error_code(&why) == json_error_out_of_memory)
        return moe_fail_memory(err, len);
    moe_fail(err, MOE_ERR_FORMAT, "file \"%s\" is not valid JSON: %s (line %d)", name, why.text,
             why.line);
    return moe_hint(err, "The file seems to be damaged; fetch it again.");
}

moe_status moe_json_read(const char *folder, const char *name, bool optional, json_t **out,
                         moe_error *err)
{
    *out = NULL;
    char *path = moe_path_join(folder, name);
    if (path == NULL)
        return moe_fail_memory(err, strlen(folder) + strlen(name) + 2);
    moe_part part;
    moe_status status = moe_part_open(path, name, optional, &part, err);
    free(path);
    if (status != MOE_OK || part.fd < 0)
        return status;

    char *text = NULL;
    size_t len;
    status = moe_check_content(&part, "JSON", err);
    if (status == MOE_OK)
        status = moe_part_read_all(&part, &text, &len, err);
    if (status == MOE_OK)
        status = moe_json_parse(text, len, name, 0, out, err);
    free(text);
    moe_part_close(&part);
    return status;
}
