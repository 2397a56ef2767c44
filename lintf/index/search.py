# SPDX-License-Identifier: Apache-2.0
"""The two engines behind the signatures: lintf's operations, and stock ones.

Both answer the same calls on the same variables, so that one is the other's
check.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from lintf import ops
from lintf.filters import portable
from lintf.index import columns, storage
from lintf.index.batching import Batching, Tensors, batched
from lintf.index.index import NO_ID, Index, code_rows
from lintf.index.plan import LEARNED_ALGORITHMS, PLAIN_ALGORITHMS, Plan
from lintf.index.schema import WORD_BITS
from lintf.similarity import scoring
from lintf.similarity.spec import SimilaritySpec


class Found(NamedTuple):
    """The results of a search.

    Attributes:
        ids: `[batch, k]` int64, -1 in unused slots.
        scores: `[batch, k]` float32, -inf in unused slots.
        num_results: `[batch]` int32.
        values: `[batch, k]` or `[batch, k, width]` for each returned
            attribute, as its column stores it; missing in unused slots.
        num_scored: `[batch]` int64: with a learned similarity, the rows whose
            full score was computed; else None.
    """

    ids: tf.Tensor
    scores: tf.Tensor
    num_results: tf.Tensor
    values: Sequence[tf.Tensor]
    num_scored: tf.Tensor | None = None


def batched_search(
    search: Callable[[Tensors], Found],
    inputs: Tensors,
    options: Batching,
    max_rows: int,
) -> Found:
    """Searches in a batch with other requests'.

    Args:
        search: Searches for named inputs, the batch leading. TensorFlow
            places the operation that makes batches where all resources are
            that this uses, so they must be those of one device.
        inputs: Of this request.
        options: How batches are made.
        max_rows: Most rows of a request.
    """

    def in_batch(inputs: Tensors) -> Tensors:
        found = search(inputs)
        results = {
            "ids": found.ids,
            "scores": found.scores,
            "num_results": found.num_results,
        }
        if found.num_scored is not None:
            results["num_scored"] = found.num_scored
        values = {f"value_{i}": v for i, v in enumerate(found.values)}
        return {**results, **values}

    results = batched(in_batch, inputs, options, max_rows)
    named = {
        name: results.pop(name)
        for name in Found._fields
        if name in results and name != "values"
    }
    return Found(
        values=[results[f"value_{i}"] for i in range(len(results))], **named
    )


class Looked(NamedTuple):
    """Rows that were looked up by id.

    Attributes:
        embeddings: `[batch, dim]` float32, 0 where not found; None if the
            index has only codes.
        values: `[batch]` or `[batch, width]` for each attribute of the
            schema, as its column stores it; missing where not found.
        found: `[batch]` bool.
    """

    embeddings: tf.Tensor | None
    values: Sequence[tf.Tensor]
    found: tf.Tensor


class NativeSearch:
    """Filtered search by lintf's operations, in place on the variables."""

    def __init__(
        self,
        index: Index,
        plan: Plan,
        returned: Sequence[str],
        costs: Sequence[float] = (),
    ):
        plan.check(index.schema)
        names = [a.name for a in index.schema.attributes]
        self._index = index
        self._plan = plan
        self._costs = list(costs)
        self._columns = [names.index(name) for name in returned]
        self._missing = [
            columns.missing_value(a) for a in index.schema.attributes
        ]

    def __call__(
        self,
        queries: tf.Tensor,
        programs: tf.Tensor,
        weights: Sequence[tf.Tensor] | None = None,
    ) -> Found:
        """Finds the best rows.

        Args:
            queries: `[batch, query_dim]` float32, finite.
            programs: `[batch, words]` int64.
            weights: Of the similarity, if there is one, where they have been
                read already.
        """
        index, plan = self._index, self._plan
        if index.schema.similarity is not None:
            return self._similar(
                index.schema.similarity, queries, programs, weights
            )
        quantization = index.schema.quantization
        if quantization is not None and plan.shortlist is not None:
            quantization = dataclasses.replace(
                quantization, shortlist=plan.shortlist
            )
        result = ops.retrieve(
            queries,
            programs,
            index.resource,
            index.ids,
            index.embeddings,
            index.num_rows,
            index.columns,
            k=plan.k,
            metric=index.schema.metric,
            return_columns=self._columns,
            return_missing=[self._missing[c] for c in self._columns],
            scales=index.scales,
            codes=index.codes,
            algorithm=plan.algorithm,
            quantization=quantization,
            dim=index.schema.dim,
            costs=self._costs,
        )
        return Found(
            result.ids, result.scores, result.num_results, result.values
        )

    def _similar(
        self,
        spec: SimilaritySpec,
        queries: tf.Tensor,
        programs: tf.Tensor,
        weights: Sequence[tf.Tensor] | None,
    ) -> Found:
        index, plan = self._index, self._plan
        result = ops.retrieve_similar(
            queries,
            programs,
            index.resource,
            index.ids,
            index.embeddings,
            index.num_rows,
            index.columns,
            spec=spec,
            weights=index.similarity_weights if weights is None else weights,
            k=plan.k,
            algorithm=plan.algorithm,
            candidates=plan.candidates_or_default,
            budget=plan.budget_or_default,
            return_columns=self._columns,
            return_missing=[self._missing[c] for c in self._columns],
            scales=index.scales,
            codes=index.codes,
            quantization=index.schema.quantization,
            costs=self._costs,
        )
        return Found(
            result.ids,
            result.scores,
            result.num_results,
            result.values,
            result.num_scored,
        )

    def lookup(self, ids: tf.Tensor) -> Looked:
        index = self._index
        result = ops.lookup(
            ids,
            index.resource,
            index.ids,
            index.embeddings,
            index.num_rows,
            index.columns,
            missing=self._missing,
            scales=index.scales,
            codes=index.codes,
            dim=index.schema.dim,
        )
        embeddings = None if index.embeddings is None else result.embedding
        return Looked(embeddings, result.values, result.found)

    def counts(self) -> dict[str, tf.Tensor]:
        """Rows in use, those that hold an item, and searches so far."""
        index = self._index
        learned = index.schema.similarity is not None
        stats = ops.index_stats(
            index.resource, index.ids, index.num_rows, learned=learned
        )
        names = LEARNED_ALGORITHMS if learned else PLAIN_ALGORITHMS
        searches = tf.unstack(stats.searches, num=len(names))
        return {
            "num_rows": stats.num_rows,
            "live_rows": stats.live_rows,
            **{
                f"searches_{name}": count
                for name, count in zip(names, searches, strict=True)
            },
        }

    def log_offsets(self) -> tf.Tensor:
        """`[partitions]` int64, never in the middle of an update."""
        index = self._index
        return ops.log_offsets(
            index.resource, index.ids, index.num_rows, index.log_offsets
        )


class PortableSearch:
    """The same by stock operations, for servers without lintf's.

    Scores every row for every query and keeps the score matrix in memory;
    exactly, whatever the algorithm, unless codes are all there is. Scores of
    a learned similarity are summed in another order than lintf's operations
    do, and are within float32's rounding of theirs. The
    variables are only ever read whole: gathering from one would make every
    later read copy it.
    """

    def __init__(
        self,
        index: Index,
        plan: Plan,
        returned: Sequence[str],
        projection: Any = None,
    ):
        plan.check(index.schema)
        if int(index.num_rows) != index.capacity:
            raise ValueError(
                "a portable index must be full, because its searches read "
                f"whole variables: it has {int(index.num_rows)} items and a "
                f"capacity of {index.capacity}"
            )
        self._index = index
        self._k = plan.k
        self._returned = list(returned)
        self._projection = projection

    def __call__(self, queries: tf.Tensor, programs: tf.Tensor) -> Found:
        index = self._index
        ids = index.ids.read_value()
        passing = portable.filter_masks(
            programs, [c.read_value() for c in index.columns], ids
        )
        scores = self._scores(queries)
        nothing = tf.constant(-float("inf"))
        scores = tf.where(tf.math.is_nan(scores), nothing, scores)
        # A score may overflow to -inf; it still goes before all that is
        # filtered.
        keys = tf.where(passing, tf.maximum(scores, scores.dtype.min), nothing)
        kept = min(self._k, index.capacity)
        _, rows = tf.math.top_k(keys, kept)
        best = tf.gather(scores, rows, batch_dims=1)
        num_results = tf.minimum(
            tf.math.count_nonzero(passing, axis=1, dtype=tf.int32), kept
        )
        unused = tf.range(kept) >= num_results[:, tf.newaxis]

        def gathered(values: tf.Tensor, empty: tf.Tensor) -> tf.Tensor:
            picked = tf.gather(values, rows)
            mask = unused
            if picked.shape.rank == 3:
                mask = unused[..., tf.newaxis]
            return self._padded(tf.where(mask, empty, picked), empty)

        values = [
            gathered(
                index.attributes[name].read_value(),
                tf.constant(
                    columns.missing_value(index.schema.attribute(name))
                ),
            )
            for name in self._returned
        ]
        num_scored = None
        if index.schema.similarity is not None:
            rows_scored = tf.constant(index.capacity, tf.int64)
            num_scored = tf.repeat(rows_scored, tf.shape(queries)[0])
        return Found(
            gathered(ids, tf.constant(NO_ID, tf.int64)),
            self._padded(tf.where(unused, nothing, best), nothing),
            num_results,
            values,
            num_scored,
        )

    def lookup(self, ids: tf.Tensor) -> Looked:
        index = self._index
        matches = ids[:, tf.newaxis] == index.ids.read_value()[tf.newaxis]
        found = tf.reduce_any(matches, axis=1) & (ids != NO_ID)
        rows = tf.argmax(matches, axis=1)

        def gathered(values: tf.Tensor, empty: tf.Tensor) -> tf.Tensor:
            picked = tf.gather(values, rows)
            mask = found if picked.shape.rank == 1 else found[:, tf.newaxis]
            return tf.where(mask, picked, empty)

        values = [
            gathered(
                index.attributes[a.name].read_value(),
                tf.constant(columns.missing_value(a)),
            )
            for a in index.schema.attributes
        ]
        embeddings = None
        if index.embeddings is not None:
            embeddings = gathered(self._items(), tf.constant(0.0))
        return Looked(embeddings, values, found)

    def counts(self) -> dict[str, tf.Tensor]:
        """Rows in use, and those of them that hold an item."""
        ids = self._index.ids.read_value()
        live = tf.math.count_nonzero(ids != NO_ID)
        return {
            "num_rows": self._index.num_rows.read_value(),
            "live_rows": live,
        }

    def log_offsets(self) -> tf.Tensor:
        """`[partitions]` int64."""
        return self._index.log_offsets.read_value()

    def _items(self) -> tf.Tensor:
        """The embeddings, decoded: `[capacity, dim]` float32."""
        scales = self._index.scales
        return storage.decode_tensor(
            self._index.embeddings.read_value(),
            None if scales is None else scales.read_value(),
        )

    def _scores(self, queries: tf.Tensor) -> tf.Tensor:
        if self._index.embeddings is None:
            return self._matched_bits(queries)
        items = self._items()
        spec = self._index.schema.similarity
        if spec is not None:
            weights = {
                name: variable.read_value()
                for name, variable in self._index.similarity.items()
            }
            return scoring.scores_in_blocks(spec, weights, queries, items)
        metric = self._index.schema.metric
        if metric == "cosine":
            queries = tf.math.l2_normalize(queries, axis=1)
        scores = tf.matmul(queries, items, transpose_b=True)
        if metric == "l2":
            squares = tf.reduce_sum(tf.square(items), axis=1)
            own = tf.reduce_sum(tf.square(queries), axis=1, keepdims=True)
            scores = 2 * scores - squares - own
        return scores

    def _matched_bits(self, queries: tf.Tensor) -> tf.Tensor:
        """Bits that the rows' codes share with the queries'."""
        index = self._index
        rows = code_rows(index.codes.read_value(), index.capacity)
        bits = tf.matmul(queries, self._projection.read_value()) >= 0
        words = tf.reshape(bits, [-1, rows.shape[1], WORD_BITS])
        place = tf.bitwise.left_shift(
            tf.constant(1, tf.int64), tf.range(WORD_BITS, dtype=tf.int64)
        )
        codes = tf.reduce_sum(tf.where(words, place, 0), axis=2)
        differ = tf.zeros([tf.shape(queries)[0], index.capacity], tf.int32)
        # Word by word: all at once would take `words` times the memory.
        for word in range(rows.shape[1]):
            other = tf.bitwise.bitwise_xor(
                codes[:, word, tf.newaxis], rows[tf.newaxis, :, word]
            )
            count = tf.raw_ops.PopulationCount(x=other)
            differ += tf.cast(count, tf.int32)
        return tf.cast(rows.shape[1] * WORD_BITS - differ, tf.float32)

    def _padded(self, values: tf.Tensor, empty: tf.Tensor) -> tf.Tensor:
        extra = self._k - values.shape[1]
        if extra == 0:
            return values
        shape = tf.concat(
            [tf.shape(values)[:1], [extra], tf.shape(values)[2:]], axis=0
        )
        padded = tf.concat([values, tf.fill(shape, empty)], axis=1)
        return tf.ensure_shape(padded, [None, self._k, *values.shape[2:]])
