-- moe.chat(), moe.chat_full()
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_moe;
RESET client_min_messages;

SELECT moe.chat('What is 47 + 38?');
SELECT moe.chat('What is the capital of France?');
SELECT r->>'content' AS content, r->>'reasoning' AS reasoning, r->'tool_calls' AS tool_calls,
       r->>'finish_reason' AS finish_reason
  FROM moe.chat_full('What is 12 * 7?') r;
SELECT (u->>'prompt_tokens')::int AS prompt, (u->>'completion_tokens')::int AS completion,
       (u->>'total_tokens')::int AS total
  FROM (SELECT moe.chat_full('What is 12 * 7?')->'usage' AS u) s;
SELECT jsonb_object_keys(moe.chat_full('Hello!')) AS key ORDER BY 1;

-- messages as json and jsonb
SELECT moe.chat('[{"role": "user", "content": "What is the capital of France?"}]'::jsonb);
SELECT moe.chat('[{"role": "user", "content": "What is the capital of France?"}]'::json);
SELECT moe.chat('[{"role": "system", "content": "Answer briefly."},
                  {"role": "user", "content": "What is the opposite of hot?"}]'::jsonb);
SELECT moe.chat('[{"role": "user", "content": "What is 2 + 3?"},
                  {"role": "assistant", "content": "<think>\n2 + 3 = 5.\n</think>\n\n5"},
                  {"role": "user", "content": "What is the capital of Japan?"}]'::jsonb);
-- a plain literal is a prompt, whatever it looks like
SELECT moe.chat('[]') IS NOT NULL AS answered;

-- a system prompt as an option
SELECT moe.chat('What is the opposite of hot?', options => '{"system": "Answer briefly."}');
SELECT moe.chat('[{"role": "user", "content": "What is the opposite of hot?"}]'::jsonb,
                options => '{"system": "Answer briefly."}');

-- without reasoning
SELECT moe.chat_full('What is 5 + 9?', options => '{"enable_thinking": false}') - 'usage' AS answer;
SELECT moe.chat('How many orders are there in table orders(id, amount, status)',
                options => '{"enable_thinking": false}');

-- an answer that is cut off while it reasons has no content
SELECT r->>'content' AS content, r->>'reasoning' AS reasoning, r->>'finish_reason' AS finish_reason
  FROM moe.chat_full('What is 47 + 38?', max_tokens => 5) r;
SELECT moe.chat('What is 47 + 38?', max_tokens => 5) = '' AS empty;

-- one answer per row
SELECT q, moe.chat(q, options => '{"enable_thinking": false}') AS a
  FROM (VALUES (1, 'What colour is the sky?'),
               (2, 'Classify the text as positive or negative: I love this phone!'),
               (3, NULL)) v(i, q)
 ORDER BY i;

-- NULLs
SELECT moe.chat(NULL) IS NULL AS text, moe.chat(NULL::json) IS NULL AS json,
       moe.chat(NULL::jsonb) IS NULL AS jsonb, moe.chat_full(NULL) IS NULL AS full_text,
       moe.chat_full(NULL::json) IS NULL AS full_json, moe.chat_full(NULL::jsonb) IS NULL AS full_jsonb;

-- what is no list of messages, or an empty one
SELECT moe.chat('{"role": "user"}'::jsonb);
SELECT moe.chat('[]'::jsonb);
SELECT moe.chat('[1]'::jsonb);

-- messages that lack something; what an assistant did may stand in place of what it said
SELECT moe.chat('[{"role": "user", "content": "hi"}, {"content": "hello"}]'::jsonb);
\echo :LAST_ERROR_SQLSTATE
SELECT moe.chat('[{"role": 1, "content": "hi"}]'::jsonb);
SELECT moe.chat('[{"role": "system", "content": "Be brief."}, {"role": "user", "contnet": "hi"}]'::json);
SELECT moe.chat('[{"role": "user"}]'::jsonb, options => '{"system": "Be brief."}');
SELECT moe.chat(jsonb_build_array(jsonb_build_object('role', 'user', 'content', NULL)));
SELECT moe.chat('[{"role": "assistant"}]'::jsonb);
SELECT moe.chat('[{"role": "user"}]'::jsonb, options => '{"on_error": "null"}') IS NULL AS null;
CREATE FUNCTION pg_temp.asked(template text, content text DEFAULT '') RETURNS text LANGUAGE sql
RETURN moe.apply_chat_template(format('[{"role": "user", "content": "6 * 7?"}, {"role": "assistant", %s
    "tool_calls": [{"type": "function", "function": {"name": "product", "arguments": {"a": 6, "b": 7}}}]}]', content)::json,
    options => json_build_object('template', template));
SELECT pg_temp.asked('{{ messages[1].tool_calls[0].function.name }}');
SELECT pg_temp.asked('{{ "said: " + messages[1].content }}');
SELECT pg_temp.asked('{{ "said: " + messages[1].content }}', '"content": null,');
SELECT pg_temp.asked('{{ "said: " + messages[1].content }}', '"content": "",');
SELECT pg_temp.asked('{{ raise_exception("no") }}', '"content": "",');
SELECT moe.chat('"hello"'::json, options => '{"system": "Answer briefly."}');

-- a template of one's own
SELECT moe.chat('What is the capital of France?',
                options => '{"template": "{{ bos_token }}<｜User｜>{{ messages[0].content }}<｜Assistant｜><think>\n"}');
SELECT moe.chat('hi', options => '{"template": "{% for %}"}');
SELECT moe.chat('hi', options => '{"template": "{{ raise_exception(''no such thing'') }}"}');

-- the prompt that a chat makes
SELECT moe.apply_chat_template('[{"role": "user", "content": "What is 47 + 38?"}]');
SELECT moe.apply_chat_template('[{"role": "user", "content": "What is 5 + 9?"}]'::jsonb,
                               options => '{"enable_thinking": false}');
SELECT moe.apply_chat_template('[{"role": "user", "content": "What is 5 + 9?"}]'::json,
                               options => '{"add_generation_prompt": false}');
SELECT moe.apply_chat_template('[{"role": "user", "content": "hi"}]', options => '{"template": "{{ x }}", "variables": {"x": 42}}');
SELECT moe.apply_chat_template('not json');
SELECT moe.apply_chat_template(NULL::jsonb) IS NULL AS null;
SELECT moe.tokenize(moe.apply_chat_template('[{"role": "user", "content": "What is 47 + 38?"}]'), parse_special => true);

SELECT schedulers, sequences, kv_pages_used FROM moe.status;
