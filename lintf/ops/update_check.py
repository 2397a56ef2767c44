# SPDX-License-Identifier: Apache-2.0
"""What must hold before several shards of an index change together."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from lintf.ops import library
from lintf.ops.update import LogPosition

_ops = library.load()


def check_update(
    id: Any,
    delete: Any,
    embedding: Any,
    log: LogPosition,
    *,
    shard: Any,
    found: Any,
    live_rows: Any,
    log_offsets: Any,
    capacity: int,
    shard_capacity: int,
    metric: str = "inner_product",
    storage: str = "float32",
    name: str | None = None,
) -> tf.Tensor:
    """Checks a batch that will be applied to the shards of an index.

    Finds all that `update` would find wrong in an index of one piece. Who
    calls it sees to it that nothing else changes the shards in between.

    Args:
        id: As `update` takes it, and so are the next three.
        delete: As there.
        embedding: As there; None if attributes alone change.
        log: As there.
        shard: `[batch]` int64, where the row's item belongs.
        found: `[batch]` bool, whether its shard has the item now.
        live_rows: `[shards]` int64, items that each has now.
        log_offsets: `[partitions]` int64, stored ones.
        capacity: Items that all shards may hold.
        shard_capacity: Items that one may hold.
        metric: Of the index.
        storage: Dtype of the stored embeddings, "none" for codes alone.
        name: Of the operation.

    Returns:
        `id`, once all is right.

    Raises:
        tf.errors.InvalidArgumentError: As `update`, and so are the others.
        tf.errors.FailedPreconditionError: As there.
        tf.errors.ResourceExhaustedError: As there; or one shard is full.

    >>> none = [-1, -1]
    >>> checked = check_update(
    ...     [7, 8],
    ...     [False, True],
    ...     [[1.0], [0.0]],
    ...     LogPosition(none, none, none),
    ...     shard=[0, 1],
    ...     found=[False, True],
    ...     live_rows=[0, 1],
    ...     log_offsets=[-1],
    ...     capacity=1,
    ...     shard_capacity=1,
    ... )
    >>> checked.numpy().tolist()
    [7, 8]
    """
    embeddings = []
    if embedding is not None:
        embeddings = [tf.convert_to_tensor(embedding, tf.float32)]
    return _ops.lintf_check_update(
        tf.convert_to_tensor(id, tf.int64),
        tf.convert_to_tensor(delete, tf.bool),
        tf.convert_to_tensor(shard, tf.int64),
        tf.convert_to_tensor(found, tf.bool),
        *(tf.convert_to_tensor(part, tf.int64) for part in log),
        tf.convert_to_tensor(live_rows, tf.int64),
        tf.convert_to_tensor(log_offsets, tf.int64),
        embeddings,
        capacity=capacity,
        shard_capacity=shard_capacity,
        normalize=metric == "cosine",
        storage=storage,
        name=name,
    )
