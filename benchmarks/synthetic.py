# SPDX-License-Identifier: Apache-2.0
"""Synthetic embeddings that look a little like real ones.

Unit vectors around cluster centres with a decaying spectrum, queries from the
same law. For timing; recall on them says nothing about real data.
"""

from __future__ import annotations

import numpy as np

_CLUSTERS = 300
_RANK = 24


def embeddings(
    rows: int, dim: int, num_queries: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Items `[rows, dim]` and queries `[num_queries, dim]`, float32, unit."""
    rng = np.random.default_rng(seed)
    rank = min(_RANK, dim)
    spectrum = (1.0 / np.sqrt(1 + np.arange(rank))).astype(np.float32)
    basis, _ = np.linalg.qr(rng.standard_normal((dim, rank)))
    directions = (basis * spectrum).T.astype(np.float32)
    centres = rng.standard_normal((_CLUSTERS, dim), np.float32) * 0.1

    def draw(count: int) -> np.ndarray:
        out = rng.standard_normal((count, rank), np.float32) @ directions
        out += centres[rng.integers(0, _CLUSTERS, count)]
        out += 0.05 * rng.standard_normal((count, dim), np.float32)
        out /= np.linalg.norm(out, axis=1, keepdims=True)
        return out

    return draw(rows), draw(num_queries)
