# SPDX-License-Identifier: Apache-2.0
"""The projection of Sign-OPORP codes as a matrix.

The operations never make it: it is what stock TensorFlow and plain numpy need
to make the same codes. The random numbers are SplitMix64's, as
custom_ops/core/sign_oporp.h describes them.
"""

from __future__ import annotations

import numpy as np

from lintf.index.schema import WORD_BITS, Quantization

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def projection(quantization: Quantization, dim: int) -> np.ndarray:
    """Samples are vectors times this matrix; a code is their signs.

    In the columns of one repeat every row has one entry that is not 0: each
    coordinate is in one bin.

    Returns:
        `[dim, bits]` int8: 1, -1 and 0.

    >>> matrix = projection(Quantization(bins=4, repeats=16), dim=8)
    >>> matrix.shape, np.abs(matrix).sum(axis=1).tolist()
    ((8, 64), [16, 16, 16, 16, 16, 16, 16, 16])
    """
    bins, repeats = quantization.bins, quantization.repeats
    places = np.arange(dim)
    # Place j is in bin i where i * dim // bins <= j < (i + 1) * dim // bins.
    edges = np.arange(1, bins + 1) * dim // bins
    bin_of_place = np.searchsorted(edges, places, side="right")
    # One draw for each exchange of the shuffle and one for each sign. A draw
    # is refused, and another taken, with a chance of `dim` in 2**64.
    draws = _draws(quantization.seed, repeats * (2 * dim - 1))
    matrix = np.zeros((dim, bins * repeats), np.int8)
    for repeat in range(repeats):
        mine = draws[repeat * (2 * dim - 1) :][: 2 * dim - 1]
        bounds = np.arange(dim, 1, -1).astype(np.uint64)
        order = list(range(dim))
        for i, j in zip(
            range(dim - 1, 0, -1),
            (mine[: dim - 1] % bounds).tolist(),
            strict=True,
        ):
            order[i], order[j] = order[j], order[i]
        minus = mine[dim - 1 :] >> np.uint64(63)
        signs = 1 - 2 * minus.astype(np.int8)
        matrix[order, repeat * bins + bin_of_place] = signs
    return matrix


def pack(bits: np.ndarray) -> np.ndarray:
    """Codes from bits: bit b is bit b % 64 of word b // 64.

    Args:
        bits: `[n, 64 * words]` bool.

    Returns:
        `[n, words]` int64.
    """
    octets = np.packbits(bits, axis=1, bitorder="little")
    words = bits.shape[1] // WORD_BITS
    return octets.view("<i8").astype(np.int64).reshape(len(bits), words)


def unpack(codes: np.ndarray) -> np.ndarray:
    """The bits of codes `[n, words]`: `[n, 64 * words]` bool."""
    octets = np.ascontiguousarray(codes, "<i8").view(np.uint8)
    bits = np.unpackbits(octets, axis=1, bitorder="little")
    return bits.astype(bool)


def _draws(seed: int, count: int) -> np.ndarray:
    """The first numbers of SplitMix64, `[count]` uint64."""
    with np.errstate(over="ignore"):
        steps = np.arange(1, count + 1, dtype=np.uint64)
        state = np.uint64(seed) + steps * _GAMMA
        y = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (y ^ (y >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
