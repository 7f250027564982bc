/*
 * Small things every part of the engine needs: filling an error, growing buffers, overflow-safe
 * sizes.  Nothing here keeps state.
 */
#ifndef MOE_SUPPORT_H
#define MOE_SUPPORT_H

#include "moe.h"

/* Fills *err (may be NULL) with a printf-style message, empties detail and hint, returns status. */
moe_status moe_fail(moe_error *err, moe_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Adds a hint or a detail (printf-style) to a filled error; returns err->status. */
moe_status moe_hint(moe_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
moe_status moe_detail(moe_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* moe_fail with MOE_ERR_MEMORY for a failed allocation of `size` bytes. */
moe_status moe_fail_memory(moe_error *err, size_t size);

/* A growing byte buffer; data is always zero-terminated once something was added.
 * The add functions return false when memory is short and leave the buffer as it was. */
typedef struct moe_buf {
    char *data;
    size_t len, cap;
} moe_buf;
bool moe_buf_add(moe_buf *buf, const void *data, size_t len);
bool moe_buf_add_str(moe_buf *buf, const char *s);
void moe_buf_free(moe_buf *buf);

/* A growing array of token ids. */
typedef struct moe_ids {
    int32_t *data;
    size_t len, cap;
} moe_ids;
bool moe_ids_add(moe_ids *ids, int32_t id);
void moe_ids_free(moe_ids *ids);

/* true and *out = a * b, or false on overflow. */
static inline bool moe_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool moe_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

static inline bool moe_cancelled(const moe_cancel *cancel)
{
    return cancel != NULL && cancel->requested != NULL && cancel->requested(cancel->ud);
}

/* Bytes of the longest prefix of s[0..len) that ends at a character boundary of valid UTF-8;
 * invalid bytes count as characters of their own. */
size_t moe_utf8_complete(const char *s, size_t len);

#endif
