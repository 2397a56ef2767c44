# SPDX-License-Identifier: Apache-2.0
"""Filters: text to programs, and programs to masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from lintf.ops import library
from lintf.ops.index import handle_of

if TYPE_CHECKING:
    from lintf.index.schema import IndexSchema

_ops = library.load()


class FilterMask(NamedTuple):
    """Which rows pass.

    Attributes:
        bits: `[batch, ceil(num_rows / 64)]` uint64; bit i of word w is row
            64 * w + i, and 0 past the last row.
        num_passing: `[batch]` int64, how many rows pass.
    """

    bits: tf.Tensor
    num_passing: tf.Tensor


def schema_attrs(schema: IndexSchema) -> dict[str, Any]:
    """The schema as attributes of `Lintf>CompileFilter`."""
    attributes = schema.attributes
    return {
        "names": [a.name for a in attributes],
        "kinds": [a.kind for a in attributes],
        "encodings": [a.encoding for a in attributes],
        "types": [a.dtype for a in attributes],
        "widths": [a.width for a in attributes],
        "vocabularies": [word for a in attributes for word in a.vocabulary],
        "vocabulary_sizes": [len(a.vocabulary) for a in attributes],
        "string_ids": schema.id_dtype == "string",
        "max_length": schema.limits.max_length,
        "max_depth": schema.limits.max_depth,
        "max_words": schema.limits.max_words,
    }


def compile_filter(
    filters: Any,
    schema: IndexSchema,
    *,
    pad_words: int = 0,
    name: str | None = None,
) -> tf.Tensor:
    """Compiles filters, one for each query, into programs.

    Args:
        filters: `[batch]` string; "" means no filter.
        schema: Of the index that the programs are for.
        pad_words: Words of each program; 0 means as many as the longest one
            of this batch needs.
        name: Of the operation.

    Returns:
        `[batch, words]` int64.

    Raises:
        tf.errors.InvalidArgumentError: A filter is malformed, does not fit
            the schema or exceeds a limit. The message says which one, where,
            and what was expected.

    >>> from lintf.index.schema import Attribute, IndexSchema
    >>> schema = IndexSchema(dim=2, attributes=(Attribute("year", "int"),))
    >>> programs = compile_filter(["year >= 1990", ""], schema)
    >>> programs.dtype.name, int(tf.reduce_sum(tf.abs(programs[1])))
    ('int64', 0)
    """
    return _ops.lintf_compile_filter(
        tf.convert_to_tensor(filters, tf.string),
        pad_words=pad_words,
        name=name,
        **schema_attrs(schema),
    )


def filter_mask(
    programs: Any,
    resource: Any,
    ids: Any,
    num_rows: Any,
    columns: Sequence[Any],
    *,
    name: str | None = None,
) -> FilterMask:
    """Evaluates compiled filters over an index.

    Args:
        programs: `[batch, words]` int64, from `compile_filter`.
        resource: The `IndexResource`.
        ids: `[capacity]` int64 variable, -1 in rows without an item.
        num_rows: `[]` int64 variable.
        columns: The attribute variables in schema order.
        name: Of the operation.

    Raises:
        tf.errors.InvalidArgumentError: A program is malformed or does not fit
            the columns.

    >>> from lintf.index.schema import Attribute, IndexSchema
    >>> from lintf.ops import IndexResource
    >>> schema = IndexSchema(dim=2, attributes=(Attribute("year", "int"),))
    >>> mask = filter_mask(
    ...     compile_filter(["year >= 1990"], schema),
    ...     IndexResource(),
    ...     tf.Variable([7, 8, 9], dtype=tf.int64),
    ...     tf.Variable(3, dtype=tf.int64),
    ...     [tf.Variable([1995, 1989, 1990], dtype=tf.int64)],
    ... )
    >>> bin(mask.bits.numpy()[0, 0]), mask.num_passing.numpy().tolist()
    ('0b101', [2])
    """
    mask = _ops.lintf_filter_mask(
        tf.convert_to_tensor(programs, tf.int64),
        handle_of(resource),
        handle_of(ids),
        handle_of(num_rows),
        [handle_of(c) for c in columns],
        name=name,
    )
    return FilterMask(mask.bits, mask.num_passing)
