# SPDX-License-Identifier: Apache-2.0
"""Search in an index: filter, score, select and gather in one operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from lintf.ops import library
from lintf.ops.index import code_attrs, handle_of, items_handle

if TYPE_CHECKING:
    from lintf.index.schema import Quantization

_ops = library.load()


class Retrieved(NamedTuple):
    """The best rows of each query, best first.

    Attributes:
        ids: `[batch, k]` int64, -1 in unused slots.
        scores: `[batch, k]` float32, -inf in unused slots.
        num_results: `[batch]` int32, slots in use.
        rows: `[batch, k]` int64 rows of the index, -1 in unused slots.
        values: For each returned column, what it holds in those rows:
            `[batch, k]`, or `[batch, k, width]` of a column of rank 2; the
            missing value in unused slots.
    """

    ids: tf.Tensor
    scores: tf.Tensor
    num_results: tf.Tensor
    rows: tf.Tensor
    values: list[tf.Tensor]


def retrieve(
    queries: Any,
    programs: Any,
    resource: Any,
    ids: Any,
    embeddings: Any,
    num_rows: Any,
    columns: Sequence[Any],
    *,
    k: int,
    metric: str = "inner_product",
    return_columns: Sequence[int] = (),
    return_missing: Sequence[Any] | None = None,
    algorithm: str = "auto",
    scales: Any = None,
    codes: Any = None,
    quantization: Quantization | None = None,
    dim: int = 0,
    costs: Sequence[float] = (),
    name: str | None = None,
) -> Retrieved:
    """Finds the k best rows of an index that pass a filter.

    Reads the variables in place, in one consistent read. A query's results
    are the same bits alone and in any batch. Equal scores come by lower row.

    The algorithms are LiNR's (section 3.1 of arXiv 2407.13218): "masked" and
    "prefiltered" are exact and give the same bits; "quantized" selects a
    shortlist by 1-bit codes and rescores it. "auto" takes codes, where there
    are any, for queries for which they cost less, and otherwise the cheaper
    of the exact two for each tile of rows.

    Args:
        queries: `[batch, dim]` float32, finite.
        programs: `[batch, words]` int64, from `compile_filter`.
        resource: The `IndexResource`.
        ids: `[capacity]` int64 variable, -1 in rows without an item.
        embeddings: `[capacity, dim]` float32, bfloat16, float16 or int8
            variable; None for an index of codes alone, whose scores are
            those of the codes.
        num_rows: `[]` int64 variable: rows in use.
        columns: The attribute variables in schema order.
        k: Results a query, at least 1; may exceed the number of rows.
        metric: "inner_product"; "l2": minus the squared Euclidean distance;
            "cosine": the inner product with the query scaled to length 1,
            for embeddings of length 1.
        return_columns: Which of `columns` come back with the results.
        return_missing: What stands for missing in each of them; without it
            NaN (float), the lowest value (signed integers), 0 (unsigned).
        algorithm: "auto", "masked", "prefiltered" or "quantized".
        scales: `[capacity]` float32 variable, for int8 embeddings.
        codes: `[ceil(capacity / 64), words, 64]` int64 variable, filled by
            `assign_codes`.
        quantization: How the codes were made and are used; goes with `codes`.
        dim: Of the queries; needed with `codes`.
        costs: From `planner_costs`; without them, those that are compiled in.
        name: Of the operation.

    Raises:
        ValueError: `codes` without `quantization`, or the other way round;
            neither `embeddings` nor `codes`.
        tf.errors.InvalidArgumentError: A query is not finite, a program is
            malformed, the algorithm needs codes or embeddings that are not
            there, or shapes or dtypes do not fit each other.
        tf.errors.FailedPreconditionError: A variable has no value, or two
            rows have the same id.

    >>> from lintf.index.schema import Attribute, IndexSchema
    >>> from lintf.ops import IndexResource, compile_filter
    >>> schema = IndexSchema(dim=2, attributes=(Attribute("year", "int"),))
    >>> found = retrieve(
    ...     [[1.0, 0.0]],
    ...     compile_filter(["year >= 1990"], schema),
    ...     IndexResource(),
    ...     ids=tf.Variable([70, 80, 90], dtype=tf.int64),
    ...     embeddings=tf.Variable([[3.0, 0.0], [9.0, 0.0], [5.0, 1.0]]),
    ...     num_rows=tf.Variable(3, dtype=tf.int64),
    ...     columns=[tf.Variable([1995, 1989, 1990], dtype=tf.int64)],
    ...     k=2,
    ...     return_columns=[0],
    ... )
    >>> found.ids.numpy().tolist(), found.values[0].numpy().tolist()
    ([[90, 70]], [[1990, 1995]])
    """
    types = [columns[c].dtype for c in return_columns]
    found = _ops.lintf_retrieve(
        tf.convert_to_tensor(queries, tf.float32),
        tf.convert_to_tensor(programs, tf.int64),
        handle_of(resource),
        handle_of(ids),
        items_handle(embeddings, codes),
        handle_of(num_rows),
        [handle_of(c) for c in columns],
        [] if scales is None else [handle_of(scales)],
        [] if codes is None else [handle_of(codes)],
        k=k,
        metric=metric,
        return_columns=list(return_columns),
        return_types=types,
        return_missing=missing_attr(types, return_missing),
        algorithm=algorithm,
        costs=list(costs),
        name=name,
        **code_attrs(codes, quantization, dim),
    )
    return Retrieved(
        found.result_ids,
        found.scores,
        found.num_results,
        found.rows,
        list(found.values),
    )


def missing_attr(
    types: Sequence[tf.DType], missing: Sequence[Any] | None
) -> list[int]:
    """Missing values as the operations take them.

    Raises:
        ValueError: There is not one for each type.
    """
    if missing is None:
        return []
    if len(missing) != len(types):
        raise ValueError(
            f"there must be one missing value for each of the {len(types)} "
            f"columns, got {len(missing)}"
        )
    # NaN is the only one that a float column has.
    return [
        0 if dtype.is_floating else int(value)
        for dtype, value in zip(types, missing, strict=True)
    ]
