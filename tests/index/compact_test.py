# SPDX-License-Identifier: Apache-2.0
"""Indexes of compact storage, with codes, and of codes alone."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.index import oporp, storage
from lintf.index.index import Index, code_rows
from lintf.index.plan import Variant
from lintf.index.schema import IndexSchema, Quantization, infer_attribute
from lintf.index.served import Batching, ServedIndex
from lintf.index.signatures import MUTATING_SIGNATURES

ROWS, DIM, K = 300, 16, 5
DTYPES = ["float32", "bfloat16", "float16", "int8"]
CODES = Quantization(bins=4, repeats=64, seed=2, shortlist=40)
RANDOM = np.random.default_rng(7)
ITEMS = RANDOM.standard_normal((ROWS, DIM)).astype(np.float32)
QUERIES = RANDOM.standard_normal((32, DIM)).astype(np.float32)
YEARS = RANDOM.integers(1950, 2000, ROWS)
FILTER = "year < 1960"
FILTERS = ["", FILTER] * 16


def make_index(
    dtype="float32",
    codes=None,
    metric="inner_product",
    capacity=ROWS,
    items=ITEMS,
):
    schema = IndexSchema(
        dim=DIM,
        metric=metric,
        attributes=(infer_attribute("year", "int", []),),
        dtype=dtype,
        quantization=codes,
    )
    index = Index(schema, capacity)
    # Batches that end inside blocks of 64 rows.
    for start in range(0, ROWS, 100):
        index.append(
            np.arange(start, start + 100) * 3,
            items[start : start + 100],
            {"year": YEARS[start : start + 100]},
        )
    return index


def ask(served, signature="retrieve_by_embedding", filters=FILTERS, **batch):
    calls = served.signatures()
    inputs = {"filter": tf.constant(filters)}
    if served._portable:
        schema = served.index.schema
        programs = ops.compile_filter(
            filters, schema, pad_words=schema.limits.max_words
        )
        inputs = {"filter_program": programs}
    queries = tf.constant(QUERIES[: len(filters)])
    found = calls[signature](query_embedding=queries, **inputs)
    return {name: value.numpy() for name, value in found.items()}


def scores_of(items, metric, queries=QUERIES):
    items, queries = items.astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        return -np.square(queries[:, None] - items[None]).sum(-1)
    if metric == "cosine":
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return queries @ items.T


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_native_and_portable_search_what_is_stored(dtype, metric):
    index = make_index(dtype, metric=metric)
    stored = index.vectors(np.arange(ROWS))
    given = ITEMS
    if metric == "cosine":
        given = ITEMS / np.linalg.norm(ITEMS, axis=1, keepdims=True)
    error = np.abs(stored.astype(np.float64) - given)
    assert (error <= storage.error_bound(given, dtype) + 1e-7).all()
    right = scores_of(stored, metric)
    right[1::2, YEARS >= 1960] = -np.inf
    best = np.argsort(-right, axis=1, kind="stable")[:, :K]
    # Int8 queries are rounded too, in the native search.
    off = 1e-5 + max(
        2
        * (np.abs(stored).sum(1).max() + np.abs(q).sum())
        * storage.query_error_bound(q, dtype)
        for q in QUERIES
    )
    for portable in (False, True):
        found = ask(ServedIndex(index, k=K, portable=portable))
        np.testing.assert_array_equal(found["ids"], best * 3)
        np.testing.assert_allclose(
            found["scores"], np.take_along_axis(right, best, 1), atol=off
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scoring", ["symmetric", "asymmetric"])
def test_a_shortlist_of_everything_is_exact_search(dtype, scoring):
    codes = dataclasses.replace(CODES, scoring=scoring, shortlist=ROWS)
    index = make_index(dtype, codes, capacity=ROWS + 30)
    exact = ask(ServedIndex(index, k=K, algorithm="masked"))
    for algorithm in ("prefiltered", "quantized", "auto"):
        found = ask(ServedIndex(index, k=K, algorithm=algorithm))
        for name, values in exact.items():
            assert values.tobytes() == found[name].tobytes(), (algorithm, name)


@pytest.mark.parametrize("scoring", ["symmetric", "asymmetric"])
def test_a_short_shortlist_holds_the_best_by_code(scoring):
    codes = dataclasses.replace(CODES, scoring=scoring, shortlist=20)
    index = make_index("float32", codes)
    stored = code_rows(index.codes.numpy(), ROWS)
    signs = 2.0 * oporp.unpack(stored) - 1
    samples = QUERIES @ oporp.projection(codes, DIM).astype(np.float64)
    if scoring == "symmetric":
        samples = np.where(samples >= 0, 1.0, -1.0)
    by_code = samples @ signs.T
    # Asymmetric scores are rounded to multiples of a table's step.
    slack = np.zeros(32)
    if scoring == "asymmetric":
        step = 2 * np.abs(samples).reshape(32, -1, 4).sum(2).max(1) / 63
        slack = codes.bits / 4 * step
    right = scores_of(ITEMS, "inner_product")
    found = ask(ServedIndex(index, k=K, algorithm="quantized"))
    differ = 0
    for i, text in enumerate(FILTERS):
        passing = YEARS < 1960 if text else np.ones(ROWS, bool)
        rows = found["ids"][i] // 3
        assert passing[rows].all()
        np.testing.assert_allclose(
            found["scores"][i], right[i, rows], atol=1e-5
        )
        least = (
            np.sort(by_code[i, passing])[-20] - np.broadcast_to(slack, 32)[i]
        )
        assert (by_code[i, rows] >= least).all()
        best = np.argsort(-np.where(passing, right[i], -np.inf))[:K]
        differ += set(best) != set(rows)
    # Codes are an approximation: with so few rows kept it shows.
    assert 0 < differ < len(FILTERS)


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_codes_alone(metric):
    codes = dataclasses.replace(CODES, scoring="symmetric")
    index = make_index("none", codes, metric, capacity=ROWS)
    assert index.embeddings is None
    bits = QUERIES @ oporp.projection(codes, DIM).astype(np.float64) >= 0
    other = oporp.unpack(code_rows(index.codes.numpy(), ROWS))
    matched = (bits[:, None] == other[None]).sum(axis=2).astype(np.float64)
    matched[1::2, YEARS >= 1960] = -np.inf
    best = np.argsort(-matched, axis=1, kind="stable")[:, :K]
    for portable in (False, True):
        served = ServedIndex(index, k=K, portable=portable)
        found = ask(served)
        np.testing.assert_array_equal(found["ids"], best * 3)
        np.testing.assert_array_equal(
            found["scores"], np.take_along_axis(matched, best, 1)
        )
        lookup = served.signatures()["lookup"]
        looked = lookup(id=tf.constant([6, 7], tf.int64))
        assert sorted(looked) == ["attribute_year", "found"]
        assert looked["found"].numpy().tolist() == [True, False]
        assert int(looked["attribute_year"][0]) == YEARS[2]


def test_asymmetric_codes_alone_rank_by_the_samples():
    index = make_index("none", CODES)
    signs = 2.0 * oporp.unpack(code_rows(index.codes.numpy(), ROWS)) - 1
    samples = QUERIES @ oporp.projection(CODES, DIM).astype(np.float64)
    right = samples @ signs.T
    step = 2 * np.abs(samples).reshape(32, -1, 4).sum(2).max(1) / 63
    off = CODES.bits / 4 * step / 2 * 1.001
    found = ask(ServedIndex(index, k=ROWS), filters=[""] * 32)
    assert (found["num_results"] == ROWS).all()
    for i in range(32):
        rows = found["ids"][i] // 3
        assert sorted(rows.tolist()) == list(range(ROWS))
        assert (np.abs(found["scores"][i] - right[i, rows]) <= off[i]).all()
    with pytest.raises(ValueError, match='have the scoring "symmetric"'):
        ServedIndex(index, k=1, portable=True)


@pytest.mark.parametrize("dtype", [*DTYPES, "none"])
def test_a_batch_equals_single_calls_bit_for_bit(dtype):
    served = ServedIndex(
        make_index(dtype, CODES), k=K, algorithm="quantized"
    ).signatures()["retrieve_by_embedding"]
    whole = served(
        query_embedding=tf.constant(QUERIES), filter=tf.constant(FILTERS)
    )
    for i in range(0, 32, 3):
        one = served(
            query_embedding=tf.constant(QUERIES[i : i + 1]),
            filter=tf.constant(FILTERS[i : i + 1]),
        )
        for name, values in whole.items():
            assert values[i].numpy().tobytes() == one[name].numpy().tobytes()


def test_lookup_decodes():
    for dtype in DTYPES:
        index = make_index(dtype)
        lookup = ServedIndex(index, k=1).signatures()["lookup"]
        looked = lookup(id=tf.constant([3, 5, 897], tf.int64))
        expected = index.vectors(np.array([1, 0, 299]))
        expected[1] = 0
        np.testing.assert_array_equal(looked["embedding"], expected)


def test_bytes_count_everything():
    def size(dtype, codes=None, capacity=100):
        schema = IndexSchema(dim=DIM, dtype=dtype, quantization=codes)
        return Index(schema, capacity).index_bytes

    assert size("float32") == 100 * (8 + 4 * DIM)
    assert size("float16") == size("bfloat16") == 100 * (8 + 2 * DIM)
    assert size("int8") == 100 * (8 + DIM + 4)
    # Codes come in blocks of 64 rows.
    assert size("none", CODES) == 100 * 8 + 128 * CODES.words * 8
    assert size("int8", CODES) == size("int8") + 128 * CODES.words * 8


def test_append_refuses_and_writes_nothing():
    index = make_index("float16", CODES, capacity=ROWS + 64)
    before = {v.name: v.numpy().tobytes() for v in index.variables}
    vectors = np.ones((2, DIM), np.float32)
    vectors[1, 3] = 70_000
    with pytest.raises(ValueError, match="fit float16, which ends at 65504"):
        index.append([1, 2], vectors, {"year": [0, 0]})
    assert {v.name: v.numpy().tobytes() for v in index.variables} == before
    assert int(index.num_rows) == ROWS


def test_variants_share_the_index():
    index = make_index("float32", CODES)
    served = ServedIndex(
        index,
        k=K,
        algorithm="masked",
        variants=[
            Variant("retrieve_50", 50, "prefiltered"),
            Variant("rough", 3, "quantized", shortlist=3),
        ],
        return_attributes=["year"],
        batching=Batching(max_batch_size=8, timeout_micros=100),
    )
    signatures = served.signatures()
    assert sorted(set(signatures) - MUTATING_SIGNATURES) == [
        "index_stats",
        "lookup",
        "retrieve_50_by_embedding",
        "retrieve_by_embedding",
        "rough_by_embedding",
        "serving_default",
    ]
    narrow = ask(served)
    wide = ask(served, "retrieve_50_by_embedding")
    rough = ask(served, "rough_by_embedding")
    assert wide["ids"].shape == (32, 50)
    assert wide["attribute_year"].shape == (32, 50)
    np.testing.assert_array_equal(wide["ids"][:, :K], narrow["ids"])
    assert rough["ids"].shape == (32, 3)
    assert (rough["ids"] != narrow["ids"][:, :3]).any()


def test_stats_count_searches_by_algorithm():
    served = ServedIndex(
        make_index("float32", CODES),
        k=K,
        algorithm="masked",
        variants=[
            Variant("own", K, "prefiltered"),
            Variant("coded", K, "quantized"),
        ],
    )
    ask(served)
    ask(served, "own_by_embedding", filters=FILTERS[:7])
    ask(served, "coded_by_embedding", filters=FILTERS[:3])
    stats = served.signatures()["index_stats"](
        probe=tf.constant([0, 0], tf.int64)
    )
    counted = [
        stats[f"searches_{name}"].numpy().tolist()
        for name in ("masked", "prefiltered", "quantized")
    ]
    assert counted == [[32, 32], [7, 7], [3, 3]]
    assert stats["searches_masked"].dtype == tf.int64


def test_construction_refuses():
    plain, alone = make_index(), make_index("none", CODES)
    for index, arguments, message in [
        (plain, {"algorithm": "quantized"}, '"quantized" needs codes'),
        (alone, {"algorithm": "masked"}, "stores codes alone"),
        (
            plain,
            {"variants": [Variant("a", 1, "quantized")]},
            '"quantized" needs codes',
        ),
        (
            plain,
            {"variants": [Variant("lookup", 1)]},
            "'lookup' has the name of a signature of every index",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            ServedIndex(index, k=1, **arguments)


def test_a_portable_index_has_no_codes_beside_embeddings(tmp_path):
    served = ServedIndex(make_index("int8", CODES), k=K, portable=True)
    stats = served.signatures()["index_stats"](probe=tf.constant([0], tf.int64))
    schema = IndexSchema.from_json(stats["schema"].numpy()[0])
    assert (schema.dtype, schema.quantization) == ("int8", None)
    # An id, the numbers and their scale, and the year.
    (size,) = stats["index_bytes"].numpy()
    assert size == ROWS * (8 + DIM + 4 + 8)
    assert not [name for name in stats if name.startswith("searches")]
    served.save(tmp_path)
    names = tf.train.load_checkpoint(str(tmp_path / "variables" / "variables"))
    names = names.get_variable_to_shape_map()
    assert any("scales" in name for name in names)
    assert not any("codes" in name for name in names)
