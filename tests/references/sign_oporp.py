# SPDX-License-Identifier: Apache-2.0
"""Sign-OPORP in numpy, bit for bit what `custom_ops/core/sign_oporp.h` says."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_WORD = 1 << 64


def sign_oporp(vectors, *, bins, repeats, seed):
    """Codes `[n, bins * repeats / 64]` int64 of vectors `[n, dim]` float32."""
    bits = oporp_samples(vectors, bins=bins, repeats=repeats, seed=seed) >= 0
    packed = np.packbits(bits, axis=1, bitorder="little")
    return packed.view("<u8").astype(np.uint64).view(np.int64)


def oporp_samples(vectors, *, bins, repeats, seed):
    """Samples `[n, bins * repeats]` float32 of vectors `[n, dim]` float32."""
    vectors = np.asarray(vectors, np.float32)
    dim = vectors.shape[1]
    samples = np.zeros((len(vectors), repeats * bins), np.float32)
    draws = _split_mix_64(seed)
    for repeat in range(repeats):
        permutation = list(range(dim))
        for i in range(dim - 1, 0, -1):
            j = _below(i + 1, draws)
            permutation[i], permutation[j] = permutation[j], permutation[i]
        signs = [-1.0 if next(draws) >> 63 else 1.0 for _ in range(dim)]
        for i in range(bins):
            sums = samples[:, repeat * bins + i]
            for place in range(i * dim // bins, (i + 1) * dim // bins):
                sums += (
                    np.float32(signs[place]) * vectors[:, permutation[place]]
                )
    return samples


def _split_mix_64(seed: int) -> Iterator[int]:
    state = seed % _WORD
    while True:
        state = (state + 0x9E3779B97F4A7C15) % _WORD
        x = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % _WORD
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % _WORD
        yield x ^ (x >> 31)


def _below(n: int, draws: Iterator[int]) -> int:
    limit = _WORD - _WORD % n
    return next(draw for draw in draws if draw < limit) % n
