# SPDX-License-Identifier: Apache-2.0
"""Makes peers; those that cannot be had are left out with a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.engines import Engine
from benchmarks.engines.remote import RemoteError
from benchmarks.engines.scann_engine import (
    NoScannError,
    python_with_scann,
    scann_engine,
)
from benchmarks.harness import Run


def make(run: Run, peer: str, build: Callable[[], Any]) -> list[Engine]:
    """What `build` makes, as a list; empty where the peer is absent.

    Args:
        run: Is told what is left out.
        peer: Its name in `Settings.peers`.
        build: Returns an engine or a list of them.
    """
    if not run.settings.wants(peer):
        return []
    try:
        made = build()
    except (ImportError, NoScannError, RemoteError) as error:
        run.skip(peer, str(error))
        return []
    run.say(f"{peer} is ready")
    return made if isinstance(made, list) else [made]


def tensorflow(run: Run, items: np.ndarray) -> list[Engine]:
    def build() -> Engine:
        from benchmarks.engines.tensorflow_engine import TensorFlowEngine

        return TensorFlowEngine(items)

    return make(run, "tensorflow", build)


def tfrs(run: Run, items: np.ndarray) -> list[Engine]:
    def build() -> Engine:
        import tensorflow_recommenders as _  # noqa: F401

        from benchmarks.engines.tensorflow_engine import TfrsEngine

        return TfrsEngine(items)

    return make(run, "tfrs", build)


def numpy(run: Run, items: np.ndarray) -> list[Engine]:
    def build() -> Engine:
        from benchmarks.engines.numpy_engine import NumpyEngine

        return NumpyEngine(items)

    return make(run, "numpy", build)


def faiss(run: Run, build: Callable[[Any], Any]) -> list[Engine]:
    """`build` is given `benchmarks.engines.faiss_engine`."""

    def with_module() -> Any:
        from benchmarks.engines import faiss_engine

        faiss_engine.set_threads(run.settings.threads)
        return build(faiss_engine)

    return make(run, "faiss", with_module)


def scann(run: Run, path: Any, dim: int, *dtypes: str) -> list[Engine]:
    """One for each dtype, on the items of the .npy file at `path`."""
    settings = run.settings

    def build() -> list[Engine]:
        python = python_with_scann(settings.scann_python, settings.cache)
        return [
            scann_engine(path, dim, dtype, python, settings.threads)
            for dtype in dtypes
        ]

    return make(run, "scann", build)


def close(engines: list[Engine]) -> None:
    """Ends other processes."""
    for engine in engines:
        engine.close()
