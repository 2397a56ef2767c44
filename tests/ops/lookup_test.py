# SPDX-License-Identifier: Apache-2.0
"""Lintf>Lookup and Lintf>IndexStats."""

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.toy_index import ToyIndex


@pytest.mark.parametrize("widths", [None, {"uint8": 3, "int64": 2}])
def test_every_row_and_what_is_not_there(widths):
    index = ToyIndex(rows=90, capacity=100, dim=4, dead=[5], widths=widths)
    known = [r for r in range(90) if r != 5]
    # A dead row, one past the last, and no item's.
    absent = [-1, int(index.id_values[95]), 10**15]
    ids = [*index.id_values[known].tolist(), *absent]
    looked = index.lookup(ids)
    rows = [*known, -1, -1, -1]
    np.testing.assert_array_equal(looked.row, rows)
    np.testing.assert_array_equal(looked.found, np.array(rows) >= 0)
    np.testing.assert_array_equal(looked.embedding[:-3], index.vectors[known])
    assert not looked.embedding.numpy()[-3:].any()
    for values, stored in zip(looked.values, index.column_values, strict=True):
        np.testing.assert_array_equal(values[:-3], stored[known])
        if stored.dtype == np.float32:
            assert np.isnan(values[-3:]).all()
        else:
            assert (values.numpy()[-3:] == np.iinfo(stored.dtype).min).all()


def test_repeats_and_nothing():
    index = ToyIndex(rows=9, capacity=9, dim=4)
    id = int(index.id_values[3])
    assert index.lookup([id, id]).row.numpy().tolist() == [3, 3]
    assert index.lookup(np.zeros(0, np.int64)).embedding.shape == [0, 4]


def test_empty_index():
    index = ToyIndex(rows=0, capacity=9, dim=4)
    assert not index.lookup(index.id_values).found.numpy().any()
    stats = index.stats()
    assert (int(stats.num_rows), int(stats.live_rows)) == (0, 0)


def test_stats():
    index = ToyIndex(rows=9, capacity=20, dim=4, dead=[0, 8, 12])
    stats = index.stats()
    assert (int(stats.num_rows), int(stats.live_rows)) == (9, 7)


@pytest.mark.parametrize("shape", [(), (2, 1)])
def test_ids_must_be_a_vector(shape):
    index = ToyIndex(rows=9, capacity=9, dim=4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`id` must have"):
        index.lookup(np.zeros(shape, np.int64))
