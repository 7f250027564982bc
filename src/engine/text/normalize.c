/*
 * Normalizers, each one pass over the text.
 *
 * ASCII is copied or looked up byte by byte; other characters are gathered in runs of code points.
 * A run is decomposed and put into canonical order as a whole, and composed again where the form
 * asks for it.  Decomposed forms of ASCII are ASCII and never move, so a run may begin and end next
 * to it; for the composed forms a run also takes in the ASCII character before it, which may be a
 * base. utf8proc has the mappings, but its ordering is quadratic in the number of marks in a row;
 * ours sorts long rows by counting.
 */
#include "normalize.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "unicode.h"

#define LONG_ROW 32 /* marks in a row from which on counting is faster than insertion */
#define LONGEST_DECOMPOSITION 32 /* code points; Unicode has none beyond 18 (U+FDFA) */

/* How far a text may grow: beyond any normal form, but not without end by a broken file's REPLACE.
 */
#define MAX_GROWTH 64
#define MAX_GROWTH_OF_SHORT 65536

/* A growing array of code points. */
typedef struct points {
    int32_t *data;
    size_t len, cap;
} points;

static bool points_reserve(points *p, size_t more)
{
    size_t need, cap, bytes;
    if (!moe_add(p->len, more, &need) || !moe_mul(need, 2, &cap) ||
        !moe_mul(cap, sizeof(*p->data), &bytes))
        return false;
    if (need <= p->cap)
        return true;
    int32_t *data = realloc(p->data, bytes);
    if (data == NULL)
        return false;
    p->data = data;
    p->cap = cap;
    return true;
}

static bool points_add(points *p, int32_t cp)
{
    if (p->len == p->cap && !points_reserve(p, 1))
        return false;
    p->data[p->len++] = cp;
    return true;
}

static bool write_point(int32_t cp, moe_buf *out)
{
    char text[4];
    return moe_buf_add(out, text, moe_utf8_put(cp, text));
}

static bool write_points(const points *p, moe_buf *out)
{
    for (size_t i = 0; i < p->len; i++)
        if (!write_point(p->data[i], out))
            return false;
    return true;
}

static bool write_lower(int32_t cp, moe_buf *out)
{
    int32_t lower[2];
    int n = moe_char_lower(cp, lower);
    return write_point(lower[0], out) && (n == 1 || write_point(lower[1], out));
}

/* --- canonical decomposition and order -------------------------------------------------------- */

static int combining_class(int32_t cp)
{
    return utf8proc_get_property(cp)->combining_class;
}

/* Sorts a row of n marks by combining class, stably; scratch has room for n. */
static void sort_row(int32_t *row, size_t n, int32_t *scratch)
{
    if (n < LONG_ROW) {
        for (size_t i = 1; i < n; i++) {
            int32_t cp = row[i];
            int class = combining_class(cp);
            size_t at = i;
            for (; at > 0 && combining_class(row[at - 1]) > class; at--)
                row[at] = row[at - 1];
            row[at] = cp;
        }
        return;
    }
    size_t begin[257] = {0};
    for (size_t i = 0; i < n; i++)
        begin[combining_class(row[i]) + 1]++;
    for (int class = 0; class < 256; class ++)
        begin[class + 1] += begin[class];
    for (size_t i = 0; i < n; i++)
        scratch[begin[combining_class(row[i])]++] = row[i];
    memcpy(row, scratch, n * sizeof(*row));
}

static bool canonical_order(points *p, points *scratch)
{
    for (size_t i = 0; i < p->len; i++) {
        size_t start = i;
        while (i < p->len && combining_class(p->data[i]) != 0)
            i++;
        if (i - start < 2)
            continue;
        if (!points_reserve(scratch, i - start))
            return false;
        sort_row(p->data + start, i - start, scratch->data);
    }
    return true;
}

/* Appends the decomposition of a character. */
static bool decompose(int32_t cp, utf8proc_option_t options, points *out)
{
    int class = 0;
    if (!points_reserve(out, LONGEST_DECOMPOSITION))
        return false;
    utf8proc_ssize_t n =
        utf8proc_decompose_char(cp, out->data + out->len, LONGEST_DECOMPOSITION, options, &class);
    if (n < 1 || n > LONGEST_DECOMPOSITION)
        return points_add(out, cp);
    out->len += (size_t)n;
    return true;
}

/* --- normal forms ----------------------------------------------------------------------------- */

/* Two work arrays that a call keeps from run to run. */
typedef struct normal_work {
    points run, scratch;
} normal_work;

static bool normal_form(const char *s, size_t len, bool compat, bool compose, normal_work *work,
                        moe_buf *out)
{
    utf8proc_option_t options = UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
    points *run = &work->run;
    for (size_t i = 0; i < len;) {
        size_t start = i;
        while (i < len && (unsigned char)s[i] < 0x80)
            i++;
        size_t ascii = i - start;
        run->len = 0;
        if (compose && i < len && ascii > 0 && !points_add(run, s[start + --ascii]))
            return false;
        if (!moe_buf_add(out, s + start, ascii))
            return false;
        while (i < len && (unsigned char)s[i] >= 0x80) {
            int32_t cp;
            i += moe_utf8_get(s + i, &cp);
            if (!decompose(cp, options, run))
                return false;
        }
        if (!canonical_order(run, &work->scratch))
            return false;
        if (compose && run->len > 0)
            run->len = (size_t)utf8proc_normalize_utf32(run->data, (utf8proc_ssize_t)run->len,
                                                        UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        if (!write_points(run, out))
            return false;
    }
    return true;
}

/* --- BERT ------------------------------------------------------------------------------------- */

/* Orders, strips and lowers the run that bert_add has made. */
static bool bert_run(const moe_normal_step *step, normal_work *work, moe_buf *out)
{
    points *run = &work->run;
    if (step->strip_accents) {
        if (!canonical_order(run, &work->scratch))
            return false;
        size_t kept = 0;
        for (size_t i = 0; i < run->len; i++)
            if (!moe_char_is_nonspacing_mark(run->data[i]))
                run->data[kept++] = run->data[i];
        run->len = kept;
    }
    if (!step->lowercase)
        return write_points(run, out);
    for (size_t i = 0; i < run->len; i++)
        if (!write_lower(run->data[i], out))
            return false;
    return true;
}

/* Adds one character to the run as far as it stays after cleaning and padding. */
static bool bert_add(const moe_normal_step *step, int32_t cp, points *run)
{
    if (step->clean_text) {
        if (cp == 0xFFFD || moe_char_is_control(cp))
            return true;
        if (moe_char_is_space(cp))
            cp = ' ';
    }
    if (step->pad_cjk && moe_char_is_cjk(cp))
        return points_add(run, ' ') &&
               (step->strip_accents ? decompose(cp, UTF8PROC_DECOMPOSE, run)
                                    : points_add(run, cp)) &&
               points_add(run, ' ');
    return step->strip_accents ? decompose(cp, UTF8PROC_DECOMPOSE, run) : points_add(run, cp);
}

static bool bert(const moe_normal_step *step, const char *s, size_t len, normal_work *work,
                 moe_buf *out)
{
    for (size_t i = 0; i < len;) {
        char ascii[256];
        size_t n = 0;
        for (; i < len && n < sizeof(ascii) && (unsigned char)s[i] < 0x80; i++) {
            char c = s[i];
            if (step->clean_text && (c < ' ' || c == 0x7F)) {
                if (c != '\t' && c != '\n' && c != '\r')
                    continue;
                c = ' ';
            }
            ascii[n++] = step->lowercase && c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
        }
        if (!moe_buf_add(out, ascii, n))
            return false;
        /* Control characters that cleaning drops may stand between marks that order moves. */
        work->run.len = 0;
        bool in_run = i < len && (unsigned char)s[i] >= 0x80;
        while (in_run && i < len &&
               ((unsigned char)s[i] >= 0x80 || (unsigned char)s[i] < ' ' || s[i] == 0x7F)) {
            int32_t cp;
            i += moe_utf8_get(s + i, &cp);
            if (!bert_add(step, cp, &work->run))
                return false;
        }
        if (!bert_run(step, work, out))
            return false;
    }
    return true;
}

/* --- the other steps -------------------------------------------------------------------------- */

static bool lowercase(const char *s, size_t len, moe_buf *out)
{
    for (size_t i = 0; i < len;) {
        int32_t cp;
        i += moe_utf8_get(s + i, &cp);
        if (!write_lower(cp, out))
            return false;
    }
    return true;
}

static bool strip_accents(const char *s, size_t len, moe_buf *out)
{
    size_t n;
    for (size_t i = 0; i < len; i += n) {
        int32_t cp;
        n = moe_utf8_get(s + i, &cp);
        if (!moe_char_is_mark(cp) && !moe_buf_add(out, s + i, n))
            return false;
    }
    return true;
}

static bool strip(const moe_normal_step *step, const char *s, size_t len, moe_buf *out)
{
    int32_t cp;
    size_t start = 0, n;
    while (step->strip_left && start < len && (n = moe_utf8_get(s + start, &cp)) > 0 &&
           moe_char_is_space(cp))
        start += n;
    while (step->strip_right && len > start && (n = moe_utf8_get_last(s, len, &cp)) > 0 &&
           moe_char_is_space(cp))
        len -= n;
    return moe_buf_add(out, s + start, len - start);
}

static moe_status fail_growth(moe_error *err)
{
    return moe_fail(err, MOE_ERR_INVALID, "the tokenizer's normalizer makes the text too long");
}

static moe_status replace(const moe_normal_step *step, const char *s, size_t len, size_t limit,
                          moe_buf *out, moe_error *err)
{
    moe_match_work work = {0};
    moe_match match = {0};
    moe_status status = MOE_OK;
    bool ok = true;
    size_t done = 0;
    while (ok) {
        status = moe_expression_next(step->expression, &work, s, len, &match, err);
        if (status != MOE_OK || !match.found)
            break;
        ok = moe_buf_add(out, s + done, match.start - done) &&
             moe_buf_add(out, step->text, step->text_len);
        done = match.end;
        if (out->len > limit) {
            status = fail_growth(err);
            break;
        }
    }
    moe_match_work_free(&work);
    if (status != MOE_OK)
        return status;
    ok = ok && moe_buf_add(out, s + done, len - done);
    return ok ? MOE_OK : moe_fail_memory(err, len);
}

/* Appends what the step makes of s[0..len); at the latest when it is longer than `limit` it fails.
 */
static moe_status apply(const moe_normal_step *step, const char *s, size_t len, size_t limit,
                        moe_buf *out, moe_error *err)
{
    normal_work work = {0};
    bool ok = moe_buf_add(out, "", 0);
    switch (step->kind) {
    case MOE_NORMAL_NFC:
    case MOE_NORMAL_NFD:
    case MOE_NORMAL_NFKC:
    case MOE_NORMAL_NFKD: {
        bool compat = step->kind == MOE_NORMAL_NFKC || step->kind == MOE_NORMAL_NFKD;
        bool compose = step->kind == MOE_NORMAL_NFC || step->kind == MOE_NORMAL_NFKC;
        ok = ok && normal_form(s, len, compat, compose, &work, out);
        break;
    }
    case MOE_NORMAL_BERT:
        ok = ok && bert(step, s, len, &work, out);
        break;
    case MOE_NORMAL_LOWERCASE:
        ok = ok && lowercase(s, len, out);
        break;
    case MOE_NORMAL_STRIP_ACCENTS:
        ok = ok && strip_accents(s, len, out);
        break;
    case MOE_NORMAL_STRIP:
        ok = ok && strip(step, s, len, out);
        break;
    case MOE_NORMAL_PREPEND:
        ok = ok && (len == 0 || moe_buf_add(out, step->text, step->text_len)) &&
             moe_buf_add(out, s, len);
        break;
    case MOE_NORMAL_REPLACE:
        return ok ? replace(step, s, len, limit, out, err) : moe_fail_memory(err, 1);
    }
    free(work.run.data);
    free(work.scratch.data);
    if (!ok)
        return moe_fail_memory(err, len);
    return out->len > limit ? fail_growth(err) : MOE_OK;
}

/* --- public ----------------------------------------------------------------------------------- */

moe_status moe_normalizer_add(moe_normalizer *normalizer, moe_normal_step step, moe_error *err)
{
    if (normalizer->n == MOE_MAX_NORMAL_STEPS) {
        moe_expression_free(step.expression);
        free(step.text);
        return moe_fail(err, MOE_ERR_UNSUPPORTED, "the tokenizer has more than %d normalizers",
                        MOE_MAX_NORMAL_STEPS);
    }
    normalizer->steps[normalizer->n++] = step;
    return MOE_OK;
}

void moe_normalizer_free(moe_normalizer *normalizer)
{
    for (size_t i = 0; i < normalizer->n; i++) {
        moe_expression_free(normalizer->steps[i].expression);
        free(normalizer->steps[i].text);
    }
    normalizer->n = 0;
}

moe_status moe_normalize(const moe_normalizer *normalizer, const char *text, size_t len,
                         moe_buf *out, moe_error *err)
{
    moe_buf other = {0};
    moe_status status = MOE_OK;
    const char *from = text;
    size_t limit = len > SIZE_MAX / MAX_GROWTH ? SIZE_MAX : len * MAX_GROWTH;
    if (limit < MAX_GROWTH_OF_SHORT)
        limit = MAX_GROWTH_OF_SHORT;
    for (size_t i = 0; status == MOE_OK && i < normalizer->n; i++) {
        other.len = 0;
        status = apply(&normalizer->steps[i], from, len, limit, &other, err);
        moe_buf swapped = *out;
        *out = other;
        other = swapped;
        from = out->data;
        len = out->len;
    }
    if (status == MOE_OK && normalizer->n == 0) {
        out->len = 0;
        if (!moe_buf_add(out, text, len))
            status = moe_fail_memory(err, len);
    }
    moe_buf_free(&other);
    return status;
}
