-- moe.next_tokens(), moe.score()
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_moe;
RESET client_min_messages;

SELECT count(*), min(rank), max(rank), bool_and(logprob <= 0) AS logprobs,
       array_agg(logprob ORDER BY rank) = array_agg(logprob ORDER BY logprob DESC) AS ordered,
       sum(exp(logprob)) <= 1.00001 AS a_distribution
  FROM moe.next_tokens('The capital of France is');
SELECT count(*) FROM moe.next_tokens('The capital of France is', k => 3);
SELECT count(*) FROM moe.next_tokens(moe.tokenize('The capital of France is'), k => 1);
-- all of the vocabulary, and no more
SELECT count(*), round(sum(exp(logprob::float8))::numeric, 3) AS total FROM moe.next_tokens('The', k => 1000000);

-- the likeliest is what greedy generation takes
SELECT (SELECT token_id FROM moe.next_tokens('VACUUM reclaims', k => 1))
       = (SELECT token_id FROM moe.generate_stream('VACUUM reclaims', max_tokens => 1)) AS same;

-- NULLs and errors
SELECT * FROM moe.next_tokens(NULL);
SELECT count(*) FROM moe.next_tokens('The', k => NULL);
SELECT * FROM moe.next_tokens('The', k => 0);

-- a likely and an unlikely completion
SELECT sum(logprob) > (SELECT sum(logprob) FROM moe.score('What does VACUUM do? VACUUM reclaims', ' purple elephants')) AS likelier
  FROM moe.score('What does VACUUM do? VACUUM reclaims', ' storage');
-- its rows are the completion's tokens
SELECT array_agg(token_id ORDER BY "position") = moe.tokenize(' storage occupied') AS tokens,
       min("position") = array_length(moe.tokenize('VACUUM reclaims', add_special => true), 1) + 1 AS position,
       string_agg(piece, '' ORDER BY "position") AS text, bool_and(rank >= 1) AS ranks
  FROM moe.score('VACUUM reclaims', ' storage occupied');
-- a rank of 1 is the likeliest token
SELECT s.rank = 1 AS first
  FROM moe.next_tokens('VACUUM reclaims', k => 1) n, moe.score('VACUUM reclaims', n.piece) s;

-- tokens: all but the first
SELECT count(*), min("position"), max("position") FROM moe.score(moe.tokenize('VACUUM reclaims storage', add_special => true));
SELECT * FROM moe.score('{5}'::int[]);
SELECT * FROM moe.score('{}'::int[]);
SELECT * FROM moe.score('a', NULL);
SELECT * FROM moe.score(NULL, 'a');
SELECT * FROM moe.score(NULL::int[]);
SELECT * FROM moe.score('a', '');
SELECT * FROM moe.score('{0,NULL}'::int[]);

SELECT schedulers, sequences, kv_pages_used FROM moe.status;
