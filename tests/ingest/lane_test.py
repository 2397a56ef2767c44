# SPDX-License-Identifier: Apache-2.0
"""The protocol of one partition and one version, broken in every way."""

import json
import random
from pathlib import Path
from typing import Any

import grpc
import pytest

from lintf.ingest.dead_letters import DeadLetters
from lintf.ingest.lane import Lane, LaneOptions, State
from lintf.ingest.records import Decoder, JsonDecoder
from lintf.ingest.source import SourceError
from tests.ingest import fake_index
from tests.ingest.fake_index import (
    FakeIndex,
    FakeReplica,
    Item,
    LateAnswer,
    MemoryLog,
    Refusal,
    replay,
)

Code = grpc.StatusCode
OPTIONS = LaneOptions(batch_rows=8, max_latency_s=0.0)


class World:
    """A log, a server, and the clock."""

    def __init__(self, tmp_path: Path, **index: Any) -> None:
        self.now = 1000.0
        self.log = MemoryLog()
        self.replica = FakeReplica(FakeIndex(**index))
        self.path = tmp_path / "dead.jsonl"
        self.letters = DeadLetters(self.path)

    @property
    def index(self) -> FakeIndex:
        return self.replica.indexes[1]

    def lane(
        self,
        options: LaneOptions = OPTIONS,
        version: int = 1,
        decoder: Decoder | None = None,
    ) -> Lane:
        return Lane(
            self.log,
            0,
            self.replica.target(version),
            decoder or JsonDecoder(),
            self.letters,
            options,
            clock=lambda: self.now,
            wall_clock=lambda: self.now,
            rng=random.Random(0),
        )

    def upsert(self, id: int, value: float = 0.5, **attributes: Any) -> None:
        fields = {"embedding": [value] * 3, "attributes": attributes}
        self.put(id, fields)

    def put(self, id: Any, fields: Any) -> None:
        value = None if fields is None else json.dumps(fields).encode()
        self.log.append(
            str(id).encode(), value, timestamp_ms=int(self.now * 1000)
        )

    def run(self, lane: Lane, steps: int = 200) -> None:
        """Steps until the lane has caught up, and does so twice."""
        for _ in range(steps):
            self.now += lane.step() + 0.001
            if lane.state is State.RUNNING and lane.lag_records == 0:
                return
        raise AssertionError((lane.state, lane.message, lane.position))

    def check(self, version: int = 1) -> None:
        """The index equals a replay, and each record came once."""
        index = self.replica.indexes[version]
        assert index.items == replay(self.log, index.poison_ids)
        assert index.offsets[0] == self.log.ends[0] - 1
        offsets = [offset for _, offset in index.applied]
        assert len(set(offsets)) == len(offsets)
        assert offsets == sorted(offsets)
        assert {r.offset for r in self.log.records[0]} <= set(offsets)

    def letters_written(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.open()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def _fill(world: World, count: int, start: int = 0) -> None:
    for i in range(start, start + count):
        world.upsert(i, float(i), year=1900 + i % 100)


def test_every_kind_of_change(world: World) -> None:
    world.upsert(1, 0.5, year=1990, genre="a")
    world.upsert(2, 0.25)
    world.put(1, {"attributes": {"genre": "b"}})
    world.put(3, {"features": {"x": 2.0, "y": 3.0}, "attributes": {}})
    world.put(2, None)
    world.put(9, {"attributes": {"year": 1}})
    world.put(9, None)
    lane = world.lane()
    world.run(lane)
    world.check()
    assert world.index.items == {
        1: Item((0.5, 0.5, 0.5), -(2**63), "b"),
        3: Item((2.0, 3.0, 1.0), -(2**63), ""),
    }
    assert lane.applied == {
        "inserted": 3,
        "replaced": 1,
        "deleted": 1,
        "not_found": 1,
        "unchanged": 1,
    }
    # In order, as few requests as the signatures allow.
    assert world.replica.calls == [2, 1, 2, 1, 1]
    assert lane.requests == 5


def test_resumes_where_the_index_stands(world: World) -> None:
    _fill(world, 20)
    world.run(world.lane())
    _fill(world, 20, 10)
    world.replica.calls.clear()
    lane = world.lane()
    world.run(lane)
    world.check()
    assert sum(world.replica.calls) == 20
    assert lane.applied == {"replaced": 10, "inserted": 10}


def test_gaps_in_offsets(world: World) -> None:
    world.log.leave_gap()
    _fill(world, 3)
    world.log.leave_gap(size=3)
    _fill(world, 2, 3)
    world.log.leave_gap()
    world.run(world.lane())
    world.check()
    # The index steps over gaps as well, so that retention can't confuse it.
    assert world.index.offsets == [9]
    world.log.truncate(0, 10)
    world.log.leave_gap()
    world.run(world.lane())
    assert world.index.offsets == [10]


@pytest.mark.parametrize("fault", ["lost_answer", "not_sent"])
def test_a_call_that_fails(world: World, fault: str) -> None:
    _fill(world, 100)
    lane = world.lane()
    for position in (0, 1, 3):
        lane.step()
        world.replica.faults = [getattr(fake_index, fault)] * position
    world.run(lane)
    world.check()
    assert lane.retries["retry"] >= 3


@pytest.mark.parametrize(
    "code",
    [
        Code.UNAVAILABLE,
        Code.DEADLINE_EXCEEDED,
        Code.ABORTED,
        Code.CANCELLED,
        Code.INTERNAL,
        Code.UNKNOWN,
        Code.NOT_FOUND,
        Code.UNAUTHENTICATED,
        Code.PERMISSION_DENIED,
        Code.FAILED_PRECONDITION,
    ],
)
def test_any_error_of_any_call_loses_nothing(world: World, code: Code) -> None:
    _fill(world, 30)
    fault = fake_index.refused(code)
    for position in range(6):
        lane = world.lane()
        world.replica.stats_faults = [fault] * (position % 3)
        for _ in range(position):
            lane.step()
        world.replica.faults = [fault] * (position % 2 + 1)
        lane.step()
    world.run(world.lane())
    world.check()


def test_a_late_request_is_not_applied_twice(world: World) -> None:
    """Its deadline passes, it is sent again, and then both arrive."""
    _fill(world, 20)
    for again_first in (False, True):
        late = LateAnswer()
        lane = world.lane()
        world.replica.faults = [late]
        lane.step()
        assert lane.state is State.WAITING
        if again_first:
            lane.step()
        late.arrive()
        world.run(lane)
        world.check()
        _fill(world, 20, 10)


def test_a_failed_batch_is_never_followed_by_a_later_one(
    world: World,
) -> None:
    _fill(world, 30)
    lane = world.lane()
    for _ in range(3):
        world.replica.faults = [fake_index.not_sent]
        lane.step()
        assert world.index.applied == []
    world.run(lane)
    world.check()


def test_two_ingesters_at_once(world: World) -> None:
    _fill(world, 200)
    rng = random.Random(4)
    lanes = [world.lane(LaneOptions(3, 0.0)), world.lane(LaneOptions(5, 0.0))]
    while world.index.offsets[0] < 199:
        world.now += 1.0
        rng.choice(lanes).step()
    world.check()
    assert sum(lane.retries["conflict"] for lane in lanes) > 0
    # Between what one of them has asked and what it sends.
    other = world.lane()
    _fill(world, 8)
    world.replica.before_send = lambda: (
        setattr(world.replica, "before_send", lambda: None),
        world.run(other),
    )
    world.run(lanes[0])
    world.check()


def test_a_conflict_that_does_not_pass_does_not_spin(world: World) -> None:
    _fill(world, 3)
    lane = world.lane()
    world.replica.faults = [
        fake_index.refused(Code.FAILED_PRECONDITION, "always")
    ] * 8
    delays = [lane.step() for _ in range(8)]
    assert delays[0] == 0.0
    assert all(delay > 0 for delay in delays[1:])
    assert (lane.state, lane.message) == (
        State.WAITING,
        "conflict: FAILED_PRECONDITION: always",
    )
    world.run(lane)
    world.check()


def test_a_server_that_restarts_is_caught_up_again(world: World) -> None:
    snapshot = world.index.copy()
    _fill(world, 10)
    lane = world.lane()
    world.run(lane)
    # No record comes, so only the offsets can tell.
    world.replica.indexes[1] = snapshot
    assert lane.lag_records == 0
    for _ in range(5):
        world.now += 1.0
        lane.step()
    world.check()
    # While records come.
    world.replica.indexes[1] = FakeIndex()
    _fill(world, 5)
    lane.step()
    assert lane.caught_up_at is None or lane.lag_records != 0
    world.run(lane)
    world.check()


def test_a_version_that_is_swapped_in_between(world: World) -> None:
    """The number of the version keeps a request from reaching another."""
    _fill(world, 20)
    lane = world.lane()
    lane.step()
    snapshot = world.index.copy()

    def swap() -> None:
        world.replica.indexes = {2: snapshot}

    world.replica.before_send = swap
    lane.step()
    assert lane.state is State.WAITING
    assert lane.retries["gone"] == 1
    assert snapshot.applied == [(0, offset) for offset in range(8)]
    world.run(world.lane(version=2))
    world.check(2)


# Poison.


def _poison_cases() -> dict[str, list[int]]:
    return {
        "first": [0],
        "middle": [11],
        "last": [29],
        "two": [3, 4],
        "spread": [1, 6, 7, 15, 16, 28],
        "batch": list(range(8, 16)),
        "all": list(range(30)),
    }


@pytest.mark.parametrize("which", _poison_cases().values(), ids=_poison_cases())
@pytest.mark.parametrize("known", ["here", "server"])
def test_poison(world: World, which: list[int], known: str) -> None:
    for i in range(30):
        if i in which and known == "here":
            world.put(i, {"poison": True})
        else:
            world.upsert(i, 1.0)
    if known == "server":
        world.index.poison_ids = set(which)
    lane = world.lane()
    world.run(lane)
    world.check()
    assert lane.dead_letters == len(which)
    letters = world.letters_written()
    assert sorted(letter["offset"] for letter in letters) == which
    assert {letter["key"] for letter in letters} == {str(i) for i in which}
    for letter in letters:
        expected = "poison" if known == "here" else "poison id"
        assert expected in letter["reason"]


def test_poison_keys_and_values(world: World) -> None:
    world.upsert(1)
    world.log.append(None, b"{}")
    world.log.append(b"\xff", None)
    world.put("x1", None)
    world.put(-1, None)
    world.put(2, {"embedding": [1.0]})
    world.put(2, {"embedding": [1.0, 2.0, 1e300]})
    world.put(2, {})
    world.put(2, {"embedding": [1.0] * 3, "attributes": {"year": "x"}})
    world.put(2, {"embedding": [1.0] * 3, "attributes": {"yeah": 1}})
    world.put(2, {"features": {"x": 1.0}})
    world.put(2, {"features": {"x": 1.0, "y": 1.0}, "embedding": [1.0] * 3})
    world.log.append(b"2", b"not json")
    world.upsert(3)
    world.run(world.lane())
    assert sorted(world.index.items) == [1, 3]
    assert world.index.offsets == [13]
    letters = sorted(world.letters_written(), key=lambda line: line["offset"])
    reasons = [letter["reason"] for letter in letters]
    assert len(reasons) == 12
    for reason, part in zip(
        reasons,
        [
            "item's id, got none",
            "UTF-8",
            "must be an integer",
            "-1",
            "must be 3 numbers",
            "finite",
            "got none of them",
            "year",
            "no attribute 'yeah'",
            "y",
            "got both",
            "must be JSON",
        ],
        strict=True,
    ):
        assert part in reason, (reason, part)


def test_the_dead_letter_is_written_before_the_skip(world: World) -> None:
    for i in range(8):
        world.upsert(i)
    world.index.poison_ids = {5}
    seen = []

    def look() -> None:
        seen.append(world.path.read_bytes().count(b"\n"))

    world.replica.before_send = look
    world.run(world.lane())
    # Refused: 8, 4 (applied), 2 (refused), 1 (applied), 1 (refused), rest.
    assert seen == [0, 0, 0, 0, 0, 1]
    assert world.replica.calls == [8, 4, 2, 1, 1, 3]


def test_a_kill_between_dead_letter_and_skip(world: World) -> None:
    for i in range(8):
        world.upsert(i)
    world.index.poison_ids = {5}
    lane = world.lane()
    while not world.path.stat().st_size and lane.requests < 10:
        lane.step()
    assert world.replica.calls == [8, 4, 2, 1, 1]
    assert world.index.offsets == [4]
    # The lane ends here, and so does its process.
    world.letters = DeadLetters(world.path)
    world.run(world.lane())
    world.check()
    assert len(world.letters_written()) == 1


def test_a_dead_letter_file_that_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(8):
        world.put(i, {"poison": 1} if i in (3, 6) else None)

    def full(*_: Any) -> bool:
        raise OSError(28, "No space left on device")

    lane = world.lane()
    with monkeypatch.context() as patched:
        patched.setattr(world.letters, "write", full)
        lane.step()
        assert lane.step() > 1.0
        assert lane.state is State.HALTED
        assert "No space left" in lane.message
    # What was before it has been applied, and nothing behind.
    assert world.index.offsets == [2]
    world.run(lane)
    world.check()
    assert len(world.letters_written()) == 2


def test_an_index_that_refuses_even_to_skip(world: World) -> None:
    world.put(1, {"poison": 1})
    world.replica.faults = [
        fake_index.refused(Code.INVALID_ARGUMENT, "no such input")
    ]
    lane = world.lane()
    assert lane.step() > 1.0
    assert lane.state is State.HALTED
    assert "refuses even to skip offset 0" in lane.message
    world.run(lane)
    world.check()


def test_requests_that_are_too_large(world: World) -> None:
    """No row is to blame: nothing may go to the dead letters."""
    _fill(world, 100)
    world.index.max_request_rows = 3
    lane = world.lane()
    world.run(lane)
    world.check()
    assert lane.dead_letters == 0
    # It learns: most requests are not refused.
    assert lane.retries["poison"] < lane.requests


# A full index.


def test_a_full_index_halts_before_the_row(tmp_path: Path) -> None:
    world = World(tmp_path, capacity=10)
    for i in range(8):
        world.upsert(i)
    world.put(0, None)
    for i in range(8, 14):
        world.upsert(i)
    world.put(3, None)
    lane = world.lane()
    for _ in range(20):
        world.now += lane.step()
    assert lane.state is State.HALTED
    assert "full" in lane.message and "10 rows" in lane.message
    # Everything before the first row without a place is applied.
    assert world.index.offsets == [11]
    assert len(world.index.items) == 10
    assert not world.letters_written()
    calls = len(world.replica.calls)
    delay = lane.step()
    assert delay >= 5.0
    # One request of one row for each look.
    assert world.replica.calls[calls:] == [1]
    assert lane.lag_records == 4
    # A version with room.
    world.replica.indexes[2] = world.index.copy(capacity=100)
    world.run(world.lane(version=2))
    world.check(2)
    # And room in this one.
    world.index.capacity = 100
    world.run(lane)
    world.check()
    assert world.index.items == world.replica.indexes[2].items


def test_a_full_thread_pool_is_not_a_full_index(world: World) -> None:
    _fill(world, 5)
    world.replica.faults = [
        fake_index.refused(Code.RESOURCE_EXHAUSTED, "Server Threadpool Exhaust")
    ] * 3
    lane = world.lane()
    assert 0 < lane.step() < 1.0
    assert lane.state is State.WAITING
    world.run(lane)
    world.check()
    assert lane.retries["full"] == 0


# The log.


def test_a_log_that_no_longer_reaches_back(world: World) -> None:
    _fill(world, 20)
    world.log.truncate(0, 5)
    lane = world.lane()
    assert lane.step() > 1.0
    assert lane.state is State.HALTED
    assert "reach back to offset 0, but it begins at 5" in lane.message
    assert world.replica.calls == []
    # A snapshot that is newer is served under the same number.
    newer = FakeIndex()
    newer.offsets = [9]
    world.replica.indexes[1] = newer
    world.run(lane)
    assert newer.offsets == [19]


def test_a_log_that_is_too_short(world: World) -> None:
    world.index.offsets = [5]
    _fill(world, 3)
    lane = world.lane()
    lane.step()
    assert lane.state is State.HALTED
    assert "the log ends at 2" in lane.message


def test_a_log_that_cannot_be_reached(world: World) -> None:
    _fill(world, 20)
    lane = world.lane()
    lane.step()
    world.log.available = False
    delays = [lane.step() for _ in range(12)]
    assert lane.state is State.WAITING
    assert "the log is away" in lane.message
    assert 0.05 <= delays[0] <= 0.1
    assert 2.5 <= delays[-1] <= 5.0
    assert len(set(delays[-4:])) == 4  # Jitter.
    world.log.available = True
    world.run(lane)
    world.check()
    assert lane.retries["source"] == 12


def test_a_value_that_the_decoder_cannot_judge(world: World) -> None:
    """It is not poison: the lane halts before it, with the rest applied."""

    class Picky(JsonDecoder):
        known = False

        def fields(self, value: bytes) -> Any:
            fields = super().fields(value)
            if "features" in fields and not self.known:
                raise SourceError("schema 18 is not given")
            return fields

    _fill(world, 3)
    world.put(5, {"features": {"x": 1.0, "y": 1.0}})
    _fill(world, 3)
    decoder = Picky()
    lane = world.lane(decoder=decoder)
    lane.step()
    assert lane.step() > 1.0
    assert lane.state is State.HALTED
    assert "schema 18" in lane.message
    assert world.index.offsets == [2]
    decoder.known = True
    world.run(lane)
    world.check()
    assert not world.letters_written()


def test_an_index_with_too_few_partitions(world: World) -> None:
    world.index.offsets = []
    lane = world.lane()
    lane.step()
    assert lane.state is State.HALTED
    assert "an offset for partition 0 of the log, got 0" in lane.message


def test_an_index_that_takes_no_updates(tmp_path: Path) -> None:
    world = World(tmp_path, read_only=True)
    lane = world.lane()
    assert lane.step() > 1.0
    assert lane.state is State.HALTED
    assert "read-only" in lane.message


def test_a_wrong_token_is_looked_at_again(world: World) -> None:
    _fill(world, 3)
    lane = world.lane()
    world.replica.faults = [
        fake_index.refused(Code.UNAUTHENTICATED, "no token")
    ]
    assert lane.step() > 1.0
    assert (lane.state, lane.message) == (
        State.HALTED,
        "UNAUTHENTICATED: no token",
    )
    world.run(lane)
    world.check()


def test_reads_no_more_than_it_sends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is slow or away slows the reading down."""
    _fill(world, 100)
    read = world.log.read
    seen: list[tuple[int, int]] = []

    def note(partition: int, after: int, limit: int, timeout_s: float) -> Any:
        seen.append((after, limit))
        return read(partition, after, limit, timeout_s)

    monkeypatch.setattr(world.log, "read", note)
    world.run(world.lane())
    # Each read follows what the index holds, and is one request long.
    assert seen == [(after, 8) for after in range(-1, 100, 8)]


# What is said about it.


def test_lag(world: World) -> None:
    lane = world.lane(LaneOptions(5, 0.0))
    assert (lane.lag_records, lane.lag_seconds) == (None, None)
    world.run(lane)
    assert (lane.lag_records, lane.lag_seconds) == (0, 0.0)
    for i in range(20):
        world.now += 1.0
        world.upsert(i)
    world.now += 10.0
    lane.step()
    assert lane.lag_records == 15
    # The record that was applied last stands for the next one.
    assert lane.lag_seconds == pytest.approx(10.0 + 15.0)
    world.run(lane)
    assert (lane.lag_records, lane.lag_seconds) == (0, 0.0)


def test_speed(world: World) -> None:
    lane = world.lane()
    assert lane.applied_per_second == 0.0
    _fill(world, 40)
    for _ in range(5):
        world.now += 1.0
        lane.step()
    assert lane.applied_per_second == 4.0
    world.now += 7.0
    assert lane.applied_per_second == pytest.approx(2.4)
    world.now += 10.0
    assert lane.applied_per_second == 0.0


def test_caught_up_is_what_was_there_when_looked_at(world: World) -> None:
    lane = world.lane(LaneOptions(5, 0.0, end_interval_s=0.5))
    _fill(world, 10)
    assert lane.caught_up_at is None
    looked_at = world.now
    for _ in range(2):
        lane.step()
        # Faster than the lane: the end of the log is never reached.
        _fill(world, 10)
        world.now += 10.0
    assert lane.caught_up_at == looked_at
    assert lane.lag_records != 0


def test_each_record_once_under_every_plan_of_faults(tmp_path: Path) -> None:
    """A restart of the ingester at every step, with every kind of fault."""
    faults = [
        fake_index.lost_answer,
        fake_index.not_sent,
        fake_index.refused(Code.INTERNAL),
    ]
    for steps in range(1, 8):
        for fault in faults:
            world = World(tmp_path)
            _fill(world, 30)
            world.put(7, {"poison": 1})
            world.index.poison_ids = {17}
            for _ in range(60):
                lane = world.lane()
                for step in range(steps):
                    if step == steps - 1:
                        world.replica.faults = [fault]
                    lane.step()
                world.replica.faults = []
            world.run(world.lane())
            world.check()


def test_refusal_has_a_code() -> None:
    """The fake maps errors as the real replica does."""
    error = fake_index.to_target_error(Refusal(Code.ABORTED, "x"))
    assert (error.fault.value, error.message) == ("retry", "ABORTED: x")
