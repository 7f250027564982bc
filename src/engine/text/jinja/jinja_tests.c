/*
 * Tests: what stands behind `is`, and what select() and reject() call by name.
 */
#include "jinja_lib.h"

#define TEST(name)                                                                                 \
    static bool name(jinja *j, jinja_value self, const jinja_args *args, const jinja_value *a,     \
                     jinja_value *out)

/* A test that only looks at the value. */
#define SIMPLE_TEST(name, expression)                                                              \
    TEST(name)                                                                                     \
    {                                                                                              \
        (void)args, (void)a;                                                                       \
        *out = jinja_bool(expression);                                                             \
        return moe_jinja_step(j, 1);                                                               \
    }

/* A test that compares the value with its argument. */
#define COMPARISON_TEST(name, op)                                                                  \
    TEST(name)                                                                                     \
    {                                                                                              \
        (void)args;                                                                                \
        bool result;                                                                               \
        if (!moe_jinja_compare(j, op, self, a[0], &result))                                        \
            return false;                                                                          \
        *out = jinja_bool(result);                                                                 \
        return true;                                                                               \
    }

static bool has_length(jinja_value v)
{
    return v.kind == JINJA_UNDEFINED || v.kind == JINJA_STRING || v.kind == JINJA_LIST ||
           v.kind == JINJA_TUPLE || v.kind == JINJA_DICT || v.kind == JINJA_RANGE;
}

static bool is_callable(jinja_value v)
{
    return v.kind == JINJA_UNDEFINED || v.kind == JINJA_LOOP || v.kind == JINJA_JOINER ||
           v.kind == JINJA_MACRO || v.kind == JINJA_METHOD || v.kind == JINJA_FUNCTION;
}

SIMPLE_TEST(test_defined, self.kind != JINJA_UNDEFINED)
SIMPLE_TEST(test_undefined, self.kind == JINJA_UNDEFINED)
SIMPLE_TEST(test_none, self.kind == JINJA_NONE)
SIMPLE_TEST(test_boolean, self.kind == JINJA_BOOL)
SIMPLE_TEST(test_true, self.kind == JINJA_BOOL && self.b)
SIMPLE_TEST(test_false, self.kind == JINJA_BOOL && !self.b)
SIMPLE_TEST(test_integer, self.kind == JINJA_INT)
SIMPLE_TEST(test_float, self.kind == JINJA_FLOAT)
SIMPLE_TEST(test_number, jinja_is_integer(self) || self.kind == JINJA_FLOAT)
SIMPLE_TEST(test_string, self.kind == JINJA_STRING)
SIMPLE_TEST(test_mapping, self.kind == JINJA_DICT)
SIMPLE_TEST(test_sequence, has_length(self))
SIMPLE_TEST(test_iterable, moe_jinja_iterable(self) || self.kind == JINJA_LOOP)
SIMPLE_TEST(test_callable, is_callable(self))
SIMPLE_TEST(test_escaped, self.kind == JINJA_STRING && self.s->safe)
SIMPLE_TEST(test_filter, self.kind == JINJA_STRING && moe_jinja_find_filter(self.s) != NULL)
SIMPLE_TEST(test_test, self.kind == JINJA_STRING && moe_jinja_find_test(self.s) != NULL)

COMPARISON_TEST(test_eq, JINJA_EQ)
COMPARISON_TEST(test_ne, JINJA_NE)
COMPARISON_TEST(test_lt, JINJA_LT)
COMPARISON_TEST(test_le, JINJA_LE)
COMPARISON_TEST(test_gt, JINJA_GT)
COMPARISON_TEST(test_ge, JINJA_GE)
COMPARISON_TEST(test_in, JINJA_IN)

static bool has_remainder(jinja *j, jinja_value v, jinja_value divisor, int64_t wanted,
                          jinja_value *out)
{
    bool equal;
    jinja_value remainder;
    if (!moe_jinja_binary(j, JINJA_MOD, v, divisor, &remainder) ||
        !moe_jinja_equal(j, remainder, jinja_int(wanted), &equal))
        return false;
    *out = jinja_bool(equal);
    return true;
}

TEST(test_odd)
{
    (void)args, (void)a;
    return has_remainder(j, self, jinja_int(2), 1, out);
}

TEST(test_even)
{
    (void)args, (void)a;
    return has_remainder(j, self, jinja_int(2), 0, out);
}

TEST(test_divisibleby)
{
    (void)args;
    return has_remainder(j, self, a[0], 0, out);
}

static bool has_case(jinja *j, jinja_value v, bool upper, jinja_value *out)
{
    jinja_value text;
    if (!moe_jinja_to_string(j, v, &text))
        return false;
    *out = jinja_bool(moe_jinja_string_has_case(text.s, upper));
    return moe_jinja_step(j, text.s->len / 64);
}

TEST(test_lower)
{
    (void)args, (void)a;
    return has_case(j, self, false, out);
}

TEST(test_upper)
{
    (void)args, (void)a;
    return has_case(j, self, true, out);
}

/* Identity.  Values without one (numbers, strings) are the same if they are equal. */
TEST(test_sameas)
{
    (void)args;
    bool same = self.kind == a[0].kind;
    if (same && (self.kind == JINJA_LIST || self.kind == JINJA_TUPLE || self.kind == JINJA_DICT))
        same = self.a == a[0].a;
    else if (same && !moe_jinja_equal(j, self, a[0], &same))
        return false;
    *out = jinja_bool(same);
    return true;
}

static const jinja_builtin tests[] = {
    {"defined", "", test_defined},    {"undefined", "", test_undefined},
    {"none", "", test_none},          {"boolean", "", test_boolean},
    {"true", "", test_true},          {"false", "", test_false},
    {"integer", "", test_integer},    {"float", "", test_float},
    {"number", "", test_number},      {"string", "", test_string},
    {"mapping", "", test_mapping},    {"sequence", "", test_sequence},
    {"iterable", "", test_iterable},  {"callable", "", test_callable},
    {"escaped", "", test_escaped},    {"filter", "", test_filter},
    {"test", "", test_test},          {"odd", "", test_odd},
    {"even", "", test_even},          {"divisibleby", "num", test_divisibleby},
    {"lower", "", test_lower},        {"upper", "", test_upper},
    {"sameas", "other", test_sameas}, {"in", "seq", test_in},
    {"eq", "other", test_eq},         {"equalto", "other", test_eq},
    {"==", "other", test_eq},         {"ne", "other", test_ne},
    {"!=", "other", test_ne},         {"lt", "other", test_lt},
    {"lessthan", "other", test_lt},   {"<", "other", test_lt},
    {"le", "other", test_le},         {"<=", "other", test_le},
    {"gt", "other", test_gt},         {"greaterthan", "other", test_gt},
    {">", "other", test_gt},          {"ge", "other", test_ge},
    {">=", "other", test_ge},
};

const jinja_builtin *moe_jinja_find_test(const jinja_string *name)
{
    return moe_jinja_find_in(tests, sizeof tests / sizeof tests[0], name);
}
