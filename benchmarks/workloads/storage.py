# SPDX-License-Identifier: Apache-2.0
"""Compact storage: bfloat16, float16 and int8 against float32."""

from __future__ import annotations

from typing import Any

from benchmarks import harness, peers, synthetic, truth
from benchmarks.engines import Request
from benchmarks.settings import Settings

PLOTS = ("recall_time",)
_DTYPES = ("float32", "bfloat16", "float16", "int8")


def run(settings: Settings) -> dict[str, Any]:
    """Batches of 1 and 32; ratios are to lintf with the same dtype."""
    out = harness.Run("storage", "Compact storage, no filter", settings)
    items = synthetic.load(settings.rows, settings.dim, settings.cache)
    from benchmarks.engines.lintf_engine import LintfEngine, make_index

    engines: list[Any] = [
        LintfEngine(
            make_index(items.vectors, dtype=dtype),
            f"lintf {dtype}",
            labels={"dtype": dtype},
        )
        for dtype in _DTYPES
    ]
    engines += peers.scann(
        out, items.path, settings.dim, "float32", "bfloat16", "int8"
    )
    engines += peers.faiss(
        out,
        lambda faiss: [faiss.scalar(items.vectors, d) for d in _DTYPES[1:]],
    )
    k = 10 if settings.quick else 100
    # A single query says little about what rounding loses: the larger batch's
    # recall is noted for both.
    recalls: dict[str, float] = {}
    to_float32: list[dict[str, Any]] = []
    for batch in (3, 1) if settings.quick else (32, 1):
        queries = items.queries[:batch]
        records = out.measure(
            engines,
            {"batch": batch, "k": k},
            Request(queries, k),
            truth.exact(items.vectors, queries, k),
            recalls=recalls,
        )
        recalls = {r["engine"]: r["recall"] for r in records}
        own = {r["dtype"]: r["cpu_ms"] for r in records if r["is_lintf"]}
        to_float32 += [
            {"batch": batch, "dtype": d, "ratio": own[d] / own["float32"]}
            for d in _DTYPES[1:]
        ]
    out.add("to_float32", to_float32)
    peers.close(engines)
    return out.result()
