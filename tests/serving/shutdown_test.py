# SPDX-License-Identifier: Apache-2.0
"""Start and end of a server process."""

import signal
import socket
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from tests.serving import servers
from tests.serving.conftest import FLAGS, publish
from tests.serving.servers import predict_request, wait_until


def _flags(base_path):
    return ["--model_name=toy", f"--model_base_path={base_path}", *FLAGS]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_end_before_the_server(
    toy_base_path, tmp_path, stop
):
    # The real server ends at once on a signal; the embedded one is kinder.
    go = tmp_path / "go"
    with servers.running("embedded", *_flags(toy_base_path)) as server:
        request = predict_request(
            "toy", "wait_for_file", path=np.array([str(go).encode()], object)
        )
        waiting = server.predictions.Predict.future(request, timeout=60)
        # The request has started once another, sent later, has an answer.
        server.predict("toy", "one_input", query=np.zeros([1], np.float32))
        server.process.send_signal(stop)
        wait_until(lambda: "Stopping." in server.log(), "it is stopping")
        go.touch()
        response = waiting.result()
        assert tf.make_ndarray(response.outputs["version"]).tolist() == [1000]
        assert server.process.wait(60) == 0, server.log()


def test_requests_that_do_not_end_are_cancelled(toy_base_path, tmp_path):
    flags = [*_flags(toy_base_path), "--grace_seconds=0.5"]
    with servers.running("embedded", *flags) as server:
        path = np.array([str(tmp_path / "never").encode()], object)
        request = predict_request("toy", "wait_for_file", path=path)
        waiting = server.predictions.Predict.future(request, timeout=600)
        server.predict("toy", "one_input", query=np.zeros([1], np.float32))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0, server.log()
        assert waiting.exception(timeout=60) is not None


def test_only_version_is_broken(server_kind, tmp_path):
    (tmp_path / "toy" / "1").mkdir(parents=True)
    server = servers.RunningServer(server_kind, *_flags(tmp_path / "toy"))
    try:
        assert server.process.wait(servers.START_TIMEOUT_S) != 0
        assert "did not become available" in server.log()
        assert "does not appear to contain a SavedModel bundle" in server.log()
    finally:
        server.process.kill()
        server.stop()


def test_first_version_may_come_later(server_kind, toy_versions, tmp_path):
    base_path = tmp_path / "toy"
    base_path.mkdir()
    server = servers.RunningServer(server_kind, *_flags(base_path))
    try:
        publish(toy_versions[1], base_path, 1)
        server.wait_until_serving()
        server.wait_for_state("toy", 1, servers.State.AVAILABLE)
    finally:
        server.stop()


def test_config_file_with_labels(server_kind, toy_versions, tmp_path):
    for version in (1, 2):
        publish(toy_versions[version], tmp_path / "toy", version)
    config = tmp_path / "models.config"
    config.write_text(
        f"""
        model_config_list {{
          config {{
            name: "toy"
            base_path: "{tmp_path / "toy"}"
            model_platform: "tensorflow"
            model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
            version_labels {{ key: "stable" value: 1 }}
          }}
        }}
        """
    )
    flags = [f"--model_config_file={config}", *FLAGS]
    with servers.running(server_kind, *flags) as server:
        server.wait_for_state("toy", 2, servers.State.AVAILABLE)
        for label, version in (("stable", 1), (None, 2)):
            response = server.predict(
                "toy",
                "one_input",
                label=label,
                query=np.zeros([1], np.float32),
            )
            assert response.model_spec.version.value == version


def _serve(*flags):
    """Runs `lintf serve` until it ends; returns the status and its output."""
    arguments, env = servers.command("embedded")
    done = subprocess.run(
        [*arguments, *flags],
        env=env,
        capture_output=True,
        text=True,
        timeout=servers.START_TIMEOUT_S,
    )
    return done.returncode, done.stderr


def test_port_in_use(toy_base_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, text = _serve(
            f"--port={port}", f"--model_base_path={toy_base_path}"
        )
    assert status == 1
    assert f"Can't listen on 127.0.0.1:{port}" in text
    assert "Traceback" not in text


def test_missing_directory(tmp_path):
    status, text = _serve(f"--model_base_path={tmp_path / 'absent'}")
    assert status == 1
    assert "must be a directory" in text
    assert "Traceback" not in text


def test_config_file_that_does_not_parse(tmp_path):
    config = tmp_path / "models.config"
    config.write_text("model_config_list {\n  config { nam: 'toy' }\n}")
    status, text = _serve(f"--model_config_file={config}")
    assert status == 1
    assert "2:12" in text and "nam" in text
    assert "Traceback" not in text
