-- moe.tokenize(), moe.detokenize(), moe.count_tokens()
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_moe;
RESET client_min_messages;

SELECT moe.tokenize('VACUUM reclaims storage occupied by dead tuples.');
SELECT moe.tokenize('hello', 'pocket', true);
SELECT moe.tokenize('<｜User｜>hello', parse_special => true);
SELECT moe.tokenize('<｜User｜>', parse_special => false) = moe.tokenize('<｜User｜>', parse_special => true) AS same;
SELECT moe.count_tokens('VACUUM reclaims storage occupied by dead tuples.');
SELECT moe.detokenize(moe.tokenize('How do I create an index?', add_special => true));

-- whatever the text, it comes back
SELECT i, moe.detokenize(moe.tokenize(t)) = t AS same, moe.count_tokens(t) = cardinality(moe.tokenize(t)) AS counted
  FROM (VALUES (1, ''), (2, ' '), (3, E'two\n\n lines\t.'), (4, 'naïve café — “quotes”'), (5, 'Привет, мир'),
               (6, '日本語のテキスト'), (7, '👩‍👩‍👧‍👦 and 🇩🇪'), (8, E'e\u0301 and \u00e9'), (9, repeat('0123456789', 30))) v(i, t)
 ORDER BY i;

-- NULLs and errors
SELECT moe.tokenize(NULL) IS NULL AS tokenize, moe.detokenize(NULL) IS NULL AS detokenize,
       moe.count_tokens(NULL) IS NULL AS count, moe.tokenize('a', NULL, NULL, NULL) = moe.tokenize('a') AS defaults;
SELECT moe.tokenize('') = '{}' AS empty, moe.detokenize('{}') = '' AS empty_text;
SELECT moe.detokenize('{-1}');
SELECT moe.detokenize('{1000000}');
SELECT moe.detokenize('{1,NULL}');
SELECT moe.tokenize('hi', 'pockett');

-- no weights are needed for this
SELECT count(*) FROM (SELECT moe.tokenize('row ' || i) FROM generate_series(1, 200) i) s;
