# SPDX-License-Identifier: Apache-2.0
r"""What two-stage searches find on trained models, and what `bounded` scores.

    python -m benchmarks.similarity.recall

Takes the models that `benchmarks.similarity.quality` has trained, and asks
them for all users' films, those already seen excluded by the filter.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks.movielens import served
from benchmarks.movielens.offline import query_features
from benchmarks.movielens.protocol import Task, make_task
from benchmarks.similarity import models, paired, plots
from benchmarks.similarity.models import MODELS
from lintf import ops
from lintf.datasets import MovieLens, movielens_100k
from lintf.index.index import Index
from lintf.index.plan import CANDIDATES, Plan
from lintf.index.restore import restore
from lintf.index.schema import Quantization
from lintf.index.search import NativeSearch
from lintf.similarity.layers import weight_values

_RESULTS = pathlib.Path(__file__).parents[1] / "results"
_K = 100
_BUDGETS = (100, 150, 200, 300, 400, 600, 800)
_STEP = 64
_CODES = Quantization(bins=16, repeats=16)

_MODEL = flags.DEFINE_string("model", "mol", "Of benchmarks.similarity.models.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Trained ones.")
_WORKDIR = flags.DEFINE_string(
    "workdir", "build/similarity_eval/test", "Where the models are."
)
_OUTPUT = flags.DEFINE_string("output_dir", str(_RESULTS), "For results.")


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    data = movielens_100k()
    task = make_task(data, "test")
    if _MODEL.value not in MODELS:
        raise app.UsageError(
            f"--model: no such model: {_MODEL.value}; there are: "
            f"{', '.join(MODELS)}"
        )
    folder = models.folder(_WORKDIR.value, _MODEL.value, MODELS[_MODEL.value])
    found: dict[tuple[str, int], list[float]] = {}
    scored: list[float] = []
    for seed in _SEEDS.value:
        path = folder / f"seed_{seed}" / served.MODEL / "1"
        if not path.is_dir():
            raise app.UsageError(
                f"no model at {path}; train it by python -m "
                f"benchmarks.similarity.quality --models={_MODEL.value} "
                f"--seeds={seed}"
            )
        recalls, share = _measure(path, data, task)
        for key, value in recalls.items():
            found.setdefault(key, []).append(value)
        scored.append(share)
    result = {
        "model": _MODEL.value,
        "k": _K,
        "films": len(data.films),
        "seeds": list(_SEEDS.value),
        "bounded_scores": paired.mean_sd(scored),
        "candidates": [
            {
                "candidates": name,
                "recall": [
                    (budget, float(np.mean(found[name, budget])))
                    for budget in _BUDGETS
                    if (name, budget) in found
                ],
            }
            for name in CANDIDATES
            if (name, _BUDGETS[0]) in found
        ],
    }
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    (output / "similarity_recall.json").write_text(
        json.dumps(result, indent=1) + "\n"
    )
    text = _markdown(result)
    (output / "similarity_recall.md").write_text(text)
    plots.recall(result, output / "similarity_recall.png")
    print(text)


def _measure(
    path: pathlib.Path, data: MovieLens, task: Task
) -> tuple[dict[tuple[str, int], float], float]:
    """Recall by candidates and budget; the share that `bounded` scores."""
    restored = restore(path)
    assert isinstance(restored.index, Index)
    index, tower = _coded(restored.index), restored.towers["query_tower"]
    length = int(tower.feature_specs["history"].shape[1])
    features = {
        name: tf.constant(values)
        for name, values in query_features(data, task, length).items()
    }
    queries = tower(features).numpy()
    filters = [
        served.exclusion(task.split.seen(user, task.part))
        for user in range(task.split.num_users)
    ]
    exact, _ = _search(index, Plan(_K, "exact"), queries, filters)
    recalls = {}
    for name in CANDIDATES:
        for budget in _BUDGETS:
            plan = Plan(_K, "two_stage", candidates=name, budget=budget)
            ids, _ = _search(index, plan, queries, filters)
            recalls[name, budget] = _recall(exact, ids)
    scored = float("nan")
    assert index.schema.similarity is not None
    if index.schema.similarity.is_convex:
        ids, counts = _search(index, Plan(_K, "bounded"), queries, filters)
        if not np.array_equal(ids, exact):
            raise RuntimeError(
                "bounded search must give what exact search does"
            )
        passing = len(data.films) - task.seen.sum(axis=1)
        scored = float(np.mean(counts / passing))
    return recalls, scored


def _coded(index: Index) -> Index:
    """The same rows with codes, which the models are trained without."""
    rows = int(index.num_rows)
    schema = dataclasses.replace(
        index.schema, attributes=(), quantization=_CODES
    )
    coded = Index(schema, rows)
    coded.set_similarity_weights(weight_values(index.similarity))
    coded.append(index.ids.numpy()[:rows], index.vectors(np.arange(rows)))
    return coded


def _search(
    index: Index, plan: Plan, queries: np.ndarray, filters: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Ids, and how many items were scored for each query."""
    search = NativeSearch(index, plan, [])
    ids, counts = [], []
    for begin in range(0, len(queries), _STEP):
        part = slice(begin, begin + _STEP)
        programs = ops.compile_filter(list(filters[part]), index.schema)
        found = search(tf.constant(queries[part]), programs)
        ids.append(found.ids.numpy())
        counts.append(found.num_scored.numpy())
    return np.concatenate(ids), np.concatenate(counts)


def _recall(exact: np.ndarray, found: np.ndarray) -> float:
    shares = [
        len(np.intersect1d(a[a >= 0], b)) / max(1, int((a >= 0).sum()))
        for a, b in zip(exact, found, strict=True)
    ]
    return float(np.mean(shares))


def _markdown(result: Mapping[str, Any]) -> str:
    budgets = [budget for budget, _ in result["candidates"][0]["recall"]]
    share, sd = result["bounded_scores"]
    lines = [
        "# Two-stage searches on trained models",
        "",
        f"`python -m benchmarks.similarity.recall`: recall@{result['k']} of "
        "two-stage searches against exact ones, by the number of candidates, "
        f"on MovieLens-100K ({result['films']} films, those that the user has "
        f"seen excluded by the filter); model `{result['model']}`, codes of "
        f"{_CODES.bits} bits, mean over seeds {', '.join(result['seeds'])}.",
        "",
        "| candidates | " + " | ".join(f"{b:,}" for b in budgets) + " |",
        "|---|" + "---|" * len(budgets),
    ]
    for row in result["candidates"]:
        cells = [f"{found:.4f}" for _, found in row["recall"]]
        lines.append(f"| {row['candidates']} | " + " | ".join(cells) + " |")
    if share == share:
        lines += [
            "",
            f"`bounded` computed the full score of {100 * share:.1f} % "
            f"({100 * sd:.1f}) of the films that pass, with the results of "
            "`exact`.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
