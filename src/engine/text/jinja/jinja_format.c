/*
 * Python's two ways to format: "%d items" % n, and "{:>8}".format(x).
 *
 * Both end in one number writer.  Widths and precisions are bounded; a text can't grow beyond
 * the bounds of the output.
 */
#include "jinja_lib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PRECISION = 1000, MAX_WIDTH = 1000000, NUMBER_SIZE = MAX_PRECISION + 400 };

typedef struct format_spec {
    const char *fill; /* one character */
    size_t fill_len;
    char align; /* '<', '>', '^', '=' or 0 */
    char sign;  /* '+', ' ' or '-' */
    bool alternate, zero;
    size_t width;
    char grouping; /* ',', '_' or 0 */
    int precision; /* -1: not given */
    char type;     /* 0: not given */
} format_spec;

/* --- writers ---------------------------------------------------------------------------------- */

/* head (sign and prefix) and body, filled up to the width. */
static bool write_padded(jinja *j, const format_spec *spec, const char *head, const char *body,
                         size_t body_len, char default_align)
{
    size_t head_len = strlen(head), n_chars = head_len + moe_jinja_utf8_count(body, body_len);
    size_t gap = spec->width > n_chars ? spec->width - n_chars : 0;
    char align = spec->align != 0 ? spec->align : default_align;
    size_t left = align == '>' ? gap : align == '^' ? gap / 2 : 0;
    size_t middle = align == '=' ? gap : 0;
    return moe_jinja_write_repeat(j, spec->fill, spec->fill_len, left) &&
           moe_jinja_write(j, head, head_len) &&
           moe_jinja_write_repeat(j, spec->fill, spec->fill_len, middle) &&
           moe_jinja_write(j, body, body_len) &&
           moe_jinja_write_repeat(j, spec->fill, spec->fill_len, gap - left - middle);
}

/* Digits of an integer part with a separator every `group` digits. */
static void group_digits(const char *digits, char separator, char type, char *out)
{
    size_t n = 0, group = separator == '_' && type != 0 && strchr("boxX", type) ? 4 : 3;
    while ((digits[n] >= '0' && digits[n] <= '9') || (group == 4 && digits[n] != '\0'))
        n++;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && (n - i) % group == 0)
            *out++ = separator;
        *out++ = digits[i];
    }
    strcpy(out, digits + n);
}

static bool write_number(jinja *j, format_spec spec, bool negative, const char *prefix,
                         const char *digits)
{
    char head[8], *grouped = NULL;
    snprintf(head, sizeof head, "%s%s",
             negative           ? "-"
             : spec.sign == '+' ? "+"
             : spec.sign == ' ' ? " "
                                : "",
             prefix);
    if (spec.grouping != 0) {
        grouped = moe_jinja_alloc(j, strlen(digits) + 1, 2);
        if (grouped == NULL)
            return false;
        group_digits(digits, spec.grouping, spec.type, grouped);
        digits = grouped;
    }
    if (spec.zero && spec.align == 0) {
        spec.align = '=';
        spec.fill = "0";
    }
    return write_padded(j, &spec, head, digits, strlen(digits), '>');
}

static bool write_integer(jinja *j, const format_spec *spec, int64_t value)
{
    char digits[80];
    uint64_t magnitude = value < 0 ? -(uint64_t)value : (uint64_t)value;
    const char *prefix = "";
    unsigned base = spec->type == 'b'            ? 2
                    : spec->type == 'o'          ? 8
                    : (spec->type | 0x20) == 'x' ? 16
                                                 : 10;
    char *at = digits + sizeof digits - 1;
    *at = '\0';
    do {
        *--at = (spec->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[magnitude % base];
        magnitude /= base;
    } while (magnitude > 0);
    if (spec->alternate && base != 10)
        prefix = spec->type == 'X' ? "0X" : base == 16 ? "0x" : base == 8 ? "0o" : "0b";
    return write_number(j, *spec, value < 0, prefix, at);
}

static bool write_float(jinja *j, const format_spec *spec, double value)
{
    char *digits = moe_jinja_alloc(j, NUMBER_SIZE, 1), format[8];
    char type = spec->type == 0 || spec->type == 'n' ? 'g' : spec->type;
    int precision = spec->precision >= 0 ? spec->precision : 6;
    bool negative = signbit(value) && !isnan(value);
    if (digits == NULL)
        return false;
    if (negative)
        value = -value;
    if (spec->type == 0 && spec->precision < 0) {
        moe_jinja_float_repr(value, digits);
        return write_number(j, *spec, negative, "", digits);
    }
    if (type == '%')
        value *= 100;
    snprintf(format, sizeof format, spec->alternate ? "%%#.*%c" : "%%.*%c",
             type == '%' ? 'f' : type);
    snprintf(digits, NUMBER_SIZE - 4, format, precision, value);
    if (type == '%')
        strcat(digits, "%");
    if (spec->type == 0 && isfinite(value) && strpbrk(digits, ".e") == NULL)
        strcat(digits, ".0");
    return write_number(j, *spec, negative, "", digits);
}

static bool write_text(jinja *j, const format_spec *spec, const jinja_string *s)
{
    size_t len = s->len;
    if (spec->precision >= 0 && (size_t)spec->precision < s->n_chars)
        len = moe_jinja_utf8_offset(s, (size_t)spec->precision);
    return write_padded(j, spec, "", s->data, len, '<');
}

static bool write_character(jinja *j, const format_spec *spec, int64_t code, char align)
{
    char text[4];
    if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        return moe_jinja_fail(j, "%%c needs the code of a character");
    return write_padded(j, spec, "", text, moe_jinja_utf8_encode((int32_t)code, text), align);
}

/* repr(v) as ASCII: other characters become escapes. */
static bool ascii_of(jinja *j, jinja_value v, jinja_value *out)
{
    jinja_value text;
    size_t mark = moe_jinja_mark(j);
    if (!moe_jinja_write_repr(j, v) || !moe_jinja_take(j, mark, false, &text))
        return false;
    for (size_t i = 0; i < text.s->len;) {
        int32_t cp;
        char escape[16];
        i += moe_jinja_utf8_decode(text.s->data + i, &cp);
        int n = snprintf(escape, sizeof escape,
                         cp < 0x80      ? "%c"
                         : cp < 0x100   ? "\\x%02x"
                         : cp < 0x10000 ? "\\u%04x"
                                        : "\\U%08x",
                         (unsigned)cp);
        if (!moe_jinja_write(j, escape, (size_t)n))
            return false;
    }
    return moe_jinja_take(j, mark, false, out);
}

static bool convert(jinja *j, jinja_value v, char how, jinja_value *out)
{
    size_t mark = moe_jinja_mark(j);
    if (how == 'a')
        return ascii_of(j, v, out);
    if (how == 'r')
        return moe_jinja_write_repr(j, v) && moe_jinja_take(j, mark, false, out);
    return moe_jinja_write_str(j, v) && moe_jinja_take(j, mark, false, out);
}

/* --- the % operator --------------------------------------------------------------------------- */

typedef struct percent_args {
    jinja_value all;     /* right operand */
    jinja_value current; /* what single values are taken from */
    size_t used, n;
} percent_args;

static bool next_arg(jinja *j, percent_args *args, jinja_value *out)
{
    if (args->used >= args->n)
        return moe_jinja_fail(j, "not enough arguments for format string");
    *out = args->current.kind == JINJA_TUPLE ? args->current.a->items[args->used] : args->current;
    args->used++;
    return true;
}

/* A width or precision: digits or *. */
static bool read_count(jinja *j, const char **at, const char *end, percent_args *args,
                       int64_t *count)
{
    *count = 0;
    if (*at < end && **at == '*') {
        jinja_value v;
        (*at)++;
        if (!next_arg(j, args, &v))
            return false;
        if (!jinja_is_integer(v))
            return moe_jinja_fail(j, "* wants int");
        *count = jinja_integer(v);
    } else {
        for (; *at < end && **at >= '0' && **at <= '9' && *count <= MAX_WIDTH; (*at)++)
            *count = *count * 10 + (**at - '0');
    }
    if (*count > MAX_WIDTH || *count < -MAX_WIDTH)
        return moe_jinja_fail(j, "format width is too large");
    return true;
}

static bool read_percent_spec(jinja *j, const char **at, const char *end, percent_args *args,
                              format_spec *spec)
{
    int64_t count;
    for (; *at < end && strchr("#0- +", **at) != NULL && **at != '\0'; (*at)++) {
        char c = **at;
        if (c == '#')
            spec->alternate = true;
        else if (c == '0')
            spec->zero = true;
        else if (c == '-')
            spec->align = '<';
        else if (spec->sign != '+')
            spec->sign = c;
    }
    if (!read_count(j, at, end, args, &count))
        return false;
    if (count < 0)
        spec->align = '<';
    spec->width = (size_t)llabs(count);
    if (*at < end && **at == '.') {
        (*at)++;
        if (!read_count(j, at, end, args, &count))
            return false;
        if (count > MAX_PRECISION)
            return moe_jinja_fail(j, "precision too large");
        spec->precision = count < 0 ? 0 : (int)count;
    }
    while (*at < end && (**at == 'h' || **at == 'l' || **at == 'L'))
        (*at)++;
    if (*at >= end)
        return moe_jinja_fail(j, "incomplete format");
    spec->type = *(*at)++;
    return true;
}

static bool write_percent_number(jinja *j, format_spec *spec, jinja_value v)
{
    bool is_float = strchr("eEfFgG", spec->type) != NULL;
    if (v.kind != JINJA_FLOAT && !jinja_is_integer(v))
        return moe_jinja_fail(j, "%%%c format: a real number is required, not %s", spec->type,
                              moe_jinja_type_name(v));
    if (is_float)
        return write_float(j, spec, v.kind == JINJA_FLOAT ? v.f : (double)jinja_integer(v));
    if (v.kind == JINJA_FLOAT) {
        if (strchr("oxX", spec->type) != NULL)
            return moe_jinja_fail(j, "%%%c format: an integer is required, not float", spec->type);
        if (!(v.f > -9.2e18 && v.f < 9.2e18))
            return moe_jinja_fail(j, "the number does not fit a 64-bit integer");
        v = jinja_int((int64_t)v.f);
    }
    if (strchr("diu", spec->type) != NULL)
        spec->type = 'd';
    /* a precision is a number of digits at least */
    if (spec->precision > 0) {
        char digits[MAX_PRECISION + 32];
        int64_t i = jinja_integer(v);
        uint64_t magnitude = i < 0 ? -(uint64_t)i : (uint64_t)i;
        const char *format = spec->type == 'o'   ? "%0*llo"
                             : spec->type == 'x' ? "%0*llx"
                             : spec->type == 'X' ? "%0*llX"
                                                 : "%0*llu";
        snprintf(digits, sizeof digits, format, spec->precision, (unsigned long long)magnitude);
        return write_number(j, *spec, i < 0, "", digits);
    }
    return write_integer(j, spec, jinja_integer(v));
}

static bool write_percent_value(jinja *j, format_spec *spec, jinja_value v, bool safe)
{
    size_t mark = moe_jinja_mark(j);
    switch (spec->type) {
    case 's':
    case 'r':
    case 'a':
        if (!convert(j, v, spec->type, &v))
            return false;
        if (safe && (!moe_jinja_write_escaped(j, v) || !moe_jinja_take(j, mark, false, &v)))
            return false;
        if (spec->align == 0)
            spec->align = '>';
        return write_text(j, spec, v.s);
    case 'c':
        if (v.kind == JINJA_STRING && v.s->n_chars == 1)
            return write_padded(j, spec, "", v.s->data, v.s->len, '>');
        if (!jinja_is_integer(v))
            return moe_jinja_fail(j, "%%c requires int or char");
        return write_character(j, spec, jinja_integer(v), '>');
    default:
        if (spec->type == '\0' || strchr("diuoxXeEfFgG", spec->type) == NULL)
            return moe_jinja_fail(j, "unsupported format character");
        return write_percent_number(j, spec, v);
    }
}

/* %(name): the value of that name becomes the only argument. */
static bool read_key(jinja *j, const char **at, const char *end, percent_args *args)
{
    const char *from = *at + 1;
    int depth = 1;
    const jinja_value *found;
    jinja_value key;
    for ((*at)++; *at < end && depth > 0; (*at)++)
        depth += **at == '(' ? 1 : **at == ')' ? -1 : 0;
    if (depth > 0)
        return moe_jinja_fail(j, "incomplete format key");
    if (args->all.kind != JINJA_DICT)
        return moe_jinja_fail(j, "format requires a mapping");
    if (!moe_jinja_string_share(j, from, (size_t)(*at - 1 - from), false, &key) ||
        !moe_jinja_dict_get(j, args->all.d, key, &found))
        return false;
    if (found == NULL)
        return moe_jinja_fail(j, "the format key '%.*s' is not in the mapping",
                              key.s->len < 60 ? (int)key.s->len : 60, key.s->data);
    args->current = *found;
    args->used = 0;
    args->n = 1;
    if (found->kind == JINJA_TUPLE) { /* a tuple is one value here */
        if (!moe_jinja_array_new(j, JINJA_TUPLE, 1, &args->current))
            return false;
        args->current.a->items[0] = *found;
    }
    return true;
}

bool moe_jinja_format_percent(jinja *j, const jinja_string *format, jinja_value arg,
                              jinja_value *out)
{
    const char *at = format->data, *end = at + format->len;
    size_t mark = moe_jinja_mark(j);
    percent_args args = {arg, arg, 0, arg.kind == JINJA_TUPLE ? arg.a->len : 1};
    bool is_mapping = arg.kind == JINJA_DICT || arg.kind == JINJA_LIST || arg.kind == JINJA_RANGE ||
                      arg.kind == JINJA_UNDEFINED;
    while (at < end) {
        const char *percent = memchr(at, '%', (size_t)(end - at));
        if (!moe_jinja_write(j, at, (size_t)((percent != NULL ? percent : end) - at)))
            return false;
        if (percent == NULL)
            break;
        at = percent + 1;
        format_spec spec = {.fill = " ", .fill_len = 1, .precision = -1};
        jinja_value v;
        if ((at < end && *at == '(' && !read_key(j, &at, end, &args)) ||
            !read_percent_spec(j, &at, end, &args, &spec))
            return false;
        if (spec.type == '%') {
            if (!moe_jinja_write_char(j, '%'))
                return false;
            continue;
        }
        if (!next_arg(j, &args, &v) || !write_percent_value(j, &spec, v, format->safe))
            return false;
    }
    if (args.used < args.n && !is_mapping)
        return moe_jinja_fail(j, "not all arguments converted during string formatting");
    return moe_jinja_take(j, mark, format->safe, out);
}

/* --- str.format ------------------------------------------------------------------------------- */

static bool is_align(char c)
{
    return c == '<' || c == '>' || c == '^' || c == '=';
}

static bool read_digits(jinja *j, const char **at, const char *end, size_t limit, size_t *number)
{
    for (*number = 0; *at < end && **at >= '0' && **at <= '9'; (*at)++) {
        *number = *number * 10 + (size_t)(**at - '0');
        if (*number > limit)
            return moe_jinja_fail(j, "a number in the format is too large");
    }
    return true;
}

static bool read_brace_spec(jinja *j, const jinja_string *s, format_spec *spec)
{
    const char *at = s->data, *end = at + s->len;
    int32_t cp;
    size_t n = s->len > 0 ? moe_jinja_utf8_decode(at, &cp) : 0, number;
    *spec = (format_spec){.fill = " ", .fill_len = 1, .precision = -1};
    if (s->len > n && n > 0 && is_align(at[n])) {
        spec->fill = at;
        spec->fill_len = n;
        spec->align = at[n];
        at += n + 1;
    } else if (at < end && is_align(*at)) {
        spec->align = *at++;
    }
    if (at < end && (*at == '+' || *at == '-' || *at == ' '))
        spec->sign = *at++;
    if (at < end && *at == '#') {
        spec->alternate = true;
        at++;
    }
    if (at < end && *at == '0') {
        spec->zero = true;
        if (spec->fill[0] == ' ' && spec->fill_len == 1)
            spec->fill = "0";
        at++;
    }
    if (!read_digits(j, &at, end, MAX_WIDTH, &spec->width))
        return false;
    if (at < end && (*at == ',' || *at == '_'))
        spec->grouping = *at++;
    if (at < end && *at == '.') {
        at++;
        if (at >= end || *at < '0' || *at > '9')
            return moe_jinja_fail(j, "format specifier missing precision");
        if (!read_digits(j, &at, end, MAX_PRECISION, &number))
            return false;
        spec->precision = (int)number;
    }
    if (at < end)
        spec->type = *at++;
    return at == end || moe_jinja_fail(j, "invalid format specifier");
}

static bool write_field(jinja *j, jinja_value v, const jinja_string *spec_text)
{
    format_spec spec;
    bool is_integer = jinja_is_integer(v);
    if (spec_text->len == 0)
        return moe_jinja_write_str(j, v);
    if (v.kind != JINJA_STRING && v.kind != JINJA_FLOAT && !is_integer)
        return moe_jinja_fail(j, "unsupported format string passed to %s.__format__",
                              moe_jinja_type_name(v));
    if (!read_brace_spec(j, spec_text, &spec))
        return false;
    if (v.kind == JINJA_STRING) {
        if ((spec.type != 0 && spec.type != 's') || spec.sign != 0 || spec.align == '=' ||
            spec.grouping != 0 || spec.alternate)
            return moe_jinja_fail(j, "invalid format specifier for a string");
        return write_text(j, &spec, v.s);
    }
    if (is_integer && (spec.type == 0 || strchr("bdoxXnc", spec.type) != NULL)) {
        if (spec.precision >= 0)
            return moe_jinja_fail(j, "precision not allowed in integer format specifier");
        return spec.type == 'c' ? write_character(j, &spec, jinja_integer(v), '<')
                                : write_integer(j, &spec, jinja_integer(v));
    }
    if (spec.type != 0 && strchr("eEfFgGn%", spec.type) == NULL)
        return moe_jinja_fail(j, "unknown format code for an object of type '%s'",
                              moe_jinja_type_name(v));
    return write_float(j, &spec, is_integer ? (double)jinja_integer(v) : v.f);
}

typedef struct brace_state {
    const jinja_args *args;
    bool safe;
    int numbering; /* how many {} were counted; -1: fields are numbered by hand */
} brace_state;

/* The argument that "0" or "name" or "" stands for. */
static bool get_argument(jinja *j, brace_state *state, const char *name, size_t len,
                         jinja_value *out)
{
    size_t index = 0, n_digits = 0;
    while (n_digits < len && name[n_digits] >= '0' && name[n_digits] <= '9' && index < 1000000)
        index = index * 10 + (size_t)(name[n_digits++] - '0');
    if (n_digits == len) {
        if ((len == 0 && state->numbering < 0) || (len > 0 && state->numbering > 0))
            return moe_jinja_fail(j, "can't mix automatic and manual field numbering");
        if (len == 0)
            index = (size_t)state->numbering++;
        else
            state->numbering = -1;
        if (index >= state->args->n_pos)
            return moe_jinja_fail(j, "replacement index %zu out of range", index);
        *out = state->args->pos[index];
        return true;
    }
    for (size_t i = 0; i < state->args->n_named; i++) {
        const jinja_string *key = state->args->names[i].s;
        if (key->len == len && memcmp(key->data, name, len) == 0) {
            *out = state->args->values[i];
            return true;
        }
    }
    return moe_jinja_fail(j, "format() has no argument '%.*s'", len < 60 ? (int)len : 60, name);
}

/* "0.name[key]" and the like. */
static bool get_field(jinja *j, brace_state *state, const char *at, const char *end,
                      jinja_value *out)
{
    const char *from = at;
    while (at < end && *at != '.' && *at != '[')
        at++;
    if (!get_argument(j, state, from, (size_t)(at - from), out))
        return false;
    while (at < end) {
        bool is_item = *at++ == '[';
        jinja_value key;
        from = at;
        while (at < end && (is_item ? *at != ']' : *at != '.' && *at != '['))
            at++;
        size_t len = (size_t)(at - from), n_digits = 0;
        if (len == 0 || (is_item && at == end))
            return moe_jinja_fail(j, "empty attribute in format string");
        int64_t index = 0;
        while (n_digits < len && n_digits < 18 && from[n_digits] >= '0' && from[n_digits] <= '9')
            index = index * 10 + (from[n_digits++] - '0');
        if (is_item && n_digits == len)
            key = jinja_int(index);
        else if (!moe_jinja_intern(j, from, len, &key))
            return false;
        if (!(is_item ? moe_jinja_getitem(j, *out, key, out)
                      : moe_jinja_getattr(j, *out, key, out)))
            return false;
        at += is_item;
        if (is_item && at < end && *at != '.' && *at != '[')
            return moe_jinja_fail(j, "only '.' or '[' may follow ']' in format field specifier");
    }
    return true;
}

static bool write_braces(jinja *j, const char *at, const char *end, brace_state *state,
                         int nesting);

static bool write_replacement(jinja *j, const char *at, const char *end, brace_state *state,
                              int nesting)
{
    const char *name = at;
    char conversion = 0;
    jinja_value v, spec;
    size_t mark = moe_jinja_mark(j);
    for (bool in_item = false; at < end && (in_item || (*at != ':' && *at != '!')); at++)
        in_item = *at == '[' || (in_item && *at != ']');
    const char *name_end = at;
    if (at < end && *at == '!') {
        if (end - at < 2 || (end - at > 2 && at[2] != ':'))
            return moe_jinja_fail(j, "expected ':' after conversion specifier");
        conversion = at[1];
        at += 2;
    }
    if (!get_field(j, state, name, name_end, &v))
        return false;
    if (conversion != 0 && strchr("sra", conversion) == NULL)
        return moe_jinja_fail(j, "unknown conversion specifier");
    if (conversion != 0 && !convert(j, v, conversion, &v))
        return false;
    if (at < end)
        at++;
    if (!write_braces(j, at, end, state, nesting + 1) || !moe_jinja_take(j, mark, false, &spec))
        return false;
    if (!state->safe || nesting > 0 || (v.kind == JINJA_STRING && v.s->safe))
        return write_field(j, v, spec.s);
    return write_field(j, v, spec.s) && moe_jinja_take(j, mark, false, &v) &&
           moe_jinja_write_escaped(j, v);
}

static bool write_braces(jinja *j, const char *at, const char *end, brace_state *state, int nesting)
{
    if (nesting > 2)
        return moe_jinja_fail(j, "max string recursion exceeded");
    while (at < end) {
        const char *from = at;
        while (at < end && *at != '{' && *at != '}')
            at++;
        if (!moe_jinja_write(j, from, (size_t)(at - from)))
            return false;
        if (at == end)
            return true;
        if (at + 1 < end && at[1] == *at) {
            if (!moe_jinja_write_char(j, *at))
                return false;
            at += 2;
            continue;
        }
        if (*at == '}')
            return moe_jinja_fail(j, "single '}' encountered in format string");
        int depth = 1;
        for (from = ++at; at < end && depth > 0; at++)
            depth += *at == '{' ? 1 : *at == '}' ? -1 : 0;
        if (depth > 0)
            return moe_jinja_fail(j, "expected '}' before end of string");
        if (!write_replacement(j, from, at - 1, state, nesting))
            return false;
    }
    return true;
}

bool moe_jinja_format_braces(jinja *j, const jinja_string *format, const jinja_args *args,
                             jinja_value *out)
{
    brace_state state = {.args = args, .safe = format->safe};
    size_t mark = moe_jinja_mark(j);
    return write_braces(j, format->data, format->data + format->len, &state, 0) &&
           moe_jinja_take(j, mark, format->safe, out);
}
