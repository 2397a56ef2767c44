# SPDX-License-Identifier: Apache-2.0
r"""Writes the golden SavedModel of the present index format.

    python -m tests.testdata.make_golden

Only for a new format: the goldens of older ones stay as they are, because
they show that what users have exported still loads. The items are 60 films of
the CC0 film table, with made-up embeddings, in 8 bits and with codes.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np

from lintf import datasets
from lintf.index.index import Index
from lintf.index.plan import Variant
from lintf.index.schema import (
    FORMAT_VERSION,
    IndexSchema,
    Quantization,
    infer_attribute,
)
from lintf.index.served import ServedIndex

FOLDER = pathlib.Path(__file__).parent
NUM_FILMS, DIM, K = 60, 8, 10
VARIANT = Variant("retrieve_20", k=20, algorithm="quantized", shortlist=25)
FILTERS = ["", 'genres == "Drama" and year < 1990', "not exists(year)"]


def main() -> None:
    films = datasets.wikidata_films()
    genres = [[g for g in row if g] for row in films.genres[:NUM_FILMS]]
    years = [int(y) or None for y in films.year[:NUM_FILMS]]
    schema = IndexSchema(
        dim=DIM,
        metric="cosine",
        id_dtype="string",
        attributes=(
            infer_attribute("genres", "tags", genres),
            infer_attribute("year", "int", [], dtype="int16"),
        ),
        dtype="int8",
        quantization=Quantization(bins=2, repeats=32, seed=6, shortlist=20),
    )
    rng = np.random.default_rng(60)
    index = Index(schema, NUM_FILMS + 4)
    index.append(
        [f"{title} #{i}" for i, title in enumerate(films.title[:NUM_FILMS])],
        rng.standard_normal((NUM_FILMS, DIM)),
        {"genres": genres, "year": years},
    )
    served = ServedIndex(
        index,
        k=K,
        algorithm="prefiltered",
        variants=[VARIANT],
        return_attributes=["genres", "year"],
        build_id="golden",
    )
    folder = FOLDER / f"format_{FORMAT_VERSION}"
    served.save(folder / "model")
    queries = rng.standard_normal((len(FILTERS), DIM)).astype(np.float32)
    signatures = served.signatures()
    expected = {"queries": queries.tolist(), "filters": FILTERS, "answers": {}}
    for name in ("retrieve_by_embedding", *VARIANT.signatures[1:]):
        answer = signatures[name](query_embedding=queries, filter=FILTERS)
        expected["answers"][name] = {
            "ids": [[i.decode() for i in row] for row in answer["ids"].numpy()],
            "num_results": answer["num_results"].numpy().tolist(),
        }
    text = json.dumps(expected, ensure_ascii=False, indent=1)
    (folder / "expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
