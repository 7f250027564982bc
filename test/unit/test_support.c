/*
 * Unit tests of errors, buffers and UTF-8 boundaries (src/engine/support.c) and of the table of
 * element types (kernels/types.c).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../kernels/types.h"
#include "../../src/engine/support.h"

static void fail_fills_message_and_empties_the_rest(void **state)
{
    (void)state;
    moe_error err = {.detail = "old", .hint = "old"};
    assert_int_equal(moe_fail(&err, MOE_ERR_FORMAT, "tensor \"%s\" has %d dims", "x", 7),
                     MOE_ERR_FORMAT);
    assert_int_equal(err.status, MOE_ERR_FORMAT);
    assert_string_equal(err.message, "tensor \"x\" has 7 dims");
    assert_string_equal(err.detail, "");
    assert_string_equal(err.hint, "");
    assert_int_equal(moe_hint(&err, "Fetch %s again.", "it"), MOE_ERR_FORMAT);
    assert_int_equal(moe_detail(&err, "Part %d.", 3), MOE_ERR_FORMAT);
    assert_string_equal(err.hint, "Fetch it again.");
    assert_string_equal(err.detail, "Part 3.");
    assert_string_equal(err.message, "tensor \"x\" has 7 dims");
}

static void fail_accepts_no_error_buffer(void **state)
{
    (void)state;
    assert_int_equal(moe_fail(NULL, MOE_ERR_IO, "x"), MOE_ERR_IO);
    assert_int_equal(moe_fail_memory(NULL, 7), MOE_ERR_MEMORY);
    assert_int_equal(moe_hint(NULL, "x"), MOE_ERR_INVALID);
    assert_int_equal(moe_detail(NULL, "x"), MOE_ERR_INVALID);
}

static void fail_can_wrap_its_own_message(void **state)
{
    (void)state;
    moe_error err;
    moe_fail(&err, MOE_ERR_IO, "disk on fire");
    moe_fail(&err, MOE_ERR_IO, "could not read: %s", err.message);
    assert_string_equal(err.message, "could not read: disk on fire");
}

static void long_message_ends_at_a_character(void **state)
{
    (void)state;
    char text[2000] = "";
    for (size_t i = 0; i + 4 < sizeof(text); i += 3)
        memcpy(text + i, "\xE2\x82\xAC", 4); /* the euro sign */
    moe_error err;
    for (int shift = 0; shift < 3; shift++) {
        moe_fail(&err, MOE_ERR_IO, "%.*s%s", shift, "xx", text);
        size_t len = strlen(err.message);
        assert_true(len > 500 && len < sizeof(err.message));
        assert_int_equal((len - (size_t)shift) % 3, 0);
        moe_hint(&err, "%.*s%s", shift, "xx", text);
        assert_int_equal((strlen(err.hint) - (size_t)shift) % 3, 0);
    }
}

static void message_is_printable_utf8(void **state)
{
    (void)state;
    moe_error err;
    moe_fail(&err, MOE_ERR_IO,
             "a\x01"
             "b\x7F"
             "c\xFF"
             "d\xC3"
             "e\xC3\xA9\tf\n\xED\xA0\x80");
    assert_string_equal(err.message, "a?b?c?d?e\xC3\xA9\tf\n???");
}

static void buffer_grows_and_stays_terminated(void **state)
{
    (void)state;
    moe_buf buf = {0};
    assert_true(moe_buf_add(&buf, "", 0));
    assert_string_equal(buf.data, "");
    for (int i = 0; i < 1000; i++) {
        assert_true(moe_buf_add_str(&buf, "abc"));
        assert_int_equal(buf.data[buf.len], '\0');
    }
    assert_int_equal(buf.len, 3000);
    assert_memory_equal(buf.data + 2997, "abc", 4);
    moe_buf_free(&buf);
    assert_null(buf.data);
    assert_int_equal(buf.len + buf.cap, 0);
}

static void buffer_refuses_sizes_that_overflow(void **state)
{
    (void)state;
    moe_buf buf = {0};
    assert_true(moe_buf_add_str(&buf, "abc"));
    assert_false(moe_buf_add(&buf, "x", SIZE_MAX));
    assert_false(moe_buf_add(&buf, "x", SIZE_MAX - 3));
    assert_string_equal(buf.data, "abc");
    assert_int_equal(buf.len, 3);
    moe_buf_free(&buf);
}

static void ids_grow(void **state)
{
    (void)state;
    moe_ids ids = {0};
    for (int32_t i = 0; i < 1000; i++)
        assert_true(moe_ids_add(&ids, i * 3));
    assert_int_equal(ids.len, 1000);
    for (int32_t i = 0; i < 1000; i++)
        assert_int_equal(ids.data[i], i * 3);
    moe_ids_free(&ids);
    assert_null(ids.data);
}

static void sizes_are_checked_for_overflow(void **state)
{
    (void)state;
    size_t out;
    assert_true(moe_mul(1u << 20, 1u << 20, &out));
    assert_true(out == (size_t)1 << 40);
    assert_false(moe_mul((size_t)1 << 40, (size_t)1 << 40, &out));
    assert_true(moe_add(1, 2, &out));
    assert_false(moe_add(SIZE_MAX, 1, &out));
}

static void utf8_complete_cuts_unfinished_characters_only(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t complete;
    } cases[] = {
        {"", 0},
        {"abc", 3},
        {"a\xC3\xA9", 3},
        {"a\xC3", 1},
        {"a\xE2\x82\xAC", 4},
        {"a\xE2\x82", 1},
        {"a\xE2", 1},
        {"a\xF0\x9F\x98\x80", 5},
        {"a\xF0\x9F\x98", 1},
        {"a\xF0\x9F", 1},
        {"a\xF0", 1},
        /* never the beginning of a character: these stay */
        {"a\x80", 2},
        {"a\x80\x80\x80\x80", 5},
        {"a\xC0", 2},
        {"a\xC1", 2},
        {"a\xF5", 2},
        {"a\xFF", 2},
        {"a\xE0\x80", 3},
        {"a\xED\xA0", 3},
        {"a\xF0\x80", 3},
        {"a\xF4\x90", 3},
        {"a\xC3\xA9\xA9", 4},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(moe_utf8_complete(cases[i].text, strlen(cases[i].text)),
                         cases[i].complete);
}

static void cancel_without_callback_is_never_asked_for(void **state)
{
    (void)state;
    moe_cancel cancel = {0};
    assert_false(moe_cancelled(NULL));
    assert_false(moe_cancelled(&cancel));
}

static void types_have_the_sizes_of_the_format(void **state)
{
    (void)state;
    static const struct {
        int type;
        const char *name;
        int columns, bytes;
        bool computable;
    } cases[] = {
        {0, "F32", 1, 4, true},          {1, "F16", 1, 2, true},
        {2, "Q4_0", 32, 18, true},       {8, "Q8_0", 32, 34, true},
        {10, "Q2_K", 256, 84, false},    {11, "Q3_K", 256, 110, false},
        {12, "Q4_K", 256, 144, true},    {13, "Q5_K", 256, 176, true},
        {14, "Q6_K", 256, 210, true},    {20, "IQ4_NL", 32, 18, false},
        {23, "IQ4_XS", 256, 136, false}, {29, "IQ1_M", 256, 56, false},
        {30, "BF16", 1, 2, true},        {39, "MXFP4", 32, 17, false},
        {42, "Q2_0", 64, 18, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const moe_type_info *info = moe_type_info_of(cases[i].type);
        assert_non_null(info);
        assert_string_equal(info->name, cases[i].name);
        assert_int_equal(info->block_columns, cases[i].columns);
        assert_int_equal(info->block_bytes, cases[i].bytes);
        assert_int_equal(info->computable, cases[i].computable);
    }
    assert_int_equal(moe_type_row_bytes(moe_type_info_of(MOE_TYPE_Q4_K), 4096), 16 * 144);
}

static void withdrawn_and_unassigned_types_are_unknown(void **state)
{
    (void)state;
    static const int unknown[] = {-1, 4,  5,   31,  32,     33,        36,       37,
                                  38, 43, 137, 255, 100000, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
        assert_null(moe_type_info_of(unknown[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fail_fills_message_and_empties_the_rest),
        cmocka_unit_test(fail_accepts_no_error_buffer),
        cmocka_unit_test(fail_can_wrap_its_own_message),
        cmocka_unit_test(long_message_ends_at_a_character),
        cmocka_unit_test(message_is_printable_utf8),
        cmocka_unit_test(buffer_grows_and_stays_terminated),
        cmocka_unit_test(buffer_refuses_sizes_that_overflow),
        cmocka_unit_test(ids_grow),
        cmocka_unit_test(sizes_are_checked_for_overflow),
        cmocka_unit_test(utf8_complete_cuts_unfinished_characters_only),
        cmocka_unit_test(cancel_without_callback_is_never_asked_for),
        cmocka_unit_test(types_have_the_sizes_of_the_format),
        cmocka_unit_test(withdrawn_and_unassigned_types_are_unknown),
    };
    return cmocka_run_group_tests_name("support", tests, NULL, NULL);
}
