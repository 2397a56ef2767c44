# SPDX-License-Identifier: Apache-2.0
"""Changes: which ones an index takes, and the requests that carry them."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import meta_graph_pb2

from lintf.index.inputs import MISSING_INT, input_spec
from lintf.index.schema import Attribute, IndexSchema, Quantization
from lintf.index.signatures import attribute_key
from lintf.index.updates import id_spec
from lintf.serving.changes import Change, ChangeEncoder

DIM = 3
ATTRIBUTES = (
    Attribute("year", "int", "number", "int16"),
    Attribute("genres", "tags", "bits", "uint8", 1, ("Drama", "War")),
    Attribute("price", "float", "number", "float32"),
    Attribute("seen", "bool", "number", "int8"),
)
FEATURES = {
    "words": tf.TensorSpec([None, 3], tf.string),
    "age": tf.TensorSpec([None], tf.int64),
}
VECTOR = [1.0, 2.0, 3.0]


def _definitions(schema, features=None):
    """The inputs of the update signatures, as a server describes them."""
    log = {
        name: tf.TensorSpec([None], tf.int64)
        for name in ("log_partition", "log_previous_offset", "log_offset")
    }
    attributes = {
        attribute_key(a.name): input_spec(a) for a in schema.attributes
    }
    base = {"id": id_spec(schema), **attributes, **log}
    rows = {**base, "delete": tf.TensorSpec([None], tf.bool)}
    given = {
        **rows,
        "embedding": tf.TensorSpec([None, schema.dim], tf.float32),
    }
    specs = {
        "update": given if features is None else {**rows, **features},
        "update_by_embedding": given,
        "update_attributes": base,
    }
    definitions = {}
    for name, inputs in specs.items():
        definition = definitions[name] = meta_graph_pb2.SignatureDef()
        for key, spec in inputs.items():
            definition.inputs[key].dtype = spec.dtype.as_datatype_enum
            definition.inputs[key].tensor_shape.CopyFrom(spec.shape.as_proto())
    return definitions


def _encoder(features=None, **fields):
    schema = IndexSchema(**{"dim": DIM, "attributes": ATTRIBUTES, **fields})
    return ChangeEncoder(schema, _definitions(schema, features))


@pytest.mark.parametrize(
    ("change", "signature"),
    [
        (Change(1, embedding=VECTOR), "update_by_embedding"),
        (Change(1, embedding=np.float64(VECTOR)), "update_by_embedding"),
        (Change(1, delete=True), "update_by_embedding"),
        (
            # Of a delete the rest is not looked at.
            Change(1, delete=True, embedding=[], attributes={"year": "x"}),
            "update_by_embedding",
        ),
        (Change(1, attributes={}), "update_attributes"),
        (
            Change(1, attributes={"year": None, "genres": ["a", "b", "War"]}),
            "update_attributes",
        ),
        (Change(1, features={"words": ["a"], "age": 3}), "update"),
        (
            Change(1, features={"id": 1, "words": [], "age": 3}),
            "update",
        ),
        (Change(None, partition=0, offset=7), "update_by_embedding"),
        (Change(-(2**63), embedding=VECTOR), "update_by_embedding"),
        (Change(np.int64(5), embedding=VECTOR), "update_by_embedding"),
    ],
)
def test_what_an_index_takes(change, signature):
    encoder = _encoder(FEATURES)
    encoder.check(change)
    assert encoder.signature(change) == signature
    inputs = encoder.inputs(signature, [change])
    specs = _definitions(encoder.schema, FEATURES)[signature].inputs
    assert set(inputs) == set(specs)
    for name, value in inputs.items():
        dims = [d.size for d in specs[name].tensor_shape.dim]
        assert list(value.shape) == [1, *dims[1:]]
        dtype = tf.dtypes.as_dtype(specs[name].dtype)
        assert value.dtype == dtype.as_numpy_dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Change(1), "an `embedding`, `features` or `attributes`"),
        (Change(1, embedding=VECTOR, features={}), "got both"),
        (Change(-1, embedding=VECTOR), "not be -1"),
        (Change(2**63, embedding=VECTOR), "fit int64"),
        (Change("1", embedding=VECTOR), "must be an integer, got '1'"),
        (Change(True, embedding=VECTOR), "must be an integer"),
        (Change(1.0, embedding=VECTOR), "must be an integer"),
        (Change(None, embedding=VECTOR), "must have an offset"),
        (Change(1, embedding=VECTOR[:2]), r"3 numbers, got the shape \[2\]"),
        (Change(1, embedding=[VECTOR]), r"the shape \[1, 3\]"),
        (Change(1, embedding=[1, 2, "3"]), "3 numbers, got"),
        (Change(1, embedding=[1, 2, None]), "3 numbers, got"),
        (Change(1, embedding=[[1], [2, 3]]), "3 numbers, got"),
        (Change(1, embedding=[True] * 3), "3 numbers, got"),
        (Change(1, embedding=7), "3 numbers, got"),
        (Change(1, embedding={"a": 1}), "3 numbers, got"),
        (Change(1, embedding=[1, np.nan, 0]), "finite.*dimension 1"),
        (Change(1, embedding=[1, 1e39, 0]), "finite in float32, got 1e.39"),
        (Change(1, attributes={"yaer": 1}), "no attribute 'yaer'; .*year"),
        (Change(1, attributes={"year": 40000}), "'year': 40000 does not fit"),
        (Change(1, attributes={"year": "x"}), "'year': expected a int"),
        (Change(1, attributes={"genres": "War"}), "'genres': expected a list"),
        (Change(1, attributes={"genres": ["\udcff"]}), "'genres'.*UTF-8"),
        (Change(1, attributes={"price": 1e300}), "'price'.*finite"),
        (Change(1, attributes={"price": 10**400}), "'price': .*too large"),
        (Change(1, attributes={"seen": 1}), "'seen': expected a bool"),
        (Change(1, features={"age": 3}), "needs the feature.*words"),
        (Change(1, features={"words": [], "age": None}), "'age'"),
        (Change(1, features={"words": [], "age": 1.5}), "'age'"),
        (Change(1, features={"words": ["a"] * 4, "age": 1}), "4 values where"),
        (Change(1, features={"words": [], "age": 1, "x": 1}), "no feature 'x'"),
        (Change(1, features={"words": [["a"]], "age": [1]}), "of one item"),
        (
            Change(1, features={"id": 2, "words": [], "age": 1}),
            "must be the item's id 1, got 2",
        ),
        (Change(1, delete=True, offset=3), "partition of at least 0"),
        (
            Change(1, delete=True, partition=0, previous_offset=3, offset=3),
            "below the offset 3",
        ),
        (
            Change(1, delete=True, partition=0, previous_offset=-2, offset=3),
            "from -1",
        ),
    ],
)
def test_poison(change, message):
    encoder = _encoder(FEATURES)
    with pytest.raises(ValueError, match=message):
        encoder.check(change)


def test_poison_of_some_indexes():
    largest = float(np.finfo(np.float32).max)
    for fields, vector, message in [
        ({"metric": "cosine"}, [0, 0, 0], "cosine.*zero"),
        ({"dtype": "float16"}, [1e5, 0, 0], "float16, which ends at 65504"),
        ({"dtype": "bfloat16"}, [largest, 0, 0], "bfloat16, which ends"),
    ]:
        with pytest.raises(ValueError, match=message):
            _encoder(**fields).check(Change(1, embedding=vector))
    # The largest that is rounded down; and a vector that is scaled to 1.
    _encoder(dtype="float16").check(Change(1, embedding=[65519, 0, 0]))
    _encoder(dtype="float16", metric="cosine").check(
        Change(1, embedding=[1e9, 0, 0])
    )
    codes = Quantization(bins=1, repeats=64)
    _encoder(dtype="none", quantization=codes).check(
        Change(1, embedding=[largest, 0, 0])
    )
    with pytest.raises(ValueError, match="no item tower"):
        _encoder().check(Change(1, features={}))
    strings = _encoder(id_dtype="string")
    strings.check(Change("é", delete=True))
    for id in ("", 5, b"x", "\ud800"):
        with pytest.raises(ValueError, match="an id must be"):
            strings.check(Change(id, delete=True))


def test_ids_from_text():
    encoder = _encoder()
    assert encoder.id_from_text("-12") == -12
    assert encoder.id_from_text(str(2**63 - 1)) == 2**63 - 1
    bad = ["", "-", "x", "1.0", "1_0", " 1", "+1", "-1", "٣", "9" * 19, "0x1"]
    for text in [*bad, "9" * 9999, "007", "-07", "-0"]:
        with pytest.raises(ValueError, match="an id must"):
            encoder.id_from_text(text)
    strings = _encoder(id_dtype="string")
    assert strings.id_from_text("-1") == "-1"
    with pytest.raises(ValueError, match="non-empty"):
        strings.id_from_text("")


def test_a_read_only_index():
    schema = IndexSchema(dim=DIM)
    with pytest.raises(ValueError, match="read-only"):
        ChangeEncoder(schema, {"lookup": meta_graph_pb2.SignatureDef()})


def test_inputs_of_a_mixed_request():
    encoder = _encoder(FEATURES)
    changes = [
        Change(
            5,
            features={"words": ["a", "b"], "age": 9},
            attributes={"year": 1990, "seen": True, "genres": ["x", "War"]},
            partition=1,
            previous_offset=3,
            offset=4,
        ),
        Change(6, delete=True, features={"words": ["a"], "age": 1}),
        Change(None, partition=1, previous_offset=4, offset=9),
    ]
    inputs = encoder.inputs("update", changes)
    assert inputs["id"].tolist() == [5, 6, -1]
    assert inputs["delete"].tolist() == [False, True, True]
    assert inputs["words"].tolist() == [[b"a", b"b", b""], [b""] * 3, [b""] * 3]
    assert inputs["age"].tolist() == [9, 0, 0]
    missing = MISSING_INT
    assert inputs["attribute_year"].tolist() == [1990, missing, missing]
    assert inputs["attribute_seen"].tolist() == [1, -1, -1]
    assert inputs["attribute_genres"][0].tolist() == [b"x", b"War", b""]
    assert inputs["log_partition"].tolist() == [1, -1, 1]
    assert inputs["log_previous_offset"].tolist() == [3, -1, 4]
    assert inputs["log_offset"].tolist() == [4, -1, 9]
    with pytest.raises(ValueError, match="does not take"):
        encoder.inputs("update_by_embedding", changes)


_KINDS = {
    "embedding": lambda i: Change(i, embedding=VECTOR),
    "features": lambda i: Change(i, features={"words": [], "age": i}),
    "attributes": lambda i: Change(i, attributes={}),
    "delete": lambda i: Change(i, delete=True),
    "skip": lambda i: Change(None, partition=0, offset=i),
}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    kinds=st.lists(st.sampled_from(sorted(_KINDS)), max_size=30),
    max_rows=st.integers(1, 8),
)
def test_runs_keep_the_order(kinds, max_rows):
    encoder = _encoder(FEATURES)
    changes = [_KINDS[kind](i) for i, kind in enumerate(kinds)]
    runs = list(encoder.runs(changes, max_rows))
    assert [c for _, run in runs for c in run] == changes
    for signature, run in runs:
        assert 1 <= len(run) <= max_rows
        assert len(encoder.inputs(signature, run)["id"]) == len(run)
    for (signature, run), (_, rest) in zip(runs, runs[1:], strict=False):
        # Each run is as long as it can be.
        assert len(run) == max_rows or not any(
            all(encoder.takes(s, c) for c in [*run, rest[0]])
            for s in ("update", "update_by_embedding", "update_attributes")
        ), signature
