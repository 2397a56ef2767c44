# SPDX-License-Identifier: Apache-2.0
"""Retrieval that gradients flow through: the index as a part of training.

LiNR's index is a model, and building it a form of training (section 1 of arXiv
2407.13218). Which rows an index retrieves has no gradient; their scores have
one, to the queries, to those rows and to the similarity's weights. The paper
does not say how rows and scores meet; here lintf's search finds the rows in a
copy of them, and their scores are computed again from the trained variables.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from lintf import ops
from lintf.index.index import Index
from lintf.index.plan import Plan
from lintf.index.schema import IndexSchema
from lintf.index.search import NativeSearch
from lintf.similarity import scoring
from lintf.similarity.scoring import Weights
from lintf.similarity.spec import SimilaritySpec


class Retrieved(NamedTuple):
    """What an index retrieves for a batch of queries.

    Attributes:
        rows: `[n, k]` int64, -1 in unused slots.
        scores: `[n, k]` float32 with gradients, -inf in unused slots. Best
            first by the rows that are searched, which may be older.
    """

    rows: tf.Tensor
    scores: tf.Tensor


class TrainableIndex(tf.Module):
    """An index whose rows are trained, with lintf's search inside.

    The rows exist twice: as a variable that an optimiser changes, and in the
    index that is searched, which `refresh` brings up to date: every step of an
    optimiser changes all rows a little, and writing them all at every step
    would cost more than the training.

    Attributes:
        rows: `[num_rows, dim]` float32 variable.
        spec: The similarity; None for the inner product.
        weights: Its weights: variables by the names of `spec.weight_shapes()`.
    """

    def __init__(
        self,
        rows: Any,
        k: int,
        spec: SimilaritySpec | None = None,
        weights: Weights | None = None,
    ):
        """Makes the index.

        Args:
            rows: `[num_rows, dim]` what the rows start as.
            k: Rows to retrieve for a query.
            spec: The similarity; None for the inner product.
            weights: Goes with `spec`.

        Raises:
            ValueError: The rows do not fit the similarity.
        """
        super().__init__(name="trainable_index")
        self.rows = tf.Variable(tf.cast(rows, tf.float32), name="rows")
        self.spec = spec
        self.weights: Weights = weights or {}
        count, dim = self.rows.shape
        self._index = Index(IndexSchema(dim, similarity=spec), count)
        self._index.append(np.arange(count), self.rows.numpy())
        k = min(k, count)
        plan = Plan(k, "masked" if spec is None else "two_stage")
        self._search = NativeSearch(self._index, plan, [])
        self.refresh()

    def refresh(self) -> None:
        """Brings the rows and weights that are searched up to date."""
        index = self._index
        ops.assign_rows(index.resource, index.embeddings, 0, self.rows)
        if self.spec is not None:
            index.set_similarity_weights(
                {
                    name: tf.convert_to_tensor(weight).numpy()
                    for name, weight in self.weights.items()
                }
            )

    def retrieve(self, queries: tf.Tensor) -> Retrieved:
        """Finds the best rows and scores them.

        Args:
            queries: `[n, query_dim]` float32, finite.
        """
        found = self._search(
            tf.stop_gradient(queries), self._no_filter(tf.shape(queries)[0])
        )
        scores = self.score(queries, tf.maximum(found.ids, 0))
        unused = tf.fill(tf.shape(scores), -float("inf"))
        return Retrieved(found.ids, tf.where(found.ids >= 0, scores, unused))

    def score(self, queries: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Scores rows of each query's own, with gradients.

        Args:
            queries: `[n, query_dim]` float32.
            rows: `[n, m]` integers.

        Returns:
            `[n, m]` float32.
        """
        items = tf.gather(tf.convert_to_tensor(self.rows), rows)
        if self.spec is None:
            return tf.einsum("nd,nmd->nm", queries, items)
        return scoring.pair_scores(self.spec, self.weights, queries, items)

    def _no_filter(self, count: tf.Tensor) -> tf.Tensor:
        return ops.compile_filter(tf.fill([count], ""), self._index.schema)
