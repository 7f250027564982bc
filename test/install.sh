#!/bin/sh
# Builds pg_moe and installs it into the PostgreSQL that PG_CONFIG names, by sudo where the caller may
# not write there.
set -eu

# Under a make that called this, MAKEFLAGS speaks of a jobserver that is not there; variables given
# on its command line come through the environment.
unset MAKEFLAGS MFLAGS MAKELEVEL

make -s -j"$(nproc)" all
libdir=$("${PG_CONFIG:-pg_config}" --pkglibdir)
if [ -w "$libdir" ]; then
    make -s install
else
    echo "installing into $libdir with sudo"
    sudo make -s install PG_CONFIG="${PG_CONFIG:-pg_config}" BUILD="${BUILD:-build}"
fi
