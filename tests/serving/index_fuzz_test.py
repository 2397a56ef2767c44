# SPDX-License-Identifier: Apache-2.0
"""Malformed Predict requests against served indexes of every kind."""

import grpc
import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.index.index import Index
from lintf.index.schema import FilterLimits, IndexSchema, infer_attribute
from lintf.index.served import Batching, ServedIndex
from tests.references import filter_cases, filter_reference
from tests.serving.conftest import publish
from tests.serving.servers import predict_request

DIM, ROWS, WORDS = 6, 100, 64
KINDS = ("native", "batched", "portable")
GOOD_FILTER = 'genre == "a" and year >= 20'

OK = grpc.StatusCode.OK
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def _schema():
    return IndexSchema(
        dim=DIM,
        attributes=(
            infer_attribute("genre", "tags", [["a", "b"]]),
            infer_attribute("year", "int", [], dtype="int16"),
        ),
        limits=FilterLimits(max_words=WORDS, max_length=2000),
    )


@pytest.fixture(scope="module", params=KINDS)
def model(request, server, tmp_path_factory):
    """A served index of one kind; its kind and name."""
    rng = np.random.default_rng(1)
    index = Index(_schema(), ROWS)
    index.append(
        np.arange(ROWS),
        rng.standard_normal((ROWS, DIM)),
        {
            "genre": [["a"], ["b"], None, ["a", "b"]] * (ROWS // 4),
            "year": np.arange(ROWS),
        },
    )
    kind = request.param
    root = tmp_path_factory.mktemp(kind)
    ServedIndex(
        index,
        k=5,
        batching=Batching(max_batch_size=16) if kind == "batched" else None,
        portable=kind == "portable",
    ).save(root / "v")
    name = f"fuzzed-{kind}"
    publish(root / "v", root / name, 1)
    server.add_model(name, str(root / name))
    return kind, name


def _filters(kind, texts):
    if kind != "portable":
        return {"filter": np.array(texts, object)}
    programs = ops.compile_filter(texts, _schema(), pad_words=WORDS)
    return {"filter_program": programs.numpy()}


def _request(model, rows=2, filters=None):
    kind, name = model
    return predict_request(
        name,
        "retrieve_by_embedding",
        query_embedding=np.ones([rows, DIM], np.float32),
        **(filters or _filters(kind, [GOOD_FILTER] * rows)),
    )


def _garbage_filter(model, rng):
    kind, _ = model
    if kind == "portable":
        words = _filters(kind, [GOOD_FILTER] * 2)["filter_program"].copy()
        for _ in range(int(rng.integers(1, 6))):
            word = rng.integers(0, 12)
            bits = int(rng.integers(0, 63))
            words[rng.integers(2), word] ^= np.int64(1 << bits)
        return _request(model, filters={"filter_program": words}), {OK, INVALID}
    if rng.integers(3) == 0:
        text = rng.bytes(int(rng.integers(1, 60)))
        expected = {INVALID} if text.strip() else {OK}
    else:
        text = filter_cases.spoiled_filter(rng, GOOD_FILTER)
        try:
            filter_reference.parse(text, _schema())
            # Limits that the reference does not know may still refuse it.
            expected = {OK, INVALID}
        except filter_reference.FilterError:
            expected = {INVALID}
    filters = {"filter": np.array(["", text], object)}
    return _request(model, filters=filters), expected


def _unequal_rows(model, rng):
    kind, name = model
    request = _request(model, rows=3)
    other = _request(model, rows=int(rng.choice([1, 2, 4, 40])))
    key = "filter_program" if kind == "portable" else "filter"
    request.inputs[key].CopyFrom(other.inputs[key])
    return request, {INVALID}


def _no_rows(model, rng):
    return _request(model, rows=0), {OK}


def _stated_rows(model, rng):
    # A shape of very many rows, and one value to fill them with.
    request = _request(model)
    # The largest take a server half a second to fill: now and then.
    largest = 10_000_000 if rng.integers(20) == 0 else 100_000
    rows = int(rng.choice([2000, 5000, 20_000, largest]))
    for tensor in request.inputs.values():
        shape = [rows, *(d.size for d in tensor.tensor_shape.dim[1:])]
        dtype = tf.dtypes.as_dtype(tensor.dtype)
        tensor.Clear()
        tensor.dtype = dtype.as_datatype_enum
        for size in shape:
            tensor.tensor_shape.dim.add().size = size
        if dtype == tf.string:
            tensor.string_val.append(b"")
        elif dtype == tf.int64:
            tensor.int64_val.append(0)
        else:
            tensor.float_val.append(1.0)
    return request, {INVALID}


def _inner_dimension(model, rng):
    request = _request(model)
    wrong = np.ones([2, int(rng.choice([0, 1, 5, 7, 4096]))], np.float32)
    request.inputs["query_embedding"].CopyFrom(tf.make_tensor_proto(wrong))
    return request, {INVALID}


def _rank(model, rng):
    request = _request(model)
    shapes = [[DIM], [], [2, DIM, 1], [1, 2, DIM]]
    wrong = np.ones(shapes[int(rng.integers(4))], np.float32)
    request.inputs["query_embedding"].CopyFrom(tf.make_tensor_proto(wrong))
    return request, {INVALID}


def _dtype(model, rng):
    request = _request(model)
    key = sorted(request.inputs)[int(rng.integers(2))]
    wrong = np.ones([2, DIM], rng.choice(["int32", "float64", "uint8"]))
    request.inputs[key].CopyFrom(tf.make_tensor_proto(wrong))
    return request, {INVALID}


def _name(model, rng):
    request = _request(model)
    key = sorted(request.inputs)[int(rng.integers(2))]
    request.inputs[key + "x"].CopyFrom(request.inputs[key])
    if rng.integers(2):
        del request.inputs[key]
    return request, {INVALID}


def _not_finite(model, rng):
    request = _request(model)
    queries = np.ones([2, DIM], np.float32)
    queries[rng.integers(2), rng.integers(DIM)] = rng.choice(
        [np.nan, np.inf, -np.inf]
    )
    request.inputs["query_embedding"].CopyFrom(tf.make_tensor_proto(queries))
    return request, {INVALID}


MUTATIONS = (
    _garbage_filter,
    _garbage_filter,
    _garbage_filter,
    _unequal_rows,
    _no_rows,
    _stated_rows,
    _inner_dimension,
    _rank,
    _dtype,
    _name,
    _not_finite,
)


def _fuzz(server, model, count, seed):
    rng = np.random.default_rng(seed)
    for number in range(count):
        mutate = MUTATIONS[number % len(MUTATIONS)]
        request, expected = mutate(model, rng)
        try:
            server.predictions.Predict(request, timeout=60)
            code = OK
        except grpc.RpcError as error:
            code = error.code()
        assert code in expected, (mutate.__name__, code, str(request)[:2000])
    answer = server.predictions.Predict(_request(model), timeout=60)
    ids = tf.make_ndarray(answer.outputs["ids"])
    assert (ids >= 20).all()


def test_malformed_requests(server, model):
    _fuzz(server, model, 220, seed=3)


@pytest.mark.slow
def test_thousands_of_malformed_requests(server, model):
    _fuzz(server, model, 3400, seed=4)
