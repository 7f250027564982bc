#!/bin/sh
# Installs what building and testing pg_moe need: a compiler, PostgreSQL with its server headers, the
# libraries of the engine, and the test tools.  Uses apt-get and says so; a second run finds
# everything there and does nothing.  Without root or without apt-get it says what is missing and fails.
#
# PostgreSQL: the one that PG_CONFIG names if its server and headers are there, else the
# distribution's own version.
set -eu

libraries='libopenblas-serial-dev libpcre2-dev libutf8proc-dev libjansson-dev libssl-dev'
tools='gcc libc6-dev make libcmocka-dev libipc-run-perl'

server_is_there() {
    config=${PG_CONFIG:-pg_config}
    [ -e "$("$config" --pgxs 2>/dev/null)" ] &&
        [ -e "$("$config" --includedir-server)/postgres.h" ] && [ -x "$("$config" --bindir)/initdb" ]
}

packages_missing() { # of those given
    for package; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            printf '%s ' "$package"
    done
}

if ! command -v apt-get >/dev/null; then
    if server_is_there && printf '#include <%s>\n' cblas.h utf8proc.h jansson.h openssl/evp.h |
        "${CC:-cc}" -E - >/dev/null 2>&1; then
        exit 0
    fi
    cat >&2 <<'END'
make deps: this is not Debian or a relative of it; please install by hand:
  gcc, make, PostgreSQL 15 or newer with its server headers (pg_config must find them),
  the serial build of OpenBLAS, PCRE2, utf8proc, jansson, OpenSSL, cmocka, and Perl's IPC::Run for the tests
END
    exit 1
fi

# shellcheck disable=SC2086 # lists of words
missing=$(packages_missing $tools $libraries)
if [ -z "$missing" ] && server_is_there; then
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    server_is_there || missing="${missing}postgresql postgresql-server-dev-NN (NN: its major version)"
    echo "make deps: needs root to install: $missing" >&2
    echo "make deps: run \"sudo make deps\" once, or install them yourself" >&2
    exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >"$log" 2>&1 || {
        tail -n 30 "$log" >&2
        echo "make deps: apt-get $1 failed" >&2
        exit 1
    }
}

echo "make deps: refreshing the package lists (apt-get update)"
apt update
if ! server_is_there; then
    major=$(apt-cache depends postgresql | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1)
    missing="$missing$(packages_missing "postgresql-$major" "postgresql-server-dev-$major")"
fi
echo "make deps: installing with apt-get: $missing"
# shellcheck disable=SC2086
apt install --no-install-recommends $missing
server_is_there || {
    echo "make deps: ${PG_CONFIG:-pg_config} still finds no PostgreSQL server with its headers" >&2
    exit 1
}
