# SPDX-License-Identifier: Apache-2.0
"""One loaded version of a SavedModel.

The model runs in a TF1 session, as it does in TF Serving: with the same pruning
to the outputs that were asked for, the same deadlines and the same error texts,
of which `tf.saved_model.load` has none.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from lintf.serving import errors, tensors

DEFAULT_SIGNATURE = "serving_default"
_SERVE_TAG = "serve"
_MODEL_FILE = "saved_model.pb"
_WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
_MAX_WARMUP_RECORDS = 1000
_MAX_TIMEOUT_MS = 2**31 - 1

# What Python's loader raises for a broken SavedModel, beside TensorFlow's own.
_LOAD_ERRORS = (OSError, KeyError, RuntimeError, TypeError, ValueError)

# The names that C++ error texts use, where they are not the Python ones.
_DTYPE_NAMES = {"float32": "float", "float64": "double", "float16": "half"}


def _dtype_name(dtype: tf.DType) -> str:
    return _DTYPE_NAMES.get(dtype.name, str(dtype.name))


def _read_meta_graph(path: str) -> Any:
    """Returns the `MetaGraphDef` of a version directory that is served."""
    model_file = os.path.join(path, _MODEL_FILE)
    try:
        with open(model_file, "rb") as file:
            model = saved_model_pb2.SavedModel.FromString(file.read())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.not_a_saved_model(path) from error
    except DecodeError as error:
        raise errors.ServingError(
            grpc.StatusCode.DATA_LOSS,
            f"Can't parse {model_file} as binary proto",
        ) from error
    for meta_graph in model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == {_SERVE_TAG}:
            return meta_graph
    raise errors.ServingError(
        grpc.StatusCode.NOT_FOUND,
        "Could not find meta graph def matching supplied tags: "
        f"{{ {_SERVE_TAG} }}. Export with tf.saved_model.save, which sets it.",
    )


class Servable:
    """A SavedModel in memory, behind the checks of TF Serving's Predict.

    Thread-safe, apart from `close`, which aborts what is still running.
    """

    def __init__(self, path: str) -> None:
        """Loads the SavedModel. Its warm-up is a step of its own.

        Args:
          path: the version directory.

        Raises:
          ServingError: there is no SavedModel, or it does not load.
        """
        self._path = path
        try:
            meta_graph = _read_meta_graph(path)
            self._signatures = dict(meta_graph.signature_def)
            self._load()
        except tf.errors.OpError as error:
            raise errors.from_tensorflow(error) from error
        except _LOAD_ERRORS as error:
            raise errors.ServingError(
                grpc.StatusCode.INTERNAL, f"Loading {path} failed: {error}"
            ) from error

    def _load(self) -> None:
        self._graph = tf.Graph()
        self._feeds: dict[str, tf.Tensor] = {}
        with self._graph.as_default():
            for signature in self._signatures.values():
                for info in signature.inputs.values():
                    # The signature's shapes are replaced by unknown ones:
                    # `Session.run` checks them and the real server does not.
                    if info.name and info.name not in self._feeds:
                        self._feeds[info.name] = tf.compat.v1.placeholder(
                            tf.as_dtype(info.dtype)
                        )
        config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
        config.gpu_options.allow_growth = True
        self._session = tf.compat.v1.Session(graph=self._graph, config=config)
        try:
            with self._graph.as_default():
                tf.compat.v1.saved_model.load(
                    self._session,
                    {_SERVE_TAG},
                    self._path,
                    input_map=self._feeds,
                )
            self._graph.finalize()
        except BaseException:
            self._session.close()
            raise

    @property
    def signatures(self) -> dict[str, Any]:
        """The `SignatureDef`s by name."""
        return self._signatures

    def close(self) -> None:
        """Frees the model and cancels runs in progress."""
        self._session.close()

    def warm_up(self) -> int:
        """Replays the recorded requests that were exported with the model.

        Returns:
          The number of requests.

        Raises:
          ServingError: a record is not a Predict request, or fails; the
            version must not be served then.
        """
        path = os.path.join(self._path, _WARMUP_FILE)
        if not os.path.exists(path):
            return 0
        count = 0
        try:
            for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
                count += 1
                if count > _MAX_WARMUP_RECORDS:
                    raise errors.ServingError(
                        grpc.StatusCode.INVALID_ARGUMENT,
                        "Number of warmup records exceeds the maximum "
                        f"({_MAX_WARMUP_RECORDS}) at {path}",
                    )
                log = prediction_log_pb2.PredictionLog.FromString(record)
                if not log.HasField("predict_log"):
                    raise errors.ServingError(
                        grpc.StatusCode.UNIMPLEMENTED,
                        f"Unsupported log_type for warmup in record {count} "
                        f"of {path}: only predict_log is replayed.",
                    )
                self.predict(log.predict_log.request)
        except DecodeError as error:
            raise errors.ServingError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Failed to parse warmup record {count} from {path}",
            ) from error
        except tf.errors.DataLossError as error:
            raise errors.ServingError(
                grpc.StatusCode.DATA_LOSS,
                f"{error.message}. Please verify your warmup data is in "
                "TFRecord format.",
            ) from error
        return count

    def predict(
        self,
        request: predict_pb2.PredictRequest,
        timeout_s: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs the signature that a request names.

        Args:
          request: the request; its name and version are not looked at.
          timeout_s: how long the run may take, in seconds; None for ever.

        Returns:
          The outputs by alias: all of them, or those of `output_filter`.

        Raises:
          ServingError: as the real server would answer.
        """
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        signature = self._signatures.get(name)
        if signature is None:
            raise errors.unknown_signature(name)
        feeds = self._parse_inputs(signature, request.inputs)
        aliases = _select_outputs(signature, request.output_filter)
        fetches = {
            alias: self._fetch(signature.outputs[alias].name)
            for alias in aliases
        }
        self._check_dtypes(feeds)
        options = tf.compat.v1.RunOptions()
        if timeout_s is not None:
            # Zero would mean no limit.
            options.timeout_in_ms = min(
                max(int(timeout_s * 1000), 1), _MAX_TIMEOUT_MS
            )
        try:
            return dict(
                self._session.run(
                    fetches,
                    {self._feeds[feed]: value for feed, value in feeds.items()},
                    options=options,
                )
            )
        except tf.errors.OpError as error:
            raise errors.from_tensorflow(error) from error
        except RuntimeError as error:
            # `Session.run` on a session that a shutdown has closed.
            raise errors.ServingError(
                grpc.StatusCode.UNAVAILABLE, f"The model is unloaded: {error}"
            ) from error

    def _parse_inputs(
        self, signature: Any, inputs: Any
    ) -> dict[str, np.ndarray]:
        """Checks names and contents; returns the values by feed name."""
        expected, defaults = signature.inputs, signature.defaults
        if len(inputs) > len(expected) or (
            len(inputs) < len(expected) and not defaults
        ):
            raise errors.wrong_input_count(inputs, expected)
        feeds = {}
        used = []
        for alias, info in expected.items():
            if alias in inputs:
                proto = inputs[alias]
                used.append(alias)
            elif alias in defaults:
                proto = defaults[alias]
            else:
                raise errors.missing_input(alias, info.name, inputs, defaults)
            try:
                feeds[info.name] = tensors.to_array(proto)
            except ValueError as error:
                raise errors.malformed_tensor(alias) from error
        if len(used) != len(inputs):
            raise errors.unused_inputs(used, inputs)
        return feeds

    def _check_dtypes(self, feeds: dict[str, np.ndarray]) -> None:
        # `Session.run` would convert silently; the real server refuses.
        for index, feed in enumerate(sorted(feeds)):
            expected = self._feeds[feed].dtype
            got = (
                tf.string
                if feeds[feed].dtype == object
                else tf.as_dtype(feeds[feed].dtype)
            )
            if got != expected:
                raise errors.wrong_dtype(
                    index, _dtype_name(got), _dtype_name(expected)
                )

    def _fetch(self, name: str) -> tf.Tensor:
        if name in self._feeds:
            return self._feeds[name]
        try:
            return self._graph.get_tensor_by_name(name)
        except (KeyError, ValueError) as error:
            # The initialiser, which is listed as a signature, has no tensor.
            raise errors.ServingError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"The signature's output {name} is not a tensor and can't be "
                "fetched.",
            ) from error


def _select_outputs(signature: Any, output_filter: Sequence[str]) -> list[str]:
    """The output aliases to compute; all where the filter is empty."""
    selected: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise errors.unknown_output(alias, signature.outputs)
        if alias in selected:
            raise errors.duplicate_output(alias)
        selected.append(alias)
    return selected or list(signature.outputs)
