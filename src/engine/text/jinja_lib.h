/*
 * What templates can call (string methods, filters, tests, global functions, formatting), and the
 * classes and cases of characters below it.
 */
#ifndef MOE_JINJA_LIB_H
#define MOE_JINJA_LIB_H

#include "jinja.h"

/* --- jinja_unicode.c: characters -------------------------------------------------------------- */

size_t jinja_utf8_decode(const char *s, int32_t *cp); /* of valid UTF-8; bytes consumed */
size_t jinja_utf8_encode(int32_t cp, char text[4]);
bool jinja_utf8_valid(const char *s, size_t len);
size_t jinja_utf8_count(const char *s, size_t len);
size_t jinja_utf8_offset(const jinja_string *s, size_t index); /* bytes before code point index */
bool jinja_is_space(int32_t cp);
bool jinja_is_alpha(int32_t cp);
bool jinja_is_decimal(int32_t cp);
bool jinja_is_digit(int32_t cp);
bool jinja_is_numeric(int32_t cp);
bool jinja_is_upper(int32_t cp);
bool jinja_is_lower(int32_t cp);
bool jinja_is_title(int32_t cp);
bool jinja_is_printable(int32_t cp);

typedef enum jinja_case { JINJA_UPPER, JINJA_LOWER, JINJA_TITLE, JINJA_FOLD } jinja_case;
/* Writes a text in another case; lower case knows the final sigma. */
bool jinja_write_case(jinja *j, const char *s, size_t len, jinja_case to);

/* --- jinja_strings.c: methods of str, and what filters share with them ------------------------ */

const jinja_builtin *jinja_find_string_method(const jinja_string *name);
bool jinja_string_case(jinja *j, const jinja_string *s, jinja_case to, jinja_value *out);
bool jinja_string_capitalize(jinja *j, const jinja_string *s, jinja_value *out);
bool jinja_string_has_case(const jinja_string *s, bool upper); /* isupper(), islower() */
bool jinja_string_strip(jinja *j, const jinja_string *s, jinja_value chars, bool left, bool right,
                        jinja_value *out);
bool jinja_string_replace(jinja *j, const jinja_string *s, const jinja_string *old,
                          jinja_value with, int64_t count, bool safe, jinja_value *out);
bool jinja_string_split(jinja *j, const jinja_string *s, jinja_value sep, int64_t limit,
                        bool from_right, jinja_value *out);
bool jinja_string_lines(jinja *j, const jinja_string *s, bool keep_ends, jinja_value *out);

/* --- jinja_format.c: "%d" % x, "{:>4}".format(x) ---------------------------------------------- */

bool jinja_format_percent(jinja *j, const jinja_string *format, jinja_value arg, jinja_value *out);
bool jinja_format_braces(jinja *j, const jinja_string *format, const jinja_args *args,
                         jinja_value *out);

/* --- jinja_methods.c -------------------------------------------------------------------------- */

const jinja_builtin *jinja_find_in(const jinja_builtin *table, size_t n, const jinja_string *name);
const jinja_builtin *jinja_find_method(jinja_value obj, const jinja_string *name);
bool jinja_dict_view(jinja *j, const jinja_dict *dict, jinja_view view, jinja_value *out);

/* --- jinja_filters.c, jinja_text_filters.c, jinja_tests.c, jinja_globals.c -------------------- */

const jinja_builtin *jinja_find_filter(const jinja_string *name);
const jinja_builtin *jinja_find_text_filter(const jinja_string *name);
const jinja_builtin *jinja_find_test(const jinja_string *name);
/* Sorts items[0..n) by keys[0..n): stable, reverse keeps the order of equals too. */
bool jinja_sort(jinja *j, jinja_value *keys, jinja_value *items, size_t n, bool reverse);
/* Adds the global functions to a scope. */
bool jinja_add_globals(jinja *j, jinja_scope *scope);

/* --- jinja_eval.c ----------------------------------------------------------------------------- */

/* Sorts args into the slots of the builtin's params and calls it. */
bool jinja_call_builtin(jinja *j, const jinja_builtin *builtin, jinja_value self,
                        const jinja_args *args, jinja_value *out);

#endif
