-- Budgets of tokens, and what is counted
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_moe;
DROP ROLE IF EXISTS regress_moe_payer;
DROP ROLE IF EXISTS regress_moe_other;
DROP ROLE IF EXISTS regress_moe_watcher;
RESET client_min_messages;
CREATE ROLE regress_moe_payer;
CREATE ROLE regress_moe_other;
CREATE ROLE regress_moe_watcher;
GRANT pg_monitor TO regress_moe_watcher;
GRANT regress_moe_other TO regress_moe_payer;

-- a budget counts prompt and generated tokens of all statements
SELECT moe.set_budget('regress_moe_payer', 30, '1 hour');
SELECT role, tokens, "window", used, resets_at FROM moe.budget;
SET SESSION AUTHORIZATION regress_moe_payer;
SELECT moe.generate('VACUUM reclaims', max_tokens => 4, options => '{"ignore_eos": true}') IS NOT NULL AS within;
SELECT role, tokens, used - 4 - cardinality(moe.tokenize('VACUUM reclaims', add_special => true)) AS uncounted,
       resets_at > now() AND resets_at <= now() + '1 hour' AS resets FROM moe.budget;
-- it ends what uses it up ...
\set VERBOSITY sqlstate
SELECT moe.generate('VACUUM reclaims', max_tokens => 100, options => '{"ignore_eos": true}');
SELECT used > tokens AS over, used <= tokens + 1 AS by_a_step FROM moe.budget;
-- ... and refuses what comes then
SELECT moe.embed('hello');
-- SET ROLE is no way out
SET ROLE regress_moe_other;
SELECT moe.embed('hello');
RESET ROLE;
\set VERBOSITY default
-- a role sees its own, and may not change it
SELECT count(*) FROM moe.budget;
SELECT moe.set_budget('regress_moe_payer', NULL);
SELECT * FROM moe.budget_catalog;
SELECT moe.stat_reset();
RESET SESSION AUTHORIZATION;
SET ROLE regress_moe_other;
SELECT count(*) FROM moe.budget;
SET ROLE regress_moe_watcher;
SELECT role FROM moe.budget;
RESET ROLE;

-- a larger one, the same tokens used
SELECT used FROM moe.budget \gset
SELECT moe.set_budget('regress_moe_payer', 1000, '1 hour');
SELECT tokens, used = :used AS same FROM moe.budget;
-- the role that SET ROLE took pays as well
SELECT moe.set_budget('regress_moe_other', 500, '1 mon');
SET SESSION AUTHORIZATION regress_moe_payer;
SET ROLE regress_moe_other;
SELECT moe.embed('hello') IS NOT NULL AS within;
RESET SESSION AUTHORIZATION;
SELECT role, tokens, "window", used - CASE role WHEN 'regress_moe_payer' THEN :used ELSE 0 END > 0 AS paid
  FROM moe.budget ORDER BY role;
SELECT used > 0 AS used, resets_at - now() > '29 days' AS resets FROM moe.budget WHERE role = 'regress_moe_other';
-- a prompt that does not fit into what is left is not begun
SELECT moe.set_budget('regress_moe_other', NULL);
SELECT moe.set_budget('regress_moe_other', 20);
SET ROLE regress_moe_other;
SELECT moe.embed(repeat('word ', 30));
SELECT used FROM moe.budget;
RESET ROLE;
SELECT moe.set_budget('regress_moe_other', 0);
SET ROLE regress_moe_other;
\set VERBOSITY sqlstate
SELECT moe.embed('hello');
\set VERBOSITY default
-- what needs no computation is free
SELECT moe.count_tokens('hello') > 0 AS free;
RESET ROLE;

-- values
SELECT moe.set_budget('regress_moe_nobody', 1);
SELECT moe.set_budget('regress_moe_payer', -1);
SELECT moe.set_budget('regress_moe_payer', 1, '0');
SELECT moe.set_budget('regress_moe_payer', 1, '-1 day');
SELECT moe.set_budget('regress_moe_payer', 1, '1 microsecond');
SELECT moe.set_budget('regress_moe_payer', 1, '0.999999 seconds');
BEGIN;
SELECT moe.set_budget('regress_moe_payer', 1, '1 second');
SELECT tokens, "window" FROM moe.budget WHERE role = 'regress_moe_payer';
ROLLBACK;
SELECT moe.set_budget('regress_moe_payer', 1, '1000000 years');
SELECT moe.set_budget('regress_moe_payer', 1, NULL);
SELECT moe.set_budget(NULL, 1);
-- transactional
BEGIN;
SELECT moe.set_budget('regress_moe_payer', 7);
ROLLBACK;
SELECT role, tokens FROM moe.budget ORDER BY role;

-- what models were used for
SELECT moe.stat_reset();
SELECT count(*) FROM moe.stat_models;
SELECT moe.generate('VACUUM reclaims', max_tokens => 4, options => '{"ignore_eos": true}') IS NOT NULL AS done;
SELECT count(*) FROM moe.embed('{a,b,c}'::text[]);
BEGIN;
DECLARE s CURSOR FOR SELECT (moe.generate_stream('VACUUM reclaims', max_tokens => 9)).seq;
FETCH 2 FROM s;
SELECT pid = pg_backend_pid() AS mine, role = current_user AS role, database = current_database() AS database, model, task,
       phase, sequences, prompt_read = prompt_tokens AND prompt_tokens > 0 AS prompt, generated_tokens, started <= clock_timestamp() AS started
  FROM moe.stat_requests;
-- others do not see it, unless they watch
SET ROLE regress_moe_other;
SELECT count(*) FROM moe.stat_requests;
SET ROLE regress_moe_watcher;
SELECT count(*) FROM moe.stat_requests;
RESET ROLE;
CLOSE s;
COMMIT;
SELECT count(*) FROM moe.stat_requests;
SELECT database = current_database() AS database, model, requests, errors, cancelled, prompt_tokens > 0 AS prompt, cached_tokens, generated_tokens, seconds > 0 AS seconds, since <= clock_timestamp() AS since
  FROM moe.stat_models;
-- what can't be computed is an error
SELECT moe.generate(array_fill(1, '{2000}'), max_tokens => 1);
SELECT requests, errors, cancelled FROM moe.stat_models;
-- all may see what was done with a model they may use
SET ROLE regress_moe_other;
SELECT model, requests FROM moe.stat_models;
RESET ROLE;

DROP ROLE regress_moe_watcher;
-- a budget of a role that was dropped is gone
DROP ROLE regress_moe_other;
SELECT role FROM moe.budget;
SELECT moe.set_budget('regress_moe_payer', NULL);
SELECT count(*) FROM moe.budget_catalog;
DROP ROLE regress_moe_payer;

-- The prompts of a batch count together, before any of them is computed
CREATE ROLE regress_moe_batch;
GRANT USAGE ON SCHEMA moe TO regress_moe_batch;
SELECT moe.set_budget('regress_moe_batch', 200, '1 hour');
SET ROLE regress_moe_batch;
SELECT count(moe.embed('row number ' || g)) FROM generate_series(1, 200) AS g;
SELECT count(result) FROM moe.embed((SELECT array_agg('row ' || g) FROM generate_series(1, 200) AS g));
SELECT used = 0 AS unused FROM moe.budget;
RESET ROLE;
SET moe.max_tokens_per_query = 200;
SELECT count(moe.embed('row number ' || g)) FROM generate_series(1, 200) AS g;
-- each FETCH is a statement; what is read ahead counts for the one that reads it
SELECT count(moe.embed('row number ' || g)) FROM generate_series(1, 40) AS g;
BEGIN;
DECLARE c CURSOR FOR SELECT moe.embed('row number ' || g) IS NOT NULL AS done FROM generate_series(1, 40) AS g;
MOVE 10 IN c;
MOVE 10 IN c;
MOVE 10 IN c;
MOVE 9 IN c;
FETCH 2 FROM c;
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT moe.embed('row number ' || g) IS NOT NULL AS done FROM generate_series(1, 40) AS g;
SELECT prompt_tokens AS before FROM moe.status \gset
FETCH 2 FROM c;
SELECT prompt_tokens - :before > 2 * moe.count_tokens('row number 2') AS ahead FROM moe.status;
SET LOCAL moe.max_tokens_per_query = 1;
FETCH 1 FROM c;
ROLLBACK;
RESET moe.max_tokens_per_query;
SELECT moe.set_budget('regress_moe_batch', NULL);
DROP OWNED BY regress_moe_batch;
DROP ROLE regress_moe_batch;
