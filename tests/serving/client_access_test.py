# SPDX-License-Identifier: Apache-2.0
"""The client against a server with TLS that lets only some change an index."""

import grpc
import numpy as np
import pytest
import trustme

from lintf.cli import main
from lintf.index.index import Index
from lintf.index.schema import IndexSchema
from lintf.index.served import ServedIndex
from lintf.serving import access, model_config
from lintf.serving.changes import Change
from lintf.serving.client import Client, tls_credentials
from lintf.serving.server import Server, ServerOptions
from tests.serving.servers import fails_with

TOKEN = "c2VjcmV0"
CHANGE = Change(5, embedding=[1.0, 2.0])


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server's port and the folder of the PEM files."""
    folder = tmp_path_factory.mktemp("guarded")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("localhost", "client@example.org"):
        certificate = authority.issue_cert(name)
        stem = name.partition("@")[0]
        certificate.private_key_pem.write_to_path(folder / f"{stem}.key")
        for pem in certificate.cert_chain_pems:
            pem.write_to_path(folder / f"{stem}.pem", append=True)
    index = Index(IndexSchema(dim=2), 4)
    ServedIndex(index, k=2).save(folder / "model" / "1")
    server = Server(
        model_config.single_model("m", str(folder / "model")),
        ServerOptions(
            port=0,
            access=access.Access(token=TOKEN),
            credentials=grpc.ssl_server_credentials(
                [
                    (
                        (folder / "localhost.key").read_bytes(),
                        (folder / "localhost.pem").read_bytes(),
                    )
                ],
                root_certificates=(folder / "ca.pem").read_bytes(),
                require_client_auth=True,
            ),
        ),
    )
    server.start()
    yield server.port, folder
    server.stop(0.0)


def _files(folder):
    return [str(folder / n) for n in ("ca.pem", "client.pem", "client.key")]


def test_token_and_certificates(guarded):
    port, folder = guarded
    options = {"credentials": tls_credentials(*_files(folder))}
    target = f"localhost:{port}"
    with Client(target, "m", timeout_s=60, **options) as client:
        assert client.stats().live_rows == 0
        with fails_with(grpc.StatusCode.UNAUTHENTICATED):
            client.update([CHANGE])
    with Client(target, "m", timeout_s=60, token="no", **options) as client:
        with fails_with(grpc.StatusCode.UNAUTHENTICATED):
            client.update([CHANGE])
    with Client(target, "m", timeout_s=60, token=TOKEN, **options) as client:
        assert client.update([CHANGE]).tolist() == [1]
        np.testing.assert_array_equal(
            client.lookup([5]).embedding, [[1.0, 2.0]]
        )
    for credentials in (None, tls_credentials(str(folder / "ca.pem"))):
        with Client(
            target, "m", timeout_s=2, credentials=credentials, token=TOKEN
        ) as client:
            with pytest.raises(grpc.RpcError):
                client.stats()


def test_query_with_certificates(guarded, capsys):
    port, folder = guarded
    names = ("--tls_ca_file", "--tls_cert_file", "--tls_key_file")
    files = [f"{n}={f}" for n, f in zip(names, _files(folder), strict=True)]
    command = ["query", f"--target=localhost:{port}", "--model=m", "--stats"]
    assert main.main([*command, *files, "--json"]) == 0
    assert '"capacity": 4' in capsys.readouterr().out
    assert main.main([*command, "--tls_cert_file=x"]) == 2
    assert "must be given together" in capsys.readouterr().err


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="absent.*No such file"):
        tls_credentials(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="given together"):
        tls_credentials(private_key="x")
