# A computation ends when its statement does, and leaves nothing behind.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Minutes of work in one call; with the model's context no single text takes that long
my $long = q{SELECT count(result) FROM moe.generate(array_fill('VACUUM reclaims'::text, ARRAY[2000]),
	max_tokens => 900, options => '{"ignore_eos": true}')};
my $clean = q{SELECT schedulers, sequences, kv_pages_used FROM moe.status};

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_moe');
$node->safe_psql('postgres', q{SELECT moe.generate('hi', max_tokens => 1)});

# statement_timeout, in the middle of a batch
my ($ret, $out, $err) = $node->psql('postgres', qq{
	SELECT 1 FROM (SELECT moe.generate('hi', max_tokens => 1)) s;
	SET statement_timeout = 300;
	$long;
	RESET statement_timeout;
	$clean;
	SELECT moe.generate('VACUUM reclaims', max_tokens => 1) IS NOT NULL}, on_error_stop => 0);
like($err, qr/canceling statement due to statement timeout/, 'statement_timeout ends a generation');
like($err, qr/DETAIL:  \d+ of 1800000 tokens had been generated\./, 'the error says how far it had come');
is($out, "1\n0|0|0\nt", 'nothing is left, and the session goes on');

# a prompt alone
($ret, $out, $err) = $node->psql('postgres', qq{
	SET statement_timeout = 200;
	SELECT count(*) FROM moe.embed(array_fill(repeat('word ', 400), ARRAY[5000]));
	RESET statement_timeout;
	$clean}, on_error_stop => 0);
like($err, qr/canceling statement due to statement timeout/, 'statement_timeout ends a batch of embeddings');
is($out, '0|0|0', 'nothing is left');

# caught in PL/pgSQL
($ret, $out, $err) = $node->psql('postgres', qq{
	SET statement_timeout = 300;
	DO \$\$
	BEGIN
		PERFORM count(result) FROM moe.generate(array_fill('VACUUM reclaims'::text, ARRAY[2000]),
			max_tokens => 900, options => '{"ignore_eos": true}');
	EXCEPTION WHEN query_canceled THEN
		RAISE NOTICE 'caught';
	END
	\$\$;
	RESET statement_timeout;
	$clean}, on_error_stop => 0);
like($err, qr/caught/, 'a cancellation can be caught');
is($out, '0|0|0', 'nothing is left');

# Starts the long statement in a session of its own and waits until it runs.
sub start_long
{
	my ($db) = @_;
	my $session = $node->background_psql($db, on_error_stop => 0);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_until(qr/started/, "\\echo started\n$long;\n");
	$node->poll_query_until('postgres', qq{
		SELECT state = 'active' AND query LIKE '%array_fill%' FROM pg_stat_activity WHERE pid = $pid});
	return ($session, $pid);
}

# another session cancels
my ($session, $pid) = start_long('postgres');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
ok( $node->poll_query_until('postgres', "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $pid"),
	'pg_cancel_backend() ends a generation');
is($session->query($clean), '0|0|0', 'nothing is left');
$session->quit;

# DROP DATABASE waits for all backends to take note of it; a generation must not keep it
$node->safe_psql('postgres', 'CREATE DATABASE other');
($session, $pid) = start_long('postgres');
$node->safe_psql('postgres', 'DROP DATABASE other');
is($node->safe_psql('postgres', "SELECT state FROM pg_stat_activity WHERE pid = $pid"),
	'active', 'DROP DATABASE does not wait for a generation');

# another session terminates it
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok( $node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid"),
	'pg_terminate_backend() ends a generation');
eval { $session->quit };

# a session that exits with a stream open
$node->psql('postgres', q{BEGIN;
	DECLARE s CURSOR FOR SELECT moe.generate_stream('VACUUM reclaims');
	MOVE 3 FROM s});
is($node->safe_psql('postgres', q{SELECT moe.generate('VACUUM reclaims', max_tokens => 1) IS NOT NULL}),
	't', 'a session may end with a stream open');

# shutdown does not wait for a generation either
($session, $pid) = start_long('postgres');
$node->stop('fast');
eval { $session->quit };
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|was terminated by signal|server process .* exited with/, 'no process has crashed');

done_testing();
