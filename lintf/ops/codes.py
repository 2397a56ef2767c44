# SPDX-License-Identifier: Apache-2.0
"""1-bit Sign-OPORP codes, and search by them, on plain tensors."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from lintf.ops import library
from lintf.ops.knn import Neighbors, mask_rows

_ops = library.load()


def sign_oporp(
    vectors: Any,
    *,
    bins: int,
    repeats: int = 1,
    seed: int = 0,
    name: str | None = None,
) -> tf.Tensor:
    """Makes 1-bit codes of vectors (Sign-OPORP, arXiv 2302.03505).

    A repeat permutes the coordinates, multiplies each by a random sign and
    sums them in `bins` bins of equal length (they differ by one where the
    dimension is no multiple); a bit is set where its sum is at least 0. With
    `bins` equal to the dimension a repeat is just the signs of the
    coordinates, so longer codes need repeats of fewer bins: an eighth to a
    sixteenth of the dimension keeps the most neighbours.

    Args:
        vectors: `[n, dim]` float32.
        bins: Of one repeat, 1 to `dim`.
        repeats: `bins * repeats`, the bits of a code, is a multiple of 64.
        seed: Of the permutations and signs; those of queries and items must
            be the same.
        name: Of the operation.

    Returns:
        `[n, bins * repeats / 64]` int64; bit b is bit b % 64 of word b // 64.

    Raises:
        tf.errors.InvalidArgumentError: `bins` and `repeats` do not fit each
            other or the vectors.

    >>> codes = sign_oporp([[1.0, -2.0, 3.0, -4.0]], bins=2, repeats=32)
    >>> codes.shape.as_list(), codes.dtype.name
    ([1, 1], 'int64')
    """
    return _ops.lintf_sign_oporp(
        tf.convert_to_tensor(vectors, tf.float32),
        bins=bins,
        repeats=repeats,
        seed=seed,
        name=name,
    ).codes


def sign_oporp_signs(
    vectors: Any,
    *,
    bins: int,
    repeats: int = 1,
    seed: int = 0,
    name: str | None = None,
) -> tf.Tensor:
    """The bits of `sign_oporp` as +1 and -1, to be trained through.

    The inner product of two rows is `2 * matched bits - bits`. The sign has no
    useful gradient of its own; here it passes straight through to the sums,
    where they lie in [-1, 1], and from there exactly to the vectors.

    Args:
        vectors: `[n, dim]` float32.
        bins: As in `sign_oporp`.
        repeats: As there.
        seed: As there.
        name: Of the operation.

    Returns:
        `[n, bins * repeats]` float32 of +1 and -1.

    Raises:
        tf.errors.InvalidArgumentError: As `sign_oporp`.

    >>> signs = sign_oporp_signs([[1.0, 2.0]], bins=1, repeats=64)
    >>> sorted(set(abs(signs.numpy()).ravel().tolist()))
    [1.0]
    """
    samples = _ops.lintf_sign_oporp(
        tf.convert_to_tensor(vectors, tf.float32),
        bins=bins,
        repeats=repeats,
        seed=seed,
        name=name,
    ).samples
    return _straight_through_sign(samples)


@tf.custom_gradient
def _straight_through_sign(samples: tf.Tensor) -> Any:
    signs = tf.where(samples >= 0, 1.0, -1.0)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.abs(samples) <= 1, upstream, 0)

    return signs, gradient


@tf.RegisterGradient("Lintf>SignOporp")
def _sign_oporp_gradient(
    op: Any, codes_gradient: Any, samples_gradient: tf.Tensor
) -> tf.Tensor:
    """The samples are linear in the vectors: their matrix, transposed."""
    vectors = op.inputs[0]
    dim = tf.shape(vectors)[1]
    matrix = _ops.lintf_sign_oporp(
        tf.eye(dim),
        bins=op.get_attr("bins"),
        repeats=op.get_attr("repeats"),
        seed=op.get_attr("seed"),
    ).samples
    return tf.matmul(samples_gradient, matrix, transpose_b=True)


def quantized_knn(
    queries: Any,
    items: Any,
    codes: Any,
    mask: Any,
    k: int,
    *,
    shortlist: int,
    bins: int,
    repeats: int = 1,
    seed: int = 0,
    scoring: str = "asymmetric",
    metric: str = "inner_product",
    name: str | None = None,
) -> Neighbors:
    """Finds about the k best items that pass a mask, by codes first.

    LiNR's V3 (arXiv 2407.13218): the `shortlist` best of the items that pass,
    by their codes, are scored exactly. Where no more items pass than that,
    the result is that of `masked_knn`. Scores have its
    gradients, too; the selection has none.

    Args:
        queries: `[batch, dim]` float32, finite.
        items: `[items, dim]` float32.
        codes: `[items, bins * repeats / 64]` int64, from `sign_oporp`.
        mask: `[items]`, `[1, items]` or `[batch, items]` bool: true where an
            item may be returned.
        k: Results a query, at least 1; may exceed the number of items.
        shortlist: Items that are scored exactly; raised to `k`.
        bins: Of the codes.
        repeats: Of the codes.
        seed: Of the codes.
        scoring: "symmetric" counts matched bits; "asymmetric" keeps the
            query's sums in full and only the items' as signs, which finds more
            at the same shortlist.
        metric: "inner_product", or "l2": minus the squared Euclidean distance.
        name: Of the operation.

    Raises:
        tf.errors.InvalidArgumentError: A query holds NaN or an infinity, or
            the codes are not such.
        ValueError: Shapes that are known in advance do not fit each other.

    >>> items = tf.constant([[3.0, 0.0], [9.0, 0.0], [5.0, 1.0]])
    >>> found = quantized_knn(
    ...     [[1.0, 0.0]],
    ...     items,
    ...     sign_oporp(items, bins=1, repeats=64),
    ...     mask=[True, False, True],
    ...     k=1,
    ...     shortlist=2,
    ...     bins=1,
    ...     repeats=64,
    ... )
    >>> found.indices.numpy().tolist(), found.scores.numpy().tolist()
    ([[2]], [[5.0]])
    """
    found = _ops.lintf_quantized_knn(
        tf.convert_to_tensor(queries, tf.float32),
        tf.convert_to_tensor(items, tf.float32),
        tf.convert_to_tensor(codes, tf.int64),
        mask_rows(mask),
        k=k,
        metric=metric,
        shortlist=shortlist,
        bins=bins,
        repeats=repeats,
        seed=seed,
        scoring=scoring,
        name=name,
    )
    return Neighbors(found.scores, found.indices, found.num_results)
