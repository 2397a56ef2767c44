# SPDX-License-Identifier: Apache-2.0
"""The hardest negatives of each query, found by lintf's own search.

The last stage of arXiv 2402.13435, section 5: training goes on with those
items that score best and are not the positive. The searched items are a copy
that is renewed every so often, since all of them change with every step.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from lintf import ops
from lintf.similarity import scoring
from lintf.similarity.layers import LearnedSimilarity

# Candidates by the averaged component, for each that is wanted.
_CANDIDATES = 4


class HardNegatives(tf.Module):
    """A copy of all items, searched by the towers' similarity."""

    def __init__(
        self,
        num_items: int,
        item_dim: int,
        k: int,
        similarity: LearnedSimilarity | None,
    ):
        """Allocates the copy; `refresh` fills it.

        Args:
          num_items: rows.
          item_dim: numbers of an item vector.
          k: negatives a query.
          similarity: None for the inner product.
        """
        super().__init__(name="hard_negatives")
        self._k = min(k, num_items)
        self._similarity = similarity
        self._items = tf.Variable(
            tf.zeros([num_items, item_dim]), trainable=False, name="items"
        )

    def refresh(self, items: tf.Tensor) -> None:
        """Takes the item vectors of now: `[num_items, item_dim]`."""
        self._items.assign(items)

    def find(self, queries: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
        """Finds the items that score best.

        The inner product is searched exactly. A learned similarity scores
        candidates, which the averaged component selects.

        Args:
          queries: `[B, query_dim]`; no gradient flows through them.
          allowed: `[B, num_items]` bool.

        Returns:
          `[B, k]` int32 rows; -1 where fewer are allowed.
        """
        queries = tf.stop_gradient(queries)
        items = tf.convert_to_tensor(self._items)
        if self._similarity is None:
            found = ops.masked_knn(queries, items, allowed, self._k)
            return tf.cast(found.indices, tf.int32)
        spec = self._similarity.spec
        weights = self._similarity.scoring_weights()
        count = min(_CANDIDATES * self._k, int(items.shape[0]))
        candidates = ops.masked_knn(
            scoring.averaged_queries(spec, weights, queries),
            items,
            allowed,
            count,
        ).indices
        scores = scoring.pair_scores(
            spec, weights, queries, tf.gather(items, tf.maximum(candidates, 0))
        )
        scores = tf.where(candidates >= 0, scores, -float("inf"))
        _, best = tf.math.top_k(scores, self._k)
        rows = tf.gather(candidates, best, batch_dims=1)
        return tf.cast(rows, tf.int32)


class Refresh(tf.keras.callbacks.Callback):
    """Renews the searched items every so many steps."""

    def __init__(self, negatives: HardNegatives, items: Any, steps: int):
        """Sets how often.

        Args:
          negatives: whose copy is renewed.
          items: returns `[num_items, item_dim]`.
          steps: between renewals.
        """
        super().__init__()
        self._negatives = negatives
        self._items = items
        self._steps = steps

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Renews at the first step of an epoch, and so on."""
        if batch % self._steps == 0:
            self._negatives.refresh(self._items())
