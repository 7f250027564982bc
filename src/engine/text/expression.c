/*
 * Oniguruma patterns on PCRE2.
 *
 * The two dialects agree on almost everything that tokenizers use.  What differs is rewritten
 * before compiling:
 *   \s \S \w \W     Oniguruma's classes; in PCRE2 U+180E is a space, and \w has fewer members
 *   x{0,n}+ x{1,n}+ a quantifier of a quantifier, so x* and x+; in PCRE2 a possessive one
 *   x{,n}           x{0,n}
 *   \uHHHH          \x{HHHH}
 *   \p{Script}      the characters of the script alone, which PCRE2 calls \p{sc:Script}
 *   ^ $             match at line ends (PCRE2_MULTILINE), lines end in \n only
 * and refused where a rewriting would not be short: set operations and nested classes, \h, \H,
 * other x{m,n}+, option letters except i.  Cost is bounded by a match limit in proportion to the
 * text; running into a limit is an error and never a wrong split.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "expression.h"

#include <ctype.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unicode.h"

/* Inside of a class.  The quirk is Oniguruma's: of the category No only those in Latin-1 are \w. */
#define SPACE                                                                                      \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}"                               \
    "\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACE                                                                                  \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}"                   \
    "\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}"                                    \
    "\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define WORD                                                                                       \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"                        \
    "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"

#define MAX_PATTERN 65536
#define MIN_MATCH_LIMIT 10000000u
#define HEAP_LIMIT_KIB (256u * 1024)

struct moe_expression {
    pcre2_code *code;
    bool jit;
};

/* --- rewriting -------------------------------------------------------------------------------- */

static moe_status refuse(moe_error *err, const char *what, const char *at)
{
    moe_fail(err, MOE_ERR_UNSUPPORTED, "the tokenizer's pattern uses %s, which is not supported",
             what);
    moe_detail(err, "At: %.40s", at);
    return MOE_ERR_UNSUPPORTED;
}

/* Rewrites the escape at p, in a class or outside; *used is its length.  NULL means: copy it. */
static const char *rewrite_escape(const char *p, bool in_class)
{
    switch (p[1]) {
    case 's':
        return in_class ? SPACE : "[" SPACE "]";
    case 'S':
        return in_class ? NOT_SPACE : "[^" SPACE "]";
    case 'w':
        return in_class ? WORD : "[" WORD "]";
    case 'W':
        return in_class ? NULL : "[^" WORD "]";
    default:
        return NULL;
    }
}

/* Whether name[0..len) is a script that PCRE2 takes with its extensions unless "sc:" stands before
 * it. Before 10.40 it knew neither; then the answer is no, which is right. */
static bool is_script(const char *name, size_t len)
{
    char pattern[48];
    int code;
    PCRE2_SIZE at;
    if (len > 32 || name[0] == '^')
        return false;
    snprintf(pattern, sizeof(pattern), "\\p{sc:%.*s}", (int)len, name);
    pcre2_code *script =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
    bool known = script != NULL;
    pcre2_code_free(script);
    return known;
}

/* Appends the escape sequence at p (p[0] is a backslash) and returns its length in *used. */
static moe_status translate_escape(const char *p, bool in_class, moe_buf *out, size_t *used,
                                   moe_error *err)
{
    const char *text = rewrite_escape(p, in_class);
    bool ok;
    *used = p[1] == '\0' ? 1 : 2;
    if (p[1] == 'h' || p[1] == 'H' || (in_class && p[1] == 'W'))
        return refuse(err, p[1] == 'W' ? "\\W in a class" : "\\h", p);
    if (text != NULL) {
        ok = moe_buf_add_str(out, text);
    } else if (p[1] == 'u') {
        for (int i = 2; i < 6; i++)
            if (!isxdigit((unsigned char)p[i]))
                return refuse(err, "\\u without four digits", p);
        *used = 6;
        ok =
            moe_buf_add_str(out, "\\x{") && moe_buf_add(out, p + 2, 4) && moe_buf_add_str(out, "}");
    } else if ((p[1] == 'p' || p[1] == 'P') && p[2] == '{') {
        *used = strcspn(p, "}");
        if (p[*used] == '\0')
            return moe_fail(err, MOE_ERR_FORMAT,
                            "the tokenizer's pattern has a property without end");
        bool script = is_script(p + 3, *used - 3);
        ok = moe_buf_add(out, p, 3) && moe_buf_add_str(out, script ? "sc:" : "") &&
             moe_buf_add(out, p + 3, *used - 3);
    } else {
        ok = moe_buf_add(out, p, *used);
    }
    return ok ? MOE_OK : moe_fail_memory(err, out->len);
}

/* Appends the class at p (p[0] is its bracket). */
static moe_status translate_class(const char *p, moe_buf *out, size_t *used, moe_error *err)
{
    size_t i = 1, n;
    if (p[i] == '^')
        i++;
    if (p[i] == ']')
        i++;
    bool ok = moe_buf_add(out, p, i);
    while (ok && p[i] != ']') {
        if (p[i] == '\0') {
            return moe_fail(err, MOE_ERR_FORMAT, "the tokenizer's pattern has a class without end");
        } else if (p[i] == '\\') {
            moe_status status = translate_escape(p + i, true, out, &n, err);
            if (status != MOE_OK)
                return status;
            i += n;
        } else if (p[i] == '[') {
            return refuse(err, "a class inside a class", p);
        } else if (p[i] == '&' && p[i + 1] == '&') {
            return refuse(err, "an intersection of classes", p);
        } else {
            ok = moe_buf_add(out, p + i, 1);
            i++;
        }
    }
    *used = i + 1;
    ok = ok && moe_buf_add(out, "]", 1);
    return ok ? MOE_OK : moe_fail_memory(err, out->len);
}

/* The length of a quantifier {m}, {m,}, {,n} or {m,n} at p, else 0; *min is m. */
static size_t interval_length(const char *p, unsigned long *min)
{
    size_t i = 1 + strspn(p + 1, "0123456789");
    *min = strtoul(p + 1, NULL, 10);
    if (p[i] == ',')
        i += 1 + strspn(p + i + 1, "0123456789");
    return p[i] == '}' && isdigit((unsigned char)p[i - 1 - (p[i - 1] == ',')]) ? i + 1 : 0;
}

static moe_status translate(const char *pattern, moe_buf *out, moe_error *err)
{
    moe_status status = MOE_OK;
    bool ok = true;
    size_t n;
    for (const char *p = pattern; *p != '\0' && ok && status == MOE_OK; p += n) {
        unsigned long min;
        n = 1;
        if (*p == '\\') {
            status = translate_escape(p, false, out, &n, err);
        } else if (*p == '[') {
            status = translate_class(p, out, &n, err);
        } else if (*p == '{' && (n = interval_length(p, &min)) > 0 && p[n] == '+') {
            if (min > 1)
                return refuse(err, "{m,n}+ with m above 1", p);
            ok = moe_buf_add(out, min == 0 ? "*" : "+", 1);
            n++;
        } else if (*p == '{' && n > 0 && p[1] == ',') {
            ok = moe_buf_add_str(out, "{0") && moe_buf_add(out, p + 1, n - 1);
        } else if (p[0] == '(' && p[1] == '*') {
            return refuse(err, "(*", p);
        } else if (p[0] == '(' && p[1] == '?') {
            n = 2 + strspn(p + 2, "i-");
            if (isalpha((unsigned char)p[n]))
                return refuse(err, "an option other than i", p);
            ok = moe_buf_add(out, p, n);
        } else {
            n = n == 0 ? 1 : n;
            ok = moe_buf_add(out, p, n);
        }
    }
    return ok ? status : moe_fail_memory(err, out->len);
}

/* --- compiling -------------------------------------------------------------------------------- */

static moe_status compile(const char *pattern, size_t len, uint32_t options, moe_expression **out,
                          moe_error *err)
{
    moe_expression *expression = calloc(1, sizeof(*expression));
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    int code;
    PCRE2_SIZE at;
    if (expression == NULL || context == NULL) {
        free(expression);
        pcre2_compile_context_free(context);
        return moe_fail_memory(err, sizeof(*expression));
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_max_pattern_length(context, MAX_PATTERN);
    expression->code =
        pcre2_compile((PCRE2_SPTR)pattern, len, PCRE2_UTF | options, &code, &at, context);
    pcre2_compile_context_free(context);
    if (expression->code == NULL) {
        char message[120];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof(message));
        free(expression);
        return moe_fail(err, MOE_ERR_FORMAT, "the tokenizer's pattern does not compile: %s",
                        message);
    }
    /* Without JIT (an old CPU, a hardened system) the interpreter gives the same matches. */
    expression->jit = pcre2_jit_compile(expression->code, PCRE2_JIT_COMPLETE) == 0;
    *out = expression;
    return MOE_OK;
}

moe_status moe_expression_create(const char *pattern, size_t len, moe_expression **out,
                                 moe_error *err)
{
    const uint32_t options = PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    moe_buf source = {0}, translated = {0};
    if (memchr(pattern, '\0', len) != NULL)
        return moe_fail(err, MOE_ERR_FORMAT, "the tokenizer's pattern holds a zero byte");
    /* Tried at every space of a long run, each time to the run's end, this one would take quadratic
     * time; beginning only where a run begins finds the same. */
    bool ok = len == 4 && memcmp(pattern, "\\s+$", 4) == 0
                  ? moe_buf_add_str(&source, "(?<!\\s)\\s+$")
                  : moe_buf_add(&source, pattern, len);
    ok = ok && moe_buf_add(&translated, "", 0);
    moe_status status = ok ? translate(source.data, &translated, err) : moe_fail_memory(err, len);
    if (status == MOE_OK)
        status = compile(translated.data, translated.len, options, out, err);
    moe_buf_free(&source);
    moe_buf_free(&translated);
    return status;
}

moe_status moe_expression_create_literal(const char *text, size_t len, moe_expression **out,
                                         moe_error *err)
{
    return compile(text, len, PCRE2_LITERAL, out, err);
}

void moe_expression_free(moe_expression *expression)
{
    if (expression == NULL)
        return;
    pcre2_code_free(expression->code);
    free(expression);
}

/* --- matching --------------------------------------------------------------------------------- */

void moe_match_work_free(moe_match_work *work)
{
    pcre2_match_data_free(work->data);
    work->data = NULL;
}

/* The interpreter, for patterns without JIT code and for matches that need more stack than JIT code
 * has; limits in proportion to the text keep a pathological pattern from running for hours. */
static int interpret(const moe_expression *expression, pcre2_match_data *data, const char *s,
                     size_t len, size_t from)
{
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    if (context == NULL)
        return PCRE2_ERROR_NOMEMORY;
    size_t limit = len > UINT32_MAX / 32 ? UINT32_MAX : 32 * len;
    pcre2_set_match_limit(context, limit < MIN_MATCH_LIMIT ? MIN_MATCH_LIMIT : (uint32_t)limit);
    pcre2_set_depth_limit(context,
                          UINT32_MAX); /* frames are on the heap, which has its own limit */
    pcre2_set_heap_limit(context, HEAP_LIMIT_KIB);
    int rc = pcre2_match(expression->code, (PCRE2_SPTR)s, len, from,
                         PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context);
    pcre2_match_context_free(context);
    return rc;
}

/* The first match that begins at `from` or later. */
static moe_status find(const moe_expression *expression, moe_match_work *work, const char *s,
                       size_t len, size_t from, moe_match *match, moe_error *err)
{
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (expression->jit)
        rc = pcre2_jit_match(expression->code, (PCRE2_SPTR)s, len, from, PCRE2_NO_UTF_CHECK,
                             work->data, NULL);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT || rc == PCRE2_ERROR_MATCHLIMIT)
        rc = interpret(expression, work->data, s, len, from);
    match->found = rc >= 0;
    if (rc >= 0) {
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(work->data);
        match->start = at[0] < from ? from : at[0]; /* \K in a lookahead can set odd bounds */
        match->end = at[1] < match->start ? match->start : at[1];
        return MOE_OK;
    }
    if (rc == PCRE2_ERROR_NOMATCH)
        return MOE_OK;
    if (rc == PCRE2_ERROR_NOMEMORY)
        return moe_fail_memory(err, len);
    if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT)
        return moe_fail(err, MOE_ERR_INVALID,
                        "splitting a text of %zu bytes takes too many steps with this tokenizer's "
                        "pattern",
                        len);
    return moe_fail(err, MOE_ERR_INVALID, "the tokenizer's pattern failed on the text (PCRE2 %d)",
                    rc);
}

moe_status moe_expression_next(const moe_expression *expression, moe_match_work *work,
                               const char *s, size_t len, moe_match *match, moe_error *err)
{
    if (work->data == NULL) {
        work->data = pcre2_match_data_create(1, NULL);
        if (work->data == NULL)
            return moe_fail_memory(err, sizeof(PCRE2_SIZE) * 2);
    }
    size_t last_end = match->end, from = match->end;
    moe_status status = find(expression, work, s, len, from, match, err);
    if (status == MOE_OK && match->found && match->any && match->end == last_end) {
        match->found = from < len;
        if (match->found) {
            for (from++; from < len && moe_utf8_is_continuation(s[from]);)
                from++;
            status = find(expression, work, s, len, from, match, err);
        }
    }
    match->any = true;
    return status;
}
