# SPDX-License-Identifier: Apache-2.0
"""A client for a served index: Python values in, ids and scores out.

It speaks TF Serving's gRPC API, so the server may be `lintf serve` or a real
`tensorflow_model_server`.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from lintf.index.schema import IndexSchema
from lintf.serving import conversion, results, tensors
from lintf.serving.changes import Change, ChangeEncoder
from lintf.serving.results import IndexStats, LookupResult, RetrieveResult

_FILTER_INPUTS = ("filter", "filter_program")

# A server that restarts is away for a moment. Only UNAVAILABLE is retried:
# there the request was not answered, and asking again is harmless.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


@dataclasses.dataclass(frozen=True)
class _Metadata:
    """The signatures of one version of the model."""

    version: int
    signatures: Mapping[str, Any]


class Client:
    """Asks one model on one server. Thread-safe; a context manager.

    Values are converted to the dtypes of the model's signatures, which are
    fetched once. A single query may be given without a batch dimension; every
    result has one.

    Errors of the server stay `grpc.RpcError` (`error.code()` and
    `error.details()` say what was wrong); values that do not fit the signature
    raise ValueError before anything is sent.

    Example:
      with Client("localhost:8500", "movielens") as client:
          result = client.retrieve({"user_id": 42, ...}, "year >= 1990")
          for row in result.rows():
              print(row["id"], row["score"])
    """

    def __init__(
        self,
        target: str,
        model: str = "default",
        *,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float = 10.0,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
    ) -> None:
        """Makes a client; nothing is sent yet.

        Args:
          target: the server's address, as in "localhost:8500".
          model: the model's name on the server.
          version: asks this version only.
          label: asks the version that has this label.
          timeout_s: the deadline of each call, in seconds, retries included.
          credentials: for TLS, see `tls_credentials`; None for plain text.
          token: sent with every call, as servers want it that let only some
            change an index. Without TLS anyone on the way can read it.

        Raises:
          ValueError: both `version` and `label` are given.
        """
        if version is not None and label is not None:
            raise ValueError(
                "at most one of `version` and `label` may be given, got "
                f"version {version} and label {label!r}"
            )
        self._model = model
        self._version = version
        self._label = label
        self._timeout_s = timeout_s
        self._call_metadata = (
            None if token is None else [("authorization", f"Bearer {token}")]
        )
        options = [
            # grpcio's own limit is 4 MiB, which a batch of results passes.
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_retries", 1),
            ("grpc.service_config", _SERVICE_CONFIG),
        ]
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            self._channel = grpc.secure_channel(target, credentials, options)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(
            self._channel
        )
        self._lock = threading.Lock()
        self._metadata: _Metadata | None = None
        self._schema: tuple[int, IndexSchema] | None = None
        self._encoder: tuple[_Metadata, ChangeEncoder] | None = None

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Questions.

    def retrieve(
        self,
        features: Mapping[str, Any],
        filter: str | Sequence[str] = "",
        *,
        signature: str = "serving_default",
    ) -> RetrieveResult:
        """The best items for raw query features.

        Args:
          features: the query tower's inputs by name: a value for one query or
            an array with a batch dimension. A list of integers or strings that
            is shorter than its input is padded at the end with -1 or "".
          filter: one filter for all queries or one for each; "" for none.
          signature: another of the index's retrieve signatures.

        Raises:
          ValueError: a feature is missing, unknown or does not fit its input;
            on a portable model, whose filters are compiled here, also a
            malformed filter.
          grpc.RpcError: INVALID_ARGUMENT for a malformed filter, and the other
            errors of the server.
        """
        return self._retrieve(signature, features, filter)

    def retrieve_by_embedding(
        self,
        query_embedding: Any,
        filter: str | Sequence[str] = "",
        *,
        signature: str = "retrieve_by_embedding",
    ) -> RetrieveResult:
        """The best items for query embeddings.

        Args:
          query_embedding: [query_dim] or [batch, query_dim] float32, what the
            query tower makes.
          filter: as for `retrieve`.
          signature: another one that takes embeddings.

        Raises:
          ValueError: the embedding is not an array of that shape.
          grpc.RpcError: as for `retrieve`.
        """
        return self._retrieve(
            signature,
            {"query_embedding": query_embedding},
            filter,
        )

    def embed_query(self, features: Mapping[str, Any]) -> np.ndarray:
        """The query tower's embeddings, [batch, dim] float32.

        Args:
          features: as for `retrieve`.
        """
        outputs, _ = self._call("embed_query", features)
        return outputs["query_embedding"]

    def lookup(self, ids: Any) -> LookupResult:
        """The stored embeddings and attributes of items.

        Args:
          ids: one id or [batch] ids.
        """
        outputs, version = self._call("lookup", {"id": ids})
        return LookupResult(
            found=outputs["found"],
            embedding=outputs.get("embedding"),
            attributes=results.attributes(outputs),
            version=version,
        )

    def stats(self) -> IndexStats:
        """The state of the index."""
        outputs, version = self._call("index_stats", {"probe": 0})
        return IndexStats(
            num_rows=int(outputs["num_rows"][0]),
            capacity=int(outputs["capacity"][0]),
            live_rows=int(outputs["live_rows"][0]),
            log_offsets=tuple(int(v) for v in outputs["log_offsets"][0]),
            index_bytes=int(outputs["index_bytes"][0]),
            build_id=str(outputs["build_id"][0]),
            schema_json=str(outputs["schema"][0]),
            searches={
                name.removeprefix("searches_"): int(value[0])
                for name, value in sorted(outputs.items())
                if name.startswith("searches_")
            },
            version=version,
        )

    # Changes.

    def update(
        self, changes: Iterable[Change], *, batch_rows: int = 1000
    ) -> np.ndarray:
        """Upserts and deletes items.

        Changes are applied in their order, in requests of `batch_rows` and of
        one signature; each request as a whole or not at all. After an error,
        those of earlier requests are in the index.

        Args:
          changes: from the change log, or from anywhere else.
          batch_rows: most changes of a request.

        Returns:
          [changes] int32, what became of each: `UNCHANGED`, `INSERTED`,
          `REPLACED`, `DELETED` or `NOT_FOUND` of `lintf.index.signatures`.

        Raises:
          ValueError: a change does not fit the index, which takes none of
            them then; or the index takes no updates.
          grpc.RpcError: RESOURCE_EXHAUSTED if the index is full,
            FAILED_PRECONDITION if changes do not follow the stored offset,
            INVALID_ARGUMENT for a change that does not fit, and the other
            errors of the server.
        """
        changes = list(changes)
        encoder = self.change_encoder()
        for position, change in enumerate(changes):
            try:
                encoder.check(change)
            except ValueError as error:
                raise ValueError(f"change {position}: {error}") from error
        statuses = [np.zeros([0], np.int32)]
        for signature, run in encoder.runs(changes, batch_rows):
            outputs, _ = self._predict(
                signature, encoder.inputs(signature, run), self._get_metadata()
            )
            statuses.append(outputs["status"])
        return np.concatenate(statuses)

    def change_encoder(self) -> ChangeEncoder:
        """What turns changes into requests for the version that answers.

        Raises:
          ValueError: the index takes no updates.
        """
        while True:
            metadata = self._get_metadata()
            with self._lock:
                cached = self._encoder
            if cached is not None and cached[0] is metadata:
                return cached[1]
            version, schema = self._get_schema(metadata.version)
            if version != metadata.version:
                # Swapped between the two questions.
                self._forget(metadata)
                continue
            encoder = ChangeEncoder(schema, metadata.signatures)
            with self._lock:
                self._encoder = (metadata, encoder)
            return encoder

    # What the model takes.

    def feature_names(self) -> list[str]:
        """The query tower's inputs, which `retrieve` takes."""
        inputs = self._signature("serving_default", self._get_metadata()).inputs
        return sorted(name for name in inputs if name not in _FILTER_INPUTS)

    def feature_shape(self, name: str) -> tuple[int | None, ...]:
        """The shape of one of `feature_names`, for one query."""
        inputs = self._signature("serving_default", self._get_metadata()).inputs
        spec = conversion.InputSpec.from_tensor_info(name, inputs[name])
        return spec.inner_shape

    # The way to the server.

    def _retrieve(
        self,
        signature_name: str,
        features: Mapping[str, Any],
        filter: str | Sequence[str],
    ) -> RetrieveResult:
        outputs, version = self._call(signature_name, features, filter)
        return RetrieveResult(
            ids=outputs["ids"],
            scores=outputs["scores"],
            num_results=outputs["num_results"],
            attributes=results.attributes(outputs),
            version=version,
            num_scored=outputs.get("num_scored"),
        )

    def _call(
        self,
        signature_name: str,
        features: Mapping[str, Any],
        filter: str | Sequence[str] | None = None,
    ) -> tuple[dict[str, np.ndarray], int]:
        """Runs a signature; returns its outputs and the version."""
        metadata = self._get_metadata()
        signature = self._signature(signature_name, metadata)
        specs = {
            name: conversion.InputSpec.from_tensor_info(name, info)
            for name, info in signature.inputs.items()
            if filter is None or name not in _FILTER_INPUTS
        }
        arrays, batch = conversion.to_batch(features, specs)
        pinned = None
        if filter is not None:
            filters = conversion.to_filters(filter, batch)
            if batch is None:
                # One set of features, maybe with several filters.
                arrays = conversion.repeat(arrays, len(filters))
            if "filter_program" in signature.inputs:
                # The program's codes are those of one version's vocabularies.
                pinned = metadata.version
                arrays["filter_program"] = self._compile(
                    filters, signature.inputs["filter_program"], pinned
                )
            else:
                arrays["filter"] = np.array(filters, dtype=object)
        try:
            return self._predict(signature_name, arrays, metadata, pinned)
        except grpc.RpcError as error:
            if pinned is not None and self._is_gone(error, pinned):
                return self._call(signature_name, features, filter)
            raise

    def _predict(
        self,
        signature_name: str,
        arrays: Mapping[str, np.ndarray],
        metadata: _Metadata,
        version: int | None = None,
    ) -> tuple[dict[str, np.ndarray], int]:
        """Sends inputs that were made for the signatures of `metadata`."""
        request = self._request(predict_pb2.PredictRequest(), version)
        request.model_spec.signature_name = signature_name
        for name, array in arrays.items():
            request.inputs[name].CopyFrom(tensors.to_proto(array))
        try:
            response = self._stub.Predict(
                request, timeout=self._timeout_s, metadata=self._call_metadata
            )
        except grpc.RpcError:
            # The signatures may have changed with a new version.
            self._forget(metadata)
            raise
        answered = response.model_spec.version.value
        if answered != metadata.version:
            self._forget(metadata)
        return {
            name: conversion.decode_strings(tensors.to_array(proto))
            for name, proto in response.outputs.items()
        }, answered

    def _is_gone(self, error: grpc.RpcError, version: int) -> bool:
        """Whether a call failed because the version was swapped out."""
        return (
            error.code() == grpc.StatusCode.NOT_FOUND
            and self._version is None
            and self._get_metadata().version != version
        )

    def _request(self, request: Any, version: int | None = None) -> Any:
        """Fills the ModelSpec of a request."""
        request.model_spec.name = self._model
        if version is None:
            version = self._version
        if version is not None:
            request.model_spec.version.value = version
        elif self._label is not None:
            request.model_spec.version_label = self._label
        return request

    def _get_metadata(self) -> _Metadata:
        with self._lock:
            if self._metadata is not None:
                return self._metadata
        request = self._request(
            get_model_metadata_pb2.GetModelMetadataRequest(
                metadata_field=["signature_def"]
            )
        )
        response = self._stub.GetModelMetadata(
            request, timeout=self._timeout_s, metadata=self._call_metadata
        )
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        metadata = _Metadata(
            response.model_spec.version.value, signatures.signature_def
        )
        with self._lock:
            self._metadata = metadata
        return metadata

    def _forget(self, metadata: _Metadata) -> None:
        with self._lock:
            if self._metadata is metadata:
                self._metadata = None

    def _signature(self, name: str, metadata: _Metadata) -> Any:
        if name not in metadata.signatures:
            known = ", ".join(
                sorted(n for n in metadata.signatures if n[:2] != "__")
            )
            raise ValueError(
                f"model {self._model!r} has no signature {name!r}, only "
                f"{known}; is it a lintf index?"
            )
        return metadata.signatures[name]

    def _get_schema(self, version: int) -> tuple[int, IndexSchema]:
        """The schema of a version, or of the one that is served instead."""
        with self._lock:
            cached = self._schema
        if cached is None or cached[0] != version:
            stats = self.stats()
            cached = (stats.version, stats.schema)
            with self._lock:
                self._schema = cached
        return cached

    def _compile(
        self, filters: list[str], info: Any, version: int
    ) -> np.ndarray:
        """Filter programs for a portable export: [batch, words] int64."""
        import tensorflow as tf

        from lintf import ops

        (words,) = conversion.InputSpec.from_tensor_info(
            "filter_program", info
        ).inner_shape
        _, schema = self._get_schema(version)
        try:
            program = ops.compile_filter(
                filters, schema=schema, pad_words=words or 0
            )
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(error.message) from error
        return np.asarray(program)


def tls_credentials(
    root_certificates: str | None = None,
    certificate: str | None = None,
    private_key: str | None = None,
) -> grpc.ChannelCredentials:
    """Credentials for TLS from PEM files.

    Args:
      root_certificates: path of the authorities that the server's certificate
        may be from; None for those that gRPC knows.
      certificate: path of the client's own, for servers that ask for one.
      private_key: path of the key to `certificate`.

    Raises:
      ValueError: only one of `certificate` and `private_key` is given, or a
        file can't be read; the text names it.
    """
    if (certificate is None) != (private_key is None):
        raise ValueError(
            "`certificate` and `private_key` must be given together, got only "
            "one of them"
        )

    def read(path: str | None) -> bytes | None:
        if path is None:
            return None
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise ValueError(
                f"the PEM file {path} can't be read: {error.strerror}"
            ) from error

    return grpc.ssl_channel_credentials(
        read(root_certificates), read(private_key), read(certificate)
    )
