/*
 * Splitting an answer into reasoning and content.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../../src/engine/moe.h"

/* reasoning NULL: there must be none */
static void check(const char *text, bool open, const char *reasoning, const char *content)
{
    moe_reply reply;
    moe_split_reasoning(text, strlen(text), open, &reply);
    if (reasoning == NULL) {
        assert_null(reply.reasoning);
        assert_int_equal(reply.reasoning_len, 0);
    } else {
        assert_non_null(reply.reasoning);
        assert_int_equal(reply.reasoning_len, strlen(reasoning));
        assert_memory_equal(reply.reasoning, reasoning, reply.reasoning_len);
    }
    assert_int_equal(reply.content_len, strlen(content));
    assert_memory_equal(reply.content, content, reply.content_len);
}

static void text_without_tags_is_content(void **state)
{
    (void)state;
    check("Hello", false, NULL, "Hello");
    check("", false, NULL, "");
    check("\n Hello \n", false, NULL, "\n Hello \n");
    check("<thin", false, NULL, "<thin");
}

static void a_leading_block_is_reasoning(void **state)
{
    (void)state;
    check("<think>why</think>because", false, "why", "because");
    check("<think>\n why\nnot \n</think>\n\nbecause\n", false, "why\nnot", "because\n");
    check("\n<think>a</think>\r\n b", false, "a", " b");
    check("<think></think>\n\nb", false, "", "b");
    check("<think>a</think>", false, "a", "");
}

static void a_prompt_can_open_the_block(void **state)
{
    (void)state;
    check("why</think>\n\nbecause", true, "why", "because");
    check("\nwhy\n</think>because", true, "why", "because");
    check("<think>\nwhy</think>because", true, "why", "because");
    check("</think>because", true, "", "because");
}

static void unfinished_reasoning_has_no_content(void **state)
{
    (void)state;
    check("why and ", true, "why and", "");
    check("<think>why </thin", false, "why </thin", "");
    check("", true, "", "");
}

static void only_the_first_leading_block_counts(void **state)
{
    (void)state;
    check("so <think>a</think>b", false, NULL, "so <think>a</think>b");
    check("<think>a</think>b<think>c</think>d", false, "a", "b<think>c</think>d");
    check("a</think>b</think>c", true, "a", "b</think>c");
    check("a</think>b", false, NULL, "a</think>b");
}

static bool ends_in_think(const char *prompt)
{
    return moe_prompt_ends_in_think(prompt, strlen(prompt));
}

static void open_blocks_at_the_end_of_a_prompt_are_found(void **state)
{
    (void)state;
    assert_true(ends_in_think("user: hi\nassistant: <think>"));
    assert_true(ends_in_think("assistant: <think>\n"));
    assert_true(ends_in_think("<think>\n</think>\n\n<think>\n\n"));
    assert_false(ends_in_think("assistant: <think>\n\n</think>\n\n"));
    assert_false(ends_in_think("assistant: </think>"));
    assert_false(ends_in_think("what does <think> mean?\nassistant: "));
    assert_false(ends_in_think(""));
    assert_false(ends_in_think("think>"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_without_tags_is_content),
        cmocka_unit_test(a_leading_block_is_reasoning),
        cmocka_unit_test(a_prompt_can_open_the_block),
        cmocka_unit_test(unfinished_reasoning_has_no_content),
        cmocka_unit_test(only_the_first_leading_block_counts),
        cmocka_unit_test(open_blocks_at_the_end_of_a_prompt_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
