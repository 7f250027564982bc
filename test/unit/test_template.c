/*
 * Chat templates: examples of each part of the language, with what jinja2 3.1 makes of them (NULL:
 * it fails); errors and their lines; bounds; and whole templates with their golden renderings,
 * those of this project and, where they are, those of the shared data.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <time.h>

#include <cmocka.h>

#include "../../src/engine/text/chat_template.h"

/* 2025-03-14 09:26:53, a Friday, in the zone that main sets */
static const int64_t NOW = 1741944413;

static const char variables[] =
    "{\"n\": 3, \"x\": 2.5, \"s\": \"Hello World\", \"u\": \"Straße 日本 😀\", \"empty\": \"\", "
    "\"none\": null,"
    " \"l\": [3, 1, 2], \"d\": {\"a\": 1, \"b\": {\"c\": [1, {\"k\": \"v\"}]}, \"items\": \"I\"},"
    " \"users\": [{\"name\": \"bob\", \"age\": 30}, {\"name\": \"Alice\", \"age\": 25}, {\"name\": "
    "\"carl\", \"age\": 30}],"
    " \"html\": \"<b>\\\"x\\\" & 'y'</b>\", \"text\": \"a\\nb\\n\\nc\"}";

typedef struct example {
    const char *source;
    const char *expected; /* NULL: must fail */
} example;

static moe_status render_json(const char *source, const json_t *vars, moe_buf *out, moe_error *err)
{
    memset(out, 0, sizeof *out);
    memset(err, 0, sizeof *err);
    return moe_template_render(source, vars, NOW, NULL, out, err);
}

static moe_status render(const char *source, moe_buf *out, moe_error *err)
{
    json_t *vars = json_loads(variables, 0, NULL);
    assert_non_null(vars);
    moe_status status = render_json(source, vars, out, err);
    json_decref(vars);
    return status;
}

static void check_examples(const example *examples, size_t n)
{
    size_t failed = 0;
    for (size_t i = 0; i < n; i++) {
        moe_buf out;
        moe_error err;
        moe_status status = render(examples[i].source, &out, &err);
        const char *expected = examples[i].expected, *got = out.data != NULL ? out.data : "";
        bool good = expected == NULL ? status == MOE_ERR_TEMPLATE && err.message[0] != '\0'
                                     : status == MOE_OK && strcmp(got, expected) == 0;
        if (!good) {
            failed++;
            print_message("%s\n  expected: %s\n  got: %s %s\n", examples[i].source,
                          expected != NULL ? expected : "a failure", got, err.message);
        }
        moe_buf_free(&out);
    }
    assert_int_equal(failed, 0);
}

/* --- examples, as jinja2 renders them --------------------------------------------------------- */

static void operators_bind_as_in_python(void **state)
{
    static const example examples[] = {
        {"{{ 1 + 2 * 3 }}", "7"},
        {"{{ 2 ** 3 ** 2 }}", "64"},
        {"{{ -2 ** 2 }}", "4"},
        {"{{ 7 // 2 * 2 }}", "6"},
        {"{{ -7 // 2 }}", "-4"},
        {"{{ -7 % 3 }}", "2"},
        {"{{ 7 % -3 }}", "-2"},
        {"{{ -7.5 // 2 }}", "-4.0"},
        {"{{ 7 / 2 }}", "3.5"},
        {"{{ (1 + 2) ~ 3 }}", "33"},
        {"{{ 1 ~ 2 * 3 }}", "16"},
        {"{{ 'a' + 'b' * 2 }}", "abb"},
        {"{{ not 1 == 2 }}", "True"},
        {"{{ not 1 in [2] }}", "True"},
        {"{{ 1 if false else 2 if true else 3 }}", "2"},
        {"{{ 1 < 2 < 3 }}", "True"},
        {"{{ 3 > 2 >= 2 != 1 }}", "True"},
        {"{{ 1 < 3 > 2 == 2 }}", "True"},
        {"{{ 1 or 0 and 0 }}", "1"},
        {"{{ 0 or '' or 'last' }}", "last"},
        {"{{ 1 and [] or 'x' }}", "x"},
        {"{{ 'a' not in 'bc' and 1 in l }}", "True"},
        {"{{ -1 | abs }}", "1"},
        {"{{ s | lower ~ '!' }}", "hello world!"},
        {"{{ (1, 2) + (3,) }}", "(1, 2, 3)"},
        {"{{ [1] * 3 }}", "[1, 1, 1]"},
        {"{{ true + true }}", "2"},
        {"{{ 1 == 1.0 == true }}", "True"},
        {"{{ '10' < '9' }}", "True"},
        {"{{ [1, 2] < [1, 3] }}", "True"},
        {"{{ n is odd and n is not even }}", "True"},
        {"{{ 2 * -3 }}", "-6"},
        {"{{ x // 1 | int }}", "2.0"},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void type_errors_fail(void **state)
{
    static const example examples[] = {
        {"{{ 1 + 'a' }}", NULL},
        {"{{ 'a' + 1 }}", NULL},
        {"{{ none + 1 }}", NULL},
        {"{{ 1 < 'a' }}", NULL},
        {"{{ [] + () }}", NULL},
        {"{{ 1 // 0 }}", NULL},
        {"{{ 1 % 0 }}", NULL},
        {"{{ 1.0 / 0 }}", NULL},
        {"{{ 9223372036854775807 + 1 }}", NULL},
        {"{{ -9223372036854775807 - 2 }}", NULL},
        {"{{ 2 ** 63 }}", NULL},
        {"{{ 1 in 'abc' }}", NULL},
        {"{{ 1 in none }}", NULL},
        {"{{ {[]: 1} }}", NULL},
        {"{{ 5() }}", NULL},
        {"{{ s[1:2:0] }}", NULL},
        {"{{ l[::0] }}", NULL},
        {"{{ 'abc' | nofilter }}", NULL},
        {"{{ 1 is notest }}", NULL},
        {"{{ [1, 'a'] | sort }}", NULL},
        {"{{ none | join }}", NULL},
        {"{{ 5 | list }}", NULL},
        {"{{ '%d' % 'a' }}", NULL},
        {"{{ '%s %s' % (1,) }}", NULL},
        {"{{ '%s' % (1, 2) }}", NULL},
        {"{{ '{} {}'.format(1) }}", NULL},
        {"{{ range(1, 2, 0) }}", NULL},
        {"{{ range(1000000) }}", NULL},
        {"{{ l.append(1) }}", NULL},
        {"{{ d.update({}) }}", NULL},
        {"{{ d.pop('a') }}", NULL},
        {"{{ l | map('string') | tojson }}", NULL},
        {"{{ [undefined_name] | tojson }}", NULL},
        {"{{ s.split('') }}", NULL},
        {"{{ 'abc'.index('z') }}", NULL},
        {"{{ dict(1) }}", NULL},
        {"{{ s.nomethod() }}", NULL},
        {"{{ 'x' | replace('a') }}", NULL},
        {"{{ 1 | round(1, 'up') }}", NULL},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void values_print_as_python_writes_them(void **state)
{
    static const example examples[] = {
        {"{{ 1.0 }}", "1.0"},
        {"{{ 0.1 + 0.2 }}", "0.30000000000000004"},
        {"{{ 1e16 }}", "1e+16"},
        {"{{ 1e15 }}", "1000000000000000.0"},
        {"{{ 123456789.125 }}", "123456789.125"},
        {"{{ 1e-5 }}", "1e-05"},
        {"{{ 0.0001 }}", "0.0001"},
        {"{{ -0.0 }}", "-0.0"},
        {"{{ 1e308 * 10 }}", "inf"},
        {"{{ 5e-324 }}", "5e-324"},
        {"{{ none }}", "None"},
        {"{{ true }}", "True"},
        {"{{ [1, 'a', none, true, 2.0, (1,), ()] }}", "[1, 'a', None, True, 2.0, (1,), ()]"},
        {"{{ {'a': [1], 2: 'b', none: 3} }}", "{'a': [1], 2: 'b', None: 3}"},
        {"{{ [\"it's\", 'say \"hi\"', '\\'\"'] }}", "[\"it's\", 'say \"hi\"', '\\'\"']"},
        {"{{ ['\\n\\t\\\\\\x00\\x7fé\\u200b\\U0001F600\\xa0'] }}",
         "['\\n\\t\\\\\\x00\\x7fé\\u200b😀\\xa0']"},
        {"{{ d }}", "{'a': 1, 'b': {'c': [1, {'k': 'v'}]}, 'items': 'I'}"},
        {"{{ (1, 2) }}", "(1, 2)"},
        {"{{ range(3) }}", "range(0, 3)"},
        {"{{ range(0, 6, 2) }}", "range(0, 6, 2)"},
        {"{{ d.items() }}",
         "dict_items([('a', 1), ('b', {'c': [1, {'k': 'v'}]}), ('items', 'I')])"},
        {"{{ d.keys() }}", "dict_keys(['a', 'b', 'items'])"},
        {"{{ [undefined_name] }}", "[Undefined]"},
        {"{{ namespace(a=1) }}", "<Namespace {'a': 1}>"},
        {"{{ html | safe }}", "<b>\"x\" & 'y'</b>"},
        {"{{ [html | safe] }}", "[Markup('<b>\"x\" & \\'y\\'</b>')]"},
        {"{{ l | string | length }}", "9"},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void sequences_are_indexed_and_sliced(void **state)
{
    static const example examples[] = {
        {"{{ l[0] }}", "3"},
        {"{{ l[-1] }}", "2"},
        {"{{ l[5] }}", ""},
        {"{{ l[1:] }}", "[1, 2]"},
        {"{{ l[:-1] }}", "[3, 1]"},
        {"{{ l[::-1] }}", "[2, 1, 3]"},
        {"{{ l[-2:] }}", "[1, 2]"},
        {"{{ l[2:0:-1] }}", "[2, 1]"},
        {"{{ l[::2] }}", "[3, 2]"},
        {"{{ l[100:] }}", "[]"},
        {"{{ s[0] }}", "H"},
        {"{{ s[-5:] }}", "World"},
        {"{{ s[::-1] }}", "dlroW olleH"},
        {"{{ s[2:8:3] }}", "l "},
        {"{{ u[5] }}", "e"},
        {"{{ u[7:9] }}", "日本"},
        {"{{ u[-1] }}", "😀"},
        {"{{ u[::-1] }}", "😀 本日 eßartS"},
        {"{{ u[::2] }}", "Srß 本😀"},
        {"{{ (1, 2, 3)[1:] }}", "(2, 3)"},
        {"{{ range(10)[2:8:3] | list }}", "[2, 5]"},
        {"{{ users[1:][0].name }}", "Alice"},
        {"{{ users[::-1][0]['name'] }}", "carl"},
        {"{{ l.0 }}", "3"},
        {"{{ d.b.c[1].k }}", "v"},
        {"{{ d['b']['c'][0] }}", "1"},
        {"{{ d.items is callable }}", "True"},
        {"{{ d['items'] }}", "I"},
        {"{{ d['zz'] is defined }}", "False"},
        {"{{ d.zz }}", ""},
        {"{{ none.x }}", ""},
        {"{{ s.foo is undefined }}", "True"},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void strings_have_pythons_methods(void **state)
{
    static const example examples[] = {
        {"{{ ' one  two three '.split() }}", "['one', 'two', 'three']"},
        {"{{ ' one  two three '.split(none, 1) }}", "['one', 'two three ']"},
        {"{{ ' one  two three '.rsplit(none, 1) }}", "[' one  two', 'three']"},
        {"{{ 'a,b,c'.split(',') }}", "['a', 'b', 'c']"},
        {"{{ 'a,b,c'.split(',', 1) }}", "['a', 'b,c']"},
        {"{{ 'a,b,c'.rsplit(',', 1) }}", "['a,b', 'c']"},
        {"{{ ''.split(',') }}", "['']"},
        {"{{ 'a\\nb\\r\\nc\\u2028d'.splitlines() }}", "['a', 'b', 'c', 'd']"},
        {"{{ 'a\\nb'.splitlines(true) }}", "['a\\n', 'b']"},
        {"{{ 'xxabcxx'.strip('x') }}", "abc"},
        {"{{ 'xyabcyx'.lstrip('xy') }}", "abcyx"},
        {"{{ 'abc\\n\\n'.rstrip('\\n') }}", "abc"},
        {"{{ '\\u3000a\\xa0'.strip() }}", "a"},
        {"{{ s.startswith('Hello') }}", "True"},
        {"{{ s.startswith(('x', 'He')) }}", "True"},
        {"{{ s.endswith(('x', 'ld')) }}", "True"},
        {"{{ s.startswith('World', 6) }}", "True"},
        {"{{ s.find('o'), s.find('o', 5), s.find('z'), s.rfind('o') }}", "(4, 7, -1, 7)"},
        {"{{ u.find('本') }}", "8"},
        {"{{ s.count('o') }}", "2"},
        {"{{ s.replace('o', '0') }}", "Hell0 W0rld"},
        {"{{ s.replace('o', '0', 1) }}", "Hell0 World"},
        {"{{ 'abc'.replace('', '-') }}", "-a-b-c-"},
        {"{{ ', '.join(['a', 'b']) }}", "a, b"},
        {"{{ 'a-b-c'.partition('-'), 'a-b-c'.rpartition('-') }}",
         "(('a', '-', 'b-c'), ('a-b', '-', 'c'))"},
        {"{{ 'foobar'.removeprefix('foo'), 'foobar'.removesuffix('bar') }}", "('bar', 'foo')"},
        {"{{ 'ß ﬁ ŉ'.upper() }}", "SS FI ʼN"},
        {"{{ 'ΑΣ ΌΣΟΣ.'.lower() }}", "ας όσος."},
        {"{{ \"they're bill's\".title() }}", "They'Re Bill'S"},
        {"{{ 'hELLO'.capitalize() }}", "Hello"},
        {"{{ 'aBc'.swapcase() }}", "AbC"},
        {"{{ 'ab'.center(5, '*'), 'a'.ljust(3) ~ '|', 'a'.rjust(3, '0'), '-42'.zfill(6) }}",
         "('**ab*', 'a  |', '00a', '-00042')"},
        {"{{ 'a\\tb'.expandtabs(4) }}", "a   b"},
        {"{{ '123'.isdigit(), '12a'.isdigit(), ''.isdigit(), '²'.isdigit() }}",
         "(True, False, False, True)"},
        {"{{ 'abc'.isalpha(), 'a1'.isalnum(), ' '.isspace(), 'AB'.isupper(), 'ab1'.islower(), "
         "'Ab'.istitle() }}",
         "(True, True, True, True, True, True)"},
        {"{{ '<think>a</think>b'.split('</think>')[-1].lstrip('\\n') }}", "b"},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void text_is_formatted_as_in_python(void **state)
{
    static const example examples[] = {
        {"{{ '%s-%d' % ('a', 5) }}", "a-5"},
        {"{{ '%5.2f|%-5d|%05d|%+d|%x|%#o|%e|%g' % (3.14159, 7, 7, 7, 255, 8, 12345.678, 0.0001) }}",
         " 3.14|7    |00007|+7|ff|0o10|1.234568e+04|0.0001"},
        {"{{ '%(a)s %(items)r' % d }}", "1 'I'"},
        {"{{ '%s' % [1, 2] }}", "[1, 2]"},
        {"{{ '%d%%' % 99.9 }}", "99%"},
        {"{{ '%.2s|%5s' % ('abcd', '日本') }}", "ab|   日本"},
        {"{{ '%*d|%c' % (5, 3, 65) }}", "    3|A"},
        {"{{ '{} {}'.format(1, 'a') }}", "1 a"},
        {"{{ '{1} {0} {k}'.format('a', 'b', k=n) }}", "b a 3"},
        {"{{ '{0[a]} {0.b}'.format(d) }}", "1 {'c': [1, {'k': 'v'}]}"},
        {"{{ '{:>5}|{:<5}|{:^5}|{:*^7}'.format(1, 'b', 'c', 'd') }}", "    1|b    |  c  |***d***"},
        {"{{ '{:05d} {:+d} {:,} {:x} {:#b} {:.2f} {:%}'.format(7, 7, 1234567, 255, 5, 3.14159, "
         "0.5) }}",
         "00007 +7 1,234,567 ff 0b101 3.14 50.000000%"},
        {"{{ '{!r} {{}} {:{w}}'.format('a', 'b', w=3) }}", "'a' {} b  "},
        {"{{ '%s and %s' | format('a', 1) }}", "a and 1"},
        {"{{ '%(k)s' | format(k=2) }}", "2"},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void filters_over_sequences(void **state)
{
    static const example examples[] = {
        {"{{ l | sort }}", "[1, 2, 3]"},
        {"{{ l | sort(reverse=true) }}", "[3, 2, 1]"},
        {"{{ ['b', 'A', 'c', 'B'] | sort }}", "['A', 'b', 'B', 'c']"},
        {"{{ ['b', 'A', 'c', 'B'] | sort(case_sensitive=true) }}", "['A', 'B', 'b', 'c']"},
        {"{{ users | sort(attribute='age,name') | map(attribute='name') | list }}",
         "['Alice', 'bob', 'carl']"},
        {"{{ users | sort(attribute='age', reverse=true) | map(attribute='name') | join(',') }}",
         "bob,carl,Alice"},
        {"{{ d | dictsort | map('first') | list }}", "['a', 'b', 'items']"},
        {"{{ {'b': 2, 'A': 3} | dictsort(by='value', reverse=true) }}", "[('A', 3), ('b', 2)]"},
        {"{{ users | map(attribute='age') | unique | list }}", "[30, 25]"},
        {"{{ ['a', 'A', 'b'] | unique | list }}", "['a', 'b']"},
        {"{{ users | groupby('age') | map('first') | list }}", "[25, 30]"},
        {"{{ users | groupby('age') | map(attribute='list') | map('length') | list }}", "[1, 2]"},
        {"{{ users | selectattr('age', 'gt', 26) | map(attribute='name') | list }}",
         "['bob', 'carl']"},
        {"{{ users | rejectattr('age', 'equalto', 30) | map(attribute='name') | list }}",
         "['Alice']"},
        {"{{ [0, 1, '', none, 'a'] | select | list }}", "[1, 'a']"},
        {"{{ [1, 2, 3, 4] | reject('odd') | list }}", "[2, 4]"},
        {"{{ ['a', 'b'] | map('upper') | join }}", "AB"},
        {"{{ users | map(attribute='zz', default='?') | list }}", "['?', '?', '?']"},
        {"{{ users | map(attribute='name.0') | list }}", "['b', 'A', 'c']"},
        {"{{ users | sum(attribute='age') }}", "85"},
        {"{{ [[1], [2]] | sum(start=[]) }}", "[1, 2]"},
        {"{{ l | min, l | max, users | max(attribute='age') }}",
         "(1, 3, {'name': 'bob', 'age': 30})"},
        {"{{ ['b', 'A'] | min }}", "A"},
        {"{{ l | first, l | last, s | first, d | first }}", "(3, 2, 'H', 'a')"},
        {"{{ [] | first is defined, [] | max is defined }}", "(False, False)"},
        {"{{ l | reverse | list }}", "[2, 1, 3]"},
        {"{{ u | reverse }}", "😀 本日 eßartS"},
        {"{{ range(7) | batch(3, 'x') | list }}", "[[0, 1, 2], [3, 4, 5], [6, 'x', 'x']]"},
        {"{{ range(7) | slice(3) | list }}", "[[0, 1, 2], [3, 4], [5, 6]]"},
        {"{{ l | length, u | length, d | count }}", "(3, 11, 3)"},
        {"{{ d | items | list | length }}", "3"},
        {"{{ none | default('x'), none | default('x', true), undefined_name | d('y') }}",
         "(None, 'x', 'y')"},
        {"{{ d | list }}", "['a', 'b', 'items']"},
        {"{{ 'abc' | list }}", "['a', 'b', 'c']"},
        {"{{ users | map('attr', 'name') | select('defined') | list }}", "[]"},
        {"{{ l | join('-'), users | join(', ', attribute='name') }}",
         "('3-1-2', 'bob, Alice, carl')"},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void filters_over_text_and_numbers(void **state)
{
    static const example examples[] = {
        {"{{ s | upper, s | lower }}", "('HELLO WORLD', 'hello world')"},
        {"{{ u | upper }}", "STRASSE 日本 😀"},
        {"{{ 'foo-bar baz(qux)' | title }}", "Foo-Bar Baz(Qux)"},
        {"{{ 'hELLO' | capitalize }}", "Hello"},
        {"{{ '  x ' | trim ~ '|', 'xxaxx' | trim('x') }}", "('x|', 'a')"},
        {"{{ s | replace('o', '0', 1), 123 | replace(2, 'x') }}", "('Hell0 World', '1x3')"},
        {"{{ text | indent }}", "a\n    b\n\n    c"},
        {"{{ text | indent(2, true) }}", "  a\n  b\n\n  c"},
        {"{{ text | indent('> ', blank=true) }}", "a\n> b\n> \n> c"},
        {"{{ 'foo bar baz qux' | truncate(9) }}", "foo..."},
        {"{{ 'foo bar baz qux' | truncate(9, true) }}", "foo ba..."},
        {"{{ 'foo bar baz qux' | truncate(11), 'foo bar baz qux' | truncate(11, leeway=0) }}",
         "('foo bar baz qux', 'foo bar...')"},
        {"{{ 'abc' | center(9) ~ '|' }}", "   abc   |"},
        {"{{ \"it's a-b\" | wordcount }}", "4"},
        {"{{ html | escape }}", "&lt;b&gt;&#34;x&#34; &amp; &#39;y&#39;&lt;/b&gt;"},
        {"{{ html | e | e }}", "&lt;b&gt;&#34;x&#34; &amp; &#39;y&#39;&lt;/b&gt;"},
        {"{{ (html | safe) + '<' }}", "<b>\"x\" & 'y'</b>&lt;"},
        {"{{ 'a b/c?d=é' | urlencode, {'a': 1, 'b c': '/'} | urlencode }}",
         "('a%20b/c%3Fd%3D%C3%A9', 'a=1&b+c=%2F')"},
        {"{{ {'class': 'a<b', 'id': none, 'n': 5} | xmlattr }}", " class=\"a&lt;b\" n=\"5\""},
        {"{{ '42' | int, '42.7' | int, 'abc' | int(-1), '0x1f' | int(base=16), none | int, 3.9 | "
         "int, true | int }}",
         "(42, 42, -1, 31, 0, 3, 1)"},
        {"{{ '3.5' | float, 'abc' | float(1.5), 5 | float }}", "(3.5, 1.5, 5.0)"},
        {"{{ 2.5 | round, 3.5 | round, 42.55 | round(1), 42.55 | round(1, 'floor'), 1250 | "
         "round(-2), 5 | round }}",
         "(2.0, 4.0, 42.5, 42.5, 1200, 5)"},
        {"{{ -5 | abs, -5.5 | abs }}", "(5, 5.5)"},
        {"{{ 1000000 | filesizeformat, 1024 | filesizeformat(true) }}", "('1.0 MB', '1.0 KiB')"},
        {"{{ 5 | string + 'x' }}", "5x"},
        {"{{ d.a | string | length }}", "1"},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void tojson_writes_what_json_dumps_does(void **state)
{
    static const example examples[] = {
        {"{{ d | tojson }}", "{\"a\": 1, \"b\": {\"c\": [1, {\"k\": \"v\"}]}, \"items\": \"I\"}"},
        {"{{ d | tojson(indent=2) }}",
         "{\n  \"a\": 1,\n  \"b\": {\n    \"c\": [\n      1,\n      {\n        \"k\": \"v\"\n      "
         "}\n    ]\n  },\n  \"items\": \"I\"\n}"},
        {"{{ [[], {}, ()] | tojson(indent=1) }}", "[\n [],\n {},\n []\n]"},
        {"{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}", "{\"a\": 2, \"b\": 1}"},
        {"{{ d | tojson(separators=(',', ':')) }}",
         "{\"a\":1,\"b\":{\"c\":[1,{\"k\":\"v\"}]},\"items\":\"I\"}"},
        {"{{ u | tojson }}", "\"Straße 日本 😀\""},
        {"{{ u | tojson(ensure_ascii=true) }}", "\"Stra\\u00dfe \\u65e5\\u672c \\ud83d\\ude00\""},
        {"{{ '\"\\\\\\n\\r\\t\\b\\f\\x00\\x1f\\x7f/<>&\\'' | tojson }}",
         "\"\\\"\\\\\\n\\r\\t\\b\\f\\u0000\\u001f\177/<>&'\""},
        {"{{ {1: 'a', none: 'b', true: 'c', 1.5: 'd'} | tojson }}",
         "{\"1\": \"c\", \"null\": \"b\", \"1.5\": \"d\"}"},
        {"{{ [1.0, 1e20, 0.1, -0.0] | tojson }}", "[1.0, 1e+20, 0.1, -0.0]"},
        {"{{ [none, true, false] | tojson }}", "[null, true, false]"},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void tests_tell_kinds_of_values_apart(void **state)
{
    static const example examples[] = {
        {"{{ n is defined, nope is defined, nope is undefined, d.a is defined, d.zz is not defined "
         "}}",
         "(True, False, True, True, True)"},
        {"{{ none is none, 0 is none, '' is not none }}", "(True, False, True)"},
        {"{{ s is string, n is string, (s | safe) is string }}", "(True, False, True)"},
        {"{{ d is mapping, l is mapping }}", "(True, False)"},
        {"{{ l is sequence, d is sequence, s is sequence, n is sequence, nope is sequence }}",
         "(True, True, True, False, True)"},
        {"{{ l is iterable, n is iterable, d is iterable, s is iterable, none is iterable }}",
         "(True, False, True, True, False)"},
        {"{{ (l | map('string')) is iterable, (l | map('string')) is sequence }}", "(True, False)"},
        {"{{ n is number, true is number, x is number, s is number }}",
         "(True, True, True, False)"},
        {"{{ n is integer, true is integer, x is float, n is float }}",
         "(True, False, True, False)"},
        {"{{ true is boolean, 1 is boolean, true is true, 1 is true, false is false }}",
         "(True, False, True, False, True)"},
        {"{{ 3 is odd, 4 is even, 6 is divisibleby 3, 6 is divisibleby(4) }}",
         "(True, True, True, False)"},
        {"{{ 'abc' is lower, 'ABC' is upper }}", "(True, True)"},
        {"{{ 1 is eq 1, 2 is gt 1, 1 is lessthan 2, 1 is in [1, 2], 1 is sameas true }}",
         "(True, True, True, True, False)"},
        {"{{ range is callable, s is callable }}", "(True, False)"},
        {"{{ 'upper' is filter, 'zz' is filter, 'odd' is test }}", "(True, False, True)"},
        {"{{ (s | safe) is escaped }}", "True"},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void undefined_prints_nothing_and_breaks_when_used(void **state)
{
    static const example examples[] = {
        {"{{ nope }}", ""},
        {"{{ nope ~ 'x' }}", "x"},
        {"{{ nope == also_nope }}", "True"},
        {"{{ nope | length, nope | list, nope | upper, nope | join }}", "(0, [], '', '')"},
        {"{{ not nope }}", "True"},
        {"{{ 1 if nope else 2 }}", "2"},
        {"{{ (1 if false) is defined }}", "False"},
        {"{{ nope | first is defined }}", "False"},
        {"{{ nope is none }}", "False"},
        {"{{ nope.x }}", NULL},
        {"{{ nope['x'] }}", NULL},
        {"{{ nope() }}", NULL},
        {"{{ nope + 1 }}", NULL},
        {"{{ -nope }}", NULL},
        {"{{ nope < 1 }}", NULL},
        {"{{ d.zz.y }}", NULL},
        {"{{ nope | int }}", NULL},
        {"{{ nope | tojson }}", NULL},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void white_space_follows_the_signs(void **state)
{
    static const example examples[] = {
        {"a\n{% if n %}\n  b\n{% endif %}\nc", "a\n  b\nc"},
        {"a\n  {% if n %}  \n  b\n  {% endif %}\nc", "a\n  \n  b\nc"},
        {"a {%- if n -%} b {%- endif -%} c", "abc"},
        {"  {%+ if n %}x{% endif +%}\ny", "  x\ny"},
        {"{{ n }}\n{{ n }}\n\n", "3\n3\n"},
        {"  {{- n -}}  x", "3x"},
        {"a\n  {# c #}\nb", "a\nb"},
        {"a\n  {#- c -#}\nb", "ab"},
        {"a {# c +#}\nb", "a \nb"},
        {"{% raw %}{{ n }} {% if %}{% endraw %}", "{{ n }} {% if %}"},
        {"a\n  {% raw -%}  \n {{ n }}\n  {%- endraw %}\nb", "a\n{{ n }}b"},
        {"a\r\nb\rc", "a\nb\nc"},
        {"{%- set a = 1 %}\n{%- set b = 2 %}\n\n{{ a }}", "\n1"},
        {"{%if n%}x{%endif%}", "x"},
        {"{{-1}}{{ -1 }}{{+1}}", "1-11"},
        {"{{ \"}}\" }}{{ '%}' }}{{ {\"a\": {\"b\": n}}[\"a\"] }}", "}}%}{'b': 3}"},
        {"\n\n", "\n"},
        {"{% if n %}\r\nx\r\n{% endif %}\r\n", "x\n"},
        {"　{%- if n -%} x{% endif %}", "x"},
        {"{{ \"a\\\nb\" \"c\" }}", "abc"},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void loops_know_where_they_are(void **state)
{
    static const example examples[] = {
        {"{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 "
         "}}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}",
         "1032TrueFalse3;2121FalseFalse3;3210FalseTrue3;"},
        {"{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }};{% endfor %}",
         "<3>1;3<1>2;1<2>;"},
        {"{% for i in l %}{{ loop.cycle(\"a\", \"b\") }}{% endfor %}", "aba"},
        {"{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{% endfor %}", "TrueFalseTrue"},
        {"{% for i in l if i > 1 %}{{ i }}{{ loop.index }}{{ loop.length }}{% endfor %}", "312222"},
        {"{% for i in [] %}x{% else %}none{% endfor %}", "none"},
        {"{% for i in l if i > 9 %}x{% else %}none{% endfor %}", "none"},
        {"{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
         "a=1;b={'c': [1, {'k': 'v'}]};items=I;"},
        {"{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "123"},
        {"{% for a, b in [(1, 2, 3)] %}{% endfor %}", NULL},
        {"{% for c in u %}{{ c }}|{% endfor %}", "S|t|r|a|ß|e| |日|本| |😀|"},
        {"{% for i in nope %}x{% endfor %}.", "."},
        {"{% for i in none %}x{% endfor %}", NULL},
        {"{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break "
         "%}{% endif %}{{ i }}{% endfor %}",
         "0134"},
        {"{% for x in [[1, [2]], 3] recursive %}{% if x is iterable %}[{{ loop(x) }}]{% else %}{{ "
         "x }}:{{ loop.depth }}{% endif %}{% endfor %}",
         "[1:2[2:3]]3:1"},
        {"{% for i in l %}{{ loop(l) }}{% endfor %}", NULL},
        {"{% for i in l %}{% for j in l %}{{ loop.index }}{% endfor %}{{ loop.index }} {% endfor "
         "%}",
         "1231 1232 1233 "},
        {"{% set g = l | map(\"string\") %}{% for i in g %}{{ i }}{{ loop.last }}{% endfor %}{% "
         "for i in g %}{{ i }}{% endfor %}",
         "3False1False2True"},
        {"{% set ns = namespace(stop=false) %}{% for i in [1, 2, 3] if not ns.stop %}{{ i }}{% set "
         "ns.stop = i == 2 %}{% endfor %}",
         "12"},
        {"{% for i in l %}{% continue %}{% else %}never finished{% endfor %}", "never finished"},
        {"{% break %}", NULL},
        {"{% for loop in l %}{% endfor %}", NULL},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void names_have_scopes(void **state)
{
    static const example examples[] = {
        {"{% set x = 1 %}{% for i in l %}{% set x = i %}{% endfor %}{{ x }}", "1"},
        {"{% set x = 1 %}{% for i in l %}{{ x }}{% set x = i %}{% endfor %}", "111"},
        {"{% if n %}{% set y = 5 %}{% endif %}{{ y }}", "5"},
        {"{% set ns = namespace(a=0) %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ "
         "ns.a }}",
         "6"},
        {"{% set ns = namespace() %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a }}{{ ns.b }}", "12"},
        {"{% set d.x = 1 %}", NULL},
        {"{% set a, b = [1, 2, 3] %}", NULL},
        {"{% set a %}x{{ n }}{% set z = 1 %}{% endset %}[{{ a }}{{ z }}]", "[x3]"},
        {"{% set a | upper | replace(\"X\", \"y\") %}x{{ n }}{% endset %}{{ a }}", "y3"},
        {"{% with a = 5, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}", "53"},
        {"{% filter upper %}{% set z = 1 %}a{{ z }}{% endfilter %}{{ z }}", "A1"},
        {"{% generation %}a{% set z = 1 %}{% endgeneration %}{{ z }}", "a"},
        {"{% set z = 3 %}{% block b %}{{ z }}{% endblock %}", "3"},
        {"{% for i in l %}{% block b scoped %}{{ i }}{% endblock %}{% endfor %}", "312"},
        {"{% set 1 = 2 %}", NULL},
        {"{% set none = 2 %}", NULL},
        {"{{ n }}{% set n = 4 %}{{ n }}", "34"},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void macros_take_arguments(void **state)
{
    static const example examples[] = {
        {"{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m(1, 3) }}|{{ "
         "m(1, c=9) }}|{{ m() }}|{{ m(b=1, a=0) }}",
         "121|131|129|2|010"},
        {"{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", NULL},
        {"{% macro m(a) %}{% endmacro %}{{ m(1, z=2) }}", NULL},
        {"{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}",
         "(2, 3){'k': 4}"},
        {"{% macro m(a) %}{{ a is defined }}{{ a.b }}{% endmacro %}{{ m() }}", NULL},
        {"{% macro m() %}<{{ caller(1, y=2) }}>{% endmacro %}{% call(x, y=7) m() %}{{ x }}-{{ y "
         "}}{% endcall %}",
         "<1-2>"},
        {"{% macro m() %}x{% endmacro %}{% call m() %}body{% endcall %}", NULL},
        {"{% macro m() %}{% if caller %}C{% else %}N{% endif %}{% endmacro %}{{ m() }}{% call m() "
         "%}{% endcall %}",
         "NC"},
        {"{% macro m(i) %}{{ i }}{% if i %}{{ m(i - 1) }}{% endif %}{% endmacro %}{{ m(5) }}",
         "543210"},
        {"{% macro m() %}{{ z }}{% endmacro %}{% set z = 5 %}{{ m() }}", "5"},
        {"{% macro m() %}{% set z = 1 %}{% endmacro %}{{ m() }}{{ z }}", ""},
        {"{% macro m(a, b) %}{% endmacro %}{{ m.name }}{{ m.arguments }}", "m('a', 'b')"},
        {"{% macro m() %} x {% endmacro %}[{{ m() | trim }}]", "[x]"},
        {"{% macro m(a, b=1, c) %}{% endmacro %}", NULL},
        {"{{ dict(**{\"a\": 1}, b=2) }}{{ range(*[1, 3]) | list }}", NULL},
        {"{{ joiner(\"; \")() }}{% set j = joiner() %}{{ j() }}a{{ j() }}b", "a, b"},
        {"{% set c = cycler(\"a\", \"b\") %}{{ c.next() }}{{ c.next() }}{{ c.current }}", "aba"},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void unknown_filters_fail_where_they_are_reached(void **state)
{
    static const example examples[] = {
        {"{% if false %}{{ n | nope }}{% endif %}ok", "ok"},
        {"{% if false %}{{ n is nope }}{% endif %}ok", "ok"},
        {"{{ n | nope if false else \"ok\" }}", "ok"},
        {"{{ n | nope if true else \"ok\" }}", NULL},
        {"{% if true %}{{ n | nope }}{% endif %}", NULL},
        {"{% for i in [] %}{{ i | nope }}{% endfor %}", NULL},
        {"{% if false %}{% for i in l %}{{ i | nope }}{% endfor %}{% endif %}", NULL},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void broken_templates_fail(void **state)
{
    static const example examples[] = {
        {"{{", NULL},
        {"{{ n", NULL},
        {"{{ n }", NULL},
        {"{% if n %}", NULL},
        {"{% if n", NULL},
        {"{# x", NULL},
        {"{% raw %}x", NULL},
        {"{% endif %}", NULL},
        {"{% foo %}", NULL},
        {"{% do n %}", NULL},
        {"{% for i l %}{% endfor %}", NULL},
        {"{% else %}", NULL},
        {"{{ }}", NULL},
        {"{{ 1 + }}", NULL},
        {"{{ (1 }}", NULL},
        {"{{ [1 2] }}", NULL},
        {"{{ 'abc }}", NULL},
        {"{{ a b }}", NULL},
        {"{{ @ }}", NULL},
        {"{{ n.. }}", NULL},
        {"{{ n[ }}", NULL},
        {"{{ 1 is }}", NULL},
        {"{{ f(a=1, 2) }}", NULL},
        {"{{ n is defined is defined }}", NULL},
        {"{{ ] }}", NULL},
        {"{% set %}", NULL},
        {"{% macro %}{% endmacro %}", NULL},
        {"{% include \"x\" %}", NULL},
        {"{% import \"x\" as y %}", NULL},
        {"{% extends \"x\" %}", NULL},
        {"{% call n %}{% endcall %}", NULL},
        {"{{ \"\\x1\" }}", NULL},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

/* --- errors ----------------------------------------------------------------------------------- */

static void check_error(const char *source, const char *expected)
{
    moe_buf out;
    moe_error err;
    assert_int_equal(render(source, &out, &err), MOE_ERR_TEMPLATE);
    assert_string_equal(err.message, expected);
    moe_buf_free(&out);
}

static void errors_name_the_line(void **state)
{
    (void)state;
    check_error("a\n{{ n }}\n{{ n +\n  s }}",
                "chat template, line 3: unsupported operand type(s) for +: 'int' and 'str'");
    check_error("\n{% for i in l %}\n{{ nope.x }}{% endfor %}",
                "chat template, line 3: 'nope' is undefined");
    check_error("{{ d.zz.y }}", "chat template, line 1: dict has no attribute 'zz'");
    check_error("{% if n %}\n\n{% endfor %}",
                "chat template, line 3: encountered unknown tag 'endfor'");
    check_error("{% if n %}\n",
                "chat template, line 1: unexpected end of template, expected 'elif'");
    check_error("{# a\n#}{{ 'x' | nope }}", "chat template, line 2: no filter named 'nope'");
    check_error("{% set x = [\n1,\n'\n' + 1] %}",
                "chat template, line 3: unsupported operand type(s) for +: 'str' and 'int'");
    check_error("{{ l.append(4) }}",
                "chat template, line 1: access to attribute 'append' of 'list' object is unsafe");
}

static void raised_messages_stay_as_they_are(void **state)
{
    (void)state;
    check_error("{{ raise_exception('Only user and assistant roles!') }}",
                "Only user and assistant roles!");
    check_error("\n{%- for i in l %}{{ raise_exception('Zürich: ' ~ i) }}{% endfor %}",
                "Zürich: 3");
}

static void long_messages_are_cut_between_characters(void **state)
{
    moe_buf out;
    moe_error err;
    (void)state;
    assert_int_equal(render("{{ raise_exception('a' ~ 'é' * 1000) }}", &out, &err),
                     MOE_ERR_TEMPLATE);
    size_t len = strlen(err.message);
    assert_true(len >= sizeof err.message - 4 && len % 2 == 1);
    moe_buf_free(&out);
}

static void failures_leave_the_buffer_as_it_was(void **state)
{
    moe_buf out = {0};
    moe_error err;
    json_t *vars = json_object();
    (void)state;
    assert_true(moe_buf_add_str(&out, "before"));
    assert_int_equal(moe_template_render("text{{ 1 + none }}", vars, NOW, NULL, &out, &err),
                     MOE_ERR_TEMPLATE);
    assert_string_equal(out.data, "before");
    assert_int_equal(moe_template_render("+", vars, NOW, NULL, &out, &err), MOE_OK);
    assert_string_equal(out.data, "before+");
    json_decref(vars);
    moe_buf_free(&out);
}

static void bad_arguments_are_refused(void **state)
{
    moe_buf out;
    moe_error err;
    json_t *vars = json_object(), *list = json_array();
    (void)state;
    assert_int_equal(render_json("x", list, &out, &err), MOE_ERR_INVALID);
    assert_int_equal(render_json("\xff\xfe", vars, &out, &err), MOE_ERR_TEMPLATE);
    json_object_set_new(vars, "s", json_string_nocheck("a\xff"));
    assert_int_equal(render_json("x", vars, &out, &err), MOE_ERR_TEMPLATE);
    moe_buf_free(&out);
    json_decref(vars);
    json_decref(list);
}

/* --- the clock, text with zeros ------------------------------------------------------------------
 */

static void dates_come_from_the_given_time(void **state)
{
    static const example examples[] = {
        {"{{ strftime_now('%Y-%m-%d %H:%M:%S') }}", "2025-03-14 09:26:53"},
        {"{{ strftime_now('%d %b %Y, %A %j %f[%z%Z]%%') }}", "14 Mar 2025, Friday 073 000000[]%"},
        {"{{ strftime_now('') }}", ""},
        {"{{ strftime_now(1) }}", NULL},
        {"{{ strftime_now('%A' * 60000) }}", NULL},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void zeros_are_characters(void **state)
{
    moe_buf out;
    moe_error err;
    (void)state;
    assert_int_equal(render("{{ 'a\\x00b' }}{{ 'a\\x00b' | length }}", &out, &err), MOE_OK);
    assert_int_equal(out.len, 4);
    assert_memory_equal(out.data, "a\0b3", 4);
    moe_buf_free(&out);
}

/* --- bounds
 * ----------------------------------------------------------------------------------------- */

/* before, then middle `count` times, then after */
static char *repeat(const char *before, const char *middle, size_t count, const char *after)
{
    moe_buf buf = {0};
    assert_true(moe_buf_add_str(&buf, before));
    for (size_t i = 0; i < count; i++)
        assert_true(moe_buf_add_str(&buf, middle));
    assert_true(moe_buf_add_str(&buf, after));
    return buf.data;
}

static void deep_nesting_fails(void **state)
{
    static const char *const parts[][3] = {
        {"{{ ", "(", "1 }}"},       {"{{ ", "[", "1 }}"},         {"{{ ", "-", "1 }}"},
        {"{{ ", "not ", "1 }}"},    {"{{ 1", "+1", " }}"},        {"{{ d", ".a", " }}"},
        {"{{ 1", "|string", " }}"}, {"{{ 1", " and 1", " }}"},    {"{{ ", "1 if 0 else ", "1 }}"},
        {"", "{% if 1 %}", ""},     {"", "{% for i in l %}", ""}, {"", "{% macro m() %}", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        moe_buf out;
        moe_error err;
        char *source = repeat(parts[i][0], parts[i][1], 20000, parts[i][2]);
        assert_int_equal(render(source, &out, &err), MOE_ERR_TEMPLATE);
        moe_buf_free(&out);
        free(source);
    }
}

static void endless_work_fails(void **state)
{
    static const example examples[] = {
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", NULL},
        {"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", NULL},
        {"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", NULL},
        {"{{ 'a' * 1000000000 }}", NULL},
        {"{{ [1] * 1000000000 }}", NULL},
        {"{{ 'a'.center(9223372036854775807) }}", NULL},
        {"{{ '%1000000000d' % 1 }}", NULL},
        {"{{ '{:1000000000}'.format(1) }}", NULL},
        {"{{ [1] | batch(9223372036854775807, 0) | list }}", NULL},
        {"{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}"
         "{% endfor %}",
         NULL},
        {"{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}"
         "{% endfor %}{{ ns.x }}",
         NULL},
        {"{% set ns = namespace(x=[1, 1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}"
         "{% endfor %}{{ ns.x == [ns.x] }}{{ ns.x | tojson }}",
         NULL},
        {"{% set ns = namespace() %}{% set ns.self = ns %}{{ ns }}", NULL},
        {"{% set ns = namespace(x='abc') %}{% for i in range(5000) %}"
         "{% set ns.x = ns.x | map('upper') %}{% endfor %}{{ ns.x | list }}",
         NULL},
        {"{{ (-9223372036854775807 - 1) // -1 }}", NULL},
        {"{{ (-9223372036854775807 - 1) | abs }}", NULL},
        {"{{ (-9223372036854775807 - 1) % -1 }}", "0"},
        {"{{ l[::-9223372036854775807 - 1] }}", "[2]"},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static void texts_grow_piece_by_piece_at_little_cost(void **state)
{
    static const example examples[] = {
        {"{% set ns = namespace(s='') %}{% for i in range(100000) %}"
         "{% set ns.s = ns.s ~ 'abcdefghi' ~ i % 10 %}{% endfor %}{{ ns.s | length }}",
         "1000000"},
        /* what was shared stays what it was */
        {"{% set a = 'x' * 300 + 'a' %}{% set b = a + 'b' %}{% set c = a + 'c' %}{{ b[-2:] }}"
         "{{ c[-2:] }}{{ a | length }}",
         "abac301"},
    };
    (void)state;
    check_examples(examples, sizeof examples / sizeof examples[0]);
}

static bool cancel_now(void *ud)
{
    ++*(int *)ud;
    return true;
}

static void hosts_can_cancel(void **state)
{
    int asked = 0;
    moe_cancel cancel = {cancel_now, &asked};
    moe_buf out = {0};
    moe_error err;
    json_t *vars = json_object();
    (void)state;
    assert_int_equal(moe_template_render("{% for i in range(99999) %}{{ i }}{% endfor %}", vars,
                                         NOW, &cancel, &out, &err),
                     MOE_ERR_CANCELLED);
    assert_int_equal(asked, 1);
    assert_int_equal(out.len, 0);
    json_decref(vars);
    moe_buf_free(&out);
}

/* --- whole templates
 * -------------------------------------------------------------------------------- */

static char *read_text(const char *path)
{
    FILE *file = fopen(path, "rb");
    moe_buf buf = {0};
    char block[4096];
    size_t n;
    assert_non_null(file);
    while ((n = fread(block, 1, sizeof block, file)) > 0)
        assert_true(moe_buf_add(&buf, block, n));
    fclose(file);
    return buf.data;
}

/* Whether a rendering is what its golden record says. */
static bool agrees(const json_t *record, moe_status status, const moe_buf *out,
                   const moe_error *err)
{
    const json_t *expected = json_object_get(record, "expected");
    const char *kind = json_string_value(json_object_get(record, "error_kind"));
    if (expected != NULL)
        return status == MOE_OK && out->len == json_string_length(expected) &&
               memcmp(out->data, json_string_value(expected), out->len) == 0;
    if (kind != NULL && strcmp(kind, "raised") == 0)
        return status == MOE_ERR_TEMPLATE &&
               strcmp(err->message, json_string_value(json_object_get(record, "error"))) == 0;
    return status == MOE_ERR_TEMPLATE;
}

/* Renders all cases of NAME.golden.json; returns how many differ. */
static size_t check_golden(const char *folder, const char *name, size_t *n_cases)
{
    char path[1024];
    size_t index, n_bad = 0;
    json_t *record;
    snprintf(path, sizeof path, "%s/%s.jinja", folder, name);
    char *source = read_text(path);
    snprintf(path, sizeof path, "%s/%s.golden.json", folder, name);
    json_t *records = json_load_file(path, 0, NULL);
    assert_true(json_array_size(records) > 0);
    json_array_foreach(records, index, record)
    {
        moe_buf out;
        moe_error err;
        moe_status status = render_json(source, json_object_get(record, "context"), &out, &err);
        if (!agrees(record, status, &out, &err)) {
            n_bad++;
            print_message("%s, %s: %s\n", name, json_string_value(json_object_get(record, "name")),
                          status == MOE_OK ? "another text" : err.message);
        }
        ++*n_cases;
        moe_buf_free(&out);
    }
    if (n_bad > 0)
        print_message("%s: %zu of %zu cases differ\n", name, n_bad, json_array_size(records));
    json_decref(records);
    free(source);
    return n_bad;
}

/* Whether there is such a folder; all its templates are checked. */
static bool check_folder(const char *folder, size_t min_cases)
{
    static const char suffix[] = ".golden.json";
    DIR *dir = opendir(folder);
    size_t n_cases = 0, n_bad = 0;
    if (dir == NULL)
        return false;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        size_t len = strlen(entry->d_name), stem = len - (sizeof suffix - 1);
        if (len < sizeof suffix || strcmp(entry->d_name + stem, suffix) != 0)
            continue;
        entry->d_name[stem] = '\0';
        n_bad += check_golden(folder, entry->d_name, &n_cases);
    }
    closedir(dir);
    assert_int_equal(n_bad, 0);
    assert_true(n_cases >= min_cases);
    return true;
}

static void own_templates_render_as_in_jinja2(void **state)
{
    (void)state;
    assert_true(check_folder("test/data/templates", 16));
}

static void templates_of_published_models_render_as_in_jinja2(void **state)
{
    const char *shared = getenv("MOE_SHARED");
    char folder[900];
    (void)state;
    snprintf(folder, sizeof folder, "%s/templates", shared != NULL ? shared : "../shared");
    if (!check_folder(folder, 1)) {
        print_message("skipped: no templates of published models in %s\n", folder);
        skip();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operators_bind_as_in_python),
        cmocka_unit_test(type_errors_fail),
        cmocka_unit_test(values_print_as_python_writes_them),
        cmocka_unit_test(sequences_are_indexed_and_sliced),
        cmocka_unit_test(strings_have_pythons_methods),
        cmocka_unit_test(text_is_formatted_as_in_python),
        cmocka_unit_test(filters_over_sequences),
        cmocka_unit_test(filters_over_text_and_numbers),
        cmocka_unit_test(tojson_writes_what_json_dumps_does),
        cmocka_unit_test(tests_tell_kinds_of_values_apart),
        cmocka_unit_test(undefined_prints_nothing_and_breaks_when_used),
        cmocka_unit_test(white_space_follows_the_signs),
        cmocka_unit_test(loops_know_where_they_are),
        cmocka_unit_test(names_have_scopes),
        cmocka_unit_test(macros_take_arguments),
        cmocka_unit_test(unknown_filters_fail_where_they_are_reached),
        cmocka_unit_test(broken_templates_fail),
        cmocka_unit_test(errors_name_the_line),
        cmocka_unit_test(raised_messages_stay_as_they_are),
        cmocka_unit_test(long_messages_are_cut_between_characters),
        cmocka_unit_test(failures_leave_the_buffer_as_it_was),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(dates_come_from_the_given_time),
        cmocka_unit_test(zeros_are_characters),
        cmocka_unit_test(deep_nesting_fails),
        cmocka_unit_test(endless_work_fails),
        cmocka_unit_test(texts_grow_piece_by_piece_at_little_cost),
        cmocka_unit_test(hosts_can_cancel),
        cmocka_unit_test(own_templates_render_as_in_jinja2),
        cmocka_unit_test(templates_of_published_models_render_as_in_jinja2),
    };
    setenv("TZ", "UTC", 1);
    tzset();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
