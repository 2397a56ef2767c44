# SPDX-License-Identifier: Apache-2.0
"""Attribute values to the numbers that columns hold, in the graph."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from lintf.index import columns
from lintf.index.inputs import MISSING_BOOL, MISSING_INT, input_width
from lintf.index.schema import (
    FIRST_BIT,
    FIRST_CODE,
    MISSING_CODE,
    OTHER_BIT,
    OTHER_CODE,
    Attribute,
)


class AttributeEncoder(tf.Module):
    """Encodes the values of an attribute as `columns.encode` does.

    A module, because it may hold the vocabulary in a table, which takes the
    same time however many words there are and must be saved with the graph.

    Attributes:
        attribute: The attribute.
        table: Code or bit by word, where there is a vocabulary; else None.

    >>> encoder = AttributeEncoder(Attribute("year", "int", dtype="int16"))
    >>> encoder(tf.constant([1995, MISSING_INT], tf.int64)).numpy().tolist()
    [1995, -32768]
    """

    def __init__(self, attribute: Attribute):
        super().__init__()
        # Tracking would wrap the vocabulary.
        self.__dict__["attribute"] = attribute
        self.table = None
        words = attribute.vocabulary
        places = np.arange(len(words), dtype=np.int64)
        if attribute.encoding == "vocabulary":
            self.table = _table(words, places + FIRST_CODE, OTHER_CODE)
        elif attribute.encoding == "bits":
            bits = np.int64(1) << (places + FIRST_BIT)
            self.table = _table(words, bits, 1 << OTHER_BIT)

    def __call__(
        self, values: tf.Tensor, ignored: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Encodes one value a row.

        Args:
            values: `[batch]` or `[batch, t]`, as `input_spec` says; what
                `columns.decode_tensor` returns is such, too. Strings that are
                not in the vocabulary become "other".
            ignored: `[batch]` bool: these rows become missing, whatever they
                hold; None for no row.

        Returns:
            `[batch]`, or `[batch, width]` if the width is above 1, of the
            column's dtype.

        Raises:
            tf.errors.InvalidArgumentError: When it runs: a number is out of
                the column's range, or infinite. The message names the
                attribute and the row.
        """
        encode = {
            "number": self._numbers,
            "vocabulary": self._codes,
            "hash": self._codes,
            "bits": self._bits,
        }[self.attribute.encoding]
        encoded = encode(values, ignored)
        if ignored is None:
            return encoded
        missing = tf.constant(columns.missing_value(self.attribute))
        mask = ignored if encoded.shape.rank == 1 else ignored[:, tf.newaxis]
        return tf.where(mask, missing, encoded)

    def _numbers(
        self, values: tf.Tensor, ignored: tf.Tensor | None
    ) -> tf.Tensor:
        attribute = self.attribute
        missing = tf.constant(columns.missing_value(attribute))
        if attribute.kind == "float":
            none, wrong = tf.math.is_nan(values), tf.math.is_inf(values)
            wanted = "finite, or NaN for none"
        else:
            values = tf.cast(values, tf.int64)
            limits = np.iinfo(attribute.dtype)
            low, high = int(limits.min), int(limits.max)
            low, high = (low, high - 1) if low == 0 else (low + 1, high)
            nothing = MISSING_INT
            if attribute.kind == "bool":
                low, high, nothing = 0, 1, MISSING_BOOL
            none = values == nothing
            wrong = ~none & ((values < low) | (values > high))
            wanted = f"from {low} to {high}, or {nothing} for none"
        if ignored is not None:
            wrong &= ~ignored
        rows = tf.where(wrong)[:1, 0]
        check = tf.debugging.Assert(
            tf.equal(tf.size(rows), 0),
            [
                f"attribute `{attribute.name}` must be {wanted}; row",
                rows,
                "has",
                tf.gather(values, rows),
            ],
        )
        # In eager mode there is nothing to depend on.
        with tf.control_dependencies([] if check is None else [check]):
            return tf.where(none, missing, tf.cast(values, missing.dtype))

    def _codes(self, values: tf.Tensor, ignored: tf.Tensor | None) -> tf.Tensor:
        if self.table is not None:
            codes = self.table.lookup(values)
        else:
            codes = _fingerprints(values)
        codes = tf.cast(codes, self.attribute.dtype)
        width = input_width(self.attribute)
        if width == 1:
            return codes[:, 0]
        return codes if width is None else _packed(codes, _first(values))

    def _bits(self, values: tf.Tensor, ignored: tf.Tensor | None) -> tf.Tensor:
        assert self.table is not None
        bits = self.table.lookup(values)
        row = tf.zeros_like(bits[:, 0])
        # There is no reduction by "or"; a sum would count a word twice.
        for one in tf.unstack(bits, axis=1):
            row = tf.bitwise.bitwise_or(row, one)
        return tf.cast(tf.bitcast(row, tf.uint64), self.attribute.dtype)


def _table(
    words: tuple[str, ...], values: np.ndarray, other: int
) -> tf.lookup.StaticHashTable:
    return tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            # Neither a code nor a bit for "", which also keeps a table from
            # being empty: TensorFlow has no such tables.
            tf.constant(["", *words]),
            tf.constant([MISSING_CODE, *values], tf.int64),
        ),
        default_value=other,
    )


def _fingerprints(texts: tf.Tensor) -> tf.Tensor:
    """Fingerprints of texts of any shape, 0 for ""."""
    flat = columns.fingerprint_tensor(tf.reshape(texts, [-1]))
    prints = tf.reshape(flat, tf.shape(texts))
    prints = tf.ensure_shape(prints, texts.shape)
    return tf.where(texts == "", tf.constant(0, tf.int64), prints)


def _first(words: tf.Tensor) -> tf.Tensor:
    """Where `[batch, t]` words stand for the first time in their row.

    Empty ones never do. By sorting: comparing all with all would take `t`
    times the memory of the words.
    """
    prints = _fingerprints(words)
    order = tf.argsort(prints, axis=1, stable=True)
    ordered = tf.gather(prints, order, batch_dims=1)
    new = tf.concat(
        [
            tf.ones_like(ordered[:, :1], tf.bool),
            ordered[:, 1:] != ordered[:, :-1],
        ],
        axis=1,
    )
    back = tf.argsort(order, axis=1)
    return tf.gather(new, back, batch_dims=1) & (words != "")


def _packed(codes: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
    """Moves the codes that are kept to the front, in their order."""
    codes = tf.where(kept, codes, tf.cast(MISSING_CODE, codes.dtype))
    order = tf.argsort(tf.cast(~kept, tf.int32), axis=1, stable=True)
    return tf.gather(codes, order, batch_dims=1)
