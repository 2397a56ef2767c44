# SPDX-License-Identifier: Apache-2.0
"""The checks and the table of a GPU machine, run on the emulator.

They need its library, which the C++ tests' build makes: `make core-test`.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

from benchmarks.gpu.card import HostCard
from benchmarks.gpu.cases import CASES, Bench
from benchmarks.gpu.run import measure
from tests.gpu import build, checks, compare
from tests.gpu import library as lib

_PATH = pathlib.Path(
    os.environ.get("LINTF_GPU_LIBRARY")
    or build.ROOT / "build" / "core" / "liblintf_gpu_c_api.so"
)

pytestmark = pytest.mark.skipif(
    not _PATH.exists(), reason=f"`make core-test` makes {_PATH.name}"
)


@pytest.fixture(scope="module")
def library():
    return lib.Library(_PATH, lib.HostDevice())


@pytest.mark.parametrize(
    "check", checks.CHECKS, ids=lambda check: check.__name__
)
def test_check(library, check):
    check(checks.Setting(library, large=False))


def test_checks_tell_what_failed(library, capsys):
    def check_nothing(_):
        raise AssertionError("so it is")

    setting = checks.Setting(library, large=False)
    outcomes = checks.run_checks(setting, (check_nothing,))
    assert outcomes[0].name == "nothing"
    assert "so it is" in outcomes[0].error
    assert "nothing: FAILED" in capsys.readouterr().out


@pytest.mark.parametrize("case", CASES)
def test_case(library, case, tmp_path):
    bench = Bench(HostCard(), library, scale=0.0001)
    rows, card = measure(bench, tmp_path, [case], float("inf"))
    assert rows
    assert [row.error for row in rows if row.error] == []
    assert card["name"] == "emulator"
    assert (tmp_path / "gpu.md").exists()


def test_no_case_starts_after_the_deadline(library, tmp_path):
    bench = Bench(HostCard(), library, scale=0.0001)
    rows, _ = measure(bench, tmp_path, ["scans"], float("-inf"))
    assert [row.error for row in rows] == ["no time was left"]


def test_errors_become_exceptions(library):
    queries = np.zeros([1, 100], np.float32)
    with pytest.raises(lib.LibraryError, match="bins"):
        library.project(queries, bins=200, repeats=1, seed=0)


def test_workspace_grows(library):
    small = lib.Library(_PATH, lib.HostDevice(), workspace_bytes=256)
    random = np.random.default_rng(0)
    items = random.standard_normal([500, 16]).astype(np.float32)
    search = lib.Search(items[:4], 500, 20, items=items)
    got = small.search(search)
    assert small.workspace_bytes > 256
    compare.same_results("grown", got, library.search(search))
