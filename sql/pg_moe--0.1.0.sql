/* pg_moe 0.1.0 */

-- complain if the script is sourced in psql, rather than by CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_moe" to load this file. \quit

/*
 * What the functions have in common:
 *
 * The prompt comes first, then the model's name; NULL means moe.default_model.
 * NULL for any argument after the prompt means its default, and a NULL prompt gives
 * NULL, or no rows.  Further options are keys of "options"; where a key has the name of
 * an argument, the key wins.  An unknown key is an error.  Keys for all functions that
 * generate text: max_tokens, temperature (0: the likeliest token), seed (none: a
 * random one), stop (a string or several), top_k (0: off), top_p (1: off), min_p
 * (0: off), repeat_penalty (1: off), repeat_last_n (64; -1: all), ignore_eos,
 * show_special (write special tokens out).  Functions that give a value per prompt know
 * on_error: "error", or "null" for a prompt that can't be answered.
 *
 * A model call costs far more than anything else in a plan, which the costs say.
 * The functions run in the leader of a parallel query only: each worker would
 * start an engine of its own.
 */

-- ----------
-- Registered models
-- ----------

/*
 * Written by load_model() and drop_model().  A digest stands for the files and the
 * options that change results; it is equal to file_digest, the SHA-256 of the
 * files, if there are no such options.  weights_key names the packed weights that
 * sessions share: file_digest, and how the weights are re-encoded.
 */
CREATE TABLE moe.model_catalog (
    name            text COLLATE "C" PRIMARY KEY,
    path            text NOT NULL,
    digest          text NOT NULL,
    file_digest     text NOT NULL,
    weights_key     text NOT NULL,
    stamp           text NOT NULL,
    family          text NOT NULL,
    weight_type     text NOT NULL,
    n_params        bigint NOT NULL,
    n_params_active bigint NOT NULL,
    n_ctx           integer NOT NULL,
    options         jsonb,
    builtin         boolean NOT NULL
);
REVOKE ALL ON moe.model_catalog FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('moe.model_catalog', 'WHERE NOT builtin');

INSERT INTO moe.model_catalog VALUES
    ('pocket', '$sharedir/pg_moe/pocket-q8_0.gguf',
     'c8f2456ce38e15dcb27b8ecc15e2bed1d79b766a32ceb46bdcb2c71ebc2158df',
     'c8f2456ce38e15dcb27b8ecc15e2bed1d79b766a32ceb46bdcb2c71ebc2158df',
     'c8f2456ce38e15dcb27b8ecc15e2bed1d79b766a32ceb46bdcb2c71ebc2158df',
     '', 'deepseek_v3', 'Q8_0', 11827624, 5929384, 1024, NULL, true);

/*
 * Registers a GGUF file (the first of a split set) or a Hugging Face folder on the
 * server.  Needs superuser or pg_read_server_files.  Options: replace (an existing
 * model of that name), n_ctx (a shorter context than the model was trained for),
 * kv_type ("auto", "f16", "f32"), quantize ("none"; "bf16", "q8_0": unquantised weights
 * in 16 or 8 bits), chat_template (instead of the file's), query_prefix and
 * passage_prefix (put before texts that are embedded).
 */
CREATE FUNCTION moe.load_model(name text, path text, options jsonb DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_moe_load_model' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100000;

CREATE FUNCTION moe.drop_model(name text)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_moe_drop_model' LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION moe.model_info(model text DEFAULT NULL)
RETURNS jsonb
AS 'MODULE_PATHNAME', 'pg_moe_model_info' LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000;

CREATE FUNCTION moe.is_resident(weights_key text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pg_moe_is_resident' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;

CREATE FUNCTION moe.pretty_count(n bigint)
RETURNS text
AS 'MODULE_PATHNAME', 'pg_moe_pretty_count' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

/*
 * Who may use a model: superusers, and the roles with a grant and their members.
 * Whoever registers a model gets one.  The built-in model needs none.  role 0
 * ("-") is everybody.  Grants of roles that were dropped mean nothing.
 */
CREATE TABLE moe.grant_catalog (
    model text COLLATE "C",
    role  regrole,
    PRIMARY KEY (model, role)
);
REVOKE ALL ON moe.grant_catalog FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('moe.grant_catalog',
    'WHERE role::oid = 0 OR role IN (SELECT oid FROM pg_catalog.pg_roles)');

-- For those who may register models.  'public' stands for all roles.
CREATE FUNCTION moe.grant_model(model text, role text)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_moe_grant_model' LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION moe.revoke_model(model text, role text)
RETURNS void
AS 'MODULE_PATHNAME', 'pg_moe_revoke_model' LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION moe.may_use(model text)
RETURNS boolean
AS 'MODULE_PATHNAME', 'pg_moe_may_use' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;

-- All grants for those who may change them, else those that one has.
CREATE VIEW moe.model_grants AS
SELECT g.model,
       CASE WHEN g.role::oid = 0 THEN 'public' ELSE r.rolname END AS role
  FROM moe.grant_catalog AS g
  LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = g.role
 WHERE g.role::oid = 0
    OR r.oid IS NOT NULL
   AND (pg_catalog.pg_has_role('pg_read_server_files', 'USAGE') OR pg_catalog.pg_has_role(r.oid, 'USAGE'));
GRANT SELECT ON moe.model_grants TO PUBLIC;

/*
 * The models that one may use, and for those who may register models all.  Where a file
 * lies is shown to those who may read it.
 */
CREATE VIEW moe.models AS
SELECT c.name,
       c.family,
       moe.pretty_count(c.n_params) AS params,
       moe.pretty_count(c.n_params_active) AS active,
       c.n_ctx AS context,
       c.weight_type AS type,
       CASE WHEN pg_catalog.pg_has_role('pg_read_server_files', 'USAGE')
            THEN c.path END AS file,
       c.digest,
       c.name OPERATOR(pg_catalog.=) pg_catalog.current_setting('moe.default_model', true) AS "default",
       moe.is_resident(c.weights_key) AS resident
  FROM moe.model_catalog AS c
 WHERE moe.may_use(c.name) OR pg_catalog.pg_has_role('pg_read_server_files', 'USAGE');
GRANT SELECT ON moe.models TO PUBLIC;

/*
 * The planner asks this function about calls that can be computed for many rows at
 * once, which loads the library before the statement is executed: that is when it
 * finds them.
 */
CREATE FUNCTION moe.plan_support(internal)
RETURNS internal
AS 'MODULE_PATHNAME', 'pg_moe_plan_support' LANGUAGE C STRICT PARALLEL SAFE;

-- ----------
-- Text
-- ----------

/*
 * Continues a prompt.  Further keys: add_special (true: put the tokens around the
 * prompt that the model wants, such as a beginning of sentence), parse_special
 * (false: special tokens written in the prompt are mere text).
 */
CREATE FUNCTION moe.generate(prompt text, model text DEFAULT NULL,
    max_tokens integer DEFAULT 128, temperature double precision DEFAULT 0,
    seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, options jsonb DEFAULT NULL)
RETURNS text
AS 'MODULE_PATHNAME', 'pg_moe_generate' LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000000
SUPPORT moe.plan_support;

CREATE FUNCTION moe.generate(prompt integer[], model text DEFAULT NULL,
    max_tokens integer DEFAULT 128, temperature double precision DEFAULT 0,
    seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, options jsonb DEFAULT NULL)
RETURNS text
AS 'MODULE_PATHNAME', 'pg_moe_generate_tokens' LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000000
SUPPORT moe.plan_support;

-- All prompts run as one batch.
CREATE FUNCTION moe.generate(prompts text[], model text DEFAULT NULL,
    max_tokens integer DEFAULT 128, temperature double precision DEFAULT 0,
    seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, options jsonb DEFAULT NULL)
RETURNS TABLE (ordinality bigint, result text)
AS 'MODULE_PATHNAME', 'pg_moe_generate_batch' LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 10000000 ROWS 10;

/*
 * Answers a message, or the last of several: '[{"role": "user", "content": "..."}]'.  The
 * model's chat template makes a prompt of them, in which special tokens are recognised
 * wherever they stand, also in the users' words.  Further keys: system (a system
 * prompt), tools, enable_thinking, template (instead of the model's), variables (for
 * the template).
 */
CREATE FUNCTION moe.chat(prompt text, model text DEFAULT NULL,
    max_tokens integer DEFAULT 128, temperature double precision DEFAULT 0,
    seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, options jsonb DEFAULT NULL)
RETURNS text
AS 'MODULE_PATHNAME', 'pg_moe_chat' LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000000
SUPPORT moe.plan_support;

CREATE FUNCTION moe.chat(messages json, model text DEFAULT NULL,
    max_tokens integer DEFAULT 128, temperature double precision DEFAULT 0,
    seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, options jsonb DEFAULT NULL)
RETURNS text
AS 'MODULE_PATHNAME', 'pg_moe_chat_json' LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000000
SUPPORT moe.plan_support;

CREATE FUNCTION moe.chat(messages jsonb, model text DEFAULT NULL,
    max_tokens integer DEFAULT 128, temperature double precision DEFAULT 0,
    seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, options jsonb DEFAULT NULL)
RETURNS text
AS 'MODULE_PATHNAME', 'pg_moe_chat_jsonb' LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000000
SUPPORT moe.plan_support;

/*
 * The same with all there is to know: content, reasoning (null if there was none),
 * tool_calls (null), usage (prompt_tokens, cached_tokens, completion_tokens,
 * total_tokens) and finish_reason ("stop" or "length").
 */
CREATE FUNCTION moe.chat_full(prompt text, model text DEFAULT NULL,
    max_tokens integer DEFAULT 128, temperature double precision DEFAULT 0,
    seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, options jsonb DEFAULT NULL)
RETURNS jsonb
AS 'MODULE_PATHNAME', 'pg_moe_chat_full' LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000000
SUPPORT moe.plan_support;

CREATE FUNCTION moe.chat_full(messages json, model text DEFAULT NULL,
    max_tokens integer DEFAULT 128, temperature double precision DEFAULT 0,
    seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, options jsonb DEFAULT NULL)
RETURNS jsonb
AS 'MODULE_PATHNAME', 'pg_moe_chat_full_json' LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000000
SUPPORT moe.plan_support;

CREATE FUNCTION moe.chat_full(messages jsonb, model text DEFAULT NULL,
    max_tokens integer DEFAULT 128, temperature double precision DEFAULT 0,
    seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, options jsonb DEFAULT NULL)
RETURNS jsonb
AS 'MODULE_PATHNAME', 'pg_moe_chat_full_jsonb' LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000000
SUPPORT moe.plan_support;

/*
 * A row per token.  In the select list, and through a cursor on that, each row is
 * there before the next token is computed; in FROM the server collects all rows first.
 * A chat's pieces include its reasoning.  Further key: logprobs (true: fill that column).
 */
CREATE FUNCTION moe.generate_stream(prompt text, model text DEFAULT NULL,
    max_tokens integer DEFAULT 128, temperature double precision DEFAULT 0,
    seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, options jsonb DEFAULT NULL)
RETURNS TABLE (seq integer, token_id integer, piece text, logprob real)
AS 'MODULE_PATHNAME', 'pg_moe_generate_stream' LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000000 ROWS 100;

CREATE FUNCTION moe.generate_stream(prompt integer[], model text DEFAULT NULL,
    max_tokens integer DEFAULT 128, temperature double precision DEFAULT 0,
    seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, options jsonb DEFAULT NULL)
RETURNS TABLE (seq integer, token_id integer, piece text, logprob real)
AS 'MODULE_PATHNAME', 'pg_moe_generate_stream_tokens' LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000000 ROWS 100;

CREATE FUNCTION moe.chat_stream(prompt text, model text DEFAULT NULL,
    max_tokens integer DEFAULT 128, temperature double precision DEFAULT 0,
    seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, options jsonb DEFAULT NULL)
RETURNS TABLE (seq integer, token_id integer, piece text, logprob real)
AS 'MODULE_PATHNAME', 'pg_moe_chat_stream' LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000000 ROWS 100;

CREATE FUNCTION moe.chat_stream(messages json, model text DEFAULT NULL,
    max_tokens integer DEFAULT 128, temperature double precision DEFAULT 0,
    seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, options jsonb DEFAULT NULL)
RETURNS TABLE (seq integer, token_id integer, piece text, logprob real)
AS 'MODULE_PATHNAME', 'pg_moe_chat_stream_json' LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000000 ROWS 100;

CREATE FUNCTION moe.chat_stream(messages jsonb, model text DEFAULT NULL,
    max_tokens integer DEFAULT 128, temperature double precision DEFAULT 0,
    seed bigint DEFAULT NULL, stop text[] DEFAULT NULL, options jsonb DEFAULT NULL)
RETURNS TABLE (seq integer, token_id integer, piece text, logprob real)
AS 'MODULE_PATHNAME', 'pg_moe_chat_stream_jsonb' LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000000 ROWS 100;

-- ----------
-- Vectors
-- ----------

/*
 * A text as a vector of length 1.  kind is 'passage' or 'query', for models that
 * want different prefixes before them (options of load_model).  Keys: add_special
 * and parse_special, as for generate().
 */
CREATE FUNCTION moe.embed(input text, model text DEFAULT NULL,
    kind text DEFAULT 'passage', options jsonb DEFAULT NULL)
RETURNS real[]
AS 'MODULE_PATHNAME', 'pg_moe_embed' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10000
SUPPORT moe.plan_support;

CREATE FUNCTION moe.embed(input integer[], model text DEFAULT NULL,
    kind text DEFAULT 'passage', options jsonb DEFAULT NULL)
RETURNS real[]
AS 'MODULE_PATHNAME', 'pg_moe_embed_tokens' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10000
SUPPORT moe.plan_support;

-- All texts run as one batch.
CREATE FUNCTION moe.embed(inputs text[], model text DEFAULT NULL,
    kind text DEFAULT 'passage', options jsonb DEFAULT NULL)
RETURNS TABLE (ordinality bigint, result real[])
AS 'MODULE_PATHNAME', 'pg_moe_embed_batch' LANGUAGE C STABLE PARALLEL RESTRICTED COST 100000 ROWS 10;

/*
 * The same by the model's digest, as moe.models shows it, so that the answer can never
 * change: for generated columns, expression indexes and replicas.
 */
CREATE FUNCTION moe.embed_pinned(input text, digest text, kind text DEFAULT 'passage')
RETURNS real[]
AS 'MODULE_PATHNAME', 'pg_moe_embed_pinned' LANGUAGE C IMMUTABLE PARALLEL RESTRICTED COST 10000
SUPPORT moe.plan_support;

/*
 * The same as any type that real[] can be cast to: moe.embed_as('...', NULL::vector).
 * Only the type of the second argument counts.
 */
CREATE FUNCTION moe.embed_as(input text, type anyelement, model text DEFAULT NULL,
    kind text DEFAULT 'passage', options jsonb DEFAULT NULL)
RETURNS anyelement
AS 'MODULE_PATHNAME', 'pg_moe_embed_as' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10000
SUPPORT moe.plan_support;

-- ----------
-- Likelihoods
-- ----------

-- The k likeliest next tokens.
CREATE FUNCTION moe.next_tokens(prompt text, model text DEFAULT NULL, k integer DEFAULT 10)
RETURNS TABLE (rank integer, token_id integer, piece text, logprob real)
AS 'MODULE_PATHNAME', 'pg_moe_next_tokens' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10000 ROWS 10;

CREATE FUNCTION moe.next_tokens(prompt integer[], model text DEFAULT NULL, k integer DEFAULT 10)
RETURNS TABLE (rank integer, token_id integer, piece text, logprob real)
AS 'MODULE_PATHNAME', 'pg_moe_next_tokens_tokens' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10000 ROWS 10;

-- How likely the tokens of a completion are, and their ranks (1: the likeliest).
CREATE FUNCTION moe.score(prompt text, completion text, model text DEFAULT NULL)
RETURNS TABLE ("position" integer, token_id integer, piece text, logprob real, rank integer)
AS 'MODULE_PATHNAME', 'pg_moe_score' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10000 ROWS 10;

CREATE FUNCTION moe.score(tokens integer[], model text DEFAULT NULL)
RETURNS TABLE ("position" integer, token_id integer, piece text, logprob real, rank integer)
AS 'MODULE_PATHNAME', 'pg_moe_score_tokens' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10000 ROWS 10;

-- ----------
-- Tokens
-- ----------

CREATE FUNCTION moe.tokenize(input text, model text DEFAULT NULL,
    add_special boolean DEFAULT false, parse_special boolean DEFAULT false)
RETURNS integer[]
AS 'MODULE_PATHNAME', 'pg_moe_tokenize' LANGUAGE C STABLE PARALLEL RESTRICTED COST 100;

CREATE FUNCTION moe.detokenize(tokens integer[], model text DEFAULT NULL)
RETURNS text
AS 'MODULE_PATHNAME', 'pg_moe_detokenize' LANGUAGE C STABLE PARALLEL RESTRICTED COST 100;

CREATE FUNCTION moe.count_tokens(input text, model text DEFAULT NULL)
RETURNS integer
AS 'MODULE_PATHNAME', 'pg_moe_count_tokens' LANGUAGE C STABLE PARALLEL RESTRICTED COST 100;

/*
 * The prompt that chat() makes of messages.  Keys: tools, enable_thinking, template,
 * variables, add_generation_prompt (true).
 */
CREATE FUNCTION moe.apply_chat_template(messages json, model text DEFAULT NULL,
    options json DEFAULT NULL)
RETURNS text
AS 'MODULE_PATHNAME', 'pg_moe_apply_chat_template_json' LANGUAGE C STABLE PARALLEL RESTRICTED COST 100;

CREATE FUNCTION moe.apply_chat_template(messages jsonb, model text DEFAULT NULL,
    options jsonb DEFAULT NULL)
RETURNS text
AS 'MODULE_PATHNAME', 'pg_moe_apply_chat_template_jsonb' LANGUAGE C STABLE PARALLEL RESTRICTED COST 100;

-- The form that a plain literal resolves to; it is JSON as well.
CREATE FUNCTION moe.apply_chat_template(messages text, model text DEFAULT NULL,
    options json DEFAULT NULL)
RETURNS text
AS 'MODULE_PATHNAME', 'pg_moe_apply_chat_template_json' LANGUAGE C STABLE PARALLEL RESTRICTED COST 100;

-- ----------
-- The engine
-- ----------

CREATE FUNCTION moe.get_status(
    OUT host text, OUT device text, OUT isa text, OUT threads integer,
    OUT reproducible boolean, OUT open_models integer,
    OUT shared_weight_blocks integer, OUT shared_weight_bytes bigint,
    OUT private_weight_bytes bigint,
    OUT schedulers bigint, OUT sequences bigint,
    OUT kv_pages_used bigint, OUT kv_pages_total bigint,
    OUT prompt_tokens bigint, OUT cached_tokens bigint, OUT generated_tokens bigint,
    OUT worker_pid integer, OUT requests_running integer, OUT requests_waiting integer,
    OUT computing_backends integer, OUT waiting_backends integer)
RETURNS record
AS 'MODULE_PATHNAME', 'pg_moe_status' LANGUAGE C VOLATILE PARALLEL RESTRICTED;

/*
 * The engine that computes for this session, its own or the shared one, and the memory
 * that all sessions share.  Token counts are the session's.  While nothing is computed
 * and no cursor holds a stream, schedulers, sequences and kv_pages_used are 0.  Before its
 * first request, and after its settings have changed, the shared engine has neither threads
 * nor an isa: these are NULL.  The last two columns are the backends that compute and wait
 * under moe.max_backends.
 */
CREATE VIEW moe.status AS
SELECT * FROM moe.get_status();
GRANT SELECT ON moe.status TO PUBLIC;

/*
 * What is computed now: a row for each call, whose sequences (prompts of an array)
 * run together.  task: generate, embed, score, next or load; phase: waiting (for
 * its turn, see moe.max_backends), loading, prompt, decode, or idle (a cursor holds
 * it).  Shown are the requests of roles that one has the privileges of; members of
 * pg_monitor see all.
 */
CREATE FUNCTION moe.get_stat_requests(
    OUT pid integer, OUT role oid, OUT database oid, OUT model text, OUT task text,
    OUT phase text, OUT sequences integer, OUT prompt_read bigint,
    OUT prompt_tokens bigint, OUT generated_tokens bigint, OUT started timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pg_moe_stat_requests' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10;

CREATE VIEW moe.stat_requests AS
SELECT s.pid, r.rolname AS role, d.datname AS database, s.model, s.task, s.phase,
       s.sequences, s.prompt_read, s.prompt_tokens, s.generated_tokens, s.started
  FROM moe.get_stat_requests() AS s
  LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.role
  LEFT JOIN pg_catalog.pg_database AS d ON d.oid = s.database;
GRANT SELECT ON moe.stat_requests TO PUBLIC;

/*
 * What models were used for since the server started or moe.stat_reset(): requests
 * that have ended, of them those that failed and those that ended before they were done;
 * their tokens; seconds of computation.  Shown are the models of this database that
 * one may use; members of pg_monitor see all.
 */
CREATE FUNCTION moe.get_stat_models(
    OUT database oid, OUT model text, OUT requests bigint, OUT errors bigint,
    OUT cancelled bigint, OUT prompt_tokens bigint, OUT cached_tokens bigint,
    OUT generated_tokens bigint, OUT seconds double precision, OUT since timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pg_moe_stat_models' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10;

CREATE VIEW moe.stat_models AS
SELECT d.datname AS database, s.model, s.requests, s.errors, s.cancelled, s.prompt_tokens,
       s.cached_tokens, s.generated_tokens, s.seconds, s.since
  FROM moe.get_stat_models() AS s
  JOIN pg_catalog.pg_database AS d ON d.oid = s.database;
GRANT SELECT ON moe.stat_models TO PUBLIC;

CREATE FUNCTION moe.stat_reset()
RETURNS void
AS 'MODULE_PATHNAME', 'pg_moe_stat_reset' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
REVOKE ALL ON FUNCTION moe.stat_reset() FROM PUBLIC;

-- ----------
-- Budgets
-- ----------

/*
 * Prompt and generated tokens that a role may use in a window of time, which begins with
 * the first token after the last one has ended.  They are counted in this
 * database, in shared memory, and from zero when the server starts.  The role that
 * logged in pays, and so does the one that it has taken by SET ROLE.
 */
CREATE TABLE moe.budget_catalog (
    role     regrole PRIMARY KEY,
    tokens   bigint NOT NULL,
    "window" interval NOT NULL
);
REVOKE ALL ON moe.budget_catalog FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('moe.budget_catalog',
    'WHERE role IN (SELECT oid FROM pg_catalog.pg_roles)');

-- NULL tokens remove a budget, and what was used of it is forgotten.
CREATE FUNCTION moe.set_budget(role text, tokens bigint, "window" interval DEFAULT '1 day')
RETURNS void
AS 'MODULE_PATHNAME', 'pg_moe_set_budget' LANGUAGE C VOLATILE PARALLEL UNSAFE;
REVOKE ALL ON FUNCTION moe.set_budget(text, bigint, interval) FROM PUBLIC;

CREATE FUNCTION moe.get_budgets(
    OUT role oid, OUT tokens bigint, OUT "window" interval, OUT used bigint,
    OUT resets_at timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pg_moe_budget' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10;

-- One's own, and all for members of pg_monitor.
CREATE VIEW moe.budget AS
SELECT r.rolname AS role, b.tokens, b."window", b.used, b.resets_at
  FROM moe.get_budgets() AS b
  JOIN pg_catalog.pg_roles AS r ON r.oid = b.role;
GRANT SELECT ON moe.budget TO PUBLIC;

-- ----------
-- Weights in memory
-- ----------

CREATE FUNCTION moe.get_weight_cache(
    OUT weights_key text, OUT shared boolean, OUT sessions integer, OUT memory bigint,
    OUT units integer, OUT resident integer, OUT bytes bigint, OUT resident_bytes bigint,
    OUT pinned integer, OUT hits bigint, OUT misses bigint, OUT evictions bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pg_moe_weight_cache' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10;

/*
 * The models whose weights are in memory.  A unit is an expert of a layer, the rest of
 * a layer, or what belongs to no layer; resident are those that have been loaded,
 * which happens when they are first used; pinned are experts that are being computed
 * with, none while nothing runs.  hits counts experts that a step found
 * there, misses those that it had to load or wait for, evictions those that made room.
 * sessions have the model open; null if the memory is this session's own.  Shown are
 * the models that one may use; members of pg_monitor see all.
 */
CREATE VIEW moe.weight_cache AS
SELECT c.name AS model, w.shared, w.sessions, w.memory, w.units, w.resident, w.bytes,
       w.resident_bytes, w.pinned, w.hits, w.misses, w.evictions
  FROM moe.model_catalog AS c
  JOIN moe.get_weight_cache() AS w ON w.weights_key OPERATOR(pg_catalog.=) c.weights_key
 WHERE moe.may_use(c.name) OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE');
GRANT SELECT ON moe.weight_cache TO PUBLIC;

CREATE FUNCTION moe.get_expert_stats(weights_key text,
    OUT layer integer, OUT expert integer, OUT bytes bigint,
    OUT hits bigint, OUT misses bigint, OUT heat integer, OUT resident boolean)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'pg_moe_expert_stats' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 1000;

/*
 * Their experts.  heat, from 0 to 65535, tells how much an expert has been used of late:
 * the coldest one makes room for others.  It is remembered when the server restarts.
 * What experts are used tells something about what others ask, so this is for members
 * of pg_monitor.
 */
CREATE VIEW moe.expert_stats AS
SELECT c.name AS model, s.*
  FROM moe.model_catalog AS c, LATERAL moe.get_expert_stats(c.weights_key) AS s;
REVOKE ALL ON FUNCTION moe.get_expert_stats(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION moe.get_expert_stats(text) TO pg_monitor;
GRANT SELECT ON moe.expert_stats TO pg_monitor;

-- Loads a model's weights, the hottest experts first, as far as there is room.
CREATE FUNCTION moe.prewarm(model text DEFAULT NULL, OUT units integer, OUT bytes bigint)
RETURNS record
AS 'MODULE_PATHNAME', 'pg_moe_prewarm' LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000000;

/*
 * Forgets the weights that no session is using; if none has the model open, its memory is
 * given back.  Needs superuser or pg_read_server_files.
 */
CREATE FUNCTION moe.evict(model text, OUT units integer, OUT bytes bigint)
RETURNS record
AS 'MODULE_PATHNAME', 'pg_moe_evict' LANGUAGE C VOLATILE PARALLEL RESTRICTED;

GRANT USAGE ON SCHEMA moe TO PUBLIC;
