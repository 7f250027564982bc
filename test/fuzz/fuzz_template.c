/*
 * libFuzzer target over chat templates and the split of reasoning: any text as a template gives a
 * text or an error that says something, and a failure leaves the output as it was.
 *
 * The input is a template and, behind a zero byte, a JSON object of variables; what is no object is
 * replaced by a short conversation.
 *
 * Build: clang -g -O1 -fsanitize=fuzzer,address,undefined test/fuzz/fuzz_template.c
 * src/engine/text/{chat_template,reply,jinja_*}.c src/engine/support.c -ljansson -lutf8proc -lm.
 * Run with -timeout=60: a rendering may take its whole budget of steps.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/engine/text/chat_template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conversation[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be kind.\"},"
    " {\"role\": \"user\", \"content\": \"Gr\\u00fc\\u00dfe \\ud83d\\ude00\\n\"},"
    " {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"function\":"
    " {\"name\": \"f\", \"arguments\": {\"x\": 1, \"y\": [1.5, true, null]}}}]}],"
    " \"tools\": [{\"function\": {\"name\": \"f\", \"parameters\": {\"type\": \"object\"}}}],"
    " \"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"n\": 3, \"x\": 2.5}";

static void split(const char *text, size_t len)
{
    moe_reply reply;
    moe_split_reasoning(text, len, moe_prompt_ends_in_think(text, len), &reply);
    if (reply.content < text || reply.content + reply.content_len > text + len)
        abort();
    if (reply.reasoning != NULL &&
        (reply.reasoning < text || reply.reasoning + reply.reasoning_len > reply.content))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *source = malloc(size + 1);
    moe_buf out = {0};
    moe_error err = {0};
    if (source == NULL)
        return 0;
    memcpy(source, data, size);
    source[size] = '\0';
    split(source, size);
    size_t len = strlen(source);
    json_t *vars = len < size ? json_loadb(source + len + 1, size - len - 1, 0, NULL) : NULL;
    if (!json_is_object(vars)) {
        json_decref(vars);
        vars = json_loads(conversation, 0, NULL);
    }
    if (moe_template_render(source, vars, 1741944413, NULL, &out, &err) == MOE_OK) {
        if (out.len > 0 && (out.data[out.len] != '\0' || moe_utf8_complete(out.data, out.len) == 0))
            abort();
    } else if (err.message[0] == '\0' || out.len != 0) {
        abort();
    }
    moe_buf_free(&out);
    json_decref(vars);
    free(source);
    return 0;
}
