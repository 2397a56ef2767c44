# SPDX-License-Identifier: Apache-2.0
r"""Learned similarities on narrower towers than the recipe's.

    python -m benchmarks.similarity.width

The fewer numbers the towers have, the more an inner product of them leaves
out, and the more there is for a similarity to add. The towers are compared in
memory (`benchmarks.movielens.offline`), without index and server; finished
trainings are kept in --workdir.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.movielens.offline import offline_ranks
from benchmarks.movielens.protocol import Task, make_task
from benchmarks.similarity import models, paired, plots, ranking
from benchmarks.similarity.models import BASE, WIDTHS
from lintf import towers
from lintf.datasets import MovieLens, movielens_100k

_RESULTS = pathlib.Path(__file__).parents[1] / "results"

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Of training.")
_DIMS = flags.DEFINE_list("dims", ["16", "32"], "Widths of the towers.")
_WORKDIR = flags.DEFINE_string(
    "workdir", "build/similarity_width", "Where trainings and ranks go."
)
_OUTPUT = flags.DEFINE_string("output_dir", str(_RESULTS), "For results.")

Users = dict[str, np.ndarray]


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    # Before anything imports TensorFlow.
    towers.use_legacy_keras()
    data = movielens_100k()
    task = make_task(data, "test")
    seeds = [int(seed) for seed in _SEEDS.value]
    rows = []
    for dim in map(int, _DIMS.value):
        runs: dict[str, list[Users]] = {name: [] for name in WIDTHS}
        for seed in seeds:
            for name in runs:
                runs[name].append(_run(data, task, dim, name, seed))
        rows += [_row(dim, name, runs) for name in runs]
    result = {
        "base": BASE,
        "seeds": seeds,
        "compared": list(ranking.COMPARED),
        "models": rows,
    }
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    (output / "similarity_width.json").write_text(
        json.dumps(result, indent=1) + "\n", encoding="utf-8"
    )
    text = _markdown(result)
    (output / "similarity_width.md").write_text(text, encoding="utf-8")
    plots.quality(result, output / "similarity_width.png")
    print(text)


def _run(data: MovieLens, task: Task, dim: int, name: str, seed: int) -> Users:
    """The metrics of every user, from a run of this or of an earlier call."""
    root = pathlib.Path(_WORKDIR.value) / f"{dim}"
    folder = models.folder(root, name, WIDTHS[name])
    kept = folder / f"ranks_{seed}.npy"
    if not kept.is_file():
        training = folder / f"seed_{seed}"
        if name != BASE:
            base = models.folder(root, BASE, WIDTHS[BASE])
            models.share(base / f"seed_{seed}", training / "base")
        options = {**WIDTHS[name].options(), "dim": dim}
        np.save(kept, offline_ranks(data, task, seed, training, options))
    users = ranking.of_ranks(np.load(kept))
    told = {k: round(float(v.mean()), 4) for k, v in users.items()}
    print(f"{dim} {name}, seed {seed}: {told}", flush=True)
    return users


def _row(
    dim: int, name: str, runs: Mapping[str, Sequence[Users]]
) -> dict[str, Any]:
    def of_seeds(metric: str, model: str) -> list[np.ndarray]:
        return [users[metric] for users in runs[model]]

    row: dict[str, Any] = {
        "model": f"{name}, {dim}",
        "what": f"{WIDTHS[name].what}, {dim} dimensions",
        "settings": list(WIDTHS[name].overrides),
        "metrics": {
            metric: paired.mean_sd([u.mean() for u in of_seeds(metric, name)])
            for metric in ranking.OF_RANKS
        },
    }
    if name != BASE:
        row["differences"] = {
            metric: dataclasses.asdict(
                paired.difference(
                    of_seeds(metric, name), of_seeds(metric, BASE)
                )
            )
            for metric in ranking.OF_RANKS
        }
    return row


def _markdown(result: Mapping[str, Any]) -> str:
    names = ranking.OF_RANKS
    lines = [
        "# Narrow towers on MovieLens-100K",
        "",
        "`python -m benchmarks.similarity.width`: the protocol of "
        "`similarity_quality.md`, in memory, with towers of fewer dimensions "
        "than the recipe's. Learned models take up the training of the inner "
        "product of their seed and go on for three epochs; so does `inner "
        "product, trained on`, whose difference is that of the longer "
        "training. Settings were chosen on the validation items of one seed. "
        f"Seeds {', '.join(map(str, result['seeds']))}: mean and, in "
        "brackets, standard deviation.",
        "",
        *paired.tables(result["models"], names),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
