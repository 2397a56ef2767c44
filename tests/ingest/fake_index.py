# SPDX-License-Identifier: Apache-2.0
"""A sequential model of a served index and of a log, with faults on demand.

`FakeIndex` answers the update signatures as the specification says, one row
after another in plain Python, and writes down what it applied. `FakeTarget` and
`FakeReplica` put it behind the ingester's interfaces; `fake_server` puts it
behind gRPC.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from lintf.index import inputs as attribute_inputs
from lintf.index.schema import Attribute, IndexSchema
from lintf.index.signatures import (
    DELETED,
    INSERTED,
    NOT_FOUND,
    REPLACED,
    UNCHANGED,
    UPDATE,
    UPDATE_ATTRIBUTES,
    UPDATE_BY_EMBEDDING,
    attribute_key,
)
from lintf.ingest.source import (
    Batch,
    LogTooShortError,
    LogTruncatedError,
    Record,
    Source,
    SourceUnavailableError,
)
from lintf.ingest.target import Fault, Replica, Target, TargetError
from lintf.serving.changes import Change, ChangeEncoder

DIM = 3
SCHEMA = IndexSchema(
    dim=DIM,
    attributes=(
        Attribute("year", "int", dtype="int16"),
        Attribute("genre", "category", "vocabulary", "uint8", 1, ("a", "b")),
    ),
)
# The tower of `features_to_embedding`.
FEATURES = ("x", "y")


@dataclasses.dataclass(frozen=True)
class Item:
    """What the index holds of an item, as Python values."""

    embedding: tuple[float, ...]
    year: int
    genre: str


class Refusal(Exception):
    """A request that fails, and how."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def signature_defs(
    schema: IndexSchema = SCHEMA, *, read_only: bool = False
) -> dict[str, Any]:
    """The SignatureDefs of an index with an item tower of two features."""

    def info(dtype: Any, *shape: int) -> Any:
        return meta_graph_pb2.TensorInfo(
            dtype=tf.as_dtype(dtype).as_datatype_enum,
            tensor_shape=tf.TensorShape([None, *shape]).as_proto(),
        )

    id_dtype = tf.string if schema.id_dtype == "string" else tf.int64
    log = {
        name: info(tf.int64)
        for name in ("log_partition", "log_previous_offset", "log_offset")
    }
    attributes = {
        attribute_key("year"): info(tf.int64),
        attribute_key("genre"): info(tf.string),
    }
    base = {"id": info(id_dtype), **attributes, **log}
    inputs: dict[str, Any] = {"index_stats": {"probe": info(tf.int32)}}
    if not read_only:
        inputs |= {
            UPDATE_ATTRIBUTES: base,
            UPDATE_BY_EMBEDDING: {
                **base,
                "delete": info(tf.bool),
                "embedding": info(tf.float32, schema.dim),
            },
            UPDATE: {
                **base,
                "delete": info(tf.bool),
                **{name: info(tf.float32) for name in FEATURES},
            },
        }
    return {
        name: meta_graph_pb2.SignatureDef(inputs=values)
        for name, values in inputs.items()
    }


def features_to_embedding(x: float, y: float) -> tuple[float, ...]:
    """The item tower."""
    return (float(np.float32(x)), float(np.float32(y)), 1.0)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class FakeIndex:
    """One version, in memory.

    Attributes:
      items: by id.
      offsets: of the log, by partition.
      applied: (partition, offset) of each row of the log, in order.
      poison_ids: ids that only this index knows to be poison.
      max_request_rows: larger requests are refused.
    """

    def __init__(
        self,
        partitions: int = 1,
        capacity: int = 10**9,
        *,
        read_only: bool = False,
    ) -> None:
        self.items: dict[int | str, Item] = {}
        self.offsets = [-1] * partitions
        self.capacity = capacity
        self.applied: list[tuple[int, int]] = []
        self.poison_ids: set[int | str] = set()
        self.max_request_rows = 10**9
        self.signatures = signature_defs(read_only=read_only)
        self._lock = threading.Lock()

    def copy(self, capacity: int | None = None) -> FakeIndex:
        """The same state, as a snapshot that is loaded has it."""
        other = FakeIndex(len(self.offsets), capacity or self.capacity)
        with self._lock:
            other.items = dict(self.items)
            other.offsets = list(self.offsets)
            other.applied = list(self.applied)
        other.poison_ids = set(self.poison_ids)
        other.max_request_rows = self.max_request_rows
        return other

    def predict(
        self, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> list[int]:
        """Applies a request, or raises Refusal and changes nothing."""
        with self._lock:
            return self._predict(signature, inputs)

    def _predict(
        self, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> list[int]:
        if signature not in self.signatures:
            raise Refusal(
                grpc.StatusCode.FAILED_PRECONDITION,
                f'Serving signature key "{signature}" not found.',
            )
        expected = self.signatures[signature].inputs
        assert set(inputs) == set(expected), (sorted(inputs), sorted(expected))
        for name, array in inputs.items():
            dtype = tf.as_dtype(expected[name].dtype).as_numpy_dtype
            assert array.dtype == dtype, (name, array.dtype)
            assert len(array) == len(inputs["id"])
        rows = len(inputs["id"])
        if rows > self.max_request_rows:
            raise Refusal(
                grpc.StatusCode.INVALID_ARGUMENT, f"{rows} rows are too many"
            )
        for row in range(rows):
            self._check(signature, inputs, row)
        offsets = list(self.offsets)
        for row in range(rows):
            self._check_chain(inputs, row, offsets)
        items = dict(self.items)
        statuses = [
            self._apply(signature, inputs, row, items) for row in range(rows)
        ]
        self.items = items
        self.offsets = offsets
        self.applied += [
            (int(p), int(o))
            for p, o in zip(
                inputs["log_partition"], inputs["log_offset"], strict=True
            )
            if o >= 0
        ]
        return statuses

    def _check(
        self, signature: str, inputs: Mapping[str, np.ndarray], row: int
    ) -> None:
        partition = int(inputs["log_partition"][row])
        offset = int(inputs["log_offset"][row])
        if offset >= 0:
            if not 0 <= partition < len(self.offsets):
                raise self._invalid(row, f"partition {partition}")
            if offset <= inputs["log_previous_offset"][row]:
                raise self._invalid(row, f"offset {offset}")
        id = self._id(inputs, row)
        if id is None:
            if offset < 0:
                raise self._invalid(row, "reserved id")
            return
        if signature != UPDATE_ATTRIBUTES and inputs["delete"][row]:
            return
        if id in self.poison_ids:
            raise self._invalid(row, f"poison id {id!r}")
        if signature == UPDATE_BY_EMBEDDING:
            if not np.isfinite(inputs["embedding"][row]).all():
                raise self._invalid(row, "embedding")

    def _check_chain(
        self, inputs: Mapping[str, np.ndarray], row: int, offsets: list[int]
    ) -> None:
        partition = int(inputs["log_partition"][row])
        offset = int(inputs["log_offset"][row])
        if offset < 0:
            return
        if inputs["log_previous_offset"][row] != offsets[partition]:
            raise Refusal(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"partition {partition}: the stored offset is "
                f"{self.offsets[partition]}",
            )
        offsets[partition] = offset

    def _apply(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        row: int,
        items: dict[int | str, Item],
    ) -> int:
        id = self._id(inputs, row)
        if id is None:
            return UNCHANGED
        known = items.get(id)
        if signature != UPDATE_ATTRIBUTES and inputs["delete"][row]:
            items.pop(id, None)
            return DELETED if known else UNCHANGED
        if signature == UPDATE_ATTRIBUTES:
            if known is None:
                return NOT_FOUND
            embedding = known.embedding
        elif signature == UPDATE:
            embedding = features_to_embedding(
                *(inputs[name][row] for name in FEATURES)
            )
        else:
            embedding = tuple(float(v) for v in inputs["embedding"][row])
        if known is None and len(items) >= self.capacity:
            raise Refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the index is full: {self.capacity} rows",
            )
        items[id] = Item(
            embedding,
            int(inputs[attribute_key("year")][row]),
            _text(inputs[attribute_key("genre")][row]),
        )
        return REPLACED if known else INSERTED

    def _id(self, inputs: Mapping[str, np.ndarray], row: int) -> Any:
        value = inputs["id"][row]
        if inputs["id"].dtype == object:
            return _text(value) or None
        return None if value == -1 else int(value)

    def _invalid(self, row: int, what: str) -> Refusal:
        return Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"row {row}: {what}")


# What a fault does to one call: it gets the call, which applies the request.
FaultOfCall = Callable[[Callable[[], list[int]]], list[int]]


def lost_answer(call: Callable[[], list[int]]) -> list[int]:
    """Applied, but nobody hears of it."""
    call()
    raise Refusal(grpc.StatusCode.UNAVAILABLE, "connection lost")


def not_sent(call: Callable[[], list[int]]) -> list[int]:
    """The server is away."""
    raise Refusal(grpc.StatusCode.UNAVAILABLE, "connection refused")


def refused(code: grpc.StatusCode, message: str = "refused") -> FaultOfCall:
    """Any other failure without an effect."""

    def fault(call: Callable[[], list[int]]) -> list[int]:
        raise Refusal(code, message)

    return fault


class LateAnswer:
    """The caller's deadline passes, and the server applies it later."""

    def __init__(self) -> None:
        self._call: Callable[[], list[int]] | None = None

    def __call__(self, call: Callable[[], list[int]]) -> list[int]:
        self._call = call
        raise Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline exceeded")

    def arrive(self) -> None:
        """Lets the request reach the index now."""
        if self._call is not None:
            try:
                self._call()
            except Refusal:
                pass  # Something else was quicker.
            self._call = None


def to_target_error(refusal: Refusal) -> TargetError:
    """As the gRPC replica maps it."""
    from lintf.ingest import replica

    class Error(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return refusal.code

        def details(self) -> str:
            return refusal.message

    return replica.to_target_error(Error())


class FakeReplica(Replica):
    """A server with versions.

    Attributes:
      indexes: the versions that are served.
      faults: what happens to the next calls of an update, first come first.
      stats_faults: the same for `offsets`.
      before_send: called before each update is applied.
      labels: set so far, by label.
      calls: the sizes of the updates that were tried.
    """

    def __init__(self, *indexes: FakeIndex, address: str = "fake") -> None:
        self.address = address
        self.indexes = dict(enumerate(indexes, 1))
        self.faults: list[FaultOfCall] = []
        self.stats_faults: list[FaultOfCall] = []
        self.status_faults: list[FaultOfCall] = []
        self.before_send: Callable[[], None] = lambda: None
        self.labels: dict[str, int] = {}
        self.label_faults: list[FaultOfCall] = []
        self.calls: list[int] = []
        self.closed = False

    def versions(self) -> Sequence[int]:
        _inject(self.status_faults, lambda: [])
        return sorted(self.indexes)

    def target(self, version: int) -> Target:
        return FakeTarget(self, version)

    def set_label(self, label: str, version: int) -> None:
        def call() -> list[int]:
            self.labels[label] = version
            return []

        _inject(self.label_faults, call)

    def close(self) -> None:
        self.closed = True

    def index(self, version: int) -> FakeIndex:
        if version not in self.indexes:
            raise Refusal(
                grpc.StatusCode.NOT_FOUND,
                f"Servable not found for request: Specific(fake, {version})",
            )
        return self.indexes[version]


def _inject(
    faults: list[FaultOfCall], call: Callable[[], list[int]]
) -> list[int]:
    try:
        if faults:
            return faults.pop(0)(call)
        return call()
    except Refusal as refusal:
        raise to_target_error(refusal) from refusal


class FakeTarget(Target):
    """A version of a `FakeReplica`."""

    def __init__(self, server: FakeReplica, version: int) -> None:
        self.replica = server.address
        self.version = version
        self._server = server
        self._encoder: ChangeEncoder | None = None

    def encoder(self) -> ChangeEncoder:
        if self._encoder is None:
            _inject([], lambda: [] if self._index() else [])
            try:
                self._encoder = ChangeEncoder(SCHEMA, self._index().signatures)
            except ValueError as error:
                raise TargetError(Fault.REFUSED, str(error)) from error
        return self._encoder

    def offsets(self) -> Sequence[int]:
        return _inject(
            self._server.stats_faults, lambda: list(self._index().offsets)
        )

    def send(self, signature: str, changes: Sequence[Change]) -> Sequence[int]:
        try:
            inputs = self.encoder().inputs(signature, changes)
        except ValueError as error:
            raise TargetError(Fault.POISON, str(error)) from error
        self._server.calls.append(len(changes))
        self._server.before_send()
        return _inject(
            self._server.faults,
            lambda: self._index().predict(signature, inputs),
        )

    def _index(self) -> FakeIndex:
        return self._server.index(self.version)


class MemoryLog(Source):
    """A log in memory, with gaps where a test wants them.

    Attributes:
      available: whether it can be reached.
    """

    def __init__(self, partitions: int = 1) -> None:
        self.records: list[list[Record]] = [[] for _ in range(partitions)]
        self.ends = [0] * partitions
        self.begins = [0] * partitions
        self.available = True

    def append(
        self,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int = 0,
        timestamp_ms: int = 0,
    ) -> Record:
        """Appends a record."""
        offset = self.ends[partition]
        record = Record(partition, offset, key, value, timestamp_ms)
        self.records[partition].append(record)
        self.ends[partition] += 1
        return record

    def leave_gap(self, partition: int = 0, size: int = 1) -> None:
        """Uses offsets up that no record has."""
        self.ends[partition] += size

    def truncate(self, partition: int, begin: int) -> None:
        """Deletes the records before an offset."""
        self.begins[partition] = begin
        self.records[partition] = [
            r for r in self.records[partition] if r.offset >= begin
        ]

    def partitions(self) -> Sequence[int]:
        self._reach()
        return range(len(self.records))

    def begin(self, partition: int) -> int:
        self._reach()
        return self.begins[partition]

    def end(self, partition: int) -> int:
        self._reach()
        return self.ends[partition]

    def read(
        self, partition: int, after_offset: int, limit: int, timeout_s: float
    ) -> Batch:
        self._reach()
        if after_offset + 1 < self.begins[partition]:
            raise LogTruncatedError(
                partition, after_offset, self.begins[partition]
            )
        if after_offset >= self.ends[partition]:
            raise LogTooShortError(
                partition, after_offset, self.ends[partition]
            )
        found = [r for r in self.records[partition] if r.offset > after_offset]
        if len(found) > limit:
            return Batch(found[:limit], found[limit - 1].offset + 1)
        return Batch(found, self.ends[partition])

    def close(self) -> None:
        pass

    def _reach(self) -> None:
        if not self.available:
            raise SourceUnavailableError("the log is away")


def replay(
    log: MemoryLog,
    poison_ids: set[int | str] = frozenset(),  # type: ignore[assignment]
    start: FakeIndex | None = None,
) -> dict[int | str, Item]:
    """The items after the whole log, by brute force."""
    import json

    items = dict(start.items) if start is not None else {}
    offsets = start.offsets if start is not None else [-1] * len(log.records)
    missing_year = int(
        attribute_inputs.input_values(SCHEMA.attributes[0], [None])[0]
    )
    for partition, records in enumerate(log.records):
        for record in records:
            if record.offset <= offsets[partition]:
                continue
            try:
                id = int(record.key or b"")
                fields = json.loads(record.value or b"null")
            except ValueError:
                continue
            if fields is None:
                items.pop(id, None)
                continue
            if id in poison_ids or fields.get("poison"):
                continue
            attributes = fields.get("attributes") or {}
            if fields.get("embedding") is not None:
                embedding = tuple(
                    float(np.float32(v)) for v in fields["embedding"]
                )
            elif fields.get("features") is not None:
                embedding = features_to_embedding(**fields["features"])
            elif id in items:
                embedding = items[id].embedding
            else:
                continue
            year = attributes.get("year")
            genre = attributes.get("genre") or ""
            items[id] = Item(
                embedding, missing_year if year is None else year, genre
            )
    return items
