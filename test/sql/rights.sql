-- Who may do what
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_moe;
RESET client_min_messages;
SELECT setting || '/pg_moe/pocket-q8_0.gguf' AS file FROM pg_config WHERE name = 'SHAREDIR' \gset
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_moe_user;
DROP ROLE IF EXISTS regress_moe_loader;
RESET client_min_messages;
CREATE ROLE regress_moe_user;
CREATE ROLE regress_moe_loader;
GRANT pg_read_server_files TO regress_moe_loader;

-- anybody may use models and look, but not register, drop or write
SET ROLE regress_moe_user;
SELECT moe.generate('VACUUM reclaims', max_tokens => 2) IS NOT NULL AS usable;
SELECT name, file FROM moe.models;
SELECT schedulers FROM moe.status;
SELECT moe.load_model('mine', :'file');
SELECT moe.drop_model('pocket');
SELECT * FROM moe.model_catalog;
DELETE FROM moe.model_catalog;
-- nor take more of the machine than is granted
SET moe.threads = 64;
SET moe.kv_cache_size = '100GB';
SET moe.max_tokens_per_query = 0;
SET moe.weight_cache_size = '100GB';
SET moe.cpu_isa = 'scalar';
SET moe.default_model = 'pocket';
RESET moe.default_model;
RESET ROLE;

-- those who may read the server's files may register them
SET ROLE regress_moe_loader;
SELECT moe.load_model('mine', :'file') IS NOT NULL AS loaded;
SELECT name, file IS NOT NULL AS file FROM moe.models ORDER BY name;
SELECT moe.drop_model('mine') IS NOT NULL AS dropped;
RESET ROLE;

-- a role's limit of tokens
SET moe.max_tokens_per_query = 20;
SET ROLE regress_moe_user;
SELECT moe.generate('VACUUM reclaims', max_tokens => 4) IS NOT NULL AS within;
SELECT moe.generate('VACUUM reclaims', max_tokens => 40, options => '{"ignore_eos": true}');
-- it holds for a statement, not for a call
SELECT count(moe.generate('VACUUM reclaims', max_tokens => 4, options => '{"ignore_eos": true}')) FROM generate_series(1, 10);
SELECT moe.generate('VACUUM reclaims', max_tokens => 4) IS NOT NULL AS again;
RESET ROLE;
RESET moe.max_tokens_per_query;
SELECT schedulers, sequences, kv_pages_used FROM moe.status;

-- a search_path full of traps changes nothing
CREATE SCHEMA trap;
CREATE FUNCTION trap.pretty_count(bigint) RETURNS text LANGUAGE sql AS 'SELECT ''trapped''';
CREATE FUNCTION trap.textne(text, text) RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.textne);
SET search_path = trap, pg_catalog;
SELECT name, params, "default" FROM moe.models;
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA trap CASCADE;
RESET client_min_messages;

DROP ROLE regress_moe_user;
DROP ROLE regress_moe_loader;
