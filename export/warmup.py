# SPDX-License-Identifier: Apache-2.0
"""Warm-up requests: what a server runs before it says that it is ready.

Without them a server that lacks lintf's operations reports the model as
available and fails at the first request; with them the load fails.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

# What only reads. A server really runs the records, so nothing that changes
# the index may ever be among them.
READ_SIGNATURES = (
    "serving_default",
    "retrieve",
    "retrieve_by_embedding",
    "embed_query",
    "lookup",
    "index_stats",
)
_RESULTS = frozenset(("ids", "scores", "num_results"))
# Of a learned similarity.
_MORE_RESULTS = frozenset(("num_scored",))
FILE = pathlib.PurePath("assets.extra", "tf_serving_warmup_requests")


def write_warmup(
    model: pathlib.Path,
    name: str,
    batch_sizes: tuple[int, ...] = (1, 32),
) -> int:
    """Writes the warm-up file of a SavedModel.

    Args:
        model: The SavedModel's directory.
        name: The model's name, as clients will ask for it.
        batch_sizes: One record for each signature and size.

    Returns:
        The number of records.
    """
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    path = model / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in _requests(signatures(model), batch_sizes):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = signature
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())
            count += 1
    return count


def read_warmup(
    model: pathlib.Path,
) -> list[tuple[str, dict[str, np.ndarray]]]:
    """The records of a SavedModel: signature and inputs."""
    from tensorflow_serving.apis import prediction_log_pb2

    records = []
    for data in tf.data.TFRecordDataset(str(model / FILE)):
        log = prediction_log_pb2.PredictionLog.FromString(data.numpy())
        request = log.predict_log.request
        inputs = {
            key: tf.make_ndarray(value) for key, value in request.inputs.items()
        }
        records.append((request.model_spec.signature_name, inputs))
    return records


def signatures(model: pathlib.Path) -> dict[str, Any]:
    """The SignatureDefs of a SavedModel, read without loading it."""
    from tensorflow.core.protobuf import saved_model_pb2

    data = (model / "saved_model.pb").read_bytes()
    saved = saved_model_pb2.SavedModel.FromString(data)
    return {
        name: signature
        for name, signature in saved.meta_graphs[0].signature_def.items()
        if not name.startswith("__")
    }


def read_signatures(known: Mapping[str, Any]) -> list[str]:
    """The names of the signatures that only read.

    Those of every index, and further ones whose outputs are a retrieval's.
    """
    return [n for n in READ_SIGNATURES if n in known] + sorted(
        n for n in known if n not in READ_SIGNATURES and is_retrieval(known[n])
    )


def is_retrieval(signature: Any) -> bool:
    """Whether all that a signature returns is ids, scores and attributes."""
    outputs = set(signature.outputs)
    rest = outputs - _RESULTS - _MORE_RESULTS
    return outputs >= _RESULTS and all(n.startswith("attribute_") for n in rest)


def example_inputs(signature: Any, batch: int) -> dict[str, np.ndarray]:
    """Plain inputs of a signature: small numbers, empty strings."""
    return {
        name: _example(info, batch)
        for name, info in sorted(signature.inputs.items())
    }


def _requests(
    known: Mapping[str, Any], batch_sizes: tuple[int, ...]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for name in read_signatures(known):
        for batch in batch_sizes:
            inputs = example_inputs(known[name], batch)
            yield name, inputs
            if "filter" in inputs:
                filters = np.full([batch], "id not in [1, 2]", object)
                if (
                    known["lookup"].inputs["id"].dtype
                    == tf.string.as_datatype_enum
                ):
                    filters[:] = 'id not in ["1", "2"]'
                yield name, {**inputs, "filter": filters}


def _example(info: Any, batch: int) -> np.ndarray:
    dims = [d.size for d in info.tensor_shape.dim]
    shape = [batch, *(max(d, 1) for d in dims[1:])]
    dtype = tf.dtypes.as_dtype(info.dtype)
    if dtype == tf.string:
        return np.full(shape, "", object)
    # Zero programs are empty filters. No zero vectors: cosine has no answer.
    value = 1 if dtype.is_floating else 0
    return np.full(shape, value, dtype.as_numpy_dtype)
