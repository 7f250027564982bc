/*
 * What is done with values: their texts, operators and attributes, what templates can call (string
 * methods, filters, tests, global functions, formatting), and the characters below it all.
 */
#ifndef MOE_JINJA_LIB_H
#define MOE_JINJA_LIB_H

#include "jinja.h"

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

/* --- jinja_unicode.c: characters -------------------------------------------------------------- */

size_t moe_jinja_utf8_decode(const char *s, int32_t *cp); /* of valid UTF-8; bytes consumed */
size_t moe_jinja_utf8_encode(int32_t cp, char text[4]);
bool moe_jinja_utf8_valid(const char *s, size_t len);
size_t moe_jinja_utf8_count(const char *s, size_t len);
size_t moe_jinja_utf8_offset(const jinja_string *s,
                             size_t index); /* bytes before code point index */
bool moe_jinja_is_space(int32_t cp);
bool moe_jinja_is_alpha(int32_t cp);
bool moe_jinja_is_decimal(int32_t cp);
bool moe_jinja_is_digit(int32_t cp);
bool moe_jinja_is_numeric(int32_t cp);
bool moe_jinja_is_upper(int32_t cp);
bool moe_jinja_is_lower(int32_t cp);
bool moe_jinja_is_title(int32_t cp);
bool moe_jinja_is_printable(int32_t cp);

typedef enum jinja_case { JINJA_UPPER, JINJA_LOWER, JINJA_TITLE, JINJA_FOLD } jinja_case;
/* Writes a text in another case; lower case knows the final sigma. */
bool moe_jinja_write_case(jinja *j, const char *s, size_t len, jinja_case to);

/* --- jinja_print.c: text of values ------------------------------------------------------------ */

bool moe_jinja_write(jinja *j, const char *data, size_t len);
bool moe_jinja_write_char(jinja *j, char c);
bool moe_jinja_write_repeat(jinja *j, const char *data, size_t len, size_t count);
bool moe_jinja_write_str(jinja *j, jinja_value v);  /* str(v) */
bool moe_jinja_write_repr(jinja *j, jinja_value v); /* repr(v) */
bool moe_jinja_write_escaped(jinja *j, jinja_value v);
size_t moe_jinja_mark(const jinja *j);
bool moe_jinja_take(jinja *j, size_t mark, bool safe, jinja_value *out);
bool moe_jinja_to_string(jinja *j, jinja_value v, jinja_value *out); /* strings stay as they are */
int moe_jinja_float_repr(double f, char text[40]);
extern const jinja_builtin moe_jinja_filter_tojson;

/* --- jinja_ops.c: operators, attributes, slices ----------------------------------------------- */

bool moe_jinja_binary(jinja *j, jinja_op op, jinja_value a, jinja_value b, jinja_value *out);
bool moe_jinja_unary(jinja *j, jinja_op op, jinja_value a, jinja_value *out);
bool moe_jinja_compare(jinja *j, jinja_op op, jinja_value a, jinja_value b, bool *out);
bool moe_jinja_slice(jinja *j, jinja_value v, jinja_value start, jinja_value stop, jinja_value step,
                     jinja_value *out);
bool moe_jinja_getattr(jinja *j, jinja_value obj, jinja_value name, jinja_value *out);
bool moe_jinja_getitem(jinja *j, jinja_value obj, jinja_value key, jinja_value *out);
/* environment.getitem along "a.b.0" or an integer; MISSING: the item itself. */
bool moe_jinja_getpath(jinja *j, jinja_value obj, jinja_value path, jinja_value fallback,
                       jinja_value *out);

/* --- jinja_strings.c: methods of str, and what filters share with them ------------------------ */

const jinja_builtin *moe_jinja_find_string_method(const jinja_string *name);
bool moe_jinja_string_case(jinja *j, const jinja_string *s, jinja_case to, jinja_value *out);
bool moe_jinja_string_capitalize(jinja *j, const jinja_string *s, jinja_value *out);
bool moe_jinja_string_has_case(const jinja_string *s, bool upper); /* isupper(), islower() */
bool moe_jinja_string_strip(jinja *j, const jinja_string *s, jinja_value chars, bool left,
                            bool right, jinja_value *out);
bool moe_jinja_string_replace(jinja *j, const jinja_string *s, const jinja_string *old,
                              jinja_value with, int64_t count, bool safe, jinja_value *out);
bool moe_jinja_string_split(jinja *j, const jinja_string *s, jinja_value sep, int64_t limit,
                            bool from_right, jinja_value *out);
bool moe_jinja_string_lines(jinja *j, const jinja_string *s, bool keep_ends, jinja_value *out);

/* --- jinja_format.c: "%d" % x, "{:>4}".format(x) ---------------------------------------------- */

bool moe_jinja_format_percent(jinja *j, const jinja_string *format, jinja_value arg,
                              jinja_value *out);
bool moe_jinja_format_braces(jinja *j, const jinja_string *format, const jinja_args *args,
                             jinja_value *out);

/* --- jinja_methods.c -------------------------------------------------------------------------- */

const jinja_builtin *moe_jinja_find_in(const jinja_builtin *table, size_t n,
                                       const jinja_string *name);
const jinja_builtin *moe_jinja_find_method(jinja_value obj, const jinja_string *name);
bool moe_jinja_dict_view(jinja *j, const jinja_dict *dict, jinja_view view, jinja_value *out);

/* --- jinja_filters.c, jinja_text_filters.c, jinja_tests.c, jinja_globals.c -------------------- */

const jinja_builtin *moe_jinja_find_filter(const jinja_string *name);
const jinja_builtin *moe_jinja_find_text_filter(const jinja_string *name);
const jinja_builtin *moe_jinja_find_test(const jinja_string *name);
/* Sorts items[0..n) by keys[0..n): stable, reverse keeps the order of equals too. */
bool moe_jinja_sort(jinja *j, jinja_value *keys, jinja_value *items, size_t n, bool reverse);
/* Adds the global functions to a scope. */
bool moe_jinja_add_globals(jinja *j, jinja_scope *scope);

/* --- jinja_eval.c ----------------------------------------------------------------------------- */

/* Sorts args into the slots of the builtin's params and calls it. */
bool moe_jinja_call_builtin(jinja *j, const jinja_builtin *builtin, jinja_value self,
                            const jinja_args *args, jinja_value *out);

#endif
