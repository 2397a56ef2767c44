# SPDX-License-Identifier: Apache-2.0
"""Learned similarities by stock TensorFlow operations: float32, with gradients.

What training differentiates and what portable indexes serve. The equations
are those of `lintf.similarity.spec`; sums are taken in TensorFlow's order, so
scores are those of lintf's operations but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from lintf.similarity.spec import SimilaritySpec

# By the names of `SimilaritySpec.weight_shapes()`: variables or tensors.
Weights = Mapping[str, Any]

# What `scores_in_blocks` holds at once of hidden layers and logits: 64 MiB.
_BLOCK_NUMBERS = 1 << 24


def scores(
    spec: SimilaritySpec, weights: Weights, queries: Any, items: Any
) -> tf.Tensor:
    """Scores every query with every item.

    Takes memory for the logits of all pairs: n m L numbers, times `hidden`
    with "hadamard", plus n m `gate_hidden`.

    Args:
        spec: The similarity.
        weights: By the names of `spec.weight_shapes()`.
        queries: `[n, query_dim]` float32.
        items: `[m, item_dim]` float32.

    Returns:
        `[n, m]` float32.

    >>> spec = SimilaritySpec(1, 2, 1, gate="softmax")
    >>> scores(spec, {}, [[3.0, 1.0, 0.0]], [[2.0, 5.0, 99.0, 0.0]]).numpy()
    array([[6.]], dtype=float32)
    """
    logits = pair_logits(spec, weights, queries, items)
    if spec.gate == "none":
        return logits[..., 0]
    pi = gate_weights(spec, weights, queries, items, logits)
    return tf.reduce_sum(pi * logits, axis=-1)


def scores_in_blocks(
    spec: SimilaritySpec, weights: Weights, queries: Any, items: Any
) -> tf.Tensor:
    """`scores` in bounded memory beside the result, without gradients.

    Args:
        spec: As `scores` takes it, and so are the others.
        weights: As there.
        queries: As there.
        items: As there.

    Returns:
        `[n, m]` float32.
    """
    queries, items = _float(queries), _float(items)
    total = tf.shape(items)[0]
    of_one = spec.pairs * max(spec.hidden, 1) + spec.gate_hidden
    batch = tf.maximum(tf.shape(queries)[0], 1)
    block = tf.maximum(_BLOCK_NUMBERS // of_one // batch, 1)

    def score(begin: tf.Tensor, found: Any) -> Any:
        rows = items[begin : begin + block]
        values = scores(spec, weights, queries, rows)
        return begin + block, found.write(begin // block, tf.transpose(values))

    found = tf.TensorArray(
        tf.float32,
        0,
        dynamic_size=True,
        infer_shape=False,
        element_shape=[None, queries.shape[0]],
    )
    _, found = tf.while_loop(
        lambda begin, _: begin < total,
        score,
        (0, found),
        parallel_iterations=1,
    )
    by_row = tf.reshape(found.concat(), [total, tf.shape(queries)[0]])
    return tf.ensure_shape(
        tf.transpose(by_row), [queries.shape[0], items.shape[0]]
    )


def pair_scores(
    spec: SimilaritySpec, weights: Weights, queries: Any, items: Any
) -> tf.Tensor:
    """Scores each query with items of its own.

    Args:
        spec: As `scores` takes it, and so are the next two.
        weights: As there.
        queries: As there.
        items: `[n, m, item_dim]` float32.

    Returns:
        `[n, m]` float32.
    """
    return scores(spec, weights, queries, items)


def pair_logits(
    spec: SimilaritySpec, weights: Weights, queries: Any, items: Any
) -> tf.Tensor:
    """The logit of each pair of components.

    Args:
        spec: As `scores` takes it, and so are the next two.
        weights: As there.
        queries: As there.
        items: `[m, item_dim]`, or `[n, m, item_dim]` of each query's own.

    Returns:
        `[n, m, pairs]` float32.
    """
    p, r, d = spec.query_components, spec.item_components, spec.component_dim
    queries, items = _float(queries), _float(items)
    f = tf.reshape(queries[:, : p * d], [-1, p, d])
    shape = tf.concat([tf.shape(items)[:-1], [r, d]], axis=0)
    g = tf.reshape(items[..., : r * d], shape)
    g.set_shape([*items.shape[:-1], r, d])
    y = "ny" if items.shape.rank == 3 else "y"
    if spec.component == "inner_product":
        found = tf.einsum(f"npd,{y}rd->nypr", f, g)
    elif spec.component == "weighted":
        w = tf.reshape(_float(weights["pair_weights"]), [p, r, d])
        # Weighing the query is cheaper than weighing the items.
        found = tf.einsum(f"nprd,{y}rd->nypr", f[:, :, tf.newaxis] * w, g)
    else:
        kernel = _float(weights["joint_kernel"])
        wide = f[:, :, tf.newaxis] * kernel
        hidden = tf.einsum(f"nphd,{y}rd->nyprh", wide, g)
        hidden = tf.nn.relu(hidden + _float(weights["joint_bias"]))
        found = tf.tensordot(hidden, _float(weights["joint_output"]), 1)
        found += _float(weights["joint_offset"])[0]
    shape = tf.concat([tf.shape(found)[:2], [p * r]], axis=0)
    logits = tf.reshape(found, shape) / spec.temperature
    return tf.ensure_shape(
        logits, [queries.shape[0], items.shape[-2], spec.pairs]
    )


def gate_weights(
    spec: SimilaritySpec,
    weights: Weights,
    queries: Any,
    items: Any,
    logits: tf.Tensor,
) -> tf.Tensor:
    """How much each pair counts: `[n, m, pairs]` float32.

    Args:
        spec: With a gate.
        weights: As `pair_logits` takes them, and so are the next two.
        queries: As there.
        items: As there.
        logits: From there; `[n, m, pairs]`.
    """
    a = _float(queries)[:, tf.newaxis, -spec.pairs :]
    b = _float(items)[..., -spec.pairs :]
    z = a * b
    if spec.gate_hidden:
        hidden = tf.tensordot(logits, _float(weights["gate_kernel"]), 1)
        hidden = tf.nn.silu(hidden + _float(weights["gate_bias"]))
        z += tf.tensordot(hidden, _float(weights["gate_output"]), 1)
        z += _float(weights["gate_offset"])
    if spec.gate == "relu":
        return tf.nn.relu(z)
    if spec.gate == "sigmoid":
        return tf.sigmoid(z)
    if spec.gate == "silu_softmax":
        z = tf.nn.silu(z)
    return tf.nn.softmax(z, axis=-1)


def averaged_queries(
    spec: SimilaritySpec, weights: Weights, queries: Any
) -> tf.Tensor:
    """Query vectors whose inner products with items select candidates.

    Those of `lintf.similarity.reference.averaged_queries`.

    Args:
        spec: As `scores` takes it, and so are the next two.
        weights: As there.
        queries: As there.

    Returns:
        `[n, item_dim]` float32.
    """
    p, r, d = spec.query_components, spec.item_components, spec.component_dim
    queries = _float(queries)
    f = tf.reshape(queries[:, : p * d], [-1, p, 1, d])
    if spec.component == "weighted":
        f *= tf.reshape(_float(weights["pair_weights"]), [p, r, d])
    elif spec.component == "hadamard":
        output = _float(weights["joint_output"])[tf.newaxis]
        f *= tf.matmul(output, _float(weights["joint_kernel"]))[0]
    # One for all item components, where no weight tells them apart.
    mean = tf.reduce_mean(f, axis=1) / (r * spec.temperature)
    proxy = tf.broadcast_to(mean, tf.stack([tf.shape(f)[0], r, d]))
    proxy = tf.reshape(proxy, [-1, r * d])
    return tf.pad(proxy, [[0, 0], [0, spec.gate_dim]])


def _float(values: Any) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(values), tf.float32)
