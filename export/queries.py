# SPDX-License-Identifier: Apache-2.0
"""Queries to measure an index with, which it was not made from.

Those of the recipe's data set if there is one; otherwise items take the part
of queries, each of them left out of its own results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from export.config import JobConfig


class QuerySet(NamedTuple):
    """Queries and where they come from.

    Attributes:
        vectors: `[n, dim]` float32.
        own: `[n]` int64: the row of the item that a query is, -1 if it is
            none; left out of the query's results.
        source: For people.
    """

    vectors: np.ndarray
    own: np.ndarray
    source: str


def sample(total: int, count: int, seed: int) -> np.ndarray:
    """Some of the numbers below `total`, ascending."""
    random = np.random.default_rng(seed)
    return np.sort(random.choice(total, min(count, total), replace=False))


def of_items(vectors: np.ndarray, rows: np.ndarray) -> QuerySet:
    """Items as queries: `vectors` are those of `rows`."""
    return QuerySet(np.asarray(vectors, np.float32), rows, "items as queries")


def of_tower(vectors: Any) -> QuerySet:
    """What the query tower makes of held-out users."""
    vectors = np.asarray(vectors, np.float32)
    own = np.full(len(vectors), -1)
    return QuerySet(vectors, own, "held-out users")


def recipe_features(
    config: JobConfig, specs: Mapping[str, Any], count: int, seed: int
) -> dict[str, np.ndarray] | None:
    """The query tower's inputs for users of the recipe's data.

    The history is what came before the item that the training held out.

    Args:
        config: The job's.
        specs: The query tower's inputs: `tf.TensorSpec` by name.
        count: How many users to take.
        seed: Of which.

    Returns:
        `[n, ...]` by name, or None if the job has no recipe.
    """
    if config.towers is None or config.towers.recipe is None:
        return None
    from lintf import datasets

    data = datasets.movielens_100k()
    ratings = data.ratings
    split = datasets.leave_one_out(
        ratings.user_id, ratings.item_id, ratings.timestamp
    )
    users = sample(split.num_users, count, seed)
    rows = np.searchsorted(data.users.id, split.user_id[users])
    length = int(specs["history"].shape[1])
    history = np.full((len(users), length), -1, np.int64)
    for row, user in enumerate(users):
        newest = split.seen(int(user), config.towers.part)[-length:]
        history[row, : len(newest)] = newest
    return {
        "user_id": data.users.id[rows],
        "history": history,
        "age": data.users.age[rows],
        "gender": data.users.gender[rows].astype(object),
        "occupation": data.users.occupation[rows].astype(object),
    }
