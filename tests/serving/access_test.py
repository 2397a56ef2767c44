# SPDX-License-Identifier: Apache-2.0
"""TLS, the bearer token and read-only mode of the embedded server."""

import contextlib
import json

import grpc
import numpy as np
import pytest
import trustme
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from lintf.cli import main, serve
from lintf.index.signatures import MUTATING_SIGNATURES
from lintf.serving import access, model_config
from lintf.serving.server import Server, ServerOptions
from tests.serving import servers
from tests.serving.servers import fails_with, predict_request

TOKEN = "dGhlIHRva2Vu"
QUERY = np.zeros([1], np.float32)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def client_certificate(authority):
    return authority.issue_cert("ingester@example.org")


def _ssl_config(folder, authority, certificate, **fields):
    """Writes an SSLConfig text proto; returns its path."""
    fields = {
        "server_key": certificate.private_key_pem.bytes().decode(),
        "server_cert": certificate.cert_chain_pems[0].bytes().decode(),
        **fields,
    }
    # A JSON string is a text proto string too.
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    path = folder / "ssl.config"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def ssl_config(tmp_path, authority):
    certificate = authority.issue_cert("localhost")
    return lambda **fields: _ssl_config(
        tmp_path, authority, certificate, **fields
    )


@pytest.fixture
def serving(toy_base_path):
    """Starts servers in this process; yields a function that does."""
    with contextlib.ExitStack() as stack:

        def start(**options):
            config = model_config.single_model("toy", str(toy_base_path))
            server = Server(config, ServerOptions(port=0, **options))
            stack.callback(server.stop, 0.0)
            server.start()
            return server

        yield start


def _credentials(authority, certificate=None):
    chain = key = None
    if certificate is not None:
        key = certificate.private_key_pem.bytes()
        chain = b"".join(p.bytes() for p in certificate.cert_chain_pems)
    return grpc.ssl_channel_credentials(authority.cert_pem.bytes(), key, chain)


@contextlib.contextmanager
def _channel(server, credentials=None):
    target = f"localhost:{server.port}"
    if credentials is None:
        channel = grpc.insecure_channel(target)
    else:
        channel = grpc.secure_channel(target, credentials)
    with channel:
        yield channel


def _predict(channel, signature, metadata=()):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_request("toy", signature, query=QUERY)
    return stub.Predict(request, timeout=30, metadata=metadata)


def _reload(channel, config, metadata=()):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = model_management_pb2.ReloadConfigRequest(config=config)
    stub.HandleReloadConfigRequest(request, timeout=30, metadata=metadata)


def _bearer(token):
    return (("authorization", f"Bearer {token}"),)


def test_tls(serving, ssl_config, authority):
    credentials = access.read_ssl_config_file(ssl_config())
    server = serving(credentials=credentials)
    with _channel(server, _credentials(authority)) as channel:
        _predict(channel, "one_input")
    # Neither plain text nor another authority's certificate will do.
    for wrong in (None, _credentials(trustme.CA())):
        with (
            _channel(server, wrong) as channel,
            fails_with(grpc.StatusCode.UNAVAILABLE),
        ):
            _predict(channel, "one_input")


def test_client_certificates(
    serving, ssl_config, authority, client_certificate
):
    path = ssl_config(
        custom_ca=authority.cert_pem.bytes().decode(), client_verify=True
    )
    server = serving(credentials=access.read_ssl_config_file(path))
    credentials = _credentials(authority, client_certificate)
    with _channel(server, credentials) as channel:
        _predict(channel, "one_input")
    stranger = trustme.CA().issue_cert("ingester@example.org")
    for wrong in (
        _credentials(authority),
        _credentials(authority, stranger),
    ):
        with (
            _channel(server, wrong) as channel,
            fails_with(grpc.StatusCode.UNAVAILABLE),
        ):
            _predict(channel, "one_input")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"server_key": ""}, "PEM text .* as `server_key`, got none"),
        ({"server_cert": "cert"}, "as `server_cert`, got another text"),
        ({"client_verify": True}, "as `custom_ca`, got none"),
        ({"client_verify": 7}, "SSLConfig text proto, but line:column 3:"),
        ({"no_such_field": 1}, "SSLConfig text proto, but line:column 3:"),
    ],
)
def test_ssl_configs_that_are_refused(ssl_config, fields, text):
    with pytest.raises(ValueError, match=text):
        access.read_ssl_config_file(ssl_config(**fields))


def test_certificate_of_another_key(serving, ssl_config, authority):
    other = authority.issue_cert("localhost")
    path = ssl_config(server_key=other.private_key_pem.bytes().decode())
    with pytest.raises(OSError, match="Can't listen"):
        serving(credentials=access.read_ssl_config_file(path))


def test_mutating_signatures_need_the_token(serving):
    server = serving(access=access.Access(token=TOKEN))
    with _channel(server) as channel:
        _predict(channel, "one_input")
        for metadata in (
            (),
            _bearer(TOKEN + "x"),
            _bearer(TOKEN[:-1]),
            (("authorization", TOKEN),),
            (("authorization", f"Basic {TOKEN}"),),
            _bearer(TOKEN) * 2,
        ):
            for signature in MUTATING_SIGNATURES:
                with fails_with(
                    grpc.StatusCode.UNAUTHENTICATED,
                    "`authorization: Bearer TOKEN`",
                    whole=False,
                ):
                    _predict(channel, signature, metadata)
        _predict(channel, "update", _bearer(TOKEN))
        _predict(channel, "update", (("authorization", f"bearer {TOKEN}"),))


def test_answers_do_not_tell_the_token(serving):
    server = serving(access=access.Access(token=TOKEN))
    with _channel(server) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            _predict(channel, "update", _bearer("guess"))
    assert TOKEN not in caught.value.details()
    assert TOKEN not in repr(access.Access(token=TOKEN))


def test_reloads_need_the_token(serving, toy_base_path):
    server = serving(access=access.Access(token=TOKEN))
    both = model_config.single_model("toy", str(toy_base_path))
    both.model_config_list.config.add(
        name="second", base_path=str(toy_base_path)
    )
    with _channel(server) as channel:
        with fails_with(grpc.StatusCode.UNAUTHENTICATED):
            _reload(channel, both)
        assert list(server.models.available()) == ["toy"]
        _reload(channel, both, _bearer(TOKEN))
        assert sorted(server.models.available()) == ["second", "toy"]


def test_read_only(serving, toy_base_path):
    server = serving(access=access.Access(TOKEN, read_only=True))
    with _channel(server) as channel:
        _predict(channel, "one_input")
        for signature in MUTATING_SIGNATURES:
            # Who has no token does not learn more than that.
            with fails_with(grpc.StatusCode.UNAUTHENTICATED):
                _predict(channel, signature)
            with fails_with(
                grpc.StatusCode.PERMISSION_DENIED, "read-only", whole=False
            ):
                _predict(channel, signature, _bearer(TOKEN))
        config = model_config.single_model("toy", str(toy_base_path))
        _reload(channel, config, _bearer(TOKEN))


def test_open_server(serving):
    with _channel(serving()) as channel:
        _predict(channel, "update")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "can't be read"),
        (b"\n", "must hold one token"),
        (b"two tokens", "must hold one token"),
        (b"one\ntwo", "must hold one token"),
        (b"\xc3\xa9", "must be ASCII"),
    ],
)
def test_token_files_that_are_refused(tmp_path, content, text):
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=text):
        access.read_token_file(str(path))


def test_command(ssl_config, authority, toy_base_path, tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n", encoding="ascii")
    server = servers.RunningServer(
        "embedded",
        "--model_name=toy",
        f"--model_base_path={toy_base_path}",
        f"--ssl_config_file={ssl_config()}",
        f"--update_token_file={tmp_path / 'token'}",
    )
    try:
        target = server.target.replace("127.0.0.1", "localhost")
        credentials = _credentials(authority)
        with grpc.secure_channel(target, credentials) as channel:
            grpc.channel_ready_future(channel).result(servers.START_TIMEOUT_S)
            with fails_with(grpc.StatusCode.UNAUTHENTICATED):
                _predict(channel, "update")
            _predict(channel, "update", _bearer(TOKEN))
    finally:
        server.stop()


@pytest.mark.parametrize("flag", ["ssl_config_file", "update_token_file"])
def test_command_with_a_missing_file(flag, toy_base_path, tmp_path, capsys):
    status = main.main(
        [
            "serve",
            f"--model_base_path={toy_base_path}",
            f"--{flag}={tmp_path / 'absent'}",
        ]
    )
    assert status == 1
    assert "can't be read" in capsys.readouterr().err
    assert serve.FLAGS[flag].value.endswith("absent")
