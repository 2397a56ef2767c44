# SPDX-License-Identifier: Apache-2.0
"""Codes and search by them, on plain tensors, against numpy."""

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from tests.references import masked_knn as exact_reference
from tests.references.sign_oporp import oporp_samples, sign_oporp

ALL = {"bins": 8, "repeats": 16, "seed": 3}


def _normal(seed, *shape):
    random = np.random.default_rng(seed)
    return random.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    "dim,bins,repeats,seed",
    [(64, 64, 1, 0), (20, 16, 4, 1), (7, 1, 64, 2), (33, 8, 24, 1 << 62)],
)
def test_codes_are_the_reference(dim, bins, repeats, seed):
    config = {"bins": bins, "repeats": repeats, "seed": seed}
    vectors = _normal(dim, 301, dim)
    vectors[0] = 0  # every bit set: the sums are 0
    codes = ops.sign_oporp(vectors, **config)
    assert codes.shape == [301, bins * repeats // 64]
    np.testing.assert_array_equal(codes, sign_oporp(vectors, **config))
    signs = ops.sign_oporp_signs(vectors, **config).numpy()
    expected = np.where(oporp_samples(vectors, **config) >= 0, 1, -1)
    np.testing.assert_array_equal(signs, expected)


@pytest.mark.parametrize(
    "shape,config,message",
    [
        ((3, 4), {"bins": 5, "repeats": 64}, "bins"),
        ((3, 64), {"bins": 64, "repeats": 2}, "repeats"),
        ((3,), {"bins": 1, "repeats": 64}, r"must have shape \[n, dim\]"),
        ((3, 4), {"bins": 1, "repeats": 1 << 13}, "4096"),
    ],
)
def test_wrong_configs_are_refused(shape, config, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.sign_oporp(np.zeros(shape, np.float32), **config)


def test_gradient_passes_straight_through_the_signs():
    vectors = tf.constant(_normal(1, 5, 12) / 4)
    weights = _normal(2, 5, 128)
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        signs = ops.sign_oporp_signs(vectors, **ALL)
        loss = tf.reduce_sum(signs * weights)
    gradient = tape.gradient(loss, vectors).numpy()
    # The sums are linear in the vectors; signs let pass what is within 1.
    matrix = oporp_samples(np.eye(12, dtype=np.float32), **ALL)
    samples = vectors.numpy() @ matrix
    passed = np.where(np.abs(samples) <= 1, weights, 0)
    assert 0 < (passed == 0).sum() < passed.size
    np.testing.assert_allclose(gradient, passed @ matrix.T, atol=1e-4)


@pytest.mark.parametrize("scoring", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_a_shortlist_of_all_that_pass_is_exact(metric, scoring):
    queries, items = _normal(3, 9, 16), _normal(4, 700, 16)
    codes = ops.sign_oporp(items, **ALL)
    mask = np.random.default_rng(5).random((9, 700)) < 0.2
    mask[3] = False
    found = ops.quantized_knn(
        queries,
        items,
        codes,
        mask,
        30,
        shortlist=int(mask.sum(axis=1).max()),
        scoring=scoring,
        metric=metric,
        **ALL,
    )
    exact = ops.masked_knn(queries, items, mask, 30, metric=metric)
    for one, other in zip(found, exact, strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes()


@pytest.mark.parametrize("scoring", ["symmetric", "asymmetric"])
def test_short_lists_find_most_and_score_exactly(scoring):
    queries, items = _normal(6, 20, 32), _normal(7, 3000, 32)
    config = {"bins": 4, "repeats": 64, "seed": 0}
    codes = ops.sign_oporp(items, **config)
    mask = np.random.default_rng(8).random((1, 3000)) < 0.5
    found = ops.quantized_knn(
        queries,
        items,
        codes,
        mask,
        10,
        shortlist=150,
        scoring=scoring,
        **config,
    )
    indices = found.indices.numpy()
    scores, truth, _ = exact_reference.masked_knn(queries, items, mask, 10)
    hits = sum(
        len(np.intersect1d(a, b)) for a, b in zip(indices, truth, strict=True)
    )
    assert hits / truth.size > 0.9
    assert mask[0][indices].all()
    own = (queries.astype(np.float64) @ items.T.astype(np.float64))[
        np.arange(20)[:, np.newaxis], indices
    ]
    np.testing.assert_allclose(found.scores, own, rtol=1e-5, atol=1e-5)
    assert (np.diff(found.scores.numpy(), axis=1) <= 0).all()


def test_scores_have_gradients_and_the_selection_has_none():
    queries = tf.constant(_normal(9, 2, 16))
    items = tf.Variable(_normal(10, 50, 16))
    codes = ops.sign_oporp(items, **ALL)
    with tf.GradientTape() as tape:
        tape.watch(queries)
        found = ops.quantized_knn(
            queries, items, codes, np.ones(50, bool), 3, shortlist=10, **ALL
        )
        loss = tf.reduce_sum(found.scores)
    to_queries, to_items = tape.gradient(loss, [queries, items])
    picked = items.numpy()[found.indices.numpy()]
    np.testing.assert_allclose(to_queries, picked.sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(
        to_items.indices, found.indices.numpy().ravel()
    )


@pytest.mark.parametrize(
    "codes,message",
    [
        (np.zeros((50, 3), np.int64), r"must have shape \[50, 2\]"),
        (np.zeros((49, 2), np.int64), r"must have shape \[50, 2\]"),
    ],
)
def test_codes_must_fit_the_items(codes, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.quantized_knn(
            _normal(0, 1, 16),
            _normal(0, 50, 16),
            codes,
            np.ones(50, bool),
            3,
            shortlist=10,
            **ALL,
        )
