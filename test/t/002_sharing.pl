# Sessions share weights, and see what others register, replace and drop.
use strict;
use warnings;

use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_moe');
my $pocket = $node->safe_psql('postgres',
	q{SELECT setting || '/pg_moe/pocket-q8_0.gguf' FROM pg_config WHERE name = 'SHAREDIR'});
my $generate = q{SELECT moe.generate('VACUUM reclaims', max_tokens => 4)};
my $blocks = q{SELECT shared_weight_blocks, shared_weight_bytes FROM moe.status};

# several sessions at once, of which one loads
my @sessions = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 4;
$_->query_until(qr/go/, "\\echo go\n$generate \\g /dev/null\n") foreach @sessions;
my @answers = map { $_->query($generate) } @sessions;
is(scalar(grep { $_ eq $answers[0] && $_ ne '' } @answers), 4, 'four sessions start together');
my $one = $sessions[0]->query($blocks);
is($sessions[3]->query($blocks), $one, 'all see the same blocks');
like($one, qr/^[1-9]\d*\|[1-9]\d*$/, 'the weights are shared');
is($sessions[2]->query('SELECT private_weight_bytes FROM moe.status'), '0', 'and nobody has his own');
$_->quit foreach @sessions;
is($node->safe_psql('postgres', $blocks), $one, 'weights stay when the sessions are gone');
is( $node->safe_psql('postgres', q{SELECT resident FROM moe.models}),
	't', 'moe.models shows it');

# one session drops what another one uses
my $file = $node->basedir . '/model.gguf';
copy($pocket, $file) or die $!;
# other weights, so that they are other blocks: the last bytes of a GGUF file are weights
sub change_weights
{
	my ($byte) = @_;
	open my $fh, '+<', $file or die $!;
	binmode $fh;
	seek $fh, -1, 2;
	print $fh chr($byte);
	close $fh;
}
change_weights(1);
$node->safe_psql('postgres', "SELECT moe.load_model('mine', '$file')");
my $user = $node->background_psql('postgres', on_error_stop => 0);
my $mine = q{SELECT moe.generate('VACUUM reclaims', 'mine', 4) IS NOT NULL};
is($user->query($mine), 't', 'a second model is used');
isnt($node->safe_psql('postgres', $blocks), $one, 'and has blocks of its own');
$user->query_safe(q{BEGIN; DECLARE s CURSOR FOR SELECT (moe.generate_stream('VACUUM reclaims', 'mine', 6)).seq; FETCH 2 FROM s});
$node->safe_psql('postgres', q{SELECT moe.drop_model('mine')});
is($user->query('FETCH 2 FROM s'), "3\n4", 'a stream goes on when another session drops its model');
$user->query_safe('COMMIT');
$user->query($mine);
like($user->{stderr}, qr/model "mine" does not exist/, 'the next call does not find it');
$user->{stderr} = '';
is($user->query($generate) ne '', 1, 'the session goes on');
is($user->query($blocks), $one, 'the weights are gone with the last user');

# files that change after they were registered
$node->safe_psql('postgres', "SELECT moe.load_model('mine', '$file')");
is($user->query($mine), 't', 'registered again');
utime(1, 1, $file);
is($user->query($mine), 't', 'another modification time alone does no harm');
change_weights(2);
$user->query($mine);
like($user->{stderr}, qr/files of model "mine" have changed since it was registered/,
	'other content is refused, also where the model is open');
like($user->{stderr}, qr/"replace": true/, 'and the error says what to do');
$user->{stderr} = '';
$node->safe_psql('postgres', qq{SELECT moe.load_model('mine', '$file', '{"replace": true}')});
is($user->query($mine), 't', 'once it is registered again it works');
unlink $file;
$user->query($mine);
like($user->{stderr}, qr/could not open model "mine"/, 'a file that is gone is an error');
$user->{stderr} = '';
$user->quit;

# broken files
foreach my $case ([ 'empty', '' ], [ 'text', "hello\n" x 1000 ], [ 'header', "GGUF\x03\0\0\0" . "\xff" x 64 ])
{
	my ($name, $content) = @$case;
	my $broken = $node->basedir . "/$name.gguf";
	open my $fh, '>:raw', $broken or die $!;
	print $fh $content;
	close $fh;
	my ($ret, $out, $err) = $node->psql('postgres', "SELECT moe.load_model('broken', '$broken')");
	like($err, qr/ERROR:  could not load model "broken": /, "a broken file ($name) is refused");
}
{
	my $broken = $node->basedir . '/truncated.gguf';
	copy($pocket, $broken) or die $!;
	truncate($broken, 5_000_000);
	my ($ret, $out, $err) = $node->psql('postgres', "SELECT moe.load_model('broken', '$broken')");
	like($err, qr/ERROR:  could not load model "broken": /, 'a truncated file is refused');
}

# a limit of the shared memory
$node->append_conf('postgresql.conf', "moe.weight_cache_size = '1MB'");
$node->restart;
my ($ret, $out, $err) = $node->psql('postgres', $generate);
like($err, qr/weights do not fit into moe.weight_cache_size/, 'moe.weight_cache_size is a limit');
$node->append_conf('postgresql.conf', 'moe.weight_cache_size = -1');
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT current_setting('moe.weight_cache_size') = '-1' FROM moe.status}),
	'the limit is lifted');
is($node->safe_psql('postgres', $generate), $answers[0], 'and the model works');

# a backend that dies takes nothing with it
$node->append_conf('postgresql.conf', 'restart_after_crash = on');
$node->reload;
my $victim = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $victim->query_safe('SELECT pg_backend_pid()');
$victim->query_safe(q{BEGIN; DECLARE s CURSOR FOR SELECT moe.generate_stream('VACUUM reclaims'); MOVE 2 FROM s});
my $log_end = -s $node->logfile;
kill 'KILL', $pid;
eval { $victim->quit };
$node->wait_for_log(qr/all server processes terminated; reinitializing/, $log_end);
ok($node->poll_query_until('postgres', 'SELECT true'), 'the server restarts after a crash');
is($node->safe_psql('postgres', $generate), $answers[0], 'and the model works again');

# preloaded
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_moe'");
$node->restart;
is($node->safe_psql('postgres', $generate), $answers[0], 'the library may be preloaded');
is($node->safe_psql('postgres', $blocks), $one, 'with the same weights');

$node->stop;
done_testing();
