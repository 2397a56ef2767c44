# SPDX-License-Identifier: Apache-2.0
"""Lintf>Update and Lintf>LogOffsets."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.index import storage
from lintf.index.schema import Quantization
from lintf.ops.update import (
    DELETED,
    INSERTED,
    NOT_FOUND,
    REPLACED,
    UNCHANGED,
)
from tests.ops import toy_index
from tests.ops.toy_index import COLUMN_DTYPES, ToyIndex

NO_FILTER = toy_index.program()


def _values(rng, count, widths=None):
    """New values for every column."""
    return [
        ToyIndex._column(rng, dtype, count, (widths or {}).get(dtype))
        for dtype in COLUMN_DTYPES
    ]


def _log(*rows):
    """Rows of (partition, previous offset, offset)."""
    return ops.LogPosition(*np.array(rows, np.int64).T)


def _state(index):
    """Everything that an update may change, copied."""
    variables = [
        index.ids,
        index.embeddings,
        index.num_rows,
        index.log_offsets,
        *index.columns,
    ]
    return [np.array(v.numpy()) for v in variables]


def _assert_same_state(before, after):
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("widths", [None, {"uint8": 3, "int64": 2}])
def test_rows_become_what_was_given(widths):
    index = ToyIndex(rows=90, capacity=100, dim=4, dead=[5], widths=widths)
    rng = np.random.default_rng(1)
    replaced, deleted = index.id_values[[7, 80]], index.id_values[[0, 64]]
    absent, new = [10**9], [10**10, 10**11]
    ids = np.concatenate([replaced, deleted, absent, new])
    delete = [False, False, True, True, True, False, False]
    vectors = toy_index.exact_vectors(rng, (7, 4))
    values = _values(rng, 7, widths)
    done = index.update(ids, delete, vectors, values)
    assert done.status.numpy().tolist() == [
        REPLACED,
        REPLACED,
        DELETED,
        DELETED,
        UNCHANGED,
        INSERTED,
        INSERTED,
    ]
    assert done.num_rows.numpy().tolist() == [90] * 7
    looked = index.lookup(ids)
    found = [not d for d in delete]
    assert looked.found.numpy().tolist() == found
    # The holes that the deletes left, the last one first.
    assert looked.row.numpy().tolist() == [7, 80, -1, -1, -1, 64, 0]
    np.testing.assert_array_equal(
        looked.embedding.numpy()[found], vectors[found]
    )
    for got, expected in zip(looked.values, values, strict=True):
        np.testing.assert_array_equal(got.numpy()[found], expected[found])
    # Nobody else's row has changed.
    kept = [r for r in range(90) if r not in (0, 5, 7, 64, 80)]
    others = index.lookup(index.id_values[kept])
    np.testing.assert_array_equal(others.row, kept)
    np.testing.assert_array_equal(others.embedding, index.vectors[kept])
    stats = index.stats()
    assert (int(stats.num_rows), int(stats.live_rows)) == (90, 89)


def test_searches_find_it_and_filters_see_it():
    index = ToyIndex(rows=50, capacity=60, dim=4)
    rng = np.random.default_rng(2)
    values = _values(rng, 1)
    values[index.column("int16")][:] = 12345
    index.update([10**9], [False], [[9.0, 9.0, 9.0, 9.0]], values)
    is_new = toy_index.program(
        (toy_index.RANGE, index.column("int16"), 12345, 12345)
    )
    queries = np.ones((2, 4), np.float32)
    programs = np.stack([toy_index.program(words=len(is_new)), is_new])
    found = index.retrieve(queries, programs, k=3)
    assert found.ids.numpy()[0, 0] == 10**9
    assert found.ids.numpy()[1].tolist() == [10**9, -1, -1]
    assert found.scores.numpy()[:, 0].tolist() == [36.0, 36.0]
    index.update([10**9], [True], [[0.0] * 4], values)
    found = index.retrieve(queries, programs, k=3)
    assert 10**9 not in found.ids.numpy()
    assert found.num_results.numpy().tolist() == [3, 0]


def test_attributes_alone():
    index = ToyIndex(rows=9, capacity=20, dim=4)
    rng = np.random.default_rng(3)
    ids = [int(index.id_values[3]), 10**9]
    values = _values(rng, 2)
    done = index.update(ids, [False, False], None, values)
    assert done.status.numpy().tolist() == [REPLACED, NOT_FOUND]
    # A delete is one here too.
    gone = index.update([10**9], [True], None, _values(rng, 1))
    assert gone.status.numpy().tolist() == [UNCHANGED]
    looked = index.lookup(ids)
    assert looked.found.numpy().tolist() == [True, False]
    np.testing.assert_array_equal(looked.embedding[0], index.vectors[3])
    for got, expected in zip(looked.values, values, strict=True):
        np.testing.assert_array_equal(got[0], expected[0])


def test_last_of_an_item_counts_and_nothing_is_fine():
    index = ToyIndex(rows=9, capacity=20, dim=1)
    values = [np.zeros(3, d) for d in COLUMN_DTYPES]
    done = index.update(
        [10**9] * 3, [False, True, False], [[1.0], [2.0], [3.0]], values
    )
    assert done.status.numpy().tolist() == [INSERTED, DELETED, INSERTED]
    assert index.lookup([10**9]).embedding.numpy().tolist() == [[3.0]]
    before = _state(index)
    none = index.update(
        np.zeros(0, np.int64),
        np.zeros(0, bool),
        np.zeros((0, 1), np.float32),
        [np.zeros(0, d) for d in COLUMN_DTYPES],
    )
    assert none.status.shape == [0]
    _assert_same_state(before, _state(index))


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_stored_as_the_export_stores_it(dtype, metric):
    rng = np.random.default_rng(4)
    dim, count = 64, 30
    quantization = Quantization(bins=8, repeats=8)
    stored_dtype = tf.dtypes.as_dtype(dtype)
    scales = tf.Variable(tf.zeros([100])) if dtype == "int8" else None
    codes = tf.Variable(tf.zeros([2, 1, 64], tf.int64))
    ids = tf.Variable(tf.fill([100], tf.constant(-1, tf.int64)))
    embeddings = tf.Variable(tf.zeros([100, dim], stored_dtype))
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    ops.update(
        np.arange(count),
        np.zeros(count, bool),
        vectors,
        [],
        None,
        ops.IndexResource(),
        ids,
        embeddings,
        tf.Variable(0, dtype=tf.int64),
        tf.Variable([-1], dtype=tf.int64),
        [],
        scales=scales,
        codes=codes,
        quantization=quantization,
        dim=dim,
        metric=metric,
    )
    given = vectors
    if metric == "cosine":
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
        given = (vectors / norms[:, np.newaxis]).astype(np.float32)
    expected = storage.encode(given, dtype)
    np.testing.assert_array_equal(
        embeddings.numpy()[:count].view(np.uint8),
        expected.values.view(np.uint8),
    )
    if scales is not None:
        np.testing.assert_array_equal(scales.numpy()[:count], expected.scales)
    np.testing.assert_array_equal(
        codes.numpy()[0, 0, :count],
        ops.sign_oporp(
            given,
            bins=quantization.bins,
            repeats=quantization.repeats,
            seed=quantization.seed,
        ).numpy()[:, 0],
    )


def test_full_index_changes_nothing():
    index = ToyIndex(rows=10, capacity=10, dim=1)
    values = [np.ones(2, d) for d in COLUMN_DTYPES]
    before = _state(index)
    with pytest.raises(
        tf.errors.ResourceExhaustedError, match="needs 1 more rows.*10 items"
    ):
        index.update(
            [int(index.id_values[0]), 10**9],
            [False, False],
            [[7.0], [8.0]],
            values,
            _log((0, -1, 0), (1, 41, 42)),
        )
    _assert_same_state(before, _state(index))
    # A delete in the same batch makes room.
    done = index.update(
        [int(index.id_values[0]), 10**9],
        [True, False],
        [[7.0], [8.0]],
        values,
    )
    assert done.status.numpy().tolist() == [DELETED, INSERTED]
    assert index.lookup([10**9]).row.numpy().tolist() == [0]


def test_offsets_move_on_with_the_rows():
    index = ToyIndex(rows=5, capacity=20, dim=1)
    values = [np.zeros(4, d) for d in COLUMN_DTYPES]
    assert index.offsets().numpy().tolist() == [-1, 41]
    done = index.update(
        [10**9, -1, 10**9 + 1, 10**9 + 2],
        [False] * 4,
        [[1.0], [np.nan], [2.0], [3.0]],
        values,
        _log((1, 41, 50), (1, 50, 51), (0, -1, 3), (-7, -7, -1)),
    )
    assert done.status.numpy().tolist() == [
        INSERTED,
        UNCHANGED,
        INSERTED,
        INSERTED,
    ]
    assert index.offsets().numpy().tolist() == [3, 51]


@pytest.mark.parametrize(
    "log,error,message",
    [
        ([(1, 40, 42)], tf.errors.FailedPreconditionError, "at offset 41"),
        ([(1, 42, 43)], tf.errors.FailedPreconditionError, "at offset 41"),
        ([(0, 0, 1)], tf.errors.FailedPreconditionError, "at offset -1"),
        ([(2, -1, 0)], tf.errors.InvalidArgumentError, "log_partition"),
        ([(-1, -1, 0)], tf.errors.InvalidArgumentError, "log_partition"),
        ([(1, 41, 41)], tf.errors.InvalidArgumentError, "greater than"),
        ([(1, 41, -2)], tf.errors.InvalidArgumentError, "-1 or an offset"),
        ([(0, -2, 0)], tf.errors.InvalidArgumentError, "which must be -1"),
        (
            [(1, 41, 42), (1, 43, 44)],
            tf.errors.InvalidArgumentError,
            "row 1.*the row before it in partition 1",
        ),
    ],
)
def test_batches_that_do_not_follow(log, error, message):
    index = ToyIndex(rows=5, capacity=20, dim=1)
    count = len(log)
    before = _state(index)
    with pytest.raises(error, match=message):
        index.update(
            np.arange(count) + 10**9,
            [False] * count,
            np.ones((count, 1)),
            [np.zeros(count, d) for d in COLUMN_DTYPES],
            _log(*log),
        )
    _assert_same_state(before, _state(index))


@pytest.mark.parametrize(
    "change,message",
    [
        ({"id": np.zeros((2, 1), np.int64)}, "`id` must have shape"),
        ({"id": [1, -1]}, "row 1: `id` must not be -1"),
        ({"delete": [False]}, "`delete` must have shape"),
        ({"embedding": np.zeros((2, 3))}, "`embedding` must have shape"),
        ({"embedding": np.zeros((1, 2))}, "`embedding` must have shape"),
        ({"embedding": [[0, 0], [0, np.nan]]}, "row 1: .*finite"),
        ({"embedding": [[np.inf, 0], [0, 0]]}, "row 0: .*finite"),
        ({"log": _log((0, -1, 0))}, "`log_partition` must have shape"),
        ({"width": 2}, r"`values\[3\]` must be uint8"),
    ],
)
def test_bad_input_changes_nothing(change, message):
    index = ToyIndex(rows=5, capacity=20, dim=2)
    given = {
        "id": [10**9, 10**9 + 1],
        "delete": [False, False],
        "embedding": np.ones((2, 2)),
        "values": [np.zeros(2, d) for d in COLUMN_DTYPES],
    }
    if "width" in change:
        given["values"][index.column("uint8")] = np.zeros((2, 2), np.uint8)
    else:
        given |= change
    before = _state(index)

    # As a client's request arrives: without known shapes.
    @tf.function(autograph=False)
    def run(**inputs):
        return index.update(**inputs).status

    def unknown(value):
        value = tf.convert_to_tensor(value)
        return tf.TensorSpec(None, value.dtype)

    given = tf.nest.map_structure(
        tf.convert_to_tensor,
        given
        | {
            "id": np.array(given["id"], np.int64),
            "embedding": np.array(given["embedding"], np.float32),
        },
    )
    concrete = run.get_concrete_function(
        **tf.nest.map_structure(unknown, given)
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        concrete(**given)
    _assert_same_state(before, _state(index))
    assert not index.lookup([10**9]).found.numpy().any()


def test_values_must_fit_their_storage():
    cosine = ToyIndex(rows=5, capacity=20, dim=2)
    zeros = [np.zeros(1, d) for d in COLUMN_DTYPES]
    with pytest.raises(tf.errors.InvalidArgumentError, match="not be zero"):
        cosine.update([10**9], [False], [[0, 0]], zeros, metric="cosine")
    half = tf.Variable(tf.zeros([4, 1], tf.float16))
    state = {
        "resource": ops.IndexResource(),
        "ids": tf.Variable([-1] * 4, dtype=tf.int64),
        "embeddings": half,
        "num_rows": tf.Variable(0, dtype=tf.int64),
        "log_offsets": tf.Variable([-1], dtype=tf.int64),
        "columns": [],
    }
    with pytest.raises(tf.errors.InvalidArgumentError, match="float16"):
        ops.update([1], [False], [[65520.0]], [], None, **state)
    ops.update([1], [False], [[65519.0]], [], None, **state)
    assert half.numpy()[0, 0] == 65504
    brain = state | {"embeddings": tf.Variable(tf.zeros([4, 1], tf.bfloat16))}
    largest, beyond = np.array([0x7F7F7FFF, 0x7F7F8000], np.int32).view("f4")
    with pytest.raises(tf.errors.InvalidArgumentError, match="bfloat16"):
        ops.update([1], [False], [[-beyond]], [], None, **brain)
    ops.update([1], [False], [[-largest]], [], None, **brain)
    assert brain["embeddings"].numpy()[0, 0] == -tf.bfloat16.max
    # A length that float32 only just holds is one.
    tiny = state | {"embeddings": tf.Variable(tf.zeros([4, 1]))}
    ops.update([1], [False], [[1e-45]], [], None, metric="cosine", **tiny)
    assert tiny["embeddings"].numpy()[0, 0] == 1
    # What a delete or a skipped row holds is not looked at.
    ops.update([1], [True], [[np.nan]], [], None, **state)
    with pytest.raises(ValueError, match="values for each of the 1 columns"):
        state["columns"] = [tf.Variable([0] * 4)]
        ops.update([1], [False], [[1.0]], [], None, **state)


def test_who_holds_a_variable_keeps_what_he_read():
    index = ToyIndex(rows=5, capacity=20, dim=2)
    zeros = [np.zeros(1, d) for d in COLUMN_DTYPES]
    # Before the index has looked at its ids, and after.
    for number in (1.0, 2.0):
        held = [
            v.read_value()
            for v in (index.ids, index.embeddings, *index.columns)
        ]
        before = [np.array(h.numpy()) for h in held]
        if number == 2.0:
            # The index itself holds the ids; whoever reads them densely may
            # see an update.
            held, before = held[1:], before[1:]
        id = int(index.id_values[2])
        index.update([id], [False], [[number, number]], zeros)
        for tensor, copy in zip(held, before, strict=True):
            np.testing.assert_array_equal(tensor.numpy(), copy)
        del held
        assert index.lookup([id]).embedding.numpy().tolist() == [[number] * 2]


def test_assigned_variables_are_noticed():
    index = ToyIndex(rows=3, capacity=4, dim=1)
    zeros = [np.zeros(1, d) for d in COLUMN_DTYPES]
    index.update([10**9], [False], [[5.0]], zeros)
    assert int(index.stats().num_rows) == 4
    index.ids.assign([100, 101, 102, 103])
    index.num_rows.assign(2)
    assert index.lookup([10**9, 101]).found.numpy().tolist() == [False, True]
    index.update([104], [False], [[6.0]], zeros)
    assert index.ids.numpy().tolist() == [100, 101, 104, 103]
    assert int(index.num_rows) == 3
    index.resource.invalidate()
    assert int(index.stats().live_rows) == 3


def test_a_number_of_rows_that_was_passed_is_noticed():
    index = ToyIndex(rows=2, capacity=9, dim=1)
    zeros = [np.zeros(3, d) for d in COLUMN_DTYPES]
    index.update([100, 101, 102], [False] * 3, [[5.0], [6.0], [7.0]], zeros)
    assert int(index.num_rows) == 5
    index.num_rows.assign(3)
    assert index.lookup([100, 101]).found.numpy().tolist() == [True, False]
    assert int(index.stats().live_rows) == 3
    values = [np.zeros(1, d) for d in COLUMN_DTYPES]
    index.update([103], [False], [[8.0]], values)
    assert index.lookup([103]).row.numpy().tolist() == [3]
    assert int(index.num_rows) == 4


def test_smallest_indexes():
    index = ToyIndex(rows=0, capacity=1, dim=1)
    index.log_offsets = tf.Variable(tf.zeros([0], tf.int64))
    zeros = [np.zeros(1, d) for d in COLUMN_DTYPES]
    done = index.update([5], [False], [[2.0]], zeros)
    assert done.status.numpy().tolist() == [INSERTED]
    assert index.offsets().shape == [0]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[0, 0\)"):
        index.update([5], [False], [[2.0]], zeros, _log((0, -1, 0)))
    index = ToyIndex(rows=0, capacity=0, dim=1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least one"):
        index.update([5], [False], [[2.0]], zeros)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least one"):
        index.retrieve([[1.0]], [NO_FILTER], k=1)


def test_searches_while_rows_are_rewritten():
    """Whole rows only; the core's tests look for this more closely."""
    count, dim = 40, 16
    index = ToyIndex(rows=count, capacity=count, dim=dim)
    ids = index.id_values

    def batch(version):
        vectors = np.full((count, dim), 0, np.float32)
        vectors[:] = version
        values = [np.full(count, version % 100, d) for d in COLUMN_DTYPES]
        return vectors, values

    vectors, values = batch(1)
    index.update(ids, [False] * count, vectors, values)
    done = threading.Event()
    failures = []

    def read():
        queries = np.ones((1, dim), np.float32)
        column = index.column("int64")
        while not done.is_set():
            found = index.retrieve(
                queries, [NO_FILTER], k=count, return_columns=[column]
            )
            versions = found.scores.numpy()[0] / dim
            same = versions % 100 == found.values[0].numpy()[0]
            if int(found.num_results[0]) != count or not same.all():
                failures.append(found)
            looked = index.lookup(ids)
            embeddings = looked.embedding.numpy()
            same = embeddings[:, 0] % 100 == looked.values[column].numpy()
            if not (embeddings == embeddings[:, :1]).all() or not same.all():
                failures.append(looked)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for version in range(2, 300):
        vectors, values = batch(version)
        index.update(ids, [False] * count, vectors, values)
    done.set()
    for reader in readers:
        reader.join()
    assert not failures
