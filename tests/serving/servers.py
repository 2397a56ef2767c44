# SPDX-License-Identifier: Apache-2.0
"""Real server processes for tests, embedded and TF Serving alike.

`KINDS` names the servers that the tests run against: "embedded", and
"model_server" where LINTF_MODEL_SERVER names a command that takes
tensorflow_model_server's flags. A test that uses the fixtures of conftest.py
runs once for each.
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

KINDS = ["embedded"]
if os.environ.get("LINTF_MODEL_SERVER"):
    KINDS.append("model_server")

# Generous: test machines are busy, and a deadline that is met costs nothing.
START_TIMEOUT_S = 120.0
CHANGE_TIMEOUT_S = 60.0

State = get_model_status_pb2.ModelVersionStatus.State
Value = TypeVar("Value")


def wait_until(
    probe: Callable[[], Value],
    what: str,
    timeout_s: float = CHANGE_TIMEOUT_S,
) -> Value:
    """Calls `probe` until it returns something true, and returns that.

    Raises:
      AssertionError: the deadline has passed.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = probe()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not in {timeout_s} s"
        # Leaves the processor to what is waited for.
        time.sleep(0.02)


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _op_library() -> str | None:
    """The op library's path, if it is built."""
    import lintf

    path = os.path.join(os.path.dirname(lintf.__file__), "ops/_lintf_ops.so")
    return path if os.path.exists(path) else None


def command(kind: str) -> tuple[list[str], dict[str, str]]:
    """The command line of a kind of server, and its environment."""
    env = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="2", PYTHONUNBUFFERED="1")
    if kind == "embedded":
        return [sys.executable, "-m", "lintf.cli", "serve"], env
    library = _op_library()
    if library:
        env["LD_PRELOAD"] = library
    return shlex.split(os.environ["LINTF_MODEL_SERVER"]), env


class RunningServer:
    """A server process.

    Attributes:
      kind: one of `KINDS`.
      target: its address for gRPC.
    """

    def __init__(self, kind: str, *flags: str) -> None:
        """Starts a process; `wait_until_serving` waits for it.

        Args:
          kind: one of `KINDS`.
          *flags: flags of tensorflow_model_server, without --port.
        """
        self.kind = kind
        port = free_port()
        self.target = f"127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile("w+")
        arguments, env = command(kind)
        self.process = subprocess.Popen(
            [*arguments, f"--port={port}", *flags],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=env,
        )
        self.channel = grpc.insecure_channel(
            self.target,
            [
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                # Looks for a server that is starting often enough.
                ("grpc.max_reconnect_backoff_ms", 200),
            ],
        )
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(
            self.channel
        )
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.config = model_server_config_pb2.ModelServerConfig()

    def log(self) -> str:
        """What the server has printed so far."""
        self._log.seek(0)
        return self._log.read()

    def wait_until_serving(self) -> None:
        """Waits for the port; fails with the log if the process ends."""

        def ready() -> bool:
            assert self.process.poll() is None, self.log()
            try:
                grpc.channel_ready_future(self.channel).result(timeout=0.2)
            except grpc.FutureTimeoutError:
                return False
            return True

        wait_until(ready, "the server listens", START_TIMEOUT_S)
        # The port may be open before the models are loaded.
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "none"
        try:
            self.models.GetModelStatus(
                request, wait_for_ready=True, timeout=START_TIMEOUT_S
            )
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, self.log()

    def stop(self, timeout_s: float = 30.0) -> int:
        """Sends SIGTERM and returns the exit status."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(
                f"no end after SIGTERM: {self.log()}"
            ) from None

    # Requests.

    def predict(
        self,
        model: str,
        signature: str = "",
        *,
        version: int | None = None,
        label: str | None = None,
        outputs: tuple[str, ...] = (),
        timeout_s: float = 30.0,
        **inputs: Any,
    ) -> predict_pb2.PredictResponse:
        """Calls Predict with inputs given as arrays."""
        request = predict_request(model, signature, **inputs)
        if version is not None:
            request.model_spec.version.value = version
        if label is not None:
            request.model_spec.version_label = label
        request.output_filter.extend(outputs)
        return self.predictions.Predict(request, timeout=timeout_s)

    def status(self, model: str) -> dict[int, Any]:
        """The `ModelVersionStatus` of each version; empty if none is known."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        try:
            response = self.models.GetModelStatus(request, timeout=30)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return {}
            raise
        return {s.version: s for s in response.model_version_status}

    def states(self, model: str) -> dict[int, int]:
        """The state of each version."""
        return {v: s.state for v, s in self.status(model).items()}

    def wait_for_state(self, model: str, version: int, state: int) -> None:
        """Waits until a version is in a state."""
        wait_until(
            lambda: self.states(model).get(version) == state,
            f"{model} version {version} is {State.Name(state)}",
        )

    def add_model(self, name: str, base_path: str, **model_config: Any) -> None:
        """Adds a model, or changes it, by reloading the whole config.

        Args:
          name: the model's name.
          base_path: its directory, with a version that loads.
          **model_config: other fields of `ModelConfig`.
        """
        configs = self.config.model_config_list.config
        kept = [c for c in configs if c.name != name]
        new = model_server_config_pb2.ModelServerConfig()
        new.model_config_list.config.extend(kept)
        new.model_config_list.config.add(
            name=name,
            base_path=str(base_path),
            model_platform="tensorflow",
            **model_config,
        )
        self.reload(new)
        self.config = new

    def reload(self, config: Any) -> None:
        """Sends a config as it is."""
        self.models.HandleReloadConfigRequest(
            model_management_pb2.ReloadConfigRequest(config=config),
            timeout=START_TIMEOUT_S,
        )


def predict_request(
    model: str, signature: str = "", **inputs: Any
) -> predict_pb2.PredictRequest:
    """A Predict request with inputs given as arrays."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(np.asarray(value)))
    return request


@contextlib.contextmanager
def running(kind: str, *flags: str) -> Iterator[RunningServer]:
    """A server for the length of a `with` block, serving at its start."""
    server = RunningServer(kind, *flags)
    try:
        server.wait_until_serving()
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def fails_with(
    code: grpc.StatusCode, text: str | None = None, *, whole: bool = True
) -> Iterator[None]:
    """Expects an RPC to fail.

    Args:
      code: the status code.
      text: the status text; None for any.
      whole: whether the text is all of it, or a part.
    """
    try:
        yield
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        if text is not None:
            details = error.details()
            assert details == text if whole else text in details, details
    else:
        raise AssertionError(f"the call must fail with {code}, it succeeded")
