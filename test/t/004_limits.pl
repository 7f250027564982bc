# Limits that sessions share: of backends that compute, and of tokens per role.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $generate = q{SELECT moe.generate('VACUUM reclaims', max_tokens => 4)};
# Minutes of work, in calls of a second or so
my $long = q{SELECT count(moe.generate('VACUUM reclaims', max_tokens => 900,
	options => '{"ignore_eos": true}')) FROM generate_series(1, 1000)};

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "moe.host = backend\nmoe.batching = off\nmoe.max_backends = 1\nrestart_after_crash = on");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_moe');
my $answer = $node->safe_psql('postgres', $generate);

sub counts { return $node->safe_psql('postgres', 'SELECT computing_backends, waiting_backends FROM moe.status') }

sub wait_for_counts
{
	my ($counts, $name) = @_;
	ok($node->poll_query_until('postgres',
		'SELECT computing_backends, waiting_backends FROM moe.status', $counts), $name);
}

# Starts a statement in a session of its own; the pid tells when it is at work.
sub start
{
	my ($sql) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_until(qr/started/, "\\echo started\n$sql;\n");
	$node->poll_query_until('postgres', "SELECT count(*) > 0 FROM moe.stat_requests WHERE pid = $pid");
	return ($session, $pid);
}

# Stops a backend while it computes and all others wait, so that the only place stays taken.  If it
# was stopped with the counters locked, the question for them gets no answer: then again.
sub stop_inside
{
	my ($pid, $others) = @_;
	foreach (1 .. 1000)
	{
		my ($state, $no_answer) = ('', 0);
		kill 'STOP', $pid;
		$node->psql('postgres', qq{
			SELECT phase, computing_backends, waiting_backends
			FROM moe.stat_requests, moe.status WHERE pid = $pid},
			stdout => \$state, timeout => 10, timed_out => \$no_answer);
		return 1 if !$no_answer && $state =~ /^(prompt|decode)\|1\|$others$/;
		kill 'CONT', $pid;
	}
	return 0;
}

foreach my $preload ('', 'pg_moe')
{
	my $mode = $preload ? ' (preloaded)' : '';

	# a stream that a cursor holds keeps nobody out, and a call waits for no call inside it
	my $reader = $node->background_psql('postgres', on_error_stop => 0);
	$reader->query_safe(q{BEGIN; DECLARE s CURSOR FOR SELECT (moe.generate_stream('VACUUM reclaims')).seq; FETCH 2 FROM s});
	is(counts(), '0|0', 'an open stream holds no place' . $mode);
	is($node->safe_psql('postgres', $generate), $answer, 'another session computes beside it' . $mode);
	is($node->safe_psql('postgres', q{SELECT phase, generated_tokens FROM moe.stat_requests}),
		'idle|2', 'it is shown as idle' . $mode);
	is($reader->query(q{SELECT moe.generate(moe.generate('VACUUM reclaims', max_tokens => 2), max_tokens => 2) IS NOT NULL}),
		't', 'calls nest' . $mode);
	$reader->query_safe('CLOSE s; COMMIT');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM moe.stat_requests'), '0', 'nothing is left of it' . $mode);

	# three sessions take turns
	my @busy = map { [ start($long) ] } 1 .. 3;
	wait_for_counts('1|2', 'one computes and two wait' . $mode);
	ok($node->poll_query_until('postgres', q{
		SELECT count(DISTINCT pid) = 3 FROM moe.stat_requests WHERE generated_tokens > 20}),
		'all of them get on' . $mode);

	# whoever waits can be cancelled, terminated, and times out
	my ($first, $second, $third) = map { $_->[1] } @busy;
	ok(stop_inside($first, 2), 'one session is halted in a step' . $mode);
	wait_for_counts('1|2', 'the others wait for it' . $mode);
	is($node->safe_psql('postgres', "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $second"),
		'Extension', 'with a wait event' . $mode);
	is($node->safe_psql('postgres', "SELECT phase FROM moe.stat_requests WHERE pid = $second"),
		'waiting', 'and are shown as waiting' . $mode);
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($second)");
	wait_for_counts('1|1', 'a waiting one can be cancelled' . $mode);
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($third)");
	wait_for_counts('1|0', 'a waiting one can be terminated' . $mode);
	my ($ret, $out, $err) = $node->psql('postgres', "SET statement_timeout = 200; $generate");
	like($err, qr/canceling statement due to statement timeout/, 'a waiting one times out' . $mode);
	is(counts(), '1|0', 'and waits no longer' . $mode);
	is($node->safe_psql('postgres', "SELECT string_agg(pid::text, ',') FROM moe.stat_requests"),
		$first, 'only the halted one is left' . $mode);
	kill 'CONT', $first;
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($first)");
	wait_for_counts('0|0', 'the place is free when it is cancelled' . $mode);
	is($busy[0][0]->query($generate), $answer, 'a cancelled session goes on' . $mode);
	is($busy[1][0]->query($generate), $answer, 'so does one that was cancelled while it waited' . $mode);
	eval { $_->[0]->quit } foreach @busy;
	$reader->quit;

	# a backend that dies inside
	my ($victim, $pid) = start($long);
	my ($waiter) = start($long);
	ok(stop_inside($pid, 1), 'a session computes' . $mode);
	my $log_end = -s $node->logfile;
	kill 'KILL', $pid;
	eval { $_->quit } foreach $victim, $waiter;
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $log_end);
	ok($node->poll_query_until('postgres', 'SELECT true'), 'the server recovers' . $mode);
	is($node->safe_psql('postgres', $generate), $answer, 'the model is loaded again' . $mode);
	is(counts(), '0|0', 'the place is free' . $mode);
	is($node->safe_psql('postgres', 'SELECT count(*) FROM moe.stat_requests'), '0', 'no request is left' . $mode);
	is(slurp_file('/proc/' . (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0] . '/status') =~ /^Threads:\s+(\d+)$/m && $1,
		'1', 'the postmaster has one thread' . $mode);

	if (!$preload)
	{
		$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_moe'");
		$node->restart;
	}
}
$node->append_conf('postgresql.conf', 'moe.max_backends = 0');
$node->restart;

# a superuser limits a role, and the role can't lift it, not even before the library is loaded
$node->safe_psql('postgres', q{
	CREATE ROLE intern LOGIN;
	ALTER ROLE intern SET moe.max_tokens_per_query = 20});
my @as_intern = (extra_params => [ '-U', 'intern' ], on_error_stop => 0);
my $forty = q{SELECT moe.generate('VACUUM reclaims', max_tokens => 40, options => '{"ignore_eos": true}')};
foreach my $preload ('pg_moe', '')
{
	my $mode = $preload ? ' (preloaded)' : '';

	if (!$preload)
	{
		$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
		$node->restart;
	}
	my ($ret, $out, $err) = $node->psql('postgres', $generate, @as_intern);
	is($out, $answer, 'a limited role may ask for little' . $mode);
	($ret, $out, $err) = $node->psql('postgres', "SET moe.max_tokens_per_query = 0;\n$forty", @as_intern);
	like($err, qr/statement needs more tokens than moe.max_tokens_per_query allows \(20\)/,
		'ALTER ROLE ... SET moe.max_tokens_per_query holds' . $mode);
	($ret, $out, $err) = $node->psql('postgres', 'ALTER ROLE intern RESET moe.max_tokens_per_query', @as_intern);
	like($err, qr/permission denied/, 'and is not the role\'s to reset' . $mode);
}
$node->safe_psql('postgres', 'ALTER ROLE intern RESET moe.max_tokens_per_query');

# what a client asks for when it connects, before the library is there to refuse it, replaces no
# value that the role, the database or the configuration file gives
my $show = q{SELECT current_setting('moe.max_tokens_per_query') FROM moe.may_use('pocket');};

sub limits_of
{
	my ($sql, @user) = @_;
	local $ENV{PGOPTIONS} = '-c moe.max_tokens_per_query=0 -c moe.max_backends=77 -c moe.threads=2';
	my ($ret, $out, $err) = $node->psql('postgres', $sql, extra_params => \@user, on_error_stop => 0);
	return wantarray ? ($out, $err) : $out;
}

my @intern = ('-U', 'intern');
$node->append_conf('postgresql.conf', "moe.max_tokens_per_query = 19\nmoe.max_backends = 9");
$node->reload;
is(limits_of("$show\nSHOW moe.max_backends; SHOW moe.threads", @intern), "19\n9\n0", 'the configuration file holds');
$node->safe_psql('postgres', 'ALTER SYSTEM SET moe.max_tokens_per_query = 18');
$node->reload;
is(limits_of($show, @intern), '18', 'so does ALTER SYSTEM');
foreach ([ 'ROLE ALL', 17 ], [ 'DATABASE postgres', 16 ], [ 'ROLE intern', 15 ],
	[ 'ROLE intern IN DATABASE postgres', 14 ])
{
	my ($whom, $limit) = @$_;
	$node->safe_psql('postgres', "ALTER $whom SET moe.max_tokens_per_query = $limit");
	is(limits_of($show, @intern), $limit, "so does ALTER $whom, above those");
}
my ($out, $err) = limits_of($forty, @intern);
like($err, qr/WARNING:  permission denied to set parameter "moe.max_tokens_per_query"/, 'the server says so');
like($err, qr/statement needs more tokens than moe.max_tokens_per_query allows \(14\)/, 'and the limit is kept');
is(limits_of("SET moe.max_tokens_per_query = 3; $show RESET moe.max_tokens_per_query; SHOW moe.max_tokens_per_query",
	@intern), "14\n14", 'it is what the session goes back to');
is(limits_of(q{SET moe.max_tokens_per_query = 3;
	BEGIN; SELECT moe.may_use('pocket'); ROLLBACK; SHOW moe.max_tokens_per_query}, @intern),
	"t\n14", 'also if the transaction fails in which it was found');

# within a parallel query as well
$node->safe_psql('postgres', q{
	CREATE TABLE rows AS SELECT generate_series(1, 1000) AS i;
	CREATE FUNCTION limit_inside() RETURNS text LANGUAGE plpgsql PARALLEL RESTRICTED AS $$
	BEGIN
		PERFORM moe.may_use('pocket');
		RETURN current_setting('moe.max_tokens_per_query');
	END $$;
	CREATE FUNCTION limit_of_superuser() RETURNS text LANGUAGE sql SECURITY DEFINER
	SET moe.max_tokens_per_query = 50 AS 'SELECT limit_inside()';
	GRANT SELECT ON rows TO intern});
is(limits_of(q{SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
	SELECT limit_inside() FROM rows WHERE i = 1}, @intern), '14', 'in a parallel query as well');

# a function brings its own limit, and leaves the role's
is(limits_of("SELECT limit_of_superuser(); SHOW moe.max_tokens_per_query", @intern), "50\n14",
	'in a function with a setting of its own');

# a superuser may, and what it sets stays
is(limits_of("$show SET moe.max_tokens_per_query = 5; RESET moe.max_tokens_per_query; SHOW moe.max_tokens_per_query"),
	"0\n0", 'a superuser may ask for it');
is(limits_of("SET moe.max_tokens_per_query = 5; $show"), '5', 'and what it sets before the library is loaded stays');
is(limits_of("SET moe.max_tokens_per_query = 5; SET SESSION AUTHORIZATION intern; $show"), '5', 'whoever it becomes then');
$node->safe_psql('postgres', 'GRANT SET ON PARAMETER moe.max_tokens_per_query TO intern');
is(limits_of($show, @intern), '0', 'so may a role that was granted the parameter');
$node->safe_psql('postgres', q{
	REVOKE SET ON PARAMETER moe.max_tokens_per_query FROM intern;
	ALTER ROLE ALL RESET moe.max_tokens_per_query;
	ALTER DATABASE postgres RESET moe.max_tokens_per_query;
	ALTER ROLE intern RESET moe.max_tokens_per_query;
	ALTER ROLE intern IN DATABASE postgres RESET moe.max_tokens_per_query});
$node->safe_psql('postgres', 'ALTER SYSTEM RESET moe.max_tokens_per_query');
$node->append_conf('postgresql.conf', "moe.max_tokens_per_query = 0\nmoe.max_backends = 0");
$node->reload;

# a budget is one for all sessions of a role, and ends a statement while it runs
$node->safe_psql('postgres', q{SELECT moe.set_budget('intern', 100, '1 day')});
my @interns = map { $node->background_psql('postgres', extra_params => [ '-U', 'intern' ], on_error_stop => 0) } 1 .. 2;
is($_->query($generate), $answer, 'within the budget') foreach @interns;
is($interns[0]->query('SELECT used FROM moe.budget'), $interns[1]->query('SELECT used FROM moe.budget'),
	'both count as one');
$interns[0]->query(q{SELECT moe.generate('VACUUM reclaims', max_tokens => 900, options => '{"ignore_eos": true}')});
like($interns[0]->{stderr}, qr/token budget of role "intern" is used up/, 'the budget ends a generation');
like($interns[0]->{stderr}, qr/HINT:  The budget is whole again at 2/, 'and says when it is whole again');
$interns[1]->query($generate);
like($interns[1]->{stderr}, qr/token budget of role "intern" is used up/, 'the other session has none left either');
$_->{stderr} = '' foreach @interns;
is($interns[1]->query('SELECT used BETWEEN 101 AND 102 FROM moe.budget'), 't', 'a step was too much');
$node->safe_psql('postgres', q{SELECT moe.set_budget('intern', 100, '1 second')});
$node->poll_query_until('postgres', 'SELECT used = 0 FROM moe.budget');
is($interns[1]->query($generate), $answer, 'in the next window it is whole again');
$node->safe_psql('postgres', q{SELECT moe.set_budget('intern', 100, '1 day')});
$_->quit foreach @interns;
$node->restart;
is($node->safe_psql('postgres', 'SELECT tokens, used FROM moe.budget'), '100|0',
	'a budget outlasts the server, what is used of it does not');

$node->stop;
done_testing();
