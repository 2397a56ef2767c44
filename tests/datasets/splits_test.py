# SPDX-License-Identifier: Apache-2.0
"""Leave-one-out, on sequences small enough to check by eye."""

import numpy as np
import pytest

from lintf.datasets import leave_one_out


def _split():
    # User 2 comes first in the file; user 1's items 11 and 12 share a second.
    rows = [
        (2, 21, 300),
        (1, 10, 100),
        (1, 13, 400),
        (2, 20, 100),
        (1, 12, 200),
        (1, 11, 200),
        (2, 22, 300),
    ]
    user, item, time = (np.array(column) for column in zip(*rows, strict=True))
    return leave_one_out(user, item, time)


def test_users_ascend():
    np.testing.assert_array_equal(_split().user_id, [1, 2])


def test_last_is_test_and_last_but_one_is_validation():
    split = _split()
    # The tie between 12 and 11, and between 21 and 22, keeps the file's order.
    np.testing.assert_array_equal(split.target("test"), [13, 22])
    np.testing.assert_array_equal(split.target("validation"), [11, 21])


def test_seen_is_what_came_before():
    split = _split()
    np.testing.assert_array_equal(split.seen(0, "test"), [10, 12, 11])
    np.testing.assert_array_equal(split.seen(0, "validation"), [10, 12])
    np.testing.assert_array_equal(split.seen(1, "test"), [20, 21])
    np.testing.assert_array_equal(split.seen(1, "validation"), [20])


def test_nothing_is_lost():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(30), rng.integers(3, 9, 30))
    rng.shuffle(user)
    item = np.arange(len(user))
    time = rng.integers(0, 5, len(user))
    split = leave_one_out(user, item, time)
    for row in range(split.num_users):
        whole = np.append(split.seen(row, "test"), split.target("test")[row])
        mine = item[user == split.user_id[row]]
        np.testing.assert_array_equal(
            whole, mine[np.argsort(time[mine], kind="stable")]
        )


def test_a_short_sequence_is_refused():
    user, item, time = np.array([[1, 1, 1, 7, 7], [1, 2, 3, 4, 5], [0] * 5])
    with pytest.raises(ValueError, match="user 7 has 2; drop such users"):
        leave_one_out(user, item, time)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"one shape \[N\]"):
        leave_one_out(np.zeros(3), np.zeros(3), np.zeros(2))


def test_unknown_part_is_refused():
    with pytest.raises(ValueError, match="'validation' or 'test'"):
        _split().target("train")
