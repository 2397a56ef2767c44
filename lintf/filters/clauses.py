# SPDX-License-Identifier: Apache-2.0
"""Filters built inside a graph, from tensors.

A model can derive what a query may see from the query's own features: the
attribute-based matching of LiNR (arXiv 2407.13218, section 3.1.1). A query has
clauses; an item passes if it satisfies all of them; a clause is satisfied if
the item has at least one of its values, and a reversed clause if it has none.

What differs from the paper, which leaves it open: a clause without values
passes every item, and an item without the attribute fails every clause but
the reversed ones. Only stock TensorFlow operations are used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from lintf.index import columns
from lintf.index.schema import (
    FIRST_BIT,
    FIRST_CODE,
    Attribute,
    IndexSchema,
)

# custom_ops/core/filter_program.h
_VERSION = 1
_TRUE, _FALSE, _IN_SET, _BITS_ANY, _AND, _NOT = 1, 2, 5, 7, 16, 18
_ID_COLUMN = 0xFFFF
_ID = "id"


@dataclasses.dataclass(frozen=True)
class Clause:
    """One clause of each query of a batch.

    Attributes:
        attribute: The attribute's name, or "id".
        values: `[batch, values]`: strings for categories, tags and string
            ids; integers for ints, timestamps (seconds), bools (0 and 1) and
            integer ids. Unused places hold "" or `padding`, anywhere.
        reverse: Keep the items that have none of the values.
        padding: Of integer values.
    """

    attribute: str
    values: tf.Tensor
    reverse: bool = False
    padding: int = -1


def clause_program(clauses: Sequence[Clause], schema: IndexSchema) -> tf.Tensor:
    """Programs that pass the items which satisfy all clauses.

    Args:
        clauses: At least one; all of one batch size.
        schema: Of the index that the programs are for.

    Returns:
        `[batch, words]` int64, as `lintf.ops.compile_filter` returns: for
        `retrieve`, `filter_mask` or `and_programs`.

    Raises:
        ValueError: There is no clause, an attribute is unknown or a float, or
            values are of the wrong type or rank.

    >>> schema = IndexSchema(dim=2)
    >>> seen = tf.constant([[7, 5, -1], [-1, -1, -1]], tf.int64)
    >>> clause_program([Clause("id", seen, reverse=True)], schema).shape
    TensorShape([2, 6])
    """
    if not clauses:
        raise ValueError("`clauses` must hold at least one clause")
    parts: list[tf.Tensor] = []
    for position, clause in enumerate(clauses):
        leaf = _leaf(clause, schema)
        parts.append(leaf)
        if clause.reverse:
            parts.append(_operator(_NOT, leaf))
        if position > 0:
            parts.append(_operator(_AND, leaf))
    return _with_header(tf.concat(parts, axis=1))


def and_programs(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Programs that pass what both of two programs pass.

    So a filter that the caller wrote and clauses that the model derived work
    together.

    Args:
        left: `[batch, words]` int64.
        right: `[batch, other words]` int64.

    Returns:
        `[batch, sum of both words]` int64 at most; one program passes on
        unchanged where the other is "no filter".
    """
    sides = []
    for side in (left, right):
        used = tf.bitwise.bitwise_and(side[:, 0], 0xFFFFFFFF)
        sides.append(tf.RaggedTensor.from_tensor(side, lengths=used)[:, 1:])
    both = (sides[0].row_lengths() > 0) & (sides[1].row_lengths() > 0)
    joint = tf.RaggedTensor.from_tensor(
        _operator(_AND, left), lengths=tf.cast(both, tf.int64)
    )
    body = tf.concat([*sides, joint], axis=1)
    length = body.row_lengths()
    header = (_VERSION << 32) + length + 1
    header = tf.where(length > 0, header, tf.zeros_like(header))
    return tf.concat([header[:, tf.newaxis], body.to_tensor(0)], axis=1)


def _operator(op: int, like: tf.Tensor) -> tf.Tensor:
    """An instruction without payload, `[batch, 1]`."""
    return tf.fill([tf.shape(like)[0], 1], tf.constant(op, tf.int64))


def _with_header(body: tf.Tensor) -> tf.Tensor:
    length = tf.shape(body, tf.int64)[1] + 1
    header = tf.ones_like(body[:, :1]) * ((_VERSION << 32) + length)
    return tf.concat([header, body], axis=1)


def _leaf(clause: Clause, schema: IndexSchema) -> tf.Tensor:
    """`[batch, 1 + payload]` int64: a test for any of the clause's values.

    Its length depends on the clause's shape alone: where a query has no value
    that an item could have, a constant takes the place of the test.
    """
    column, attribute = _find(clause.attribute, schema)
    values = _checked_values(clause, attribute, schema)
    if values.dtype == tf.string:
        used = values != ""
        stored, known = _stored_strings(values, attribute)
    else:
        used = values != clause.padding
        stored, known = values, _storable(values, attribute)
    valid = used & known
    any_valid = tf.reduce_any(valid, axis=1, keepdims=True)
    if attribute is not None and attribute.encoding == "bits":
        op = _BITS_ANY
        payload = _bit_word(stored, valid, attribute)
    else:
        op = _IN_SET
        # Repeats are allowed in a set: they fill the unused places.
        lowest = tf.constant(tf.int64.min, tf.int64)
        filler = tf.reduce_max(
            tf.where(valid, stored, lowest), axis=1, keepdims=True
        )
        payload = tf.sort(tf.where(valid, stored, filler), axis=1)
    payload = tf.where(any_valid, payload, tf.zeros_like(payload))

    # A reversed clause is negated afterwards.
    any_used = tf.reduce_any(used, axis=1, keepdims=True)
    is_empty = tf.zeros_like(any_used) if clause.reverse else ~any_used
    constant = tf.where(
        is_empty, tf.constant(_TRUE, tf.int64), tf.constant(_FALSE, tf.int64)
    )
    test = tf.constant(op | (column << 8), tf.int64)
    count = tf.shape(payload, tf.int64)[1]
    header = tf.where(any_valid, test, constant) + count * (1 << 32)
    return tf.concat([header, payload], axis=1)


def _find(name: str, schema: IndexSchema) -> tuple[int, Attribute | None]:
    if name == _ID:
        return _ID_COLUMN, None
    for column, attribute in enumerate(schema.attributes):
        if attribute.name == name:
            if attribute.kind == "float":
                raise ValueError(
                    f"a clause takes values that can be equal, but {name!r} "
                    "is a float; use a filter with a range"
                )
            return column, attribute
    known = ", ".join([_ID, *(a.name for a in schema.attributes)])
    raise ValueError(f"no attribute {name!r}; there are: {known}")


def _checked_values(
    clause: Clause, attribute: Attribute | None, schema: IndexSchema
) -> tf.Tensor:
    if attribute is None:
        is_text = schema.id_dtype == "string"
    else:
        is_text = attribute.kind in ("category", "tags")
    values = tf.convert_to_tensor(clause.values)
    if values.shape.rank != 2:
        raise ValueError(
            f"the values of clause {clause.attribute!r} must be [batch, "
            f"values], got the shape {values.shape}"
        )
    if is_text and values.dtype == tf.string:
        return values
    if not is_text and values.dtype.is_integer:
        return tf.cast(values, tf.int64)
    raise ValueError(
        f"the values of clause {clause.attribute!r} must be "
        f"{'strings' if is_text else 'integers'}, got {values.dtype.name}"
    )


def _storable(values: tf.Tensor, attribute: Attribute | None) -> tf.Tensor:
    """Which integers some item could have."""
    if attribute is None:
        return values != -1
    limits = np.iinfo(attribute.dtype)
    low, high = int(limits.min), int(limits.max)
    # One end stands for "missing".
    low, high = (low, high - 1) if low == 0 else (low + 1, high)
    return (values >= low) & (values <= high)


def _stored_strings(
    values: tf.Tensor, attribute: Attribute | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Codes, bits or fingerprints of strings, and which exist."""
    flat = tf.reshape(values, [-1])
    prints = tf.reshape(columns.fingerprint_tensor(flat), tf.shape(values))
    prints = tf.ensure_shape(prints, values.shape)
    if attribute is None or attribute.encoding == "hash":
        return prints, values != ""
    if not attribute.vocabulary:
        return prints, tf.zeros_like(prints, tf.bool)
    # A search among sorted fingerprints needs no table and so no initialiser;
    # the text is compared too, which makes it exact.
    with tf.init_scope():  # a constant, also while a graph is traced
        of_vocabulary = columns.fingerprints(attribute.vocabulary)
    order = np.argsort(of_vocabulary)
    place = tf.searchsorted(
        tf.constant(of_vocabulary[order]), tf.reshape(prints, [-1])
    )
    place = tf.minimum(tf.reshape(place, tf.shape(values)), len(order) - 1)
    words = tf.constant([attribute.vocabulary[i] for i in order])
    first = FIRST_BIT if attribute.encoding == "bits" else FIRST_CODE
    stored = tf.constant(order.astype(np.int64) + first)
    return tf.gather(stored, place), tf.gather(words, place) == values


def _bit_word(
    bits: tf.Tensor, valid: tf.Tensor, attribute: Attribute
) -> tf.Tensor:
    """`[batch, 1]` int64 with the valid ones of the bits `[batch, n]` set."""
    num_bits = len(attribute.vocabulary) + FIRST_BIT
    places = tf.range(num_bits, dtype=tf.int64)
    is_set = tf.reduce_any(
        (bits[:, :, tf.newaxis] == places) & valid[:, :, tf.newaxis], axis=1
    )
    powers = tf.bitwise.left_shift(tf.ones_like(places), places)
    return tf.reduce_sum(
        tf.where(is_set, powers, tf.zeros_like(powers)), axis=1, keepdims=True
    )
