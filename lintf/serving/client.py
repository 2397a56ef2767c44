# SPDX-License-Identifier: Apache-2.0
"""A client for a served index: Python values in, ids and scores out.

It speaks TF Serving's gRPC API, so the server may be `lintf serve` or a real
`tensorflow_model_server`.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from lintf.index.schema import IndexSchema
from lintf.serving import conversion, tensors

_ATTRIBUTE_PREFIX = "attribute_"
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
class RetrieveResult:
    """The best items of each query, best first.

    Slots beyond a query's `num_results` hold id -1 (or "") and score -inf.

    Attributes:
      ids: [batch, k] int64, or object holding str.
      scores: [batch, k] float32.
      num_results: [batch] int32, how many slots of each row are real.
      attributes: the stored attributes that the index returns, by name, each
        [batch, k] or [batch, k, width]; strings are str.
      version: the model version that answered.
    """

    ids: np.ndarray
    scores: np.ndarray
    num_results: np.ndarray
    attributes: dict[str, np.ndarray]
    version: int

    def rows(self, query: int = 0) -> Iterator[dict[str, Any]]:
        """The real results of one query, as dicts of Python values.

        Args:
          query: the query's index in the batch.

        Yields:
          `{"id": ..., "score": ..., <attribute>: ...}`, best first. A missing
          attribute is None, tags are a list.
        """
        for slot in range(int(self.num_results[query])):
            item = self.ids[query, slot]
            yield {
                "id": item if isinstance(item, str) else int(item),
                "score": float(self.scores[query, slot]),
                **_plain_attributes(self.attributes, (query, slot)),
            }


@dataclasses.dataclass(frozen=True)
class LookupResult:
    """Stored items.

    Attributes:
      found: [batch] bool; where it is False the rest of the row is empty.
      embedding: [batch, dim] float32; None if the index has codes alone.
      attributes: stored attributes by name, each [batch] or [batch, width].
      version: the model version that answered.
    """

    found: np.ndarray
    embedding: np.ndarray | None
    attributes: dict[str, np.ndarray]
    version: int

    def attributes_of(self, position: int) -> dict[str, Any]:
        """The attributes of one of the items, as Python values."""
        return _plain_attributes(self.attributes, (position,))


@dataclasses.dataclass(frozen=True)
class IndexStats:
    """The state of a served index.

    Attributes:
      num_rows: rows in use, holes of deleted items included.
      capacity: rows allocated.
      live_rows: items that can be found.
      log_offsets: how far each partition of the change log is applied.
      index_bytes: bytes of the index's variables.
      build_id: names the export that wrote the index.
      schema_json: the `IndexSchema` as JSON.
      searches: queries answered since the version was loaded, by algorithm;
        empty for a portable index.
      version: the model version that answered.
    """

    num_rows: int
    capacity: int
    live_rows: int
    log_offsets: tuple[int, ...]
    index_bytes: int
    build_id: str
    schema_json: str
    searches: Mapping[str, int]
    version: int

    @property
    def schema(self) -> IndexSchema:
        """The index's schema."""
        return IndexSchema.from_json(self.schema_json)


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
    ) -> None:
        """Makes a client; nothing is sent yet.

        Args:
          target: the server's address, as in "localhost:8500".
          model: the model's name on the server.
          version: asks this version only.
          label: asks the version that has this label.
          timeout_s: the deadline of each call, in seconds, retries included.
          credentials: for TLS; None for plain text.

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
          query_embedding: [dim] or [batch, dim] float32.
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
            attributes=_attributes(outputs),
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
            attributes=_attributes(outputs),
            version=version,
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
        request = self._request(predict_pb2.PredictRequest(), pinned)
        request.model_spec.signature_name = signature_name
        for name, array in arrays.items():
            request.inputs[name].CopyFrom(tensors.to_proto(array))
        try:
            response = self._stub.Predict(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            # The signatures may have changed with a new version.
            self._forget(metadata)
            if pinned is not None and self._is_gone(error, pinned):
                return self._call(signature_name, features, filter)
            raise
        version = response.model_spec.version.value
        if version != metadata.version:
            self._forget(metadata)
        return {
            name: conversion.decode_strings(tensors.to_array(proto))
            for name, proto in response.outputs.items()
        }, version

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
        response = self._stub.GetModelMetadata(request, timeout=self._timeout_s)
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

    def _compile(
        self, filters: list[str], info: Any, version: int
    ) -> np.ndarray:
        """Filter programs for a portable export: [batch, words] int64."""
        import tensorflow as tf

        from lintf import ops

        with self._lock:
            cached = self._schema
        if cached is None or cached[0] != version:
            stats = self.stats()
            cached = (stats.version, stats.schema)
            with self._lock:
                self._schema = cached
        (words,) = conversion.InputSpec.from_tensor_info(
            "filter_program", info
        ).inner_shape
        try:
            program = ops.compile_filter(
                filters, schema=cached[1], pad_words=words or 0
            )
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(error.message) from error
        return np.asarray(program)


def _plain_attributes(
    attributes: Mapping[str, np.ndarray], index: tuple[int, ...]
) -> dict[str, Any]:
    return {
        name: conversion.plain_attribute(values[index])
        for name, values in attributes.items()
    }


def _attributes(outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(_ATTRIBUTE_PREFIX): value
        for name, value in sorted(outputs.items())
        if name.startswith(_ATTRIBUTE_PREFIX)
    }
