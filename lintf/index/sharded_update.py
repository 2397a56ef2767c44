# SPDX-License-Identifier: Apache-2.0
"""Updates of an index in several shards, each request whole or not at all.

1. The index's lock is taken: one update at a time.
2. What the shards hold of the request's items, how many items each has and how
   far the log is applied are read, and the request is checked against it, as
   `Lintf>Update` would in an index of one piece. An error ends it here: nothing
   has changed.
3. Every shard but the first applies its own rows, all at once.
4. The first one applies its rows, and moves the log's offsets on.

So whoever reads the offsets finds all rows up to them in all shards. Searches
wait for nothing and see each row as a whole, some of a request's before the
others, as in an index of one piece. Should a request be cut off after its
checks, by its deadline or for want of memory, some shards may have changed; the
offsets have not moved, and whoever sends the same changes again, as the
ingester does, mends it.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from lintf import ops
from lintf.index.index import NO_ID, Index
from lintf.index.sharded import AnyIndex, ShardedIndex
from lintf.index.sharded_search import HOST, in_place, rows_by_shard, taken
from lintf.index.shards import shard_of

_NO_OFFSET = -1


def apply_update(
    index: AnyIndex,
    ids: tf.Tensor,
    delete: tf.Tensor,
    embedding: tf.Tensor | None,
    values: Sequence[tf.Tensor],
    log: ops.LogPosition,
) -> ops.Updated:
    """Applies a request in the graph; see `lintf.ops.update`."""
    if isinstance(index, Index):
        return _update(index, ids, delete, embedding, values, log)
    return _update_shards(index, ids, delete, embedding, values, log)


def _update(
    index: Index,
    ids: tf.Tensor,
    delete: tf.Tensor,
    embedding: tf.Tensor | None,
    values: Sequence[tf.Tensor],
    log: ops.LogPosition | None,
) -> ops.Updated:
    return ops.update(
        ids,
        delete,
        embedding,
        values,
        log,
        index.resource,
        index.ids,
        index.embeddings,
        index.num_rows,
        index.log_offsets,
        index.columns,
        scales=index.scales,
        codes=index.codes,
        quantization=index.schema.quantization,
        dim=index.schema.coded_dim,
        metric=index.schema.metric,
    )


def _update_shards(
    index: ShardedIndex,
    ids: tf.Tensor,
    delete: tf.Tensor,
    embedding: tf.Tensor | None,
    values: Sequence[tf.Tensor],
    log: ops.LogPosition,
) -> ops.Updated:
    schema, shards = index.schema, index.shards
    with tf.device(HOST):
        numbers = shard_of(ids, len(shards))
    rows = rows_by_shard(numbers, len(shards))
    # All that the lock need not be held for comes before it.
    inputs = [ids, delete, *values, *log]
    inputs += [] if embedding is None else [embedding]
    with tf.control_dependencies(inputs):
        lock = tf.raw_ops.MutexLock(mutex=index.update_lock.resource_handle)
    with tf.control_dependencies([lock]):
        found = in_place(
            rows,
            [
                _found(shard, taken(ids, here))
                for shard, here in zip(shards, rows, strict=True)
            ],
            ids,
        )
        checked = ops.check_update(
            ids,
            delete,
            embedding,
            log,
            shard=numbers,
            found=found,
            live_rows=tf.stack([_stats(s).live_rows for s in shards]),
            log_offsets=ops.log_offsets(
                shards[0].resource,
                shards[0].ids,
                shards[0].num_rows,
                shards[0].log_offsets,
            ),
            capacity=index.capacity,
            shard_capacity=shards[0].capacity,
            metric=schema.metric,
            storage=schema.dtype,
        )

    def part(shard: int, here: tf.Tensor, own: tf.Tensor | None) -> ops.Updated:
        """Applies some rows to a shard; those that are not `own` are skips."""
        some = taken(checked, here)
        if own is not None:
            with tf.device(HOST):
                some = tf.where(own, some, tf.constant(NO_ID, tf.int64))
        return _update(
            shards[shard],
            some,
            taken(delete, here),
            None if embedding is None else taken(embedding, here),
            [taken(column, here) for column in values],
            None
            if own is None
            else ops.LogPosition(*(taken(column, here) for column in log)),
        )

    others = [part(i, rows[i], None) for i in range(1, len(shards))]
    with tf.control_dependencies([done.status for done in others]):
        # Of the others' rows the first shard takes those that move an offset.
        with tf.device(HOST):
            is_own = numbers == 0
            wanted = tf.where(is_own | (log.offset != _NO_OFFSET))[:, 0]
            own = tf.gather(is_own, wanted)
        first = part(0, wanted, own)
    with tf.control_dependencies([first.status]):
        num_rows = tf.add_n([_stats(shard).num_rows for shard in shards])
    # The lock is held as long as this tensor of it is there.
    with tf.control_dependencies([num_rows]):
        freed = tf.raw_ops.ConsumeMutexLock(mutex_lock=lock)
    with tf.control_dependencies([freed]), tf.device(HOST):
        status = in_place(
            rows,
            [
                tf.boolean_mask(first.status, own),
                *(done.status for done in others),
            ],
            ids,
        )
        return ops.Updated(
            status, tf.broadcast_to(num_rows, tf.shape(ids, tf.int32))
        )


def _found(shard: Index, ids: tf.Tensor) -> tf.Tensor:
    """Whether a shard has items: `[n]` bool."""
    return ops.lookup(
        ids,
        shard.resource,
        shard.ids,
        shard.embeddings,
        shard.num_rows,
        [],
        scales=shard.scales,
        codes=shard.codes,
        dim=shard.schema.dim,
    ).found


def _stats(shard: Index) -> ops.IndexStats:
    return ops.index_stats(shard.resource, shard.ids, shard.num_rows)
