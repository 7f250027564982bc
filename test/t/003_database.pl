# What concerns a database as a whole: its encoding, and its dump.
use strict;
use warnings;
use utf8;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;

# In another encoding than the models' texts are converted both ways.
$node->safe_psql('postgres',
	q{CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0});
$node->safe_psql('postgres', 'CREATE EXTENSION pg_moe');
$node->safe_psql('latin', 'CREATE EXTENSION pg_moe');
my $tokens = $node->safe_psql('postgres', q{SELECT moe.tokenize(E'caf\u00e9 na\u00efve')});
my $utf8 = q{SET client_encoding = 'UTF8'; };
is($node->safe_psql('latin', qq{$utf8 SELECT moe.tokenize('caf' || chr(233) || ' na' || chr(239) || 've')}),
	$tokens, 'text is converted to UTF-8');
is($node->safe_psql('latin', qq{$utf8 SELECT moe.detokenize('$tokens') = 'caf' || chr(233) || ' na' || chr(239) || 've'}),
	't', 'and back');
my $japanese = $node->safe_psql('postgres', q{SELECT moe.tokenize(E'\u65e5\u672c')});
my ($ret, $out, $err) = $node->psql('latin', qq{$utf8 SELECT moe.detokenize('$japanese')});
like($err, qr/has no equivalent in encoding "LATIN1"/, 'a character that the database lacks is an error');
is($node->safe_psql('latin', qq{$utf8 SELECT moe.chat('What is the capital of France?')}),
	'Paris', 'a chat works in any encoding');

# ... unless that is to give NULL, row by row, in batches and not
my $texts = q{SELECT s, moe.generate('An index', max_tokens => 64, temperature => 5, seed => s%s) AS t FROM generate_series(1, 24) AS s};
my $list = q{SELECT string_agg(s::text, ' ' ORDER BY s) FROM (%s) AS x WHERE %s};
my $lacking = $node->safe_psql('postgres', sprintf($list, sprintf($texts, ''), q{t ~ '[^\u0001-\u00ff\ufffd]'}));
like($lacking, qr/^\d+( \d+)+$/, 'some texts have characters that LATIN1 lacks');
my $or_null = sprintf($texts, q{, options => '{"on_error": "null"}'});
my $got = sprintf($list, $or_null, 't IS NULL');
is($node->safe_psql('latin', $got), $lacking, 'with on_error they are NULL');
is($node->safe_psql('latin', "SET moe.batching = off; $got"), $lacking, 'also row by row');
my $failed = 1 + ($lacking =~ tr/ //);
like($node->safe_psql('latin', "EXPLAIN (ANALYZE, COSTS OFF) $or_null"), qr/ Failed: $failed$/m, 'and count as failed');
($ret, $out, $err) = $node->psql('latin', $utf8 . sprintf($texts, ''));
like($err, qr/has no equivalent in encoding "LATIN1"/, 'without it they are errors');
my ($first) = $lacking =~ /^(\d+)/;
my $chat = qq{SELECT moe.%s('hi', max_tokens => 8, options => '{"on_error": "%s", "enable_thinking": false, "temperature": 4, "seed": %d}') IS NULL};
my $hard = $node->safe_psql('postgres', q{SELECT s FROM generate_series(1, 100) AS s WHERE moe.chat('hi', max_tokens => 8,
	options => jsonb_build_object('enable_thinking', false, 'temperature', 4, 'seed', s)) ~ '[^\u0001-\u00ff\ufffd]' LIMIT 1});
is($node->safe_psql('latin', sprintf($chat, $_, 'null', $hard)), 't', "$_ too") foreach 'chat', 'chat_full';
($ret, $out, $err) = $node->psql('latin', $utf8 . sprintf($chat, 'chat', 'error', $hard));
like($err, qr/has no equivalent in encoding "LATIN1"/, 'or raises the error');
is($node->safe_psql('latin', qq{SELECT string_agg(coalesce(result, 'null'), ' ') ~ 'null'
	FROM moe.generate(ARRAY['An index'], max_tokens => 64, temperature => 5, seed => $first, options => '{"on_error": "null"}')}),
	't', 'and arrays');
# a long text, whose characters lie across any border
$node->safe_psql('postgres',
	q{CREATE DATABASE japanese ENCODING 'EUC_JP' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0});
$node->safe_psql('japanese', 'CREATE EXTENSION pg_moe');
is($node->safe_psql('japanese', qq{$utf8 SELECT string_agg((moe.embed(rpad('', n, 'word ') || repeat('\x{65e5}', 40),
	options => '{"on_error": "null"}') IS NULL)::text, ' ') FROM generate_series(1000, 1003) AS n}),
	'false false false false', 'a long text of characters of several bytes is read');

$node->safe_psql('postgres',
	q{CREATE DATABASE ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0});
$node->safe_psql('ascii', 'CREATE EXTENSION pg_moe');
is($node->safe_psql('ascii', q{SELECT string_agg((moe.generate(t, max_tokens => 1, options => '{"on_error": "null"}') IS NULL)::text, ' ')
	FROM (VALUES ('An index'), (E'An \xff')) AS v(t)}), 'false true', 'so does an input without UTF-8 give NULL');
is($node->safe_psql('ascii', q{SELECT moe.chat(E'An \xff', options => '{"on_error": "null"}') IS NULL}), 't', 'in chats as well');
($ret, $out, $err) = $node->psql('ascii', q{SELECT moe.generate(E'An \xff')});
like($err, qr/invalid byte sequence for encoding "UTF8"/, 'or an error');
my $embedding = q{SELECT md5(moe.embed('hello')::text)};
is($node->safe_psql('latin', $embedding), $node->safe_psql('postgres', $embedding),
	'and so do embeddings');

# A dump has the models that users registered, and no other.
my $pocket = $node->safe_psql('postgres',
	q{SELECT setting || '/pg_moe/pocket-q8_0.gguf' FROM pg_config WHERE name = 'SHAREDIR'});
$node->safe_psql('postgres', qq{
	SELECT moe.load_model('mine', '$pocket', '{"query_prefix": "query: "}');
	CREATE ROLE "Odd Name";
	CREATE ROLE gone;
	SELECT moe.grant_model('mine', r) FROM unnest('{public,Odd Name,gone}'::text[]) r;
	SELECT moe.set_budget('Odd Name', 1000, '1 day 2 hours');
	SELECT moe.set_budget('gone', 1);
	DROP ROLE gone;
	CREATE TABLE notes (body text, emb real[] GENERATED ALWAYS AS (
		moe.embed_pinned(body, 'c8f2456ce38e15dcb27b8ecc15e2bed1d79b766a32ceb46bdcb2c71ebc2158df')) STORED);
	CREATE INDEX ON notes ((moe.embed_pinned(body, 'c8f2456ce38e15dcb27b8ecc15e2bed1d79b766a32ceb46bdcb2c71ebc2158df', 'query')));
	INSERT INTO notes VALUES ('hello'), ('VACUUM reclaims storage')});
$node->safe_psql('postgres', 'CREATE DATABASE copy');
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, 'postgres' ], 'pg_dump');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'copy' ], 'restore');
is( $node->safe_psql('copy', 'SELECT name FROM moe.models ORDER BY name'),
	"mine\npocket", 'the registered model is there');
is( $node->safe_psql('copy', q{SELECT moe.embed('hello', 'mine', 'query') = moe.embed('query: hello')}),
	't', 'with its options');
is( $node->safe_psql('copy', 'SELECT * FROM moe.model_grants ORDER BY role'),
	"mine|Odd Name\nmine|public", 'with the grants on it, but for those of a role that is gone');
is( $node->safe_psql('copy', 'SELECT role, tokens, "window" FROM moe.budget'),
	'Odd Name|1000|1 day 02:00:00', 'and budgets');
is( $node->safe_psql('copy', q{SET ROLE "Odd Name"; SELECT moe.embed('hello', 'mine') IS NOT NULL}),
	't', 'which mean the same roles');
my $notes = 'SELECT body, md5(emb::text) FROM notes ORDER BY body';
is($node->safe_psql('copy', $notes), $node->safe_psql('postgres', $notes),
	'generated columns are computed again, to the same values');

$node->stop;
done_testing();
