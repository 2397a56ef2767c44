# SPDX-License-Identifier: Apache-2.0
"""Real indexes behind a real server, through the client and raw Predict."""

import threading

import grpc
import numpy as np
import pytest

from lintf.index.index import Index
from lintf.index.schema import IndexSchema, infer_attribute
from lintf.index.served import Batching, ServedIndex
from lintf.serving.client import Client
from tests.references import filter_cases, filter_reference
from tests.serving.conftest import publish

DIM, ROWS = 6, 150
FILTERS = 10_000
SCHEMAS = 5
BATCH = 100


def _random_index(seed):
    """A random schema, its rows, and embeddings that repeat here and there."""
    rng = np.random.default_rng(seed)
    schema = filter_cases.random_schema(rng, dim=DIM)
    rows = filter_cases.random_rows(rng, schema, ROWS)
    embeddings = rng.standard_normal((ROWS, DIM)).astype(np.float32)
    embeddings[::7] = embeddings[0]
    index = Index(schema, ROWS + 10)
    index.append(
        [row["id"] for row in rows],
        embeddings,
        {a.name: [row[a.name] for row in rows] for a in schema.attributes},
    )
    return index, rows, embeddings


@pytest.mark.parametrize("seed", range(SCHEMAS))
def test_no_filter_lets_a_filtered_item_through(server, tmp_path, seed):
    index, rows, embeddings = _random_index(seed)
    schema = index.schema
    name = f"random-{seed}"
    batching = Batching(max_batch_size=32) if seed % 2 else None
    ServedIndex(index, k=ROWS, batching=batching).save(tmp_path / "v")
    publish(tmp_path / "v", tmp_path / name, 1)
    server.add_model(name, str(tmp_path / name))
    rng = np.random.default_rng(100 + seed)
    row_of_id = {row["id"]: i for i, row in enumerate(rows)}
    with Client(server.target, name) as client:
        for _ in range(FILTERS // SCHEMAS // BATCH):
            filters = [
                filter_cases.random_filter(rng, schema, rows)
                for _ in range(BATCH)
            ]
            queries = rng.standard_normal((BATCH, DIM)).astype(np.float32)
            found = client.retrieve_by_embedding(queries, filter=filters)
            scores = queries.astype(np.float64) @ embeddings.T
            for q, text in enumerate(filters):
                passes = filter_reference.parse(text, schema)
                expected = [i for i, row in enumerate(rows) if passes(row)]
                count = int(found.num_results[q])
                ids = found.ids[q, :count].tolist()
                got = [row_of_id[i] for i in ids]
                assert sorted(got) == expected, text
                np.testing.assert_allclose(
                    found.scores[q, :count], scores[q, got], atol=1e-5
                )
                # Best first, equal scores by row.
                keys = list(zip(-found.scores[q, :count], got, strict=True))
                assert keys == sorted(keys), text


def _small_index(version):
    """Ids tell the version: 1000 * version + row."""
    rng = np.random.default_rng(9)
    schema = IndexSchema(
        dim=DIM, attributes=(infer_attribute("year", "int", []),)
    )
    index = Index(schema, ROWS)
    index.append(
        np.arange(ROWS) + 1000 * version,
        rng.standard_normal((ROWS, DIM)),
        {"year": np.arange(ROWS)},
    )
    return index


QUERIES = np.random.default_rng(4).standard_normal((64, DIM)).astype("float32")


@pytest.mark.parametrize("batched", [False, True])
def test_a_batch_equals_single_requests(server, tmp_path, batched):
    name = f"batch-{batched}"
    ServedIndex(
        _small_index(1), k=20, batching=Batching() if batched else None
    ).save(tmp_path / "v")
    publish(tmp_path / "v", tmp_path / name, 1)
    server.add_model(name, str(tmp_path / name))
    filters = ["", "year > 50", "id not in [1003]", "year in [7, 8]"] * 16
    with Client(server.target, name) as client:
        whole = client.retrieve_by_embedding(QUERIES, filter=filters)
        for i in range(64):
            one = client.retrieve_by_embedding(
                QUERIES[i : i + 1], filter=filters[i]
            )
            assert one.ids.tobytes() == whole.ids[i].tobytes()
            assert one.scores.tobytes() == whole.scores[i].tobytes()


def test_an_index_is_swapped_without_a_failed_request(server, tmp_path):
    base = tmp_path / "swapped"
    for version in (1, 2):
        ServedIndex(_small_index(version), k=5).save(tmp_path / f"v{version}")
    publish(tmp_path / "v1", base, 1)
    server.add_model("swapped", str(base))
    seen, stop = set(), threading.Event()

    def ask():
        with Client(server.target, "swapped") as client:
            while not stop.is_set():
                ids = client.retrieve_by_embedding(QUERIES[:3], filter="").ids
                # One answer, one version.
                (version,) = set((ids // 1000).ravel().tolist())
                seen.add(version)

    failures = []

    def guarded():
        try:
            ask()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(3)]
    for thread in threads:
        thread.start()
    publish(tmp_path / "v2", base, 2)
    server.wait_for_state("swapped", 2, 30)
    server.wait_for_state("swapped", 1, 50)
    with Client(server.target, "swapped") as client:
        ids = client.retrieve_by_embedding(QUERIES[:1], filter="").ids
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert (ids // 1000 == 2).all()
    assert seen <= {1, 2}


def test_a_portable_export_answers_the_same(server, tmp_path):
    index = _small_index(1)
    for name, portable in (("native", False), ("portable", True)):
        ServedIndex(index, k=7, portable=portable).save(tmp_path / f"{name}-v")
        publish(tmp_path / f"{name}-v", tmp_path / name, 1)
        server.add_model(name, str(tmp_path / name))
    filters = ["year >= 140", "", "id in [1001, 1002, 5]", "not exists(year)"]
    answers = []
    for name in ("native", "portable"):
        with Client(server.target, name) as client:
            answers.append(
                client.retrieve_by_embedding(QUERIES[:4], filter=filters)
            )
    np.testing.assert_array_equal(answers[0].ids, answers[1].ids)
    np.testing.assert_allclose(answers[0].scores, answers[1].scores, atol=1e-5)


@pytest.fixture(scope="session", params=[False, True], ids=["", "batched"])
def strict_model(request, server, tmp_path_factory):
    """A served model for requests that it must refuse; its name."""
    root = tmp_path_factory.mktemp("strict")
    name = f"strict-{request.param}"
    batching = Batching() if request.param else None
    ServedIndex(_small_index(1), k=5, batching=batching).save(root / "v")
    publish(root / "v", root / name, 1)
    server.add_model(name, str(root / name))
    return name


@pytest.mark.parametrize(
    ("queries", "filters", "message"),
    [
        (QUERIES[:2], ["", "yaer > 3"], "filter[1]: column 1"),
        (QUERIES[:2], ["year >", ""], "filter[0]: column 7"),
        (QUERIES[:2], [""], ""),
        (QUERIES[:2, :5], ["", ""], "[2,5]"),
        (np.full((1, DIM), np.nan, "float32"), [""], "finite"),
        (QUERIES[:1], ["year in [" + "1," * 200_000 + "1]"], "filter[0]"),
        (QUERIES[:1], ["(" * 100_000], "filter[0]"),
        (QUERIES[:1], [b"\xff\xfe"], "filter[0]"),
    ],
)
def test_bad_requests(server, strict_model, queries, filters, message):
    # Raw Predict: the client would refuse some of these itself.
    with pytest.raises(grpc.RpcError) as error:
        server.predict(
            strict_model,
            "retrieve_by_embedding",
            query_embedding=queries,
            filter=np.array(filters, object),
        )
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in error.value.details()
