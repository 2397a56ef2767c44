# SPDX-License-Identifier: Apache-2.0
"""The one writer of a file log."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable

from lintf.ingest import file_log, segment
from lintf.ingest.source import CorruptLogError, Record, SourceError

_LOGGER = logging.getLogger("lintf.ingest")
_LOCK_FILE = "writer.lock"
_MAX_PARTITIONS = 4096


class LogLockedError(SourceError):
    """Another process writes the log."""


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key: one key stays in one partition, in order."""
    return zlib.crc32(key) % partitions


@dataclasses.dataclass(slots=True)
class _Tail:
    """The open end of a partition."""

    file: int
    path: str
    size: int
    next_offset: int
    dirty: bool = False


class FileLogWriter:
    """Appends to a log, making it if there is none. A context manager.

    At most one writer has a log open. Thread-safe.

    Example:
      with FileLogWriter("changes", partitions=4) as log:
          log.append(b"42", b'{"embedding": [0.6, 0.8]}')
          log.append(b"17", None)  # Deletes item 17.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        partitions: int | None = None,
        *,
        segment_bytes: int = 64 << 20,
        fsync_interval_s: float | None = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens a log, and cuts a torn tail off.

        Args:
          path: its directory.
          partitions: how many a new log gets, 1 if None; of one that is there,
            how many it must have.
          segment_bytes: a segment that has grown to this is closed.
          fsync_interval_s: after how many seconds appended records are flushed
            to the disk, when the next append comes: 0 flushes each append
            before it returns; None leaves it to the operating system, so that
            a crash of the machine (not of the process) may lose the newest.
          clock: seconds, rising.

        Raises:
          LogLockedError: another writer has it open.
          CorruptLogError: a record in the middle is damaged.
          ValueError: the log has another number of partitions.
        """
        self._path = os.fspath(path)
        self._segment_bytes = segment_bytes
        self._fsync_interval_s = fsync_interval_s
        self._clock = clock
        self._flushed_at = clock()
        self._lock = threading.Lock()
        self._tails: list[_Tail] = []
        os.makedirs(path, exist_ok=True)
        self._lock_file = self._take_lock()
        try:
            self.partitions = self._meta(partitions)
            for partition in range(self.partitions):
                self._tails.append(self._open_partition(partition))
        except BaseException:
            self.close()
            raise

    def append(
        self,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Record:
        """Appends one record; see `append_all`."""
        if partition is None:
            partition = partition_of(key or b"", self.partitions)
        return self.append_all(partition, [(key, value)], timestamp_ms)[0]

    def append_all(
        self,
        partition: int,
        entries: Iterable[tuple[bytes | None, bytes | None]],
        timestamp_ms: int | None = None,
    ) -> list[Record]:
        """Appends records, all of them or (where this raises) none.

        Args:
          partition: the partition; `partition_of` says a key's.
          entries: keys and values; a value of None deletes the item.
          timestamp_ms: of all records; now if None.

        Returns:
          The records with their offsets.

        Raises:
          OSError: the disk is full or broken.
          ValueError: a record is too large, or there is no such partition.
        """
        if not 0 <= partition < self.partitions:
            raise ValueError(
                f"`partition` must be from 0 to {self.partitions - 1}, got "
                f"{partition}"
            )
        if timestamp_ms is None:
            timestamp_ms = time.time_ns() // 1_000_000
        with self._lock:
            tail = self._tails[partition]
            records = [
                Record(partition, offset, key, value, timestamp_ms)
                for offset, (key, value) in enumerate(entries, tail.next_offset)
            ]
            data = b"".join(segment.encode(record) for record in records)
            if tail.size >= self._segment_bytes:
                tail = self._roll(partition)
            self._write(tail, data)
            tail.next_offset += len(records)
        return records

    def next_offset(self, partition: int) -> int:
        """The offset that the next record will have."""
        with self._lock:
            return self._tails[partition].next_offset

    def flush(self) -> None:
        """Flushes everything to the disk."""
        with self._lock:
            self._flush()

    def roll(self, partition: int) -> None:
        """Closes the newest segment, so that `trim` may delete it."""
        with self._lock:
            tail = self._tails[partition]
            if tail.size > segment.HEADER_BYTES:
                self._roll(partition)

    def trim(self, partition: int, before_offset: int) -> int:
        """Deletes the segments whose records are all before an offset.

        The newest segment stays.

        Returns:
          The first offset that is left.
        """
        directory = file_log.partition_dir(self._path, partition)
        with self._lock:
            firsts = file_log.first_offsets(directory)
            # Ascending: a crash leaves no gap.
            while len(firsts) > 1 and firsts[1] <= before_offset:
                os.unlink(
                    os.path.join(directory, segment.file_name(firsts.pop(0)))
                )
            _sync_dir(directory)
            return firsts[0]

    def trim_older(self, partition: int, age_s: float) -> int:
        """Deletes closed segments that were last written `age_s` ago or more.

        Returns:
          The first offset that is left.
        """
        directory = file_log.partition_dir(self._path, partition)
        least = time.time() - age_s
        firsts = file_log.first_offsets(directory)
        before = firsts[0]
        for first, following in zip(firsts, firsts[1:], strict=False):
            path = os.path.join(directory, segment.file_name(first))
            if os.stat(path).st_mtime > least:
                break
            before = following
        return self.trim(partition, before)

    def close(self) -> None:
        """Flushes, and lets another writer in."""
        with self._lock:
            if self._lock_file < 0:
                return
            try:
                if self._fsync_interval_s is not None:
                    self._flush()
            finally:
                for tail in self._tails:
                    os.close(tail.file)
                self._tails = []
                os.close(self._lock_file)
                self._lock_file = -1

    def __enter__(self) -> FileLogWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take_lock(self) -> int:
        path = os.path.join(self._path, _LOCK_FILE)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            raise LogLockedError(
                f"the log {self._path} is being written by another process; a "
                "log has one writer at a time"
            ) from error
        return file

    def _meta(self, partitions: int | None) -> int:
        path = os.path.join(self._path, file_log.META_FILE)
        if not os.path.exists(path):
            count = 1 if partitions is None else partitions
            if not 1 <= count <= _MAX_PARTITIONS:
                raise ValueError(
                    f"`partitions` must be from 1 to {_MAX_PARTITIONS}, got "
                    f"{count}"
                )
            # The partitions first: a log that names them has them.
            for partition in range(count):
                directory = file_log.partition_dir(self._path, partition)
                os.makedirs(directory, exist_ok=True)
                if not file_log.first_offsets(directory):
                    _make_segment(directory, partition, 0)
            meta = {"format": file_log.FORMAT, "partitions": count}
            _write_whole(path, json.dumps(meta).encode() + b"\n")
        found = file_log.read_meta(self._path)
        if partitions not in (None, found):
            raise ValueError(
                f"the log {self._path} has {found} partitions, which can't be "
                f"changed, got {partitions}"
            )
        return found

    def _open_partition(self, partition: int) -> _Tail:
        directory = file_log.partition_dir(self._path, partition)
        firsts = file_log.first_offsets(directory)
        if not firsts:
            raise CorruptLogError(f"{directory} must hold a segment of the log")
        first = firsts[-1]
        path = os.path.join(directory, segment.file_name(first))
        with open(path, "rb") as reader:
            data = reader.read()
        segment.check_header(path, data, partition, first)
        position, offset = segment.HEADER_BYTES, first
        while True:
            try:
                record, after = segment.decode(data, position, partition)
            except segment.NotWhole:
                break
            if record.offset != offset:
                raise CorruptLogError(
                    f"{path}, byte {position}: the record here must have "
                    f"offset {offset}, got {record.offset}"
                )
            offset += 1
            position = after
        file_log.torn_or_raise(
            path, data[position:], position, partition, offset
        )
        tail = _Tail(
            os.open(path, os.O_RDWR | os.O_CLOEXEC), path, position, offset
        )
        self._cut(tail)
        return tail

    def _cut(self, tail: _Tail) -> None:
        """Cuts bytes off that are behind the last whole record."""
        size = os.fstat(tail.file).st_size
        if size == tail.size:
            return
        if size < tail.size:
            raise CorruptLogError(
                f"{tail.path} must have {tail.size} bytes, got {size}: another "
                "program has shortened it"
            )
        _LOGGER.warning(
            "%s: cutting %d bytes off that are no whole record, behind offset "
            "%d",
            tail.path,
            size - tail.size,
            tail.next_offset - 1,
        )
        os.ftruncate(tail.file, tail.size)
        os.fsync(tail.file)

    def _write(self, tail: _Tail, data: bytes) -> None:
        # Bytes of others would stand between two records.
        self._cut(tail)
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(
                    tail.file, data[written:], tail.size + written
                )
            tail.dirty = True
            interval = self._fsync_interval_s
            if interval == 0:
                os.fsync(tail.file)
                tail.dirty = False
        except BaseException:
            os.ftruncate(tail.file, tail.size)
            raise
        tail.size += len(data)
        if interval and self._clock() - self._flushed_at >= interval:
            self._flush()

    def _flush(self) -> None:
        for tail in self._tails:
            if tail.dirty:
                os.fsync(tail.file)
                tail.dirty = False
        self._flushed_at = self._clock()

    def _roll(self, partition: int) -> _Tail:
        old = self._tails[partition]
        self._cut(old)
        # No record may be lost before one that is kept.
        os.fsync(old.file)
        directory = file_log.partition_dir(self._path, partition)
        path = _make_segment(directory, partition, old.next_offset)
        new = _Tail(
            os.open(path, os.O_RDWR | os.O_CLOEXEC),
            path,
            segment.HEADER_BYTES,
            old.next_offset,
        )
        self._tails[partition] = new
        os.close(old.file)
        return new


def _make_segment(directory: str, partition: int, first_offset: int) -> str:
    path = os.path.join(directory, segment.file_name(first_offset))
    _write_whole(path, segment.header(partition, first_offset))
    return path


def _write_whole(path: str, data: bytes) -> None:
    """Makes a file that is there with all its bytes or not at all."""
    partial = path + ".partial"
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    _sync_dir(os.path.dirname(path))


def _sync_dir(directory: str) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
