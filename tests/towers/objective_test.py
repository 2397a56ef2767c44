# SPDX-License-Identifier: Apache-2.0
"""Negatives and their softmax."""

import numpy as np
import tensorflow as tf

from lintf.towers import objective


def test_candidates_come_as_often_as_expected():
    rng = np.random.default_rng(0)
    frequency = np.array([50, 30, 20, 0, 0])
    sampler = objective.Sampler(frequency, 8, 0.5, seed=1)
    counts, rounds = np.zeros(5), 400
    for step in range(rounds):
        positive = rng.choice(5, 20, p=frequency / 100).astype(np.int32)
        drawn = sampler.draw(tf.constant(positive), tf.constant(step, tf.int64))
        rows = drawn.rows.numpy()
        assert len(rows) == 16
        np.testing.assert_array_equal(rows[:8], positive[:8])
        counts += np.bincount(rows, minlength=5)
    expected = 8 * frequency / 100 + 8 / 5
    np.testing.assert_allclose(np.exp(drawn.log_q), expected, rtol=1e-5)
    # Five standard deviations of a mean count.
    np.testing.assert_allclose(counts / rounds, expected, atol=0.45)


def test_the_share_of_easy_negatives():
    for share, easy in ((0.0, 0), (0.4, 8), (0.6, 18)):
        sampler = objective.Sampler(np.ones(50), 12, share, seed=1)
        rows = sampler.draw(
            tf.zeros([12], tf.int32), tf.constant(3, tf.int64)
        ).rows
        assert len(rows) == 12 + easy
    other = sampler.draw(tf.zeros([12], tf.int32), tf.constant(4, tf.int64))
    assert (other.rows.numpy() != rows.numpy()).any()


def test_own_positive_and_history_are_not_allowed():
    left_out = objective.left_out(
        tf.constant([2, 0]), tf.constant([[1, -1], [0, 3]])
    )
    marks = objective.all_but(left_out, 4)
    np.testing.assert_array_equal(
        marks, [[True, False, False, True], [False, True, True, False]]
    )
    marks = objective.all_but(objective.left_out(tf.constant([2]), None), 4)
    np.testing.assert_array_equal(marks, [[True, True, False, True]])


def test_loss_by_hand():
    own = np.array([1.0, 2.0])
    others = np.array([[0.5, 3.0, 1.0], [1.0, 1.0, 9.0]])
    may_be = np.array([[True, False, True], [True, True, False]])
    sums = [
        np.exp([1.0, 0.5, 1.0]).sum(),
        np.exp([2.0, 1.0, 1.0]).sum(),
    ]
    expected = np.mean(np.log(sums) - own)
    found = objective.softmax_loss(
        tf.constant(own), tf.constant(others), tf.constant(may_be)
    )
    np.testing.assert_allclose(found, expected)


def test_log_q_estimates_the_softmax_over_all():
    rng = np.random.default_rng(0)
    frequency = np.array([40.0, 30, 15, 10, 4, 1])
    scores = rng.normal(size=6)
    whole = np.log(np.exp(scores).sum()) - scores[0]
    sampler = objective.Sampler(frequency, 300, 0.5, seed=2)
    positive = rng.choice(6, 300, p=frequency / 100).astype(np.int32)
    rows, log_q = sampler.draw(tf.constant(positive), tf.constant(0, tf.int64))
    rows = rows.numpy()
    loss = objective.softmax_loss(
        tf.constant(scores[:1]),
        tf.constant(scores[rows][np.newaxis]),
        tf.constant(rows[np.newaxis] != 0),
        tf.cast(tf.gather(log_q, rows), tf.float64),
    )
    np.testing.assert_allclose(loss, whole, rtol=0.1)
