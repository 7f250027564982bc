#!/bin/bash
# Runs test/t/*.pl with PostgreSQL's own Perl modules; called through test/cluster.sh, whose temporary
# folder and user it borrows, since neither initdb nor postgres may run as root.  The tests work on a copy, for
# that user may not be able to enter the source tree.  Ends in "N passed, N failed".
set -uo pipefail

bin=$("$PG_CONFIG" --bindir)
pgxs=$(dirname "$("$PG_CONFIG" --pgxs)")/..
work=$CLUSTER/tap
mkdir -p "$work/tmp_check/log"
cp -r test/t "$work/"
if [ -d test/data ]; then cp -r test/data "$work/"; fi

run=()
if [ "$(id -u)" = 0 ]; then
    chown -R "$CLUSTER_OWNER" "$work"
    run=(setpriv --reuid="$CLUSTER_OWNER" --regid="$(id -g "$CLUSTER_OWNER")" --clear-groups)
fi
cd "$work" || exit 1
# initdb takes encoding and locale from LANG here, and the modules drop LC_ALL.
LANG=C.UTF-8 TESTDIR=$work TESTDATADIR=$work/tmp_check TESTLOGDIR=$work/tmp_check/log HOME=$work \
    PG_REGRESS=$pgxs/test/regress/pg_regress PATH=$bin:$PATH \
    "${run[@]}" prove -v -I "$pgxs/../src/test/perl" t/*.pl >"$work/log" 2>&1 </dev/null
status=$?
ok=$(grep -c '^ok ' "$work/log")
bad=$(grep -c '^not ok ' "$work/log")
grep -E '^t/.*\.\. *$|^(not )?ok |^# ?skipped:' "$work/log"
if [ "$status" != 0 ]; then
    [ "$bad" != 0 ] || bad=1
    sed -n '/^Test Summary Report/,$p' "$work/log"
    for name in $(sed -n 's|^t/\(.*\)\.pl *(Wstat.*|\1|p' "$work/log"); do
        tail -n 30 "$work/tmp_check/log/regress_log_$name" "$work/tmp_check/log/$name"_*.log
    done
fi
echo "$ok passed, $bad failed"
[ "$bad" = 0 ]
