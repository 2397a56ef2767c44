# SPDX-License-Identifier: Apache-2.0
"""Gradients through what is retrieved, and training by them."""

import numpy as np
import pytest
import tensorflow as tf

from lintf.similarity import reference
from lintf.similarity.retrieval import TrainedRows, fine_tune
from lintf.similarity.spec import SimilaritySpec

_SPECS = [
    None,
    SimilaritySpec(component="hadamard", hidden=4, component_dim=5),
    SimilaritySpec(2, 2, 4, gate="silu_softmax", gate_hidden=3),
    SimilaritySpec(2, 2, 3, "weighted", gate="sigmoid", temperature=0.5),
]


def _drawn(spec, queries=4, items=9, seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    shapes = {} if spec is None else spec.weight_shapes()
    weights = {n: tf.Variable(normal(*s)) for n, s in shapes.items()}
    dims = (6, 6) if spec is None else (spec.query_dim, spec.item_dim)
    rows = TrainedRows(tf.Variable(normal(items, dims[1])), spec, weights)
    return rows, normal(queries, dims[0])


@pytest.mark.parametrize("spec", _SPECS, ids=str)
def test_the_best_rows_come_with_their_scores(spec):
    rows, queries = _drawn(spec)
    items = rows.items.numpy()
    scores = queries @ items.T
    if spec is not None:
        weights = {n: w.numpy() for n, w in rows.weights.items()}
        scores = reference.scores(spec, weights, queries, items)
    best = np.argsort(-scores, axis=1)[:, :3]
    found = rows.retrieve(queries, 3)
    np.testing.assert_array_equal(found.rows, best)
    np.testing.assert_allclose(
        found.scores,
        np.take_along_axis(scores, best, axis=1),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("spec", _SPECS, ids=str)
def test_gradients_are_the_finite_differences(spec):
    rows, queries = _drawn(spec)
    queries = tf.Variable(queries)
    sources = [queries, rows.items, *rows.weights.values()]
    share = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)

    def value():
        return tf.reduce_sum(rows.retrieve(queries, 3).scores * share)

    with tf.GradientTape() as tape:
        loss = value()
    gradients = tape.gradient(loss, sources)
    kept = rows.retrieve(queries, 3).rows.numpy()
    rng = np.random.default_rng(2)
    for source, gradient in zip(sources, gradients, strict=True):
        before = source.numpy()
        gradient = tf.convert_to_tensor(gradient).numpy()
        for _ in range(4):
            direction = rng.normal(size=before.shape).astype(np.float32)
            ends = []
            for step in (1e-2, -1e-2):
                source.assign(before + step * direction)
                # Of the same rows: where others come there is a jump.
                fixed = rows.score(queries, kept)
                ends.append(float(tf.reduce_sum(fixed * share)))
            source.assign(before)
            slope = (ends[0] - ends[1]) / 2e-2
            np.testing.assert_allclose(
                (gradient * direction).sum(), slope, rtol=0.03, atol=0.03
            )


def test_unused_slots_are_marked_and_have_no_gradient():
    rows, queries = _drawn(None, items=2)
    with tf.GradientTape() as tape:
        found = rows.retrieve(queries, 5)
        loss = tf.reduce_sum(tf.where(found.rows >= 0, found.scores, 0))
    np.testing.assert_array_equal(found.rows[:, 2:], -np.ones((4, 3)))
    assert np.isneginf(found.scores.numpy()[:, 2:]).all()
    gradient = tf.convert_to_tensor(tape.gradient(loss, rows.items)).numpy()
    np.testing.assert_allclose(gradient, [queries.sum(0)] * 2, rtol=1e-5)


def _task(spec, seed=3):
    """Queries with one right row each, which random rows do not give."""
    rows, _ = _drawn(spec, items=30, seed=seed)
    dim = 6 if spec is None else spec.query_dim
    rng = np.random.default_rng(seed)
    kernel = tf.Variable(rng.normal(size=(5, dim)).astype(np.float32))
    features = rng.normal(size=(40, 5)).astype(np.float32)
    positive = rng.integers(0, 30, 40)
    left_out = np.stack([(positive + 1) % 30, np.full(40, -1)], axis=1)

    def tower(inputs):
        return inputs["x"] @ kernel

    def batches(epoch):
        for begin in (0, 20):
            part = slice(begin, begin + 20)
            yield (
                {"x": tf.constant(features[part])},
                tf.constant(left_out[part]),
                tf.constant(positive[part]),
            )

    return rows, tower, kernel, batches


@pytest.mark.parametrize("spec", [_SPECS[0], _SPECS[2]], ids=str)
def test_fine_tuning_brings_what_should_be_retrieved(spec):
    runs = []
    for _ in range(2):
        rows, tower, kernel, batches = _task(spec)
        before = [
            v.numpy() for v in (kernel, rows.items, *rows.weights.values())
        ]
        losses = fine_tune(
            tower,
            [kernel],
            rows,
            batches,
            epochs=40,
            learning_rate=0.02,
            k=8,
        )
        assert losses[-1] < 0.5 * losses[0]
        after = [
            v.numpy() for v in (kernel, rows.items, *rows.weights.values())
        ]
        for one, two in zip(before, after, strict=True):
            assert np.abs(one - two).max() > 1e-3
        hits = []
        for features, _, positive in batches(0):
            found = rows.retrieve(tower(features), 3).rows.numpy()
            hits += (found == positive.numpy()[:, np.newaxis]).any(1).tolist()
        assert np.mean(hits) > 0.6
        runs.append(after)
    for one, two in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, two)


def test_rows_that_nobody_retrieves_stay():
    rows, tower, kernel, batches = _task(None)
    rows.items.assign(tf.concat([rows.items[:-1], tf.zeros([1, 6])], axis=0))
    far = rows.items.numpy()
    asked = [b for b in batches(0)]
    seen = {int(p) for _, _, positive in asked for p in positive.numpy()}
    for features, _, _ in asked:
        found = rows.retrieve(tower(features), 2).rows.numpy()
        seen |= set(found.ravel().tolist())
    fine_tune(tower, [kernel], rows, batches, k=2, learning_rate=1e-6)
    moved = np.flatnonzero((rows.items.numpy() != far).any(axis=1))
    assert len(moved) and set(moved.tolist()) <= seen


def test_refuses():
    rows, tower, kernel, batches = _task(None)
    with pytest.raises(ValueError, match="must be positive"):
        fine_tune(tower, [kernel], rows, batches, k=0)
    with pytest.raises(ValueError, match="weights must be"):
        TrainedRows(tf.Variable(tf.zeros([2, 4])), _SPECS[2])
    spec = SimilaritySpec(2, 2, 3, gate="softmax")
    with pytest.raises(ValueError, match=r"must be \[n, 10\]"):
        TrainedRows(tf.Variable(tf.zeros([2, 4])), spec)
