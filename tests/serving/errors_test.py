# SPDX-License-Identifier: Apache-2.0
"""Error codes and texts, as recorded from tensorflow_model_server."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)

from tests.serving.servers import RunningServer, fails_with, predict_request

QUERY = np.array([1.5, 2.5], np.float32)


def _predict(server: RunningServer, request: predict_pb2.PredictRequest):
    return server.predictions.Predict(request, timeout=30)


def test_missing_model_spec(server):
    with fails_with(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"):
        _predict(server, predict_pb2.PredictRequest())


def test_empty_model_name(server):
    request = predict_request("", "one_input", query=QUERY)
    request.model_spec.SetInParent()
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified."
    ):
        _predict(server, request)


def test_unknown_model(server):
    with fails_with(
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(zzz)",
    ):
        server.predict("zzz", "one_input", query=QUERY)


def test_unknown_version(server):
    with fails_with(
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Specific(toy, 77)",
    ):
        server.predict("toy", "one_input", version=77, query=QUERY)


def test_unknown_label(server):
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT,
        "Unrecognized servable version label: canary",
    ):
        server.predict("toy", "one_input", label="canary", query=QUERY)


def test_unknown_signature(server):
    with fails_with(
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "nope" not found.',
    ):
        server.predict("toy", "nope", query=QUERY)


def test_no_inputs(server):
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT,
        "input size does not match signature: 0!=1 len({}) != len({query}). "
        "Sent extra: {}. Missing but required: {query}.",
    ):
        server.predict("toy", "one_input")


def test_too_many_inputs(server):
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT,
        "input size does not match signature: 3!=1 len({a,b,query}) != "
        "len({query}). Sent extra: {a,b}. Missing but required: {}.",
    ):
        server.predict("toy", "one_input", query=QUERY, b=QUERY, a=QUERY)


def test_wrong_input_name(server):
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT,
        "Signature input alias: query(feed name: one_input_query:0) not found "
        "in request and no default value provided. ",
        whole=False,
    ):
        server.predict("toy", "one_input", query2=QUERY)


def test_unknown_output(server):
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT,
        "output tensor alias not found in signature: nope Outputs expected to "
        "be in the set {ids,scores}.",
    ):
        server.predict("toy", "one_input", outputs=("nope",), query=QUERY)


def test_repeated_output(server):
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT, "duplicate output tensor alias: ids"
    ):
        server.predict("toy", "one_input", outputs=("ids", "ids"), query=QUERY)


def test_wrong_dtype(server):
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT,
        "Expects arg[0] to be float but double is provided",
    ):
        server.predict("toy", "one_input", query=QUERY.astype(np.float64))


@pytest.mark.parametrize("text", ["cut", "longer than it should be"])
def test_tensor_content_of_wrong_length(server, text):
    request = predict_request("toy", "one_input", query=QUERY)
    request.inputs["query"].tensor_content = text.encode()
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error: query"
    ):
        _predict(server, request)


def test_negative_dimension(server):
    request = predict_request("toy", "one_input", query=QUERY)
    request.inputs["query"].tensor_shape.dim[0].size = -2
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error: query"
    ):
        _predict(server, request)


def test_unknown_dtype_number(server):
    request = predict_request("toy", "one_input", query=QUERY)
    request.inputs["query"].dtype = 9999
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error: query"
    ):
        _predict(server, request)


def test_shape_is_left_to_the_kernel(server):
    # A real server does not look at the signature's shapes: the first op that
    # can't use the value says so, and an op that can runs.
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT,
        "Matrix size-incompatible",
        whole=False,
    ):
        server.predict(
            "toy",
            "retrieve_by_embedding",
            query_embedding=np.zeros([1, 9], np.float32),
            filter=np.array([b""], object),
        )
    response = server.predict(
        "toy", "one_input", query=np.ones([2, 3], np.float32)
    )
    assert tf.make_ndarray(response.outputs["scores"]).shape == (2, 3)


def test_error_of_an_op(server):
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT,
        "the filter must be another word, got fail at position 0",
        whole=False,
    ):
        server.predict(
            "toy",
            "retrieve_by_embedding",
            query_embedding=np.zeros([1, 4], np.float32),
            filter=np.array([b"fail"], object),
        )


def test_long_error_is_cut(server):
    names = {f"name_{i:04}": QUERY for i in range(300)}
    try:
        server.predict("toy", "one_input", **names)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        details = error.details()
        assert details.startswith("input size does not match signature: 300!=1")
        assert details.endswith("...TRUNCATED")
        assert len(details) == 1024 + len("...TRUNCATED")
    else:
        raise AssertionError("300 inputs must be refused")


def _metadata_request(*fields: str, name: str = "toy"):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = name
    request.metadata_field.extend(fields)
    return request


def _metadata(server, request):
    return server.predictions.GetModelMetadata(request, timeout=30)


def test_metadata_lists_signatures(server):
    response = _metadata(server, _metadata_request("signature_def"))
    assert response.model_spec.name == "toy"
    assert response.model_spec.version.value == 1
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert "__saved_model_init_op" in signatures.signature_def
    signature = signatures.signature_def["serving_default"]
    assert set(signature.inputs) == {"user_id", "history", "gender", "filter"}
    assert signature.inputs["user_id"].dtype == tf.int64.as_datatype_enum


def test_metadata_without_model_spec(server):
    with fails_with(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"):
        _metadata(server, get_model_metadata_pb2.GetModelMetadataRequest())


def test_metadata_without_field(server):
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT,
        "GetModelMetadataRequest must specify at least one metadata_field",
    ):
        _metadata(server, _metadata_request())


def test_metadata_of_another_field(server):
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT, "Metadata field foo is not supported"
    ):
        _metadata(server, _metadata_request("foo"))


def test_metadata_of_unknown_model(server):
    with fails_with(
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(zzz)",
    ):
        _metadata(server, _metadata_request("signature_def", name="zzz"))


def _status(server, request):
    return server.models.GetModelStatus(request, timeout=30)


def test_status_without_model_spec(server):
    with fails_with(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"):
        _status(server, get_model_status_pb2.GetModelStatusRequest())


def test_status_of_unknown_model(server):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "zzz"
    with fails_with(
        grpc.StatusCode.NOT_FOUND, "Could not find any versions of model zzz"
    ):
        _status(server, request)


def test_status_of_unknown_version(server):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "toy"
    request.model_spec.version.value = 77
    with fails_with(
        grpc.StatusCode.NOT_FOUND, "Could not find version 77 of model toy"
    ):
        _status(server, request)


def test_other_methods_say_what_to_do(server):
    if server.kind != "embedded":
        pytest.skip("a real server implements them")
    from tensorflow_serving.apis import classification_pb2

    request = classification_pb2.ClassificationRequest()
    with fails_with(grpc.StatusCode.UNIMPLEMENTED, "call Predict", whole=False):
        server.predictions.Classify(request, timeout=30)
