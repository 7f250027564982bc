/*
 * The syntax of templates: tokens and the tree that the parser makes of them.
 *
 * Everything lives in the arenas of the rendering.  Names are interned strings.
 */
#ifndef MOE_JINJA_SYNTAX_H
#define MOE_JINJA_SYNTAX_H

#include "jinja.h"

typedef enum jinja_token_kind {
    JINJA_TOK_EOF,
    JINJA_TOK_DATA, /* value: the text */
    JINJA_TOK_VARIABLE_BEGIN,
    JINJA_TOK_VARIABLE_END,
    JINJA_TOK_BLOCK_BEGIN,
    JINJA_TOK_BLOCK_END,
    JINJA_TOK_NAME,
    JINJA_TOK_STRING,
    JINJA_TOK_INTEGER,
    JINJA_TOK_FLOAT,
    /* operators, in the order of the lexer's table */
    JINJA_TOK_FLOORDIV,
    JINJA_TOK_POW,
    JINJA_TOK_EQ,
    JINJA_TOK_NE,
    JINJA_TOK_GE,
    JINJA_TOK_LE,
    JINJA_TOK_ADD,
    JINJA_TOK_SUB,
    JINJA_TOK_DIV,
    JINJA_TOK_MUL,
    JINJA_TOK_MOD,
    JINJA_TOK_TILDE,
    JINJA_TOK_LBRACKET,
    JINJA_TOK_RBRACKET,
    JINJA_TOK_LPAREN,
    JINJA_TOK_RPAREN,
    JINJA_TOK_LBRACE,
    JINJA_TOK_RBRACE,
    JINJA_TOK_GT,
    JINJA_TOK_LT,
    JINJA_TOK_ASSIGN,
    JINJA_TOK_DOT,
    JINJA_TOK_COLON,
    JINJA_TOK_PIPE,
    JINJA_TOK_COMMA,
    JINJA_TOK_SEMICOLON,
} jinja_token_kind;

typedef struct jinja_token {
    jinja_token_kind kind;
    int line;
    jinja_value value;
} jinja_token;

typedef enum jinja_node_kind {
    /* expressions            operands */
    JINJA_NODE_CONST,    /* value */
    JINJA_NODE_NAME,     /* value; of a parameter: a = default or NULL */
    JINJA_NODE_NSREF,    /* as a target: a = name of the namespace, value = attribute */
    JINJA_NODE_LIST,     /* list */
    JINJA_NODE_TUPLE,    /* list */
    JINJA_NODE_DICT,     /* list: key, value, key, value, … */
    JINJA_NODE_GETATTR,  /* a.value */
    JINJA_NODE_GETITEM,  /* a[b] */
    JINJA_NODE_SLICE,    /* as b of GETITEM: [a:b:c], each may be NULL */
    JINJA_NODE_CALL,     /* a(list) */
    JINJA_NODE_KEYWORD,  /* as argument: value=a */
    JINJA_NODE_STAR,     /* as argument: *a */
    JINJA_NODE_STARSTAR, /* as argument: **a */
    JINJA_NODE_FILTER,   /* a|value(list); a is NULL for the text of a block */
    JINJA_NODE_TEST,     /* a is value(list) */
    JINJA_NODE_UNARY,    /* op a */
    JINJA_NODE_BINARY,   /* a op b */
    JINJA_NODE_AND,      /* a and b */
    JINJA_NODE_OR,       /* a or b */
    JINJA_NODE_NOT,      /* not a */
    JINJA_NODE_COMPARE,  /* a, then list of UNARY nodes: op, a */
    JINJA_NODE_CONCAT,   /* list */
    JINJA_NODE_COND,     /* b if a else c (may be NULL) */
    /* statements */
    JINJA_NODE_TEXT,         /* value */
    JINJA_NODE_OUTPUT,       /* list of expressions */
    JINJA_NODE_IF,           /* list: test, BODY, test, BODY, …; orelse */
    JINJA_NODE_BODY,         /* body */
    JINJA_NODE_FOR,          /* for a in b if c; flag: recursive; body; orelse */
    JINJA_NODE_SET,          /* a = b */
    JINJA_NODE_SET_BLOCK,    /* a = body through the filters b (or NULL) */
    JINJA_NODE_MACRO,        /* value = name, list = parameters, body, uses */
    JINJA_NODE_CALL_BLOCK,   /* a = the call, b = a MACRO node for the caller */
    JINJA_NODE_FILTER_BLOCK, /* a = filters, body */
    JINJA_NODE_WITH,         /* list: target, value, …; body */
    JINJA_NODE_SCOPE,        /* body in a scope of its own; flag: at the top level's scope */
    JINJA_NODE_AUTOESCAPE,   /* a, body */
    JINJA_NODE_BREAK,
    JINJA_NODE_CONTINUE,
    JINJA_NODE_UNSUPPORTED, /* value = the tag */
} jinja_node_kind;

enum { JINJA_USES_VARARGS = 1, JINJA_USES_KWARGS = 2, JINJA_USES_CALLER = 4 };

typedef struct jinja_nodes {
    jinja_node **items;
    size_t len;
} jinja_nodes;

struct jinja_node {
    jinja_node_kind kind;
    jinja_op op;
    int line;
    bool flag;
    unsigned uses; /* MACRO: which special variables its body reads */
    jinja_value value;
    const jinja_builtin *builtin; /* FILTER, TEST; NULL: there is none of this name */
    jinja_node *a, *b, *c;
    jinja_nodes list, body, orelse;
};

/* Cuts a template (valid UTF-8) into tokens; the last one is EOF. */
bool moe_jinja_lex(jinja *j, const char *source, size_t len, jinja_token **tokens);

/* The tree of a template: a BODY node, or NULL if it failed. */
jinja_node *moe_jinja_parse(jinja *j, const jinja_token *tokens);

#endif
