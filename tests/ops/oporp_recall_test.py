# SPDX-License-Identifier: Apache-2.0
"""Sign-OPORP against dense Gaussian sign projections, on real vectors."""

import numpy as np
import pytest

from lintf import ops
from lintf.datasets import glove_50d

SHORTLISTS = (1000, 4000)


def _recall(queries, items, truth):
    """Recall of the shortlists by matched bits, from codes of +1 and -1."""
    scores = queries @ items.T
    return [
        sum(
            np.isin(best, np.argpartition(-row, size)[:size]).sum()
            for row, best in zip(scores, truth, strict=True)
        )
        / truth.size
        for size in SHORTLISTS
    ]


@pytest.mark.slow
def test_bins_of_8_and_16_are_as_good_as_dense_projections():
    random = np.random.default_rng(0)
    vectors = np.array(glove_50d().vectors)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = random.choice(100_000, 60, replace=False)
    queries, items = vectors[chosen], np.delete(vectors, chosen, axis=0)
    truth = np.argpartition(-(queries @ items.T), 100, axis=1)[:, :100]
    for bits in (128, 512):
        dense = random.standard_normal((50, bits)).astype(np.float32)

        def signs(x, dense=dense):
            return np.where(x @ dense >= 0, 1, -1).astype(np.float32)

        expected = _recall(signs(queries), signs(items), truth)
        for bins in (8, 16):
            config = {"bins": bins, "repeats": bits // bins, "seed": 0}
            found = _recall(
                ops.sign_oporp_signs(queries, **config).numpy(),
                ops.sign_oporp_signs(items, **config).numpy(),
                truth,
            )
            for one, other in zip(found, expected, strict=True):
                assert one > other - 0.03, (bits, bins, found, expected)
