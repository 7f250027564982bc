/*
 * Renders chat templates.
 *
 * A rendering is: cut the template into tokens, make a tree of them, put the variables over the
 * global functions, run the tree.  All of it lives in the arenas of one jinja state that is freed
 * at the end; the text grows in the caller's buffer, which is cut back on failure.  Numbers are
 * read and written in the C locale's form: a host that sets LC_NUMERIC otherwise gets its own.
 */
#include "chat_template.h"

#include "jinja/jinja_eval.h"
#include "jinja/jinja_lib.h"

#include <string.h>

static bool add_variables(jinja *j, jinja_scope *scope, const json_t *variables)
{
    jinja_value all;
    if (!moe_jinja_from_json(j, variables, &all))
        return false;
    for (size_t i = 0; i < all.d->len; i++) {
        if (!moe_jinja_scope_set(j, scope, all.d->entries[i].key.s, all.d->entries[i].value))
            return false;
    }
    return true;
}

static bool render(jinja *j, const char *source, const json_t *variables)
{
    size_t len = strlen(source);
    jinja_value names;
    jinja_token *tokens;
    if (!moe_jinja_utf8_valid(source, len))
        return moe_jinja_fail(j, "the template is not valid UTF-8");
    if (!moe_jinja_dict_new(j, &names))
        return false;
    j->names = names.d;
    if (!moe_jinja_lex(j, source, len, &tokens))
        return false;
    const jinja_node *tree = moe_jinja_parse(j, tokens);
    jinja_scope *globals = moe_jinja_scope_new(j, NULL);
    if (tree == NULL || globals == NULL || !moe_jinja_add_globals(j, globals) ||
        !add_variables(j, globals, variables))
        return false;
    j->root = moe_jinja_scope_new(j, globals);
    return j->root != NULL && moe_jinja_exec(j, j->root, &tree->body) == JINJA_NEXT;
}

moe_status moe_template_render(const char *source, const json_t *variables, int64_t now,
                               const moe_cancel *cancel, moe_buf *out, moe_error *err)
{
    jinja j = {.out = out, .cancel = cancel, .now = now};
    size_t start = out->len;
    moe_status status = MOE_OK;
    if (!json_is_object(variables))
        return moe_fail(err, MOE_ERR_INVALID, "the variables of a template must be a JSON object");
    if (!render(&j, source, variables)) {
        out->len = start;
        if (j.status != MOE_ERR_TEMPLATE || j.plain || j.line == 0)
            status = moe_fail(err, j.status, "%s", j.message);
        else
            status = moe_fail(err, j.status, "chat template, line %d: %s", j.line, j.message);
    }
    if (out->data != NULL)
        out->data[out->len] = '\0'; /* texts cut off the end took the old zero along */
    moe_jinja_free(&j);
    return status;
}
