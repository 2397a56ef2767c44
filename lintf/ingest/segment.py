# SPDX-License-Identifier: Apache-2.0
"""The bytes of the file log: segments of checksummed records.

A segment is a file of one partition, named by the offset of its first record:

    header: magic (8 bytes), version u32, partition u32, first offset i64,
            CRC-32 of the bytes before
    record: mark (4 bytes), CRC-32 of the rest, length of the body u32,
            body: offset i64, timestamp in ms i64, length of the key i32,
                  length of the value i32 (each -1 for none), key, value

All numbers are little-endian. The mark lets a reader look for a record behind
bytes that are none, which tells damage in the middle from a torn tail.
"""

from __future__ import annotations

import os
import struct
import zlib

from lintf.ingest.source import CorruptLogError, Record

SUFFIX = ".log"
# Larger records are refused when written, so a length beyond is damage.
MAX_BODY_BYTES = 64 << 20

_MAGIC = b"LINTFLOG"
_VERSION = 1
_HEADER = struct.Struct("<8sIIq")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size

_MARK = b"\xd7Lr\x9e"
_FRAME = struct.Struct("<4sII")
_BODY = struct.Struct("<qqii")
# From a record's first byte to its key.
_PREFIX = struct.Struct("<4sIIqqii")
_CHECKED_FROM = 8


class NotWhole(Exception):
    """The bytes at the end are no whole record (yet).

    Attributes:
      position: where they start, in the buffer.
    """

    def __init__(self, position: int) -> None:
        super().__init__(f"no whole record at byte {position}")
        self.position = position


def file_name(first_offset: int) -> str:
    """The name of a segment."""
    return f"{first_offset:020d}{SUFFIX}"


def header(partition: int, first_offset: int) -> bytes:
    """The first bytes of a segment."""
    data = _HEADER.pack(_MAGIC, _VERSION, partition, first_offset)
    return data + _CRC.pack(zlib.crc32(data))


def check_header(
    path: str | os.PathLike[str],
    data: bytes,
    partition: int,
    first_offset: int,
) -> None:
    """Checks that a file is the segment that its name says.

    Raises:
      CorruptLogError: it is not.
    """
    if data[:HEADER_BYTES] != header(partition, first_offset):
        raise CorruptLogError(
            f"{os.fspath(path)}, byte 0: this must be the header of a log "
            f"segment of partition {partition} from offset {first_offset}, of "
            f"format {_VERSION}, and is not"
        )


def encode(record: Record) -> bytes:
    """The bytes of a record.

    Raises:
      ValueError: it is too large.
    """
    key, value = record.key, record.value
    body = b"".join(
        (
            _BODY.pack(
                record.offset,
                record.timestamp_ms,
                -1 if key is None else len(key),
                -1 if value is None else len(value),
            ),
            key or b"",
            value or b"",
        )
    )
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(
            f"a record must have at most {MAX_BODY_BYTES} bytes, got "
            f"{len(body)}"
        )
    checked = struct.pack("<I", len(body)) + body
    return _MARK + _CRC.pack(zlib.crc32(checked)) + checked


def decode(data: bytes, position: int, partition: int) -> tuple[Record, int]:
    """The record at a position, and where the next one starts.

    Raises:
      NotWhole: there is none: the bytes end early, or are not what was
        written.
    """
    start = position + _PREFIX.size
    if start > len(data):
        raise NotWhole(position)
    mark, crc, length, offset, time, key_size, value_size = _PREFIX.unpack_from(
        data, position
    )
    end = position + _FRAME.size + length
    if (
        mark != _MARK
        or end > len(data)
        or length > MAX_BODY_BYTES
        or _BODY.size + max(key_size, 0) + max(value_size, 0) != length
        or zlib.crc32(memoryview(data)[position + _CHECKED_FROM : end]) != crc
    ):
        raise NotWhole(position)
    split = start + max(key_size, 0)
    return Record(
        partition,
        offset,
        data[start:split] if key_size >= 0 else None,
        data[split:end] if value_size >= 0 else None,
        time,
    ), end


def size_at(data: bytes, position: int) -> int:
    """Bytes that the record at a position claims to have, 0 if none is there.

    It is not checked: for reading enough, and for counting quickly.
    """
    if position + _FRAME.size > len(data):
        return 0
    mark, _, length = _FRAME.unpack_from(data, position)
    if mark != _MARK or length > MAX_BODY_BYTES:
        return 0
    return int(_FRAME.size + length)


def find(data: bytes, position: int, partition: int, least: int) -> int | None:
    """Where a record from offset `least` on starts behind a position."""
    while True:
        position = data.find(_MARK, position + 1)
        if position < 0:
            return None
        try:
            record, _ = decode(data, position, partition)
        except NotWhole:
            continue
        if record.offset >= least:
            return position
