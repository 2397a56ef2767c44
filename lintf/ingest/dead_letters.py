# SPDX-License-Identifier: Apache-2.0
"""Where records go that no index can apply."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from lintf.ingest.source import Record

# So many that were written last are not written a second time.
_MAX_REMEMBERED = 100_000


class DeadLetters:
    """A file of poison records, one JSON object a line. Thread-safe.

    A line has `partition`, `offset`, `key`, `value` (text; `key_base64` and
    `value_base64` where it is not UTF-8), `reason` and `time` (when it was
    written). It is on the disk before the record is skipped, so that none is
    lost. A record that is met again, as after a crash between the two or in
    another replica, is not written again for the same reason. Several
    processes may share the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Opens the file, making it if there is none.

        Args:
          path: the file. A line that a crash has left half written is cut off.
          now: seconds since 1970 UTC.

        Raises:
          OSError: the file can't be written.
        """
        self._now = now
        self._lock = threading.Lock()
        self._remembered: dict[bytes, None] = {}
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            self._file = os.open(path, flags, 0o644)
        except OSError as error:
            raise OSError(
                f"the dead-letter file {os.fspath(path)} can't be written: "
                f"{error.strerror}"
            ) from error
        self._seen_bytes = 0
        try:
            with self._locked():
                self._catch_up()
        except BaseException:
            os.close(self._file)
            raise

    def write(self, record: Record, reason: str) -> bool:
        """Writes a record, to the disk; False if the file has it already.

        Raises:
          OSError: it can't be written; the record must not be skipped.
        """
        line: dict[str, Any] = {
            "partition": record.partition,
            "offset": record.offset,
        }
        _put(line, "key", record.key)
        _put(line, "value", record.value)
        line["reason"] = reason
        line["time"] = _iso(self._now())
        data = json.dumps(line).encode() + b"\n"
        with self._lock, self._locked():
            self._catch_up()
            if _name(line) in self._remembered:
                return False
            before = os.fstat(self._file).st_size
            try:
                written = os.write(self._file, data)
                if written != len(data):
                    raise OSError(28, "the dead-letter file is full")
                os.fsync(self._file)
            except BaseException:
                os.ftruncate(self._file, before)
                raise
            self._catch_up()
        return True

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)

    def _locked(self) -> _FileLock:
        return _FileLock(self._file)

    def _catch_up(self) -> None:
        """Reads what was appended since; cuts a torn line off."""
        size = os.fstat(self._file).st_size
        if size < self._seen_bytes:
            # Someone has emptied the file: its records may come again.
            self._seen_bytes = 0
            self._remembered.clear()
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(self._seen_bytes)
            for line in file:
                if not line.endswith(b"\n"):
                    os.ftruncate(self._file, self._seen_bytes)
                    break
                self._seen_bytes += len(line)
                try:
                    self._remembered[_name(json.loads(line))] = None
                except (ValueError, KeyError, TypeError):
                    continue  # Not one of ours.
        while len(self._remembered) > _MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]


class _FileLock:
    """Holds a file's lock for a `with` block."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *exception: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)


def _put(line: dict[str, Any], name: str, data: bytes | None) -> None:
    try:
        line[name] = None if data is None else data.decode()
    except UnicodeDecodeError:
        line[name + "_base64"] = base64.b64encode(data or b"").decode()


def _name(line: dict[str, Any]) -> bytes:
    what = f"{line['partition']} {line['offset']} {line['reason']}"
    return hashlib.blake2b(what.encode(), digest_size=12).digest()


def _iso(seconds: float) -> str:
    whole, rest = divmod(seconds, 1)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{text}.{int(rest * 1000):03d}Z"
