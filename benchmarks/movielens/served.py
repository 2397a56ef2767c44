# SPDX-License-Identifier: Apache-2.0
"""The towers' quality as a client sees it: export job, server, gRPC, filter.

For each seed the export job trains the towers and builds the index, `lintf
serve` serves it, and every user's films are asked for with raw features and
the filter `id not in [...]` of all films that the user has seen.
"""

import pathlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.movielens.offline import query_features
from benchmarks.movielens.protocol import Task
from lintf import metrics
from lintf.datasets import MovieLens
from lintf.serving.spawn import spawned_server

MODEL = "movielens"
_REQUEST_SIZE = 32
# The client pads histories and refuses longer ones: the model's signature.
_HISTORY_LENGTH = 50


def served_ranks(
    data: MovieLens,
    task: Task,
    seed: int,
    workdir: pathlib.Path,
    config: pathlib.Path,
    overrides: Sequence[str],
) -> metrics.Ranks:
    """Builds, serves and asks; ranks each target in the list that comes back.

    Args:
      data: users, films and ratings.
      task: what is predicted; its part is handed to the job.
      seed: of the towers' training.
      workdir: for the models; a finished model is served again.
      config: of the export job.
      overrides: `key.path=value` for the job's `--set`.

    Returns:
      `[num_users]` float64; infinity beyond the k of the config.

    Raises:
      RuntimeError: the job or the server failed.
    """
    ids = served_lists(data, task, seed, workdir, config, overrides)
    return metrics.ranks_of_retrieved(ids, data.films.id[task.target])


def served_lists(
    data: MovieLens,
    task: Task,
    seed: int,
    workdir: pathlib.Path,
    config: pathlib.Path,
    overrides: Sequence[str],
) -> npt.NDArray[np.int64]:
    """Builds, serves and asks.

    Args:
      data: as `served_ranks` takes it, and so are the others.
      task: as there.
      seed: as there.
      workdir: as there.
      config: as there.
      overrides: as there.

    Returns:
      `[num_users, k]` the films that each user gets, best first; -1 beyond
      those that there are.

    Raises:
      RuntimeError: the job or the server failed.
    """
    model = model_folder(workdir, seed)
    if not (model / "1" / "saved_model.pb").is_file():
        _build(model, seed, config, [*overrides, f"towers.part={task.part}"])
    with spawned_server(model, MODEL) as target:
        return _ask(target, data, task)


def model_folder(workdir: pathlib.Path, seed: int) -> pathlib.Path:
    """The base path of a seed's model."""
    return workdir / f"seed_{seed}" / MODEL


def _build(
    model: pathlib.Path,
    seed: int,
    config: pathlib.Path,
    overrides: Sequence[str],
) -> None:
    """Runs the export job."""
    command = [
        *(sys.executable, "-m", "export.build_index"),
        f"--config={config}",
        f"--output_dir={model}",
        f"--seed={seed}",
        *(f"--set={override}" for override in overrides),
    ]
    print("$", " ".join(command[1:]), flush=True)
    if subprocess.run(command, check=False).returncode:
        raise RuntimeError(f"the export job failed: {' '.join(command)}")


def _ask(target: str, data: MovieLens, task: Task) -> npt.NDArray[np.int64]:
    """Asks for every user's films."""
    from lintf.serving import Client

    found = []
    with Client(target, MODEL, timeout_s=60.0) as client:
        length = _HISTORY_LENGTH
        features = query_features(data, task, length)
        for begin in range(0, task.split.num_users, _REQUEST_SIZE):
            users = range(
                begin, min(begin + _REQUEST_SIZE, task.split.num_users)
            )
            seen = [task.split.seen(user, task.part) for user in users]
            answer = client.retrieve(
                {name: column[users] for name, column in features.items()},
                filter=[exclusion(items) for items in seen],
            )
            _check_exclusion(answer.ids, seen)
            found.append(answer.ids)
    return np.concatenate(found)


def exclusion(items: np.ndarray) -> str:
    """Returns the filter that leaves items out.

    Example:
      >>> exclusion(np.array([3, 14]))
      'id not in [3, 14]'
    """
    return f"id not in {sorted(items.tolist())}"


def _check_exclusion(ids: np.ndarray, seen: Sequence[np.ndarray]) -> None:
    """Fails where a filtered film came back."""
    for row, items in zip(ids, seen, strict=True):
        leaked = np.intersect1d(row, items)
        if len(leaked):
            raise RuntimeError(f"filtered films came back: {leaked.tolist()}")
