#!/usr/bin/env bash
# Make .venv with deploykit in it, and install the system packages that it gains from, where that is allowed.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: deploykit needs Python 3.11 or newer; $python is $("$python" --version)" >&2
    echo "  fix: install one and name it, such as: make PYTHON=python3.12 test" >&2
    exit 1
}

# python3-venv makes the environment; python3-torch is the mobile interpreter, built with XNNPACK, and
# OpenBLAS does its matrix products; adb reaches Android devices, ssh boards. No server of ssh is installed: the tests
# that start one of their own say what they need.
wanted=()
"$python" -c 'import ensurepip, venv' 2>/dev/null || wanted+=(python3-venv)
if command -v apt-get >/dev/null; then
    for package in python3-torch libopenblas0-pthread adb openssh-client; do
        dpkg-query --show --showformat '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || wanted+=("$package")
    done
fi
if [ "${#wanted[@]}" -gt 0 ]; then
    echo "installing ${wanted[*]}"
    root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo -n)
    if ! { "${root[@]}" apt-get update -qq &&
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null; }; then
        echo "note: not installed: ${wanted[*]}; without python3-torch a .ptl is not prepacked for XNNPACK," >&2
        echo "  and without adb no Android device is reached, without openssh-client no board" >&2
        echo "  fix: sudo apt-get install ${wanted[*]}" >&2
    fi
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
# torch first and by its exact version: no other package may then choose another build of it.
.venv/bin/pip install --quiet --disable-pip-version-check "$(sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)"
.venv/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
touch .venv/ready
