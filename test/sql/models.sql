-- Registering and dropping models
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_moe;
RESET client_min_messages;
SELECT setting || '/pg_moe/pocket-q8_0.gguf' AS file FROM pg_config WHERE name = 'SHAREDIR' \gset

SELECT moe.generate('VACUUM reclaims', max_tokens => 1) IS NOT NULL AS usable;
SELECT shared_weight_blocks AS blocks FROM moe.status \gset
SELECT moe.load_model('second', :'file');
SELECT name, family, params, active, context, type, file = :'file' AS file,
       digest = (SELECT digest FROM moe.models WHERE name = 'pocket') AS same_digest, "default"
  FROM moe.models ORDER BY name;
SELECT moe.generate('VACUUM reclaims', 'second', 8) = moe.generate('VACUUM reclaims', 'pocket', 8) AS same;
SELECT resident FROM moe.models WHERE name = 'second';
-- the same files, the same weights in memory
SELECT shared_weight_blocks = :blocks AS shared, open_models >= 2 AS open FROM moe.status;
SET moe.default_model = 'second';
SELECT name FROM moe.models WHERE "default";
RESET moe.default_model;

-- names and paths
SELECT moe.load_model('second', :'file');
SELECT moe.load_model('pocket', :'file');
SELECT moe.load_model('pocket', :'file', '{"replace": true}');
SELECT moe.load_model('', :'file');
SELECT moe.load_model('a b', :'file');
SELECT moe.load_model('.hidden', :'file');
SELECT moe.load_model(repeat('x', 64), :'file');
SELECT moe.load_model(NULL, :'file');
SELECT moe.load_model('third', NULL);
SELECT moe.load_model('third', 'relative.gguf');
SELECT moe.load_model('third', '$sharedir/pg_moe/pocket-q8_0.gguf');
SELECT moe.load_model('third', '/nonexistent/model.gguf');
SELECT moe.load_model('third', :'file', '{"n_cxt": 5}');
SELECT moe.load_model('third', :'file', '{"kv_type": "f64"}');
SELECT moe.load_model('third', :'file', '{"n_ctx": -5}');
SELECT moe.load_model('third', :'file', '{"n_ctx": 0}');
SELECT moe.load_model('third', :'file', '{"n_ctx": 1000000}');
SELECT count(*) FROM moe.models WHERE name = 'third';

-- options; those that change results change the digest
SELECT moe.load_model('second', :'file', '{"replace": true, "n_ctx": 64, "query_prefix": "query: "}');
SELECT name, digest = (SELECT digest FROM moe.models WHERE name = 'pocket') AS same_digest FROM moe.models WHERE name = 'second';
SELECT moe.embed('hello', 'second', 'query') = moe.embed('query: hello') AS prefix,
       moe.embed('hello', 'second') = moe.embed('hello') AS no_prefix;
SELECT digest FROM moe.models WHERE name = 'second' \gset
SELECT moe.embed_pinned('hello', :'digest', 'query') = moe.embed('query: hello') AS pinned;
SELECT moe.generate(repeat('word ', 100), 'second');
SELECT i->>'name' AS name, i->>'context' AS context, i->'options' AS options, i->>'family' AS family, i->>'experts' AS experts
  FROM moe.model_info('second') i;
SELECT moe.load_model('second', :'file', '{"replace": true, "chat_template": "{{ messages[0].content }}!"}');
SELECT moe.apply_chat_template('[{"role": "user", "content": "hi"}]', 'second');

-- weights in 8 bits, as this model's are anyway, but that is not known before: another digest and
-- other weights in memory
SELECT moe.load_model('eight', :'file', '{"quantize": "q9"}');
SELECT moe.load_model('eight', :'file', '{"quantize": 8}');
SELECT moe.load_model('sixteen', :'file', '{"quantize": "bf16"}');
SELECT moe.embed('hello', 'sixteen') = moe.embed('hello') AS same, moe.model_info('sixteen')->'options' AS options;
SELECT moe.drop_model('sixteen');
SELECT moe.load_model('eight', :'file', '{"quantize": "none"}');
SELECT digest = (SELECT digest FROM moe.models WHERE name = 'pocket') AS same_digest, resident
  FROM moe.models WHERE name = 'eight';
SELECT moe.load_model('eight', :'file', '{"replace": true, "quantize": "q8_0"}');
SELECT digest = (SELECT digest FROM moe.models WHERE name = 'pocket') AS same_digest, resident
  FROM moe.models WHERE name = 'eight';
SELECT moe.embed('hello', 'eight') = moe.embed('hello') AS same;
SELECT digest FROM moe.models WHERE name = 'eight' \gset
SELECT moe.embed_pinned('hello', :'digest') = moe.embed('hello', 'eight') AS pinned;
SELECT moe.model_info('eight')->'options' AS options;
SELECT resident FROM moe.models WHERE name = 'eight';
SELECT shared_weight_blocks - :blocks AS more FROM moe.status;
SELECT moe.drop_model('eight');
SELECT shared_weight_blocks - :blocks AS more FROM moe.status;
SELECT name, resident FROM moe.models ORDER BY name;

-- registrations are transactional
BEGIN;
SELECT moe.load_model('third', :'file');
SELECT moe.generate('VACUUM reclaims', 'third', 2) IS NOT NULL AS usable;
ROLLBACK;
SELECT moe.generate('VACUUM reclaims', 'third', 2);
BEGIN;
SELECT moe.drop_model('second');
SELECT moe.generate('VACUUM reclaims', 'second', 2);
ROLLBACK;
SELECT moe.generate('VACUUM reclaims', 'second', 2) IS NOT NULL AS usable;

-- a stream goes on when its model is dropped
BEGIN;
DECLARE s CURSOR FOR SELECT (moe.generate_stream('VACUUM reclaims', 'second', 6)).seq;
FETCH 2 FROM s;
SELECT moe.drop_model('second');
FETCH 2 FROM s;
COMMIT;
SELECT schedulers, sequences, kv_pages_used FROM moe.status;

SELECT moe.drop_model('second');
SELECT moe.drop_model('pocket');
SELECT moe.drop_model(NULL);
SELECT name FROM moe.models;

-- a file whose content is not what was registered
UPDATE moe.model_catalog SET file_digest = repeat('0', 64), digest = repeat('0', 64) WHERE name = 'pocket';
SELECT moe.generate('VACUUM reclaims', max_tokens => 2);
UPDATE moe.model_catalog SET file_digest = 'c8f2456ce38e15dcb27b8ecc15e2bed1d79b766a32ceb46bdcb2c71ebc2158df',
                             digest = 'c8f2456ce38e15dcb27b8ecc15e2bed1d79b766a32ceb46bdcb2c71ebc2158df' WHERE name = 'pocket';
SELECT moe.generate('VACUUM reclaims', max_tokens => 2) IS NOT NULL AS usable;
