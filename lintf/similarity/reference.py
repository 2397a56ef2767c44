# SPDX-License-Identifier: Apache-2.0
"""Learned similarities in plain numpy and float64: what others must agree with.

The equations are those of `lintf.similarity.spec`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lintf.similarity.spec import SimilaritySpec

Weights = Mapping[str, np.ndarray]


def scores(
    spec: SimilaritySpec,
    weights: Weights,
    queries: np.ndarray,
    items: np.ndarray,
) -> np.ndarray:
    """Scores every query with every item.

    Args:
        spec: The similarity.
        weights: By the names of `spec.weight_shapes()`.
        queries: `[n, query_dim]` query vectors.
        items: `[m, item_dim]` item vectors.

    Returns:
        `[n, m]` float64.
    """
    logits = pair_logits(spec, weights, queries, items)
    if spec.gate == "none":
        return logits[..., 0]
    return (gate_weights(spec, weights, queries, items, logits) * logits).sum(
        -1
    )


def pair_logits(
    spec: SimilaritySpec,
    weights: Weights,
    queries: np.ndarray,
    items: np.ndarray,
) -> np.ndarray:
    """The logit of each pair of components: `[n, m, pairs]` float64."""
    p, r, d = spec.query_components, spec.item_components, spec.component_dim
    f = np.asarray(queries, np.float64)[:, : p * d].reshape(-1, p, d)
    g = np.asarray(items, np.float64)[:, : r * d].reshape(-1, r, d)
    if spec.component == "inner_product":
        found = np.einsum("npd,mrd->nmpr", f, g)
    elif spec.component == "weighted":
        w = weights["pair_weights"].astype(np.float64).reshape(p, r, d)
        found = np.einsum("npd,prd,mrd->nmpr", f, w, g)
    else:
        kernel = weights["joint_kernel"].astype(np.float64)
        hidden = np.einsum("npd,hd,mrd->nmprh", f, kernel, g)
        hidden = np.maximum(hidden + weights["joint_bias"], 0)
        found = hidden @ weights["joint_output"].astype(np.float64)
        found = found + float(weights["joint_offset"][0])
    return found.reshape(len(f), len(g), p * r) / spec.temperature


def gate_weights(
    spec: SimilaritySpec,
    weights: Weights,
    queries: np.ndarray,
    items: np.ndarray,
    logits: np.ndarray,
) -> np.ndarray:
    """How much each pair counts: `[n, m, pairs]` float64.

    Args:
        spec: With a gate.
        weights: As `scores` takes them, and so are the next two.
        queries: As there.
        items: As there.
        logits: From `pair_logits`.
    """
    a = np.asarray(queries, np.float64)[:, np.newaxis, -spec.pairs :]
    b = np.asarray(items, np.float64)[np.newaxis, :, -spec.pairs :]
    z = a * b
    if spec.gate_hidden:
        kernel = weights["gate_kernel"].astype(np.float64)
        output = weights["gate_output"].astype(np.float64)
        hidden = logits @ kernel + weights["gate_bias"]
        z = z + (hidden * _sigmoid(hidden)) @ output + weights["gate_offset"]
    if spec.gate == "relu":
        return np.maximum(z, 0)
    if spec.gate == "sigmoid":
        return _sigmoid(z)
    if spec.gate == "silu_softmax":
        z = z * _sigmoid(z)
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def averaged_queries(
    spec: SimilaritySpec, weights: Weights, queries: np.ndarray
) -> np.ndarray:
    """Query vectors whose inner products with items select candidates.

    The averaged component of RAILS (its `avg_top_k`): the inner product of the
    sum of the query components with the mean of the item components, which is
    the mean logit of all pairs but for a factor that no order depends on. It
    is written as one inner product with the item vector itself, whose gate
    gets zeros. A joint MLP is taken without its ReLU, as a linear map.

    Args:
        spec: The similarity.
        weights: As `scores` takes them.
        queries: `[n, query_dim]`.

    Returns:
        `[n, item_dim]` float64.
    """
    p, r, d = spec.query_components, spec.item_components, spec.component_dim
    f = np.asarray(queries, np.float64)[:, : p * d].reshape(-1, p, d)
    blocks = np.repeat(f[:, :, np.newaxis], r, axis=2)
    if spec.component == "weighted":
        blocks = blocks * weights["pair_weights"].reshape(p, r, d)
    elif spec.component == "hadamard":
        linear = weights["joint_output"].astype(np.float64)
        blocks = blocks * (linear @ weights["joint_kernel"])
    proxy = blocks.mean(axis=1).reshape(len(f), r * d) / (r * spec.temperature)
    gate = np.zeros([len(f), spec.gate_dim])
    return np.concatenate([proxy, gate], axis=1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # Without overflow at either end.
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))
