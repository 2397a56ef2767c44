#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: tools/make_venv.sh DIR
#
# Makes the virtual environment DIR, with TensorFlow and what builds the op
# library in it. Checks first what it cannot install, and says how to get it.
# Environment: PYTHON and CXX name another Python and C++ compiler.
set -euo pipefail

venv=$1
root=$(cd "$(dirname "$0")/.." && pwd)

fail() {
  printf '\nlintf cannot be built here: %s\n' "$1" >&2
  shift
  printf '  %s\n' "$@" >&2
  exit 1
}

# Prints X.Y where $1 is a Python that TensorFlow has wheels for.
fitting_python() {
  "$1" -c 'import sys
v = sys.version_info
sys.exit((3, 10) > v[:2] or v[:2] > (3, 13) or print("%d.%d" % v[:2]))' \
    2> /dev/null
}

python=
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 \
  python3.10}; do
  if fitting_python "$candidate" > /dev/null; then
    python=$candidate
    break
  fi
done
if [[ -z $python ]]; then
  found=$("${PYTHON:-python3}" --version 2>&1 || true)
  fail "it needs Python 3.10 to 3.13 (TensorFlow 2.21 has no other), got:" \
    "${found:-none}" \
    "install one (Debian 12: apt-get install python3 python3-venv)" \
    "or name one: make PYTHON=/path/to/python3.11 ..."
fi
version=$(fitting_python "$python")
if ! "$python" -c 'import ensurepip, venv' 2> /dev/null; then
  fail "Python $version has no venv module" \
    "run: apt-get install python$version-venv"
fi

compiler=${CXX:-g++}
if ! command -v "$compiler" > /dev/null; then
  fail "no C++ compiler ($compiler)" "run: apt-get install g++" \
    "or name one: make CXX=g++-12 ..."
fi
if "$compiler" --version | grep -q 'Free Software Foundation'; then
  major=$("$compiler" -dumpversion)
  if ((${major%%.*} < 10)); then
    fail "it needs g++ 10 or newer, got $major ($compiler)" \
      "run: apt-get install g++-12, then: make CXX=g++-12 ..."
  fi
fi

if [[ ! -x $venv/bin/python ]]; then
  echo "make: making $venv with Python $version"
  "$python" -m venv "$venv"
fi
pip=("$venv/bin/python" -m pip -qq --no-input
  --disable-pip-version-check)

# The system's cmake and ninja do where they are new enough.
tools=()
cmake=$(cmake --version 2> /dev/null | sed -n '1s/[^0-9]*//p' || true)
oldest=$(printf '%s\n3.22\n' "${cmake:-0}" | sort -V | head -n 1)
[[ $oldest == 3.22 ]] || tools+=('cmake>=3.22,<4')
command -v ninja > /dev/null || tools+=(ninja)

tensorflow=$("$python" "$root/tools/find_tensorflow.py" --requirement)
backend=$(sed -n 's/^requires = \["\(scikit-build-core[^"]*\)"\]$/\1/p' \
  "$root/pyproject.toml")
echo "make: installing $tensorflow (573 MB) and $backend"
"${pip[@]}" install "$tensorflow" "$backend" "${tools[@]}"
