# SPDX-License-Identifier: Apache-2.0
"""What tools/gpu_resources.py reads of the compiler's report."""

from __future__ import annotations

import pathlib
import sys

import pytest

_ROOT = pathlib.Path(__file__).parent.parent.parent

_REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5ReadyPi' for 'sm_80'
ptxas info    : Function properties for _Z5ReadyPi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 32832 bytes smem
ptxas info    : Compile time = 115.973 ms
ptxas info    : Compiling entry function '_Z5ReadyPi' for 'sm_90'
ptxas info    : Function properties for _Z5ReadyPi
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
"""


@pytest.fixture
def gpu_resources(monkeypatch):
    monkeypatch.syspath_prepend(str(_ROOT / "tools"))
    import gpu_resources

    yield gpu_resources
    del sys.modules["gpu_resources"]


def test_reads_each_kernel_and_architecture(gpu_resources):
    kernels = gpu_resources.parse("a.cu.cc", _REPORT)
    assert kernels == [
        gpu_resources.Kernel("a.cu.cc", "_Z5ReadyPi", "80", 40, 0, 0, 32832),
        gpu_resources.Kernel("a.cu.cc", "_Z5ReadyPi", "90", 255, 16, 20, 0),
    ]


def test_writes_a_line_for_each_kernel(gpu_resources):
    text = gpu_resources.table(gpu_resources.parse("a.cu.cc", _REPORT))
    assert text.splitlines()[-1] == (
        "| a.cu.cc | `_Z5ReadyPi` | 40 / 255 | 0 / 20 | 0 / 16 | 32832 / 0 |"
    )


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("void lintf::gpu::(anonymous namespace)::Sum<4>(int*)", "Sum<4>"),
        ("lintf::gpu::(anonymous namespace)::Go(long)", "Go"),
        (
            "void lintf::gpu::(anonymous namespace)::Scan<"
            "(lintf::Metric)1, float>(lintf::gpu::Rows)",
            "Scan<1, float>",
        ),
    ],
)
def test_shortens_names(gpu_resources, name, short):
    assert gpu_resources.short_name(name) == short
