# SPDX-License-Identifier: Apache-2.0
"""Indexes with a learned similarity, behind their signatures."""

import concurrent.futures
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.index import restore
from lintf.index.index import Index, code_rows
from lintf.index.plan import Variant
from lintf.index.schema import IndexSchema, Quantization, infer_attribute
from lintf.index.served import Batching, ServedIndex
from lintf.index.sharded import ShardedIndex, new_index
from lintf.index.shards import Shards
from lintf.serving.changes import Change
from lintf.similarity import reference, rounding
from lintf.similarity.spec import SimilaritySpec
from tests.index.live import LiveIndex
from tests.references.similarities import drawn

ROWS, K = 90, 6
SPEC = SimilaritySpec(4, 2, 8, gate="silu_softmax", gate_hidden=5)
HADAMARD = SimilaritySpec(1, 1, 9, "hadamard", 10)
RELU = SimilaritySpec(2, 2, 4, "weighted", gate="relu")
CODES = Quantization(bins=4, repeats=16, seed=3)
YEAR = infer_attribute("year", "int", [], dtype="int16")
FILTERS = ["", "year >= 1995", "year == 1990", "", "not (year < 1999)"]


class QueryTower(tf.Module):
    """A row of a matrix."""

    feature_specs = {"user": tf.TensorSpec([None], tf.int64, name="user")}

    def __init__(self, vectors):
        super().__init__()
        self.matrix = tf.Variable(vectors)

    def __call__(self, features):
        return tf.gather(self.matrix, features["user"])


class WordTower(QueryTower):
    """The same behind a lookup table, which a GPU cannot have."""

    feature_specs = {"user": tf.TensorSpec([None], tf.string, name="user")}

    def __init__(self, vectors):
        super().__init__(vectors)
        count = len(vectors)
        self.words = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                [str(i) for i in range(count)],
                tf.range(count, dtype=tf.int64),
            ),
            0,
        )

    def __call__(self, features):
        users = self.words.lookup(features["user"])
        return super().__call__({"user": users})


class ItemTower(tf.Module):
    """A raw feature to an item vector."""

    def __init__(self, spec):
        super().__init__()
        self.feature_specs = {
            "raw": tf.TensorSpec([None, spec.item_dim], tf.float32, name="raw")
        }
        self.scale = tf.Variable(0.5)

    def __call__(self, features):
        return features["raw"] * self.scale


@dataclasses.dataclass
class Data:
    """Items and what scores them."""

    spec: SimilaritySpec

    def __post_init__(self):
        self.weights, self.queries, self.vectors = drawn(self.spec, 5, ROWS, 4)
        rng = np.random.default_rng(1)
        self.years = rng.integers(1990, 2000, ROWS)
        years = self.years
        self.passing = np.ones([5, ROWS], bool)
        self.passing[1] = years >= 1995
        self.passing[2] = years == 1990
        self.passing[4] = years >= 1999

    def index(self, shards=1, capacity=ROWS, **fields):
        schema = IndexSchema(
            dim=self.spec.item_dim,
            attributes=(YEAR,),
            similarity=self.spec,
            **fields,
        )
        index = new_index(schema, capacity, Shards(shards))
        index.set_similarity_weights(self.weights)
        ids = np.arange(ROWS) + 100
        if schema.id_dtype == "string":
            ids = [f"item {i}" for i in ids]
        index.append(ids, self.vectors, {"year": self.years})
        return index

    def check(self, found, vectors=None, queries=None, passing=None):
        """Compares results with the reference's, but for near ties."""
        vectors = self.vectors if vectors is None else vectors
        queries = self.queries if queries is None else queries
        passing = self.passing if passing is None else passing
        right = reference.scores(self.spec, self.weights, queries, vectors)
        close = rounding.error_bounds(self.spec, self.weights, queries, vectors)
        for i, passes in enumerate(passing):
            count = int(found["num_results"][i])
            assert count == min(K, passes.sum())
            rows = np.array(found["ids"][i])[:count] - 100
            scores = np.array(found["scores"][i])[:count]
            assert passes[rows].all() and len(set(rows.tolist())) == count
            assert (np.abs(scores - right[i, rows]) <= close[i, rows]).all()
            left_out = passes.copy()
            left_out[rows] = False
            if left_out.any():
                best = (right[i] - close[i])[left_out].max()
                assert best <= scores.min()


def _asked(served, data, name="retrieve_by_embedding"):
    call = served.signatures()[name]
    inputs = {"query_embedding": tf.constant(data.queries)}
    if "filter" in call.structured_input_signature[1]:
        inputs["filter"] = tf.constant(FILTERS)
    else:
        schema = served.index.schema
        inputs["filter_program"] = ops.compile_filter(
            FILTERS, schema, pad_words=schema.limits.max_words
        )
    return {n: v.numpy() for n, v in call(**inputs).items()}


def _same(found, expected, names=("ids", "scores", "num_results")):
    for name in names:
        assert found[name].tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("spec", [SPEC, HADAMARD, RELU], ids=str)
def test_retrieves_the_best_that_pass(spec, portable):
    data = Data(spec)
    served = ServedIndex(
        data.index(), k=K, algorithm="exact", portable=portable
    )
    found = _asked(served, data)
    data.check(found)
    scored = data.passing.sum(axis=1)
    if portable:
        scored[:] = ROWS
    np.testing.assert_array_equal(found["num_scored"], scored)


def test_towers_make_queries_and_items_of_different_lengths():
    data = Data(SPEC)
    index = data.index(capacity=ROWS + 3)
    served = ServedIndex(
        index,
        QueryTower(data.queries),
        k=K,
        algorithm="exact",
        item_tower=ItemTower(SPEC),
    )
    signatures = served.signatures()
    assert SPEC.query_dim != SPEC.item_dim
    inputs = signatures["retrieve_by_embedding"].structured_input_signature[1]
    assert inputs["query_embedding"].shape.as_list() == [None, SPEC.query_dim]
    outputs = signatures["retrieve"].structured_outputs
    assert set(outputs) == {"ids", "scores", "num_results", "num_scored"}
    assert outputs["num_scored"].dtype == tf.int64
    assert outputs["num_scored"].shape.as_list() == [None]
    found = signatures["serving_default"](
        user=tf.range(5, dtype=tf.int64), filter=tf.constant(FILTERS)
    )
    data.check({n: v.numpy() for n, v in found.items()})
    with pytest.raises(ValueError, match=r"must return \[batch, 40\]"):
        ServedIndex(index, QueryTower(data.vectors), k=K)
    with pytest.raises(ValueError, match=r"must return \[batch, 24\]"):
        ServedIndex(index, k=K, item_tower=QueryTower(data.queries))


def test_updates_are_found_with_their_new_scores(tmp_path):
    data = Data(SPEC)
    served = ServedIndex(
        data.index(capacity=ROWS + 2, quantization=CODES),
        k=K,
        algorithm="exact",
        item_tower=ItemTower(SPEC),
        variants=[Variant("coded", K, "two_stage", None, "codes", ROWS + 2)],
    )
    live = LiveIndex(served, tmp_path / "model")
    rng = np.random.default_rng(8)
    new = rng.normal(size=[2, SPEC.item_dim]).astype(np.float32)
    vectors = np.concatenate([data.vectors, new[:1]])
    passing = np.concatenate([data.passing, data.passing[:, :1]], axis=1)
    passing[:, -1] = [True, False, True, True, False]
    attributes = {"year": 1990}
    status = live.update(
        Change(100 + ROWS, embedding=new[0], attributes=attributes)
    )
    assert status == [1]
    # Through the item tower, which halves.
    inputs = live.encoder.inputs("update", [Change(101, delete=True)])
    inputs |= {"raw": 2 * new[1:], "delete": np.array([False])}
    inputs["attribute_year"] = np.array([2005])
    assert live.call("update", **inputs)["status"].tolist() == [2]
    vectors[1] = new[1]
    passing[:, 1] = [True, True, False, True, True]
    assert live.update(Change(102, delete=True)) == [3]
    passing[:, 2] = False
    for name in ("retrieve_by_embedding", "coded_by_embedding"):
        found = live.call(name, query_embedding=data.queries, filter=FILTERS)
        data.check(found, vectors=vectors, passing=passing)
        np.testing.assert_array_equal(found["num_scored"], passing.sum(axis=1))
    looked = live.call("lookup", id=[101, 102])
    np.testing.assert_array_equal(looked["embedding"][0], new[1])
    assert looked["found"].tolist() == [True, False]
    stats = live.stats()
    assert (stats["searches_exact"], stats["searches_two_stage"]) == (5, 5)
    assert "searches_masked" not in stats


def test_an_update_codes_the_components_alone():
    data = Data(SPEC)
    index = data.index(quantization=CODES)
    update = ServedIndex(index, k=K).signatures()["update_by_embedding"]
    vector = np.random.default_rng(2).normal(size=[1, SPEC.item_dim])
    # A gate that would decide every sum.
    vector[:, SPEC.components_dim :] = 1e6
    one = tf.constant([-1], tf.int64)
    status = update(
        id=tf.constant([107], tf.int64),
        delete=tf.constant([False]),
        embedding=tf.constant(vector, tf.float32),
        attribute_year=tf.constant([1990], tf.int64),
        log_partition=one,
        log_previous_offset=one,
        log_offset=one,
    )["status"]
    assert status.numpy().tolist() == [2]
    rows = code_rows(index.codes.numpy(), ROWS)
    expected = data.vectors[:, : SPEC.components_dim].copy()
    expected[7] = vector[0, : SPEC.components_dim]
    codes = ops.sign_oporp(
        expected, bins=CODES.bins, repeats=CODES.repeats, seed=CODES.seed
    )
    np.testing.assert_array_equal(rows, codes)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_narrow_dtypes_are_scored_as_they_are_stored(dtype):
    data = Data(SPEC)
    index = data.index(dtype=dtype)
    found = _asked(ServedIndex(index, k=K, algorithm="exact"), data)
    data.check(found, vectors=index.vectors(np.arange(ROWS)))


@pytest.mark.parametrize("batching", [None, Batching()])
@pytest.mark.parametrize("algorithm", ["exact", "bounded"])
def test_shards_answer_as_one_piece(algorithm, batching):
    data = Data(SPEC)
    one = ServedIndex(data.index(), k=K, algorithm="exact")
    expected = _asked(one, data)
    index = data.index(shards=3)
    assert isinstance(index, ShardedIndex)
    served = ServedIndex(index, k=K, algorithm=algorithm, batching=batching)
    found = _asked(served, data)
    _same(found, expected)
    if algorithm == "exact":
        _same(found, expected, ["num_scored"])


def test_shards_share_one_set_of_weights(tmp_path):
    data = Data(SPEC)
    index = data.index(shards=2)
    for shard in index.shards:
        for own, of_all in zip(
            shard.similarity_weights, index.similarity_weights, strict=True
        ):
            assert own is of_all
    expected = _asked(ServedIndex(index, k=K), data)
    ServedIndex(index, k=K).save(tmp_path / "model")
    names = [
        n
        for n, _ in tf.train.list_variables(
            str(tmp_path / "model" / "variables" / "variables")
        )
    ]
    assert sum("gate_kernel" in name for name in names) == 1
    restored = restore.restore(tmp_path / "model")
    _same(
        _asked(ServedIndex(restored.index, **restored.arguments), data),
        expected,
    )


@pytest.mark.parametrize("tower", [QueryTower, WordTower])
@pytest.mark.parametrize("id_dtype", ["int64", "string"])
def test_a_batch_answers_as_a_query_alone(tower, id_dtype):
    data = Data(SPEC)
    index = data.index(id_dtype=id_dtype)
    plain = ServedIndex(index, tower(data.queries), k=K)
    batched = ServedIndex(
        index,
        tower(data.queries),
        k=K,
        batching=Batching(timeout_micros=20_000),
    )
    users = [str(i) if tower is WordTower else i for i in range(5)]
    alone, together = (s.signatures()["retrieve"] for s in (plain, batched))

    def ask(call, i):
        dtype = tower.feature_specs["user"].dtype
        return {
            name: value.numpy()
            for name, value in call(
                user=tf.constant([users[i]], dtype),
                filter=tf.constant([FILTERS[i]]),
            ).items()
        }

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda i: ask(together, i), range(5)))
    for i in range(5):
        expected = ask(alone, i)
        assert set(found[i]) == set(expected)
        assert found[i]["ids"].tolist() == expected["ids"].tolist()
        np.testing.assert_allclose(
            found[i]["scores"], expected["scores"], rtol=1e-5
        )
        assert found[i]["num_scored"] == expected["num_scored"]


def _batch_captures(function, found):
    """Operations that make what the batches of a function capture."""
    graph = function.graph
    for node in graph.get_operations():
        if node.type != "BatchFunction":
            continue
        count = len(node.get_attr("Tcaptured"))
        for tensor in node.inputs[len(node.inputs) - count :]:
            if tensor.dtype == tf.resource:
                found.append(tensor)


@pytest.mark.parametrize(
    ("tower", "inside"), [(QueryTower, True), (WordTower, False)]
)
def test_a_batch_holds_nothing_but_variables_and_the_index(tower, inside):
    data = Data(SPEC)
    index = data.index(id_dtype="string")
    query_tower = tower(data.queries)
    served = ServedIndex(index, query_tower, k=K, batching=Batching())
    function = served.signatures()["retrieve"]
    captured = []
    _batch_captures(function, captured)
    assert captured
    outer = {id(inner): source for source, inner in function.graph.captures}
    sources = {id(outer[id(tensor)]) for tensor in captured}
    assert id(index.resource.resource_handle) in sources
    assert id(index.id_text.resource_handle) not in sources
    assert (id(query_tower.matrix.handle) in sources) == inside
    if not inside:
        assert id(query_tower.words.resource_handle) not in sources


def test_restored_it_answers_as_before(tmp_path):
    data = Data(SPEC)
    index = data.index(quantization=CODES, dtype="bfloat16")
    served = ServedIndex(
        index,
        QueryTower(data.queries),
        k=K,
        algorithm="two_stage",
        candidates="codes",
        budget=20,
        variants=[Variant("all", K, "exact"), Variant("wide", 2 * K)],
    )
    names = ["retrieve", "all", "wide"]
    expected = [_asked(served, data, f"{n}_by_embedding") for n in names]
    served.save(tmp_path / "model")
    restored = restore.restore(tmp_path / "model", capacity=ROWS + 9)
    again = ServedIndex(restored.index, **restored.arguments)
    for name, before in zip(names, expected, strict=True):
        _same(
            _asked(again, data, f"{name}_by_embedding"),
            before,
            ["ids", "scores", "num_results", "num_scored"],
        )
    smaller = restore.resized(restored.index, ROWS)
    for name, value in data.weights.items():
        np.testing.assert_array_equal(smaller.similarity[name], value)


def test_weights_must_be_those_of_the_spec():
    data = Data(SPEC)
    index = data.index()
    good = dict(data.weights)
    name = "gate_bias"
    for bad, message in (
        ({n: v for n, v in good.items() if n != name}, r"missing: \['gate_b"),
        ({**good, "more": good[name]}, r"unknown: \['more'\]"),
        ({**good, name: np.zeros(3)}, r"'gate_bias' must have shape \[5\]"),
        ({**good, name: np.full(5, np.nan)}, "'gate_bias' must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            index.set_similarity_weights(bad)
    np.testing.assert_array_equal(index.similarity[name], good[name])
    plain = Index(IndexSchema(dim=2), 1)
    assert plain.similarity_weights == []
    with pytest.raises(ValueError, match="its schema has none"):
        plain.set_similarity_weights({})


def test_a_query_that_is_not_finite_is_refused_before_its_batch():
    data = Data(SPEC)
    served = ServedIndex(data.index(), k=K, batching=Batching())
    bad = data.queries.copy()
    bad[3, 1] = np.nan
    with pytest.raises(tf.errors.InvalidArgumentError, match="finite"):
        served.signatures()["retrieve_by_embedding"](
            query_embedding=tf.constant(bad), filter=tf.constant(FILTERS)
        )
