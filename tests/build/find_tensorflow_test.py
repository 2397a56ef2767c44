# SPDX-License-Identifier: Apache-2.0
"""How the builds find TensorFlow, and what they say where they do not."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

_ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture
def find_tensorflow(monkeypatch):
    monkeypatch.syspath_prepend(str(_ROOT / "tools"))
    import find_tensorflow

    yield find_tensorflow
    del sys.modules["find_tensorflow"]


def test_finds_what_is_imported():
    result = subprocess.run(
        [sys.executable, _ROOT / "tools" / "find_tensorflow.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    directory, version = result.stdout.splitlines()
    assert version == tf.__version__
    assert (
        pathlib.Path(directory).resolve()
        == pathlib.Path(tf.__file__).parent.resolve()
    )


def test_requires_one_minor_version(find_tensorflow):
    major, minor = find_tensorflow.minor_version().split(".")
    assert (
        find_tensorflow.requirement()
        == f"tensorflow>={major}.{minor},<{major}.{int(minor) + 1}"
    )


def test_says_what_to_install(find_tensorflow, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["find_tensorflow.py"])
    monkeypatch.setattr(find_tensorflow, "_candidates", list)
    with pytest.raises(SystemExit) as exit_info:
        find_tensorflow.main()
    assert find_tensorflow.requirement() in str(exit_info.value)


def test_refuses_another_minor_version(find_tensorflow, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["find_tensorflow.py"])
    monkeypatch.setattr(find_tensorflow, "_version", lambda _: "2.99.1")
    with pytest.raises(SystemExit) as exit_info:
        find_tensorflow.main()
    assert "got 2.99.1" in str(exit_info.value)
    assert find_tensorflow.requirement() in str(exit_info.value)
