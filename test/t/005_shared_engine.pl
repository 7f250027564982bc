# The shared engine: one process computes for all sessions, with the results that each gets alone, and
# outlives what its sessions do.
use strict;
use warnings;

use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Minutes of work; with the model's context no single text takes that long
my $long = q{SELECT count(result) FROM moe.generate(array_fill('VACUUM reclaims'::text, ARRAY[2000]),
	max_tokens => 800, options => '{"ignore_eos": true}')};
my $counters = q{SELECT schedulers, sequences, kv_pages_used, requests_running, requests_waiting FROM moe.status};
my $clean = q{SELECT (schedulers, sequences, kv_pages_used, requests_running, requests_waiting) = (0, 0, 0, 0, 0)
	FROM moe.status};
my $worker = 'SELECT worker_pid FROM moe.status';
my $generate = q{SELECT moe.generate('VACUUM reclaims', max_tokens => 8)};

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'pg_moe'
moe.host = shared
restart_after_crash = on
});
$node->start;

sub threads
{
	my ($pid) = @_;
	return scalar(() = glob("/proc/$pid/task/*"));
}

sub postmaster
{
	return (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
}

# Starts the long statement in a session of its own and waits until the engine is at it.
sub start_long
{
	my ($query) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_until(qr/started/, "\\echo started\n" . ($query // $long) . ";\n");
	$node->poll_query_until('postgres', qq{
		SELECT state = 'active' AND query LIKE '%moe.%' AND pid <> pg_backend_pid() AND requests_running > 0
		FROM pg_stat_activity, moe.status WHERE pid = $pid});
	return ($session, $pid);
}

sub ends
{
	my ($pid, $name) = @_;
	ok($node->poll_query_until('postgres',
			"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid AND state = 'active'"), $name);
	ok($node->poll_query_until('postgres', $clean), "$name: nothing is left");
}

# --- where it computes

$node->safe_psql('postgres', 'CREATE EXTENSION pg_moe');
my $pid = $node->safe_psql('postgres', $worker);
is(threads($pid), 1, 'the worker has no other thread before its first request');
is($node->safe_psql('postgres', 'SELECT host, isa, threads, open_models FROM moe.status'), 'shared|||0',
	'nor a model');
my $answer = $node->safe_psql('postgres', $generate);
is($node->safe_psql('postgres', "$generate; SELECT host, worker_pid, open_models, generated_tokens FROM moe.status"),
	"$answer\nshared|$pid|1|8", 'the worker computes');
cmp_ok(threads($pid), '>=', 1, 'with threads of its own');
is(threads(postmaster()), 1, 'the postmaster has one thread');

# --- the same bits

my @questions = (
	q{SELECT moe.generate('VACUUM reclaims', max_tokens => 40)},
	q{SELECT moe.generate('An index', max_tokens => 30, temperature => 0.9, seed => 7, stop => '{"the"}')},
	q{SELECT moe.generate('An index', max_tokens => 0)},
	q{SELECT moe.chat_full('What is 47 + 38?')},
	q{SELECT * FROM moe.generate(ARRAY['A table is', NULL, 'A view is', 'x'], max_tokens => 12)},
	q{SELECT (moe.generate_stream('An index', max_tokens => 12)).*},
	q{SELECT (moe.generate_stream(E'caf\u00e9 \u65e5\u672c', max_tokens => 12, temperature => 3, seed => 1)).*},
	q{SELECT moe.embed('The cat sleeps on the sofa.')},
	q{SELECT md5(string_agg(result::text, ' ' ORDER BY ordinality)) FROM moe.embed(
		(SELECT array_agg('row ' || g || repeat(' word', g % 40)) FROM generate_series(1, 400) AS g))},
	q{SELECT * FROM moe.next_tokens('VACUUM', k => 5)},
	q{SELECT * FROM moe.score('What does VACUUM', ' do?')},
	q{SELECT moe.generate('{}'::int[])},
	q{SELECT moe.generate('{1,2,999999}'::int[])},
	q{SELECT moe.generate(array_fill(5, ARRAY[2000]))});
my @alone;
foreach my $q (@questions)
{
	my (@out, @err);
	foreach my $host ('backend', 'shared')
	{
		my ($ret, $out, $err) = $node->psql('postgres', $q,
			connstr => $node->connstr('postgres') . " options='-c moe.host=$host'");
		push @out, "$ret $out";
		push @err, $err;
	}
	is($out[1], $out[0], "both hosts say the same: $q");
	is($err[1], $err[0], '... also if that is an error') if $err[0] ne '';
	push @alone, $out[0];
}
is($node->safe_psql('postgres', $worker), $pid, 'bad requests do the worker no harm');

# --- what EXPLAIN says of the experts

my $experts = q{SELECT hits + misses FROM moe.weight_cache WHERE model = 'pocket'};
my $plan = $node->safe_psql('postgres', qq{$experts;
	EXPLAIN (ANALYZE) SELECT moe.generate('row ' || g, max_tokens => g) FROM generate_series(1, 20) AS g; $experts});
like($plan, qr/^\d+\n.*Expert Cache: [1-9]\d* hits, \d+ misses\n.*\n\d+$/s, 'EXPLAIN tells of the expert cache');
my ($uses_before, $hits, $misses, $uses_after) = $plan =~ /^(\d+)\n.*Expert Cache: (\d+) hits, (\d+) misses\n.*\n(\d+)$/s;
is($hits + $misses, $uses_after - $uses_before, 'and that is what the cache has counted');

# --- many at once

my $ask = sub {
	my ($n) = @_;
	return "SELECT md5(string_agg(result, '|' ORDER BY ordinality)) FROM moe.generate("
	  . "(SELECT array_agg('A table number ' || $n || ' is ' || g) FROM generate_series(1, 4) AS g), max_tokens => 32)";
};
my @solo = map { $node->safe_psql('postgres', $ask->($_)) } 1 .. 8;
my @sessions = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 8;
$sessions[ $_ - 1 ]->query_until(qr/go/, "\\echo go\n" . $ask->($_) . " \\g /dev/null\n") foreach 1 .. 8;
is_deeply([ map { scalar $sessions[ $_ - 1 ]->query($ask->($_)) } 1 .. 8 ], \@solo,
	'eight sessions at once get what each gets alone');
$_->quit foreach @sessions;
ok($node->poll_query_until('postgres', $clean), 'nothing is left');

# a prompt that begins as another session's did is read from where it differs
my $begins = q{SELECT (usage->>'prompt_tokens')::int > 300, (usage->>'cached_tokens')::int FROM
	(SELECT moe.chat_full(repeat('A table is a table. ', 100) || '%s', max_tokens => 2)->'usage' AS usage) AS u};
is($node->safe_psql('postgres', sprintf($begins, 'What is an index?')), 't|0', 'a prompt is read');
like($node->safe_psql('postgres', sprintf($begins, 'What is a view?')), qr/^t\|[1-9]\d\d/,
	'and its beginning is there for the next session');

# two models, one of which is dropped
my $pocket = $node->safe_psql('postgres',
	q{SELECT setting || '/pg_moe/pocket-q8_0.gguf' FROM pg_config WHERE name = 'SHAREDIR'});
my $file = $node->basedir . '/model.gguf';
copy($pocket, $file) or die $!;
{
	# other weights: the last bytes of a GGUF file are weights
	open my $fh, '+<', $file or die $!;
	binmode $fh;
	seek $fh, -1, 2;
	print $fh chr(1);
	close $fh;
}
my $blocks = q{SELECT shared_weight_blocks FROM moe.status};
my $before = $node->safe_psql('postgres', $blocks);
$node->safe_psql('postgres', "SELECT moe.load_model('mine', '$file')");
my ($session, $user) = start_long();
is($node->safe_psql('postgres', q{SELECT moe.generate('VACUUM reclaims', 'mine', 8) IS NOT NULL; SELECT open_models FROM moe.status}),
	"t\n2", 'two models run at a time');
is($node->safe_psql('postgres', $generate), $answer, 'and the other one answers others');
$node->safe_psql('postgres', q{SELECT moe.drop_model('mine')});
ok($node->poll_query_until('postgres', 'SELECT open_models = 1 FROM moe.status'),
	'the worker closes a model that is dropped');
is($node->safe_psql('postgres', $blocks), $before, 'and its weights are gone');

# --- what does not wait for a generation

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('postgres', 'CREATE DATABASE third');
my $space = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', "CREATE TABLESPACE space LOCATION '$space'");
$node->safe_psql('postgres', 'DROP DATABASE other');
$node->safe_psql('postgres', 'ALTER DATABASE third SET TABLESPACE space');
is($node->safe_psql('postgres', "SELECT state FROM pg_stat_activity WHERE pid = $user"),
	'active', 'DROP DATABASE and ALTER DATABASE SET TABLESPACE do not wait');

# --- how a run ends early

$node->safe_psql('postgres', "SELECT pg_cancel_backend($user)");
ends($user, 'pg_cancel_backend() while it decodes');
is($session->query($generate), $answer, 'the session goes on');
like($session->{stderr}, qr/canceling statement due to user request\nDETAIL:  \d+ of \d+ tokens had been generated/,
	'the error says how far it had come');
$session->quit;

my ($ret, $out, $err) = $node->psql('postgres', qq{
	SET statement_timeout = 200;
	SELECT count(*) FROM moe.embed(array_fill(repeat('word ', 400), ARRAY[5000]))});
like($err, qr/canceling statement due to statement timeout/, 'statement_timeout while it reads prompts');
ok($node->poll_query_until('postgres', $clean), 'nothing is left');

($session, $user) = start_long();
$node->safe_psql('postgres', "SELECT pg_terminate_backend($user)");
ends($user, 'pg_terminate_backend()');
eval { $session->quit };

is($node->safe_psql('postgres', q{BEGIN;
	DECLARE s CURSOR FOR SELECT (moe.generate_stream('VACUUM reclaims', max_tokens => 400)).seq;
	DECLARE t CURSOR FOR SELECT (moe.generate_stream('An index', max_tokens => 5)).piece;
	FETCH 1 FROM t;
	FETCH 2 FROM s;
	FETCH 1 FROM t;
	SELECT moe.generate('VACUUM reclaims', max_tokens => 8);
	FETCH 1 FROM s;
	CLOSE s;
	FETCH 1 FROM t}), " is\n1\n2\n a\n$answer\n3\n general", 'streams through cursors, in turns');
ok($node->poll_query_until('postgres', $clean), 'nothing is left');
is($node->safe_psql('postgres', q{SELECT (moe.generate_stream('VACUUM reclaims')).seq LIMIT 2}), "1\n2", 'LIMIT');
ok($node->poll_query_until('postgres', $clean), 'nothing is left');

# what is not fetched is not computed, but for some tokens ahead: when the stream has come to rest, another
# request's tokens go through the experts alone, and so use as many as with no stream there
my $uses = q{SELECT hits + misses AS uses FROM moe.weight_cache WHERE model = 'pocket' \gset
	SELECT length(moe.generate('A table is', max_tokens => 100, options => '{"ignore_eos": true}')) > 0 \g /dev/null
	SELECT hits + misses - :uses FROM moe.weight_cache WHERE model = 'pocket';};
my $story = q{'VACUUM reclaims', max_tokens => 800, options => '{"ignore_eos": true}'};
my $alone = $node->safe_psql('postgres', $uses);
my $out_of_stream = $node->safe_psql('postgres', qq{BEGIN;
	DECLARE s CURSOR FOR SELECT (moe.generate_stream($story)).piece;
	SELECT hits + misses AS before FROM moe.weight_cache WHERE model = 'pocket' \\gset
	MOVE 3 FROM s;
	$uses $uses
	SELECT hits + misses - :before < 3 * $alone FROM moe.weight_cache WHERE model = 'pocket';
	MOVE 7 FROM s;
	$uses $uses
	CLOSE s});
like($out_of_stream, qr/^\d+\n$alone\nt\n\d+\n$alone$/, 'a stream rests where it is not fetched');
ok($node->poll_query_until('postgres', $clean), 'nothing is left');
is($node->safe_psql('postgres', qq{SELECT string_agg((s).piece, '' ORDER BY (s).seq) = moe.generate($story)
	FROM (SELECT moe.generate_stream($story) AS s OFFSET 0) AS t}), 't', 'and goes on to the same text');

# --- settings

($ret, $out, $err) = $node->psql('postgres', "SET moe.cpu_isa = 'scalar'; $generate");
like($err, qr/the shared engine computes with other settings than this session/,
	'other settings than the worker has are refused');
is($node->safe_psql('postgres', "SET moe.cpu_isa = 'scalar'; SET moe.host = 'auto'; SELECT host, isa FROM moe.status; $generate"),
	"backend|scalar\n$answer", 'or go to the backend');
$node->append_conf('postgresql.conf', "moe.cpu_isa = 'scalar'\nmoe.shared_threads = 1\nmoe.kv_cache_size = 1MB");
$node->reload;
ok($node->poll_query_until('postgres', 'SELECT isa IS NULL AND threads IS NULL FROM moe.status'), 'the worker follows the configuration file');
is($node->safe_psql('postgres', "$generate; SELECT isa, threads, worker_pid FROM moe.status"), "$answer\nscalar|1|$pid",
	'and gives the same answer');

# --- waiting in the queue; the KV cache is as small as set above

($session, $user) = start_long();
my $waiter = $node->background_psql('postgres', on_error_stop => 0);
my $waiter_pid = $waiter->query_safe('SELECT pg_backend_pid()');
$waiter->query_until(qr/go/, "\\echo go\nSELECT moe.generate('x', max_tokens => 800, options => '{\"ignore_eos\": true}');\n");
ok($node->poll_query_until('postgres', q{SELECT requests_waiting > 0 FROM moe.status}), 'requests wait for memory');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($waiter_pid)");
ok($node->poll_query_until('postgres', "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $waiter_pid"),
	'one that waits can be cancelled');
is($node->safe_psql('postgres', "SELECT state FROM pg_stat_activity WHERE pid = $user"), 'active',
	'which does not touch the others');
$waiter->quit;

# --- the worker ends

kill 'TERM', $pid;
ok($node->poll_query_until('postgres', "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $user"),
	'a session does not wait for a worker that is gone');
is($session->query($generate), $answer, 'its next request finds a new worker');
like($session->{stderr}, qr/the shared engine stopped while it worked on this request/, 'after it was told');
my $second = $session->query($worker);
isnt($second, $pid, 'which is another process');
kill 'TERM', $second;
ok($node->poll_query_until('postgres', "SELECT worker_pid <> $second FROM moe.status"), 'that one ends');
is($session->query($generate), $answer, 'and a session that had a channel to it goes on');
$session->quit;
ok($node->poll_query_until('postgres', $clean), 'nothing is left');

# a stream that rests does not keep others waiting for the memory that it holds
is($node->safe_psql('postgres', qq{SET statement_timeout = '180s';
	BEGIN;
	DECLARE s CURSOR FOR SELECT (moe.generate_stream($story)).seq;
	MOVE 1 FROM s;
	SELECT length(moe.generate($story)) > 0;
	MOVE 798 FROM s;
	FETCH 2 FROM s}), "t\n800", 'requests that wait for the memory of a stream that rests get it');

# crashes: of the worker, and of a session that it works for
foreach my $victim ('worker', 'session')
{
	my ($s, $client) = start_long();
	kill 'KILL', $victim eq 'worker' ? $node->safe_psql('postgres', $worker) : $client;
	eval { $s->quit };
	ok($node->poll_query_until('postgres', 'SELECT true'), "the server restarts after a crash of the $victim");
	is($node->safe_psql('postgres', $generate), $answer, 'and the engine works again');
	ok($node->poll_query_until('postgres', $clean), 'with nothing left');
}
is(threads(postmaster()), 1, 'the postmaster still has one thread');

# --- limits

# what a statement uses while it still queues requests counts, and is shown
$node->safe_psql('postgres', q{CREATE ROLE intern LOGIN; SELECT moe.set_budget('intern', 4000, '1 day')});
my $rows = q{SELECT count(moe.generate('A table ' || i, max_tokens => 100, options => '{"ignore_eos": true}'))
	FROM generate_series(1, 20000) AS i};
($ret, $out, $err) = $node->psql('postgres', $rows, extra_params => [ '-U', 'intern' ]);
like($err, qr/token budget of role "intern" is used up/, 'a budget ends a batch whose requests do not all fit into the queue');
# some 500 as a rule; all that is asked for would be two millions
is($node->safe_psql('postgres', 'SELECT used BETWEEN 4001 AND 14000 FROM moe.budget'), 't', 'not long after');
$node->safe_psql('postgres', q{SELECT moe.set_budget('intern', NULL)});
($session, $user) = start_long($rows);
ok($node->poll_query_until('postgres', qq{
	SELECT (task, phase) = ('generate', 'decode') AND sequences > 64 AND prompt_read > 0 AND generated_tokens > 0
	FROM moe.stat_requests WHERE pid = $user}), 'moe.stat_requests shows it');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($user)");
ends($user, 'a batch is cancelled while it queues');
$session->quit;

$node->append_conf('postgresql.conf', 'moe.max_requests = 2');
($session, $user) = start_long();
$node->restart;
eval { $session->quit };
pass('shutdown does not wait for a generation');
my $two = q{BEGIN;
	DECLARE s CURSOR FOR SELECT (moe.generate_stream('VACUUM reclaims')).seq;
	DECLARE t CURSOR FOR SELECT (moe.generate_stream('An index')).seq;
	FETCH 1 FROM s; FETCH 1 FROM t;};
($ret, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$two $generate");
like($err, qr/ERROR:  53400: too many requests for the shared engine\nDETAIL:.*\nHINT:  Try again/,
	'moe.max_requests is a limit');
($ret, $out, $err) = $node->psql('postgres', "SET moe.host = 'auto'; $two $generate");
like($err, qr/ERROR:  too many requests for the shared engine\nDETAIL:/, 'with auto as well');
is($node->safe_psql('postgres', "$two CLOSE s; $generate"), "1\n1\n$answer", 'that counts what is open');
is($node->safe_psql('postgres', q{SET moe.host = 'auto'; SELECT host FROM moe.status}), 'shared', 'auto takes the worker');

$node->append_conf('postgresql.conf', 'moe.shared_engine = off');
$node->restart;
($ret, $out, $err) = $node->psql('postgres', $generate);
like($err, qr/this server has no shared engine\nHINT:/, 'without a worker it is an error');
is($node->safe_psql('postgres', qq{SET moe.host = 'auto'; SELECT host FROM moe.status; $generate}),
	"backend\n$answer", 'auto takes the backend');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|FailedAssertion|signal 11|signal 6/, 'no process has crashed of itself');
done_testing();
