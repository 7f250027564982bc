/*
 * Running a tokenizer: encode, decode and what it knows about its special tokens.
 */
#include "tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* --- life ------------------------------------------------------------------------------------- */

/* Hands a tokenizer over, or frees it and hands over NULL. */
static moe_status finish(moe_tokenizer *tok, moe_status status, moe_tokenizer **out)
{
    if (status != MOE_OK) {
        moe_tokenizer_free(tok);
        tok = NULL;
    }
    *out = tok;
    return status;
}

static moe_tokenizer *new_tokenizer(void)
{
    moe_tokenizer *tok = calloc(1, sizeof(*tok));
    if (tok != NULL) {
        tok->bos = -1;
        tok->eos = -1;
    }
    return tok;
}

moe_status moe_tokenizer_from_json(const moe_tokenizer_files *files, moe_tokenizer **out,
                                   moe_error *err)
{
    moe_tokenizer *tok = *out = new_tokenizer();
    if (tok == NULL)
        return moe_fail_memory(err, sizeof(*tok));
    return finish(tok, moe_tokenizer_read_json(files, tok, err), out);
}

moe_status moe_tokenizer_create(const moe_file *file, moe_tokenizer **out, moe_error *err)
{
    if (moe_file_format_of(file) == MOE_FILE_HF) {
        const moe_tokenizer_files files = {
            .tokenizer = moe_file_json(file, "tokenizer.json"),
            .tokenizer_config = moe_file_json(file, "tokenizer_config.json"),
            .special_tokens_map = moe_file_json(file, "special_tokens_map.json"),
            .generation_config = moe_file_json(file, "generation_config.json"),
            .config = moe_file_json(file, "config.json"),
        };
        return moe_tokenizer_from_json(&files, out, err);
    }
    moe_tokenizer *tok = *out = new_tokenizer();
    if (tok == NULL)
        return moe_fail_memory(err, sizeof(*tok));
    return finish(tok, moe_tokenizer_read_gguf(file, tok, err), out);
}

void moe_tokenizer_free(moe_tokenizer *tok)
{
    if (tok == NULL)
        return;
    moe_vocab_free(&tok->vocab);
    moe_added_tokens_free(&tok->raw);
    moe_added_tokens_free(&tok->normalized);
    moe_normalizer_free(&tok->normalizer);
    moe_pretokenizer_free(&tok->pretokenizer);
    moe_bpe_free(&tok->bpe);
    moe_wordpiece_free(&tok->wordpiece);
    moe_ids_free(&tok->prefix);
    moe_ids_free(&tok->suffix);
    moe_ids_free(&tok->ends);
    free(tok->bos_text);
    free(tok->eos_text);
    free(tok);
}

/* --- special tokens --------------------------------------------------------------------------- */

static moe_status set_special(const moe_tokenizer *tok, int32_t id, int32_t *slot, char **text,
                              moe_error *err)
{
    size_t len = 0;
    const char *s = id < 0 ? "" : moe_vocab_text(&tok->vocab, id, &len);
    char *copy = malloc(len + 1);
    if (copy == NULL)
        return moe_fail_memory(err, len + 1);
    memcpy(copy, s, len);
    copy[len] = '\0';
    free(*text);
    *text = copy;
    *slot = id;
    return MOE_OK;
}

moe_status moe_tokenizer_set_bos(moe_tokenizer *tok, int32_t id, moe_error *err)
{
    return set_special(tok, id, &tok->bos, &tok->bos_text, err);
}

moe_status moe_tokenizer_set_eos(moe_tokenizer *tok, int32_t id, moe_error *err)
{
    return set_special(tok, id, &tok->eos, &tok->eos_text, err);
}

moe_status moe_tokenizer_add_end(moe_tokenizer *tok, int64_t id, moe_error *err)
{
    if (id < 0 || id >= tok->vocab.n || moe_tokenizer_is_end(tok, (int32_t)id))
        return MOE_OK;
    return moe_ids_add(&tok->ends, (int32_t)id) ? MOE_OK : moe_fail_memory(err, sizeof(int32_t));
}

static bool token_is(const moe_vocab *vocab, int32_t id, const char *text)
{
    size_t len;
    const char *have = moe_vocab_text(vocab, id, &len);
    return len == strlen(text) && memcmp(have, text, len) == 0;
}

moe_status moe_tokenizer_add_usual_ends(moe_tokenizer *tok, moe_error *err)
{
    static const char *const texts[] = {
        "<|im_end|>",    "<|eot_id|>",    "<|end_of_text|>", "<｜end▁of▁sentence｜>",
        "<|endoftext|>", "<end_of_turn>", "<|return|>",
    };
    int32_t message_end = -1;
    bool harmony = false;
    moe_status status = MOE_OK;
    for (int32_t id = 0; status == MOE_OK && id < tok->vocab.n; id++) {
        if (tok->vocab.entries[id].kind != MOE_TOKEN_CONTROL)
            continue;
        for (size_t i = 0; status == MOE_OK && i < sizeof(texts) / sizeof(*texts); i++)
            if (token_is(&tok->vocab, id, texts[i]))
                status = moe_tokenizer_add_end(tok, id, err);
        if (token_is(&tok->vocab, id, "<|end|>"))
            message_end = id;
        harmony = harmony || token_is(&tok->vocab, id, "<|return|>");
    }
    /* Where a turn ends in <|return|>, <|end|> only closes one of its messages. */
    return status == MOE_OK && !harmony ? moe_tokenizer_add_end(tok, message_end, err) : status;
}

int32_t moe_tokenizer_size(const moe_tokenizer *tok)
{
    return tok->vocab.n;
}

int32_t moe_tokenizer_bos(const moe_tokenizer *tok)
{
    return tok->bos;
}

int32_t moe_tokenizer_eos(const moe_tokenizer *tok)
{
    return tok->eos;
}

const char *moe_tokenizer_bos_text(const moe_tokenizer *tok)
{
    return tok->bos_text != NULL ? tok->bos_text : "";
}

const char *moe_tokenizer_eos_text(const moe_tokenizer *tok)
{
    return tok->eos_text != NULL ? tok->eos_text : "";
}

bool moe_tokenizer_is_end(const moe_tokenizer *tok, int32_t id)
{
    for (size_t i = 0; i < tok->ends.len; i++)
        if (tok->ends.data[i] == id)
            return true;
    return false;
}

bool moe_tokenizer_is_special(const moe_tokenizer *tok, int32_t id)
{
    return id >= 0 && id < tok->vocab.n && tok->vocab.entries[id].kind == MOE_TOKEN_CONTROL;
}

int moe_tokenizer_max_length(const moe_tokenizer *tok)
{
    return tok->max_length;
}

/* --- encode ----------------------------------------------------------------------------------- */

typedef struct encode_call {
    const moe_tokenizer *tok;
    bool parse_special;
    moe_ids *ids;
    moe_buf normal; /* normalized text */
    moe_error *err;
} encode_call;

static moe_status encode_piece(void *ud, const char *piece, size_t len, moe_error *err)
{
    encode_call *call = ud;
    return call->tok->model == MOE_TOKENIZER_BPE
               ? moe_bpe_encode(&call->tok->bpe, piece, len, call->ids, err)
               : moe_wordpiece_encode(&call->tok->wordpiece, piece, len, call->ids, err);
}

static moe_status encode_pieces(encode_call *call, const char *s, size_t len)
{
    return moe_pretokenize(&call->tok->pretokenizer, s, len, encode_piece, call, call->err);
}

/* Encodes s[0..len), with the added tokens in it as their ids and what lies between by `rest`. */
static moe_status encode_between(encode_call *call, const moe_added_tokens *added, const char *s,
                                 size_t len,
                                 moe_status (*rest)(encode_call *call, const char *s, size_t len))
{
    for (size_t done = 0; done < len;) {
        size_t start, end;
        const moe_added_token *token =
            moe_added_tokens_find(added, s, len, done, call->parse_special, &start, &end);
        size_t stop = token != NULL ? start : len;
        moe_status status = stop > done ? rest(call, s + done, stop - done) : MOE_OK;
        if (status != MOE_OK || token == NULL)
            return status;
        if (!moe_ids_add(call->ids, token->id))
            return moe_fail_memory(call->err, sizeof(token->id));
        done = end;
    }
    return MOE_OK;
}

static moe_status encode_normal(encode_call *call, const char *s, size_t len)
{
    const moe_tokenizer *tok = call->tok;
    if (tok->normalizer.n > 0) {
        moe_status status = moe_normalize(&tok->normalizer, s, len, &call->normal, call->err);
        if (status != MOE_OK)
            return status;
        s = call->normal.data;
        len = call->normal.len;
    }
    return encode_between(call, &tok->normalized, s, len, encode_pieces);
}

moe_status moe_tokenizer_encode(const moe_tokenizer *tok, const char *text, size_t len,
                                unsigned flags, moe_ids *ids, moe_error *err)
{
    if (!moe_utf8_is_valid(text, len))
        return moe_fail(err, MOE_ERR_INVALID, "the text is not valid UTF-8");
    if (tok->model == MOE_TOKENIZER_NONE && len > 0)
        return moe_fail(err, MOE_ERR_UNSUPPORTED, "the model has no tokenizer for text");
    encode_call call = {
        .tok = tok, .parse_special = (flags & MOE_TEXT_PARSE_SPECIAL) != 0, .ids = ids, .err = err};
    size_t before = ids->len;
    bool add = (flags & MOE_TEXT_ADD_SPECIAL) != 0, ok = true;
    for (size_t i = 0; ok && add && i < tok->prefix.len; i++)
        ok = moe_ids_add(ids, tok->prefix.data[i]);
    moe_status status = ok ? encode_between(&call, &tok->raw, text, len, encode_normal) : MOE_OK;
    for (size_t i = 0; ok && add && status == MOE_OK && i < tok->suffix.len; i++)
        ok = moe_ids_add(ids, tok->suffix.data[i]);
    if (!ok)
        status = moe_fail_memory(err, sizeof(int32_t));
    if (status != MOE_OK)
        ids->len = before;
    moe_buf_free(&call.normal);
    return status;
}

/* --- decode ----------------------------------------------------------------------------------- */

/* The text of a token as it is shown; *begins_word: a WordPiece token that is no continuation.
 * len 0 for what is not shown. */
static moe_status shown_text(const moe_tokenizer *tok, int32_t id, unsigned flags,
                             const char **text, size_t *len, bool *begins_word, moe_error *err)
{
    if (id < 0 || id >= tok->vocab.n) {
        moe_fail(err, MOE_ERR_INVALID, "token id %d is not in the vocabulary of %d tokens",
                 (int)id, (int)tok->vocab.n);
        return moe_hint(err, "moe.tokenize() gives the ids of a text for a model.");
    }
    moe_token_kind kind = tok->vocab.entries[id].kind;
    *text = moe_vocab_text(&tok->vocab, id, len);
    *begins_word = true;
    if (kind == MOE_TOKEN_CONTROL && (flags & MOE_TEXT_SHOW_SPECIAL) == 0) {
        *len = 0;
    } else if (tok->model == MOE_TOKENIZER_WORDPIECE && kind == MOE_TOKEN_NORMAL) {
        size_t mark_len = strlen(tok->part_mark);
        bool marked = *len > mark_len && memcmp(*text, tok->part_mark, mark_len) == 0;
        *begins_word = marked == tok->mark_begins_word;
        *text += marked ? mark_len : 0;
        *len -= marked ? mark_len : 0;
    }
    return MOE_OK;
}

moe_status moe_tokenizer_piece(const moe_tokenizer *tok, int32_t id, unsigned flags, moe_buf *out,
                               moe_error *err)
{
    const char *text;
    size_t len;
    bool begins_word;
    moe_status status = shown_text(tok, id, flags, &text, &len, &begins_word, err);
    if (status != MOE_OK)
        return status;
    return moe_buf_add(out, text, len) ? MOE_OK : moe_fail_memory(err, len);
}

/* Whether a word stands close to the one before it, as WordPiece decoders have it. */
static bool stands_close(const char *s, size_t len)
{
    static const char *const starts[] = {".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"};
    for (size_t i = 0; i < sizeof(starts) / sizeof(*starts); i++)
        if (len >= strlen(starts[i]) && memcmp(s, starts[i], strlen(starts[i])) == 0)
            return true;
    return false;
}

moe_status moe_tokenizer_decode(const moe_tokenizer *tok, const int32_t *ids, size_t n,
                                unsigned flags, moe_buf *out, moe_error *err)
{
    moe_buf bytes = {0};
    moe_status status = MOE_OK;
    bool ok = moe_buf_add(&bytes, "", 0);
    for (size_t i = 0; ok && i < n; i++) {
        const char *text;
        size_t len;
        bool begins_word;
        status = shown_text(tok, ids[i], flags, &text, &len, &begins_word, err);
        if (status != MOE_OK)
            break;
        if (tok->model == MOE_TOKENIZER_WORDPIECE && begins_word && len > 0 && bytes.len > 0 &&
            !(tok->tidy_spaces && stands_close(text, len)))
            ok = moe_buf_add(&bytes, " ", 1);
        ok = ok && moe_buf_add(&bytes, text, len);
    }
    size_t before = out->len;
    if (status == MOE_OK) {
        ok = ok && moe_utf8_add_repaired(out, bytes.data, bytes.len);
        if (!ok) {
            out->len = before;
            status = moe_fail_memory(err, bytes.len);
        }
    }
    moe_buf_free(&bytes);
    return status;
}
