/*
 * Values and the state of one rendering: what all parts of the template interpreter share.
 *
 * A rendering owns two arenas, one for objects and one for string bytes, and frees both in one go
 * at its end; values are never freed one by one and, namespaces and iterators aside, never change.
 * Every text that is built (the output, a captured block, the result of a filter) grows at the end
 * of the output buffer; moe_jinja_take cuts such a tail off and makes it a string.
 *
 * Types and constants of the interpreter are called jinja_…, its functions moe_jinja_….
 * Functions that return bool return false when the rendering has failed; the reason is then in the
 * state, and all callers only pass the false on.  Steps, nesting, memory and output are bounded, so
 * an untrusted template can neither crash nor hang its host.
 */
#ifndef MOE_JINJA_H
#define MOE_JINJA_H

#include <jansson.h>

#include "../../support.h"

typedef enum jinja_kind {
    JINJA_MISSING, /* an argument that was not given; never visible to templates */
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_DICT,
    JINJA_VIEW, /* keys(), values() or items() of a dict */
    JINJA_RANGE,
    JINJA_ITER, /* what Python calls a generator: can be walked once */
    JINJA_NAMESPACE,
    JINJA_LOOP,
    JINJA_CYCLER,
    JINJA_JOINER,
    JINJA_MACRO,
    JINJA_METHOD,   /* a builtin bound to a value */
    JINJA_FUNCTION, /* a global builtin */
} jinja_kind;

typedef struct jinja jinja;
typedef struct jinja_value jinja_value;
typedef struct jinja_iter jinja_iter;
typedef struct jinja_builtin jinja_builtin;
typedef struct jinja_node jinja_node;
typedef struct jinja_scope jinja_scope;

/* Bytes with room behind them, shared by a string and those that it was the beginning of. */
typedef struct jinja_buffer {
    char *data;
    size_t used, cap;
} jinja_buffer;

typedef struct jinja_string {
    const char *data;     /* valid UTF-8, not zero-terminated */
    size_t len;           /* bytes */
    size_t n_chars;       /* code points */
    bool safe;            /* markup: adding a plain string to it escapes that string */
    jinja_buffer *buffer; /* where data lies, if it can grow there; or NULL */
} jinja_string;

typedef struct jinja_array {
    jinja_value *items;
    size_t len;
} jinja_array;

typedef struct jinja_undefined jinja_undefined;
typedef struct jinja_dict jinja_dict;
typedef struct jinja_range jinja_range;
typedef struct jinja_loop jinja_loop;
typedef struct jinja_cycler jinja_cycler;
typedef struct jinja_joiner jinja_joiner;
typedef struct jinja_macro jinja_macro;
typedef struct jinja_method jinja_method;

struct jinja_value {
    uint8_t kind;
    uint8_t variant; /* VIEW: a jinja_view; TUPLE: 1 for a (grouper, list) pair of groupby */
    union {
        bool b;
        int64_t i;
        double f;
        jinja_undefined *undefined;
        jinja_string *s;
        jinja_array *a; /* LIST, TUPLE, VIEW */
        jinja_dict *d;  /* DICT, NAMESPACE */
        jinja_range *range;
        jinja_iter *iter;
        jinja_loop *loop;
        jinja_cycler *cycler;
        jinja_joiner *joiner;
        jinja_macro *macro;
        jinja_method *method;
        const jinja_builtin *function;
    };
};

typedef enum jinja_view { JINJA_KEYS, JINJA_VALUES, JINJA_ITEMS } jinja_view;

typedef enum jinja_op {
    JINJA_ADD,
    JINJA_SUB,
    JINJA_MUL,
    JINJA_DIV,
    JINJA_FLOORDIV,
    JINJA_MOD,
    JINJA_POW,
    JINJA_NEG,
    JINJA_POS,
    JINJA_EQ,
    JINJA_NE,
    JINJA_LT,
    JINJA_LE,
    JINJA_GT,
    JINJA_GE,
    JINJA_IN,
    JINJA_NOT_IN,
} jinja_op;

/* Why a value is undefined: hint, or else "obj has no attribute name", or "name is undefined". */
struct jinja_undefined {
    const char *hint;
    jinja_value obj; /* MISSING if a variable was looked up */
    jinja_value name;
};

typedef struct jinja_entry {
    jinja_value key, value;
    uint64_t hash;
} jinja_entry;

struct jinja_dict {
    jinja_entry *entries; /* in order of insertion */
    size_t len, cap;
    uint32_t *slots; /* open addressing, 1 + index of an entry; NULL while the dict is small */
    size_t n_slots;
};

struct jinja_range {
    int64_t start, step;
    size_t len;
};

struct jinja_cycler {
    jinja_array items;
    size_t pos;
};

struct jinja_joiner {
    jinja_value separator;
    bool used;
};

struct jinja_method {
    const jinja_builtin *builtin;
    jinja_value self;
};

/* Arguments of a call. */
typedef struct jinja_args {
    jinja_value *pos;
    size_t n_pos;
    jinja_value *names; /* strings */
    jinja_value *values;
    size_t n_named;
} jinja_args;

/* A filter, test, method or global function.  self: the filtered or tested value, the method's
 * object.  args: as given.  a: args sorted into the slots of params, MISSING where not given. */
typedef bool (*jinja_fn)(jinja *j, jinja_value self, const jinja_args *args, const jinja_value *a,
                         jinja_value *out);

enum { JINJA_MAX_PARAMS = 8 };

struct jinja_builtin {
    const char *name;
    const char *params; /* names apart by blanks, '?' after optional ones; NULL: takes any */
    jinja_fn fn;
};

typedef struct jinja_chunk jinja_chunk;
typedef struct jinja_arena {
    jinja_chunk *chunks;
    char *pos, *end;
} jinja_arena;

struct jinja {
    jinja_arena objects, bytes;
    size_t allocated;
    moe_buf *out;
    const moe_cancel *cancel;
    int64_t now;
    uint64_t steps;
    int depth;
    jinja_dict *names; /* interned strings */
    jinja_scope *root;
    jinja_value block_text; /* what the filters of a block work on */
    moe_status status;      /* MOE_OK until something fails */
    bool plain;             /* the message is raised by the template: no line number in front */
    int line;               /* where it failed, 0 if not known yet */
    char message[512];
};

/* --- jinja_value.c: memory, failures, constructors, comparison -------------------------------- */

void moe_jinja_free(jinja *j);
void *moe_jinja_alloc(jinja *j, size_t count, size_t size); /* zeroed; NULL: failed */
bool moe_jinja_fail(jinja *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool moe_jinja_fail_undefined(jinja *j, jinja_value undefined);
bool moe_jinja_step(jinja *j, size_t cost);
bool moe_jinja_enter(jinja *j); /* one level of nesting deeper; moe_jinja_leave even if it failed */
void moe_jinja_leave(jinja *j);

static inline jinja_value jinja_missing(void)
{
    return (jinja_value){.kind = JINJA_MISSING};
}
static inline jinja_value jinja_none(void)
{
    return (jinja_value){.kind = JINJA_NONE};
}
static inline jinja_value jinja_bool(bool b)
{
    return (jinja_value){.kind = JINJA_BOOL, .b = b};
}
static inline jinja_value jinja_int(int64_t i)
{
    return (jinja_value){.kind = JINJA_INT, .i = i};
}
static inline jinja_value jinja_float(double f)
{
    return (jinja_value){.kind = JINJA_FLOAT, .f = f};
}
static inline bool jinja_is_integer(jinja_value v) /* as in Python, a bool is an integer */
{
    return v.kind == JINJA_INT || v.kind == JINJA_BOOL;
}
static inline int64_t jinja_integer(jinja_value v)
{
    return v.kind == JINJA_BOOL ? v.b : v.i;
}
static inline bool jinja_is_array(jinja_value v)
{
    return v.kind == JINJA_LIST || v.kind == JINJA_TUPLE || v.kind == JINJA_VIEW;
}

/* Strings: copied into the arena, or sharing bytes that live as long as the rendering. */
bool moe_jinja_string_copy(jinja *j, const char *data, size_t len, jinja_value *out);
bool moe_jinja_string_share(jinja *j, const char *data, size_t len, bool safe, jinja_value *out);
bool moe_jinja_string_concat(jinja *j, const jinja_string *a, const jinja_string *b, bool safe,
                             jinja_value *out);
/* The one string object with these bytes: names are compared by address. */
bool moe_jinja_intern(jinja *j, const char *data, size_t len, jinja_value *out);

/* A list or tuple with room for len items, all MISSING. */
bool moe_jinja_array_new(jinja *j, jinja_kind kind, size_t len, jinja_value *out);
/* A growing list: appends to *array, whose items have room for *cap. */
bool moe_jinja_array_add(jinja *j, jinja_array *array, size_t *cap, jinja_value item);

bool moe_jinja_string_is(const jinja_string *s, const char *text);

bool moe_jinja_dict_new(jinja *j, jinja_value *out);
bool moe_jinja_dict_set(jinja *j, jinja_dict *dict, jinja_value key, jinja_value value);
/* *out = NULL if the key is not there; fails for a key that can't be hashed. */
bool moe_jinja_dict_get(jinja *j, const jinja_dict *dict, jinja_value key, const jinja_value **out);
const jinja_value *jinja_dict_find(const jinja_dict *dict, const char *key);
bool moe_jinja_hashable(jinja_value v);

bool moe_jinja_undefined_name(jinja *j, jinja_value name, jinja_value *out);
bool moe_jinja_undefined_attribute(jinja *j, jinja_value obj, jinja_value name, jinja_value *out);
bool moe_jinja_undefined_hint(jinja *j, const char *hint, jinja_value *out);

bool moe_jinja_from_json(jinja *j, const json_t *json, jinja_value *out);

const char *moe_jinja_type_name(jinja_value v); /* Python's */
bool moe_jinja_truth(jinja_value v);
bool moe_jinja_equal(jinja *j, jinja_value a, jinja_value b, bool *out);
bool moe_jinja_less(jinja *j, jinja_value a, jinja_value b, bool *out); /* a < b, or a type error */
bool moe_jinja_length(jinja *j, jinja_value v, size_t *out);            /* len() or a type error */
bool moe_jinja_contains(jinja *j, jinja_value container, jinja_value item, bool *out);

bool moe_jinja_iterable(jinja_value v);
bool moe_jinja_iter_open(jinja *j, jinja_value v,
                         jinja_iter *out); /* fails if it can't be walked */
bool moe_jinja_iter_next(jinja *j, jinja_iter *it, jinja_value *item, bool *done);
bool moe_jinja_iter_new(jinja *j, const jinja_iter *it, jinja_value *out);
bool moe_jinja_list_of(jinja *j, jinja_value v, jinja_value *out); /* list(v) */

#endif
