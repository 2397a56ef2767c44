# SPDX-License-Identifier: Apache-2.0
"""How an index is divided: which shard an item is in, and on which device."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import tensorflow as tf

from lintf.index.schema import is_int

_DEVICE = re.compile(r"(CPU|GPU):[0-9]+\Z")
# Binomial counts exceed their mean by more than this many standard deviations
# about once in a thousand million.
_DEVIATIONS = 6


@dataclasses.dataclass(frozen=True)
class Shards:
    """How many pieces an index has, and where they lie.

    Attributes:
        count: 1 for an index in one piece.
        devices: "GPU:0" and so on; shards take them in turn. Empty for
            a GPU each. A server without such a device puts the shard on
            another one, if its session allows soft placement.

    >>> Shards(3, ("GPU:0", "GPU:1")).device(2)
    'GPU:0'
    """

    count: int = 1
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not is_int(self.count) or self.count < 1:
            raise ValueError(
                f"`count` must be an integer of at least 1, got {self.count!r}"
            )
        for device in self.devices:
            if not isinstance(device, str) or not _DEVICE.match(device):
                raise ValueError(
                    '`devices` must be such as "GPU:0" or "CPU:0", got '
                    f"{device!r}"
                )
        if len(self.devices) > self.count:
            raise ValueError(
                f"`devices` must be at most {self.count}, one for each shard, "
                f"got {len(self.devices)}"
            )
        if self.count == 1 and self.devices:
            raise ValueError(
                "`devices` are for an index of several shards, but `count` "
                "is 1; give more shards, or leave the devices out"
            )

    def device(self, shard: int) -> str:
        """Where a shard is to lie."""
        if not self.devices:
            return f"GPU:{shard}"
        return self.devices[shard % len(self.devices)]

    def capacity_of_each(self, capacity: int) -> int:
        """Rows of each shard of an index for `capacity` items.

        Items fall to shards at random, so each has room for six standard
        deviations beyond its share: that an index of so many items does not
        fit happens about once in a thousand million times. No shard needs
        room for more than all items.

        >>> Shards(4).capacity_of_each(1_000_000)
        252599
        >>> Shards(1).capacity_of_each(1_000), Shards(3).capacity_of_each(5)
        (1000, 5)
        """
        if self.count == 1:
            return capacity
        share = capacity / self.count
        deviation = math.sqrt(share * (1 - 1 / self.count))
        return min(math.ceil(share + _DEVIATIONS * deviation), capacity)

    def rows(self, capacity: int) -> int:
        """Rows of all shards of an index for `capacity` items."""
        return self.count * self.capacity_of_each(capacity)


def shard_of(ids: Any, count: int) -> tf.Tensor:
    """The shard of each item, from its id alone.

    So an update finds the shard of an item that it has never seen, and an item
    stays where it is as long as the number of shards does. The hash is
    FarmHash's 64-bit fingerprint of the decimal id, modulo the number of
    shards, which TensorFlow promises never to change.

    Args:
        ids: `[n]` int64; fingerprints if ids are strings.
        count: Number of shards.

    Returns:
        `[n]` int64; 0 for -1, which is no item.

    >>> shard_of([-1, 7, 8, 9, 10], 3).numpy().tolist()
    [0, 1, 1, 2, 2]
    """
    ids = tf.convert_to_tensor(ids, tf.int64)
    text = tf.strings.as_string(ids)
    shards = tf.strings.to_hash_bucket_fast(text, count)
    return tf.where(ids == -1, tf.zeros_like(shards), shards)
