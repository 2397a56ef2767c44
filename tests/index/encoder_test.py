# SPDX-License-Identifier: Apache-2.0
"""Encoding in the graph: the same as in numpy, whatever comes."""

import re

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from lintf.index import columns, inputs
from lintf.index.encoder import AttributeEncoder
from lintf.index.schema import Attribute

LOWEST = np.iinfo(np.int64).min
WORDS = tuple(f"w{i}" for i in range(60)) + ("é", "emoji 😀", " ")

ATTRIBUTES = [
    *(
        Attribute("x", kind, "vocabulary", dtype, width, WORDS[:size])
        for kind, dtype, width, size in [
            ("category", "uint8", 1, 0),
            ("category", "uint8", 1, 63),
            ("category", "uint16", 1, 5),
            ("category", "uint32", 1, 5),
            ("tags", "uint8", 1, 5),
            ("tags", "uint16", 4, 5),
            ("tags", "uint32", 6, 63),
        ]
    ),
    *(
        Attribute("x", "tags", "bits", dtype, 1, WORDS[:size])
        for dtype, size in [
            ("uint8", 0),
            ("uint8", 7),
            ("uint16", 15),
            ("uint32", 31),
            ("uint64", 63),
        ]
    ),
    Attribute("x", "category", "hash", "int64"),
    Attribute("x", "tags", "hash", "int64", 1),
    Attribute("x", "tags", "hash", "int64", 5),
    *(
        Attribute("x", "int", "number", dtype)
        for dtype in ("int64", "int16", "int8", "uint32")
    ),
    Attribute("x", "timestamp", "number", "int64"),
    Attribute("x", "timestamp", "number", "uint32"),
    Attribute("x", "float", "number", "float32"),
    Attribute("x", "bool", "number", "int8"),
]


def _name(attribute):
    return (
        f"{attribute.kind}-{attribute.encoding}-{attribute.dtype}-"
        f"{attribute.width}-{len(attribute.vocabulary)}"
    )


def _values(attribute):
    word = st.sampled_from([*WORDS, "new", "€"]) | st.text(max_size=3).filter(
        lambda t: "\x00" not in t
    )
    if attribute.kind == "category":
        return st.none() | word
    if attribute.kind == "tags":
        most = 80 if attribute.encoding == "bits" else attribute.width
        return st.none() | st.lists(word, max_size=most)
    if attribute.kind == "float":
        return st.none() | st.floats(width=32, allow_infinity=False)
    if attribute.kind == "bool":
        return st.none() | st.booleans()
    limits = np.iinfo(attribute.dtype)
    low, high = int(limits.min), int(limits.max)
    low, high = (low, high - 1) if low == 0 else (low + 1, high)
    return st.none() | st.integers(low, high)


# Encoders with their tables are made once, and called as graphs.
ENCODERS = {
    _name(a): (AttributeEncoder(a), tf.TensorSpec([None], tf.bool))
    for a in ATTRIBUTES
}


def _graph(attribute):
    encoder, mask = ENCODERS[_name(attribute)]
    if callable(mask):
        return mask
    graph = tf.function(
        encoder, input_signature=[inputs.input_spec(attribute), mask]
    )
    ENCODERS[_name(attribute)] = (encoder, graph)
    return graph


def _same(left, right):
    assert left.dtype == right.dtype
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=_name)
@hypothesis.settings(max_examples=20, deadline=None, derandomize=True)
@hypothesis.given(data=st.data())
def test_encodes_as_numpy_does(attribute, data):
    values = data.draw(st.lists(_values(attribute), max_size=12))
    ignored = data.draw(
        st.lists(st.booleans(), min_size=len(values), max_size=len(values))
    )
    sent = tf.constant(inputs.input_values(attribute, values))
    none = np.zeros(len(values), bool)
    _same(
        _graph(attribute)(sent, none).numpy(),
        columns.encode(attribute, values),
    )
    kept = [None if i else v for v, i in zip(values, ignored, strict=True)]
    _same(
        _graph(attribute)(sent, np.array(ignored, bool)).numpy(),
        columns.encode(attribute, kept),
    )


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=_name)
@hypothesis.settings(max_examples=8, deadline=None, derandomize=True)
@hypothesis.given(data=st.data())
def test_what_is_read_can_be_written_again(attribute, data):
    if not attribute.decodable:
        return
    known = _values(attribute)
    if attribute.encoding in ("vocabulary", "bits"):
        word = st.sampled_from(attribute.vocabulary or (None,))
        if attribute.kind == "category":
            known = st.none() | word
        else:
            known = st.lists(
                word.filter(bool), max_size=attribute.width, unique=True
            ).map(lambda row: sorted(row, key=attribute.vocabulary.index))
            if not attribute.vocabulary:
                known = st.just([])
    values = data.draw(st.lists(known, max_size=8))
    column = columns.encode(attribute, values)
    read = columns.decode_tensor(attribute, tf.constant(column))
    spec = inputs.input_spec(attribute)
    if attribute.kind == "tags":
        room = spec.shape[1] - read.shape[1]
        read = tf.pad(read, [[0, 0], [0, room]], constant_values="")
    assert spec.is_compatible_with(read)
    _same(AttributeEncoder(attribute)(read).numpy(), column)


@pytest.mark.parametrize("width", [3, 300])
def test_tags_with_gaps_and_repeats_are_packed(width):
    attribute = Attribute("x", "tags", "hash", "int64", width)
    row = ["", "b", "", "a", "b"][: width + 2]
    values = np.full([2, max(width, 5)], b"", object)
    values[0, : len(row)] = row
    encoded = AttributeEncoder(attribute)(tf.constant(values)).numpy()
    b, a = columns.fingerprints(["b", "a"])
    assert encoded[0, :3].tolist() == [b, a, 0]
    assert not encoded[0, 3:].any() and not encoded[1].any()


@pytest.mark.parametrize(
    ("kind", "dtype", "bad", "wanted"),
    [
        ("int", "int16", -32768, "from -32767 to 32767"),
        ("int", "int8", 128, "from -127 to 127"),
        ("int", "uint32", -1, "from 0 to 4294967294"),
        ("int", "uint32", 4294967295, "from 0 to 4294967294"),
        ("timestamp", "uint32", -1, "from 0 to"),
        ("float", "float32", -np.inf, "finite"),
        ("bool", "int8", 2, "from 0 to 1, or -1 for none"),
        ("bool", "int8", -128, "from 0 to 1"),
    ],
)
def test_numbers_out_of_range_name_attribute_and_row(kind, dtype, bad, wanted):
    attribute = Attribute("year", kind, "number", dtype)
    spec = inputs.input_spec(attribute)
    values = tf.constant([1, 0, bad, bad], spec.dtype)
    graph = tf.function(AttributeEncoder(attribute))
    for encode in (AttributeEncoder(attribute), graph):
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            encode(values)
        text = error.value.message
        assert f"attribute `year` must be {wanted}" in text
        # Graphs show tensors in brackets.
        assert re.search(r"row\W+2\b", text)
        # Rows that are not looked at may hold anything.
        ignored = tf.constant([False, True, True, True])
        missing = columns.encode(attribute, [None])[0]
        got = encode(values, ignored).numpy()
        _same(got[1:], np.array([missing] * 3, got.dtype))


def test_a_table_is_saved_with_the_graph(tmp_path):
    words = tuple(f"word {i}" for i in range(100_000))
    attribute = Attribute("x", "category", "vocabulary", "uint32", 1, words)
    module = tf.Module()
    module.encoder = AttributeEncoder(attribute)
    module.encode = tf.function(
        module.encoder, input_signature=[inputs.input_spec(attribute)]
    )
    signature = module.encode.get_concrete_function()
    tf.saved_model.save(module, str(tmp_path), signatures=signature)
    loaded = tf.saved_model.load(str(tmp_path))
    asked = ["word 99999", "", "no word", "word 0"]
    expected = columns.encode(attribute, asked)
    _same(loaded.encode(tf.constant(asked)).numpy(), expected)
    # As a server loads it.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        model = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
        definition = model.signature_def["serving_default"]
        (value,) = definition.inputs.values()
        (output,) = definition.outputs.values()
        found = session.run(output.name, {value.name: asked})
        _same(found, expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a", "b", "c"], "3 tags, but the column has room for 2"),
        (["\ud800"], "UTF-8"),
        ("a", "expected a list of strings"),
    ],
)
def test_tags_that_cannot_be_sent(value, message):
    attribute = Attribute("x", "tags", "hash", "int64", 2)
    with pytest.raises(ValueError, match=f"'x', value 1: .*{message}"):
        inputs.input_values(attribute, [None, value])
