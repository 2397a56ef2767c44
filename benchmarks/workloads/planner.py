# SPDX-License-Identifier: Apache-2.0
"""What the planner picks, against every fixed algorithm."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from benchmarks import harness, synthetic, truth
from benchmarks.engines import Engine, Request
from benchmarks.settings import Settings

PLOTS = ("planner",)
_EXACT = ("auto", "masked", "prefiltered")
_STORES = {
    "float32": _EXACT,
    "bfloat16": _EXACT,
    "int8": _EXACT,
    "float32 + codes": (*_EXACT, "quantized"),
}


def run(settings: Settings) -> dict[str, Any]:
    """The grid of stores, batches and pass rates, own filters."""
    # Many cells, and most calls are short.
    settings = dataclasses.replace(settings, seconds=settings.seconds / 5)
    out = harness.Run("planner", "auto against fixed algorithms", settings)
    items = synthetic.load(settings.rows, settings.dim, settings.cache)
    k = 10 if settings.quick else 100
    batches = (1, 3) if settings.quick else (1, 8, 32)
    rates = (1.0, 0.5, 0.1, 0.01, 0.001)
    if settings.quick:
        rates = (0.5, 0.01)
    # A check takes longer than a search: once for all stores.
    cases = [
        _Case(items, batch, rate, k) for batch in batches for rate in rates
    ]
    cells = []
    for store, algorithms in _STORES.items():
        engines = _engines(settings, items, store, algorithms, 10 * k)
        for case in cases:
            records = out.measure(
                engines,
                {"store": store, **case.labels},
                case.request,
                case.right,
                shortlist=10 * k,
                column_bytes=synthetic.Clauses.COLUMN_BYTES,
            )
            cells.append(_cell(records))
    ratios = [cell["auto_to_best"] for cell in cells]
    out.add("cells", cells)
    out.add(
        "auto_to_best",
        {
            "geometric_mean": math.exp(float(np.mean(np.log(ratios)))),
            "worst": max(ratios),
            "cells": len(cells),
        },
    )
    return out.result()


class _Case:
    """A batch whose queries have filters of their own, and the truth."""

    def __init__(self, items: synthetic.Items, batch: int, rate: float, k: int):
        filters = synthetic.clauses(rate, batch)
        masks = np.stack([f.mask(items) for f in filters])
        queries = items.queries[:batch]
        texts = tuple(f.text for f in filters)
        self.labels = {"batch": batch, "k": k, "pass_rate": rate}
        self.request = Request(queries, k, texts, masks)
        self.right = truth.exact(items.vectors, queries, k, masks)


def _engines(
    settings: Settings,
    items: synthetic.Items,
    store: str,
    algorithms: tuple[str, ...],
    shortlist: int,
) -> list[Engine]:
    from benchmarks.engines.lintf_engine import (
        LintfEngine,
        attributes_of,
        make_index,
        planner_costs,
    )
    from benchmarks.workloads import codes

    options: dict[str, Any] = {"dtype": store.split()[0]}
    if "codes" in store:
        dim = items.vectors.shape[1]
        options["quantization"] = codes.quantization(
            dim, "asymmetric", shortlist
        )
    index = make_index(items.vectors, *attributes_of(items), **options)
    # Calibrated as by the export job, which takes some seconds.
    costs = () if settings.quick else planner_costs(index)
    return [LintfEngine(index, a, algorithm=a, costs=costs) for a in algorithms]


def _cell(records: list[dict[str, Any]]) -> dict[str, Any]:
    fixed = [r for r in records if r["engine"] != "auto"]
    best = min(fixed, key=lambda r: r["ratio_to_lintf"])
    case = {key: records[0][key] for key in ("store", "batch", "pass_rate")}
    # `auto` is what ratios are to: 0.5 means that the other took half.
    return {
        **case,
        "best": best["engine"],
        "auto_to_best": 1 / best["ratio_to_lintf"],
    }
