/*
 * libFuzzer target over tokenizers.  The input is two texts with a 0xFF byte between them: a
 * tokenizer.json, or an empty text for the small tokenizers of test/data, and a text to encode. Any
 * tokenizer.json must give a tokenizer or an error; any text must be encoded or refused, its ids
 * must decode, and byte-level BPE without normalizer must give the text back.
 *
 * Build: clang -g -O1 -fsanitize=fuzzer,address,undefined, with the engine's text and file layers,
 * -ljansson -lpcre2-8 -lutf8proc -lcrypto.  Seeds: test/data/tokenizer.  Run in the project's
 * folder.
 */
#include <stdlib.h>
#include <string.h>

#include "../../src/engine/text/tokenizer_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void encode_and_decode(const moe_tokenizer *tok, const char *text, size_t len, bool exact)
{
    for (unsigned flags = 0; flags < 4; flags++) {
        moe_ids ids = {0};
        moe_buf out = {0};
        moe_error err = {0};
        moe_status status = moe_tokenizer_encode(tok, text, len, flags, &ids, &err);
        if (status != MOE_OK && (err.message[0] == '\0' || ids.len != 0))
            abort();
        if (status == MOE_OK &&
            moe_tokenizer_decode(tok, ids.data, ids.len, flags * 2, &out, &err) != MOE_OK)
            abort();
        if (status == MOE_OK && exact && flags == 0 &&
            (out.len != len || memcmp(out.data, text, len) != 0))
            abort();
        if (status == MOE_OK && !moe_utf8_is_valid(out.data, out.len))
            abort();
        moe_ids_free(&ids);
        moe_buf_free(&out);
    }
}

static moe_tokenizer *load(const char *path)
{
    json_error_t e;
    json_t *json = json_load_file(path, 0, &e);
    moe_tokenizer_files files = {.tokenizer = json};
    moe_tokenizer *tok;
    if (json == NULL || moe_tokenizer_from_json(&files, &tok, NULL) != MOE_OK)
        abort();
    json_decref(json);
    return tok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static moe_tokenizer *bpe, *wordpiece; /* kept from run to run */
    if (bpe == NULL) {
        bpe = load("test/data/tokenizer/bpe.json");
        wordpiece = load("test/data/tokenizer/wordpiece.json");
    }
    const uint8_t *middle = size > 0 ? memchr(data, 0xFF, size) : NULL;
    if (middle == NULL)
        return 0;
    const char *text = (const char *)middle + 1;
    size_t len = size - (size_t)(middle + 1 - data);
    if (middle == data) {
        encode_and_decode(bpe, text, len, true);
        encode_and_decode(wordpiece, text, len, false);
        return 0;
    }
    json_error_t e;
    json_t *json = json_loadb((const char *)data, (size_t)(middle - data), JSON_ALLOW_NUL, &e);
    if (json == NULL)
        return 0;
    moe_tokenizer_files files = {.tokenizer = json, .tokenizer_config = json, .config = json};
    moe_tokenizer *tok;
    moe_error err = {0};
    moe_status status = moe_tokenizer_from_json(&files, &tok, &err);
    if (status != MOE_OK && (tok != NULL || err.status != status || err.message[0] == '\0'))
        abort();
    if (status == MOE_OK)
        encode_and_decode(tok, text, len, false);
    moe_tokenizer_free(tok);
    json_decref(json);
    return 0;
}
