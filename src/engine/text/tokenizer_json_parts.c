/*
 * Normalizers, pre-tokenizers and post-processors of tokenizer.json, as the library `tokenizers`
 * defines them.  What is not covered is refused by name; nothing is skipped silently.
 */
#include "tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

#define MAX_NESTING 8 /* of Sequence in Sequence */

/* The pattern of ByteLevel with use_regex, GPT-2's. */
#define BYTE_LEVEL_PATTERN                                                                         \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

/* A boolean member, `otherwise` if it is absent or null. */
static bool flag_of(const json_t *object, const char *key, bool otherwise)
{
    const json_t *value = json_object_get(object, key);
    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

static moe_status fail_type(moe_error *err, const char *what, const char *type)
{
    moe_fail(err, MOE_ERR_UNSUPPORTED, "%s \"%s\" of tokenizer.json is not supported", what, type);
    moe_hint(err, "Byte-level BPE and WordPiece tokenizers are supported.");
    return MOE_ERR_UNSUPPORTED;
}

static moe_status fail_broken(moe_error *err, const char *what)
{
    return moe_fail(err, MOE_ERR_FORMAT, "%s of tokenizer.json is broken", what);
}

/* A pattern member: {"Regex": "…"} or {"String": "…"}. */
static moe_status read_pattern(const json_t *owner, moe_expression **out, moe_error *err)
{
    const json_t *pattern = json_object_get(owner, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *literal = json_object_get(pattern, "String");
    if (json_is_string(regex))
        return moe_expression_create(json_string_value(regex), json_string_length(regex), out, err);
    if (!json_is_string(literal))
        return fail_broken(err, "a pattern");
    return moe_expression_create_literal(json_string_value(literal), json_string_length(literal),
                                         out, err);
}

/* --- normalizers ------------------------------------------------------------------------------ */

/* Copies a text member into the step. */
static moe_status read_step_text(const json_t *json, const char *key, moe_normal_step *step,
                                 moe_error *err)
{
    const json_t *text = json_object_get(json, key);
    if (!json_is_string(text))
        return fail_broken(err, "a normalizer");
    step->text_len = json_string_length(text);
    step->text = malloc(step->text_len + 1);
    if (step->text == NULL)
        return moe_fail_memory(err, step->text_len + 1);
    memcpy(step->text, json_string_value(text), step->text_len);
    return MOE_OK;
}

static moe_status add_normalizer(const json_t *json, int depth, moe_normalizer *normalizer,
                                 moe_error *err)
{
    static const struct {
        const char *type;
        moe_normal_kind kind;
    } kinds[] = {
        {"NFC", MOE_NORMAL_NFC},
        {"NFD", MOE_NORMAL_NFD},
        {"NFKC", MOE_NORMAL_NFKC},
        {"NFKD", MOE_NORMAL_NFKD},
        {"Lowercase", MOE_NORMAL_LOWERCASE},
        {"StripAccents", MOE_NORMAL_STRIP_ACCENTS},
        {"Strip", MOE_NORMAL_STRIP},
        {"Prepend", MOE_NORMAL_PREPEND},
        {"Replace", MOE_NORMAL_REPLACE},
        {"BertNormalizer", MOE_NORMAL_BERT},
    };
    const char *type = text_of(json, "type");
    moe_status status = MOE_OK;
    if (strcmp(type, "Sequence") == 0) {
        const json_t *parts = json_object_get(json, "normalizers");
        if (depth == MAX_NESTING || !json_is_array(parts))
            return fail_broken(err, "a sequence of normalizers");
        for (size_t i = 0; status == MOE_OK && i < json_array_size(parts); i++)
            status = add_normalizer(json_array_get(parts, i), depth + 1, normalizer, err);
        return status;
    }
    moe_normal_step step = {
        .strip_left = flag_of(json, "strip_left", true),
        .strip_right = flag_of(json, "strip_right", true),
        .clean_text = flag_of(json, "clean_text", true),
        .pad_cjk = flag_of(json, "handle_chinese_chars", true),
        .lowercase = flag_of(json, "lowercase", true),
    };
    step.strip_accents = flag_of(json, "strip_accents", step.lowercase);
    size_t i = 0;
    while (i < sizeof(kinds) / sizeof(*kinds) && strcmp(type, kinds[i].type) != 0)
        i++;
    if (i == sizeof(kinds) / sizeof(*kinds))
        return fail_type(err, "normalizer", type);
    step.kind = kinds[i].kind;
    if (step.kind == MOE_NORMAL_PREPEND) {
        status = read_step_text(json, "prepend", &step, err);
    } else if (step.kind == MOE_NORMAL_REPLACE) {
        status = read_pattern(json, &step.expression, err);
        if (status == MOE_OK)
            status = read_step_text(json, "content", &step, err);
    }
    if (status == MOE_OK)
        return moe_normalizer_add(normalizer, step, err);
    moe_expression_free(step.expression);
    free(step.text);
    return status;
}

moe_status moe_json_normalizer(const json_t *json, moe_normalizer *normalizer, moe_error *err)
{
    return json == NULL || json_is_null(json) ? MOE_OK : add_normalizer(json, 0, normalizer, err);
}

/* --- pre-tokenizers --------------------------------------------------------------------------- */

static moe_status read_behavior(const json_t *json, moe_split_behavior *out, moe_error *err)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name = text_of(json, "behavior");
    for (int i = 0; i < 5; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (moe_split_behavior)i;
            return MOE_OK;
        }
    }
    return fail_type(err, "split behavior", name);
}

static moe_status add_class(moe_pretokenizer *pretokenizer, moe_char_class is_match,
                            moe_split_behavior behavior, moe_error *err)
{
    moe_split split = {.kind = MOE_SPLIT_CLASS, .is_match = is_match, .behavior = behavior};
    return moe_pretokenizer_add(pretokenizer, split, err);
}

static moe_status add_split(const json_t *json, moe_pretokenizer *pretokenizer, moe_error *err)
{
    moe_split split = {.kind = MOE_SPLIT_EXPRESSION, .invert = flag_of(json, "invert", false)};
    moe_status status = read_behavior(json, &split.behavior, err);
    if (status == MOE_OK)
        status = read_pattern(json, &split.expression, err);
    return status == MOE_OK ? moe_pretokenizer_add(pretokenizer, split, err) : status;
}

static moe_status add_byte_level(const json_t *json, moe_pretokenizer *pretokenizer, moe_error *err)
{
    moe_status status = MOE_OK;
    if (flag_of(json, "add_prefix_space", true))
        status =
            moe_pretokenizer_add(pretokenizer, (moe_split){.kind = MOE_SPLIT_PREFIX_SPACE}, err);
    if (status == MOE_OK && flag_of(json, "use_regex", true))
        status = moe_pretokenizer_add_pattern(pretokenizer, BYTE_LEVEL_PATTERN, err);
    if (status == MOE_OK)
        status = moe_pretokenizer_add(pretokenizer, (moe_split){.kind = MOE_SPLIT_BYTE_LEVEL}, err);
    return status;
}

static moe_status add_pretokenizer(const json_t *json, int depth, moe_pretokenizer *pretokenizer,
                                   moe_error *err)
{
    const char *type = text_of(json, "type");
    moe_status status = MOE_OK;
    if (strcmp(type, "Sequence") == 0) {
        const json_t *parts = json_object_get(json, "pretokenizers");
        if (depth == MAX_NESTING || !json_is_array(parts))
            return fail_broken(err, "a sequence of pre-tokenizers");
        for (size_t i = 0; status == MOE_OK && i < json_array_size(parts); i++)
            status = add_pretokenizer(json_array_get(parts, i), depth + 1, pretokenizer, err);
        return status;
    }
    if (strcmp(type, "Split") == 0)
        return add_split(json, pretokenizer, err);
    if (strcmp(type, "ByteLevel") == 0)
        return add_byte_level(json, pretokenizer, err);
    if (strcmp(type, "Digits") == 0)
        return add_class(pretokenizer, moe_char_is_numeric,
                         flag_of(json, "individual_digits", false) ? MOE_SPLIT_ISOLATED
                                                                   : MOE_SPLIT_CONTIGUOUS,
                         err);
    if (strcmp(type, "Punctuation") == 0) {
        moe_split_behavior behavior = MOE_SPLIT_ISOLATED;
        if (json_object_get(json, "behavior") != NULL)
            status = read_behavior(json, &behavior, err);
        return status == MOE_OK ? add_class(pretokenizer, moe_char_is_punctuation, behavior, err)
                                : status;
    }
    /* These begin by dropping the spaces; Whitespace then cuts between words and other characters.
     */
    bool words = strcmp(type, "Whitespace") == 0, bert = strcmp(type, "BertPreTokenizer") == 0;
    if (!words && !bert && strcmp(type, "WhitespaceSplit") != 0)
        return fail_type(err, "pre-tokenizer", type);
    status = add_class(pretokenizer, moe_char_is_space, MOE_SPLIT_REMOVED, err);
    if (status == MOE_OK && words)
        status = add_class(pretokenizer, moe_char_is_word, MOE_SPLIT_CONTIGUOUS, err);
    if (status == MOE_OK && bert)
        status = add_class(pretokenizer, moe_char_is_punctuation, MOE_SPLIT_ISOLATED, err);
    return status;
}

moe_status moe_json_pretokenizer(const json_t *json, moe_pretokenizer *pretokenizer, moe_error *err)
{
    return json == NULL || json_is_null(json) ? MOE_OK
                                              : add_pretokenizer(json, 0, pretokenizer, err);
}

/* --- post-processors -------------------------------------------------------------------------- */

static moe_status add_id(moe_ids *ids, const json_t *id, const moe_vocab *vocab, moe_error *err)
{
    json_int_t value = json_integer_value(id);
    if (!json_is_integer(id) || value < 0 || value >= vocab->n)
        return fail_broken(err, "the post-processor");
    return moe_ids_add(ids, (int32_t)value) ? MOE_OK : moe_fail_memory(err, sizeof(int32_t));
}

/* {"sep": [text, id], "cls": [text, id]}. */
static moe_status add_cls_sep(const json_t *json, const moe_vocab *vocab, moe_ids *before,
                              moe_ids *after, moe_error *err)
{
    const json_t *cls = json_array_get(json_object_get(json, "cls"), 1);
    const json_t *sep = json_array_get(json_object_get(json, "sep"), 1);
    moe_status status = add_id(before, cls, vocab, err);
    return status == MOE_OK ? add_id(after, sep, vocab, err) : status;
}

/* "single": special tokens around one {"Sequence": {"id": "A"}}; their ids are in "special_tokens".
 */
static moe_status add_template(const json_t *json, const moe_vocab *vocab, moe_ids *before,
                               moe_ids *after, moe_error *err)
{
    const json_t *pieces = json_object_get(json, "single");
    bool seen = false;
    for (size_t i = 0; i < json_array_size(pieces); i++) {
        const json_t *piece = json_array_get(pieces, i);
        if (json_object_get(piece, "Sequence") != NULL) {
            if (seen)
                return fail_broken(err, "the post-processor");
            seen = true;
            continue;
        }
        const char *name = text_of(json_object_get(piece, "SpecialToken"), "id");
        const json_t *ids =
            json_object_get(json_object_get(json_object_get(json, "special_tokens"), name), "ids");
        if (!json_is_array(ids))
            return fail_broken(err, "the post-processor");
        for (size_t k = 0; k < json_array_size(ids); k++) {
            moe_status status = add_id(seen ? after : before, json_array_get(ids, k), vocab, err);
            if (status != MOE_OK)
                return status;
        }
    }
    return seen ? MOE_OK : fail_broken(err, "the post-processor");
}

/* Puts ids in front of *list. */
static bool put_before(moe_ids *list, const moe_ids *ids)
{
    moe_ids joined = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < ids->len + list->len; i++)
        ok = moe_ids_add(&joined, i < ids->len ? ids->data[i] : list->data[i - ids->len]);
    if (!ok) {
        moe_ids_free(&joined);
        return false;
    }
    moe_ids_free(list);
    *list = joined;
    return true;
}

/* Each post-processor goes around what the ones before it made. */
static moe_status add_post_processor(const json_t *json, int depth, const moe_vocab *vocab,
                                     moe_ids *prefix, moe_ids *suffix, moe_error *err)
{
    const char *type = text_of(json, "type");
    moe_status status = MOE_OK;
    if (strcmp(type, "ByteLevel") == 0)
        return MOE_OK;
    if (strcmp(type, "Sequence") == 0) {
        const json_t *parts = json_object_get(json, "processors");
        if (depth == MAX_NESTING || !json_is_array(parts))
            return fail_broken(err, "a sequence of post-processors");
        for (size_t i = 0; status == MOE_OK && i < json_array_size(parts); i++)
            status =
                add_post_processor(json_array_get(parts, i), depth + 1, vocab, prefix, suffix, err);
        return status;
    }
    moe_ids before = {0};
    if (strcmp(type, "TemplateProcessing") == 0)
        status = add_template(json, vocab, &before, suffix, err);
    else if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        status = add_cls_sep(json, vocab, &before, suffix, err);
    else
        status = fail_type(err, "post-processor", type);
    if (status == MOE_OK && !put_before(prefix, &before))
        status = moe_fail_memory(err, before.len * sizeof(int32_t));
    moe_ids_free(&before);
    return status;
}

moe_status moe_json_post_processor(const json_t *json, const moe_vocab *vocab, moe_ids *prefix,
                                   moe_ids *suffix, moe_error *err)
{
    if (json == NULL || json_is_null(json))
        return MOE_OK;
    return add_post_processor(json, 0, vocab, prefix, suffix, err);
}
