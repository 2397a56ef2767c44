# SPDX-License-Identifier: Apache-2.0
"""Lintf>Retrieve and Lintf>Lookup over every storage and algorithm."""

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.index.schema import Quantization
from tests.ops.toy_index import EMULATED, IN_SET, RANGE, program
from tests.references.masked_knn import masked_knn as reference

DTYPES = ("float32", "bfloat16", "float16", "int8")
CODES = Quantization(bins=8, repeats=32, seed=1, shortlist=40)
NO_FILTER = np.zeros((1, 1), np.int64)


class StoredIndex:
    """Rows stored as `dtype` (None: codes alone), an int64 attribute."""

    def __init__(self, rows=500, dim=24, dtype="float32", codes=None, seed=0):
        random = np.random.default_rng(seed)
        vectors = random.standard_normal((rows, dim)).astype(np.float32)
        self.rows, self.dim, self.codes_config = rows, dim, codes
        self.resource = ops.IndexResource()
        self.id_values = np.arange(rows, dtype=np.int64) + 1000
        self.year = random.integers(0, 100, rows)
        self.ids = tf.Variable(self.id_values)
        self.num_rows = tf.Variable(rows, dtype=tf.int64)
        self.columns = [tf.Variable(self.year)]
        self.embeddings = self.scales = self.codes = None
        self.vectors = vectors
        if dtype == "int8":
            scales = np.abs(vectors).max(axis=1, keepdims=True) / 127
            levels = np.round(vectors / scales).astype(np.int8)
            self.scales = tf.Variable(scales[:, 0].astype(np.float32))
            self.embeddings = tf.Variable(levels)
            self.vectors = (levels * scales).astype(np.float32)
        elif dtype is not None:
            stored = tf.cast(vectors, dtype)
            self.embeddings = tf.Variable(stored)
            self.vectors = tf.cast(stored, tf.float32).numpy()
        if codes is not None:
            blocks = -(-rows // 64)
            self.codes = tf.Variable(
                tf.zeros([blocks, codes.words, 64], tf.int64)
            )
            ops.assign_codes(
                self.resource,
                self.codes,
                0,
                ops.sign_oporp(
                    vectors,
                    bins=codes.bins,
                    repeats=codes.repeats,
                    seed=codes.seed,
                ),
            )

    def options(self):
        return {
            "scales": self.scales,
            "codes": self.codes,
            "quantization": self.codes_config,
            "dim": self.dim,
        }

    def retrieve(self, queries, programs=NO_FILTER, k=10, **options):
        programs = np.broadcast_to(programs, (len(queries), programs.shape[1]))
        return ops.retrieve(
            queries,
            programs,
            self.resource,
            self.ids,
            self.embeddings,
            self.num_rows,
            self.columns,
            k=k,
            **{**self.options(), **options},
        )

    def searches(self):
        stats = ops.index_stats(self.resource, self.ids, self.num_rows)
        return stats.searches.numpy().tolist()


def _queries(count, dim=24, seed=9):
    random = np.random.default_rng(seed)
    return random.standard_normal((count, dim)).astype(np.float32)


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_storage_scores_what_it_holds(dtype, metric):
    index = StoredIndex(dtype=dtype)
    queries = _queries(11)
    found = index.retrieve(queries, metric=metric)
    scores, rows, _ = reference(
        queries, index.vectors, np.ones((1, 500), bool), 10, metric
    )
    # An int8 query has 127 levels or more to each side, too.
    tolerance = 0.02 if dtype == "int8" else 1e-5
    largest = np.abs(scores).max()
    np.testing.assert_allclose(found.scores, scores, atol=tolerance * largest)
    if dtype != "int8":
        np.testing.assert_array_equal(found.rows, rows)
    looked = ops.lookup(
        found.ids.numpy()[:, 0],
        index.resource,
        index.ids,
        index.embeddings,
        index.num_rows,
        index.columns,
        scales=index.scales,
    )
    np.testing.assert_allclose(
        looked.embedding, index.vectors[found.rows.numpy()[:, 0]], rtol=1e-6
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_algorithms_give_the_same_bits(dtype):
    index = StoredIndex(dtype=dtype)
    queries = _queries(20)
    programs = np.stack(
        [program((RANGE, 0, i, 60 + i), words=6) for i in range(20)]
    )
    results = [
        index.retrieve(queries, programs, algorithm=algorithm)
        for algorithm in ("auto", "masked", "prefiltered")
    ]
    for found in results:
        year = index.year[found.rows.numpy()]
        low = np.arange(20)[:, np.newaxis]
        assert ((year >= low) & (year <= 60 + low)).all()
        assert found.scores.numpy().tobytes() == (
            results[0].scores.numpy().tobytes()
        )
        np.testing.assert_array_equal(found.rows, results[0].rows)
    masked, prefiltered, quantized = index.searches()
    assert masked + prefiltered == 60 and masked >= 20 and prefiltered >= 20
    assert quantized == 0


@pytest.mark.parametrize("scoring", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_quantized_rescores_a_shortlist(dtype, scoring):
    codes = Quantization(bins=8, repeats=32, scoring=scoring, shortlist=100)
    index = StoredIndex(dtype=dtype, codes=codes)
    queries = _queries(16)
    exact = index.retrieve(queries, algorithm="masked")
    found = index.retrieve(queries, algorithm="quantized")
    pairs = zip(found.rows.numpy(), exact.rows.numpy(), strict=True)
    hits = sum(len(np.intersect1d(a, b)) for a, b in pairs)
    assert hits / 160 > 0.9
    # Rows that both found have the same scores, bit by bit.
    for f_rows, f_scores, e_rows, e_scores in zip(
        found.rows.numpy(),
        found.scores.numpy(),
        exact.rows.numpy(),
        exact.scores.numpy(),
        strict=True,
    ):
        _, at, to = np.intersect1d(f_rows, e_rows, return_indices=True)
        np.testing.assert_array_equal(f_scores[at], e_scores[to])
    assert index.searches() == [16, 0, 16]


def test_filters_apply_before_the_shortlist():
    index = StoredIndex(codes=CODES)
    queries = _queries(8)
    # Fewer rows pass than the shortlist holds: the result is exact.
    few = program((IN_SET, 0, 7, 8, 9), words=6)[np.newaxis]
    assert 0 < np.isin(index.year, [7, 8, 9]).sum() <= 40
    exact = index.retrieve(queries, few, k=30, algorithm="masked")
    found = index.retrieve(queries, few, k=30, algorithm="quantized")
    np.testing.assert_array_equal(found.rows, exact.rows)
    np.testing.assert_array_equal(found.scores, exact.scores)
    np.testing.assert_array_equal(found.num_results, exact.num_results)


@pytest.mark.skipif(EMULATED, reason="a GPU scores exactly where it can")
def test_auto_decides_for_each_query_alone():
    # Costs that make codes free: taken wherever more passes than is rescored.
    costs = [1.0, 1.0, 1.0, 1e-6, 1e-6]
    index = StoredIndex(codes=CODES)
    queries = _queries(12)
    few = program((IN_SET, 0, 7, 8, 9), words=6)
    none = program(words=6)
    programs = np.stack([few if i % 3 == 0 else none for i in range(12)])
    together = index.retrieve(queries, programs, costs=costs)
    searches = index.searches()
    assert searches[2] == 8 and sum(searches[:2]) == 4
    quantized = index.retrieve(queries, programs, algorithm="quantized")
    np.testing.assert_array_equal(together.rows, quantized.rows)
    for i in range(12):
        one = slice(i, i + 1)
        alone = index.retrieve(queries[one], programs[one], costs=costs)
        for whole, part in zip(together[:4], alone[:4], strict=True):
            assert whole[i].numpy().tobytes() == part[0].numpy().tobytes()
    # Codes that cost too much are left alone.
    before = index.searches()[2]
    exact = index.retrieve(queries, programs, costs=[1e-6, 1e-6, 1e-6, 1, 1])
    assert index.searches()[2] == before
    masked = index.retrieve(queries, programs, algorithm="masked")
    np.testing.assert_array_equal(exact.rows, masked.rows)


def test_measured_costs_are_taken():
    for options in ({}, {"codes": CODES}, {"codes": CODES, "dtype": None}):
        index = StoredIndex(rows=3000, **options)
        costs = ops.planner_costs(
            index.resource,
            index.ids,
            index.embeddings,
            index.num_rows,
            **index.options(),
        ).numpy()
        assert costs.shape == (5,) and (costs > 0).all()
        index.retrieve(_queries(3), costs=costs.tolist())


@pytest.mark.parametrize("scoring", ["symmetric", "asymmetric"])
def test_codes_alone(scoring):
    config = Quantization(bins=8, repeats=32, scoring=scoring)
    index = StoredIndex(dtype=None, codes=config)
    queries = _queries(6)
    found = index.retrieve(queries, k=500)
    signs = ops.sign_oporp_signs(index.vectors, bins=8, repeats=32).numpy()
    query_signs = ops.sign_oporp_signs(queries, bins=8, repeats=32).numpy()
    assert found.num_results.numpy().tolist() == [500] * 6
    if scoring == "symmetric":
        matched = ((signs @ query_signs.T + 256) / 2).T
        order = np.argsort(-matched, axis=1, kind="stable")
        np.testing.assert_array_equal(found.rows, order)
        np.testing.assert_array_equal(
            found.scores, np.take_along_axis(matched, order, axis=1)
        )
    else:
        # Near the inner product of the signs with the query's own sums.
        samples = _samples(queries)
        estimate = samples @ signs.T
        own = np.take_along_axis(estimate, found.rows.numpy(), axis=1)
        np.testing.assert_allclose(
            found.scores, own, atol=0.03 * np.abs(samples).sum(axis=1).max()
        )
    assert index.searches() == [0, 0, 6]
    looked = ops.lookup(
        [1000],
        index.resource,
        index.ids,
        None,
        index.num_rows,
        index.columns,
        codes=index.codes,
        dim=24,
    )
    assert looked.found.numpy().all() and looked.embedding.shape == [1, 24]


def _samples(vectors):
    from tests.references.sign_oporp import oporp_samples

    return oporp_samples(vectors, bins=8, repeats=32, seed=0)


def test_dead_rows_are_never_found():
    index = StoredIndex(codes=CODES)
    dead = np.arange(0, 500, 3)
    ids = index.id_values.copy()
    ids[dead] = -1
    index.ids.assign(ids)
    for algorithm in ("auto", "masked", "prefiltered", "quantized"):
        found = index.retrieve(_queries(5), k=400, algorithm=algorithm)
        assert not np.isin(found.rows, dead).any()


@pytest.mark.parametrize(
    "options,message",
    [
        ({"algorithm": "quantized"}, "must not be quantized"),
        ({"costs": [1.0]}, "must have 5 numbers"),
        ({"costs": [1.0, 1.0, 1.0, 1.0, -1.0]}, "must be positive"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    index = StoredIndex()
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        index.retrieve(_queries(2), **options)


def test_exact_search_needs_embeddings():
    index = StoredIndex(dtype=None, codes=CODES)
    for algorithm in ("masked", "prefiltered"):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="of codes alone"
        ):
            index.retrieve(_queries(2), algorithm=algorithm)


@pytest.mark.parametrize(
    "replaced,message",
    [
        ({"codes": tf.zeros([7, 4, 64], tf.int64)}, r"shape \[8, words, 64\]"),
        ({"codes": tf.zeros([8, 2, 64], tf.int64)}, "must hold 4 words"),
        ({"codes": tf.zeros([8, 4, 64])}, "must be int64"),
        ({"scales": tf.zeros([500])}, "with embeddings of int8"),
        ({"embeddings": tf.zeros([500, 24], tf.int8)}, "with embeddings of"),
        ({"embeddings": tf.zeros([500, 24], tf.int16)}, "must be float"),
    ],
)
def test_variables_that_do_not_fit(replaced, message):
    index = StoredIndex(codes=CODES)
    for name, value in replaced.items():
        setattr(index, name, tf.Variable(value))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        index.retrieve(_queries(2))


def test_scales_must_fit_the_rows():
    index = StoredIndex(dtype="int8")
    index.scales = tf.Variable(tf.zeros([499]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[500\]"):
        index.retrieve(_queries(2))


def test_codes_go_with_their_quantization():
    index = StoredIndex(codes=CODES)
    with pytest.raises(ValueError, match="go together"):
        index.retrieve(_queries(2), quantization=None)


def test_there_must_be_embeddings_or_codes():
    resource, ids = ops.IndexResource(), tf.Variable([7], dtype=tf.int64)
    num_rows = tf.Variable(1, dtype=tf.int64)
    with pytest.raises(ValueError, match="got neither"):
        ops.retrieve(
            *(_queries(1), [[0]], resource, ids, None, num_rows, []), k=1
        )
    with pytest.raises(ValueError, match="got neither"):
        ops.lookup([7], resource, ids, None, num_rows, [])
    with pytest.raises(ValueError, match="got neither"):
        ops.planner_costs(resource, ids, None, num_rows)


def test_codes_need_the_dimension_of_the_queries():
    index = StoredIndex(codes=CODES)
    with pytest.raises(ValueError, match="`dim`, of the queries, must be"):
        index.retrieve(_queries(2), dim=0)


def test_assign_codes_writes_nothing_that_does_not_fit():
    codes = tf.Variable(tf.zeros([2, 3, 64], tf.int64))
    resource = ops.IndexResource()
    rows = np.arange(30).reshape(10, 3)
    ops.assign_codes(resource, codes, 60, rows)
    stored = codes.numpy().transpose(0, 2, 1).reshape(128, 3)
    np.testing.assert_array_equal(stored[60:70], rows)
    assert not stored[:60].any() and not stored[70:].any()
    for start in (-1, 119, 1 << 62):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[0, 128\)"):
            ops.assign_codes(resource, codes, start, rows)
    np.testing.assert_array_equal(
        codes.numpy().transpose(0, 2, 1).reshape(128, 3), stored
    )
