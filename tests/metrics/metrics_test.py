# SPDX-License-Identifier: Apache-2.0
"""Rank metrics: by hand, and against sorting."""

import numpy as np
import pytest

from lintf import metrics


def test_ranks_count_half_of_the_ties():
    scores = np.array([[0.5, 0.5, 0.5, 0.1], [0.9, 0.5, 0.5, 0.5]])
    np.testing.assert_array_equal(
        metrics.ranks(scores, np.array([1, 3])), [2.0, 3.0]
    )


def test_excluded_items_stand_behind():
    scores = np.array([[-np.inf, 1.0, -np.inf, 2.0]])
    np.testing.assert_array_equal(metrics.ranks(scores, np.array([1])), [2.0])


def test_ranks_equal_the_mean_over_random_tie_breaking():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (5, 12)).astype(np.float64)
    target = rng.integers(0, 12, 5)
    positions = []
    for _ in range(4000):
        order = np.lexsort((rng.random(scores.shape), -scores), axis=1)
        positions.append(np.argmax(order == target[:, np.newaxis], axis=1) + 1)
    expected = np.mean(positions, axis=0)
    # The mean of 4,000 draws from at most 12 places has a standard error of
    # at most 12 / sqrt(12 * 4000) = 0.055.
    np.testing.assert_allclose(
        metrics.ranks(scores, target), expected, atol=4 * 0.055
    )


def test_constant_scores_earn_what_chance_does():
    ranks = metrics.ranks(np.zeros((3, 101)), np.array([0, 50, 100]))
    np.testing.assert_array_equal(ranks, [51.0, 51.0, 51.0])
    assert metrics.hit_rate(ranks, 50) == 0.0


def test_ranks_of_retrieved_agree_with_ranks():
    rng = np.random.default_rng(1)
    scores = rng.permuted(np.tile(np.arange(50.0), (20, 1)), axis=1)
    target = rng.integers(0, 50, 20)
    retrieved = np.argsort(-scores, axis=1)[:, :10]
    full = metrics.ranks(scores, target)
    listed = metrics.ranks_of_retrieved(retrieved, target)
    np.testing.assert_array_equal(listed, np.where(full <= 10, full, np.inf))


def test_metrics_by_hand():
    ranks = np.array([1.0, 2.0, 10.0, 11.0, np.inf])
    assert metrics.hit_rate(ranks, 1) == pytest.approx(1 / 5)
    assert metrics.hit_rate(ranks, 10) == pytest.approx(3 / 5)
    gains = [1, 1 / np.log2(3), 1 / np.log2(11)]
    assert metrics.ndcg(ranks, 10) == pytest.approx(sum(gains) / 5)
    reciprocal = [1, 1 / 2, 1 / 10, 1 / 11]
    assert metrics.mean_reciprocal_rank(ranks) == pytest.approx(
        sum(reciprocal) / 5
    )


def test_summary_names():
    names = list(metrics.summary(np.array([1.0])))
    assert names == ["HR@1", "HR@10", "HR@50", "HR@100", "NDCG@10", "MRR"]


def test_ranks_refuse_nan():
    with pytest.raises(ValueError, match="must not be NaN"):
        metrics.ranks(np.array([[np.nan, 1.0]]), np.array([1]))


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_ranks_refuse_shapes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"\[num_queries, num_items\]"):
        metrics.ranks(np.zeros(shape), np.zeros(3, np.int64))
