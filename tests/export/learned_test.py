# SPDX-License-Identifier: Apache-2.0
"""Offline jobs on indexes with a learned similarity, and their check."""

import json

import numpy as np
import pytest
import yaml

from export import bootstrap, brute_force, snapshot, verify
from export.errors import JobError
from lintf.index.index import Index
from lintf.index.schema import IndexSchema, Quantization, infer_attribute
from lintf.index.served import ServedIndex
from lintf.ingest.file_log import FileLog
from lintf.ingest.file_log_writer import FileLogWriter
from lintf.similarity import reference, saved
from lintf.similarity.spec import SimilaritySpec
from tests.export import live
from tests.references.similarities import drawn

ROWS, K = 60, 5
SPEC = SimilaritySpec(2, 2, 8, gate="softmax", gate_hidden=3)
CODES = Quantization(bins=4, repeats=16)
EVERYTHING = np.ones(ROWS, bool)


def _index():
    weights, queries, vectors = drawn(SPEC, 3, ROWS)
    year = infer_attribute("year", "int", [])
    schema = IndexSchema(
        dim=SPEC.item_dim,
        attributes=(year,),
        quantization=CODES,
        similarity=SPEC,
    )
    index = Index(schema, ROWS + 4)
    index.set_similarity_weights(weights)
    index.append(range(ROWS), vectors, {"year": range(1950, 1950 + ROWS)})
    return index, weights, queries, vectors


@pytest.fixture(scope="module")
def table():
    _, weights, _, vectors = _index()
    schema = IndexSchema(dim=SPEC.item_dim, similarity=SPEC)
    return brute_force.Table(
        schema, np.arange(ROWS), vectors, {}, weights=weights
    )


def _right(table, query):
    scores = reference.scores(
        SPEC, table.weights, query[np.newaxis], table.embeddings
    )[0]
    rows = np.argsort(-scores)[:K]
    return scores, rows, scores[rows].astype(np.float32)


def _checked(table, query, rows, scores, **options):
    return brute_force.check_result(
        table, query, EVERYTHING, rows, scores, K, **options
    )


def test_right_results_pass(table):
    for query in drawn(SPEC, 3, ROWS)[1]:
        _, rows, scores = _right(table, query)
        assert _checked(table, query, rows, scores) is None


def test_wrong_results_are_told(table):
    query = drawn(SPEC, 3, ROWS)[1][0]
    right, rows, scores = _right(table, query)
    off = 10 * brute_force.tolerance(table, query)
    assert off < 0.1
    message = _checked(table, query, rows, scores + np.float32(off))
    assert "has the score" in message
    lowest = np.append(rows[:-1], np.argmin(right))
    found = right[lowest].astype(np.float32)
    assert "is missing" in _checked(table, query, lowest, found)
    # Two stages may leave some out; what they score must be right.
    assert _checked(table, query, lowest, found, exact=False) is None


def test_blocks_of_rows_make_no_difference(table, monkeypatch):
    query = drawn(SPEC, 3, ROWS)[1][0]
    whole = brute_force.scores(table, query)
    monkeypatch.setattr(brute_force, "_BLOCK", 1)
    np.testing.assert_allclose(brute_force.scores(table, query), whole)


@pytest.mark.parametrize("algorithm", ["exact", "two_stage"])
def test_a_written_index_passes_the_check(tmp_path, algorithm):
    index, *_ = _index()
    path = tmp_path / "1"
    options = {"candidates": "codes", "budget": 20}
    ServedIndex(index, k=K, algorithm=algorithm, **options).save(path)
    (path / "assets.extra").mkdir(exist_ok=True)
    verify.warmup.write_warmup(path, "model")
    verifier = verify.Verifier(path)
    assert verifier._retrieval == ["retrieve"]
    done = verifier.check()
    assert f"{ROWS} rows" in done and "codes" in done
    assert "updates" in done[-1]


def test_a_check_finds_weights_that_are_not_those_served(tmp_path):
    index, weights, *_ = _index()
    path = tmp_path / "1"
    ServedIndex(index, k=K, algorithm="exact").save(path)
    verify.warmup.write_warmup(path, "model")
    verifier = verify.Verifier(path)
    verifier.table.weights["gate_bias"][:] += 3
    with pytest.raises(verify.MismatchError, match="brute force gives"):
        verifier.check()


@pytest.fixture
def log(tmp_path):
    with FileLogWriter(tmp_path / "log", 1) as writer:
        _, _, _, vectors = _index()
        for i in range(10):
            value = {
                "embedding": vectors[i].tolist(),
                "attributes": {"year": 1950 + i},
            }
            writer.append(str(i).encode(), json.dumps(value).encode())
        yield writer


def _bootstrapped(tmp_path, **options):
    with FileLog(tmp_path / "log") as source:
        return bootstrap.bootstrap(
            tmp_path / "models", snapshot.Log(source), **options
        )


def _check_answers(path, names=("retrieve_by_embedding",)):
    _, weights, queries, vectors = _index()
    right = reference.scores(SPEC, weights, queries, vectors[:10])
    with live.Served(path) as served:
        for name in names:
            found = served.ask(
                name, query_embedding=queries, filter=[b"", b"", b""]
            )
            best = np.argsort(-right, axis=1)[:, :K]
            assert found["ids"].tolist() == best.tolist()
            np.testing.assert_allclose(
                found["scores"],
                np.take_along_axis(right, best, axis=1),
                rtol=1e-4,
            )


def test_bootstrap_like_a_version_takes_its_similarity(tmp_path, log):
    index, *_ = _index()
    like = tmp_path / "old"
    ServedIndex(index, k=K, algorithm="bounded").save(like)
    _check_answers(_bootstrapped(tmp_path, like=like))


def test_bootstrap_takes_a_similarity_from_a_directory(tmp_path, log):
    config = {
        "dim": SPEC.item_dim,
        "index": {"capacity": 20},
        "attributes": [{"name": "year", "kind": "int"}],
        "retrieve": {"k": K, "algorithm": "two_stage", "budget": 20},
        "similarity": str(tmp_path / "similarity"),
    }
    file = tmp_path / "index.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    loaded = bootstrap.load_config(file)
    with pytest.raises(JobError, match="no similarity at"):
        _bootstrapped(tmp_path, config=loaded)
    saved.save(SPEC, _index()[1], tmp_path / "similarity")
    path = _bootstrapped(tmp_path, config=loaded)
    _check_answers(path)
    # Its next version has it too.
    value = json.dumps({"attributes": {"year": 2000}}).encode()
    log.append(b"3", value)
    with FileLog(tmp_path / "log") as source:
        path = snapshot.snapshot(tmp_path / "models", snapshot.Log(source))
    assert path.name == "2"
    _check_answers(path)
