/*
 * Makes trees of expressions: recursive descent, one function per rule of jinja2's grammar and
 * with its precedences, from `a if b else c` down to literals.  The helpers of both parser files
 * are here too.
 */
#include "jinja_lib.h"
#include "jinja_parser.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_NESTING = 160 };

static jinja_node *parse_or(jinja_parser *p);
static jinja_node *parse_unary(jinja_parser *p, bool with_filter);

/* Fails at a line of the template; returns NULL for the functions that return a node. */
jinja_node *moe_jinja_fail_at(jinja_parser *p, int line, const char *fmt, ...)
{
    char message[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    p->j->line = line;
    moe_jinja_fail(p->j, "%s", message);
    return NULL;
}

/* --- tokens and nodes ------------------------------------------------------------------------- */

bool moe_jinja_at_name(const jinja_parser *p, const char *name)
{
    return p->t->kind == JINJA_TOK_NAME && moe_jinja_string_is(p->t->value.s, name);
}

static bool next_is_name(const jinja_parser *p, const char *name)
{
    return p->t->kind != JINJA_TOK_EOF && p->t[1].kind == JINJA_TOK_NAME &&
           moe_jinja_string_is(p->t[1].value.s, name);
}

void moe_jinja_skip(jinja_parser *p)
{
    if (p->t->kind != JINJA_TOK_EOF)
        p->t++;
}

bool moe_jinja_skip_name(jinja_parser *p, const char *name)
{
    if (!moe_jinja_at_name(p, name))
        return false;
    moe_jinja_skip(p);
    return true;
}

bool moe_jinja_skip_kind(jinja_parser *p, jinja_token_kind kind)
{
    if (p->t->kind != kind)
        return false;
    moe_jinja_skip(p);
    return true;
}

static const char *describe(jinja_token_kind kind)
{
    static const char *const names[] = {"end of template",
                                        "template data",
                                        "begin of print statement",
                                        "end of print statement",
                                        "begin of statement block",
                                        "end of statement block",
                                        "name",
                                        "string",
                                        "integer",
                                        "float",
                                        "'//'",
                                        "'**'",
                                        "'=='",
                                        "'!='",
                                        "'>='",
                                        "'<='",
                                        "'+'",
                                        "'-'",
                                        "'/'",
                                        "'*'",
                                        "'%'",
                                        "'~'",
                                        "'['",
                                        "']'",
                                        "'('",
                                        "')'",
                                        "'{'",
                                        "'}'",
                                        "'>'",
                                        "'<'",
                                        "'='",
                                        "'.'",
                                        "':'",
                                        "'|'",
                                        "','",
                                        "';'"};
    return names[kind];
}

bool moe_jinja_fail_unexpected(jinja_parser *p, const char *expected)
{
    const jinja_token *t = p->t;
    if (t->kind == JINJA_TOK_NAME)
        moe_jinja_fail_at(p, t->line, "expected %s, got '%.*s'", expected,
                          t->value.s->len < 60 ? (int)t->value.s->len : 60, t->value.s->data);
    else
        moe_jinja_fail_at(p, t->line, "expected %s, got %s", expected, describe(t->kind));
    return false;
}

bool moe_jinja_expect(jinja_parser *p, jinja_token_kind kind)
{
    if (moe_jinja_skip_kind(p, kind))
        return true;
    return moe_jinja_fail_unexpected(p, describe(kind));
}

bool moe_jinja_parse_enter(jinja_parser *p)
{
    if (++p->nesting <= MAX_NESTING)
        return true;
    moe_jinja_fail_at(p, p->t->line, "the template nests too deeply");
    return false;
}

void moe_jinja_parse_leave(jinja_parser *p)
{
    p->nesting--;
}

jinja_node *moe_jinja_new_node(jinja_parser *p, jinja_node_kind kind, int line)
{
    jinja_node *node = moe_jinja_alloc(p->j, 1, sizeof *node);
    if (node != NULL) {
        node->kind = kind;
        node->line = line;
    }
    return node;
}

/* A node with operands a and b, or NULL if one of the wanted operands is missing. */
jinja_node *moe_jinja_join_nodes(jinja_parser *p, jinja_node_kind kind, int line, jinja_node *a,
                                 jinja_node *b)
{
    jinja_node *node = a != NULL && b != NULL ? moe_jinja_new_node(p, kind, line) : NULL;
    if (node != NULL) {
        node->a = a;
        node->b = b;
    }
    return node;
}

/* Appends to a list that grows by doubling: its capacity is the next power of two. */
bool moe_jinja_add_node(jinja_parser *p, jinja_nodes *list, jinja_node *node)
{
    if (node == NULL)
        return false;
    if ((list->len & (list->len - 1)) == 0) { /* full: 0, 1, 2, 4, 8, … */
        jinja_node **items =
            moe_jinja_alloc(p->j, list->len == 0 ? 1 : list->len * 2, sizeof *items);
        if (items == NULL)
            return false;
        if (list->len > 0)
            memcpy(items, list->items, list->len * sizeof *items);
        list->items = items;
    }
    list->items[list->len++] = node;
    return true;
}

/* --- literals, names, calls ------------------------------------------------------------------- */

static jinja_node *parse_name(jinja_parser *p)
{
    static const struct {
        const char *name;
        unsigned use;
    } specials[] = {{"varargs", JINJA_USES_VARARGS},
                    {"kwargs", JINJA_USES_KWARGS},
                    {"caller", JINJA_USES_CALLER}};
    jinja_value name = p->t->value;
    jinja_node *node = moe_jinja_new_node(p, JINJA_NODE_CONST, p->t->line);
    if (node == NULL)
        return NULL;
    moe_jinja_skip(p);
    if (moe_jinja_string_is(name.s, "true") || moe_jinja_string_is(name.s, "True")) {
        node->value = jinja_bool(true);
    } else if (moe_jinja_string_is(name.s, "false") || moe_jinja_string_is(name.s, "False")) {
        node->value = jinja_bool(false);
    } else if (moe_jinja_string_is(name.s, "none") || moe_jinja_string_is(name.s, "None")) {
        node->value = jinja_none();
    } else {
        node->kind = JINJA_NODE_NAME;
        node->value = name;
        for (size_t i = 0; i < 3; i++) {
            if (!moe_jinja_string_is(name.s, specials[i].name))
                continue;
            for (jinja_macro_context *macro = p->macro; macro != NULL; macro = macro->outer)
                macro->uses |= specials[i].use;
        }
    }
    return node;
}

static jinja_node *parse_string(jinja_parser *p)
{
    jinja_node *node = moe_jinja_new_node(p, JINJA_NODE_CONST, p->t->line);
    if (node == NULL)
        return NULL;
    node->value = p->t->value;
    moe_jinja_skip(p);
    while (p->t->kind == JINJA_TOK_STRING) {
        if (!moe_jinja_string_concat(p->j, node->value.s, p->t->value.s, false, &node->value))
            return NULL;
        moe_jinja_skip(p);
    }
    return node;
}

/* Items up to the closing bracket; pairs: key, value, key, value, … */
static jinja_node *parse_display(jinja_parser *p, jinja_node_kind kind, jinja_token_kind close,
                                 bool pairs)
{
    jinja_node *node = moe_jinja_new_node(p, kind, p->t->line);
    if (node == NULL)
        return NULL;
    moe_jinja_skip(p);
    while (p->t->kind != close) {
        if (node->list.len > 0 && !moe_jinja_expect(p, JINJA_TOK_COMMA))
            return NULL;
        if (p->t->kind == close)
            break;
        if (!moe_jinja_add_node(p, &node->list, moe_jinja_parse_expression(p)))
            return NULL;
        if (pairs && (!moe_jinja_expect(p, JINJA_TOK_COLON) ||
                      !moe_jinja_add_node(p, &node->list, moe_jinja_parse_expression(p))))
            return NULL;
    }
    return moe_jinja_expect(p, close) ? node : NULL;
}

static jinja_node *parse_primary(jinja_parser *p, bool namespaces);

static jinja_node *parse_tuple_item(jinja_parser *p, const jinja_tuple_style *style)
{
    if (style->targets)
        return parse_primary(p, style->namespaces);
    return style->no_condition ? parse_or(p) : moe_jinja_parse_expression(p);
}

jinja_node *moe_jinja_parse_tuple(jinja_parser *p, const jinja_tuple_style *style)
{
    jinja_node *node = moe_jinja_new_node(p, JINJA_NODE_TUPLE, p->t->line);
    bool is_tuple = false;
    if (node == NULL)
        return NULL;
    for (;;) {
        if (node->list.len > 0 && !moe_jinja_expect(p, JINJA_TOK_COMMA))
            return NULL;
        jinja_token_kind kind = p->t->kind;
        if (kind == JINJA_TOK_VARIABLE_END || kind == JINJA_TOK_BLOCK_END ||
            kind == JINJA_TOK_RPAREN)
            break;
        if (!moe_jinja_add_node(p, &node->list, parse_tuple_item(p, style)))
            return NULL;
        if (p->t->kind != JINJA_TOK_COMMA)
            break;
        is_tuple = true;
    }
    if (is_tuple || (node->list.len == 0 && style->parentheses))
        return node;
    if (node->list.len == 0) {
        moe_jinja_fail_unexpected(p, "an expression");
        return NULL;
    }
    return node->list.items[0];
}

static jinja_node *parse_primary(jinja_parser *p, bool namespaces)
{
    static const jinja_tuple_style in_parentheses = {.parentheses = true};
    jinja_node *node = NULL, *ns;
    const jinja_token *t = p->t;
    if (!moe_jinja_parse_enter(p))
        return NULL;
    switch (t->kind) {
    case JINJA_TOK_NAME:
        node = parse_name(p);
        if (node == NULL || !namespaces || node->kind != JINJA_NODE_NAME ||
            !moe_jinja_skip_kind(p, JINJA_TOK_DOT))
            break;
        ns = node;
        node = NULL;
        if (p->t->kind != JINJA_TOK_NAME) {
            moe_jinja_fail_unexpected(p, "name");
            break;
        }
        node = moe_jinja_join_nodes(p, JINJA_NODE_NSREF, t->line, ns, ns);
        if (node != NULL)
            node->value = p->t->value;
        moe_jinja_skip(p);
        break;
    case JINJA_TOK_STRING:
        node = parse_string(p);
        break;
    case JINJA_TOK_INTEGER:
    case JINJA_TOK_FLOAT:
        node = moe_jinja_new_node(p, JINJA_NODE_CONST, t->line);
        if (node != NULL)
            node->value = t->value;
        moe_jinja_skip(p);
        break;
    case JINJA_TOK_LPAREN:
        moe_jinja_skip(p);
        node = moe_jinja_parse_tuple(p, &in_parentheses);
        if (node != NULL && !moe_jinja_expect(p, JINJA_TOK_RPAREN))
            node = NULL;
        break;
    case JINJA_TOK_LBRACKET:
        node = parse_display(p, JINJA_NODE_LIST, JINJA_TOK_RBRACKET, false);
        break;
    case JINJA_TOK_LBRACE:
        node = parse_display(p, JINJA_NODE_DICT, JINJA_TOK_RBRACE, true);
        break;
    default:
        moe_jinja_fail_unexpected(p, "an expression");
        break;
    }
    moe_jinja_parse_leave(p);
    return node;
}

/* One argument; *phase: 0 positional ones may follow, 1 keywords, 2 after *args, 3 after **kwargs.
 */
static jinja_node *parse_argument(jinja_parser *p, int *phase)
{
    int line = p->t->line;
    jinja_node_kind kind;
    jinja_value name = jinja_missing();
    if (p->t->kind == JINJA_TOK_MUL && *phase < 2) {
        kind = JINJA_NODE_STAR;
        *phase = 2;
        moe_jinja_skip(p);
    } else if (p->t->kind == JINJA_TOK_POW && *phase < 3) {
        kind = JINJA_NODE_STARSTAR;
        *phase = 3;
        moe_jinja_skip(p);
    } else if (p->t->kind == JINJA_TOK_NAME && p->t[1].kind == JINJA_TOK_ASSIGN && *phase < 3) {
        kind = JINJA_NODE_KEYWORD;
        *phase = *phase < 1 ? 1 : *phase;
        name = p->t->value;
        moe_jinja_skip(p);
        moe_jinja_skip(p);
    } else if (*phase == 0) {
        return moe_jinja_parse_expression(p);
    } else {
        return moe_jinja_fail_at(p, line, "invalid syntax for function call expression");
    }
    jinja_node *value = moe_jinja_parse_expression(p),
               *node = moe_jinja_join_nodes(p, kind, line, value, value);
    if (node != NULL)
        node->value = name;
    return node;
}

static bool parse_arguments(jinja_parser *p, jinja_nodes *list)
{
    int phase = 0;
    if (!moe_jinja_expect(p, JINJA_TOK_LPAREN))
        return false;
    while (p->t->kind != JINJA_TOK_RPAREN) {
        if (list->len > 0) {
            if (!moe_jinja_expect(p, JINJA_TOK_COMMA))
                return false;
            if (p->t->kind == JINJA_TOK_RPAREN)
                break;
        }
        if (!moe_jinja_add_node(p, list, parse_argument(p, &phase)))
            return false;
    }
    return moe_jinja_expect(p, JINJA_TOK_RPAREN);
}

static jinja_node *parse_call(jinja_parser *p, jinja_node *callee)
{
    jinja_node *node = moe_jinja_join_nodes(p, JINJA_NODE_CALL, p->t->line, callee, callee);
    return node != NULL && parse_arguments(p, &node->list) ? node : NULL;
}

/* --- postfix expressions, filters, tests ------------------------------------------------------ */

static jinja_node *parse_subscript(jinja_parser *p)
{
    jinja_node *first = NULL, *slice;
    int line = p->t->line;
    if (p->t->kind != JINJA_TOK_COLON) {
        first = moe_jinja_parse_expression(p);
        if (first == NULL || p->t->kind != JINJA_TOK_COLON)
            return first;
    }
    slice = moe_jinja_new_node(p, JINJA_NODE_SLICE, line);
    if (slice == NULL)
        return NULL;
    moe_jinja_skip(p);
    slice->a = first;
    if (p->t->kind != JINJA_TOK_COLON && p->t->kind != JINJA_TOK_RBRACKET &&
        p->t->kind != JINJA_TOK_COMMA && (slice->b = moe_jinja_parse_expression(p)) == NULL)
        return NULL;
    if (moe_jinja_skip_kind(p, JINJA_TOK_COLON) && p->t->kind != JINJA_TOK_RBRACKET &&
        p->t->kind != JINJA_TOK_COMMA && (slice->c = moe_jinja_parse_expression(p)) == NULL)
        return NULL;
    return slice;
}

static jinja_node *parse_item(jinja_parser *p, jinja_node *object)
{
    int line = p->t->line;
    jinja_node *tuple = moe_jinja_new_node(p, JINJA_NODE_TUPLE, line);
    if (tuple == NULL)
        return NULL;
    moe_jinja_skip(p);
    while (p->t->kind != JINJA_TOK_RBRACKET) {
        if (tuple->list.len > 0 && !moe_jinja_expect(p, JINJA_TOK_COMMA))
            return NULL;
        jinja_node *item = parse_subscript(p);
        if (!moe_jinja_add_node(p, &tuple->list, item))
            return NULL;
        if (item->kind == JINJA_NODE_SLICE &&
            (tuple->list.len > 1 || p->t->kind == JINJA_TOK_COMMA))
            return moe_jinja_fail_at(p, line, "a slice can't be part of a tuple");
    }
    moe_jinja_skip(p);
    return moe_jinja_join_nodes(p, JINJA_NODE_GETITEM, line, object,
                                tuple->list.len == 1 ? tuple->list.items[0] : tuple);
}

static jinja_node *parse_attribute(jinja_parser *p, jinja_node *object)
{
    int line = p->t->line;
    moe_jinja_skip(p);
    jinja_node *node = moe_jinja_join_nodes(p, JINJA_NODE_GETATTR, line, object, object);
    if (node == NULL)
        return NULL;
    if (p->t->kind == JINJA_TOK_NAME) {
        node->value = p->t->value;
    } else if (p->t->kind == JINJA_TOK_INTEGER) {
        node->kind = JINJA_NODE_GETITEM;
        node->b = moe_jinja_new_node(p, JINJA_NODE_CONST, line);
        if (node->b == NULL)
            return NULL;
        node->b->value = p->t->value;
    } else {
        moe_jinja_fail_unexpected(p, "name or number");
        return NULL;
    }
    moe_jinja_skip(p);
    return node;
}

static jinja_node *parse_postfix(jinja_parser *p, jinja_node *node)
{
    while (node != NULL) {
        if (p->t->kind == JINJA_TOK_DOT)
            node = parse_attribute(p, node);
        else if (p->t->kind == JINJA_TOK_LBRACKET)
            node = parse_item(p, node);
        else if (p->t->kind == JINJA_TOK_LPAREN)
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}

/* The name of a filter or test, with dots. */
static bool parse_dotted_name(jinja_parser *p, jinja_value *name)
{
    static const jinja_string dot = {.data = ".", .len = 1, .n_chars = 1};
    *name = p->t->value;
    if (!moe_jinja_expect(p, JINJA_TOK_NAME))
        return false;
    while (moe_jinja_skip_kind(p, JINJA_TOK_DOT)) {
        jinja_value part = p->t->value;
        if (!moe_jinja_expect(p, JINJA_TOK_NAME) ||
            !moe_jinja_string_concat(p->j, name->s, &dot, false, name) ||
            !moe_jinja_string_concat(p->j, name->s, part.s, false, name))
            return false;
    }
    return true;
}

static jinja_node *resolve_builtin(jinja_parser *p, jinja_node *node)
{
    node->builtin = node->kind == JINJA_NODE_FILTER ? moe_jinja_find_filter(node->value.s)
                                                    : moe_jinja_find_test(node->value.s);
    if (node->builtin != NULL || p->soft)
        return node;
    return moe_jinja_add_node(p, &p->unknown, node) ? node : NULL;
}

/* One filter behind "|"; input NULL: the text of a block. */
static jinja_node *parse_filter(jinja_parser *p, jinja_node *input)
{
    jinja_node *node = moe_jinja_new_node(p, JINJA_NODE_FILTER, p->t->line);
    if (node == NULL || !parse_dotted_name(p, &node->value))
        return NULL;
    node->a = input;
    if (p->t->kind == JINJA_TOK_LPAREN && !parse_arguments(p, &node->list))
        return NULL;
    return resolve_builtin(p, node);
}

/* The filters of a block. */
jinja_node *moe_jinja_parse_filters(jinja_parser *p)
{
    bool soft = p->soft;
    p->soft = false;
    jinja_node *node = parse_filter(p, NULL);
    while (node != NULL && moe_jinja_skip_kind(p, JINJA_TOK_PIPE))
        node = parse_filter(p, node);
    p->soft = soft;
    return node;
}

static bool starts_test_argument(const jinja_parser *p)
{
    switch (p->t->kind) {
    case JINJA_TOK_NAME:
        return !moe_jinja_at_name(p, "else") && !moe_jinja_at_name(p, "or") &&
               !moe_jinja_at_name(p, "and");
    case JINJA_TOK_STRING:
    case JINJA_TOK_INTEGER:
    case JINJA_TOK_FLOAT:
    case JINJA_TOK_LBRACKET:
    case JINJA_TOK_LBRACE:
        return true;
    default:
        return false;
    }
}

static jinja_node *parse_test(jinja_parser *p, jinja_node *value)
{
    int line = p->t->line;
    moe_jinja_skip(p);
    bool negated = moe_jinja_skip_name(p, "not");
    jinja_node *node = moe_jinja_join_nodes(p, JINJA_NODE_TEST, line, value, value);
    if (node == NULL || !parse_dotted_name(p, &node->value))
        return NULL;
    if (p->t->kind == JINJA_TOK_LPAREN) {
        if (!parse_arguments(p, &node->list))
            return NULL;
    } else if (moe_jinja_at_name(p, "is")) {
        return moe_jinja_fail_at(p, line, "tests can't be chained with is");
    } else if (starts_test_argument(p) &&
               !moe_jinja_add_node(p, &node->list, parse_postfix(p, parse_primary(p, false)))) {
        return NULL;
    }
    node = resolve_builtin(p, node);
    return negated && node != NULL ? moe_jinja_join_nodes(p, JINJA_NODE_NOT, line, node, node)
                                   : node;
}

static jinja_node *parse_filters_and_tests(jinja_parser *p, jinja_node *node)
{
    while (node != NULL) {
        if (moe_jinja_skip_kind(p, JINJA_TOK_PIPE))
            node = parse_filter(p, node);
        else if (moe_jinja_at_name(p, "is"))
            node = parse_test(p, node);
        else if (p->t->kind == JINJA_TOK_LPAREN)
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}

/* --- operators, from tight to loose ----------------------------------------------------------- */

static jinja_node *parse_unary(jinja_parser *p, bool with_filter)
{
    jinja_node *node;
    jinja_token_kind kind = p->t->kind;
    if (kind == JINJA_TOK_SUB || kind == JINJA_TOK_ADD) {
        int line = p->t->line;
        if (!moe_jinja_parse_enter(p))
            return NULL;
        moe_jinja_skip(p);
        node = parse_unary(p, false);
        node = moe_jinja_join_nodes(p, JINJA_NODE_UNARY, line, node, node);
        if (node != NULL)
            node->op = kind == JINJA_TOK_SUB ? JINJA_NEG : JINJA_POS;
        moe_jinja_parse_leave(p);
    } else {
        node = parse_primary(p, false);
    }
    node = parse_postfix(p, node);
    return with_filter ? parse_filters_and_tests(p, node) : node;
}

/* Left-associative binary operators of three levels: 0: + -, 1: * / // %, 2: **.  Concatenation (~)
 * binds between the first two. */
static bool binary_operator(jinja_token_kind kind, int level, jinja_op *op)
{
    static const struct {
        jinja_token_kind kind;
        int level;
        jinja_op op;
    } table[] = {{JINJA_TOK_ADD, 0, JINJA_ADD}, {JINJA_TOK_SUB, 0, JINJA_SUB},
                 {JINJA_TOK_MUL, 1, JINJA_MUL}, {JINJA_TOK_DIV, 1, JINJA_DIV},
                 {JINJA_TOK_MOD, 1, JINJA_MOD}, {JINJA_TOK_FLOORDIV, 1, JINJA_FLOORDIV},
                 {JINJA_TOK_POW, 2, JINJA_POW}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (table[i].kind == kind && table[i].level == level) {
            *op = table[i].op;
            return true;
        }
    }
    return false;
}

static jinja_node *parse_concat(jinja_parser *p);

static jinja_node *parse_binary(jinja_parser *p, int level)
{
    jinja_op op;
    int line = p->t->line;
    jinja_node *left = NULL;
    for (bool first = true; first || (left != NULL && binary_operator(p->t->kind, level, &op));
         first = false) {
        if (!first)
            moe_jinja_skip(p);
        jinja_node *right = level == 0   ? parse_concat(p)
                            : level == 1 ? parse_binary(p, 2)
                                         : parse_unary(p, true);
        if (!first) {
            left = moe_jinja_join_nodes(p, JINJA_NODE_BINARY, line, left, right);
            if (left != NULL)
                left->op = op;
        } else {
            left = right;
        }
    }
    return left;
}

static jinja_node *parse_concat(jinja_parser *p)
{
    int line = p->t->line;
    jinja_node *first = parse_binary(p, 1);
    if (first == NULL || p->t->kind != JINJA_TOK_TILDE)
        return first;
    jinja_node *node = moe_jinja_new_node(p, JINJA_NODE_CONCAT, line);
    if (node == NULL || !moe_jinja_add_node(p, &node->list, first))
        return NULL;
    while (moe_jinja_skip_kind(p, JINJA_TOK_TILDE)) {
        if (!moe_jinja_add_node(p, &node->list, parse_binary(p, 1)))
            return NULL;
    }
    return node;
}

static bool skip_comparison(jinja_parser *p, jinja_op *op)
{
    static const struct {
        jinja_token_kind kind;
        jinja_op op;
    } table[] = {{JINJA_TOK_EQ, JINJA_EQ}, {JINJA_TOK_NE, JINJA_NE}, {JINJA_TOK_LT, JINJA_LT},
                 {JINJA_TOK_LE, JINJA_LE}, {JINJA_TOK_GT, JINJA_GT}, {JINJA_TOK_GE, JINJA_GE}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        *op = table[i].op;
        if (moe_jinja_skip_kind(p, table[i].kind))
            return true;
    }
    *op = JINJA_IN;
    if (moe_jinja_skip_name(p, "in"))
        return true;
    *op = JINJA_NOT_IN;
    if (!moe_jinja_at_name(p, "not") || !next_is_name(p, "in"))
        return false;
    moe_jinja_skip(p);
    moe_jinja_skip(p);
    return true;
}

static jinja_node *parse_compare(jinja_parser *p)
{
    int line = p->t->line;
    jinja_node *first = parse_binary(p, 0), *node = NULL;
    jinja_op op;
    while (first != NULL && skip_comparison(p, &op)) {
        if (node == NULL &&
            (node = moe_jinja_join_nodes(p, JINJA_NODE_COMPARE, line, first, first)) == NULL)
            return NULL;
        jinja_node *right = parse_binary(p, 0);
        jinja_node *operand = moe_jinja_join_nodes(p, JINJA_NODE_UNARY, line, right, right);
        if (!moe_jinja_add_node(p, &node->list, operand))
            return NULL;
        operand->op = op;
    }
    return node != NULL ? node : first;
}

static jinja_node *parse_not(jinja_parser *p)
{
    int line = p->t->line;
    if (!moe_jinja_at_name(p, "not"))
        return parse_compare(p);
    if (!moe_jinja_parse_enter(p))
        return NULL;
    moe_jinja_skip(p);
    jinja_node *operand = parse_not(p);
    moe_jinja_parse_leave(p);
    return moe_jinja_join_nodes(p, JINJA_NODE_NOT, line, operand, operand);
}

static jinja_node *parse_and(jinja_parser *p)
{
    int line = p->t->line;
    jinja_node *left = parse_not(p);
    while (left != NULL && moe_jinja_skip_name(p, "and"))
        left = moe_jinja_join_nodes(p, JINJA_NODE_AND, line, left, parse_not(p));
    return left;
}

static jinja_node *parse_or(jinja_parser *p)
{
    int line = p->t->line;
    jinja_node *left = parse_and(p);
    while (left != NULL && moe_jinja_skip_name(p, "or"))
        left = moe_jinja_join_nodes(p, JINJA_NODE_OR, line, left, parse_and(p));
    return left;
}

jinja_node *moe_jinja_parse_expression(jinja_parser *p)
{
    if (!moe_jinja_parse_enter(p))
        return NULL;
    int line = p->t->line;
    size_t n_unknown = p->unknown.len;
    jinja_node *node = parse_or(p);
    while (node != NULL && moe_jinja_skip_name(p, "if")) {
        jinja_node *test = parse_or(p),
                   *cond = moe_jinja_join_nodes(p, JINJA_NODE_COND, line, test, node);
        if (cond != NULL && moe_jinja_skip_name(p, "else") &&
            (cond->c = moe_jinja_parse_expression(p)) == NULL)
            cond = NULL;
        node = cond;
        p->unknown.len = n_unknown; /* inside an inline if they may stay unknown */
    }
    moe_jinja_parse_leave(p);
    return node;
}
