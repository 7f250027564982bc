/*
 * Cuts a template into tokens.
 *
 * Outside of tags the text up to the next "{{", "{%" or "{#" is one piece; white space around tags
 * is removed as the tags say ("-" and "+" beside the braces) and as trim_blocks and lstrip_blocks
 * say.  Comments vanish here, raw blocks become text.  Line ends are "\n" from the start, and one
 * line end at the end of the template is dropped.
 */
#define _GNU_SOURCE
#include "jinja_lib.h"
#include "jinja_syntax.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BRACKETS = 200 };

typedef struct lexer {
    jinja *j;
    const char *s, *end;
    const char *pos;
    int line;
    bool line_starting; /* what was matched last ended in a line end */
    jinja_token *tokens;
    size_t n_tokens, cap;
    char brackets[MAX_BRACKETS]; /* closing brackets that are waited for */
    int n_brackets;
} lexer;

static const struct {
    char text[3];
    jinja_token_kind kind;
} operators[] = {
    {"//", JINJA_TOK_FLOORDIV}, {"**", JINJA_TOK_POW},      {"==", JINJA_TOK_EQ},
    {"!=", JINJA_TOK_NE},       {">=", JINJA_TOK_GE},       {"<=", JINJA_TOK_LE},
    {"+", JINJA_TOK_ADD},       {"-", JINJA_TOK_SUB},       {"/", JINJA_TOK_DIV},
    {"*", JINJA_TOK_MUL},       {"%", JINJA_TOK_MOD},       {"~", JINJA_TOK_TILDE},
    {"[", JINJA_TOK_LBRACKET},  {"]", JINJA_TOK_RBRACKET},  {"(", JINJA_TOK_LPAREN},
    {")", JINJA_TOK_RPAREN},    {"{", JINJA_TOK_LBRACE},    {"}", JINJA_TOK_RBRACE},
    {">", JINJA_TOK_GT},        {"<", JINJA_TOK_LT},        {"=", JINJA_TOK_ASSIGN},
    {".", JINJA_TOK_DOT},       {":", JINJA_TOK_COLON},     {"|", JINJA_TOK_PIPE},
    {",", JINJA_TOK_COMMA},     {";", JINJA_TOK_SEMICOLON},
};

#define FAIL(lx, ...) ((lx)->j->line = (lx)->line, moe_jinja_fail((lx)->j, __VA_ARGS__))

static bool add_token(lexer *lx, jinja_token_kind kind, jinja_value value)
{
    if (lx->n_tokens == lx->cap) {
        size_t cap = lx->cap == 0 ? 256 : lx->cap * 2;
        jinja_token *tokens = moe_jinja_alloc(lx->j, cap, sizeof *tokens);
        if (tokens == NULL)
            return false;
        if (lx->n_tokens > 0)
            memcpy(tokens, lx->tokens, lx->n_tokens * sizeof *tokens);
        lx->tokens = tokens;
        lx->cap = cap;
    }
    lx->tokens[lx->n_tokens++] = (jinja_token){kind, lx->line, value};
    return true;
}

static bool starts_with(const lexer *lx, const char *at, const char *text)
{
    size_t n = strlen(text);
    return (size_t)(lx->end - at) >= n && memcmp(at, text, n) == 0;
}

static const char *skip_space(const lexer *lx, const char *at)
{
    while (at < lx->end) {
        int32_t cp;
        size_t n = moe_jinja_utf8_decode(at, &cp);
        if (!moe_jinja_is_space(cp))
            break;
        at += n;
    }
    return at;
}

/* Moves to `to`, counting lines. */
static void advance(lexer *lx, const char *to)
{
    for (; lx->pos < to; lx->pos++)
        lx->line += *lx->pos == '\n';
    lx->line_starting = to > lx->s && to[-1] == '\n';
}

/* --- text between tags ------------------------------------------------------------------------ */

static const char *strip_right(const char *from, const char *to)
{
    while (to > from) {
        const char *at = to - 1;
        int32_t cp;
        while (at > from && ((unsigned char)*at & 0xC0) == 0x80)
            at--;
        moe_jinja_utf8_decode(at, &cp);
        if (!moe_jinja_is_space(cp))
            break;
        to = at;
    }
    return to;
}

/* Adds the text [pos, to) before a tag with this sign ('-', '+' or 0). */
static bool add_text(lexer *lx, const char *to, char sign, bool is_variable)
{
    const char *from = lx->pos, *text_end = to;
    if (sign == '-') {
        text_end = strip_right(from, to);
    } else if (sign != '+' && !is_variable) {
        const char *newline = memrchr(from, '\n', (size_t)(to - from));
        const char *line = newline != NULL ? newline + 1 : from;
        if ((newline != NULL || lx->line_starting) && strip_right(line, to) == line)
            text_end = line;
    }
    if (text_end > from) {
        jinja_value text;
        if (!moe_jinja_string_share(lx->j, from, (size_t)(text_end - from), false, &text) ||
            !add_token(lx, JINJA_TOK_DATA, text))
            return false;
    }
    advance(lx, to);
    return true;
}

static char sign_at(const lexer *lx, const char *at)
{
    return at < lx->end && (*at == '-' || *at == '+') ? *at : '\0';
}

/* The end of a tag at `at`, e.g. "-%}" and white space, or NULL.  trim: a line end after it goes
 * too. */
static const char *match_end(const lexer *lx, const char *at, const char *text, bool plus,
                             bool trim)
{
    if (*at == '-' && starts_with(lx, at + 1, text))
        return skip_space(lx, at + 1 + strlen(text));
    if (plus && *at == '+' && starts_with(lx, at + 1, text))
        return at + 1 + strlen(text);
    if (!starts_with(lx, at, text))
        return NULL;
    at += strlen(text);
    return trim && at < lx->end && *at == '\n' ? at + 1 : at;
}

/* A whole tag of one word at "{%": its end or NULL. */
static const char *match_word_tag(const lexer *lx, const char *at, const char *word, bool plus,
                                  bool trim)
{
    at += 2;
    at = skip_space(lx, sign_at(lx, at) ? at + 1 : at);
    if (!starts_with(lx, at, word))
        return NULL;
    at = skip_space(lx, at + strlen(word));
    return at < lx->end ? match_end(lx, at, "%}", plus, trim) : NULL;
}

static bool lex_raw(lexer *lx, const char *begin_end)
{
    advance(lx, begin_end);
    if (lx->pos == lx->end)
        return true; /* as in jinja2 */
    for (const char *at = lx->pos;; at += 2) {
        at = memmem(at, (size_t)(lx->end - at), "{%", 2);
        if (at == NULL)
            return FAIL(lx, "missing end of raw directive");
        const char *tag_end = match_word_tag(lx, at, "endraw", true, true);
        if (tag_end == NULL)
            continue;
        if (!add_text(lx, at, sign_at(lx, at + 2), false))
            return false;
        advance(lx, tag_end);
        return true;
    }
}

static bool lex_comment(lexer *lx)
{
    const char *from = lx->pos + 2;
    from += sign_at(lx, from) ? 1 : 0;
    const char *close = memmem(from, (size_t)(lx->end - from), "#}", 2);
    if (close == NULL)
        return FAIL(lx, "missing end of comment tag");
    if (close > from && (close[-1] == '-' || close[-1] == '+'))
        close--;
    advance(lx, match_end(lx, close, "#}", true, true));
    return true;
}

/* --- literals --------------------------------------------------------------------------------- */

static bool is_digit_of(char c, int base)
{
    if (base == 16 && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')))
        return true;
    return c >= '0' && c < '0' + (base < 10 ? base : 10);
}

/* Digits with single underscores between them; NULL if there are none. */
static const char *match_digits(const lexer *lx, const char *at, int base)
{
    if (at >= lx->end || !is_digit_of(*at, base))
        return NULL;
    while (at < lx->end) {
        if (is_digit_of(*at, base))
            at++;
        else if (*at == '_' && at + 1 < lx->end && is_digit_of(at[1], base))
            at += 2;
        else
            break;
    }
    return at;
}

static const char *match_float(const lexer *lx, const char *at)
{
    if (at > lx->s && at[-1] == '.')
        return NULL;
    const char *digits = match_digits(lx, at, 10), *fraction = NULL, *exponent = NULL;
    if (digits == NULL)
        return NULL;
    at = digits;
    if (at < lx->end && *at == '.' && (fraction = match_digits(lx, at + 1, 10)) != NULL)
        at = fraction;
    if (at < lx->end && (*at == 'e' || *at == 'E')) {
        const char *from = sign_at(lx, at + 1) ? at + 2 : at + 1;
        exponent = match_digits(lx, from, 10);
    }
    return exponent != NULL ? exponent : fraction;
}

static bool lex_float(lexer *lx, const char *to)
{
    char text[400];
    size_t n = 0;
    for (const char *at = lx->pos; at < to; at++) {
        if (*at != '_' && n < sizeof text - 1)
            text[n++] = *at;
        else if (*at != '_')
            return FAIL(lx, "number is too long");
    }
    text[n] = '\0';
    if (!add_token(lx, JINJA_TOK_FLOAT, jinja_float(strtod(text, NULL))))
        return false;
    advance(lx, to);
    return true;
}

static bool lex_integer(lexer *lx)
{
    const char *at = lx->pos, *to = NULL;
    int base = 10;
    if (*at == '0' && at + 1 < lx->end) {
        char c = at[1] | 0x20;
        int prefixed = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        const char *digits = at + 2 < lx->end && at[2] == '_' ? at + 3 : at + 2;
        if (prefixed != 0 && (to = match_digits(lx, digits, prefixed)) != NULL) {
            base = prefixed;
            at = digits;
        }
    }
    if (to == NULL) {
        to = match_digits(lx, at, 10);
        if (*at == '0') { /* a number that starts with 0 is only zeros */
            const char *zero = at;
            while (zero < to && (*zero == '0' || (*zero == '_' && zero[1] == '0')))
                zero++;
            to = zero;
        }
    }
    int64_t value = 0;
    for (; at < to; at++) {
        if (*at == '_')
            continue;
        int digit = *at <= '9' ? *at - '0' : (*at | 0x20) - 'a' + 10;
        if (__builtin_mul_overflow(value, (int64_t)base, &value) ||
            __builtin_add_overflow(value, (int64_t)digit, &value))
            return FAIL(lx, "the number does not fit a 64-bit integer");
    }
    if (!add_token(lx, JINJA_TOK_INTEGER, jinja_int(value)))
        return false;
    advance(lx, to);
    return true;
}

/* Up to max_digits digits at *at; at least min_digits or -1. */
static int32_t read_code(const char **at, const char *end, int base, int min_digits, int max_digits)
{
    int32_t code = 0;
    int n = 0;
    while (n < max_digits && *at < end && is_digit_of(**at, base)) {
        char c = *(*at)++;
        if (code > 0x10FFFF)
            return -1;
        code = code * base + (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
        n++;
    }
    return n < min_digits || code > 0x10FFFF ? -1 : code;
}

/* Writes what the escape after a backslash means; an unknown one stays as it is. */
static bool write_escape(lexer *lx, const char **at, const char *end)
{
    static const char letters[] = "abfnrtv", meaning[] = "\a\b\f\n\r\t\v";
    char c = **at;
    int32_t code;
    const char *letter = c != '\0' ? strchr(letters, c) : NULL;
    if (letter != NULL) {
        (*at)++;
        return moe_jinja_write_char(lx->j, meaning[letter - letters]);
    }
    switch (c) {
    case '\n':
        (*at)++;
        return true;
    case '\\':
    case '\'':
    case '"':
        (*at)++;
        return moe_jinja_write_char(lx->j, c);
    case 'x':
    case 'u':
    case 'U': {
        int digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        (*at)++;
        code = read_code(at, end, 16, digits, digits);
        break;
    }
    case 'N':
        return FAIL(lx, "character names in strings are not supported");
    default:
        if (!is_digit_of(c, 8))
            return moe_jinja_write_char(lx->j, '\\');
        code = read_code(at, end, 8, 1, 3);
        break;
    }
    if (code < 0 || (code >= 0xD800 && code < 0xE000))
        return FAIL(lx, "bad character escape in a string");
    char text[4];
    return moe_jinja_write(lx->j, text, moe_jinja_utf8_encode(code, text));
}

static bool lex_string(lexer *lx)
{
    char quote = *lx->pos;
    const char *from = lx->pos + 1, *to = from;
    bool escapes = false;
    while (to < lx->end && *to != quote) {
        if (*to == '\\' && to + 1 < lx->end) {
            escapes = true;
            to++;
        }
        to++;
    }
    if (to >= lx->end)
        return FAIL(lx, "unexpected char '%c': the string has no end", quote);
    jinja_value value;
    if (!escapes) {
        if (!moe_jinja_string_share(lx->j, from, (size_t)(to - from), false, &value))
            return false;
    } else {
        size_t mark = moe_jinja_mark(lx->j);
        for (const char *at = from; at < to;) {
            if (*at == '\\') {
                at++;
                if (!write_escape(lx, &at, to))
                    return false;
                continue;
            }
            const char *run = memchr(at, '\\', (size_t)(to - at));
            size_t n = (size_t)((run != NULL ? run : to) - at);
            if (!moe_jinja_write(lx->j, at, n))
                return false;
            at += n;
        }
        if (!moe_jinja_take(lx->j, mark, false, &value))
            return false;
    }
    if (!add_token(lx, JINJA_TOK_STRING, value))
        return false;
    advance(lx, to + 1);
    return true;
}

/* --- inside tags ------------------------------------------------------------------------------ */

static const char *match_name(const lexer *lx, const char *at)
{
    const char *from = at;
    while (at < lx->end) {
        int32_t cp;
        size_t n = moe_jinja_utf8_decode(at, &cp);
        if (cp != '_' && !moe_jinja_is_alpha(cp) && !moe_jinja_is_decimal(cp))
            break;
        at += n;
    }
    return at > from ? at : NULL;
}

static bool lex_operator(lexer *lx)
{
    size_t i = 0, n = sizeof operators / sizeof operators[0];
    while (i < n && !starts_with(lx, lx->pos, operators[i].text))
        i++;
    if (i == n) {
        int32_t cp;
        size_t len = moe_jinja_utf8_decode(lx->pos, &cp);
        return FAIL(lx, "unexpected char '%.*s'", (int)len, lx->pos);
    }
    char c = operators[i].text[0];
    switch (operators[i].kind) {
    case JINJA_TOK_LPAREN:
    case JINJA_TOK_LBRACKET:
    case JINJA_TOK_LBRACE:
        if (lx->n_brackets == MAX_BRACKETS)
            return FAIL(lx, "the template nests too deeply");
        lx->brackets[lx->n_brackets++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        break;
    case JINJA_TOK_RPAREN:
    case JINJA_TOK_RBRACKET:
    case JINJA_TOK_RBRACE:
        if (lx->n_brackets == 0)
            return FAIL(lx, "unexpected '%c'", c);
        if (lx->brackets[--lx->n_brackets] != c)
            return FAIL(lx, "unexpected '%c', expected '%c'", c, lx->brackets[lx->n_brackets]);
        break;
    default:
        break;
    }
    if (!add_token(lx, operators[i].kind, jinja_missing()))
        return false;
    advance(lx, lx->pos + strlen(operators[i].text));
    return true;
}

static bool lex_token(lexer *lx)
{
    const char *at = lx->pos, *to;
    if ((to = skip_space(lx, at)) > at) {
        advance(lx, to);
        return true;
    }
    if (*at >= '0' && *at <= '9') {
        to = match_float(lx, at);
        return to != NULL ? lex_float(lx, to) : lex_integer(lx);
    }
    if ((to = match_name(lx, at)) != NULL) {
        jinja_value name;
        if (!moe_jinja_intern(lx->j, at, (size_t)(to - at), &name) ||
            !add_token(lx, JINJA_TOK_NAME, name))
            return false;
        advance(lx, to);
        return true;
    }
    if (*at == '"' || *at == '\'')
        return lex_string(lx);
    return lex_operator(lx);
}

/* The inside of a "{{" or "{%" tag, up to its end. */
static bool lex_tag(lexer *lx, bool is_variable)
{
    jinja_token_kind begin = is_variable ? JINJA_TOK_VARIABLE_BEGIN : JINJA_TOK_BLOCK_BEGIN;
    if (!add_token(lx, begin, jinja_missing()))
        return false;
    advance(lx, lx->pos + (sign_at(lx, lx->pos + 2) ? 3 : 2));
    lx->n_brackets = 0;
    while (lx->pos < lx->end) {
        const char *to = NULL;
        if (lx->n_brackets == 0)
            to = is_variable ? match_end(lx, lx->pos, "}}", false, false)
                             : match_end(lx, lx->pos, "%}", true, true);
        if (to != NULL) {
            jinja_token_kind kind = is_variable ? JINJA_TOK_VARIABLE_END : JINJA_TOK_BLOCK_END;
            if (!add_token(lx, kind, jinja_missing()))
                return false;
            advance(lx, to);
            return true;
        }
        if (!lex_token(lx))
            return false;
    }
    return true; /* the parser meets the end of the template and says what it expected */
}

static const char *find_tag(const lexer *lx, const char *at)
{
    while ((at = memchr(at, '{', (size_t)(lx->end - at))) != NULL) {
        if (at + 1 < lx->end && (at[1] == '{' || at[1] == '%' || at[1] == '#'))
            return at;
        at++;
    }
    return NULL;
}

/* A copy with "\n" for every line end and without one at the end. */
static bool normalize(jinja *j, const char *source, size_t len, jinja_value *out)
{
    size_t mark = moe_jinja_mark(j);
    for (size_t i = 0; i < len;) {
        const char *cr = memchr(source + i, '\r', len - i);
        size_t n = cr != NULL ? (size_t)(cr - source) - i : len - i;
        if (!moe_jinja_write(j, source + i, n))
            return false;
        i += n;
        if (cr != NULL) {
            if (!moe_jinja_write_char(j, '\n'))
                return false;
            i += i + 1 < len && source[i + 1] == '\n' ? 2 : 1;
        }
    }
    if (moe_jinja_mark(j) > mark && j->out->data[moe_jinja_mark(j) - 1] == '\n')
        j->out->len--;
    return moe_jinja_take(j, mark, false, out);
}

bool moe_jinja_lex(jinja *j, const char *source, size_t len, jinja_token **tokens)
{
    jinja_value text;
    if (!normalize(j, source, len, &text))
        return false;
    lexer lx = {.j = j,
                .s = text.s->data,
                .end = text.s->data + text.s->len,
                .pos = text.s->data,
                .line = 1,
                .line_starting = true};
    while (lx.pos < lx.end) {
        const char *tag = find_tag(&lx, lx.pos);
        if (tag == NULL) {
            if (!add_text(&lx, lx.end, '+', false))
                return false;
            break;
        }
        const char *raw = tag[1] == '%' ? match_word_tag(&lx, tag, "raw", false, false) : NULL;
        if (!add_text(&lx, tag, sign_at(&lx, tag + 2), tag[1] == '{'))
            return false;
        bool ok = raw != NULL     ? lex_raw(&lx, raw)
                  : tag[1] == '#' ? lex_comment(&lx)
                                  : lex_tag(&lx, tag[1] == '{');
        if (!ok)
            return false;
    }
    *tokens = NULL;
    if (!add_token(&lx, JINJA_TOK_EOF, jinja_missing()))
        return false;
    *tokens = lx.tokens;
    return true;
}
