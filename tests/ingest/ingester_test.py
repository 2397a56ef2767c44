# SPDX-License-Identifier: Apache-2.0
"""Many replicas and versions: discovery, labels, and when to end."""

import json
import logging
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from lintf.ingest.dead_letters import DeadLetters
from lintf.ingest.ingester import Ingester, IngesterOptions
from lintf.ingest.lane import LaneOptions, State
from lintf.ingest.records import JsonDecoder
from lintf.ingest.source import SourceError
from tests.ingest import fake_index
from tests.ingest.fake_index import FakeIndex, FakeReplica, MemoryLog, replay
from tests.ingest.waiting import wait_until

PARTITIONS = 3
_LANE = LaneOptions(
    batch_rows=20,
    max_latency_s=0.001,
    stats_interval_s=0.01,
    end_interval_s=0.01,
    first_delay_s=0.001,
    max_delay_s=0.01,
    halt_delay_s=0.01,
)


class Running:
    """An ingester in a thread, over fakes."""

    def __init__(self, tmp_path: Path) -> None:
        self.log = MemoryLog(PARTITIONS)
        self.letters = DeadLetters(tmp_path / "dead.jsonl")
        self.status: list[int | BaseException] = []
        self.ingester: Ingester | None = None

    def fill(self, count: int, seed: int = 0) -> None:
        rng = random.Random(seed)
        for _ in range(count):
            id = rng.randrange(100)
            fields = {"embedding": [rng.random()] * 3}
            self.log.append(
                str(id).encode(),
                json.dumps(fields).encode(),
                partition=id % PARTITIONS,
            )

    def start(self, *replicas: FakeReplica, **options: object) -> "Running":
        self.ingester = Ingester(
            self.log,
            replicas,
            JsonDecoder(),
            self.letters,
            IngesterOptions(_LANE, poll_s=0.002, **options),
            rng=random.Random(0),
        )
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def _run(self) -> None:
        assert self.ingester is not None
        try:
            self.status.append(self.ingester.run())
        except BaseException as error:
            self.status.append(error)

    def join(self) -> int | BaseException:
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.status[0]

    def stop(self) -> int | BaseException:
        assert self.ingester is not None
        self.ingester.stop()
        return self.join()

    def caught_up(self, index: FakeIndex) -> Callable[[], bool]:
        return lambda: index.offsets == [end - 1 for end in self.log.ends]

    def check(self, index: FakeIndex) -> None:
        assert self.caught_up(index)()
        assert index.items == replay(self.log, index.poison_ids)
        assert len(set(index.applied)) == len(index.applied)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    if made.ingester is not None:
        made.ingester.stop()
        made.thread.join(60)


def test_many_replicas_until_caught_up(running: Running) -> None:
    running.fill(500)
    replicas = [
        FakeReplica(FakeIndex(PARTITIONS), FakeIndex(PARTITIONS), address=name)
        for name in ("a", "b")
    ]
    assert running.start(*replicas, until_caught_up=True).join() == 0
    for replica in replicas:
        for index in replica.indexes.values():
            running.check(index)


def test_follows_the_log_until_stopped(running: Running) -> None:
    replica = FakeReplica(FakeIndex(PARTITIONS))
    running.start(replica)
    for seed in range(5):
        running.fill(50, seed)
        wait_until(running.caught_up(replica.indexes[1]), "it follows")
    assert running.stop() == 0
    running.check(replica.indexes[1])


def test_a_replica_that_is_away_holds_nobody_up(running: Running) -> None:
    running.fill(100)
    good, bad = FakeReplica(FakeIndex(PARTITIONS)), FakeReplica(address="bad")
    bad.status_faults = [fake_index.not_sent] * 10**6
    running.start(good, bad)
    wait_until(running.caught_up(good.indexes[1]), "the good one")
    # It comes.
    bad.indexes[7] = FakeIndex(PARTITIONS)
    bad.status_faults = []
    wait_until(running.caught_up(bad.indexes[7]), "the other one")
    assert running.stop() == 0


def test_a_stop_while_nothing_can_be_reached(running: Running) -> None:
    replica = FakeReplica()
    replica.status_faults = [fake_index.not_sent] * 10**6
    running.log.available = False
    running.start(replica)
    assert running.stop() == 0


def test_versions_come_and_go(running: Running) -> None:
    running.fill(100)
    replica = FakeReplica(FakeIndex(PARTITIONS))
    running.start(replica)
    wait_until(running.caught_up(replica.indexes[1]), "version 1")
    snapshot = replica.indexes[1].copy()
    running.fill(100, 1)
    replica.indexes = {**replica.indexes, 2: snapshot}
    wait_until(running.caught_up(snapshot), "version 2")
    wait_until(running.caught_up(replica.indexes[1]), "version 1, still")
    replica.indexes = {2: snapshot}
    assert running.ingester is not None
    lanes = running.ingester.lanes
    wait_until(lambda: {x.target.version for x in lanes()} == {2}, "1 goes")
    running.check(snapshot)


def test_a_label_moves_once_the_version_has_caught_up(
    running: Running,
) -> None:
    running.fill(300)
    replica = FakeReplica(FakeIndex(PARTITIONS))
    offsets_at_label: list[list[int]] = []
    set_label = replica.set_label

    def note(label: str, version: int) -> None:
        offsets_at_label.append(list(replica.indexes[version].offsets))
        set_label(label, version)

    replica.set_label = note  # type: ignore[method-assign]
    running.start(replica, label="current", label_lag_s=60.0)
    wait_until(lambda: replica.labels == {"current": 1}, "version 1")
    end = [end - 1 for end in running.log.ends]
    assert offsets_at_label == [end]
    # A new version that can't catch up gets no label.
    full = FakeIndex(PARTITIONS, capacity=1)
    replica.indexes = {**replica.indexes, 2: full}
    assert running.ingester is not None
    lanes = running.ingester.lanes
    wait_until(
        lambda: any(x.state is State.HALTED for x in lanes()), "it is full"
    )
    assert replica.labels == {"current": 1}
    full.capacity = 1000
    wait_until(lambda: replica.labels == {"current": 2}, "version 2")
    assert offsets_at_label == [end, end]


def test_a_label_is_set_again_after_a_restart(running: Running) -> None:
    """The server then has the labels of its own config file."""
    replica = FakeReplica(FakeIndex(PARTITIONS))
    replica.label_faults = [fake_index.not_sent]
    running.start(replica, label="current")
    wait_until(lambda: replica.labels == {"current": 1}, "set")
    replica.labels = {}
    replica.status_faults = [fake_index.not_sent]
    wait_until(lambda: replica.labels == {"current": 1}, "set again")


def test_until_caught_up_waits_for_the_label(running: Running) -> None:
    running.fill(50)
    replica = FakeReplica(FakeIndex(PARTITIONS))
    replica.label_faults = [fake_index.not_sent] * 3
    options = {"label": "current", "until_caught_up": True}
    assert running.start(replica, **options).join() == 0
    assert replica.labels == {"current": 1}


def test_until_caught_up_ends_where_a_partition_halts(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    running.fill(50)
    replica = FakeReplica(FakeIndex(PARTITIONS, capacity=2))
    with caplog.at_level(logging.ERROR, "lintf.ingest"):
        assert running.start(replica, until_caught_up=True).join() == 1
    assert "HALTED: the index is full" in caplog.text


def test_a_log_that_is_not_there(running: Running) -> None:
    def missing() -> None:
        raise SourceError("no such topic")

    running.log.partitions = missing  # type: ignore[assignment]
    outcome = running.start(FakeReplica(FakeIndex())).join()
    assert isinstance(outcome, SourceError)


def test_a_log_that_comes_later(running: Running) -> None:
    running.fill(20)
    running.log.available = False
    replica = FakeReplica(FakeIndex(PARTITIONS))
    running.start(replica)
    running.log.available = True
    wait_until(running.caught_up(replica.indexes[1]), "it comes")


def test_a_bug_in_one_lane_shows_and_stops_no_other(
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running.fill(60)
    read = running.log.read

    def broken(partition: int, *arguments: object) -> object:
        if partition == 1:
            raise KeyError("a bug")
        return read(partition, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(running.log, "read", broken)
    replica = FakeReplica(FakeIndex(PARTITIONS))
    index = replica.indexes[1]
    running.start(replica)
    wait_until(
        lambda: (
            index.offsets[0] == running.log.ends[0] - 1
            and index.offsets[2] == running.log.ends[2] - 1
        ),
        "the others",
    )
    assert running.ingester is not None
    lanes = running.ingester.lanes
    wait_until(
        lambda: (
            [x.state for x in lanes() if x.partition == 1] == [State.HALTED]
        ),
        "it shows",
    )
    assert "a bug" in caplog.text


def test_faults_of_every_kind_while_changes_flow(running: Running) -> None:
    replicas = [
        FakeReplica(FakeIndex(PARTITIONS), address=f"r{i}") for i in range(2)
    ]
    running.start(*replicas)
    rng = random.Random(3)
    kinds = [
        fake_index.lost_answer,
        fake_index.not_sent,
        fake_index.refused(grpc.StatusCode.INTERNAL),
        fake_index.refused(grpc.StatusCode.UNAUTHENTICATED),
    ]
    for seed in range(30):
        running.fill(20, seed)
        replica = rng.choice(replicas)
        replica.faults.append(rng.choice(kinds))
        replica.stats_faults.append(rng.choice(kinds[1:]))
        running.log.available = seed % 5 != 4
        wait_until(
            lambda replica=replica: (
                not running.log.available or not replica.faults
            ),
            "it was met",
        )
    running.log.available = True
    for replica in replicas:
        replica.stats_faults.clear()
        wait_until(running.caught_up(replica.indexes[1]), "it recovers")
        running.check(replica.indexes[1])
