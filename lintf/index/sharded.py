# SPDX-License-Identifier: Apache-2.0
"""One index in several shards, each of them an `Index` on a device of its own.

An item's shard follows from its id (`lintf.index.shards.shard_of`), so updates
and look-ups go to one shard and searches to all. Rows of the whole are
numbered shard by shard: first those in use of shard 0, then those of shard 1,
and so on.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lintf.index.index import (
    Index,
    Shard,
    assign_similarity_weights,
    new_id_text,
    new_similarity_weights,
    weights_in_order,
)
from lintf.index.schema import IndexSchema
from lintf.index.shards import Shards, shard_of

# What the names of a shard's variables start with.
_PREFIX = "lintf_shard_"


class UpdateLock(tf.saved_model.experimental.TrackableResource):
    """Held by an update from its checks until all shards have changed.

    A mutex of TensorFlow's own, on the CPU. Loads of one SavedModel in one
    process that are no sessions share it, which only makes them wait.
    """

    def __init__(self) -> None:
        super().__init__(device="CPU")
        self._name = f"lintf_update_{uuid.uuid4().hex}"
        # Otherwise a function that uses it first, while being traced, would
        # make a handle that only this function can use.
        with tf.init_scope():
            self._resource_handle = self._create_resource()

    def _create_resource(self) -> tf.Tensor:
        return tf.raw_ops.MutexV2(shared_name=self._name)


class ShardedIndex(tf.Module):
    """Items in several shards; used like an `Index`.

    Attributes:
        schema: What the index holds.
        capacity: Items that all shards may hold together. Each has room for
            more than its share (`Shards.capacity_of_each`), because items
            fall to them at random.
        sharding: How it is divided.
        shards: An `Index` each.
        log_offsets: `[log_partitions]` int64 variable, that of shard 0: how
            far the change log has been applied to all of them. The others'
            stay at -1.
        id_text: The text of string ids by fingerprint, else None.
        similarity: The weights of a similarity, as an `Index` has them; one
            set for all shards.
        update_lock: Updates hold it, one at a time.

    >>> index = ShardedIndex(IndexSchema(dim=2), 100, Shards(2))
    >>> index.append([7, 8, 9], [[1, 0], [0, 1], [1, 1]])
    >>> index.num_rows, [int(shard.num_rows) for shard in index.shards]
    (3, [1, 2])
    """

    def __init__(
        self,
        schema: IndexSchema,
        capacity: int,
        sharding: Shards,
        *,
        log_partitions: int = 1,
        name: str | None = None,
    ):
        """Allocates an empty index.

        Args:
            schema: What the index holds.
            capacity: Items that it may hold, at least 1.
            sharding: How it is divided.
            log_partitions: Partitions of the change log, at least 1.
            name: The module's name.

        Raises:
            ValueError: `capacity` or `log_partitions` is below 1.
        """
        super().__init__(name=name)
        if capacity < 1:
            raise ValueError(f"`capacity` must be at least 1, got {capacity}")
        self.schema = schema
        self.capacity = capacity
        self.sharding = sharding
        self.id_text = new_id_text() if schema.id_dtype == "string" else None
        self.similarity: Any = None
        if schema.similarity is not None:
            self.similarity = new_similarity_weights(schema.similarity)
        self.shards = [
            Index(
                schema,
                sharding.capacity_of_each(capacity),
                log_partitions=log_partitions,
                shard=Shard(
                    sharding.device(i),
                    f"{_PREFIX}{i}/",
                    self.id_text,
                    self.similarity,
                ),
            )
            for i in range(sharding.count)
        ]
        self.log_offsets = self.shards[0].log_offsets
        self.update_lock = UpdateLock()

    @property
    def num_rows(self) -> int:
        """Rows in use, of all shards."""
        return sum(int(shard.num_rows) for shard in self.shards)

    @property
    def index_bytes(self) -> int:
        """Bytes of all allocated rows."""
        return sum(shard.index_bytes for shard in self.shards)

    @property
    def similarity_weights(self) -> list[tf.Variable]:
        """As `Index.similarity_weights`."""
        return weights_in_order(self.schema, self.similarity)

    def set_similarity_weights(self, weights: Mapping[str, Any]) -> None:
        """As `Index.set_similarity_weights`."""
        assign_similarity_weights(self.schema, self.similarity, weights)

    def append(
        self,
        ids: Sequence[int] | Sequence[str] | np.ndarray,
        embeddings: Any,
        attributes: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Writes new items, all of them or none; see `Index.append`.

        Raises:
            ValueError: The items do not fit the schema, the capacity or one
                of the shards; nothing was written.
        """
        batch = self.shards[0].encoded(ids, embeddings, attributes)
        first = self.num_rows
        if first + len(batch) > self.capacity:
            raise ValueError(
                f"the index is full: {len(batch)} items after {first} rows "
                f"exceed its capacity of {self.capacity}; build it with a "
                "larger one"
            )
        numbers = self.shard_of(batch.ids)
        parts = [
            batch.take(np.flatnonzero(numbers == i))
            for i in range(len(self.shards))
        ]
        for i, (shard, part) in enumerate(zip(self.shards, parts, strict=True)):
            try:
                shard.check_room(len(part))
            except ValueError as error:
                raise ValueError(f"shard {i}: {error}") from error
        for shard, part in zip(self.shards, parts, strict=True):
            shard.write(part)

    def shard_of(self, ids: Any) -> np.ndarray:
        """The shards of items: `[n]` int64.

        Args:
            ids: `[n]` int64; fingerprints if ids are strings.
        """
        numbers: np.ndarray = shard_of(ids, len(self.shards)).numpy()
        return numbers

    def vectors(self, rows: Any) -> np.ndarray:
        """The stored embeddings of rows; see `Index.vectors`."""
        rows = np.asarray(rows)
        out = np.zeros([len(rows), self.schema.dim], np.float32)
        begin = 0
        for shard in self.shards:
            end = begin + int(shard.num_rows)
            here = np.flatnonzero((rows >= begin) & (rows < end))
            out[here] = shard.vectors(rows[here] - begin)
            begin = end
        return out

    def check(self) -> None:
        """Checks that ids are distinct; see `Index.check`."""
        # Items of one id are in one shard.
        for shard in self.shards:
            shard.check()

    def checked_embeddings(self, embeddings: Any) -> np.ndarray:
        """As `Index.checked_embeddings`."""
        return self.shards[0].checked_embeddings(embeddings)

    def invalidate(self) -> None:
        """As `Index.invalidate`."""
        for shard in self.shards:
            shard.invalidate()


AnyIndex = Index | ShardedIndex


def new_index(
    schema: IndexSchema,
    capacity: int,
    sharding: Shards,
    *,
    log_partitions: int = 1,
) -> AnyIndex:
    """An empty index in as many pieces as it is to have.

    Raises:
        ValueError: `capacity` or `log_partitions` is below 1.
    """
    if sharding.count == 1:
        return Index(schema, capacity, log_partitions=log_partitions)
    return ShardedIndex(
        schema, capacity, sharding, log_partitions=log_partitions
    )


def shards_of(index: AnyIndex) -> list[Index]:
    """The shards of an index, of which one in one piece is the only one."""
    if isinstance(index, Index):
        return [index]
    return list(index.shards)


def rows_in_order(index: AnyIndex, ids: np.ndarray) -> np.ndarray:
    """Where items are that were appended in some order to an empty index.

    Args:
        index: That holds them, without holes.
        ids: `[n]` int64 of all items, in that order; fingerprints if ids are
            strings.

    Returns:
        `[n]` int64 rows of the whole index.
    """
    if isinstance(index, Index):
        return np.arange(len(ids))
    # A stable sort by shard gives the items row by row.
    rows = np.empty(len(ids), np.int64)
    rows[np.argsort(index.shard_of(ids), kind="stable")] = np.arange(len(ids))
    return rows


def device_of(variable_name: str, sharding: Shards) -> str | None:
    """Where a variable or resource of a shard is to lie, by its name.

    >>> device_of("lintf_shard_1/ids", Shards(2)), device_of("ids", Shards(2))
    ('GPU:1', None)
    """
    number, slash, _ = variable_name.removeprefix(_PREFIX).partition("/")
    if not (variable_name.startswith(_PREFIX) and slash and number.isdigit()):
        return None
    return sharding.device(int(number))
