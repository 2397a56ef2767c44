# SPDX-License-Identifier: Apache-2.0
"""Gradients through what an index retrieves."""

import numpy as np
import pytest
import tensorflow as tf

from lintf.similarity import reference
from lintf.similarity.retrieval import TrainableIndex
from lintf.similarity.spec import SimilaritySpec
from tests.similarity.reference_test import draw

SPEC = SimilaritySpec(
    2, 2, 3, temperature=0.7, gate="silu_softmax", gate_hidden=4
)


def _index(spec: SimilaritySpec | None, k: int = 5):
    """An index of 30 rows, and 4 queries."""
    if spec is None:
        random = np.random.default_rng(5)
        rows = random.standard_normal((30, 6)).astype(np.float32)
        queries = random.standard_normal((4, 6)).astype(np.float32)
        return TrainableIndex(rows, k), tf.constant(queries)
    weights, queries, rows = draw(spec, 5, 4, 30)
    variables = {name: tf.Variable(w) for name, w in weights.items()}
    return TrainableIndex(rows, k, spec, variables), tf.constant(queries)


def _scores(index: TrainableIndex, queries: np.ndarray) -> np.ndarray:
    """All scores in float64, from the variables of now."""
    rows = index.rows.numpy()
    if index.spec is None:
        return np.asarray(queries, np.float64) @ rows.T.astype(np.float64)
    weights = {name: w.numpy() for name, w in index.weights.items()}
    return reference.scores(index.spec, weights, queries, rows)


@pytest.mark.parametrize("spec", [None, SPEC], ids=["dot", "mixture"])
def test_retrieves_the_best_rows_with_their_scores(spec):
    index, queries = _index(spec)

    found = index.retrieve(queries)

    scores = _scores(index, queries.numpy())
    best = np.argsort(-scores, axis=1)[:, :5]
    np.testing.assert_array_equal(found.rows.numpy(), best)
    np.testing.assert_allclose(
        found.scores.numpy(),
        np.take_along_axis(scores, best, axis=1),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("spec", [None, SPEC], ids=["dot", "mixture"])
def test_leaves_out_what_it_is_told_to(spec):
    index, queries = _index(spec)
    excluded = np.tile(np.arange(-1, 27), [4, 1])
    excluded[1] = np.arange(28)
    excluded[2] = -1

    rows = index.retrieve(queries, tf.constant(excluded)).rows.numpy()

    scores = _scores(index, queries.numpy())
    for row, left_out in enumerate(excluded):
        scores[row, left_out[left_out >= 0]] = -np.inf
    expected = np.argsort(-scores, axis=1)[:, :5]
    expected[np.isinf(np.take_along_axis(scores, expected, axis=1))] = -1
    np.testing.assert_array_equal(rows, expected)
    assert (rows[:2] == -1).sum() == 5


@pytest.mark.parametrize("spec", [None, SPEC], ids=["dot", "mixture"])
def test_gradients_are_those_of_finite_differences(spec):
    index, queries = _index(spec)
    factors = np.random.default_rng(6).standard_normal((4, 5))
    rows = index.retrieve(queries).rows.numpy()

    def loss(asked: np.ndarray) -> float:
        scores = _scores(index, asked)
        return float((factors * np.take_along_axis(scores, rows, 1)).sum())

    variables = [index.rows, *index.weights.values()]
    with tf.GradientTape() as tape:
        tape.watch(queries)
        found = index.retrieve(queries)
        total = tf.reduce_sum(tf.constant(factors, tf.float32) * found.scores)
    gradients = tape.gradient(total, [queries, *variables])

    asked, step = queries.numpy().astype(np.float64), 1e-4
    for place in [(0, 0), (1, 3), (3, 5)]:
        ends = []
        for sign in (1, -1):
            moved = asked.copy()
            moved[place] += sign * step
            ends.append(loss(moved))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert gradients[0].numpy()[place] == pytest.approx(
            slope, rel=1e-2, abs=1e-2
        )
    for variable, gradient in zip(variables, gradients[1:], strict=True):
        dense = tf.convert_to_tensor(gradient).numpy().ravel()
        place = int(np.argmax(np.abs(dense)))
        assert dense[place] != 0
        start, ends = variable.numpy(), []
        for sign in (1, -1):
            moved = start.ravel().copy()
            moved[place] += sign * 1e-2
            variable.assign(moved.reshape(start.shape))
            ends.append(loss(asked))
        variable.assign(start)
        slope = (ends[0] - ends[1]) / 2e-2
        assert dense[place] == pytest.approx(slope, rel=2e-2, abs=2e-2)


def test_rows_that_are_not_retrieved_have_no_gradient():
    index, queries = _index(SPEC)
    with tf.GradientTape() as tape:
        found = index.retrieve(queries)
        total = tf.reduce_sum(found.scores)
    gradient = tf.convert_to_tensor(tape.gradient(total, index.rows)).numpy()
    moved = set(np.flatnonzero(np.abs(gradient).max(axis=1)).tolist())
    assert moved == set(found.rows.numpy().ravel().tolist())


def test_searches_the_rows_of_the_last_refresh():
    index, queries = _index(None)
    before = index.retrieve(queries).rows.numpy()
    index.rows.assign(-index.rows)
    stale = index.retrieve(queries)
    np.testing.assert_array_equal(stale.rows.numpy(), before)
    # Scored by the rows of now, which are the other way round.
    np.testing.assert_allclose(
        stale.scores.numpy(),
        np.take_along_axis(_scores(index, queries.numpy()), before, axis=1),
        rtol=1e-4,
        atol=1e-5,
    )
    index.refresh()
    fresh = index.retrieve(queries).rows.numpy()
    best = np.argsort(-_scores(index, queries.numpy()), axis=1)[:, :5]
    np.testing.assert_array_equal(fresh, best)


def test_slots_beyond_the_rows_are_unused():
    index, queries = _index(None, k=50)
    found = index.retrieve(queries)
    assert found.rows.shape == (4, 30)
    assert np.isfinite(found.scores.numpy()).all()


def test_rows_of_another_similarity_are_refused():
    with pytest.raises(ValueError, match="dim"):
        TrainableIndex(np.zeros((3, 4), np.float32), 2, SPEC, {})
