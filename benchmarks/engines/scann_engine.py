# SPDX-License-Identifier: Apache-2.0
"""ScaNN's brute force, in a Python environment of its own.

ScaNN's wheel is built against another TensorFlow than lintf's, and only its
pybind interface is used, which needs none. As a program this file is the other
process of the engine:

    python -m benchmarks.engines.scann_engine ITEMS.npy DTYPE THREADS
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks.engines import Engine, Request, remote

_REQUIREMENT = "scann==1.4.2"
_SIZES = {"float32": 4, "bfloat16": 2, "int8": 1}


class NoScannError(RuntimeError):
    """ScaNN's environment could not be made."""


def python_with_scann(python: str, cache: pathlib.Path) -> str:
    """A Python that has ScaNN.

    Args:
        python: That one, if it is not empty.
        cache: Otherwise a virtual environment is made here once.

    Raises:
        NoScannError: It could not be made; the message says why.
    """
    if python:
        return python
    venv = cache.resolve() / "scann_venv"
    path = venv / "bin" / "python"
    done = venv / "complete"
    if not done.exists():
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(venv)],
            [str(path), "-m", "pip", "-q", "install", _REQUIREMENT],
        ):
            made = subprocess.run(command, capture_output=True, text=True)
            if made.returncode:
                lines = (made.stderr or made.stdout).strip().splitlines()
                reason = lines[-1] if lines else "no message"
                raise NoScannError(
                    f"`{_REQUIREMENT}` could not be installed into {venv}: "
                    f"{reason}"
                )
        done.touch()
    return str(path)


def scann_engine(
    items: pathlib.Path, dim: int, dtype: str, python: str, threads: int
) -> remote.RemoteEngine:
    """Starts ScaNN on the items of a .npy file.

    Args:
        items: `[rows, dim]` float32.
        dim: Dimensions.
        dtype: "float32", "bfloat16" or "int8".
        python: A Python that has ScaNN.
        threads: More than 1: batches are searched in parallel.
    """
    command = [python, "-m", "benchmarks.engines.scann_engine"]
    command += [str(items), dtype, str(threads)]
    name = "ScaNN brute force" + f" {dtype}" * (dtype != "float32")
    engine = remote.RemoteEngine(
        name, float(_SIZES[dtype] * dim), dim, command, threads
    )
    engine.labels = {"dtype": dtype}
    return engine


class ScannEngine(Engine):
    """The engine inside the other process."""

    def __init__(self, items: np.ndarray, dtype: str, threads: int):
        dim = items.shape[1]
        super().__init__("ScaNN", float(_SIZES[dtype] * dim), dim)
        from scann.scann_ops.py import scann_builder, scann_ops_pybind

        self._threads = threads
        # The number of results is given by each search.
        builder = scann_ops_pybind.builder(items, 10, "dot_product")
        kinds = {
            "bfloat16": scann_builder.ReorderType.BFLOAT16,
            "int8": scann_builder.ReorderType.INT8,
        }
        if dtype in kinds:
            builder = builder.score_brute_force(quantize=kinds[dtype])
        else:
            builder = builder.score_brute_force()
        self._searcher = builder.build()
        if threads > 1:
            self._searcher.set_num_threads(threads)

    def prepare(self, request: Request) -> None:
        self._request = request

    def search(self) -> Any:
        searcher, k = self._searcher, self._request.k
        if self._threads == 1 or self._request.batch == 1:
            return searcher.search_batched(
                self._request.queries, final_num_neighbors=k
            )[0]
        # Each thread takes one slice of the queries.
        size = -(-self._request.batch // self._threads)
        return searcher.search_batched_parallel(
            self._request.queries, final_num_neighbors=k, batch_size=size
        )[0]

    def rows(self, answer: Any) -> np.ndarray:
        return np.asarray(answer).astype(np.int64)


if __name__ == "__main__":
    path, dtype, threads = sys.argv[1:]
    remote.serve(
        lambda: ScannEngine(np.load(path, mmap_mode="r"), dtype, int(threads))
    )
