-- The extension can be created, dropped and created again, and says what it is.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_moe;
DROP SCHEMA IF EXISTS moe;
RESET client_min_messages;
CREATE EXTENSION pg_moe;
DROP EXTENSION pg_moe;
DROP SCHEMA moe;
CREATE EXTENSION pg_moe;

SELECT extname, extversion, extrelocatable, extnamespace::regnamespace
  FROM pg_extension WHERE extname = 'pg_moe';

-- users' models are dumped, the built-in one is not
SELECT unnest(extconfig)::regclass AS table, unnest(extcondition) AS condition
  FROM pg_extension WHERE extname = 'pg_moe';

-- every function with its labels; none is parallel safe that runs a model
SELECT p.oid::regprocedure AS function,
       CASE provolatile WHEN 'v' THEN 'volatile' WHEN 's' THEN 'stable' ELSE 'immutable' END AS volatility,
       CASE proparallel WHEN 's' THEN 'safe' WHEN 'r' THEN 'restricted' ELSE 'unsafe' END AS parallel,
       procost AS cost, proretset AS set
  FROM pg_proc p
 WHERE pronamespace = 'moe'::regnamespace
 ORDER BY p.oid::regprocedure::text COLLATE "C";

SELECT relname, relkind, relacl IS NOT NULL AS granted
  FROM pg_class
 WHERE relnamespace = 'moe'::regnamespace AND relkind IN ('r', 'v')
 ORDER BY relname COLLATE "C";

SELECT name, family, params, active, context, type, digest, "default" FROM moe.models;

-- unknown settings of our prefix are errors
SET moe.no_such_setting = 1;
SELECT name, setting, context FROM pg_settings WHERE name LIKE 'moe.%' ORDER BY name COLLATE "C";
