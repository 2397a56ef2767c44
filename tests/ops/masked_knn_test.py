# SPDX-License-Identifier: Apache-2.0
"""Lintf>MaskedKnn and Lintf>PrefilteredKnn against numpy; gradients."""

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from tests.ops.toy_index import exact_vectors
from tests.references.masked_knn import masked_knn as reference

METRICS = ("inner_product", "l2")


def _check(queries, items, mask, k, metric):
    found = ops.masked_knn(queries, items, mask, k, metric=metric)
    again = ops.masked_knn(queries, items, mask, k, metric=metric)
    scores, indices, counts = reference(queries, items, mask, k, metric)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.num_results, counts)
    other = ops.prefiltered_knn(queries, items, mask, k, metric=metric)
    for first, *others in zip(found, again, other, strict=True):
        for second in others:
            assert first.numpy().tobytes() == second.numpy().tobytes()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 3, 40, 700])
@pytest.mark.parametrize(
    "num_items,dim", [(0, 4), (1, 1), (63, 5), (64, 8), (130, 17), (600, 33)]
)
def test_grid(num_items, dim, k, metric):
    # Few distinct scores, all of them exact: ties are the rule.
    rng = np.random.default_rng(num_items + dim + k)
    items = exact_vectors(rng, (num_items, dim))
    for batch in (0, 1, 2, 9):
        queries = exact_vectors(rng, (batch, dim))
        for rate in (0.0, 0.01, 0.2, 1.0):
            own = rng.random((batch, num_items)) < rate
            _check(queries, items, own, k, metric)
            _check(queries, items, rng.random((1, num_items)) < rate, k, metric)


def test_equal_scores_come_by_lower_index():
    items = np.ones((100, 3), np.float32)
    mask = np.arange(100) % 2 == 1
    found = ops.masked_knn(np.ones((1, 3), np.float32), items, mask, 5)
    assert found.indices.numpy().tolist() == [[1, 3, 5, 7, 9]]


def test_a_masked_item_loses_against_negative_scores():
    found = ops.masked_knn([[1.0]], [[-5.0], [9.0]], [True, False], 1)
    assert found.indices.numpy().tolist() == [[0]]
    assert found.scores.numpy().tolist() == [[-5.0]]


@pytest.mark.parametrize("metric", METRICS)
def test_batch_equals_singles_bit_for_bit(metric):
    rng = np.random.default_rng(4)
    queries = rng.standard_normal((64, 37)).astype(np.float32)
    items = rng.standard_normal((500, 37)).astype(np.float32)
    mask = rng.random((64, 500)) < 0.3
    together = ops.masked_knn(queries, items, mask, 7, metric=metric)
    for i in range(64):
        one = slice(i, i + 1)
        alone = ops.masked_knn(queries[one], items, mask[one], 7, metric=metric)
        for whole, part in zip(together, alone, strict=True):
            assert whole[i].numpy().tobytes() == part[0].numpy().tobytes()


def test_scores_are_close_to_float64():
    rng = np.random.default_rng(5)
    dim = 200
    queries = rng.standard_normal((8, dim)).astype(np.float32)
    items = rng.standard_normal((1000, dim)).astype(np.float32)
    found = ops.masked_knn(queries, items, np.ones(1000, bool), 10)
    exact = queries.astype(np.float64) @ items.T.astype(np.float64)
    picked = np.take_along_axis(exact, found.indices.numpy(), 1)
    # One rounding of each partial sum, none of which exceeds this.
    bound = np.abs(queries).astype(np.float64) @ np.abs(items).T
    tolerance = dim * np.finfo(np.float32).eps * bound.max()
    np.testing.assert_allclose(found.scores, picked, atol=tolerance, rtol=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_queries_must_be_finite(bad):
    queries = np.zeros((5, 9), np.float32)
    queries[3, 7] = bad
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        ops.masked_knn(queries, np.zeros((2, 9), np.float32), [True, True], 1)
    assert f"query 3 holds {bad} at dimension 7" in str(error.value)


def test_items_may_hold_anything():
    items = np.array([[np.nan], [np.inf], [-np.inf], [1]], np.float32)
    found = ops.masked_knn([[1.0]], items, np.ones(4, bool), 4)
    assert found.indices.numpy().tolist() == [[1, 3, 0, 2]]
    assert found.scores.numpy().tolist() == [[np.inf, 1, -np.inf, -np.inf]]
    assert found.num_results.numpy().tolist() == [4]


@pytest.mark.parametrize(
    "queries,items,mask,message",
    [
        ((2, 3), (5, 4), (1, 5), "`items` must have shape \\[items, 3\\]"),
        ((2, 3), (5, 3), (1, 4), "`mask` must have shape \\[1, 5\\]"),
        ((2, 3), (5, 3), (3, 5), "or \\[2, 5\\], got \\[3,5\\]"),
        ((2,), (5, 3), (1, 5), "`queries` must have shape"),
        ((2, 0), (5, 0), (1, 5), "`queries` must have shape"),
    ],
)
def test_shapes_are_checked(queries, items, mask, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.masked_knn(
            np.zeros(queries, np.float32),
            np.zeros(items, np.float32),
            np.zeros(mask, bool),
            2,
        )


def test_in_a_function_with_unknown_shapes():
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.float32),
            tf.TensorSpec([None, None], tf.float32),
            tf.TensorSpec([None, None], tf.bool),
        ]
    )
    def search(queries, items, mask):
        return ops.masked_knn(queries, items, mask, 4)

    rng = np.random.default_rng(6)
    for size in (3, 80):
        queries = exact_vectors(rng, (2, 5))
        items = exact_vectors(rng, (size, 5))
        mask = rng.random((2, size)) < 0.5
        _, indices, _ = reference(queries, items, mask, 4)
        np.testing.assert_array_equal(
            search(queries, items, mask).indices, indices
        )


@pytest.mark.parametrize("metric", METRICS)
def test_gradients_agree_with_finite_differences(metric):
    rng = np.random.default_rng(7)
    queries = rng.standard_normal((3, 4)).astype(np.float32)
    items = rng.standard_normal((6, 4)).astype(np.float32)
    # The last query has unused slots.
    mask = np.ones((3, 6), bool)
    mask[2, 2:] = False

    def scores(queries, items):
        found = ops.masked_knn(queries, items * 1.0, mask, 3, metric=metric)
        return tf.where(found.indices >= 0, found.scores, 0.0)

    theoretical, numerical = tf.test.compute_gradient(
        scores, [tf.constant(queries), tf.constant(items)], delta=1e-2
    )
    for theory, number in zip(theoretical, numerical, strict=True):
        assert np.abs(theory).max() > 0.1
        np.testing.assert_allclose(theory, number, atol=2e-3)


def test_item_gradients_are_slices_of_the_selected_rows():
    items = tf.Variable([[1.0, 0.0], [0.0, 1.0], [np.inf, 0.0]])
    queries = tf.constant([[2.0, 3.0], [5.0, 7.0]])
    mask = np.array([[True, True, False], [False, False, False]])
    with tf.GradientTape() as tape:
        tape.watch(queries)
        found = ops.masked_knn(queries, items, mask, 3)
        # -inf * 0 is NaN: what flows into unused slots must not matter.
        loss = tf.reduce_sum(found.scores * [[1.0, 10.0, 0.0]])
    to_queries, to_items = tape.gradient(loss, [queries, items])
    assert isinstance(to_items, tf.IndexedSlices)
    assert to_items.indices.numpy().tolist() == [1, 0]
    assert to_items.values.numpy().tolist() == [[2.0, 3.0], [20.0, 30.0]]
    assert to_queries.numpy().tolist() == [[10.0, 1.0], [0.0, 0.0]]


def test_trains():
    # A query moves towards the item that it should find.
    rng = np.random.default_rng(8)
    items = tf.constant(rng.standard_normal((20, 4)).astype(np.float32))
    query = tf.Variable(rng.standard_normal((1, 4)).astype(np.float32))
    wanted = np.arange(20) == 11

    def distance():
        return -ops.masked_knn(query, items, wanted, 1, metric="l2").scores[0]

    before = float(distance()[0])
    for _ in range(20):
        with tf.GradientTape() as tape:
            loss = distance()
        query.assign_sub(0.1 * tape.gradient(loss, query))
    assert float(distance()[0]) < 1e-3 * before
