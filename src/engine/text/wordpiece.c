/*
 * WordPiece (Wu et al. 2016, as in BERT): greedy, longest match first.  A word with a place where
 * no part fits is one unknown token.  The two kinds of parts, marked in the files by "##" or by
 * "▁", are two tables here, so that lookups are substrings of the word.
 */
#include "wordpiece.h"

#include "unicode.h"

void moe_wordpiece_free(moe_wordpiece *wordpiece)
{
    moe_token_map_free(&wordpiece->beginnings);
    moe_token_map_free(&wordpiece->continuations);
}

static bool has_more_chars(const char *s, size_t len, size_t limit)
{
    size_t n = 0;
    for (size_t i = 0; i < len && n <= limit; i++)
        n += !moe_utf8_is_continuation(s[i]);
    return n > limit;
}

/* The longest known part that word[start..len) begins with, -1 if there is none; *end is where it
 * ends. */
static int32_t longest_part(const moe_wordpiece *wordpiece, const char *word, size_t start,
                            size_t len, size_t *end)
{
    const moe_token_map *map = start == 0 ? &wordpiece->beginnings : &wordpiece->continuations;
    size_t stop = len - start > map->longest ? start + map->longest : len;
    for (; stop > start; stop--) {
        if (stop < len && moe_utf8_is_continuation(word[stop]))
            continue;
        int32_t id = moe_token_map_find(map, word + start, stop - start);
        if (id >= 0) {
            *end = stop;
            return id;
        }
    }
    return -1;
}

moe_status moe_wordpiece_encode(const moe_wordpiece *wordpiece, const char *word, size_t len,
                                moe_ids *ids, moe_error *err)
{
    size_t before = ids->len;
    bool whole = !has_more_chars(word, len, wordpiece->max_chars);
    for (size_t start = 0; whole && start < len;) {
        int32_t id = longest_part(wordpiece, word, start, len, &start);
        whole = id >= 0;
        if (whole && !moe_ids_add(ids, id))
            return moe_fail_memory(err, sizeof(id));
    }
    if (whole)
        return MOE_OK;
    ids->len = before;
    return moe_ids_add(ids, wordpiece->unknown) ? MOE_OK : moe_fail_memory(err, sizeof(int32_t));
}
