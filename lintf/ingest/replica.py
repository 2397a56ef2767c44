# SPDX-License-Identifier: Apache-2.0
"""A server of the model, over TF Serving's gRPC API."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
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

from lintf.index.schema import IndexSchema
from lintf.ingest.target import Fault, Replica, Target, TargetError
from lintf.serving import conversion, tensors
from lintf.serving.changes import Change, ChangeEncoder

_STATS = "index_stats"
_AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE

_FAULTS = {
    grpc.StatusCode.INVALID_ARGUMENT: Fault.POISON,
    grpc.StatusCode.FAILED_PRECONDITION: Fault.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Fault.FULL,
    grpc.StatusCode.NOT_FOUND: Fault.GONE,
    grpc.StatusCode.PERMISSION_DENIED: Fault.REFUSED,
    grpc.StatusCode.UNAUTHENTICATED: Fault.REFUSED,
    grpc.StatusCode.UNIMPLEMENTED: Fault.REFUSED,
}


def to_target_error(error: grpc.RpcError) -> TargetError:
    """What to do after a failed call."""
    # TensorFlow appends the names of nodes, which tell a reader nothing and
    # differ between versions.
    code, details = error.code(), (error.details() or "").split("\n\t [[")[0]
    fault = _FAULTS.get(code, Fault.RETRY)
    if fault is Fault.FULL and "threadpool" in details.lower():
        # Of the server's threads, not of the index's rows.
        fault = Fault.RETRY
    if fault is Fault.CONFLICT and "signature key" in details:
        fault = Fault.REFUSED
    return TargetError(fault, f"{code.name}: {details}")


class GrpcReplica(Replica):
    """A connection to a server."""

    def __init__(
        self,
        address: str,
        model: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        timeout_s: float = 30.0,
        reload_config: Callable[[], Any] | None = None,
    ) -> None:
        """Makes a connection; nothing is sent yet.

        Args:
          address: as in "localhost:8500".
          model: the model's name on the server.
          credentials: for TLS; None for plain text.
          token: what mutating calls carry as bearer token.
          timeout_s: the deadline of each call.
          reload_config: reads the server's `ModelServerConfig`, which a new
            label replaces as a whole; None where labels are not set.
        """
        self.address = address
        self.model = model
        self.timeout_s = timeout_s
        self._reload_config = reload_config
        self._metadata = (("authorization", f"Bearer {token}"),) * bool(token)
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # Lanes retry, after they have asked where the index stands.
            ("grpc.enable_retries", 0),
            # Finds a server that is back soon.
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, credentials, options)
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(
            self._channel
        )
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def versions(self) -> Sequence[int]:
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self.model
        response = self._call(self._models.GetModelStatus, request)
        return sorted(
            status.version
            for status in response.model_version_status
            if status.state == _AVAILABLE
        )

    def target(self, version: int) -> Target:
        return GrpcTarget(self, version)

    def set_label(self, label: str, version: int) -> None:
        if self._reload_config is None:
            raise ValueError("labels are set with the server's model config")
        try:
            config = self._reload_config()
        except ValueError as error:
            raise TargetError(Fault.REFUSED, str(error)) from error
        models = config.model_config_list.config
        found = [model for model in models if model.name == self.model]
        if not found:
            raise TargetError(
                Fault.REFUSED,
                f"the model config must have the model {self.model!r}, got "
                f"{', '.join(m.name for m in models) or 'none'}",
            )
        found[0].version_labels[label] = version
        self._call(
            self._models.HandleReloadConfigRequest,
            model_management_pb2.ReloadConfigRequest(config=config),
        )

    def close(self) -> None:
        self._channel.close()

    def predict(self, request: predict_pb2.PredictRequest) -> Any:
        """Calls Predict; raises TargetError."""
        return self._call(self._predictions.Predict, request)

    def signatures(self, version: int) -> Any:
        """The SignatureDefs of a version by name; raises TargetError."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            metadata_field=["signature_def"]
        )
        request.model_spec.name = self.model
        request.model_spec.version.value = version
        response = self._call(self._predictions.GetModelMetadata, request)
        found = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        return found.signature_def

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(
                request, timeout=self.timeout_s, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise to_target_error(error) from error


class GrpcTarget(Target):
    """A version, addressed by its number. Thread-safe."""

    def __init__(self, replica: GrpcReplica, version: int) -> None:
        self.replica = replica.address
        self.version = version
        self._connection = replica
        self._lock = threading.Lock()
        self._encoder: ChangeEncoder | None = None
        self._probe: np.ndarray | None = None

    def encoder(self) -> ChangeEncoder:
        with self._lock:
            if self._encoder is None:
                self._encoder = self._make_encoder()
            return self._encoder

    def offsets(self) -> Sequence[int]:
        with self._lock:
            if self._probe is None:
                self._probe = _probe(self._connection.signatures(self.version))
        (offsets,) = self._stats("log_offsets").tolist()
        return [int(offset) for offset in offsets]

    def send(self, signature: str, changes: Sequence[Change]) -> Sequence[int]:
        try:
            inputs = self.encoder().inputs(signature, changes)
        except ValueError as error:
            raise TargetError(Fault.POISON, str(error)) from error
        request = self._request(signature, inputs)
        response = self._connection.predict(request)
        status = tensors.to_array(response.outputs["status"]).tolist()
        return [int(value) for value in status]

    def _make_encoder(self) -> ChangeEncoder:
        signatures = self._connection.signatures(self.version)
        self._probe = _probe(signatures)
        schema = IndexSchema.from_json(self._stats("schema").tolist()[0])
        try:
            return ChangeEncoder(schema, signatures)
        except ValueError as error:
            raise TargetError(Fault.REFUSED, str(error)) from error

    def _stats(self, output: str) -> np.ndarray:
        assert self._probe is not None
        request = self._request(_STATS, {"probe": self._probe})
        # The schema holds the vocabularies: not for each look at the offsets.
        request.output_filter.append(output)
        response = self._connection.predict(request)
        return tensors.to_array(response.outputs[output])

    def _request(
        self, signature: str, inputs: dict[str, np.ndarray]
    ) -> predict_pb2.PredictRequest:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._connection.model
        request.model_spec.version.value = self.version
        request.model_spec.signature_name = signature
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(tensors.to_proto(array))
        return request


def _probe(signatures: Any) -> np.ndarray:
    """The input of `index_stats`.

    Raises:
      TargetError: the model is no index.
    """
    if _STATS not in signatures:
        raise TargetError(
            Fault.REFUSED,
            f"the model must have a signature {_STATS!r}, got "
            f"{', '.join(sorted(signatures))}; is it a lintf index?",
        )
    info = signatures[_STATS].inputs["probe"]
    spec = conversion.InputSpec.from_tensor_info("probe", info)
    return np.zeros([1], spec.dtype)
