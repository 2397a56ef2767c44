# SPDX-License-Identifier: Apache-2.0
"""What a run is told: sizes, time to spend, where files go."""

from __future__ import annotations

import dataclasses
import pathlib

FULL_ROWS, FULL_DIM = 1_000_000, 128
QUICK_ROWS, QUICK_DIM = 4_000, 32


@dataclasses.dataclass(frozen=True)
class Settings:
    """One run of one workload.

    Attributes:
        rows: Items.
        dim: Dimensions, a multiple of 32.
        quick: Small cases only, to see that everything works: its times mean
            nothing.
        threads: Threads that every engine may use.
        seconds: Time to spend on the rounds of one case, roughly.
        min_rounds: Rounds a case has, however long they take.
        max_rounds: Rounds a case has at most.
        peers: Peers to measure: "tensorflow", "tfrs", "faiss", "scann",
            "numpy".
        cache: Folder of what is made once: data, ScaNN's environment.
        scann_python: A Python that has ScaNN; "" makes one in `cache`.
        code_bench: The program custom_ops/core/code_knn_bench.cc, or "".
    """

    rows: int = FULL_ROWS
    dim: int = FULL_DIM
    quick: bool = False
    threads: int = 1
    seconds: float = 6.0
    min_rounds: int = 3
    max_rounds: int = 21
    peers: tuple[str, ...] = ("tensorflow", "tfrs", "faiss", "scann", "numpy")
    cache: pathlib.Path = pathlib.Path("build/benchmarks")
    scann_python: str = ""
    code_bench: str = ""

    def wants(self, peer: str) -> bool:
        return peer in self.peers
