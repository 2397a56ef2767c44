# SPDX-License-Identifier: Apache-2.0
"""Predict as clients use it: answers, filters, load, limits, deadlines."""

from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf

from tests.serving import toy_models
from tests.serving.servers import fails_with, predict_request


def _array(response, name):
    return tf.make_ndarray(response.outputs[name])


def _retrieve(server, query, filter=b"", **options):
    return server.predict(
        "toy",
        "retrieve_by_embedding",
        query_embedding=np.asarray(query, np.float32),
        filter=np.array([filter] * len(query), object),
        **options,
    )


def test_answer_and_resolved_model_spec(server):
    response = _retrieve(server, [[1.0, 0.0, 0.0, 0.0]])
    items = toy_models.ToyIndex(1).items.numpy()
    best = np.argsort(-items[:, 0])[: toy_models.K]
    assert _array(response, "ids").tolist() == [(best + 1000).tolist()]
    np.testing.assert_allclose(
        _array(response, "scores")[0], items[best, 0], rtol=1e-6
    )
    assert response.model_spec.name == "toy"
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "retrieve_by_embedding"


def test_empty_signature_name_is_the_default(server):
    response = server.predict(
        "toy",
        user_id=np.array([3]),
        history=np.array([[1, 2, -1]]),
        gender=np.array([b"F"], object),
        filter=np.array([b""], object),
    )
    assert response.model_spec.signature_name == "serving_default"
    assert set(response.outputs) == {*toy_models.RESULTS, "attribute_title"}


def test_named_version(server):
    response = _retrieve(server, np.eye(4), version=1)
    assert response.model_spec.version.value == 1


@pytest.mark.parametrize("outputs", [("ids",), ("scores", "ids")])
def test_output_filter(server, outputs):
    response = _retrieve(server, np.eye(4), outputs=outputs)
    assert set(response.outputs) == set(outputs)


def test_empty_batch(server):
    response = _retrieve(server, np.zeros([0, 4]))
    assert _array(response, "ids").shape == (0, toy_models.K)


def test_single_value_fills_the_shape(server):
    # A proto may state a shape and carry one value for all of it.
    request = predict_request("toy", "one_input")
    proto = request.inputs["query"]
    proto.dtype = tf.float32.as_datatype_enum
    proto.tensor_shape.dim.add(size=5)
    proto.float_val.append(1.5)
    response = server.predictions.Predict(request, timeout=30)
    assert _array(response, "scores").tolist() == [3.0] * 5


def test_many_clients(server):
    rng = np.random.default_rng(11)
    queries = rng.normal(size=(200, 1, 4)).astype(np.float32)
    expected = [_array(_retrieve(server, q), "ids").tolist() for q in queries]

    def ask(start):
        # Every client sends some bad requests between the good ones.
        got = []
        for query in queries[start::8]:
            with fails_with(grpc.StatusCode.INVALID_ARGUMENT):
                _retrieve(server, query, b"fail")
            got.append(_array(_retrieve(server, query), "ids").tolist())
        return got

    with futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask, range(8)))
    for start, got in enumerate(results):
        assert got == expected[start::8]


def test_large_messages_both_ways(server):
    # 32 MB in and out, over grpcio's default limit of 4 MiB.
    query = np.ones([8_000_000], np.float32)
    response = server.predict(
        "toy", "one_input", outputs=("scores",), query=query
    )
    assert _array(response, "scores").shape == query.shape


def test_client_with_default_limit(server):
    # The limit is the client's: the server has none.
    with grpc.insecure_channel(server.target) as channel:
        predict = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=lambda r: r.SerializeToString(),
            response_deserializer=lambda data: data,
        )
        request = predict_request("toy", "big_answer", size=np.array([2**19]))
        assert len(predict(request, timeout=30)) >= 4 * 2**19
        request = predict_request("toy", "big_answer", size=np.array([2**21]))
        with fails_with(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "Received message larger than max",
            whole=False,
        ):
            predict(request, timeout=30)


def test_deadline_ends_the_request(server, tmp_path):
    # No such file ever appears: without the deadline this runs for ever.
    path = np.array([str(tmp_path / "never").encode()], object)
    with fails_with(grpc.StatusCode.DEADLINE_EXCEEDED):
        server.predict("toy", "wait_for_file", timeout_s=0.5, path=path)
    assert _retrieve(server, np.eye(4)).model_spec.version.value == 1


def test_cancelled_request_leaves_the_server_well(server, tmp_path):
    go = tmp_path / "go"
    call = server.predictions.Predict.future(
        predict_request(
            "toy", "wait_for_file", path=np.array([str(go).encode()], object)
        ),
        timeout=60,
    )
    call.cancel()
    assert _retrieve(server, np.eye(4)).model_spec.version.value == 1
    go.touch()
    assert call.cancelled()
    # The abandoned run, which no client waits for, has ended or will.
    server.predict(
        "toy", "wait_for_file", path=np.array([str(go).encode()], object)
    )
