#!/usr/bin/env bash
# venv.sh PYTHON VENV WHAT: make the virtual environment VENV with PYTHON and install WHAT (editable) into it;
# venv.sh PYTHON VENV --requirement FILE: what the file lists.
# Missing parts of Debian's Python are installed with apt-get when we are root; otherwise it says what to do.
set -euo pipefail
python=$1 venv=$2
shift 2
what=("$@")
if [ $# = 1 ]; then what=(--editable "$1"); fi

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

# quietly COMMAND...: its output is shown only if it fails.
quietly() {
    local output
    output=$("$@" 2>&1 </dev/null) || fail "$*" "$output"
}

as_root() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

install() {
    as_root || fail "$* missing: run  apt-get install $*  as root, then call make again"
    echo "setting up: apt-get install $*"
    export DEBIAN_FRONTEND=noninteractive
    quietly apt-get update -qq
    quietly apt-get install -y -qq "$@"
}

command -v "$python" >/dev/null || [ "$python" != python3 ] || install python3
command -v "$python" >/dev/null || fail "no $python: choose an interpreter with  make PYTHON=..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "taskq needs Python 3.11 or newer, $python is $("$python" -V): choose another with  make PYTHON=..."
# Debian keeps these two in packages of their own; without them `python -m venv` makes a broken folder.
"$python" -c 'import ensurepip, venv' 2>/dev/null || install python3-venv

echo "setting up: $venv with $("$python" -V) (a minute the first time)"
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || quietly "$python" -m venv --clear "$venv"
quietly "$venv/bin/python" -m pip install --disable-pip-version-check "${what[@]}"
