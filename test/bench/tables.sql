-- Tables and views of run.sh: samples, medians, limits of the machine, and the table that is printed.
-- psql variable: depth, the tokens of the deep work.

SET client_min_messages = warning;
CREATE EXTENSION pg_moe;

CREATE TABLE texts (n serial, line text);

-- One measurement.  config: of pg_moe the instruction set, of a peer what it was run with.
CREATE TABLE sample (engine text, config text, model text, threads int, work text, value float8);

-- What bench_engine says of a model besides figures, by the key; and text_tokens, of a text on average.
CREATE TABLE need (model text, key text, value float8, PRIMARY KEY (model, key));

CREATE TABLE setting (depth int);
INSERT INTO setting VALUES (:depth);

-- Takes every figure of a line of JSON; model and threads count where the line names none.
CREATE PROCEDURE record(line jsonb, model text, threads int) LANGUAGE sql AS $$
INSERT INTO sample
SELECT line->>'engine', coalesce(line->>'isa', line->>'config', ''), coalesce(line->>'model', record.model),
       coalesce((line->>'threads')::int, record.threads), key, value::float8
  FROM jsonb_each_text(line) WHERE key ~ '_(ms|tps|texts|mbs|gbs|gops)$' OR key = 'tokens';
INSERT INTO need
SELECT line->>'model', key, value::float8
  FROM jsonb_each_text(line) WHERE line ? 'token_mop' AND key ~ '^experts|_(mb|kb|mop|kop)$'
    ON CONFLICT DO NOTHING;
$$;

CREATE FUNCTION private_kb() RETURNS bigint LANGUAGE sql AS $$
SELECT sum(substring(line FROM '\d+')::bigint)
  FROM regexp_split_to_table(pg_read_file('/proc/self/smaps_rollup'), '\n') AS line
 WHERE line ~ '^Private_'
$$;

-- Medians; of SQL against engine the smallest, for what SQL adds is less than what disturbances add.
CREATE VIEW figure AS
SELECT engine, config, model, threads, work,
       CASE WHEN work ~ 'generate_ms$' THEN min(value)
            ELSE percentile_cont(0.5) WITHIN GROUP (ORDER BY value) END AS value, count(*) AS n
  FROM sample GROUP BY engine, config, model, threads, work;

-- An engine counts by its best configuration.
CREATE VIEW best AS
SELECT DISTINCT ON (engine, model, threads, work) *
  FROM figure ORDER BY engine, model, threads, work, CASE WHEN work ~ '_m[sb]$' THEN value ELSE -value END;

-- What a model asks for, one row each.  touched: the experts of a layer that a step of 16 tokens reads if
-- each token picks its own independently of the others.
CREATE VIEW needs AS
SELECT *, coalesce(experts * (1 - power(1 - experts_used / nullif(experts, 0), 16)), 0) AS touched
  FROM (SELECT model, max(value) FILTER (WHERE key = 'dense_mb') AS dense_mb,
               max(value) FILTER (WHERE key = 'expert_mb') AS expert_mb,
               max(value) FILTER (WHERE key = 'experts') AS experts,
               max(value) FILTER (WHERE key = 'experts_used') AS experts_used,
               max(value) FILTER (WHERE key = 'kv_kb') AS kv_kb,
               max(value) FILTER (WHERE key = 'weight_mb') AS weight_mb,
               max(value) FILTER (WHERE key = 'text_tokens') AS text_tokens,
               max(value) FILTER (WHERE key = 'token_mop') AS token_mop,
               max(value) FILTER (WHERE key = 'attention_kop') AS attention_kop
          FROM need GROUP BY model) AS n;

CREATE VIEW machine AS
SELECT threads, max(value) FILTER (WHERE work = 'read_gbs') AS read_gbs,
       max(value) FILTER (WHERE work = 'float_gops') AS float_gops,
       max(value) FILTER (WHERE work = 'vector_gops') AS vector_gops,
       max(value) FILTER (WHERE work = 'amx_gops') AS amx_gops
  FROM figure WHERE engine = 'machine' GROUP BY threads;

-- Megabytes and megaoperations of one token (batch: of a step; first: of the whole model; embed: of a
-- text) and the figure that the machine would reach if nothing else took time.  A prompt's products are
-- counted as one of 8 bits, as K-quants take them; types with blocks of 32 take two.  Attention and
-- encoders compute in float32.
CREATE VIEW roofline AS
SELECT engine, config, model, threads, work, value, mb, mop,
       CASE WHEN work ~ 'prefill' THEN
                1e3 / (token_mop / CASE config WHEN 'amx' THEN amx_gops ELSE vector_gops END +
                       (mop - token_mop) / float_gops)
            WHEN work = 'sql_embed_texts' THEN 1e3 * float_gops / mop
            WHEN work = 'first_ms' THEN mb / read_gbs
            WHEN work = 'batch_decode_tps' THEN 16e3 * read_gbs / mb
            ELSE 1e3 * read_gbs / mb END AS bound
  FROM (SELECT *,
               CASE work WHEN 'decode_tps' THEN dense_mb + experts_used * expert_mb
                         WHEN 'batch_decode_tps' THEN dense_mb + touched * expert_mb
                         WHEN 'deep_decode_tps' THEN dense_mb + experts_used * expert_mb + depth * kv_kb / 1e3
                         WHEN 'first_ms' THEN weight_mb END AS mb,
               CASE work WHEN 'prefill_tps' THEN token_mop + 512 / 2 * attention_kop / 1e3
                         WHEN 'deep_prefill_tps' THEN token_mop + depth / 2 * attention_kop / 1e3
                         WHEN 'sql_embed_texts' THEN text_tokens * (token_mop + text_tokens * attention_kop / 1e3)
               END AS mop
          FROM best JOIN needs USING (model) JOIN machine USING (threads) CROSS JOIN setting
         WHERE engine = 'pg_moe') AS f;

CREATE FUNCTION short(value float8) RETURNS text LANGUAGE sql AS $$
SELECT coalesce(round(value::numeric, CASE WHEN abs(value) < 10 THEN 2 WHEN abs(value) < 1000 THEN 1 ELSE 0 END)::text, '')
$$;

-- Ratios above 1 are in pg_moe's favour, whether more or less is better.
CREATE VIEW markdown AS
SELECT '| model | threads | figure | pg_moe | MB | Mop | limit | share | peer | its figure | ratio |' AS line
UNION ALL SELECT '|---|---|---|---|---|---|---|---|---|---|---|'
UNION ALL
(SELECT format('| %s | %s | `%s` | %s | %s | %s | %s | %s | %s | %s | %s |', us.model, us.threads, us.work, short(us.value),
               short(r.mb), short(r.mop), short(r.bound),
               short(CASE WHEN us.work ~ '_ms$' THEN r.bound / us.value ELSE us.value / r.bound END),
               concat_ws(', ', peer.engine, nullif(peer.config, '')), short(peer.value),
               short(CASE WHEN us.work ~ '_m[sb]$' THEN peer.value / us.value ELSE us.value / peer.value END))
   FROM best AS us
   LEFT JOIN roofline AS r USING (engine, model, threads, work)
   LEFT JOIN (SELECT engine, config, model, threads, work, value FROM best WHERE engine <> 'pg_moe'
              UNION ALL
              SELECT 'the engine alone', '', model, threads, 'sql_generate_ms', value
                FROM best WHERE engine = 'pg_moe' AND work = 'generate_ms') AS peer
     ON (peer.model, peer.threads, peer.work) = (us.model, us.threads, us.work)
  WHERE us.engine = 'pg_moe' AND us.work NOT IN ('generate_ms', 'open_ms', 'tokens')
  ORDER BY us.model, us.work, us.threads, peer.engine)
UNION ALL
SELECT format('| machine | %s | `read_gbs`, `float_gops`, `vector_gops`, `amx_gops` | %s | | | | | | | |', threads,
              concat_ws(', ', short(read_gbs), short(float_gops), short(vector_gops), short(amx_gops)))
  FROM machine
UNION ALL
SELECT format('| %s | 1 | tokens of %s and %s differ: %s, %s | | | | | | | | |', a.model, a.engine, b.engine, a.value, b.value)
  FROM best AS a JOIN best AS b USING (model, work)
 WHERE work = 'tokens' AND a.engine = 'pg_moe' AND b.engine <> 'pg_moe' AND a.value <> b.value;

CREATE FUNCTION report(machine text) RETURNS text LANGUAGE sql AS $$
SELECT jsonb_pretty(jsonb_build_object(
           'machine', machine, 'date', current_date,
           'figures', (SELECT jsonb_agg(to_jsonb(figure) || jsonb_build_object('samples', samples))
                         FROM figure NATURAL JOIN
                              (SELECT engine, config, model, threads, work, jsonb_agg(value) AS samples
                                 FROM sample GROUP BY engine, config, model, threads, work) AS s),
           'models', (SELECT jsonb_agg(needs) FROM needs),
           'limits', (SELECT jsonb_agg(roofline) FROM roofline WHERE bound IS NOT NULL)))
$$;
