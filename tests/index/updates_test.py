# SPDX-License-Identifier: Apache-2.0
"""The signatures that change an index, saved and loaded as a server does."""

import concurrent.futures
import dataclasses
import importlib

import numpy as np
import pytest
import tensorflow as tf

from export import warmup
from lintf.index import columns, inputs, signatures, storage
from lintf.index.index import Index
from lintf.index.schema import Attribute, IndexSchema, Quantization
from lintf.index.served import ServedIndex
from lintf.index.sharded import new_index
from lintf.index.shards import Shards
from lintf.serving.changes import Change, ChangeEncoder
from tests.index.live import LiveIndex
from tests.references import filter_cases
from tests.references.index_model import History, IndexModel, ModelError

DIM = 8
CODES = Quantization(bins=4, repeats=16, seed=1, shortlist=100)
ATTRIBUTES = (
    Attribute("year", "int", "number", "int16"),
    Attribute("genres", "tags", "bits", "uint8", 1, ("Drama", "War")),
    Attribute("studio", "category", "hash", "int64"),
)


def _schema(**fields):
    return IndexSchema(**{"dim": DIM, "attributes": ATTRIBUTES, **fields})


def _live(path, schema=None, capacity=20, partitions=2, shards=1, **served):
    index = new_index(
        schema or _schema(),
        capacity,
        Shards(shards),
        log_partitions=partitions,
    )
    return LiveIndex(ServedIndex(index, k=capacity, **served), path)


def _vector(seed):
    return np.random.default_rng(seed).standard_normal(DIM).astype("float32")


@pytest.mark.parametrize(
    ("dtype", "codes", "metric", "id_dtype", "shards"),
    [
        ("float32", None, "inner_product", "int64", 1),
        ("float32", None, "cosine", "string", 1),
        ("float32", CODES, "l2", "string", 1),
        ("bfloat16", None, "l2", "int64", 1),
        ("float16", CODES, "cosine", "int64", 1),
        ("int8", None, "inner_product", "string", 1),
        ("int8", CODES, "l2", "int64", 1),
        ("none", CODES, "cosine", "string", 1),
        ("float32", None, "l2", "string", 2),
        ("float32", CODES, "cosine", "int64", 3),
        ("none", CODES, "l2", "int64", 2),
        ("int8", None, "inner_product", "string", 5),
    ],
)
def test_random_histories_end_as_the_model_does(
    tmp_path, dtype, codes, metric, id_dtype, shards
):
    rng = np.random.default_rng([ord(dtype[0]), ord(metric[0])])
    schema = dataclasses.replace(
        filter_cases.random_schema(
            rng, dim=DIM, string_ids=id_dtype == "string"
        ),
        dtype=dtype,
        quantization=codes,
        metric=metric,
    )
    capacity = 17
    live = _live(tmp_path / "m", schema, capacity, shards=shards)
    model = IndexModel(schema, capacity, 2)
    history = History(rng, schema, 30)
    refused = set()
    for _ in range(60):
        offsets = list(model.offsets)
        wrong = rng.integers(9) == 0
        if wrong:
            offsets[0] += 1
        batch = history.batch(
            int(rng.integers(12)),
            offsets if rng.integers(4) else (),
            attributes_only=bool(rng.integers(5) == 0),
        )
        for change in batch:
            live.encoder.check(change)
        if not batch:
            continue
        try:
            expected = model.apply(batch)
        except ModelError as error:
            refused.add(error.code)
            kind = {
                "FAILED_PRECONDITION": tf.errors.FailedPreconditionError,
                "RESOURCE_EXHAUSTED": tf.errors.ResourceExhaustedError,
            }[error.code]
            with pytest.raises(kind):
                live.update(*batch)
        else:
            assert live.update(*batch) == expected
        _check_same(live, model, history)
    assert refused == {"FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}
    if shards == 1:
        assert live.stats()["num_rows"] <= capacity


def _check_same(live, model, history):
    schema = live.schema
    stats = live.stats()
    assert stats["log_offsets"].tolist() == model.offsets
    assert stats["live_rows"] == len(model.items)
    found = live.call("lookup", id=history.ids)
    items = [model.items.get(i) for i in history.ids]
    assert found["found"].tolist() == [i is not None for i in items]
    there = np.flatnonzero(found["found"])
    for attribute in schema.attributes:
        if attribute.decodable:
            values = [items[i].row[attribute.name] for i in there]
            column = columns.encode(attribute, values)
            expected = columns.decode_tensor(attribute, tf.constant(column))
            key = f"attribute_{attribute.name}"
            np.testing.assert_array_equal(found[key][there], expected)
    vectors = np.zeros([len(there), schema.dim], np.float32)
    for place, i in enumerate(there):
        vectors[place] = items[i].embedding
    if schema.metric == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if schema.dtype != "none":
        off = storage.error_bound(vectors, schema.dtype) + 1e-6
        assert (np.abs(found["embedding"][there] - vectors) <= off).all()
    filters = [""] + [
        filter_cases.random_filter(
            history._rng, schema, [i.row for i in items if i is not None]
        )
        for _ in range(3)
    ]
    query = history.vector()
    result = live.call(
        "retrieve_by_embedding",
        query_embedding=np.tile(query, [len(filters), 1]),
        filter=filters,
    )
    for row, text in enumerate(filters):
        count = result["num_results"][row]
        ids = result["ids"][row, :count].tolist()
        if schema.id_dtype == "string":
            ids = [i.decode() for i in ids]
        assert sorted(ids) == model.passing(text), text
        scores = result["scores"][row, :count]
        assert (np.diff(scores) <= 0).all()
        if schema.dtype == "float32":
            stored = np.array([model.items[i].embedding for i in ids])
            np.testing.assert_allclose(
                scores, _scores(schema.metric, stored, query), atol=1e-4
            )


def _scores(metric, vectors, query):
    vectors = vectors.reshape(-1, DIM).astype(np.float64)
    if metric == "l2":
        return -((vectors - query) ** 2).sum(1)
    scores = vectors @ query.astype(np.float64)
    if metric == "cosine":
        scores /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return scores


def test_codes_are_those_of_a_new_index(tmp_path):
    for dtype in ("float32", "int8", "none"):
        schema = _schema(dtype=dtype, quantization=CODES, attributes=())
        vectors = np.stack([_vector(seed) for seed in range(20)])
        queries = np.stack([_vector(100 + seed) for seed in range(9)])
        new = Index(schema, 20)
        new.append(list(range(20)), vectors)
        new = LiveIndex(ServedIndex(new, k=20), tmp_path / f"new-{dtype}")
        live = _live(tmp_path / f"live-{dtype}", schema)
        # Twice: what was there before must not show.
        live.update(*(Change(i, embedding=-v) for i, v in enumerate(vectors)))
        live.update(*(Change(i, embedding=v) for i, v in enumerate(vectors)))
        asked = {"query_embedding": queries, "filter": [""] * 9}
        a = new.call("retrieve_by_embedding", **asked)
        b = live.call("retrieve_by_embedding", **asked)
        for name in a:
            assert a[name].tobytes() == b[name].tobytes()


def test_what_became_of_each_row():
    # The operation and the clients say the same.
    op = importlib.import_module("lintf.ops.update")
    for name in ("UNCHANGED", "INSERTED", "REPLACED", "DELETED", "NOT_FOUND"):
        assert getattr(signatures, name) == getattr(op, name)


def test_the_last_of_several_rows_counts(tmp_path):
    live = _live(tmp_path / "m")
    status = live.update(
        Change(1, embedding=_vector(1), attributes={"year": 1}),
        Change(2, embedding=_vector(2), attributes={"year": 2}),
        Change(1, delete=True),
        Change(1, embedding=_vector(3), attributes={"year": 3}),
        Change(2, delete=True),
        Change(3, delete=True),
        Change(1, embedding=_vector(4), attributes={"year": 4}),
    )
    assert status == [1, 1, 3, 1, 3, 0, 2]
    found = live.call("lookup", id=[1, 2, 3])
    assert found["found"].tolist() == [True, False, False]
    assert found["attribute_year"][0] == 4
    np.testing.assert_array_equal(found["embedding"][0], _vector(4))
    # Attributes that are not given are missing, old ones do not stay.
    assert live.update(Change(1, attributes={"genres": ["War", "?"]})) == [2]
    found = live.call("lookup", id=[1])
    assert found["attribute_year"][0] == inputs.MISSING_INT
    assert found["attribute_genres"][0].tolist() == [b"War", b""]
    np.testing.assert_array_equal(found["embedding"][0], _vector(4))


def test_unknown_values_follow_the_schema(tmp_path):
    live = _live(tmp_path / "m")
    live.update(
        Change(
            1,
            embedding=_vector(1),
            attributes={"genres": ["Drama", "War", "x"], "studio": "new"},
        ),
        Change(2, embedding=_vector(2)),
    )

    def ids(filter):
        found = live.call(
            "retrieve_by_embedding",
            query_embedding=[_vector(5)],
            filter=[filter],
        )
        return found["ids"][0, : found["num_results"][0]].tolist()

    assert ids("exists(genres)") == [1]
    assert ids('contains_all(genres, ["Drama", "War"])') == [1]
    assert ids('contains_any(genres, ["x"])') == []
    assert ids('studio == "new"') == [1]
    assert ids('studio == "other"') == []


def test_nothing_counts_of_a_row_that_is_deleted_or_skipped(tmp_path):
    live = _live(tmp_path / "m")
    live.update(
        Change(1, embedding=_vector(1)), Change(2, embedding=_vector(2))
    )
    rubbish = dict(
        delete=[True, False],
        embedding=np.full([2, DIM], np.nan),
        attribute_year=[99999, -99999],
        attribute_genres=[["a", "b", "c"]] * 2,
        attribute_studio=["x", "y"],
        log_partition=[1, 1],
        log_previous_offset=[-1, 4],
        log_offset=[4, 6],
    )
    result = live.call("update", id=[1, -1], **rubbish)
    assert result["status"].tolist() == [3, 0]
    assert result["num_rows"].tolist() == [2, 2]
    assert live.offsets() == [-1, 6]
    assert live.call("lookup", id=[1, 2, -1])["found"].tolist() == [
        False,
        True,
        False,
    ]
    # The same rows as upserts are refused, and nothing changes.
    for name, value, message in [
        ("attribute_year", [5, 99999], r"`year` must be from -32767 to 32767"),
        ("embedding", None, "row 0: `embedding` holds nan"),
    ]:
        given = {
            **rubbish,
            "attribute_year": [5, 5],
            "delete": [False] * 2,
            "log_offset": [7, 9],
            "log_previous_offset": [6, 7],
        }
        if value is not None:
            given[name] = value
            given["embedding"] = np.ones([2, DIM])
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            live.call("update", id=[3, 4], **given)
        assert live.offsets() == [-1, 6]
        assert not live.call("lookup", id=[3, 4])["found"].any()


def test_attributes_of_an_unknown_item_advance_the_offset(tmp_path):
    live = _live(tmp_path / "m")
    log = dict(partition=0, previous_offset=-1, offset=8)
    assert live.update(Change(5, attributes={"year": 1}, **log)) == [4]
    skip = dict(partition=0, previous_offset=8, offset=9)
    changes = [Change(None, **skip)]
    encoded = live.encoder.inputs("update_attributes", changes)
    assert live.call("update_attributes", **encoded)["status"] == [0]
    assert live.offsets() == [9, -1]


def test_a_row_without_id_must_be_from_the_log(tmp_path):
    for id_dtype, nothing in (("int64", -1), ("string", "")):
        live = _live(tmp_path / id_dtype, _schema(id_dtype=id_dtype))
        row = live.encoder.inputs(
            "update_by_embedding",
            [Change("x" if nothing == "" else 1, embedding=_vector(1))],
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match="row 0"):
            live.call("update_by_embedding", **{**row, "id": [nothing]})


@pytest.mark.parametrize("upserts", [(0, 1), (0,), (1,)])
def test_ids_with_the_same_fingerprint(tmp_path, monkeypatch, upserts):
    def weak(texts):
        return tf.strings.to_hash_bucket_fast(texts, 2)

    monkeypatch.setattr(columns, "fingerprint_tensor", weak)
    prints = columns.fingerprints([f"i{n}" for n in range(20)]).tolist()
    twins = [f"i{n}" for n in range(20) if prints[n] == prints[0]][:2]
    live = _live(tmp_path / "m", _schema(id_dtype="string", attributes=()))
    first = [Change(twins[i], embedding=_vector(i)) for i in upserts]
    if len(first) == 2:
        with pytest.raises(tf.errors.InvalidArgumentError, match="fingerprint"):
            live.update(*first)
        assert live.stats()["live_rows"] == 0
        return
    assert live.update(*first) == [1]
    other = twins[1 - upserts[0]]
    for change in (
        Change(other, embedding=_vector(2)),
        Change(other, delete=True),
        Change(other, attributes={}),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="fingerprint"):
            live.update(change)
    found = live.call(
        "retrieve_by_embedding", query_embedding=[_vector(1)], filter=[""]
    )
    assert found["ids"][0, 0].decode() == twins[upserts[0]]


class ItemTower(tf.Module):
    """A sum of words' vectors and the id's digits."""

    def __init__(self, id_dtype=tf.int64, **more):
        super().__init__()
        self.feature_specs = {
            "id": tf.TensorSpec([None], id_dtype),
            "words": tf.TensorSpec([None, 3], tf.string),
            **more,
        }
        values = np.random.default_rng(3).standard_normal((9, DIM))
        self.matrix = tf.Variable(values.astype(np.float32))

    def __call__(self, features):
        rows = tf.strings.to_hash_bucket_fast(features["words"], 9)
        words = tf.reduce_sum(tf.gather(self.matrix, rows), axis=1)
        number = tf.strings.to_hash_bucket_fast(
            tf.strings.as_string(features["id"]), 7
        )
        return words + tf.cast(number, tf.float32)[:, tf.newaxis]


def test_features_become_embeddings_in_the_graph(tmp_path):
    tower = ItemTower()
    live = _live(tmp_path / "m", item_tower=tower)
    changes = [
        Change(
            i,
            features={"words": ["a", f"w{i}"]},
            attributes={"year": 1900 + i},
        )
        for i in range(6)
    ]
    log = dict(partition=0, previous_offset=-1, offset=0)
    changes += [Change(2, delete=True), Change(None, **log)]
    for change in changes:
        live.encoder.check(change)
    assert live.encoder.signature(changes[0]) == "update"
    assert live.update(*changes) == [1] * 6 + [3, 0]
    found = live.call("lookup", id=np.arange(6))
    assert found["found"].tolist() == [True, True, False, True, True, True]
    words = tf.constant([["a", f"w{i}", ""] for i in range(6)])
    expected = tower({"id": tf.range(6, dtype=tf.int64), "words": words})
    there = found["found"]
    np.testing.assert_allclose(
        found["embedding"][there], expected.numpy()[there], rtol=1e-6
    )
    # Embeddings may be given, too.
    assert live.update(Change(2, embedding=_vector(2))) == [1]
    np.testing.assert_array_equal(
        live.call("lookup", id=[2])["embedding"][0], _vector(2)
    )
    with pytest.raises(ValueError, match="'id' must be the item's id 4"):
        live.encoder.check(Change(4, features={"id": 5, "words": []}))
    with pytest.raises(ValueError, match=r"needs the feature\(s\) words"):
        live.encoder.check(Change(4, features={"id": 4}))


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("delete", tf.TensorSpec([None], tf.bool), "'delete'"),
        ("attribute_year", tf.TensorSpec([None], tf.int64), "attribute_year"),
        ("id", tf.TensorSpec([None], tf.string), "'id' must be the item's id"),
        ("id", tf.TensorSpec([None, 1], tf.int64), "must be the item's id"),
    ],
)
def test_features_named_like_inputs(tmp_path, name, spec, message):
    class Tower(ItemTower):
        def __call__(self, features):
            return tf.zeros([tf.shape(features["words"])[0], DIM])

    index = Index(_schema(), 5)
    tower = Tower(**{name: spec}) if name != "id" else Tower(spec.dtype)
    tower.feature_specs[name] = spec
    with pytest.raises(ValueError, match=message):
        ServedIndex(index, k=3, item_tower=tower)
    ServedIndex(index, k=3, item_tower=tower, read_only=True)


def test_who_takes_no_updates():
    index = Index(_schema(attributes=()), 2)
    index.append([1, 2], np.eye(2, DIM))
    for options in ({"read_only": True}, {"portable": True}):
        known = ServedIndex(index, k=2, **options).signatures()
        assert not signatures.MUTATING_SIGNATURES & set(known)
    known = ServedIndex(index, k=2).signatures()
    assert signatures.MUTATING_SIGNATURES <= set(known)
    with pytest.raises(ValueError, match="max_update_rows"):
        ServedIndex(index, k=2, max_update_rows=0)


def test_signatures_have_fixed_inner_shapes(tmp_path):
    live = _live(tmp_path / "m", item_tower=ItemTower())
    for name in signatures.MUTATING_SIGNATURES:
        definition = live.signatures[name]
        for info in [*definition.inputs.values(), *definition.outputs.values()]:
            dims = [d.size for d in info.tensor_shape.dim]
            assert dims[0] == -1 and -1 not in dims[1:]
        assert set(definition.outputs) == {"status", "num_rows"}
    shapes = live.signatures["update"].inputs
    assert set(shapes) == {
        "id",
        "words",
        "delete",
        "attribute_year",
        "attribute_genres",
        "attribute_studio",
        "log_partition",
        "log_previous_offset",
        "log_offset",
    }
    # Room for both genres and one that is unknown.
    assert shapes["attribute_genres"].tensor_shape.dim[1].size == 3


def test_requests_are_limited(tmp_path):
    live = _live(tmp_path / "m", capacity=40, max_update_rows=30)
    rows = [Change(i, embedding=_vector(i)) for i in range(31)]
    assert live.update(*rows[:30]) == [1] * 30
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="may have 30 rows"
    ):
        live.update(*rows)
    nothing = live.encoder.inputs("update", [])
    assert live.call("update", **nothing)["status"].shape == (0,)


def test_rows_are_used_again(tmp_path):
    live = _live(tmp_path / "m", capacity=20)
    for turn in range(50):
        ids = range(turn * 10, turn * 10 + 10)
        live.update(*(Change(i, embedding=_vector(i)) for i in ids))
        old = [i - 10 for i in ids if turn]
        if old:
            assert live.update(*(Change(i, delete=True) for i in old)) == (
                [3] * 10
            )
    stats = live.stats()
    assert stats["live_rows"] == 10 and stats["num_rows"] == 20


def test_lookup_can_be_sent_back(tmp_path):
    live = _live(tmp_path / "m", _schema(attributes=ATTRIBUTES[:2]))
    live.update(
        Change(3, embedding=_vector(3), attributes={"year": 5}),
        Change(4, embedding=_vector(4), attributes={"genres": ["War"]}),
    )
    read = live.call("lookup", id=[3, 4])
    sent = {n: v for n, v in read.items() if n != "found"}
    # Requests have room for one tag that is unknown.
    sent["attribute_genres"] = np.pad(
        sent["attribute_genres"], [[0, 0], [0, 1]], constant_values=b""
    )
    none = np.full(2, -1)
    live.call(
        "update_by_embedding",
        id=[5, 6],
        delete=[False] * 2,
        log_partition=none,
        log_previous_offset=none,
        log_offset=none,
        **sent,
    )
    again = live.call("lookup", id=[5, 6])
    for name, value in read.items():
        np.testing.assert_array_equal(again[name], value)


@pytest.mark.parametrize("id_dtype", ["int64", "string"])
def test_sessions_that_update_and_search_at_once(tmp_path, id_dtype):
    """As TF Serving runs a model: one session, many threads."""
    schema = _schema(id_dtype=id_dtype)
    index = Index(schema, 200, log_partitions=4)
    ServedIndex(index, k=5, return_attributes=["year"]).save(tmp_path / "m")
    definitions = warmup.signatures(tmp_path / "m")
    encoder = ChangeEncoder(schema, definitions)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "m"))

        def call(signature, inputs):
            definition = definitions[signature]
            feeds = {
                definition.inputs[name].name: value
                for name, value in inputs.items()
            }
            names = {n: t.name for n, t in definition.outputs.items()}
            return session.run(names, feeds)

        def name(partition, i):
            number = 1000 * partition + i
            return number if id_dtype == "int64" else f"id {number}"

        def write(partition):
            """Each item has its number in each of its parts."""
            last = -1
            for turn in range(40):
                changes = []
                for i in range(10):
                    change = Change(
                        name(partition, i),
                        embedding=[turn + 1.0] * DIM,
                        attributes={"year": turn + 1},
                        partition=partition,
                        previous_offset=last,
                        offset=last + 2,
                    )
                    changes.append(change)
                    last += 2
                inputs = encoder.inputs("update", changes)
                status = call("update", inputs)["status"].tolist()
                assert status == [1 if turn == 0 else 2] * 10
            return last

        def read(seed):
            rng = np.random.default_rng(seed)
            for _ in range(60):
                year = int(rng.integers(1, 41))
                found = call(
                    "retrieve_by_embedding",
                    {
                        "query_embedding": np.ones([2, DIM], np.float32),
                        "filter": [f"year == {year}", ""],
                    },
                )
                for query in range(2):
                    count = found["num_results"][query]
                    years = found["attribute_year"][query, :count]
                    scores = found["scores"][query, :count]
                    np.testing.assert_array_equal(scores, DIM * years)
                    assert query or (years == year).all()
                    assert "" not in found["ids"][query, :count].tolist()
                    assert b"" not in found["ids"][query, :count].tolist()

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            writers = [pool.submit(write, p) for p in range(4)]
            readers = [pool.submit(read, seed) for seed in range(4)]
            offsets = [w.result() for w in writers]
            for reader in readers:
                reader.result()
        stats = call("index_stats", {"probe": [0]})
        assert stats["log_offsets"][0].tolist() == offsets
        assert stats["live_rows"] == [40]
        looked = call("lookup", {"id": [name(3, i) for i in range(10)]})
        assert looked["attribute_year"].tolist() == [40] * 10
