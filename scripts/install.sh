#!/bin/sh
# Makes the virtual environment: scripts/install.sh FOLDER. Needs Python 3.11 or 3.12 and nothing else.
set -eu
venv=$1
python=${PYTHON:-python3.11}
command -v "$python" >/dev/null 2>&1 || {
    echo "There is no $python: install Python 3.11 or 3.12, or name one: make PYTHON=python3.12 …" >&2
    exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || {
    echo "$("$python" --version) does not do: Persona runs on Python 3.11 and 3.12. Name one: make PYTHON=python3.11 …" >&2
    exit 1
}

# torch's wheels: 3 GB to download, 6 GB unpacked. Better said now than half-way.
"$python" - "$venv" <<'PYTHON'
import os
import shutil
import sys

venv = os.path.abspath(sys.argv[1])
if not os.path.isdir(os.path.join(venv, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages", "torch")):
    needed = 10
    free = shutil.disk_usage(os.path.dirname(venv)).free / 2**30
    if free < needed:
        sys.exit(
            f"Too little disk: {free:.1f} GiB free beside {venv}, about {needed} GiB needed "
            "(torch is 3 GB to download and 6 GB unpacked). Free some, or put the checkout on another disk."
        )
PYTHON

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r scripts/uv.lock
echo "installing (about 3 GB the first time)…" >&2
"$venv/bin/uv" pip sync --quiet --python "$venv/bin/python" --require-hashes requirements.lock
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable .
