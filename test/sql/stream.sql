-- moe.generate_stream(), moe.chat_stream()
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_moe;
RESET client_min_messages;

-- the pieces make up the text
SELECT string_agg(piece, '' ORDER BY seq) = moe.generate('VACUUM reclaims', max_tokens => 12) AS same,
       count(*) AS tokens, min(seq) AS first, max(seq) AS last,
       bool_and(logprob <= 0) AS logprobs
  FROM moe.generate_stream('VACUUM reclaims', max_tokens => 12);
SELECT string_agg(piece, '' ORDER BY seq) LIKE '%</think>%85' AS answer
  FROM moe.chat_stream('What is 47 + 38?');
SELECT string_agg(piece, '' ORDER BY seq) AS answer
  FROM moe.chat_stream('[{"role": "user", "content": "What is 5 + 9?"}]'::jsonb, options => '{"enable_thinking": false}');
SELECT string_agg(piece, '' ORDER BY seq) AS answer
  FROM moe.chat_stream('[{"role": "user", "content": "What is 5 + 9?"}]'::json, options => '{"enable_thinking": false}');
SELECT count(*) FROM moe.generate_stream(moe.tokenize('VACUUM reclaims'), max_tokens => 3);
SELECT count(*), count(logprob) AS logprobs
  FROM moe.generate_stream('VACUUM reclaims', max_tokens => 3, options => '{"logprobs": false}');

-- also of a text full of odd characters, token by token
SELECT bool_and(moe.generate('日本語 👩‍👩‍👧‍👦', max_tokens => 40, temperature => 5, seed => s)
       = (SELECT string_agg(piece, '' ORDER BY seq)
            FROM moe.generate_stream('日本語 👩‍👩‍👧‍👦', max_tokens => 40, temperature => 5, seed => s))) AS same
  FROM generate_series(1, 5) s;

-- no prompt, no rows
SELECT * FROM moe.generate_stream(NULL);
SELECT * FROM moe.chat_stream(NULL::jsonb);
SELECT count(*) FROM moe.generate_stream('VACUUM reclaims', max_tokens => 0);

-- through a cursor on the select list each token is computed when it is fetched
SELECT generated_tokens AS before FROM moe.status \gset
BEGIN;
DECLARE s CURSOR FOR SELECT (moe.generate_stream('Tell me a long story', max_tokens => 100, options => '{"ignore_eos": true}')).seq;
FETCH 5 FROM s;
SELECT generated_tokens - :before BETWEEN 5 AND 6 AS lazy, schedulers, sequences FROM moe.status;
FETCH 2 FROM s;
CLOSE s;
SELECT generated_tokens - :before <= 8 AS lazy, schedulers, sequences, kv_pages_used FROM moe.status;
COMMIT;

-- LIMIT ends the computation
SELECT generated_tokens AS before FROM moe.status \gset
SELECT count(*) FROM (SELECT moe.generate_stream('Tell me a long story', max_tokens => 100, options => '{"ignore_eos": true}') LIMIT 5) s;
SELECT generated_tokens - :before <= 6 AS lazy, schedulers, sequences, kv_pages_used FROM moe.status;

-- other calls, and a second stream, while a stream is open
BEGIN;
DECLARE s CURSOR FOR SELECT piece FROM (SELECT (moe.generate_stream('VACUUM reclaims', max_tokens => 6)).*) x;
DECLARE t CURSOR FOR SELECT piece FROM (SELECT (moe.generate_stream('An index', max_tokens => 6)).*) x;
FETCH 1 FROM s;
FETCH 1 FROM t;
SELECT moe.chat('What is the capital of France?');
FETCH 1 FROM s;
FETCH 1 FROM t;
SELECT schedulers > 0 AS open FROM moe.status;
COMMIT;
SELECT schedulers, sequences, kv_pages_used FROM moe.status;

-- an aborted transaction, and a rolled-back savepoint, end their streams
BEGIN;
DECLARE s CURSOR FOR SELECT moe.generate_stream('VACUUM reclaims', max_tokens => 50);
MOVE 2 FROM s;
ROLLBACK;
SELECT schedulers, sequences, kv_pages_used FROM moe.status;
BEGIN;
SAVEPOINT a;
DECLARE s CURSOR FOR SELECT moe.generate_stream('VACUUM reclaims', max_tokens => 50);
MOVE 2 FROM s;
ROLLBACK TO a;
SELECT schedulers, sequences, kv_pages_used FROM moe.status;
COMMIT;

-- one stream per row
SELECT i, count(*) FROM (SELECT i, moe.generate_stream('An index', max_tokens => i) FROM generate_series(1, 3) i) s GROUP BY i ORDER BY i;

-- from PL/pgSQL, left early
DO $$
DECLARE
    r record;
    n int := 0;
BEGIN
    FOR r IN SELECT moe.generate_stream('VACUUM reclaims', max_tokens => 30) LOOP
        n := n + 1;
        EXIT WHEN n = 3;
    END LOOP;
END
$$;
SELECT schedulers, sequences, kv_pages_used FROM moe.status;
