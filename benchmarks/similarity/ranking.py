# SPDX-License-Identifier: Apache-2.0
"""Metrics of one user each, from the whole list that a user gets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from benchmarks.movielens.protocol import Task
from lintf import metrics
from lintf.datasets import MovieLens

HIT_RATES = (10, 50, 100)
_NEGATIVES = 99

# What tables show, in their order.
OF_RANKS = (*(f"HR@{k}" for k in HIT_RATES), "NDCG@10", "MRR")
NAMES = (*OF_RANKS, "HR@10 99neg", "NDCG@10 99neg")
# Whose differences decide.
COMPARED = ("NDCG@10", "HR@50")


def of_lists(
    ids: npt.NDArray[np.int64], data: MovieLens, task: Task
) -> dict[str, np.ndarray]:
    """The metrics of every user, `[num_users]` float64 by name.

    "99neg" ranks the held-out film among 99 others that the user has not
    seen, drawn uniformly by `numpy.random.default_rng(0)`.

    Args:
        ids: `[num_users, num_films]` all films that the user has not seen,
            best first; -1 beyond them.
        data: the films.
        task: what is predicted.

    Raises:
        ValueError: a held-out film is in no list.
    """
    target = data.films.id[task.target]
    rank = metrics.ranks_of_retrieved(ids, target)
    if np.isinf(rank).any():
        raise ValueError(
            "each list must hold all films that the user has not seen, but "
            f"{int(np.isinf(rank).sum())} lists lack the held-out one"
        )
    sampled = _sampled_ranks(ids, rank, data, task)
    found = of_ranks(rank)
    found["HR@10 99neg"] = _hits(sampled, 10)
    found["NDCG@10 99neg"] = _gains(sampled)
    return found


def of_ranks(rank: metrics.Ranks) -> dict[str, np.ndarray]:
    """The metrics of every user among all films, `[num_users]` by name.

    Args:
        rank: `[num_users]` of the held-out film, from 1.
    """
    found = {f"HR@{k}": _hits(rank, k) for k in HIT_RATES}
    return {**found, "NDCG@10": _gains(rank), "MRR": 1 / rank}


def means(users: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean over users, by name."""
    return {name: float(users[name].mean()) for name in NAMES}


def negatives(task: Task, user: int, random: np.random.Generator) -> np.ndarray:
    """Rows of 99 films that a user has not seen, but for the held-out one."""
    unseen = ~task.seen[user]
    unseen[task.target[user]] = False
    rows = np.flatnonzero(unseen)
    return random.choice(rows, min(_NEGATIVES, len(rows)), replace=False)


def _sampled_ranks(
    ids: np.ndarray, rank: metrics.Ranks, data: MovieLens, task: Task
) -> metrics.Ranks:
    random = np.random.default_rng(0)
    sampled = np.empty(len(ids))
    place = np.empty(len(data.films.id), np.int64)
    for user, listed in enumerate(ids):
        listed = listed[listed >= 0]
        place[:] = len(ids[user])
        place[np.searchsorted(data.films.id, listed)] = np.arange(len(listed))
        others = place[negatives(task, user, random)]
        sampled[user] = 1 + int((others < rank[user] - 1).sum())
    return sampled


def _hits(rank: metrics.Ranks, k: int) -> np.ndarray:
    return np.asarray(rank <= k, np.float64)


def _gains(rank: metrics.Ranks) -> np.ndarray:
    return np.where(rank <= 10, 1 / np.log2(rank + 1), 0.0)
