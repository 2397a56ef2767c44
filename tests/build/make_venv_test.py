# SPDX-License-Identifier: Apache-2.0
"""The checks before an environment is made: what is missing, what to do."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Returns a function that runs make_venv.sh with variables replaced."""

    def run_script(**variables: str) -> subprocess.CompletedProcess[str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return subprocess.run(
            [_ROOT / "tools" / "make_venv.sh", tmp_path / "venv"],
            capture_output=True,
            text=True,
        )

    yield run_script
    assert not (tmp_path / "venv").exists()


def _program(path: pathlib.Path, script: str) -> str:
    """Writes an executable shell script; returns its path."""
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_says_which_python_is_needed(run, tmp_path):
    # Its version is read by running a program in it, and this one fails.
    python = _program(tmp_path / "python", "echo Python 3.99.0; exit 1")
    result = run(PYTHON=python)
    assert result.returncode == 1
    assert "Python 3.10 to 3.13" in result.stderr
    assert "Python 3.99.0" in result.stderr
    assert "make PYTHON=" in result.stderr


def test_says_that_the_venv_module_is_missing(run, tmp_path):
    # Debian's python3 without python3-venv: runs everything but ensurepip.
    python = _program(
        tmp_path / "python",
        'case "$*" in *ensurepip*) exit 1;; esac\n'
        f'exec "{sys.executable}" "$@"',
    )
    result = run(PYTHON=python)
    assert result.returncode == 1
    major, minor = sys.version_info[:2]
    assert f"apt-get install python{major}.{minor}-venv" in result.stderr


def test_says_that_the_compiler_is_missing(run):
    result = run(PYTHON=sys.executable, CXX="no-such-compiler")
    assert result.returncode == 1
    assert "no-such-compiler" in result.stderr
    assert "apt-get install g++" in result.stderr


def test_says_that_the_compiler_is_too_old(run, tmp_path):
    compiler = _program(
        tmp_path / "g++",
        'case "$1" in\n'
        "  -dumpversion) echo 9.4.0;;\n"
        "  *) echo 'Copyright Free Software Foundation';;\n"
        "esac",
    )
    result = run(PYTHON=sys.executable, CXX=compiler)
    assert result.returncode == 1
    assert "g++ 10 or newer, got 9.4.0" in result.stderr
