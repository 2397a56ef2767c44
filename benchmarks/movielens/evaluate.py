# SPDX-License-Identifier: Apache-2.0
"""Measures retrieval quality on MovieLens-100K, beside simple baselines.

Example:
  python -m benchmarks.movielens.evaluate
  python -m benchmarks.movielens.evaluate --offline --part=validation \\
      --option=dropout=0.4
"""

import pathlib
import typing
from collections.abc import Sequence

import numpy as np
import yaml
from absl import app, flags

from benchmarks.movielens import baselines, offline, report, served
from benchmarks.movielens.protocol import Task, make_task
from lintf import metrics
from lintf.datasets import MovieLens, movielens_100k
from lintf.datasets.splits import Part

_SEEDS = flags.DEFINE_list(
    "seeds", ["0", "1", "2"], "Seeds of the trainings, one run each."
)
_PART = flags.DEFINE_enum(
    "part",
    "test",
    typing.get_args(Part),
    "The held-out item to predict. Settings are chosen on `validation`.",
)
_OFFLINE = flags.DEFINE_bool(
    "offline", False, "Train here and rank in numpy: no index, no server."
)
_CONFIG = flags.DEFINE_string(
    "config",
    "export/configs/movielens_100k.yaml",
    "Config of the export job.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "build/movielens_eval", "Where models and checkpoints go."
)
_OUTPUT = flags.DEFINE_string(
    "output_dir",
    None,
    "Where movielens.json and movielens.md go. Where not given: "
    "benchmarks/results for the test item through the server, else nowhere.",
)
_OPTIONS = flags.DEFINE_multi_string(
    "option", [], "A setting of lintf.towers.TowerConfig: name=value."
)

# HR@100 needs as many results.
_K = 100
_LINTF = "lintf, two towers"


def main(argv: Sequence[str]) -> None:
    """Runs the evaluation."""
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    data = movielens_100k()
    task = make_task(data, typing.cast(Part, _PART.value))
    seeds = [int(seed) for seed in _SEEDS.value]
    results = _baselines(task, seeds)
    results[_LINTF] = [_summary(_lintf(data, task, seed)) for seed in seeds]
    print(f"\n{report.table(results)}")
    folder = _OUTPUT.value
    if folder is None and task.part == "test" and not _OFFLINE.value:
        folder = "benchmarks/results"
    if folder:
        report.write(
            pathlib.Path(folder),
            results,
            _how(task),
            " ".join(["python -m benchmarks.movielens.evaluate", *_flags()]),
        )


def _baselines(task: Task, seeds: Sequence[int]) -> report.Results:
    """Recomputes the baselines."""
    seen = task.seen
    scores = {
        "popularity": [baselines.popularity(seen)],
        "item-item cosine": [baselines.item_cosine(seen)],
        "iALS, 32 factors": [baselines.ials(seen, seed=s) for s in seeds],
        "EASE, lambda 100": [baselines.ease(seen)],
    }
    return {
        name: [_summary(task.rank(run)) for run in runs]
        for name, runs in scores.items()
    }


def _lintf(data: MovieLens, task: Task, seed: int) -> metrics.Ranks:
    """Trains with one seed and ranks the targets, offline or served."""
    options = dict(_option(text) for text in _OPTIONS.value)
    workdir = pathlib.Path(_WORKDIR.value) / task.part
    if _OFFLINE.value:
        folder = workdir / f"offline_seed_{seed}"
        return offline.offline_ranks(data, task, seed, folder, options)
    overrides = [f"towers.options.{k}={v}" for k, v in options.items()]
    return served.served_ranks(
        data,
        task,
        seed,
        workdir / "served",
        pathlib.Path(_CONFIG.value),
        [f"retrieve.k={_K}", *overrides],
    )


def _summary(ranks: metrics.Ranks) -> dict[str, float]:
    """Returns the metrics; ranks beyond `_K` count as not found for all."""
    cut = np.where(ranks <= _K, ranks, np.inf)
    names = metrics.summary(cut)
    return {"MRR@100" if k == "MRR" else k: v for k, v in names.items()}


def _option(text: str) -> tuple[str, typing.Any]:
    """Parses `name=value`, the value in YAML.

    Example:
      >>> _option("dropout=0.4")
      ('dropout', 0.4)
    """
    name, separator, value = text.partition("=")
    if not separator:
        raise app.UsageError(f"--option: expected name=value, got {text!r}")
    return name, yaml.safe_load(value)


def _how(task: Task) -> str:
    """Says what was measured."""
    path = (
        "lintf in numpy, without index and server"
        if _OFFLINE.value
        else "lintf through gRPC `retrieve` on the model that the export job "
        "wrote, with raw features and the filter `id not in [...]` of the "
        "films that the user has seen"
    )
    return (
        f"Leave-one-out: the {task.part} item of {task.split.num_users} users "
        f"among all {task.seen.shape[1]} films that the user has not seen; "
        f"{path}. Mean and, in brackets, standard deviation over seeds."
    )


def _flags() -> list[str]:
    """Returns the flags that differ from their defaults."""
    own = (_SEEDS, _PART, _OFFLINE, _CONFIG, _OPTIONS)
    return [flags.FLAGS[flag.name].serialize() for flag in own if flag.present]


if __name__ == "__main__":
    app.run(main)
