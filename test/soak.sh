#!/bin/bash
# "make soak": many sessions that generate, embed and stream at random while they are cancelled and
# terminated at random, in a throw-away cluster; then nothing may be left of it.
#
# MINUTES (10), CLIENTS (16), HOST (moe.host: backend, shared, auto) and SEED say how.  Each client is a
# psql that is fed one statement at a time.  A quarter of them, the steady ones, are cancelled but never
# terminated, and what memory they have of their own is sampled: after the first third of the time it may
# grow no more.  At the end each session must hold no sequence and no page, and the server no
# request and no place.  Ends in "N passed, N failed".
set -uo pipefail
cd "$(dirname "$0")/.." || exit

export MINUTES=${MINUTES:-10} CLIENTS=${CLIENTS:-16} HOST=${HOST:-backend} SEED=${SEED:-$$}

if [ $# = 0 ]; then
    test/install.sh || exit
    CLUSTER_CONF="moe.host = '$HOST'
moe.max_backends = 4
moe.threads = 2
moe.kv_cache_size = '32MB'
restart_after_crash = off
log_min_messages = log
$([ "$HOST" = backend ] || echo "shared_preload_libraries = 'pg_moe'")"
    export CLUSTER_CONF
    exec test/cluster.sh test/soak.sh run
fi

work=$CLUSTER/soak
mkdir "$work"
deadline=$(($(date +%s) + MINUTES * 60))
sql() { psql -XAtq -v ON_ERROR_STOP=1 -c "$1"; }
running() { [ "$(date +%s)" -lt "$deadline" ] && [ ! -e "$work/stop" ]; }

# One statement or a few, at random.
statement() {
    local n=$((RANDOM % 60 + 1)) k=$((RANDOM % 8 + 1))
    local options="options => '{\"ignore_eos\": true}'"
    case $((RANDOM % 16)) in
    0 | 1) echo "SELECT moe.generate('VACUUM reclaims', max_tokens => $n, temperature => 0.7, $options);" ;;
    2) echo "SELECT count(*) FROM moe.generate(array_fill('An index'::text, ARRAY[$k]), max_tokens => $n);" ;;
    3) echo "SELECT moe.chat('What is $n + $k?');" ;;
    4) echo "SELECT cardinality(moe.embed('text number $n'));" ;;
    5) echo "SELECT count(*) FROM moe.embed(array_fill(repeat('word ', $n), ARRAY[$k]));" ;;
    6) echo "SELECT count(moe.embed('row ' || g)) FROM generate_series(1, $n) g;" ;;
    7) echo "SELECT moe.generate(repeat('word ', 12 * $n), max_tokens => $k);" ;;
    8) echo "SELECT (moe.generate_stream('VACUUM reclaims', max_tokens => $n)).piece LIMIT $k;" ;;
    9) echo "BEGIN; DECLARE s CURSOR FOR SELECT (moe.generate_stream('A table is')).piece; FETCH $k FROM s; CLOSE s; COMMIT;" ;;
    10) echo "BEGIN; DECLARE s CURSOR FOR SELECT (moe.chat_stream('What does VACUUM do?')).piece; FETCH $k FROM s; ROLLBACK;" ;;
    11) echo "BEGIN; DECLARE s CURSOR FOR SELECT (moe.generate_stream('A view')).piece; FETCH $k FROM s; SAVEPOINT p;" \
        "SELECT moe.generate('x', max_tokens => $k) || (1 / 0); ROLLBACK TO p; FETCH $k FROM s; COMMIT;" ;;
    12) echo "SELECT count(*) FROM moe.next_tokens('VACUUM', k => $k); SELECT count(*) FROM moe.score('What does', ' VACUUM do?');" ;;
    13) echo "BEGIN; SELECT moe.load_model('other', '$model'); SELECT moe.generate('hi', 'other', $k); ROLLBACK;" ;;
    14) echo "SET statement_timeout = $((n * k));" ;;
    15) echo "RESET statement_timeout;" ;;
    esac
}

# client NAME NUMBER: a session after the other; whatever ends one, the next begins.
client() {
    local name=$1 line mark=0
    RANDOM=$((SEED + $2))
    while running; do
        coproc PSQL { exec psql -XAtq -d "application_name=$name" 2>/dev/null; }
        local in=${PSQL[1]} out=${PSQL[0]} pid=$PSQL_PID alive=1
        if [ "$name" = soak ]; then local left=$((RANDOM % 40 + 1)); else local left=-1; fi
        while running && [ $alive = 1 ] && [ $left != 0 ]; do
            left=$((left - 1)) mark=$((mark + 1))
            { statement && echo "ROLLBACK; \\echo mark $mark"; } >&"$in" || alive=0
            while [ $alive = 1 ] && [ "${line:-}" != "mark $mark" ]; do read -r line <&"$out" || alive=0; done
        done 2>/dev/null # the shell closes what belongs to a psql that has ended
        # What is left of a session at its end (the shared engine's is everybody's); one may also go with
        # a stream open.
        if [ $alive = 1 ] && ! running; then
            echo "RESET statement_timeout; SELECT 'left ' || CASE host WHEN 'backend' THEN schedulers + sequences + kv_pages_used ELSE 0 END FROM moe.status;" >&"$in"
            read -r line <&"$out" && echo "$line" >>"$work/left"
        elif [ $alive = 1 ]; then
            echo "BEGIN; DECLARE s CURSOR FOR SELECT moe.generate_stream('A table is'); MOVE 3 FROM s; \\q" >&"$in"
        fi 2>/dev/null
        exec {in}>&- # psql ends
        wait "$pid" 2>/dev/null
        sessions=$((${sessions:-0} + 1)) statements=$mark
    done
    echo "${sessions:-0} ${statements:-0}" >>"$work/done"
}

# Kilobytes that a process has for itself.
own_memory() { awk '/^RssAnon:/ { print $2 }' "/proc/$1/status" 2>/dev/null; }

sample_memory() {
    local pid
    for pid in $(sql "SELECT pid FROM pg_stat_activity
                      WHERE application_name = 'steady' OR backend_type LIKE '%moe%' ORDER BY pid"); do
        echo "$(date +%s) $pid $(own_memory "$pid")"
    done >>"$work/memory"
}

passed=0 failed=0
check() { # check WHAT GOT WANTED
    if [ "$2" = "$3" ]; then
        echo "ok - $1"
        passed=$((passed + 1))
    else
        echo "not ok - $1: $2, not $3"
        failed=$((failed + 1))
    fi
}

sql 'CREATE EXTENSION pg_moe'
sql "SELECT moe.generate('hi', max_tokens => 1)" >/dev/null
model=$(sql "SELECT setting || '/pg_moe/pocket-q8_0.gguf' FROM pg_config WHERE name = 'SHAREDIR'")
blocks=$(sql 'SELECT shared_weight_blocks, shared_weight_bytes FROM moe.status')
echo "soak: $CLIENTS clients, $MINUTES minutes, moe.host = $HOST, seed $SEED"

began=$(date +%s)
clients=()
for ((i = 0; i < CLIENTS; i++)); do
    client "$([ $((i % 4)) = 0 ] && echo steady || echo soak)" "$i" &
    clients+=($!)
done
while running; do
    sql "SELECT CASE WHEN application_name = 'soak' AND random() < 0.3
                     THEN pg_terminate_backend(pid) ELSE pg_cancel_backend(pid) END
           FROM pg_stat_activity WHERE application_name IN ('soak', 'steady') ORDER BY random() LIMIT 2" >/dev/null ||
        { sleep 1; sql 'SELECT 1' >/dev/null || touch "$work/stop"; }
    [ $((SECONDS % 5)) != 0 ] || sample_memory
    sleep 0.3
done
wait "${clients[@]}"
ended=$(date +%s)

echo "soak: $(awk '{ s += $1; n += $2 } END { print s " sessions, " n " statements" }' "$work/done")"
sql "SELECT 'soak: ' || requests || ' requests, ' || cancelled || ' cancelled, ' || errors || ' failed' FROM moe.stat_models"
for ((i = 0; i < 100; i++)); do # processes that were told to go may still be going
    [ "$(sql "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")" != 1 ] || break
    sleep 0.1
done
check 'no session is left' "$(sql "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")" 1
check 'sessions end with nothing in their hands' "$(sort -u "$work/left" | tr '\n' ' ')" 'left 0 '
check 'no request is left' "$(sql 'SELECT count(*) FROM moe.stat_requests')" 0
check 'nothing is in use' "$(sql "SELECT string_agg(key || ' ' || value, ', ')
    FROM jsonb_each_text((SELECT to_jsonb(s) FROM moe.status AS s))
   WHERE key ~ '^(schedulers|sequences|kv_pages_used|computing|waiting|requests|queue)|pin' AND value <> '0'")" ''
check 'the weights are those of the beginning' "$(sql 'SELECT shared_weight_blocks, shared_weight_bytes FROM moe.status')" "$blocks"
check 'the model answers' "$(sql "SELECT moe.chat('What is 12 + 30?')")" 42
check 'no process has crashed' "$(grep -cE 'PANIC|was terminated by signal|server process .* exited with' "$CLUSTER/data/../server.log")" 0
# The largest size in the second third of the time, and in the last one, per process that lived so long.
grown=$(awk -v a=$((began + (ended - began) / 3)) -v b=$((began + (ended - began) * 2 / 3)) '
    $1 >= a && $1 < b && $3 > before[$2] { before[$2] = $3 }
    $1 >= b && $3 > after[$2] { after[$2] = $3 }
    END { for (p in after) if (p in before) {
              printf "soak: process %d had %.1f MB, then %.1f MB\n", p, before[p] / 1024, after[p] / 1024 > "/dev/stderr"
              n++; if (after[p] > before[p] * 1.05 + 4096) bad++ }
          print (n ? bad + 0 : "no sample") }' "$work/memory")
check 'memory does not grow' "$grown" 0

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
