# SPDX-License-Identifier: Apache-2.0
"""Applies a change log to an index that nobody serves.

The very operations of the served signatures do it, row for row and in the
log's order, so the index becomes what a server's would.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from export.errors import JobError
from lintf.index.sharded import AnyIndex, ShardedIndex
from lintf.index.updates import Updates
from lintf.ingest.records import Decoder, skip, to_change
from lintf.ingest.source import Record, Source, SourceUnavailableError
from lintf.serving.changes import Change, ChangeEncoder

_BATCH_ROWS = 1000
# A read waits so long for the rest of a batch, which may not be there: offsets
# have gaps.
_READ_S = 0.2
# How long nothing may come though the log has more.
_MAX_SILENCE_S = 60.0

# Told of a record that no index can apply, and why.
OnPoison = Callable[[Record, str], None]
# Told the partition and how many records of it were read.
OnProgress = Callable[[int, int], None]


@dataclasses.dataclass
class Tally:
    """What became of the records.

    Attributes:
        records: Read.
        poison: Of those, skipped.
    """

    records: int = 0
    poison: int = 0


class Replay:
    """Applies records of one log to one index."""

    def __init__(
        self,
        index: AnyIndex,
        item_tower: Any,
        decoder: Decoder,
        on_poison: OnPoison,
        on_progress: OnProgress = lambda partition, count: None,
    ) -> None:
        """Prepares the signatures.

        Args:
            index: To be changed.
            item_tower: As `ServedIndex` takes it, or None.
            decoder: Of the records' values.
            on_poison: Told of each record before it is skipped.
            on_progress: Told how far it has come.
        """
        self.tally = Tally()
        self._index = index
        self._decoder = decoder
        self._on_poison = on_poison
        self._on_progress = on_progress
        # Kept: what they capture must outlive them.
        self._updates = Updates(index, item_tower, _BATCH_ROWS)
        self._functions = self._updates.signatures()
        self._encoder = ChangeEncoder(
            index.schema,
            {n: _signature_def(f) for n, f in self._functions.items()},
        )

    def run(self, source: Source, until: Sequence[int]) -> Tally:
        """Applies what the index lacks.

        Args:
            source: The log.
            until: The last offset to apply of each partition.

        Raises:
            JobError: The index is full.
            SourceError: The log can't be read.
        """
        for partition, last in enumerate(until):
            stored = int(self._index.log_offsets.read_value()[partition])
            self._run_partition(source, partition, stored, last)
        return self.tally

    def _run_partition(
        self, source: Source, partition: int, stored: int, last: int
    ) -> None:
        previous, read_to, count = stored, stored, 0
        heard_at = time.monotonic()
        while read_to < last:
            limit = min(_BATCH_ROWS, last - read_to)
            try:
                batch = source.read(partition, read_to, limit, _READ_S)
            except SourceUnavailableError:
                if time.monotonic() > heard_at + _MAX_SILENCE_S:
                    raise
                continue
            records = [r for r in batch.records if r.offset <= last]
            if batch.next_offset > read_to + 1:
                heard_at = time.monotonic()
            elif time.monotonic() > heard_at + _MAX_SILENCE_S:
                raise JobError(
                    f"partition {partition}: the log must go up to offset "
                    f"{last}, but nothing came after {read_to} in "
                    f"{_MAX_SILENCE_S:.0f} s"
                )
            self._apply(self._changes(records, previous), _by_offset(records))
            if records:
                previous = records[-1].offset
            read_to = min(batch.next_offset - 1, last)
            count += len(records)
            self.tally.records += len(records)
            self._on_progress(partition, count)

    def _changes(
        self, records: Sequence[Record], previous: int
    ) -> list[Change]:
        changes = []
        for record in records:
            try:
                change = to_change(
                    record, previous, self._decoder, self._encoder.id_from_text
                )
                self._encoder.check(change)
            except ValueError as error:
                change = self._skip(record, previous, str(error))
            changes.append(change)
            previous = record.offset
        return changes

    def _apply(
        self, changes: Sequence[Change], records: Mapping[int, Record]
    ) -> None:
        for signature, run in self._encoder.runs(changes, _BATCH_ROWS):
            self._send(signature, run, records)

    def _send(
        self,
        signature: str,
        changes: Sequence[Change],
        records: Mapping[int, Record],
    ) -> None:
        inputs = self._encoder.inputs(signature, changes)
        try:
            self._functions[signature](
                **{name: tf.constant(value) for name, value in inputs.items()}
            )
        except tf.errors.ResourceExhaustedError as error:
            raise JobError(
                f"the index is full at offset {changes[0].offset} of partition "
                f"{changes[0].partition}: {self._full()}; give it more with "
                "--capacity"
            ) from error
        except tf.errors.InvalidArgumentError as error:
            if len(changes) > 1:
                # Nothing has changed: look for the row in both halves.
                middle = len(changes) // 2
                self._send(signature, changes[:middle], records)
                self._send(signature, changes[middle:], records)
                return
            (change,) = changes
            if change.id is None:
                raise  # Not a record's fault.
            record = records[change.offset]
            skipped = self._skip(record, change.previous_offset, error.message)
            self._apply([skipped], records)

    def _full(self) -> str:
        if isinstance(self._index, ShardedIndex):
            return "it, or one of its shards, has no row left"
        return f"all {self._index.capacity} rows hold items"

    def _skip(self, record: Record, previous: int, reason: str) -> Change:
        self._on_poison(record, reason)
        self.tally.poison += 1
        return skip(record, previous)


def _by_offset(records: Sequence[Record]) -> dict[int, Record]:
    return {record.offset: record for record in records}


def _signature_def(function: Any) -> Any:
    """The inputs of a concrete function, as a SavedModel states them."""
    signature = meta_graph_pb2.SignatureDef()
    for name, spec in function.structured_input_signature[1].items():
        info = signature.inputs[name]
        info.dtype = spec.dtype.as_datatype_enum
        info.tensor_shape.CopyFrom(spec.shape.as_proto())
    return signature
