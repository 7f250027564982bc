/*
 * Values and the state of one rendering: what all parts of the template interpreter share.
 *
 * A rendering owns two arenas, one for objects and one for string bytes, and frees both in one go
 * at its end; values are never freed one by one and, namespaces and iterators aside, never change.
 * Every text that is built (the output, a captured block, the result of a filter) grows at the end
 * of the output buffer; jinja_take cuts such a tail off and makes it a string.
 *
 * Functions that return bool return false when the rendering has failed; the reason is then in the
 * state, and all callers only pass the false on.  Steps, nesting, memory and output are bounded, so
 * an untrusted template can neither crash nor hang its host.
 */
#ifndef MOE_JINJA_H
#define MOE_JINJA_H

#include <jansson.h>

#include "../support.h"

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

/* Walks a value.  MAP and SELECT pull items from their source only when they are asked for. */
typedef enum jinja_iter_kind {
    JINJA_ITER_ARRAY,
    JINJA_ITER_STRING,
    JINJA_ITER_DICT,
    JINJA_ITER_RANGE,
    JINJA_ITER_MAP,
    JINJA_ITER_SELECT,
    JINJA_ITER_SHARED, /* goes on with another iterator */
} jinja_iter_kind;

struct jinja_iter {
    jinja_iter_kind kind;
    size_t pos;
    union {
        const jinja_array *array;
        const jinja_string *string;
        const jinja_dict *dict;
        const jinja_range *range;
        jinja_iter *source; /* MAP, SELECT, SHARED */
    };
    jinja_value over; /* MAP and SELECT: what source walks once the first item is asked for */
    /* MAP and SELECT: the attribute path (or MISSING), the filter or test (or NULL), its args */
    jinja_value attribute, fallback;
    const jinja_builtin *builtin;
    jinja_args args;
    bool negate;
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

void jinja_free(jinja *j);
void *jinja_alloc(jinja *j, size_t count, size_t size); /* zeroed; NULL: failed */
bool jinja_fail(jinja *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool jinja_fail_undefined(jinja *j, jinja_value undefined);
bool jinja_step(jinja *j, size_t cost);
bool jinja_enter(jinja *j); /* one level of nesting deeper; jinja_leave even if it failed */
void jinja_leave(jinja *j);

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
bool jinja_string_copy(jinja *j, const char *data, size_t len, jinja_value *out);
bool jinja_string_share(jinja *j, const char *data, size_t len, bool safe, jinja_value *out);
bool jinja_string_concat(jinja *j, const jinja_string *a, const jinja_string *b, bool safe,
                         jinja_value *out);
/* The one string object with these bytes: names are compared by address. */
bool jinja_intern(jinja *j, const char *data, size_t len, jinja_value *out);

/* A list or tuple with room for len items, all MISSING. */
bool jinja_array_new(jinja *j, jinja_kind kind, size_t len, jinja_value *out);
/* A growing list: appends to *array, whose items have room for *cap. */
bool jinja_array_add(jinja *j, jinja_array *array, size_t *cap, jinja_value item);

bool jinja_string_is(const jinja_string *s, const char *text);

bool jinja_dict_new(jinja *j, jinja_value *out);
bool jinja_dict_set(jinja *j, jinja_dict *dict, jinja_value key, jinja_value value);
/* *out = NULL if the key is not there; fails for a key that can't be hashed. */
bool jinja_dict_get(jinja *j, const jinja_dict *dict, jinja_value key, const jinja_value **out);
const jinja_value *jinja_dict_find(const jinja_dict *dict, const char *key);
bool jinja_hashable(jinja_value v);

bool jinja_undefined_name(jinja *j, jinja_value name, jinja_value *out);
bool jinja_undefined_attribute(jinja *j, jinja_value obj, jinja_value name, jinja_value *out);
bool jinja_undefined_hint(jinja *j, const char *hint, jinja_value *out);

bool jinja_from_json(jinja *j, const json_t *json, jinja_value *out);

const char *jinja_type_name(jinja_value v); /* Python's */
bool jinja_truth(jinja_value v);
bool jinja_equal(jinja *j, jinja_value a, jinja_value b, bool *out);
bool jinja_less(jinja *j, jinja_value a, jinja_value b, bool *out); /* a < b, or a type error */
bool jinja_length(jinja *j, jinja_value v, size_t *out);            /* len() or a type error */
bool jinja_contains(jinja *j, jinja_value container, jinja_value item, bool *out);

bool jinja_iterable(jinja_value v);
bool jinja_iter_open(jinja *j, jinja_value v, jinja_iter *out); /* fails if it can't be walked */
bool jinja_iter_next(jinja *j, jinja_iter *it, jinja_value *item, bool *done);
bool jinja_iter_new(jinja *j, const jinja_iter *it, jinja_value *out);
bool jinja_list_of(jinja *j, jinja_value v, jinja_value *out); /* list(v) */

/* --- jinja_print.c: text of values ------------------------------------------------------------ */

bool jinja_write(jinja *j, const char *data, size_t len);
bool jinja_write_char(jinja *j, char c);
bool jinja_write_repeat(jinja *j, const char *data, size_t len, size_t count);
bool jinja_write_str(jinja *j, jinja_value v);  /* str(v) */
bool jinja_write_repr(jinja *j, jinja_value v); /* repr(v) */
bool jinja_write_escaped(jinja *j, jinja_value v);
size_t jinja_mark(const jinja *j);
bool jinja_take(jinja *j, size_t mark, bool safe, jinja_value *out);
bool jinja_to_string(jinja *j, jinja_value v, jinja_value *out); /* strings stay as they are */
int jinja_float_repr(double f, char text[40]);
extern const jinja_builtin jinja_filter_tojson;

/* --- jinja_ops.c: operators, attributes, slices ----------------------------------------------- */

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

bool jinja_binary(jinja *j, jinja_op op, jinja_value a, jinja_value b, jinja_value *out);
bool jinja_unary(jinja *j, jinja_op op, jinja_value a, jinja_value *out);
bool jinja_compare(jinja *j, jinja_op op, jinja_value a, jinja_value b, bool *out);
bool jinja_slice(jinja *j, jinja_value v, jinja_value start, jinja_value stop, jinja_value step,
                 jinja_value *out);
bool jinja_getattr(jinja *j, jinja_value obj, jinja_value name, jinja_value *out);
bool jinja_getitem(jinja *j, jinja_value obj, jinja_value key, jinja_value *out);
/* environment.getitem along "a.b.0" or an integer; MISSING: the item itself. */
bool jinja_getpath(jinja *j, jinja_value obj, jinja_value path, jinja_value fallback,
                   jinja_value *out);

#endif
