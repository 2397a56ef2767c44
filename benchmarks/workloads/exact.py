# SPDX-License-Identifier: Apache-2.0
"""Exact search without a filter, one thread, against what people use."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import machine, synthetic, timing


def run(
    rows: int, dim: int, k: int, batches: list[int], rounds: int
) -> dict[str, Any]:
    """Times every engine at every batch size.

    Returns:
        The machine, the parameters and one record an engine and batch:
        median CPU milliseconds, the ratio to lintf (median over rounds), the
        share of the read bandwidth and of the multiply-add rate reached, and
        the recall against float64 scores.
    """
    from benchmarks.engines.faiss_engine import FaissEngine
    from benchmarks.engines.lintf_engine import LintfEngine
    from benchmarks.engines.tensorflow_engine import (
        TensorFlowEngine,
        TfrsEngine,
    )

    limits = machine.probe()
    items, queries = synthetic.embeddings(rows, dim, max(batches))
    engines = [
        LintfEngine(items),
        FaissEngine(items),
        TensorFlowEngine(items),
        TfrsEngine(items),
    ]
    records = []
    for batch in batches:
        for engine in engines:
            engine.prepare(queries[:batch], k)
        truth = _truth(items, queries[:batch], k)
        times = timing.measure({e.name: e.search for e in engines}, rounds)
        for engine in engines:
            time = times[engine.name]
            records.append(
                {
                    "engine": engine.name,
                    "batch": batch,
                    "cpu_ms": 1e3 * time.median,
                    "ratio_to_lintf": time.ratio_to(times[engines[0].name]),
                    "read_share": items.nbytes
                    / time.median
                    / limits.read_bytes_per_s,
                    "flop_share": 2.0
                    * rows
                    * dim
                    * batch
                    / time.median
                    / limits.flops_per_s,
                    "recall": _recall(engine.search(), truth),
                }
            )
    return {
        "workload": "exact",
        "machine": limits.__dict__,
        "rows": rows,
        "dim": dim,
        "k": k,
        "rounds": rounds,
        "records": records,
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    limits = result["machine"]
    lines = [
        f"Exact search, {result['rows']:,} x {result['dim']} float32, "
        f"k = {result['k']}, one thread, median of {result['rounds']} "
        "interleaved rounds.",
        f"{limits['name']}: reads {limits['read_bytes_per_s'] / 1e9:.1f} GB/s,"
        f" sgemm {limits['flops_per_s'] / 1e9:.0f} GFLOP/s.",
        "",
        "| engine | batch | CPU ms | x lintf | % of read | % of sgemm "
        "| recall |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in result["records"]:
        lines.append(
            f"| {r['engine']} | {r['batch']} | {r['cpu_ms']:.1f} "
            f"| {r['ratio_to_lintf']:.2f} | {100 * r['read_share']:.0f} "
            f"| {100 * r['flop_share']:.0f} | {r['recall']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def _truth(items: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    best = []
    for query in queries.astype(np.float64):
        scores = np.concatenate(
            [
                items[i : i + 65536].astype(np.float64) @ query
                for i in range(0, len(items), 65536)
            ]
        )
        best.append(np.argpartition(-scores, k - 1)[:k])
    return np.array(best)


def _recall(found: np.ndarray, truth: np.ndarray) -> float:
    hits = [
        len(set(f) & set(t))
        for f, t in zip(found.tolist(), truth.tolist(), strict=True)
    ]
    return sum(hits) / truth.size
