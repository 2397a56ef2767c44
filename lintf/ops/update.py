# SPDX-License-Identifier: Apache-2.0
"""Live updates: upserts and deletes in an index that is being searched.

LiNR, section 4 (arXiv 2407.13218). What differs: deletes leave holes that
later inserts fill, and the change log's offsets move on in the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from lintf.ops import library
from lintf.ops.index import code_attrs, handle_of, items_handle

if TYPE_CHECKING:
    from lintf.index.schema import Quantization

_ops = library.load()

# What became of a row of a batch.
UNCHANGED = 0
INSERTED = 1
REPLACED = 2
DELETED = 3
NOT_FOUND = 4


class LogPosition(NamedTuple):
    """Where the rows of a batch stand in the change log.

    Attributes:
        partition: `[batch]` int64.
        previous_offset: `[batch]` int64, the offset that the row follows: that
            of the row before it in its partition of the batch, else the
            stored one; -1 at the start of the log.
        offset: `[batch]` int64; -1 for a row that is not from the log, whose
            other numbers are not looked at.
    """

    partition: Any
    previous_offset: Any
    offset: Any


class Updated(NamedTuple):
    """What became of a batch.

    Attributes:
        status: `[batch]` int32, as if the rows were applied one after
            another: `UNCHANGED` (a delete of no item, or no item at all),
            `INSERTED`, `REPLACED`, `DELETED`, or `NOT_FOUND` (attributes of no
            item).
        num_rows: `[batch]` int64, rows in use afterwards.
    """

    status: tf.Tensor
    num_rows: tf.Tensor


def update(
    id: Any,
    delete: Any,
    embedding: Any,
    values: Sequence[Any],
    log: LogPosition | None,
    resource: Any,
    ids: Any,
    embeddings: Any,
    num_rows: Any,
    log_offsets: Any,
    columns: Sequence[Any],
    *,
    scales: Any = None,
    codes: Any = None,
    quantization: Quantization | None = None,
    dim: int = 0,
    metric: str = "inner_product",
    name: str | None = None,
) -> Updated:
    """Upserts and deletes items; nothing has changed after an error.

    Each row becomes visible to searches and look-ups as a whole. Of several
    rows for one item the last one counts. Searches are not waited for. Dense
    reads of the variables are no snapshots: they may see later updates.

    Args:
        id: `[batch]` int64 item ids. -1 changes nothing but the offset, and
            needs one.
        delete: `[batch]` bool; the rest of such a row is not looked at.
        embedding: `[batch, dim]` float32, scaled to length 1 here if the
            metric is cosine, then rounded to the storage dtype; None if
            attributes alone change.
        values: What each column will hold, `[batch]` or `[batch, width]` of
            the column's dtype.
        log: Where the rows come from; None for none of them from the log.
        resource: The `IndexResource`.
        ids: As in `retrieve`, and so are the others but `log_offsets`.
        embeddings: As there; None for an index of codes alone.
        num_rows: As there.
        log_offsets: `[partitions]` int64 variable.
        columns: As there.
        scales: As there.
        codes: As there.
        quantization: As there.
        dim: How many numbers of an embedding, the first, are coded; needed
            with `codes`.
        metric: As there.
        name: Of the operation.

    Raises:
        ValueError: Something is missing.
        tf.errors.InvalidArgumentError: A row does not fit; the message names
            it.
        tf.errors.FailedPreconditionError: The batch does not follow the
            stored offset.
        tf.errors.ResourceExhaustedError: The index has too few rows left.

    >>> from lintf.ops import IndexResource
    >>> ids = tf.Variable([7, -1], dtype=tf.int64)
    >>> done = update(
    ...     [8, 7],
    ...     [False, True],
    ...     [[1.0], [0.0]],
    ...     [],
    ...     None,
    ...     IndexResource(),
    ...     ids=ids,
    ...     embeddings=tf.Variable([[2.0], [0.0]]),
    ...     num_rows=tf.Variable(1, dtype=tf.int64),
    ...     log_offsets=tf.Variable([-1], dtype=tf.int64),
    ...     columns=[],
    ... )
    >>> done.status.numpy().tolist(), ids.numpy().tolist()
    ([1, 3], [8, -1])
    """
    id = tf.convert_to_tensor(id, tf.int64)
    if log is None:
        none = tf.fill(tf.shape(id), tf.constant(-1, tf.int64))
        log = LogPosition(none, none, none)
    attrs = code_attrs(codes, quantization, dim)
    del attrs["shortlist"]
    if embedding is None:
        vectors = []
    else:
        vectors = [tf.convert_to_tensor(embedding, tf.float32)]
    if len(values) != len(columns):
        raise ValueError(
            f"there must be values for each of the {len(columns)} columns, "
            f"got {len(values)}"
        )
    done = _ops.lintf_update(
        id,
        tf.convert_to_tensor(delete, tf.bool),
        vectors,
        [
            tf.convert_to_tensor(v, _dtype(c))
            for v, c in zip(values, columns, strict=True)
        ],
        *(tf.convert_to_tensor(part, tf.int64) for part in log),
        handle_of(resource),
        handle_of(ids),
        items_handle(embeddings, codes),
        handle_of(num_rows),
        handle_of(log_offsets),
        [handle_of(c) for c in columns],
        [] if scales is None else [handle_of(scales)],
        [] if codes is None else [handle_of(codes)],
        metric=metric,
        name=name,
        **attrs,
    )
    return Updated(done.status, done.rows)


def log_offsets(
    resource: Any,
    ids: Any,
    num_rows: Any,
    log_offsets: Any,
    *,
    name: str | None = None,
) -> tf.Tensor:
    """Reads how far an index has applied the change log.

    Args:
        resource: The `IndexResource`.
        ids: `[capacity]` int64 variable.
        num_rows: `[]` int64 variable.
        log_offsets: `[partitions]` int64 variable.
        name: Of the operation.

    Returns:
        `[partitions]` int64: the last offset that the index holds, -1 for
        none; never in the middle of an update.
    """
    return _ops.lintf_log_offsets(
        handle_of(resource),
        handle_of(ids),
        handle_of(num_rows),
        handle_of(log_offsets),
        name=name,
    )


def _dtype(column: Any) -> Any:
    return column.dtype if isinstance(column, tf.Variable) else None
