# SPDX-License-Identifier: Apache-2.0
"""The index resource and Lintf>AssignRows."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.ops import library
from tests.ops.toy_index import ToyIndex

RAW = library.load()
EVERY_DTYPE = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 "
    "float32 float64"
).split()


def _address(variable):
    """Where a dense read finds the variable's values; keeps the read alive."""
    value = variable.read_value()
    return np.asarray(memoryview(value)).ctypes.data, value


def _reads_are_free(variable):
    """Whether dense reads share the buffer instead of copying it."""
    first, keep = _address(variable)
    second, also = _address(variable)
    del keep, also
    return first == second


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("row_shape", [(), (3,), (2, 2)])
def test_assign_rows(dtype, row_shape):
    rng = np.random.default_rng(1)
    dtype = tf.as_dtype(dtype)
    before = rng.integers(0, 2, (9, *row_shape)).astype(dtype.as_numpy_dtype)
    rows = rng.integers(0, 2, (4, *row_shape)).astype(dtype.as_numpy_dtype)
    for start in (0, 3, 5):
        variable = tf.Variable(before)
        ops.assign_rows(ops.IndexResource(), variable, start, rows)
        after = before.copy()
        after[start : start + 4] = rows
        np.testing.assert_array_equal(variable.numpy(), after)


def test_assign_rows_writes_in_place_and_keeps_reads_free():
    index = ToyIndex(rows=50, capacity=64, dim=3)
    query = np.zeros((1, 3), np.float32)
    for variable, values in [
        (index.ids, np.arange(10**6, 10**6 + 5)),
        (index.embeddings, np.ones((5, 3), np.float32)),
    ]:
        # A variable that was made from an array may use the array's memory,
        # which is not ours to write: the first write takes a copy.
        ops.assign_rows(index.resource, variable, 0, values)
        # A search holds on to the ids; that must not make writes copy them.
        index.retrieve(query, [[0]], k=2)
        before = _address(variable)[0]
        ops.assign_rows(index.resource, variable, 7, values + 10)
        assert _address(variable)[0] == before
        assert _reads_are_free(variable)
    # What the stock operation does, and this test would notice.
    index.embeddings.scatter_nd_update([[1]], [[1.0, 2.0, 3.0]])
    assert not _reads_are_free(index.embeddings)


def test_assign_rows_leaves_earlier_reads_alone():
    variable = tf.Variable(tf.zeros([4, 2]))
    earlier = variable.read_value()
    ops.assign_rows(ops.IndexResource(), variable, 1, [[1.0, 2.0]])
    assert not earlier.numpy().any()
    assert variable.numpy()[1].tolist() == [1.0, 2.0]
    assert _reads_are_free(variable)


def test_assign_no_rows():
    variable = tf.Variable([1, 2, 3])
    for start in (0, 3):
        ops.assign_rows(ops.IndexResource(), variable, start, [])
    assert variable.numpy().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "start,values,message",
    [
        (3, [[1.0, 2.0], [3.0, 4.0]], r"\[0, 4\).*got 2 rows from row 3"),
        (-1, [[1.0, 2.0]], "got 1 rows from row -1"),
        (2**63 - 1, [[1.0, 2.0]], r"rows must lie in \[0, 4\)"),
        (0, [[1.0]] * 2, r"rows of `variable`, whose shape is \[4,2\]"),
        (0, [1.0, 2.0], r"got shape \[2\]"),
        (0, 1.0, r"got shape \[\]"),
        (0, np.zeros((5, 2)), "got 5 rows from row 0"),
    ],
)
def test_assign_rows_refuses(start, values, message):
    variable = tf.Variable(tf.zeros([4, 2]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.assign_rows(ops.IndexResource(), variable, start, values)
    assert not variable.numpy().any()


def test_assign_rows_checks_the_variable():
    resource = ops.IndexResource().resource_handle
    start = tf.constant(0, tf.int64)
    variable = tf.Variable([1.0, 2.0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="dtype of"):
        RAW.lintf_assign_rows(resource, variable.handle, start, [1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="IndexHandle"):
        RAW.lintf_assign_rows(variable.handle, variable.handle, start, [1.0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="one row number"):
        RAW.lintf_assign_rows(resource, variable.handle, [start], [1.0])
    empty = tf.raw_ops.VarHandleOp(
        dtype=tf.float32, shape=None, shared_name="empty"
    )
    with pytest.raises(tf.errors.FailedPreconditionError, match="a value"):
        RAW.lintf_assign_rows(resource, empty, start, [1.0])


def _row_of(index, id):
    return int(index.lookup([id]).row[0])


def test_state_follows_assign_rows():
    index = ToyIndex(rows=6, capacity=8, dim=2)
    assert _row_of(index, 777) == -1
    old = int(index.id_values[2])
    assert _row_of(index, old) == 2
    ops.assign_rows(index.resource, index.ids, 2, [777])
    assert (_row_of(index, 777), _row_of(index, old)) == (2, -1)
    ops.assign_rows(index.resource, index.ids, 2, [-1])
    assert (_row_of(index, 777), int(index.stats().live_rows)) == (-1, 5)


def test_state_follows_num_rows_and_whole_assignments():
    index = ToyIndex(rows=6, capacity=8, dim=2)
    last = int(index.id_values[7])
    assert _row_of(index, last) == -1
    index.num_rows.assign(8)
    assert _row_of(index, last) == 7
    index.ids.assign(index.id_values[::-1])
    assert _row_of(index, last) == 0


def test_state_follows_a_restored_checkpoint(tmp_path):
    saved = ToyIndex(rows=6, capacity=8, dim=2, seed=1)
    path = tf.train.Checkpoint(index=saved).save(str(tmp_path / "index"))
    index = ToyIndex(rows=6, capacity=8, dim=2, seed=2)
    assert _row_of(index, int(index.id_values[3])) == 3
    tf.train.Checkpoint(index=index).restore(path).assert_consumed()
    for row in range(6):
        assert _row_of(index, int(saved.id_values[row])) == row


def test_invalidate():
    index = ToyIndex(rows=6, capacity=8, dim=2)
    assert _row_of(index, 777) == -1
    index.ids.scatter_nd_update([[2]], [777])
    index.resource.invalidate()
    assert _row_of(index, 777) == 2


def test_repeated_ids_are_refused():
    index = ToyIndex(rows=6, capacity=8, dim=2)
    index.ids.assign([4, 5, 6, 5, 5, 7, 1, 2])
    for _ in range(2):
        with pytest.raises(tf.errors.FailedPreconditionError) as error:
            index.stats()
        assert "2 of 6 rows repeat one: id 5 is in rows 1 and 3" in str(
            error.value
        )
    index.ids.assign([4, 5, 6, -1, -1, 7, 1, 2])
    assert int(index.stats().live_rows) == 4


def test_resources_are_separate():
    first, second = ops.IndexResource(), ops.IndexResource()
    ids = tf.Variable([1, 2], dtype=tf.int64)
    rows = tf.Variable(2, dtype=tf.int64)

    def live(resource):
        return int(ops.index_stats(resource, ids, rows).live_rows)

    # The first scatter gives the variable a buffer of its own.
    ids.scatter_nd_update([[0]], [-1])
    assert live(first) == live(second) == 1
    # Written in place: only the resource that is told can notice.
    ids.scatter_nd_update([[1]], [-1])
    first.invalidate()
    assert (live(first), live(second)) == (0, 1)


def test_handles_by_name():
    a, b = (RAW.lintf_index_handle(shared_name=n) for n in ("a", "b"))
    again = RAW.lintf_index_handle(shared_name="a")
    contained = RAW.lintf_index_handle(shared_name="a", container="c")
    ids = tf.Variable([1, 2], dtype=tf.int64)
    rows = tf.Variable(2, dtype=tf.int64)

    def live(handle):
        return int(ops.index_stats(handle, ids, rows).live_rows)

    for handle in (a, b, again, contained):
        assert live(handle) == 2
    # Two writes in place that only the named resource hears of. The buffer
    # changes once, when the first scatter gives the variable one of its own.
    ids.scatter_nd_update([[0]], [-1])
    for handle in (a, b, again, contained):
        live(handle)
    ids.scatter_nd_update([[1]], [-1])
    RAW.lintf_invalidate_index(again)
    assert live(a) == 0
    assert live(b) == live(contained) == 1
    for handle in (a, b, contained):
        tf.raw_ops.DestroyResourceOp(resource=handle)


def test_anonymous_nodes_keep_one_each():
    ids = tf.Variable([1, 2, 3], dtype=tf.int64)
    rows = tf.Variable(3, dtype=tf.int64)

    @tf.function
    def live(forget):
        first = RAW.lintf_index_handle(anonymous=True)
        second = RAW.lintf_index_handle(anonymous=True)
        if forget:
            RAW.lintf_invalidate_index(first)
        return [
            ops.index_stats(handle, ids, rows).live_rows
            for handle in (first, second)
        ]

    forget = tf.constant([False, True])
    assert [int(n) for n in live(forget[0])] == [3, 3]
    # Gives the variable a buffer of its own, which both notice.
    ids.scatter_nd_update([[0]], [-1])
    assert [int(n) for n in live(forget[0])] == [2, 2]
    ids.scatter_nd_update([[1]], [-1])
    # Kept from call to call, until it is told.
    assert [int(n) for n in live(forget[0])] == [2, 2]
    assert [int(n) for n in live(forget[1])] == [1, 2]


def test_searches_never_see_half_a_write():
    # Each write makes all rows equal; a search that saw one half done would
    # find scores that differ.
    dim, rows = 16, 2000
    index = ToyIndex(rows=rows, capacity=rows, dim=dim)
    ops.assign_rows(index.resource, index.embeddings, 0, np.zeros((rows, dim)))
    done = threading.Event()
    failures = []

    def search():
        while not done.is_set():
            found = index.retrieve(np.ones((1, dim), np.float32), [[0]], k=rows)
            if len(np.unique(found.scores)) != 1:
                failures.append(found.scores.numpy())

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for value in range(100):
        ops.assign_rows(
            index.resource,
            index.embeddings,
            0,
            np.full((rows, dim), value, np.float32),
        )
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
