# SPDX-License-Identifier: Apache-2.0
"""Right answers by numpy in float64, and how much of them was found."""

from __future__ import annotations

import dataclasses

import numpy as np

_CHUNK = 1 << 16
# What float32 sums may differ by: an item as good as the last wanted one
# within this is a right answer too.
_TOLERANCE = 2e-6


@dataclasses.dataclass(frozen=True)
class Truth:
    """What the best items of each query score.

    Attributes:
        bars: `[batch]` float64, the score of the last item wanted.
        wanted: `[batch]`, how many: k, or fewer where fewer pass.
    """

    items: np.ndarray
    queries: np.ndarray
    masks: np.ndarray | None
    bars: np.ndarray
    wanted: np.ndarray

    def recall(self, rows: np.ndarray) -> float:
        """The share of the wanted items among `rows`; 1 if none is wanted.

        Args:
            rows: `[batch, k]`, -1 in unused slots.

        Raises:
            AssertionError: A row came back twice, or does not pass the
                filter: no engine is right that does this.
        """
        hits = 0
        for q, found in enumerate(rows):
            found = found[found >= 0]
            assert len(np.unique(found)) == len(found), "a row came twice"
            if self.masks is not None:
                mask = self.masks[q if len(self.masks) > 1 else 0]
                assert mask[found].all(), "a row that does not pass came back"
            own = self.items[found].astype(np.float64) @ self.queries[q]
            good = int((own >= self.bars[q] - _TOLERANCE).sum())
            hits += min(good, int(self.wanted[q]))
        wanted = int(self.wanted.sum())
        return hits / wanted if wanted else 1.0


def exact(
    items: np.ndarray,
    queries: np.ndarray,
    k: int,
    masks: np.ndarray | None = None,
) -> Truth:
    """The truth for the k items of greatest inner product that pass."""
    queries = queries.astype(np.float64)
    best = np.full((len(queries), k), -np.inf)
    for begin in range(0, len(items), _CHUNK):
        chunk = items[begin : begin + _CHUNK].astype(np.float64)
        scores = queries @ chunk.T
        if masks is not None:
            scores[
                np.broadcast_to(~masks[:, begin : begin + _CHUNK], scores.shape)
            ] = -np.inf
        if scores.shape[1] > k:
            scores = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k:]
        both = np.concatenate([best, scores], axis=1)
        best = np.partition(both, both.shape[1] - k, axis=1)[:, -k:]
    passing = np.full(len(queries), len(items))
    if masks is not None:
        passing = np.broadcast_to(masks.sum(axis=1), passing.shape)
    wanted = np.minimum(passing, k)
    best.sort(axis=1)
    # Ascending, with -inf in front where fewer than k pass.
    place = np.minimum(k - wanted, k - 1)
    bars = best[np.arange(len(queries)), place]
    return Truth(items, queries, masks, bars, wanted)
