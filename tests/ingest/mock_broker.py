# SPDX-License-Identifier: Apache-2.0
"""A Kafka broker for tests: librdkafka's mock cluster in a process of its own.

    python -m tests.ingest.mock_broker --topic changes --partitions 3

prints `bootstrap.servers` on one line, and serves until its standard input
ends or it is killed. It speaks the real protocol and keeps about 5 MB a
partition; what is older is gone. A process of its own can be stopped (SIGSTOP)
and resumed (SIGCONT) to play a broker that can't be reached.

It takes commands, one a line, and answers each with "ok":

    delete PARTITION OFFSET       deletes the records before an offset
    fail API_KEY CODE [COUNT]     answers the next requests with an error
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import ctypes.util
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka

# Numbers of the protocol.
FETCH, LIST_OFFSETS, METADATA = 1, 2, 3

_PRODUCER = 0
_OK = 0


def _library() -> Any:
    """The librdkafka that confluent_kafka brings, or the system's."""
    package = Path(confluent_kafka.__file__).parent
    found = sorted(
        path
        for folder in (
            package.parent / "confluent_kafka.libs",
            package / ".dylibs",
        )
        for path in folder.glob("librdkafka*")
    )
    path = str(found[0]) if found else ctypes.util.find_library("rdkafka")
    if path is None:
        raise RuntimeError("librdkafka is not there")
    library = ctypes.CDLL(path)
    pointers = (
        "rd_kafka_conf_new",
        "rd_kafka_new",
        "rd_kafka_mock_cluster_new",
    )
    for name in pointers:
        getattr(library, name).restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return library


class _Cluster:
    """A mock cluster of one broker and one topic, in this process."""

    def __init__(self, topic: str, partitions: int) -> None:
        self._library = _library()
        self._topic = topic.encode()
        error = ctypes.create_string_buffer(512)
        # Not freed: they live as long as the process.
        config = ctypes.c_void_p(self._library.rd_kafka_conf_new())
        self._library.rd_kafka_conf_set(
            config, b"log_level", b"0", error, ctypes.c_size_t(512)
        )
        client = self._library.rd_kafka_new(
            _PRODUCER, config, error, ctypes.c_size_t(512)
        )
        assert client, error.value
        self._cluster = ctypes.c_void_p(
            self._library.rd_kafka_mock_cluster_new(ctypes.c_void_p(client), 1)
        )
        assert self._cluster.value, "no mock cluster"
        code = self._library.rd_kafka_mock_topic_create(
            self._cluster, self._topic, partitions, 1
        )
        assert code == _OK, code

    def servers(self) -> str:
        found = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return str(found.decode())

    def delete(self, partition: int, offset: int) -> None:
        code = self._library.rd_kafka_mock_partition_delete_records(
            self._cluster, self._topic, partition, ctypes.c_int64(offset)
        )
        assert code == _OK, code

    def fail(self, api_key: int, code: int, count: int = 1) -> None:
        self._library.rd_kafka_mock_push_request_errors(
            self._cluster,
            ctypes.c_int16(api_key),
            ctypes.c_size_t(count),
            *[ctypes.c_int(code)] * count,
        )


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--topic", default="changes")
    parser.add_argument("--partitions", type=int, default=1)
    arguments = parser.parse_args()
    cluster = _Cluster(arguments.topic, arguments.partitions)
    print(cluster.servers(), flush=True)
    for line in sys.stdin:
        name, *numbers = line.split()
        {"delete": cluster.delete, "fail": cluster.fail}[name](
            *map(int, numbers)
        )
        print("ok", flush=True)


class MockBroker:
    """A running broker process.

    Attributes:
      servers: for "bootstrap.servers".
      process: its process.
    """

    def __init__(self, topic: str = "changes", partitions: int = 1) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.ingest.mock_broker"),
                f"--topic={topic}",
                f"--partitions={partitions}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        self.servers = self._line()

    def command(self, *words: object) -> None:
        """Sends a command, and waits until it is carried out."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        answer = self._line()
        assert answer == "ok", answer

    def pause(self) -> None:
        """Makes the broker unreachable."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Makes it reachable again."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends it; its records are gone."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, "the mock broker has ended"
        return line


@contextlib.contextmanager
def running(
    topic: str = "changes", partitions: int = 1
) -> Iterator[MockBroker]:
    """A broker for the length of a `with` block."""
    broker = MockBroker(topic, partitions)
    try:
        yield broker
    finally:
        broker.stop()


if __name__ == "__main__":
    _main()
