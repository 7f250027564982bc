/*
 * The methods of Python's str.
 *
 * Positions and lengths count code points.  Methods of markup return markup, and escape what plain
 * text they add.
 */
#define _GNU_SOURCE
#include "jinja_lib.h"

#include <string.h>

#define METHOD(name)                                                                               \
    static bool name(jinja *j, jinja_value self, const jinja_args *args, const jinja_value *a,     \
                     jinja_value *out)

static bool is_given(jinja_value v)
{
    return v.kind != JINJA_MISSING && v.kind != JINJA_NONE;
}

static bool want_string(jinja *j, jinja_value v)
{
    return v.kind == JINJA_STRING ||
           moe_jinja_fail(j, "a string is required, not '%s'", moe_jinja_type_name(v));
}

/* An optional integer argument. */
static bool want_integer(jinja *j, jinja_value v, int64_t otherwise, int64_t *out)
{
    *out = otherwise;
    if (!is_given(v))
        return true;
    if (!jinja_is_integer(v))
        return moe_jinja_fail(j, "'%s' object cannot be interpreted as an integer",
                              moe_jinja_type_name(v));
    *out = jinja_integer(v);
    return true;
}

/* Bytes [from, to) of a string as a string of the same kind. */
static bool piece(jinja *j, const jinja_string *s, size_t from, size_t to, jinja_value *out)
{
    return moe_jinja_string_share(j, s->data + from, to - from, s->safe, out);
}

/* --- case ------------------------------------------------------------------------------------- */

bool moe_jinja_string_case(jinja *j, const jinja_string *s, jinja_case to, jinja_value *out)
{
    size_t mark = moe_jinja_mark(j);
    return moe_jinja_write_case(j, s->data, s->len, to) && moe_jinja_take(j, mark, s->safe, out);
}

bool moe_jinja_string_capitalize(jinja *j, const jinja_string *s, jinja_value *out)
{
    int32_t cp;
    size_t mark = moe_jinja_mark(j), first = s->len > 0 ? moe_jinja_utf8_decode(s->data, &cp) : 0;
    return moe_jinja_write_case(j, s->data, first, JINJA_TITLE) &&
           moe_jinja_write_case(j, s->data + first, s->len - first, JINJA_LOWER) &&
           moe_jinja_take(j, mark, s->safe, out);
}

static bool is_cased(int32_t cp)
{
    return moe_jinja_is_upper(cp) || moe_jinja_is_lower(cp) || moe_jinja_is_title(cp);
}

static bool write_title(jinja *j, const jinja_string *s)
{
    bool inside = false;
    for (size_t i = 0; i < s->len;) {
        int32_t cp;
        size_t n = moe_jinja_utf8_decode(s->data + i, &cp);
        if (!moe_jinja_write_case(j, s->data + i, n, inside ? JINJA_LOWER : JINJA_TITLE))
            return false;
        inside = is_cased(cp);
        i += n;
    }
    return true;
}

static bool write_swapped(jinja *j, const jinja_string *s)
{
    for (size_t i = 0; i < s->len;) {
        int32_t cp;
        size_t n = moe_jinja_utf8_decode(s->data + i, &cp);
        if (!(moe_jinja_is_upper(cp)   ? moe_jinja_write_case(j, s->data + i, n, JINJA_LOWER)
              : moe_jinja_is_lower(cp) ? moe_jinja_write_case(j, s->data + i, n, JINJA_UPPER)
                                       : moe_jinja_write(j, s->data + i, n)))
            return false;
        i += n;
    }
    return true;
}

METHOD(method_upper)
{
    (void)args, (void)a;
    return moe_jinja_string_case(j, self.s, JINJA_UPPER, out);
}

METHOD(method_lower)
{
    (void)args, (void)a;
    return moe_jinja_string_case(j, self.s, JINJA_LOWER, out);
}

METHOD(method_casefold)
{
    (void)args, (void)a;
    return moe_jinja_string_case(j, self.s, JINJA_FOLD, out);
}

METHOD(method_capitalize)
{
    (void)args, (void)a;
    return moe_jinja_string_capitalize(j, self.s, out);
}

METHOD(method_title)
{
    (void)args, (void)a;
    size_t mark = moe_jinja_mark(j);
    return write_title(j, self.s) && moe_jinja_take(j, mark, self.s->safe, out);
}

METHOD(method_swapcase)
{
    (void)args, (void)a;
    size_t mark = moe_jinja_mark(j);
    return write_swapped(j, self.s) && moe_jinja_take(j, mark, self.s->safe, out);
}

/* --- classes of characters -------------------------------------------------------------------- */

static bool is_alnum(int32_t cp)
{
    return moe_jinja_is_alpha(cp) || moe_jinja_is_numeric(cp) || moe_jinja_is_digit(cp);
}

static bool is_ascii(int32_t cp)
{
    return cp < 0x80;
}

static bool all_are(const jinja_string *s, bool (*is)(int32_t cp), bool when_empty)
{
    for (size_t i = 0; i < s->len;) {
        int32_t cp;
        i += moe_jinja_utf8_decode(s->data + i, &cp);
        if (!is(cp))
            return false;
    }
    return s->len > 0 || when_empty;
}

bool moe_jinja_string_has_case(const jinja_string *s, bool upper)
{
    bool cased = false;
    for (size_t i = 0; i < s->len;) {
        int32_t cp;
        i += moe_jinja_utf8_decode(s->data + i, &cp);
        if (moe_jinja_is_title(cp) || (upper ? moe_jinja_is_lower(cp) : moe_jinja_is_upper(cp)))
            return false;
        cased = cased || is_cased(cp);
    }
    return cased;
}

#define CLASS_METHOD(name, test)                                                                   \
    METHOD(name)                                                                                   \
    {                                                                                              \
        (void)args, (void)a;                                                                       \
        *out = jinja_bool(test);                                                                   \
        return moe_jinja_step(j, self.s->len / 16);                                                \
    }

CLASS_METHOD(method_isalnum, all_are(self.s, is_alnum, false))
CLASS_METHOD(method_isalpha, all_are(self.s, moe_jinja_is_alpha, false))
CLASS_METHOD(method_isascii, all_are(self.s, is_ascii, true))
CLASS_METHOD(method_isdecimal, all_are(self.s, moe_jinja_is_decimal, false))
CLASS_METHOD(method_isdigit, all_are(self.s, moe_jinja_is_digit, false))
CLASS_METHOD(method_isnumeric, all_are(self.s, moe_jinja_is_numeric, false))
CLASS_METHOD(method_isprintable, all_are(self.s, moe_jinja_is_printable, true))
CLASS_METHOD(method_isspace, all_are(self.s, moe_jinja_is_space, false))
CLASS_METHOD(method_isupper, moe_jinja_string_has_case(self.s, true))
CLASS_METHOD(method_islower, moe_jinja_string_has_case(self.s, false))

METHOD(method_isidentifier)
{
    (void)args, (void)a;
    bool ok = self.s->len > 0;
    for (size_t i = 0; i < self.s->len && ok;) {
        int32_t cp;
        bool first = i == 0;
        i += moe_jinja_utf8_decode(self.s->data + i, &cp);
        ok = cp == '_' || moe_jinja_is_alpha(cp) || (!first && moe_jinja_is_decimal(cp));
    }
    *out = jinja_bool(ok);
    return moe_jinja_step(j, self.s->len / 16);
}

METHOD(method_istitle)
{
    (void)args, (void)a;
    bool inside = false, any = false, ok = true;
    for (size_t i = 0; i < self.s->len && ok;) {
        int32_t cp;
        i += moe_jinja_utf8_decode(self.s->data + i, &cp);
        bool starts = moe_jinja_is_upper(cp) || moe_jinja_is_title(cp);
        ok = starts ? !inside : !moe_jinja_is_lower(cp) || inside;
        inside = starts || moe_jinja_is_lower(cp);
        any = any || inside;
    }
    *out = jinja_bool(ok && any);
    return moe_jinja_step(j, self.s->len / 16);
}

/* --- trimming and padding --------------------------------------------------------------------- */

static bool is_trimmed(const char *at, size_t n, int32_t cp, const jinja_string *chars)
{
    return chars == NULL ? moe_jinja_is_space(cp) : memmem(chars->data, chars->len, at, n) != NULL;
}

bool moe_jinja_string_strip(jinja *j, const jinja_string *s, jinja_value chars, bool left,
                            bool right, jinja_value *out)
{
    const jinja_string *set = NULL;
    size_t from = 0, to = s->len;
    int32_t cp;
    if (is_given(chars)) {
        if (!want_string(j, chars))
            return false;
        set = chars.s;
    }
    while (left && from < to) {
        size_t n = moe_jinja_utf8_decode(s->data + from, &cp);
        if (!is_trimmed(s->data + from, n, cp, set))
            break;
        from += n;
    }
    while (right && to > from) {
        size_t at = to - 1;
        while (at > from && ((unsigned char)s->data[at] & 0xC0) == 0x80)
            at--;
        moe_jinja_utf8_decode(s->data + at, &cp);
        if (!is_trimmed(s->data + at, to - at, cp, set))
            break;
        to = at;
    }
    return moe_jinja_step(j, (s->len - (to - from)) / 16) && piece(j, s, from, to, out);
}

METHOD(method_strip)
{
    (void)args;
    return moe_jinja_string_strip(j, self.s, a[0], true, true, out);
}

METHOD(method_lstrip)
{
    (void)args;
    return moe_jinja_string_strip(j, self.s, a[0], true, false, out);
}

METHOD(method_rstrip)
{
    (void)args;
    return moe_jinja_string_strip(j, self.s, a[0], false, true, out);
}

static bool starts_with(const jinja_string *s, const jinja_string *prefix)
{
    return s->len >= prefix->len && memcmp(s->data, prefix->data, prefix->len) == 0;
}

static bool ends_with(const jinja_string *s, const jinja_string *suffix)
{
    return s->len >= suffix->len &&
           memcmp(s->data + s->len - suffix->len, suffix->data, suffix->len) == 0;
}

METHOD(method_removeprefix)
{
    (void)args;
    return want_string(j, a[0]) &&
           piece(j, self.s, starts_with(self.s, a[0].s) ? a[0].s->len : 0, self.s->len, out);
}

METHOD(method_removesuffix)
{
    (void)args;
    return want_string(j, a[0]) &&
           piece(j, self.s, 0, self.s->len - (ends_with(self.s, a[0].s) ? a[0].s->len : 0), out);
}

/* Pads with `left` and `right` fill characters. */
static bool pad(jinja *j, jinja_value self, jinja_value fill, size_t left, size_t right,
                jinja_value *out)
{
    size_t mark = moe_jinja_mark(j);
    const char *text = " ";
    size_t len = 1;
    if (fill.kind != JINJA_MISSING) {
        if (!want_string(j, fill))
            return false;
        if (fill.s->n_chars != 1)
            return moe_jinja_fail(j, "the fill character must be exactly one character long");
        text = fill.s->data;
        len = fill.s->len;
    }
    return moe_jinja_write_repeat(j, text, len, left) && moe_jinja_write_str(j, self) &&
           moe_jinja_write_repeat(j, text, len, right) &&
           moe_jinja_take(j, mark, self.s->safe, out);
}

static bool pad_width(jinja *j, jinja_value self, jinja_value width, size_t *gap)
{
    int64_t n;
    if (!want_integer(j, width, 0, &n))
        return false;
    *gap = n > (int64_t)self.s->n_chars ? (size_t)n - self.s->n_chars : 0;
    return true;
}

METHOD(method_ljust)
{
    (void)args;
    size_t gap;
    return pad_width(j, self, a[0], &gap) && pad(j, self, a[1], 0, gap, out);
}

METHOD(method_rjust)
{
    (void)args;
    size_t gap;
    return pad_width(j, self, a[0], &gap) && pad(j, self, a[1], gap, 0, out);
}

static bool center(jinja *j, jinja_value self, jinja_value fill, size_t gap, jinja_value *out)
{
    size_t left = gap / 2 + (gap & (self.s->n_chars + gap) & 1);
    return pad(j, self, fill, left, gap - left, out);
}

METHOD(method_center)
{
    (void)args;
    size_t gap;
    return pad_width(j, self, a[0], &gap) && center(j, self, a[1], gap, out);
}

METHOD(method_zfill)
{
    (void)args;
    size_t gap, mark = moe_jinja_mark(j);
    size_t sign = self.s->len > 0 && (*self.s->data == '-' || *self.s->data == '+');
    return pad_width(j, self, a[0], &gap) && moe_jinja_write(j, self.s->data, sign) &&
           moe_jinja_write_repeat(j, "0", 1, gap) &&
           moe_jinja_write(j, self.s->data + sign, self.s->len - sign) &&
           moe_jinja_take(j, mark, self.s->safe, out);
}

METHOD(method_expandtabs)
{
    (void)args;
    int64_t size;
    size_t column = 0, mark = moe_jinja_mark(j);
    if (!want_integer(j, a[0], 8, &size))
        return false;
    for (size_t i = 0; i < self.s->len;) {
        int32_t cp;
        size_t n = moe_jinja_utf8_decode(self.s->data + i, &cp);
        if (cp == '\t') {
            size_t gap = size > 0 ? (size_t)size - column % (size_t)size : 0;
            if (!moe_jinja_write_repeat(j, " ", 1, gap))
                return false;
            column += gap;
        } else {
            if (!moe_jinja_write(j, self.s->data + i, n))
                return false;
            column = cp == '\n' || cp == '\r' ? 0 : column + 1;
        }
        i += n;
    }
    return moe_jinja_take(j, mark, self.s->safe, out);
}

/* --- searching -------------------------------------------------------------------------------- */

/* The part of a string between two positions, as s[start:end].  *valid: start is not behind the
 * end. */
static bool search_range(jinja *j, const jinja_string *s, jinja_value start, jinja_value end,
                         jinja_string *part, size_t *offset, bool *valid)
{
    int64_t n = (int64_t)s->n_chars, from, to;
    if (!want_integer(j, start, 0, &from) || !want_integer(j, end, n, &to) ||
        !moe_jinja_step(j, s->len / 16))
        return false;
    to = to > n ? n : to >= 0 ? to : to < -n ? 0 : to + n;
    from = from >= 0 ? from : from < -n ? 0 : from + n;
    *valid = from <= to;
    *offset = *valid ? (size_t)from : 0;
    size_t first = *valid ? moe_jinja_utf8_offset(s, (size_t)from) : 0;
    size_t last = *valid ? moe_jinja_utf8_offset(s, (size_t)to) : 0;
    *part = (jinja_string){
        .data = s->data + first, .len = last - first, .n_chars = *valid ? (size_t)(to - from) : 0};
    return true;
}

static const char *find_last(const jinja_string *s, const jinja_string *sub)
{
    if (sub->len > s->len)
        return NULL;
    for (const char *at = s->data + s->len - sub->len;; at--) {
        if (memcmp(at, sub->data, sub->len) == 0)
            return at;
        if (at == s->data)
            return NULL;
    }
}

/* Position of a part or -1. */
static bool find(jinja *j, jinja_value self, const jinja_value *a, bool last, jinja_value *out)
{
    jinja_string part;
    size_t offset;
    bool valid;
    if (!want_string(j, a[0]) || !search_range(j, self.s, a[1], a[2], &part, &offset, &valid))
        return false;
    const char *at = NULL;
    if (valid)
        at = last ? find_last(&part, a[0].s)
                  : memmem(part.data, part.len, a[0].s->data, a[0].s->len);
    *out = jinja_int(-1);
    if (at != NULL)
        out->i = (int64_t)(offset + moe_jinja_utf8_count(part.data, (size_t)(at - part.data)));
    return true;
}

METHOD(method_find)
{
    (void)args;
    return find(j, self, a, false, out);
}

METHOD(method_rfind)
{
    (void)args;
    return find(j, self, a, true, out);
}

METHOD(method_index)
{
    (void)args;
    return find(j, self, a, false, out) &&
           (out->i >= 0 || moe_jinja_fail(j, "substring not found"));
}

METHOD(method_rindex)
{
    (void)args;
    return find(j, self, a, true, out) && (out->i >= 0 || moe_jinja_fail(j, "substring not found"));
}

METHOD(method_count)
{
    (void)args;
    jinja_string part;
    size_t offset;
    bool valid;
    if (!want_string(j, a[0]) || !search_range(j, self.s, a[1], a[2], &part, &offset, &valid))
        return false;
    int64_t n = 0;
    if (a[0].s->len == 0) {
        n = valid ? (int64_t)part.n_chars + 1 : 0;
    } else {
        const char *at = part.data, *end = at + part.len;
        while ((at = memmem(at, (size_t)(end - at), a[0].s->data, a[0].s->len)) != NULL) {
            at += a[0].s->len;
            n++;
        }
    }
    *out = jinja_int(n);
    return true;
}

/* startswith and endswith: one text or a tuple of texts. */
static bool has_affix(jinja *j, jinja_value self, const jinja_value *a, bool at_end,
                      jinja_value *out)
{
    jinja_string part;
    size_t offset;
    bool valid, found = false;
    jinja_value one[1] = {a[0]};
    jinja_array all = {one, 1};
    if (a[0].kind == JINJA_TUPLE)
        all = *a[0].a;
    if (!search_range(j, self.s, a[1], a[2], &part, &offset, &valid))
        return false;
    for (size_t i = 0; i < all.len && !found; i++) {
        if (!want_string(j, all.items[i]))
            return false;
        found = valid &&
                (at_end ? ends_with(&part, all.items[i].s) : starts_with(&part, all.items[i].s));
    }
    *out = jinja_bool(found);
    return true;
}

METHOD(method_startswith)
{
    (void)args;
    return has_affix(j, self, a, false, out);
}

METHOD(method_endswith)
{
    (void)args;
    return has_affix(j, self, a, true, out);
}

/* --- replacing -------------------------------------------------------------------------------- */

bool moe_jinja_string_replace(jinja *j, const jinja_string *s, const jinja_string *old,
                              jinja_value with, int64_t count, bool safe, jinja_value *out)
{
    size_t mark = moe_jinja_mark(j);
    const char *at = s->data, *end = at + s->len;
    if (safe && (!moe_jinja_write_escaped(j, with) || !moe_jinja_take(j, mark, true, &with)))
        return false;
    for (; count != 0; count--) {
        const char *found = at;
        int32_t cp;
        if (old->len > 0)
            found = memmem(at, (size_t)(end - at), old->data, old->len);
        if (found == NULL)
            break;
        if (!moe_jinja_write(j, at, (size_t)(found - at)) || !moe_jinja_write_str(j, with) ||
            !moe_jinja_step(j, 1))
            return false;
        at = found + old->len;
        if (old->len > 0)
            continue;
        /* an empty text is found between all characters */
        if (at == end)
            break;
        size_t n = moe_jinja_utf8_decode(at, &cp);
        if (!moe_jinja_write(j, at, n))
            return false;
        at += n;
    }
    return moe_jinja_write(j, at, (size_t)(end - at)) && moe_jinja_take(j, mark, safe, out);
}

METHOD(method_replace)
{
    (void)args;
    int64_t count;
    return want_string(j, a[0]) && want_string(j, a[1]) && want_integer(j, a[2], -1, &count) &&
           moe_jinja_string_replace(j, self.s, a[0].s, a[1], count, self.s->safe, out);
}

/* --- splitting and joining -------------------------------------------------------------------- */

static bool add_piece(jinja *j, const jinja_string *s, size_t from, size_t to, jinja_value list,
                      size_t *cap)
{
    jinja_value v;
    return moe_jinja_step(j, 1) && piece(j, s, from, to, &v) &&
           moe_jinja_array_add(j, list.a, cap, v);
}

static void reverse_items(jinja_array *array)
{
    for (size_t i = 0; i < array->len / 2; i++) {
        jinja_value v = array->items[i];
        array->items[i] = array->items[array->len - 1 - i];
        array->items[array->len - 1 - i] = v;
    }
}

static bool split_at(jinja *j, const jinja_string *s, const jinja_string *sep, int64_t limit,
                     bool from_right, jinja_value *out)
{
    size_t cap = 0, from = 0, to = s->len;
    if (!moe_jinja_array_new(j, JINJA_LIST, 0, out))
        return false;
    for (; limit != 0; limit--) {
        jinja_string rest = {.data = s->data + from, .len = to - from};
        const char *found =
            from_right ? find_last(&rest, sep) : memmem(rest.data, rest.len, sep->data, sep->len);
        if (found == NULL)
            break;
        size_t at = (size_t)(found - s->data);
        if (!add_piece(j, s, from_right ? at + sep->len : from, from_right ? to : at, *out, &cap))
            return false;
        if (from_right)
            to = at;
        else
            from = at + sep->len;
    }
    if (!add_piece(j, s, from, to, *out, &cap))
        return false;
    if (from_right)
        reverse_items(out->a);
    return true;
}

/* The end of the run of characters from `at` on that are (or are not) white space. */
static size_t skip_run(const jinja_string *s, size_t at, bool space)
{
    while (at < s->len) {
        int32_t cp;
        size_t n = moe_jinja_utf8_decode(s->data + at, &cp);
        if (moe_jinja_is_space(cp) != space)
            break;
        at += n;
    }
    return at;
}

/* The start of the run that ends before `to`. */
static size_t skip_run_back(const jinja_string *s, size_t to, bool space)
{
    while (to > 0) {
        size_t at = to - 1;
        int32_t cp;
        while (at > 0 && ((unsigned char)s->data[at] & 0xC0) == 0x80)
            at--;
        moe_jinja_utf8_decode(s->data + at, &cp);
        if (moe_jinja_is_space(cp) != space)
            break;
        to = at;
    }
    return to;
}

static bool split_words(jinja *j, const jinja_string *s, int64_t limit, jinja_value *out)
{
    size_t cap = 0, at = skip_run(s, 0, true);
    if (!moe_jinja_array_new(j, JINJA_LIST, 0, out))
        return false;
    for (; at < s->len; limit--) {
        size_t end = limit == 0 ? s->len : skip_run(s, at, false);
        if (!add_piece(j, s, at, end, *out, &cap))
            return false;
        at = skip_run(s, end, true);
    }
    return true;
}

static bool rsplit_words(jinja *j, const jinja_string *s, int64_t limit, jinja_value *out)
{
    size_t cap = 0, to = skip_run_back(s, s->len, true);
    if (!moe_jinja_array_new(j, JINJA_LIST, 0, out))
        return false;
    for (; to > 0; limit--) {
        size_t from = limit == 0 ? 0 : skip_run_back(s, to, false);
        if (!add_piece(j, s, from, to, *out, &cap))
            return false;
        to = limit == 0 ? 0 : skip_run_back(s, from, true);
    }
    reverse_items(out->a);
    return true;
}

bool moe_jinja_string_split(jinja *j, const jinja_string *s, jinja_value sep, int64_t limit,
                            bool from_right, jinja_value *out)
{
    if (!moe_jinja_step(j, s->len / 16))
        return false;
    if (!is_given(sep))
        return from_right ? rsplit_words(j, s, limit, out) : split_words(j, s, limit, out);
    if (!want_string(j, sep))
        return false;
    if (sep.s->len == 0)
        return moe_jinja_fail(j, "empty separator");
    return split_at(j, s, sep.s, limit, from_right, out);
}

METHOD(method_split)
{
    (void)args;
    int64_t limit;
    return want_integer(j, a[1], -1, &limit) &&
           moe_jinja_string_split(j, self.s, a[0], limit, false, out);
}

METHOD(method_rsplit)
{
    (void)args;
    int64_t limit;
    return want_integer(j, a[1], -1, &limit) &&
           moe_jinja_string_split(j, self.s, a[0], limit, true, out);
}

static bool is_line_end(int32_t cp)
{
    return (cp >= 0x0A && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 ||
           cp == 0x2029;
}

bool moe_jinja_string_lines(jinja *j, const jinja_string *s, bool keep_ends, jinja_value *out)
{
    size_t cap = 0, from = 0;
    if (!moe_jinja_array_new(j, JINJA_LIST, 0, out))
        return false;
    for (size_t i = 0; i < s->len;) {
        int32_t cp;
        size_t end = i;
        i += moe_jinja_utf8_decode(s->data + i, &cp);
        if (!is_line_end(cp))
            continue;
        if (cp == '\r' && i < s->len && s->data[i] == '\n')
            i++;
        if (!add_piece(j, s, from, keep_ends ? i : end, *out, &cap))
            return false;
        from = i;
    }
    return from == s->len || add_piece(j, s, from, s->len, *out, &cap);
}

METHOD(method_splitlines)
{
    (void)args;
    return moe_jinja_string_lines(j, self.s, moe_jinja_truth(a[0]), out);
}

/* (before, separator, after) of the first or last separator. */
static bool partition(jinja *j, jinja_value self, jinja_value sep, bool last, jinja_value *out)
{
    if (!want_string(j, sep))
        return false;
    if (sep.s->len == 0)
        return moe_jinja_fail(j, "empty separator");
    const jinja_string *s = self.s;
    const char *found =
        last ? find_last(s, sep.s) : memmem(s->data, s->len, sep.s->data, sep.s->len);
    size_t at = found != NULL ? (size_t)(found - s->data) : last ? 0 : s->len;
    size_t end = found != NULL ? at + sep.s->len : at;
    return moe_jinja_step(j, s->len / 16) && moe_jinja_array_new(j, JINJA_TUPLE, 3, out) &&
           piece(j, s, 0, at, &out->a->items[0]) && piece(j, s, at, end, &out->a->items[1]) &&
           piece(j, s, end, s->len, &out->a->items[2]);
}

METHOD(method_partition)
{
    (void)args;
    return partition(j, self, a[0], false, out);
}

METHOD(method_rpartition)
{
    (void)args;
    return partition(j, self, a[0], true, out);
}

METHOD(method_join)
{
    (void)args;
    size_t mark = moe_jinja_mark(j);
    jinja_value list;
    bool safe = self.s->safe;
    if (!moe_jinja_list_of(j, a[0], &list))
        return false;
    for (size_t i = 0; i < list.a->len; i++) {
        jinja_value item = list.a->items[i];
        if (item.kind != JINJA_STRING && !safe)
            return moe_jinja_fail(j, "sequence item %zu: expected str instance, %s found", i,
                                  moe_jinja_type_name(item));
        if ((i > 0 && !moe_jinja_write_str(j, self)) ||
            !(safe ? moe_jinja_write_escaped(j, item) : moe_jinja_write_str(j, item)))
            return false;
    }
    return moe_jinja_take(j, mark, safe, out);
}

METHOD(method_format)
{
    (void)a;
    return moe_jinja_format_braces(j, self.s, args, out);
}

METHOD(method_format_map)
{
    (void)args;
    jinja_value names, values;
    if (a[0].kind != JINJA_DICT)
        return moe_jinja_fail(j, "format_map() needs a mapping");
    if (!moe_jinja_array_new(j, JINJA_LIST, 0, &names) ||
        !moe_jinja_array_new(j, JINJA_LIST, 0, &values))
        return false;
    size_t names_cap = 0, values_cap = 0;
    for (size_t i = 0; i < a[0].d->len; i++) {
        const jinja_entry *entry = &a[0].d->entries[i];
        if (entry->key.kind == JINJA_STRING &&
            (!moe_jinja_array_add(j, names.a, &names_cap, entry->key) ||
             !moe_jinja_array_add(j, values.a, &values_cap, entry->value)))
            return false;
    }
    jinja_args named = {
        .names = names.a->items, .values = values.a->items, .n_named = names.a->len};
    return moe_jinja_format_braces(j, self.s, &named, out);
}

static const jinja_builtin string_methods[] = {
    {"capitalize", "", method_capitalize},
    {"casefold", "", method_casefold},
    {"center", "width fillchar?", method_center},
    {"count", "sub start? end?", method_count},
    {"endswith", "suffix start? end?", method_endswith},
    {"expandtabs", "tabsize?", method_expandtabs},
    {"find", "sub start? end?", method_find},
    {"format", NULL, method_format},
    {"format_map", "mapping", method_format_map},
    {"index", "sub start? end?", method_index},
    {"isalnum", "", method_isalnum},
    {"isalpha", "", method_isalpha},
    {"isascii", "", method_isascii},
    {"isdecimal", "", method_isdecimal},
    {"isdigit", "", method_isdigit},
    {"isidentifier", "", method_isidentifier},
    {"islower", "", method_islower},
    {"isnumeric", "", method_isnumeric},
    {"isprintable", "", method_isprintable},
    {"isspace", "", method_isspace},
    {"istitle", "", method_istitle},
    {"isupper", "", method_isupper},
    {"join", "iterable", method_join},
    {"ljust", "width fillchar?", method_ljust},
    {"lower", "", method_lower},
    {"lstrip", "chars?", method_lstrip},
    {"partition", "sep", method_partition},
    {"removeprefix", "prefix", method_removeprefix},
    {"removesuffix", "suffix", method_removesuffix},
    {"replace", "old new count?", method_replace},
    {"rfind", "sub start? end?", method_rfind},
    {"rindex", "sub start? end?", method_rindex},
    {"rjust", "width fillchar?", method_rjust},
    {"rpartition", "sep", method_rpartition},
    {"rsplit", "sep? maxsplit?", method_rsplit},
    {"rstrip", "chars?", method_rstrip},
    {"split", "sep? maxsplit?", method_split},
    {"splitlines", "keepends?", method_splitlines},
    {"startswith", "prefix start? end?", method_startswith},
    {"strip", "chars?", method_strip},
    {"swapcase", "", method_swapcase},
    {"title", "", method_title},
    {"upper", "", method_upper},
    {"zfill", "width", method_zfill},
};

const jinja_builtin *moe_jinja_find_string_method(const jinja_string *name)
{
    return moe_jinja_find_in(string_methods, sizeof string_methods / sizeof string_methods[0],
                             name);
}
