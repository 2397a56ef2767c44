# SPDX-License-Identifier: Apache-2.0
"""The change logs of the soak, which remember all that was acknowledged."""

from __future__ import annotations

import abc
import pathlib
import threading
from collections.abc import Callable, Sequence

import confluent_kafka

from lintf.ingest import file_log, segment
from lintf.ingest.file_log_writer import FileLogWriter, partition_of
from lintf.ingest.source import Record
from tests.ingest.mock_broker import MockBroker
from tests.soak.changes import Model

TOPIC = "changes"
_FLUSH_S = 120.0

Entry = tuple[bytes | None, bytes | None]


class ChangeLog(abc.ABC):
    """A log that the soak writes and an ingester reads. Thread-safe.

    Attributes:
      kind: "file" or "kafka".
      partitions: how many it has.
      flags: those of `lintf ingest` and `lintf snapshot` that name it.
    """

    kind: str
    partitions: int
    flags: Sequence[str]

    def __init__(self) -> None:
        self._acknowledged: list[Record] = []
        self._lock = threading.RLock()

    @abc.abstractmethod
    def append(self, key: bytes | None, value: bytes | None) -> None:
        """Appends a record."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Waits until every record is acknowledged."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends what the log holds."""

    def acknowledged(self) -> list[Record]:
        """The records, each partition's in order."""
        with self._lock:
            return sorted(
                self._acknowledged, key=lambda r: (r.partition, r.offset)
            )

    def ends(self) -> list[int]:
        """The last offset of each partition; -1 for an empty one."""
        ends = [-1] * self.partitions
        for record in self.acknowledged():
            ends[record.partition] = record.offset
        return ends

    def replay(self) -> Model:
        """What the log makes of an empty index, by plain Python."""
        model = Model()
        for record in self.acknowledged():
            model.apply(record.key, record.value)
        return model


class FileChanges(ChangeLog):
    """The file log, whose writer may be cut off in the middle of a record."""

    kind = "file"

    def __init__(self, folder: pathlib.Path, partitions: int) -> None:
        super().__init__()
        self.partitions = partitions
        self.flags = [f"--source=file:{folder}"]
        self._folder = folder
        self._writer = self._open()

    def _open(self) -> FileLogWriter:
        # The machine does not crash here: flushing proves nothing.
        return FileLogWriter(
            self._folder, self.partitions, fsync_interval_s=None
        )

    def append(self, key: bytes | None, value: bytes | None) -> None:
        with self._lock:
            self._acknowledged.append(self._writer.append(key, value))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._writer.close()

    def tear(
        self, partition: int, size: int, while_torn: Callable[[], None]
    ) -> None:
        """Leaves part of a record at the end, as a writer that was killed.

        Args:
          partition: whose last segment is torn.
          size: bytes of the record that are there; fewer than all.
          while_torn: called before another writer takes over.
        """
        with self._lock:
            offset = self._writer.next_offset(partition)
            self._writer.close()
            # A record that was never acknowledged, and must never be seen.
            data = segment.encode(Record(partition, offset, b"1", None, 0))
            directory = file_log.partition_dir(self._folder, partition)
            first = file_log.first_offsets(directory)[-1]
            path = pathlib.Path(directory, segment.file_name(first))
            with path.open("ab") as file:
                file.write(data[: min(size, len(data) - 1)])
            try:
                while_torn()
            finally:
                self._writer = self._open()


class KafkaChanges(ChangeLog):
    """A topic of a broker in a process of its own, which may be paused."""

    kind = "kafka"

    def __init__(self, folder: pathlib.Path, partitions: int) -> None:
        super().__init__()
        self.partitions = partitions
        self.broker = MockBroker(TOPIC, partitions)
        properties = folder / "kafka.properties"
        properties.write_text(
            f"bootstrap.servers={self.broker.servers}\n", encoding="ascii"
        )
        self.flags = [f"--source=kafka:{TOPIC}", f"--kafka_config={properties}"]
        self._failed: list[str] = []
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": self.broker.servers,
                "enable.idempotence": True,
                # A broker that is away is waited for, however long.
                "message.timeout.ms": 0,
                "reconnect.backoff.max.ms": 1000,
                "linger.ms": 5,
                "log_level": 0,
            }
        )

    def append(self, key: bytes | None, value: bytes | None) -> None:
        self._producer.produce(
            TOPIC,
            key=key,
            value=value,
            partition=partition_of(key or b"", self.partitions),
            on_delivery=self._delivered,
        )
        self._producer.poll(0)

    def flush(self) -> None:
        left = self._producer.flush(_FLUSH_S)
        if left or self._failed:
            raise RuntimeError(
                f"{left} records were not delivered, and failed: "
                f"{self._failed[:3]}"
            )

    def close(self) -> None:
        self.broker.resume()
        self.broker.stop()

    def _delivered(
        self, error: object, message: confluent_kafka.Message
    ) -> None:
        if error is not None:
            self._failed.append(str(error))
            return
        record = Record(
            message.partition(),
            message.offset(),
            message.key(),
            message.value(),
        )
        with self._lock:
            self._acknowledged.append(record)


def open_log(kind: str, folder: pathlib.Path, partitions: int) -> ChangeLog:
    """A new log of a kind in a folder."""
    if kind == "file":
        return FileChanges(folder / "log", partitions)
    return KafkaChanges(folder, partitions)
