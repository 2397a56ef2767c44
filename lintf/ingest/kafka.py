# SPDX-License-Identifier: Apache-2.0
"""A Kafka topic as the change log.

Partitions are assigned, not subscribed to, and no offset is committed: the
served indexes say how far they are. A topic may be compacted; its tombstones
must then stay (`delete.retention.ms`) for longer than any snapshot that is
caught up from it is old, or deletes of that time are missed.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

try:
    import confluent_kafka
    from confluent_kafka import KafkaError, KafkaException, TopicPartition
except ImportError as error:
    raise ImportError(
        "a Kafka topic needs confluent-kafka: pip install 'lintf[ingest]'"
    ) from error

from lintf.ingest.source import (
    Batch,
    LogTooShortError,
    LogTruncatedError,
    Record,
    Source,
    SourceError,
    SourceUnavailableError,
)

_LOGGER = logging.getLogger("lintf.ingest")

_DEFAULTS = {
    # librdkafka asks for a group, though nothing of it is used.
    "group.id": "lintf-ingest",
    # What a consumer fetches ahead: bounds the memory of each reader.
    "queued.max.messages.kbytes": 16384,
    # Changes of transactions that were aborted never happened.
    "isolation.level": "read_committed",
    # Finds a broker that is back soon.
    "reconnect.backoff.max.ms": 2000,
}
_FIXED = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # An offset that is not there is an error, never a reason to jump.
    "auto.offset.reset": "error",
    # Says where the log ends, gaps included.
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
}

# A reader that nobody has come back to for so long is closed.
_MAX_IDLE_S = 60.0

# Codes after which trying again can't help.
_HOPELESS = frozenset(
    (
        KafkaError._AUTHENTICATION,
        KafkaError._FATAL,
        KafkaError._INVALID_ARG,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
    )
)


class _Reader:
    """A consumer that stands somewhere in a partition.

    Attributes:
      partition: the partition.
      next_offset: where it reads on.
      idle_since: when it was last used, in seconds of the source's clock.
    """

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.partition = -1
        self.next_offset = -1
        self.idle_since = 0.0

    def assign(self, topic: str, partition: int, offset: int) -> None:
        self.partition, self.next_offset = partition, offset
        self.consumer.assign([TopicPartition(topic, partition, offset)])


class KafkaSource(Source):
    """Reads a topic.

    Several readers may follow one partition at different places; each has a
    consumer of its own, which is kept for the next read that goes on there.
    """

    def __init__(
        self,
        topic: str,
        config: Mapping[str, Any],
        *,
        request_timeout_s: float = 5.0,
        max_readers: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes a source; nothing is sent yet.

        Args:
          topic: the topic.
          config: librdkafka's properties; "bootstrap.servers" at least.
          request_timeout_s: how long to wait for offsets and metadata.
          max_readers: most consumers that are kept.
          clock: seconds, rising.

        Raises:
          ValueError: the properties are not librdkafka's, or one of those
            that this class sets.
        """
        given = sorted(set(config) & set(_FIXED))
        if given:
            raise ValueError(
                f"{given[0]} can't be given: the ingester needs "
                f"{_FIXED[given[0]]!r}"
            )
        if not config.get("bootstrap.servers"):
            raise ValueError(
                "the Kafka config must have bootstrap.servers=HOST:PORT,..."
            )
        self._topic = topic
        self._config = {
            **_DEFAULTS,
            **config,
            **_FIXED,
            "error_cb": self._on_error,
            "logger": _LOGGER,
        }
        self._request_timeout_s = request_timeout_s
        self._max_readers = max_readers
        self._clock = clock
        self._lock = threading.Lock()
        # By age: the first has waited longest.
        self._idle: collections.deque[_Reader] = collections.deque()
        self._closed = False
        self._fatal: KafkaError | None = None
        # Asks for offsets, which needs no assignment.
        self._control = self._consumer()

    def partitions(self) -> Sequence[int]:
        try:
            metadata = self._control.list_topics(
                self._topic, timeout=self._request_timeout_s
            )
        except KafkaException as error:
            raise self._failure(error.args[0]) from error
        topic = metadata.topics[self._topic]
        if topic.error is not None:
            raise self._failure(topic.error)
        return sorted(topic.partitions)

    def begin(self, partition: int) -> int:
        return self._watermarks(partition)[0]

    def end(self, partition: int) -> int:
        return self._watermarks(partition)[1]

    def read(
        self,
        partition: int,
        after_offset: int,
        limit: int,
        timeout_s: float,
    ) -> Batch:
        reader = self._take_reader(partition, after_offset + 1)
        try:
            batch = self._read(reader, limit, timeout_s)
        except BaseException:
            reader.consumer.close()
            raise
        self._put_back(reader)
        return batch

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = list(self._idle), collections.deque()
        for reader in idle:
            reader.consumer.close()
        self._control.close()

    def _consumer(self) -> Any:
        try:
            return confluent_kafka.Consumer(self._config)
        except KafkaException as error:
            raise ValueError(f"the Kafka config: {error.args[0].str()}") from (
                error
            )

    def _on_error(self, error: KafkaError) -> None:
        # Called by librdkafka; what is transient it tries again by itself.
        if error.fatal() or error.code() in _HOPELESS:
            self._fatal = error

    def _failure(self, error: KafkaError) -> SourceError:
        text = f"topic {self._topic}: {error.name()}: {error.str()}"
        if error.fatal() or error.code() in _HOPELESS:
            return SourceError(text)
        return SourceUnavailableError(text)

    def _watermarks(self, partition: int) -> tuple[int, int]:
        try:
            low, high = self._control.get_watermark_offsets(
                TopicPartition(self._topic, partition),
                timeout=self._request_timeout_s,
            )
        except KafkaException as error:
            raise self._failure(error.args[0]) from error
        return low, high

    def _take_reader(self, partition: int, offset: int) -> _Reader:
        with self._lock:
            if self._closed:
                raise SourceError("the source is closed")
            for reader in self._idle:
                if reader.partition == partition and (
                    reader.next_offset == offset
                ):
                    self._idle.remove(reader)
                    return reader
            reuse = None
            if len(self._idle) >= self._max_readers:
                reuse = self._idle.popleft()
        reader = reuse or _Reader(self._consumer())
        reader.assign(self._topic, partition, offset)
        return reader

    def _put_back(self, reader: _Reader) -> None:
        now = reader.idle_since = self._clock()
        unused = []
        with self._lock:
            if self._closed:
                unused.append(reader)
            else:
                self._idle.append(reader)
            while self._idle and now - self._idle[0].idle_since > _MAX_IDLE_S:
                unused.append(self._idle.popleft())
        for reader in unused:
            reader.consumer.close()

    def _read(self, reader: _Reader, limit: int, timeout_s: float) -> Batch:
        deadline = self._clock() + timeout_s
        records: list[Record] = []
        while True:
            left = max(deadline - self._clock(), 0.0)
            try:
                messages = reader.consumer.consume(limit - len(records), left)
            except KafkaException as error:
                raise self._failure(error.args[0]) from error
            for message in messages:
                self._take(reader, message, records)
            fatal = self._fatal
            if fatal is not None and not messages:
                # A later read shows whether it still is so.
                self._fatal = None
                raise self._failure(fatal)
            if len(records) >= limit or self._clock() >= deadline:
                return Batch(records, reader.next_offset)

    def _take(
        self, reader: _Reader, message: Any, records: list[Record]
    ) -> None:
        error = message.error()
        if error is None:
            if message.offset() < reader.next_offset:
                return  # Of the batch that the broker keeps it in.
            kind, time_ms = message.timestamp()
            records.append(
                Record(
                    reader.partition,
                    message.offset(),
                    message.key(),
                    message.value(),
                    time_ms
                    if kind != confluent_kafka.TIMESTAMP_NOT_AVAILABLE
                    else 0,
                )
            )
            reader.next_offset = message.offset() + 1
        elif error.code() == KafkaError._PARTITION_EOF:
            reader.next_offset = max(reader.next_offset, message.offset())
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            self._raise_out_of_range(reader, error)
        else:
            raise self._failure(error)

    def _raise_out_of_range(self, reader: _Reader, error: KafkaError) -> None:
        low, high = self._watermarks(reader.partition)
        after = reader.next_offset - 1
        if low > reader.next_offset:
            raise LogTruncatedError(reader.partition, after, low)
        if high < reader.next_offset:
            raise LogTooShortError(reader.partition, after, high)
        raise self._failure(error)
