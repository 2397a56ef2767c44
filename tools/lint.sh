#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: tools/lint.sh [--fix]
#
# Checks format, style and types of everything in the checkout; with --fix,
# formats what can be formatted instead. Goes on after a failed check, so that
# one run shows all there is to mend.
set -uo pipefail

cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
mapfile -t cxx < <(find custom_ops -name '*.cc' -o -name '*.h' | sort)

if [[ ${1:-} == --fix ]]; then
  "$bin/ruff" check --fix . && "$bin/ruff" format . &&
    "$bin/clang-format" -i "${cxx[@]}"
  exit
fi

failed=()
check() {
  local name=$1
  shift
  echo "lint: $name"
  "$@" || failed+=("$name")
}

check 'ruff check' "$bin/ruff" check .
check 'ruff format' "$bin/ruff" format --check .
check 'clang-format' "$bin/clang-format" --dry-run --Werror "${cxx[@]}"
check 'mypy' "$bin/mypy"
check 'sources' "$bin/python" tools/check_sources.py
for script in tools/*.sh tests/gpu/*.sh .ci/run; do
  check "bash -n $script" bash -n "$script"
done

if ((${#failed[@]})); then
  printf 'lint: FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo 'lint: everything is clean'
