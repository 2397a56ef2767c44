# SPDX-License-Identifier: Apache-2.0
"""The towers' quality in numpy, without index and server: for tuning."""

import pathlib
from typing import Any

import numpy as np

from benchmarks.movielens.protocol import Task
from lintf import metrics
from lintf.datasets import MovieLens


def query_features(
    data: MovieLens, task: Task, history_length: int
) -> dict[str, np.ndarray]:
    """Returns the query tower's raw features of every user.

    Args:
      data: users and films.
      task: what is predicted: the history is what comes before it.
      history_length: of the feature `history`.

    Returns:
      Feature name -> `[num_users, ...]`.
    """
    history = np.full((task.split.num_users, history_length), -1, np.int64)
    for user, items in enumerate(task.split.sequences(task.part)):
        newest = items[-history_length:]
        history[user, : len(newest)] = newest
    return {
        "user_id": data.users.id,
        "history": history,
        "age": data.users.age,
        "gender": data.users.gender,
        "occupation": data.users.occupation,
    }


def offline_ranks(
    data: MovieLens,
    task: Task,
    seed: int,
    workdir: pathlib.Path,
    options: dict[str, Any],
) -> metrics.Ranks:
    """Trains towers and ranks every target by their similarity.

    Args:
      data: users, films and ratings.
      task: what is predicted.
      seed: of the training.
      workdir: of the training; a finished one is loaded.
      options: other settings of `lintf.towers.TowerConfig`.
    """
    from lintf import towers

    towers.use_legacy_keras()
    import tensorflow as tf

    from lintf.similarity import scoring

    config = towers.TowerConfig(seed=seed, **options)
    trained = towers.train(config, data, workdir, part=task.part)
    features = query_features(data, task, config.history_length)
    queries = trained.query(_tensors(features))
    items = trained.item(_tensors(towers.item_features(data)))
    if trained.similarity is None:
        scores = tf.matmul(queries, items, transpose_b=True)
    else:
        scores = scoring.scores_in_blocks(
            trained.similarity.spec,
            trained.similarity.scoring_weights(),
            queries,
            items,
        )
    return task.rank(scores.numpy())


def _tensors(features: dict[str, np.ndarray]) -> dict[str, object]:
    import tensorflow as tf

    return {name: tf.constant(column) for name, column in features.items()}
