/*
 * Tokenizers of GGUF files: the keys tokenizer.ggml.*.
 *
 * Normal tokens of a byte-level BPE are in the byte alphabet, control and user-defined ones are
 * literal text.  WordPiece vocabularies mark the parts that begin a word with "▁", those that go on
 * with one not at all.
 */
#include "tokenizer_internal.h"

#include <string.h>

#include "byte_alphabet.h"

#define MAX_WORD_CHARS 100 /* as in BERT's own tokenizer; the format has no key for it */
#define BEGINNING_MARK "\xE2\x96\x81"

/* tokenizer.ggml.token_type */
enum { TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4, TYPE_UNUSED = 5 };

static moe_token_kind kind_of_type(int64_t type)
{
    return type == TYPE_CONTROL || type == TYPE_UNKNOWN ? MOE_TOKEN_CONTROL
           : type == TYPE_USER_DEFINED                  ? MOE_TOKEN_USER
           : type == TYPE_UNUSED                        ? MOE_TOKEN_UNUSED
                                                        : MOE_TOKEN_NORMAL;
}

/* An id from the metadata, -1 if it is absent or no token's. */
static int32_t id_of(const moe_file *file, const char *key, int32_t n)
{
    int64_t id = moe_file_meta_int(file, key, -1);
    return id >= 0 && id < n ? (int32_t)id : -1;
}

/* Sets all tokens; byte_level: normal ones as the bytes they stand for. */
static moe_status read_tokens(const moe_meta *tokens, const moe_meta *types, bool byte_level,
                              moe_vocab *vocab, moe_error *err)
{
    moe_buf bytes = {0};
    moe_status status = MOE_OK;
    for (int32_t id = 0; status == MOE_OK && id < vocab->n; id++) {
        moe_string text = tokens->strings[id];
        moe_token_kind kind = types != NULL && (size_t)id < types->n ? kind_of_type(types->ints[id])
                                                                     : MOE_TOKEN_NORMAL;
        bool whole = false;
        bytes.len = 0;
        if (byte_level && kind == MOE_TOKEN_NORMAL && moe_utf8_is_valid(text.data, text.len) &&
            !moe_alphabet_decode(text.data, text.len, &bytes, &whole))
            status = moe_fail_memory(err, text.len);
        else
            status = moe_vocab_set(vocab, id, whole ? bytes.data : text.data,
                                   whole ? bytes.len : text.len, kind, err);
    }
    moe_buf_free(&bytes);
    return status;
}

/* Control and user-defined tokens are found in the raw text. */
static moe_status read_added(moe_tokenizer *tok, moe_error *err)
{
    moe_status status = MOE_OK;
    for (int32_t id = 0; status == MOE_OK && id < tok->vocab.n; id++) {
        moe_token_kind kind = tok->vocab.entries[id].kind;
        moe_added_token token = {.id = id, .special = kind == MOE_TOKEN_CONTROL};
        token.text = (char *)moe_vocab_text(&tok->vocab, id, &token.len);
        if ((kind == MOE_TOKEN_CONTROL || kind == MOE_TOKEN_USER) &&
            moe_utf8_is_valid(token.text, token.len))
            status = moe_added_tokens_add(&tok->raw, &token, err);
    }
    moe_added_tokens_finish(&tok->raw);
    return status;
}

/* Adds the tokens of one kind to a table. */
static void fill_map(const moe_vocab *vocab, moe_token_kind kind, moe_token_map *map)
{
    for (int32_t id = 0; id < vocab->n; id++)
        if (vocab->entries[id].kind == kind && vocab->entries[id].len > 0)
            moe_token_map_add(map, id);
}

/* --- byte-level BPE --------------------------------------------------------------------------- */

static moe_status read_merges(const moe_meta *merges, moe_tokenizer *tok, moe_error *err)
{
    moe_status status = MOE_OK;
    moe_buf work = {0};
    for (size_t i = 0; status == MOE_OK && i < merges->n; i++) {
        moe_string merge = merges->strings[i];
        const char *space = merge.len > 1 ? memchr(merge.data + 1, ' ', merge.len - 1) : NULL;
        if (space == NULL || !moe_utf8_is_valid(merge.data, merge.len)) {
            status = moe_fail(err, MOE_ERR_FORMAT, "merge %zu of the tokenizer is broken", i);
            break;
        }
        size_t left_len = (size_t)(space - merge.data);
        status = moe_tokenizer_add_merge(&tok->bpe, i, merge.data, left_len, space + 1,
                                         merge.len - left_len - 1, &work, err);
    }
    moe_buf_free(&work);
    return status;
}

static moe_status read_bpe(const moe_file *file, moe_tokenizer *tok, moe_error *err)
{
    const moe_meta *merges = moe_file_meta(file, "tokenizer.ggml.merges");
    const char *name = moe_file_meta_string(file, "tokenizer.ggml.pre", "default");
    const moe_gguf_split *split = moe_gguf_split_find(name);
    if (split == NULL) {
        moe_fail(err, MOE_ERR_UNSUPPORTED,
                 "the tokenizer's pre-tokenizer \"%.60s\" is not supported", name);
        moe_hint(err,
                 "Load the model's Hugging Face folder: its tokenizer.json holds the pattern.");
        return MOE_ERR_UNSUPPORTED;
    }
    if (merges == NULL || merges->kind != MOE_META_ARRAY || merges->element != MOE_META_STRING)
        return moe_fail(err, MOE_ERR_FORMAT,
                        "tokenizer.ggml.merges is missing or no list of texts");
    tok->model = MOE_TOKENIZER_BPE;
    moe_status status = moe_bpe_init(&tok->bpe, &tok->vocab, merges->n, err);
    for (const char *const *p = split->patterns; status == MOE_OK && *p != NULL; p++)
        status = moe_pretokenizer_add_pattern(&tok->pretokenizer, *p, err);
    if (status == MOE_OK)
        status = moe_pretokenizer_add(&tok->pretokenizer, (moe_split){.kind = MOE_SPLIT_BYTE_LEVEL},
                                      err);
    if (status != MOE_OK)
        return status;
    /* Some converters made user-defined tokens of vocabulary entries that merges lead to. */
    fill_map(&tok->vocab, MOE_TOKEN_NORMAL, &tok->bpe.words);
    fill_map(&tok->vocab, MOE_TOKEN_USER, &tok->bpe.words);
    moe_bpe_finish(&tok->bpe);
    tok->bpe.ignore_merges = split->ignore_merges;
    status = read_merges(merges, tok, err);
    if (status != MOE_OK)
        return status;

    bool ok = true;
    int32_t sep = id_of(file, "tokenizer.ggml.seperator_token_id", tok->vocab.n);
    if (tok->bos >= 0 && moe_file_meta_bool(file, "tokenizer.ggml.add_bos_token", split->add_bos))
        ok = moe_ids_add(&tok->prefix, tok->bos);
    if (tok->eos >= 0 && moe_file_meta_bool(file, "tokenizer.ggml.add_eos_token", false))
        ok = ok && moe_ids_add(&tok->suffix, tok->eos);
    else if (sep >= 0 && moe_file_meta_bool(file, "tokenizer.ggml.add_sep_token", split->add_sep))
        ok = ok && moe_ids_add(&tok->suffix, sep);
    return ok ? MOE_OK : moe_fail_memory(err, sizeof(int32_t));
}

/* --- WordPiece -------------------------------------------------------------------------------- */

/* Beginnings are the normal tokens with the mark, continuations those without. */
static void fill_part_maps(moe_tokenizer *tok)
{
    const size_t mark_len = strlen(BEGINNING_MARK);
    for (int32_t id = 0; id < tok->vocab.n; id++) {
        size_t len;
        const char *text = moe_vocab_text(&tok->vocab, id, &len);
        bool marked = len > mark_len && memcmp(text, BEGINNING_MARK, mark_len) == 0;
        if (tok->vocab.entries[id].kind == MOE_TOKEN_NORMAL && len > 0)
            moe_token_map_add(marked ? &tok->wordpiece.beginnings : &tok->wordpiece.continuations,
                              id);
    }
}

static moe_status read_wordpiece(const moe_file *file, moe_tokenizer *tok, moe_error *err)
{
    const size_t mark_len = strlen(BEGINNING_MARK);
    int32_t n = tok->vocab.n;
    int32_t cls = id_of(file, "tokenizer.ggml.cls_token_id", n);
    int32_t sep = id_of(file, "tokenizer.ggml.seperator_token_id", n);
    cls = cls >= 0 ? cls : tok->bos;
    sep = sep >= 0 ? sep : tok->eos;
    tok->model = MOE_TOKENIZER_WORDPIECE;
    memcpy(tok->part_mark, BEGINNING_MARK, mark_len + 1);
    tok->mark_begins_word = true;
    tok->tidy_spaces = true;
    tok->wordpiece.max_chars = MAX_WORD_CHARS;
    tok->wordpiece.unknown = id_of(file, "tokenizer.ggml.unknown_token_id", n);
    if (tok->wordpiece.unknown < 0)
        return moe_fail(err, MOE_ERR_FORMAT,
                        "tokenizer.ggml.unknown_token_id is missing or no token");
    const moe_normal_step step = {.kind = MOE_NORMAL_BERT,
                                  .clean_text = true,
                                  .pad_cjk = true,
                                  .strip_accents = true,
                                  .lowercase = true};
    const moe_split spaces = {
        .kind = MOE_SPLIT_CLASS, .is_match = moe_char_is_space, .behavior = MOE_SPLIT_REMOVED};
    const moe_split punctuation = {.kind = MOE_SPLIT_CLASS, .is_match = moe_char_is_punctuation};
    moe_status status = moe_normalizer_add(&tok->normalizer, step, err);
    if (status == MOE_OK)
        status = moe_pretokenizer_add(&tok->pretokenizer, spaces, err);
    if (status == MOE_OK)
        status = moe_pretokenizer_add(&tok->pretokenizer, punctuation, err);
    if (status == MOE_OK)
        status = moe_token_map_init(&tok->wordpiece.beginnings, &tok->vocab, mark_len, err);
    if (status == MOE_OK)
        status = moe_token_map_init(&tok->wordpiece.continuations, &tok->vocab, 0, err);
    if (status != MOE_OK)
        return status;
    fill_part_maps(tok);
    bool ok = cls < 0 || moe_ids_add(&tok->prefix, cls);
    ok = ok && (sep < 0 || moe_ids_add(&tok->suffix, sep));
    return ok ? MOE_OK : moe_fail_memory(err, sizeof(int32_t));
}

/* --- the whole -------------------------------------------------------------------------------- */

static moe_status read_special_tokens(const moe_file *file, moe_tokenizer *tok, moe_error *err)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    int32_t n = tok->vocab.n;
    moe_status status =
        moe_tokenizer_set_bos(tok, id_of(file, "tokenizer.ggml.bos_token_id", n), err);
    if (status == MOE_OK)
        status = moe_tokenizer_set_eos(tok, id_of(file, ends[0], n), err);
    for (int i = 0; status == MOE_OK && i < 3; i++)
        status = moe_tokenizer_add_end(tok, id_of(file, ends[i], n), err);
    return status == MOE_OK ? moe_tokenizer_add_usual_ends(tok, err) : status;
}

moe_status moe_tokenizer_read_gguf(const moe_file *file, moe_tokenizer *tok, moe_error *err)
{
    const char *model = moe_file_meta_string(file, "tokenizer.ggml.model", "none");
    const moe_meta *tokens = moe_file_meta(file, "tokenizer.ggml.tokens");
    const moe_meta *types = moe_file_meta(file, "tokenizer.ggml.token_type");
    bool bpe = strcmp(model, "gpt2") == 0, wordpiece = strcmp(model, "bert") == 0;
    bool none = strcmp(model, "none") == 0 || strcmp(model, "no_vocab") == 0;
    if (!bpe && !wordpiece && !none) {
        const char *kind = strcmp(model, "llama") == 0 ? " (SentencePiece BPE)"
                           : strcmp(model, "t5") == 0  ? " (SentencePiece Unigram)"
                                                       : "";
        moe_fail(err, MOE_ERR_UNSUPPORTED, "tokenizers of type \"%.60s\"%s are not supported",
                 model, kind);
        moe_hint(err, "Byte-level BPE (gpt2) and WordPiece (bert) tokenizers are supported.");
        return MOE_ERR_UNSUPPORTED;
    }
    bool listed =
        tokens != NULL && tokens->kind == MOE_META_ARRAY && tokens->element == MOE_META_STRING;
    if (!listed && !none)
        return moe_fail(err, MOE_ERR_FORMAT,
                        "tokenizer.ggml.tokens is missing or no list of texts");
    if (listed && tokens->n > (size_t)MOE_MAX_TOKEN_ID)
        return moe_fail(err, MOE_ERR_FORMAT, "the tokenizer has %zu tokens", tokens->n);
    if (types != NULL && (types->kind != MOE_META_ARRAY || types->element != MOE_META_INT))
        return moe_fail(err, MOE_ERR_FORMAT, "tokenizer.ggml.token_type is no list of integers");

    moe_status status = moe_vocab_init(&tok->vocab, listed ? (int32_t)tokens->n : 0, err);
    if (status == MOE_OK)
        status = read_tokens(tokens, types, bpe, &tok->vocab, err);
    if (status == MOE_OK)
        status = read_added(tok, err);
    if (status == MOE_OK)
        status = read_special_tokens(file, tok, err);
    if (status == MOE_OK && bpe)
        status = read_bpe(file, tok, err);
    if (status == MOE_OK && wordpiece)
        status = read_wordpiece(file, tok, err);
    return status;
}
