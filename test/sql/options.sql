-- Arguments and options that are wrong, and what is said about them
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_moe;
RESET client_min_messages;

SELECT moe.generate('hi', options => '{"temprature": 0.5}');
SELECT moe.generate('hi', options => '{"Top_K": 5}');
SELECT moe.generate('hi', options => '{"completely_different": 5}');
SELECT moe.generate('hi', options => '{"system": "x"}');
SELECT moe.chat('hi', options => '{"sytem": "x"}');
SELECT moe.embed('hi', options => '{"temperature": 1}');
SELECT moe.generate('hi', options => '[]');
SELECT moe.generate('hi', options => '5');

-- types
SELECT moe.generate('hi', options => '{"max_tokens": "5"}');
SELECT moe.generate('hi', options => '{"max_tokens": 1.5}');
SELECT moe.generate('hi', options => '{"max_tokens": -1}');
SELECT moe.generate('hi', options => '{"max_tokens": 3000000000}');
SELECT moe.generate('hi', options => '{"temperature": true}');
SELECT moe.generate('hi', options => '{"temperature": -0.1}');
SELECT moe.generate('hi', options => '{"top_p": 0}');
SELECT moe.generate('hi', options => '{"top_p": 1.1}');
SELECT moe.generate('hi', options => '{"min_p": [0.5]}');
SELECT moe.generate('hi', options => '{"repeat_penalty": 0}');
SELECT moe.generate('hi', options => '{"repeat_last_n": -2}');
SELECT moe.generate('hi', options => '{"seed": 1e30}');
SELECT moe.generate('hi', options => '{"ignore_eos": "yes"}');
SELECT moe.generate('hi', options => '{"stop": 5}');
SELECT moe.generate('hi', options => '{"stop": [5]}');
SELECT moe.generate('hi', options => '{"stop": [""]}');
SELECT moe.generate('hi', options => '{"stop": {}}');
SELECT moe.chat('hi', options => '{"tools": {}}');
SELECT moe.chat('hi', options => '{"variables": []}');
SELECT moe.generate('hi', options => '{"top_k": -1}');
SELECT moe.generate('hi', options => '{"top_p": "x"}');
SELECT moe.generate('hi', options => '{"on_error": 5}');
SELECT moe.generate('hi', options => '{"on_error": "ignore"}');
SELECT (moe.generate_stream('hi', options => '{"logprobs": 1}')).seq;
SELECT moe.chat('hi', options => '{"system": null, "tools": null}') IS NOT NULL AS nulls_are_defaults;

-- arguments
SELECT moe.generate('hi', max_tokens => -1);
SELECT moe.generate('hi', temperature => -1);
SELECT moe.generate('hi', temperature => 'NaN');
SELECT moe.generate('hi', temperature => 'Infinity');
SELECT moe.generate('hi', stop => '{""}');
SELECT moe.generate('hi', stop => '{NULL}');
SELECT moe.generate('hi', max_tokens => 2, stop => '{}') IS NOT NULL AS no_stop;
SELECT moe.generate('{1,NULL}'::int[]);
SELECT moe.generate('{}'::int[]);
SELECT moe.generate('{99999999}'::int[]);
SELECT moe.generate('{-1}'::int[]);

-- models
SELECT moe.generate('hi', 'v3-lite');
SELECT moe.generate('hi', 'poket');
SELECT moe.generate('hi', '');
SET moe.default_model = 'poket';
SELECT moe.generate('hi');
SET moe.default_model = '';
SELECT moe.generate('hi');
RESET moe.default_model;

-- a prompt that does not fit
SELECT moe.generate(repeat('word ', 5000));
SELECT moe.embed(repeat('word ', 5000));

-- a batch fails as a whole
SELECT * FROM moe.generate(ARRAY['a', repeat('word ', 5000)]);

-- sampling options that change nothing where nothing is sampled
SELECT moe.generate('VACUUM reclaims', max_tokens => 10,
                    options => '{"top_k": 40, "top_p": 0.9, "min_p": 0.05, "seed": 3}')
       = moe.generate('VACUUM reclaims', max_tokens => 10) AS same;

-- the session goes on after each error, in PL/pgSQL too
DO $$
DECLARE
    calls text[] := ARRAY['moe.generate(''hi'', ''nope'')', 'moe.generate(''hi'', options => ''{"x": 1}'')',
                          'moe.generate(repeat(''word '', 5000))', 'moe.chat(''[]''::jsonb)',
                          'moe.detokenize(''{-1}'')', 'moe.chat(''hi'', options => ''{"template": "{{"}'')',
                          'moe.generate_stream(''{-1}''::int[])'];
    c text;
    answer text;
    caught int := 0;
BEGIN
    FOR i IN 1..5 LOOP
        FOREACH c IN ARRAY calls LOOP
            BEGIN
                EXECUTE 'SELECT ' || c;
            EXCEPTION WHEN OTHERS THEN
                caught := caught + 1;
            END;
            IF moe.generate('An index', max_tokens => 1) IS NULL THEN
                RAISE EXCEPTION 'no answer after %', c;
            END IF;
        END LOOP;
    END LOOP;
    RAISE NOTICE '% errors caught', caught;
END
$$;
SELECT schedulers, sequences, kv_pages_used FROM moe.status;
