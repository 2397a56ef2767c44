# SPDX-License-Identifier: Apache-2.0
"""Exact search without a filter in float32, one thread."""

from __future__ import annotations

from typing import Any

from benchmarks import harness, peers, synthetic, truth
from benchmarks.engines import Request
from benchmarks.settings import Settings

PLOTS = ("recall_time",)


def run(settings: Settings) -> dict[str, Any]:
    """Every batch size at k = 100, and other k at the smaller batches."""
    out = harness.Run("exact", "Exact search, no filter, float32", settings)
    items = synthetic.load(settings.rows, settings.dim, settings.cache)
    from benchmarks.engines.lintf_engine import LintfEngine, make_index

    engines = [
        LintfEngine(make_index(items.vectors)),
        *peers.scann(out, items.path, settings.dim, "float32"),
        *peers.faiss(out, lambda faiss: faiss.flat(items.vectors)),
        *peers.numpy(out, items.vectors),
        *peers.tensorflow(out, items.vectors),
        *peers.tfrs(out, items.vectors),
    ]
    for engine in engines:
        engine.labels = {}
    cases = [(1, 100), (32, 100), (128, 100)]
    cases += [(1, 10), (32, 10), (1, 1000), (32, 1000)]
    if settings.quick:
        cases = [(1, 10), (3, 10)]
    for batch, k in cases:
        queries = items.queries[:batch]
        right = truth.exact(items.vectors, queries, k)
        case = {"batch": batch, "k": k}
        out.measure(engines, case, Request(queries, k), right)
    peers.close(engines)
    return out.result()
