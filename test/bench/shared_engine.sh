#!/bin/bash
# Total speed of 8 clients of the shared engine against the same 8 one after another, with pgbench:
#
#   test/cluster.sh test/bench/shared_engine.sh MODEL.gguf...
#
# needs pg_moe installed.  Each client generates 64 tokens from a prompt of its own.  The two ways take
# turns, ROUNDS (3) times, and medians are compared.  Every text must equal what the backend
# host gives for it.  Environment: CLIENTS (8), TOKENS (64), ROUNDS, THREADS (of the engine; 0: all).
set -euo pipefail

bin=$("${PG_CONFIG:-pg_config}" --bindir)
clients=${CLIENTS:-8} tokens=${TOKENS:-64} rounds=${ROUNDS:-3}
as_owner=()
if [ "$(id -u)" = 0 ]; then
    as_owner=(setpriv --reuid="$CLUSTER_OWNER" --regid="$(id -g "$CLUSTER_OWNER")" --clear-groups)
fi
cat >>"$CLUSTER/data/postgresql.conf" <<END
shared_preload_libraries = 'pg_moe'
moe.shared_threads = ${THREADS:-0}
moe.threads = ${THREADS:-0}
END
(cd "$CLUSTER" && "${as_owner[@]}" "$bin/pg_ctl" -D data -l server.log -w -s restart)
"$bin/psql" -qc 'CREATE EXTENSION pg_moe'

# Prompts are lists of ids that every vocabulary has, so that models without sense will do.
generate() { # CLIENT
    echo "moe.generate(ARRAY[5 + $1, 17, 100 + $1, 42, 3 * $1 + 7, 250, 8, 99], 'bench', $tokens," \
        "options => '{\"ignore_eos\": true, \"show_special\": true}')"
}
seconds() { # COMMAND...
    local from=$EPOCHREALTIME
    "$@" >/dev/null
    echo "$EPOCHREALTIME $from" | awk '{ print $1 - $2 }'
}
script=$CLUSTER/client.sql
echo "INSERT INTO answers VALUES (:n + :client_id, $(generate '(:n + :client_id)'));" >"$script"
pgbench() { "$bin/pgbench" -n -t 1 -f "$script" "$@" 2>&1; }
one_after_another() {
    for ((n = 0; n < clients; n++)); do pgbench -c 1 -D n="$n"; done
}
all_at_once() { pgbench -c "$clients" -D n=0; }
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

"$bin/psql" -qc 'CREATE TABLE answers (client int, answer text); CREATE TABLE alone (client int, answer text)'

for model in "$@"; do
    "$bin/psql" -qAt -c "SET client_min_messages = error" \
        -c "SELECT moe.load_model('bench', '$(realpath "$model")', '{\"replace\": true}')" \
        -c "SET moe.host = backend" \
        -c "TRUNCATE answers, alone" \
        -c "INSERT INTO alone SELECT n, $(generate n) FROM generate_series(0, $clients - 1) AS n" \
        -c "SET moe.host = shared" -c "SELECT $(generate 1)" >/dev/null
    turns='' crowds=''
    for ((i = 0; i < rounds; i++)); do
        turns+="$(seconds one_after_another)"$'\n'
        crowds+="$(seconds all_at_once)"$'\n'
    done
    turn=$(printf '%s' "$turns" | median)
    crowd=$(printf '%s' "$crowds" | median)
    differ=$("$bin/psql" -qAt -c "SELECT count(*) FROM answers FULL JOIN alone USING (client) WHERE answers.answer IS DISTINCT FROM alone.answer")
    echo "$turn $crowd" | awk -v name="$(basename "$model")" -v n=$((clients * tokens)) -v differ="$differ" \
        '{ printf "%s: one after another %.1f tokens/s, at once %.1f tokens/s (%.2f x); %d answers differ\n",
            name, n / $1, n / $2, $1 / $2, differ }'
done
