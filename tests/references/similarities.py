# SPDX-License-Identifier: Apache-2.0
"""Learned similarities of every kind, and random vectors for them."""

import numpy as np

from lintf.similarity.spec import SimilaritySpec

SPECS = [
    SimilaritySpec(1, 1, 7),
    SimilaritySpec(component="hadamard", hidden=10, component_dim=9),
    SimilaritySpec(2, 3, 5, gate="softmax", temperature=0.3),
    SimilaritySpec(2, 3, 5, gate="silu_softmax", gate_hidden=6),
    SimilaritySpec(3, 2, 4, "weighted", gate="relu", gate_hidden=4),
    SimilaritySpec(2, 2, 4, "hadamard", 3, 0.5, "sigmoid", 5),
]


def drawn(spec, queries=4, items=6, seed=0):
    """Random weights by name, query vectors and item vectors."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    weights = {n: normal(*s) for n, s in spec.weight_shapes().items()}
    return (
        weights,
        normal(queries, spec.query_dim),
        normal(items, spec.item_dim),
    )
