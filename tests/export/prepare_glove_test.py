# SPDX-License-Identifier: Apache-2.0
"""The files of the GloVe example: a split without overlap."""

import numpy as np
import pytest

from export.examples.prepare_glove import prepare


def test_queries_are_not_items(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    words = [f"w{i}" for i in range(40)]
    vectors = np.arange(80, dtype=np.float32).reshape(40, 2)
    classes = {"w3": frozenset({"noun.act", "adj.all"})}
    prepare(tmp_path, words, vectors, classes, num_queries=5, frequent=20)
    table = pq.read_table(tmp_path / "items.parquet").to_pydict()
    queries = (tmp_path / "query_words.txt").read_text().splitlines()
    assert len(queries) == 5
    assert set(queries) <= set(words[:20])
    assert sorted(queries + table["word"]) == sorted(words)
    assert [f"w{r}" for r in table["rank"]] == table["word"]
    found = dict(zip(table["word"], table["classes"], strict=True))
    assert found.get("w3", ["adj.all", "noun.act"]) == ["adj.all", "noun.act"]
    items = np.load(tmp_path / "embeddings.npy")
    np.testing.assert_array_equal(items, vectors[table["rank"]])
    rows = [words.index(w) for w in queries]
    held_out = np.load(tmp_path / "queries.npy")
    np.testing.assert_array_equal(held_out, vectors[rows])
