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
from export.errors import JobError
from lintf.similarity import saved

# What a tower's input, by NumPy's letter for its kind, may be made from.
_KINDS = {"f": "iuf", "i": "iu", "u": "iu", "b": "b", "O": "SUO"}


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


def of_tower(vectors: Any, source: str = "held-out users") -> QuerySet:
    """What the query tower makes of queries that are no items."""
    vectors = np.asarray(vectors, np.float32)
    own = np.full(len(vectors), -1)
    return QuerySet(vectors, own, source)


def features_from_file(
    path: str, specs: Mapping[str, Any], count: int, seed: int
) -> dict[str, np.ndarray]:
    """The query tower's inputs for queries that are kept in a file.

    Args:
        path: A `.npz` file with an array of each feature, a query a row.
        specs: The query tower's inputs: `tf.TensorSpec` by name.
        count: How many queries to take.
        seed: Of which.

    Returns:
        `[n, ...]` by name.

    Raises:
        JobError: The file is not such.
    """
    try:
        arrays = saved.read_arrays(path)
    except (OSError, ValueError) as error:
        raise JobError(f"retrieve.recall_features: {error}") from error
    missing = sorted(set(specs) - set(arrays))
    if missing:
        raise JobError(
            f"retrieve.recall_features: {path} must have an array for each "
            f"feature of the query tower; missing: {', '.join(missing)}; "
            f"there are: {', '.join(sorted(arrays)) or 'none'}"
        )
    for name, spec in specs.items():
        found, shape = arrays[name], spec.shape
        if not shape.is_compatible_with(found.shape):
            raise JobError(
                f"retrieve.recall_features: the array {name!r} of {path} must "
                f"have the shape of the query tower's feature, "
                f"{shape.as_list()}, got {list(found.shape)}"
            )
        kinds = _KINDS[np.dtype(spec.dtype.as_numpy_dtype).kind]
        if found.dtype.kind not in kinds:
            raise JobError(
                f"retrieve.recall_features: the array {name!r} of {path} must "
                f"hold what the query tower takes, {spec.dtype.name}, got "
                f"{found.dtype.name}"
            )
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise JobError(
                f"retrieve.recall_features: the array {name!r} of {path} must "
                "be finite, got NaN or an infinity"
            )
    lengths = {len(arrays[name]) for name in specs}
    if len(lengths) != 1 or lengths == {0}:
        raise JobError(
            f"retrieve.recall_features: the arrays of {path} must have one "
            f"row a query, at least one, got lengths {sorted(lengths)}"
        )
    (total,) = lengths
    rows = sample(total, count, seed)
    return {name: arrays[name][rows] for name in specs}


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
