# SPDX-License-Identifier: Apache-2.0
"""What the two workloads with filters share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import harness, peers, synthetic, truth
from benchmarks.engines import Engine, Request

# Gathering more than this for every query takes ten times as long as any
# other way, and most of the run.
_LARGEST_GATHER = 0.1


class Engines:
    """lintf and its peers on the synthetic items, with attributes."""

    def __init__(self, out: harness.Run):
        from benchmarks.engines.lintf_engine import (
            LintfEngine,
            attributes_of,
            make_index,
        )

        settings = out.settings
        self._out = out
        self._items = items = synthetic.load(
            settings.rows, settings.dim, settings.cache
        )
        attributes, values = attributes_of(items)
        few = {name: column[:64] for name, column in values.items()}
        small = make_index(items.vectors[:64], attributes, few)
        own = synthetic.clauses(0.1, 1)[0]
        out.time_call(
            LintfEngine(small), Request(items.queries[:1], 100, (own.text,))
        )
        del small
        index = make_index(items.vectors, attributes, values)
        self._engines: list[Engine] = [LintfEngine(index)]

        def selectors(faiss: Any) -> list[Engine]:
            flat = faiss.flat(items.vectors)
            return [
                faiss.FaissSelectorEngine(flat, kind)
                for kind in ("Bitmap", "Array")
            ]

        def gather() -> Engine:
            from benchmarks.engines.numpy_engine import NumpyGatherEngine

            return NumpyGatherEngine(items.vectors)

        ready_made = peers.faiss(out, selectors)
        ready_made += peers.make(out, "numpy", gather)
        self._predicates = [
            harness.WithPredicate(engine, items) for engine in ready_made[-2:]
        ]
        ready_made += peers.tensorflow(out, items.vectors)
        self._engines += ready_made

    def __enter__(self) -> Engines:
        return self

    def __exit__(self, *exception: object) -> None:
        peers.close(self._engines)

    def measure(
        self, batch: int, rate: float, filters: Sequence[synthetic.Clauses]
    ) -> None:
        """One case: `filters` holds one for all queries, or one for each."""
        items = self._items
        k = 10 if self._out.settings.quick else 100
        queries = items.queries[:batch]
        masks = np.stack([f.mask(items) for f in filters])
        texts = [f.text for f in filters]
        if len(texts) == 1:
            texts *= batch
        for engine in self._predicates:
            engine.filter_by(filters)
        engines = [*self._engines, *self._predicates]
        if len(filters) > 1 and rate > _LARGEST_GATHER:
            engines = [e for e in engines if "gather" not in e.name]
        self._out.measure(
            engines,
            {"batch": batch, "k": k, "pass_rate": rate},
            Request(queries, k, tuple(texts), masks),
            truth.exact(items.vectors, queries, k, masks),
            column_bytes=synthetic.Clauses.COLUMN_BYTES,
        )
