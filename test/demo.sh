#!/bin/sh
# "make demo": builds, installs, and shows test/demo.sql at work in a throw-away cluster.
set -eu
cd "$(dirname "$0")/.."
test/install.sh
exec test/cluster.sh "$("${PG_CONFIG:-pg_config}" --bindir)/psql" -X -q -e -P footer=off \
    -v ON_ERROR_STOP=1 -f test/demo.sql
