# SPDX-License-Identifier: Apache-2.0
"""Layers of the towers, for Keras 3 and for the legacy Keras 2.

They hold no lookup tables and no stateful random numbers: an exported tower
needs no table initialiser, and training that is cut off and resumed draws the
same numbers as training that is not.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# Each layer makes its weights when it is constructed and says so (`built`): the
# symbolic call by which Keras 3 would build it knows no dtype but float32.

# `tf.strings.to_hash_bucket_fast` needs the number of buckets to fit an int64.
_NUM_FINGERPRINTS = 2**63 - 1


class VocabularyLookup(tf.keras.layers.Layer):
    """Maps int64 or string values to 1, 2, ... and unknown ones to 0.

    A binary search over the sorted vocabulary, which is a constant of the
    graph: meant for vocabularies of up to some 100,000 values. Strings are
    compared by their 63-bit FarmHash fingerprint.

    Input shape: any, int64 (or int32) or string as the vocabulary is.
    Output shape: the input's, int32.
    """

    def __init__(
        self, vocabulary: Sequence[int] | Sequence[str], **kwargs: Any
    ):
        """Sorts the vocabulary.

        Args:
          vocabulary: distinct values; value number `i` maps to `i + 1`.
          **kwargs: as for every Keras layer.

        Raises:
          ValueError: a value occurs twice, or two strings share a fingerprint.
        """
        super().__init__(trainable=False, **kwargs)
        values = np.array(vocabulary)
        self._is_string = values.dtype.kind in "USO"
        if self._is_string:
            with tf.init_scope():
                values = self._fingerprint(tf.constant(vocabulary)).numpy()
        values = values.astype(np.int64)
        order = np.argsort(values, kind="stable")
        self._keys = values[order]
        self._rows = (order + 1).astype(np.int32)
        if len(values) == 0 or (np.diff(self._keys) == 0).any():
            raise ValueError(
                "a vocabulary needs at least one value and no value twice, got "
                f"{len(values)} values, {len(np.unique(values))} of them "
                "different"
            )
        self.built = True

    @property
    def vocabulary_size(self) -> int:
        """Number of known values; outputs are in `[0, vocabulary_size]`."""
        return len(self._keys)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Looks the values up."""
        keys = tf.constant(self._keys)
        values = (
            self._fingerprint(inputs)
            if self._is_string
            else tf.cast(inputs, tf.int64)
        )
        flat = tf.reshape(values, [-1])
        slots = tf.searchsorted(keys, flat)
        slots = tf.minimum(slots, self.vocabulary_size - 1)
        known = tf.equal(tf.gather(keys, slots), flat)
        rows = tf.where(known, tf.gather(tf.constant(self._rows), slots), 0)
        rows = tf.reshape(rows, tf.shape(values))
        rows.set_shape(inputs.shape)
        return rows

    @staticmethod
    def _fingerprint(strings: tf.Tensor) -> tf.Tensor:
        return tf.strings.to_hash_bucket_fast(strings, _NUM_FINGERPRINTS)


class OptionalEmbedding(tf.keras.layers.Layer):
    """An embedding table whose row 0 is the zero vector.

    Row 0 stands for "unknown" or "missing", and adds nothing. With a drop rate
    whole ids are forgotten at training, so that the layers above learn to do
    without.

    Input shape: any, int32 rows in `[0, num_rows]`.
    Output shape: the input's followed by `dim`, float32.
    """

    def __init__(
        self,
        num_rows: int,
        dim: int,
        *,
        stddev: float = 0.05,
        drop_rate: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ):
        """Sets the sizes.

        Args:
          num_rows: rows without row 0.
          dim: width of an embedding.
          stddev: of the normal distribution that the table starts from.
          drop_rate: share of ids to forget at training.
          seed: of the table and of the dropout.
          **kwargs: as for every Keras layer.
        """
        super().__init__(**kwargs)
        self._table = self.add_weight(
            shape=(num_rows, dim),
            initializer=_initializer(stddev, seed),
            name="table",
        )
        self._drop = StatelessDropout(
            drop_rate, seed=seed + 1, scale=False, name="drop"
        )
        self.built = True

    def call(self, rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Gathers the rows."""
        known = tf.cast(rows > 0, tf.float32)
        known = self._drop(known, training=training)
        table = tf.convert_to_tensor(self._table)
        return (
            tf.gather(table, tf.maximum(rows - 1, 0)) * known[..., tf.newaxis]
        )


class StatelessDropout(tf.keras.layers.Layer):
    """Dropout whose numbers are a function of the seed and of a counter.

    The counter is a weight, so a checkpoint holds all there is to know: the
    stock layer's generator would start over when training is resumed.

    Input shape: any, float32. Output shape: the same.
    """

    def __init__(
        self, rate: float, *, seed: int, scale: bool = True, **kwargs: Any
    ):
        """Sets the rate.

        Args:
          rate: share of values to set to 0 at training, in `[0, 1)`.
          seed: of the random numbers.
          scale: whether the others grow by `1 / (1 - rate)`.
          **kwargs: as for every Keras layer.

        Raises:
          ValueError: the rate is out of range.
        """
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"a dropout rate must be in [0, 1), got {rate}")
        self._rate = rate
        self._seed = seed
        self._gain = 1 / (1 - rate) if scale else 1.0
        self._draws = self.add_weight(
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
            name="draws",
        )
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drops values where `training` is true."""
        if not training or self._rate == 0:
            return inputs
        draw = tf.convert_to_tensor(self._draws)
        # One layer may be called twice in a step: each call counts.
        self._draws.assign(draw + 1)
        kept = (
            tf.random.stateless_uniform(
                tf.shape(inputs),
                tf.stack([tf.cast(self._seed, tf.int64), draw]),
            )
            >= self._rate
        )
        return tf.where(kept, inputs * self._gain, tf.zeros_like(inputs))


class RecentItems(tf.keras.layers.Layer):
    """Sums up a history by order: a pooled vector and the newest vectors.

    With `n` known items in the history and item `i` counted from the newest
    (0) to the oldest, the pooled vector is `sum_i w_i h_i / sum_i w_i` with
    learned `w_i = exp(a_i)`, which start as `decay ** i`. Absent items are
    skipped, wherever they stand, so padding at either end is the same.

    Input: embeddings `[B, L, dim]` float32, present `[B, L]` bool.
    Output: `[B, dim]` pooled, `[B, num_newest, dim]` newest first (zeros where
    the history is shorter).
    """

    def __init__(
        self, length: int, num_newest: int, *, decay: float = 0.9, **kwargs: Any
    ):
        """Sets the sizes.

        Args:
          length: `L`, the longest history.
          num_newest: how many of the newest items come out one by one.
          decay: what an item's weight starts with, relative to the next newer.
          **kwargs: as for every Keras layer.
        """
        super().__init__(**kwargs)
        self._num_newest = num_newest
        self._log_weights = self.add_weight(
            shape=(length,),
            initializer=lambda shape, dtype=None: (
                tf.cast(tf.range(shape[0]), tf.float32) * float(np.log(decay))
            ),
            name="log_weights",
        )
        self.built = True

    def call(
        self, embeddings: tf.Tensor, present: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Pools and picks."""
        age = tf.cumsum(
            tf.cast(present, tf.int32), axis=1, exclusive=True, reverse=True
        )
        weights = tf.exp(
            tf.gather(tf.convert_to_tensor(self._log_weights), age)
        ) * tf.cast(present, tf.float32)
        total = tf.reduce_sum(weights, axis=1, keepdims=True)
        weights = tf.math.divide_no_nan(weights, total)
        # [B, num_newest, L]: which slot holds the item of each age.
        picked = tf.logical_and(
            present[:, tf.newaxis, :],
            tf.equal(
                age[:, tf.newaxis, :],
                tf.range(self._num_newest)[tf.newaxis, :, tf.newaxis],
            ),
        )
        # One product for both: small products a query are what training costs.
        mixing = tf.concat(
            [weights[:, tf.newaxis, :], tf.cast(picked, tf.float32)], axis=1
        )
        mixed = tf.matmul(mixing, embeddings)
        return mixed[:, 0], mixed[:, 1:]


def glorot(seed: int) -> tf.keras.initializers.Initializer:
    """Returns Keras' usual initialiser of dense layers, seeded."""
    return tf.keras.initializers.GlorotUniform(seed=seed)


def _initializer(stddev: float, seed: int) -> tf.keras.initializers.Initializer:
    return tf.keras.initializers.RandomNormal(stddev=stddev, seed=seed)
