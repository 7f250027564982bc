#!/bin/bash
# Runs a command beside a throw-away PostgreSQL cluster:  test/cluster.sh COMMAND [ARGS...]
#
# The cluster lives in a temporary folder ($CLUSTER for the command) and belongs to a user that is not
# root: the caller or, for root, postgres or nobody.  It listens on a socket in that folder and on no
# TCP port, so it meets no other server.  The command finds it through PGHOST, PGPORT, PGUSER and
# PGDATABASE; settings in $CLUSTER_CONF are added to its own.  Whatever ends the command, Ctrl-C included, the cluster is stopped and removed; the
# exit status is the command's.
set -euo pipefail

bin=$("${PG_CONFIG:-pg_config}" --bindir)
CLUSTER=$(mktemp -d "${TMPDIR:-/tmp}/pg_moe.XXXXXX")
owner=$(id -un)
as_owner=()
if [ "$(id -u)" = 0 ]; then
    owner=postgres
    id -u "$owner" >/dev/null 2>&1 || owner=nobody
    chown "$owner" "$CLUSTER"
    as_owner=(setpriv --reuid="$owner" --regid="$(id -g "$owner")" --clear-groups env HOME="$CLUSTER")
fi

finish() {
    status=$?
    trap '' INT TERM HUP
    if [ -e "$CLUSTER/data/postmaster.pid" ]; then
        (cd "$CLUSTER" && "${as_owner[@]}" "$bin/pg_ctl" -D data -m immediate -w stop >/dev/null) || true
    fi
    rm -rf "$CLUSTER"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

export CLUSTER PGHOST=$CLUSTER PGUSER=postgres PGDATABASE=postgres
export PGPORT=${PGPORT:-5432} # names the socket only
export CLUSTER_OWNER=$owner

( # the owner may not be able to enter the caller's folder
    cd "$CLUSTER"
    "${as_owner[@]}" "$bin/initdb" -D data -U postgres -A trust -E UTF8 --no-locale --no-sync >initdb.log 2>&1
    cat >>data/postgresql.conf <<END
listen_addresses = ''
unix_socket_directories = '$CLUSTER'
port = $PGPORT
fsync = off
shared_buffers = 32MB
max_connections = 40
${CLUSTER_CONF:-}
END
    "${as_owner[@]}" "$bin/pg_ctl" -D data -l server.log -w -s start
) || {
    echo "test/cluster.sh: the cluster did not start" >&2
    tail -n 20 "$CLUSTER"/*.log >&2
    exit 1
}

"$@"
