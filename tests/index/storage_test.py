# SPDX-License-Identifier: Apache-2.0
"""Compact storage: what is written, what it is off by, what is refused."""

import numpy as np
import pytest

from lintf.index import storage

ROWS = np.random.default_rng(1).standard_normal((200, 9)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-30, 60_000 / 5, 0.0])
def test_decoded_rows_are_within_the_bound(dtype, size):
    rows = ROWS * np.float32(size)
    stored = storage.encode(rows, dtype)
    assert stored.values.dtype.name == dtype
    decoded = storage.decode(*stored)
    assert decoded.dtype == np.float32
    error = np.abs(decoded.astype(np.float64) - rows)
    bound = storage.error_bound(rows, dtype)
    assert (error <= bound).all()
    # The bound says something: it is no more than 1 % of the largest number,
    # but for numbers that float16 cannot tell from 0.
    assert bound.max() <= max(0.01 * np.abs(rows).max(), 2.0**-25)


def test_rounding_is_to_nearest_and_half_to_even():
    # A scale of 1: the numbers themselves are what is rounded.
    row = np.float32([[127, 0.5, 1.5, -2.5, 63.49, -63.51]])
    stored = storage.encode(row, "int8")
    assert stored.values.tolist() == [[127, 0, 2, -2, 63, -64]]
    assert stored.scales.tolist() == [1.0]
    # Between two neighbours of each dtype, the even one.
    assert storage.encode(np.float32([[2049, 2051]]), "float16").values.astype(
        float
    ).tolist() == [[2048, 2052]]
    assert storage.encode(np.float32([[257, 259]]), "bfloat16").values.astype(
        float
    ).tolist() == [[256, 260]]


def test_rows_of_zeros_and_of_next_to_nothing_have_scale_0():
    rows = np.float32([[0, 0], [1e-38, -1e-39], [1e-35, 0]])
    stored = storage.encode(rows, "int8")
    assert stored.scales[:2].tolist() == [0, 0]
    assert stored.scales[2] > 0
    assert stored.values.tolist() == [[0, 0], [0, 0], [127, 0]]
    error = np.abs(storage.decode(*stored).astype(np.float64) - rows)
    assert (error <= storage.error_bound(rows, "int8")).all()


@pytest.mark.parametrize(
    ("dtype", "value", "end"),
    [("float16", 65521, "65504"), ("bfloat16", 3.4e38, r"3\.3895")],
)
def test_what_does_not_fit_is_refused(dtype, value, end):
    rows = np.float32([[1, 2], [3, -value]])
    message = f"must fit {dtype}, which ends at {end}.*item 1 .*at dimension 1"
    with pytest.raises(ValueError, match=message):
        storage.encode(rows, dtype)
    # The greatest number that still rounds to a finite one.
    assert storage.encode(np.float32([[65519]]), "float16").values[0, 0] == (
        65504
    )
