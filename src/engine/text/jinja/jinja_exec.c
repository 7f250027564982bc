/*
 * Runs the statements of a template: output, conditions, loops, assignments, macros.
 *
 * The result of a statement says whether the next one follows, or a loop is left or continued, or
 * the rendering has failed.  Blocks that capture their text write it behind the output and cut it
 * off.
 */
#include "jinja_eval.h"
#include "jinja_lib.h"

#include <string.h>

/* --- assignment ------------------------------------------------------------------------------- */

static bool assign(jinja *j, jinja_scope *scope, const jinja_node *target, jinja_value value)
{
    jinja_value v;
    switch (target->kind) {
    case JINJA_NODE_NAME:
        return moe_jinja_scope_set(j, scope, target->value.s, value);
    case JINJA_NODE_NSREF:
        if (!moe_jinja_eval(j, scope, target->a, &v))
            return false;
        if (v.kind != JINJA_NAMESPACE)
            return moe_jinja_fail(j, "cannot assign attribute on non-namespace object");
        return moe_jinja_dict_set(j, v.d, target->value, value);
    default:
        break;
    }
    size_t n = target->list.len;
    if (!moe_jinja_list_of(j, value, &v))
        return false;
    if (v.a->len != n)
        return moe_jinja_fail(j, "%s values to unpack (expected %zu, got %zu)",
                              v.a->len < n ? "not enough" : "too many", n, v.a->len);
    for (size_t i = 0; i < n; i++) {
        if (!assign(j, scope, target->list.items[i], v.a->items[i]))
            return false;
    }
    return true;
}

/* Runs a body in a new scope and takes its text.  Leaves the text out if the flow breaks. */
static jinja_flow capture(jinja *j, jinja_scope *scope, const jinja_nodes *body, jinja_value *text)
{
    size_t mark = moe_jinja_mark(j);
    jinja_flow flow = moe_jinja_exec(j, scope, body);
    if (flow == JINJA_NEXT)
        return moe_jinja_take(j, mark, false, text) ? JINJA_NEXT : JINJA_FAILED;
    j->out->len = mark;
    return flow;
}

static bool filter_text(jinja *j, jinja_scope *scope, const jinja_node *filters, jinja_value *text)
{
    jinja_value outer = j->block_text;
    j->block_text = *text;
    bool ok = moe_jinja_eval(j, scope, filters, text);
    j->block_text = outer;
    return ok;
}

/* --- loops ------------------------------------------------------------------------------------ */

/* The next item that passes the loop's condition. */
static bool pull_item(jinja *j, jinja_loop *loop, jinja_value *item, bool *done)
{
    for (;;) {
        if (!moe_jinja_iter_next(j, &loop->iter, item, done))
            return false;
        if (*done || loop->node->c == NULL || loop->length >= 0)
            return true;
        jinja_value test;
        jinja_scope *scope = moe_jinja_scope_new(j, loop->scope);
        if (scope == NULL || !assign(j, scope, loop->node->a, *item) ||
            !moe_jinja_eval(j, scope, loop->node->c, &test))
            return false;
        if (moe_jinja_truth(test))
            return true;
    }
}

/* The item after the current one stays MISSING at the end. */
static bool peek_item(jinja *j, jinja_loop *loop)
{
    bool done;
    if (loop->after.kind != JINJA_MISSING)
        return true;
    if (!pull_item(j, loop, &loop->after, &done))
        return false;
    if (done)
        loop->after = jinja_missing();
    return true;
}

static bool advance(jinja *j, jinja_loop *loop, bool *done)
{
    jinja_value item = loop->after;
    *done = false;
    loop->after = jinja_missing();
    if (item.kind == JINJA_MISSING && (!pull_item(j, loop, &item, done) || *done))
        return *done;
    loop->index0++;
    loop->before = loop->current;
    loop->current = item;
    return true;
}

/* loop.length: a filtered or lazy loop has to fetch the rest of its items first. */
static bool loop_length(jinja *j, jinja_loop *loop)
{
    if (loop->length >= 0)
        return true;
    jinja_value rest;
    size_t cap = 0;
    if (!moe_jinja_array_new(j, JINJA_LIST, 0, &rest))
        return false;
    for (;;) {
        jinja_value item;
        bool done;
        if (!pull_item(j, loop, &item, &done))
            return false;
        if (done)
            break;
        if (!moe_jinja_array_add(j, rest.a, &cap, item))
            return false;
    }
    loop->length = (int64_t)rest.a->len + loop->index0 + 1 + (loop->after.kind != JINJA_MISSING);
    return moe_jinja_iter_open(j, rest, &loop->iter);
}

bool moe_jinja_loop_attribute(jinja *j, jinja_loop *loop, const jinja_string *name,
                              jinja_value *out)
{
    bool is_next = moe_jinja_string_is(name, "nextitem"),
         is_last = moe_jinja_string_is(name, "last");
    bool is_reverse = moe_jinja_string_is(name, "revindex");
    *out = jinja_missing();
    if (moe_jinja_string_is(name, "index")) {
        *out = jinja_int(loop->index0 + 1);
    } else if (moe_jinja_string_is(name, "index0")) {
        *out = jinja_int(loop->index0);
    } else if (moe_jinja_string_is(name, "first")) {
        *out = jinja_bool(loop->index0 == 0);
    } else if (moe_jinja_string_is(name, "depth")) {
        *out = jinja_int(loop->depth0 + 1);
    } else if (moe_jinja_string_is(name, "depth0")) {
        *out = jinja_int(loop->depth0);
    } else if (is_reverse || moe_jinja_string_is(name, "revindex0")) {
        if (!loop_length(j, loop))
            return false;
        *out = jinja_int(loop->length - loop->index0 - !is_reverse);
    } else if (moe_jinja_string_is(name, "length")) {
        if (!loop_length(j, loop))
            return false;
        *out = jinja_int(loop->length);
    } else if (moe_jinja_string_is(name, "previtem")) {
        if (loop->index0 == 0)
            return moe_jinja_undefined_hint(j, "there is no previous item", out);
        *out = loop->before;
    } else if (is_next || is_last) {
        if (!peek_item(j, loop))
            return false;
        if (is_last)
            *out = jinja_bool(loop->after.kind == JINJA_MISSING);
        else if (loop->after.kind == JINJA_MISSING)
            return moe_jinja_undefined_hint(j, "there is no next item", out);
        else
            *out = loop->after;
    }
    return true;
}

static jinja_flow run_loop(jinja *j, jinja_scope *outer, const jinja_node *node, jinja_value items,
                           int64_t depth0)
{
    jinja_value loop_name, loop_value = {.kind = JINJA_LOOP};
    jinja_loop *loop = moe_jinja_alloc(j, 1, sizeof *loop);
    jinja_scope *scope = moe_jinja_scope_new(j, outer);
    size_t length;
    bool completed = false, done;
    if (loop == NULL || scope == NULL || !moe_jinja_intern(j, "loop", 4, &loop_name))
        return JINJA_FAILED;
    *loop =
        (jinja_loop){.node = node, .scope = outer, .index0 = -1, .depth0 = depth0, .length = -1};
    loop_value.loop = loop;
    if (!moe_jinja_iter_open(j, items, &loop->iter))
        return JINJA_FAILED;
    if (node->c == NULL && items.kind != JINJA_ITER) {
        if (!moe_jinja_length(j, items, &length))
            return JINJA_FAILED;
        loop->length = (int64_t)length;
    }
    for (;;) {
        if (!advance(j, loop, &done))
            return JINJA_FAILED;
        if (done)
            break;
        if (scope->captured && (scope = moe_jinja_scope_new(j, outer)) == NULL)
            return JINJA_FAILED;
        scope->len = 0;
        if (!moe_jinja_scope_set(j, scope, loop_name.s, loop_value) ||
            !assign(j, scope, node->a, loop->current))
            return JINJA_FAILED;
        jinja_flow flow = moe_jinja_exec(j, scope, &node->body);
        if (flow == JINJA_FAILED)
            return flow;
        if (flow == JINJA_BREAK)
            break;
        completed = completed || flow == JINJA_NEXT;
    }
    /* as in jinja2, "else" also follows a loop none of whose iterations reached its end */
    if (completed || node->orelse.len == 0)
        return JINJA_NEXT;
    scope = moe_jinja_scope_new(j, outer);
    return scope != NULL ? moe_jinja_exec(j, scope, &node->orelse) : JINJA_FAILED;
}

bool moe_jinja_loop_call(jinja *j, const jinja_loop *loop, jinja_value items, jinja_value *out)
{
    if (!loop->node->flag)
        return moe_jinja_fail(j,
                              "the loop must have the 'recursive' marker to be called recursively");
    size_t mark = moe_jinja_mark(j);
    bool ok = moe_jinja_enter(j) &&
              run_loop(j, loop->scope, loop->node, items, loop->depth0 + 1) != JINJA_FAILED;
    moe_jinja_leave(j);
    return ok && moe_jinja_take(j, mark, false, out);
}

static jinja_flow exec_for(jinja *j, jinja_scope *scope, const jinja_node *node)
{
    jinja_value items;
    if (!moe_jinja_eval(j, scope, node->b, &items))
        return JINJA_FAILED;
    return run_loop(j, scope, node, items, 0);
}

/* --- macros ----------------------------------------------------------------------------------- */

bool moe_jinja_macro_new(jinja *j, jinja_scope *scope, const jinja_node *node, jinja_value *out)
{
    jinja_macro *macro = moe_jinja_alloc(j, 1, sizeof *macro);
    if (macro == NULL)
        return false;
    *macro = (jinja_macro){node, scope};
    for (; scope != NULL && !scope->captured; scope = scope->parent)
        scope->captured = true;
    *out = (jinja_value){.kind = JINJA_MACRO, .macro = macro};
    return true;
}

bool moe_jinja_macro_attribute(jinja *j, const jinja_macro *macro, const jinja_string *name,
                               jinja_value *out)
{
    const jinja_node *node = macro->node;
    *out = jinja_missing();
    if (moe_jinja_string_is(name, "name")) {
        *out = node->value.kind == JINJA_STRING ? node->value : jinja_none();
    } else if (moe_jinja_string_is(name, "catch_kwargs")) {
        *out = jinja_bool(node->uses & JINJA_USES_KWARGS);
    } else if (moe_jinja_string_is(name, "catch_varargs")) {
        *out = jinja_bool(node->uses & JINJA_USES_VARARGS);
    } else if (moe_jinja_string_is(name, "caller")) {
        *out = jinja_bool(node->uses & JINJA_USES_CALLER);
    } else if (moe_jinja_string_is(name, "arguments")) {
        if (!moe_jinja_array_new(j, JINJA_TUPLE, node->list.len, out))
            return false;
        for (size_t i = 0; i < node->list.len; i++)
            out->a->items[i] = node->list.items[i]->value;
    }
    return true;
}

static bool fail_macro(jinja *j, const jinja_macro *macro, const char *what,
                       const jinja_string *name)
{
    const jinja_value macro_name = macro->node->value;
    bool named = macro_name.kind == JINJA_STRING;
    return moe_jinja_fail(j, "macro '%.*s' %s%s%.*s%s", named ? (int)macro_name.s->len : 6,
                          named ? macro_name.s->data : "caller", what, name != NULL ? " '" : "",
                          name != NULL ? (int)name->len : 0, name != NULL ? name->data : "",
                          name != NULL ? "'" : "");
}

static bool set_special(jinja *j, jinja_scope *scope, const char *name, jinja_value value)
{
    jinja_value interned;
    return moe_jinja_intern(j, name, strlen(name), &interned) &&
           moe_jinja_scope_set(j, scope, interned.s, value);
}

/* Keyword arguments that are no parameters: the caller, and kwargs if the macro wants them. */
static bool bind_named(jinja *j, const jinja_macro *macro, const jinja_args *args,
                       jinja_scope *scope, bool explicit_caller)
{
    const jinja_node *node = macro->node;
    bool takes_caller = (node->uses & JINJA_USES_CALLER) && !explicit_caller;
    jinja_value kwargs, caller;
    if (!moe_jinja_dict_new(j, &kwargs) ||
        !moe_jinja_undefined_hint(j, "no caller defined", &caller))
        return false;
    for (size_t i = 0; i < args->n_named; i++) {
        bool known = false;
        for (size_t k = args->n_pos; k < node->list.len && !known; k++) {
            if (!moe_jinja_equal(j, node->list.items[k]->value, args->names[i], &known))
                return false;
        }
        if (known)
            continue;
        if (takes_caller && moe_jinja_string_is(args->names[i].s, "caller"))
            caller = args->values[i].kind == JINJA_NONE ? caller : args->values[i];
        else if (!(node->uses & JINJA_USES_KWARGS))
            return fail_macro(j, macro, "takes no keyword argument", args->names[i].s);
        else if (!moe_jinja_dict_set(j, kwargs.d, args->names[i], args->values[i]))
            return false;
    }
    return (!takes_caller || set_special(j, scope, "caller", caller)) &&
           (!(node->uses & JINJA_USES_KWARGS) || set_special(j, scope, "kwargs", kwargs));
}

static bool bind_params(jinja *j, const jinja_macro *macro, const jinja_args *args,
                        jinja_scope *scope)
{
    const jinja_nodes *params = &macro->node->list;
    bool explicit_caller = false;
    jinja_value varargs;
    for (size_t i = 0; i < params->len; i++) {
        const jinja_node *param = params->items[i];
        jinja_value value = jinja_missing();
        explicit_caller = explicit_caller || moe_jinja_string_is(param->value.s, "caller");
        if (i < args->n_pos)
            value = args->pos[i];
        for (size_t k = 0; i >= args->n_pos && k < args->n_named; k++) {
            bool equal;
            if (!moe_jinja_equal(j, param->value, args->names[k], &equal))
                return false;
            if (equal)
                value = args->values[k];
        }
        if (value.kind == JINJA_MISSING && !moe_jinja_undefined_name(j, param->value, &value))
            return false;
        if (!moe_jinja_scope_set(j, scope, param->value.s, value))
            return false;
    }
    if (!bind_named(j, macro, args, scope, explicit_caller))
        return false;
    size_t n_extra = args->n_pos > params->len ? args->n_pos - params->len : 0;
    if (!(macro->node->uses & JINJA_USES_VARARGS))
        return n_extra == 0 || fail_macro(j, macro, "takes fewer positional arguments", NULL);
    if (!moe_jinja_array_new(j, JINJA_TUPLE, n_extra, &varargs))
        return false;
    if (n_extra > 0)
        memcpy(varargs.a->items, args->pos + params->len, n_extra * sizeof(jinja_value));
    return set_special(j, scope, "varargs", varargs);
}

static bool is_given(jinja *j, const jinja_args *args, size_t index, jinja_value name, bool *given)
{
    *given = index < args->n_pos;
    for (size_t k = 0; k < args->n_named && !*given; k++) {
        if (!moe_jinja_equal(j, name, args->names[k], given))
            return false;
    }
    return true;
}

bool moe_jinja_macro_call(jinja *j, const jinja_macro *macro, const jinja_args *args,
                          jinja_value *out)
{
    const jinja_nodes *params = &macro->node->list;
    jinja_scope *scope = moe_jinja_scope_new(j, macro->scope);
    if (scope == NULL || !bind_params(j, macro, args, scope))
        return false;
    for (size_t i = 0; i < params->len; i++) {
        const jinja_node *param = params->items[i];
        bool given;
        jinja_value value;
        if (!is_given(j, args, i, param->value, &given))
            return false;
        if (!given && param->a != NULL &&
            (!moe_jinja_eval(j, scope, param->a, &value) ||
             !moe_jinja_scope_set(j, scope, param->value.s, value)))
            return false;
    }
    return capture(j, scope, &macro->node->body, out) == JINJA_NEXT;
}

static jinja_flow exec_macro(jinja *j, jinja_scope *scope, const jinja_node *node)
{
    jinja_value macro;
    return moe_jinja_macro_new(j, scope, node, &macro) &&
                   moe_jinja_scope_set(j, scope, node->value.s, macro)
               ? JINJA_NEXT
               : JINJA_FAILED;
}

/* --- other statements ------------------------------------------------------------------------- */

static jinja_flow exec_output(jinja *j, jinja_scope *scope, const jinja_node *node)
{
    for (size_t i = 0; i < node->list.len; i++) {
        jinja_value v;
        if (!moe_jinja_eval(j, scope, node->list.items[i], &v) || !moe_jinja_write_str(j, v))
            return JINJA_FAILED;
    }
    return JINJA_NEXT;
}

static jinja_flow exec_if(jinja *j, jinja_scope *scope, const jinja_node *node)
{
    for (size_t i = 0; i + 1 < node->list.len; i += 2) {
        jinja_value test;
        if (!moe_jinja_eval(j, scope, node->list.items[i], &test))
            return JINJA_FAILED;
        if (moe_jinja_truth(test))
            return moe_jinja_exec(j, scope, &node->list.items[i + 1]->body);
    }
    return moe_jinja_exec(j, scope, &node->orelse);
}

static jinja_flow exec_set(jinja *j, jinja_scope *scope, const jinja_node *node)
{
    jinja_value v;
    return moe_jinja_eval(j, scope, node->b, &v) && assign(j, scope, node->a, v) ? JINJA_NEXT
                                                                                 : JINJA_FAILED;
}

/* {% set x %}…{% endset %} and {% filter f %}…{% endfilter %} */
static jinja_flow exec_captured(jinja *j, jinja_scope *scope, const jinja_node *node)
{
    bool is_set = node->kind == JINJA_NODE_SET_BLOCK;
    const jinja_node *filters = is_set ? node->b : node->a;
    jinja_scope *inner = moe_jinja_scope_new(j, scope);
    jinja_value text;
    if (inner == NULL)
        return JINJA_FAILED;
    jinja_flow flow = capture(j, inner, &node->body, &text);
    if (flow != JINJA_NEXT)
        return flow;
    if (filters != NULL && !filter_text(j, inner, filters, &text))
        return JINJA_FAILED;
    bool ok = is_set ? assign(j, scope, node->a, text) : moe_jinja_write_str(j, text);
    return ok ? JINJA_NEXT : JINJA_FAILED;
}

static jinja_flow exec_call_block(jinja *j, jinja_scope *scope, const jinja_node *node)
{
    jinja_value caller, v;
    return moe_jinja_macro_new(j, scope, node->b, &caller) &&
                   moe_jinja_eval_call(j, scope, node->a, caller, &v) && moe_jinja_write_str(j, v)
               ? JINJA_NEXT
               : JINJA_FAILED;
}

static jinja_flow exec_with(jinja *j, jinja_scope *scope, const jinja_node *node)
{
    jinja_scope *inner = moe_jinja_scope_new(j, scope);
    if (inner == NULL)
        return JINJA_FAILED;
    for (size_t i = 0; i + 1 < node->list.len; i += 2) {
        jinja_value v;
        if (!moe_jinja_eval(j, scope, node->list.items[i + 1], &v) ||
            !assign(j, inner, node->list.items[i], v))
            return JINJA_FAILED;
    }
    return moe_jinja_exec(j, inner, &node->body);
}

static jinja_flow exec_scope(jinja *j, jinja_scope *scope, const jinja_node *node)
{
    if (node->kind == JINJA_NODE_AUTOESCAPE) {
        jinja_value on;
        if (!moe_jinja_eval(j, scope, node->a, &on))
            return JINJA_FAILED;
        if (moe_jinja_truth(on)) {
            moe_jinja_fail(j, "automatic escaping is not supported");
            return JINJA_FAILED;
        }
    }
    jinja_scope *inner = moe_jinja_scope_new(j, node->flag ? j->root : scope);
    return inner != NULL ? moe_jinja_exec(j, inner, &node->body) : JINJA_FAILED;
}

static jinja_flow exec_statement(jinja *j, jinja_scope *scope, const jinja_node *node)
{
    switch (node->kind) {
    case JINJA_NODE_TEXT:
        return moe_jinja_write(j, node->value.s->data, node->value.s->len) ? JINJA_NEXT
                                                                           : JINJA_FAILED;
    case JINJA_NODE_OUTPUT:
        return exec_output(j, scope, node);
    case JINJA_NODE_IF:
        return exec_if(j, scope, node);
    case JINJA_NODE_FOR:
        return exec_for(j, scope, node);
    case JINJA_NODE_SET:
        return exec_set(j, scope, node);
    case JINJA_NODE_SET_BLOCK:
    case JINJA_NODE_FILTER_BLOCK:
        return exec_captured(j, scope, node);
    case JINJA_NODE_MACRO:
        return exec_macro(j, scope, node);
    case JINJA_NODE_CALL_BLOCK:
        return exec_call_block(j, scope, node);
    case JINJA_NODE_WITH:
        return exec_with(j, scope, node);
    case JINJA_NODE_SCOPE:
    case JINJA_NODE_AUTOESCAPE:
        return exec_scope(j, scope, node);
    case JINJA_NODE_BREAK:
        return JINJA_BREAK;
    case JINJA_NODE_CONTINUE:
        return JINJA_CONTINUE;
    default:
        moe_jinja_fail(j, "the tag '%.*s' is not supported: a chat template has no other templates",
                       (int)node->value.s->len, node->value.s->data);
        return JINJA_FAILED;
    }
}

jinja_flow moe_jinja_exec(jinja *j, jinja_scope *scope, const jinja_nodes *body)
{
    jinja_flow flow = moe_jinja_enter(j) ? JINJA_NEXT : JINJA_FAILED;
    for (size_t i = 0; flow == JINJA_NEXT && i < body->len; i++) {
        flow = moe_jinja_step(j, 1) ? exec_statement(j, scope, body->items[i]) : JINJA_FAILED;
        if (flow == JINJA_FAILED && j->line == 0)
            j->line = body->items[i]->line;
    }
    moe_jinja_leave(j);
    return flow;
}
