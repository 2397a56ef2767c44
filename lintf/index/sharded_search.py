# SPDX-License-Identifier: Apache-2.0
"""Search in an index of several shards: in each of them, then a merge.

Results are those of one index. Each shard is read in one consistent read of
its own, so a search beside an update may see a batch in one shard and not yet
in another; each item is seen as a whole, before or after. Equal scores come by
shard, then by row. Where codes select a shortlist, each shard selects one of
its own, so more rows are rescored than in an index of one piece, and no fewer
of the best are found.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from lintf import ops
from lintf.index.batching import Batching, Tensors
from lintf.index.index import NO_ID
from lintf.index.plan import Plan
from lintf.index.search import Found, Looked, NativeSearch, batched_search
from lintf.index.sharded import ShardedIndex
from lintf.index.shards import shard_of

# Where requests arrive, and where operations on an index read them.
HOST = "CPU:0"


class ShardedSearch:
    """`NativeSearch` for several shards."""

    def __init__(
        self,
        index: ShardedIndex,
        plan: Plan,
        returned: Sequence[str],
        costs: Sequence[float] = (),
    ):
        self._index = index
        self._k = plan.k
        # Operations on a shard run where its variables are.
        self._searches = [
            NativeSearch(shard, plan, returned, costs) for shard in index.shards
        ]

    def __call__(self, queries: tf.Tensor, programs: tf.Tensor) -> Found:
        return self._merged([s(queries, programs) for s in self._searches])

    def batched(
        self,
        queries: tf.Tensor,
        filters: tf.Tensor,
        options: Batching,
        max_rows: int,
    ) -> Found:
        """Searches in batches with other requests', of each shard its own.

        TensorFlow places the operation that makes batches where all resources
        are that it is given, so there is one on each shard's device, and what
        lies elsewhere (the towers, the texts of ids) stays out of it.

        Args:
            queries: `[batch, query_dim]` float32, finite.
            filters: `[batch]` string, which can be compiled.
            options: How batches are made.
            max_rows: Most rows of a request.
        """

        # Read where they lie, which need not be a shard's device.
        weights = [w.read_value() for w in self._index.similarity_weights]

        def in_batch(search: NativeSearch, inputs: Tensors) -> Found:
            schema = self._index.schema
            programs = ops.compile_filter(inputs["filter"], schema)
            return search(inputs["query"], programs, weights)

        return self._merged(
            [
                batched_search(
                    functools.partial(in_batch, search),
                    {"query": queries, "filter": filters},
                    options,
                    max_rows,
                )
                for search in self._searches
            ]
        )

    def _merged(self, found: Sequence[Found]) -> Found:
        scores = tf.concat([f.scores for f in found], 1)
        ids = tf.concat([f.ids for f in found], 1)
        order = best_first(scores, ids, self._k)

        def picked(values: tf.Tensor) -> tf.Tensor:
            return tf.gather(values, order, batch_dims=1)

        num_scored = None
        if found[0].num_scored is not None:
            num_scored = tf.add_n([f.num_scored for f in found])
        # Unused slots come last, and hold what unused slots do.
        return Found(
            picked(ids),
            picked(scores),
            tf.minimum(tf.add_n([f.num_results for f in found]), self._k),
            [
                picked(tf.concat(parts, 1))
                for parts in zip(*(f.values for f in found), strict=True)
            ],
            num_scored,
        )

    def lookup(self, ids: tf.Tensor) -> Looked:
        count = len(self._searches)
        rows = rows_by_shard(shard_of(ids, count), count)
        looked = [
            search.lookup(taken(ids, here))
            for search, here in zip(self._searches, rows, strict=True)
        ]

        def merged(parts: Sequence[tf.Tensor]) -> tf.Tensor:
            return in_place(rows, parts, ids)

        embeddings = None
        if looked[0].embeddings is not None:
            embeddings = merged([one.embeddings for one in looked])
        return Looked(
            embeddings,
            [
                merged(parts)
                for parts in zip(*(one.values for one in looked), strict=True)
            ],
            merged([one.found for one in looked]),
        )

    def counts(self) -> dict[str, tf.Tensor]:
        """As `NativeSearch.counts`, of all shards.

        A query is answered by every shard; it is counted once, by how shard 0
        did it.
        """
        counts = [search.counts() for search in self._searches]
        live = tf.stack([one["live_rows"] for one in counts])
        return {
            **counts[0],
            "num_rows": tf.add_n([one["num_rows"] for one in counts]),
            "live_rows": tf.reduce_sum(live),
        }

    def shard_counts(self) -> dict[str, tf.Tensor]:
        """What each shard holds: `[shards]` int64."""
        stats = [
            ops.index_stats(shard.resource, shard.ids, shard.num_rows)
            for shard in self._index.shards
        ]
        return {
            "shard_live_rows": tf.stack([s.live_rows for s in stats]),
            "shard_capacity": tf.constant(
                [shard.capacity for shard in self._index.shards], tf.int64
            ),
        }

    def log_offsets(self) -> tf.Tensor:
        """As `NativeSearch.log_offsets`; all shards hold the log up to them."""
        return self._searches[0].log_offsets()


def best_first(scores: Any, ids: Any, k: int) -> tf.Tensor:
    """Which of several shards' results are the best.

    Args:
        scores: `[batch, n]` float32, the shards' results end to end.
        ids: `[batch, n]` int64, -1 in slots that are not used.
        k: Results wanted, at most n.

    Returns:
        `[batch, k]` int32 places. The better score first, then the lower
        place; unused slots last.

    >>> best_first([[5.0, 1.0, 5.0, 3.0]], [[7, 8, 9, 6]], 3).numpy()
    array([[0, 2, 3]], dtype=int32)
    """
    keys = tf.cast(scores, tf.float64)
    # A result may score -inf as well, and still goes before unused slots. It
    # has more room in 64 bits: no float32 is as low as this.
    keys = tf.maximum(keys, tf.constant(-1e300, tf.float64))
    keys = tf.where(
        tf.convert_to_tensor(ids, tf.int64) == NO_ID,
        tf.constant(-float("inf"), tf.float64),
        keys,
    )
    # Of equal keys it takes the lower place. No score is -0.
    return tf.math.top_k(keys, k).indices


def rows_by_shard(shards: tf.Tensor, count: int) -> list[tf.Tensor]:
    """The rows of a request that belong to each shard, in order.

    Args:
        shards: `[batch]` int64, of each row.
        count: Of shards.
    """
    with tf.device(HOST):
        rows = tf.range(tf.shape(shards)[0])
        shards = tf.cast(shards, tf.int32)
        return list(tf.dynamic_partition(rows, shards, count))


def taken(inputs: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Some rows of an input: `[rows, ...]`."""
    with tf.device(HOST):
        return tf.gather(inputs, rows)


def in_place(
    rows: Sequence[tf.Tensor], parts: Sequence[tf.Tensor], like: tf.Tensor
) -> tf.Tensor:
    """Puts the shards' rows of a result back to where their inputs were.

    Args:
        rows: From `rows_by_shard`.
        parts: `[rows, ...]` of each shard.
        like: `[batch]` of the request.
    """
    whole = tf.dynamic_stitch(list(rows), list(parts))
    return tf.ensure_shape(whole, like.shape[:1] + parts[0].shape[1:])
