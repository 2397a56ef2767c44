# SPDX-License-Identifier: Apache-2.0
"""Lintf>FilterMask: programs over columns of every type, against numpy."""

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.toy_index import (
    AND,
    BITS_ALL,
    BITS_ANY,
    COLUMN_DTYPES,
    FALSE,
    FLOAT_RANGE,
    ID_COLUMN,
    IN_SET,
    IN_TABLE,
    NOT,
    OR,
    RANGE,
    TRUE,
    ToyIndex,
    program,
)

INTEGERS = tuple(d for d in COLUMN_DTYPES if d not in ("float32", "uint64"))
UNSIGNED = tuple(d for d in COLUMN_DTYPES if d.startswith("uint"))
TAGS = {"uint8": 3, "uint16": 2, "uint32": 4, "int64": 5}


def _float_word(value):
    return int(np.float32(value).view(np.uint32))


def _any_value(matches):
    """Rows with a match; a column of tags holds several values a row."""
    return matches if matches.ndim == 1 else matches.any(axis=1)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("widths", [None, TAGS])
def test_ranges_and_sets(dtype, widths):
    index = ToyIndex(rows=203, capacity=210, dim=1, dead=[5, 64], widths=widths)
    column = index.column(dtype)
    values = index.column_values[column][: index.rows].astype(object)
    limits = np.iinfo(dtype)
    ranges = [(2, 5), (limits.min, limits.max), (7, 7), (5, 2), (3, limits.max)]
    sets = [[0], [1, 4, 6], [limits.min, limits.max], list(range(8))]
    programs = [program((RANGE, column, *r), words=12) for r in ranges]
    programs += [program((IN_SET, column, *s), words=12) for s in sets]
    bits, passing = index.mask(programs)
    expected = [
        _any_value((values >= lo) & (values <= hi)) for lo, hi in ranges
    ]
    expected += [_any_value(np.isin(values, s)) for s in sets]
    for row, truth in zip(bits, expected, strict=True):
        np.testing.assert_array_equal(row, truth.astype(bool) & index.live)
    np.testing.assert_array_equal(passing, bits.sum(axis=1))


def test_tables():
    for widths in (None, TAGS):
        index = ToyIndex(rows=100, capacity=100, dim=1, widths=widths)
        column = index.column("uint8")
        wanted = [0, 3, 255]
        table = [0, 0, 0, 0]
        for value in wanted:
            table[value // 64] |= 1 << value % 64
        table = np.array(table, np.uint64).view(np.int64).tolist()
        bits, _ = index.mask([program((IN_TABLE, column, *table))])
        truth = _any_value(np.isin(index.column_values[column], wanted))
        np.testing.assert_array_equal(bits[0], truth)


@pytest.mark.parametrize("dtype", UNSIGNED)
def test_bits(dtype):
    index = ToyIndex(rows=100, capacity=100, dim=1)
    column = index.column(dtype)
    values = index.column_values[column].astype(np.uint64)
    high = np.array(1 << (np.iinfo(dtype).bits - 1), np.uint64)
    for wanted in (np.uint64(1), np.uint64(6), high, high | np.uint64(2)):
        word = int(np.array(wanted).view(np.int64))
        bits, _ = index.mask(
            [
                program((BITS_ANY, column, word)),
                program((BITS_ALL, column, word)),
            ]
        )
        np.testing.assert_array_equal(bits[0], (values & wanted) != 0)
        np.testing.assert_array_equal(bits[1], (values & wanted) == wanted)


def test_floats_and_missing():
    index = ToyIndex(rows=100, capacity=100, dim=1)
    column = index.column("float32")
    values = index.column_values[column]
    for lo, hi in [(-1, 0.5), (-np.inf, np.inf), (0, 0), (1, -1)]:
        leaf = (FLOAT_RANGE, column, _float_word(lo), _float_word(hi))
        bits, _ = index.mask(
            [program(leaf, words=6), program(leaf, (NOT, 0), words=6)]
        )
        with np.errstate(invalid="ignore"):
            truth = (values >= lo) & (values <= hi)
        np.testing.assert_array_equal(bits[0], truth)
        # A missing value matches every negated predicate.
        np.testing.assert_array_equal(bits[1], ~truth)
    assert np.isnan(values).any()


def test_logic():
    index = ToyIndex(rows=130, capacity=140, dim=1, dead=[0, 129])
    column = index.column("int16")
    values = index.column_values[column][:130]
    low, high = (RANGE, column, 0, 4), (RANGE, column, 3, 7)
    is_low, is_high = (
        (0 <= values) & (values <= 4),
        (3 <= values) & (values <= 7),
    )
    cases = [
        (program((TRUE, 0)), np.ones(130, bool)),
        (program((FALSE, 0)), np.zeros(130, bool)),
        (program((FALSE, 0), (NOT, 0)), np.ones(130, bool)),
        (program(low, high, (AND, 0)), is_low & is_high),
        (program(low, high, (OR, 0)), is_low | is_high),
        (program(low, (NOT, 0), high, (AND, 0)), ~is_low & is_high),
        (program(low, high, (AND, 0), (NOT, 0)), ~(is_low & is_high)),
        (program(), np.ones(130, bool)),
    ]
    # One at a time, and in one batch.
    for words, truth in cases:
        bits, passing = index.mask([words])
        np.testing.assert_array_equal(bits[0], truth & index.live)
        assert passing[0] == (truth & index.live).sum()
    longest = max(len(words) for words, _ in cases)
    batch = [np.pad(words, (0, longest - len(words))) for words, _ in cases]
    bits, _ = index.mask(batch)
    for row, (_, truth) in zip(bits, cases, strict=True):
        np.testing.assert_array_equal(row, truth & index.live)


def test_ids():
    index = ToyIndex(rows=150, capacity=200, dim=1, dead=[3, 77])
    ids = index.id_values
    # Of rows, of a dead row, of a row past the last, and of nothing.
    wanted = sorted({ids[0], ids[149], ids[64], ids[160], -1, 10**12})
    middle = int(np.median(ids))
    bits, _ = index.mask(
        [
            program((IN_SET, ID_COLUMN, *wanted), words=12),
            program((IN_SET, ID_COLUMN, *wanted), (NOT, 0), words=12),
            program((RANGE, ID_COLUMN, 0, middle), words=12),
        ]
    )
    among = np.isin(ids[:150], wanted)
    np.testing.assert_array_equal(bits[0], among & index.live)
    np.testing.assert_array_equal(bits[1], ~among & index.live)
    np.testing.assert_array_equal(
        bits[2], (ids[:150] <= middle) & (ids[:150] >= 0) & index.live
    )


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 1000])
def test_sizes(rows):
    index = ToyIndex(rows=rows, capacity=max(1, rows), dim=1)
    column = index.column("int8")
    bits, passing = index.mask([program((RANGE, column, 2, 5)), [0] * 4])
    values = index.column_values[column][:rows]
    np.testing.assert_array_equal(bits[0], (values >= 2) & (values <= 5))
    assert bits[1].all() and passing[1] == rows


def test_many_rows_and_equal_programs():
    # More rows than one task takes; equal programs share the work.
    index = ToyIndex(rows=200_000, capacity=200_001, dim=1, dead=[70_000])
    column = index.column("uint16")
    values = index.column_values[column][:200_000]
    leaf = program((RANGE, column, 1, 3))
    other = program((RANGE, column, 2, 2))
    bits, passing = index.mask([leaf, other, leaf, leaf])
    truth = (values >= 1) & (values <= 3) & index.live
    for i in (0, 2, 3):
        np.testing.assert_array_equal(bits[i], truth)
        assert passing[i] == truth.sum()
    np.testing.assert_array_equal(bits[1], (values == 2) & index.live)


def test_empty_batch():
    index = ToyIndex(rows=70, capacity=70, dim=1)
    bits, passing = index.mask(np.zeros((0, 3), np.int64))
    assert bits.shape == (0, 70) and passing.shape == (0,)


@pytest.mark.parametrize(
    "words",
    [
        [1],
        [1 << 32],
        [2 << 32 | 2, TRUE],
        [1 << 32 | 3, TRUE],
        [1 << 32 | 2, 99],
        [1 << 32 | 2, AND],
        [1 << 32 | 3, TRUE, TRUE],
        [1 << 32 | 2, TRUE, 5],
        [1 << 32 | 4, RANGE | 8 << 8 | 2 << 32, 0, 1],
        [1 << 32 | 4, RANGE | 0 << 8 | 2 << 32, 0, 1000],
        [1 << 32 | 3, RANGE | 0 << 8 | 1 << 32, 0],
        [1 << 32 | 4, IN_SET | 0 << 8 | 2 << 32, 5, 3],
        [1 << 32 | 2, IN_SET | 0 << 8 | (2**31 - 1) << 32],
        [-1],
        [2**63 - 1],
    ],
)
def test_malformed_programs_are_refused(words):
    index = ToyIndex(rows=70, capacity=70, dim=1)
    good = program((TRUE, 0), words=len(words))
    if len(words) > 1:
        batch = [good, good, np.array(words, np.int64)]
    else:
        batch = [[0], [0], words]
    with pytest.raises(tf.errors.InvalidArgumentError, match="program 2: "):
        index.mask(batch)


@pytest.mark.parametrize("shape", [(3,), (2, 0), (1, 2, 3)])
def test_programs_must_be_a_matrix(shape):
    index = ToyIndex(rows=7, capacity=7, dim=1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`programs`"):
        index.mask(np.zeros(shape, np.int64))


def _random_instructions(rng, depth):
    """A well-formed expression over the columns of ToyIndex."""
    choice = int(rng.integers(6 if depth else 3))
    if choice == 0:
        return [(TRUE, 0)]
    if choice < 3:
        column = int(rng.choice([0, 1, 2, 3, 4, 5, ID_COLUMN]))
        values = sorted(rng.integers(0, 8, int(rng.integers(2, 5))).tolist())
        if choice == 1:
            return [(RANGE, column, *values[:2])]
        return [(IN_SET, column, *values)]
    left = _random_instructions(rng, depth - 1)
    if choice == 3:
        return [*left, (NOT, 0)]
    right = _random_instructions(rng, depth - 1)
    return [*left, *right, (AND if choice == 4 else OR, 0)]


def test_random_programs_never_crash():
    index = ToyIndex(rows=130, capacity=140, dim=1, dead=[9], widths=TAGS)
    rng = np.random.default_rng(12)
    query = np.ones((1, 1), np.float32)
    refused = changed = 0
    for round_ in range(3000):
        words = program(*_random_instructions(rng, depth=4))
        if round_ % 3 == 1:
            words[rng.integers(len(words))] ^= 1 << int(rng.integers(63))
        elif round_ % 3 == 2:
            size = int(rng.integers(1, 24))
            words = rng.integers(-(2**63), 2**63, size, dtype=np.int64)
        try:
            bits, passing = index.mask(words[np.newaxis])
        except tf.errors.InvalidArgumentError as error:
            assert round_ % 3 != 0 and "program 0: " in str(error)
            with pytest.raises(tf.errors.InvalidArgumentError):
                index.retrieve(query, words[np.newaxis], k=3)
            refused += 1
        else:
            assert passing[0] == bits.sum() and not bits[0, 9]
            found = index.retrieve(query, words[np.newaxis], k=3)
            assert found.num_results[0] == min(3, passing[0])
            rows = found.rows.numpy()[0]
            assert bits[0, rows[rows >= 0]].all()
            changed += round_ % 3 == 1
    # Some of the programs with one bit changed still mean something.
    assert refused > 1000 and changed > 10
