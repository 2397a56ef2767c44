# SPDX-License-Identifier: Apache-2.0
"""Malformed Predict requests: the right code, and a server that goes on."""

import random

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from tests.serving.servers import predict_request

# What the request is to fail with. Random bytes may also still be a request.
INVALID = {grpc.StatusCode.INVALID_ARGUMENT}


def _valid() -> predict_pb2.PredictRequest:
    return predict_request(
        "toy",
        "echo",
        floats=np.array([1.0, 2.0], np.float32),
        bools=np.array([True, False]),
        ints=np.array([1, 2], np.int32),
        strings=np.array([[b"a", b"b"]], object),
    )


def _rename(request, rng):
    name = rng.choice(sorted(request.inputs))
    other = rng.choice(["", "x" * 10_000, "\u96ea", name + " ", name.upper()])
    request.inputs[other].CopyFrom(request.inputs.pop(name))
    return INVALID


def _drop(request, rng):
    del request.inputs[rng.choice(sorted(request.inputs))]
    return INVALID


def _add(request, rng):
    for i in range(rng.randrange(1, 200)):
        request.inputs[f"extra{i}"].CopyFrom(request.inputs["floats"])
    return INVALID


def _dtype(request, rng):
    name = rng.choice(sorted(request.inputs))
    proto = request.inputs[name]
    wrong = [0, -1, 23, 99, 101, 107, 2**31 - 1, -(2**31)]
    # Resources, variants and quantised types have no values to send.
    wrong += [11, 12, 13, 15, 16, 20, 21]
    wrong += [n for n in (1, 2, 3, 7, 9, 10) if n != proto.dtype]
    proto.dtype = rng.choice(wrong)
    return INVALID


def _negative_dimension(request, rng):
    proto = request.inputs[rng.choice(sorted(request.inputs))]
    proto.tensor_shape.dim.add(size=rng.choice([-1, -2, -(2**63)]))
    return INVALID


def _huge_dimension(request, rng):
    proto = request.inputs[rng.choice(sorted(request.inputs))]
    for _ in range(rng.randrange(2, 8)):
        proto.tensor_shape.dim.add(size=rng.choice([2**40, 2**62, 2**63 - 1]))
    return INVALID


def _unknown_rank(request, rng):
    proto = request.inputs[rng.choice(sorted(request.inputs))]
    del proto.tensor_shape.dim[:]
    proto.tensor_shape.unknown_rank = True
    # Read as a scalar, which the values of some tensors fit.
    return INVALID | {grpc.StatusCode.OK}


def _high_rank(request, rng):
    proto = request.inputs[rng.choice(sorted(request.inputs))]
    for _ in range(rng.randrange(254, 400)):
        proto.tensor_shape.dim.add(size=1)
    return INVALID


def _content(request, rng):
    proto = request.inputs[rng.choice(["floats", "ints"])]
    length = rng.choice([1, 3, 7, 9, 1001])
    proto.tensor_content = rng.randbytes(length)
    return INVALID


def _string_content(request, rng):
    proto = request.inputs["strings"]
    # Lengths that are cut off or reach beyond the content.
    proto.tensor_content = rng.choice(
        [b"\xff", b"\x01", b"\xff" * 20, b"\x05\x05ab", b"\x01\x01abc"]
    )
    return INVALID


def _output(request, rng):
    request.output_filter.append(rng.choice(["", "ids", "\x00", "x" * 5000]))
    return INVALID


def _signature(request, rng):
    request.model_spec.signature_name = rng.choice(["ECHO", "\u96ea", "a" * 9])
    return {grpc.StatusCode.FAILED_PRECONDITION}


def _initialiser(request, rng):
    # Listed with the signatures, but no signature to call.
    request.model_spec.signature_name = "__saved_model_init_op"
    return INVALID


def _model(request, rng):
    request.model_spec.name = rng.choice(["Toy", "toy ", "../toy", "a" * 9999])
    return {grpc.StatusCode.NOT_FOUND}


MUTATIONS = [
    _rename,
    _drop,
    _add,
    _dtype,
    _negative_dimension,
    _huge_dimension,
    _unknown_rank,
    _high_rank,
    _content,
    _string_content,
    _output,
    _signature,
    _initialiser,
    _model,
]


def _code(server, request) -> grpc.StatusCode:
    try:
        server.predictions.Predict(request, timeout=30)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def _check_alive(server):
    response = server.predictions.Predict(_valid(), timeout=30)
    assert tf.make_ndarray(response.outputs["ints"]).tolist() == [1, 2]


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda m: m.__name__[1:])
def test_malformed_requests(server, mutate):
    rng = random.Random(mutate.__name__)
    for _ in range(40):
        request = _valid()
        expected = mutate(request, rng)
        code = _code(server, request)
        assert code in expected, (code, request)
    _check_alive(server)


@pytest.mark.slow
def test_ten_thousand_malformed_requests(server):
    rng = random.Random(5)
    for _ in range(10_000):
        request = _valid()
        mutate = rng.choice(MUTATIONS)
        expected = mutate(request, rng)
        code = _code(server, request)
        assert code in expected, (mutate.__name__, code, request)
    _check_alive(server)


def test_random_bytes(server):
    # Flips bytes of a good request: most are refused by the parser, some are
    # another valid request. No answer may be a fault of the server.
    rng = random.Random(6)
    send = server.channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict"
    )
    good = _valid().SerializeToString()
    allowed = {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        # What gRPC itself answers when the bytes are no message.
        grpc.StatusCode.INTERNAL,
    }
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            send(bytes(data), timeout=30)
        except grpc.RpcError as error:
            assert error.code() in allowed, error
            if error.code() == grpc.StatusCode.INTERNAL:
                assert "eserializ" in error.details() or not error.details()
            refused += 1
    assert refused > 100
    _check_alive(server)
