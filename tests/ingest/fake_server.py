# SPDX-License-Identifier: Apache-2.0
"""The fake index behind TF Serving's gRPC API, on a real port."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from lintf.serving import tensors
from tests.ingest.fake_index import SCHEMA, FakeIndex, Refusal

MODEL = "films"
_State = get_model_status_pb2.ModelVersionStatus


class FakeServer(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Answers for the versions of one model.

    Attributes:
      indexes: the versions that are served.
      loading: versions that are not served yet.
      faults: what happens to the next updates, first come first.
      configs: the configs that reload requests brought.
      token: what updates and reloads must carry; "" for none.
      filters: the output filters of `index_stats` so far.
      rows: of each update that was tried.
    """

    def __init__(self, *indexes: FakeIndex) -> None:
        self.indexes = dict(enumerate(indexes, 1))
        self.loading: list[int] = []
        self.faults: list[Callable[[Callable[[], Any]], Any]] = []
        self.configs: list[Any] = []
        self.token = ""
        self.filters: set[tuple[str, ...]] = set()
        self.rows: list[int] = []

    def GetModelStatus(self, request: Any, context: Any) -> Any:
        response = get_model_status_pb2.GetModelStatusResponse()
        if request.model_spec.name != MODEL:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        for version in self.indexes:
            response.model_version_status.add(
                version=version, state=_State.AVAILABLE
            )
        for version in self.loading:
            response.model_version_status.add(
                version=version, state=_State.LOADING
            )
        return response

    def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:
        self._check_token(context)
        self.configs.append(request.config)
        return model_management_pb2.ReloadConfigResponse()

    def GetModelMetadata(self, request: Any, context: Any) -> Any:
        index = self._index(request, context)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in index.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def Predict(self, request: Any, context: Any) -> Any:
        index = self._index(request, context)
        if request.model_spec.signature_name == "index_stats":
            self.filters.add(tuple(request.output_filter))
            outputs = {
                "log_offsets": np.array([index.offsets], np.int64),
                "schema": np.array([SCHEMA.to_json().encode()], object),
            }
            return _response(
                {name: outputs[name] for name in request.output_filter}
            )
        self._check_token(context)
        inputs = {
            name: tensors.to_array(proto)
            for name, proto in request.inputs.items()
        }
        self.rows.append(len(inputs["id"]))
        fault = self.faults.pop(0) if self.faults else lambda call: call()
        try:
            statuses = fault(
                lambda: index.predict(request.model_spec.signature_name, inputs)
            )
        except Refusal as refusal:
            context.abort(refusal.code, refusal.message)
        return _response({"status": np.array(statuses, np.int32)})

    def _index(self, request: Any, context: Any) -> FakeIndex:
        spec = request.model_spec
        assert spec.HasField("version"), "an ingester addresses by number"
        if spec.name != MODEL or spec.version.value not in self.indexes:
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                "Servable not found for request: Specific("
                f"{spec.name}, {spec.version.value})",
            )
        return self.indexes[spec.version.value]

    def _check_token(self, context: Any) -> None:
        given = dict(context.invocation_metadata()).get("authorization")
        if self.token and given != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")


def _response(outputs: dict[str, np.ndarray]) -> Any:
    response = predict_pb2.PredictResponse()
    for name, array in outputs.items():
        response.outputs[name].CopyFrom(tensors.to_proto(array))
    return response


@contextlib.contextmanager
def running(fake: FakeServer) -> Iterator[str]:
    """Serves a fake; yields its address."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        fake, server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
