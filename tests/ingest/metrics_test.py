# SPDX-License-Identifier: Apache-2.0
"""The Prometheus endpoint and the line of progress."""

import json
import socket
import urllib.request
from pathlib import Path

import pytest

from lintf.ingest import metrics
from lintf.ingest.dead_letters import DeadLetters
from lintf.ingest.lane import Lane, LaneOptions
from lintf.ingest.records import JsonDecoder
from tests.ingest import fake_index
from tests.ingest.fake_index import FakeIndex, FakeReplica, MemoryLog


class World:
    """A lane with a bit of everything."""

    def __init__(self, tmp_path: Path) -> None:
        self.now = 100.0
        self.log = MemoryLog()
        self.index = FakeIndex(capacity=2)
        self.replica = FakeReplica(self.index, address="host:1")
        self.lane = Lane(
            self.log,
            0,
            self.replica.target(1),
            JsonDecoder(),
            DeadLetters(tmp_path / "dead.jsonl"),
            LaneOptions(100, 0.0),
            clock=lambda: self.now,
            wall_clock=lambda: self.now,
        )

    def put(self, id: int, fields: object) -> None:
        value = None if fields is None else json.dumps(fields).encode()
        self.log.append(
            str(id).encode(), value, timestamp_ms=int(self.now * 1000)
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def _run(world: World) -> None:
    for id in (1, 2, 1):
        world.put(id, {"embedding": [1.0, 2.0, 3.0]})
    world.put(1, {"poison": 1})
    world.put(3, {"embedding": [1.0, 2.0, 3.0]})
    world.replica.faults = [fake_index.not_sent]
    for _ in range(10):
        world.now += 1.0
        world.lane.step()


def test_the_endpoint(world: World) -> None:
    _run(world)
    port = metrics.serve(lambda: [world.lane], "127.0.0.1", 0)
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url) as response:
        text = response.read().decode()
    labels = 'partition="0",replica="host:1",version="1"'
    values = dict(
        line.rsplit(" ", 1)
        for line in text.splitlines()
        if not line.startswith("#")
    )

    def value(name: str, more: str = "") -> float:
        (found,) = [
            v
            for k, v in values.items()
            if k.startswith(f"lintf_ingest_{name}{{")
            and all(part in k for part in labels.split(","))
            and more in k
        ]
        return float(found)

    assert value("lag_records") == 1
    assert value("lag_seconds") == 10.0
    assert value("offset") == 3
    assert 0 < value("applied_per_second") < 1
    assert value("halted") == 1
    assert value("waiting") == 0
    assert value("applied_total", 'status="inserted"') == 2
    assert value("applied_total", 'status="replaced"') == 1
    assert value("dead_letters_total") == 1
    assert value("retries_total", 'reason="retry"') == 1
    assert value("retries_total", 'reason="full"') > 1
    assert value("requests_total") == world.lane.requests > 0


def test_what_is_not_known_is_not_said(world: World) -> None:
    collector = metrics.LaneCollector(lambda: [world.lane])
    families = {family.name: family for family in collector.collect()}
    assert families["lintf_ingest_lag_records"].samples == []
    assert families["lintf_ingest_offset"].samples == []
    assert families["lintf_ingest_halted"].samples[0].value == 0


def test_the_line(world: World) -> None:
    now = [0.0]
    lanes: list[Lane] = []
    progress = metrics.Progress(lambda: lanes, lambda: now[0])
    assert progress.line() == "waiting for a server"
    lanes.append(world.lane)
    assert progress.line() == ("0 applied (0/s); lag ? records, ? s; 1 version")
    _run(world)
    now[0] += 2.0
    assert progress.line() == (
        "3 applied (2/s); lag 1 records, 10.0 s; 1 version; 1 dead letter; "
        "1 halted"
    )
    lanes.clear()
    now[0] += 2.0
    assert progress.line() == "waiting for a server"


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}: .* another port"):
            metrics.serve(lambda: [], "127.0.0.1", port)
