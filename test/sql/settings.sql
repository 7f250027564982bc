-- Settings
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_moe;
RESET client_min_messages;

SELECT moe.embed('hello') AS e \gset

-- results do not depend on the number of threads or the instruction set
SET moe.threads = 1;
SELECT threads FROM moe.status;
SELECT moe.embed('hello') = :'e' AS same;
SET moe.threads = 3;
SELECT threads FROM moe.status;
SELECT moe.embed('hello') = :'e' AS same;
RESET moe.threads;
SET moe.cpu_isa = 'scalar';
SELECT isa FROM moe.status;
SELECT moe.embed('hello') = :'e' AS same;
SELECT moe.chat('What is the capital of France?');
RESET moe.cpu_isa;
SELECT isa IN ('scalar', 'avx2', 'avx512', 'avx512_bf16', 'amx') AS known FROM moe.status;

-- a setting that changes while a stream is open does not touch it
BEGIN;
DECLARE s CURSOR FOR SELECT piece FROM (SELECT (moe.generate_stream('VACUUM reclaims', max_tokens => 4)).*) x;
FETCH 2 FROM s;
SET LOCAL moe.cpu_isa = 'scalar';
SET LOCAL moe.threads = 1;
FETCH 2 FROM s;
SELECT moe.generate('VACUUM reclaims', max_tokens => 4);
COMMIT;
SELECT moe.generate('VACUUM reclaims', max_tokens => 4);

-- a small cache for keys and values
SET moe.kv_cache_size = '1MB';
SELECT moe.generate('VACUUM reclaims', max_tokens => 4);
RESET moe.kv_cache_size;

-- values that do not exist
SET moe.cpu_isa = 'mmx';
SET moe.device = 'cuda';
SET moe.host = 'remote';
SET moe.threads = -1;
SET moe.device = 'cpu';
SET moe.host = 'backend';
SELECT host, device, reproducible, private_weight_bytes, schedulers, sequences, kv_pages_used FROM moe.status;
