# SPDX-License-Identifier: Apache-2.0
r"""Makes the files of `export/configs/glove_400k.yaml`.

    python -m export.examples.prepare_glove --output_dir build/glove

Writes `items.parquet` (word, classes, rank), `embeddings.npy` (one row a word)
and, as queries that the index does not hold, `queries.npy` with
`query_words.txt`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from lintf import datasets

NUM_QUERIES = 500
# Queries are words that people use: drawn from so many most frequent ones.
FREQUENT = 100_000
SEED = 0

_FLAGS = flags.FLAGS


def prepare(
    folder: pathlib.Path,
    words: Sequence[str],
    vectors: np.ndarray,
    classes: dict[str, frozenset[str]],
    *,
    num_queries: int = NUM_QUERIES,
    frequent: int = FREQUENT,
    seed: int = SEED,
) -> None:
    """Splits words into items and queries, and writes them.

    Args:
        folder: Made where it is absent.
        words: `[n]`, most frequent first.
        vectors: `[n, dim]` float32.
        classes: Word -> its WordNet classes.
        num_queries: Words held out.
        frequent: The held-out words are drawn from so many first ones.
        seed: Of the draw.
    """
    import pyarrow
    import pyarrow.parquet

    random = np.random.default_rng(seed)
    held_out = np.sort(
        random.choice(min(frequent, len(words)), num_queries, replace=False)
    )
    kept = np.ones(len(words), bool)
    kept[held_out] = False
    rank = np.flatnonzero(kept).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(
        {
            "word": pyarrow.array(words[i] for i in rank),
            "classes": pyarrow.array(
                (sorted(classes.get(words[i], ())) for i in rank),
                pyarrow.list_(pyarrow.string()),
            ),
            "rank": pyarrow.array(rank, pyarrow.int64()),
        }
    )
    pyarrow.parquet.write_table(table, folder / "items.parquet")
    np.save(folder / "embeddings.npy", vectors[kept])
    np.save(folder / "queries.npy", vectors[held_out])
    text = "".join(f"{words[i]}\n" for i in held_out.tolist())
    (folder / "query_words.txt").write_text(text, encoding="utf-8")


def main(argv: Sequence[str]) -> None:
    """Reads the installed data sets and writes the files."""
    del argv
    glove = datasets.glove_50d()
    folder = pathlib.Path(_FLAGS.output_dir)
    prepare(
        folder,
        glove.words.tolist(),
        np.asarray(glove.vectors),
        datasets.wordnet_classes(),
    )
    print(
        f"{folder}: {len(glove) - NUM_QUERIES:,} items, {NUM_QUERIES} queries"
    )


if __name__ == "__main__":
    flags.DEFINE_string("output_dir", "build/glove", "Where the files go.")
    app.run(main)
