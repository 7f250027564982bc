-- Calls for many rows are computed together
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_moe;
RESET client_min_messages;

CREATE TABLE docs (id int PRIMARY KEY, kind text, body text, emb real[]);
INSERT INTO docs
SELECT i, (ARRAY['a', 'b', 'c'])[1 + i % 3],
       CASE WHEN i = 5 THEN NULL ELSE 'Text ' || i % 8 END FROM generate_series(1, 12) i;
ANALYZE docs;
CREATE SEQUENCE evaluated;
CREATE FUNCTION counted(t text) RETURNS text LANGUAGE sql STABLE AS
    $$ SELECT CASE WHEN nextval('public.evaluated') > 0 THEN t END $$;

-- How many batching nodes a plan has
CREATE FUNCTION nodes(query text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    plan text;
BEGIN
    EXECUTE 'EXPLAIN (COSTS OFF, FORMAT JSON) ' || query INTO plan;
    RETURN (SELECT count(*) FROM regexp_matches(plan, 'MoeBatch', 'g'));
END $$;

-- The rows of a query, in their order
CREATE FUNCTION rows_of(query text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    r record;
    result text[] = '{}';
BEGIN
    FOR r IN EXECUTE query LOOP
        result = result || r::text;
    END LOOP;
    RETURN result;
END $$;

-- A query with batches and without
CREATE FUNCTION compare(query text, OUT nodes int, OUT nodes_off int, OUT n_rows int, OUT differences int)
LANGUAGE plpgsql AS $$
DECLARE
    batched text[];
    plain text[];
BEGIN
    SET LOCAL moe.batching = on;
    nodes = nodes(query);
    batched = rows_of(query);
    SET LOCAL moe.batching = off;
    nodes_off = nodes(query);
    plain = rows_of(query);
    SET LOCAL moe.batching = on;
    n_rows = cardinality(plain);
    differences = (SELECT count(*) FROM unnest(batched, plain) AS p(a, b) WHERE a IS DISTINCT FROM b);
END $$;

-- What the batching nodes of a query counted
CREATE FUNCTION counters(query text, OUT inputs int, OUT "distinct" int, OUT failed int)
LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, FORMAT JSON) ' || query INTO plan;
    SELECT sum((n ->> 'Inputs')::int), sum((n ->> 'Distinct Inputs')::int), sum((n ->> 'Failed Inputs')::int)
      INTO inputs, "distinct", failed
      FROM jsonb_path_query(plan::jsonb, 'strict $.** ? (@."Custom Plan Provider" == "MoeBatch")') n;
END $$;

-- ----------
-- Plans
-- ----------
EXPLAIN (COSTS OFF) SELECT id, moe.embed(body) FROM docs;
EXPLAIN (VERBOSE, COSTS OFF)
SELECT id, length(moe.generate(body, max_tokens => 2)) FROM docs
 WHERE id > 3 AND moe.embed(body) IS NOT NULL AND moe.generate(body, max_tokens => 1) <> 'x';
EXPLAIN (COSTS OFF) UPDATE docs SET emb = moe.embed(body) WHERE id > 3;
EXPLAIN (COSTS OFF) INSERT INTO docs SELECT id + 100, kind, body, moe.embed(body) FROM docs;
EXPLAIN (COSTS OFF) SELECT kind, avg(length(moe.generate(body, max_tokens => 2))) FROM docs GROUP BY kind;
EXPLAIN (COSTS OFF) SELECT moe.embed(moe.generate(body, max_tokens => 2)) FROM docs ORDER BY id LIMIT 2;
EXPLAIN (COSTS OFF) SELECT id, moe.generate(body, max_tokens => 2) AS g FROM docs ORDER BY g;
SELECT replace(regexp_replace(line, '(Steps:|Cache:) .*', '\1 ...'), '.00 ', ' ') AS line
  FROM unnest(rows_of('EXPLAIN (ANALYZE, BUFFERS OFF, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT id, moe.embed(body) FROM docs')) line
 WHERE line !~ 'Prompt Tokens';
-- what it tells of the expert cache is what the cache's own counters say
CREATE FUNCTION expert_uses(query text, OUT hits_untold int, OUT misses_untold int, OUT hits boolean, OUT misses boolean)
LANGUAGE plpgsql AS $$
DECLARE
    before record;
    plan json;
BEGIN
    SELECT coalesce(sum(c.hits), 0) AS hits, coalesce(sum(c.misses), 0) AS misses INTO before FROM moe.weight_cache c WHERE model = 'pocket';
    EXECUTE 'EXPLAIN (ANALYZE, FORMAT JSON) ' || query INTO plan;
    SELECT c.hits - before.hits - told.hits, c.misses - before.misses - told.misses, told.hits > 0, told.misses > 0
      INTO hits_untold, misses_untold, hits, misses
      FROM moe.weight_cache c,
           (SELECT (n ->> 'Expert Cache Hits')::int AS hits, (n ->> 'Expert Cache Misses')::int AS misses
              FROM jsonb_path_query(plan::jsonb, 'strict $.** ? (@."Custom Plan Provider" == "MoeBatch")') n) told
     WHERE c.model = 'pocket';
END $$;
SELECT units > 0 AS evicted FROM moe.evict('pocket');
SELECT * FROM expert_uses('SELECT id, moe.generate(body, max_tokens => id) FROM docs');
SELECT * FROM expert_uses('SELECT id, moe.generate(body, max_tokens => id) FROM docs');
SELECT count(*) FROM unnest(rows_of('EXPLAIN (ANALYZE, COSTS OFF) SELECT id, moe.embed(body) FROM docs')) line
 WHERE line ~ 'Queue Wait: .* ms  Compute: .* ms';
SET moe.batching = off;
EXPLAIN (COSTS OFF) SELECT id, moe.embed(body) FROM docs;
RESET moe.batching;
-- what is disabled, as EXPLAIN says from 18 on, is so with the node as without
SET enable_seqscan = off;
SELECT count(*) AS n FROM unnest(rows_of('EXPLAIN SELECT id, moe.embed(body) FROM docs LIMIT 2')) line WHERE line ~ 'Disabled' \gset with_
SET moe.batching = off;
SELECT count(*) AS n FROM unnest(rows_of('EXPLAIN SELECT id, moe.embed(body) FROM docs LIMIT 2')) line WHERE line ~ 'Disabled' \gset without_
SELECT :with_n = :without_n AS same;
RESET moe.batching;
RESET enable_seqscan;
-- without rows, or row by row by nature
SELECT nodes($$SELECT moe.embed('a')$$) AS one_row,
       nodes($$SELECT id, (SELECT moe.embed('a')) FROM docs$$) AS initplan,
       nodes($$SELECT (moe.generate_stream(body, max_tokens => 1)).piece FROM docs$$) AS stream,
       nodes($$INSERT INTO docs VALUES (1000, 'a', 'x', moe.embed('a')) RETURNING moe.embed(body)$$) AS returning;

-- ----------
-- The same rows as without
-- ----------
CREATE TABLE queries (id serial, query text);
INSERT INTO queries (query) VALUES
    ($$SELECT id, moe.embed(body) FROM docs$$),
    ($$SELECT id, moe.embed_as(body, NULL::float8[]), moe.embed(body, kind => 'query') FROM docs$$),
    ($$SELECT id, moe.embed(moe.tokenize(body)) FROM docs$$),
    ($$SELECT id, moe.embed(body)::float8[] FROM docs$$),
    ($$SELECT id, (moe.embed(body))[1:3], upper(moe.generate(body, max_tokens => 2)) || kind FROM docs$$),
    ($$SELECT id, moe.generate(body, max_tokens => id % 3), moe.generate(moe.tokenize(body), max_tokens => 2) FROM docs$$),
    ($$SELECT id, moe.chat(body, max_tokens => 2), moe.chat(('[{"role": "user", "content": "' || kind || '"}]')::json, max_tokens => 2) FROM docs$$),
    ($$SELECT id, moe.chat_full(body, max_tokens => 2) - 'usage' FROM docs$$),
    ($$SELECT id, moe.generate(body, max_tokens => 3, temperature => 1, seed => id) FROM docs$$),
    ($$SELECT id, moe.generate(body, max_tokens => 8, stop => ARRAY[kind]) FROM docs$$),
    ($$SELECT id, moe.generate(body, options => jsonb_build_object('max_tokens', id % 4)) FROM docs$$),
    ($$SELECT id, moe.generate(moe.generate(body, max_tokens => 3), max_tokens => 2) FROM docs WHERE body IS NOT NULL$$),
    ($$SELECT id, moe.generate('Hello', max_tokens => 2) FROM docs$$),
    -- conditions
    ($$SELECT id FROM docs WHERE length(moe.generate(body, max_tokens => 2)) > 3$$),
    ($$SELECT id, moe.embed(body) FROM docs WHERE (moe.embed(body))[1] > 0 AND kind <> 'a'$$),
    ($$SELECT id, CASE kind WHEN 'a' THEN moe.generate(body, max_tokens => 2) WHEN 'b' THEN 'b' ELSE moe.chat(body, max_tokens => 2) END FROM docs$$),
    ($$SELECT id, CASE WHEN kind = 'a' THEN moe.generate(nullif(repeat(body, 9 * (kind <> 'a')::int), ''), max_tokens => 2) WHEN moe.generate(body, max_tokens => 1) IS NULL THEN 'null' END FROM docs$$),
    ($$SELECT id, coalesce(emb, moe.embed(body), moe.embed(kind)) FROM docs$$),
    ($$SELECT id, kind = 'a' AND moe.generate(body, max_tokens => 2) ~ 'a', kind = 'a' OR moe.generate(body, max_tokens => 2) ~ 'a' FROM docs$$),
    ($$SELECT id FROM docs WHERE kind = 'a' OR moe.generate(body, max_tokens => 2) ~ 'a'$$),
    ($$SELECT id, (ARRAY['a', 'b', 'c'])[length(moe.generate(body, max_tokens => 1)) % 3 + 1] FROM docs$$),
    ($$SELECT id, ROW(moe.generate(body, max_tokens => 1), 1) < ROW('b', 2) FROM docs$$),
    ($$SELECT id, moe.generate(body, max_tokens => 1) IN ('a', ' is'), moe.generate(body, max_tokens => 1) = ANY (ARRAY[body, 'x']) FROM docs$$),
    -- order
    ($$SELECT id, moe.generate(body, max_tokens => 2) AS g FROM docs ORDER BY g, id$$),
    ($$SELECT id, moe.generate(body, max_tokens => 2) AS g FROM docs ORDER BY g DESC, id LIMIT 3$$),
    ($$SELECT id, moe.generate(body, max_tokens => 2) FROM docs ORDER BY id DESC LIMIT 3 OFFSET 2$$),
    ($$SELECT id, moe.generate(body, max_tokens => 2) FROM docs ORDER BY kind FETCH FIRST 2 ROWS WITH TIES$$),
    ($$SELECT DISTINCT moe.generate(body, max_tokens => 2) AS g FROM docs ORDER BY g$$),
    ($$SELECT DISTINCT ON (kind) kind, moe.generate(body, max_tokens => 2) FROM docs ORDER BY kind, id$$),
    -- aggregates, windows, sets
    ($$SELECT avg(length(moe.generate(body, max_tokens => 2))) FROM docs$$),
    ($$SELECT kind, string_agg(moe.generate(body, max_tokens => 2), ',' ORDER BY id) FILTER (WHERE id > 2) FROM docs GROUP BY kind ORDER BY kind$$),
    ($$SELECT kind, count(DISTINCT moe.generate(body, max_tokens => 2)) FROM docs GROUP BY GROUPING SETS ((kind), ()) ORDER BY kind$$),
    ($$SELECT moe.generate(body, max_tokens => 2) AS g, count(*) FROM docs GROUP BY g ORDER BY g$$),
    ($$SELECT kind, moe.generate(string_agg(body, ' ' ORDER BY id), max_tokens => 2) FROM docs GROUP BY kind HAVING moe.generate(max(body), max_tokens => 1) <> 'x' ORDER BY kind$$),
    ($$SELECT id, lag(moe.generate(body, max_tokens => 2)) OVER (PARTITION BY kind ORDER BY id) FROM docs ORDER BY id$$),
    ($$SELECT id, moe.generate(body || row_number() OVER (ORDER BY id), max_tokens => 2) FROM docs ORDER BY id$$),
    ($$SELECT id, (unnest(moe.embed(body)) > 0)::int FROM docs WHERE id < 4$$),
    ($$SELECT id, generate_series(1, 2), moe.generate(body, max_tokens => 1) FROM docs$$),
    ($$SELECT id, regexp_split_to_table(moe.generate(body, max_tokens => 4), ' ') FROM docs$$),
    -- joins, subqueries, CTEs
    ($$SELECT a.id, b.id FROM docs a JOIN docs b ON a.id < b.id AND moe.generate(a.body || b.body, max_tokens => 1) ~ '[0-4]' WHERE a.id < 4 ORDER BY 1, 2$$),
    ($$SELECT a.id, b.g FROM docs a LEFT JOIN (SELECT id, moe.generate(body, max_tokens => 2) AS g FROM docs WHERE kind = 'a') b USING (id) ORDER BY 1$$),
    ($$SELECT a.id, b.id FROM docs a LEFT JOIN docs b ON b.id = a.id + 1 AND moe.generate(b.body, max_tokens => 1) ~ '[0-4]' ORDER BY 1, 2$$),
    ($$SELECT a.id FROM docs a WHERE EXISTS (SELECT FROM docs b WHERE b.id < a.id AND moe.generate(b.body || a.id, max_tokens => 1) ~ '[0-2]') ORDER BY 1$$),
    ($$SELECT a.id, (SELECT string_agg(moe.generate(b.body || a.id, max_tokens => 1), ',' ORDER BY b.id) FROM docs b WHERE b.id < a.id) FROM docs a WHERE a.id < 5 ORDER BY 1$$),
    ($$SELECT a.id, s.* FROM docs a, LATERAL (SELECT b.id, moe.generate(a.kind || b.kind, max_tokens => 1) FROM docs b WHERE b.id <= a.id ORDER BY b.id LIMIT 2) s WHERE a.id < 5 ORDER BY 1, 2$$),
    ($$WITH c AS MATERIALIZED (SELECT id, moe.generate(body, max_tokens => 2) AS g FROM docs) SELECT x.id, y.g FROM c x JOIN c y ON y.id = x.id + 1 ORDER BY 1$$),
    ($$WITH RECURSIVE r AS (SELECT id, 1 AS depth, body AS t FROM docs WHERE id < 4 UNION ALL SELECT id, depth + 1, t || moe.generate(t, max_tokens => 1) FROM r WHERE depth < 3) SELECT * FROM r$$),
    ($$SELECT id, moe.generate((SELECT max(b.body) FROM docs b WHERE b.kind = a.kind), max_tokens => 2) FROM docs a ORDER BY id$$),
    ($$SELECT id, moe.generate(body, max_tokens => 1) FROM docs WHERE kind = 'a' UNION ALL SELECT id, moe.chat(body, max_tokens => 1) FROM docs WHERE kind = 'b'$$),
    ($$SELECT v.t, moe.generate(v.t, max_tokens => 1) FROM (VALUES ('a'), ('b'), ('a')) v(t)$$),
    ($$SELECT moe.generate(t, max_tokens => 1) FROM unnest(ARRAY['a', 'b', NULL]) t$$),
    ($$SELECT docs, moe.generate(docs::text, max_tokens => 1), ctid, tableoid::regclass FROM docs WHERE id < 3$$);
SELECT id, nodes, nodes_off, n_rows > 0 AS rows, differences FROM queries, compare(query) AS c ORDER BY id;
-- the same with other joins and aggregates, and memory for a row at a time
CREATE FUNCTION sum_of_differences(ids int[] DEFAULT NULL) RETURNS bigint LANGUAGE sql AS
    'SELECT sum(differences) FROM queries, compare(query) WHERE ids IS NULL OR id = ANY (ids)';
SET enable_hashagg = off; SET enable_hashjoin = off; SET enable_nestloop = off; SET enable_material = off;
SELECT sum_of_differences(ARRAY[32, 33, 34, 42, 43, 48, 49]);
RESET enable_hashagg; RESET enable_hashjoin; RESET enable_nestloop; RESET enable_material;
-- a merge join goes back in its inner input
CREATE TEMP TABLE twice AS SELECT id % 3 + 1 AS k FROM docs WHERE id <= 6;
CREATE INDEX ON twice (k);
ANALYZE twice;
SET enable_hashjoin = off; SET enable_nestloop = off; SET enable_material = off; SET enable_sort = off; SET enable_seqscan = off; SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT a.k, b.g FROM twice a LEFT JOIN (SELECT k, coalesce((moe.embed(k::text))[1], 0) AS g FROM twice) b ON b.k = a.k ORDER BY a.k;
SELECT nodes, nodes_off, n_rows, differences FROM compare($$SELECT a.k, b.g FROM twice a LEFT JOIN (SELECT k, coalesce((moe.embed(k::text))[1], 0) AS g FROM twice) b ON b.k = a.k ORDER BY a.k$$);
-- other scans
SELECT nodes, nodes_off, n_rows > 0 AS rows, differences FROM compare($$SELECT id, moe.generate('Text ' || id, max_tokens => 1) FROM docs WHERE id < 6 AND moe.generate(id::text, max_tokens => 1) IS NOT NULL$$);
SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = on;
SELECT nodes, nodes_off, n_rows > 0 AS rows, differences FROM compare($$SELECT id, moe.generate(body, max_tokens => 1) FROM docs WHERE id < 6$$);
-- also through a node that only filters
SET enable_indexscan = on; SET enable_indexonlyscan = on; SET enable_bitmapscan = off;
SELECT nodes, nodes_off, n_rows, differences FROM compare($$SELECT a.k, b.k FROM twice a LEFT JOIN (SELECT k FROM twice WHERE moe.generate(k::text, max_tokens => 1) IS NOT NULL AND now() > '2020-01-01') b ON b.k = a.k ORDER BY a.k$$);
RESET enable_hashjoin; RESET enable_nestloop; RESET enable_material; RESET enable_sort; RESET enable_seqscan; RESET enable_bitmapscan;
RESET enable_indexscan; RESET enable_indexonlyscan;
DROP TABLE twice;
SET work_mem = '64kB';
SELECT sum_of_differences(ARRAY[1, 5, 30, 40]);
RESET work_mem;

-- ----------
-- Inputs
-- ----------
-- 7 texts in 11 rows
SELECT * FROM counters($$SELECT moe.embed(body) FROM docs ORDER BY id LIMIT 12$$);
SELECT * FROM counters($$SELECT moe.generate(body, max_tokens => 1) FROM docs ORDER BY id LIMIT 12$$);
-- random ones are independent, seeded ones are not
SELECT * FROM counters($$SELECT moe.generate(body, max_tokens => 1, temperature => 1) FROM docs ORDER BY id LIMIT 12$$);
SELECT * FROM counters($$SELECT moe.generate(body, max_tokens => 1, temperature => 1, seed => 1) FROM docs ORDER BY id LIMIT 12$$);
SELECT count(DISTINCT moe.generate('The', max_tokens => 8, temperature => 2)) > 1 AS samples,
       count(DISTINCT moe.generate('The', max_tokens => 8, temperature => 2, seed => 1)) AS seeded
  FROM generate_series(1, 8);
SELECT moe.generate('The', max_tokens => 8, temperature => 2) = moe.generate('The', max_tokens => 8, temperature => 2) AS same_twice
  FROM generate_series(1, 4) LIMIT 1;
-- other arguments, other answers
SELECT * FROM counters($$SELECT moe.generate('The', max_tokens => 4, stop => ARRAY[kind]) FROM docs ORDER BY id LIMIT 12$$);
-- equal calls of a row are one call; of two columns that hold the same texts, one request
SELECT * FROM counters($$SELECT (moe.embed(body))[1], (moe.embed(body))[2] FROM docs ORDER BY id LIMIT 12$$);
SELECT * FROM counters($$SELECT moe.embed(body), moe.embed(body || '') FROM docs ORDER BY id LIMIT 12$$);
-- only what is needed
SELECT * FROM counters($$SELECT CASE WHEN kind = 'a' THEN moe.embed(body) END, coalesce(kind, moe.generate(body)) FROM docs ORDER BY id LIMIT 12$$);
SELECT * FROM counters($$SELECT avg(length(moe.generate(body || id, max_tokens => 1))) FILTER (WHERE id <= 3) FROM docs$$);
SELECT * FROM counters($$SELECT id FROM docs WHERE id <= 3 AND moe.generate(body, max_tokens => 1) IS NULL AND moe.chat(body) = 'x'$$);

-- several models in one node, one of which is another's name
SELECT setting || '/pg_moe/pocket-q8_0.gguf' AS file FROM pg_config WHERE name = 'SHAREDIR' \gset
SET client_min_messages = warning;
SELECT moe.load_model('batch_second', :'file');
RESET client_min_messages;
SELECT nodes, nodes_off, n_rows > 0 AS rows, differences FROM compare($$SELECT id, moe.generate(body, CASE id % 2 WHEN 0 THEN 'batch_second' END, max_tokens => 2), moe.embed(body, 'batch_second') FROM docs$$);
SELECT moe.drop_model('batch_second');
-- a call whose argument makes batches of its own
CREATE FUNCTION texts_before(n int) RETURNS text LANGUAGE sql STABLE AS
    $$ SELECT string_agg(moe.generate(body, max_tokens => 1), ',' ORDER BY id) FROM docs WHERE id < n $$;
SELECT nodes, nodes_off, n_rows > 0 AS rows, differences FROM compare($$SELECT id, moe.embed(texts_before(id)) FROM docs WHERE id < 6$$);

-- ----------
-- LIMIT
-- ----------
CREATE FUNCTION evaluations(query text) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM setval('evaluated', 1);
    PERFORM rows_of(query);
    RETURN nextval('evaluated') - 2;
END $$;
SELECT evaluations($$SELECT moe.embed(counted(body)) FROM docs LIMIT 3$$) AS "3";
SELECT evaluations($$SELECT moe.embed(counted(body)) FROM docs LIMIT 3 OFFSET 1$$) AS "4";
SELECT evaluations($$SELECT moe.embed(counted(body)) FROM docs LIMIT 0$$) AS "0";
SELECT evaluations($$SELECT moe.embed(counted(body)) FROM docs LIMIT NULL$$) AS "12";
SELECT evaluations($$SELECT moe.embed(counted(body)) FROM docs ORDER BY id LIMIT 3$$) AS "3";
SELECT evaluations($$SELECT id FROM docs WHERE moe.embed(counted(coalesce(body, 'x'))) IS NOT NULL LIMIT 1$$) AS "1";
SELECT evaluations($$SELECT id FROM docs WHERE moe.embed(counted(coalesce(body, 'x'))) IS NOT NULL LIMIT 5$$) AS "7";
SELECT evaluations($$SELECT EXISTS (SELECT FROM docs WHERE moe.embed(counted(coalesce(body, 'x'))) IS NOT NULL)$$) AS "1";
SELECT evaluations($$SELECT id, moe.embed(counted(body)) FROM docs$$) AS "12";
PREPARE first_ones(int) AS SELECT moe.embed(counted(body)) IS NULL FROM docs LIMIT $1;
SET plan_cache_mode = force_generic_plan;
SELECT setval('evaluated', 1);
EXECUTE first_ones(2);
SELECT nextval('evaluated') - 2 AS "2";
EXPLAIN (COSTS OFF) EXECUTE first_ones(2);
SET moe.batching = off;
EXPLAIN (COSTS OFF) EXECUTE first_ones(2);
RESET moe.batching;
RESET plan_cache_mode;
-- who reads all needs no small batches
SELECT substring(line FROM 'Batches: \d+') FROM unnest(rows_of('EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT count(moe.embed(body)) FROM docs')) line
 WHERE line ~ 'Batches';
-- a sort below the node knows the limit too
SELECT line FROM unnest(rows_of('EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)
    SELECT id, moe.generate(body, max_tokens => 1) FROM docs ORDER BY kind, id LIMIT 2')) line WHERE line ~ 'Sort Method: top-N';
-- and where it differs from one rescan to the next
CREATE TABLE few AS SELECT i FROM generate_series(1, 3) i;
ANALYZE few;
SELECT nodes, nodes_off, n_rows, differences FROM compare($$SELECT n, (SELECT string_agg(id || g, ',') FROM few LEFT JOIN
    (SELECT id, moe.generate(body, max_tokens => 1) AS g FROM docs WHERE id <> 5 ORDER BY kind, id LIMIT nullif(n, 5)) s ON true WHERE i = 1)
    FROM unnest(ARRAY[1, 3, 5, 2]) n$$);
DROP TABLE few;


-- ----------
-- Volatile functions in arguments
-- ----------
-- they see what has been done for the rows before, and are not called for rows that nobody asks for
CREATE FUNCTION noted(t text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$ BEGIN RETURN 'x' || nextval('public.evaluated'); END $$;
CREATE TABLE copies (n bigint, e real[]);
CREATE FUNCTION copied() RETURNS text LANGUAGE sql VOLATILE AS 'SELECT ''x'' || count(*) FROM copies';
INSERT INTO copies SELECT id, moe.embed(copied()) FROM docs WHERE id < 5;
SELECT count(DISTINCT e), bool_and(e = moe.embed('x' || n - 1)) AS as_written FROM copies;
SELECT nodes($$SELECT moe.embed(noted(body)) FROM docs$$), nodes($$SELECT moe.embed('x' || nextval('evaluated')) FROM docs$$),
       nodes($$SELECT moe.embed(body || random() || clock_timestamp() || gen_random_uuid()) FROM docs$$) AS harmless;
SELECT evaluations($$SELECT id FROM docs WHERE moe.embed(noted(body)) IS NOT NULL LIMIT 5$$) AS "5";
DROP FUNCTION noted, copied;
DROP TABLE copies;

-- ----------
-- Errors
-- ----------
CREATE TABLE prompts (id int, t text, m jsonb);
INSERT INTO prompts VALUES (1, 'a', '[{"role": "user", "content": "hi"}]'), (2, '', '{}'),
    (3, repeat('word ', 1100), '[{"role": 1}]'), (4, NULL, NULL), (5, 'b', '[{"role": "user", "content": "hi"}]');
SELECT id, moe.generate(t, max_tokens => 1) FROM prompts;
SELECT id, moe.generate(t, max_tokens => 1) FROM prompts WHERE id <> 2;
-- of rows that nobody asks for, nothing is wrong
INSERT INTO prompts VALUES (0, 'x'), (-1, 'y');
SELECT id FROM (SELECT * FROM prompts ORDER BY id OFFSET 0) p WHERE (moe.generate(t, max_tokens => 1) IS NOT NULL OR id IS NULL) LIMIT 3;
BEGIN;
DECLARE c CURSOR FOR SELECT id, moe.generate(t, max_tokens => 1) IS NULL AS n FROM prompts WHERE id IN (-1, 0, 1, 2) ORDER BY id;
FETCH 3 FROM c;
FETCH 1 FROM c;
ROLLBACK;
DELETE FROM prompts WHERE id < 1;
SELECT id, moe.generate(t, max_tokens => 1, options => '{"on_error": "null"}') IS NULL AS "null",
       moe.embed(t, options => '{"on_error": "null"}') IS NULL AS embed,
       moe.chat(m, max_tokens => 1, options => '{"on_error": "null"}') IS NULL AS chat FROM prompts;
SELECT nodes, nodes_off, n_rows > 0 AS rows, differences FROM compare($$SELECT id, moe.generate(t, max_tokens => 1, options => '{"on_error": "null"}'), moe.embed(t, options => '{"on_error": "null"}'),
    moe.chat(m, max_tokens => 1, options => '{"on_error": "null"}') FROM prompts$$);
SELECT * FROM counters($$SELECT id, moe.generate(t, max_tokens => 1, options => '{"on_error": "null"}') FROM prompts$$);
SELECT ordinality, result IS NULL AS "null" FROM moe.generate(ARRAY['a', '', 'b'], max_tokens => 1, options => '{"on_error": "null"}');
SELECT moe.embed('{1,NULL}'::int[], options => '{"on_error": "null"}') IS NULL AS "null";
-- equal inputs of which one may not be wrong
SELECT moe.embed(t, options => '{"on_error": "null"}'), moe.embed(t) FROM (VALUES ('{1,999999}'::int[]), ('{1}')) v(t);
-- what is wrong with the statement stays an error
SELECT id, moe.generate(t, 'pocet', options => '{"on_error": "null"}') FROM prompts;
SELECT id, moe.generate(t, options => '{"on_error": "nil"}') FROM prompts;
SELECT (moe.generate_stream(t, options => '{"on_error": "null"}')).piece FROM prompts;
SELECT schedulers, sequences, kv_pages_used FROM moe.status;

-- ----------
-- Writing
-- ----------
UPDATE docs SET emb = moe.embed(body);
SELECT count(*) FROM docs WHERE emb IS DISTINCT FROM (SELECT moe.embed(body));
UPDATE docs SET kind = moe.generate(body, max_tokens => 1) WHERE (moe.embed(body))[1] > 0 RETURNING id, kind = moe.generate(body, max_tokens => 1) AS same;
UPDATE docs SET kind = (ARRAY['a', 'b', 'c'])[1 + id % 3];
CREATE TABLE copy AS SELECT id, moe.embed(body) AS e FROM docs;
SELECT count(*) FROM docs JOIN copy USING (id) WHERE e IS DISTINCT FROM emb;
TRUNCATE copy;
INSERT INTO copy SELECT id, moe.embed(body) FROM docs WHERE body IS NOT NULL;
SELECT count(*) FROM docs JOIN copy USING (id) WHERE e IS DISTINCT FROM emb;
BEGIN;
UPDATE docs d SET (kind, emb) = (SELECT max(b.kind), moe.embed(max(b.kind)) FROM docs b WHERE b.id < d.id), body = moe.generate(body, max_tokens => 1);
SELECT count(*) FROM docs WHERE emb IS DISTINCT FROM (SELECT moe.embed(kind));
ROLLBACK;
COPY (SELECT id, length(moe.generate(body, max_tokens => 0)) FROM docs ORDER BY id LIMIT 5) TO STDOUT;
DELETE FROM copy WHERE (SELECT (moe.embed(body))[1] > 0 FROM docs WHERE docs.id = copy.id);
MERGE INTO copy USING (SELECT id, moe.embed(body) AS e FROM docs WHERE body IS NOT NULL) s ON s.id = copy.id
 WHEN MATCHED THEN UPDATE SET e = s.e WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.e);
SELECT count(*) AS rows, count(*) FILTER (WHERE e IS DISTINCT FROM emb) AS wrong FROM docs JOIN copy USING (id);
MERGE INTO copy USING docs ON docs.id = copy.id WHEN MATCHED THEN UPDATE SET e = moe.embed(docs.body);
INSERT INTO copy VALUES (1000, moe.embed('a')) ON CONFLICT DO NOTHING;
DROP TABLE copy;

-- memory, in MB, that this process holds
CREATE FUNCTION resident() RETURNS int LANGUAGE sql AS $$
    SELECT substring(pg_read_file('/proc/self/status') FROM 'RssAnon:\s*(\d+)')::int / 1024 $$;
-- the engine has nothing to do for no tokens
SELECT count(moe.generate('Text ' || i, max_tokens => 0)) FROM generate_series(1, 20000) i;
SELECT resident() AS before \gset
SELECT count(moe.generate('Text ' || i, max_tokens => 0)) FROM generate_series(1, 100000) i;
SELECT resident() - :before < 16 AS flat;

-- triggers and generated columns compute row by row, also under COPY
SELECT digest FROM moe.models WHERE name = 'pocket' \gset
SELECT format('CREATE TABLE notes (id int, body text, emb real[] GENERATED ALWAYS AS (moe.embed_pinned(body, %L)) STORED, t text)', :'digest') \gexec
CREATE FUNCTION describe() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.t = moe.generate(NEW.body, max_tokens => 1); RETURN NEW; END $$;
CREATE TRIGGER describe BEFORE INSERT OR UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION describe();
COPY notes (id, body) FROM STDIN;
1	one
2	two
3	\N
\.
INSERT INTO notes (id, body) SELECT 4, moe.generate(body, max_tokens => 1) FROM docs WHERE id = 1;
UPDATE notes SET body = moe.generate(body, max_tokens => 2) WHERE id <= 2;
SELECT id, emb IS NOT DISTINCT FROM (SELECT moe.embed(body)) AS emb,
       t IS NOT DISTINCT FROM (SELECT moe.generate(body, max_tokens => 1)) AS t FROM notes ORDER BY id;
SELECT nodes, nodes_off, n_rows > 0 AS rows, differences FROM compare(format('SELECT id, moe.embed_pinned(body, %L), moe.embed_pinned(body, NULL) FROM notes', :'digest'));
ALTER TABLE notes DROP COLUMN emb;
CREATE OR REPLACE FUNCTION describe() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.t = moe.generate(NEW.body, max_tokens => 0); RETURN NEW; END $$;
COPY notes (body) FROM PROGRAM 'seq 1 1000';
SELECT resident() AS before \gset
COPY notes (body) FROM PROGRAM 'seq 1 10000';
SELECT resident() - :before < 16 AS flat;
DROP TABLE notes;

-- ----------
-- Cursors
-- ----------
BEGIN;
SELECT setval('evaluated', 1);
DECLARE c CURSOR FOR SELECT id, moe.embed(counted(body)) IS NULL AS n FROM docs ORDER BY id;
FETCH 2 FROM c;
SELECT nextval('evaluated') - 2 AS "3";
-- nothing is held while rows are handed out
SELECT schedulers, sequences FROM moe.status;
FETCH BACKWARD 1 FROM c;
FETCH 4 FROM c;
MOVE ABSOLUTE 5 IN c;
FETCH 1 FROM c;
CLOSE c;
DECLARE c NO SCROLL CURSOR FOR SELECT id, moe.generate(body, max_tokens => 1) IS NULL AS n FROM docs;
FETCH 1 FROM c;
FETCH BACKWARD 1 FROM c;
ROLLBACK;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT id, moe.generate(body, max_tokens => 1) IS NULL AS n FROM docs;
FETCH LAST FROM c;
FETCH FIRST FROM c;
DECLARE u CURSOR FOR SELECT id, moe.generate(body, max_tokens => 1) IS NULL AS n FROM docs WHERE id > 10 FOR UPDATE;
FETCH 1 FROM u;
UPDATE docs SET kind = 'u' WHERE CURRENT OF u RETURNING id;
ROLLBACK;

-- ----------
-- Partitions, inheritance, parallel scans
-- ----------
CREATE TABLE parts (id int, body text, emb real[]) PARTITION BY RANGE (id);
CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (5);
CREATE TABLE parts2 (emb real[], body text, id int);
ALTER TABLE parts ATTACH PARTITION parts2 FOR VALUES FROM (5) TO (100);
INSERT INTO parts SELECT id, body FROM docs;
SELECT nodes, nodes_off, n_rows > 0 AS rows, differences FROM compare($$SELECT id, moe.embed(body) FROM parts ORDER BY id$$);
SELECT nodes, nodes_off, n_rows > 0 AS rows, differences FROM compare($$SELECT id FROM parts WHERE (moe.embed(body))[1] > 0 ORDER BY id$$);
UPDATE parts SET emb = moe.embed(body), id = CASE id WHEN 1 THEN 50 ELSE id END;
SELECT count(*) FROM parts WHERE emb IS DISTINCT FROM (SELECT moe.embed(body));
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT id, moe.generate(body, max_tokens => 1) FROM docs WHERE id % 2 = 0;
SELECT nodes, nodes_off, n_rows > 0 AS rows, differences FROM compare($$SELECT id, moe.generate(body, max_tokens => 1) FROM docs WHERE id % 2 = 0 ORDER BY id$$);
SELECT nodes, nodes_off, n_rows > 0 AS rows, differences FROM compare($$SELECT kind, count(*), sum(length(moe.generate(body, max_tokens => 1))) FROM docs GROUP BY kind ORDER BY kind$$);
-- "force_parallel_mode" up to PostgreSQL 15, later "debug_parallel_query"
SELECT name AS parallel_mode FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query') \gset
SET :"parallel_mode" = on;
SELECT sum_of_differences(ARRAY[1, 14, 30, 40, 45]);
RESET :"parallel_mode";
RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size;
RESET max_parallel_workers_per_gather;

-- ----------
-- Rights
-- ----------
CREATE ROLE regress_moe_batch;
GRANT SELECT ON docs TO regress_moe_batch;
CREATE FUNCTION leak(t text) RETURNS bool LANGUAGE plpgsql COST 1 AS $$ BEGIN RAISE NOTICE 'saw %', t; RETURN true; END $$;
CREATE FUNCTION shown(t text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'showed %', t; RETURN t; END $$;
CREATE VIEW own WITH (security_barrier) AS SELECT id, kind, body FROM docs WHERE kind = 'b' AND id < 8;
GRANT SELECT ON own TO regress_moe_batch;
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
CREATE POLICY kind_c ON docs TO regress_moe_batch
    USING (kind = 'c' AND length(moe.generate(body, max_tokens => 0)) > id - 6);
SELECT id, length(moe.generate(body, max_tokens => 0)) > id - 6 AS visible FROM docs WHERE kind = 'c' ORDER BY id;
SET ROLE regress_moe_batch;
SET client_min_messages = notice;
-- what a policy or a view hides is neither seen by functions nor shown to models
SELECT id FROM own WHERE leak(body) AND moe.generate(shown(body), max_tokens => 1) IS NOT NULL ORDER BY id;
SELECT id FROM docs WHERE leak(body) ORDER BY id;
SELECT id, moe.generate(body, max_tokens => 1) IS NULL AS n FROM docs WHERE moe.embed('a') IS NOT NULL AND leak(id::text) ORDER BY id;
EXPLAIN (COSTS OFF) SELECT id FROM docs WHERE leak(body) AND moe.embed(body) IS NOT NULL;
RESET ROLE;
REVOKE EXECUTE ON FUNCTION moe.embed(text, text, text, jsonb) FROM PUBLIC;
SET ROLE regress_moe_batch;
SELECT id, moe.embed(body) FROM own;
RESET ROLE;
GRANT EXECUTE ON FUNCTION moe.embed(text, text, text, jsonb) TO PUBLIC;
ALTER TABLE docs DISABLE ROW LEVEL SECURITY;
-- a function with settings of its own is called as it is
ALTER FUNCTION moe.embed(text, text, text, jsonb) SET work_mem = '1MB';
SELECT nodes($$SELECT moe.embed(body) FROM docs$$);
ALTER FUNCTION moe.embed(text, text, text, jsonb) RESET ALL;
SELECT nodes($$SELECT moe.embed(body) FROM docs$$);

-- ----------
-- Sessions and memory
-- ----------
-- the first statement of a session
\c
EXPLAIN (COSTS OFF) SELECT moe.embed(body) FROM docs;
DROP ROLE IF EXISTS regress_moe_none;
DO $$
DECLARE
    n int;
BEGIN
    FOR i IN 1 .. 3 LOOP
        SELECT count(moe.generate(body, max_tokens => i)) INTO n FROM docs;
        RAISE NOTICE '%', n;
    END LOOP;
END $$;

DROP VIEW own;
DROP TABLE docs, prompts, parts, queries;
DROP FUNCTION nodes, rows_of, compare, counters, evaluations, sum_of_differences, counted, leak, shown, describe, resident, texts_before;
DROP SEQUENCE evaluated;
DROP ROLE regress_moe_batch;
