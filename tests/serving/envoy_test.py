# SPDX-License-Identifier: Apache-2.0
"""The proxy of serving_configs, read, and run where there is an Envoy.

LINTF_ENVOY names its binary. The embedded server stands behind it, in place
of tensorflow_model_server: to the proxy they are the same.
"""

import contextlib
import os
import pathlib
import re
import subprocess

import grpc
import numpy as np
import pytest
import trustme
import yaml
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

from lintf.index.signatures import MUTATING_SIGNATURES
from lintf.serving import model_config
from lintf.serving.server import Server, ServerOptions
from tests.serving import servers
from tests.serving.servers import fails_with, predict_request

CONFIGS = pathlib.Path(__file__).parents[2] / "serving_configs"
ENVOY = os.environ.get("LINTF_ENVOY")
TOKEN = "dGhlIHRva2Vu"
PREDICTION = "/tensorflow.serving.PredictionService"
MODEL = "/tensorflow.serving.ModelService"
QUERY = np.zeros([1], np.float32)
BEARER = (("authorization", f"Bearer {TOKEN}"),)

needs_envoy = pytest.mark.skipif(not ENVOY, reason="LINTF_ENVOY is not set")


def _config():
    return yaml.safe_load((CONFIGS / "envoy.yaml").read_text(encoding="utf-8"))


def _guard():
    return (CONFIGS / "envoy_guard.lua").read_text(encoding="utf-8")


def _filter_chain(config):
    (listener,) = config["static_resources"]["listeners"]
    (chain,) = listener["filter_chains"]
    return chain


def test_guard_knows_the_mutating_signatures():
    table = re.search(r"local MUTATING = \{(.*?)\}", _guard(), re.DOTALL)[1]
    names = re.findall(r"(\w+) = true", table)
    assert sorted(names) == sorted(MUTATING_SIGNATURES)


def test_everything_passes_the_guard():
    chain = _filter_chain(_config())
    (manager,) = chain["filters"]
    guard, router = manager["typed_config"]["http_filters"]
    assert guard["name"] == "envoy.filters.http.lua"
    source = guard["typed_config"]["default_source_code"]["filename"]
    assert pathlib.Path(source).name == "envoy_guard.lua"
    folder = re.search(r'local FOLDER = "(.*)"', _guard())[1]
    assert str(pathlib.Path(source).parent) == folder
    assert router["name"] == "envoy.filters.http.router"
    assert chain["transport_socket"]["name"] == "envoy.transport_sockets.tls"


def test_route_and_cluster_fit():
    config = _config()
    (cluster,) = config["static_resources"]["clusters"]
    (manager,) = _filter_chain(config)["filters"]
    (host,) = manager["typed_config"]["route_config"]["virtual_hosts"]
    assert [r["route"]["cluster"] for r in host["routes"]] == [cluster["name"]]


def _prepared(folder, port, server_port, certificate):
    """The configuration with another folder and other ports."""
    (folder / "tls").mkdir()
    certificate.private_key_pem.write_to_path(folder / "tls" / "server.key")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(folder / "tls" / "server.crt", append=True)
    (folder / "update_token").write_text(f"{TOKEN}\n", encoding="ascii")
    text = (CONFIGS / "envoy.yaml").read_text(encoding="utf-8")
    text = text.replace("/etc/lintf", str(folder))
    text = text.replace("port_value: 8443", f"port_value: {port}")
    text = text.replace("port_value: 8500", f"port_value: {server_port}")
    (folder / "envoy.yaml").write_text(text, encoding="utf-8")
    guard = _guard().replace("/etc/lintf", str(folder))
    (folder / "envoy_guard.lua").write_text(guard, encoding="utf-8")
    return folder / "envoy.yaml"


@contextlib.contextmanager
def _running(folder, server, *, read_only=False):
    """An Envoy in front of a server; yields a channel to it."""
    authority = trustme.CA()
    port = servers.free_port()
    config = _prepared(
        folder, port, server.port, authority.issue_cert("localhost")
    )
    if read_only:
        (folder / "read_only").touch()
    with (folder / "envoy.log").open("w") as log:
        process = subprocess.Popen(
            [
                *(ENVOY, "-c", str(config), "--concurrency", "1"),
                *("--use-dynamic-base-id", "--log-level", "warning"),
            ],
            stdout=log,
            stderr=log,
        )
        try:
            with grpc.secure_channel(
                f"localhost:{port}",
                grpc.ssl_channel_credentials(authority.cert_pem.bytes()),
                [("grpc.max_reconnect_backoff_ms", 200)],
            ) as channel:
                try:
                    grpc.channel_ready_future(channel).result(60)
                except grpc.FutureTimeoutError:
                    pytest.fail((folder / "envoy.log").read_text())
                yield channel
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def server(toy_base_path):
    config = model_config.single_model("toy", str(toy_base_path))
    server = Server(config, ServerOptions(port=0))
    server.start()
    yield server
    server.stop(0.0)


@pytest.fixture(scope="module")
def channel(server, tmp_path_factory):
    with _running(tmp_path_factory.mktemp("envoy"), server) as channel:
        yield channel


def _call(channel, path, request, metadata=(), **options):
    """Calls a method with a message, or with bytes that may be none."""
    call = channel.unary_unary(
        path,
        request_serializer=lambda data: data,
        response_deserializer=lambda data: data,
    )
    data = (
        request if isinstance(request, bytes) else (request.SerializeToString())
    )
    return call(data, timeout=30, metadata=metadata, **options)


def _predict(channel, signature, metadata=(), **options):
    request = predict_request("toy", signature, query=QUERY)
    data = _call(channel, f"{PREDICTION}/Predict", request, metadata, **options)
    return predict_pb2.PredictResponse.FromString(data)


@needs_envoy
def test_reading_needs_no_token(channel):
    assert _predict(channel, "one_input").model_spec.version.value == 1
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(
        metadata_field=["signature_def"]
    )
    metadata.model_spec.name = "toy"
    assert _call(channel, f"{PREDICTION}/GetModelMetadata", metadata)
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "toy"
    assert _call(channel, f"{MODEL}/GetModelStatus", status)
    # The server's own errors come through.
    with fails_with(grpc.StatusCode.FAILED_PRECONDITION):
        _predict(channel, "no_such_signature")


@needs_envoy
def test_changes_need_the_token(channel):
    for metadata in (
        (),
        (("authorization", f"Bearer {TOKEN}x"),),
        (("authorization", f"Bearer {TOKEN[:-1]}"),),
        (("authorization", TOKEN),),
        (("authorization", f"Basic {TOKEN}"),),
    ):
        for signature in MUTATING_SIGNATURES:
            with fails_with(grpc.StatusCode.UNAUTHENTICATED):
                _predict(channel, signature, metadata)
    _predict(channel, "update", BEARER)
    _predict(channel, "update", (("authorization", f"bearer {TOKEN}"),))


@needs_envoy
def test_reloads_need_the_token(channel, toy_base_path):
    request = model_management_pb2.ReloadConfigRequest(
        config=model_config.single_model("toy", str(toy_base_path))
    )
    path = f"{MODEL}/HandleReloadConfigRequest"
    with fails_with(grpc.StatusCode.UNAUTHENTICATED):
        _call(channel, path, request)
    _call(channel, path, request, BEARER)


@needs_envoy
def test_other_methods_are_refused(channel):
    for path in (
        f"{PREDICTION}/Classify",
        "/tensorflow.serving.SessionService/SessionRun",
        f"{PREDICTION}//Predict",
        f"/x/..{PREDICTION}/Predict",
    ):
        with fails_with(grpc.StatusCode.UNIMPLEMENTED):
            _call(channel, path, b"", BEARER)


def _field(number, data):
    """A length-delimited field."""
    size = len(data)
    assert size < 128
    return bytes([number * 8 + 2, size]) + data


UPDATE = _field(3, b"update")
HARMLESS = _field(3, b"one_input")


@needs_envoy
@pytest.mark.parametrize(
    "message",
    [
        # Fields in any order, and any number of times.
        _field(1, UPDATE + _field(1, b"toy")),
        _field(1, HARMLESS) + _field(1, UPDATE),
        _field(1, UPDATE) + _field(1, HARMLESS),
        _field(1, UPDATE + HARMLESS),
        b"\x50\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + _field(1, UPDATE),
        b"\x51" + b"\x0a" * 8 + b"\x55" + b"\x0a" * 4 + _field(1, UPDATE),
    ],
)
def test_changes_that_look_odd(channel, message):
    with fails_with(grpc.StatusCode.UNAUTHENTICATED):
        _call(channel, f"{PREDICTION}/Predict", message)


@needs_envoy
@pytest.mark.parametrize(
    "message",
    [
        # Tags and lengths longer than they need be, the last of them one that
        # overflows 32 bits to the tag of the model spec.
        b"\x8a\x00" + _field(1, UPDATE)[1:],
        b"\x0a\x88\x00" + UPDATE,
        b"\x8a\x80\x80\x80\x10" + _field(1, UPDATE)[1:],
        # A length beyond the end, a group, field number 0.
        b"\x0a\x7f" + UPDATE,
        b"\x53" + _field(1, UPDATE) + b"\x54",
        b"\x02\x00" + _field(1, UPDATE),
        _field(1, UPDATE + b"\x1a"),
        b"\x50" + b"\xff" * 10 + b"\x01" + _field(1, UPDATE),
        b"\x51" + b"\0" * 3,
    ],
)
def test_requests_that_are_not_understood(channel, message):
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT, "must be one", whole=False
    ):
        _call(channel, f"{PREDICTION}/Predict", message, BEARER)


@needs_envoy
def test_compressed_requests_are_refused(channel):
    compression = {"compression": grpc.Compression.Gzip}
    with fails_with(grpc.StatusCode.INVALID_ARGUMENT):
        request = predict_request("toy", "update", query=np.zeros([9999], "f4"))
        path = f"{PREDICTION}/Predict"
        _call(channel, path, request, BEARER, **compression)


@needs_envoy
def test_large_request(channel):
    # More than Envoy holds by default, and as much as an update may have.
    request = predict_request(
        "toy", "update", query=np.zeros([10_000_000], np.float32)
    )
    assert len(request.SerializeToString()) > 40_000_000
    channel_options = {"wait_for_ready": True}
    with fails_with(grpc.StatusCode.UNAUTHENTICATED):
        _call(channel, f"{PREDICTION}/Predict", request, **channel_options)


@needs_envoy
def test_read_only(server, tmp_path, toy_base_path):
    with _running(tmp_path, server, read_only=True) as channel:
        _predict(channel, "one_input")
        for signature in MUTATING_SIGNATURES:
            with fails_with(grpc.StatusCode.UNAUTHENTICATED):
                _predict(channel, signature)
            with fails_with(grpc.StatusCode.PERMISSION_DENIED):
                _predict(channel, signature, BEARER)
        request = model_management_pb2.ReloadConfigRequest(
            config=model_config.single_model("toy", str(toy_base_path))
        )
        path = f"{MODEL}/HandleReloadConfigRequest"
        _call(channel, path, request, BEARER)


@needs_envoy
def test_random_messages_never_reach_an_update(channel):
    """What protobuf reads as an update needs the token, however written."""
    rng = np.random.default_rng(17)
    base = _field(1, _field(1, b"toy") + UPDATE)
    refused = 0
    for _ in range(1000):
        message = bytearray(base)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(len(message) + 1))
            data = rng.integers(0, 256, rng.integers(0, 4), np.uint8).tobytes()
            message[place : place + int(rng.integers(0, 3))] = data
        message = bytes(message)
        try:
            parsed = predict_pb2.PredictRequest.FromString(message)
            name = parsed.model_spec.signature_name
        except Exception:
            continue
        if name not in MUTATING_SIGNATURES:
            continue
        refused += 1
        with pytest.raises(grpc.RpcError) as caught:
            _call(channel, f"{PREDICTION}/Predict", message)
        assert caught.value.code() in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.INVALID_ARGUMENT,
        ), message
        # The server would have said that an input is missing.
        assert "input size" not in caught.value.details()
    assert refused > 30
