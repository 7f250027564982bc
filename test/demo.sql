\echo
\echo '-- A model comes with the extension: no setting, no preload, no network.'
\echo
CREATE EXTENSION pg_moe;
SELECT name, family, params, type, context FROM moe.models;

\echo '-- Text that goes on.'
\echo
SELECT moe.generate('CREATE TABLE creates', max_tokens => 16, stop => '{","}');

\echo '-- A chat, and the reasoning before the answer.'
\echo
SELECT moe.chat('What does VACUUM do?');
SELECT r->>'reasoning' AS reasoning, r->>'content' AS content, r->'usage' AS usage
  FROM moe.chat_full('What is 47 + 38?') AS r;

\echo '-- The same, for every row of a table.'
\echo
CREATE TABLE review (id int PRIMARY KEY, body text);
INSERT INTO review VALUES
    (1, 'The food was not good.'),
    (2, 'I love this phone!'),
    (3, 'I expected it to be boring, but the movie was wonderful.');
SELECT body, moe.chat('Classify the text as positive or negative: ' || body) AS sentiment
  FROM review ORDER BY id;

\echo '-- Search by meaning.'
\echo
CREATE TABLE docs (id int PRIMARY KEY, body text, emb real[]);
INSERT INTO docs VALUES
    (1, 'VACUUM reclaims storage occupied by dead tuples.'),
    (2, 'An index speeds up queries.'),
    (3, 'The cat sleeps on the sofa.'),
    (4, 'Add the garlic and stir the soup.'),
    (5, 'Heavy rain is expected tomorrow.'),
    (6, 'The bank raised interest rates.'),
    (7, 'The team won the football match.'),
    (8, 'BEGIN starts a transaction block.');
UPDATE docs SET emb = moe.embed(body);
SELECT body, round(similarity::numeric, 2) AS similarity
  FROM docs,
       LATERAL (SELECT sum(d::float8 * q) AS similarity
                  FROM unnest(emb, moe.embed('The weather will be sunny.')) AS pair(d, q)) AS s
 ORDER BY similarity DESC
 LIMIT 3;
