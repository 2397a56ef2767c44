# SPDX-License-Identifier: Apache-2.0
r"""Writes the golden SavedModels of the present index formats.

    python -m tests.testdata.make_golden

Only of formats that have none yet: the others stay as they are, because
they show that what users have exported still loads. The items are 60 films of
the CC0 film table, with made-up embeddings: in 8 bits and with codes, and, in
the format of learned similarities, with one of them.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

from lintf import datasets
from lintf.index.index import Index
from lintf.index.plan import Variant
from lintf.index.schema import (
    FORMAT_VERSION,
    SIMILARITY_FORMAT,
    IndexSchema,
    Quantization,
    infer_attribute,
)
from lintf.index.served import ServedIndex
from lintf.similarity.spec import SimilaritySpec

FOLDER = pathlib.Path(__file__).parent
NUM_FILMS, DIM, K = 60, 8, 10
CODES = Quantization(bins=2, repeats=32, seed=6, shortlist=20)
SPEC = SimilaritySpec(2, 2, 6, gate="silu_softmax", gate_hidden=4)
FORMATS: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {
    FORMAT_VERSION: (
        {
            "dim": DIM,
            "metric": "cosine",
            "dtype": "int8",
            "quantization": CODES,
        },
        {
            "algorithm": "prefiltered",
            "variants": [Variant("retrieve_20", 20, "quantized", shortlist=25)],
        },
    ),
    SIMILARITY_FORMAT: (
        {
            "dim": SPEC.item_dim,
            "similarity": SPEC,
            "quantization": Quantization(bins=2, repeats=32, seed=6),
        },
        {
            "algorithm": "bounded",
            "variants": [
                Variant(
                    "retrieve_20",
                    20,
                    "two_stage",
                    candidates="codes",
                    budget=30,
                )
            ],
        },
    ),
}
FILTERS = ["", 'genres == "Drama" and year < 1990', "not exists(year)"]


def main() -> None:
    for number, (fields, search) in FORMATS.items():
        folder = FOLDER / f"format_{number}"
        if not folder.exists():
            _write(folder, fields, search)


def _write(
    folder: pathlib.Path, fields: dict[str, Any], search: dict[str, Any]
) -> None:
    films = datasets.wikidata_films()
    genres = [[g for g in row if g] for row in films.genres[:NUM_FILMS]]
    years = [int(y) or None for y in films.year[:NUM_FILMS]]
    schema = IndexSchema(
        id_dtype="string",
        attributes=(
            infer_attribute("genres", "tags", genres),
            infer_attribute("year", "int", [], dtype="int16"),
        ),
        **fields,
    )
    rng = np.random.default_rng(60)
    index = Index(schema, NUM_FILMS + 4)
    index.append(
        [f"{title} #{i}" for i, title in enumerate(films.title[:NUM_FILMS])],
        rng.standard_normal((NUM_FILMS, schema.dim)),
        {"genres": genres, "year": years},
    )
    if schema.similarity is not None:
        shapes = schema.similarity.weight_shapes()
        index.set_similarity_weights(
            {name: rng.standard_normal(s) for name, s in shapes.items()}
        )
    served = ServedIndex(
        index,
        k=K,
        return_attributes=["genres", "year"],
        build_id="golden",
        **search,
    )
    served.save(folder / "model")
    queries = rng.standard_normal((len(FILTERS), schema.query_dim))
    queries = queries.astype(np.float32)
    signatures = served.signatures()
    expected = {"queries": queries.tolist(), "filters": FILTERS, "answers": {}}
    for name in ("retrieve_by_embedding", "retrieve_20_by_embedding"):
        answer = signatures[name](query_embedding=queries, filter=FILTERS)
        expected["answers"][name] = {
            "ids": [[i.decode() for i in row] for row in answer["ids"].numpy()],
            "num_results": answer["num_results"].numpy().tolist(),
        }
    text = json.dumps(expected, ensure_ascii=False, indent=1)
    (folder / "expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
