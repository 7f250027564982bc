-- Embeddings in the columns and indexes of pgvector, where that is installed
SELECT count(*) = 0 AS absent FROM pg_available_extensions WHERE name = 'vector' \gset
\if :absent
\echo 'skipped: the extension "vector" is not available'
\quit
\endif
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_moe;
CREATE SCHEMA regress_moe_vector;
CREATE EXTENSION vector SCHEMA regress_moe_vector;
RESET client_min_messages;
SET search_path = regress_moe_vector;

CREATE TABLE docs (id int PRIMARY KEY, body text);
INSERT INTO docs VALUES
    (1, 'VACUUM reclaims storage occupied by dead tuples.'),
    (2, 'An index speeds up queries.'),
    (3, 'The cat sleeps on the sofa.'),
    (4, 'Heavy rain is expected tomorrow.'),
    (5, NULL);

-- the assignment casts
ALTER TABLE docs ADD COLUMN v vector(256);
EXPLAIN (COSTS OFF) UPDATE docs SET v = moe.embed(body);
UPDATE docs SET v = moe.embed(body);
SELECT id, v::real[] = moe.embed(body) AS same, v = moe.embed_as(body, NULL::vector) AS as_vector FROM docs ORDER BY id;
SELECT pg_typeof(moe.embed_as('hello', NULL::vector)), vector_dims(moe.embed_as('hello', NULL::vector)) AS n;

-- a search without an index and with one
SELECT body FROM docs ORDER BY v <=> moe.embed_as('The weather will be sunny.', NULL::vector, kind => 'query') LIMIT 2;
CREATE INDEX docs_v ON docs USING hnsw (v vector_cosine_ops);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF)
SELECT body FROM docs ORDER BY v <=> moe.embed_as('The weather will be sunny.', NULL::vector, kind => 'query') LIMIT 2;
SELECT body FROM docs ORDER BY v <=> moe.embed_as('The weather will be sunny.', NULL::vector, kind => 'query') LIMIT 2;
PREPARE search(text) AS SELECT body FROM docs ORDER BY v <=> moe.embed_as($1, NULL::vector) LIMIT 1;
SET plan_cache_mode = force_generic_plan;
EXECUTE search('The weather will be sunny.');
EXECUTE search('Remove dead rows and free disk space.');
RESET plan_cache_mode;
-- of each row's own text: one search per row
SELECT d.id, near.id AS nearest
  FROM docs d, LATERAL (SELECT id FROM docs ORDER BY v <=> moe.embed_as(d.body, NULL::vector) LIMIT 1) near
 WHERE d.body IS NOT NULL ORDER BY d.id;

-- a generated column, and an index on the call itself
SELECT digest FROM moe.models WHERE name = 'pocket' \gset
SELECT format('CREATE TABLE notes (body text, v vector(256) GENERATED ALWAYS AS (moe.embed_pinned(body, %L)) STORED)', :'digest') \gexec
INSERT INTO notes SELECT body FROM docs;
SELECT count(*) FROM notes JOIN docs USING (body, v);
CREATE INDEX notes_body ON notes USING hnsw ((moe.embed_pinned(body, :'digest')::vector(256)) vector_cosine_ops);
SELECT body FROM notes
 ORDER BY moe.embed_pinned(body, :'digest')::vector(256) <=> moe.embed_as('The weather will be sunny.', NULL::vector) LIMIT 1;

-- another number of dimensions is pgvector's error
ALTER TABLE docs ADD COLUMN w vector(3);
UPDATE docs SET w = moe.embed(body);

RESET enable_seqscan;
SET client_min_messages = warning;
DROP SCHEMA regress_moe_vector CASCADE;
