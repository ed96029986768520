#!/bin/sh
# Sets up what is missing, then runs:  sh run.sh test   or any livetalk command:  sh run.sh generate
# Uses the active virtual environment, else makes .venv. A torch that is already there stays as it is.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

if [ -n "${VIRTUAL_ENV:-}" ] || [ -n "${CONDA_PREFIX:-}" ]; then
    python=python
else
    base=$(command -v python3.11 || command -v python3 || true)
    [ -n "$base" ] || { echo "run.sh: Python 3.10 or newer is needed; install python3.11" >&2; exit 2; }
    python=$here/.venv/bin/python
    if [ ! -x "$python" ]; then
        with_torch=$("$base" -c 'import importlib.util as u; print("--system-site-packages" if u.find_spec("torch") else "")')
        # shellcheck disable=SC2086
        "$base" -m venv $with_torch "$here/.venv" || { echo "run.sh: venv is needed; install python3-venv" >&2; exit 2; }
    fi
fi

stamp=$("$python" -c 'import sys; print(sys.prefix)')/.livetalk-$(cksum <"$here/pyproject.toml" | cut -d' ' -f1)
if [ ! -e "$stamp" ]; then
    echo "run.sh: installing (once)" >&2
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    "$python" -c 'import torch' 2>/dev/null || "$python" -m pip install --quiet torch==2.13.0
    "$python" -m pip install --quiet --editable "$here[dev]"
    touch "$stamp"
fi

if [ "${1:-}" = test ]; then
    shift
    cd "$here"
    # One process more than there are cores, for some tests wait; each has one thread. One that has nothing left takes tests from another.
    processes=$(($(getconf _NPROCESSORS_ONLN) + 1))
    exec "$python" -m pytest -n "$processes" --maxprocesses 9 --dist worksteal "$@"
fi
exec "$python" -m livetalk_core.cli "$@"
