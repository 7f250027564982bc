# However a computation ends, other sessions see that nothing of it is left.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $generate = q{SELECT moe.generate('VACUUM reclaims', max_tokens => 4)};
# Minutes of work in one call each
my $long = q{SELECT count(result) FROM moe.generate(array_fill('VACUUM reclaims'::text, ARRAY[2000]),
	max_tokens => 900, options => '{"ignore_eos": true}')};
my $long_prompt = q{SELECT count(result) FROM moe.embed(array_fill(repeat('word ', 400), ARRAY[5000]))};
# Seventy megabytes of keys and values, but little else
my $hungry = q{SELECT count(result) FROM moe.embed(array_fill(repeat('word ', 900), ARRAY[64]))};
my $clean = q{SELECT schedulers, sequences, kv_pages_used FROM moe.status};
my $stream = q{DECLARE s CURSOR FOR SELECT (moe.generate_stream('VACUUM reclaims')).seq};

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_moe');
my $answer = $node->safe_psql('postgres', $generate);

sub requests { return $node->safe_psql('postgres', 'SELECT count(*) FROM moe.stat_requests') }

sub wait_for
{
	my ($condition, $name) = @_;
	ok($node->poll_query_until('postgres', "SELECT $condition"), $name);
}

sub session
{
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	return ($session, $session->query_safe('SELECT pg_backend_pid()'));
}

# Sends a statement and waits until another session sees it at work.
sub start
{
	my ($session, $pid, $sql, $phase) = @_;
	$session->query_until(qr/started/, "\\echo started\n$sql;\n");
	wait_for("count(*) = 1 FROM moe.stat_requests WHERE pid = $pid AND phase = '$phase'",
		"another session sees it, phase $phase");
}

# a generation, as others see it
my ($session, $pid) = session();
start($session, $pid, $long, 'decode');
is($node->safe_psql('postgres', q{
	SELECT role, database, model, task, sequences, prompt_read = prompt_tokens, generated_tokens > 0
	FROM moe.stat_requests}), 'postgres|postgres|pocket|generate|2000|f|t', 'with its particulars');
my ($tokens) = $node->safe_psql('postgres', 'SELECT generated_tokens FROM moe.stat_requests');
wait_for("generated_tokens > $tokens FROM moe.stat_requests", 'that change');

# Ctrl-C in psql
$session->{run}->signal('INT');
wait_for(q{count(*) = 0 FROM moe.stat_requests}, 'Ctrl-C ends a generation');
eval { $session->quit };
like(slurp_file($node->logfile), qr/canceling statement due to user request/, 'by a cancellation');

# in the middle of a long prompt
($session, $pid) = session();
start($session, $pid, $long_prompt, 'prompt');
wait_for('prompt_read > 0 AND prompt_read < prompt_tokens FROM moe.stat_requests', 'a prompt is read by and by');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
wait_for('count(*) = 0 FROM moe.stat_requests', 'a cancellation ends it');
is($session->query($clean), '0|0|0', 'and frees its memory');
$session->{stderr} = '';
is($node->safe_psql('postgres', q{SELECT requests, cancelled > 2000 AND cancelled < 7000, errors FROM moe.stat_models}),
	'7001|t|0', 'all of it is counted');

# a stream that is closed, or read no further
$session->query_safe("BEGIN; $stream; FETCH 2 FROM s");
is(requests(), '1', 'an open stream is a request');
$session->query_safe('CLOSE s');
is(requests(), '0', 'which ends when the cursor is closed');
is($session->query($clean), '0|0|0', 'nothing is left');
$session->query_safe(q{SELECT (moe.generate_stream('VACUUM reclaims')).seq LIMIT 2});
is(requests(), '0', 'and when a LIMIT is reached');
$session->query_safe("$stream; FETCH 2 FROM s; SAVEPOINT p");
$session->query('SELECT 1/0');
$session->{stderr} = '';
is(requests(), '1', 'a failed subtransaction leaves a stream from before it alone');
$session->query_safe("ROLLBACK TO p; SAVEPOINT q; DECLARE t CURSOR FOR SELECT (moe.generate_stream('VACUUM')).seq; FETCH 1 FROM t");
is(requests(), '2', 'a second one begins');
$session->query_safe('ROLLBACK TO q');
is(requests(), '1', 'and ends with its subtransaction');
$session->query_safe('ROLLBACK');
is(requests(), '0', 'the first ends with the transaction');

# the session is taken away from it
$session->query_safe("SET idle_in_transaction_session_timeout = 100; BEGIN; $stream; FETCH 2 FROM s");
wait_for("count(*) = 0 FROM pg_stat_activity WHERE pid = $pid",
	'idle_in_transaction_session_timeout ends a session with an open stream');
is(requests(), '0', 'nothing is left');
eval { $session->quit };

($session, $pid) = session();
start($session, $pid, $long_prompt, 'prompt');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
wait_for("count(*) = 0 FROM pg_stat_activity WHERE pid = $pid", 'pg_terminate_backend() ends a long prompt');
is(requests(), '0', 'nothing is left');
eval { $session->quit };

# the client goes away; a server does not look for that by itself
($session, $pid) = session();
start($session, $pid, $long, 'decode');
$session->{run}->signal('KILL');
wait_for("count(*) = 0 FROM pg_stat_activity WHERE pid = $pid", 'a lost client ends a generation');
is(requests(), '0', 'nothing is left');
eval { $session->quit };

# other sessions' commands that wait for all backends
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('postgres', q{SET allow_in_place_tablespaces = on; CREATE TABLESPACE elsewhere LOCATION ''});
($session, $pid) = session();
start($session, $pid, $long, 'decode');
$node->safe_psql('postgres', 'ALTER DATABASE other SET TABLESPACE elsewhere');
$node->safe_psql('postgres', 'DROP DATABASE other');
$node->safe_psql('postgres', 'DROP TABLESPACE elsewhere');
is($node->safe_psql('postgres', "SELECT count(*) FROM moe.stat_requests WHERE pid = $pid"), '1',
	'moving and dropping another database do not wait for a generation');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
wait_for('count(*) = 0 FROM moe.stat_requests', 'which is then cancelled');
$session->quit;

# no memory
sub limit_memory
{
	my ($p, $mb) = @_;
	slurp_file("/proc/$p/status") =~ /^VmSize:\s+(\d+) kB/m or die;
	system_or_bail('prlimit', "--pid=$p", '--as=' . ($mb < 0 ? 'unlimited:' : 1024 * ($1 + 1024 * $mb) . ':'));
}
SKIP:
{
	skip 'no prlimit', 7 if system('prlimit --version >/dev/null 2>&1') != 0;

	($session, $pid) = session();
	$session->query_safe($generate);
	limit_memory($pid, 8);
	$session->query($hungry);
	like($session->{stderr}, qr/ERROR:  out of memory/, 'too little memory for a computation is an error');
	is($session->query('SELECT 1'), '1', 'and the session goes on');
	limit_memory($pid, -1);
	is($session->query($clean), '0|0|0', 'nothing is left');
	is($node->safe_psql('postgres', 'SELECT errors > 0 FROM moe.stat_models'), 't', 'the errors are counted');
	is($session->query($generate), $answer, 'what fits is computed');
	$session->quit;

	($session, $pid) = session();
	$session->query_safe('SELECT count(*) FROM moe.models');
	limit_memory($pid, 8);
	$session->{stderr} = '';
	$session->query($generate);
	like($session->{stderr}, qr/ERROR:  .*(memory|thread)/, 'so is too little for the engine and the model');
	limit_memory($pid, -1);
	is($session->query($generate), $answer, 'and with more of it they start');
	$session->quit;
}

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|was terminated by signal|server process .* exited with/, 'no process has crashed');
done_testing();
