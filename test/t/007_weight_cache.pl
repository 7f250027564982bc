# Weights in memory: caches that are too small for a model, and for two, in segments and in main shared
# memory; what sessions share; what a restart remembers; a file that changes under a session.
use strict;
use warnings;

use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "moe.host = 'backend'");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_moe');
my $pocket = $node->safe_psql('postgres',
	q{SELECT setting || '/pg_moe/pocket-q8_0.gguf' FROM pg_config WHERE name = 'SHAREDIR'});
my $generate = q{SELECT moe.generate('VACUUM reclaims', max_tokens => 24),
	moe.generate('An index', max_tokens => 24, temperature => 1, seed => 3, options => '{"ignore_eos": true}')};
my $answer = $node->safe_psql('postgres', $generate);
my $used = q{SELECT misses, evictions, memory FROM moe.weight_cache WHERE model = 'pocket'};

sub sessions_left
{
	return $node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM moe.weight_cache WHERE sessions > 0});
}

# eight sessions
{
	ok(sessions_left(), 'no session has a model open');
	my ($before) = $node->safe_psql('postgres', $used);
	my $status = q{SELECT shared_weight_bytes, private_weight_bytes FROM moe.status};
	my $one = $node->safe_psql('postgres', $status);
	my @sessions = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 8;
	is(scalar(grep { $_->query($generate) eq $answer } @sessions), 8, 'eight sessions answer alike');
	is($sessions[7]->query($status), $one, 'they need no more memory for weights than one');
	is($sessions[7]->query($used), $before, 'and load nothing that was there');
	is($sessions[7]->query(q{SELECT sessions FROM moe.weight_cache}), '8', 'moe.weight_cache counts them');
	$_->quit foreach @sessions;
	ok(sessions_left(), 'and that they leave');
}

# less than a third of the experts fit: in segments, then in main shared memory
foreach my $preload ('', 'pg_moe')
{
	my $where = $preload ? 'main shared memory' : 'a segment';
	$node->append_conf('postgresql.conf', qq{
moe.weight_cache_size = '7MB'
shared_preload_libraries = '$preload'
huge_pages = try
} . ($preload ? "moe.autoprewarm = off\n" : ''));
	$node->restart;
	is($node->safe_psql('postgres', $generate), $answer, "a cache in $where that is too small gives the same answers");
	my ($misses, $evictions, $memory) = split /\|/, $node->safe_psql('postgres', $used);
	cmp_ok($evictions, '>', 0, 'experts make room for others');
	cmp_ok($memory, '<=', 7 * 1024 * 1024, 'within the limit');
	is($node->safe_psql('postgres', q{SELECT FROM moe.status \g /dev/null
			SELECT context FROM pg_settings WHERE name = 'moe.weight_cache_size'}),
		$preload ? 'postmaster' : 'sighup', 'when the limit can be changed');
	my @sessions = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 3;
	$_->query_until(qr/go/, "\\echo go\n$generate \\g /dev/null\n") foreach @sessions;
	is(scalar(grep { $_->query($generate) eq $answer } @sessions), 3, 'three sessions at once do');

	# a second model
	my $file = $node->basedir . '/second.gguf';
	copy($pocket, $file) or die $!;
	open my $fh, '+<:raw', $file or die $!;
	seek $fh, -1, 2;
	print $fh "\1";
	close $fh;
	$node->safe_psql('postgres', "SELECT moe.load_model('second', '$file')");
	my $second = q{SELECT moe.generate('VACUUM reclaims', 'second', 4)};
	my ($ret, $out, $err) = $node->psql('postgres', $second);
	like($err, qr/weights do not fit into moe.weight_cache_size/, 'a second model finds no room beside one in use');
	$_->quit foreach @sessions;
	ok(sessions_left(), 'sessions leave');
	isnt($node->safe_psql('postgres', $second), '', 'it has room when the first one is not in use');
	is($node->safe_psql('postgres', q{SELECT string_agg(model, ' ') FROM moe.weight_cache}), 'second',
		'which has gone');

	# a model that had to be small grows when there is room
	{
		my $small = q{SELECT memory < bytes FROM moe.weight_cache WHERE model = 'pocket'};
		$node->append_conf('postgresql.conf', "moe.weight_cache_size = '18MB'");
		$node->restart;
		my $first = $node->background_psql('postgres', on_error_stop => 0);
		$first->query($second);
		is($node->safe_psql('postgres', $generate), $answer, 'a second model takes what the first one leaves');
		is($node->safe_psql('postgres', $small), 't', 'which is less than it wants');
		$first->quit;
		ok(sessions_left(), 'sessions leave');
		$node->safe_psql('postgres', q{SELECT moe.evict('second')});
		is($node->safe_psql('postgres', $generate), $answer, 'later it is opened again');
		is($node->safe_psql('postgres', $small), 'f', 'and has all it wants');
	}

	# a model in use becomes smaller for another one, and larger again
	{
		my $limit = 14 * 1024 * 1024;
		my $sizes = q{SELECT string_agg(model || ' ' || CASE WHEN memory < bytes THEN 'in part' ELSE 'whole' END, ', '
			ORDER BY model) FROM moe.weight_cache};
		my $long = q{SELECT count(result) FROM moe.generate(array_fill('VACUUM reclaims'::text, ARRAY[40]), max_tokens => 100)};
		$node->append_conf('postgresql.conf', "moe.weight_cache_size = '14MB'");
		$node->restart;
		my $expected = $node->safe_psql('postgres', $second);
		ok(sessions_left(), 'sessions leave');
		my @users = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 3;
		is($users[0]->query($generate), $answer, 'a model takes all the room');
		is($node->safe_psql('postgres', $sizes), 'pocket whole', 'that it wants');
		$_->query_until(qr/go/, "\\echo go\n$long;\n") foreach @users[1, 2];
		my $other = $node->background_psql('postgres', on_error_stop => 0);
		is($other->query($second), $expected, 'while it is in use, another one gets a part of it');
		is($node->safe_psql('postgres', $sizes), 'pocket in part, second in part', 'and it has the other part');
		is($node->safe_psql('postgres', "SELECT sum(memory) <= $limit, min(memory) > 0.4 * $limit FROM moe.weight_cache"),
			't|t', 'about as much');
		if (!$preload)
		{
			my $maps = slurp_file('/proc/' . $users[0]->query('SELECT pg_backend_pid()') . '/maps')
				. slurp_file('/proc/' . $other->query('SELECT pg_backend_pid()') . '/maps');
			my %segments = map { $_ => (stat $_)[12] * 512 } $maps =~ m{(/dev/shm/PostgreSQL\.\d+)}g;
			my $total = 0;
			$total += $_ foreach values %segments;
			cmp_ok($total, '<', $limit + 2 * 1024 * 1024, 'the system has the rest back');
		}
		is($users[0]->query($generate), $answer, 'it gives the same answers');
		is($other->query($second), $expected, 'as does the other one');
		is($users[1]->query('SELECT 1'), "40\n1", 'who was at work is not disturbed');
		$other->quit;
		ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM moe.weight_cache WHERE model = 'second' AND sessions > 0}),
			'the other model is closed');
		$node->safe_psql('postgres', q{SELECT moe.evict('second')});
		is($users[0]->query($generate), $answer, 'the first one is used again');
		is($node->safe_psql('postgres', $sizes), 'pocket whole', 'and has all that it wants');
		$_->quit foreach @users;
		ok(sessions_left(), 'sessions leave');
		$node->append_conf('postgresql.conf', "moe.weight_cache_size = '7MB'");
		$node->restart;
	}

	# its file is cut short in the middle of a generation
	my $user = $node->background_psql('postgres', on_error_stop => 0);
	$user->query_safe(q{BEGIN; DECLARE s CURSOR FOR SELECT moe.generate_stream('VACUUM reclaims', 'second', 200, options => '{"ignore_eos": true}')});
	$user->query_safe('MOVE 2 FROM s');
	truncate($file, 100_000) or die $!;
	$user->query('MOVE 198 FROM s');
	like($user->{stderr}, qr/ERROR:  file "second.gguf" has changed while the model is open/,
		'a file that is cut short ends the statement');
	$user->{stderr} = '';
	$user->query('ROLLBACK');
	is($user->query('SELECT 1'), '1', 'and not the session');
	$user->quit;
	$node->safe_psql('postgres', q{SELECT moe.drop_model('second')});
	ok(sessions_left(), 'sessions leave');
	is($node->safe_psql('postgres', $generate), $answer, 'the first model takes its place again');

	# what was hot before a restart is loaded first after it
	my $hottest = q{SELECT string_agg(layer || '.' || expert, ' ' ORDER BY layer, expert) FROM
		(SELECT layer, expert FROM moe.expert_stats ORDER BY heat DESC, layer, expert LIMIT 6) s};
	my $hot = $node->safe_psql('postgres', $hottest);
	ok(sessions_left(), 'sessions leave');
	$node->restart;
	my ($hot_again, $all_resident) = split /\n/, $node->safe_psql('postgres', qq{
		SELECT FROM moe.prewarm() \\g /dev/null
		$hottest;
		SELECT min(heat) FILTER (WHERE resident) >= max(heat) FILTER (WHERE NOT resident) FROM moe.expert_stats});
	is($hot_again, $hot, 'usage is remembered');
	is($all_resident, 't', 'and prewarming takes the hottest');
	is($node->safe_psql('postgres', $generate), $answer, 'with the same answers');
}

# the shared engine makes room for a model by closing another one that nobody uses
{
	my $file = $node->basedir . '/third.gguf';
	copy($pocket, $file) or die $!;
	open my $fh, '+<:raw', $file or die $!;
	seek $fh, -1, 2;
	print $fh "\2";
	close $fh;
	$node->append_conf('postgresql.conf', "moe.host = 'shared'");
	$node->restart;
	$node->safe_psql('postgres', "SELECT moe.load_model('third', '$file')");
	is($node->safe_psql('postgres', $generate), $answer, 'the shared engine runs a model larger than the cache');
	isnt($node->safe_psql('postgres', q{SELECT moe.generate('VACUUM reclaims', 'third', 4)}), '', 'then another one');
	is($node->safe_psql('postgres', $generate), $answer, 'and the first one again');
	is($node->safe_psql('postgres', q{SELECT model, pinned FROM moe.weight_cache}), 'pocket|0', 'with no pins at rest');

	# or has both, with a part of the room each
	$node->append_conf('postgresql.conf', "moe.weight_cache_size = '14MB'");
	$node->restart;
	my $sizes = q{SELECT string_agg(model || ' ' || (memory < bytes), ', ' ORDER BY model) FROM moe.weight_cache};
	is($node->safe_psql('postgres', $generate), $answer, 'the shared engine runs a model');
	isnt($node->safe_psql('postgres', q{SELECT moe.generate('VACUUM reclaims', 'third', 4)}), '', 'which gives way to another one');
	is($node->safe_psql('postgres', $sizes), 'pocket true, third true', 'both have a part of the room');
	is($node->safe_psql('postgres', $generate), $answer, 'with the same answers');
	$node->safe_psql('postgres', q{SELECT moe.drop_model('third')});
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM moe.weight_cache}) or die;
	is($node->safe_psql('postgres', $generate), $answer, 'the first one is used again');
	is($node->safe_psql('postgres', $sizes), 'pocket false', 'and has all that it wants');
	$node->append_conf('postgresql.conf', "moe.host = 'backend'\nmoe.weight_cache_size = '7MB'");
	$node->restart;
}

# a backend that dies with pins in main shared memory
{
	$node->append_conf('postgresql.conf', 'restart_after_crash = on');
	$node->reload;
	my $victim = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $victim->query_safe('SELECT pg_backend_pid()');
	$victim->query_safe(q{BEGIN; DECLARE s CURSOR FOR SELECT moe.generate_stream('VACUUM reclaims'); MOVE 2 FROM s});
	kill 'KILL', $pid;
	eval { $victim->quit };
	ok($node->poll_query_until('postgres', 'SELECT true'), 'the server restarts after a crash');
	is($node->safe_psql('postgres', $generate), $answer, 'and the cache is made anew');
}

# a file of usage that is not one
my ($usage) = glob($node->data_dir . '/pg_stat/pg_moe.*');
ok(defined $usage, 'usage is kept in a file');
foreach my $content ('', 'x' x 10_000)
{
	$node->stop;
	open my $fh, '>', $usage or die $!;
	print $fh $content;
	close $fh;
	$node->start;
	is($node->safe_psql('postgres', $generate), $answer, 'which may be broken');
}

# no limit when preloaded: segments as before
$node->append_conf('postgresql.conf', "moe.weight_cache_size = -1");
$node->restart;
is($node->safe_psql('postgres', $generate), $answer, 'without a limit all fits');
is($node->safe_psql('postgres', q{SELECT evictions FROM moe.weight_cache}), '0', 'and nothing is evicted');

$node->stop;
done_testing();
