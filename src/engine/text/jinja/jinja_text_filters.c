/*
 * Filters over text and numbers.
 */
#include "jinja_lib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILTER(name)                                                                               \
    static bool name(jinja *j, jinja_value self, const jinja_args *args, const jinja_value *a,     \
                     jinja_value *out)

static bool is_given(jinja_value v)
{
    return v.kind != JINJA_MISSING && v.kind != JINJA_NONE;
}

static bool want_integer(jinja *j, jinja_value v, int64_t otherwise, int64_t *out)
{
    *out = otherwise;
    if (v.kind == JINJA_MISSING)
        return true;
    if (!jinja_is_integer(v))
        return moe_jinja_fail(j, "an integer is required, not '%s'", moe_jinja_type_name(v));
    *out = jinja_integer(v);
    return true;
}

static bool want_string(jinja *j, jinja_value v)
{
    if (v.kind == JINJA_UNDEFINED)
        return moe_jinja_fail_undefined(j, v);
    return v.kind == JINJA_STRING ||
           moe_jinja_fail(j, "a string is required, not '%s'", moe_jinja_type_name(v));
}

/* --- case, trimming, escaping ----------------------------------------------------------------- */

FILTER(filter_upper)
{
    (void)args, (void)a;
    return moe_jinja_to_string(j, self, &self) &&
           moe_jinja_string_case(j, self.s, JINJA_UPPER, out);
}

FILTER(filter_lower)
{
    (void)args, (void)a;
    return moe_jinja_to_string(j, self, &self) &&
           moe_jinja_string_case(j, self.s, JINJA_LOWER, out);
}

FILTER(filter_capitalize)
{
    (void)args, (void)a;
    return moe_jinja_to_string(j, self, &self) && moe_jinja_string_capitalize(j, self.s, out);
}

static bool separates_words(int32_t cp)
{
    return moe_jinja_is_space(cp) || cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<';
}

FILTER(filter_title)
{
    (void)args, (void)a;
    size_t mark = moe_jinja_mark(j);
    bool inside = false;
    if (!moe_jinja_to_string(j, self, &self))
        return false;
    for (size_t i = 0; i < self.s->len;) {
        int32_t cp;
        size_t n = moe_jinja_utf8_decode(self.s->data + i, &cp);
        if (!moe_jinja_write_case(j, self.s->data + i, n, inside ? JINJA_LOWER : JINJA_UPPER))
            return false;
        inside = !separates_words(cp);
        i += n;
    }
    return moe_jinja_take(j, mark, false, out);
}

FILTER(filter_trim)
{
    (void)args;
    return moe_jinja_to_string(j, self, &self) &&
           moe_jinja_string_strip(j, self.s, a[0], true, true, out);
}

FILTER(filter_string)
{
    (void)args, (void)a;
    return moe_jinja_to_string(j, self, out);
}

static bool mark_safe(jinja *j, jinja_value v, jinja_value *out)
{
    return moe_jinja_to_string(j, v, &v) &&
           moe_jinja_string_share(j, v.s->data, v.s->len, true, out);
}

FILTER(filter_safe)
{
    (void)args, (void)a;
    return mark_safe(j, self, out);
}

FILTER(filter_escape)
{
    (void)args, (void)a;
    size_t mark = moe_jinja_mark(j);
    return moe_jinja_write_escaped(j, self) && moe_jinja_take(j, mark, true, out);
}

FILTER(filter_forceescape)
{
    (void)args, (void)a;
    size_t mark = moe_jinja_mark(j);
    return moe_jinja_write_str(j, self) && moe_jinja_take(j, mark, false, &self) &&
           moe_jinja_write_escaped(j, self) && moe_jinja_take(j, mark, true, out);
}

/* --- building text ---------------------------------------------------------------------------- */

FILTER(filter_replace)
{
    (void)args;
    int64_t count;
    jinja_value old, with;
    return want_integer(j, a[2].kind == JINJA_NONE ? jinja_missing() : a[2], -1, &count) &&
           moe_jinja_to_string(j, self, &self) && moe_jinja_to_string(j, a[0], &old) &&
           moe_jinja_to_string(j, a[1], &with) &&
           moe_jinja_string_replace(j, self.s, old.s, with, count, false, out);
}

FILTER(filter_join)
{
    (void)args;
    jinja_value list;
    if (!moe_jinja_list_of(j, self, &list))
        return false;
    size_t mark = moe_jinja_mark(j);
    for (size_t i = 0; i < list.a->len; i++) {
        jinja_value item = list.a->items[i];
        if (!moe_jinja_getpath(j, item, a[1], jinja_missing(), &item) ||
            (i > 0 && a[0].kind != JINJA_MISSING && !moe_jinja_write_str(j, a[0])) ||
            !moe_jinja_write_str(j, item))
            return false;
    }
    return moe_jinja_take(j, mark, false, out);
}

FILTER(filter_format)
{
    (void)a;
    jinja_value arg;
    if (args->n_pos > 0 && args->n_named > 0)
        return moe_jinja_fail(j, "can't handle positional and keyword arguments at the same time");
    if (!moe_jinja_to_string(j, self, &self))
        return false;
    if (args->n_named > 0) {
        if (!moe_jinja_dict_new(j, &arg))
            return false;
        for (size_t i = 0; i < args->n_named; i++) {
            if (!moe_jinja_dict_set(j, arg.d, args->names[i], args->values[i]))
                return false;
        }
    } else {
        if (!moe_jinja_array_new(j, JINJA_TUPLE, args->n_pos, &arg))
            return false;
        if (args->n_pos > 0)
            memcpy(arg.a->items, args->pos, args->n_pos * sizeof(jinja_value));
    }
    return moe_jinja_format_percent(j, self.s, arg, out);
}

FILTER(filter_indent)
{
    (void)args;
    jinja_value lines, with = a[0];
    bool first = moe_jinja_truth(a[1]), blank = moe_jinja_truth(a[2]);
    int64_t width;
    size_t mark = moe_jinja_mark(j);
    if (!want_string(j, self))
        return false;
    if (with.kind != JINJA_STRING &&
        (!want_integer(j, with, 4, &width) ||
         !moe_jinja_write_repeat(j, " ", 1, width < 0 ? 0 : (size_t)width) ||
         !moe_jinja_take(j, mark, false, &with)))
        return false;
    /* one line more than line ends: an end of the text is a line, too */
    if (!moe_jinja_write_str(j, self) || !moe_jinja_write_char(j, '\n') ||
        !moe_jinja_take(j, mark, self.s->safe, out) ||
        !moe_jinja_string_lines(j, out->s, false, &lines))
        return false;
    for (size_t i = 0; i < lines.a->len; i++) {
        jinja_value line = lines.a->items[i];
        bool indented = i == 0 ? first : blank || line.s->len > 0;
        if ((i > 0 && !moe_jinja_write_char(j, '\n')) ||
            (indented && !moe_jinja_write_str(j, with)) || !moe_jinja_write_str(j, line))
            return false;
    }
    return moe_jinja_take(j, mark, self.s->safe, out);
}

FILTER(filter_truncate)
{
    (void)args;
    int64_t length, leeway;
    jinja_value end = a[2], head, blank, parts;
    size_t n;
    *out = self;
    if (!moe_jinja_length(j, self, &n) || !want_integer(j, a[0], 255, &length) ||
        !want_integer(j, a[3].kind == JINJA_NONE ? jinja_missing() : a[3], 5, &leeway) ||
        (end.kind == JINJA_MISSING && !moe_jinja_string_share(j, "...", 3, false, &end)) ||
        !want_string(j, end))
        return false;
    if (length < (int64_t)end.s->n_chars || leeway < 0)
        return moe_jinja_fail(j, "truncate: expected length >= %zu and leeway >= 0",
                              end.s->n_chars);
    if ((int64_t)n <= length || (int64_t)n - length <= leeway)
        return true;
    if (!want_string(j, self))
        return false;
    if (!moe_jinja_slice(j, self, jinja_none(), jinja_int(length - (int64_t)end.s->n_chars),
                         jinja_none(), &head))
        return false;
    if (!moe_jinja_truth(a[1])) {
        if (!moe_jinja_string_share(j, " ", 1, false, &blank) ||
            !moe_jinja_string_split(j, head.s, blank, 1, true, &parts))
            return false;
        head = parts.a->items[0];
    }
    return moe_jinja_binary(j, JINJA_ADD, head, end, out);
}

FILTER(filter_center)
{
    (void)args;
    int64_t width;
    size_t mark = moe_jinja_mark(j);
    if (!want_integer(j, a[0], 80, &width) || !moe_jinja_to_string(j, self, &self))
        return false;
    size_t gap = width > (int64_t)self.s->n_chars ? (size_t)width - self.s->n_chars : 0;
    size_t left = gap / 2 + (gap & (size_t)width & 1);
    return moe_jinja_write_repeat(j, " ", 1, left) && moe_jinja_write_str(j, self) &&
           moe_jinja_write_repeat(j, " ", 1, gap - left) &&
           moe_jinja_take(j, mark, self.s->safe, out);
}

FILTER(filter_wordcount)
{
    (void)args, (void)a;
    int64_t n = 0;
    bool inside = false;
    if (!moe_jinja_to_string(j, self, &self))
        return false;
    for (size_t i = 0; i < self.s->len;) {
        int32_t cp;
        i += moe_jinja_utf8_decode(self.s->data + i, &cp);
        bool is_word = cp == '_' || moe_jinja_is_alpha(cp) || moe_jinja_is_numeric(cp);
        n += is_word && !inside;
        inside = is_word;
    }
    *out = jinja_int(n);
    return moe_jinja_step(j, self.s->len / 16);
}

static bool write_quoted(jinja *j, jinja_value v, bool for_query)
{
    if (!moe_jinja_to_string(j, v, &v))
        return false;
    for (size_t i = 0; i < v.s->len; i++) {
        unsigned char c = (unsigned char)v.s->data[i];
        char text[4];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     (c != '\0' && strchr("_.-~", c) != NULL) || (c == '/' && !for_query);
        size_t n = 1;
        if (plain)
            text[0] = (char)c;
        else if (c == ' ' && for_query)
            text[0] = '+';
        else
            n = (size_t)snprintf(text, sizeof text, "%%%02X", c);
        if (!moe_jinja_write(j, text, n))
            return false;
    }
    return true;
}

FILTER(filter_urlencode)
{
    (void)args, (void)a;
    size_t mark = moe_jinja_mark(j);
    jinja_value items = self;
    if (self.kind == JINJA_STRING || !moe_jinja_iterable(self))
        return write_quoted(j, self, false) && moe_jinja_take(j, mark, false, out);
    if ((self.kind == JINJA_DICT && !moe_jinja_dict_view(j, self.d, JINJA_ITEMS, &items)) ||
        !moe_jinja_list_of(j, items, &items))
        return false;
    for (size_t i = 0; i < items.a->len; i++) {
        jinja_value pair;
        if (!moe_jinja_list_of(j, items.a->items[i], &pair))
            return false;
        if (pair.a->len != 2)
            return moe_jinja_fail(j, "urlencode: pairs of a key and a value are required");
        if ((i > 0 && !moe_jinja_write_char(j, '&')) || !write_quoted(j, pair.a->items[0], true) ||
            !moe_jinja_write_char(j, '=') || !write_quoted(j, pair.a->items[1], true))
            return false;
    }
    return moe_jinja_take(j, mark, false, out);
}

FILTER(filter_xmlattr)
{
    (void)args;
    size_t mark = moe_jinja_mark(j);
    if (self.kind != JINJA_DICT)
        return moe_jinja_fail(j, "'%s' object has no attribute 'items'", moe_jinja_type_name(self));
    for (size_t i = 0; i < self.d->len; i++) {
        jinja_value key = self.d->entries[i].key, value = self.d->entries[i].value;
        if (!is_given(value) || value.kind == JINJA_UNDEFINED)
            continue;
        if (!want_string(j, key))
            return false;
        for (size_t k = 0; k < key.s->len; k++) {
            if (memchr(" \t\n\r\f\v/>=", key.s->data[k], 9) != NULL)
                return moe_jinja_fail(j, "invalid character in attribute name");
        }
        bool blank =
            moe_jinja_mark(j) > mark || a[0].kind == JINJA_MISSING || moe_jinja_truth(a[0]);
        if ((blank && !moe_jinja_write_char(j, ' ')) || !moe_jinja_write_escaped(j, key) ||
            !moe_jinja_write(j, "=\"", 2) || !moe_jinja_write_escaped(j, value) ||
            !moe_jinja_write_char(j, '"'))
            return false;
    }
    return moe_jinja_take(j, mark, false, out);
}

/* --- numbers ---------------------------------------------------------------------------------- */

/* A text without white space around it. */
static jinja_string stripped(const jinja_string *s)
{
    size_t from = 0, to = s->len;
    while (from < to) {
        int32_t cp;
        size_t n = moe_jinja_utf8_decode(s->data + from, &cp);
        if (!moe_jinja_is_space(cp))
            break;
        from += n;
    }
    while (to > from) {
        size_t at = to - 1;
        int32_t cp;
        while (at > from && ((unsigned char)s->data[at] & 0xC0) == 0x80)
            at--;
        moe_jinja_utf8_decode(s->data + at, &cp);
        if (!moe_jinja_is_space(cp))
            break;
        to = at;
    }
    return (jinja_string){.data = s->data + from, .len = to - from};
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
}

/* int(text, base) as in Python.  *ok: it is a number. */
static bool parse_integer(jinja *j, const jinja_string *text, int64_t base, bool *ok, int64_t *out)
{
    jinja_string s = stripped(text);
    const char *at = s.data, *end = at + s.len;
    bool negative = at < end && *at == '-';
    *ok = false;
    *out = 0;
    at += at < end && (*at == '-' || *at == '+');
    if (base != 0 && (base < 2 || base > 36))
        return true;
    if (end - at > 2 && *at == '0') {
        char c = at[1] | 0x20;
        int64_t prefix = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        if (prefix != 0 && (base == prefix || base == 0)) {
            base = prefix;
            at += at[2] == '_' ? 3 : 2;
        }
    }
    bool any_base = base == 0, leading_zero = at < end && *at == '0', after_digit = false;
    base = any_base ? 10 : base;
    for (; at < end; at++) {
        if (*at == '_' && after_digit) {
            after_digit = false;
            continue;
        }
        int digit = digit_of(*at);
        if (digit >= base || (any_base && leading_zero && digit != 0))
            return true;
        if (__builtin_mul_overflow(*out, base, out) ||
            (negative ? __builtin_sub_overflow(*out, (int64_t)digit, out)
                      : __builtin_add_overflow(*out, (int64_t)digit, out)))
            return moe_jinja_fail(j, "the number does not fit a 64-bit integer");
        after_digit = true;
    }
    *ok = after_digit;
    return true;
}

/* Copies digits, with single underscores between them, without the underscores. */
static const char *copy_digits(const char *at, const char *end, char *to, size_t *n, size_t size)
{
    const char *from = at;
    while (at < end && *n < size - 1) {
        bool between = *at == '_' && at > from && at[-1] != '_' && at + 1 < end;
        if (between && at[1] >= '0' && at[1] <= '9')
            at++;
        if (*at < '0' || *at > '9')
            break;
        to[(*n)++] = *at++;
    }
    return at;
}

/* float(text) as in Python; false if it is no number. */
static bool parse_float(const jinja_string *text, double *out)
{
    jinja_string s = stripped(text);
    char copy[512];
    size_t n = 0;
    const char *at = s.data, *end = at + s.len;
    if (at < end && (*at == '-' || *at == '+'))
        copy[n++] = *at++;
    const char *const names[] = {"inf", "infinity", "nan"};
    for (size_t i = 0; i < 3; i++) {
        if ((size_t)(end - at) == strlen(names[i]) && strncasecmp(at, names[i], end - at) == 0) {
            *out = i < 2 ? HUGE_VAL : NAN;
            *out = n > 0 && copy[0] == '-' ? -*out : *out;
            return true;
        }
    }
    const char *digits = at;
    at = copy_digits(at, end, copy, &n, sizeof copy);
    bool any = at > digits;
    if (at < end && *at == '.' && n < sizeof copy - 1) {
        copy[n++] = *at++;
        digits = at;
        at = copy_digits(at, end, copy, &n, sizeof copy);
        any = any || at > digits;
    }
    if (any && at < end && (*at | 0x20) == 'e' && n < sizeof copy - 2) {
        copy[n++] = *at++;
        if (at < end && (*at == '-' || *at == '+'))
            copy[n++] = *at++;
        digits = at;
        at = copy_digits(at, end, copy, &n, sizeof copy);
        any = at > digits;
    }
    copy[n] = '\0';
    *out = strtod(copy, NULL);
    return any && at == end;
}

static bool truncate_float(jinja *j, double f, jinja_value *out)
{
    if (!(f >= -9223372036854775808.0 && f < 9223372036854775808.0))
        return moe_jinja_fail(j, "the number does not fit a 64-bit integer");
    *out = jinja_int((int64_t)f);
    return true;
}

FILTER(filter_int)
{
    (void)args;
    int64_t base, value;
    double f;
    bool ok;
    *out = a[0].kind != JINJA_MISSING ? a[0] : jinja_int(0);
    if (!want_integer(j, a[1], 10, &base))
        return false;
    switch (self.kind) {
    case JINJA_UNDEFINED:
        return moe_jinja_fail_undefined(j, self);
    case JINJA_BOOL:
    case JINJA_INT:
        *out = jinja_int(jinja_integer(self));
        return true;
    case JINJA_FLOAT:
        return isnan(self.f) || truncate_float(j, self.f, out);
    case JINJA_STRING:
        if (!parse_integer(j, self.s, base, &ok, &value))
            return false;
        if (ok)
            *out = jinja_int(value);
        else if (parse_float(self.s, &f) && isfinite(f))
            return truncate_float(j, f, out);
        return true;
    default:
        return true;
    }
}

FILTER(filter_float)
{
    (void)args;
    double f;
    *out = a[0].kind != JINJA_MISSING ? a[0] : jinja_float(0);
    if (self.kind == JINJA_UNDEFINED)
        return moe_jinja_fail_undefined(j, self);
    if (self.kind == JINJA_FLOAT)
        *out = self;
    else if (jinja_is_integer(self))
        *out = jinja_float((double)jinja_integer(self));
    else if (self.kind == JINJA_STRING && parse_float(self.s, &f))
        *out = jinja_float(f);
    return true;
}

FILTER(filter_abs)
{
    (void)args, (void)a;
    bool negative = self.kind == JINJA_FLOAT ? signbit(self.f) != 0
                                             : jinja_is_integer(self) && jinja_integer(self) < 0;
    return moe_jinja_unary(j, negative ? JINJA_NEG : JINJA_POS, self, out);
}

/* Decimal rounding, halves to even, of the exact value of f. */
static bool round_float(jinja *j, double f, int64_t precision, jinja_value *out)
{
    *out = jinja_float(f);
    if (!isfinite(f) || precision > 300)
        return true;
    if (precision < -300) {
        *out = jinja_float(copysign(0, f));
        return true;
    }
    if (precision < 0) {
        double unit = pow(10, (double)-precision);
        *out = jinja_float(rint(f / unit) * unit);
        return true;
    }
    char *text = moe_jinja_alloc(j, 700, 1);
    if (text == NULL)
        return false;
    snprintf(text, 700, "%.*f", (int)precision, f);
    *out = jinja_float(strtod(text, NULL));
    return true;
}

static bool round_integer(jinja *j, int64_t value, int64_t precision, jinja_value *out)
{
    int64_t unit = 1, rest, rounded;
    *out = jinja_int(value);
    for (; precision < 0 && unit < INT64_MAX / 10; precision++)
        unit *= 10;
    if (precision < 0) {
        *out = jinja_int(0);
        return true;
    }
    rest = ((value % unit) + unit) % unit;
    bool is_odd = (value / unit - (value % unit < 0)) % 2 != 0;
    bool up = rest > unit - rest || (rest == unit - rest && is_odd);
    if (up ? __builtin_add_overflow(value, unit - rest, &rounded)
           : __builtin_sub_overflow(value, rest, &rounded))
        return moe_jinja_fail(j, "the result does not fit a 64-bit integer");
    *out = jinja_int(rounded);
    return true;
}

FILTER(filter_round)
{
    (void)args;
    int64_t precision;
    bool ceiling = a[1].kind == JINJA_STRING && moe_jinja_string_is(a[1].s, "ceil");
    bool flooring = a[1].kind == JINJA_STRING && moe_jinja_string_is(a[1].s, "floor");
    if (self.kind == JINJA_UNDEFINED)
        return moe_jinja_fail_undefined(j, self);
    if (self.kind != JINJA_FLOAT && !jinja_is_integer(self))
        return moe_jinja_fail(j, "type %s doesn't define __round__ method",
                              moe_jinja_type_name(self));
    if (a[1].kind != JINJA_MISSING && !ceiling && !flooring &&
        !(a[1].kind == JINJA_STRING && moe_jinja_string_is(a[1].s, "common")))
        return moe_jinja_fail(j, "method must be common, ceil or floor");
    if (!want_integer(j, a[0], 0, &precision))
        return false;
    if (!ceiling && !flooring)
        return self.kind == JINJA_FLOAT ? round_float(j, self.f, precision, out)
                                        : round_integer(j, jinja_integer(self), precision, out);
    double unit = pow(10, (double)precision);
    double f = (self.kind == JINJA_FLOAT ? self.f : (double)jinja_integer(self)) * unit;
    if (!isfinite(f) || unit == 0)
        return moe_jinja_fail(j, "cannot round this number");
    *out = jinja_float((ceiling ? ceil(f) : floor(f)) / unit);
    return true;
}

FILTER(filter_filesizeformat)
{
    (void)args;
    static const char prefixes[] = "kMGTPEZY";
    bool binary = moe_jinja_truth(a[0]);
    double bytes, base = binary ? 1024 : 1000, unit;
    jinja_args none = {0};
    const jinja_value no_default = jinja_none();
    jinja_value number;
    char text[64];
    int n;
    if (!filter_float(j, self, &none, &no_default, &number))
        return false;
    if (number.kind != JINJA_FLOAT)
        return moe_jinja_fail(j, "could not convert the value to a number");
    bytes = number.f;
    unit = base;
    if (bytes == 1) {
        n = snprintf(text, sizeof text, "1 Byte");
    } else if (bytes < base) {
        n = snprintf(text, sizeof text, "%.0f Bytes", trunc(bytes));
    } else {
        size_t i = 0;
        while (i < sizeof prefixes - 2 && bytes >= unit * base) {
            unit *= base;
            i++;
        }
        char prefix = binary && i == 0 ? 'K' : prefixes[i];
        n = snprintf(text, sizeof text, "%.1f %c%s", bytes / unit, prefix, binary ? "iB" : "B");
    }
    if (n < 0 || (size_t)n >= sizeof text)
        return moe_jinja_fail(j, "the size is too large");
    return moe_jinja_string_copy(j, text, (size_t)n, out);
}

/* Filters of jinja2 that no chat template has use for. */
FILTER(filter_unsupported)
{
    (void)self, (void)args, (void)a, (void)out;
    return moe_jinja_fail(j, "this filter is not supported");
}

static const jinja_builtin filters[] = {
    {"abs", "", filter_abs},
    {"capitalize", "", filter_capitalize},
    {"center", "width?", filter_center},
    {"e", "", filter_escape},
    {"escape", "", filter_escape},
    {"filesizeformat", "binary?", filter_filesizeformat},
    {"float", "default?", filter_float},
    {"forceescape", "", filter_forceescape},
    {"format", NULL, filter_format},
    {"indent", "width? first? blank?", filter_indent},
    {"int", "default? base?", filter_int},
    {"join", "d? attribute?", filter_join},
    {"lower", "", filter_lower},
    {"replace", "old new count?", filter_replace},
    {"round", "precision? method?", filter_round},
    {"safe", "", filter_safe},
    {"string", "", filter_string},
    {"title", "", filter_title},
    {"trim", "chars?", filter_trim},
    {"truncate", "length? killwords? end? leeway?", filter_truncate},
    {"upper", "", filter_upper},
    {"urlencode", "", filter_urlencode},
    {"wordcount", "", filter_wordcount},
    {"xmlattr", "autospace?", filter_xmlattr},
    {"pprint", NULL, filter_unsupported},
    {"random", NULL, filter_unsupported},
    {"striptags", NULL, filter_unsupported},
    {"urlize", NULL, filter_unsupported},
    {"wordwrap", NULL, filter_unsupported},
};

const jinja_builtin *moe_jinja_find_text_filter(const jinja_string *name)
{
    if (moe_jinja_string_is(name, moe_jinja_filter_tojson.name))
        return &moe_jinja_filter_tojson;
    return moe_jinja_find_in(filters, sizeof filters / sizeof filters[0], name);
}
