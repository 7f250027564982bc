#!/bin/bash
# Measures speed and memory of the engine and of the extension; "make bench" calls it.  README.md in this
# folder says what each figure means.  Prints a table and writes $BUILD/bench.json.
#
#   MODELS="a.gguf folder"   what to measure; default: pocket and what "make models" fetched
#   THREADS="1 2"            default: 1 and the number of cores
#   REPS=5                   repetitions of each measurement
#   PEERS=dir                a Debian root with llama.cpp's tools in it: the same work by llama-bench
#
# Everything is measured beside a throw-away cluster, whose tables also collect the figures.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ -z "${CLUSTER:-}" ]; then
    if [ -n "${PEERS:-}" ] && [ ! -x "$PEERS/usr/bin/llama-bench" ]; then
        cat >&2 <<END
make bench: there is no llama-bench in $PEERS.  As root, this makes such a folder (500 MB):
  debootstrap --variant=minbase sid $PEERS http://deb.debian.org/debian
  chroot $PEERS apt-get install --no-install-recommends llama.cpp-tools
END
        exit 1
    fi
    if [ -n "${PEERS:-}" ] && [ "$(id -u)" != 0 ]; then
        echo "make bench: PEERS needs root, for chroot" >&2
        exit 1
    fi
    test/install.sh
    exec test/cluster.sh test/bench/run.sh
fi

engine=${BUILD:-build}/test/bench/bench_engine
reps=${REPS:-5}
read -ra threads <<<"${THREADS:-$(printf '1\n%s\n' "$(nproc)" | sort -nu | tr '\n' ' ')}"
shopt -s nullglob
models=(share/*.gguf .models/*.gguf .models/*/)
if [ -n "${MODELS:-}" ]; then read -ra models <<<"$MODELS"; fi

sql() { "$("$PG_CONFIG" --bindir)/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }

sql <<'END'
SET client_min_messages = warning;
CREATE EXTENSION pg_moe;
CREATE TABLE result (engine text, model text, threads int, work text, value float8);
END

# One line of bench_engine.
record_engine() {
    sql -v line="$1" <<'END'
INSERT INTO result
SELECT j->>'engine', j->>'model', (j->>'threads')::int, key, value::float8
  FROM (SELECT :'line'::jsonb AS j) AS line, jsonb_each_text(j)
 WHERE key ~ '_(ms|tps|mb)$';
END
}

# One line of llama-bench; the median of its samples.
record_llama() {
    sql -v line="$1" -v model="$2" <<'END'
INSERT INTO result
SELECT 'llama.cpp', :'model', (j->>'n_threads')::int,
       CASE WHEN (j->>'n_gen')::int > 0 THEN 'decode_tps' ELSE 'prefill_tps' END,
       (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY s::float8)
          FROM jsonb_array_elements_text(j->'samples_ts') AS s)
  FROM (SELECT :'line'::jsonb AS j) AS line;
END
}

record() { # MODEL THREADS WORK VALUE
    sql -c "INSERT INTO result VALUES ('pg_moe', '$1', $2, '$3', $4)"
}

# The peer's best configuration differs by model and CPU, so it gets two.
llama_bench() { # MODEL THREADS
    local copy=$PEERS/tmp/bench.gguf repack line
    cp "$1" "$copy"
    for repack in 1 0; do
        while read -r line; do
            record_llama "$line" "${1##*/}"
        done < <(chroot "$PEERS" llama-bench -m /tmp/bench.gguf -p 512 -n 64 -t "$2" -r "$reps" \
            --repack "$repack" -o jsonl 2>/dev/null)
    done
    rm -f "$copy"
}

prompt='The write-ahead log records every change' # as in bench_engine.c
generation() { # MODEL TOKENS
    printf "SELECT moe.generate('%s', '%s', max_tokens => %d, options => '{\"ignore_eos\": true}');\n" \
        "$prompt" "$1" "$2"
}

smallest() { sort -n | head -n 1; }

# What SQL adds to a generation of 64 tokens: the same one by bench_engine and by a warm session, in
# turns; the smallest times, for disturbances only add.
sql_overhead() { # FILE MODEL THREADS
    local engine_times='' sql_times=''
    for _ in 1 2 3; do
        engine_times+=$("$engine" -t "$3" -r "$reps" -p 1 -n 2 "$1" |
            sed 's/.*"generate_ms": \([0-9.]*\).*/\1/')$'\n'
        sql_times+=$({
            echo "SET moe.threads = $3;"
            generation "$2" 64
            echo '\timing on'
            for _ in $(seq "$reps"); do generation "$2" 64; done
        } | sql -o /dev/null | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p')$'\n'
    done
    record "${1##*/}" "$3" sql_generate_ms "$(sed '/^$/d' <<<"$sql_times" | smallest)"
    record "${1##*/}" "$3" engine_generate_ms "$(sed '/^$/d' <<<"$engine_times" | smallest)"
}

# What one more session costs while another has the model open.
second_session() { # FILE MODEL
    local first ready=$CLUSTER/ready lines
    {
        generation "$2" 8
        echo "\\! touch $ready"
        echo 'SELECT pg_sleep(600);'
    } | sql -o /dev/null 2>/dev/null &
    first=$!
    until [ -e "$ready" ]; do sleep 0.1; done
    mapfile -t lines < <({
        echo "SELECT private_kb();"
        echo '\timing on'
        generation "$2" 1
        echo '\timing off'
        generation "$2" 8
        echo "SELECT private_kb();"
    } | sql | grep -E '^Time: |^[0-9]+$')
    record "${1##*/}" "$(nproc)" second_session_first_call_ms "$(cut -d ' ' -f 2 <<<"${lines[1]}")"
    record "${1##*/}" "$(nproc)" second_session_private_mb "(${lines[2]} - ${lines[0]}) / 1024.0"
    sql -o /dev/null -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ 'pg_sleep' AND pid <> pg_backend_pid()"
    wait "$first" 2>/dev/null || true
    rm -f "$ready"
}

sql <<'END'
CREATE FUNCTION private_kb() RETURNS bigint LANGUAGE sql AS $$
SELECT sum(substring(line FROM '\d+')::bigint)
  FROM regexp_split_to_table(pg_read_file('/proc/self/smaps_rollup'), '\n') AS line
 WHERE line ~ '^Private_'
$$;
END

for file in "${models[@]}"; do
    file=${file%/}
    echo "measuring ${file##*/}" >&2
    for t in "${threads[@]}"; do
        record_engine "$("$engine" -t "$t" -r "$reps" "$file")"
        if [ -n "${PEERS:-}" ] && [ -f "$file" ]; then llama_bench "$file" "$t"; fi
    done
    if [ -f "$file" ]; then
        name=pocket
        if [ "$file" != share/pocket-q8_0.gguf ]; then
            name=${file##*/}
            cp "$file" "$CLUSTER/" # where the server's user may read it
            chmod a+r "$CLUSTER/$name"
            sql -o /dev/null -c "SET client_min_messages = warning" \
                -c "SELECT moe.load_model('$name', '$CLUSTER/$name')"
        fi
        for t in "${threads[@]}"; do sql_overhead "$file" "$name" "$t"; done
        second_session "$file" "$name"
    fi
done

cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
sql -v cpu="$cpu, $(nproc) cores" -o "${BUILD:-build}/bench.json" <<'END'
SELECT jsonb_pretty(jsonb_build_object('machine', :'cpu', 'date', current_date,
                                       'results', (SELECT jsonb_agg(result) FROM result)));
END
printf '\n%s, %d cores\n' "$cpu" "$(nproc)"
"$("$PG_CONFIG" --bindir)/psql" -X -q -P footer=off -P null=- <<'END'
WITH best AS (
    SELECT engine, model, threads, work,
           CASE WHEN work ~ '_tps$' THEN max(value) ELSE min(value) END AS value
      FROM result GROUP BY engine, model, threads, work)
SELECT us.model, us.threads, us.work, round(us.value::numeric, 1) AS pg_moe,
       round(coalesce(peer.value, base.value)::numeric, 1) AS other,
       CASE WHEN peer.value IS NOT NULL THEN 'llama.cpp' WHEN base.value IS NOT NULL THEN 'the engine alone' END AS "which is",
       round((us.value / coalesce(peer.value, base.value))::numeric, 3) AS ratio
  FROM best AS us
  LEFT JOIN best AS peer ON peer.engine = 'llama.cpp'
       AND (peer.model, peer.threads, peer.work) = (us.model, us.threads, us.work)
  LEFT JOIN best AS base ON us.work = 'sql_generate_ms' AND base.work = 'engine_generate_ms'
       AND (base.model, base.threads) = (us.model, us.threads)
 WHERE us.engine = 'pg_moe' AND us.work NOT IN ('engine_generate_ms', 'generate_ms', 'weight_mb')
 ORDER BY us.model, us.work, us.threads;
END
echo "All figures: ${BUILD:-build}/bench.json"
