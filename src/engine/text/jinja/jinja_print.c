/*
 * Text of values: the output buffer, Python's str() and repr(), and JSON as json.dumps writes it.
 *
 * All texts grow at the end of the output buffer.  A caller who wants a string notes the length
 * with moe_jinja_mark, writes, and cuts the tail off with moe_jinja_take; the uses nest like a
 * stack.
 */
#include "jinja_lib.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OUTPUT ((size_t)64 << 20)

/* --- the output buffer ------------------------------------------------------------------------ */

bool moe_jinja_write(jinja *j, const char *data, size_t len)
{
    if (len > MAX_OUTPUT || j->out->len > MAX_OUTPUT - len)
        return moe_jinja_fail(j, "the template writes too much text");
    if (len > 0 && !moe_buf_add(j->out, data, len)) {
        moe_jinja_fail(j, "out of memory");
        j->status = MOE_ERR_MEMORY;
        return false;
    }
    return len < 256 || moe_jinja_step(j, len / 256);
}

bool moe_jinja_write_char(jinja *j, char c)
{
    return moe_jinja_write(j, &c, 1);
}

bool moe_jinja_write_repeat(jinja *j, const char *data, size_t len, size_t count)
{
    size_t total;
    if (!moe_mul(len, count, &total) || total > MAX_OUTPUT)
        return moe_jinja_fail(j, "the template writes too much text");
    if (!moe_jinja_step(j, count / 16))
        return false;
    for (size_t i = 0; i < count && len > 0; i++) {
        if (!moe_jinja_write(j, data, len))
            return false;
    }
    return true;
}

static bool write_text(jinja *j, const char *text)
{
    return moe_jinja_write(j, text, strlen(text));
}

size_t moe_jinja_mark(const jinja *j)
{
    return j->out->len;
}

bool moe_jinja_take(jinja *j, size_t mark, bool safe, jinja_value *out)
{
    size_t len = j->out->len - mark;
    if (!moe_jinja_string_copy(j, len > 0 ? j->out->data + mark : "", len, out))
        return false;
    out->s->safe = safe;
    j->out->len = mark;
    return true;
}

/* --- str() and repr() ------------------------------------------------------------------------- */

/* The shortest text that reads back as f. */
int moe_jinja_float_repr(double f, char text[40])
{
    if (isnan(f) || isinf(f))
        return snprintf(text, 40, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
    char digits[40];
    int precision = 0;
    do {
        snprintf(digits, sizeof digits, "%.*e", precision, f);
    } while (strtod(digits, NULL) != f && precision++ < 17);
    int exponent = atoi(strchr(digits, 'e') + 1), n = 0;
    const char *d = digits;
    if (*d == '-')
        text[n++] = *d++;
    /* digits are d[0] and, past the decimal point, d[2..precision + 1] */
    if (exponent < -4 || exponent >= 16) {
        text[n++] = d[0];
        if (precision > 0)
            text[n++] = '.';
        for (int i = 0; i < precision; i++)
            text[n++] = d[2 + i];
        return n + snprintf(text + n, (size_t)(40 - n), "e%c%02d", exponent < 0 ? '-' : '+',
                            abs(exponent));
    }
    if (exponent < 0) {
        text[n++] = '0';
        text[n++] = '.';
        for (int i = -1; i > exponent; i--)
            text[n++] = '0';
    }
    for (int i = 0; i <= precision || i <= exponent + 1; i++) {
        if (i == exponent + 1 && exponent >= 0)
            text[n++] = '.';
        text[n++] = i == 0 ? d[0] : i <= precision ? d[1 + i] : '0';
        if (exponent < 0 && i == precision)
            break;
    }
    text[n] = '\0';
    return n;
}

static bool write_string_repr(jinja *j, const jinja_string *s)
{
    bool single = memchr(s->data, '\'', s->len) != NULL;
    bool twice = memchr(s->data, '"', s->len) != NULL;
    char quote = single && !twice ? '"' : '\'';
    if (!moe_jinja_step(j, s->len / 8) || (s->safe && !write_text(j, "Markup(")) ||
        !moe_jinja_write_char(j, quote))
        return false;
    for (size_t i = 0; i < s->len;) {
        int32_t cp;
        size_t n = moe_jinja_utf8_decode(s->data + i, &cp);
        char text[16];
        int len = 0;
        if (cp == '\\' || cp == quote)
            len = snprintf(text, sizeof text, "\\%c", (char)cp);
        else if (cp == '\n' || cp == '\r' || cp == '\t')
            len = snprintf(text, sizeof text, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
        else if (!moe_jinja_is_printable(cp))
            len = snprintf(text, sizeof text,
                           cp < 0x100     ? "\\x%02x"
                           : cp < 0x10000 ? "\\u%04x"
                                          : "\\U%08x",
                           (unsigned)cp);
        if (!(len > 0 ? moe_jinja_write(j, text, (size_t)len) : moe_jinja_write(j, s->data + i, n)))
            return false;
        i += n;
    }
    return moe_jinja_write_char(j, quote) && (!s->safe || moe_jinja_write_char(j, ')'));
}

static bool write_items(jinja *j, const jinja_array *array)
{
    for (size_t i = 0; i < array->len; i++) {
        if ((i > 0 && !write_text(j, ", ")) || !moe_jinja_write_repr(j, array->items[i]))
            return false;
    }
    return true;
}

static bool write_dict_repr(jinja *j, const jinja_dict *dict)
{
    if (!moe_jinja_write_char(j, '{'))
        return false;
    for (size_t i = 0; i < dict->len; i++) {
        if ((i > 0 && !write_text(j, ", ")) || !moe_jinja_write_repr(j, dict->entries[i].key) ||
            !write_text(j, ": ") || !moe_jinja_write_repr(j, dict->entries[i].value))
            return false;
    }
    return moe_jinja_write_char(j, '}');
}

static bool write_container(jinja *j, jinja_value v)
{
    switch (v.kind) {
    case JINJA_LIST:
        return moe_jinja_write_char(j, '[') && write_items(j, v.a) && moe_jinja_write_char(j, ']');
    case JINJA_TUPLE:
        return moe_jinja_write_char(j, '(') && write_items(j, v.a) &&
               write_text(j, v.a->len == 1 ? ",)" : ")");
    case JINJA_VIEW:
        return write_text(j, moe_jinja_type_name(v)) && write_text(j, "([") &&
               write_items(j, v.a) && write_text(j, "])");
    case JINJA_NAMESPACE:
        return write_text(j, "<Namespace ") && write_dict_repr(j, v.d) &&
               moe_jinja_write_char(j, '>');
    default:
        return write_dict_repr(j, v.d);
    }
}

/* Objects that a template has no reason to print, but can. */
static bool write_object(jinja *j, jinja_value v)
{
    char text[120];
    const char *name = v.kind == JINJA_METHOD     ? v.method->builtin->name
                       : v.kind == JINJA_FUNCTION ? v.function->name
                                                  : NULL;
    if (name != NULL)
        snprintf(text, sizeof text, "<function %s>", name);
    else
        snprintf(text, sizeof text, "<%s object>", moe_jinja_type_name(v));
    return write_text(j, text);
}

bool moe_jinja_write_repr(jinja *j, jinja_value v)
{
    char text[96];
    bool ok;
    if (!moe_jinja_step(j, 1))
        return false;
    switch (v.kind) {
    case JINJA_UNDEFINED:
        return write_text(j, "Undefined");
    case JINJA_NONE:
        return write_text(j, "None");
    case JINJA_BOOL:
        return write_text(j, v.b ? "True" : "False");
    case JINJA_INT:
        return moe_jinja_write(j, text,
                               (size_t)snprintf(text, sizeof text, "%lld", (long long)v.i));
    case JINJA_FLOAT:
        return moe_jinja_write(j, text, (size_t)moe_jinja_float_repr(v.f, text));
    case JINJA_STRING:
        return write_string_repr(j, v.s);
    case JINJA_RANGE: {
        int64_t stop = v.range->start + v.range->step * (int64_t)v.range->len;
        int n = snprintf(text, sizeof text, "range(%lld, %lld", (long long)v.range->start,
                         (long long)stop);
        if (v.range->step != 1)
            n += snprintf(text + n, sizeof text - (size_t)n, ", %lld", (long long)v.range->step);
        return moe_jinja_write(j, text, (size_t)n) && moe_jinja_write_char(j, ')');
    }
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_VIEW:
    case JINJA_NAMESPACE:
    case JINJA_DICT:
        ok = moe_jinja_enter(j) && write_container(j, v);
        moe_jinja_leave(j);
        return ok;
    default:
        return write_object(j, v);
    }
}

bool moe_jinja_write_str(jinja *j, jinja_value v)
{
    if (v.kind == JINJA_STRING)
        return moe_jinja_write(j, v.s->data, v.s->len);
    if (v.kind == JINJA_UNDEFINED)
        return true;
    return moe_jinja_write_repr(j, v);
}

bool moe_jinja_to_string(jinja *j, jinja_value v, jinja_value *out)
{
    *out = v;
    if (v.kind == JINJA_STRING)
        return true;
    size_t mark = moe_jinja_mark(j);
    return moe_jinja_write_str(j, v) && moe_jinja_take(j, mark, false, out);
}

bool moe_jinja_write_escaped(jinja *j, jinja_value v)
{
    if (v.kind == JINJA_STRING && v.s->safe)
        return moe_jinja_write_str(j, v);
    jinja_value text;
    if (!moe_jinja_to_string(j, v, &text) || !moe_jinja_step(j, text.s->len / 8))
        return false;
    for (size_t i = 0; i < text.s->len; i++) {
        char c = text.s->data[i];
        const char *entity = c == '&'    ? "&amp;"
                             : c == '<'  ? "&lt;"
                             : c == '>'  ? "&gt;"
                             : c == '\'' ? "&#39;"
                             : c == '"'  ? "&#34;"
                                         : NULL;
        if (!(entity != NULL ? write_text(j, entity) : moe_jinja_write_char(j, c)))
            return false;
    }
    return true;
}

/* --- JSON ------------------------------------------------------------------------------------- */

typedef struct json_style {
    bool ascii, sort, pretty;
    jinja_string indent, item_separator, key_separator;
} json_style;

static bool write_json_string(jinja *j, const jinja_string *s, bool ascii)
{
    if (!moe_jinja_step(j, s->len / 8) || !moe_jinja_write_char(j, '"'))
        return false;
    for (size_t i = 0; i < s->len;) {
        static const char plain[] = "\"\\\n\r\t\f\b", letter[] = "\"\\nrtfb";
        int32_t cp;
        size_t n = moe_jinja_utf8_decode(s->data + i, &cp);
        const char *special = cp != 0 && cp < 0x80 ? strchr(plain, cp) : NULL;
        char text[16];
        int len = 0;
        if (special != NULL)
            len = snprintf(text, sizeof text, "\\%c", letter[special - plain]);
        else if (cp < 0x20 || (ascii && cp >= 0x7F && cp < 0x10000))
            len = snprintf(text, sizeof text, "\\u%04x", (unsigned)cp);
        else if (ascii && cp >= 0x10000)
            len = snprintf(text, sizeof text, "\\u%04x\\u%04x",
                           0xD800u + ((unsigned)(cp - 0x10000) >> 10),
                           0xDC00u + ((unsigned)(cp - 0x10000) & 0x3FF));
        if (!(len > 0 ? moe_jinja_write(j, text, (size_t)len) : moe_jinja_write(j, s->data + i, n)))
            return false;
        i += n;
    }
    return moe_jinja_write_char(j, '"');
}

static bool write_json(jinja *j, jinja_value v, const json_style *style, size_t level);

static bool write_json_break(jinja *j, const json_style *style, size_t level)
{
    return !style->pretty ||
           (moe_jinja_write_char(j, '\n') &&
            moe_jinja_write_repeat(j, style->indent.data, style->indent.len, level));
}

static bool write_json_separator(jinja *j, const json_style *style, size_t level, size_t index)
{
    return (index == 0 ||
            moe_jinja_write(j, style->item_separator.data, style->item_separator.len)) &&
           write_json_break(j, style, level);
}

static bool write_json_key(jinja *j, jinja_value key, const json_style *style)
{
    if (key.kind == JINJA_STRING)
        return write_json_string(j, key.s, style->ascii);
    if (key.kind != JINJA_INT && key.kind != JINJA_FLOAT && key.kind != JINJA_BOOL &&
        key.kind != JINJA_NONE)
        return moe_jinja_fail(j, "keys must be str, int, float, bool or None, not %s",
                              moe_jinja_type_name(key));
    return moe_jinja_write_char(j, '"') && write_json(j, key, style, 0) &&
           moe_jinja_write_char(j, '"');
}

static bool write_json_object(jinja *j, const jinja_dict *dict, const json_style *style,
                              size_t level)
{
    jinja_value keys, values;
    if (!moe_jinja_array_new(j, JINJA_LIST, dict->len, &keys) ||
        !moe_jinja_array_new(j, JINJA_LIST, dict->len, &values))
        return false;
    for (size_t i = 0; i < dict->len; i++) {
        keys.a->items[i] = dict->entries[i].key;
        values.a->items[i] = dict->entries[i].value;
    }
    if (style->sort && !moe_jinja_sort(j, keys.a->items, values.a->items, dict->len, false))
        return false;
    if (!moe_jinja_write_char(j, '{'))
        return false;
    for (size_t i = 0; i < dict->len; i++) {
        if (!write_json_separator(j, style, level + 1, i) ||
            !write_json_key(j, keys.a->items[i], style) ||
            !moe_jinja_write(j, style->key_separator.data, style->key_separator.len) ||
            !write_json(j, values.a->items[i], style, level + 1))
            return false;
    }
    return (dict->len == 0 || write_json_break(j, style, level)) && moe_jinja_write_char(j, '}');
}

static bool write_json_array(jinja *j, const jinja_array *array, const json_style *style,
                             size_t level)
{
    if (!moe_jinja_write_char(j, '['))
        return false;
    for (size_t i = 0; i < array->len; i++) {
        if (!write_json_separator(j, style, level + 1, i) ||
            !write_json(j, array->items[i], style, level + 1))
            return false;
    }
    return (array->len == 0 || write_json_break(j, style, level)) && moe_jinja_write_char(j, ']');
}

static bool write_json(jinja *j, jinja_value v, const json_style *style, size_t level)
{
    bool ok;
    if (!moe_jinja_step(j, 1))
        return false;
    switch (v.kind) {
    case JINJA_NONE:
        return write_text(j, "null");
    case JINJA_BOOL:
        return write_text(j, v.b ? "true" : "false");
    case JINJA_INT:
        return moe_jinja_write_repr(j, v);
    case JINJA_FLOAT:
        if (isnan(v.f))
            return write_text(j, "NaN");
        if (isinf(v.f))
            return write_text(j, v.f < 0 ? "-Infinity" : "Infinity");
        return moe_jinja_write_repr(j, v);
    case JINJA_STRING:
        return write_json_string(j, v.s, style->ascii);
    case JINJA_LIST:
    case JINJA_TUPLE:
        ok = moe_jinja_enter(j) && write_json_array(j, v.a, style, level);
        moe_jinja_leave(j);
        return ok;
    case JINJA_DICT:
        ok = moe_jinja_enter(j) && write_json_object(j, v.d, style, level);
        moe_jinja_leave(j);
        return ok;
    default:
        return moe_jinja_fail(j, "Object of type %s is not JSON serializable",
                              moe_jinja_type_name(v));
    }
}

static bool is_given(jinja_value v)
{
    return v.kind != JINJA_MISSING && v.kind != JINJA_NONE;
}

static bool filter_tojson(jinja *j, jinja_value self, const jinja_args *args, const jinja_value *a,
                          jinja_value *out)
{
    (void)args;
    json_style style = {
        .ascii = moe_jinja_truth(a[0]),
        .sort = moe_jinja_truth(a[3]),
        .pretty = is_given(a[1]),
        .item_separator = {.data = ", ", .len = 2},
        .key_separator = {.data = ": ", .len = 2},
    };
    jinja_value indent = a[1];
    if (style.pretty) {
        style.item_separator.len = 1;
        if (jinja_is_integer(indent)) {
            int64_t n = jinja_integer(indent);
            size_t mark = moe_jinja_mark(j);
            if (!moe_jinja_write_repeat(j, " ", 1, n < 0 ? 0 : (size_t)n) ||
                !moe_jinja_take(j, mark, false, &indent))
                return false;
        }
        if (indent.kind != JINJA_STRING)
            return moe_jinja_fail(j, "tojson: indent must be an integer or a string");
        style.indent = *indent.s;
    }
    if (is_given(a[2])) {
        jinja_value pair;
        if (!moe_jinja_list_of(j, a[2], &pair))
            return false;
        if (pair.a->len != 2 || pair.a->items[0].kind != JINJA_STRING ||
            pair.a->items[1].kind != JINJA_STRING)
            return moe_jinja_fail(j, "tojson: separators must be two strings");
        style.item_separator = *pair.a->items[0].s;
        style.key_separator = *pair.a->items[1].s;
    }
    size_t mark = moe_jinja_mark(j);
    return write_json(j, self, &style, 0) && moe_jinja_take(j, mark, false, out);
}

const jinja_builtin moe_jinja_filter_tojson = {
    "tojson", "ensure_ascii? indent? separators? sort_keys?", filter_tojson};
