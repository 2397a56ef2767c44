# SPDX-License-Identifier: Apache-2.0
"""The similarity's shape, and its reference against sums written out."""

import doctest
import itertools
import math

import numpy as np
import pytest

from lintf.similarity import reference, spec
from lintf.similarity.spec import SimilaritySpec

_SPECS = [
    SimilaritySpec(component_dim=5),
    SimilaritySpec(component_dim=5, component="weighted"),
    SimilaritySpec(component_dim=5, component="hadamard", hidden=3),
    *(
        SimilaritySpec(
            3, 2, 4, component, hidden, 0.05, gate=gate, gate_hidden=width
        )
        for (component, hidden), gate, width in itertools.product(
            [("inner_product", 0), ("weighted", 0), ("hadamard", 3)],
            spec.GATES[1:],
            [0, 6],
        )
    ),
]


def draw(
    similarity: SimilaritySpec, seed: int, num_queries: int, num_items: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Weights, query vectors and item vectors of some similarity."""
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    weights = {n: normal(*s) for n, s in similarity.weight_shapes().items()}
    queries = normal(num_queries, similarity.query_dim)
    return weights, queries, normal(num_items, similarity.item_dim)


def _score(similarity, weights, query, item) -> float:
    """One score, sum by sum."""
    dim = similarity.component_dim
    logits = []
    for p in range(similarity.query_components):
        for r in range(similarity.item_components):
            f = query[p * dim : (p + 1) * dim].astype(np.float64)
            g = item[r * dim : (r + 1) * dim].astype(np.float64)
            if similarity.component == "hadamard":
                value = float(weights["joint_offset"][0])
                for h in range(similarity.hidden):
                    unit = float(weights["joint_bias"][h])
                    for j in range(dim):
                        kernel = float(weights["joint_kernel"][h, j])
                        unit += kernel * f[j] * g[j]
                    value += float(weights["joint_output"][h]) * max(unit, 0)
            else:
                value = 0.0
                for j in range(dim):
                    weight = 1.0
                    if similarity.component == "weighted":
                        weight = float(weights["pair_weights"][len(logits), j])
                    value += weight * f[j] * g[j]
            logits.append(value / similarity.temperature)
    if similarity.gate == "none":
        return logits[0]
    gates = []
    for index in range(len(logits)):
        a = float(query[similarity.query_components * dim + index])
        b = float(item[similarity.item_components * dim + index])
        z = a * b
        if similarity.gate_hidden:
            z += float(weights["gate_offset"][index])
            for h in range(similarity.gate_hidden):
                unit = float(weights["gate_bias"][h])
                for other, logit in enumerate(logits):
                    unit += logit * float(weights["gate_kernel"][other, h])
                silu = unit / (1 + math.exp(-unit)) if unit > -700 else 0.0
                z += silu * float(weights["gate_output"][h, index])
        gates.append(z)
    if similarity.gate == "relu":
        shares = [max(z, 0) for z in gates]
    elif similarity.gate == "sigmoid":
        shares = [1 / (1 + math.exp(-z)) if z > -700 else 0.0 for z in gates]
    else:
        if similarity.gate == "silu_softmax":
            gates = [z / (1 + math.exp(-z)) if z > -700 else 0.0 for z in gates]
        powers = [math.exp(z - max(gates)) for z in gates]
        shares = [power / sum(powers) for power in powers]
    return sum(s * logit for s, logit in zip(shares, logits, strict=True))


@pytest.mark.parametrize("similarity", _SPECS, ids=str)
def test_scores_are_the_sums_of_the_definition(similarity):
    weights, queries, items = draw(similarity, 1, 3, 4)

    found = reference.scores(similarity, weights, queries, items)

    expected = [
        [_score(similarity, weights, q, x) for x in items] for q in queries
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "similarity", [s for s in _SPECS if s.is_convex], ids=str
)
def test_no_score_of_a_convex_gate_exceeds_its_largest_logit(similarity):
    weights, queries, items = draw(similarity, 2, 5, 50)

    found = reference.scores(similarity, weights, queries, items)

    most = reference.pair_logits(similarity, weights, queries, items).max(-1)
    assert (found <= most + 1e-9 * np.abs(most)).all()


@pytest.mark.parametrize(
    "similarity", [s for s in _SPECS if s.component != "hadamard"], ids=str
)
def test_averaged_queries_order_items_by_their_mean_logit(similarity):
    weights, queries, items = draw(similarity, 3, 3, 20)

    proxy = reference.averaged_queries(similarity, weights, queries)

    mean = reference.pair_logits(similarity, weights, queries, items).mean(-1)
    np.testing.assert_allclose(proxy @ items.T, mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query_components": 0}, "`query_components` must be .* from 1 to 64"),
        ({"component_dim": 3.0}, "`component_dim` must be an integer"),
        ({"query_components": 9, "item_components": 8}, "at most 64, got 9"),
        ({"component": "cosine"}, "one of inner_product, weighted, hadamard"),
        ({"gate": "tanh"}, "one of none, softmax"),
        ({"temperature": 0.0}, "`temperature` must be a positive number"),
        ({"temperature": math.nan}, "`temperature` must be a positive number"),
        ({"temperature": 1e-60}, "`temperature` must be a positive number"),
        ({"temperature": 10**400}, "`temperature` must be a positive number"),
        ({"temperature": True}, "`temperature` must be a positive number"),
        ({"component": "hadamard"}, "`hidden` must be positive"),
        ({"hidden": 3}, "`hidden` must be positive with"),
        ({"query_components": 2}, "there must be one pair of components"),
        ({"gate_hidden": 8}, "there must be one pair of components"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SimilaritySpec(**fields)


def test_doctests():
    assert doctest.testmod(spec).failed == 0
