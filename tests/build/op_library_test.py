# SPDX-License-Identifier: Apache-2.0
"""The built op library: what it links, exports, and says it was built with."""

from __future__ import annotations

import re
import subprocess

import pytest
import tensorflow as tf

from lintf.ops import library
from lintf.ops._build_info import CUDA, TENSORFLOW_VERSION


def _readelf(*options: str) -> str:
    """Returns what readelf, a part of g++'s binutils, says of the library."""
    path = library.library_path()
    command = ["readelf", "--wide", *options, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return result.stdout


def _dynamic_symbols() -> list[tuple[str, str]]:
    """Returns section index ("UND" where undefined) and name of each symbol."""
    symbols = []
    for line in _readelf("--dyn-syms").splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[0].rstrip(":").isdigit():
            symbols.append((fields[6], fields[7]))
    assert symbols, "readelf listed no dynamic symbol"
    return symbols


def test_needs_no_tensorflow_library():
    # A model server has TensorFlow linked in: a NEEDED entry would load a
    # second one, or fail.
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", _readelf("--dynamic"))
    assert any(name.startswith("libc.so") for name in needed)
    assert [name for name in needed if "tensorflow" in name] == []


def test_takes_no_cuda_symbol_from_others():
    # TensorFlow's GPU build exports stubs of the CUDA runtime of its own
    # version; the library has the runtime that it was compiled for inside.
    undefined = [name for index, name in _dynamic_symbols() if index == "UND"]
    assert any("tensorflow" in name for name in undefined)
    # The runtime's names, and the driver's (which it looks up by itself).
    pattern = re.compile("^(__)?cuda|^cu[A-Z]|^__nv")
    assert [name for name in undefined if pattern.match(name)] == []


def test_has_gpu_code_if_it_says_so():
    # It was loaded above all the same, on machines without a GPU too.
    assert (".nv_fatbin" in _readelf("--sections")) == CUDA


def test_exports_nothing_of_its_own():
    # Two libraries in one process that export the same name share one.
    exported = [name for index, name in _dynamic_symbols() if index != "UND"]
    assert [name for name in exported if "lintf" in name] == []


def test_has_no_undefined_symbol_of_its_own():
    # The link allows undefined symbols, so a source file that was left out
    # shows only here, or when the first call needs it.
    undefined = [name for index, name in _dynamic_symbols() if index == "UND"]
    assert [name for name in undefined if "5lintf" in name] == []


def test_was_built_for_the_running_tensorflow():
    built, running = TENSORFLOW_VERSION, tf.__version__
    assert built.split(".")[:2] == running.split(".")[:2]
    assert isinstance(CUDA, bool)


def test_refuses_another_tensorflow_minor_version(monkeypatch):
    monkeypatch.setattr(tf, "__version__", "2.22.1")
    with pytest.raises(ImportError) as error:
        library.check_tensorflow_version()
    assert TENSORFLOW_VERSION in str(error.value)
    assert "2.22.1" in str(error.value)
    assert "pip install" in str(error.value)
