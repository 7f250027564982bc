/*
 * What the two halves of the parser share: its state, and the steps over tokens.
 *
 * Functions that return a node return NULL when they have failed.  Brackets, prefix operators and
 * blocks that nest are counted, which bounds the stack.
 */
#ifndef MOE_JINJA_PARSER_H
#define MOE_JINJA_PARSER_H

#include "jinja_syntax.h"

/* The macro whose body is being read. */
typedef struct jinja_macro_context {
    struct jinja_macro_context *outer;
    unsigned uses;
} jinja_macro_context;

typedef struct jinja_parser {
    jinja *j;
    const jinja_token *t; /* the current token */
    int nesting;
    int fors;                   /* for loops around */
    int loops;                  /* those within the same macro, which break can leave */
    bool soft;                  /* directly inside an if statement */
    jinja_macro_context *macro; /* NULL outside of macros */
    jinja_nodes unknown;        /* filters and tests that don't exist */
} jinja_parser;

jinja_node *moe_jinja_fail_at(jinja_parser *p, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
bool moe_jinja_fail_unexpected(jinja_parser *p, const char *expected);
bool moe_jinja_parse_enter(jinja_parser *p);
void moe_jinja_parse_leave(jinja_parser *p);

bool moe_jinja_at_name(const jinja_parser *p, const char *name);
void moe_jinja_skip(jinja_parser *p);
bool moe_jinja_skip_name(jinja_parser *p, const char *name);
bool moe_jinja_skip_kind(jinja_parser *p, jinja_token_kind kind);
bool moe_jinja_expect(jinja_parser *p, jinja_token_kind kind);

jinja_node *moe_jinja_new_node(jinja_parser *p, jinja_node_kind kind, int line);
/* A node with operands a and b, or NULL if one of them is. */
jinja_node *moe_jinja_join_nodes(jinja_parser *p, jinja_node_kind kind, int line, jinja_node *a,
                                 jinja_node *b);
/* Appends; false if node is NULL. */
bool moe_jinja_add_node(jinja_parser *p, jinja_nodes *list, jinja_node *node);

/* How moe_jinja_parse_tuple reads the items, and whether there may be none. */
typedef struct jinja_tuple_style {
    bool targets;      /* names and literals only */
    bool namespaces;   /* targets may be ns.attribute */
    bool no_condition; /* no inline if */
    bool parentheses;  /* an empty tuple is fine */
} jinja_tuple_style;

/* One expression, or a tuple if there are commas. */
jinja_node *moe_jinja_parse_tuple(jinja_parser *p, const jinja_tuple_style *style);
jinja_node *moe_jinja_parse_expression(jinja_parser *p);
/* The filters of a block: name|name(arguments)|… */
jinja_node *moe_jinja_parse_filters(jinja_parser *p);

#endif
