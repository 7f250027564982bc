#!/bin/bash
# Measures speed and memory of the engine and of the extension, and of peers beside them; "make bench"
# calls it.  README.md in this folder says what each figure means.  Prints a table in Markdown and writes
# $BUILD/bench.json.
#
#   MODELS="a.gguf folder"  what to measure; default: pocket, two models with random weights, MiniLM if
#                           "make models" fetched it, and with PEERS everything that it fetched
#   WORKS="prefill decode"  default: first prefill decode batch deep sql second embed tokenize
#   THREADS="1 2"           default: 1 and the number of cores
#   REPS=5                  rounds; in each, everyone does every work once, one after the other
#   DEPTH=8192              tokens of the deep work; TEXTS=2000 texts of embed; both less without PEERS
#   PEERS=dir               a Debian root with llama.cpp's tools; also tries the Python peers
#   IK=llama-bench          that of ik_llama.cpp, for prefill and decode
#   PYTHON=python3          with the packages tokenizers, gguf, sentence_transformers
#   CORPUS=file             texts of embed, one a line;  TEXT=file  what tokenize reads
#
# Everything is measured beside a throw-away cluster, whose tables also collect the figures.
set -euo pipefail
cd "$(dirname "$0")/../.."

PEERS=${PEERS:-} IK=${IK:-}
if [ -z "${CLUSTER:-}" ]; then
    if [ -n "$PEERS" ] && [ ! -x "$PEERS/usr/bin/llama-bench" ]; then
        cat >&2 <<END
make bench: there is no llama-bench in $PEERS.  As root, this makes such a folder (500 MB):
  debootstrap --variant=minbase sid $PEERS http://deb.debian.org/debian
  chroot $PEERS apt-get install --no-install-recommends llama.cpp-tools llama.cpp-tools-extra
END
        exit 1
    fi
    test/install.sh
    exec test/cluster.sh test/bench/run.sh
fi

build=$(realpath "${BUILD:-build}")
tools=$build/test/bench
engine=$tools/bench_engine
python=${PYTHON:-python3}
reps=${REPS:-5}
works=" ${WORKS:-first prefill decode batch deep sql second embed tokenize} "
read -ra threads <<<"${THREADS:-$(printf '1\n%s\n' "$(nproc)" | sort -nu | tr '\n' ' ')}"
cores=${threads[-1]}
depth=${DEPTH:-1024} n_texts=${TEXTS:-200}
shopt -s nullglob
fetched=(.models/*/)
if [ -n "$PEERS" ]; then
    PEERS=$(realpath "$PEERS")
    depth=${DEPTH:-8192} n_texts=${TEXTS:-2000}
    fetched=(.models/*.gguf .models/*/)
fi
if [ -n "${MODELS:-}" ]; then
    read -ra models <<<"$MODELS"
else
    models=(share/*.gguf)
    for arch in qwen3moe deepseek2; do
        model=$build/random-$arch.gguf
        if [ ! "$model" -nt "$tools/random_gguf" ]; then
            "$tools/random_gguf" "$arch" "$model.part"
            mv "$model.part" "$model"
        fi
        models+=("$model")
    done
    models+=("${fetched[@]}")
fi
for i in "${!models[@]}"; do models[i]=$(realpath "${models[i]}"); done

wanted() { [[ $works == *" $1 "* ]]; }
bin=$("$PG_CONFIG" --bindir)
sql() { "$bin/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }
skipped() { # once per line
    grep -qxF "$*" "$CLUSTER/skipped" 2>/dev/null || echo "$*" | tee -a "$CLUSTER/skipped" | sed 's/^/skipped: /' >&2
}

sql -f test/bench/tables.sql -v depth="$depth"

# --- recording ---------------------------------------------------------------------------------------

record() { # MODEL THREADS WORK VALUE [ENGINE [CONFIG]]
    sql -v engine="${5:-pg_moe}" -v config="${6:-}" -v model="$1" -v threads="$2" -v work="$3" -v value="$4" \
        <<<"INSERT INTO sample VALUES (:'engine', :'config', :'model', :'threads', :'work', :'value')"
}

# A line of JSON by bench_engine, limits or peer.py, or of the same kind
record_json() { # LINE [MODEL [THREADS]]
    [ -z "$1" ] || sql -v line="$1" -v model="${2:-}" -v threads="${3:-1}" <<<"CALL record(:'line', :'model', :'threads')"
}

first_work() { # ENGINE CONFIG MODEL THREADS COMMAND...: wall time of it
    local begin=$EPOCHREALTIME
    if "${@:5}" >/dev/null 2>&1 </dev/null; then
        local end=$EPOCHREALTIME
        record "${3##*/}" "$4" first_ms "$(sql <<<"SELECT (${end/./} - ${begin/./}) / 1000.0")" "$1" "$2"
    else
        skipped "first: $1 $2 fails with ${3##*/}"
    fi
}

# --- the engine and llama.cpp ------------------------------------------------------------------------

prompt='The write-ahead log records every change' # as in bench_engine.c

engine_works() { # MODEL THREADS
    local list='' w
    for w in prefill decode batch deep; do ! wanted $w || list+=,$w; done
    [ -z "$list" ] || record_json "$("$engine" -t "$2" -r 1 -w "${list#,}" -d "$depth" "$1")"
    ! wanted first || first_work pg_moe '' "$1" "$2" "$engine" -t "$2" -r 1 -w first "$1"
}

# Its tools run without chroot, in a folder where they find one variant of the CPU backend per CPU
# and nothing else, such as a slow BLAS.
llama() ( # TOOL ARGS...
    libs=$(echo "$PEERS"/usr/lib/*-linux-gnu)
    loader=$(echo "$PEERS"/lib64/ld-linux-*.so.2)
    tool=$PEERS/usr/bin/$1
    shift
    mkdir -p "$CLUSTER/backends"
    cd "$CLUSTER/backends"
    ln -sf "$libs"/ggml/backends0/libggml-cpu*.so .
    export GGML_NO_BACKTRACE=1
    "$loader" --library-path "$libs:$libs/llama:$libs/blas:$libs/lapack" "$tool" "$@" || exit
) 2>/dev/null </dev/null

llama_bench() { # ENGINE CONFIG MODEL COMMAND...
    local lines
    if lines=$("${@:4}" -m "$3" "${args[@]}" -r 1 -o json 2>/dev/null </dev/null); then
        sql -v engine="$1" -v config="$2" -v model="${3##*/}" -v lines="$lines" <<'END'
INSERT INTO sample
SELECT :'engine', :'config', :'model', (j->>'n_threads')::int,
       CASE WHEN (j->>'n_gen')::int > 0 THEN 'decode_tps' ELSE 'prefill_tps' END, (j->'samples_ts'->>0)::float8
  FROM json_array_elements(:'lines') AS j;
END
    else
        skipped "prefill and decode: $1 $2 fails with ${3##*/}"
    fi
}

llama_batched_bench() { # WORK CONFIG MODEL THREADS ARGS...
    local line
    if line=$(llama llama-batched-bench -m "$3" -t "$4" "--$2" --output-format jsonl "${@:5}" | grep speed_tg); then
        sql -v work="$1" -v config="$2" -v model="${3##*/}" -v line="$line" <<'END'
INSERT INTO sample
SELECT 'llama.cpp', :'config', :'model', (j->>'n_threads')::int, :'work' || work, (j->>key)::float8
  FROM (SELECT :'line'::json AS j) AS l,
       (VALUES ('_prefill_tps', 'speed_pp'), ('_decode_tps', 'speed_tg')) AS figure (work, key)
END
    else
        skipped "$1: llama.cpp $2 fails with ${3##*/}"
    fi
}

short_works() { # sets args for llama-bench from the works wanted; false if it has none to do
    args=(-p 0 -n 0)
    ! wanted prefill || args[1]=512
    ! wanted decode || args[3]=64
    wanted prefill || wanted decode
}

# The best configuration differs by model and CPU, so each runs twice: with weights repacked at load,
# and without.
llama_works() { # MODEL THREADS
    local config args
    for config in repack no-repack; do
        ! short_works || llama_bench llama.cpp "$config" "$1" llama llama-bench -t "$2" \
            --repack "$([ $config = repack ] && echo 1 || echo 0)"
        ! wanted batch || llama_batched_bench batch "$config" "$1" "$2" -c 4096 -npp 16 -ntg 32 -npl 16
        ! wanted deep || llama_batched_bench deep "$config" "$1" "$2" -c $((depth + 256)) -npp "$depth" -ntg 32 -npl 1
        ! wanted first || first_work llama.cpp "$config" "$1" "$2" llama llama-completion -m "$1" -t "$2" \
            -p "$prompt" -n 1 -no-cnv --no-warmup "--$config"
    done
}

ik_works() { # MODEL THREADS
    local args
    short_works || return 0
    llama_bench ik_llama.cpp '' "$1" "$IK" -t "$2"
    llama_bench ik_llama.cpp '-rtr 1' "$1" "$IK" -t "$2" -rtr 1
}

# --- SQL ---------------------------------------------------------------------------------------------

# Makes a file or folder known to the server under its own name, from where the server's user may read it.
declare -A loaded
load() { # MODEL
    local name=${1##*/}
    [ -z "${loaded[$1]:-}" ] || return 0
    loaded[$1]=1
    [ "$name" != pocket-q8_0.gguf ] || return 0
    cp -r "$1" "$CLUSTER/"
    chmod -R a+rX "$CLUSTER/$name"
    sql -o /dev/null -c "SET client_min_messages = warning" -c "SELECT moe.load_model('$name', '$CLUSTER/$name')"
}
known_as() { if [ "${1##*/}" = pocket-q8_0.gguf ]; then echo pocket; else echo "${1##*/}"; fi; }

generation() { # MODEL TOKENS
    printf "SELECT moe.generate('%s', '%s', max_tokens => %d, options => '{\"ignore_eos\": true}');\n" \
        "$prompt" "$(known_as "$1")" "$2"
}
psql_times() { sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p'; }

# What SQL adds to a generation of 64 tokens: the same one by bench_engine and by a warm session, in
# turns.
sql_work() { # MODEL THREADS
    local t
    load "$1"
    for t in $({
        echo "SET moe.threads = $2;"
        generation "$1" 64
        echo '\timing on'
        for _ in 1 2 3; do generation "$1" 64; done
    } | sql -o /dev/null | psql_times); do record "${1##*/}" "$2" sql_generate_ms "$t"; done
    for _ in 1 2 3; do record_json "$("$engine" -t "$2" -r 1 -w generate "$1")"; done
}

# What one more session costs while another has the model open.
second_work() { # MODEL
    local first ready=$CLUSTER/ready lines
    load "$1"
    {
        generation "$1" 8
        echo "\\! touch $ready"
        echo 'SELECT pg_sleep(600);'
    } | sql -o /dev/null 2>/dev/null &
    first=$!
    until [ -e "$ready" ]; do sleep 0.1; done
    mapfile -t lines < <({
        echo 'SELECT private_kb();'
        echo '\timing on'
        generation "$1" 1
        echo '\timing off'
        generation "$1" 8
        echo 'SELECT private_kb();'
    } | sql | grep -E '^Time: |^[0-9]+$')
    record "${1##*/}" "$cores" second_session_ms "$(cut -d ' ' -f 2 <<<"${lines[1]}")"
    record "${1##*/}" "$cores" second_session_mb "$(sql <<<"SELECT (${lines[2]} - ${lines[0]}) / 1024.0")"
    sql -o /dev/null -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ 'pg_sleep' AND pid <> pg_backend_pid()"
    wait "$first" 2>/dev/null || true
    rm -f "$ready"
}

embed_texts() { # MODEL THREADS WORK: all texts by one call in a warm session
    local t
    t=$({
        echo "SET moe.threads = $2; SELECT moe.embed('warm', '$1');"
        echo '\timing on'
        echo "SELECT count(*) FROM moe.embed((SELECT array_agg(line ORDER BY n) FROM texts), '$1');"
    } | sql -o /dev/null | psql_times)
    record "${1%-quantized}" "$2" "$3" "$(sql <<<"SELECT count(*) / $t * 1000 FROM texts")"
}

# Embeddings with the weights as they are, in BF16 and in Q8_0, and by sentence-transformers.
embed_work() { # MODEL THREADS
    local name=${1##*/} line dtype
    load "$1"
    embed_texts "$name" "$2" sql_embed_texts
    for dtype in bf16 q8_0; do
        sql -o /dev/null <<<"SET client_min_messages = warning;
            SELECT moe.load_model('$name-quantized', '$CLUSTER/$name', '{\"quantize\": \"$dtype\", \"replace\": true}')"
        embed_texts "$name-quantized" "$2" "sql_embed_${dtype}_texts"
    done
    record_json "$("$engine" -t "$2" -r 1 -w embed "$1")"
    sql <<<"INSERT INTO need SELECT '$name', 'text_tokens', avg(moe.count_tokens(line, '$name')) FROM texts ON CONFLICT DO NOTHING"
    [ -n "$PEERS" ] || return 0
    for dtype in float32 bfloat16; do
        if line=$("$python" test/bench/peer.py embed "$1" "$CLUSTER/texts" "$2" $dtype 2>"$CLUSTER/python.log"); then
            record_json "$line" "$name" "$2"
        else
            skipped "sentence-transformers, $dtype: $(tail -n 1 "$CLUSTER/python.log")"
        fi
    done
}

tokenize_work() { # MODEL
    local line
    record_json "$("$engine" -r 1 -w tokenize -f "$build/bench.txt" "$1")"
    [ -n "$PEERS" ] || return 0
    if line=$("$python" test/bench/peer.py tokenize "$1" "$build/bench.txt" 2>"$CLUSTER/python.log"); then
        record_json "$line" "${1##*/}"
    else
        skipped "tokenizers with ${1##*/}: $(tail -n 1 "$CLUSTER/python.log")"
    fi
}

# 10 MB of what every machine that can build the extension has: C and SQL with much English in it.
if [ -n "${TEXT:-}" ]; then
    cp "$TEXT" "$build/bench.txt"
else
    { find "$("$PG_CONFIG" --includedir-server)" "$("$PG_CONFIG" --sharedir)" . /usr/include -type f \
        -name '*.sql' -o -type f -name '*.[ch]' -o -name '*.md' | LC_ALL=C sort | xargs cat 2>/dev/null || true; } |
        { head -c 10000000; cat >/dev/null; } | iconv -c -f UTF-8 -t UTF-8 >"$build/bench.txt"
fi

# Texts of 8 to 120 tokens: the corpus of the shared data if it is there, else pieces of that text.
corpus=${CORPUS:-${MOE_SHARED:-../shared}/peers/embed_corpus.txt}
if [ -r "$corpus" ]; then
    head -n "$n_texts" "$corpus" >"$CLUSTER/texts"
else
    skipped "$corpus is not there: embed takes pieces of C and SQL"
    tr -s ' \t\n\\' ' ' <"$build/bench.txt" | fold -s -w 150 | sed -n "1,${n_texts}p" >"$CLUSTER/texts"
fi
sql -c "\\copy texts (line) FROM '$CLUSTER/texts' (FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02')"

# --- rounds ------------------------------------------------------------------------------------------

for round in $(seq "$reps"); do
    echo "round $round of $reps" >&2
    for t in "${threads[@]}"; do record_json "$("$tools/limits" "$t")"; done
    for model in "${models[@]}"; do
        random=
        case $model in */random-*) random=1 ;; esac
        for t in "${threads[@]}"; do
            if [ -d "$model" ]; then
                ! wanted embed || embed_work "$model" "$t"
                continue
            fi
            engine_works "$model" "$t"
            [ -z "$PEERS" ] || llama_works "$model" "$t"
            [ -z "$IK" ] || ik_works "$model" "$t"
            ! wanted sql || [ -n "$random" ] || sql_work "$model" "$t"
        done
        [ -d "$model" ] || [ -n "$random" ] || ! wanted second || second_work "$model"
        [ -n "$random" ] || ! wanted tokenize || tokenize_work "$model"
    done
done

# Peers have one figure for all forms
sql <<<"INSERT INTO sample SELECT engine, config, model, threads, form, value
          FROM sample, unnest('{sql_embed_bf16_texts, sql_embed_q8_0_texts}'::text[]) AS form
         WHERE work = 'sql_embed_texts' AND engine <> 'pg_moe'"
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
sql -v machine="$cpu, $(nproc) cores" <<<"SELECT report(:'machine')" >"$build/bench.json"
printf '\n%s, %d cores, %s, medians of %d\n\n' "$cpu" "$(nproc)" "$(date +%F)" "$reps"
sql <<<'SELECT line FROM markdown'
echo
if [ -s "$CLUSTER/skipped" ]; then sed 's/^/skipped: /' "$CLUSTER/skipped"; fi
echo "All figures: $build/bench.json"
