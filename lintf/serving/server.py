# SPDX-License-Identifier: Apache-2.0
"""The embedded development server, assembled.

It answers TF Serving's gRPC API in one Python process, so that a newcomer and a
test need no other program. Production belongs to `tensorflow_model_server`:
the same directory, the same clients, about a third of the latency.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from concurrent import futures
from typing import Any

import grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from lintf.serving.access import Access
from lintf.serving.model_service import ModelService
from lintf.serving.models import Models
from lintf.serving.predict_service import PredictionService
from lintf.serving.servable import Servable
from lintf.serving.versions import LoadPolicy

# What the real server sets: protobuf's own limit, which no flag changes.
_MAX_RECEIVE_BYTES = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """Settings of an embedded server.

    Attributes:
      host: the address to listen on.
      port: the port; 0 takes any free one.
      max_threads: requests that run at once; more wait for a thread.
      load_policy: how version directories are watched and loaded.
      enable_warmup: whether recorded warm-up requests run before a version
        serves.
      allow_labels_for_unavailable: whether a version label may name a version
        that is not loaded yet, as a label in a start-up config must.
      access: who may change what is served.
      credentials: for TLS; None for plain text.
    """

    host: str = "127.0.0.1"
    port: int = 8500
    max_threads: int = max(16, 4 * (os.cpu_count() or 1))
    load_policy: LoadPolicy = LoadPolicy()
    enable_warmup: bool = True
    allow_labels_for_unavailable: bool = False
    access: Access = Access()
    credentials: grpc.ServerCredentials | None = None


def _check_free(options: ServerOptions) -> None:
    """Raises OSError where the address can't be listened on."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # A server that has just ended does not block its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except OSError as error:
            raise OSError(
                f"Can't listen on {options.host}:{options.port}: "
                f"{error.strerror}. Is another server running there? --port 0 "
                "takes a free port."
            ) from error


class Server:
    """A server in this process: `start`, then `stop`."""

    def __init__(self, config: Any, options: ServerOptions) -> None:
        """Checks the port, so that one in use shows before models load.

        Args:
          config: a `ModelServerConfig`.
          options: the settings.

        Raises:
          OSError: the address can't be listened on.
        """
        self._config = config
        self._enable_warmup = options.enable_warmup
        self.port = options.port
        self.models = Models(
            self._load_servable,
            options.load_policy,
            allow_labels_for_unavailable=options.allow_labels_for_unavailable,
        )
        self._grpc_server = grpc.server(
            futures.ThreadPoolExecutor(
                options.max_threads, thread_name_prefix="request"
            ),
            options=[
                ("grpc.max_receive_message_length", _MAX_RECEIVE_BYTES),
                ("grpc.max_send_message_length", -1),
                # Without this two servers could share a port and each get
                # some of the requests.
                ("grpc.so_reuseport", 0),
            ],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(self.models, options.access), self._grpc_server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(self.models, options.access), self._grpc_server
        )
        self._options = options
        host = f"[{options.host}]" if ":" in options.host else options.host
        self._host = host
        _check_free(options)

    @property
    def target(self) -> str:
        """The address for clients, once the server has started."""
        return f"{self._host}:{self.port}"

    def _load_servable(self, path: str) -> Servable:
        servable = Servable(path)
        try:
            if self._enable_warmup:
                servable.warm_up()
        except BaseException:
            servable.close()
            raise
        return servable

    def start(self) -> None:
        """Loads the models, then answers requests.

        Until then connections are refused, as by a real server.

        Raises:
          ServingError: a model did not load, or the config is not valid.
          OSError: the port was taken meanwhile.
        """
        self.models.reload(self._config)
        address = f"{self._host}:{self._options.port}"
        try:
            self.port = self._add_port(address)
        except RuntimeError as error:
            raise OSError(f"Can't listen on {address}: {error}") from error
        self._grpc_server.start()

    def _add_port(self, address: str) -> int:
        credentials = self._options.credentials
        if credentials is None:
            return int(self._grpc_server.add_insecure_port(address))
        return int(self._grpc_server.add_secure_port(address, credentials))

    def stop(self, grace_s: float) -> None:
        """Takes no new requests and ends.

        Args:
          grace_s: seconds that requests in progress have to end; those that
            have not are cancelled.
        """
        self._grpc_server.stop(grace_s).wait()
        self.models.abort()
