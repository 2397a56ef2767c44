# SPDX-License-Identifier: Apache-2.0
"""Lintf>CompileFilter: batches, padding, schemas and errors.

The language itself is tested in tests/filters and in the core's own tests.
"""

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.index.columns import fingerprints
from lintf.index.schema import Attribute, FilterLimits, IndexSchema
from lintf.ops import library
from tests.ops.toy_index import ID_COLUMN, IN_SET

RAW = library.load()
SCHEMA = IndexSchema(
    dim=2,
    attributes=(
        Attribute("year", "int"),
        Attribute("genres", "tags", "bits", "uint8", 1, ("Comedy", "War")),
        Attribute("price", "float", dtype="float32"),
        Attribute("director", "category", "hash", "int64"),
        Attribute("lang", "category", "vocabulary", "uint8", 1, ("de", "en")),
        Attribute("seen", "timestamp"),
        Attribute("adult", "bool", dtype="int8"),
        Attribute("words", "tags", "hash", "int64", 5),
    ),
    limits=FilterLimits(max_length=200, max_depth=4, max_words=40),
)
FILTERS = [
    "",
    "year >= 1990",
    'genres == "War" and price < 2.5',
    'director == "Ang Lee" or lang != "de"',
    'not (adult == true) and contains_any(words, ["a", "b"])',
    "year >= 1990",
    "  ",
]


def test_pads_to_the_longest_of_the_batch():
    programs = ops.compile_filter(FILTERS, SCHEMA).numpy()
    used = programs[:, 0] & 0xFFFFFFFF
    assert programs.dtype == np.int64
    assert programs.shape == (len(FILTERS), used.max())
    assert used[0] == used[6] == 0 and not programs[[0, 6]].any()
    np.testing.assert_array_equal(programs[1], programs[5])
    for program, words in zip(programs, used, strict=True):
        assert not program[words:].any()


def test_each_filter_compiles_as_if_alone():
    together = ops.compile_filter(FILTERS, SCHEMA).numpy()
    for text, program in zip(FILTERS, together, strict=True):
        alone = ops.compile_filter([text], SCHEMA).numpy()[0]
        words = max(1, alone[0] & 0xFFFFFFFF)
        assert len(alone) == words
        np.testing.assert_array_equal(program[:words], alone)
        assert not program[words:].any()


def test_pad_words():
    padded = ops.compile_filter(FILTERS, SCHEMA, pad_words=40).numpy()
    shorter = ops.compile_filter(FILTERS, SCHEMA).numpy()
    assert padded.shape == (len(FILTERS), 40)
    np.testing.assert_array_equal(padded[:, : shorter.shape[1]], shorter)
    assert not padded[:, shorter.shape[1] :].any()
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        ops.compile_filter(["", "id in [1, 2, 3, 4]"], SCHEMA, pad_words=3)
    assert "filter[1]: " in str(error.value)
    assert "at most 3 words" in str(error.value)


def test_empty_batches():
    assert ops.compile_filter(tf.zeros([0], tf.string), SCHEMA).shape == [0, 1]
    blank = ops.compile_filter(["", ""], SCHEMA)
    assert blank.numpy().tolist() == [[0], [0]]


def test_string_ids_are_fingerprints():
    schema = IndexSchema(dim=2, id_dtype="string")
    program = ops.compile_filter(['id in ["b", "a"]'], schema).numpy()[0]
    assert program[1] == IN_SET | ID_COLUMN << 8 | 2 << 32
    assert program[2:].tolist() == sorted(fingerprints(["a", "b"]).tolist())


def test_hashes_are_those_of_tf_fingerprint():
    # What TensorFlow computes here and what the library's own kernel does.
    texts = ["", "a", "Ang Lee", "ü" * 100, "x" * 199]
    stored = fingerprints(texts[1:])
    for text, value in zip(texts[1:], stored, strict=True):
        if len(text.encode()) > 150:
            continue
        program = ops.compile_filter([f'director == "{text}"'], SCHEMA)
        assert value in program.numpy()[0]


@pytest.mark.parametrize(
    "text,position",
    [
        ("year >", 7),
        ("bogus == 1", 1),
        ('year == "x"', 9),
        ("year == 1 or (price < 1", 24),
    ],
)
def test_errors_name_the_filter_and_the_position(text, position):
    filters = ["", "year == 1", "year == 2", text]
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        ops.compile_filter(filters, SCHEMA)
    message = str(error.value)
    assert "filter[3]: " in message
    assert str(position) in message.split("filter[3]: ")[1]


def test_limits_reach_the_compiler():
    for text, limit in [
        ("year == 1 " + " " * 200, "200"),
        ("((((((year == 1))))))", "4"),
        (f"id in [{', '.join(map(str, range(0, 80, 2)))}]", "40"),
    ]:
        with pytest.raises(tf.errors.InvalidArgumentError, match=limit):
            ops.compile_filter([text], SCHEMA)


def test_any_bytes_are_an_error_and_not_a_crash():
    rng = np.random.default_rng(1)
    for _ in range(300):
        text = rng.integers(0, 256, rng.integers(1, 40)).astype(np.uint8)
        try:
            ops.compile_filter([text.tobytes()], SCHEMA)
        except tf.errors.InvalidArgumentError as error:
            assert "filter[0]: " in str(error)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"kinds": ["number"] * 8}, '`kinds` must be of category.*"number"'),
        ({"encodings": ["raw"] * 8}, "`encodings` must be of number"),
        ({"types": ["int32"] * 8}, "`types` must be of int8"),
        ({"widths": [0] * 8}, "`widths` must be at least 1, got 0"),
        ({"vocabularies": ["a"]}, "`vocabulary_sizes` must add up to the 1"),
        ({"vocabularies": ["a"] * 9}, "`vocabulary_sizes` must add up to"),
        ({"vocabulary_sizes": [-1] * 8}, "`vocabulary_sizes` must add up to"),
    ],
)
def test_schemas_are_checked(change, message):
    attrs = {**ops.filters.schema_attrs(SCHEMA), **change}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        RAW.lintf_compile_filter(["year == 1"], **attrs)


def test_filters_must_be_a_vector():
    for shape in ([], [1, 1]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="`filters`"):
            ops.compile_filter(tf.fill(shape, ""), SCHEMA)
