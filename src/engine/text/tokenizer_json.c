/*
 * Tokenizers of Hugging Face folders: the model and the added tokens of tokenizer.json, and what
 * tokenizer_config.json and its neighbours say about beginnings and ends.
 *
 * A byte-level BPE vocabulary is written in the byte alphabet; its tokens are kept as the bytes
 * they stand for.  A token with a character outside the alphabet can't come out of BPE and is kept
 * as it is.
 */
#include "tokenizer_internal.h"

#include <stdio.h>
#include <string.h>

#include "byte_alphabet.h"

#define MAX_WORD_CHARS 100 /* WordPiece's default */

static moe_status fail_broken(moe_error *err, const char *what)
{
    return moe_fail(err, MOE_ERR_FORMAT, "%s of tokenizer.json is broken", what);
}

static moe_status fail_model(moe_error *err, const char *what)
{
    moe_fail(err, MOE_ERR_UNSUPPORTED, "tokenizer.json has %s, which is not supported", what);
    moe_hint(err, "Byte-level BPE and WordPiece tokenizers are supported.");
    return MOE_ERR_UNSUPPORTED;
}

/* --- vocabulary ------------------------------------------------------------------------------- */

/* Takes a token's id into account; false if it is none. */
static bool count_id(const json_t *id, int64_t *n)
{
    json_int_t value = json_integer_value(id);
    if (!json_is_integer(id) || value < 0 || value > MOE_MAX_TOKEN_ID)
        return false;
    if (value >= *n)
        *n = value + 1;
    return true;
}

static moe_status size_vocabulary(const json_t *tokens, const json_t *added, int32_t *out,
                                  moe_error *err)
{
    const char *text;
    json_t *id;
    int64_t n = 0;
    json_object_foreach((json_t *)tokens, text, id) if (!count_id(id, &n)) return moe_fail(
        err, MOE_ERR_FORMAT, "token \"%s\" of tokenizer.json has no usable id", text);
    for (size_t i = 0; i < json_array_size(added); i++)
        if (!count_id(json_object_get(json_array_get(added, i), "id"), &n))
            return fail_broken(err, "an added token");
    *out = (int32_t)n;
    return MOE_OK;
}

/* Sets all tokens of model.vocab; byte_level: as the bytes they stand for. */
static moe_status read_vocabulary(const json_t *tokens, bool byte_level, moe_vocab *vocab,
                                  moe_error *err)
{
    const char *text;
    json_t *id;
    moe_buf bytes = {0};
    moe_status status = MOE_OK;
    json_object_foreach((json_t *)tokens, text, id)
    {
        bool whole = false;
        size_t len = strlen(text);
        bytes.len = 0;
        if (byte_level && !moe_alphabet_decode(text, len, &bytes, &whole)) {
            status = moe_fail_memory(err, len);
            break;
        }
        status = moe_vocab_set(vocab, (int32_t)json_integer_value(id), whole ? bytes.data : text,
                               whole ? bytes.len : len, MOE_TOKEN_NORMAL, err);
        if (status != MOE_OK)
            break;
    }
    moe_buf_free(&bytes);
    return status;
}

/* Adds the tokens of model.vocab to a table: all, or those that begin with `mark`. */
static void fill_map(const json_t *tokens, const moe_vocab *vocab, const char *mark,
                     moe_token_map *map)
{
    const char *text;
    json_t *id;
    size_t mark_len = strlen(mark), len;
    json_object_foreach((json_t *)tokens, text, id)
    {
        int32_t token = (int32_t)json_integer_value(id);
        const char *have = moe_vocab_text(vocab, token, &len);
        if (len > mark_len && memcmp(have, mark, mark_len) == 0)
            moe_token_map_add(map, token);
    }
}

/* --- byte-level BPE --------------------------------------------------------------------------- */

/* The two halves of a merge: ["a", "b"], or "a b". */
static bool merge_halves(const json_t *merge, const char **left, size_t *left_len,
                         const char **right, size_t *right_len)
{
    if (json_array_size(merge) == 2) {
        const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
        *left = json_string_value(a);
        *left_len = json_string_length(a);
        *right = json_string_value(b);
        *right_len = json_string_length(b);
        return *left != NULL && *right != NULL;
    }
    const char *space = json_is_string(merge) ? strchr(json_string_value(merge), ' ') : NULL;
    if (space == NULL)
        return false;
    *left = json_string_value(merge);
    *left_len = (size_t)(space - *left);
    *right = space + 1;
    *right_len = json_string_length(merge) - *left_len - 1;
    return true;
}

/* The ids of the halves and of the whole; -1 where the vocabulary has no such bytes. */
static bool find_merge_ids(const moe_token_map *words, const char *left, size_t left_len,
                           const char *right, size_t right_len, moe_buf *bytes, int32_t ids[3])
{
    bool whole_left, whole_right;
    bytes->len = 0;
    ids[0] = ids[1] = ids[2] = -1;
    if (!moe_alphabet_decode(left, left_len, bytes, &whole_left))
        return false;
    size_t middle = bytes->len;
    if (!moe_alphabet_decode(right, right_len, bytes, &whole_right))
        return false;
    if (!whole_left || !whole_right || middle == 0 || middle == bytes->len)
        return true;
    ids[0] = moe_token_map_find(words, bytes->data, middle);
    ids[1] = moe_token_map_find(words, bytes->data + middle, bytes->len - middle);
    ids[2] = moe_token_map_find(words, bytes->data, bytes->len);
    return true;
}

moe_status moe_tokenizer_add_merge(moe_bpe *bpe, size_t number, const char *left, size_t left_len,
                                   const char *right, size_t right_len, moe_buf *work,
                                   moe_error *err)
{
    int32_t ids[3];
    if (!find_merge_ids(&bpe->words, left, left_len, right, right_len, work, ids))
        return moe_fail_memory(err, left_len + right_len);
    if (ids[0] < 0 || ids[1] < 0 || ids[2] < 0)
        return moe_fail(err, MOE_ERR_FORMAT,
                        "merge %zu of the tokenizer names a token that is not in the vocabulary",
                        number);
    moe_bpe_add_merge(bpe, ids[0], ids[1], ids[2]);
    return MOE_OK;
}

static bool is_set(const json_t *model, const char *key)
{
    const json_t *value = json_object_get(model, key);
    return json_string_length(value) > 0 || json_is_true(value);
}

static moe_status read_bpe(const json_t *model, moe_tokenizer *tok, moe_error *err)
{
    const json_t *tokens = json_object_get(model, "vocab"),
                 *merges = json_object_get(model, "merges");
    if (is_set(model, "byte_fallback"))
        return fail_model(err, "a SentencePiece-style BPE model (byte_fallback)");
    if (!moe_pretokenizer_is_byte_level(&tok->pretokenizer))
        return fail_model(err, "a BPE model without ByteLevel pre-tokenizer");
    if (is_set(model, "continuing_subword_prefix") || is_set(model, "end_of_word_suffix"))
        return fail_model(err, "a BPE model with marked word parts");
    if (!json_is_array(merges))
        return fail_broken(err, "the list of merges");
    tok->model = MOE_TOKENIZER_BPE;
    moe_status status = read_vocabulary(tokens, true, &tok->vocab, err);
    if (status == MOE_OK)
        status = moe_bpe_init(&tok->bpe, &tok->vocab, json_array_size(merges), err);
    if (status != MOE_OK)
        return status;
    fill_map(tokens, &tok->vocab, "", &tok->bpe.words);
    moe_bpe_finish(&tok->bpe);
    tok->bpe.ignore_merges = is_set(model, "ignore_merges");
    const json_t *unknown =
        json_object_get(tokens, json_is_string(json_object_get(model, "unk_token"))
                                    ? json_string_value(json_object_get(model, "unk_token"))
                                    : "");
    if (unknown != NULL)
        tok->bpe.unknown = (int32_t)json_integer_value(unknown);
    moe_buf work = {0};
    for (size_t i = 0; status == MOE_OK && i < json_array_size(merges); i++) {
        const char *left, *right;
        size_t left_len, right_len;
        if (merge_halves(json_array_get(merges, i), &left, &left_len, &right, &right_len))
            status =
                moe_tokenizer_add_merge(&tok->bpe, i, left, left_len, right, right_len, &work, err);
        else
            status = fail_broken(err, "a merge");
    }
    moe_buf_free(&work);
    return status;
}

/* --- WordPiece -------------------------------------------------------------------------------- */

static moe_status read_wordpiece(const json_t *root, const json_t *model, moe_tokenizer *tok,
                                 moe_error *err)
{
    const json_t *tokens = json_object_get(model, "vocab");
    const json_t *prefix = json_object_get(model, "continuing_subword_prefix");
    const char *mark = json_is_string(prefix) ? json_string_value(prefix) : "##";
    const json_t *unk_token = json_object_get(model, "unk_token");
    const json_t *unknown =
        json_object_get(tokens, json_is_string(unk_token) ? json_string_value(unk_token) : "[UNK]");
    const json_t *max_chars = json_object_get(model, "max_input_chars_per_word");
    const json_t *cleanup = json_object_get(json_object_get(root, "decoder"), "cleanup");
    if (strlen(mark) >= sizeof(tok->part_mark))
        return fail_model(err, "a long continuing_subword_prefix");
    if (unknown == NULL)
        return fail_broken(err, "the unknown token");
    tok->model = MOE_TOKENIZER_WORDPIECE;
    strcpy(tok->part_mark, mark);
    tok->tidy_spaces = !json_is_false(cleanup);
    tok->wordpiece.unknown = (int32_t)json_integer_value(unknown);
    tok->wordpiece.max_chars = json_is_integer(max_chars) && json_integer_value(max_chars) >= 0
                                   ? (size_t)json_integer_value(max_chars)
                                   : MAX_WORD_CHARS;
    moe_status status = read_vocabulary(tokens, false, &tok->vocab, err);
    if (status == MOE_OK)
        status = moe_token_map_init(&tok->wordpiece.beginnings, &tok->vocab, 0, err);
    if (status == MOE_OK)
        status = moe_token_map_init(&tok->wordpiece.continuations, &tok->vocab, strlen(mark), err);
    if (status != MOE_OK)
        return status;
    fill_map(tokens, &tok->vocab, "", &tok->wordpiece.beginnings);
    fill_map(tokens, &tok->vocab, mark, &tok->wordpiece.continuations);
    return MOE_OK;
}

/* --- added tokens ----------------------------------------------------------------------------- */

/* Adds one token to the search in raw or in normalized text; there it is looked for as normalized.
 */
static moe_status add_token(moe_tokenizer *tok, const json_t *json, moe_error *err)
{
    const json_t *content = json_object_get(json, "content");
    if (!json_is_string(content))
        return fail_broken(err, "an added token");
    moe_added_token token = {
        .text = (char *)json_string_value(content),
        .len = json_string_length(content),
        .id = (int32_t)json_integer_value(json_object_get(json, "id")),
        .special = json_is_true(json_object_get(json, "special")),
        .single_word = json_is_true(json_object_get(json, "single_word")),
        .lstrip = json_is_true(json_object_get(json, "lstrip")),
        .rstrip = json_is_true(json_object_get(json, "rstrip")),
    };
    moe_status status = moe_vocab_set(&tok->vocab, token.id, token.text, token.len,
                                      token.special ? MOE_TOKEN_CONTROL : MOE_TOKEN_USER, err);
    if (status != MOE_OK || !json_is_true(json_object_get(json, "normalized")))
        return status == MOE_OK ? moe_added_tokens_add(&tok->raw, &token, err) : status;
    moe_buf normal = {0};
    status = moe_normalize(&tok->normalizer, token.text, token.len, &normal, err);
    token.text = normal.data;
    token.len = normal.len;
    if (status == MOE_OK)
        status = moe_added_tokens_add(&tok->normalized, &token, err);
    moe_buf_free(&normal);
    return status;
}

static moe_status add_tokens(moe_tokenizer *tok, const json_t *added, moe_error *err)
{
    moe_status status = MOE_OK;
    for (size_t i = 0; status == MOE_OK && i < json_array_size(added); i++)
        status = add_token(tok, json_array_get(added, i), err);
    moe_added_tokens_finish(&tok->raw);
    moe_added_tokens_finish(&tok->normalized);
    return status;
}

/* --- beginnings and ends ---------------------------------------------------------------------- */

/* The id of a token by its text as tokenizer.json has it, -1 if there is none. */
static int32_t id_of_text(const json_t *root, const char *text)
{
    const json_t *added = json_object_get(root, "added_tokens");
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *token = json_array_get(added, i);
        const char *content = json_string_value(json_object_get(token, "content"));
        if (content != NULL && strcmp(content, text) == 0)
            return (int32_t)json_integer_value(json_object_get(token, "id"));
    }
    const json_t *id =
        json_object_get(json_object_get(json_object_get(root, "model"), "vocab"), text);
    return id != NULL ? (int32_t)json_integer_value(id) : -1;
}

/* An id from generation_config.json, else config.json: an integer or the first of a list. */
static int32_t id_of_config(const moe_tokenizer_files *files, const char *key, int32_t n)
{
    const json_t *value = json_object_get(files->generation_config, key);
    if (value == NULL || json_is_null(value))
        value = json_object_get(files->config, key);
    if (json_is_array(value))
        value = json_array_get(value, 0);
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    return id >= 0 && id < n ? (int32_t)id : -1;
}

/* A special token: its text is a string or an object's "content" in tokenizer_config.json or
 * special_tokens_map.json, or its id is in one of the model's configs. */
static int32_t find_special(const moe_tokenizer_files *files, const char *key, const char *id_key,
                            int32_t n)
{
    const json_t *const sources[] = {files->tokenizer_config, files->special_tokens_map};
    for (int i = 0; i < 2; i++) {
        const json_t *value = json_object_get(sources[i], key);
        if (json_is_object(value))
            value = json_object_get(value, "content");
        int32_t id =
            json_is_string(value) ? id_of_text(files->tokenizer, json_string_value(value)) : -1;
        if (id >= 0)
            return id;
    }
    return id_of_config(files, id_key, n);
}

/* All ids of eos_token_id in one config. */
static moe_status add_ends(moe_tokenizer *tok, const json_t *config, moe_error *err)
{
    const json_t *ids = json_object_get(config, "eos_token_id");
    moe_status status = MOE_OK;
    if (json_is_integer(ids))
        return moe_tokenizer_add_end(tok, json_integer_value(ids), err);
    for (size_t i = 0; status == MOE_OK && i < json_array_size(ids); i++)
        if (json_is_integer(json_array_get(ids, i)))
            status = moe_tokenizer_add_end(tok, json_integer_value(json_array_get(ids, i)), err);
    return status;
}

/* What surrounds a text: the post-processor's template.  The Llama classes of transformers replace
 * it by BOS and EOS as their flags say (BOS by default); for others a set flag adds what the
 * template lacks. */
static moe_status read_surroundings(const moe_tokenizer_files *files, moe_tokenizer *tok,
                                    moe_error *err)
{
    const json_t *config = files->tokenizer_config;
    const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
    const json_t *add_bos = json_object_get(config, "add_bos_token");
    const json_t *add_eos = json_object_get(config, "add_eos_token");
    bool llama = class != NULL &&
                 (strcmp(class, "LlamaTokenizer") == 0 || strcmp(class, "LlamaTokenizerFast") == 0);
    bool bos = json_is_true(add_bos) || (llama && !json_is_false(add_bos));
    bool eos = json_is_true(add_eos), ok = true;
    moe_status status = MOE_OK;
    if (!llama)
        status = moe_json_post_processor(json_object_get(files->tokenizer, "post_processor"),
                                         &tok->vocab, &tok->prefix, &tok->suffix, err);
    if (status != MOE_OK)
        return status;
    if (bos && tok->bos >= 0 && tok->prefix.len == 0)
        ok = moe_ids_add(&tok->prefix, tok->bos);
    if (eos && tok->eos >= 0 && tok->suffix.len == 0)
        ok = ok && moe_ids_add(&tok->suffix, tok->eos);
    return ok ? MOE_OK : moe_fail_memory(err, sizeof(int32_t));
}

static moe_status read_special_tokens(const moe_tokenizer_files *files, moe_tokenizer *tok,
                                      moe_error *err)
{
    int32_t n = tok->vocab.n;
    moe_status status =
        moe_tokenizer_set_bos(tok, find_special(files, "bos_token", "bos_token_id", n), err);
    if (status == MOE_OK)
        status =
            moe_tokenizer_set_eos(tok, find_special(files, "eos_token", "eos_token_id", n), err);
    if (status == MOE_OK)
        status = moe_tokenizer_add_end(tok, tok->eos, err);
    if (status == MOE_OK)
        status = add_ends(tok, files->generation_config, err);
    if (status == MOE_OK)
        status = add_ends(tok, files->config, err);
    if (status == MOE_OK)
        status = moe_tokenizer_add_usual_ends(tok, err);
    return status == MOE_OK ? read_surroundings(files, tok, err) : status;
}

/* --- the whole -------------------------------------------------------------------------------- */

static moe_status read_model(const json_t *root, const char *type, moe_tokenizer *tok,
                             moe_error *err)
{
    const json_t *model = json_object_get(root, "model");
    const json_t *tokens = json_object_get(model, "vocab");
    if (type == NULL) /* old files */
        type = json_object_get(model, "merges") != NULL ? "BPE" : "WordPiece";
    bool bpe = strcmp(type, "BPE") == 0;
    if (!bpe && strcmp(type, "WordPiece") != 0) {
        char what[64];
        snprintf(what, sizeof(what), "a model of type \"%.30s\"", type);
        return fail_model(err, what);
    }
    if (!json_is_object(tokens))
        return fail_broken(err, "the vocabulary");
    int32_t n = 0;
    moe_status status = size_vocabulary(tokens, json_object_get(root, "added_tokens"), &n, err);
    if (status == MOE_OK)
        status = moe_vocab_init(&tok->vocab, n, err);
    if (status == MOE_OK)
        status = moe_json_normalizer(json_object_get(root, "normalizer"), &tok->normalizer, err);
    if (status == MOE_OK)
        status =
            moe_json_pretokenizer(json_object_get(root, "pre_tokenizer"), &tok->pretokenizer, err);
    if (status != MOE_OK)
        return status;
    return bpe ? read_bpe(model, tok, err) : read_wordpiece(root, model, tok, err);
}

moe_status moe_tokenizer_read_json(const moe_tokenizer_files *files, moe_tokenizer *tok,
                                   moe_error *err)
{
    const json_t *root = files->tokenizer;
    if (root == NULL) {
        moe_fail(err, MOE_ERR_NOT_FOUND, "the model's folder has no tokenizer.json");
        moe_hint(err,
                 "Save the tokenizer with AutoTokenizer.save_pretrained(), or use a GGUF file.");
        return MOE_ERR_NOT_FOUND;
    }
    const json_t *length = json_object_get(json_object_get(root, "truncation"), "max_length");
    if (json_is_integer(length) && json_integer_value(length) > 0 &&
        json_integer_value(length) <= INT32_MAX)
        tok->max_length = (int)json_integer_value(length);
    const json_t *type = json_object_get(json_object_get(root, "model"), "type");
    moe_status status = read_model(root, json_string_value(type), tok, err);
    if (status == MOE_OK)
        status = add_tokens(tok, json_object_get(root, "added_tokens"), err);
    return status == MOE_OK ? read_special_tokens(files, tok, err) : status;
}
