/*
 * Evaluation of templates: scopes, loops, macros.
 *
 * A scope is made for a template, a loop's iteration, a macro's call and each block that captures
 * text; an assignment goes to the innermost scope, a name is looked up from there outwards.  Macros
 * keep the scope they were defined in.
 */
#ifndef MOE_JINJA_EVAL_H
#define MOE_JINJA_EVAL_H

#include "jinja_lib.h"
#include "jinja_syntax.h"

typedef struct jinja_variable {
    const jinja_string *name; /* interned */
    jinja_value value;
} jinja_variable;

struct jinja_scope {
    jinja_scope *parent;
    jinja_variable *variables;
    size_t len, cap;
    bool captured; /* a macro lives in it: it must not be used again for the next iteration */
};

struct jinja_macro {
    const jinja_node *node;
    jinja_scope *scope;
};

/* The `loop` variable. */
struct jinja_loop {
    const jinja_node *node;
    jinja_scope *scope; /* around the loop */
    jinja_iter iter;
    int64_t index0, depth0;
    int64_t length; /* -1: not known yet */
    jinja_value before, current, after;
    jinja_value changed; /* arguments of the last loop.changed() */
};

/* --- jinja_eval.c: expressions and calls ------------------------------------------------------ */

jinja_scope *moe_jinja_scope_new(jinja *j, jinja_scope *parent);
bool moe_jinja_scope_set(jinja *j, jinja_scope *scope, const jinja_string *name, jinja_value value);
bool moe_jinja_eval(jinja *j, jinja_scope *scope, const jinja_node *node, jinja_value *out);
/* A CALL node with a caller (or MISSING) as one more keyword argument. */
bool moe_jinja_eval_call(jinja *j, jinja_scope *scope, const jinja_node *node, jinja_value caller,
                         jinja_value *out);

/* --- jinja_exec.c: statements ----------------------------------------------------------------- */

typedef enum jinja_flow { JINJA_FAILED, JINJA_NEXT, JINJA_BREAK, JINJA_CONTINUE } jinja_flow;

jinja_flow moe_jinja_exec(jinja *j, jinja_scope *scope, const jinja_nodes *body);
bool moe_jinja_macro_new(jinja *j, jinja_scope *scope, const jinja_node *node, jinja_value *out);
bool moe_jinja_macro_call(jinja *j, const jinja_macro *macro, const jinja_args *args,
                          jinja_value *out);
/* Runs the loop's body over other items: loop(items) in a recursive loop. */
bool moe_jinja_loop_call(jinja *j, const jinja_loop *loop, jinja_value items, jinja_value *out);
/* *out = MISSING if there is no such attribute. */
bool moe_jinja_loop_attribute(jinja *j, jinja_loop *loop, const jinja_string *name,
                              jinja_value *out);
bool moe_jinja_macro_attribute(jinja *j, const jinja_macro *macro, const jinja_string *name,
                               jinja_value *out);

#endif
