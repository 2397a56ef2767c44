# SPDX-License-Identifier: Apache-2.0
"""Version directories: hot swap, faults, rollback, policies, labels."""

import shutil
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.config import model_server_config_pb2

from tests.serving import toy_models
from tests.serving.conftest import publish
from tests.serving.servers import State, fails_with, predict_request

QUERY = np.array([0.0], np.float32)


@pytest.fixture
def model(server, toy_versions, tmp_path, request):
    """A model of its own: name and base path, serving version 1."""
    name = request.node.originalname.removeprefix("test_")
    base_path = tmp_path / name
    publish(toy_versions[1], base_path, 1)
    server.add_model(name, base_path)
    return name, base_path


def _answer(server, name, **options):
    """Which version answers, by its answer and by what it says."""
    response = server.predict(name, "one_input", query=QUERY, **options)
    said = response.model_spec.version.value
    told = int(tf.make_ndarray(response.outputs["ids"])[0]) // 1000
    assert said == told
    return said


def test_swap_under_load(server, toy_versions, model):
    name, base_path = model
    stop = threading.Event()
    answers, failures = [], []

    def ask():
        while not stop.is_set():
            try:
                answers.append(_answer(server, name))
            except grpc.RpcError as error:
                failures.append(error)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        for version in (2, 3):
            publish(toy_versions[version], base_path, version)
            server.wait_for_state(name, version, State.AVAILABLE)
            server.wait_for_state(name, version - 1, State.END)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert not failures
    assert set(answers) >= {1, 2}
    assert _answer(server, name) == 3
    with fails_with(
        grpc.StatusCode.NOT_FOUND,
        f"Servable not found for request: Specific({name}, 1)",
    ):
        _answer(server, name, version=1)


def test_request_in_flight_keeps_its_version(server, toy_versions, model):
    name, base_path = model
    go = base_path / "go"
    request = predict_request(
        name, "wait_for_file", path=np.array([str(go).encode()], object)
    )
    waiting = server.predictions.Predict.future(request, timeout=120)
    publish(toy_versions[2], base_path, 2)
    server.wait_for_state(name, 2, State.AVAILABLE)
    assert _answer(server, name) == 2
    assert not waiting.done()
    go.touch()
    response = waiting.result()
    assert response.model_spec.version.value == 1
    assert tf.make_ndarray(response.outputs["version"]).tolist() == [1000]
    server.wait_for_state(name, 1, State.END)


def test_other_children_are_no_versions(server, toy_versions, model):
    name, base_path = model
    for child in ("tmp-9", "9a", "1.5", "best", "1_0"):
        (base_path / child).mkdir()
    (base_path / "README").write_text("notes")
    publish(toy_versions[2], base_path, 2)
    server.wait_for_state(name, 2, State.AVAILABLE)
    assert set(server.states(name)) == {1, 2}


def test_torn_directory(server, toy_versions, model):
    name, base_path = model
    (base_path / "2").mkdir()
    server.wait_for_state(name, 2, State.END)
    status = server.status(name)[2].status
    assert status.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert "does not appear to contain a SavedModel bundle" in (
        status.error_message
    )
    assert _answer(server, name) == 1
    # It stays failed though its files have come, but the next one loads.
    shutil.copytree(toy_versions[2], base_path / "2", dirs_exist_ok=True)
    publish(toy_versions[3], base_path, 3)
    server.wait_for_state(name, 3, State.AVAILABLE)
    assert server.states(name)[2] == State.END
    assert _answer(server, name) == 3


@pytest.mark.parametrize("file", ["saved_model.pb", "variables"])
def test_corrupt_version(server, toy_versions, tmp_path, file):
    name = f"corrupt_{file.partition('.')[0]}"
    base_path = tmp_path / name
    publish(toy_versions[1], base_path, 1)
    server.add_model(name, base_path)
    broken = tmp_path / "broken"
    shutil.copytree(toy_versions[3], broken)
    if file == "variables":
        data = next((broken / file).glob("*.data-*"))
        data.write_bytes(data.read_bytes()[:5])
    else:
        data = broken / file
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    publish(broken, base_path, 3)
    server.wait_for_state(name, 3, State.END)
    assert server.status(name)[3].status.error_code != 0
    assert _answer(server, name) == 1


def test_failing_warmup(server, toy_versions, model, tmp_path):
    name, base_path = model
    broken = tmp_path / "broken"
    shutil.copytree(toy_versions[2], broken)
    record = toy_models.warmup_record("one_input", {"wrong": QUERY})
    toy_models.write_warmup(str(broken), [record.SerializeToString()])
    publish(broken, base_path, 2)
    server.wait_for_state(name, 2, State.END)
    status = server.status(name)[2].status
    assert status.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "Signature input alias: query" in status.error_message
    assert _answer(server, name) == 1


def test_rollback_by_deletion(server, toy_versions, model):
    name, base_path = model
    publish(toy_versions[3], base_path, 3)
    server.wait_for_state(name, 3, State.AVAILABLE)
    server.wait_for_state(name, 1, State.END)
    shutil.rmtree(base_path / "3")
    server.wait_for_state(name, 1, State.AVAILABLE)
    server.wait_for_state(name, 3, State.END)
    assert _answer(server, name) == 1
    # The same number may come back.
    publish(toy_versions[3], base_path, 3)
    server.wait_for_state(name, 3, State.AVAILABLE)
    assert _answer(server, name) == 3


def _policy(**fields):
    policy = model_server_config_pb2.ModelConfig().model_version_policy
    for name, value in fields.items():
        if name == "latest":
            policy.latest.num_versions = value
        elif name == "specific":
            policy.specific.versions.extend(value)
        else:
            policy.all.SetInParent()
    return policy


def test_version_policies(server, toy_versions, model):
    name, base_path = model
    for version in (2, 3):
        publish(toy_versions[version], base_path, version)
    server.add_model(
        name, base_path, model_version_policy=_policy(specific=[1, 2])
    )
    server.wait_for_state(name, 2, State.AVAILABLE)
    server.wait_for_state(name, 1, State.AVAILABLE)
    assert [_answer(server, name, version=v) for v in (1, 2)] == [1, 2]
    server.add_model(name, base_path, model_version_policy=_policy(all=True))
    server.wait_for_state(name, 3, State.AVAILABLE)
    assert _answer(server, name, version=1) == 1
    server.add_model(name, base_path, model_version_policy=_policy(latest=2))
    server.wait_for_state(name, 1, State.END)
    assert server.states(name)[2] == State.AVAILABLE


def test_labels(server, toy_versions, model):
    name, base_path = model
    publish(toy_versions[2], base_path, 2)
    both = _policy(latest=2)
    server.add_model(name, base_path, model_version_policy=both)
    server.wait_for_state(name, 2, State.AVAILABLE)
    server.wait_for_state(name, 1, State.AVAILABLE)
    server.add_model(
        name,
        base_path,
        model_version_policy=both,
        version_labels={"stable": 1, "canary": 2},
    )
    assert _answer(server, name, label="stable") == 1
    assert _answer(server, name, label="canary") == 2
    # A label in use moves to a version that serves, and to no other.
    with fails_with(
        grpc.StatusCode.FAILED_PRECONDITION,
        "Request to assign label to version 9",
        whole=False,
    ):
        server.add_model(
            name,
            base_path,
            model_version_policy=both,
            version_labels={"stable": 9},
        )
    assert _answer(server, name, label="stable") == 1
    server.add_model(
        name,
        base_path,
        model_version_policy=both,
        version_labels={"stable": 2},
    )
    assert _answer(server, name, label="stable") == 2
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT,
        "Unrecognized servable version label: canary",
    ):
        _answer(server, name, label="canary")


def test_relative_base_path_is_refused(server):
    with fails_with(grpc.StatusCode.INVALID_ARGUMENT):
        server.add_model("relative", "some/where")
    assert _answer(server, "toy") == 1


def test_reload_that_adds_a_broken_model(server, model, tmp_path):
    (tmp_path / "broken" / "1").mkdir(parents=True)
    with fails_with(
        grpc.StatusCode.UNKNOWN, "did not become available", whole=False
    ):
        server.add_model("broken", tmp_path / "broken")
    assert _answer(server, "toy") == 1
    # The next config, without it, is accepted again.
    server.add_model("toy", str(_base_path_of(server, "toy")))


def _base_path_of(server, name):
    configs = server.config.model_config_list.config
    return next(c.base_path for c in configs if c.name == name)
