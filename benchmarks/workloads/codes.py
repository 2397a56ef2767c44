# SPDX-License-Identifier: Apache-2.0
"""1-bit codes: alone, with a shortlist that is rescored, and very large k.

A bit a dimension for every engine. "symmetric": the query is a code too;
"asymmetric": it stays in float.
"""

from __future__ import annotations

from typing import Any

from benchmarks import harness, peers, synthetic, truth
from benchmarks.engines import Engine, Request
from benchmarks.settings import Settings

PLOTS = ("recall_time",)
SCORINGS = ("symmetric", "asymmetric")


def run(settings: Settings) -> dict[str, Any]:
    """Codes alone, a shortlist of 10 k, other shortlists, the top 5 %."""
    out = harness.Run("codes", "1-bit codes, a bit a dimension", settings)
    items = synthetic.load(settings.rows, settings.dim, settings.cache)
    k = 10 if settings.quick else 100
    batches = (1, 3) if settings.quick else (1, 32)
    factors = (2, 10) if settings.quick else (2, 4, 10, 40)
    makers = {0: _alone(out, items), **_rescored(out, items, k, factors)}
    quality = Request(items.queries[:128], k)
    right_for_all = truth.exact(items.vectors, quality.queries, k)
    for factor, engines in makers.items():
        recalls = out.recalls(engines, quality, right_for_all)
        for batch in batches if factor in (0, 10) else batches[:1]:
            queries = items.queries[:batch]
            out.measure(
                engines,
                {"batch": batch, "k": k, "shortlist": factor * k},
                Request(queries, k),
                truth.exact(items.vectors, queries, k),
                shortlist=factor * k,
                recalls=recalls,
            )
    many = settings.rows // 20
    queries = items.queries[:1]
    out.measure(
        makers[0],
        {"batch": 1, "k": many, "shortlist": 0},
        Request(queries, many),
        truth.exact(items.vectors, queries, many),
    )
    return out.result()


def quantization(dim: int, scoring: str, shortlist: int) -> Any:
    """A bit a dimension where words of 64 allow it, or 64."""
    from lintf.index.schema import Quantization

    bins = dim if dim % 64 == 0 else 16
    return Quantization(
        bins=bins,
        repeats=1 if bins == dim else 4,
        scoring=scoring,
        shortlist=max(1, shortlist),
    )


def _alone(out: harness.Run, items: synthetic.Items) -> list[Engine]:
    from benchmarks.engines.lintf_engine import LintfEngine, make_index

    settings = out.settings
    engines: list[Engine] = []
    small = make_index(
        items.vectors[:64],
        dtype="none",
        quantization=quantization(settings.dim, "asymmetric", 0),
    )
    out.time_call(
        LintfEngine(small, algorithm="quantized"),
        Request(items.queries[:1], 100),
    )
    for scoring in SCORINGS:
        index = make_index(
            items.vectors,
            dtype="none",
            quantization=quantization(settings.dim, scoring, 0),
        )
        labels = {"scoring": scoring}
        engines.append(
            LintfEngine(index, f"lintf {scoring}", "quantized", labels)
        )

    def build(faiss: Any) -> list[Engine]:
        return [
            faiss.FaissBinaryEngine(items.vectors),
            faiss.fast_scan(items.vectors, settings.dim),
            faiss.rabitq(items.vectors),
        ]

    made = peers.faiss(out, build)
    for engine in made:
        symmetric = "Binary" in engine.name
        engine.labels = {"scoring": SCORINGS[0 if symmetric else 1]}
    return engines + made


def _rescored(
    out: harness.Run, items: synthetic.Items, k: int, factors: tuple[int, ...]
) -> dict[int, list[Engine]]:
    """By the shortlist in units of k."""
    from benchmarks.engines.lintf_engine import LintfEngine, make_index

    settings = out.settings
    engines: dict[int, list[Engine]] = {factor: [] for factor in factors}
    for scoring in SCORINGS:
        index = make_index(
            items.vectors, quantization=quantization(settings.dim, scoring, k)
        )
        for factor in factors:
            engines[factor].append(
                LintfEngine(
                    index,
                    f"lintf {scoring} + rescoring",
                    "quantized",
                    {"scoring": scoring},
                    shortlist=factor * k,
                )
            )

    def build(faiss: Any) -> list[Engine]:
        return [
            faiss.FaissBinaryEngine(items.vectors, shortlist=k),
            faiss.fast_scan(items.vectors, settings.dim, shortlist=k),
        ]

    made = peers.faiss(out, build)
    for engine in made:
        symmetric = "Binary" in engine.name
        engine.labels = {"scoring": SCORINGS[0 if symmetric else 1]}
    for factor in factors:
        engines[factor] += [
            engine.with_shortlist(factor * k) for engine in made
        ]
    return engines
