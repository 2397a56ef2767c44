# SPDX-License-Identifier: Apache-2.0
r"""How often new films are found for the users who rated them.

    python -m benchmarks.similarity.cold_start

A tenth of the films, drawn anew for each seed, is taken out of all ratings
before the towers are trained. The index of the others is served, and the new
films are upserted over gRPC, where the item tower makes their vectors in the
graph. Then each user who rated some of them asks once, with the history and
the exclusions that the other films leave.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.movielens.served import exclusion
from benchmarks.similarity import models, paired, plots
from benchmarks.similarity.models import CLUSTER_COUNTS, COLD_START
from lintf.datasets import LeaveOneOut, MovieLens, leave_one_out, movielens_100k

_RESULTS = pathlib.Path(__file__).parents[1] / "results"
_NEW_SHARE = 0.1
_KS = (10, 20, 50, 100, 200)
_MODEL = "films"
# Whose training the learned similarities take up.
_BASE = "attributes"
_STEP = 32

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Of training.")
_MODELS = flags.DEFINE_list("models", list(COLD_START), "Which to run.")
_WORKDIR = flags.DEFINE_string(
    "workdir", "build/cold_start", "Where models and lists go."
)
_OUTPUT = flags.DEFINE_string("output_dir", str(_RESULTS), "For results.")


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    unknown = sorted(set(_MODELS.value) - set(COLD_START))
    if unknown:
        raise app.UsageError(
            f"--models: no such model: {', '.join(unknown)}; there are: "
            f"{', '.join(COLD_START)}"
        )
    from lintf import towers

    towers.use_legacy_keras()
    data = movielens_100k()
    found: dict[str, list[dict[str, Any]]] = {m: [] for m in _MODELS.value}
    for seed in map(int, _SEEDS.value):
        for name in found:
            found[name].append(_run(data, name, seed))
            print(f"{name}, seed {seed}: {found[name][-1]}", flush=True)
    result = {
        "ks": list(_KS),
        "seeds": list(_SEEDS.value),
        "clusters": CLUSTER_COUNTS[1],
        "new_films": found[_MODELS.value[0]][0]["new_films"],
        "pairs": [run["pairs"] for run in found[_MODELS.value[0]]],
        "models": [
            {
                "model": COLD_START[name].what,
                "settings": list(COLD_START[name].overrides),
                "hit_rate": [
                    paired.mean_sd([run["hit_rate"][i] for run in runs])
                    for i in range(len(_KS))
                ],
            }
            for name, runs in found.items()
        ],
    }
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    (output / "cold_start.json").write_text(
        json.dumps(result, indent=1) + "\n", encoding="utf-8"
    )
    text = _markdown(result)
    (output / "cold_start.md").write_text(text, encoding="utf-8")
    plots.cold_start(result, output / "cold_start.png")
    print(text)


def without(data: MovieLens, films: np.ndarray) -> MovieLens:
    """The data as if some films had never been there.

    Args:
        data: all of it.
        films: ids of the films to take out.
    """
    kept = ~np.isin(data.films.id, films)
    rated = ~np.isin(data.ratings.item_id, films)
    return dataclasses.replace(
        data, films=_rows(data.films, kept), ratings=_rows(data.ratings, rated)
    )


def _rows(table: Any, kept: np.ndarray) -> Any:
    columns = {
        field.name: getattr(table, field.name)[kept]
        for field in dataclasses.fields(table)
    }
    return type(table)(**columns)


def _run(data: MovieLens, name: str, seed: int) -> dict[str, Any]:
    """Hit rates of one model; kept in a file once they are known."""
    root = models.folder(_WORKDIR.value, name, COLD_START[name])
    folder = root / f"seed_{seed}"
    kept = folder / "hit_rates.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text("utf-8")))
    random = np.random.default_rng(seed)
    count = round(_NEW_SHARE * len(data.films))
    new = np.sort(random.choice(data.films.id, count, replace=False))
    known = without(data, new)
    ratings = known.ratings
    split = leave_one_out(ratings.user_id, ratings.item_id, ratings.timestamp)
    _build(known, name, seed, folder)
    lists = _ask(data, known, split, new, folder / _MODEL)
    found = {
        "new_films": count,
        "pairs": len(lists),
        # The place among all that the user had not seen, from 0.
        "hit_rate": [float(np.mean(lists < k)) for k in _KS],
    }
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def _build(
    known: MovieLens, name: str, seed: int, folder: pathlib.Path
) -> None:
    """Trains towers and writes the index of the known films."""
    if (folder / _MODEL / "1" / "saved_model.pb").is_file():
        return
    from export import towers as saved_towers
    from export.config import SavedTower
    from lintf import Index, IndexSchema, ServedIndex, towers
    from lintf.similarity.layers import weight_values

    settings = {**COLD_START[name].options(), "seed": seed}
    config = towers.TowerConfig(**settings)
    training = folder / "training"
    if config.pretrain_epochs:
        base = models.folder(_WORKDIR.value, _BASE, COLD_START[_BASE])
        models.share(base / folder.name / "training", training / "base")
    trained = towers.train(config, known, training, verbose=2)
    loaded = []
    for side in ("query", "item"):
        saved_towers.save_tower(getattr(trained, side), folder / side)
        loaded.append(saved_towers.load(SavedTower(str(folder / side))))
    query_tower, item_tower = loaded
    similarity = trained.similarity
    schema = IndexSchema(
        dim=item_tower.dim, similarity=similarity and similarity.spec
    )
    index = Index(schema, 2 * len(known.films))
    if similarity is not None:
        index.set_similarity_weights(
            weight_values(similarity.scoring_weights())
        )
    vectors = item_tower(towers.item_features(known)).numpy()
    index.append(known.films.id, vectors)
    served = ServedIndex(
        index,
        query_tower,
        item_tower=item_tower,
        k=_KS[-1],
        algorithm="auto" if similarity is None else "exact",
    )
    served.save(folder / _MODEL / "1")


def _ask(
    data: MovieLens,
    known: MovieLens,
    split: LeaveOneOut,
    new: np.ndarray,
    model: pathlib.Path,
) -> np.ndarray:
    """The place of each new film in the list of each user who rated it."""
    from lintf import Change, Client, towers
    from lintf.serving.spawn import spawned_server

    rows = np.searchsorted(data.films.id, new)
    genres, years = data.films.genres[rows], data.films.year[rows]
    fresh = np.isin(data.ratings.item_id, new)
    wanted: dict[int, list[int]] = {}
    for user, film in zip(
        data.ratings.user_id[fresh], data.ratings.item_id[fresh], strict=True
    ):
        wanted.setdefault(int(user), []).append(int(film))
    users = [u for u, i in enumerate(split.user_id) if int(i) in wanted]
    places: list[float] = []
    with (
        spawned_server(model, _MODEL) as target,
        Client(target, _MODEL, timeout_s=60.0) as client,
    ):
        client.update(
            [
                Change(int(film), features={"genres": genre, "year": int(year)})
                for film, genre, year in zip(new, genres, years, strict=True)
            ]
        )
        for begin in range(0, len(users), _STEP):
            part = users[begin : begin + _STEP]
            sequences = [_sequence(split, user) for user in part]
            features = _features(known, sequences, part, towers.pad_history)
            answer = client.retrieve(
                features, filter=[exclusion(items) for items in sequences]
            )
            for row, user in enumerate(part):
                listed = answer.ids[row].tolist()
                for film in wanted[int(split.user_id[user])]:
                    inside = film in listed
                    places.append(listed.index(film) if inside else np.inf)
    return np.array(places)


def _sequence(split: LeaveOneOut, user: int) -> np.ndarray:
    begin, end = split.row_splits[user : user + 2]
    return split.item_id[begin:end]


def _features(
    known: MovieLens,
    sequences: Sequence[np.ndarray],
    users: Sequence[int],
    pad: Any,
) -> Mapping[str, np.ndarray]:
    people = known.users
    return {
        "user_id": people.id[users],
        "history": np.stack([pad(items, 50) for items in sequences]),
        "age": people.age[users],
        "gender": people.gender[users],
        "occupation": people.occupation[users],
    }


def _markdown(result: Mapping[str, Any]) -> str:
    ks = result["ks"]
    lines = [
        "# New films",
        "",
        "`python -m benchmarks.similarity.cold_start`: "
        f"{result['new_films']} films of MovieLens-100K (10 %, drawn for each "
        "seed) were in no rating that the towers were trained on, and were "
        "upserted live. Share of the "
        f"{min(result['pairs']):,} to {max(result['pairs']):,} ratings of such "
        "films whose film is among the first results of its user, between all "
        "films that the user had not seen; mean and, in brackets, standard "
        f"deviation over {len(result['seeds'])} seeds.",
        "",
        "| what tells a film's vector | "
        + " | ".join(f"HR@{k}" for k in ks)
        + " |",
        "|---|" + "---|" * len(ks),
    ]
    for row in result["models"]:
        cells = [f"{mean:.3f} ({sd:.3f})" for mean, sd in row["hit_rate"]]
        lines.append(f"| {row['model']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
