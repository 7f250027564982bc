-- moe.generate()
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_moe;
RESET client_min_messages;

-- greedy generation is repeatable, within and across calls
SELECT moe.generate('VACUUM reclaims', max_tokens => 12);
SELECT moe.generate('VACUUM reclaims', max_tokens => 12) = moe.generate('VACUUM reclaims', 'pocket', 12) AS same;
SELECT length(moe.generate('VACUUM reclaims')) > length(moe.generate('VACUUM reclaims', max_tokens => 12)) AS longer_by_default;

-- tokens as the prompt
SELECT moe.generate(moe.tokenize('VACUUM reclaims', add_special => true), max_tokens => 12)
       = moe.generate('VACUUM reclaims', max_tokens => 12) AS same;

-- a batch gives the same texts, in order
SELECT b.ordinality, b.result IS NULL AS is_null,
       b.result = moe.generate(t.prompt, max_tokens => 8) AS same
  FROM moe.generate(ARRAY['An index', NULL, 'A transaction', 'VACUUM reclaims'], max_tokens => 8) b
  JOIN unnest(ARRAY['An index', NULL, 'A transaction', 'VACUUM reclaims']) WITH ORDINALITY AS t(prompt, ordinality)
 USING (ordinality)
 ORDER BY 1;
SELECT * FROM moe.generate('{}'::text[]);
SELECT * FROM moe.generate(NULL::text[]);

-- NULLs: no prompt, no answer; elsewhere NULL is the default
SELECT moe.generate(NULL) IS NULL AS n1, moe.generate(NULL::int[]) IS NULL AS n2,
       moe.generate(NULL, 'no such model') IS NULL AS n3;
SELECT moe.generate('VACUUM reclaims', NULL, NULL, NULL, NULL, NULL, NULL)
       = moe.generate('VACUUM reclaims') AS same;

-- no tokens wanted, none made
SELECT moe.generate('VACUUM reclaims', max_tokens => 0) = '' AS empty;

-- a seed reproduces a sampled text
SELECT moe.generate('The', max_tokens => 20, temperature => 1.0, seed => 7)
       = moe.generate('The', max_tokens => 20, temperature => 1.0, seed => 7) AS same_seed,
       count(DISTINCT moe.generate('The', max_tokens => 20, temperature => 1.0, seed => s)) > 1 AS seeds_differ,
       count(DISTINCT moe.generate('The', max_tokens => 20, temperature => 1.0)) > 1 AS no_seed_differs
  FROM generate_series(1, 6) s;
-- with one candidate left there is nothing to sample
SELECT moe.generate('The', max_tokens => 20, temperature => 1.0, options => '{"top_k": 1}')
       = moe.generate('The', max_tokens => 20) AS greedy;

-- a stop string ends the text and is not part of it
WITH g AS (SELECT moe.generate('VACUUM reclaims', max_tokens => 40) AS whole)
SELECT moe.generate('VACUUM reclaims', max_tokens => 40, stop => ARRAY[substr(whole, 20, 4)])
       = left(whole, position(substr(whole, 20, 4) IN whole) - 1) AS stopped,
       moe.generate('VACUUM reclaims', max_tokens => 40, options => jsonb_build_object('stop', substr(whole, 20, 4)))
       = left(whole, position(substr(whole, 20, 4) IN whole) - 1) AS stopped_by_option
  FROM g;

-- where an option has the name of an argument, the option wins
SELECT moe.generate('VACUUM reclaims', max_tokens => 40, options => '{"max_tokens": 12}')
       = moe.generate('VACUUM reclaims', max_tokens => 12) AS same;

-- special tokens that are written in a prompt are text, unless asked for
SELECT moe.generate('<｜begin▁of▁sentence｜>VACUUM reclaims', max_tokens => 12,
                    options => '{"add_special": false, "parse_special": true}')
       = moe.generate('VACUUM reclaims', max_tokens => 12) AS same;

-- in prepared statements, subqueries and PL/pgSQL
PREPARE g(text, int) AS SELECT moe.generate($1, max_tokens => $2);
EXECUTE g('VACUUM reclaims', 4);
EXECUTE g('VACUUM reclaims', 6);
EXECUTE g(NULL, 6);
DEALLOCATE g;
DO $$
DECLARE
    r text;
BEGIN
    FOR i IN 1..3 LOOP
        r := moe.generate('An index', max_tokens => i);
        IF r <> (SELECT moe.generate('An index', max_tokens => i)) THEN
            RAISE EXCEPTION 'differs';
        END IF;
    END LOOP;
END
$$;

-- volatile and costly: with ORDER BY and LIMIT only the rows that are shown are computed
SELECT generated_tokens AS before FROM moe.status \gset
SELECT moe.generate('An index', max_tokens => 2) IS NOT NULL AS ok
  FROM generate_series(1, 50) i ORDER BY i DESC LIMIT 3;
SELECT generated_tokens - :before <= 6 AS three_rows FROM moe.status;

-- nothing is left behind
SELECT schedulers, sequences, kv_pages_used FROM moe.status;

-- a prompt without a character
SELECT moe.generate('');
SELECT moe.generate(ARRAY['A table is', '']);
SELECT moe.generate_stream('');
SELECT moe.chat('');
SELECT * FROM moe.next_tokens('');
