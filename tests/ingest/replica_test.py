# SPDX-License-Identifier: Apache-2.0
"""The gRPC replica against a fake server on a real port."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from lintf.index.signatures import INSERTED, NOT_FOUND, UPDATE_ATTRIBUTES
from lintf.ingest.dead_letters import DeadLetters
from lintf.ingest.lane import Lane, LaneOptions, State
from lintf.ingest.records import JsonDecoder
from lintf.ingest.replica import GrpcReplica, to_target_error
from lintf.ingest.target import Fault, TargetError
from lintf.serving.changes import Change
from tests.ingest import fake_index, fake_server
from tests.ingest.fake_index import FakeIndex, Item, MemoryLog, replay
from tests.ingest.fake_server import MODEL, FakeServer

Code = grpc.StatusCode


@pytest.fixture
def fake() -> FakeServer:
    """A server of one version with two partitions."""
    return FakeServer(FakeIndex(2))


@pytest.fixture
def address(fake: FakeServer) -> Iterator[str]:
    with fake_server.running(fake) as found:
        yield found


@pytest.fixture
def replica(address: str) -> Iterator[GrpcReplica]:
    made = GrpcReplica(address, MODEL, timeout_s=30.0)
    yield made
    made.close()


def _change(id: int | None, offset: int, **fields: object) -> Change:
    return Change(
        id,
        partition=1,
        previous_offset=offset - 1,
        offset=offset,
        **fields,  # type: ignore[arg-type]
    )


def _faults(call: object, *arguments: object) -> tuple[Fault, str]:
    with pytest.raises(TargetError) as raised:
        call(*arguments)  # type: ignore[operator]
    return raised.value.fault, raised.value.message


def test_versions(fake: FakeServer, replica: GrpcReplica) -> None:
    fake.indexes[12] = FakeIndex()
    fake.loading = [13]
    assert replica.versions() == [1, 12]


def test_sends_changes_of_every_kind(
    fake: FakeServer, replica: GrpcReplica
) -> None:
    target = replica.target(1)
    assert target.offsets() == [-1, -1]
    changes = [
        _change(1, 0, embedding=[1.0, 2.0, 3.0], attributes={"genre": "a"}),
        _change(None, 1),
        _change(1, 2, delete=True),
        _change(2, 3, features={"x": 1.0, "y": 2.0}),
        _change(3, 4, attributes={"year": 1}),
    ]
    statuses = []
    for signature, run in target.encoder().runs(changes, 100):
        statuses += target.send(signature, run)
    assert statuses == [INSERTED, 0, 3, INSERTED, NOT_FOUND]
    assert target.offsets() == [-1, 4]
    assert fake.indexes[1].items == {2: Item((1.0, 2.0, 1.0), -(2**63), "")}
    # The schema is asked for once, as it may be large.
    assert fake.filters == {("schema",), ("log_offsets",)}


def test_what_to_do_after_errors(
    fake: FakeServer, replica: GrpcReplica
) -> None:
    target = replica.target(1)
    send = target.send
    first = [_change(1, 0, attributes={})]
    send(UPDATE_ATTRIBUTES, first)
    assert _faults(send, UPDATE_ATTRIBUTES, first) == (
        Fault.CONFLICT,
        "FAILED_PRECONDITION: partition 1: the stored offset is 0",
    )
    bad = [_change(2, 1, attributes={"year": "x"})]
    fault, message = _faults(send, UPDATE_ATTRIBUTES, bad)
    assert fault is Fault.POISON and "'x'" in message
    fault, _ = _faults(replica.target(5).offsets)
    assert fault is Fault.GONE
    fault, _ = _faults(replica.target(5).encoder)
    assert fault is Fault.GONE
    assert _faults(GrpcReplica(replica.address, "other").versions) == (
        Fault.GONE,
        "NOT_FOUND: no such model",
    )
    fault, _ = _faults(GrpcReplica("127.0.0.1:1", MODEL).versions)
    assert fault is Fault.RETRY


@pytest.mark.parametrize(
    ("code", "details", "fault"),
    [
        (Code.INVALID_ARGUMENT, "row 0", Fault.POISON),
        (Code.FAILED_PRECONDITION, "the stored offset is 3", Fault.CONFLICT),
        (
            Code.FAILED_PRECONDITION,
            'Serving signature key "update" not found.',
            Fault.REFUSED,
        ),
        (Code.RESOURCE_EXHAUSTED, "the index is full", Fault.FULL),
        (
            Code.RESOURCE_EXHAUSTED,
            "Server Threadpool Exhausted",
            Fault.RETRY,
        ),
        (Code.NOT_FOUND, "", Fault.GONE),
        (Code.UNAUTHENTICATED, "", Fault.REFUSED),
        (Code.PERMISSION_DENIED, "", Fault.REFUSED),
        (Code.UNIMPLEMENTED, "", Fault.REFUSED),
        (Code.UNAVAILABLE, "", Fault.RETRY),
        (Code.DEADLINE_EXCEEDED, "", Fault.RETRY),
        (Code.UNKNOWN, "", Fault.RETRY),
        (Code.INTERNAL, "", Fault.RETRY),
    ],
)
def test_errors_by_code(code: Code, details: str, fault: Fault) -> None:
    class Error(grpc.RpcError):
        def code(self) -> Code:
            return code

        def details(self) -> str:
            return details

    error = to_target_error(Error())
    assert error.fault is fault
    assert error.message == f"{code.name}: {details}"


def test_names_of_nodes_are_left_out() -> None:
    class Error(grpc.RpcError):
        def code(self) -> Code:
            return Code.INVALID_ARGUMENT

        def details(self) -> str:
            return "row 3: no good\n\t [[{{node Lintf>Update}}]]"

    assert (
        to_target_error(Error()).message == "INVALID_ARGUMENT: row 3: no good"
    )


def test_an_export_without_updates(address: str, fake: FakeServer) -> None:
    fake.indexes[2] = FakeIndex(read_only=True)
    replica = GrpcReplica(address, MODEL)
    fault, message = _faults(replica.target(2).encoder)
    assert fault is Fault.REFUSED and "update.enabled" in message


def test_a_model_that_is_no_index(address: str, fake: FakeServer) -> None:
    del fake.indexes[1].signatures["index_stats"]
    fault, message = _faults(GrpcReplica(address, MODEL).target(1).encoder)
    assert fault is Fault.REFUSED and "is it a lintf index?" in message


def test_the_token(address: str, fake: FakeServer) -> None:
    fake.token = "secret"
    change = [_change(1, 0, attributes={})]
    for token, allowed in [(None, False), ("other", False), ("secret", True)]:
        target = GrpcReplica(address, MODEL, token=token).target(1)
        if allowed:
            assert list(target.send(UPDATE_ATTRIBUTES, change)) == [NOT_FOUND]
        else:
            fault, _ = _faults(target.send, UPDATE_ATTRIBUTES, change)
            assert fault is Fault.REFUSED


def test_labels(address: str, fake: FakeServer) -> None:
    text = """
      model_config_list {
        config { name: "other" base_path: "/m/other" }
        config {
          name: "films" base_path: "/m/films"
          version_labels { key: "old" value: 1 }
          version_labels { key: "current" value: 1 }
        }
      }
    """

    def read() -> object:
        return text_format.Parse(
            text, model_server_config_pb2.ModelServerConfig()
        )

    replica = GrpcReplica(address, MODEL, reload_config=read)
    replica.set_label("current", 7)
    other, films = fake.configs[0].model_config_list.config
    assert (other.name, films.base_path) == ("other", "/m/films")
    assert dict(films.version_labels) == {"old": 1, "current": 7}
    no_films = GrpcReplica(address, "nope", reload_config=read)
    fault, message = _faults(no_films.set_label, "current", 7)
    assert fault is Fault.REFUSED and "got other, films" in message


def test_the_protocol_over_a_connection(
    tmp_path: Path, address: str, fake: FakeServer
) -> None:
    """Answers are lost and calls fail, by turns, on a real connection."""
    rng = random.Random(8)
    log = MemoryLog(2)
    for _ in range(600):
        fields: object = {"embedding": [rng.random()] * 3}
        if rng.random() < 0.1:
            fields = rng.choice([None, {"poison": 1}, {"attributes": {}}])
        log.append(str(rng.randrange(90)).encode(), json.dumps(fields).encode())
    index = fake.indexes[1]
    index.poison_ids = {5, 60}
    replica = GrpcReplica(address, MODEL)
    letters = DeadLetters(tmp_path / "dead.jsonl")
    for step in range(2000):
        if step % 7 == 0:
            # The ingester is killed, and starts again.
            lane = Lane(
                log,
                0,
                replica.target(1),
                JsonDecoder(),
                letters,
                LaneOptions(17, 0.0),
            )
        if rng.random() < 0.3:
            fake.faults.append(
                rng.choice(
                    [
                        fake_index.lost_answer,
                        fake_index.not_sent,
                        fake_index.refused(Code.INTERNAL),
                    ]
                )
            )
        lane.step()
        if lane.state is State.RUNNING and lane.lag_records == 0:
            break
    assert lane.lag_records == 0
    assert index.items == replay(log, index.poison_ids)
    assert index.applied == [(0, offset) for offset in range(600)]
    replica.close()
