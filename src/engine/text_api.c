/*
 * The text functions of the public interface: tokenizer and chat template of an open model.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model_internal.h"
#include "text/chat_template.h"

moe_status moe_tokenize(const moe_model *model, const char *text, size_t len, unsigned flags,
                        int32_t **ids, size_t *n_ids, moe_error *err)
{
    moe_ids list = {0};
    moe_status status = moe_tokenizer_encode(model->tokenizer, text, len, flags, &list, err);

    *ids = NULL;
    *n_ids = 0;
    if (status == MOE_OK && list.data == NULL) {
        list.data = malloc(sizeof(int32_t)); /* no ids, but a pointer to free */
        if (list.data == NULL)
            status = moe_fail_memory(err, sizeof(int32_t));
    }
    if (status != MOE_OK) {
        moe_ids_free(&list);
        return status;
    }
    *ids = list.data;
    *n_ids = list.len;
    return MOE_OK;
}

moe_status moe_detokenize(const moe_model *model, const int32_t *ids, size_t n_ids, unsigned flags,
                          char **text, size_t *len, moe_error *err)
{
    moe_buf buf = {0};
    moe_status status = moe_tokenizer_decode(model->tokenizer, ids, n_ids, flags, &buf, err);

    *text = NULL;
    *len = 0;
    if (status == MOE_OK && !moe_buf_add(&buf, "", 0))
        status = moe_fail_memory(err, 1);
    if (status != MOE_OK) {
        moe_buf_free(&buf);
        return status;
    }
    *text = buf.data;
    *len = buf.len;
    return MOE_OK;
}

static json_t *parse(const char *text, const char *what, moe_status *status, moe_error *err)
{
    json_error_t where;
    json_t *json = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, &where);

    if (json == NULL)
        *status = moe_fail(err, MOE_ERR_INVALID, "%s is not valid JSON: %s", what, where.text);
    return json;
}

/* The options that are template variables, or have a meaning of their own. */
static const char *const known_options[] = {
    "tools", "add_generation_prompt", "enable_thinking", "template", "variables", "system"};

static moe_status check_options(const json_t *options, moe_error *err)
{
    const char *key;
    json_t *value;

    if (!json_is_object(options))
        return moe_fail(err, MOE_ERR_INVALID, "chat options must be a JSON object");
    json_object_foreach((json_t *)options, key, value)
    {
        bool known = false;

        for (size_t i = 0; i < sizeof(known_options) / sizeof(known_options[0]); i++)
            known |= strcmp(key, known_options[i]) == 0;
        if (!known) {
            moe_fail(err, MOE_ERR_INVALID, "unrecognized chat option \"%s\"", key);
            return moe_hint(err,
                            "Options are tools, add_generation_prompt, enable_thinking, template, "
                            "variables and system.");
        }
    }
    if (json_object_get(options, "template") &&
        !json_is_string(json_object_get(options, "template")))
        return moe_fail(err, MOE_ERR_INVALID, "chat option \"template\" must be a string");
    if (json_object_get(options, "variables") &&
        !json_is_object(json_object_get(options, "variables")))
        return moe_fail(err, MOE_ERR_INVALID, "chat option \"variables\" must be an object");
    if (json_object_get(options, "system") && !json_is_string(json_object_get(options, "system")))
        return moe_fail(err, MOE_ERR_INVALID, "chat option \"system\" must be a string");
    return MOE_OK;
}

static bool lacks_content(const json_t *message)
{
    const json_t *content = json_object_get(message, "content");

    return content == NULL || json_is_null(content);
}

/* The key that a message lacks, or NULL.  What an assistant did or thought may stand in place of
 * what it said. */
static const char *missing_key(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    const bool more = json_object_get(message, "tool_calls") != NULL ||
                      json_object_get(message, "reasoning_content") != NULL;

    if (role == NULL)
        return "role";
    if (lacks_content(message) && !(more && strcmp(role, "assistant") == 0))
        return "content";
    return NULL;
}

/* Checks what all templates expect of messages.  Templates write a missing or null content as
 * nothing, as "None", or fail without naming the message. */
static moe_status check_messages(const json_t *messages, moe_error *err)
{
    size_t i;
    json_t *message;

    if (!json_is_array(messages)) {
        moe_fail(err, MOE_ERR_INVALID, "messages must be a JSON array");
        return moe_hint(err, "For example [{\"role\": \"user\", \"content\": \"Hello\"}].");
    }
    if (json_array_size(messages) == 0) {
        moe_fail(err, MOE_ERR_INVALID, "there are no messages");
        return moe_hint(err, "For example [{\"role\": \"user\", \"content\": \"Hello\"}].");
    }
    json_array_foreach((json_t *)messages, i, message)
    {
        const char *key = missing_key(message);

        if (!json_is_object(message))
            moe_fail(err, MOE_ERR_INVALID, "message %zu is not an object", i + 1);
        else if (key != NULL)
            moe_fail(err, MOE_ERR_INVALID, "message %zu has no \"%s\"", i + 1, key);
        else
            continue;
        return moe_hint(
            err, "A message is like {\"role\": \"user\", \"content\": \"Hello\"}; only an "
                 "assistant's with \"tool_calls\" or \"reasoning_content\" may lack a content.");
    }
    return MOE_OK;
}

/* Adds to the error of a template what may be the cause: a message without content, where it may
 * be missing but this template wants it. */
static void suspect_content(const json_t *messages, const json_t *options, moe_error *err)
{
    const size_t first = json_object_get(options, "system") != NULL ? 0 : 1;
    size_t i;
    json_t *message;

    json_array_foreach((json_t *)messages, i, message)
    {
        if (lacks_content(message)) {
            moe_hint(err, "Message %zu has no \"content\", which this template may want: try \"\".",
                     i + first);
            return;
        }
    }
}

/* Puts the system prompt of the options in front; false if memory is short. */
static bool add_system(json_t *messages, const json_t *options)
{
    json_t *system = json_object_get(options, "system");

    return system == NULL ||
           json_array_insert_new(messages, 0,
                                 json_pack("{s:s, s:O}", "role", "system", "content", system)) == 0;
}

/* The template's variables, in the order that transformers gives them; NULL when memory is short.
 */
static json_t *variables_of(const moe_model *model, json_t *messages, const json_t *options)
{
    static const char *const passed[] = {"tools", "enable_thinking"};
    json_t *vars = json_object(), *extra = json_object_get(options, "variables");
    json_t *prompt = json_object_get(options, "add_generation_prompt");
    bool ok = vars != NULL && json_object_set(vars, "messages", messages) == 0;

    ok = ok && json_object_set_new(vars, "add_generation_prompt",
                                   json_boolean(prompt == NULL || json_is_true(prompt))) == 0;
    ok = ok && json_object_set_new(vars, "bos_token",
                                   json_string(moe_tokenizer_bos_text(model->tokenizer))) == 0;
    ok = ok && json_object_set_new(vars, "eos_token",
                                   json_string(moe_tokenizer_eos_text(model->tokenizer))) == 0;
    for (size_t i = 0; ok && i < 2; i++)
        if (json_object_get(options, passed[i]) != NULL)
            ok = json_object_set(vars, passed[i], json_object_get(options, passed[i])) == 0;
    if (ok && extra != NULL)
        ok = json_object_update(vars, extra) == 0;
    if (!ok) {
        json_decref(vars);
        return NULL;
    }
    return vars;
}

moe_status moe_chat_render(const moe_model *model, const char *messages_text,
                           const char *options_text, char **text, size_t *len, moe_error *err)
{
    moe_status status = MOE_OK;
    json_t *messages = parse(messages_text, "messages", &status, err);
    json_t *options = messages == NULL ? NULL
                                       : parse(options_text != NULL ? options_text : "{}",
                                               "chat options", &status, err);
    json_t *vars = NULL;
    const char *template = model->chat_template;
    moe_buf buf = {0};

    *text = NULL;
    *len = 0;
    if (status == MOE_OK)
        status = check_messages(messages, err);
    if (status == MOE_OK)
        status = check_options(options, err);
    if (status == MOE_OK && json_object_get(options, "template") != NULL)
        template = json_string_value(json_object_get(options, "template"));
    if (status == MOE_OK && template == NULL && model->info.is_encoder) {
        status = moe_fail(err, MOE_ERR_INVALID,
                          "the model is an encoder: it makes embeddings, not text");
        moe_hint(err, "Use moe.embed with this model, or another model to chat.");
    } else if (status == MOE_OK && template == NULL) {
        status = moe_fail(err, MOE_ERR_UNSUPPORTED, "the model has no chat template");
        moe_hint(err, "Use moe.generate, or give one in the option \"template\".");
    }
    if (status == MOE_OK) {
        if (add_system(messages, options))
            vars = variables_of(model, messages, options);
        if (vars == NULL)
            status = moe_fail_memory(err, strlen(messages_text));
    }
    if (status == MOE_OK)
        status =
            moe_template_render(template, vars, (int64_t)time(NULL), &model->cancel, &buf, err);
    if (status == MOE_ERR_TEMPLATE)
        suspect_content(messages, options, err);
    if (status == MOE_OK && !moe_buf_add(&buf, "", 0))
        status = moe_fail_memory(err, 1);
    if (status == MOE_OK) {
        *text = buf.data;
        *len = buf.len;
    } else {
        moe_buf_free(&buf);
    }
    json_decref(vars);
    json_decref(options);
    json_decref(messages);
    return status;
}
