# SPDX-License-Identifier: Apache-2.0
"""Making a version current: a label moves while clients ask for it.

An ingester catches a new version up by its number while clients stay on the
label's version, and then moves the label.
"""

import concurrent.futures
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.config import model_server_config_pb2

from tests.serving import servers
from tests.serving.conftest import FLAGS, publish
from tests.serving.servers import State, fails_with, wait_until

QUERY = np.zeros([1], np.float32)
LABEL = "current"
CLIENTS = 3
MOVES = 20


def _policy(num_versions):
    policy = model_server_config_pb2.ModelConfig().model_version_policy
    policy.latest.num_versions = num_versions
    return policy


def _answer(server, **spec):
    """The version that answers, from what the model itself says."""
    response = server.predict("films", "one_input", query=QUERY, **spec)
    answer = int(tf.make_ndarray(response.outputs["ids"])[0]) // 1000
    assert response.model_spec.version.value == answer
    return answer


def _set_label(server, base_path, version, num_versions=2):
    server.add_model(
        "films",
        base_path,
        model_version_policy=_policy(num_versions),
        version_labels={LABEL: version},
    )


@pytest.fixture
def films(server, toy_versions, tmp_path):
    """A model with versions 1 and 2 and the label on 1; its directory."""
    base_path = tmp_path / "films"
    for version in (1, 2):
        publish(toy_versions[version], base_path, version)
    server.add_model("films", base_path, model_version_policy=_policy(2))
    for version in (1, 2):
        server.wait_for_state("films", version, State.AVAILABLE)
    _set_label(server, base_path, 1)
    yield base_path
    config = server.config.model_config_list.config
    kept = [c for c in config if c.name != "films"]
    server.config = model_server_config_pb2.ModelServerConfig()
    server.config.model_config_list.config.extend(kept)
    server.reload(server.config)


def test_label_keeps_clients_off_a_newer_version(server, films):
    assert _answer(server, label=LABEL) == 1
    assert _answer(server) == 2
    assert _answer(server, version=2) == 2


def test_queries_while_the_label_moves(server, toy_versions, films):
    done = threading.Event()
    asked = [0] * CLIENTS

    def ask(client):
        versions = set()
        while not done.is_set():
            versions.add(_answer(server, label=LABEL))
            asked[client] += 1
        return versions

    def all_asked_again(before):
        return all(a > b for a, b in zip(asked, before, strict=True))

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(ask, i) for i in range(CLIENTS)]
        try:
            for move in range(MOVES):
                version = 2 - move % 2
                _set_label(server, films, version)
                # Whoever asks after the move has returned gets that version.
                assert _answer(server, label=LABEL) == version
                before = list(asked)
                wait_until(
                    lambda before=before: (
                        all_asked_again(before)
                        or any(c.done() for c in clients)
                    ),
                    "clients ask between two moves",
                )
            # The one that the label has left goes, while clients ask.
            _set_label(server, films, 2)
            publish(toy_versions[3], films, 3)
            server.wait_for_state("films", 3, State.AVAILABLE)
            server.wait_for_state("films", 1, State.END)
            _set_label(server, films, 3)
        finally:
            done.set()
        assert {v for c in clients for v in c.result()} >= {1, 2}
    assert _answer(server, label=LABEL) == 3


def test_label_and_unloading_in_one_reload(server, films):
    # The new config no longer wants the version that the label was on.
    _set_label(server, films, 2, num_versions=1)
    assert _answer(server, label=LABEL) == 2
    server.wait_for_state("films", 1, State.END)
    assert _answer(server, label=LABEL) == 2


def test_label_cannot_move_to_a_version_that_is_not_loaded(server, films):
    with fails_with(grpc.StatusCode.FAILED_PRECONDITION):
        _set_label(server, films, 3)
    assert _answer(server, label=LABEL) == 1


def test_start_with_a_label(server_kind, toy_versions, tmp_path):
    base_path = tmp_path / "films"
    for version in (1, 2):
        publish(toy_versions[version], base_path, version)
    config = tmp_path / "models.config"
    config.write_text(
        f"""
        model_config_list {{
          config {{
            name: "films"
            base_path: "{base_path}"
            model_platform: "tensorflow"
            model_version_policy {{ latest {{ num_versions: 2 }} }}
            version_labels {{ key: "{LABEL}" value: 1 }}
          }}
        }}
        """,
        encoding="utf-8",
    )
    flags = [f"--model_config_file={config}", *FLAGS]
    with servers.running(server_kind, *flags) as server:
        assert _answer(server, label=LABEL) == 1
        _set_label(server, base_path, 2)
        assert _answer(server, label=LABEL) == 2
