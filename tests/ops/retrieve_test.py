# SPDX-License-Identifier: Apache-2.0
"""Lintf>Retrieve against numpy, and what it refuses."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.index import columns
from lintf.index.schema import Attribute, IndexSchema
from tests.ops.toy_index import (
    COLUMN_DTYPES,
    FALSE,
    IN_SET,
    RANGE,
    TRUE,
    ToyIndex,
    exact_vectors,
    program,
)
from tests.references import filter_cases, filter_reference
from tests.references.masked_knn import masked_knn as reference

METRICS = ("inner_product", "l2", "cosine")


def _check(index, queries, programs, passes, k, metric):
    found = index.retrieve(queries, programs, k=k, metric=metric)
    again = index.retrieve(queries, programs, k=k, metric=metric)
    items = index.vectors[: index.rows]
    scores, rows, counts = reference(
        queries, items, passes & index.live, k, metric
    )
    ids = np.where(rows < 0, -1, index.id_values[rows])
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.num_results, counts)
    for first, second in zip(found[:4], again[:4], strict=True):
        assert first.numpy().tobytes() == second.numpy().tobytes()


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("k", [1, 7, 400])
@pytest.mark.parametrize("rows", [0, 1, 64, 65, 300])
def test_grid(rows, k, metric):
    dead = [r for r in (0, 64, 299) if r < rows and rows > 1]
    index = ToyIndex(rows, rows + 9, dim=6, dead=dead, seed=rows)
    rng = np.random.default_rng(rows + k)
    column = index.column("int16")
    values = index.column_values[column][:rows]
    filters = [
        (program((TRUE, 0), words=5), np.ones(rows, bool)),
        (program(words=5), np.ones(rows, bool)),
        (program((FALSE, 0), words=5), np.zeros(rows, bool)),
        (program((RANGE, column, 3, 3), words=5), values == 3),
        (
            program((IN_SET, column, 1, 5, 6), words=5),
            np.isin(values, [1, 5, 6]),
        ),
    ]
    for batch in (0, 1, 5, 12):
        queries = exact_vectors(rng, (batch, 6))
        picked = [filters[i % len(filters)] for i in range(batch)]
        programs = np.array([p for p, _ in picked], np.int64)
        programs = programs.reshape(batch, 5)
        passes = np.array([p for _, p in picked], bool).reshape(batch, rows)
        _check(index, queries, programs, passes, k, metric)


def test_cosine_scales_the_query():
    index = ToyIndex(rows=50, capacity=50, dim=6)
    norms = np.linalg.norm(index.vectors, axis=1, keepdims=True)
    index.embeddings.assign(index.vectors / norms)
    queries = exact_vectors(np.random.default_rng(3), (4, 6))
    queries[3] = 0
    found = index.retrieve(
        queries, np.zeros((4, 1), np.int64), k=50, metric="cosine"
    )
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    exact = queries @ (index.vectors / norms).T / np.maximum(lengths, 1e-30)
    picked = np.take_along_axis(exact, found.rows.numpy(), 1)
    np.testing.assert_allclose(found.scores, picked, atol=1e-6)
    assert (np.diff(found.scores.numpy(), axis=1) <= 0).all()
    # The direction alone counts.
    scaled = index.retrieve(
        queries * 4, np.zeros((4, 1), np.int64), k=50, metric="cosine"
    )
    np.testing.assert_array_equal(scaled.scores, found.scores)


@pytest.mark.parametrize("metric", METRICS)
def test_batch_equals_singles_bit_for_bit(metric):
    index = ToyIndex(rows=500, capacity=512, dim=19, dead=[7])
    rng = np.random.default_rng(9)
    index.embeddings.assign(rng.standard_normal((512, 19)).astype(np.float32))
    queries = rng.standard_normal((64, 19)).astype(np.float32)
    column = index.column("int64")
    programs = np.stack(
        [
            program((RANGE, column, i % 8, 5), words=6) * (i % 3 > 0)
            for i in range(64)
        ]
    )
    options = dict(k=9, metric=metric, return_columns=[0, 7])
    together = index.retrieve(queries, programs, **options)
    for i in range(64):
        one = slice(i, i + 1)
        alone = index.retrieve(queries[one], programs[one], **options)
        for whole, part in zip(
            tf.nest.flatten(together), tf.nest.flatten(alone), strict=True
        ):
            assert whole[i].numpy().tobytes() == part[0].numpy().tobytes()


def test_concurrent_searches_agree():
    # The first ones of all: they also make the index's state.
    index = ToyIndex(rows=5000, capacity=5000, dim=8)
    rng = np.random.default_rng(10)
    queries = exact_vectors(rng, (3, 8))
    programs = np.zeros((3, 1), np.int64)
    results = [None] * 8
    ready = threading.Barrier(8)

    def search(i):
        ready.wait()
        results[i] = index.retrieve(queries, programs, k=20)

    threads = [threading.Thread(target=search, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _, rows, _ = reference(queries, index.vectors, np.ones((1, 5000), bool), 20)
    for found in results:
        np.testing.assert_array_equal(found.rows, rows)


@pytest.mark.parametrize(
    "widths", [None, {"uint8": 3, "int64": 2, "float32": 1}]
)
def test_returned_values(widths):
    index = ToyIndex(rows=40, capacity=44, dim=3, widths=widths)
    queries = exact_vectors(np.random.default_rng(2), (2, 3))
    everything = list(range(len(COLUMN_DTYPES)))
    found = index.retrieve(
        queries,
        [program((TRUE, 0)), program((FALSE, 0))],
        k=42,
        return_columns=everything[::-1],
    )
    rows = found.rows.numpy()
    assert (rows[0, :40] >= 0).all() and (rows[0, 40:] == -1).all()
    for values, column in zip(found.values, everything[::-1], strict=True):
        stored = index.column_values[column]
        dtype = stored.dtype
        assert values.dtype == dtype
        assert values.shape == (2, 42, *stored.shape[1:])
        np.testing.assert_array_equal(values[0, :40], stored[rows[0, :40]])
        unused = np.concatenate([values[0, 40:], values[1]])
        if dtype == np.float32:
            assert np.isnan(unused).all()
        else:
            assert (unused == np.iinfo(dtype).min).all()


def test_missing_values_may_be_given():
    index = ToyIndex(rows=4, capacity=4, dim=3)
    missing = [-3, 7, 0, 1, 2, 2**32 - 1, 5, np.nan]
    found = index.retrieve(
        np.zeros((1, 3), np.float32),
        [program((FALSE, 0))],
        k=1,
        return_columns=range(8),
        return_missing=missing,
    )
    for values, value in zip(found.values, missing, strict=True):
        np.testing.assert_array_equal(values.numpy(), [[value]])
    looked = index.lookup([-1], missing=missing)
    for values, value in zip(looked.values, missing, strict=True):
        np.testing.assert_array_equal(values.numpy(), [value])
    with pytest.raises(ValueError, match="one missing value for each of the 1"):
        index.retrieve(
            np.zeros((1, 3), np.float32),
            [[0]],
            k=1,
            return_columns=[0],
            return_missing=[1, 2],
        )
    with pytest.raises(tf.errors.InvalidArgumentError, match="fit its column"):
        index.retrieve(
            np.zeros((1, 3), np.float32),
            [[0]],
            k=1,
            return_columns=[0],
            return_missing=[128],
        )


def test_compiled_filters():
    schema = IndexSchema(
        dim=3,
        attributes=tuple(
            Attribute(d, "float" if d == "float32" else "int", dtype=d)
            for d in ("int8", "int16", "int64")
        ),
    )
    index = ToyIndex(rows=100, capacity=100, dim=3)
    seen = sorted(index.id_values[[4, 8, 15]].tolist())
    filters = ["int8 >= 3 and not (int64 == 4)", f"id not in {seen}", ""]
    queries = exact_vectors(np.random.default_rng(2), (3, 3))
    i8, _, i64 = (c.astype(object) for c in index.column_values[:3])
    passes = np.ones((3, 100), bool)
    passes[0] = (i8 >= 3) & (i64 != 4)
    passes[1, [4, 8, 15]] = False
    programs = ops.compile_filter(filters, schema)
    _check(index, queries, programs, passes, 10, "inner_product")


@pytest.mark.parametrize("seed", range(10))
def test_nothing_but_what_the_reference_passes(seed):
    rng = np.random.default_rng(300 + seed)
    schema = filter_cases.random_schema(rng)
    rows = filter_cases.random_rows(rng, schema, 67)
    filters = [filter_cases.random_filter(rng, schema, rows) for _ in range(40)]
    ids = [row["id"] for row in rows]
    if schema.id_dtype == "string":
        ids = columns.fingerprints(ids)
    ids = np.array(ids, np.int64)
    items = exact_vectors(rng, (67, 4))
    queries = exact_vectors(rng, (40, 4))
    found = ops.retrieve(
        queries,
        ops.compile_filter(filters, schema),
        ops.IndexResource(),
        tf.Variable(ids),
        tf.Variable(items),
        tf.Variable(67, dtype=tf.int64),
        [
            tf.Variable(columns.encode(a, [row[a.name] for row in rows]))
            for a in schema.attributes
        ],
        k=67,
    )
    passes = np.array(
        [
            [filter_reference.passes(text, row, schema) for row in rows]
            for text in filters
        ]
    )
    scores, expected, _ = reference(queries, items, passes, 67)
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(
        found.ids, np.where(expected < 0, -1, ids[expected])
    )


def _handles(index, **replaced):
    """Arguments of `ops.retrieve` after the programs."""
    handles = dict(
        resource=index.resource,
        ids=index.ids,
        embeddings=index.embeddings,
        num_rows=index.num_rows,
        columns=index.columns,
    )
    return {**handles, **replaced}


@pytest.mark.parametrize(
    "queries,programs,message",
    [
        (np.zeros((2, 4)), np.zeros((2, 1)), r"\[batch, 3\], the dimension"),
        (np.zeros(3), np.zeros((1, 1)), "`queries` must have shape"),
        (np.zeros((2, 0)), np.zeros((2, 1)), "`queries` must have shape"),
        (np.zeros((2, 3)), np.zeros((1, 1)), "one program for each of the 2"),
        (np.zeros((2, 3)), np.zeros((2, 0)), "`programs` must have shape"),
        (np.full((2, 3), np.nan), np.zeros((2, 1)), "query 0 holds nan"),
        (np.full((2, 3), np.inf), np.zeros((2, 1)), "query 0 holds inf"),
        (np.zeros((2, 3)), np.array([[0], [5]]), "program 1: "),
    ],
)
def test_bad_requests(queries, programs, message):
    index = ToyIndex(rows=5, capacity=8, dim=3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        index.retrieve(
            queries.astype(np.float32), programs.astype(np.int64), k=2
        )


@pytest.mark.parametrize(
    "replaced,message",
    [
        ({"ids": tf.Variable([1.0])}, "`ids` must be int64, got float"),
        ({"ids": tf.Variable([[1]], dtype=tf.int64)}, "`ids` must have rank 1"),
        (
            {"embeddings": tf.Variable(tf.zeros([7, 3]))},
            r"`embeddings` must have shape \[8, dim\]",
        ),
        (
            {"embeddings": tf.Variable(tf.zeros([8, 3], tf.float64))},
            "`embeddings` must be float, bfloat16, half or int8 .* got double",
        ),
        (
            {"num_rows": tf.Variable(9, dtype=tf.int64)},
            r"`num_rows` must be in \[0, 8\]",
        ),
        (
            {"num_rows": tf.Variable(-1, dtype=tf.int64)},
            "`num_rows` must be in",
        ),
        ({"num_rows": tf.Variable(1)}, "`num_rows` must be int64, got int32"),
        (
            {
                "columns": [
                    tf.Variable(tf.zeros([8])),
                    tf.Variable(tf.zeros([9])),
                ]
            },
            r"`columns\[1\]` must have shape \[8\]",
        ),
        (
            {"columns": [tf.Variable(tf.zeros([8, 2, 2]))]},
            r"`columns\[0\]` must have rank",
        ),
        (
            {"columns": [tf.Variable(tf.zeros([8], tf.int32))]},
            r"`columns\[0\]` must be int8, .* got int32",
        ),
        (
            {"resource": tf.Variable(1.0)},
            "`index` must be a handle from Lintf>IndexHandle",
        ),
        (
            {"ids": ops.IndexResource()},
            "`ids` must be the handle of a variable",
        ),
    ],
)
def test_variables_that_do_not_fit(replaced, message):
    index = ToyIndex(rows=5, capacity=8, dim=3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.retrieve(
            np.zeros((1, 3), np.float32),
            [[0]],
            k=2,
            **_handles(index, **replaced),
        )
    # And nothing stays locked.
    index.ids.assign(index.id_values)
    assert index.retrieve(np.zeros((1, 3), np.float32), [[0]], k=1).ids.shape


@pytest.mark.parametrize("name", ["ids", "embeddings", "num_rows"])
def test_variables_without_a_value(name):
    index = ToyIndex(rows=5, capacity=8, dim=3)
    empty = tf.raw_ops.VarHandleOp(
        dtype=getattr(index, name).dtype, shape=None, shared_name=f"no_{name}"
    )
    with pytest.raises(tf.errors.FailedPreconditionError) as error:
        ops.retrieve(
            np.zeros((1, 3), np.float32),
            [[0]],
            k=2,
            **_handles(index, **{name: empty}),
        )
    assert f"`{name}` must have a value" in str(error.value)


def test_one_variable_in_two_places():
    # Its lock is taken once: a writer that waits between two shared locks
    # would stop the search for ever.
    index = ToyIndex(rows=50, capacity=50, dim=3)
    index.columns = [index.columns[2]] * 2 + [index.ids]
    done = threading.Event()

    def write():
        while not done.is_set():
            index.columns[0].assign(index.column_values[2])

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(50):
        index.retrieve(np.zeros((1, 3), np.float32), [[0]], k=5)
    done.set()
    writer.join()


def test_impossible_k_is_an_error():
    index = ToyIndex(rows=5, capacity=8, dim=3)
    with pytest.raises(
        (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError)
    ):
        index.retrieve(
            np.zeros((4, 3), np.float32), np.zeros((4, 1), np.int64), k=2**62
        )
