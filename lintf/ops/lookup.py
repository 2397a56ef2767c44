# SPDX-License-Identifier: Apache-2.0
"""Rows of an index by item id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from lintf.ops import library
from lintf.ops.index import handle_of, items_handle
from lintf.ops.retrieve import missing_attr

_ops = library.load()


class LookedUp(NamedTuple):
    """Rows by id.

    Attributes:
        embedding: `[batch, dim]` float32, 0 where not found.
        values: What each column holds, `[batch]` or `[batch, width]`; the
            missing value where not found.
        found: `[batch]` bool.
        row: `[batch]` int64, -1 where not found.
    """

    embedding: tf.Tensor
    values: list[tf.Tensor]
    found: tf.Tensor
    row: tf.Tensor


def lookup(
    id: Any,
    resource: Any,
    ids: Any,
    embeddings: Any,
    num_rows: Any,
    columns: Sequence[Any],
    *,
    missing: Sequence[Any] | None = None,
    scales: Any = None,
    codes: Any = None,
    dim: int = 0,
    name: str | None = None,
) -> LookedUp:
    """Reads rows of an index by item id, in one consistent read.

    Args:
        id: `[batch]` int64 item ids.
        resource: The `IndexResource`.
        ids: `[capacity]` int64 variable, -1 in rows without an item.
        embeddings: `[capacity, dim]` float32, bfloat16, float16 or int8
            variable; None for an index of codes alone, whose embeddings are
            0.
        num_rows: `[]` int64 variable: rows in use.
        columns: Attribute variables, `[capacity]` or `[capacity, width]`.
        missing: What stands for missing in each column; without it NaN
            (float), the lowest value (signed integers), 0 (unsigned).
        scales: `[capacity]` float32 variable, for int8 embeddings.
        codes: The codes; needed without embeddings.
        dim: Of the embeddings; needed without them.
        name: Of the operation.

    Raises:
        ValueError: Neither `embeddings` nor `codes`.
        tf.errors.FailedPreconditionError: A variable has no value, or two
            rows have the same id.

    >>> from lintf.ops import IndexResource
    >>> looked = lookup(
    ...     [80, 5],
    ...     IndexResource(),
    ...     ids=tf.Variable([70, 80], dtype=tf.int64),
    ...     embeddings=tf.Variable([[3.0, 0.0], [9.0, 0.0]]),
    ...     num_rows=tf.Variable(2, dtype=tf.int64),
    ...     columns=[],
    ... )
    >>> looked.embedding.numpy().tolist(), looked.found.numpy().tolist()
    ([[9.0, 0.0], [0.0, 0.0]], [True, False])
    """
    types = [c.dtype for c in columns]
    looked = _ops.lintf_lookup(
        tf.convert_to_tensor(id, tf.int64),
        handle_of(resource),
        handle_of(ids),
        items_handle(embeddings, codes),
        handle_of(num_rows),
        [handle_of(c) for c in columns],
        [] if scales is None else [handle_of(scales)],
        [] if codes is None else [handle_of(codes)],
        value_types=types,
        value_missing=missing_attr(types, missing),
        dim=dim,
        name=name,
    )
    return LookedUp(
        looked.embedding, list(looked.values), looked.found, looked.row
    )
