-- what is in memory, and how it comes and goes
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_moe;
RESET client_min_messages;
\set VERBOSITY terse
-- sessions of earlier tests may still be about to leave
CREATE PROCEDURE wait_until_alone() LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1..1000 LOOP
    EXIT WHEN NOT EXISTS (SELECT FROM moe.weight_cache WHERE sessions > 0);
    PERFORM pg_sleep(0.01);
  END LOOP;
END $$;
CALL wait_until_alone();
SELECT units >= 0 AS evicted FROM moe.evict('pocket');
SELECT count(*) FROM moe.weight_cache;
SELECT count(*) FROM moe.expert_stats;

-- a step loads what it needs
SELECT count(*) FROM moe.next_tokens('VACUUM', k => 1);
SELECT model, shared, sessions, units, resident > 7 AND resident < units AS in_part,
       memory >= bytes AS room_for_all, resident_bytes < bytes AS less, pinned, misses > 0 AS misses, evictions
  FROM moe.weight_cache;
SELECT units > 0 AS units, bytes > 0 AS bytes FROM moe.prewarm();
SELECT * FROM moe.prewarm('pocket');
SELECT resident = units AS all_units, resident_bytes = bytes AS all_bytes FROM moe.weight_cache;
SELECT misses AS misses_before, hits AS hits_before FROM moe.weight_cache \gset
SELECT moe.generate('VACUUM reclaims', max_tokens => 2) IS NOT NULL AS generated;
SELECT misses = :misses_before AS no_misses, hits > :hits_before AS hits FROM moe.weight_cache;

SELECT layer, count(*) AS experts, bool_and(resident) AS resident, sum(hits + misses) > 0 AS used,
       bool_and(heat BETWEEN 0 AND 65535) AS heat, count(DISTINCT bytes) AS sizes
  FROM moe.expert_stats WHERE model = 'pocket' GROUP BY layer ORDER BY layer;
SELECT sum(hits) = (SELECT hits FROM moe.weight_cache) AS same_sum FROM moe.expert_stats;

-- a stream keeps what it needs
BEGIN;
DECLARE s CURSOR FOR SELECT moe.generate_stream('VACUUM reclaims', max_tokens => 6) IS NOT NULL AS row;
FETCH 2 FROM s;
SELECT units FROM moe.evict('pocket');
SELECT resident FROM moe.weight_cache;
FETCH 2 FROM s;
COMMIT;

-- all of it goes when nobody has the model open
SELECT units > 0 AS units FROM moe.evict('pocket');
SELECT count(*) FROM moe.weight_cache;
SELECT resident FROM moe.models WHERE name = 'pocket';
SELECT * FROM moe.evict('pocket');

-- rights
CREATE ROLE regress_moe_user;
CREATE ROLE regress_moe_monitor IN ROLE pg_monitor;
CREATE ROLE regress_moe_files IN ROLE pg_read_server_files;
SET ROLE regress_moe_user;
SELECT units > 0 AS units FROM moe.prewarm();
SELECT model, resident = units AS all_units FROM moe.weight_cache;
SELECT count(*) FROM moe.expert_stats;
SELECT * FROM moe.get_expert_stats('x');
SELECT * FROM moe.evict('pocket');
SET ROLE regress_moe_monitor;
SELECT count(*) FROM moe.expert_stats;
SET ROLE regress_moe_files;
SELECT units > 0 AS units FROM moe.evict('pocket');
RESET ROLE;

-- a model is shown to those who may use it and to who watches, also by the function behind the view
SELECT setting || '/pg_moe/pocket-q8_0.gguf' AS file FROM pg_config WHERE name = 'SHAREDIR' \gset
SELECT moe.load_model('mine', :'file', '{"n_ctx": 64, "quantize": "bf16"}');
SELECT weights_key AS mine FROM moe.model_catalog WHERE name = 'mine' \gset
SELECT weights_key AS pocket FROM moe.model_catalog WHERE name = 'pocket' \gset
SELECT units > 0 AS units FROM moe.prewarm('mine');
SELECT units > 0 AS units FROM moe.prewarm('pocket');
CREATE FUNCTION known() RETURNS SETOF text LANGUAGE sql AS $$
  SELECT 'view: ' || model FROM moe.weight_cache
  UNION ALL SELECT 'key of ' || CASE weights_key WHEN current_setting('test.mine') THEN 'mine' ELSE 'pocket' END
  FROM moe.get_weight_cache() ORDER BY 1 $$;
SELECT set_config('test.mine', :'mine', false) <> :'pocket' AS other_key;
SELECT known();
SET ROLE regress_moe_user;
SELECT known();
SET ROLE regress_moe_monitor;
SELECT known();
RESET ROLE;
SELECT moe.grant_model('mine', 'regress_moe_user');
SET ROLE regress_moe_user;
SELECT known();
RESET ROLE;
-- what is left of one that was dropped is shown to who watches only
BEGIN;
DELETE FROM moe.model_catalog WHERE name = 'mine';
SET LOCAL ROLE regress_moe_user;
SELECT known();
SET LOCAL ROLE regress_moe_monitor;
SELECT known();
ROLLBACK;
SELECT moe.drop_model('mine');
DROP FUNCTION known();
SELECT units > 0 AS units FROM moe.evict('pocket');
DROP ROLE regress_moe_user, regress_moe_monitor, regress_moe_files;

-- errors
SELECT * FROM moe.prewarm('pocet');
SELECT * FROM moe.evict('pocet');
SELECT * FROM moe.get_expert_stats('no such key');
SELECT * FROM moe.get_expert_stats(NULL);
DROP PROCEDURE wait_until_alone();
