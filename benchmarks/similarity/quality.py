# SPDX-License-Identifier: Apache-2.0
r"""Learned similarities against the inner product on MovieLens-100K, served.

    python -m benchmarks.similarity.quality
    python -m benchmarks.similarity.quality --seeds=0 --models=dot,mol

Every model and seed is one export job, served by `lintf serve` and asked over
gRPC for the films of each user, those already seen excluded by the filter. The
towers below the similarity are the same: the learned ones of a seed take up
the training of its inner product, which their pre-training would repeat.
Finished runs are kept in --workdir.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.movielens import served
from benchmarks.movielens.protocol import Task, make_task
from benchmarks.similarity import models, paired, plots, ranking
from benchmarks.similarity.models import BASE, MODELS
from export.build_index import default_work_dir
from export.config import load_config
from export.towers import training_folder
from export.workdir import WorkDir
from lintf.datasets import MovieLens, movielens_100k
from lintf.datasets.splits import Part

_RESULTS = pathlib.Path(__file__).parents[1] / "results"
_CONFIG = pathlib.Path("export/configs/movielens_100k.yaml")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Of training.")
_MODELS = flags.DEFINE_list("models", list(MODELS), "Which to run.")
_PART = flags.DEFINE_enum(
    "part",
    "test",
    typing.get_args(Part),
    "The held-out item to predict. Settings are chosen on `validation`.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "build/similarity_eval", "Where models and lists go."
)
_OUTPUT = flags.DEFINE_string("output_dir", str(_RESULTS), "For results.")

Users = dict[str, np.ndarray]


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    unknown = sorted(set(_MODELS.value) - set(MODELS))
    if unknown:
        raise app.UsageError(
            f"--models: no such model: {', '.join(unknown)}; there are: "
            f"{', '.join(MODELS)}"
        )
    data = movielens_100k()
    task = make_task(data, typing.cast(Part, _PART.value))
    seeds = [int(seed) for seed in _SEEDS.value]
    runs: dict[str, list[Users]] = {name: [] for name in _MODELS.value}
    # All models of a seed before the next one: a run that is cut off still
    # has pairs.
    for seed in seeds:
        for name in runs:
            runs[name].append(_run(data, task, name, seed))
    result = _result(runs, task, seeds)
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    (output / "similarity_quality.json").write_text(
        json.dumps(result, indent=1) + "\n", encoding="utf-8"
    )
    text = _markdown(result)
    (output / "similarity_quality.md").write_text(text, encoding="utf-8")
    if any(row.get("differences") for row in result["models"]):
        plots.quality(result, output / "similarity_quality.png")
    print(text)


def _run(data: MovieLens, task: Task, name: str, seed: int) -> Users:
    """The metrics of every user, from a run of this or of an earlier call."""
    root = pathlib.Path(_WORKDIR.value) / task.part
    folder = models.folder(root, name, MODELS[name])
    lists = folder / f"lists_{seed}.npy"
    if not lists.is_file():
        overrides = [f"retrieve.k={len(data.films)}", *MODELS[name].overrides]
        if name != BASE:
            base = models.folder(root, BASE, MODELS[BASE])
            of_base = _training(base, task, seed, MODELS[BASE].overrides)
            ours = _training(folder, task, seed, MODELS[name].overrides)
            models.share(of_base, ours / "base")
        ids = served.served_lists(data, task, seed, folder, _CONFIG, overrides)
        np.save(lists, ids)
    users = ranking.of_lists(np.load(lists), data, task)
    told = {k: round(v, 4) for k, v in ranking.means(users).items()}
    print(f"{name}, seed {seed}: {told}", flush=True)
    return users


def _training(
    folder: pathlib.Path, task: Task, seed: int, overrides: Sequence[str]
) -> pathlib.Path:
    """Where the export job of a model and a seed trains."""
    config = load_config(
        _CONFIG,
        [*overrides, f"towers.part={task.part}", f"towers.seed={seed}"],
    )
    assert config.towers is not None
    output = pathlib.Path(os.path.abspath(served.model_folder(folder, seed)))
    return training_folder(
        config.towers, WorkDir(default_work_dir(output)).towers
    )


def _result(
    runs: Mapping[str, Sequence[Users]], task: Task, seeds: Sequence[int]
) -> dict[str, Any]:
    rows = []
    for name, users in runs.items():
        each = [ranking.means(one) for one in users]
        row: dict[str, Any] = {
            "model": name,
            "what": MODELS[name].what,
            "settings": list(MODELS[name].overrides),
            "metrics": {
                metric: paired.mean_sd([one[metric] for one in each])
                for metric in ranking.NAMES
            },
        }
        if name != BASE and BASE in runs and len(seeds) > 1:
            row["differences"] = {
                metric: dataclasses.asdict(
                    paired.difference(
                        [one[metric] for one in users],
                        [one[metric] for one in runs[BASE]],
                    )
                )
                for metric in ranking.NAMES
            }
        rows.append(row)
    return {
        "part": task.part,
        "users": task.split.num_users,
        "films": int(task.seen.shape[1]),
        "seeds": list(seeds),
        "base": BASE,
        "compared": list(ranking.COMPARED),
        "models": rows,
    }


def _markdown(result: dict[str, Any]) -> str:
    names = ranking.NAMES
    lines = [
        "# Learned similarities on MovieLens-100K",
        "",
        f"`python -m benchmarks.similarity.quality`: the {result['part']} item "
        f"of {result['users']} users among all {result['films']} films that "
        "the user has not seen, which the filter excludes; asked over gRPC "
        "with raw features. Settings were chosen on the validation items. "
        f"Seeds {', '.join(map(str, result['seeds']))}: mean and, in "
        "brackets, standard deviation.",
        "",
        *paired.tables(result["models"], names),
    ]
    lines += ["", "Settings beside the recipe's own:", ""]
    for row in result["models"]:
        settings = ", ".join(row["settings"]) or "none"
        lines.append(f"- {row['what']}: {settings}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
