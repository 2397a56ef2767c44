# SPDX-License-Identifier: Apache-2.0
"""Two threads, by the clock on the wall: float32, no filter."""

from __future__ import annotations

from typing import Any

from benchmarks import harness, peers, synthetic, truth
from benchmarks.engines import Request
from benchmarks.settings import Settings

PLOTS = ()


def run(settings: Settings) -> dict[str, Any]:
    """Batches of 1, 32 and 128; lintf with one thread beside them."""
    out = harness.Run(
        "threads", "Two threads, wall time, no filter", settings, "wall"
    )
    items = synthetic.load(settings.rows, settings.dim, settings.cache)
    from benchmarks.engines.lintf_engine import (
        LintfEngine,
        make_index,
        remote_engine,
    )

    engines = [
        LintfEngine(make_index(items.vectors)),
        remote_engine(items.path, settings.dim, "lintf, one thread", 1),
        *peers.scann(out, items.path, settings.dim, "float32"),
        *peers.faiss(out, lambda faiss: faiss.flat(items.vectors)),
        *peers.tensorflow(out, items.vectors),
    ]
    for engine in engines:
        engine.labels = {}
    k = 10 if settings.quick else 100
    for batch in (1, 3) if settings.quick else (1, 32, 128):
        queries = items.queries[:batch]
        right = truth.exact(items.vectors, queries, k)
        case = {"batch": batch, "k": k}
        out.measure(engines, case, Request(queries, k), right)
    peers.close(engines)
    return out.result()
