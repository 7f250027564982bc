/*
 * Makes a tree of the tokens of a template: recursive descent, one function per rule of jinja2's
 * grammar and with its precedences, from `a if b else c` down to literals.
 *
 * Brackets, prefix operators and blocks that nest count against MAX_NESTING, which bounds the
 * stack. A filter or test that does not exist is an error here, unless it stands inside an if
 * statement or an inline if (as in jinja2): then it is one only when the rendering gets there.
 */
#include "jinja_lib.h"
#include "jinja_syntax.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_NESTING = 160 };

/* The macro whose body is being read. */
typedef struct macro_context {
    struct macro_context *outer;
    unsigned uses;
} macro_context;

typedef struct parser {
    jinja *j;
    const jinja_token *t; /* the current token */
    int nesting;
    int loops;            /* for loops around, within the same macro */
    bool soft;            /* directly inside an if statement */
    macro_context *macro; /* NULL outside of macros */
    jinja_nodes unknown;  /* filters and tests that don't exist */
} parser;

static jinja_node *parse_expression(parser *p);
static jinja_node *parse_or(parser *p);
static jinja_node *parse_unary(parser *p, bool with_filter);
static bool parse_body(parser *p, const char *const *ends, jinja_nodes *out);

/* Fails at a line of the template; returns NULL for the functions that return a node. */
__attribute__((format(printf, 3, 4))) static jinja_node *fail_at(parser *p, int line,
                                                                 const char *fmt, ...)
{
    char message[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    p->j->line = line;
    jinja_fail(p->j, "%s", message);
    return NULL;
}

/* --- tokens and nodes
 * ---------------------------------------------------------------------------------------- */

static bool at_name(const parser *p, const char *name)
{
    return p->t->kind == JINJA_TOK_NAME && jinja_string_is(p->t->value.s, name);
}

static bool next_is_name(const parser *p, const char *name)
{
    return p->t->kind != JINJA_TOK_EOF && p->t[1].kind == JINJA_TOK_NAME &&
           jinja_string_is(p->t[1].value.s, name);
}

static void skip(parser *p)
{
    if (p->t->kind != JINJA_TOK_EOF)
        p->t++;
}

static bool skip_name(parser *p, const char *name)
{
    if (!at_name(p, name))
        return false;
    skip(p);
    return true;
}

static bool skip_kind(parser *p, jinja_token_kind kind)
{
    if (p->t->kind != kind)
        return false;
    skip(p);
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

static bool fail_unexpected(parser *p, const char *expected)
{
    const jinja_token *t = p->t;
    if (t->kind == JINJA_TOK_NAME)
        fail_at(p, t->line, "expected %s, got '%.*s'", expected,
                t->value.s->len < 60 ? (int)t->value.s->len : 60, t->value.s->data);
    else
        fail_at(p, t->line, "expected %s, got %s", expected, describe(t->kind));
    return false;
}

static bool expect(parser *p, jinja_token_kind kind)
{
    if (skip_kind(p, kind))
        return true;
    return fail_unexpected(p, describe(kind));
}

static bool expect_name(parser *p, const char *name)
{
    if (skip_name(p, name))
        return true;
    return fail_unexpected(p, name);
}

static bool enter(parser *p)
{
    if (++p->nesting <= MAX_NESTING)
        return true;
    fail_at(p, p->t->line, "the template nests too deeply");
    return false;
}

static void leave(parser *p)
{
    p->nesting--;
}

static jinja_node *new_node(parser *p, jinja_node_kind kind, int line)
{
    jinja_node *node = jinja_alloc(p->j, 1, sizeof *node);
    if (node != NULL) {
        node->kind = kind;
        node->line = line;
    }
    return node;
}

/* A node with operands a and b, or NULL if one of the wanted operands is missing. */
static jinja_node *join_nodes(parser *p, jinja_node_kind kind, int line, jinja_node *a,
                              jinja_node *b)
{
    jinja_node *node = a != NULL && b != NULL ? new_node(p, kind, line) : NULL;
    if (node != NULL) {
        node->a = a;
        node->b = b;
    }
    return node;
}

/* Appends to a list that grows by doubling: its capacity is the next power of two. */
static bool add_node(parser *p, jinja_nodes *list, jinja_node *node)
{
    if (node == NULL)
        return false;
    if ((list->len & (list->len - 1)) == 0) { /* full: 0, 1, 2, 4, 8, … */
        jinja_node **items = jinja_alloc(p->j, list->len == 0 ? 1 : list->len * 2, sizeof *items);
        if (items == NULL)
            return false;
        if (list->len > 0)
            memcpy(items, list->items, list->len * sizeof *items);
        list->items = items;
    }
    list->items[list->len++] = node;
    return true;
}

/* --- literals, names, calls
 * ----------------------------------------------------------------------------------- */

static jinja_node *parse_name(parser *p)
{
    static const struct {
        const char *name;
        unsigned use;
    } specials[] = {{"varargs", JINJA_USES_VARARGS},
                    {"kwargs", JINJA_USES_KWARGS},
                    {"caller", JINJA_USES_CALLER}};
    jinja_value name = p->t->value;
    jinja_node *node = new_node(p, JINJA_NODE_CONST, p->t->line);
    if (node == NULL)
        return NULL;
    skip(p);
    if (jinja_string_is(name.s, "true") || jinja_string_is(name.s, "True")) {
        node->value = jinja_bool(true);
    } else if (jinja_string_is(name.s, "false") || jinja_string_is(name.s, "False")) {
        node->value = jinja_bool(false);
    } else if (jinja_string_is(name.s, "none") || jinja_string_is(name.s, "None")) {
        node->value = jinja_none();
    } else {
        node->kind = JINJA_NODE_NAME;
        node->value = name;
        for (size_t i = 0; i < 3; i++) {
            if (!jinja_string_is(name.s, specials[i].name))
                continue;
            for (macro_context *macro = p->macro; macro != NULL; macro = macro->outer)
                macro->uses |= specials[i].use;
        }
    }
    return node;
}

static jinja_node *parse_string(parser *p)
{
    jinja_node *node = new_node(p, JINJA_NODE_CONST, p->t->line);
    if (node == NULL)
        return NULL;
    node->value = p->t->value;
    skip(p);
    while (p->t->kind == JINJA_TOK_STRING) {
        if (!jinja_string_concat(p->j, node->value.s, p->t->value.s, false, &node->value))
            return NULL;
        skip(p);
    }
    return node;
}

/* Items up to the closing bracket; pairs: key, value, key, value, … */
static jinja_node *parse_display(parser *p, jinja_node_kind kind, jinja_token_kind close,
                                 bool pairs)
{
    jinja_node *node = new_node(p, kind, p->t->line);
    if (node == NULL)
        return NULL;
    skip(p);
    while (p->t->kind != close) {
        if (node->list.len > 0 && !expect(p, JINJA_TOK_COMMA))
            return NULL;
        if (p->t->kind == close)
            break;
        if (!add_node(p, &node->list, parse_expression(p)))
            return NULL;
        if (pairs &&
            (!expect(p, JINJA_TOK_COLON) || !add_node(p, &node->list, parse_expression(p))))
            return NULL;
    }
    return expect(p, close) ? node : NULL;
}

/* How parse_tuple reads: the items, and where an empty or trailing place may end it. */
typedef struct tuple_style {
    bool targets;      /* names and literals only */
    bool namespaces;   /* targets may be ns.attribute */
    bool no_condition; /* no inline if */
    bool parentheses;  /* an empty tuple is fine */
    const char *end;   /* a name that ends it, or NULL */
} tuple_style;

static jinja_node *parse_primary(parser *p, bool namespaces);

static jinja_node *parse_tuple_item(parser *p, const tuple_style *style)
{
    if (style->targets)
        return parse_primary(p, style->namespaces);
    return style->no_condition ? parse_or(p) : parse_expression(p);
}

static jinja_node *parse_tuple(parser *p, const tuple_style *style)
{
    jinja_node *node = new_node(p, JINJA_NODE_TUPLE, p->t->line);
    bool is_tuple = false;
    if (node == NULL)
        return NULL;
    for (;;) {
        if (node->list.len > 0 && !expect(p, JINJA_TOK_COMMA))
            return NULL;
        jinja_token_kind kind = p->t->kind;
        if (kind == JINJA_TOK_VARIABLE_END || kind == JINJA_TOK_BLOCK_END ||
            kind == JINJA_TOK_RPAREN || (style->end != NULL && at_name(p, style->end)))
            break;
        if (!add_node(p, &node->list, parse_tuple_item(p, style)))
            return NULL;
        if (p->t->kind != JINJA_TOK_COMMA)
            break;
        is_tuple = true;
    }
    if (is_tuple || (node->list.len == 0 && style->parentheses))
        return node;
    if (node->list.len == 0) {
        fail_unexpected(p, "an expression");
        return NULL;
    }
    return node->list.items[0];
}

static jinja_node *parse_primary(parser *p, bool namespaces)
{
    static const tuple_style in_parentheses = {.parentheses = true};
    jinja_node *node = NULL, *ns;
    const jinja_token *t = p->t;
    if (!enter(p))
        return NULL;
    switch (t->kind) {
    case JINJA_TOK_NAME:
        node = parse_name(p);
        if (node == NULL || !namespaces || node->kind != JINJA_NODE_NAME ||
            !skip_kind(p, JINJA_TOK_DOT))
            break;
        ns = node;
        node = NULL;
        if (p->t->kind != JINJA_TOK_NAME) {
            fail_unexpected(p, "name");
            break;
        }
        node = join_nodes(p, JINJA_NODE_NSREF, t->line, ns, ns);
        if (node != NULL)
            node->value = p->t->value;
        skip(p);
        break;
    case JINJA_TOK_STRING:
        node = parse_string(p);
        break;
    case JINJA_TOK_INTEGER:
    case JINJA_TOK_FLOAT:
        node = new_node(p, JINJA_NODE_CONST, t->line);
        if (node != NULL)
            node->value = t->value;
        skip(p);
        break;
    case JINJA_TOK_LPAREN:
        skip(p);
        node = parse_tuple(p, &in_parentheses);
        if (node != NULL && !expect(p, JINJA_TOK_RPAREN))
            node = NULL;
        break;
    case JINJA_TOK_LBRACKET:
        node = parse_display(p, JINJA_NODE_LIST, JINJA_TOK_RBRACKET, false);
        break;
    case JINJA_TOK_LBRACE:
        node = parse_display(p, JINJA_NODE_DICT, JINJA_TOK_RBRACE, true);
        break;
    default:
        fail_unexpected(p, "an expression");
        break;
    }
    leave(p);
    return node;
}

/* One argument; *phase: 0 positional ones may follow, 1 keywords, 2 after *args, 3 after **kwargs.
 */
static jinja_node *parse_argument(parser *p, int *phase)
{
    int line = p->t->line;
    jinja_node_kind kind;
    jinja_value name = jinja_missing();
    if (p->t->kind == JINJA_TOK_MUL && *phase < 2) {
        kind = JINJA_NODE_STAR;
        *phase = 2;
        skip(p);
    } else if (p->t->kind == JINJA_TOK_POW && *phase < 3) {
        kind = JINJA_NODE_STARSTAR;
        *phase = 3;
        skip(p);
    } else if (p->t->kind == JINJA_TOK_NAME && p->t[1].kind == JINJA_TOK_ASSIGN && *phase < 3) {
        kind = JINJA_NODE_KEYWORD;
        *phase = *phase < 1 ? 1 : *phase;
        name = p->t->value;
        skip(p);
        skip(p);
    } else if (*phase == 0) {
        return parse_expression(p);
    } else {
        return fail_at(p, line, "invalid syntax for function call expression");
    }
    jinja_node *value = parse_expression(p), *node = join_nodes(p, kind, line, value, value);
    if (node != NULL)
        node->value = name;
    return node;
}

static bool parse_arguments(parser *p, jinja_nodes *list)
{
    int phase = 0;
    if (!expect(p, JINJA_TOK_LPAREN))
        return false;
    while (p->t->kind != JINJA_TOK_RPAREN) {
        if (list->len > 0) {
            if (!expect(p, JINJA_TOK_COMMA))
                return false;
            if (p->t->kind == JINJA_TOK_RPAREN)
                break;
        }
        if (!add_node(p, list, parse_argument(p, &phase)))
            return false;
    }
    return expect(p, JINJA_TOK_RPAREN);
}

static jinja_node *parse_call(parser *p, jinja_node *callee)
{
    jinja_node *node = join_nodes(p, JINJA_NODE_CALL, p->t->line, callee, callee);
    return node != NULL && parse_arguments(p, &node->list) ? node : NULL;
}

/* --- postfix expressions, filters, tests
 * ------------------------------------------------------------------------ */

static jinja_node *parse_subscript(parser *p)
{
    jinja_node *first = NULL, *slice;
    int line = p->t->line;
    if (p->t->kind != JINJA_TOK_COLON) {
        first = parse_expression(p);
        if (first == NULL || p->t->kind != JINJA_TOK_COLON)
            return first;
    }
    slice = new_node(p, JINJA_NODE_SLICE, line);
    if (slice == NULL)
        return NULL;
    skip(p);
    slice->a = first;
    if (p->t->kind != JINJA_TOK_COLON && p->t->kind != JINJA_TOK_RBRACKET &&
        p->t->kind != JINJA_TOK_COMMA && (slice->b = parse_expression(p)) == NULL)
        return NULL;
    if (skip_kind(p, JINJA_TOK_COLON) && p->t->kind != JINJA_TOK_RBRACKET &&
        p->t->kind != JINJA_TOK_COMMA && (slice->c = parse_expression(p)) == NULL)
        return NULL;
    return slice;
}

static jinja_node *parse_item(parser *p, jinja_node *object)
{
    int line = p->t->line;
    jinja_node *tuple = new_node(p, JINJA_NODE_TUPLE, line);
    if (tuple == NULL)
        return NULL;
    skip(p);
    while (p->t->kind != JINJA_TOK_RBRACKET) {
        if (tuple->list.len > 0 && !expect(p, JINJA_TOK_COMMA))
            return NULL;
        jinja_node *item = parse_subscript(p);
        if (!add_node(p, &tuple->list, item))
            return NULL;
        if (item->kind == JINJA_NODE_SLICE &&
            (tuple->list.len > 1 || p->t->kind == JINJA_TOK_COMMA))
            return fail_at(p, line, "a slice can't be part of a tuple");
    }
    skip(p);
    return join_nodes(p, JINJA_NODE_GETITEM, line, object,
                      tuple->list.len == 1 ? tuple->list.items[0] : tuple);
}

static jinja_node *parse_attribute(parser *p, jinja_node *object)
{
    int line = p->t->line;
    skip(p);
    jinja_node *node = join_nodes(p, JINJA_NODE_GETATTR, line, object, object);
    if (node == NULL)
        return NULL;
    if (p->t->kind == JINJA_TOK_NAME) {
        node->value = p->t->value;
    } else if (p->t->kind == JINJA_TOK_INTEGER) {
        node->kind = JINJA_NODE_GETITEM;
        node->b = new_node(p, JINJA_NODE_CONST, line);
        if (node->b == NULL)
            return NULL;
        node->b->value = p->t->value;
    } else {
        fail_unexpected(p, "name or number");
        return NULL;
    }
    skip(p);
    return node;
}

static jinja_node *parse_postfix(parser *p, jinja_node *node)
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
static bool parse_dotted_name(parser *p, jinja_value *name)
{
    static const jinja_string dot = {".", 1, 1, false};
    *name = p->t->value;
    if (!expect(p, JINJA_TOK_NAME))
        return false;
    while (skip_kind(p, JINJA_TOK_DOT)) {
        jinja_value part = p->t->value;
        if (!expect(p, JINJA_TOK_NAME) || !jinja_string_concat(p->j, name->s, &dot, false, name) ||
            !jinja_string_concat(p->j, name->s, part.s, false, name))
            return false;
    }
    return true;
}

static jinja_node *resolve_builtin(parser *p, jinja_node *node)
{
    node->builtin = node->kind == JINJA_NODE_FILTER ? jinja_find_filter(node->value.s)
                                                    : jinja_find_test(node->value.s);
    if (node->builtin != NULL || p->soft)
        return node;
    return add_node(p, &p->unknown, node) ? node : NULL;
}

/* One filter behind "|"; input NULL: the text of a block. */
static jinja_node *parse_filter(parser *p, jinja_node *input)
{
    jinja_node *node = new_node(p, JINJA_NODE_FILTER, p->t->line);
    if (node == NULL || !parse_dotted_name(p, &node->value))
        return NULL;
    node->a = input;
    if (p->t->kind == JINJA_TOK_LPAREN && !parse_arguments(p, &node->list))
        return NULL;
    return resolve_builtin(p, node);
}

static jinja_node *parse_filters(parser *p)
{
    jinja_node *node = parse_filter(p, NULL);
    while (node != NULL && skip_kind(p, JINJA_TOK_PIPE))
        node = parse_filter(p, node);
    return node;
}

static bool starts_test_argument(const parser *p)
{
    switch (p->t->kind) {
    case JINJA_TOK_NAME:
        return !at_name(p, "else") && !at_name(p, "or") && !at_name(p, "and");
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

static jinja_node *parse_test(parser *p, jinja_node *value)
{
    int line = p->t->line;
    skip(p);
    bool negated = skip_name(p, "not");
    jinja_node *node = join_nodes(p, JINJA_NODE_TEST, line, value, value);
    if (node == NULL || !parse_dotted_name(p, &node->value))
        return NULL;
    if (p->t->kind == JINJA_TOK_LPAREN) {
        if (!parse_arguments(p, &node->list))
            return NULL;
    } else if (at_name(p, "is")) {
        return fail_at(p, line, "tests can't be chained with is");
    } else if (starts_test_argument(p) &&
               !add_node(p, &node->list, parse_postfix(p, parse_primary(p, false)))) {
        return NULL;
    }
    node = resolve_builtin(p, node);
    return negated && node != NULL ? join_nodes(p, JINJA_NODE_NOT, line, node, node) : node;
}

static jinja_node *parse_filters_and_tests(parser *p, jinja_node *node)
{
    while (node != NULL) {
        if (skip_kind(p, JINJA_TOK_PIPE))
            node = parse_filter(p, node);
        else if (at_name(p, "is"))
            node = parse_test(p, node);
        else if (p->t->kind == JINJA_TOK_LPAREN)
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}

/* --- operators, from tight to loose
 * ------------------------------------------------------------------------------- */

static jinja_node *parse_unary(parser *p, bool with_filter)
{
    jinja_node *node;
    jinja_token_kind kind = p->t->kind;
    if (kind == JINJA_TOK_SUB || kind == JINJA_TOK_ADD) {
        int line = p->t->line;
        if (!enter(p))
            return NULL;
        skip(p);
        node = parse_unary(p, false);
        node = join_nodes(p, JINJA_NODE_UNARY, line, node, node);
        if (node != NULL)
            node->op = kind == JINJA_TOK_SUB ? JINJA_NEG : JINJA_POS;
        leave(p);
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

static jinja_node *parse_concat(parser *p);

static jinja_node *parse_binary(parser *p, int level)
{
    jinja_op op;
    int line = p->t->line;
    jinja_node *left = NULL;
    for (bool first = true; first || (left != NULL && binary_operator(p->t->kind, level, &op));
         first = false) {
        if (!first)
            skip(p);
        jinja_node *right = level == 0   ? parse_concat(p)
                            : level == 1 ? parse_binary(p, 2)
                                         : parse_unary(p, true);
        if (!first) {
            left = join_nodes(p, JINJA_NODE_BINARY, line, left, right);
            if (left != NULL)
                left->op = op;
        } else {
            left = right;
        }
    }
    return left;
}

static jinja_node *parse_concat(parser *p)
{
    int line = p->t->line;
    jinja_node *first = parse_binary(p, 1);
    if (first == NULL || p->t->kind != JINJA_TOK_TILDE)
        return first;
    jinja_node *node = new_node(p, JINJA_NODE_CONCAT, line);
    if (node == NULL || !add_node(p, &node->list, first))
        return NULL;
    while (skip_kind(p, JINJA_TOK_TILDE)) {
        if (!add_node(p, &node->list, parse_binary(p, 1)))
            return NULL;
    }
    return node;
}

static bool skip_comparison(parser *p, jinja_op *op)
{
    static const struct {
        jinja_token_kind kind;
        jinja_op op;
    } table[] = {{JINJA_TOK_EQ, JINJA_EQ}, {JINJA_TOK_NE, JINJA_NE}, {JINJA_TOK_LT, JINJA_LT},
                 {JINJA_TOK_LE, JINJA_LE}, {JINJA_TOK_GT, JINJA_GT}, {JINJA_TOK_GE, JINJA_GE}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        *op = table[i].op;
        if (skip_kind(p, table[i].kind))
            return true;
    }
    *op = JINJA_IN;
    if (skip_name(p, "in"))
        return true;
    *op = JINJA_NOT_IN;
    if (!at_name(p, "not") || !next_is_name(p, "in"))
        return false;
    skip(p);
    skip(p);
    return true;
}

static jinja_node *parse_compare(parser *p)
{
    int line = p->t->line;
    jinja_node *first = parse_binary(p, 0), *node = NULL;
    jinja_op op;
    while (first != NULL && skip_comparison(p, &op)) {
        if (node == NULL && (node = join_nodes(p, JINJA_NODE_COMPARE, line, first, first)) == NULL)
            return NULL;
        jinja_node *right = parse_binary(p, 0);
        jinja_node *operand = join_nodes(p, JINJA_NODE_UNARY, line, right, right);
        if (!add_node(p, &node->list, operand))
            return NULL;
        operand->op = op;
    }
    return node != NULL ? node : first;
}

static jinja_node *parse_not(parser *p)
{
    int line = p->t->line;
    if (!at_name(p, "not"))
        return parse_compare(p);
    if (!enter(p))
        return NULL;
    skip(p);
    jinja_node *operand = parse_not(p);
    leave(p);
    return join_nodes(p, JINJA_NODE_NOT, line, operand, operand);
}

static jinja_node *parse_and(parser *p)
{
    int line = p->t->line;
    jinja_node *left = parse_not(p);
    while (left != NULL && skip_name(p, "and"))
        left = join_nodes(p, JINJA_NODE_AND, line, left, parse_not(p));
    return left;
}

static jinja_node *parse_or(parser *p)
{
    int line = p->t->line;
    jinja_node *left = parse_and(p);
    while (left != NULL && skip_name(p, "or"))
        left = join_nodes(p, JINJA_NODE_OR, line, left, parse_and(p));
    return left;
}

static jinja_node *parse_expression(parser *p)
{
    if (!enter(p))
        return NULL;
    int line = p->t->line;
    size_t n_unknown = p->unknown.len;
    jinja_node *node = parse_or(p);
    while (node != NULL && skip_name(p, "if")) {
        jinja_node *test = parse_or(p), *cond = join_nodes(p, JINJA_NODE_COND, line, test, node);
        if (cond != NULL && skip_name(p, "else") && (cond->c = parse_expression(p)) == NULL)
            cond = NULL;
        node = cond;
        p->unknown.len = n_unknown; /* inside an inline if they may stay unknown */
    }
    leave(p);
    return node;
}

/* --- statements
 * -----------------------------------------------------------------------------------------------------
 */

static bool parse_block_body(parser *p, const char *end, jinja_nodes *out)
{
    const char *const ends[] = {end, NULL};
    bool soft = p->soft;
    p->soft = false;
    bool ok = parse_body(p, ends, out);
    p->soft = soft;
    if (ok)
        skip(p);
    return ok;
}

static bool check_target(parser *p, const jinja_node *target)
{
    if (target->kind == JINJA_NODE_NSREF)
        return true;
    if (target->kind == JINJA_NODE_NAME)
        return true;
    if (target->kind != JINJA_NODE_TUPLE) {
        fail_at(p, target->line, "can't assign to this expression");
        return false;
    }
    for (size_t i = 0; i < target->list.len; i++) {
        if (!check_target(p, target->list.items[i]))
            return false;
    }
    return true;
}

static jinja_node *parse_target(parser *p, bool namespaces, const char *end)
{
    tuple_style style = {.targets = true, .namespaces = namespaces, .end = end};
    jinja_node *target = parse_tuple(p, &style);
    return target != NULL && check_target(p, target) ? target : NULL;
}

static jinja_node *parse_name_target(parser *p)
{
    if (p->t->kind != JINJA_TOK_NAME) {
        fail_unexpected(p, "name");
        return NULL;
    }
    jinja_node *node = new_node(p, JINJA_NODE_NAME, p->t->line);
    if (node != NULL)
        node->value = p->t->value;
    skip(p);
    return node;
}

static jinja_node *parse_set(parser *p, jinja_node *node)
{
    static const tuple_style any = {0};
    node->a = parse_target(p, true, NULL);
    if (node->a == NULL)
        return NULL;
    if (skip_kind(p, JINJA_TOK_ASSIGN)) {
        node->kind = JINJA_NODE_SET;
        node->b = parse_tuple(p, &any);
        return node->b != NULL ? node : NULL;
    }
    node->kind = JINJA_NODE_SET_BLOCK;
    if (skip_kind(p, JINJA_TOK_PIPE) && (node->b = parse_filters(p)) == NULL)
        return NULL;
    return parse_block_body(p, "endset", &node->body) ? node : NULL;
}

static bool assigns_loop(const jinja_node *target)
{
    if (target->kind == JINJA_NODE_NAME)
        return jinja_string_is(target->value.s, "loop");
    for (size_t i = 0; i < target->list.len; i++) {
        if (assigns_loop(target->list.items[i]))
            return true;
    }
    return false;
}

static jinja_node *parse_for(parser *p, jinja_node *node)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    static const tuple_style iterable = {.no_condition = true, .end = "recursive"};
    bool soft = p->soft;
    node->kind = JINJA_NODE_FOR;
    node->a = parse_target(p, false, "in");
    if (node->a == NULL || !expect_name(p, "in") || (node->b = parse_tuple(p, &iterable)) == NULL)
        return NULL;
    if (assigns_loop(node->a))
        return fail_at(p, node->line, "can't assign to special loop variable in for-loop target");
    p->soft = false;
    if (skip_name(p, "if") && (node->c = parse_expression(p)) == NULL)
        return NULL;
    node->flag = skip_name(p, "recursive");
    p->loops++;
    if (!parse_body(p, ends, &node->body))
        return NULL;
    p->loops--;
    p->soft = soft;
    if (skip_name(p, "else"))
        return parse_block_body(p, "endfor", &node->orelse) ? node : NULL;
    skip(p);
    return node;
}

static jinja_node *parse_if(parser *p, jinja_node *node)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const last[] = {"endif", NULL};
    static const tuple_style test = {.no_condition = true};
    bool soft = p->soft;
    p->soft = true;
    node->kind = JINJA_NODE_IF;
    do {
        jinja_node *condition = parse_tuple(p, &test);
        jinja_node *body = new_node(p, JINJA_NODE_BODY, p->t->line);
        if (body == NULL || !add_node(p, &node->list, condition) ||
            !add_node(p, &node->list, body) || !parse_body(p, ends, &body->body))
            return NULL;
    } while (skip_name(p, "elif"));
    if (skip_name(p, "else") && !parse_body(p, last, &node->orelse))
        return NULL;
    skip(p);
    p->soft = soft;
    return node;
}

static bool parse_signature(parser *p, jinja_nodes *params)
{
    bool defaults = false;
    if (!expect(p, JINJA_TOK_LPAREN))
        return false;
    while (p->t->kind != JINJA_TOK_RPAREN) {
        if (params->len > 0 && !expect(p, JINJA_TOK_COMMA))
            return false;
        jinja_node *param = parse_name_target(p);
        if (!add_node(p, params, param))
            return false;
        if (skip_kind(p, JINJA_TOK_ASSIGN)) {
            defaults = true;
            if ((param->a = parse_expression(p)) == NULL)
                return false;
        } else if (defaults) {
            fail_at(p, param->line, "non-default argument follows default argument");
            return false;
        }
    }
    skip(p);
    return true;
}

/* The body of a macro or call block, which is a function of its own. */
static bool parse_macro_body(parser *p, jinja_node *macro, const char *end)
{
    macro_context context = {.outer = p->macro};
    int loops = p->loops;
    p->macro = &context;
    p->loops = 0;
    bool ok = parse_block_body(p, end, &macro->body);
    p->macro = context.outer;
    p->loops = loops;
    macro->uses = context.uses;
    for (size_t i = 0; ok && i < macro->list.len; i++) {
        if (jinja_string_is(macro->list.items[i]->value.s, "caller") &&
            (macro->uses & JINJA_USES_CALLER) && macro->list.items[i]->a == NULL)
            return fail_at(p, macro->line, "the special argument caller needs a default") != NULL;
    }
    return ok;
}

static jinja_node *parse_macro(parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_MACRO;
    jinja_node *name = parse_name_target(p);
    if (name == NULL)
        return NULL;
    node->value = name->value;
    return parse_signature(p, &node->list) && parse_macro_body(p, node, "endmacro") ? node : NULL;
}

static jinja_node *parse_call_block(parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_CALL_BLOCK;
    node->b = new_node(p, JINJA_NODE_MACRO, node->line);
    if (node->b == NULL || (p->t->kind == JINJA_TOK_LPAREN && !parse_signature(p, &node->b->list)))
        return NULL;
    node->a = parse_expression(p);
    if (node->a == NULL)
        return NULL;
    if (node->a->kind != JINJA_NODE_CALL)
        return fail_at(p, node->line, "expected call");
    return parse_macro_body(p, node->b, "endcall") ? node : NULL;
}

static jinja_node *parse_filter_block(parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_FILTER_BLOCK;
    node->a = parse_filters(p);
    return node->a != NULL && parse_block_body(p, "endfilter", &node->body) ? node : NULL;
}

static jinja_node *parse_with(parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_WITH;
    while (p->t->kind != JINJA_TOK_BLOCK_END) {
        if (node->list.len > 0 && !expect(p, JINJA_TOK_COMMA))
            return NULL;
        jinja_node *target = parse_target(p, false, NULL);
        if (!add_node(p, &node->list, target) || !expect(p, JINJA_TOK_ASSIGN) ||
            !add_node(p, &node->list, parse_expression(p)))
            return NULL;
    }
    return parse_block_body(p, "endwith", &node->body) ? node : NULL;
}

static jinja_node *parse_named_block(parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_SCOPE;
    jinja_node *name = parse_name_target(p);
    if (name == NULL)
        return NULL;
    node->flag = !skip_name(p, "scoped");
    skip_name(p, "required");
    if (!parse_block_body(p, "endblock", &node->body))
        return NULL;
    if (p->t->kind == JINJA_TOK_NAME && p->t->value.s == name->value.s)
        skip(p);
    return node;
}

static jinja_node *parse_autoescape(parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_AUTOESCAPE;
    node->a = parse_expression(p);
    return node->a != NULL && parse_block_body(p, "endautoescape", &node->body) ? node : NULL;
}

/* transformers' tag around what the assistant says: renders its body in a scope of its own. */
static jinja_node *parse_generation(parser *p, jinja_node *node)
{
    int loops = p->loops;
    p->loops = 0;
    node->kind = JINJA_NODE_SCOPE;
    bool ok = parse_block_body(p, "endgeneration", &node->body);
    p->loops = loops;
    return ok ? node : NULL;
}

static jinja_node *parse_print(parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_OUTPUT;
    while (p->t->kind != JINJA_TOK_BLOCK_END) {
        if (node->list.len > 0 && !expect(p, JINJA_TOK_COMMA))
            return NULL;
        if (!add_node(p, &node->list, parse_expression(p)))
            return NULL;
    }
    return node;
}

static jinja_node *parse_loop_control(parser *p, jinja_node *node)
{
    bool is_break = jinja_string_is(node->value.s, "break");
    node->kind = is_break ? JINJA_NODE_BREAK : JINJA_NODE_CONTINUE;
    if (p->loops == 0)
        return fail_at(p, node->line, "'%s' outside of a loop", is_break ? "break" : "continue");
    return node;
}

/* Tags that need other templates: an error only when the rendering gets there. */
static jinja_node *parse_unsupported(parser *p, jinja_node *node)
{
    node->kind = JINJA_NODE_UNSUPPORTED;
    while (p->t->kind != JINJA_TOK_BLOCK_END && p->t->kind != JINJA_TOK_EOF)
        skip(p);
    return node;
}

static jinja_node *parse_statement(parser *p)
{
    static const struct {
        const char *tag;
        jinja_node *(*parse)(parser *p, jinja_node *node);
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
        return fail_at(p, t->line, "tag name expected");
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++) {
        if (!jinja_string_is(t->value.s, statements[i].tag))
            continue;
        jinja_node *node = new_node(p, JINJA_NODE_BODY, t->line);
        if (node == NULL)
            return NULL;
        node->value = t->value;
        skip(p);
        return statements[i].parse(p, node);
    }
    return fail_at(p, t->line, "encountered unknown tag '%.*s'",
                   t->value.s->len < 60 ? (int)t->value.s->len : 60, t->value.s->data);
}

static bool at_end(const parser *p, const char *const *ends)
{
    for (; ends != NULL && *ends != NULL; ends++) {
        if (at_name(p, *ends))
            return true;
    }
    return false;
}

static jinja_node *parse_text(parser *p)
{
    jinja_node *node = new_node(p, JINJA_NODE_TEXT, p->t->line);
    if (node != NULL)
        node->value = p->t->value;
    skip(p);
    return node;
}

static jinja_node *parse_output(parser *p)
{
    static const tuple_style any = {0};
    jinja_node *node = new_node(p, JINJA_NODE_OUTPUT, p->t->line);
    skip(p);
    if (node == NULL || !add_node(p, &node->list, parse_tuple(p, &any)))
        return NULL;
    return expect(p, JINJA_TOK_VARIABLE_END) ? node : NULL;
}

/* Statements up to a tag named in ends, whose name becomes the current token (NULL: up to the end
 * of the template). */
static bool parse_statements(parser *p, const char *const *ends, jinja_nodes *out)
{
    for (;;) {
        jinja_node *node;
        switch (p->t->kind) {
        case JINJA_TOK_EOF:
            if (ends == NULL)
                return true;
            fail_at(p, p->t->line, "unexpected end of template, expected '%s'", ends[0]);
            return false;
        case JINJA_TOK_DATA:
            node = parse_text(p);
            break;
        case JINJA_TOK_VARIABLE_BEGIN:
            node = parse_output(p);
            break;
        default:
            skip(p);
            if (at_end(p, ends))
                return true;
            node = parse_statement(p);
            if (node != NULL && !expect(p, JINJA_TOK_BLOCK_END))
                return false;
            break;
        }
        if (!add_node(p, out, node))
            return false;
    }
}

static bool parse_body(parser *p, const char *const *ends, jinja_nodes *out)
{
    skip_kind(p, JINJA_TOK_COLON);
    bool ok = expect(p, JINJA_TOK_BLOCK_END) && enter(p) && parse_statements(p, ends, out);
    leave(p);
    return ok;
}

jinja_node *jinja_parse(jinja *j, const jinja_token *tokens)
{
    parser p = {.j = j, .t = tokens};
    jinja_node *root = new_node(&p, JINJA_NODE_BODY, 1);
    if (root == NULL || !parse_statements(&p, NULL, &root->body))
        return NULL;
    if (p.unknown.len > 0) {
        const jinja_node *node = p.unknown.items[0];
        return fail_at(&p, node->line, "no %s named '%.*s'",
                       node->kind == JINJA_NODE_FILTER ? "filter" : "test",
                       node->value.s->len < 60 ? (int)node->value.s->len : 60, node->value.s->data);
    }
    return root;
}
