# SPDX-License-Identifier: Apache-2.0
"""How embeddings are stored, and what rounding them costs.

| dtype | a coordinate x is stored as | at most off by |
|---|---|---|
| float32 | itself | 0 |
| bfloat16 | rounded to nearest even | `2**-8 * abs(x) + 2**-134` |
| float16 | rounded to nearest even | `2**-11 * abs(x) + 2**-25` |
| int8 | a number from -127 to 127, times the row's scale | half the scale |

The scale of a row is its greatest absolute coordinate over 127.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

# The largest finite number of each dtype that is narrower than float32.
_LARGEST = {
    "float16": 65504.0,
    "bfloat16": float(tf.bfloat16.max),
}
_LEVELS = 127
_QUERY_LEVELS = 256 * _LEVELS + 127
# A scale below this has lost bits, and its row is stored as zeros.
_LEAST_SCALE = np.finfo(np.float32).tiny


class StoredRows(NamedTuple):
    """Rows as the variables of an index hold them.

    Attributes:
        values: `[n, dim]` of the index's dtype.
        scales: `[n]` float32 for int8, else None.
    """

    values: np.ndarray
    scales: np.ndarray | None


def encode(vectors: np.ndarray, dtype: str) -> StoredRows:
    """Rounds vectors to the dtype that they are stored in.

    Args:
        vectors: `[n, dim]` float32, finite.
        dtype: "float32", "bfloat16", "float16" or "int8".

    Raises:
        ValueError: A number is too large for the dtype.

    >>> rows = encode(np.float32([[0.5, -1.0, 0.25]]), "int8")
    >>> rows.values.tolist(), float(rows.scales[0] * 127)
    ([[64, -127, 32]], 1.0)
    """
    if dtype == "float32":
        return StoredRows(vectors, None)
    if dtype == "int8":
        return _encode_int8(vectors)
    with np.errstate(over="ignore"):
        values = vectors.astype(tf.dtypes.as_dtype(dtype).as_numpy_dtype)
    finite = np.isfinite(values.astype(np.float32))
    if not finite.all():
        row, place = np.argwhere(~finite)[0]
        raise ValueError(
            f"embeddings must fit {dtype}, which ends at "
            f"{_LARGEST[dtype]:g}, but that of item {row} has "
            f"{vectors[row, place]:g} at dimension {place}; scale them down, "
            "or store float32"
        )
    return StoredRows(values, None)


def decode(values: np.ndarray, scales: np.ndarray | None = None) -> np.ndarray:
    """The float32 vectors that stored rows stand for.

    Args:
        values: `[n, dim]` of any storage dtype.
        scales: `[n]` float32, for int8.
    """
    vectors = values.astype(np.float32)
    if scales is None:
        return vectors
    return vectors * scales[:, np.newaxis]


def decode_tensor(values: tf.Tensor, scales: tf.Tensor | None) -> tf.Tensor:
    """`decode` inside a graph, by stock operations."""
    vectors = tf.cast(values, tf.float32)
    if scales is None:
        return vectors
    return vectors * scales[:, tf.newaxis]


def error_bound(vectors: np.ndarray, dtype: str) -> np.ndarray:
    """How far stored coordinates may be from the given ones: `[n, dim]`.

    Args:
        vectors: `[n, dim]` what was given.
        dtype: That it is stored in.
    """
    size = np.abs(vectors.astype(np.float64))
    if dtype == "float32":
        return np.zeros_like(size)
    if dtype == "bfloat16":
        return size * 2.0**-8 + 2.0**-134
    if dtype == "float16":
        return size * 2.0**-11 + 2.0**-25
    # The scale itself is rounded to float32: by less than a thousandth.
    largest = size.max(axis=1, keepdims=True, initial=0.0)
    bound = largest / (2 * _LEVELS) * 1.001
    zeros = largest < 1.001 * _LEVELS * _LEAST_SCALE
    return np.broadcast_to(np.where(zeros, largest, bound), size.shape)


def query_error_bound(query: np.ndarray, dtype: str) -> float:
    """How far the search may be from each coordinate of a query.

    Against int8 rows the query is rounded to 16 bits, so that products can be
    summed as integers.

    Args:
        query: `[dim]`, normalised if the metric is cosine.
        dtype: Of the stored embeddings.
    """
    if dtype != "int8":
        return 0.0
    return float(np.abs(query).max(initial=0.0)) / (2 * _QUERY_LEVELS) * 1.001


def _encode_int8(vectors: np.ndarray) -> StoredRows:
    largest = np.abs(vectors).max(axis=1, initial=0.0)
    scales = (largest / np.float32(_LEVELS)).astype(np.float32)
    scales = np.where(scales < _LEAST_SCALE, np.float32(0), scales)
    divisors = np.where(scales > 0, scales, np.float32(1))[:, np.newaxis]
    levels = np.rint(vectors / divisors)
    levels[scales == 0] = 0
    return StoredRows(levels.astype(np.int8), scales)
