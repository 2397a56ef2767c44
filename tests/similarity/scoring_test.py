# SPDX-License-Identifier: Apache-2.0
"""Learned similarities by stock operations, against the numpy reference."""

import numpy as np
import pytest
import tensorflow as tf

from lintf.similarity import reference, scoring
from tests.references.similarities import SPECS, drawn


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_scores_are_the_references(spec):
    weights, queries, items = drawn(spec)
    expected = reference.scores(spec, weights, queries, items)
    actual = scoring.scores(spec, weights, queries, items)
    assert actual.shape == (4, 6)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_each_query_is_scored_with_items_of_its_own(spec):
    weights, queries, items = drawn(spec)
    expected = reference.scores(spec, weights, queries, items)
    rows = np.array([[0, 5, 5], [1, 2, 3], [4, 4, 0], [2, 1, 0]])
    actual = scoring.pair_scores(spec, weights, queries, items[rows])
    np.testing.assert_allclose(
        actual,
        np.take_along_axis(expected, rows, axis=1),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_gradients_reach_vectors_and_weights(spec):
    weights, queries, items = drawn(spec)
    sources = [tf.constant(queries), tf.constant(items)]
    sources += [tf.constant(w) for w in weights.values()]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        named = dict(zip(weights, sources[2:], strict=True))
        total = tf.reduce_sum(scoring.scores(spec, named, *sources[:2]) ** 2)
    for gradient in tape.gradient(total, sources):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_averaged_queries_are_the_references(spec):
    weights, queries, _ = drawn(spec)
    np.testing.assert_allclose(
        scoring.averaged_queries(spec, weights, queries),
        reference.averaged_queries(spec, weights, queries),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_blocks_of_rows_make_no_difference(spec, monkeypatch):
    weights, queries, items = drawn(spec, items=11)
    whole = scoring.scores(spec, weights, queries, items)
    of_one = spec.pairs * max(spec.hidden, 1) + spec.gate_hidden
    # Three rows, and two in the last one.
    monkeypatch.setattr(scoring, "_BLOCK_NUMBERS", 3 * 4 * of_one)
    blocks = tf.function(scoring.scores_in_blocks)(
        spec, weights, queries, items
    )
    assert blocks.shape == (4, 11)
    np.testing.assert_allclose(blocks, whole, rtol=1e-5, atol=1e-5)


def test_unknown_sizes_are_taken_in_a_graph():
    spec = SPECS[3]
    weights, queries, items = drawn(spec)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, spec.query_dim]),
            tf.TensorSpec([None, spec.item_dim]),
        ]
    )
    def scored(queries, items):
        return scoring.scores(spec, weights, queries, items)

    np.testing.assert_allclose(
        scored(queries[:0], items).shape, [0, 6], err_msg="no queries"
    )
    np.testing.assert_allclose(
        scored(queries, items),
        reference.scores(spec, weights, queries, items),
        rtol=1e-5,
        atol=1e-5,
    )
