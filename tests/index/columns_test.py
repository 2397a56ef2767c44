# SPDX-License-Identifier: Apache-2.0
"""Columns: every kind and encoding there and back, and what is refused."""

import datetime

import numpy as np
import pytest
import tensorflow as tf

from lintf.index import columns
from lintf.index.schema import Attribute, infer_attribute

LOWEST = np.iinfo(np.int64).min


def _both_ways(attribute, values):
    column = columns.encode(attribute, values)
    assert column.dtype == attribute.dtype
    decoded = columns.decode(attribute, column)
    tensor = columns.decode_tensor(attribute, tf.constant(column)).numpy()
    return decoded, tensor


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_category_by_vocabulary(dtype):
    attribute = Attribute(
        "x", "category", "vocabulary", dtype, 1, ("a", "b", "ü")
    )
    decoded, tensor = _both_ways(attribute, ["ü", None, "a", "new", ""])
    assert decoded == ["ü", None, "a", "", None]
    assert [t.decode() for t in tensor] == ["ü", "", "a", "", ""]


@pytest.mark.parametrize("size", [3, 7, 15, 31, 63, 64, 200])
def test_tags(size):
    words = [f"w{i:03}" for i in range(size)]
    rows = [[words[-1], words[0]], [], None, [words[1], words[1]]]
    attribute = infer_attribute("x", "tags", [words], width=3)
    decoded, tensor = _both_ways(attribute, [*rows, ["new", words[2]]])
    expected = [[words[0], words[-1]], [], [], [words[1]], [words[2]]]
    assert decoded == expected
    found = [[t.decode() for t in row if t] for row in tensor]
    assert found == expected
    # Values come first, padding last.
    assert all(list(map(bool, r)) == sorted(map(bool, r))[::-1] for r in tensor)


@pytest.mark.parametrize("dtype", ["int64", "int16", "int8", "uint32"])
def test_int_keeps_its_whole_range(dtype):
    attribute = Attribute("x", "int", "number", dtype)
    limits = np.iinfo(dtype)
    low, high = limits.min, limits.max
    low, high = (0, high - 1) if low == 0 else (low + 1, high)
    decoded, tensor = _both_ways(attribute, [low, None, high, 5.0])
    assert decoded == [low, None, high, 5]
    assert tensor.tolist() == [low, LOWEST, high, 5]
    missing = columns.missing_value(attribute)
    for bad in (int(missing), low - 2, high + 2):
        with pytest.raises(ValueError, match=f"value 1: {bad} does not fit"):
            columns.encode(attribute, [0, bad])


def test_int_arrays_take_the_quick_way_to_the_same_end():
    attribute = Attribute("x", "int", "number", "int16")
    values = np.array([-5, 0, 32767])
    assert columns.encode(attribute, values).tolist() == values.tolist()
    with pytest.raises(ValueError, match="value 0: -32768 does not fit"):
        columns.encode(attribute, np.array([-32768]))


def test_float_bool_and_timestamp():
    decoded, tensor = _both_ways(
        Attribute("x", "float", "number", "float32"), [0.5, None, -2]
    )
    assert decoded == [0.5, None, -2.0]
    assert np.isnan(tensor[1])
    decoded, tensor = _both_ways(
        Attribute("x", "bool", "number", "int8"), [True, None, np.False_]
    )
    assert decoded == [True, None, False]
    assert tensor.tolist() == [1, -1, 0]
    utc = datetime.timezone.utc
    decoded, _ = _both_ways(
        Attribute("x", "timestamp"),
        [
            "1970-01-02",
            "1970-01-01T01:00:00+01:00",
            datetime.datetime(1970, 1, 1, 0, 0, 7, tzinfo=utc),
            datetime.date(1970, 1, 3),
            np.datetime64("1970-01-01T00:00:09"),
            42,
            None,
        ],
    )
    assert decoded == [86400, 0, 7, 172800, 9, 42, None]


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("int", "7", "expected a int or nothing, got '7'"),
        ("int", 1.5, "expected a int"),
        ("int", True, "expected a int"),
        ("float", "x", "expected a float"),
        ("float", 1e300, "expected a finite float32"),
        ("bool", 1, "expected a bool"),
        ("timestamp", "yesterday", "expected a timestamp"),
        ("category", 3, "expected a string"),
        ("tags", "Drama", "expected a list of strings"),
        ("tags", [3], "expected a list of strings"),
    ],
)
def test_wrong_types_name_attribute_and_position(kind, value, message):
    attribute = infer_attribute("x", kind, [])
    with pytest.raises(ValueError, match=f"'x', value 1: {message}"):
        columns.encode(attribute, [None, value])


def test_too_many_tags():
    attribute = Attribute("x", "tags", "hash", "int64", 2)
    with pytest.raises(ValueError, match="3 tags, but the column has room"):
        columns.encode(attribute, [["a", "b", "c"]])


def test_hashes_cannot_be_decoded():
    attribute = Attribute("x", "category", "hash", "int64")
    column = columns.encode(attribute, ["a", None, "b"])
    assert column[1] == 0 and len(set(column.tolist())) == 3
    with pytest.raises(ValueError, match="stored as hashes"):
        columns.decode(attribute, column)


def test_fingerprints_avoid_the_reserved_values():
    texts = tf.constant(["a", "b", "c"])
    found = columns.fingerprint_tensor(texts).numpy()
    raw = tf.bitcast(tf.fingerprint(texts), tf.int64).numpy()
    np.testing.assert_array_equal(found, raw)
    assert columns.fingerprints([]).shape == (0,)
