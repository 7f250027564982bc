# What was in memory when the server stopped is loaded when it starts, without any request: in both hosts,
# within the room there is, and only if the files are still the same.
use strict;
use warnings;

use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'pg_moe'
restart_after_crash = on
});
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_moe');
my $pocket = $node->safe_psql('postgres',
	q{SELECT setting || '/pg_moe/pocket-q8_0.gguf' FROM pg_config WHERE name = 'SHAREDIR'});
my $generate = q{SELECT moe.generate('VACUUM reclaims', max_tokens => 24)};
my $in_memory = q{SELECT string_agg(model || ' ' || resident, ', ' ORDER BY model) FROM moe.weight_cache};

# Models as if they were others: a file of its own for each
sub load_copy
{
	my ($name, $byte) = @_;
	my $file = $node->basedir . "/$name.gguf";
	copy($pocket, $file) or die $!;
	open my $fh, '+<:raw', $file or die $!;
	seek $fh, -1, 2;
	print $fh $byte;
	close $fh;
	$node->safe_psql('postgres', "SELECT moe.load_model('$name', '$file')");
	return $file;
}

# Restarts the server and waits for what the worker says at its end.
sub restart
{
	my ($line) = @_;
	my $offset = -s $node->logfile;
	$node->restart;
	$node->wait_for_log($line, $offset);
	return slurp_file($node->logfile, $offset);
}

sub sessions_left
{
	$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM moe.weight_cache WHERE sessions > 0}) or die;
}

# --- the shared engine, and sessions that compute themselves

my $answer = $node->safe_psql('postgres', $generate);
foreach my $host ('shared', 'backend')
{
	$node->append_conf('postgresql.conf', 'moe.shared_engine = ' . ($host eq 'shared' ? 'on' : 'off'));
	$node->restart;
	is($node->safe_psql('postgres', $generate), $answer, "$host: a model is used");
	sessions_left() if $host eq 'backend';
	my $before = $node->safe_psql('postgres', $in_memory);
	like($before, qr/^pocket [1-9]/, "$host: and in memory");
	restart(qr/autoprewarm loaded \d+ units, \d+ MB, of 1 models/);
	is($node->safe_psql('postgres', $in_memory), $before, "$host: as it is after a restart, before any request");
	sessions_left();
	my $misses = $node->safe_psql('postgres',
		"$generate \\g /dev/null\nSELECT hits > 0, misses FROM moe.weight_cache");
	is($misses, 't|0', "$host: which then loads nothing");
	sessions_left() if $host eq 'backend';
	restart(qr/autoprewarm loaded/);
	restart(qr/autoprewarm loaded/);
	is($node->safe_psql('postgres', $in_memory), $before, "$host: also after restarts without use");
}

# --- requests meanwhile

{
	$node->restart;
	my @sessions = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 3;
	is(scalar(grep { $_->query($generate) eq $answer } @sessions), 3, 'requests at start are answered');
	$_->quit foreach @sessions;
}

# --- a crash of the server

{
	my $offset = -s $node->logfile;
	my $victim = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $victim->query_safe('SELECT pg_backend_pid()');
	kill 'KILL', $pid;
	eval { $victim->quit };
	ok($node->poll_query_until('postgres', 'SELECT true'), 'the server restarts after a crash');
	is($node->safe_psql('postgres', $generate), $answer, 'and answers');
	sessions_left();
}

# --- what is given back, dropped, changed or lost is not loaded

{
	my %file = map { $_ => load_copy($_, chr(ord($_) - ord('a') + 1)) } qw(a b c d e);
	$node->safe_psql('postgres', "SELECT moe.generate('VACUUM reclaims', '$_', 4)") foreach sort keys %file;
	sessions_left();
	restart(qr/autoprewarm loaded \d+ units, \d+ MB, of 6 models/);
	like($node->safe_psql('postgres', $in_memory), qr/^a \d+, b \d+, c \d+, d \d+, e \d+, pocket \d+$/, 'six models are loaded');
	sessions_left();
	$node->safe_psql('postgres', q{SELECT moe.evict('a'); SELECT moe.drop_model('b')});
	open my $fh, '>>', $file{c} or die $!;
	print $fh 'x';
	close $fh;
	unlink $file{d};
	my $log = restart(qr/autoprewarm loaded \d+ units, \d+ MB, of 2 models/);
	like($node->safe_psql('postgres', $in_memory), qr/^e \d+, pocket \d+$/, 'those that can be');
	like($log, qr/LOG:  autoprewarm left out model file "[^"]*c\.gguf": it has changed/, 'a file that changed is told');
	like($log, qr/LOG:  autoprewarm left out model file "[^"]*d\.gguf": file "d\.gguf" does not exist/, 'and one that is gone');
	is(scalar(() = $log =~ /autoprewarm left out/g), 2, 'what was evicted or dropped is not');
	is(scalar(() = $log =~ /autoprewarm loaded/g), 1, 'once');

	foreach my $usage (glob($node->data_dir . '/pg_stat/pg_moe.*'))
	{
		open my $fh, '+<:raw', $usage or die $!;
		seek $fh, 200, 0;
		print $fh "\xff" x 20;
		close $fh;
	}
	$node->restart;
	is($node->safe_psql('postgres', $generate), $answer, 'records that are damaged do no harm');
	sessions_left();
	$node->safe_psql('postgres', "SELECT moe.drop_model('$_')") foreach qw(a c d e);
}

# --- room for a part of it

{
	$node->append_conf('postgresql.conf', "moe.weight_cache_size = '7MB'");
	$node->restart;
	is($node->safe_psql('postgres', $generate), $answer, 'the cache is too small for the model');
	sessions_left();
	my $before = $node->safe_psql('postgres', $in_memory);
	restart(qr/autoprewarm loaded \d+ units, \d+ MB, of 1 models/);
	is($node->safe_psql('postgres', $in_memory), $before, 'as much as there was is loaded');
	is($node->safe_psql('postgres',
			q{SELECT min(heat) FILTER (WHERE resident) >= max(heat) FILTER (WHERE NOT resident) FROM moe.expert_stats}),
		't', 'the hottest');
	is($node->safe_psql('postgres', q{SELECT evictions FROM moe.weight_cache}), '0', 'without evicting any');
}

# --- off

{
	my $offset = -s $node->logfile;
	$node->append_conf('postgresql.conf', 'moe.autoprewarm = off');
	$node->restart;
	is($node->safe_psql('postgres', $in_memory), '', 'it can be turned off');
	unlike(slurp_file($node->logfile, $offset), qr/autoprewarm l/, 'silently');
	my ($ret, $out, $err) = $node->psql('postgres', 'SET moe.autoprewarm = on');
	like($err, qr/cannot be changed without restarting the server/, 'at start only');
}

$node->stop;
done_testing();
