# SPDX-License-Identifier: Apache-2.0
"""A change log in a directory: the embedded default, for one machine.

The directory holds `log.json` and one directory for each partition, with the
segments of `segment.py`. One process writes (`file_log_writer`), any number of
processes read. What was written is never changed, but for a torn tail: bytes at
the very end that are no whole record, as a crash leaves them. A reader stops
before it, and reads on once it is whole; a writer cuts it off.
"""

from __future__ import annotations

import collections
import json
import os
import threading
import time
from collections.abc import Callable, Sequence

from lintf.ingest import segment
from lintf.ingest.source import (
    Batch,
    CorruptLogError,
    LogTooShortError,
    LogTruncatedError,
    Record,
    Source,
    SourceError,
)

META_FILE = "log.json"
FORMAT = 1

_CHUNK_BYTES = 1 << 20
# Places that a reader may come back to: more than lanes of any ingester.
_MAX_PLACES = 1024
_POLL_S = 0.01


def partition_dir(path: str | os.PathLike[str], partition: int) -> str:
    """The directory of a partition."""
    return os.path.join(path, f"partition-{partition}")


def read_meta(path: str | os.PathLike[str]) -> int:
    """The number of partitions of the log in a directory.

    Raises:
      SourceError: there is no log, or one of another format.
    """
    meta_path = os.path.join(path, META_FILE)
    try:
        with open(meta_path, encoding="utf-8") as file:
            meta = json.load(file)
        form, partitions = meta["format"], int(meta["partitions"])
    except OSError as error:
        raise SourceError(
            f"there is no change log at {os.fspath(path)}: {meta_path} can't "
            f"be read ({error.strerror}); `lintf log append` makes one"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptLogError(f"{meta_path} is damaged: {error!r}") from error
    if form != FORMAT:
        raise SourceError(
            f"{meta_path} must name format {FORMAT}, got {form!r}; read the "
            "log with the version of lintf that wrote it"
        )
    return partitions


def first_offsets(directory: str) -> list[int]:
    """The first offsets of a partition's segments, ascending."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    stems = [n.removesuffix(segment.SUFFIX) for n in names]
    return sorted(
        int(stem)
        for stem, name in zip(stems, names, strict=True)
        if stem != name and stem.isascii() and stem.isdigit()
    )


def torn_or_raise(
    path: str, data: bytes, start: int, partition: int, offset: int
) -> None:
    """Tells bytes that a crash has torn from damage before other records.

    Args:
      path: the file.
      data: all of its bytes from `start` on.
      start: where no whole record is.
      partition: the file's.
      offset: the one that the record there would have.

    Raises:
      CorruptLogError: a whole record follows.
    """
    behind = segment.find(data, 0, partition, offset)
    if behind is not None:
        raise CorruptLogError(
            f"{path}, byte {start}: here must be the record of offset "
            f"{offset} of partition {partition}, and is none, but one follows "
            f"at byte {start + behind}; restore the file from a copy"
        )


class FileLog(Source):
    """Reads a log that this or another process writes."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Opens a log.

        Args:
          path: the log's directory.
          clock: seconds, rising.
          sleep: waits some seconds; tests give another.

        Raises:
          SourceError: there is none.
        """
        self._path = os.fspath(path)
        self._partitions = read_meta(path)
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        # (partition, offset) -> (segment, byte): where to read on.
        self._places: collections.OrderedDict[
            tuple[int, int], tuple[int, int]
        ] = collections.OrderedDict()
        # partition -> (segment, byte, offset) of the end when last looked at.
        self._ends: dict[int, tuple[int, int, int]] = {}

    def partitions(self) -> Sequence[int]:
        return range(self._partitions)

    def begin(self, partition: int) -> int:
        return self._segments(partition)[0]

    def end(self, partition: int) -> int:
        last = self._segments(partition)[-1]
        with self._lock:
            known = self._ends.get(partition)
        if known is None or known[0] != last:
            known = (last, segment.HEADER_BYTES, last)
        known = self._count(partition, *known)
        with self._lock:
            self._ends[partition] = known
        return known[2]

    def read(
        self,
        partition: int,
        after_offset: int,
        limit: int,
        timeout_s: float,
    ) -> Batch:
        deadline = self._clock() + timeout_s
        records: list[Record] = []
        offset = after_offset + 1
        while True:
            found = self._read_now(partition, offset, limit - len(records))
            records += found
            offset += len(found)
            left = deadline - self._clock()
            if len(records) >= limit or left <= 0:
                return Batch(records, offset)
            if not found:
                self._sleep(min(left, _POLL_S))

    def close(self) -> None:
        pass

    def _segments(self, partition: int) -> list[int]:
        if not 0 <= partition < self._partitions:
            raise SourceError(
                f"the log {self._path} has the partitions 0 to "
                f"{self._partitions - 1}, got {partition}"
            )
        directory = partition_dir(self._path, partition)
        found = first_offsets(directory)
        if not found:
            raise CorruptLogError(f"{directory} must hold a segment of the log")
        return found

    def _open(self, partition: int, first: int) -> tuple[int, str]:
        path = os.path.join(
            partition_dir(self._path, partition), segment.file_name(first)
        )
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC), path

    def _read_now(
        self, partition: int, offset: int, limit: int
    ) -> list[Record]:
        """The records there are from an offset on, at most `limit`."""
        records: list[Record] = []
        while len(records) < limit:
            # Listed before its bytes are read: a segment with one after it is
            # complete, so anything odd in it is damage.
            segments = self._segments(partition)
            wanted = offset + len(records)
            firsts = [first for first in segments if first <= wanted]
            if not firsts:
                raise LogTruncatedError(partition, wanted - 1, segments[0])
            first = firsts[-1]
            after = segments[len(firsts) :]
            try:
                found = self._read_segment(
                    partition,
                    first,
                    after[0] if after else None,
                    wanted,
                    limit - len(records),
                )
            except FileNotFoundError:
                continue  # Deleted since it was listed.
            records += found
            if not found and not after:
                break
        return records

    def _read_segment(
        self,
        partition: int,
        first: int,
        following: int | None,
        wanted: int,
        limit: int,
    ) -> list[Record]:
        """The records of a segment from `wanted` on, at most `limit`.

        Args:
          partition: the partition.
          first: the segment.
          following: the next one; None if it is the last.
          wanted: the offset to start at.
          limit: most records.
        """
        with self._lock:
            place = self._places.get((partition, wanted))
        known = place is not None and place[0] == first
        at = place[1] if place is not None and known else segment.HEADER_BYTES
        offset = wanted if known else first
        records: list[Record] = []
        file, path = self._open(partition, first)
        try:
            if not known:
                head = os.pread(file, segment.HEADER_BYTES, 0)
                segment.check_header(path, head, partition, first)
            size = _CHUNK_BYTES
            while len(records) < limit:
                data = os.pread(file, size, at)
                position = 0
                while len(records) < limit:
                    try:
                        record, after = segment.decode(
                            data, position, partition
                        )
                    except segment.NotWhole:
                        break
                    if record.offset != offset:
                        raise CorruptLogError(
                            f"{path}, byte {at + position}: the record here "
                            f"must have offset {offset}, got {record.offset}"
                        )
                    if offset >= wanted:
                        records.append(record)
                    offset += 1
                    position = after
                at += position
                if len(records) >= limit:
                    break
                if position:
                    size = _CHUNK_BYTES
                    continue
                # Nothing whole at the start of what was read.
                needed = segment.size_at(data, 0)
                if len(data) == size and needed > size:
                    size = needed
                    continue
                if not data:
                    break
                if following is None:
                    rest = _read_all(file, at)
                    try:
                        segment.decode(rest, 0, partition)
                        continue  # It has been completed.
                    except segment.NotWhole:
                        torn_or_raise(path, rest, at, partition, offset)
                    break
                raise CorruptLogError(
                    f"{path}, byte {at}: here must be the record of offset "
                    f"{offset} of partition {partition}, and is none; restore "
                    "the file from a copy"
                )
        finally:
            os.close(file)
        self._check_reached(partition, following, path, at, offset, wanted)
        if offset >= wanted:
            with self._lock:
                self._places[partition, offset] = (first, at)
                self._places.move_to_end((partition, offset))
                while len(self._places) > _MAX_PLACES:
                    self._places.popitem(last=False)
        return records

    def _check_reached(
        self,
        partition: int,
        following: int | None,
        path: str,
        at: int,
        offset: int,
        wanted: int,
    ) -> None:
        if following is not None:
            if offset > following or (offset < following and offset <= wanted):
                raise CorruptLogError(
                    f"{path}, byte {at}: the segment ends before offset "
                    f"{offset}, but the next one begins at {following}; "
                    "restore the missing records from a copy"
                )
        elif offset < wanted:
            raise LogTooShortError(partition, wanted - 1, offset)

    def _count(
        self, partition: int, first: int, at: int, offset: int
    ) -> tuple[int, int, int]:
        """Goes on to the end of a segment by the lengths of its records."""
        try:
            file, _ = self._open(partition, first)
        except FileNotFoundError:
            return first, at, offset
        try:
            size = _CHUNK_BYTES
            while True:
                data = os.pread(file, size, at)
                position, last = 0, -1
                while True:
                    length = segment.size_at(data, position)
                    if not length or position + length > len(data):
                        break
                    last = position
                    position += length
                    offset += 1
                if last < 0:
                    if len(data) == size and length > size:
                        size = length
                        continue
                    return first, at, offset
                try:
                    # The lengths are not checked: the last record is.
                    segment.decode(data, last, partition)
                except segment.NotWhole:
                    return first, at + last, offset - 1
                at += position
                size = _CHUNK_BYTES
        finally:
            os.close(file)


def _read_all(file: int, at: int) -> bytes:
    """All bytes of a file from a place on."""
    parts = []
    while part := os.pread(file, _CHUNK_BYTES, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)
