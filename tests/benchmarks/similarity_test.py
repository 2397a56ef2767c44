# SPDX-License-Identifier: Apache-2.0
"""The parts of the similarity benchmarks that need no training."""

import dataclasses
import doctest
import types

import numpy as np
import pytest

from benchmarks.similarity import cold_start, models, paired, ranking
from benchmarks.similarity.models import BASE, MODELS


def _task() -> tuple[types.SimpleNamespace, types.SimpleNamespace]:
    """150 films with the ids 10, 20, ...; two users."""
    ids = 10 * np.arange(1, 151)
    seen = np.zeros((2, 150), bool)
    seen[0, :3] = True
    films = types.SimpleNamespace(id=ids)
    data = types.SimpleNamespace(films=films)
    return data, types.SimpleNamespace(seen=seen, target=np.array([5, 0]))


def test_metrics_follow_from_the_place_in_the_list():
    data, task = _task()
    lists = np.full((2, 150), -1)
    lists[0, :147] = data.films.id[3:]  # the target is third
    lists[1] = data.films.id[::-1]  # the target is last

    users = ranking.of_lists(lists, data, task)

    assert users["HR@10"].tolist() == [1, 0]
    assert users["HR@100"].tolist() == [1, 0]
    assert users["MRR"].tolist() == pytest.approx([1 / 3, 1 / 150])
    assert users["NDCG@10"].tolist() == [0.5, 0]
    assert users["HR@10 99neg"].tolist() == [1, 0]
    means = ranking.means(users)
    assert means["HR@50"] == 0.5
    assert list(means) == list(ranking.NAMES)


def test_negatives_are_films_that_the_user_has_not_seen():
    _, task = _task()
    rows = ranking.negatives(task, 0, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 99
    assert not set(rows.tolist()) & {0, 1, 2, 5}


def test_a_list_without_the_target_is_refused():
    data, task = _task()
    lists = np.tile(data.films.id[:1], (2, 150))
    with pytest.raises(ValueError, match="must hold all films"):
        ranking.of_lists(lists, data, task)


def test_intervals_of_paired_differences():
    random = np.random.default_rng(1)
    base = [random.random(400) for _ in range(5)]
    better = [b + 0.1 + 0.01 * random.standard_normal(400) for b in base]

    found = paired.difference(better, base)

    assert found.is_positive
    assert found.mean == pytest.approx(0.1, abs=0.01)
    assert found.seeds[0] < found.mean < found.seeds[1]
    # By hand: mean and t times the standard error of five numbers.
    numbers = [float((a - b).mean()) for a, b in zip(better, base, strict=True)]
    half = 2.776 * np.std(numbers, ddof=1) / np.sqrt(5)
    assert found.seeds[1] - found.mean == pytest.approx(half)
    assert not paired.difference(base, base).is_positive


def test_one_seed_has_no_interval():
    with pytest.raises(ValueError, match="the same seeds of both models"):
        paired.difference([np.ones(3)], [np.ones(3)])


def test_models_differ_in_their_settings():
    assert not MODELS[BASE].overrides
    settings = [model.overrides for model in MODELS.values()]
    assert len(set(settings)) == len(settings)
    assert all(dataclasses.is_dataclass(model) for model in MODELS.values())


def test_doctests():
    assert doctest.testmod(paired).failed == 0
    assert doctest.testmod(models).failed == 0


def test_runs_of_other_settings_are_kept_apart(tmp_path):
    same = models.Model("", ("towers.options.dim=16",))
    other = models.Model("", ("towers.options.dim=17",))
    places = [models.folder(tmp_path, "m", m) for m in (same, same, other)]
    assert places[0] == places[1] != places[2]
    assert places[0].parent == tmp_path


def test_films_can_be_taken_out():
    @dataclasses.dataclass
    class Table:
        id: np.ndarray
        item_id: np.ndarray

    @dataclasses.dataclass
    class Data:
        films: Table
        ratings: Table

    films = Table(np.arange(5), np.arange(5))
    ratings = Table(np.arange(4), np.array([4, 1, 1, 0]))
    left = cold_start.without(Data(films, ratings), np.array([1, 3]))
    assert left.films.id.tolist() == [0, 2, 4]
    assert left.ratings.item_id.tolist() == [4, 0]
