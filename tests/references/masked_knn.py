# SPDX-License-Identifier: Apache-2.0
"""Filtered nearest neighbours in numpy: every score, then a stable sort."""

import numpy as np


def masked_knn(queries, items, mask, k, metric="inner_product"):
    """Scores `[b, k]`, indices `[b, k]` and counts `[b]`, like the op's."""
    queries, items = queries.astype(np.float64), items.astype(np.float64)
    all_scores = queries @ items.T
    if metric == "l2":
        all_scores = -((queries[:, None] - items[None]) ** 2).sum(axis=-1)
    masks = np.broadcast_to(mask, all_scores.shape)
    scores = np.full((len(queries), k), -np.inf)
    indices = np.full((len(queries), k), -1)
    counts = np.zeros(len(queries), np.int32)
    for b in range(len(queries)):
        rows = np.flatnonzero(masks[b])
        best = rows[np.argsort(-all_scores[b, rows], kind="stable")][:k]
        counts[b] = len(best)
        indices[b, : len(best)] = best
        scores[b, : len(best)] = all_scores[b, best]
    return scores, indices, counts
