# SPDX-License-Identifier: Apache-2.0
"""The C++ fuzz program at length: a million filters, good and bad."""

import pathlib
import shutil
import subprocess

import pytest

CORE = pathlib.Path(__file__).parents[2] / "custom_ops" / "core"
NOT_THE_LIBRARY = ("_test.cc", "_bench.cc")


@pytest.mark.slow
def test_a_million_filters(tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path / "filter_fuzz_test"
    sources = [
        source
        for source in sorted(CORE.glob("filter_*.cc"))
        if not source.name.endswith(NOT_THE_LIBRARY)
    ]
    command = [compiler, "-std=c++17", "-O2", f"-I{CORE.parents[1]}"]
    command += [*sources, CORE / "filter_fuzz_test.cc", "-o", program]
    subprocess.run(command, check=True)
    result = subprocess.run(
        [program, "1000000", "20240131"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-5000:]
    assert "1000000 rounds" in result.stdout
