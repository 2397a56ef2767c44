# SPDX-License-Identifier: Apache-2.0
r"""Recall on 400,000 real embeddings, filtered and not, over gRPC.

    python -m benchmarks.glove

Builds the GloVe index with the export job where it is absent, serves it, and
holds the answers for 500 held-out words against numpy: without a filter and
with each of eight WordNet classes. Beside it, what filtering the results of
an unfiltered search finds.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from lintf.serving.spawn import spawned_server

_RESULTS = pathlib.Path(__file__).parent / "results"
_CONFIG = "export/configs/glove_400k.yaml"
_K = 100
# Results of an unfiltered search that a post-filter gets to see.
_SHORTLISTS = (100, 1_000, 10_000)
_CLASSES = (
    "noun.person",
    "noun.artifact",
    "noun.animal",
    "noun.plant",
    "noun.food",
    "noun.feeling",
    "verb.weather",
    "noun.motive",
)
_QUERIES_A_REQUEST = 100

_FOLDER = flags.DEFINE_string("data_dir", "build/glove", "Prepared files.")
_MODEL = flags.DEFINE_string("model_dir", "build/models/glove", "The index.")
_OUTPUT = flags.DEFINE_string(
    "output", str(_RESULTS), "Where glove.json and glove.md go."
)


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    folder, model = pathlib.Path(_FOLDER.value), pathlib.Path(_MODEL.value)
    if not (folder / "queries.npy").exists():
        _run("export.examples.prepare_glove", f"--output_dir={folder}")
    _run(
        "export.build_index",
        f"--config={_CONFIG}",
        f"--output_dir={model}",
        f"--set=items.path={folder}/items.parquet",
        f"--set=items.embedding.path={folder}/embeddings.npy",
    )
    ids, classes = _items(folder / "items.parquet")
    queries = _unit(np.load(folder / "queries.npy"))
    items = _unit(np.load(folder / "embeddings.npy"))
    scores = queries @ items.T
    records = []
    with spawned_server(model, "glove") as target:
        for name in ("", *_CLASSES):
            passing = np.array([name in c or not name for c in classes])
            records.append(
                _measure(target, name, passing, ids, scores, queries)
            )
    result = {"queries": len(queries), "items": len(items), "k": _K}
    output = pathlib.Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    text = _table(records)
    (output / "glove.json").write_text(
        json.dumps({**result, "records": records}, indent=1) + "\n"
    )
    (output / "glove.md").write_text(text)
    print(text)


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def _items(path: pathlib.Path) -> tuple[np.ndarray, list[set[str]]]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, columns=["word", "classes"])
    words = np.array(table["word"].to_pylist(), object)
    return words, [set(c or ()) for c in table["classes"].to_pylist()]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _measure(
    target: str,
    name: str,
    passing: np.ndarray,
    ids: np.ndarray,
    scores: np.ndarray,
    queries: np.ndarray,
) -> dict[str, object]:
    """Recall of lintf and of post-filters for one class; "" for no filter."""
    rows = np.flatnonzero(passing)
    wanted = min(_K, len(rows))
    own = scores[:, rows]
    # Items as good as the last wanted one are right answers too, within what
    # float32 sums differ by.
    bar = np.partition(own, len(rows) - wanted, axis=1)[:, -wanted] - 1e-6
    found = _retrieve(target, f'classes == "{name}"' if name else "", queries)
    row_of_id = dict(zip(ids[rows].tolist(), rows.tolist(), strict=True))
    hits = leaked = 0
    for query, answer in enumerate(found):
        inside = [row_of_id[i] for i in answer if i in row_of_id]
        leaked += sum(1 for i in answer if i) - len(inside)
        hits += int((scores[query, inside] >= bar[query]).sum())
    post = {}
    for size in _SHORTLISTS:
        best = np.argpartition(-scores, size - 1, axis=1)[:, :size]
        kept = sum(
            int((scores[q, b[passing[b]]] >= bar[q]).sum())
            for q, b in enumerate(best)
        )
        post[size] = kept / (wanted * len(queries))
    return {
        "class": name or "(no filter)",
        "items": len(rows),
        "share": len(rows) / len(ids),
        "lintf": hits / (wanted * len(queries)),
        "leaked": leaked,
        "post_filter": post,
    }


def _retrieve(
    target: str, filter_text: str, queries: np.ndarray
) -> list[list[str]]:
    from lintf.serving.client import Client

    found: list[list[str]] = []
    with Client(target, "glove", timeout_s=120) as client:
        for begin in range(0, len(queries), _QUERIES_A_REQUEST):
            batch = queries[begin : begin + _QUERIES_A_REQUEST]
            answer = client.retrieve_by_embedding(batch, filter=filter_text)
            found += np.asarray(answer.ids).tolist()
    return found


def _table(records: list[dict]) -> str:
    head = " | ".join(f"post-filter of top {size:,}" for size in _SHORTLISTS)
    lines = [
        f"| WordNet class | items | share | lintf | {head} |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in records:
        post = " | ".join(f"{r['post_filter'][s]:.3f}" for s in _SHORTLISTS)
        lines.append(
            f"| {r['class']} | {r['items']:,} | {100 * r['share']:.2f} % "
            f"| {r['lintf']:.3f} | {post} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
