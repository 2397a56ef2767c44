# SPDX-License-Identifier: Apache-2.0
"""Predicates of two clauses alone: which rows pass, for 32 queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import harness, peers, synthetic
from benchmarks.engines import Engine, Request, Work
from benchmarks.settings import Settings

PLOTS = ()
_VALUES = 8


def run(settings: Settings) -> dict[str, Any]:
    """`region == R and category in [8 values]`, different for each query."""
    out = harness.Run(
        "predicate", "Predicates of two clauses alone, own for each", settings
    )
    items = synthetic.load(settings.rows, settings.dim, settings.cache)
    for batch in (3,) if settings.quick else (1, 32):
        rng = np.random.default_rng(3)
        regions = rng.integers(0, len(synthetic.REGIONS), batch)
        sets = np.stack(
            [
                rng.choice(len(synthetic.CATEGORIES), _VALUES, replace=False)
                for _ in range(batch)
            ]
        )
        right = _by_numpy(items, regions, sets)
        engines: list[Engine] = [_lintf(items, regions, sets)]
        engines += peers.make(
            out,
            "tensorflow",
            lambda r=regions, s=sets: _tensorflow(items, r, s),
        )
        engines += peers.make(
            out,
            "numpy",
            lambda r=regions, s=sets: harness.Masks(
                "numpy, a table a query", lambda: _by_numpy(items, r, s)
            ),
        )
        for engine in engines:
            masks = _masks(engine.search(), settings.rows)
            if not np.array_equal(masks, right):
                raise AssertionError(f"{engine.name} gives other masks")
        work = Work(rows=0, scores=0, column_bytes=2 * settings.rows)
        recalls = {engine.name: 1.0 for engine in engines}
        for engine in engines:
            engine.prepare(Request(items.queries[:batch], 1))
        out.time(engines, {"batch": batch}, work, recalls)
    return out.result()


def _by_numpy(
    items: synthetic.Items, regions: np.ndarray, sets: np.ndarray
) -> np.ndarray:
    masks = []
    for region, values in zip(regions, sets, strict=True):
        wanted = np.zeros(256, bool)
        wanted[values] = True
        masks.append(wanted[items.category] & (items.region == region))
    return np.stack(masks)


def _masks(answer: Any, rows: int) -> np.ndarray:
    """`[batch, rows]` bool of any engine's answer."""
    answer = np.asarray(answer)
    if answer.dtype == np.uint64:
        bits = np.unpackbits(answer.view(np.uint8), axis=1, bitorder="little")
        return bits[:, :rows].astype(bool)
    return answer


def _lintf(
    items: synthetic.Items, regions: np.ndarray, sets: np.ndarray
) -> Engine:
    """`Lintf>FilterMask`, compilation of the texts included."""
    from benchmarks.engines.lintf_engine import attributes_of, make_index
    from lintf import ops

    # The vectors are not read: one dimension will do.
    vectors = np.ones((len(items.vectors), 1), np.float32)
    index = make_index(vectors, *attributes_of(items))
    texts = tf.constant(
        [
            f'region == "{synthetic.REGIONS[region]}" and category in ['
            + ", ".join(f'"{synthetic.CATEGORIES[v]}"' for v in values)
            + "]"
            for region, values in zip(regions, sets, strict=True)
        ]
    )

    @tf.function
    def evaluate(texts: tf.Tensor) -> tf.Tensor:
        return ops.filter_mask(
            ops.compile_filter(texts, index.schema),
            index.resource,
            index.ids,
            index.num_rows,
            index.columns,
        ).bits

    return harness.Masks("lintf", lambda: evaluate(texts), is_lintf=True)


def _tensorflow(
    items: synthetic.Items, regions: np.ndarray, sets: np.ndarray
) -> list[Engine]:
    """Stock operations: all values at once, value by value, and a table."""
    category = tf.constant(items.category)
    region = tf.constant(items.region)
    own_region = tf.constant(regions.astype(np.uint8)[:, np.newaxis])
    own_sets = tf.constant(sets.astype(np.uint8))
    tables = np.zeros((len(sets), len(synthetic.CATEGORIES)), bool)
    np.put_along_axis(tables, sets, True, axis=1)
    own_tables = tf.constant(tables)
    positions = tf.constant(items.category.astype(np.int32))

    @tf.function
    def broadcast() -> tf.Tensor:
        inside = tf.reduce_any(
            category[tf.newaxis, :, tf.newaxis] == own_sets[:, tf.newaxis],
            axis=2,
        )
        return inside & (region[tf.newaxis] == own_region)

    @tf.function
    def by_value() -> tf.Tensor:
        inside = category[tf.newaxis] == own_sets[:, 0:1]
        for i in range(1, _VALUES):
            inside |= category[tf.newaxis] == own_sets[:, i : i + 1]
        return inside & (region[tf.newaxis] == own_region)

    @tf.function
    def by_table() -> tf.Tensor:
        inside = tf.gather(own_tables, positions, axis=1)
        return inside & (region[tf.newaxis] == own_region)

    return [
        harness.Masks("TF, broadcast", broadcast),
        harness.Masks("TF, value by value", by_value),
        harness.Masks("TF, gather from a table", by_table),
    ]
