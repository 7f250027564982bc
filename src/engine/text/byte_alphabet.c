/*
 * The byte-to-unicode alphabet in closed form: the bytes that stand for themselves are 33..126,
 * 161..172 and 174..255; the rest, 0..32, 127..160 and 173, are numbered from U+0100 on.
 */
#include "byte_alphabet.h"

#include "unicode.h"

int32_t moe_alphabet_char(unsigned char byte)
{
    if (byte <= 32)
        return 256 + byte;
    if (byte >= 127 && byte <= 160)
        return 256 + 33 + (byte - 127);
    return byte == 173 ? 256 + 67 : byte;
}

int moe_alphabet_byte(int32_t cp)
{
    if (cp < 256)
        return moe_alphabet_char((unsigned char)cp) == cp ? cp : -1;
    int32_t n = cp - 256;
    return n <= 32 ? n : n <= 66 ? n - 33 + 127 : n == 67 ? 173 : -1;
}

bool moe_alphabet_decode(const char *s, size_t len, moe_buf *out, bool *whole)
{
    size_t before = out->len, n = 0;
    char bytes[64];
    *whole = true;
    for (size_t i = 0; i < len;) {
        int32_t cp;
        i += moe_utf8_get(s + i, &cp);
        int byte = moe_alphabet_byte(cp);
        if (byte < 0) {
            out->len = before;
            *whole = false;
            return true;
        }
        bytes[n++] = (char)byte;
        if (n == sizeof(bytes)) {
            if (!moe_buf_add(out, bytes, n))
                return false;
            n = 0;
        }
    }
    return moe_buf_add(out, bytes, n);
}

bool moe_alphabet_encode(const char *bytes, size_t len, moe_buf *out)
{
    for (size_t i = 0; i < len; i++) {
        char text[4];
        if (!moe_buf_add(out, text, moe_utf8_put(moe_alphabet_char((unsigned char)bytes[i]), text)))
            return false;
    }
    return true;
}
