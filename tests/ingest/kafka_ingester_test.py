# SPDX-License-Identifier: Apache-2.0
"""The ingester on a Kafka topic: gaps, an absent broker, retention."""

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from lintf.ingest.dead_letters import DeadLetters
from lintf.ingest.ingester import Ingester, IngesterOptions
from lintf.ingest.kafka import KafkaSource
from lintf.ingest.lane import LaneOptions, State
from lintf.ingest.records import JsonDecoder
from tests.ingest import mock_broker
from tests.ingest.fake_index import FakeIndex, FakeReplica, Item
from tests.ingest.waiting import wait_until

TOPIC = "changes"
PARTITIONS = 2
_MISSING_YEAR = -(2**63)


@pytest.fixture
def broker() -> Iterator[mock_broker.MockBroker]:
    with mock_broker.running(TOPIC, PARTITIONS) as found:
        yield found


class Running:
    """An ingester on the topic, in a thread."""

    def __init__(
        self, broker: mock_broker.MockBroker, index: FakeIndex, folder: Path
    ) -> None:
        self.source = KafkaSource(
            TOPIC,
            {
                "bootstrap.servers": broker.servers,
                "log_level": 0,
                "socket.timeout.ms": 500,
            },
            request_timeout_s=0.5,
        )
        lane = LaneOptions(
            batch_rows=10,
            max_latency_s=0.01,
            first_delay_s=0.01,
            max_delay_s=0.05,
            halt_delay_s=0.05,
        )
        self.ingester = Ingester(
            self.source,
            [FakeReplica(index)],
            JsonDecoder(),
            DeadLetters(folder / "dead.jsonl"),
            IngesterOptions(lane, poll_s=0.05),
        )
        self.thread = threading.Thread(target=self.ingester.run)
        self.thread.start()

    def states(self) -> set[State]:
        return {lane.state for lane in self.ingester.lanes()}

    def stop(self) -> None:
        self.ingester.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.source.close()


class Log:
    """Produces changes in transactions, and knows what they come to."""

    def __init__(self, broker: mock_broker.MockBroker) -> None:
        self.items: dict[int | str, Item] = {}
        self.ends = [0] * PARTITIONS
        self._rng = random.Random(6)
        self._producer = Producer(
            {"bootstrap.servers": broker.servers, "transactional.id": "test"}
        )
        self._producer.init_transactions(30)

    def commit(self, count: int) -> None:
        self._producer.begin_transaction()
        used = set()
        for _ in range(count):
            id = self._rng.randrange(40)
            value = None
            if self._rng.random() < 0.2:
                self.items.pop(id, None)
            else:
                embedding = (float(self._rng.randrange(99)),) * 3
                self.items[id] = Item(embedding, _MISSING_YEAR, "")
                value = json.dumps({"embedding": embedding})
            partition = id % PARTITIONS
            self._producer.produce(
                TOPIC, key=str(id), value=value, partition=partition
            )
            self.ends[partition] += 1
            used.add(partition)
        self._producer.commit_transaction(30)
        for partition in used:
            # The mark that the transaction has ended.
            self.ends[partition] += 1

    def at_end(self, index: FakeIndex) -> bool:
        return index.offsets == [end - 1 for end in self.ends]


def test_gaps_and_an_absent_broker(
    tmp_path: Path, broker: mock_broker.MockBroker
) -> None:
    index, log = FakeIndex(PARTITIONS), Log(broker)
    running = Running(broker, index, tmp_path)
    try:
        for _ in range(3):
            log.commit(50)
            wait_until(lambda: log.at_end(index), "it follows")
            assert index.items == log.items
            broker.pause()
            wait_until(lambda: State.WAITING in running.states(), "away")
            broker.resume()
            wait_until(lambda: running.states() == {State.RUNNING}, "back")
    finally:
        broker.resume()
        running.stop()
    assert len(set(index.applied)) == len(index.applied)


def test_an_ingester_that_starts_while_the_broker_is_away(
    tmp_path: Path, broker: mock_broker.MockBroker
) -> None:
    index, log = FakeIndex(PARTITIONS), Log(broker)
    log.commit(30)
    broker.pause()
    running = Running(broker, index, tmp_path)
    try:
        broker.resume()
        wait_until(lambda: log.at_end(index), "it follows")
        assert index.items == log.items
    finally:
        running.stop()


def test_retention_that_was_too_short(
    tmp_path: Path, broker: mock_broker.MockBroker
) -> None:
    index, log = FakeIndex(PARTITIONS), Log(broker)
    log.commit(60)
    broker.command("delete", 0, 10)
    running = Running(broker, index, tmp_path)
    try:
        wait_until(
            lambda: running.states() == {State.HALTED, State.RUNNING}, "halts"
        )
        (halted,) = [
            lane
            for lane in running.ingester.lanes()
            if lane.state is State.HALTED
        ]
        assert "back to offset 0, but it begins at 10" in halted.message
        assert index.offsets[0] == -1
        # The other partition goes on.
        wait_until(lambda: index.offsets[1] == log.ends[1] - 1, "the other")
    finally:
        running.stop()
