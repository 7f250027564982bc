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

-- anybody may use the built-in model and look, but not register, drop, grant or write
SET ROLE regress_moe_user;
SELECT moe.generate('VACUUM reclaims', max_tokens => 2) IS NOT NULL AS usable;
SELECT name, file FROM moe.models;
SELECT schedulers FROM moe.status;
SELECT moe.load_model('mine', :'file');
SELECT moe.drop_model('pocket');
SELECT moe.grant_model('pocket', 'public');
SELECT moe.revoke_model('pocket', 'public');
SELECT * FROM moe.model_catalog;
DELETE FROM moe.model_catalog;
SELECT * FROM moe.grant_catalog;
DELETE FROM moe.grant_catalog;
-- nor take more of the machine than is granted
SET moe.threads = 64;
SET moe.kv_cache_size = '100GB';
SET moe.max_tokens_per_query = 0;
SET moe.weight_cache_size = '100GB';
SET moe.cpu_isa = 'scalar';
SET moe.max_backends = 0;
SET moe.default_model = 'pocket';
RESET moe.default_model;
RESET ROLE;

-- those who may read the server's files may register them
SET ROLE regress_moe_loader;
SELECT moe.load_model('mine', :'file') IS NOT NULL AS loaded;
SELECT name, file IS NOT NULL AS file FROM moe.models ORDER BY name;
-- and use them, as others may not
SELECT moe.generate('VACUUM reclaims', 'mine', 2) IS NOT NULL AS usable;
SET ROLE regress_moe_user;
SELECT name FROM moe.models;
SELECT moe.generate('VACUUM reclaims', 'mine', 2);
SELECT moe.tokenize('hello', 'mine');
SELECT moe.model_info('mine');
SELECT moe.generate('VACUUM reclaims', 'mime', 2);
SET moe.default_model = 'mine';
SELECT moe.embed('hello');
RESET moe.default_model;
-- with the same digest there is one that may be used
SELECT digest FROM moe.models WHERE name = 'pocket' \gset
SELECT moe.embed_pinned('hello', :'digest') IS NOT NULL AS usable;
RESET ROLE;

-- a grant to a role is one to its members
CREATE ROLE regress_moe_group;
CREATE ROLE regress_moe_outsider;
GRANT regress_moe_group TO regress_moe_user;
SET ROLE regress_moe_loader;
SELECT moe.grant_model('mine', 'regress_moe_group');
SELECT moe.grant_model('mine', 'regress_moe_group');
SELECT * FROM moe.model_grants ORDER BY role;
SET ROLE regress_moe_user;
SELECT name, file FROM moe.models ORDER BY name;
SELECT moe.generate('VACUUM reclaims', 'mine', 2) IS NOT NULL AS usable;
SELECT * FROM moe.model_grants;
SET ROLE regress_moe_outsider;
SELECT moe.generate('VACUUM reclaims', 'mine', 2);
SELECT * FROM moe.model_grants;
-- a function that runs with its owner's rights has its owner's models
RESET ROLE;
CREATE FUNCTION ask(text) RETURNS text LANGUAGE sql SECURITY DEFINER AS $$SELECT moe.generate($1, 'mine', 2)$$;
ALTER FUNCTION ask OWNER TO regress_moe_group;
SET ROLE regress_moe_outsider;
SELECT ask('VACUUM reclaims') IS NOT NULL AS usable;
RESET ROLE;
DROP FUNCTION ask;
-- a renamed role keeps it
ALTER ROLE regress_moe_group RENAME TO regress_moe_renamed;
SELECT * FROM moe.model_grants ORDER BY role;
-- it stays when the model is registered again, and when the transaction that revokes it fails
SELECT moe.load_model('mine', :'file', '{"replace": true, "query_prefix": "q: "}');
BEGIN;
SELECT moe.revoke_model('mine', 'regress_moe_renamed');
SELECT count(*) FROM moe.model_grants;
ROLLBACK;
SET ROLE regress_moe_user;
SELECT digest AS mine FROM moe.models WHERE name = 'mine' \gset
SELECT moe.embed_pinned('hello', :'mine') IS NOT NULL AS usable;
RESET ROLE;
SELECT moe.revoke_model('mine', 'regress_moe_renamed');
SELECT moe.revoke_model('mine', 'regress_moe_renamed');
SET ROLE regress_moe_user;
SELECT moe.embed('hello', 'mine');
SELECT moe.embed_pinned('hello', :'mine');
RESET ROLE;
-- public is everybody
SELECT moe.grant_model('mine', 'public');
SET ROLE regress_moe_outsider;
SELECT moe.generate('VACUUM reclaims', 'mine', 2) IS NOT NULL AS usable;
SELECT * FROM moe.model_grants;
RESET ROLE;
SELECT moe.revoke_model('mine', 'public');
-- what can't be granted
SELECT moe.grant_model('mine', 'regress_moe_nobody');
SELECT moe.grant_model('mime', 'regress_moe_user');
SELECT moe.grant_model('pocket', 'regress_moe_user');
SELECT moe.revoke_model('pocket', 'public');
SELECT moe.grant_model('mine', NULL);
-- a grant of a role that was dropped means nothing, and goes with the next change
SELECT moe.grant_model('mine', 'regress_moe_renamed');
DROP ROLE regress_moe_renamed;
SELECT count(*) FROM moe.grant_catalog;
SELECT * FROM moe.model_grants;
SELECT moe.grant_model('mine', 'regress_moe_user');
SELECT count(*) FROM moe.grant_catalog;
-- grants go with the model
SET ROLE regress_moe_loader;
SELECT moe.drop_model('mine') IS NOT NULL AS dropped;
RESET ROLE;
SELECT count(*) FROM moe.grant_catalog;
SELECT moe.load_model('mine', :'file');
SET ROLE regress_moe_user;
SELECT moe.embed('hello', 'mine');
RESET ROLE;
SELECT moe.drop_model('mine');
DROP ROLE regress_moe_outsider;

-- a role's limit of tokens
SET moe.max_tokens_per_query = 20;
SET ROLE regress_moe_user;
SELECT moe.generate('VACUUM reclaims', max_tokens => 4) IS NOT NULL AS within;
SELECT moe.generate('VACUUM reclaims', max_tokens => 40, options => '{"ignore_eos": true}');
-- it holds for a statement, not for a call
SELECT count(moe.generate('VACUUM reclaims ' || i, max_tokens => 4, options => '{"ignore_eos": true}')) FROM generate_series(1, 10) i;
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
