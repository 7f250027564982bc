/*
 * Evaluates expressions by walking the tree, and calls what can be called.
 *
 * Every node costs a step and a level of nesting.  A failure notes the line of the innermost node.
 */
#include "jinja_eval.h"
#include "jinja_lib.h"

#include <stdio.h>
#include <string.h>

/* --- scopes ----------------------------------------------------------------------------------- */

jinja_scope *moe_jinja_scope_new(jinja *j, jinja_scope *parent)
{
    jinja_scope *scope = moe_jinja_alloc(j, 1, sizeof *scope);
    if (scope != NULL)
        scope->parent = parent;
    return scope;
}

bool moe_jinja_scope_set(jinja *j, jinja_scope *scope, const jinja_string *name, jinja_value value)
{
    for (size_t i = 0; i < scope->len; i++) {
        if (scope->variables[i].name == name) {
            scope->variables[i].value = value;
            return true;
        }
    }
    if (!moe_jinja_step(j, scope->len / 16))
        return false;
    if (scope->len == scope->cap) {
        size_t cap = scope->cap == 0 ? 4 : scope->cap * 2;
        jinja_variable *variables = moe_jinja_alloc(j, cap, sizeof *variables);
        if (variables == NULL)
            return false;
        if (scope->len > 0)
            memcpy(variables, scope->variables, scope->len * sizeof *variables);
        scope->variables = variables;
        scope->cap = cap;
    }
    scope->variables[scope->len++] = (jinja_variable){name, value};
    return true;
}

static bool look_up(jinja *j, const jinja_scope *scope, jinja_value name, jinja_value *out)
{
    for (; scope != NULL; scope = scope->parent) {
        for (size_t i = 0; i < scope->len; i++) {
            if (scope->variables[i].name == name.s) {
                *out = scope->variables[i].value;
                return true;
            }
        }
        if (!moe_jinja_step(j, scope->len / 16))
            return false;
    }
    return moe_jinja_undefined_name(j, name, out);
}

/* --- calls ------------------------------------------------------------------------------------ */

static bool is_param(const char *param, size_t len, const jinja_string *name)
{
    return name->len == len && memcmp(param, name->data, len) == 0;
}

bool moe_jinja_call_builtin(jinja *j, const jinja_builtin *builtin, jinja_value self,
                            const jinja_args *args, jinja_value *out)
{
    jinja_value a[JINJA_MAX_PARAMS];
    if (builtin->params == NULL)
        return builtin->fn(j, self, args, NULL, out);
    size_t n_params = 0, n_named = 0;
    for (const char *at = builtin->params; *at != '\0';) {
        size_t len = strcspn(at, "? "), n = n_params++;
        bool optional = at[len] == '?';
        a[n] = n < args->n_pos ? args->pos[n] : jinja_missing();
        for (size_t i = 0; i < args->n_named; i++) {
            if (!is_param(at, len, args->names[i].s))
                continue;
            if (n < args->n_pos)
                return moe_jinja_fail(j, "%s() got multiple values for argument '%.*s'",
                                      builtin->name, (int)len, at);
            a[n] = args->values[i];
            n_named++;
        }
        if (a[n].kind == JINJA_MISSING && !optional)
            return moe_jinja_fail(j, "%s() needs the argument '%.*s'", builtin->name, (int)len, at);
        at += len + optional;
        at += strspn(at, " ");
    }
    if (args->n_pos > n_params)
        return moe_jinja_fail(j, "%s() takes at most %zu arguments", builtin->name, n_params);
    if (args->n_named > n_named)
        return moe_jinja_fail(j, "%s() got an unexpected keyword argument", builtin->name);
    return builtin->fn(j, self, args, a, out);
}

static bool call_joiner(jinja *j, jinja_joiner *joiner, jinja_value *out)
{
    if (joiner->used) {
        *out = joiner->separator;
        return true;
    }
    joiner->used = true;
    return moe_jinja_string_share(j, "", 0, false, out);
}

static bool call_value(jinja *j, jinja_value callee, const jinja_args *args, jinja_value *out)
{
    switch (callee.kind) {
    case JINJA_METHOD:
        return moe_jinja_call_builtin(j, callee.method->builtin, callee.method->self, args, out);
    case JINJA_FUNCTION:
        return moe_jinja_call_builtin(j, callee.function, jinja_none(), args, out);
    case JINJA_MACRO:
        return moe_jinja_macro_call(j, callee.macro, args, out);
    case JINJA_JOINER:
        return call_joiner(j, callee.joiner, out);
    case JINJA_LOOP:
        if (args->n_pos != 1 || args->n_named != 0)
            return moe_jinja_fail(j, "loop() takes one argument");
        return moe_jinja_loop_call(j, callee.loop, args->pos[0], out);
    case JINJA_UNDEFINED:
        return moe_jinja_fail_undefined(j, callee);
    default:
        return moe_jinja_fail(j, "'%s' object is not callable", moe_jinja_type_name(callee));
    }
}

/* --- arguments -------------------------------------------------------------------------------- */

typedef struct arg_lists {
    jinja_array pos, names, values;
    size_t pos_cap, names_cap, values_cap;
} arg_lists;

static bool add_named(jinja *j, arg_lists *lists, jinja_value name, jinja_value value)
{
    if (!moe_jinja_step(j, lists->names.len / 8))
        return false;
    for (size_t i = 0; i < lists->names.len; i++) {
        bool equal;
        if (!moe_jinja_equal(j, lists->names.items[i], name, &equal))
            return false;
        if (equal)
            return moe_jinja_fail(j, "got multiple values for keyword argument '%.*s'",
                                  name.s->len < 60 ? (int)name.s->len : 60, name.s->data);
    }
    return moe_jinja_array_add(j, &lists->names, &lists->names_cap, name) &&
           moe_jinja_array_add(j, &lists->values, &lists->values_cap, value);
}

static bool add_star(jinja *j, arg_lists *lists, jinja_value v)
{
    jinja_value list;
    if (!moe_jinja_list_of(j, v, &list))
        return false;
    for (size_t i = 0; i < list.a->len; i++) {
        if (!moe_jinja_array_add(j, &lists->pos, &lists->pos_cap, list.a->items[i]))
            return false;
    }
    return true;
}

static bool add_star_star(jinja *j, arg_lists *lists, jinja_value v)
{
    if (v.kind != JINJA_DICT)
        return moe_jinja_fail(j, "argument after ** must be a mapping, not %s",
                              moe_jinja_type_name(v));
    for (size_t i = 0; i < v.d->len; i++) {
        if (v.d->entries[i].key.kind != JINJA_STRING)
            return moe_jinja_fail(j, "keywords must be strings");
        if (!add_named(j, lists, v.d->entries[i].key, v.d->entries[i].value))
            return false;
    }
    return true;
}

static bool eval_args(jinja *j, jinja_scope *scope, const jinja_nodes *nodes, jinja_value caller,
                      jinja_args *args)
{
    arg_lists lists = {0};
    for (size_t i = 0; i < nodes->len; i++) {
        const jinja_node *node = nodes->items[i];
        bool wrapped = node->kind == JINJA_NODE_KEYWORD || node->kind == JINJA_NODE_STAR ||
                       node->kind == JINJA_NODE_STARSTAR,
             ok;
        jinja_value v;
        if (!moe_jinja_eval(j, scope, wrapped ? node->a : node, &v))
            return false;
        if (node->kind == JINJA_NODE_KEYWORD)
            ok = add_named(j, &lists, node->value, v);
        else if (node->kind == JINJA_NODE_STAR)
            ok = add_star(j, &lists, v);
        else if (node->kind == JINJA_NODE_STARSTAR)
            ok = add_star_star(j, &lists, v);
        else
            ok = moe_jinja_array_add(j, &lists.pos, &lists.pos_cap, v);
        if (!ok)
            return false;
    }
    if (caller.kind != JINJA_MISSING) {
        jinja_value name;
        if (!moe_jinja_intern(j, "caller", 6, &name) || !add_named(j, &lists, name, caller))
            return false;
    }
    *args = (jinja_args){lists.pos.items, lists.pos.len, lists.names.items, lists.values.items,
                         lists.names.len};
    return true;
}

bool moe_jinja_eval_call(jinja *j, jinja_scope *scope, const jinja_node *node, jinja_value caller,
                         jinja_value *out)
{
    jinja_value callee;
    jinja_args args;
    return moe_jinja_eval(j, scope, node->a, &callee) &&
           eval_args(j, scope, &node->list, caller, &args) && call_value(j, callee, &args, out);
}

/* --- kinds of expressions --------------------------------------------------------------------- */

static bool eval_filter_or_test(jinja *j, jinja_scope *scope, const jinja_node *node,
                                jinja_value *out)
{
    jinja_value self = j->block_text;
    jinja_args args;
    if (node->builtin == NULL)
        return moe_jinja_fail(
            j, "no %s named '%.*s' found", node->kind == JINJA_NODE_FILTER ? "filter" : "test",
            node->value.s->len < 60 ? (int)node->value.s->len : 60, node->value.s->data);
    return (node->a == NULL || moe_jinja_eval(j, scope, node->a, &self)) &&
           eval_args(j, scope, &node->list, jinja_missing(), &args) &&
           moe_jinja_call_builtin(j, node->builtin, self, &args, out);
}

static bool eval_items(jinja *j, jinja_scope *scope, const jinja_node *node, jinja_value *out)
{
    jinja_kind kind = node->kind == JINJA_NODE_LIST ? JINJA_LIST : JINJA_TUPLE;
    if (!moe_jinja_array_new(j, kind, node->list.len, out))
        return false;
    for (size_t i = 0; i < node->list.len; i++) {
        if (!moe_jinja_eval(j, scope, node->list.items[i], &out->a->items[i]))
            return false;
    }
    return true;
}

static bool eval_dict(jinja *j, jinja_scope *scope, const jinja_node *node, jinja_value *out)
{
    if (!moe_jinja_dict_new(j, out))
        return false;
    for (size_t i = 0; i + 1 < node->list.len; i += 2) {
        jinja_value key, value;
        if (!moe_jinja_eval(j, scope, node->list.items[i], &key) ||
            !moe_jinja_eval(j, scope, node->list.items[i + 1], &value) ||
            !moe_jinja_dict_set(j, out->d, key, value))
            return false;
    }
    return true;
}

static bool eval_slice(jinja *j, jinja_scope *scope, const jinja_node *node, jinja_value *out)
{
    const jinja_node *slice = node->b, *const parts[3] = {slice->a, slice->b, slice->c};
    jinja_value object, bounds[3];
    if (!moe_jinja_eval(j, scope, node->a, &object))
        return false;
    for (int i = 0; i < 3; i++) {
        bounds[i] = jinja_none();
        if (parts[i] != NULL && !moe_jinja_eval(j, scope, parts[i], &bounds[i]))
            return false;
    }
    return moe_jinja_slice(j, object, bounds[0], bounds[1], bounds[2], out);
}

static bool eval_compare(jinja *j, jinja_scope *scope, const jinja_node *node, jinja_value *out)
{
    jinja_value left, right;
    bool result = true;
    if (!moe_jinja_eval(j, scope, node->a, &left))
        return false;
    for (size_t i = 0; result && i < node->list.len; i++) {
        const jinja_node *operand = node->list.items[i];
        if (!moe_jinja_eval(j, scope, operand->a, &right) ||
            !moe_jinja_compare(j, operand->op, left, right, &result))
            return false;
        left = right;
    }
    *out = jinja_bool(result);
    return true;
}

/* All texts first and then their sum: only so can the sum grow in place. */
static bool eval_concat(jinja *j, jinja_scope *scope, const jinja_node *node, jinja_value *out)
{
    jinja_value texts;
    if (!moe_jinja_array_new(j, JINJA_LIST, node->list.len, &texts))
        return false;
    for (size_t i = 0; i < node->list.len; i++) {
        jinja_value v;
        if (!moe_jinja_eval(j, scope, node->list.items[i], &v) ||
            !moe_jinja_to_string(j, v, &texts.a->items[i]))
            return false;
    }
    *out = texts.a->items[0];
    for (size_t i = 1; i < node->list.len; i++) {
        if (!moe_jinja_string_concat(j, out->s, texts.a->items[i].s, false, out))
            return false;
    }
    return true;
}

static bool eval_condition(jinja *j, jinja_scope *scope, const jinja_node *node, jinja_value *out)
{
    enum { SIZE = 96 };
    jinja_value test;
    if (!moe_jinja_eval(j, scope, node->a, &test))
        return false;
    if (moe_jinja_truth(test))
        return moe_jinja_eval(j, scope, node->b, out);
    if (node->c != NULL)
        return moe_jinja_eval(j, scope, node->c, out);
    char *hint = moe_jinja_alloc(j, SIZE, 1);
    if (hint == NULL)
        return false;
    snprintf(hint, SIZE, "the inline if-expression evaluated to false and has no else");
    return moe_jinja_undefined_hint(j, hint, out);
}

static bool eval_binary(jinja *j, jinja_scope *scope, const jinja_node *node, jinja_value *out)
{
    jinja_value a, b;
    return moe_jinja_eval(j, scope, node->a, &a) && moe_jinja_eval(j, scope, node->b, &b) &&
           moe_jinja_binary(j, node->op, a, b, out);
}

static bool eval_node(jinja *j, jinja_scope *scope, const jinja_node *node, jinja_value *out)
{
    jinja_value v;
    switch (node->kind) {
    case JINJA_NODE_CONST:
        *out = node->value;
        return true;
    case JINJA_NODE_NAME:
        return look_up(j, scope, node->value, out);
    case JINJA_NODE_LIST:
    case JINJA_NODE_TUPLE:
        return eval_items(j, scope, node, out);
    case JINJA_NODE_DICT:
        return eval_dict(j, scope, node, out);
    case JINJA_NODE_GETATTR:
        return moe_jinja_eval(j, scope, node->a, &v) && moe_jinja_getattr(j, v, node->value, out);
    case JINJA_NODE_GETITEM: {
        jinja_value key;
        if (node->b->kind == JINJA_NODE_SLICE)
            return eval_slice(j, scope, node, out);
        return moe_jinja_eval(j, scope, node->a, &v) && moe_jinja_eval(j, scope, node->b, &key) &&
               moe_jinja_getitem(j, v, key, out);
    }
    case JINJA_NODE_CALL:
        return moe_jinja_eval_call(j, scope, node, jinja_missing(), out);
    case JINJA_NODE_FILTER:
    case JINJA_NODE_TEST:
        return eval_filter_or_test(j, scope, node, out);
    case JINJA_NODE_UNARY:
        return moe_jinja_eval(j, scope, node->a, &v) && moe_jinja_unary(j, node->op, v, out);
    case JINJA_NODE_BINARY:
        return eval_binary(j, scope, node, out);
    case JINJA_NODE_AND:
    case JINJA_NODE_OR:
        if (!moe_jinja_eval(j, scope, node->a, out))
            return false;
        return moe_jinja_truth(*out) == (node->kind == JINJA_NODE_OR) ||
               moe_jinja_eval(j, scope, node->b, out);
    case JINJA_NODE_NOT:
        if (!moe_jinja_eval(j, scope, node->a, &v))
            return false;
        *out = jinja_bool(!moe_jinja_truth(v));
        return true;
    case JINJA_NODE_COMPARE:
        return eval_compare(j, scope, node, out);
    case JINJA_NODE_CONCAT:
        return eval_concat(j, scope, node, out);
    case JINJA_NODE_COND:
        return eval_condition(j, scope, node, out);
    default:
        return moe_jinja_fail(j, "this expression has no value");
    }
}

bool moe_jinja_eval(jinja *j, jinja_scope *scope, const jinja_node *node, jinja_value *out)
{
    bool ok = moe_jinja_step(j, 1) && moe_jinja_enter(j) && eval_node(j, scope, node, out);
    moe_jinja_leave(j);
    if (!ok && j->line == 0)
        j->line = node->line;
    return ok;
}
