# SPDX-License-Identifier: Apache-2.0
"""Filtered exact nearest neighbours on plain tensors, with gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from lintf.ops import library

_ops = library.load()


class Neighbors(NamedTuple):
    """The best items of each query, best first.

    Attributes:
        scores: `[batch, k]` float32, -inf in unused slots.
        indices: `[batch, k]` int64 rows of `items`, -1 in unused slots.
        num_results: `[batch]` int32, slots in use.
    """

    scores: tf.Tensor
    indices: tf.Tensor
    num_results: tf.Tensor


def masked_knn(
    queries: Any,
    items: Any,
    mask: Any,
    k: int,
    *,
    metric: str = "inner_product",
    name: str | None = None,
) -> Neighbors:
    """Finds the k best items that pass a mask: exact and deterministic.

    LiNR's V1 (arXiv 2407.13218), but that an item whose mask
    is false is never returned, where the paper gives it the score 0. Equal
    scores come by lower index.

    Scores are differentiable in `queries` and `items`; which items were
    selected is not. The gradient of `items` is a `tf.IndexedSlices` of the
    selected rows.

    Args:
        queries: `[batch, dim]` float32, finite.
        items: `[items, dim]` float32.
        mask: `[items]`, `[1, items]` or `[batch, items]` bool: true where an
            item may be returned.
        k: Results a query, at least 1; may exceed the number of items.
        metric: "inner_product", or "l2": minus the squared Euclidean distance.
        name: Of the operation.

    Raises:
        tf.errors.InvalidArgumentError: A query holds NaN or an infinity.
        ValueError: Shapes that are known in advance do not fit each other.

    >>> found = masked_knn(
    ...     queries=[[1.0, 0.0]],
    ...     items=[[3.0, 0.0], [9.0, 0.0], [5.0, 1.0]],
    ...     mask=[True, False, True],
    ...     k=3,
    ... )
    >>> found.indices.numpy().tolist(), found.scores.numpy().tolist()
    ([[2, 0, -1]], [[5.0, 3.0, -inf]])
    """
    found = _ops.lintf_masked_knn(
        tf.convert_to_tensor(queries, tf.float32),
        tf.convert_to_tensor(items, tf.float32),
        mask_rows(mask),
        k=k,
        metric=metric,
        name=name,
    )
    return Neighbors(found.scores, found.indices, found.num_results)


def prefiltered_knn(
    queries: Any,
    items: Any,
    mask: Any,
    k: int,
    *,
    metric: str = "inner_product",
    name: str | None = None,
) -> Neighbors:
    """Finds the k best items that pass a mask, scoring no others.

    LiNR's V2 (arXiv 2407.13218): the same results, bit by bit, and the same
    gradients as `masked_knn`, which scores an item that passes for any query
    of the batch for all of them. Faster where few items
    pass and the masks differ.

    Args:
        queries: `[batch, dim]` float32, finite.
        items: `[items, dim]` float32.
        mask: `[items]`, `[1, items]` or `[batch, items]` bool: true where an
            item may be returned.
        k: Results a query, at least 1; may exceed the number of items.
        metric: "inner_product", or "l2": minus the squared Euclidean distance.
        name: Of the operation.

    Raises:
        tf.errors.InvalidArgumentError: A query holds NaN or an infinity.
        ValueError: Shapes that are known in advance do not fit each other.

    >>> found = prefiltered_knn(
    ...     queries=[[1.0, 0.0]],
    ...     items=[[3.0, 0.0], [9.0, 0.0], [5.0, 1.0]],
    ...     mask=[True, False, True],
    ...     k=1,
    ... )
    >>> found.indices.numpy().tolist(), found.scores.numpy().tolist()
    ([[2]], [[5.0]])
    """
    found = _ops.lintf_prefiltered_knn(
        tf.convert_to_tensor(queries, tf.float32),
        tf.convert_to_tensor(items, tf.float32),
        mask_rows(mask),
        k=k,
        metric=metric,
        name=name,
    )
    return Neighbors(found.scores, found.indices, found.num_results)


def mask_rows(mask: Any) -> tf.Tensor:
    """A mask as the operations take it: `[1 or batch, items]` bool."""
    mask = tf.convert_to_tensor(mask, tf.bool)
    return mask[tf.newaxis] if mask.shape.rank == 1 else mask


@tf.RegisterGradient("Lintf>PrefilteredKnn")
@tf.RegisterGradient("Lintf>MaskedKnn")
@tf.RegisterGradient("Lintf>QuantizedKnn")
def _knn_gradient(
    op: Any, scores_gradient: tf.Tensor, *unused: tf.Tensor
) -> list[Any]:
    """Gradients of the scores q·x, or -|q - x|^2, in q and in x."""
    queries, items = op.inputs[:2]
    indices = op.outputs[1]
    used = indices >= 0
    # An unused slot must not contribute, not even a gradient of NaN.
    slot_gradient = tf.where(used, scores_gradient, 0)[..., tf.newaxis]
    selected = tf.gather(items, tf.maximum(indices, 0))
    if op.get_attr("metric") in ("l2", b"l2"):
        to_item = 2 * (queries[:, tf.newaxis] - selected)
        to_query = -to_item
    else:
        to_item = tf.broadcast_to(queries[:, tf.newaxis], tf.shape(selected))
        to_query = selected
    # The items of unused slots are not those of row 0: their values could be
    # infinite.
    to_query = tf.where(used[..., tf.newaxis], to_query, 0)
    queries_gradient = tf.reduce_sum(slot_gradient * to_query, axis=1)
    items_gradient = tf.IndexedSlices(
        tf.boolean_mask(slot_gradient * to_item, used),
        tf.boolean_mask(indices, used),
        tf.shape(items, out_type=tf.int64),
    )
    # Neither the mask nor the codes have a gradient.
    return [queries_gradient, items_gradient] + [None] * (len(op.inputs) - 2)
