-- moe.embed() and its relatives
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_moe;
RESET client_min_messages;

CREATE TEMP TABLE docs (id int, body text, first8 real[]);
INSERT INTO docs VALUES
    (1, $$VACUUM reclaims storage occupied by dead tuples.$$, '{-0.000916,-0.01583,-0.134272,-0.066118,0.035792,-0.112031,-0.00309,0.075915}'),
    (2, $$Remove dead rows and free disk space.$$, '{0.02412,-0.00246,-0.044589,-0.039064,-0.000953,-0.028179,0.04093,0.045925}'),
    (3, $$How do I create an index?$$, '{0.093856,-0.015147,-0.106501,0.036767,-0.063755,-0.02711,-0.095138,-0.062774}'),
    (4, $$An index speeds up queries.$$, '{0.037707,-0.002641,-0.063085,-0.036376,0.045695,-0.00942,-0.113052,-0.123882}'),
    (5, $$The cat sleeps on the sofa.$$, '{-0.032838,-0.079506,-0.039832,0.036421,0.032763,0.02879,-0.035392,0.046447}'),
    (6, $$A dog runs in the park.$$, '{-0.056737,-0.052656,-0.010837,-0.023073,-0.095549,-0.131015,0.08143,0.000416}'),
    (7, $$Add the garlic and stir the soup.$$, '{0.06242,-0.056858,0.015337,0.117785,-0.03188,0.025404,0.105259,0.039455}'),
    (8, $$The recipe needs two eggs.$$, '{0.013474,-0.009095,-0.038709,0.110567,-0.035464,0.029023,0.10818,0.099358}');

CREATE FUNCTION pg_temp.dot(a real[], b real[]) RETURNS float8 LANGUAGE sql AS
    'SELECT sum(x * y) FROM unnest(a, b) AS p(x, y)';

-- length 1, and near the reference (a model of unquantised weights)
SELECT id, array_length(e, 1) AS n, round(pg_temp.dot(e, e)::numeric, 4) AS norm,
       (SELECT bool_and(abs(a - b) < 0.01) FROM unnest(e[1:8], first8) AS p(a, b)) AS near
  FROM (SELECT id, first8, moe.embed(body) AS e FROM docs) s
 ORDER BY id;

-- what is alike is near
SELECT a.id, (SELECT b.id FROM docs b WHERE b.id <> a.id
               ORDER BY pg_temp.dot(moe.embed(a.body), moe.embed(b.body)) DESC LIMIT 1) AS nearest
  FROM docs a ORDER BY a.id;

-- a batch, tokens and single texts give the same bits
SELECT b.ordinality, b.result = moe.embed(d.body) AS same_alone,
       b.result = moe.embed(moe.tokenize(d.body, add_special => true)) AS same_by_tokens
  FROM moe.embed((SELECT array_agg(body ORDER BY id) FROM docs)) b
  JOIN docs d ON d.id = b.ordinality
 ORDER BY 1;
SELECT ordinality, result IS NULL AS is_null FROM moe.embed(ARRAY['a', NULL, 'b']) ORDER BY 1;
SELECT * FROM moe.embed('{}'::text[]);

-- NULLs
SELECT moe.embed(NULL) IS NULL AS text, moe.embed(NULL::int[]) IS NULL AS tokens,
       moe.embed('a', NULL, NULL, NULL) = moe.embed('a') AS defaults;

-- kinds
SELECT moe.embed('a', kind => 'query') = moe.embed('a', kind => 'passage') AS no_prefixes;
SELECT moe.embed('a', kind => 'document');
SELECT moe.embed('a', options => '{"add_special": false}') = moe.embed('a') AS same;

-- by digest
SELECT digest FROM moe.models WHERE name = 'pocket' \gset
SELECT moe.embed_pinned('hello', :'digest') = moe.embed('hello') AS bare,
       moe.embed_pinned('hello', 'sha256:' || :'digest') = moe.embed('hello') AS prefixed,
       moe.embed_pinned('hello', upper(:'digest'), 'query') = moe.embed('hello') AS upper,
       moe.embed_pinned(NULL, :'digest') IS NULL AS null;
SELECT moe.embed_pinned('hello', 'sha256:3f9a');
SELECT moe.embed_pinned('hello', repeat('0', 64));
SET moe.reproducible = off;
SELECT moe.embed_pinned('hello', (SELECT digest FROM moe.models WHERE name = 'pocket'));
RESET moe.reproducible;
-- fit for generated columns and expression indexes
SELECT format('CREATE TEMP TABLE notes (body text, emb real[] GENERATED ALWAYS AS (moe.embed_pinned(body, %L)) STORED)', :'digest') \gexec
INSERT INTO notes VALUES ('hello'), (NULL);
SELECT body, emb = moe.embed(body) AS same FROM notes ORDER BY body;
CREATE TEMP TABLE bad (body text, emb real[] GENERATED ALWAYS AS (moe.embed(body)) STORED);

-- as another type
SELECT pg_typeof(moe.embed_as('hello', NULL::real[])), moe.embed_as('hello', NULL::real[]) = moe.embed('hello') AS same;
SELECT pg_typeof(moe.embed_as('hello', NULL::float8[])), moe.embed_as('hello', NULL::float8[]) = moe.embed('hello')::float8[] AS same;
CREATE DOMAIN pg_temp.unit_vector AS real[] CHECK (array_length(VALUE, 1) = 256);
SELECT array_length(moe.embed_as('hello', NULL::pg_temp.unit_vector), 1) AS n;
SELECT moe.embed_as(NULL, NULL::real[]) IS NULL AS null;
SELECT moe.embed_as('hello', NULL::int);
CREATE TYPE pg_temp.boxed AS (v real[]);
CREATE FUNCTION pg_temp.box_it(real[]) RETURNS pg_temp.boxed LANGUAGE sql IMMUTABLE AS 'SELECT ROW($1)::pg_temp.boxed';
CREATE CAST (real[] AS pg_temp.boxed) WITH FUNCTION pg_temp.box_it(real[]) AS ASSIGNMENT;
SELECT (moe.embed_as('hello', NULL::pg_temp.boxed)).v = moe.embed('hello') AS same;
SELECT count(DISTINCT moe.embed_as(body, NULL::real[])) FROM docs;

-- a constant call is not repeated for each row when it is a subquery
SELECT prompt_tokens AS before FROM moe.status \gset
SELECT count(*) FROM docs WHERE pg_temp.dot(first8, (SELECT moe.embed('hello'))) IS NOT NULL;
SELECT prompt_tokens - :before = (SELECT array_length(moe.tokenize('hello', add_special => true), 1)) AS once FROM moe.status;

-- a costly call comes last in a WHERE clause
EXPLAIN (COSTS OFF) SELECT * FROM docs WHERE moe.embed(body) IS NOT NULL AND id < 3;

SELECT schedulers, sequences, kv_pages_used FROM moe.status;
