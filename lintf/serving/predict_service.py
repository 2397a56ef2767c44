# SPDX-License-Identifier: Apache-2.0
"""TF Serving's PredictionService: Predict and GetModelMetadata."""

from __future__ import annotations

from typing import Any

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from lintf.serving import errors, tensors
from lintf.serving.access import Access
from lintf.serving.models import Models
from lintf.serving.servable import DEFAULT_SIGNATURE

_SIGNATURE_FIELD = "signature_def"


class PredictionService(
    prediction_service_pb2_grpc.PredictionServiceServicer  # type: ignore[misc]
):
    """Answers from the models of one server."""

    def __init__(self, models: Models, access: Access) -> None:
        self._models = models
        self._access = access

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Runs one signature of one version of a model."""
        with errors.as_status(context):
            if not request.HasField("model_spec"):
                raise errors.missing_model_spec()
            signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
            self._access.check_predict(signature, context.invocation_metadata())
            with self._models.acquire(request.model_spec) as held:
                version, servable = held
                outputs = servable.predict(request, context.time_remaining())
            response = predict_pb2.PredictResponse()
            _describe(response.model_spec, request.model_spec, version)
            response.model_spec.signature_name = signature
            for alias, value in outputs.items():
                response.outputs[alias].CopyFrom(tensors.to_proto(value))
            return response

    def GetModelMetadata(
        self,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
        context: grpc.ServicerContext,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Returns the signatures of one version of a model."""
        with errors.as_status(context):
            if not request.HasField("model_spec"):
                raise errors.missing_model_spec()
            if not request.metadata_field:
                raise errors.no_metadata_field()
            for field in request.metadata_field:
                if field != _SIGNATURE_FIELD:
                    raise errors.unknown_metadata_field(field)
            signatures = get_model_metadata_pb2.SignatureDefMap()
            with self._models.acquire(request.model_spec) as held:
                version, servable = held
                for name, signature in servable.signatures.items():
                    signatures.signature_def[name].CopyFrom(signature)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            _describe(response.model_spec, request.model_spec, version)
            response.metadata[_SIGNATURE_FIELD].Pack(signatures)
            return response

    def Classify(self, request: Any, context: grpc.ServicerContext) -> None:
        """Not offered: lintf's models have no classification signature."""
        _refuse(context, "Classify")

    def Regress(self, request: Any, context: grpc.ServicerContext) -> None:
        """Not offered: lintf's models have no regression signature."""
        _refuse(context, "Regress")

    def MultiInference(
        self, request: Any, context: grpc.ServicerContext
    ) -> None:
        """Not offered: see Classify and Regress."""
        _refuse(context, "MultiInference")


def _describe(answer: Any, asked: Any, version: int) -> None:
    """Fills a response's ModelSpec with what was resolved."""
    answer.name = asked.name
    answer.version.value = version


def _refuse(context: grpc.ServicerContext, method: str) -> None:
    context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        f"The lintf development server does not implement {method}: call "
        "Predict, or serve the model with tensorflow_model_server.",
    )
