# SPDX-License-Identifier: Apache-2.0
"""The check of an update of several shards, on plain tensors."""

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.ops import library

RAW = library.load()
NONE = [-1, -1, -1]


def _check(**changes):
    arguments = {
        "id": [7, 8, 9],
        "delete": [False, False, True],
        "embedding": np.ones([3, 2], np.float32),
        "log": ops.LogPosition(NONE, NONE, NONE),
        "shard": [0, 1, 1],
        "found": [False, True, True],
        "live_rows": [1, 2],
        "log_offsets": [4, -1],
        "capacity": 4,
        "shard_capacity": 3,
        **changes,
    }
    return ops.check_update(**arguments).numpy().tolist()


def test_what_fits_passes():
    assert _check() == [7, 8, 9]
    assert _check(log=ops.LogPosition([0, 1, 0], [4, -1, 5], [5, 9, 8]))
    # Attributes alone need no room.
    assert _check(embedding=None, capacity=3, live_rows=[1, 2])
    # Nor do items that are there, or that go in the same batch.
    assert _check(capacity=3, shard_capacity=2)
    assert _check(
        id=[], delete=[], embedding=np.ones([0, 2]), shard=[], found=[],
        log=ops.LogPosition([], [], []),
    ) == []  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"embedding": [[1, 1], [1, np.nan], [1, 1]]},
            tf.errors.InvalidArgumentError,
            "row 1: `embedding` holds nan at dimension 1",
        ),
        (
            {"embedding": [[1, 1], [0, 0], [1, 1]], "metric": "cosine"},
            tf.errors.InvalidArgumentError,
            "row 1: `embedding` must not be zero",
        ),
        (
            {"embedding": [[0, 65520], [1, 1], [1, 1]], "storage": "float16"},
            tf.errors.InvalidArgumentError,
            "row 0: .* does not fit float16",
        ),
        (
            {"id": [7, -1, 9]},
            tf.errors.InvalidArgumentError,
            "row 1: `id` must not be -1",
        ),
        (
            {"log": ops.LogPosition(NONE, NONE, [-1, -2, -1])},
            tf.errors.InvalidArgumentError,
            "row 1: `log_offset` must be -1 or an offset, got -2",
        ),
        (
            {"log": ops.LogPosition([0, 0, 2], [4, 5, 1], [5, 6, 2])},
            tf.errors.InvalidArgumentError,
            r"row 2: `log_partition` must be in \[0, 2\)",
        ),
        (
            {"log": ops.LogPosition([0, 0, 0], [3, 5, 6], [5, 6, 7])},
            tf.errors.FailedPreconditionError,
            "row 0: partition 0 of this index stands at offset 4",
        ),
        (
            {
                "delete": [False] * 3,
                "capacity": 3,
                "found": [False, True, True],
            },
            tf.errors.ResourceExhaustedError,
            "the index is full: the batch needs 1 more rows than the capacity "
            r"of 3 leaves \(3 items\)",
        ),
        (
            {"live_rows": [3, 1], "capacity": 9},
            tf.errors.ResourceExhaustedError,
            "shard 0 of the index is full: the batch needs 1 more rows than "
            r"the capacity of 3 leaves \(3 items\)",
        ),
        (
            {"shard": [0, 2, 1]},
            tf.errors.InvalidArgumentError,
            r"row 1: `shard` must be in \[0, 2\), got 2",
        ),
        (
            {"shard": [0, -1, 1]},
            tf.errors.InvalidArgumentError,
            "row 1: `shard` must be in",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        _check(**changes)


def test_rows_that_are_not_looked_at_may_hold_anything():
    bad = np.full([3, 2], np.nan, np.float32)
    bad[0] = 1
    skip = ops.LogPosition([0, 0, 0], [-1, 4, -1], [-1, 5, -1])
    assert _check(id=[7, -1, 9], embedding=bad, log=skip) == [7, -1, 9]


@pytest.mark.parametrize("name", ["delete", "shard", "found"])
def test_vectors_must_fit_each_other(name):
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        _check(**{name: [0, 1] if name == "shard" else [False, True]})


def test_shapes():
    spec = tf.TensorSpec([None], tf.int64)
    flag = tf.TensorSpec([None], tf.bool)

    def check(id, delete, number, counts):
        return ops.check_update(
            id,
            delete,
            None,
            ops.LogPosition(number, number, number),
            shard=number,
            found=delete,
            live_rows=counts,
            log_offsets=counts,
            capacity=1,
            shard_capacity=1,
        )

    def trace(*specs):
        function = tf.function(check, autograph=False)
        return function.get_concrete_function(*specs).structured_outputs.shape

    known = tf.TensorSpec([5], tf.int64)
    assert trace(spec, flag, spec, spec).as_list() == [None]
    assert trace(known, flag, spec, spec).as_list() == [5]
    with pytest.raises(ValueError, match="Dimension"):
        trace(known, tf.TensorSpec([4], tf.bool), spec, spec)
