# SPDX-License-Identifier: Apache-2.0
"""How far a float32 score may be from that of `lintf.similarity.reference`.

What is added up is bounded by its magnitudes, in whatever order it is added;
each function on the way, by its slope. So the bound holds for lintf's
operations and for TensorFlow's.
"""

from __future__ import annotations

import numpy as np

from lintf.similarity import reference
from lintf.similarity.reference import Weights
from lintf.similarity.spec import SimilaritySpec

_EPS = float(np.finfo(np.float32).eps)
# The slope of x sigmoid(x) is less.
_SILU_SLOPE = 1.1
# Roundings of one exponential and of what is made of it; of a sum beyond one
# for each of its terms.
_OF_FUNCTION = 16
_OF_SUM = 6
# Twice this is about what an exponential may be of.
_LARGEST_POWER = 300.0


def error_bounds(
    spec: SimilaritySpec,
    weights: Weights,
    queries: np.ndarray,
    items: np.ndarray,
) -> np.ndarray:
    """Bounds of the error of each score that nothing in it overflows.

    Args:
        spec: The similarity.
        weights: By the names of `spec.weight_shapes()`.
        queries: `[n, query_dim]` query vectors.
        items: `[m, item_dim]` item vectors, as they are stored.

    Returns:
        `[n, m]` float64, not negative.
    """
    queries = np.asarray(queries, np.float64)
    items = np.asarray(items, np.float64)
    magnitudes = reference.pair_logits(
        spec, _absolute(weights), np.abs(queries), np.abs(items)
    )
    terms = spec.component_dim + spec.hidden + _OF_SUM
    off = terms * _EPS * magnitudes
    if spec.gate == "none":
        return off[..., 0]
    logits = reference.pair_logits(spec, weights, queries, items)
    pi = reference.gate_weights(spec, weights, queries, items, logits)
    off_z = _gate_error(spec, weights, queries, items, logits, off)
    if spec.gate in ("relu", "sigmoid"):
        off_pi = off_z + _OF_FUNCTION * _EPS * pi
    else:
        if spec.gate == "silu_softmax":
            off_z = _SILU_SLOPE * off_z + _OF_FUNCTION * _EPS * np.abs(
                _gate_input(spec, weights, queries, items, logits)
            )
        # Capped, since more overflows; `_within` is what bounds that.
        worst = np.minimum(off_z.max(axis=-1, keepdims=True), _LARGEST_POWER)
        off_pi = pi * (np.expm1(2 * worst) + _OF_FUNCTION * _EPS)
    total = (pi + off_pi) * (off + (spec.pairs + _OF_SUM) * _EPS * abs(logits))
    bounds = (total + off_pi * np.abs(logits)).sum(axis=-1)
    if not spec.is_convex:
        return np.asarray(bounds)
    return np.minimum(bounds, _within(spec, logits, off))


def _within(
    spec: SimilaritySpec,
    logits: np.ndarray,
    off: np.ndarray,
) -> np.ndarray:
    """How far scores of a convex gate may be apart, whatever its z.

    Both are means of logits, so their difference is at most what lies between
    the least and the greatest, beside rounding.
    """
    spread = logits.max(axis=-1) - logits.min(axis=-1) + 2 * off.max(axis=-1)
    terms = spec.pairs + _OF_SUM + _OF_FUNCTION
    rounding = terms * _EPS * np.abs(logits).sum(axis=-1)
    return np.asarray(spread + rounding)


def _gate_error(
    spec: SimilaritySpec,
    weights: Weights,
    queries: np.ndarray,
    items: np.ndarray,
    logits: np.ndarray,
    off: np.ndarray,
) -> np.ndarray:
    """How far each z may be off, if each logit is by `off`."""
    own = np.abs(_own_gate(spec, queries, items))
    if not spec.gate_hidden:
        return np.asarray(_EPS * own)
    absolute = _absolute(weights)
    sums = np.abs(logits) @ absolute["gate_kernel"] + absolute["gate_bias"]
    off_hidden = off @ absolute["gate_kernel"]
    off_hidden += (spec.pairs + _OF_SUM) * _EPS * sums
    off_hidden = _SILU_SLOPE * off_hidden + _OF_FUNCTION * _EPS * sums
    z = own + sums @ absolute["gate_output"] + absolute["gate_offset"]
    return np.asarray(
        off_hidden @ absolute["gate_output"]
        + (spec.gate_hidden + _OF_SUM) * _EPS * z
    )


def _gate_input(
    spec: SimilaritySpec,
    weights: Weights,
    queries: np.ndarray,
    items: np.ndarray,
    logits: np.ndarray,
) -> np.ndarray:
    """At least the magnitude of each z."""
    own = np.abs(_own_gate(spec, queries, items))
    if not spec.gate_hidden:
        return np.asarray(own)
    absolute = _absolute(weights)
    sums = np.abs(logits) @ absolute["gate_kernel"] + absolute["gate_bias"]
    return np.asarray(
        own + sums @ absolute["gate_output"] + absolute["gate_offset"]
    )


def _own_gate(
    spec: SimilaritySpec, queries: np.ndarray, items: np.ndarray
) -> np.ndarray:
    a = queries[:, np.newaxis, -spec.pairs :]
    b = items[np.newaxis, :, -spec.pairs :]
    return np.asarray(a * b)


def _absolute(weights: Weights) -> dict[str, np.ndarray]:
    return {
        name: np.abs(np.asarray(value, np.float64))
        for name, value in weights.items()
    }
