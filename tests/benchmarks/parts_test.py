# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own arithmetic: truth, work, timing, filters."""

import numpy as np
import pytest

from benchmarks import harness, synthetic, timing, truth
from benchmarks.engines import Cost, Request


def _items(rows, dim, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(-3, 4, (rows, dim)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 7, 50, 80])
@pytest.mark.parametrize("masked", [False, True])
def test_truth_is_that_of_a_sort(k, masked):
    items, queries = _items(50, 3), _items(4, 3, seed=1)
    masks = None
    if masked:
        masks = np.random.default_rng(2).random((4, 50)) < 0.3
    right = truth.exact(items, queries, k, masks)
    found = np.full((4, k), -1)
    for q, query in enumerate(queries):
        passing = np.flatnonzero(masks[q]) if masked else np.arange(50)
        scores = items[passing] @ query
        best = passing[np.argsort(-scores, kind="stable")[:k]]
        found[q, : len(best)] = best
        assert right.wanted[q] == len(best)
    assert right.recall(found) == 1
    # Ties are as good: the last of equal scores instead of the first.
    found[:, 0] = -1
    missing = sum(w > 0 for w in right.wanted)
    expected = 1 - missing / right.wanted.sum()
    assert right.recall(found) == pytest.approx(expected)


def test_truth_over_several_chunks(monkeypatch):
    monkeypatch.setattr(truth, "_CHUNK", 16)
    items, queries = _items(50, 3), _items(4, 3, seed=1)
    right = truth.exact(items, queries, 20)
    scores = np.sort(queries @ items.T, axis=1)
    np.testing.assert_array_equal(right.bars, scores[:, -20])


def test_recall_accepts_any_of_equal_items():
    items = np.array([[1.0], [1.0], [1.0], [0.0]], np.float32)
    right = truth.exact(items, np.ones((1, 1), np.float32), 2)
    assert right.recall(np.array([[2, 0]])) == 1
    assert right.recall(np.array([[2, 3]])) == 0.5


def test_nothing_to_find_is_found():
    items = _items(9, 2)
    right = truth.exact(items, items[:1], 2, np.zeros((1, 9), bool))
    assert right.recall(np.array([[-1, -1]])) == 1


def test_a_wrong_answer_is_not_a_low_recall():
    items = _items(9, 2)
    masks = np.zeros((1, 9), bool)
    masks[0, :5] = True
    right = truth.exact(items, items[:1], 2, masks)
    with pytest.raises(AssertionError, match="twice"):
        right.recall(np.array([[1, 1]]))
    with pytest.raises(AssertionError, match="does not pass"):
        right.recall(np.array([[1, 7]]))


def test_work_of_masks():
    queries = np.zeros((2, 4), np.float32)
    own = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0]], bool)
    work = harness.work_of(Request(queries, 1, masks=own), 5, 3, 2)
    assert (work.rows, work.scores) == (3, 4)
    assert (work.shortlist, work.column_bytes) == (6, 10)
    work = harness.work_of(Request(queries, 1, masks=own[:1]), 5)
    assert (work.rows, work.scores) == (2, 4)
    work = harness.work_of(Request(queries, 1), 5)
    assert (work.rows, work.scores) == (5, 10)


def test_timing_pairs_rounds():
    calls = {"a": [], "b": []}

    def call(name, factor):
        def measure():
            calls[name].append(None)
            return Cost(factor * len(calls[name]), 1.0)

        return measure

    times = timing.measure(
        {"a": call("a", 1.0), "b": call("b", 3.0)},
        seconds=0.0,
        min_rounds=4,
        max_rounds=9,
    )
    assert times["a"].seconds() == [1.0, 2.0, 3.0, 4.0]
    assert times["a"].median() == 2.5
    assert times["b"].ratio_to(times["a"]) == 3.0
    assert times["b"].ratio_to(times["a"], "wall") == 1.0


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.1, 0.01, 1e-3, 1e-5])
def test_clauses_pass_at_their_rate(rate):
    rng = np.random.default_rng(0)
    columns = {
        "category": rng.integers(0, 100, 400_000, np.uint8),
        "price": rng.integers(0, 10_000, 400_000, np.int16),
    }
    own = synthetic.clauses(rate, 3)
    assert len({c.text for c in own}) == (1 if rate == 1 else 3)
    for clauses in own:
        got = clauses.mask(columns).mean()
        assert abs(got - rate) < 5 * np.sqrt(rate / 400_000) + 1e-9


def test_clauses_of_no_such_rate():
    with pytest.raises(ValueError, match="must be one of .* got 0.3"):
        synthetic.clauses(0.3, 1)


def test_synthetic_items_are_made_once(tmp_path):
    first = synthetic.load(300, 32, tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    second = synthetic.load(300, 32, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    np.testing.assert_array_equal(first.vectors, second.vectors)
    np.testing.assert_array_equal(first.price, second.price)
    np.testing.assert_allclose(
        np.linalg.norm(first.vectors, axis=1), 1, rtol=1e-5
    )
    np.testing.assert_array_equal(np.load(first.path), first.vectors)
