/*
 * The byte-to-unicode alphabet of GPT-2: every byte written as a visible character, so that byte
 * strings can be vocabulary entries of a text file.  Printable Latin-1 stands for itself, the other
 * 68 bytes are U+0100 and the characters after it, in order.
 */
#ifndef MOE_BYTE_ALPHABET_H
#define MOE_BYTE_ALPHABET_H

#include "../support.h"

/* The character of a byte. */
int32_t moe_alphabet_char(unsigned char byte);

/* The byte of a character, -1 if the alphabet does not have it. */
int moe_alphabet_byte(int32_t cp);

/* Appends the bytes that s[0..len), valid UTF-8, stands for.  *whole = false, with *out as it was,
 * if a character is not of the alphabet.  Returns false if memory is short. */
bool moe_alphabet_decode(const char *s, size_t len, moe_buf *out, bool *whole);

/* Appends the text that stands for the bytes.  Returns false if memory is short. */
bool moe_alphabet_encode(const char *bytes, size_t len, moe_buf *out);

#endif
