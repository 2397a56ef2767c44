# SPDX-License-Identifier: Apache-2.0
"""What the machine can do: the limits that results are held against.

They are measured in every round, between the engines, because a shared
machine's limits move; a share of a limit is taken within a round.
"""

from __future__ import annotations

import os
import pathlib
import platform
from typing import Any

import numpy as np

from benchmarks.engines import Engine, Request

READ, SGEMM = "(read)", "(sgemm)"


class ReadProbe(Engine):
    """Reads memory once: BLAS `sdot` of two arrays far larger than caches."""

    def __init__(self, size: int):
        """`size`: bytes to read."""
        super().__init__(READ, 0, 0)
        count = size // 8
        self._one = np.ones(count, np.float32)
        self._other = np.ones(count, np.float32)
        self.amount = float(8 * count)

    def prepare(self, request: Request) -> None:
        pass

    def search(self) -> Any:
        return self._one @ self._other


class SgemmProbe(Engine):
    """Multiplies two large matrices: BLAS `sgemm`, by numpy.

    Some percent below what the multiply-add units could do, and what a tuned
    library reaches; a share of it may exceed 1.
    """

    def __init__(self, size: int):
        """`size`: rows and columns."""
        super().__init__(SGEMM, 0, 0)
        self._matrix = np.ones((size, size), np.float32)
        self.amount = 2.0 * size**3

    def prepare(self, request: Request) -> None:
        pass

    def search(self) -> Any:
        return self._matrix @ self._matrix


def probes(quick: bool) -> tuple[ReadProbe, SgemmProbe]:
    if quick:
        return ReadProbe(1 << 20), SgemmProbe(128)
    return ReadProbe(1 << 28), SgemmProbe(1536)


def describe() -> dict[str, Any]:
    """The processor, its vector units and caches, and the system."""
    flags = _cpuinfo("flags").split()
    wanted = ("avx2", "fma", "avx512", "amx", "vnni", "bf16", "fp16")
    return {
        "processor": _cpuinfo("model name")
        or platform.processor()
        or platform.machine(),
        "cores": os.cpu_count(),
        "vector": [f for f in flags if any(w in f for w in wanted)],
        "caches": _caches(),
        "system": platform.platform(),
    }


def _cpuinfo(key: str) -> str:
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


def _caches() -> dict[str, str]:
    folder = pathlib.Path("/sys/devices/system/cpu/cpu0/cache")
    caches = {}
    for index in sorted(folder.glob("index*")):
        try:
            level = (index / "level").read_text().strip()
            kind = (index / "type").read_text().strip()
            size = (index / "size").read_text().strip()
        except OSError:
            continue
        if kind != "Instruction":
            caches[f"L{level}"] = size
    return caches
