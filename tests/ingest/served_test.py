# SPDX-License-Identifier: Apache-2.0
"""The ingester with a real server: from the log to what is found."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trustme
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from lintf.index.schema import Attribute, IndexSchema
from lintf.index.served import ServedIndex
from lintf.index.sharded import new_index
from lintf.index.shards import Shards
from lintf.ingest.file_log_writer import FileLogWriter
from lintf.serving.client import Client, tls_credentials
from tests.ingest import kafka_brokers
from tests.ingest.waiting import wait_until
from tests.serving import servers
from tests.serving.conftest import FLAGS, publish

DIM = 4
PARTITIONS = 3
MODEL = "films"
SCHEMA = IndexSchema(
    dim=DIM,
    attributes=(
        Attribute("year", "int", "number", "int16"),
        Attribute("genres", "tags", "bits", "uint8", 1, ("Drama", "War")),
    ),
)


@pytest.fixture(scope="module")
def empty(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A SavedModel without items, of as many shards as its parameter says."""
    path = tmp_path_factory.mktemp("films") / "v"
    sharding = Shards(getattr(request, "param", 1))
    index = new_index(SCHEMA, 1000, sharding, log_partitions=PARTITIONS)
    ServedIndex(index, k=10, max_update_rows=100).save(path)
    return path


class World:
    """A model directory, a log, and what the log says."""

    def __init__(self, folder: Path, empty: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        self.empty = empty
        publish(empty, self.models, 1)
        self.rng = random.Random(1)
        self.items: dict[int, dict[str, object]] = {}

    def changes(self, count: int) -> list[tuple[int, bytes, bytes | None]]:
        """Random (partition, key, value) records; some are poison."""
        out = []
        for _ in range(count):
            id = self.rng.randrange(200)
            value = None
            kind = self.rng.random()
            if kind < 0.1:
                self.items.pop(id, None)
            elif kind < 0.15:
                value = {"embedding": ["x"]}
            elif kind < 0.3:
                value = {"attributes": {"year": self.rng.randrange(2000)}}
                if id in self.items:
                    self.items[id] = {
                        "embedding": self.items[id]["embedding"],
                        "year": value["attributes"]["year"],
                        "genres": [],
                    }
            else:
                year = self.rng.randrange(2000)
                embedding = [self.rng.gauss(0, 1) for _ in range(DIM)]
                value = {
                    "embedding": embedding,
                    "attributes": {"year": year, "genres": ["War"]},
                }
                self.items[id] = {
                    "embedding": embedding,
                    "year": year,
                    "genres": ["War"],
                }
            data = None if value is None else json.dumps(value).encode()
            out.append((id % PARTITIONS, b"%d" % id, data))
        return out

    def append(self, writer: FileLogWriter, count: int) -> None:
        for partition, key, value in self.changes(count):
            writer.append(key, value, partition=partition)

    def serve_flags(self) -> list[str]:
        return [
            f"--model_name={MODEL}",
            f"--model_base_path={self.models}",
            *FLAGS,
        ]

    def ingest(
        self, source: str, target: str, *flags: str
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "lintf.cli", "ingest"),
                f"--source={source}",
                f"--server={target}",
                f"--model_name={MODEL}",
                f"--dead_letter_file={self.folder / 'dead.jsonl'}",
                "--max_latency_ms=20",
                "--batch_rows=100",
                *flags,
            ],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def check(self, client: Client) -> None:
        """The index equals the replay, id by id."""
        found = client.lookup(list(range(200)))
        assert found.embedding is not None
        for id in range(200):
            item = self.items.get(id)
            assert found.found[id] == (item is not None), id
            if item is None:
                continue
            assert np.array_equal(
                found.embedding[id],
                np.array(item["embedding"], np.float32),
            )
            assert found.attributes_of(id) == {
                "year": item["year"],
                "genres": item["genres"],
            }


@pytest.fixture
def world(tmp_path: Path, empty: Path) -> World:
    return World(tmp_path, empty)


def _ended(process: "subprocess.Popen[str]", status: int = 0) -> str:
    _, text = process.communicate(timeout=180)
    assert process.returncode == status, text
    return text


@pytest.fixture
def running(world: World) -> Iterator[servers.RunningServer]:
    with servers.running("embedded", *world.serve_flags()) as server:
        yield server


@pytest.mark.parametrize("empty", [1, 3], indirect=True)
def test_from_a_file_log(world: World, running: servers.RunningServer) -> None:
    source = f"file:{world.folder / 'changes'}"
    client = Client(running.target, MODEL, timeout_s=60)
    with FileLogWriter(world.folder / "changes", PARTITIONS) as writer:
        world.append(writer, 700)
        once = world.ingest(source, running.target, "--until_caught_up")
        assert "dead letter" in _ended(once)
        world.check(client)
        # While it runs, killed in between.
        for _ in range(2):
            process = world.ingest(source, running.target)
            world.append(writer, 300)
            wait_until(lambda: _at_end(client, writer), "it follows")
            process.send_signal(signal.SIGKILL)
            process.wait()
            world.append(writer, 100)
        process = world.ingest(source, running.target)
        wait_until(lambda: _at_end(client, writer), "it goes on")
        process.send_signal(signal.SIGTERM)
        _ended(process)
    world.check(client)
    letters = (world.folder / "dead.jsonl").read_text().splitlines()
    reasons = {json.loads(line)["reason"] for line in letters}
    assert reasons == {"`embedding` must be a list of numbers, got ['x']"}
    client.close()


def _at_end(client: Client, writer: FileLogWriter) -> bool:
    ends = [writer.next_offset(p) - 1 for p in range(PARTITIONS)]
    return list(client.stats().log_offsets) == ends


def test_a_restarted_server_and_a_new_version_are_caught_up(
    world: World,
) -> None:
    source = f"file:{world.folder / 'changes'}"
    config = model_server_config_pb2.ModelServerConfig()
    model = config.model_config_list.config.add(
        name=MODEL,
        base_path=str(world.models),
        model_platform="tensorflow",
    )
    model.model_version_policy.latest.num_versions = 2
    config_file = world.folder / "models.config"
    config_file.write_text(text_format.MessageToString(config))
    flags = [f"--model_config_file={config_file}", *FLAGS]
    with FileLogWriter(world.folder / "changes", PARTITIONS) as writer:
        world.append(writer, 300)
        server = servers.RunningServer("embedded", *flags)
        server.wait_until_serving()
        process = world.ingest(
            source,
            server.target,
            "--set_label=current",
            f"--model_config_file={config_file}",
        )
        current = Client(server.target, MODEL, label="current", timeout_s=60)
        wait_until(lambda: _answers(current) == 1, "the label")
        world.check(current)
        # A version that begins at the start of the log.
        publish(world.empty, world.models, 2)
        wait_until(lambda: _answers(current) == 2, "the new version")
        world.check(current)
        # What was applied in memory is gone after a kill.
        server.process.kill()
        server.process.wait()
        world.append(writer, 100)
        port = server.target.rsplit(":", 1)[1]
        again = subprocess.Popen(
            [
                *(sys.executable, "-m", "lintf.cli", "serve"),
                f"--port={port}",
                *flags,
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            newest = Client(server.target, MODEL, timeout_s=60)

            def caught_up() -> bool:
                return _answers(newest) == 2 and _at_end(newest, writer)

            wait_until(caught_up, "the restarted server")
            wait_until(lambda: _answers(current) == 2, "its label")
            world.check(current)
            newest.close()
        finally:
            process.send_signal(signal.SIGTERM)
            _ended(process)
            again.kill()
            again.wait()
            current.close()
            server.channel.close()


def _answers(client: Client) -> int:
    """The version that answers, 0 if none does."""
    import grpc

    try:
        return client.stats().version
    except grpc.RpcError:
        return 0


@pytest.mark.parametrize("kind", kafka_brokers.KINDS)
def test_from_kafka(
    world: World, running: servers.RunningServer, kind: str
) -> None:
    client = Client(running.target, MODEL, timeout_s=60)
    config = world.folder / "kafka.properties"
    with kafka_brokers.running(kind, "films", PARTITIONS) as brokers:
        config.write_text(f"# A test.\nbootstrap.servers={brokers}\n")
        process = world.ingest(
            "kafka:films", running.target, f"--kafka_config={config}"
        )
        counts = [0] * PARTITIONS
        for _ in range(3):
            changes = world.changes(200)
            kafka_brokers.produce(brokers, "films", changes)
            for partition, _, _ in changes:
                counts[partition] += 1
            wait_until(
                lambda: (
                    list(client.stats().log_offsets) == [c - 1 for c in counts]
                ),
                "it follows",
            )
            world.check(client)
        process.send_signal(signal.SIGTERM)
        _ended(process)
    client.close()


def test_tls_and_a_token(world: World) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    ca_file = world.folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    token_file = world.folder / "token"
    token_file.write_text("secret\n")
    key = certificate.private_key_pem.bytes().decode()
    chain = certificate.cert_chain_pems[0].bytes().decode()
    ssl_file = world.folder / "ssl.config"
    ssl_file.write_text(
        f"server_key: {json.dumps(key)}\nserver_cert: {json.dumps(chain)}\n"
    )
    with FileLogWriter(world.folder / "changes", PARTITIONS) as writer:
        world.append(writer, 50)
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "lintf.cli", "serve", "--port=0"),
                *world.serve_flags(),
                f"--ssl_config_file={ssl_file}",
                f"--update_token_file={token_file}",
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            assert server.stdout is not None
            port = server.stdout.readline().split(" (gRPC)")[0].split(":")[-1]
            target = f"localhost:{port}"
            source = f"file:{world.folder / 'changes'}"
            tls = f"--tls_ca_file={ca_file}"
            denied = world.ingest(source, target, tls, "--until_caught_up")
            assert "HALTED: UNAUTHENTICATED" in _ended(denied, 1)
            allowed = world.ingest(
                source,
                target,
                tls,
                f"--token_file={token_file}",
                "--until_caught_up",
            )
            _ended(allowed)
            credentials = tls_credentials(str(ca_file))
            with Client(
                target, MODEL, credentials=credentials, timeout_s=60
            ) as client:
                world.check(client)
        finally:
            server.kill()
            server.wait()
