# SPDX-License-Identifier: Apache-2.0
"""Random histories of everything that can go wrong, against a replay.

Two ingesters, a server that fails, restarts and swaps, and a log that grows:
whatever happened, the index ends with each record of the log applied once.
"""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import grpc
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from lintf.ingest.dead_letters import DeadLetters
from lintf.ingest.lane import Lane, LaneOptions
from lintf.ingest.records import JsonDecoder
from tests.ingest import fake_index
from tests.ingest.fake_index import (
    FakeIndex,
    FakeReplica,
    LateAnswer,
    MemoryLog,
    replay,
)

_Code = grpc.StatusCode
# What only the index knows to be poison.
_POISON_IDS = frozenset((5, 9))
_IDS = 12


def _fields(rng: random.Random) -> Any:
    """A random value; most are upserts."""
    kind = rng.choice(["embedding"] * 5 + ["features", "attributes"] * 2)
    attributes = {"year": rng.randrange(1900, 2000)}
    if rng.random() < 0.15:
        return None
    if rng.random() < 0.07:
        return {"poison": True}
    if kind == "embedding":
        embedding = [rng.uniform(-8, 8) for _ in range(fake_index.DIM)]
        return {
            "embedding": embedding,
            "attributes": rng.choice([attributes, {"genre": "b"}, {}, None]),
        }
    if kind == "features":
        return {"features": {"x": rng.random(), "y": rng.random()}}
    return {"attributes": attributes}


_FAULTS: dict[str, Any] = {
    "lost_answer": lambda: fake_index.lost_answer,
    "not_sent": lambda: fake_index.not_sent,
    "late": LateAnswer,
    "internal": lambda: fake_index.refused(_Code.INTERNAL),
    "conflict": lambda: fake_index.refused(_Code.FAILED_PRECONDITION),
    "threads": lambda: fake_index.refused(
        _Code.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted"
    ),
    "token": lambda: fake_index.refused(_Code.UNAUTHENTICATED),
}


class Histories(RuleBasedStateMachine):
    """Rules are what may happen next."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "dead.jsonl"
        self.letters = DeadLetters(path)
        self.log = MemoryLog()
        self.now = 0.0
        self.version = 1
        self.late: list[LateAnswer] = []
        self.lanes: list[Lane] = []

    @initialize(capacity=st.sampled_from([3, 5, 100]))
    def start(self, capacity: int) -> None:
        index = FakeIndex(capacity=capacity)
        index.poison_ids = set(_POISON_IDS)
        self.replica = FakeReplica(index)
        self.snapshot = index.copy()
        self.lanes = [self.lane(3), self.lane(7)]

    def lane(self, batch_rows: int) -> Lane:
        return Lane(
            self.log,
            0,
            self.replica.target(self.version),
            JsonDecoder(),
            self.letters,
            LaneOptions(batch_rows, 0.0),
            clock=lambda: self.now,
            wall_clock=lambda: self.now,
            rng=random.Random(1),
        )

    @rule(seed=st.integers(0, 2**32), count=st.integers(1, 20))
    def append(self, seed: int, count: int) -> None:
        rng = random.Random(seed)
        for _ in range(count):
            fields = _fields(rng)
            value = None if fields is None else json.dumps(fields).encode()
            self.log.append(str(rng.randrange(_IDS)).encode(), value)

    @rule(size=st.integers(1, 3))
    def leave_gap(self, size: int) -> None:
        self.log.leave_gap(size=size)

    @rule(which=st.integers(0, 1), steps=st.integers(3, 20))
    def step(self, which: int, steps: int) -> None:
        for _ in range(steps):
            self.lanes[which].step()
            self.now += 0.3

    @rule(
        names=st.lists(st.sampled_from(sorted(_FAULTS)), min_size=1, max_size=2)
    )
    def fault_of_update(self, names: list[str]) -> None:
        faults = [_FAULTS[name]() for name in names]
        self.replica.faults += faults
        self.late += [f for f in faults if isinstance(f, LateAnswer)]

    @rule(name=st.sampled_from(["not_sent", "internal", "token"]))
    def fault_of_stats(self, name: str) -> None:
        self.replica.stats_faults.append(_FAULTS[name]())

    @rule()
    def late_requests_arrive(self) -> None:
        for late in self.late:
            late.arrive()

    @rule(which=st.integers(0, 1))
    def kill_ingester(self, which: int) -> None:
        self.lanes[which] = self.lane((3, 7)[which])

    @rule()
    def restart_server(self) -> None:
        """It stands where its SavedModel does."""
        self.replica.indexes[self.version] = self.snapshot.copy()

    @rule(steps=st.integers(1, 3))
    def log_is_away(self, steps: int) -> None:
        self.log.available = False
        for _ in range(steps):
            for lane in self.lanes:
                lane.step()
        self.log.available = True

    @rule(room=st.sampled_from([0, 2, 100]), swap=st.booleans())
    def write_snapshot(self, room: int, swap: bool) -> None:
        """From what is served; of the same number, or of a new one."""
        index = self.replica.indexes[self.version]
        self.snapshot = index.copy(capacity=index.capacity + room)
        if swap:
            del self.replica.indexes[self.version]
            self.version += 1
            self.replica.indexes[self.version] = self.snapshot.copy()
            self.lanes = [self.lane(3), self.lane(7)]

    @rule()
    def drop_what_the_snapshot_holds(self) -> None:
        """Retention; the log still reaches back to the snapshot."""
        end = self.snapshot.offsets[0] + 1
        if end > self.log.begins[0]:
            self.kept = getattr(self, "kept", [])
            self.kept += [r for r in self.log.records[0] if r.offset < end]
            self.log.truncate(0, end)

    @invariant()
    def each_record_at_most_once_and_in_order(self) -> None:
        if not self.lanes:
            return
        offsets = [o for _, o in self.replica.indexes[self.version].applied]
        assert offsets == sorted(set(offsets))

    def teardown(self) -> None:
        try:
            if self.lanes:
                self.settle()
        finally:
            self.letters.close()
            self.folder.cleanup()

    def settle(self) -> None:
        """Everything works again; the index must come to the log's end."""
        self.late_requests_arrive()
        self.replica.faults, self.replica.stats_faults = [], []
        index = self.replica.indexes[self.version]
        for round in range(300):
            if round == 20:
                index.capacity = 10**9
            for lane in self.lanes:
                lane.step()
            self.now += 20.0
            if index.offsets[0] == self.log.ends[0] - 1:
                break
        assert index.offsets[0] == self.log.ends[0] - 1
        whole = MemoryLog()
        whole.records[0] = getattr(self, "kept", []) + self.log.records[0]
        assert index.items == replay(whole, set(_POISON_IDS))
        offsets = {offset for _, offset in index.applied}
        assert {r.offset for r in whole.records[0]} <= offsets


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
)
