# SPDX-License-Identifier: Apache-2.0
"""An engine in a process of its own, for what cannot live in this one.

ScaNN's wheel and TensorFlow's do not load together, and TensorFlow's number
of threads is fixed for a process. The other process answers one line of JSON
by one line of JSON; arrays travel as .npy files. It measures its own
processor time, so that its calls can be interleaved with other engines'.

    {"do": "prepare", "queries": PATH, "k": 10}  -> {}
    {"do": "measure"}                            -> {"cpu": 0.1, "wall": 0.1}
    {"do": "search", "rows": PATH}               -> {} and a file
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import IO, Any

import numpy as np

from benchmarks.engines import Cost, Engine, Request

_ROOT = pathlib.Path(__file__).resolve().parents[2]


class RemoteError(RuntimeError):
    """The other process could not do what it was told."""


class RemoteEngine(Engine):
    """An engine that `serve` runs in another process."""

    def __init__(
        self,
        name: str,
        row_bytes: float,
        exact_dim: int,
        command: Sequence[str],
        threads: int,
    ):
        """Starts the process and waits until it is ready.

        Args:
            name: What tables call it.
            row_bytes: Bytes a row.
            exact_dim: Multiply-adds a score.
            command: Of a program that ends in `serve`.
            threads: Limits the process's BLAS and OpenMP threads.

        Raises:
            RemoteError: It ended before it was ready; the message is its own.
        """
        super().__init__(name, row_bytes, exact_dim)
        environment = {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "OMP_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
        }
        self._folder = tempfile.TemporaryDirectory(prefix="lintf_bench_")
        # Its messages go to a file: a full pipe would block it.
        self._log = open(f"{self._folder.name}/log", "w+b")
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
        )
        self._read()

    def prepare(self, request: Request) -> None:
        if request.masks is not None:
            raise ValueError(f"{self.name} has no filters")
        path = f"{self._folder.name}/queries.npy"
        np.save(path, request.queries)
        self._ask(do="prepare", queries=path, k=request.k)

    def measure(self) -> Cost:
        answer = self._ask(do="measure")
        return Cost(answer["cpu"], answer["wall"])

    def search(self) -> Any:
        path = f"{self._folder.name}/rows.npy"
        self._ask(do="search", rows=path)
        return np.load(path)

    def close(self) -> None:
        # End of input is what tells `serve` to end.
        if self._process.poll() is None:
            self._process.communicate()
        self._log.close()
        self._folder.cleanup()

    def _ask(self, **message: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `_read` says why.
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            text = self._log.read().decode(errors="replace").strip()
            self.close()
            raise RemoteError(
                f"{self.name} ended with status {self._process.returncode}: "
                + (text.splitlines() or ["no message"])[-1]
            )
        return json.loads(line)


def serve(make: Callable[[], Engine]) -> None:
    """Makes an engine and answers a `RemoteEngine` until its input ends."""
    answers = _claim_output()
    engine = make()
    _reply(answers, {})
    for line in sys.stdin:
        message = json.loads(line)
        if message["do"] == "prepare":
            queries = np.load(message["queries"])
            engine.prepare(Request(queries, message["k"]))
            _reply(answers, {})
        elif message["do"] == "measure":
            cost = engine.measure()
            _reply(answers, {"cpu": cost.cpu, "wall": cost.wall})
        elif message["do"] == "search":
            np.save(message["rows"], engine.rows(engine.search()))
            _reply(answers, {})
        else:
            raise ValueError(f"unknown request {message['do']!r}")


def _claim_output() -> IO[str]:
    """Standard output for answers alone; what libraries print goes to 2."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _reply(answers: IO[str], message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()
