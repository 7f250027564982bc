/*
 * Errors, growing buffers and the UTF-8 step that they share.
 *
 * An error's text often quotes a file or a prompt.  So that a host can print it whatever it holds,
 * control characters other than newline and tab, and bytes that are not UTF-8, become '?', and a
 * text that is too long ends at a character boundary.  Buffers own their memory and grow by half.
 */
#include "support.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the character at s[0..len), len > 0: 1 to 4; 0 if the bytes are invalid; -1 if they are
 * the beginning of a character that goes on after len.  Unicode 15, table 3-7: no overlong forms,
 * no surrogates, nothing beyond U+10FFFF. */
static int utf8_step(const unsigned char *s, size_t len)
{
    if (s[0] < 0x80)
        return 1;
    int n = s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    if (n == 0)
        return 0;
    unsigned char low = 0x80, high = 0xBF; /* of the second byte */
    if (s[0] == 0xE0)
        low = 0xA0;
    else if (s[0] == 0xED)
        high = 0x9F;
    else if (s[0] == 0xF0)
        low = 0x90;
    else if (s[0] == 0xF4)
        high = 0x8F;
    for (int i = 1; i < n; i++) {
        if ((size_t)i == len)
            return -1;
        if (s[i] < low || s[i] > high)
            return 0;
        low = 0x80;
        high = 0xBF;
    }
    return n;
}

size_t moe_utf8_complete(const char *s, size_t len)
{
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        const unsigned char *p = (const unsigned char *)s + len - back;
        if ((*p & 0xC0) == 0x80)
            continue;
        return utf8_step(p, back) < 0 ? len - back : len;
    }
    return len;
}

/* Formats into dst[0..size), size <= 512.  The arguments may point into dst. */
static void format_text(char *dst, size_t size, const char *fmt, va_list args)
{
    char text[sizeof(((moe_error *)0)->message)];
    int n = vsnprintf(text, size, fmt, args);
    size_t len = n < 0 ? 0 : (size_t)n;
    if (len >= size)
        len = moe_utf8_complete(text, size - 1);
    for (size_t i = 0; i < len;) {
        int step = utf8_step((const unsigned char *)text + i, len - i);
        bool control = (unsigned char)text[i] < 0x20 && text[i] != '\n' && text[i] != '\t';
        if (step <= 0 || control || text[i] == 0x7F)
            text[i] = '?';
        i += step > 0 ? (size_t)step : 1;
    }
    memcpy(dst, text, len);
    dst[len] = '\0';
}

moe_status moe_fail(moe_error *err, moe_status status, const char *fmt, ...)
{
    if (err == NULL)
        return status;
    va_list args;
    va_start(args, fmt);
    format_text(err->message, sizeof(err->message), fmt, args);
    va_end(args);
    err->status = status;
    err->detail[0] = '\0';
    err->hint[0] = '\0';
    return status;
}

moe_status moe_hint(moe_error *err, const char *fmt, ...)
{
    if (err == NULL)
        return MOE_ERR_INVALID;
    va_list args;
    va_start(args, fmt);
    format_text(err->hint, sizeof(err->hint), fmt, args);
    va_end(args);
    return err->status;
}

moe_status moe_detail(moe_error *err, const char *fmt, ...)
{
    if (err == NULL)
        return MOE_ERR_INVALID;
    va_list args;
    va_start(args, fmt);
    format_text(err->detail, sizeof(err->detail), fmt, args);
    va_end(args);
    return err->status;
}

moe_status moe_fail_memory(moe_error *err, size_t size)
{
    moe_fail(err, MOE_ERR_MEMORY, "out of memory");
    if (err != NULL)
        moe_detail(err, "An allocation of %zu bytes failed.", size);
    return MOE_ERR_MEMORY;
}

/* data with room for at least `need` elements of `size` bytes, or NULL (data stays valid). */
static void *grow(void *data, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap)
        return data;
    size_t new_cap = *cap + *cap / 2, bytes;
    if (new_cap < need)
        new_cap = need;
    if (new_cap < 64)
        new_cap = 64;
    if (!moe_mul(new_cap, size, &bytes))
        return NULL;
    void *new_data = realloc(data, bytes);
    if (new_data != NULL)
        *cap = new_cap;
    return new_data;
}

bool moe_buf_add(moe_buf *buf, const void *data, size_t len)
{
    size_t need;
    if (!moe_add(buf->len, len, &need) || !moe_add(need, 1, &need))
        return false;
    char *grown = grow(buf->data, &buf->cap, need, 1);
    if (grown == NULL)
        return false;
    buf->data = grown;
    if (len > 0)
        memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    buf->data[buf->len] = '\0';
    return true;
}

bool moe_buf_add_str(moe_buf *buf, const char *s)
{
    return moe_buf_add(buf, s, strlen(s));
}

void moe_buf_free(moe_buf *buf)
{
    free(buf->data);
    *buf = (moe_buf){0};
}

bool moe_ids_add(moe_ids *ids, int32_t id)
{
    int32_t *grown = grow(ids->data, &ids->cap, ids->len + 1, sizeof(id));
    if (grown == NULL)
        return false;
    ids->data = grown;
    ids->data[ids->len++] = id;
    return true;
}

void moe_ids_free(moe_ids *ids)
{
    free(ids->data);
    *ids = (moe_ids){0};
}
