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
from lintf.similarity.layers import weight_values
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


class SearchedRows(tf.Module):
    """A copy of rows that change at every step, in an index that is searched.

    Writing all rows at every step would cost more than the training, so the
    copy is brought up to date by `refresh`, every so many steps.
    """

    def __init__(
        self,
        num_rows: int,
        dim: int,
        plan: Plan,
        spec: SimilaritySpec | None = None,
    ):
        """Makes the index; `refresh` fills it.

        Args:
            num_rows: How many.
            dim: Numbers of each.
            plan: How it is searched.
            spec: The similarity; None for the inner product.

        Raises:
            ValueError: The rows or the plan do not fit the similarity.
        """
        super().__init__(name="searched_rows")
        index = Index(IndexSchema(dim, similarity=spec), num_rows)
        index.append(np.arange(num_rows), np.zeros([num_rows, dim], np.float32))
        self._index = index
        self._search = NativeSearch(index, plan, [])

    def refresh(self, rows: Any, weights: Weights | None = None) -> None:
        """Takes the rows, and the similarity's weights, of now.

        Args:
            rows: `[num_rows, dim]` float32 tensor or variable.
            weights: Of the similarity, if there is one.
        """
        index = self._index
        ops.assign_rows(index.resource, index.embeddings, 0, rows)
        if weights:
            index.set_similarity_weights(weight_values(weights))

    def find(
        self, queries: tf.Tensor, excluded: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Finds the best rows.

        Args:
            queries: `[n, query_dim]` float32, finite; no gradient flows
                through them.
            excluded: `[n, m]` integers: rows that each query leaves out, by
                the index's filter. -1 is none.

        Returns:
            `[n, k]` int64, best first, -1 in unused slots.
        """
        filters = tf.fill([tf.shape(queries)[0]], "")
        if excluded is not None:
            rows = tf.strings.reduce_join(
                tf.strings.as_string(excluded), axis=1, separator=","
            )
            filters = tf.strings.join(["not id in [", rows, "]"])
        programs = ops.compile_filter(filters, self._index.schema)
        return self._search(tf.stop_gradient(queries), programs).ids


class TrainableIndex(tf.Module):
    """An index whose rows are trained, with lintf's search inside.

    The rows exist twice: as a variable that an optimiser changes, and as
    `SearchedRows`, which `refresh` brings up to date.

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
        plan = Plan(min(k, count), "masked" if spec is None else "two_stage")
        self._searched = SearchedRows(count, dim, plan, spec)
        self.refresh()

    def refresh(self) -> None:
        """Brings the rows and weights that are searched up to date."""
        self._searched.refresh(self.rows, self.weights)

    def retrieve(
        self, queries: tf.Tensor, excluded: tf.Tensor | None = None
    ) -> Retrieved:
        """Finds the best rows and scores them.

        Args:
            queries: `[n, query_dim]` float32, finite.
            excluded: As `SearchedRows.find` takes it.
        """
        rows = self._searched.find(queries, excluded)
        scores = self.score(queries, tf.maximum(rows, 0))
        unused = tf.fill(tf.shape(scores), -float("inf"))
        return Retrieved(rows, tf.where(rows >= 0, scores, unused))

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
