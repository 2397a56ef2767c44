# SPDX-License-Identifier: Apache-2.0
"""The projection in numpy makes the codes that the operation makes."""

import numpy as np
import pytest

from lintf import ops
from lintf.index import oporp
from lintf.index.index import code_rows
from lintf.index.schema import Quantization


@pytest.mark.parametrize(
    ("dim", "bins", "repeats", "seed"),
    [
        (2, 1, 64, 0),
        (7, 1, 64, 3),
        (13, 4, 32, 2**62),
        (50, 4, 128, 0),
        (64, 64, 1, 9),
        (100, 64, 3, 1),
    ],
)
def test_codes_are_the_signs_of_the_projection(dim, bins, repeats, seed):
    codes = Quantization(bins, repeats, seed)
    matrix = oporp.projection(codes, dim)
    # In each repeat every coordinate is in one bin, with a sign.
    per_repeat = np.abs(matrix).reshape(dim, repeats, bins).sum(axis=2)
    assert (per_repeat == 1).all()
    sizes = np.abs(matrix).sum(axis=0)
    assert set(sizes.tolist()) <= {dim // bins, -(-dim // bins)}
    # Whole numbers: their sums are exact in any order.
    vectors = np.random.default_rng(dim).integers(-9, 9, (40, dim))
    made = ops.sign_oporp(
        vectors.astype(np.float32), bins=bins, repeats=repeats, seed=seed
    ).numpy()
    bits = vectors @ matrix >= 0
    np.testing.assert_array_equal(made, oporp.pack(bits))
    np.testing.assert_array_equal(oporp.unpack(made), bits)


def test_more_repeats_continue_a_code():
    short = oporp.projection(Quantization(8, 8, seed=4), 20)
    long = oporp.projection(Quantization(8, 24, seed=4), 20)
    np.testing.assert_array_equal(long[:, :64], short)
    other = oporp.projection(Quantization(8, 8, seed=5), 20)
    assert (other != short).any()


def test_code_rows_undo_the_blocks():
    rows = np.arange(130 * 2).reshape(130, 2)
    blocks = np.zeros((3, 2, 64), np.int64)
    for row in range(130):
        blocks[row // 64, :, row % 64] = rows[row]
    np.testing.assert_array_equal(code_rows(blocks, 130), rows)
