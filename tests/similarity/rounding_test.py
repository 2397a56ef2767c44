# SPDX-License-Identifier: Apache-2.0
"""The bound of float32's error holds, and is not idle."""

import dataclasses

import numpy as np
import pytest

from lintf.similarity import reference, rounding
from lintf.similarity.spec import SimilaritySpec
from tests.references.similarities import SPECS, drawn


def _in_float32(spec, weights, queries, items):
    """Scores with sums in descending order, each step in float32."""
    p, r, d = spec.query_components, spec.item_components, spec.component_dim
    f = queries[:, : p * d].reshape(-1, p, d)[:, None, :, None]
    g = items[:, : r * d].reshape(-1, r, d)[None, :, None]

    def summed(terms):
        total = np.zeros(terms.shape[:-1], np.float32)
        for i in reversed(range(terms.shape[-1])):
            total = total + terms[..., i]
        return total

    if spec.component == "hadamard":
        products = (f * g)[..., None, :] * weights["joint_kernel"]
        hidden = np.maximum(summed(products) + weights["joint_bias"], 0)
        logits = summed(hidden * weights["joint_output"])
        logits = logits + weights["joint_offset"][0]
    elif spec.component == "weighted":
        logits = summed(f * weights["pair_weights"].reshape(p, r, d) * g)
    else:
        logits = summed(f * g)
    logits = logits.reshape(*logits.shape[:2], -1) / np.float32(
        spec.temperature
    )
    if spec.gate == "none":
        return logits[..., 0]
    z = queries[:, None, -spec.pairs :] * items[None, :, -spec.pairs :]
    if spec.gate_hidden:
        y = summed(logits[..., None, :] * weights["gate_kernel"].T)
        y = y + weights["gate_bias"]
        y = y / (1 + np.exp(-y))
        z = z + summed(y[..., None, :] * weights["gate_output"].T)
        z = z + weights["gate_offset"]
    if spec.gate == "silu_softmax":
        z = z / (1 + np.exp(-z))
    if spec.gate == "relu":
        pi = np.maximum(z, 0)
    elif spec.gate == "sigmoid":
        pi = 1 / (1 + np.exp(-z))
    else:
        pi = np.exp(z - z.max(-1, keepdims=True))
        pi = pi / summed(pi)[..., None]
    scores = summed(pi * logits)
    assert scores.dtype == np.float32
    return scores


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_float32_stays_within_the_bound(spec):
    weights, queries, items = drawn(spec, 20, 50)
    bounds = rounding.error_bounds(spec, weights, queries, items)
    error = np.abs(
        _in_float32(spec, weights, queries, items)
        - reference.scores(spec, weights, queries, items)
    )
    assert (error <= bounds).all()
    assert (error / bounds).max() > 1e-3


def test_the_bound_grows_with_what_is_added_up():
    spec = SPECS[0]
    weights, queries, items = drawn(spec)
    bounds = rounding.error_bounds(spec, weights, queries, items)
    cooler = dataclasses.replace(spec, temperature=0.5)
    np.testing.assert_allclose(
        rounding.error_bounds(cooler, weights, queries, items), 2 * bounds
    )


@pytest.mark.parametrize("gate", ["softmax", "silu_softmax"])
def test_a_gate_that_nothing_is_known_of_leaves_the_logits(gate):
    spec = SimilaritySpec(1, 8, 64, gate=gate, gate_hidden=32)
    weights, queries, items = drawn(spec, 10, 20)
    large = {name: weight * 1e4 for name, weight in weights.items()}
    bounds = rounding.error_bounds(spec, large, queries, items)
    logits = reference.pair_logits(spec, large, queries, items)
    spread = logits.max(axis=-1) - logits.min(axis=-1)
    assert (bounds <= spread + 1e-4 * np.abs(logits).sum(axis=-1)).all()
    error = np.abs(
        _in_float32(spec, large, queries, items)
        - reference.scores(spec, large, queries, items)
    )
    assert (error <= bounds).all()
