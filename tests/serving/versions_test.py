# SPDX-License-Identifier: Apache-2.0
"""The life of versions, step by step, with models that are only names."""

import pathlib
import threading

import grpc
import pytest
from tensorflow_serving.config import model_server_config_pb2

from lintf.serving import versions
from lintf.serving.errors import ServingError
from lintf.serving.versions import LoadPolicy, State, VersionedModel


class FakeServable:
    """Remembers whether it was closed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_closed = False

    def close(self) -> None:
        assert not self.is_closed, "closed twice"
        self.is_closed = True


class Harness:
    """A model whose clock and directory a test moves by hand."""

    def __init__(self, base_path: pathlib.Path) -> None:
        self.base_path = base_path
        self.now = 0.0
        self.loads: list[str] = []
        self.broken: set[str] = set()
        self.model = VersionedModel(
            "m",
            str(base_path),
            model_server_config_pb2.ModelConfig().model_version_policy,
            self._load,
            LoadPolicy(poll_wait_s=1, max_retries=2, retry_interval_s=60),
            clock=lambda: self.now,
        )

    def _load(self, path: str) -> FakeServable:
        name = pathlib.Path(path).name
        self.loads.append(name)
        if name in self.broken:
            raise ServingError(grpc.StatusCode.DATA_LOSS, "broken")
        return FakeServable(path)

    def set_versions(self, *names: str) -> None:
        for child in self.base_path.iterdir():
            child.rmdir()
        for name in names:
            (self.base_path / name).mkdir()

    def states(self) -> dict[int, int]:
        return {number: state for number, state, _ in self.model.statuses()}


@pytest.fixture
def harness(tmp_path):
    return Harness(tmp_path)


def test_find_versions(tmp_path):
    names = ["1", "007", "-3", str(2**63 - 1), str(2**63), "x1", "1_0", "1.0"]
    for name in names:
        (tmp_path / name).mkdir()
    found = versions.find_versions(str(tmp_path))
    assert sorted(found) == [-3, 1, 7, 2**63 - 1]
    assert found[7].endswith("007")


def test_newest_replaces_the_one_before(harness):
    harness.set_versions("1")
    harness.model.poll()
    harness.set_versions("1", "2")
    harness.model.poll()
    assert harness.loads == ["1", "2"]
    assert harness.states() == {2: State.AVAILABLE, 1: State.END}
    with harness.model.acquire(None) as (number, _):
        assert number == 2


def test_held_version_lives_until_its_last_request_ends(harness):
    harness.set_versions("1")
    harness.model.poll()
    with harness.model.acquire(None) as (_, first):
        with harness.model.acquire(1) as (_, second):
            assert first is second
            harness.set_versions("2")
            harness.model.poll()
            assert harness.states()[1] == State.UNLOADING
            # Loading goes on meanwhile.
            harness.set_versions("3")
            harness.model.poll()
            assert harness.states()[3] == State.AVAILABLE
        assert not first.is_closed
    assert first.is_closed
    assert harness.states()[1] == State.END


def test_failed_load_is_tried_again_at_intervals(harness):
    harness.broken.add("2")
    harness.set_versions("1", "2")
    for now, expected in ((0, 1), (59, 1), (60, 2), (119, 2), (120, 3)):
        harness.now = now
        harness.model.poll()
        assert harness.loads.count("2") == expected, now
    assert harness.states()[2] == State.END
    harness.now = 1e6
    harness.model.poll()
    assert harness.loads.count("2") == 3


def test_retry_can_succeed(harness):
    harness.broken.add("1")
    harness.set_versions("1")
    harness.model.poll()
    assert harness.states() == {1: State.LOADING}
    harness.broken.clear()
    harness.now = 60
    harness.model.poll()
    assert harness.model.statuses() == [(1, State.AVAILABLE, None)]


def test_failed_load_keeps_the_old_version(harness):
    harness.set_versions("1")
    harness.model.poll()
    harness.broken.add("2")
    harness.set_versions("2")
    for harness.now in (0, 60, 120, 180):
        harness.model.poll()
    assert harness.states() == {2: State.END, 1: State.AVAILABLE}


def test_failed_version_loads_when_it_comes_back(harness):
    harness.set_versions("1")
    harness.model.poll()
    harness.broken.add("2")
    harness.set_versions("1", "2")
    for harness.now in (0, 60, 120):
        harness.model.poll()
    harness.set_versions("1")
    harness.model.poll()
    harness.broken.clear()
    harness.set_versions("1", "2")
    harness.model.poll()
    assert harness.states()[2] == State.AVAILABLE


def test_version_wanted_again_while_it_is_leaving(harness):
    harness.set_versions("1")
    harness.model.poll()
    with harness.model.acquire(1):
        harness.set_versions("2")
        harness.model.poll()
        harness.set_versions("1")
        harness.model.poll()
        assert harness.states() == {1: State.UNLOADING, 2: State.AVAILABLE}
    harness.model.poll()
    assert harness.states() == {1: State.AVAILABLE, 2: State.END}


def test_no_version_left_unloads(harness):
    harness.set_versions("1")
    harness.model.poll()
    harness.set_versions()
    harness.model.poll()
    assert harness.states() == {1: State.END}
    with pytest.raises(ServingError, match="Servable not found"):
        with harness.model.acquire(None):
            pass


def test_directory_that_is_away_unloads_nothing(harness):
    harness.set_versions("1")
    harness.model.poll()
    (harness.base_path / "1").rmdir()
    harness.base_path.rmdir()
    harness.model.poll()
    assert harness.states() == {1: State.AVAILABLE}


def test_stop_waits_for_requests(harness):
    harness.set_versions("1")
    harness.model.poll()
    held, release = threading.Event(), threading.Event()

    def use():
        with harness.model.acquire(1):
            held.set()
            release.wait(60)

    user = threading.Thread(target=use)
    user.start()
    assert held.wait(60)
    stopper = threading.Thread(target=harness.model.stop)
    stopper.start()
    release.set()
    stopper.join(60)
    user.join(60)
    assert harness.states() == {1: State.END}


def test_wait_reports_the_newest_failure(harness):
    harness.broken.update("12")
    harness.set_versions("1", "2")
    for harness.now in (0, 60, 120):
        harness.model.poll()
    error = harness.model.wait_until_settled()
    assert error is not None and error.code == grpc.StatusCode.DATA_LOSS
