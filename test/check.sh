#!/bin/bash
# Builds, installs and runs every test; "make check" calls it after "make deps".
#
# Stages: unit tests of the engine (no PostgreSQL), pg_regress and isolation tests in a throw-away
# cluster, TAP tests, which make clusters of their own.  Optional reference data is looked for in
# $MOE_SHARED (default ../shared), real models in $MOE_MODELS (default .models, "make models").
# Ends in a line "N passed, N failed", with an exit status that says the same.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

unset MAKEFLAGS MFLAGS MAKELEVEL
MOE_SHARED=$(realpath -m "${MOE_SHARED:-../shared}")
MOE_MODELS=$(realpath -m "${MOE_MODELS:-.models}")
export MOE_SHARED MOE_MODELS
passed=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM

# stage TITLE COMMAND...: runs it with its output shown and adds up the tests it tells of; one that
# fails without telling of a failed test counts as one.
stage() {
    printf '\n== %s\n' "$1"
    shift
    "$@" 2>&1 | tee "$log"
    local status=${PIPESTATUS[0]} ok bad
    if [ "$status" -gt 128 ]; then exit "$status"; fi
    if grep -q '^[0-9]* passed, [0-9]* failed$' "$log"; then # unit.sh and tap.sh count themselves
        read -r ok _ bad _ < <(grep '^[0-9]* passed, [0-9]* failed$' "$log" | tail -n 1)
    else # pg_regress: "test name ... ok", from 16 on TAP
        ok=$(grep -cE '^(test .*| +[a-z0-9_-]+ +)\.\.\. ok|^ok ' "$log")
        bad=$(grep -cE '^(test .*| +[a-z0-9_-]+ +)\.\.\. FAILED|^not ok ' "$log")
    fi
    if [ "$status" != 0 ] && [ "$bad" = 0 ]; then bad=1; fi
    passed=$((passed + ok))
    failed=$((failed + bad))
}

regress() {
    if make -s installcheck ISOLATION=; then
        grep -h '^skipped:' results/*.out
        return 0
    fi
    cat regression.diffs 2>/dev/null
    return 1
}

isolation() {
    make -s installcheck REGRESS= && return
    cat output_iso/regression.diffs 2>/dev/null
    return 1
}

# The stages of one cluster, each called by name in it.
if [ $# -gt 0 ]; then
    "$@"
    exit
fi

any() { [ -e "$1" ]; }

stage 'unit tests' make -s -j"$(nproc)" unit
printf '\n== build and install\n'
if test/install.sh; then
    if any test/sql/*.sql; then stage 'SQL tests' test/cluster.sh test/check.sh regress; fi
    if any test/isolation/specs/*.spec; then stage 'isolation tests' test/cluster.sh test/check.sh isolation; fi
    if any test/t/*.pl; then stage 'TAP tests' test/cluster.sh test/tap.sh; fi
else
    failed=$((failed + 1))
fi

printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
