# SPDX-License-Identifier: Apache-2.0
"""What the machine can do: the limits that results are held against."""

from __future__ import annotations

import dataclasses
import pathlib
import platform
import time

import numpy as np


@dataclasses.dataclass(frozen=True)
class Machine:
    """Measured by one thread, in the same process as the engines.

    Attributes:
        name: Processor model.
        read_bytes_per_s: Reading two large arrays once (BLAS sdot).
        flops_per_s: A large matrix product (BLAS sgemm), two operations a
            multiply-add.
    """

    name: str
    read_bytes_per_s: float
    flops_per_s: float


def probe(repeats: int = 7) -> Machine:
    """Measures the machine; the best of `repeats` tries."""
    rng = np.random.default_rng(0)
    stream = rng.standard_normal(1 << 25, np.float32)
    other = stream[::-1].copy()
    square = rng.standard_normal((2048, 2048), np.float32)
    read = _best(repeats, lambda: stream @ other)
    product = _best(repeats, lambda: square @ square)
    return Machine(
        name=_processor(),
        read_bytes_per_s=2 * stream.nbytes / read,
        flops_per_s=2 * 2048**3 / product,
    )


def _best(repeats: int, call: object) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()  # type: ignore[operator]
        times.append(time.process_time() - start)
    return min(times)


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
