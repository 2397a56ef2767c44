# SPDX-License-Identifier: Apache-2.0
"""Retrieval that training differentiates through.

Sections 1 and 3.1 of arXiv 2407.13218: building an index is a form of training
a model, whose parameters the items' rows are. What rows are retrieved has no
gradient: lintf's search finds them. Their scores have one, since
`lintf.similarity.scoring` computes them again from the query vectors, the
retrieved rows and the similarity's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from lintf import ops
from lintf.index.schema import IndexSchema
from lintf.similarity import scoring
from lintf.similarity.spec import SimilaritySpec

# Far below any score, but finite: minus infinity has no gradient.
_LEFT_OUT = -1e9


class RetrievedRows(NamedTuple):
    """The best rows of each query, best first.

    Attributes:
        rows: `[batch, k]` int64; -1 in unused slots.
        scores: `[batch, k]` float32, differentiable in query vectors, rows
            and weights; -inf in unused slots.
    """

    rows: tf.Tensor
    scores: tf.Tensor


class TrainedRows(tf.Module):
    """Item vectors as one variable, searched in place by lintf's operations.

    What it retrieves is what an index with these rows would: the search reads
    the variable as it is at that step.

    Attributes:
        items: `[n, item_dim]` float32 variable.
        spec: The similarity; None for the inner product.
        weights: Its weights by name; none for the inner product.

    >>> rows = TrainedRows(tf.Variable([[1.0, 0.0], [0.0, 1.0]]))
    >>> rows.retrieve([[1.0, 3.0]], k=1).scores.numpy().tolist()
    [[3.0]]
    """

    def __init__(
        self,
        items: tf.Variable,
        spec: SimilaritySpec | None = None,
        weights: Mapping[str, Any] | None = None,
    ):
        """Takes the variables, which stay the caller's.

        Args:
            items: `[n, item_dim]` float32. Once trained it should be copied
                into an index, and not be one's own variable: TensorFlow reads
                a variable that was gathered from more slowly.
            spec: The similarity; None for the inner product.
            weights: Variables by the names of `spec.weight_shapes()`.

        Raises:
            ValueError: The items' length or the weights' names are not those
                of the spec.
        """
        super().__init__(name="trained_rows")
        self.items = items
        self.spec = spec
        self.weights = dict(weights or {})
        count, dim = items.shape
        wanted = set() if spec is None else set(spec.weight_shapes())
        if set(self.weights) != wanted:
            raise ValueError(
                f"the similarity's weights must be {sorted(wanted)}, got "
                f"{sorted(self.weights)}"
            )
        if spec is not None and dim != spec.item_dim:
            raise ValueError(
                f"`items` must be [n, {spec.item_dim}] for this similarity, "
                f"got {list(items.shape)}"
            )
        self._resource = ops.IndexResource()
        self._ids = tf.Variable(tf.range(count, dtype=tf.int64), False)
        self._num_rows = tf.Variable(count, False, dtype=tf.int64)
        schema = IndexSchema(dim=int(dim), similarity=spec)
        self._program = ops.compile_filter([""], schema)

    def retrieve(self, queries: Any, k: int) -> RetrievedRows:
        """Finds the k best rows of each query, exactly, and scores them.

        Args:
            queries: `[batch, query_dim]` float32, finite.
            k: Results a query.
        """
        queries = tf.convert_to_tensor(queries, tf.float32)
        rows = self._search(queries, k)
        scores = self.score(queries, tf.maximum(rows, 0))
        return RetrievedRows(rows, tf.where(rows >= 0, scores, -float("inf")))

    def score(self, queries: Any, rows: Any) -> tf.Tensor:
        """Scores queries with given rows, with gradients.

        Args:
            queries: `[batch, query_dim]` float32.
            rows: `[batch, m]` integers.

        Returns:
            `[batch, m]` float32.
        """
        items = tf.gather(self.items, rows)
        if self.spec is None:
            return tf.einsum("nd,nmd->nm", queries, items)
        return scoring.pair_scores(self.spec, self.weights, queries, items)

    def _search(self, queries: tf.Tensor, k: int) -> tf.Tensor:
        queries = tf.stop_gradient(queries)
        programs = tf.tile(self._program, [tf.shape(queries)[0], 1])
        index: tuple[Any, ...] = (
            *(self._resource, self._ids, self.items, self._num_rows),
            [],
        )
        if self.spec is None:
            return ops.retrieve(queries, programs, *index, k=k).rows
        weights = [
            tf.stop_gradient(tf.convert_to_tensor(self.weights[name]))
            for name in self.spec.weight_shapes()
        ]
        return ops.retrieve_similar(
            queries,
            programs,
            *index,
            spec=self.spec,
            weights=weights,
            k=k,
            algorithm="exact",
        ).rows


# Features of the query tower; `[batch, m]` rows that are left out, -1 for
# none; `[batch]` rows that should have been retrieved.
Batch = tuple[Mapping[str, tf.Tensor], tf.Tensor, tf.Tensor]


def fine_tune(
    query_tower: Callable[..., tf.Tensor],
    query_variables: Sequence[Any],
    rows: TrainedRows,
    batches: Callable[[int], Iterable[Batch]],
    *,
    epochs: int = 1,
    learning_rate: float = 1e-4,
    k: int = 128,
) -> list[float]:
    """Trains query tower, rows and similarity through what is retrieved.

    Each step retrieves k rows a query and takes the softmax cross-entropy of
    the row that should have come among these: what is retrieved wrongly moves
    away, what should have been comes near. It is for a last stage, after a
    training that saw all items: rows that nobody retrieves stay where they
    are. Afterwards a row is more than what the item tower makes of the item's
    features; updating the item sets it back to that.

    Adam in its lazy form: a row's moments change in the steps that retrieve
    it. Deterministic, given the batches.

    Args:
        query_tower: Maps a dict of features to `[batch, query_dim]`.
        query_variables: What of it is trained.
        rows: The items, and the similarity; both are trained.
        batches: Gives the batches of an epoch, 0 being the first.
        epochs: Passes over them.
        learning_rate: Adam's.
        k: Rows that are retrieved for each query.

    Returns:
        The mean loss of each epoch.

    Raises:
        ValueError: A setting is out of range.
    """
    if epochs < 1 or k < 1 or not learning_rate > 0:
        raise ValueError(
            "`epochs`, `k` and `learning_rate` must be positive, got "
            f"{epochs}, {k} and {learning_rate}"
        )
    variables = [
        *(_variable(v) for v in query_variables),
        rows.items,
        *(_variable(rows.weights[name]) for name in rows.weights),
    ]
    optimizer = _Adam(variables, learning_rate)

    @tf.function(autograph=False, reduce_retracing=True)
    def step(
        features: Mapping[str, tf.Tensor],
        left_out: tf.Tensor,
        positive: tf.Tensor,
    ) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            loss = _loss(rows, query_tower(features), left_out, positive, k)
        optimizer.apply(tape.gradient(loss, variables))
        return loss

    means = []
    for epoch in range(epochs):
        losses = [float(step(*batch)) for batch in batches(epoch)]
        means.append(float(np.mean(losses)))
        print(f"Fine-tuning: epoch {epoch + 1}, loss {means[-1]:.4f}")
    return means


def _loss(
    rows: TrainedRows,
    queries: tf.Tensor,
    left_out: tf.Tensor,
    positive: tf.Tensor,
    k: int,
) -> tf.Tensor:
    """The softmax of the positives among what is retrieved."""
    positive = tf.cast(positive, tf.int64)[:, tf.newaxis]
    left_out = tf.cast(left_out, tf.int64)
    found = rows.retrieve(queries, k)
    excluded = tf.concat([positive, left_out, -tf.ones_like(positive)], axis=1)
    is_excluded = tf.reduce_any(
        found.rows[:, :, tf.newaxis] == excluded[:, tf.newaxis], axis=2
    )
    others = tf.where(is_excluded, _LEFT_OUT, found.scores)
    own = rows.score(queries, positive)
    everything = tf.concat([own, others], axis=1)
    return tf.reduce_mean(tf.reduce_logsumexp(everything, axis=1) - own[:, 0])


def _variable(weight: Any) -> Any:
    """The TensorFlow variable inside a variable of Keras 3."""
    return getattr(weight, "value", weight) if _is_keras_3(weight) else weight


def _is_keras_3(weight: Any) -> bool:
    return not isinstance(weight, tf.Variable) and hasattr(weight, "path")


class _Adam(tf.Module):
    """Adam (arXiv 1412.6980, algorithm 1) on plain variables, lazily.

    Keras' optimizers take the variables of their own Keras version alone.
    """

    def __init__(self, variables: Sequence[Any], learning_rate: float):
        super().__init__(name="adam")
        self._variables = list(variables)
        self._rate = learning_rate
        self._step = tf.Variable(0.0, trainable=False)

        def zeros(v: Any) -> tf.Variable:
            return tf.Variable(tf.zeros(v.shape), trainable=False)

        self._first = [zeros(v) for v in self._variables]
        self._second = [zeros(v) for v in self._variables]

    def apply(self, gradients: Sequence[Any]) -> None:
        step = self._step.assign_add(1.0)
        rate = self._rate * tf.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        for variable, first, second, gradient in zip(
            self._variables, self._first, self._second, gradients, strict=True
        ):
            if gradient is None:
                continue
            if not isinstance(gradient, tf.IndexedSlices):
                m = first.assign(0.9 * first + 0.1 * gradient)
                v = second.assign(0.999 * second + 0.001 * gradient**2)
                variable.assign_sub(rate * m / (tf.sqrt(v) + 1e-8))
                continue
            touched, slots = tf.unique(gradient.indices)
            summed = tf.math.unsorted_segment_sum(
                gradient.values, slots, tf.size(touched)
            )
            m = 0.9 * tf.gather(first, touched) + 0.1 * summed
            v = 0.999 * tf.gather(second, touched) + 0.001 * summed**2
            first.scatter_update(tf.IndexedSlices(m, touched))
            second.scatter_update(tf.IndexedSlices(v, touched))
            change = rate * m / (tf.sqrt(v) + 1e-8)
            variable.scatter_sub(tf.IndexedSlices(change, touched))
