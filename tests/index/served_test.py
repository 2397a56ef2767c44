# SPDX-License-Identifier: Apache-2.0
"""The served model: its signatures in this process and in a fresh one."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.index.index import Index
from lintf.index.schema import FilterLimits, IndexSchema, infer_attribute
from lintf.index.served import Batching, ServedIndex

ROWS, DIM, K = 300, 7, 5
GENRES = ["Comedy", "Drama", "War"]
RNG_SEED = 11


class Tower(tf.Module):
    """A query tower of one matrix."""

    feature_specs = {
        "history": tf.TensorSpec([None, 4], tf.int64),
        "weight": tf.TensorSpec([None], tf.float32),
    }

    def __init__(self):
        super().__init__()
        values = np.random.default_rng(3).standard_normal((50, DIM))
        self.table = tf.Variable(values.astype(np.float32))

    def __call__(self, features):
        rows = tf.gather(self.table, features["history"] % 50)
        weight = features["weight"][:, tf.newaxis]
        return tf.reduce_sum(rows, axis=1) * weight


def _data():
    rng = np.random.default_rng(RNG_SEED)
    embeddings = rng.standard_normal((ROWS, DIM)).astype(np.float32)
    genres = [
        [g for g in GENRES if rng.random() < 0.4] or None for _ in range(ROWS)
    ]
    years = [
        None if rng.random() < 0.1 else int(y)
        for y in rng.integers(1950, 2000, ROWS)
    ]
    return embeddings, {"genres": genres, "year": years}


def _index(metric="inner_product", id_dtype="int64", capacity=ROWS + 20):
    embeddings, attributes = _data()
    schema = IndexSchema(
        dim=DIM,
        metric=metric,
        id_dtype=id_dtype,
        attributes=(
            infer_attribute("genres", "tags", attributes["genres"]),
            infer_attribute("year", "int", [], dtype="int16"),
        ),
        limits=FilterLimits(max_words=64),
    )
    index = Index(schema, capacity)
    ids = np.arange(ROWS) * 10
    if id_dtype == "string":
        ids = [f"item-{i}" for i in ids]
    for start in range(0, ROWS, 128):
        end = min(start + 128, ROWS)
        index.append(
            ids[start:end],
            embeddings[start:end],
            {name: v[start:end] for name, v in attributes.items()},
        )
    index.check()
    return index


def _scores(metric, queries):
    items = _data()[0].astype(np.float64)
    queries = queries.astype(np.float64)
    if metric == "l2":
        return -((queries[:, None] - items[None]) ** 2).sum(-1)
    if metric == "cosine":
        items = items / np.linalg.norm(items, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return queries @ items.T


def _drama_after_1980():
    _, attributes = _data()
    return np.array(
        [
            "Drama" in (g or []) and y is not None and y > 1980
            for g, y in zip(
                attributes["genres"], attributes["year"], strict=True
            )
        ]
    )


QUERIES = np.random.default_rng(5).standard_normal((64, DIM)).astype("float32")
FILTER = 'genres == "Drama" and year > 1980'


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_retrieves_the_best_that_pass(metric, portable):
    index = _index(metric, capacity=ROWS)
    served = ServedIndex(
        index, k=K, portable=portable, return_attributes=["genres", "year"]
    )
    call = served.signatures()["retrieve_by_embedding"]
    passing = _drama_after_1980()
    filters = [FILTER if i % 2 else "" for i in range(len(QUERIES))]
    inputs = {"filter": tf.constant(filters)}
    if portable:
        programs = ops.compile_filter(
            filters, index.schema, pad_words=index.schema.limits.max_words
        )
        inputs = {"filter_program": programs}
    results = call(query_embedding=tf.constant(QUERIES), **inputs)
    truth = _scores(metric, QUERIES)
    truth[1::2, ~passing] = -np.inf
    rows = np.argsort(-truth, axis=1, kind="stable")[:, :K]
    np.testing.assert_array_equal(results["ids"], rows * 10)
    np.testing.assert_allclose(
        results["scores"], np.take_along_axis(truth, rows, 1), atol=2e-5
    )
    assert results["num_results"].numpy().tolist() == [K] * len(QUERIES)
    _, attributes = _data()
    for query in range(0, len(QUERIES), 7):
        for slot, row in enumerate(rows[query]):
            found = results["attribute_genres"][query, slot].numpy()
            genres = [g.decode() for g in found if g]
            assert genres == sorted(attributes["genres"][row] or [])
            year = int(results["attribute_year"][query, slot])
            expected = attributes["year"][row]
            assert year == (expected or np.iinfo(np.int64).min)


def test_a_batch_equals_single_calls_bit_for_bit():
    for metric in ("inner_product", "cosine", "l2"):
        call = ServedIndex(_index(metric), k=K).signatures()[
            "retrieve_by_embedding"
        ]
        filters = tf.constant([FILTER, "", "year < 1960", "not exists(year)"])
        filters = tf.tile(filters, [16])
        together = call(query_embedding=tf.constant(QUERIES), filter=filters)
        for i in range(len(QUERIES)):
            alone = call(
                query_embedding=tf.constant(QUERIES[i : i + 1]),
                filter=filters[i : i + 1],
            )
            for key, value in together.items():
                assert (
                    value[i].numpy().tobytes() == alone[key].numpy().tobytes()
                )


@pytest.mark.parametrize("portable", [False, True])
def test_unused_slots(portable):
    index = _index(capacity=ROWS)
    served = ServedIndex(
        index, k=ROWS + 3, portable=portable, return_attributes=["year"]
    )
    call = served.signatures()["retrieve_by_embedding"]
    filters = ["id in [10, 30, 7, 2990]", "id == -5", ""]
    inputs = {"filter": tf.constant(filters)}
    if portable:
        programs = ops.compile_filter(
            filters, index.schema, pad_words=index.schema.limits.max_words
        )
        inputs = {"filter_program": programs}
    results = call(query_embedding=tf.constant(QUERIES[:3]), **inputs)
    assert results["num_results"].numpy().tolist() == [3, 0, ROWS]
    for query, count in enumerate([3, 0, ROWS]):
        assert (results["ids"].numpy()[query, count:] == -1).all()
        assert np.isneginf(results["scores"].numpy()[query, count:]).all()
        years = results["attribute_year"].numpy()[query, count:]
        assert (years == np.iinfo(np.int64).min).all()
    assert set(results["ids"].numpy()[0, :3]) == {10, 30, 2990}


def test_string_ids_lookup_and_stats():
    served = ServedIndex(
        _index(id_dtype="string"), k=K, build_id="b1", return_attributes=[]
    )
    signatures = served.signatures()
    results = signatures["retrieve_by_embedding"](
        query_embedding=tf.constant(QUERIES[:2]),
        filter=tf.constant(['id in ["item-10", "item-20", "nope"]', ""]),
    )
    assert set(results["ids"].numpy()[0].tolist()) == {
        b"item-10",
        b"item-20",
        b"",
    }
    assert results["ids"].shape == [2, K]
    looked = signatures["lookup"](id=tf.constant(["item-20", "nope", ""]))
    assert looked["found"].numpy().tolist() == [True, False, False]
    np.testing.assert_array_equal(looked["embedding"][0], _data()[0][2])
    assert not looked["embedding"].numpy()[1:].any()
    year = _data()[1]["year"][2]
    assert int(looked["attribute_year"][0]) == year
    stats = signatures["index_stats"](probe=tf.constant([0, 0], tf.int64))
    assert stats["num_rows"].numpy().tolist() == [ROWS, ROWS]
    assert stats["live_rows"].numpy().tolist() == [ROWS, ROWS]
    assert stats["capacity"].numpy().tolist() == [ROWS + 20] * 2
    assert stats["log_offsets"].numpy().tolist() == [[-1], [-1]]
    assert stats["build_id"].numpy().tolist() == [b"b1", b"b1"]
    schema = IndexSchema.from_json(stats["schema"].numpy()[0])
    assert schema == served.index.schema


def test_requests_that_break_the_contract_are_refused():
    call = ServedIndex(_index(), Tower(), k=K).signatures()
    good = {
        "history": tf.zeros([2, 4], tf.int64),
        "weight": tf.ones([2]),
        "filter": tf.constant(["", ""]),
    }
    assert call["retrieve"](**good)["ids"].shape == [2, K]
    for change, message in [
        ({"filter": tf.constant(["", "year >"])}, r"filter\[1\]"),
        ({"filter": tf.constant([""])}, "as many rows"),
        ({"weight": tf.constant([1.0, np.nan])}, "nan"),
    ]:
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            call["retrieve"](**{**good, **change})


def test_batching_mixes_requests_and_keeps_errors_apart():
    served = ServedIndex(
        _index(),
        Tower(),
        k=K,
        batching=Batching(max_batch_size=16, timeout_micros=20_000),
        return_attributes=["year"],
    )
    # Two signatures of one model, whose queues must stay apart.
    calls = served.signatures()
    plain = ServedIndex(
        served.index, served.query_tower, k=K, return_attributes=["year"]
    ).signatures()
    rng = np.random.default_rng(8)
    requests, answers = [], {}
    for i in range(24):
        size = int(rng.integers(1, 6))
        if i % 3 == 2 and i not in (5, 9):
            requests.append(
                {
                    "query_embedding": tf.constant(QUERIES[i : i + size]),
                    "filter": tf.fill([size], FILTER),
                }
            )
            continue
        requests.append(
            {
                "history": tf.constant(rng.integers(0, 50, (size, 4))),
                "weight": tf.constant(
                    np.full(size, np.nan if i == 5 else 1.0, np.float32)
                ),
                "filter": tf.fill([size], "oops" if i == 9 else FILTER),
            }
        )

    def signature(i):
        by_embedding = "query_embedding" in requests[i]
        return "retrieve_by_embedding" if by_embedding else "retrieve"

    def ask(i):
        try:
            answers[i] = calls[signature(i)](**requests[i])
        except tf.errors.InvalidArgumentError as error:
            answers[i] = error

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, request in enumerate(requests):
        if i in (5, 9):
            assert isinstance(answers[i], tf.errors.InvalidArgumentError)
            continue
        expected = plain[signature(i)](**request)
        np.testing.assert_array_equal(answers[i]["ids"], expected["ids"])
        np.testing.assert_allclose(
            answers[i]["scores"], expected["scores"], atol=1e-5
        )
        assert answers[i]["ids"].shape == [len(request["filter"]), K]


_FRESH = """
import json, sys
import numpy as np, tensorflow as tf
path, native = sys.argv[1], sys.argv[2] == "native"
if native:
    import lintf.ops
out = {}
model = tf.saved_model.load(path)
other = tf.saved_model.load(path)
query = np.load(sys.argv[3])
for name, m in (("first", model), ("second", other)):
    call = m.signatures["retrieve_by_embedding"]
    extra = {"filter": tf.fill([len(query)], "")} if native else {
        "filter_program": tf.zeros([len(query), 64], tf.int64)}
    out[name] = call(query_embedding=tf.constant(query), **extra)[
        "ids"].numpy().tolist()
graph = tf.Graph()
with graph.as_default(), tf.compat.v1.Session() as session:
    meta = tf.compat.v1.saved_model.load(session, ["serve"], path)
    signature = meta.signature_def["lookup"]
    out["lookup"] = session.run(
        signature.outputs["found"].name,
        {signature.inputs["id"].name: [10, 11]}).tolist()
    out["inputs"] = sorted(meta.signature_def["retrieve"].inputs)
    out["default"] = sorted(meta.signature_def["serving_default"].inputs)
print(json.dumps(out))
"""


@pytest.mark.parametrize("kind", ["native", "portable"])
def test_a_fresh_process_serves_the_saved_model(tmp_path, kind):
    index = _index(capacity=ROWS)
    served = ServedIndex(index, Tower(), k=K, portable=kind == "portable")
    served.save(tmp_path / "model")
    np.save(tmp_path / "q.npy", QUERIES[:3])
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _FRESH,
            str(tmp_path / "model"),
            kind,
            str(tmp_path / "q.npy"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout.splitlines()[-1])
    rows = np.argsort(-_scores("inner_product", QUERIES[:3]), axis=1)[:, :K]
    assert out["first"] == (rows * 10).tolist()
    assert out["second"] == out["first"]
    assert out["lookup"] == [True, False]
    last = "filter" if kind == "native" else "filter_program"
    assert out["inputs"] == sorted(["history", "weight", last])
    assert out["default"] == out["inputs"]


def test_construction_refuses():
    index = _index()
    for arguments, error, message in [
        ({"k": 0}, ValueError, "`k` must be"),
        ({"k": 1, "algorithm": "ivf"}, ValueError, "`algorithm` must be"),
        ({"k": 1, "return_attributes": ["x"]}, KeyError, "the index has"),
        ({"k": 1, "portable": True}, ValueError, "must be full"),
        ({"k": 1, "costs": [1.0] * 9}, ValueError, "must be the 5 numbers"),
    ]:
        with pytest.raises(error, match=message):
            ServedIndex(index, **arguments)
    tower = Tower()
    tower.table = tf.Variable(tf.zeros([50, DIM + 1]))
    with pytest.raises(ValueError, match="must return"):
        ServedIndex(index, tower, k=1)


def test_append_refuses_and_writes_nothing():
    index = _index()
    attributes = {"genres": [None], "year": [1990]}
    good = np.ones((1, DIM), np.float32)
    for ids, vectors, values, message in [
        ([5], np.ones((1, DIM + 1)), attributes, "must be"),
        ([5], good * np.nan, attributes, "must be finite"),
        ([-1], good, attributes, "reserved"),
        ([5, 6], good, attributes, "same length"),
        (["5"], good, attributes, "vector of integers"),
        ([5], good, {"year": [1990]}, r"missing: \['genres'\]"),
        ([5], good, {**attributes, "year": ["x"]}, "value 0"),
        (
            np.arange(21),
            np.ones((21, DIM)),
            {"genres": [None] * 21, "year": [0] * 21},
            "is full",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            index.append(ids, vectors, values)
        assert int(index.num_rows) == ROWS
    index.append([10], good, attributes)
    with pytest.raises(ValueError, match=r"more than once, such as \[10\]"):
        index.check()
