/*
 * Splits what a reasoning model wrote into its reasoning and its answer.
 *
 * Reasoning stands between <think> and </think> at the start of the text.  Many templates end the
 * prompt with <think>, so that the text starts inside it; others end it with a closed empty block
 * to switch reasoning off.  Nothing is copied: the parts are slices of the text.
 */
#define _GNU_SOURCE
#include "../moe.h"

#include <string.h>

static const char open_tag[] = "<think>", close_tag[] = "</think>";

enum { OPEN_LEN = sizeof open_tag - 1, CLOSE_LEN = sizeof close_tag - 1 };

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

bool moe_prompt_ends_in_think(const char *prompt, size_t len)
{
    while (len > 0 && is_blank(prompt[len - 1]))
        len--;
    return len >= OPEN_LEN && memcmp(prompt + len - OPEN_LEN, open_tag, OPEN_LEN) == 0;
}

void moe_split_reasoning(const char *text, size_t len, bool prompt_ends_in_think, moe_reply *reply)
{
    const char *at = text, *end = text + len;
    *reply = (moe_reply){.content = text, .content_len = len};
    while (at < end && is_blank(*at))
        at++;
    bool opened = (size_t)(end - at) >= OPEN_LEN && memcmp(at, open_tag, OPEN_LEN) == 0;
    if (!opened && !prompt_ends_in_think)
        return;
    at += opened ? OPEN_LEN : 0;
    const char *close = memmem(at, (size_t)(end - at), close_tag, CLOSE_LEN);
    const char *to = close != NULL ? close : end;
    reply->content = close != NULL ? close + CLOSE_LEN : end;
    while (reply->content < end && (*reply->content == '\n' || *reply->content == '\r'))
        reply->content++;
    reply->content_len = (size_t)(end - reply->content);
    while (at < to && is_blank(*at))
        at++;
    while (to > at && is_blank(to[-1]))
        to--;
    reply->reasoning = at;
    reply->reasoning_len = (size_t)(to - at);
}
