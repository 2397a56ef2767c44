# SPDX-License-Identifier: Apache-2.0
"""TF Serving's ModelService: states of versions, and config reloads."""

from __future__ import annotations

import grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
)

from lintf.serving import errors
from lintf.serving.access import Access
from lintf.serving.models import Models


class ModelService(
    model_service_pb2_grpc.ModelServiceServicer  # type: ignore[misc]
):
    """Answers for the models of one server."""

    def __init__(self, models: Models, access: Access) -> None:
        self._models = models
        self._access = access

    def GetModelStatus(
        self,
        request: get_model_status_pb2.GetModelStatusRequest,
        context: grpc.ServicerContext,
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Returns the state of one version, or of every version ever seen."""
        with errors.as_status(context):
            if not request.HasField("model_spec"):
                raise errors.missing_model_spec()
            spec = request.model_spec
            statuses = self._models.statuses(spec.name)
            if spec.HasField("version"):
                wanted = spec.version.value
                statuses = [s for s in statuses if s[0] == wanted]
                if not statuses:
                    raise errors.version_not_found(spec.name, wanted)
            if not statuses:
                raise errors.no_versions(spec.name)
            response = get_model_status_pb2.GetModelStatusResponse()
            for number, state, error in statuses:
                status = response.model_version_status.add(
                    version=number, state=state
                )
                # Marks the field as set, as an OK status is empty otherwise.
                status.status.SetInParent()
                if error is not None:
                    status.status.error_code = error.number
                    status.status.error_message = error.message
            return response

    def HandleReloadConfigRequest(
        self,
        request: model_management_pb2.ReloadConfigRequest,
        context: grpc.ServicerContext,
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replaces the whole list of models; returns when the new ones serve.

        As on the real server, errors come as the status of the call.
        """
        with errors.as_status(context):
            self._access.check_reload(context.invocation_metadata())
            self._models.reload(request.config)
            response = model_management_pb2.ReloadConfigResponse()
            response.status.SetInParent()
            return response
