/*
 * Tokenizers: ids and texts equal the reference's.
 *
 * test/data/tokenizer holds small tokenizers, trained for this test, and cases whose ids, pieces
 * and texts are what the library `tokenizers` 0.23 gives.  GGUF files are written here.  With the
 * shared data (environment variable MOE_SHARED) and real models (MOE_MODELS) the published
 * vocabularies are tested too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../src/engine/text/byte_alphabet.h"
#include "../../src/engine/text/tokenizer_internal.h"

#define DATA "test/data/tokenizer/"

/* --- helpers ---------------------------------------------------------------------------------- */

static json_t *load(const char *path)
{
    json_error_t e;
    json_t *json = json_load_file(path, JSON_ALLOW_NUL, &e);
    if (json == NULL)
        fail_msg("%s: %s", path, e.text);
    return json;
}

static json_t *parse(const char *text)
{
    json_error_t e;
    json_t *json = json_loads(text, JSON_ALLOW_NUL, &e);
    if (json == NULL)
        fail_msg("%s in %s", e.text, text);
    return json;
}

/* A tokenizer from tokenizer.json's content, which is given up. */
static moe_tokenizer *from_json(json_t *json)
{
    moe_tokenizer *tok;
    moe_error err = {0};
    moe_tokenizer_files files = {.tokenizer = json};
    if (moe_tokenizer_from_json(&files, &tok, &err) != MOE_OK)
        fail_msg("%s", err.message);
    json_decref(json);
    return tok;
}

static moe_tokenizer *from_path(const char *path)
{
    moe_file *file;
    moe_tokenizer *tok;
    moe_error err = {0};
    if (moe_file_open(path, &file, &err) != MOE_OK)
        fail_msg("%s", err.message);
    if (moe_tokenizer_create(file, &tok, &err) != MOE_OK)
        fail_msg("%s: %s", path, err.message);
    moe_file_close(file);
    return tok;
}

static moe_ids encode(const moe_tokenizer *tok, const char *text, size_t len, unsigned flags)
{
    moe_ids ids = {0};
    moe_error err = {0};
    if (moe_tokenizer_encode(tok, text, len, flags, &ids, &err) != MOE_OK)
        fail_msg("%s", err.message);
    return ids;
}

static void assert_encodes(const moe_tokenizer *tok, const char *text, size_t len, unsigned flags,
                           const int32_t *expected, size_t n)
{
    moe_ids ids = encode(tok, text, len, flags);
    size_t same = 0;
    while (same < n && same < ids.len && ids.data[same] == expected[same])
        same++;
    if (same != n || ids.len != n)
        fail_msg(
            "\"%.200s\" (flags %u): %zu ids instead of %zu, the first %zu equal; then %d, not %d",
            text, flags, ids.len, n, same, same < ids.len ? ids.data[same] : -1,
            same < n ? expected[same] : -1);
    moe_ids_free(&ids);
}

static void assert_encodes_json(const moe_tokenizer *tok, const json_t *text, unsigned flags,
                                const json_t *expected)
{
    size_t n = json_array_size(expected);
    int32_t *ids = malloc((n + 1) * sizeof(*ids));
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(expected, i));
    assert_encodes(tok, json_string_value(text), json_string_length(text), flags, ids, n);
    free(ids);
}

static void assert_decodes(const moe_tokenizer *tok, const int32_t *ids, size_t n, unsigned flags,
                           const char *expected, size_t len)
{
    moe_buf text = {0};
    moe_error err = {0};
    if (moe_tokenizer_decode(tok, ids, n, flags, &text, &err) != MOE_OK)
        fail_msg("%s", err.message);
    if (text.len != len || memcmp(text.data, expected, len) != 0)
        fail_msg("\"%.200s\" instead of \"%.200s\"", text.data, expected);
    moe_buf_free(&text);
}

/* "12 7 …": the ids of a text without flags, to compare at a glance. */
static void assert_ids(const moe_tokenizer *tok, const char *text, unsigned flags,
                       const char *expected)
{
    moe_ids ids = encode(tok, text, strlen(text), flags);
    char line[1024] = "";
    for (size_t i = 0; i < ids.len; i++)
        snprintf(line + strlen(line), sizeof(line) - strlen(line), "%s%d", i > 0 ? " " : "",
                 ids.data[i]);
    assert_string_equal(line, expected);
    moe_ids_free(&ids);
}

/* A path below $MOE_SHARED or $MOE_MODELS; NULL with a line if it is absent. */
static const char *optional_path(const char *variable, const char *otherwise, const char *name)
{
    static char path[1024];
    const char *root = getenv(variable);
    snprintf(path, sizeof(path), "%s/%s", root != NULL ? root : otherwise, name);
    if (access(path, R_OK) == 0)
        return path;
    print_message("skipped: %s is absent\n", path);
    return NULL;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Random text of about len bytes with runs of what patterns tell apart; returns its length. */
static size_t random_text(uint64_t *state, char *text, size_t len)
{
    static const char *const bits[] = {
        "a",    "Z",       "the",  "'s",     "'LL",    "1", "23", " ",    "  ", "\n",
        "\r\n", "\t",      ".",    ",-",     "é",      "Ü", "ß",  "專家", "あ", "カ",
        "한",   "е\u0301", "🦆", "\u00a0", "\u2028", "²", "٣",  "_",    "/",  "ǅ",
    };
    size_t n = 0;
    while (n + 16 < len) {
        const char *bit = bits[next_random(state) % (sizeof(bits) / sizeof(*bits))];
        for (uint64_t k = next_random(state) % 4; k > 0 && n + 16 < len; k--) {
            memcpy(text + n, bit, strlen(bit));
            n += strlen(bit);
        }
    }
    return n;
}

/* --- the reference's cases -------------------------------------------------------------------- */

static void check_cases(const char *tokenizer, const char *cases_path)
{
    moe_tokenizer *tok = from_json(load(tokenizer));
    json_t *cases = load(cases_path);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i);
        const json_t *text = json_object_get(c, "text"), *special = json_object_get(c, "special");
        assert_encodes_json(tok, text, 0, json_object_get(c, "plain"));
        assert_encodes_json(tok, text, MOE_TEXT_ADD_SPECIAL | MOE_TEXT_PARSE_SPECIAL, special);
        int32_t ids[256];
        for (size_t k = 0; k < json_array_size(special); k++)
            ids[k] = (int32_t)json_integer_value(json_array_get(special, k));
        const json_t *decoded = json_object_get(c, "decoded"), *shown = json_object_get(c, "shown");
        assert_decodes(tok, ids, json_array_size(special), 0, json_string_value(decoded),
                       json_string_length(decoded));
        assert_decodes(tok, ids, json_array_size(special), MOE_TEXT_SHOW_SPECIAL,
                       json_string_value(shown), json_string_length(shown));
    }
    json_decref(cases);
    moe_tokenizer_free(tok);
}

static void byte_level_bpe_equals_the_reference(void **state)
{
    (void)state;
    check_cases(DATA "bpe.json", DATA "bpe_cases.json");
}

static void wordpiece_equals_the_reference(void **state)
{
    (void)state;
    check_cases(DATA "wordpiece.json", DATA "wordpiece_cases.json");
}

static moe_status collect_piece(void *ud, const char *piece, size_t len, moe_error *err)
{
    (void)err;
    json_array_append_new(ud, json_stringn_nocheck(piece, len));
    return MOE_OK;
}

static moe_status collect_mapped_piece(void *ud, const char *piece, size_t len, moe_error *err)
{
    moe_buf mapped = {0};
    assert_true(moe_alphabet_encode(piece, len, &mapped));
    moe_status status = collect_piece(ud, mapped.data, mapped.len, err);
    moe_buf_free(&mapped);
    return status;
}

static void pretokenizers_equal_the_reference(void **state)
{
    (void)state;
    json_t *parts = load(DATA "parts.json"), *cases = json_object_get(parts, "pre_tokenizers");
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i), *text = json_object_get(c, "text");
        const json_t *json = json_object_get(c, "pre_tokenizer");
        moe_pretokenizer pretokenizer = {0};
        moe_error err = {0};
        json_t *pieces = json_array();
        if (moe_json_pretokenizer(json, &pretokenizer, &err) != MOE_OK)
            fail_msg("case %zu: %s", i, err.message);
        assert_int_equal(
            moe_pretokenize(&pretokenizer, json_string_value(text), json_string_length(text),
                            moe_pretokenizer_is_byte_level(&pretokenizer) ? collect_mapped_piece
                                                                          : collect_piece,
                            pieces, &err),
            MOE_OK);
        if (!json_equal(pieces, json_object_get(c, "pieces")))
            fail_msg("case %zu: %s", i, json_dumps(pieces, 0));
        json_decref(pieces);
        moe_pretokenizer_free(&pretokenizer);
    }
    json_decref(parts);
}

static void normalizers_equal_the_reference(void **state)
{
    (void)state;
    json_t *parts = load(DATA "parts.json"), *cases = json_object_get(parts, "normalizers");
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i), *text = json_object_get(c, "text");
        const json_t *expected = json_object_get(c, "result");
        moe_normalizer normalizer = {0};
        moe_error err = {0};
        moe_buf out = {0};
        if (moe_json_normalizer(json_object_get(c, "normalizer"), &normalizer, &err) != MOE_OK)
            fail_msg("case %zu: %s", i, err.message);
        assert_int_equal(moe_normalize(&normalizer, json_string_value(text),
                                       json_string_length(text), &out, &err),
                         MOE_OK);
        if (out.len != json_string_length(expected) ||
            memcmp(out.data, json_string_value(expected), out.len) != 0)
            fail_msg("case %zu: \"%s\" instead of \"%s\"", i, out.data,
                     json_string_value(expected));
        moe_buf_free(&out);
        moe_normalizer_free(&normalizer);
    }
    json_decref(parts);
}

/* --- BPE -------------------------------------------------------------------------------------- */

/* One token per byte in front of `model`, a list of merges and more members; tokenizer.json of its
 * own. */
static json_t *byte_model(const char *merges, const char *words)
{
    json_t *vocab = json_object(), *root;
    for (int byte = 0; byte < 256; byte++) {
        char text[5] = "";
        moe_utf8_put(moe_alphabet_char((unsigned char)byte), text);
        json_object_set_new_nocheck(vocab, text, json_integer(byte));
    }
    json_t *more = parse(words);
    for (size_t i = 0; i < json_array_size(more); i++)
        json_object_set_new_nocheck(vocab, json_string_value(json_array_get(more, i)),
                                    json_integer(256 + (int)i));
    json_decref(more);
    root = parse("{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false,"
                 " \"use_regex\": false}, \"model\": {\"type\": \"BPE\"}}");
    json_object_set_new(json_object_get(root, "model"), "vocab", vocab);
    json_object_set_new(json_object_get(root, "model"), "merges", parse(merges));
    return root;
}

static void merges_go_by_rank_then_from_the_left(void **state)
{
    (void)state;
    moe_tokenizer *tok =
        from_json(byte_model("[\"b c\", \"a b\", [\"a\", \"a\"], [\"aa\", \"aa\"]]",
                             "[\"bc\", \"ab\", \"aa\", \"aaaa\", \"abc\"]"));
    assert_ids(tok, "abc", 0, "97 256");
    assert_ids(tok, "abab", 0, "257 257");
    assert_ids(tok, "aaaaaaa", 0, "259 258 97");
    moe_tokenizer_free(tok);
}

static void ignore_merges_takes_whole_tokens(void **state)
{
    (void)state;
    json_t *json = byte_model("[\"b c\", \"a b\"]", "[\"bc\", \"ab\", \"abc\"]");
    json_object_set_new(json_object_get(json, "model"), "ignore_merges", json_true());
    moe_tokenizer *tok = from_json(json);
    assert_ids(tok, "abc", 0, "258");
    assert_ids(tok, "abcb", 0, "97 256 98");
    moe_tokenizer_free(tok);
}

/* The definition: merge the leftmost pair of the lowest rank until there is none. */
static size_t merge_naively(int32_t *ids, size_t n, const int32_t (*merges)[3], int n_merges)
{
    for (int rank = 0; rank < n_merges;) {
        size_t at = 0;
        while (at + 1 < n && (ids[at] != merges[rank][0] || ids[at + 1] != merges[rank][1]))
            at++;
        if (at + 1 >= n) {
            rank++;
            continue;
        }
        ids[at] = merges[rank][2];
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof(*ids));
        n--;
        rank = 0;
    }
    return n;
}

static void pieces_of_every_length_merge_alike(void **state)
{
    (void)state;
    enum { N_MERGES = 40 };
    char words[2048] = "[", merges[4096] = "[";
    char texts[3 + N_MERGES][64] = {"a", "b", "c"};
    int32_t ids[3 + N_MERGES] = {'a', 'b', 'c'}, triples[N_MERGES][3];
    uint64_t random = 7;
    int n = 3;
    while (n < 3 + N_MERGES) { /* each merge joins two known texts, neither too long nor known */
        int left = (int)(next_random(&random) % (uint64_t)n),
            right = (int)(next_random(&random) % (uint64_t)n);
        char joined[160];
        snprintf(joined, sizeof(joined), "%s%s", texts[left], texts[right]);
        bool usable = strlen(joined) < 12;
        for (int i = 0; i < n; i++)
            usable = usable && strcmp(texts[i], joined) != 0;
        if (!usable)
            continue;
        snprintf(merges + strlen(merges), sizeof(merges) - strlen(merges), "%s\"%s %s\"",
                 n > 3 ? "," : "", texts[left], texts[right]);
        snprintf(words + strlen(words), sizeof(words) - strlen(words), "%s\"%s\"", n > 3 ? "," : "",
                 joined);
        triples[n - 3][0] = ids[left];
        triples[n - 3][1] = ids[right];
        triples[n - 3][2] = ids[n] = 256 + n - 3;
        strcpy(texts[n++], joined);
    }
    moe_tokenizer *tok = from_json(byte_model(strcat(merges, "]"), strcat(words, "]")));
    for (int round = 0; round < 300; round++) {
        char text[400];
        int32_t expected[400];
        size_t len = 1 + next_random(&random) % (round < 200 ? 80 : 399);
        for (size_t i = 0; i < len; i++)
            expected[i] = text[i] = (char)('a' + next_random(&random) % 3);
        size_t n_expected = merge_naively(expected, len, triples, N_MERGES);
        assert_encodes(tok, text, len, 0, expected, n_expected);
    }
    moe_tokenizer_free(tok);
}

/* A megabyte without a place to cut, of the kinds that quadratic work shows on. */
static void long_pieces_take_no_quadratic_time(void **state)
{
    (void)state;
    const size_t len = 1000000;
    char *text = malloc(len);
    uint64_t random = 3;
    moe_tokenizer *tok = from_json(load(DATA "bpe.json"));
    moe_tokenizer *wordpiece = from_json(load(DATA "wordpiece.json"));
    for (int kind = 0; kind < 4; kind++) {
        for (size_t i = 0; i < len; i++)
            text[i] = kind == 0   ? 't'
                      : kind == 1 ? (char)('a' + next_random(&random) % 26)
                      : kind == 2 ? ' '
                                  : "\xCC\x81\xCC\x96"[i % 4]; /* U+0301 U+0316: out of order */
        if (kind == 2)
            text[len - 1] = 'x';
        moe_ids ids = encode(tok, text, len, 0);
        assert_decodes(tok, ids.data, ids.len, 0, text, len);
        moe_ids_free(&ids);
        ids = encode(wordpiece, text, len, 0);
        assert_true(ids.len <= 1);
        moe_ids_free(&ids);
    }
    moe_tokenizer_free(tok);
    moe_tokenizer_free(wordpiece);
    free(text);
}

static void *encode_again(void *ud)
{
    const moe_tokenizer *tok = ud;
    const char *text = "The expert cache keeps the weights that a query reads. 1234567 tokens";
    moe_ids first = {0};
    bool same = true;
    for (int i = 0; i < 200; i++) {
        moe_ids ids = {0};
        same = same && moe_tokenizer_encode(tok, text, strlen(text), 0, &ids, NULL) == MOE_OK;
        if (i == 0)
            first = ids;
        same = same && ids.len == first.len && memcmp(ids.data, first.data, 4 * ids.len) == 0;
        if (i > 0)
            moe_ids_free(&ids);
    }
    moe_ids_free(&first);
    return same ? ud : NULL;
}

static void threads_share_a_tokenizer(void **state)
{
    (void)state;
    moe_tokenizer *tok = from_json(load(DATA "bpe.json"));
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_again, tok), 0);
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(threads[i], &result);
        assert_ptr_equal(result, tok);
    }
    moe_tokenizer_free(tok);
}

/* --- text in, text out ------------------------------------------------------------------------ */

static void any_text_comes_back_from_bpe(void **state)
{
    (void)state;
    moe_tokenizer *tok = from_json(load(DATA "bpe.json"));
    uint64_t random = 11;
    for (int round = 0; round < 200; round++) {
        char text[300];
        size_t len = random_text(&random, text, sizeof(text));
        moe_ids ids = encode(tok, text, len, 0);
        assert_decodes(tok, ids.data, ids.len, 0, text, len);
        moe_ids_free(&ids);
    }
    moe_tokenizer_free(tok);
}

static void decoding_repairs_cut_characters(void **state)
{
    (void)state;
    moe_tokenizer *tok = from_json(byte_model("[]", "[]"));
    const int32_t cut[] = {'a', 0xE5, 0xB0, 'b', 0xF0, 0x9F, 0xA6, 0x86, 0xFF, 0xC3};
    assert_decodes(tok, cut, 10, 0, "a\uFFFDb🦆\uFFFD\uFFFD", 15);
    moe_buf piece = {0};
    assert_int_equal(moe_tokenizer_piece(tok, 0xE5, 0, &piece, NULL), MOE_OK);
    assert_int_equal(piece.len, 1);
    assert_int_equal((unsigned char)piece.data[0], 0xE5);
    moe_buf_free(&piece);
    moe_tokenizer_free(tok);
}

static void bad_input_is_refused(void **state)
{
    (void)state;
    moe_tokenizer *tok = from_json(load(DATA "bpe.json"));
    static const char *const texts[] = {"a\xFFz", "\xC3", "\xED\xA0\x80", "\xC0\x80",
                                        "\xF4\x90\x80\x80"};
    moe_ids ids = {0};
    moe_buf out = {0};
    moe_error err = {0};
    assert_true(moe_ids_add(&ids, 5));
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(
            moe_tokenizer_encode(tok, texts[i], strlen(texts[i]), MOE_TEXT_ADD_SPECIAL, &ids, &err),
            MOE_ERR_INVALID);
        assert_int_equal(ids.len, 1);
    }
    const int32_t beyond[] = {-1, moe_tokenizer_size(tok), INT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(moe_tokenizer_decode(tok, &beyond[i], 1, 0, &out, &err), MOE_ERR_INVALID);
        assert_int_equal(moe_tokenizer_piece(tok, beyond[i], 0, &out, &err), MOE_ERR_INVALID);
        assert_false(moe_tokenizer_is_special(tok, beyond[i]));
        assert_false(moe_tokenizer_is_end(tok, beyond[i]));
    }
    assert_int_equal(out.len, 0);
    moe_ids_free(&ids);
    moe_buf_free(&out);
    moe_tokenizer_free(tok);
}

/* --- Hugging Face folders --------------------------------------------------------------------- */

static void configs_set_beginnings_and_ends(void **state)
{
    (void)state;
    json_t *root = byte_model("[]", "[\"<s>\", \"</s>\", \"<|im_end|>\", \"<|end|>\"]");
    json_object_set_new(root, "added_tokens",
                        parse("[{\"id\": 256, \"content\": \"<s>\", \"special\": true},"
                              " {\"id\": 257, \"content\": \"</s>\", \"special\": true},"
                              " {\"id\": 258, \"content\": \"<|im_end|>\", \"special\": true},"
                              " {\"id\": 259, \"content\": \"<|end|>\", \"special\": true}]"));
    json_object_set_new(root, "truncation", parse("{\"max_length\": 77}"));
    json_t *config = parse("{\"bos_token\": {\"content\": \"<s>\"}, \"eos_token\": \"</s>\","
                           " \"tokenizer_class\": \"LlamaTokenizerFast\"}");
    json_t *generation = parse("{\"eos_token_id\": [257, 97, 100000, -3]}");
    moe_tokenizer_files files = {
        .tokenizer = root, .tokenizer_config = config, .generation_config = generation};
    moe_tokenizer *tok;
    assert_int_equal(moe_tokenizer_from_json(&files, &tok, NULL), MOE_OK);
    assert_int_equal(moe_tokenizer_bos(tok), 256);
    assert_int_equal(moe_tokenizer_eos(tok), 257);
    assert_string_equal(moe_tokenizer_bos_text(tok), "<s>");
    assert_string_equal(moe_tokenizer_eos_text(tok), "</s>");
    assert_int_equal(moe_tokenizer_max_length(tok), 77);
    static const int32_t ends[] = {97, 257, 258, 259};
    for (size_t i = 0; i < 4; i++)
        assert_true(moe_tokenizer_is_end(tok, ends[i]));
    assert_false(moe_tokenizer_is_end(tok, 256));
    assert_true(moe_tokenizer_is_special(tok, 256));
    assert_false(moe_tokenizer_is_special(tok, 97));
    assert_ids(tok, "a", MOE_TEXT_ADD_SPECIAL, "256 97"); /* this class's default */
    moe_tokenizer_free(tok);

    json_object_set_new(config, "add_bos_token", json_false());
    json_object_set_new(config, "add_eos_token", json_true());
    assert_int_equal(moe_tokenizer_from_json(&files, &tok, NULL), MOE_OK);
    assert_ids(tok, "a", MOE_TEXT_ADD_SPECIAL, "97 257");
    moe_tokenizer_free(tok);

    json_array_append_new(json_object_get(root, "added_tokens"),
                          parse("{\"id\": 300, \"content\": \"<|return|>\", \"special\": true}"));
    json_object_del(config, "tokenizer_class");
    assert_int_equal(moe_tokenizer_from_json(&files, &tok, NULL), MOE_OK);
    assert_true(moe_tokenizer_is_end(tok, 300));
    assert_false(moe_tokenizer_is_end(tok, 259)); /* closes only a message here */
    assert_int_equal(moe_tokenizer_size(tok), 301);
    const int32_t hole = 280;
    assert_decodes(tok, &hole, 1, MOE_TEXT_SHOW_SPECIAL, "", 0);
    moe_tokenizer_free(tok);
    json_decref(root);
    json_decref(config);
    json_decref(generation);
}

/* Each is byte_model with one member of its root or of its model replaced. */
static void what_is_not_covered_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *owner, *key, *value;
        moe_status status;
        const char *message;
    } cases[] = {
        {"model", "type", "\"Unigram\"", MOE_ERR_UNSUPPORTED, "Unigram"},
        {"model", "byte_fallback", "true", MOE_ERR_UNSUPPORTED, "byte_fallback"},
        {"model", "end_of_word_suffix", "\"</w>\"", MOE_ERR_UNSUPPORTED, "marked word parts"},
        {"model", "vocab", "[]", MOE_ERR_FORMAT, "vocabulary"},
        {"model", "vocab", "{\"a\": -1}", MOE_ERR_FORMAT, "\"a\""},
        {"model", "vocab", "{\"a\": 2000000000}", MOE_ERR_FORMAT, "\"a\""},
        {"model", "vocab", "{\"a\": \"1\"}", MOE_ERR_FORMAT, "\"a\""},
        {"model", "merges", "[\"ab\"]", MOE_ERR_FORMAT, "a merge"},
        {"model", "merges", "[[\"a\"]]", MOE_ERR_FORMAT, "a merge"},
        {"model", "merges", "[\"a a\"]", MOE_ERR_FORMAT, "merge 0"},
        {"model", "merges", "{}", MOE_ERR_FORMAT, "merges"},
        {"root", "added_tokens", "[{\"id\": 3}]", MOE_ERR_FORMAT, "added token"},
        {"root", "added_tokens", "[{\"content\": \"x\"}]", MOE_ERR_FORMAT, "added token"},
        {"root", "pre_tokenizer", "null", MOE_ERR_UNSUPPORTED, "without ByteLevel"},
        {"root", "pre_tokenizer", "{\"type\": \"Metaspace\"}", MOE_ERR_UNSUPPORTED, "Metaspace"},
        {"root", "pre_tokenizer",
         "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a&&b]\"}, \"behavior\": \"Isolated\"}",
         MOE_ERR_UNSUPPORTED, "intersection"},
        {"root", "pre_tokenizer",
         "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a[bc]]\"}, \"behavior\": \"Isolated\"}",
         MOE_ERR_UNSUPPORTED, "class inside a class"},
        {"root", "pre_tokenizer",
         "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(?m:.)\"}, \"behavior\": \"Isolated\"}",
         MOE_ERR_UNSUPPORTED, "option"},
        {"root", "pre_tokenizer",
         "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a(\"}, \"behavior\": \"Isolated\"}",
         MOE_ERR_FORMAT, "does not compile"},
        {"root", "pre_tokenizer",
         "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a\"}, \"behavior\": \"Isolated\"}",
         MOE_ERR_FORMAT, "without end"},
        {"root", "pre_tokenizer",
         "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"Sideways\"}",
         MOE_ERR_UNSUPPORTED, "Sideways"},
        {"root", "pre_tokenizer", "{\"type\": \"Sequence\"}", MOE_ERR_FORMAT, "sequence"},
        {"root", "normalizer", "{\"type\": \"Precompiled\"}", MOE_ERR_UNSUPPORTED, "Precompiled"},
        {"root", "normalizer", "{\"type\": \"Prepend\"}", MOE_ERR_FORMAT, "normalizer"},
        {"root", "post_processor", "{\"type\": \"Fancy\"}", MOE_ERR_UNSUPPORTED, "Fancy"},
        {"root", "post_processor", "{\"type\": \"BertProcessing\", \"cls\": [\"a\", 99999]}",
         MOE_ERR_FORMAT, "post-processor"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        json_t *root = byte_model("[]", "[]");
        json_t *owner =
            strcmp(cases[i].owner, "root") == 0 ? root : json_object_get(root, cases[i].owner);
        json_error_t e;
        json_object_set_new(owner, cases[i].key, json_loads(cases[i].value, JSON_DECODE_ANY, &e));
        moe_tokenizer_files files = {.tokenizer = root};
        moe_tokenizer *tok = NULL;
        moe_error err = {0};
        moe_status status = moe_tokenizer_from_json(&files, &tok, &err);
        if (status != cases[i].status || strstr(err.message, cases[i].message) == NULL)
            fail_msg("case %zu: status %d, \"%s\"", i, status, err.message);
        assert_null(tok);
        assert_int_equal(moe_tokenizer_from_json(&files, &tok, NULL), status);
        json_decref(root);
    }
}

static void a_normalizer_can_not_fill_memory(void **state)
{
    (void)state;
    json_t *root = byte_model("[]", "[]"), *steps = json_array();
    for (int i = 0; i < 30; i++)
        json_array_append_new(steps,
                              parse("{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"},"
                                    " \"content\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}"));
    json_object_set_new(root, "normalizer",
                        json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", steps));
    moe_tokenizer *tok = from_json(root);
    moe_ids ids = {0};
    moe_error err = {0};
    assert_int_equal(moe_tokenizer_encode(tok, "a", 1, 0, &ids, &err), MOE_ERR_INVALID);
    moe_ids_free(&ids);
    moe_tokenizer_free(tok);
}

/* --- GGUF ------------------------------------------------------------------------------------- */

static void put(FILE *f, const void *data, size_t len)
{
    assert_int_equal(fwrite(data, 1, len, f), len);
}

static void put_string(FILE *f, const char *s)
{
    uint64_t len = strlen(s);
    put(f, &len, 8);
    put(f, s, len);
}

/* One member of a JSON object as GGUF metadata: bool, i32, string, list of strings or of i32. */
static void put_meta(FILE *f, const char *key, const json_t *value)
{
    enum { I32 = 5, BOOL = 7, STRING = 8, ARRAY = 9 };
    bool texts = json_is_string(json_array_get(value, 0)), list = json_is_array(value);
    int32_t number = (int32_t)json_integer_value(value);
    uint32_t type = list                     ? ARRAY
                    : json_is_boolean(value) ? BOOL
                    : json_is_string(value)  ? STRING
                                             : I32;
    uint32_t element = texts ? STRING : I32;
    uint64_t n = json_array_size(value);
    char flag = json_is_true(value);
    put_string(f, key);
    put(f, &type, 4);
    if (type == STRING)
        put_string(f, json_string_value(value));
    else if (!list)
        put(f, type == BOOL ? (const void *)&flag : &number, type == BOOL ? 1 : 4);
    if (!list)
        return;
    put(f, &element, 4);
    put(f, &n, 8);
    for (uint64_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(value, i);
        number = (int32_t)json_integer_value(item);
        if (texts)
            put_string(f, json_string_value(item));
        else
            put(f, &number, 4);
    }
}

/* Opens a GGUF file with this metadata; the object is given up. */
static moe_file *gguf_file(json_t *metas)
{
    char path[] = "/tmp/moe-tokenizer-XXXXXX";
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "wb");
    const uint32_t version = 3;
    const uint64_t n_tensors = 0, n_metas = json_object_size(metas);
    const char *key;
    json_t *value;
    assert_non_null(f);
    put(f, "GGUF", 4);
    put(f, &version, 4);
    put(f, &n_tensors, 8);
    put(f, &n_metas, 8);
    json_object_foreach(metas, key, value) put_meta(f, key, value);
    put(f, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 32);
    fclose(f);
    json_decref(metas);
    moe_file *file;
    moe_error err = {0};
    if (moe_file_open(path, &file, &err) != MOE_OK)
        fail_msg("%s", err.message);
    unlink(path);
    return file;
}

static moe_tokenizer *from_gguf(json_t *metas)
{
    moe_file *file = gguf_file(metas);
    moe_tokenizer *tok;
    moe_error err = {0};
    if (moe_tokenizer_create(file, &tok, &err) != MOE_OK)
        fail_msg("%s", err.message);
    moe_file_close(file);
    return tok;
}

/* A byte-level BPE with a literal user-defined "ü" beside the byte 0xFC of the same spelling. */
static json_t *gguf_bpe(const char *pre)
{
    json_t *metas =
        parse("{\"tokenizer.ggml.model\": \"gpt2\", \"tokenizer.ggml.bos_token_id\": 256,"
              " \"tokenizer.ggml.eos_token_id\": 257,"
              " \"tokenizer.ggml.merges\": [\"a b\", \"Ġ ab\"]}");
    json_t *tokens = json_array(), *types = json_array();
    for (int byte = 0; byte < 256; byte++) {
        char text[5] = "";
        moe_utf8_put(moe_alphabet_char((unsigned char)byte), text);
        json_array_append_new(tokens, json_string(text));
        json_array_append_new(types, json_integer(1));
    }
    static const struct {
        const char *text;
        int type;
    } more[] = {{"<s>", 3}, {"<|eot_id|>", 3}, {"ü", 4},  {"ab", 1},
                {"Ġab", 1}, {"  ", 4},         {"   ", 4}};
    for (size_t i = 0; i < 7; i++) {
        json_array_append_new(tokens, json_string(more[i].text));
        json_array_append_new(types, json_integer(more[i].type));
    }
    json_object_set_new(metas, "tokenizer.ggml.tokens", tokens);
    json_object_set_new(metas, "tokenizer.ggml.token_type", types);
    if (pre != NULL)
        json_object_set_new(metas, "tokenizer.ggml.pre", json_string(pre));
    return metas;
}

static void gguf_bpe_finds_user_defined_tokens_first(void **state)
{
    (void)state;
    moe_tokenizer *tok = from_gguf(gguf_bpe("gpt-2"));
    assert_ids(tok, "ab ab", 0, "259 260");
    assert_ids(tok, "aüb", 0, "97 258 98");
    assert_ids(tok, "a     b", 0, "97 262 261 98");
    assert_ids(tok, "<s>", 0, "60 115 62");
    assert_ids(tok, "<s>ab<|eot_id|>", MOE_TEXT_PARSE_SPECIAL, "256 259 257");
    assert_ids(tok, "ab", MOE_TEXT_ADD_SPECIAL, "259");
    const int32_t ids[] = {256, 258, 0xFC, 260, 257};
    assert_decodes(tok, ids, 5, 0, "ü\uFFFD ab", 8);
    assert_decodes(tok, ids, 5, MOE_TEXT_SHOW_SPECIAL, "<s>ü\uFFFD ab<|eot_id|>", 21);
    assert_true(moe_tokenizer_is_end(tok, 257));
    assert_string_equal(moe_tokenizer_bos_text(tok), "<s>");
    moe_tokenizer_free(tok);
}

static void gguf_flags_and_names_decide_on_bos_and_eos(void **state)
{
    (void)state;
    moe_tokenizer *tok = from_gguf(gguf_bpe("llama-bpe"));
    assert_ids(tok, "ab", MOE_TEXT_ADD_SPECIAL, "256 259");
    moe_tokenizer_free(tok);
    json_t *metas = gguf_bpe(NULL);
    json_object_set_new(metas, "tokenizer.ggml.add_bos_token", json_true());
    json_object_set_new(metas, "tokenizer.ggml.add_eos_token", json_true());
    tok = from_gguf(metas);
    assert_ids(tok, "ab", MOE_TEXT_ADD_SPECIAL, "256 259 257");
    moe_tokenizer_free(tok);
}

static void gguf_wordpiece_reads_marked_beginnings(void **state)
{
    (void)state;
    moe_tokenizer *tok = from_gguf(
        parse("{\"tokenizer.ggml.model\": \"bert\", \"tokenizer.ggml.tokens\":"
              " [\"[PAD]\", \"[UNK]\", \"[CLS]\", \"[SEP]\", \"▁query\", \"▁read\", \"ing\", "
              "\"▁.\", \"▁中\"],"
              " \"tokenizer.ggml.token_type\": [3, 3, 3, 3, 1, 1, 1, 1, 1],"
              " \"tokenizer.ggml.unknown_token_id\": 1, \"tokenizer.ggml.cls_token_id\": 2,"
              " \"tokenizer.ggml.seperator_token_id\": 3}"));
    assert_ids(tok, "Quéry READING. ing中", MOE_TEXT_ADD_SPECIAL, "2 4 5 6 7 1 8 3");
    const int32_t ids[] = {2, 4, 5, 6, 7, 8, 3};
    assert_decodes(tok, ids, 7, 0, "query reading. 中", 18);
    moe_tokenizer_free(tok);
}

static void gguf_refusals_say_what_and_why(void **state)
{
    (void)state;
    static const struct {
        const char *model, *pre, *message;
        moe_status status;
    } cases[] = {{"llama", NULL, "SentencePiece BPE", MOE_ERR_UNSUPPORTED},
                 {"t5", NULL, "Unigram", MOE_ERR_UNSUPPORTED},
                 {"rwkv", NULL, "rwkv", MOE_ERR_UNSUPPORTED},
                 {"gpt2", "no-such-name", "no-such-name", MOE_ERR_UNSUPPORTED},
                 {"bert", NULL, "unknown_token_id", MOE_ERR_FORMAT}};
    for (size_t i = 0; i < 5; i++) {
        json_t *metas = gguf_bpe(cases[i].pre);
        json_object_set_new(metas, "tokenizer.ggml.model", json_string(cases[i].model));
        moe_file *file = gguf_file(metas);
        moe_tokenizer *tok;
        moe_error err = {0};
        assert_int_equal(moe_tokenizer_create(file, &tok, &err), cases[i].status);
        assert_non_null(strstr(err.message, cases[i].message));
        assert_true(err.status != MOE_ERR_UNSUPPORTED || err.hint[0] != '\0');
        moe_file_close(file);
    }
}

static void gguf_without_text_model_works_by_ids(void **state)
{
    (void)state;
    moe_tokenizer *tok = from_gguf(parse("{\"tokenizer.ggml.model\": \"none\"}"));
    moe_ids ids = {0};
    moe_error err = {0};
    assert_int_equal(moe_tokenizer_encode(tok, "", 0, MOE_TEXT_ADD_SPECIAL, &ids, &err), MOE_OK);
    assert_int_equal(moe_tokenizer_encode(tok, "a", 1, 0, &ids, &err), MOE_ERR_UNSUPPORTED);
    assert_int_equal(moe_tokenizer_size(tok), 0);
    assert_int_equal(moe_tokenizer_bos(tok), -1);
    assert_string_equal(moe_tokenizer_bos_text(tok), "");
    moe_tokenizer_free(tok);
}

static moe_status join_piece(void *ud, const char *piece, size_t len, moe_error *err)
{
    (void)err;
    assert_true(len > 0);
    assert_true(moe_buf_add(ud, piece, len));
    return MOE_OK;
}

static void every_named_split_keeps_the_text(void **state)
{
    (void)state;
    static const char *const names[] = {
        "llama-bpe",      "qwen2",   "qwen35",     "deepseek-v3", "deepseek-llm",
        "deepseek-coder", "gpt-4o",  "kimi-k2",    "tekken",      "gpt-2",
        "starcoder",      "falcon",  "seed-coder", "bailingmoe",  "exaone-moe",
        "minicpm5",       "default", "glm4",       "roberta-bpe",
    };
    const size_t long_len = 200000;
    char *text = malloc(long_len);
    uint64_t random = 5;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        const moe_gguf_split *split = moe_gguf_split_find(names[i]);
        moe_pretokenizer pretokenizer = {0};
        moe_error err = {0};
        assert_non_null(split);
        for (const char *const *p = split->patterns; *p != NULL; p++)
            assert_int_equal(moe_pretokenizer_add_pattern(&pretokenizer, *p, &err), MOE_OK);
        for (int round = 0; round < 40; round++) {
            size_t len = random_text(&random, text, 300);
            if (round < 4) { /* runs on which backtracking could take quadratic time */
                memset(text, " a9A"[round], long_len);
                len = long_len;
                text[len - 1] = 'x';
            }
            moe_buf joined = {0};
            assert_int_equal(moe_pretokenize(&pretokenizer, text, len, join_piece, &joined, &err),
                             MOE_OK);
            assert_int_equal(joined.len, len);
            assert_memory_equal(joined.data, text, len);
            moe_buf_free(&joined);
        }
        moe_pretokenizer_free(&pretokenizer);
    }
    assert_null(moe_gguf_split_find("no-such-name"));
    free(text);
}

/* --- published tokenizers --------------------------------------------------------------------- */

static char *read_all(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *len = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(*len + 1);
    assert_int_equal(fread(text, 1, *len, f), *len);
    text[*len] = '\0';
    fclose(f);
    return text;
}

/* NAME.gguf with NAME.gguf.inp, texts between marker lines, and NAME.gguf.out, a line of ids for
 * each. */
static void check_vocabulary(const char *gguf)
{
    static const char marker[] = "\n__ggml_vocab_test__\n";
    char path[1100];
    size_t in_len, out_len, n = 0;
    snprintf(path, sizeof(path), "%s.inp", gguf);
    char *in = read_all(path, &in_len);
    snprintf(path, sizeof(path), "%s.out", gguf);
    char *out = read_all(path, &out_len);
    moe_tokenizer *tok = from_path(gguf);
    char *line = out;
    for (char *text = in; text != NULL; n++) {
        char *end = strstr(text, marker);
        size_t len = end != NULL ? (size_t)(end - text) : in_len - (size_t)(text - in);
        int32_t ids[4096];
        size_t n_ids = 0;
        for (; *line != '\n' && *line != '\0'; line += strspn(line, " "))
            ids[n_ids++] = (int32_t)strtol(line, &line, 10);
        line += *line == '\n';
        assert_encodes(tok, text, len, 0, ids, n_ids);
        text = end != NULL ? end + strlen(marker) : NULL;
    }
    assert_int_equal(n, 47);
    moe_tokenizer_free(tok);
    free(in);
    free(out);
}

static void published_vocabularies_give_the_expected_ids(void **state)
{
    (void)state;
    static const char *const names[] = {"deepseek-llm", "falcon",    "gpt-2",   "mpt",
                                        "refact",       "starcoder", "bert-bge"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        char name[64];
        snprintf(name, sizeof(name), "vocab/ggml-vocab-%s.gguf", names[i]);
        const char *path = optional_path("MOE_SHARED", "../shared", name);
        if (path != NULL)
            check_vocabulary(path);
    }
    const char *path = optional_path("MOE_SHARED", "../shared", "vocab/ggml-vocab-gpt-neox.gguf");
    if (path == NULL)
        return;
    moe_tokenizer *tok = from_path(path); /* an old file without tokenizer.ggml.pre */
    moe_ids ids = encode(tok, "Hello  world", 12, 0);
    assert_decodes(tok, ids.data, ids.len, 0, "Hello  world", 12);
    moe_ids_free(&ids);
    moe_tokenizer_free(tok);
}

static void fixtures_give_the_expected_ids(void **state)
{
    (void)state;
    static const char *const kinds[] = {"bpe", "wordpiece"};
    const char *path = optional_path("MOE_SHARED", "../shared", "fixtures/tokenizer_cases.json");
    if (path == NULL)
        return;
    json_t *all = load(path);
    for (size_t k = 0; k < 2; k++) {
        const json_t *group = json_object_get(all, kinds[k]),
                     *cases = json_object_get(group, "cases");
        char name[256];
        snprintf(name, sizeof(name), "fixtures/%s",
                 json_string_value(json_object_get(group, "tokenizer")));
        moe_tokenizer *tok = from_json(load(optional_path("MOE_SHARED", "../shared", name)));
        for (size_t i = 0; i < json_array_size(cases); i++) {
            const json_t *c = json_array_get(cases, i), *text = json_object_get(c, "text");
            assert_encodes_json(tok, text, MOE_TEXT_PARSE_SPECIAL, json_object_get(c, "ids"));
            assert_encodes_json(tok, text, MOE_TEXT_PARSE_SPECIAL | MOE_TEXT_ADD_SPECIAL,
                                json_object_get(c, "ids_with_special"));
        }
        moe_tokenizer_free(tok);
    }
    json_decref(all);
}

static void pocket_prompts_give_the_expected_ids(void **state)
{
    (void)state;
    static const char *const forms[] = {"", "/pocket-q8_0.gguf", "/pocket-q4_k_m.gguf"};
    const char *path = optional_path("MOE_SHARED", "../shared", "models/pocket/golden.json");
    if (path == NULL)
        return;
    json_t *golden = load(path), *chats = json_object_get(golden, "chat");
    assert_true(json_array_size(chats) > 0);
    for (size_t f = 0; f < 3; f++) {
        char name[64];
        snprintf(name, sizeof(name), "models/pocket%s", forms[f]);
        path = optional_path("MOE_SHARED", "../shared", name);
        if (path == NULL)
            continue;
        moe_tokenizer *tok = from_path(path);
        for (size_t i = 0; i < json_array_size(chats); i++) {
            const json_t *chat = json_array_get(chats, i),
                         *prompt = json_object_get(chat, "prompt");
            assert_encodes_json(tok, prompt, MOE_TEXT_PARSE_SPECIAL,
                                json_object_get(chat, "prompt_ids"));
            moe_ids ids = encode(tok, json_string_value(prompt), json_string_length(prompt),
                                 MOE_TEXT_PARSE_SPECIAL);
            assert_decodes(tok, ids.data, ids.len, MOE_TEXT_SHOW_SPECIAL, json_string_value(prompt),
                           json_string_length(prompt));
            moe_ids_free(&ids);
        }
        moe_tokenizer_free(tok);
    }
    json_decref(golden);
}

/* token_ids of a safetensors file: all texts one after the other, cut at 256 with [SEP] kept last.
 */
static void minilm_texts_give_the_expected_ids(void **state)
{
    (void)state;
    enum { CUT = 256 };
    const char *path = optional_path("MOE_MODELS", ".models", "all-MiniLM-L6-v2/tokenizer.json");
    if (path == NULL)
        return;
    moe_tokenizer *tok = from_json(load(path));
    path = optional_path("MOE_SHARED", "../shared", "fixtures_real/minilm_golden_texts.json");
    json_t *texts = path != NULL ? load(path) : NULL;
    path = optional_path("MOE_SHARED", "../shared", "fixtures_real/minilm_golden.safetensors");
    if (texts != NULL && path != NULL) {
        size_t len;
        char *bytes = read_all(path, &len);
        uint64_t header_len;
        memcpy(&header_len, bytes, 8);
        json_error_t e;
        json_t *header = json_loadb(bytes + 8, header_len, 0, &e);
        const char *data = bytes + 8 + header_len, *names[] = {"token_counts", "token_ids"};
        const char *at[2];
        for (int i = 0; i < 2; i++) {
            const json_t *offsets =
                json_object_get(json_object_get(header, names[i]), "data_offsets");
            at[i] = data + json_integer_value(json_array_get(offsets, 0));
        }
        const json_t *list = json_is_array(texts) ? texts : json_object_get(texts, "texts");
        assert_true(json_array_size(list) > 0);
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *text = json_array_get(list, i);
            int32_t count, expected[CUT];
            memcpy(&count, at[0] + 4 * i, 4);
            memcpy(expected, at[1], 4 * (size_t)count);
            at[1] += 4 * (size_t)count;
            moe_ids ids = encode(tok, json_string_value(text), json_string_length(text),
                                 MOE_TEXT_ADD_SPECIAL);
            if (ids.len > CUT) {
                ids.data[CUT - 1] = ids.data[ids.len - 1];
                ids.len = CUT;
            }
            assert_int_equal(ids.len, count);
            assert_memory_equal(ids.data, expected, 4 * (size_t)count);
            moe_ids_free(&ids);
        }
        json_decref(header);
        free(bytes);
    }
    json_decref(texts);
    moe_tokenizer_free(tok);
}

static void smollm2_prompts_give_the_expected_ids(void **state)
{
    (void)state;
    const char *path = optional_path("MOE_MODELS", ".models", "smollm2-135m-instruct-q4_1.gguf");
    if (path == NULL)
        return;
    moe_tokenizer *tok = from_path(path);
    path = optional_path("MOE_SHARED", "../shared", "fixtures_real/smollm2_golden.json");
    json_t *golden = path != NULL ? load(path) : NULL;
    const json_t *cases = json_object_get(golden, "cases");
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i);
        assert_encodes_json(tok, json_object_get(c, "prompt"), MOE_TEXT_PARSE_SPECIAL,
                            json_object_get(c, "prompt_tokens"));
    }
    json_decref(golden);
    moe_tokenizer_free(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level_bpe_equals_the_reference),
        cmocka_unit_test(wordpiece_equals_the_reference),
        cmocka_unit_test(pretokenizers_equal_the_reference),
        cmocka_unit_test(normalizers_equal_the_reference),
        cmocka_unit_test(merges_go_by_rank_then_from_the_left),
        cmocka_unit_test(ignore_merges_takes_whole_tokens),
        cmocka_unit_test(pieces_of_every_length_merge_alike),
        cmocka_unit_test(long_pieces_take_no_quadratic_time),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(any_text_comes_back_from_bpe),
        cmocka_unit_test(decoding_repairs_cut_characters),
        cmocka_unit_test(bad_input_is_refused),
        cmocka_unit_test(configs_set_beginnings_and_ends),
        cmocka_unit_test(what_is_not_covered_is_refused_by_name),
        cmocka_unit_test(a_normalizer_can_not_fill_memory),
        cmocka_unit_test(gguf_bpe_finds_user_defined_tokens_first),
        cmocka_unit_test(gguf_flags_and_names_decide_on_bos_and_eos),
        cmocka_unit_test(gguf_wordpiece_reads_marked_beginnings),
        cmocka_unit_test(gguf_refusals_say_what_and_why),
        cmocka_unit_test(gguf_without_text_model_works_by_ids),
        cmocka_unit_test(every_named_split_keeps_the_text),
        cmocka_unit_test(published_vocabularies_give_the_expected_ids),
        cmocka_unit_test(fixtures_give_the_expected_ids),
        cmocka_unit_test(pocket_prompts_give_the_expected_ids),
        cmocka_unit_test(minilm_texts_give_the_expected_ids),
        cmocka_unit_test(smollm2_prompts_give_the_expected_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
