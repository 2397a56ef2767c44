# SPDX-License-Identifier: Apache-2.0
"""The evaluation's baselines, protocol and table, on small made-up data."""

import json

import numpy as np
import pytest

from benchmarks.movielens import baselines, offline, protocol, report, served
from tests.towers.toy_data import toy_data


def _seen(seed=0, users=30, items=12):
    return np.random.default_rng(seed).random((users, items)) < 0.3


def test_popularity_by_hand():
    seen = np.array([[1, 0, 1], [1, 0, 0]], np.bool_)
    np.testing.assert_array_equal(
        baselines.popularity(seen), [[2, 0, 1], [2, 0, 1]]
    )


def test_item_cosine_by_hand():
    # Item 0 and item 1 share one of two and one users: 1 / sqrt(2 * 1).
    seen = np.array([[1, 1, 0], [1, 0, 0]], np.bool_)
    np.testing.assert_allclose(
        baselines.item_cosine(seen)[1], [0, 1 / np.sqrt(2), 0]
    )


def test_ease_minimises_its_loss_without_a_diagonal():
    seen = _seen()
    matrix = seen.astype(np.float64)
    # With the identity's rows as users the scores are the weights.
    weights = np.linalg.lstsq(
        matrix, baselines.ease(seen, regularisation=5.0), rcond=None
    )[0]
    np.testing.assert_allclose(np.diag(weights), 0, atol=1e-9)
    # Where the loss is least its gradient vanishes, the diagonal aside.
    gradient = matrix.T @ (matrix @ weights - matrix) + 5.0 * weights
    np.fill_diagonal(gradient, 0)
    np.testing.assert_allclose(gradient, 0, atol=1e-8)


@pytest.mark.parametrize("alpha", [1.0, 1.5, 8.0])
def test_ials_ends_where_each_user_is_least(alpha):
    seen = _seen()
    rng = np.random.default_rng(1)
    items = rng.normal(size=(12, 3))
    users = baselines._solve(seen, items, 0.1, alpha)
    confidence = np.where(seen, alpha, 1.0)
    residual = confidence * (users @ items.T - seen)
    np.testing.assert_allclose(residual @ items + 0.1 * users, 0, atol=1e-9)


def test_ials_reconstructs_a_matrix_of_its_rank():
    seen = np.kron(np.eye(3, dtype=np.bool_), np.ones((5, 4), np.bool_))
    scores = baselines.ials(seen, seed=0, num_factors=3, regularisation=1e-6)
    np.testing.assert_allclose(scores, seen, atol=1e-3)


def test_task_ranks_only_what_the_user_has_not_seen():
    data = toy_data()
    task = protocol.make_task(data, "test")
    assert not task.seen[np.arange(len(task.target)), task.target].any()
    scores = np.zeros(task.seen.shape)
    scores[task.seen] = 1e9
    unseen = (~task.seen).sum(axis=1)
    # Among equals the expected rank is the middle.
    np.testing.assert_array_equal(task.rank(scores), (unseen + 1) / 2)


def test_query_features_hold_the_newest_films_first_to_last():
    data = toy_data()
    task = protocol.make_task(data, "validation")
    history = offline.query_features(data, task, 4)["history"]
    np.testing.assert_array_equal(
        history[0], task.split.seen(0, "validation")[-4:]
    )
    longer = offline.query_features(data, task, 30)["history"]
    own = task.split.seen(0, "validation")
    np.testing.assert_array_equal(longer[0, : len(own)], own)
    assert (longer[0, len(own) :] == -1).all()


def test_a_filtered_film_in_an_answer_is_found_out():
    ids = np.array([[1, 2], [3, -1]])
    served._check_exclusion(ids, [np.array([5]), np.array([1, 2])])
    with pytest.raises(RuntimeError, match=r"came back: \[3\]"):
        served._check_exclusion(ids, [np.array([5]), np.array([3])])


def test_report_files(tmp_path):
    results = {"a": [{"HR@10": 0.2}, {"HR@10": 0.4}], "b": [{"HR@10": 0.1}]}
    report.write(tmp_path / "new", results, "How.", "python -m x")
    written = json.loads((tmp_path / "new" / "movielens.json").read_text())
    assert written["results"] == results
    text = (tmp_path / "new" / "movielens.md").read_text()
    assert "| a | 2 | 0.300 (0.141) |" in text
    assert "`python -m x`" in text
