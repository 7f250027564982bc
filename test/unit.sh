#!/bin/bash
# Runs unit test programs and counts:  test/unit.sh PROGRAM...
#
# Each program speaks TAP (cmocka's), one line per test; a program that dies counts as one failure
# more.  Failures are shown in full, of the others only lines that tell of something skipped.
# Optional reference data is looked for in $MOE_SHARED (default ../shared).  Ends in a line
# "N passed, N failed"; fails if anything did.
set -uo pipefail

export CMOCKA_MESSAGE_OUTPUT=TAP
passed=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for program; do
    name=${program##*/}
    "$program" >"$log" 2>&1 </dev/null
    status=$?
    ok=$(grep '^ok ' "$log" | grep -vc '# SKIP')
    bad=$(grep '^not ok ' "$log" | grep -vc '# SKIP') # as cmocka 1.1.5 marks a test that was skipped
    if [ "$status" != 0 ] && [ "$bad" = 0 ]; then
        bad=1
        echo "$name: exit status $status" >>"$log"
    fi
    grep -i '^#\{0,1\} *skipped:' "$log" | sort -u | sed "s/^/  $name: /"
    if [ "$bad" != 0 ]; then cat "$log"; fi
    printf '%-28s %4d passed %4d failed\n' "$name" "$ok" "$bad"
    passed=$((passed + ok))
    failed=$((failed + bad))
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
