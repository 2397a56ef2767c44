# SPDX-License-Identifier: Apache-2.0
"""The Kafka source, over the real protocol."""

from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import KafkaError, Producer

from lintf.ingest.kafka import KafkaSource
from lintf.ingest.source import (
    LogTooShortError,
    LogTruncatedError,
    Record,
    SourceError,
    SourceUnavailableError,
)
from tests.ingest import kafka_brokers, mock_broker

TOPIC = "changes"
# Of a read that must find something; one that does ends before.
_LONG_S = 30.0


@pytest.fixture(scope="module", params=kafka_brokers.KINDS)
def servers(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each kind of broker, with 40 records in partition 0 and 20 in 2."""
    with kafka_brokers.running(request.param, TOPIC, 3) as found:
        kafka_brokers.produce(found, TOPIC, _entries())
        yield found


@pytest.fixture
def broker() -> Iterator[mock_broker.MockBroker]:
    """A mock broker of the test's own, with 40 records in partition 0."""
    with mock_broker.running(TOPIC, 3) as found:
        kafka_brokers.produce(found.servers, TOPIC, _entries())
        yield found


def _entries() -> list[tuple[int, bytes | None, bytes | None]]:
    return [
        (0 if i < 40 else 2, b"%d" % i, None if i % 4 == 3 else b"v%d" % i)
        for i in range(60)
    ]


def _source(servers: str, **config: object) -> KafkaSource:
    return KafkaSource(
        TOPIC,
        {"bootstrap.servers": servers, "log_level": 0, **config},
        request_timeout_s=_LONG_S,
    )


def _read(
    source: KafkaSource,
    partition: int,
    after: int,
    until: int,
) -> list[Record]:
    """All records after an offset, read until `next_offset` is `until`."""
    records: list[Record] = []
    for _ in range(1000):
        batch = source.read(partition, after, 1000, 0.05)
        records += batch.records
        after = batch.next_offset - 1
        if batch.next_offset >= until:
            return records
    raise AssertionError(f"read up to {after}, not to {until}")


def _raises(
    error: type[Exception], text: str, read: Callable[[], object]
) -> None:
    """Expects an error of one of the next reads."""
    for _ in range(1000):
        try:
            read()
        except error as raised:
            assert text in str(raised)
            return
    raise AssertionError(f"no {error.__name__}")


def test_reads_what_was_produced(servers: str) -> None:
    with _source(servers) as source:
        assert list(source.partitions()) == [0, 1, 2]
        records = source.read(0, -1, 40, _LONG_S).records
        found = [(r.partition, r.key, r.value) for r in records]
        assert found == _entries()[:40]
        assert [r.offset for r in records] == list(range(40))
        assert all(r.timestamp_ms > 1_600_000_000_000 for r in records)
        assert source.begin(0) == 0
        assert len(source.read(2, -1, 20, _LONG_S).records) == 20


def test_reads_on_from_any_offset(servers: str) -> None:
    with _source(servers) as source:
        for after, limit in [(-1, 5), (4, 5), (20, 3), (4, 5), (38, 1)]:
            batch = source.read(0, after, limit, _LONG_S)
            offsets = [r.offset for r in batch.records]
            assert offsets == list(range(after + 1, after + 1 + limit))
            assert batch.next_offset == after + 1 + limit
        assert _read(source, 0, 39, 40) == []


def test_no_such_topic(servers: str) -> None:
    with KafkaSource("other", {"bootstrap.servers": servers}) as source:
        with pytest.raises(SourceError, match="topic other: UNKNOWN_TOPIC"):
            source.partitions()


def test_a_closed_source(servers: str) -> None:
    source = _source(servers)
    source.read(0, -1, 1, _LONG_S)
    source.close()
    with pytest.raises(SourceError, match="closed"):
        source.read(0, 0, 1, 0.0)


def test_the_end(broker: mock_broker.MockBroker) -> None:
    with _source(broker.servers) as source:
        assert [source.end(p) for p in range(3)] == [40, 0, 20]
        kafka_brokers.produce(broker.servers, TOPIC, [(1, b"1", None)])
        assert source.end(1) == 1


def test_gaps_in_offsets(broker: mock_broker.MockBroker) -> None:
    """The end of a transaction takes an offset that no record has."""
    producer = Producer(
        {"bootstrap.servers": broker.servers, "transactional.id": "test"}
    )
    producer.init_transactions(_LONG_S)
    for value in ("a", "b"):
        producer.begin_transaction()
        producer.produce(TOPIC, key="7", value=value, partition=1)
        producer.commit_transaction(_LONG_S)
    with _source(broker.servers) as source:
        assert source.end(1) == 4
        records = _read(source, 1, -1, 4)
        assert [(r.offset, r.value) for r in records] == [(0, b"a"), (2, b"b")]
        # Also where a reader starts in the gap, and at the end.
        assert [r.offset for r in _read(source, 1, 0, 4)] == [2]
        assert _read(source, 1, 2, 4) == []


def test_a_log_that_no_longer_reaches_back(
    broker: mock_broker.MockBroker,
) -> None:
    with _source(broker.servers) as source:
        assert source.read(0, 4, 5, _LONG_S).next_offset == 10
        broker.command("delete", 0, 30)
        assert source.begin(0) == 30
        for after in (-1, 5, 28):
            _raises(
                LogTruncatedError,
                f"back to offset {after + 1}, but it begins at 30",
                lambda after=after: source.read(0, after, 5, 0.05),
            )
        offsets = [r.offset for r in _read(source, 0, 29, 40)]
        assert offsets == list(range(30, 40))


def test_an_index_ahead_of_the_log(broker: mock_broker.MockBroker) -> None:
    with _source(broker.servers) as source:
        _raises(
            LogTooShortError,
            "up to offset 99, but the log ends at 39",
            lambda: source.read(0, 99, 5, 0.05),
        )


def test_a_broker_that_cannot_be_reached(
    broker: mock_broker.MockBroker,
) -> None:
    with KafkaSource(
        TOPIC,
        {
            "bootstrap.servers": broker.servers,
            "log_level": 0,
            "socket.timeout.ms": 500,
        },
        request_timeout_s=0.3,
    ) as source:
        assert len(source.read(0, -1, 10, _LONG_S).records) == 10
        broker.pause()
        with pytest.raises(SourceUnavailableError, match="topic changes: "):
            source.end(0)
        # A reader may still hold what it fetched before.
        _read(source, 0, 9, 40)
        assert source.read(0, 39, 10, 0.1).records == []
        broker.resume()
        kafka_brokers.produce(broker.servers, TOPIC, [(0, b"99", b"new")])
        (record,) = source.read(0, 39, 1, _LONG_S).records
        assert (record.offset, record.value) == (40, b"new")


def test_nobody_listens() -> None:
    with KafkaSource(
        TOPIC,
        {"bootstrap.servers": "127.0.0.1:1", "log_level": 0},
        request_timeout_s=0.2,
    ) as source:
        with pytest.raises(SourceUnavailableError):
            source.partitions()
        batch = source.read(0, -1, 10, 0.1)
        assert (batch.records, batch.next_offset) == ([], 0)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.REQUEST_TIMED_OUT,
    ],
)
def test_passing_errors_of_the_broker(
    broker: mock_broker.MockBroker, code: int
) -> None:
    with _source(broker.servers) as source:
        broker.command("fail", mock_broker.FETCH, code, 3)
        records: list[Record] = []
        while len(records) < 40:
            try:
                batch = source.read(0, len(records) - 1, 40, _LONG_S)
            except SourceUnavailableError:
                continue
            records += batch.records
        assert [r.offset for r in records] == list(range(40))


def test_an_error_that_a_person_has_to_mend(
    broker: mock_broker.MockBroker,
) -> None:
    with _source(broker.servers) as source:
        broker.command(
            "fail", mock_broker.FETCH, KafkaError.TOPIC_AUTHORIZATION_FAILED, 50
        )
        with pytest.raises(SourceError, match="AUTHORIZATION") as raised:
            for _ in range(1000):
                source.read(0, -1, 1, 0.05)
        assert not isinstance(raised.value, SourceUnavailableError)


def test_config() -> None:
    with pytest.raises(ValueError, match="must have bootstrap.servers"):
        KafkaSource(TOPIC, {})
    with pytest.raises(ValueError, match="auto.offset.reset can't be given"):
        KafkaSource(
            TOPIC, {"bootstrap.servers": "x", "auto.offset.reset": "earliest"}
        )
    with pytest.raises(ValueError, match="the Kafka config: .*bootsrap"):
        KafkaSource(TOPIC, {"bootstrap.servers": "x", "bootsrap": "y"})


def test_readers_are_kept_and_bounded(
    broker: mock_broker.MockBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    source = KafkaSource(
        TOPIC,
        {"bootstrap.servers": broker.servers, "log_level": 0},
        max_readers=3,
        clock=lambda: now[0],
    )
    made = []
    make = source._consumer
    monkeypatch.setattr(source, "_consumer", lambda: made.append(1) or make())

    def take(after: int) -> None:
        reader = source._take_reader(0, after + 1)
        source._put_back(reader)

    for _ in range(3):
        for after in (1, 2, 3):
            take(after)
    assert len(made) == 3
    take(4)  # Takes the one that has waited longest.
    assert len(made) == 3
    take(1)
    assert len(made) == 3
    now[0] += 1000.0
    take(4)
    assert [r.next_offset for r in source._idle] == [5]
    source.close()
