/*
 * Finding added tokens.  The tokens are a sorted array; at a place in the text the candidates are a
 * range of it that shrinks by one byte of text at a time, and the longest token is the last one
 * that was complete.  The first byte's range is a table, so places where no token begins cost one
 * look-up.
 */
#include "added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "unicode.h"

moe_status moe_added_tokens_add(moe_added_tokens *added, const moe_added_token *token,
                                moe_error *err)
{
    if (token->len == 0)
        return MOE_OK;
    if (added->n == added->cap) {
        size_t cap = added->cap * 2 + 16;
        moe_added_token *tokens = realloc(added->tokens, cap * sizeof(*tokens));
        if (tokens == NULL)
            return moe_fail_memory(err, cap * sizeof(*tokens));
        added->tokens = tokens;
        added->cap = cap;
    }
    char *text = malloc(token->len);
    if (text == NULL)
        return moe_fail_memory(err, token->len);
    memcpy(text, token->text, token->len);
    added->tokens[added->n] = *token;
    added->tokens[added->n++].text = text;
    return MOE_OK;
}

/* By text; of equal texts the one with the smaller id comes first. */
static int compare_tokens(const void *a, const void *b)
{
    const moe_added_token *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->len < y->len ? x->len : y->len);
    if (order == 0)
        order = (x->len > y->len) - (x->len < y->len);
    return order != 0 ? order : (x->id > y->id) - (x->id < y->id);
}

void moe_added_tokens_finish(moe_added_tokens *added)
{
    size_t n = 0;
    if (added->n > 0)
        qsort(added->tokens, added->n, sizeof(*added->tokens), compare_tokens);
    for (size_t i = 0; i < added->n; i++) {
        moe_added_token *token = &added->tokens[i];
        if (n > 0 && added->tokens[n - 1].len == token->len &&
            memcmp(added->tokens[n - 1].text, token->text, token->len) == 0)
            free(token->text);
        else
            added->tokens[n++] = *token;
    }
    added->n = n;
    size_t i = 0;
    for (size_t byte = 0; byte <= 256; byte++) {
        while (i < n && (unsigned char)added->tokens[i].text[0] < byte)
            i++;
        added->first[byte] = i;
    }
}

void moe_added_tokens_free(moe_added_tokens *added)
{
    for (size_t i = 0; i < added->n; i++)
        free(added->tokens[i].text);
    free(added->tokens);
}

/* Of tokens[low..high), which agree in their first `at` bytes, the first whose byte `at` is not
 * below `byte`; a token that ends there is below everything. */
static size_t lower_bound(const moe_added_token *tokens, size_t low, size_t high, size_t at,
                          int byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (tokens[middle].len <= at || (unsigned char)tokens[middle].text[at] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token that s[0..len), len > 0, begins with. */
static const moe_added_token *longest_at(const moe_added_tokens *added, const char *s, size_t len)
{
    const moe_added_token *best = NULL;
    int byte = (unsigned char)s[0];
    size_t low = added->first[byte], high = added->first[byte + 1];
    for (size_t at = 1; low < high; at++) {
        if (added->tokens[low].len == at)
            best = &added->tokens[low];
        if (at == len)
            break;
        byte = (unsigned char)s[at];
        low = lower_bound(added->tokens, low, high, at, byte);
        high = lower_bound(added->tokens, low, high, at, byte + 1);
    }
    return best;
}

/* Whether a word character touches s[start..end) from outside. */
static bool touches_word(const char *s, size_t len, size_t start, size_t end)
{
    int32_t cp;
    if (start > 0) {
        moe_utf8_get_last(s, start, &cp);
        if (moe_char_is_word(cp))
            return true;
    }
    if (end == len)
        return false;
    moe_utf8_get(s + end, &cp);
    return moe_char_is_word(cp);
}

const moe_added_token *moe_added_tokens_find(const moe_added_tokens *added, const char *s,
                                             size_t len, size_t from, bool parse_special,
                                             size_t *start, size_t *end)
{
    for (size_t i = from; added->n > 0 && i < len;) {
        int byte = (unsigned char)s[i];
        const moe_added_token *token = NULL;
        if (added->first[byte] < added->first[byte + 1])
            token = longest_at(added, s + i, len - i);
        if (token == NULL) {
            i++;
            continue;
        }
        *start = i;
        *end = i + token->len;
        i = *end;
        if ((token->special && !parse_special) ||
            (token->single_word && touches_word(s, len, *start, *end)))
            continue;
        int32_t cp;
        size_t n;
        while (token->lstrip && *start > from && (n = moe_utf8_get_last(s, *start, &cp)) > 0 &&
               moe_char_is_space(cp))
            *start -= n;
        while (token->rstrip && *end < len && (n = moe_utf8_get(s + *end, &cp)) > 0 &&
               moe_char_is_space(cp))
            *end += n;
        return token;
    }
    return NULL;
}
