# SPDX-License-Identifier: Apache-2.0
"""Recommends films: trains, builds the index, serves it, asks and updates.

Uses MovieLens-100K. The index is built once, into --output_dir; running the
demo again only serves it. In the end a film that nobody has seen comes into
the index and goes again, while it is served.

Example:
  lintf demo --user_id 42
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from lintf.cli import quiet, table
from lintf.serving.spawn import ServerError, spawned_server

if TYPE_CHECKING:
    from lintf.datasets import MovieLens
    from lintf.serving.client import Client
    from lintf.serving.results import RetrieveResult

FLAGS = flags.FlagValues()  # type: ignore[no-untyped-call]

flags.DEFINE_string(
    "output_dir",
    os.path.join("build", "models", "movielens"),
    "Directory of the model's versions.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "user_id", 42, "The user to recommend films to.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "num_films",
    5,
    "Films to show for each question.",
    lower_bound=1,
    flag_values=FLAGS,
)

_MODEL = "movielens"
_FILTER = 'contains_any(genres, ["Comedy"]) and year >= 1990'

# A film that is in no data set, and how it is found.
_NEW_ID = 1_000_000
_NEW_TITLE = "The Film That Opens Today"
_NEW_FEATURES: dict[str, Any] = {"genres": ["Action", "Sci-Fi"], "year": 1998}
_NEW_FILTER = 'contains_any(genres, ["Action"]) and year >= 1998'


class _DemoError(Exception):
    """A step failed; the text says which and what to do."""


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lintf.cli", *arguments]


def _is_built(directory: str) -> bool:
    """Whether there is an index, of a kind that takes updates."""
    if not os.path.isdir(directory):
        return False
    numbers = [int(name) for name in os.listdir(directory) if name.isdigit()]
    if not numbers:
        return False
    newest = os.path.join(directory, str(max(numbers)))
    return os.path.exists(
        os.path.join(newest, "assets.extra", "lintf_serving.json")
    )


def _build(directory: str) -> None:
    """Runs the export job in a process of its own, which shows its progress.

    It needs another Keras than the rest (TensorFlow Recommenders is written
    against Keras 2), which is chosen when TensorFlow is imported.
    """
    import export

    config = os.path.join(
        os.path.dirname(export.__file__), "configs", "movielens_100k.yaml"
    )
    print("Training the towers and building the index.", flush=True)
    status = subprocess.run(
        _command("build-index", "--config", config, "--output_dir", directory),
        check=False,
    ).returncode
    if status:
        raise _DemoError(
            "building the index failed, see above; the same command goes on "
            "where it stopped."
        )


def _history(data: MovieLens, user_id: int) -> list[int]:
    """The films that a user has rated, oldest first."""
    rated = data.ratings.user_id == user_id
    order = data.ratings.timestamp[rated].argsort(kind="stable")
    return [int(i) for i in data.ratings.item_id[rated][order]]


def _features(
    data: MovieLens, user_id: int, history: Sequence[int], length: int
) -> dict[str, Any]:
    """The query tower's raw features of a user, as Python values."""
    (rows,) = (data.users.id == user_id).nonzero()
    if not len(rows):
        raise _DemoError(
            f"--user_id must be one of {data.users.id.min()} to "
            f"{data.users.id.max()}, got {user_id}."
        )
    row = rows[0]
    return {
        "user_id": user_id,
        "history": list(history[-length:]),
        "age": int(data.users.age[row]),
        "gender": str(data.users.gender[row]),
        "occupation": str(data.users.occupation[row]),
    }


def _titles(data: MovieLens) -> dict[int, str]:
    return {
        int(film): str(title)
        for film, title in zip(data.films.id, data.films.title, strict=True)
    }


def _show(title: str, result: RetrieveResult, titles: dict[int, str]) -> None:
    """Prints the first films of an answer."""
    rows = []
    for row in list(result.rows())[: FLAGS.num_films]:
        shown = {
            "id": row["id"],
            "film": row.get("title") or titles.get(row["id"], "?"),
        }
        for name in ("year", "genres"):
            if name in row:
                shown[name] = row[name]
        shown["score"] = row["score"]
        rows.append(shown)
    print(f"\n{title}")
    print(table.render(rows) if rows else "No film passes the filter.")


def _recommend(
    client: Client, data: MovieLens, titles: dict[int, str]
) -> dict[str, Any]:
    """Asks the three questions, prints the answers; returns the features."""
    seen = _history(data, FLAGS.user_id)
    features = _features(
        data, FLAGS.user_id, seen, client.feature_shape("history")[0] or 1
    )
    stats = client.stats()
    print(
        f"\nFilms for user {FLAGS.user_id}: {features['age']} years old, "
        f"{features['occupation']}, has rated {len(seen)} films, the last one "
        f"{titles[seen[-1]]}.\nThe index holds {stats.live_rows} films and "
        "the model that embeds the user; each answer is one gRPC call."
    )
    _show("All films:", client.retrieve(features), titles)
    _show(f"Filter: {_FILTER}", client.retrieve(features, _FILTER), titles)
    unseen = f"id not in [{', '.join(map(str, seen))}]"
    _show(
        f"Not seen yet, by the filter: id not in [... {len(seen)} ids ...]",
        client.retrieve(features, unseen),
        titles,
    )
    return features


def _place(result: RetrieveResult, id: int) -> int:
    """An item's place among the results, from 1; 0 if it is not there."""
    ids = [row["id"] for row in result.rows()]
    return ids.index(id) + 1 if id in ids else 0


def _update(
    client: Client, features: dict[str, Any], titles: dict[int, str]
) -> None:
    """Upserts a film, finds it, filters it, deletes it."""
    from lintf.serving.changes import Change

    def place(filter: str) -> int:
        return _place(client.retrieve(features, filter), _NEW_ID)

    genres = ", ".join(_NEW_FEATURES["genres"])
    print(
        f"\nA film opens: {_NEW_TITLE} ({genres}, {_NEW_FEATURES['year']}), "
        "which no training has seen and nobody has rated.\nOne gRPC call puts "
        "it into the index while that is served; the item tower embeds it by "
        "its genres and year."
    )
    client.update(
        [Change(_NEW_ID, features=_NEW_FEATURES, attributes=_NEW_FEATURES)]
    )
    try:
        found = client.retrieve(features, _NEW_FILTER)
        _show(f"Filter: {_NEW_FILTER}", found, {**titles, _NEW_ID: _NEW_TITLE})
        if not _place(found, _NEW_ID):
            raise _DemoError("the new film must be found, and was not.")
        other = _NEW_FILTER + ' and not contains_any(genres, ["Sci-Fi"])'
        if place(other):
            raise _DemoError(f"the new film must not pass the filter {other}.")
        print(
            f"\nIt is number {_place(found, _NEW_ID)} of "
            f"{int(found.num_results[0])}; with `{other}` it is not found."
        )
    finally:
        client.update([Change(_NEW_ID, delete=True)])
    if place(_NEW_FILTER) or client.lookup([_NEW_ID]).found[0]:
        raise _DemoError("the new film must be gone, and was found.")
    print("Deleted, it is gone from the next answer on.")


def _print_next(directory: str, features: dict[str, Any]) -> None:
    """Prints commands to go on with."""
    version = max(int(n) for n in os.listdir(directory) if n.isdigit())
    # A short history is a history too, and easier to read.
    shown = json.dumps({**features, "history": features["history"][-3:]})
    query = (
        f"lintf query --model {_MODEL} --features {shlex.quote(shown)} "
        "--filter "
    )
    lintf = os.path.join(os.path.dirname(sys.executable), "lintf")
    prefix = os.path.relpath(lintf) if os.path.exists(lintf) else "lintf"
    path = shlex.quote(directory)
    lines = [
        f"lintf inspect show --dir {path}/{version} --all",
        f"lintf serve --model_name {_MODEL} --model_base_path {path}",
        query + shlex.quote(_FILTER),
    ]
    print("\nTo go on (serve in one terminal, query in another):")
    for line in lines:
        print(f"  {prefix}{line.removeprefix('lintf')}")


def main(argv: Sequence[str]) -> int:
    """Runs the demo; returns the exit status."""
    del argv  # All flags.
    directory = FLAGS.output_dir
    try:
        from lintf import datasets

        # First, because without the data there is nothing to build.
        data = datasets.movielens_100k()
        if not _is_built(directory):
            _build(directory)
        print("Starting the server.", flush=True)
        with spawned_server(directory, _MODEL) as target:
            quiet.import_tensorflow()
            import grpc

            from lintf.serving.client import Client

            try:
                with Client(target, _MODEL, timeout_s=30) as client:
                    titles = _titles(data)
                    features = _recommend(client, data, titles)
                    _update(client, features, titles)
            except grpc.RpcError as error:
                raise _DemoError(
                    f"the server answered {error.code().name}: "
                    f"{error.details()}"
                ) from error
        _print_next(directory, features)
    except (_DemoError, ServerError, ImportError) as error:
        print(f"lintf demo: {error}", file=sys.stderr)
        return 1
    return 0
