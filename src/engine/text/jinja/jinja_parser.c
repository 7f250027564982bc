/*
 * Makes a tree of the tokens of a template: statements here, expressions in jinja_expressions.c.
 *
 * A filter or test that does not exist is an error already here, unless it stands inside an if
 * statement or an inline if (as in jinja2): then it is one only when the rendering gets there.
 */
#include "jinja_lib.h"
#include "jinja_parser.h"

static bool parse_body(jinja_parser *p, const char *const *ends, jinja_nodes *out);

static bool expect_name(jinja_parser *p, const char *name)
{
    if (moe_jinja_skip_name(p, name))
        return true;
    return moe_jinja_fail_unexpected(p, name);
}

/* --- statements ------------------------------------------------------------------------------- */

static bool parse_block_body(jinja_parser *p, const char *end, jinja_nodes *out)
{
    const char *const ends[] = {end, NULL};
    bool soft = p->soft;
    p->soft = false;
    bool ok = parse_body(p, ends, out);
    p->soft = soft;
    if (ok)
        moe_jinja_skip(p);
    return ok;
}

static bool check_target(jinja_parser *p, const jinja_node *target)
{
    if (target->kind == JINJA_NODE_NSREF)
        return true;
    if (target->kind == JINJA_NODE_NAME) {
        if (p->fors == 0 || !moe_jinja_string_is(target->value.s, "loop"))
            return true;
        moe_jinja_fail_at(p, target->line,
                          "can't assign to the special variable loop inside a for loop");
        return false;
    }
    if (target->kind != JINJA_NODE_TUPLE) {
        moe_jinja_fail_at(p, target->line, "can't assign to this expression");
        return false;
    }
    for (size_t i = 0; i < target->list.len; i++) {
        if (!check_target(p, target->list.items[i]))
            return false;
    }
    return true;
}

static jinja_node *parse_target(jinja_parser *p, bool namespaces)
{
    jinja_tuple_style style = {.targets = true, .namespaces = namespaces};
    jinja_node *target = moe_jinja_parse_tuple(p, &style);
    return target != NULL && check_target(p, target) ? target : NULL;
}

static jinja_node *parse_name_target(jinja_parser *p)
{
    if (p->t->kind != JINJA_TOK_NAME) {
        moe_jinja_fail_unexpected(p, "name");
        return NULL;
    }
    jinja_node *node = moe_jinja_new_node(p, JINJA_NODE_NAME, p->t->line);
    if (node != NULL)
        node->value = p->t->value;
    moe_jinja_skip(p);
    return node;
}

static jinja_node *parse_set(jinja_parser *p, jinja_node *node)
{
    static const jinja_tuple_style any = {0};
    node->a = parse_target(p, true);
    if (node->a == NULL)
        return NULL;
    if (moe_jinja_skip_kind(p, JINJA_TOK_ASSIGN)) {
        node->kind = JINJA_NODE_SET;
        node->b = moe_jinja_parse_tuple(p, &any);
        return node->b != NULL ? node : NULL;
    }
    node->kind = JINJA_NODE_SET_BLOCK;
    if (moe_jinja_skip_kind(p, JINJA_TOK_PIPE) && (node->b = moe_jinja_parse_filters(p)) == NULL)
        return NULL;
    return parse_block_body(p, "endset", &node->body) ? node : NULL;
}

static jinja_node *parse_for(jinja_parser *p, jinja_node *node)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    static const jinja_tuple_style iterable = {.no_condition = true};
    bool soft = p->soft;
    node->kind = JINJA_NODE_FOR;
    p->fors++;
    node->a = parse_target(p, false);
    if (node->a == NULL || !expect_name(p, "in") ||
        (node->b = moe_jinja_parse_tuple(p, &iterable)) == NULL)
        return NULL;
    p->soft = false;
    if (moe_jinja_skip_name(p, "if") && (node->c = moe_jinja_parse_expression(p)) == NULL)
        return NULL;
    node->flag = moe_jinja_skip_name(p, "recursive");
    p->loops++;
    if (!parse_body(p, ends, &node->body))
        return NULL;
    p->loops--;
    p->soft = soft;
    if (moe_jinja_skip_name(p, "else")) {
        if (!parse_block_body(p, "endfor", &node->orelse))
            return NULL;
    } else {
        moe_jinja_skip(p);
    }
    p->fors--;
    return node;
}

static jinja_node *parse_if(jinja_parser *p, jinja_node *node)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const last[] = {"endif", NULL};
    static const jinja_tuple_style test = {.no_condition = true};
    bool soft = p->soft;
    p->soft = true;
    node->kind = JINJA_NODE_IF;
    do {
        jinja_node *condition = moe_jinja_parse_tuple(p, &test);
        jinja_node *body = moe_jinja_new_node(p, JINJA_NODE_BODY, p->t->line);
        if (body == NULL || !moe_jinja_add_node(p, &node->list, condition) ||
            !moe_jinja_add_node(p, &node->list, body) || !parse_body(p, ends, &body->body))
            return NULL;
    } while (moe_jinja_skip_name(p, "elif"));
    if (moe_jinja_skip_name(p, "else") && !parse_body(p, last, &node->orelse))
        return NULL;
    moe_jinja_skip(p);
    p->soft = soft;
    return node;
}

static bool parse_signature(jinja_parser *p, jinja_nodes *params)
{
    bool defaults = false;
    if (!moe_jinja_expect(p, JINJA_TOK_LPAREN))
        return false;
    while (p->t->kind != JINJA_TOK_RPAREN) {
        if (params->len > 0 && !moe_jinja_expect(p, JINJA_TOK_COMMA))
            return false;
        jinja_node *param = parse_name_target(p);
        if (!moe_jinja_add_node(p, params, param))
            return false;
        if (moe_jinja_skip_kind(p, JINJA_TOK_ASSIGN)) {
            defaults = true;
            if ((param->a = moe_jinja_parse_expression(p)) == NULL)
                return false;
        } else if (defaults) {
            moe_jinja_fail_at(p, param->line, "non-default argument follows default argument");
            return false;
        }
    }
    moe_jinja_skip(p);
    return true;
}

/* The body of a macro or call block, which is a function of its own. */
static bool parse_macro_body(jinja_parser *p, jinja_node *macro, const char *end)
{
    jinja_macro_context context = {.outer = p->macro};
    int loops = p->loops;
    p->macro = &context;
    p->loops = 0;
    bool ok = parse_block_body(p, end, &macro->body);
    p->macro = context.outer;
    p->loops = loops;
    macro->uses = context.uses;
    for (size_t i = 0; ok && i < macro->list.len; i++) {
        if (moe_jinja_string_is(macro->list.items[i]->value.s, "caller") &&
            (macro->uses & JINJA_USES_CALLER) && macro->list.items[i]->a == NULL)
            return moe_jinja_fail_at(p, macro->line,
                                     "the special argument caller needs a default") != NULL;
    }
    return ok;
}

static jinja_node *parse_macro(jinja_parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_MACRO;
    jinja_node *name = parse_name_target(p);
    if (name == NULL)
        return NULL;
    node->value = name->value;
    return parse_signature(p, &node->list) && parse_macro_body(p, node, "endmacro") ? node : NULL;
}

static jinja_node *parse_call_block(jinja_parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_CALL_BLOCK;
    node->b = moe_jinja_new_node(p, JINJA_NODE_MACRO, node->line);
    if (node->b == NULL || (p->t->kind == JINJA_TOK_LPAREN && !parse_signature(p, &node->b->list)))
        return NULL;
    node->a = moe_jinja_parse_expression(p);
    if (node->a == NULL)
        return NULL;
    if (node->a->kind != JINJA_NODE_CALL)
        return moe_jinja_fail_at(p, node->line, "expected call");
    return parse_macro_body(p, node->b, "endcall") ? node : NULL;
}

static jinja_node *parse_filter_block(jinja_parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_FILTER_BLOCK;
    node->a = moe_jinja_parse_filters(p);
    return node->a != NULL && parse_block_body(p, "endfilter", &node->body) ? node : NULL;
}

static jinja_node *parse_with(jinja_parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_WITH;
    while (p->t->kind != JINJA_TOK_BLOCK_END) {
        if (node->list.len > 0 && !moe_jinja_expect(p, JINJA_TOK_COMMA))
            return NULL;
        jinja_node *target = parse_target(p, false);
        if (!moe_jinja_add_node(p, &node->list, target) || !moe_jinja_expect(p, JINJA_TOK_ASSIGN) ||
            !moe_jinja_add_node(p, &node->list, moe_jinja_parse_expression(p)))
            return NULL;
    }
    return parse_block_body(p, "endwith", &node->body) ? node : NULL;
}

static jinja_node *parse_named_block(jinja_parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_SCOPE;
    jinja_node *name = parse_name_target(p);
    if (name == NULL)
        return NULL;
    node->flag = !moe_jinja_skip_name(p, "scoped");
    moe_jinja_skip_name(p, "required");
    if (!parse_block_body(p, "endblock", &node->body))
        return NULL;
    if (p->t->kind == JINJA_TOK_NAME && p->t->value.s == name->value.s)
        moe_jinja_skip(p);
    return node;
}

static jinja_node *parse_autoescape(jinja_parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_AUTOESCAPE;
    node->a = moe_jinja_parse_expression(p);
    return node->a != NULL && parse_block_body(p, "endautoescape", &node->body) ? node : NULL;
}

/* transformers' tag around what the assistant says: renders its body in a scope of its own. */
static jinja_node *parse_generation(jinja_parser *p, jinja_node *node)
{
    int loops = p->loops;
    p->loops = 0;
    node->kind = JINJA_NODE_SCOPE;
    bool ok = parse_block_body(p, "endgeneration", &node->body);
    p->loops = loops;
    return ok ? node : NULL;
}

static jinja_node *parse_print(jinja_parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_OUTPUT;
    while (p->t->kind != JINJA_TOK_BLOCK_END) {
        if (node->list.len > 0 && !moe_jinja_expect(p, JINJA_TOK_COMMA))
            return NULL;
        if (!moe_jinja_add_node(p, &node->list, moe_jinja_parse_expression(p)))
            return NULL;
    }
    return node;
}

static jinja_node *parse_loop_control(jinja_parser *p, jinja_node *node)
{
    bool is_break = moe_jinja_string_is(node->value.s, "break");
    node->kind = is_break ? JINJA_NODE_BREAK : JINJA_NODE_CONTINUE;
    if (p->loops == 0)
        return moe_jinja_fail_at(p, node->line, "'%s' outside of a loop",
                                 is_break ? "break" : "continue");
    return node;
}

/* Tags that need other templates: an error only when the rendering gets there. */
static jinja_node *parse_unsupported(jinja_parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_UNSUPPORTED;
    while (p->t->kind != JINJA_TOK_BLOCK_END && p->t->kind != JINJA_TOK_EOF)
        moe_jinja_skip(p);
    return node;
}

static jinja_node *parse_statement(jinja_parser *p)
{
    static const struct {
        const char *tag;
        jinja_node *(*parse)(jinja_parser *p, jinja_node *node);
    } statements[] = {
        {"if", parse_if},
        {"for", parse_for},
        {"set", parse_set},
        {"macro", parse_macro},
        {"call", parse_call_block},
        {"filter", parse_filter_block},
        {"with", parse_with},
        {"generation", parse_generation},
        {"break", parse_loop_control},
        {"continue", parse_loop_control},
        {"block", parse_named_block},
        {"autoescape", parse_autoescape},
        {"print", parse_print},
        {"include", parse_unsupported},
        {"import", parse_unsupported},
        {"from", parse_unsupported},
        {"extends", parse_unsupported},
    };
    const jinja_token *t = p->t;
    if (t->kind != JINJA_TOK_NAME)
        return moe_jinja_fail_at(p, t->line, "tag name expected");
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++) {
        if (!moe_jinja_string_is(t->value.s, statements[i].tag))
            continue;
        jinja_node *node = moe_jinja_new_node(p, JINJA_NODE_BODY, t->line);
        if (node == NULL)
            return NULL;
        node->value = t->value;
        moe_jinja_skip(p);
        return statements[i].parse(p, node);
    }
    return moe_jinja_fail_at(p, t->line, "encountered unknown tag '%.*s'",
                             t->value.s->len < 60 ? (int)t->value.s->len : 60, t->value.s->data);
}

static bool at_end(const jinja_parser *p, const char *const *ends)
{
    for (; ends != NULL && *ends != NULL; ends++) {
        if (moe_jinja_at_name(p, *ends))
            return true;
    }
    return false;
}

static jinja_node *parse_text(jinja_parser *p)
{
    jinja_node *node = moe_jinja_new_node(p, JINJA_NODE_TEXT, p->t->line);
    if (node != NULL)
        node->value = p->t->value;
    moe_jinja_skip(p);
    return node;
}

static jinja_node *parse_output(jinja_parser *p)
{
    static const jinja_tuple_style any = {0};
    jinja_node *node = moe_jinja_new_node(p, JINJA_NODE_OUTPUT, p->t->line);
    moe_jinja_skip(p);
    if (node == NULL || !moe_jinja_add_node(p, &node->list, moe_jinja_parse_tuple(p, &any)))
        return NULL;
    return moe_jinja_expect(p, JINJA_TOK_VARIABLE_END) ? node : NULL;
}

/* Statements up to a tag named in ends, whose name becomes the current token (NULL: up to the end
 * of the template). */
static bool parse_statements(jinja_parser *p, const char *const *ends, jinja_nodes *out)
{
    for (;;) {
        jinja_node *node;
        switch (p->t->kind) {
        case JINJA_TOK_EOF:
            if (ends == NULL)
                return true;
            moe_jinja_fail_at(p, p->t->line, "unexpected end of template, expected '%s'", ends[0]);
            return false;
        case JINJA_TOK_DATA:
            node = parse_text(p);
            break;
        case JINJA_TOK_VARIABLE_BEGIN:
            node = parse_output(p);
            break;
        default:
            moe_jinja_skip(p);
            if (at_end(p, ends))
                return true;
            node = parse_statement(p);
            if (node != NULL && !moe_jinja_expect(p, JINJA_TOK_BLOCK_END))
                return false;
            break;
        }
        if (!moe_jinja_add_node(p, out, node))
            return false;
    }
}

static bool parse_body(jinja_parser *p, const char *const *ends, jinja_nodes *out)
{
    moe_jinja_skip_kind(p, JINJA_TOK_COLON);
    bool ok = moe_jinja_expect(p, JINJA_TOK_BLOCK_END) && moe_jinja_parse_enter(p) &&
              parse_statements(p, ends, out);
    moe_jinja_parse_leave(p);
    return ok;
}

jinja_node *moe_jinja_parse(jinja *j, const jinja_token *tokens)
{
    jinja_parser p = {.j = j, .t = tokens};
    jinja_node *root = moe_jinja_new_node(&p, JINJA_NODE_BODY, 1);
    if (root == NULL || !parse_statements(&p, NULL, &root->body))
        return NULL;
    if (p.unknown.len > 0) {
        const jinja_node *node = p.unknown.items[0];
        return moe_jinja_fail_at(&p, node->line, "no %s named '%.*s'",
                                 node->kind == JINJA_NODE_FILTER ? "filter" : "test",
                                 node->value.s->len < 60 ? (int)node->value.s->len : 60,
                                 node->value.s->data);
    }
    return root;
}
