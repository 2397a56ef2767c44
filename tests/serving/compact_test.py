# SPDX-License-Identifier: Apache-2.0
"""Compact indexes from the export job to an answer over gRPC."""

import numpy as np
import pytest

from export import build_index
from export.config import load_config
from lintf.serving.client import Client
from tests.export import jobs

pytest.importorskip("pyarrow")

CODES = {"bits": 256, "shortlist": 60}
ALONE = {"bits": 256, "scoring": "symmetric"}


@pytest.mark.parametrize(
    ("index", "codes", "ops"),
    [
        ({"dtype": "float16", "id_dtype": "string"}, None, "native"),
        ({"dtype": "bfloat16", "metric": "cosine"}, CODES, "native"),
        ({"dtype": "int8", "metric": "l2"}, CODES, "native"),
        ({"dtype": "int8"}, None, "portable"),
        ({"dtype": "none"}, {"bits": 256}, "native"),
        ({"dtype": "none"}, ALONE, "portable"),
    ],
    ids=lambda value: value.get("dtype") if isinstance(value, dict) else value,
)
def test_from_the_job_to_an_answer(server, tmp_path, index, codes, ops):
    changes = {
        "index": index,
        "retrieve": {
            "k": 7,
            "return_attributes": ["year"],
            "variants": [{"name": "wide", "k": 60}],
        },
        "filter_limits": {"max_words": 200},
    }
    if codes is not None:
        changes["quantization"] = codes
    if ops == "native":
        changes["batching"] = {"max_batch_size": 16}
    config = load_config(jobs.write_job(tmp_path, **changes))
    name = f"compact-{tmp_path.name}"
    build_index.run(config, tmp_path / name, ops=ops)
    server.add_model(name, str(tmp_path / name))

    string_ids = index.get("id_dtype") == "string"
    data = jobs.columns(string_ids=string_ids)
    vectors = data["vector"].astype(np.float64)
    if index.get("metric") == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = np.linspace(1, -1, jobs.DIM).astype(np.float32)
    right = vectors @ query.astype(np.float64)
    if index.get("metric") == "l2":
        right = -np.square(vectors - query).sum(axis=1)
    elif index.get("metric") == "cosine":
        right /= np.linalg.norm(query)
    passing = np.array([y is not None and y >= 1980 for y in data["year"]])
    with Client(server.target, name) as client:
        # Warm-up requests have been counted, too.
        before = client.stats().searches
        found = client.retrieve_by_embedding(query, "year >= 1980")
        wide = client.retrieve_by_embedding(
            query, "year >= 1980", signature="wide_by_embedding"
        )
        looked = client.lookup([data["key"][5], data["key"][6]])
        stats = client.stats()
    count = int(wide.num_results[0])
    assert count == passing.sum()
    rows = [data["key"].index(i) for i in wide.ids[0, :count].tolist()]
    assert sorted(rows) == np.flatnonzero(passing).tolist()
    assert wide.ids.shape == (1, 60)
    assert found.ids[0].tolist() == wide.ids[0, :7].tolist()
    assert found.attributes["year"][0].tolist() == [
        data["year"][row] for row in rows[:7]
    ]
    assert looked.found.tolist() == [True, True]
    if index["dtype"] == "none":
        assert looked.embedding is None
        # Ranked by code: good rows come before bad ones on the whole.
        ranks = np.argsort(np.argsort(-right[rows]))
        assert np.corrcoef(ranks, np.arange(count))[0, 1] > 0.7
    else:
        # 2 % of the largest score: all that storage in 8 bits may cost here.
        off = 0.02 * np.abs(right).max()
        np.testing.assert_allclose(
            wide.scores[0, :count], right[rows], atol=off
        )
        np.testing.assert_allclose(
            looked.embedding, vectors[5:7], atol=0.01 * np.abs(vectors).max()
        )
    assert stats.schema.dtype == index["dtype"]
    if ops == "portable":
        assert stats.searches == {}
    else:
        counted = {n: c - before[n] for n, c in stats.searches.items()}
        assert sorted(counted) == ["masked", "prefiltered", "quantized"]
        assert sum(counted.values()) == 2
