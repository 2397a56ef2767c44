# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard shows of a training, without TensorBoard installed.

`tf.summary.scalar` and `tf.summary.histogram` are parts of TensorBoard, which
TensorFlow does not depend on any more. Called where a summary writer is the
default.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from lintf.similarity.layers import MixtureOfLogits
from lintf.towers.learned import (
    LearnedItemTower,
    LearnedQueryTower,
    TrainedTowers,
)

# Queries that the usage of gate and clusters is measured with.
_MOST_QUERIES = 128


def scalar(tag: str, value: float | tf.Tensor) -> None:
    """Writes a scalar."""
    tf.summary.write(
        tag, tf.cast(value, tf.float32), metadata=_metadata("scalars")
    )


def histogram(tag: str, values: np.ndarray, buckets: int = 30) -> None:
    """Writes how values are distributed.

    Args:
      tag: its name.
      values: `[n]` numbers.
      buckets: of equal width, from the least to the largest value.
    """
    counts, edges = np.histogram(values, bins=buckets)
    rows = np.stack([edges[:-1], edges[1:], counts], axis=1)
    tf.summary.write(
        tag, tf.constant(rows, tf.float64), metadata=_metadata("histograms")
    )


def similarity(
    towers: TrainedTowers,
    features: Mapping[str, tf.Tensor],
    catalogue: Mapping[str, tf.Tensor],
) -> None:
    """Writes how a learned similarity uses its components and clusters.

    `gate/query_P_item_R` is the mean weight of a pair of components;
    `clusters/*_used` the number of clusters that have a query or an item, and
    `clusters/*` the distribution of the clusters' shares.

    Args:
      towers: nothing is written for the inner product.
      features: of some queries.
      catalogue: of all items.
    """
    features = {n: c[:_MOST_QUERIES] for n, c in features.items()}
    if isinstance(towers.similarity, MixtureOfLogits):
        queries = towers.query(features, training=False)
        items = towers.item(catalogue, training=False)
        usage = towers.similarity.gate_usage(queries, items).numpy()
        count = towers.similarity.spec.item_components
        for pair, share in enumerate(usage):
            p, r = divmod(pair, count)
            scalar(f"gate/query_{p}_item_{r}", float(share))
    if towers.clusters is None:
        return
    assert isinstance(towers.query, LearnedQueryTower)
    assert isinstance(towers.item, LearnedItemTower)
    for side, vectors in (
        ("queries", towers.query.base_vector(features)),
        ("items", towers.item.base_vector(catalogue)),
    ):
        shares = towers.clusters.occupancy(vectors).numpy()
        scalar(f"clusters/{side}_used", float((shares > 0).sum()))
        histogram(f"clusters/{side}", shares)


def _metadata(plugin: str) -> tf.compat.v1.SummaryMetadata:
    return tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": plugin})
