# SPDX-License-Identifier: Apache-2.0
"""The file log: order, torn tails, damage, retention, one writer."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from lintf.ingest import segment
from lintf.ingest.file_log import FileLog, partition_dir
from lintf.ingest.file_log_writer import (
    FileLogWriter,
    LogLockedError,
    partition_of,
)
from lintf.ingest.source import (
    CorruptLogError,
    LogTooShortError,
    LogTruncatedError,
    Record,
    SourceError,
)


def _entries(count: int, start: int = 0) -> list[tuple[bytes, bytes | None]]:
    return [
        (
            str(i).encode(),
            None if i % 5 == 4 else bytes([i % 251]) * (i % 37),
        )
        for i in range(start, start + count)
    ]


def _fill(path: Path, count: int, **options: object) -> list[Record]:
    """A log of one partition; returns its records."""
    with FileLogWriter(path, **options) as writer:  # type: ignore[arg-type]
        records = []
        for entry in _entries(count):
            records += writer.append_all(0, [entry], 1_000)
        return records


def _read(path: Path, after: int = -1, limit: int = 10_000) -> list[Record]:
    return list(FileLog(path).read(0, after, limit, 0.0).records)


def _newest(path: Path) -> Path:
    directory = Path(partition_dir(path, 0))
    return sorted(directory.glob("*" + segment.SUFFIX))[-1]


def test_reads_what_was_written(tmp_path: Path) -> None:
    written = _fill(tmp_path / "log", 50)
    assert [r.offset for r in written] == list(range(50))
    assert _read(tmp_path / "log") == written
    assert _read(tmp_path / "log", 20, 7) == written[21:28]
    assert _read(tmp_path / "log", 49) == []
    log = FileLog(tmp_path / "log")
    assert (log.begin(0), log.end(0)) == (0, 50)
    assert log.read(0, 10, 5, 0.0).next_offset == 16
    assert log.read(0, 49, 5, 0.0).next_offset == 50


def test_empty_and_missing_parts_of_a_record_differ(tmp_path: Path) -> None:
    entries = [(None, None), (b"", b""), (None, b""), (b"", None)]
    with FileLogWriter(tmp_path) as writer:
        writer.append_all(0, entries)
    assert [(r.key, r.value) for r in _read(tmp_path)] == entries


@pytest.mark.parametrize("segment_bytes", [1, 300, 1000, 1 << 20])
def test_segments_do_not_show(tmp_path: Path, segment_bytes: int) -> None:
    written = _fill(tmp_path, 80, segment_bytes=segment_bytes)
    log = FileLog(tmp_path)
    rng = random.Random(segment_bytes)
    for _ in range(40):
        after, limit = rng.randrange(-1, 80), rng.randrange(1, 90)
        batch = log.read(0, after, limit, 0.0)
        assert batch.records == written[after + 1 : after + 1 + limit]
    assert log.end(0) == 80


def test_records_beyond_the_chunk_that_is_read(tmp_path: Path) -> None:
    entries = [
        (b"a", b"x" * 3_000_000),
        (b"b", b"y"),
        (b"c", b"z" * ((1 << 20) + 1)),
    ]
    with FileLogWriter(tmp_path) as writer:
        writer.append_all(0, entries)
    log = FileLog(tmp_path)
    assert log.end(0) == 3
    records = log.read(0, -1, 10, 0.0).records
    assert [(r.key, r.value) for r in records] == entries


def test_too_large_a_record_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "MAX_BODY_BYTES", 100)
    with FileLogWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match="at most 100 bytes, got 1"):
            writer.append_all(0, [(b"a", b"ok"), (b"b", b"x" * 100)])
        assert writer.append(b"c", b"ok").offset == 0
    assert [r.key for r in _read(tmp_path)] == [b"c"]


def test_a_writer_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    written = _fill(tmp_path, 10, segment_bytes=200)
    with FileLogWriter(tmp_path, segment_bytes=200) as writer:
        assert writer.next_offset(0) == 10
        written += writer.append_all(0, _entries(10, 10))
    assert _read(tmp_path) == written


def test_partitions_are_apart(tmp_path: Path) -> None:
    keys = [str(i).encode() for i in range(200)]
    with FileLogWriter(tmp_path, partitions=3) as writer:
        for key in keys:
            writer.append(key, b"{}")
    log = FileLog(tmp_path)
    assert list(log.partitions()) == [0, 1, 2]
    found = [log.read(p, -1, 1000, 0.0).records for p in range(3)]
    assert all(found)
    for partition, records in enumerate(found):
        assert [r.offset for r in records] == list(range(len(records)))
        assert all(partition_of(r.key or b"", 3) == partition for r in records)
    assert sorted(r.key or b"" for p in found for r in p) == sorted(keys)
    with pytest.raises(SourceError, match="0 to 2, got 3"):
        log.read(3, -1, 1, 0.0)
    with pytest.raises(ValueError, match="0 to 2, got 3"):
        with FileLogWriter(tmp_path) as writer:
            writer.append_all(3, [])
    with pytest.raises(ValueError, match="has 3 partitions"):
        FileLogWriter(tmp_path, partitions=4)


def test_a_tail_torn_at_each_byte(tmp_path: Path) -> None:
    written = _fill(tmp_path, 4)
    path = _newest(tmp_path)
    data = path.read_bytes()
    last = len(segment.encode(written[-1]))
    for cut in range(1, last + 1):
        path.write_bytes(data[:-cut])
        log = FileLog(tmp_path)
        assert log.read(0, -1, 10, 0.0).records == written[:3]
        assert log.end(0) == 3
        with FileLogWriter(tmp_path) as writer:
            assert writer.next_offset(0) == 3
            again = writer.append_all(0, _entries(2, 100))
        assert path.stat().st_size == len(data) - last + sum(
            len(segment.encode(r)) for r in again
        )
        # The reader that has seen the torn tail reads on.
        assert log.read(0, 2, 10, 0.0).records == again
        assert log.end(0) == 5


def test_a_reader_reads_on_when_a_torn_record_is_completed(
    tmp_path: Path,
) -> None:
    written = _fill(tmp_path, 4)
    path = _newest(tmp_path)
    data = path.read_bytes()
    last = len(segment.encode(written[-1]))
    path.write_bytes(data[:-last])
    log = FileLog(tmp_path)
    with path.open("ab") as file:
        for byte in data[-last:]:
            assert log.read(0, 2, 10, 0.0).records == []
            assert log.end(0) == 3
            file.write(bytes([byte]))
            file.flush()
    assert log.read(0, 2, 10, 0.0).records == written[3:]
    assert log.end(0) == 4


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0",
        b"\0" * 5000,
        b"\xff" * 100,
        random.Random(5).randbytes(3000),
        segment.encode(Record(0, 6, b"k", b"v" * 50))[:-1],
        segment.encode(Record(0, 6, b"k", b"v" * 50))[:-1] + b"w",
        segment.encode(Record(0, 1, b"old", b"v")),
    ],
    ids=["0", "zeros", "ones", "random", "cut", "flipped", "old"],
)
def test_torn_bytes_of_any_kind(tmp_path: Path, garbage: bytes) -> None:
    written = _fill(tmp_path, 6)
    path = _newest(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + garbage)
    log = FileLog(tmp_path)
    if garbage == segment.encode(Record(0, 1, b"old", b"v")):
        # A whole record that does not belong here is no crash's doing.
        with pytest.raises(CorruptLogError, match="must have offset 6, got 1"):
            log.read(0, 5, 10, 0.0)
        with pytest.raises(CorruptLogError, match="must have offset 6, got 1"):
            FileLogWriter(tmp_path)
        return
    assert log.read(0, -1, 10, 0.0).records == written
    assert log.end(0) == 6
    with FileLogWriter(tmp_path) as writer:
        assert path.read_bytes() == whole
        written += writer.append_all(0, _entries(3, 6))
    assert log.read(0, -1, 10, 0.0).records == written


def test_bytes_torn_under_a_writer_that_runs(tmp_path: Path) -> None:
    with FileLogWriter(tmp_path) as writer:
        written = writer.append_all(0, _entries(5))
        with _newest(tmp_path).open("ab") as file:
            file.write(b"\x13" * 999)
        log = FileLog(tmp_path)
        assert log.read(0, -1, 10, 0.0).records == written
        written += writer.append_all(0, _entries(1, 5))
        assert log.read(0, -1, 10, 0.0).records == written


@pytest.mark.parametrize("segment_bytes", [150, 1 << 20])
def test_damage_in_the_middle_is_never_skipped(
    tmp_path: Path, segment_bytes: int
) -> None:
    """Every byte in turn, but the last segment's last record's."""
    written = _fill(tmp_path, 12, segment_bytes=segment_bytes)
    directory = Path(partition_dir(tmp_path, 0))
    last_size = len(segment.encode(written[-1]))
    for path in sorted(directory.glob("*" + segment.SUFFIX)):
        data = path.read_bytes()
        last = path == _newest(tmp_path)
        for position in range(len(data) - (last_size if last else 0)):
            changed = bytearray(data)
            changed[position] ^= 0x40
            path.write_bytes(changed)
            with pytest.raises(CorruptLogError) as raised:
                _read(tmp_path)
            assert f"{path}, byte " in str(raised.value)
            named = int(str(raised.value).split("byte ")[1].split(":")[0])
            assert named <= position
            if last:
                with pytest.raises(CorruptLogError):
                    FileLogWriter(tmp_path)
        path.write_bytes(data)
    assert _read(tmp_path) == written


def test_a_record_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    written = _fill(tmp_path, 6)
    path = _newest(tmp_path)
    start = segment.HEADER_BYTES
    start += sum(len(segment.encode(r)) for r in written[:2])
    data = bytearray(path.read_bytes())
    data[start + 30] ^= 1
    path.write_bytes(data)
    log = FileLog(tmp_path)
    assert log.read(0, -1, 2, 0.0).records == written[:2]
    with pytest.raises(CorruptLogError, match=f"{path}, byte {start}: "):
        log.read(0, 1, 2, 0.0)


def test_a_missing_segment_is_damage(tmp_path: Path) -> None:
    _fill(tmp_path, 12, segment_bytes=150)
    paths = sorted(Path(partition_dir(tmp_path, 0)).glob("*.log"))
    assert len(paths) > 3
    paths[1].unlink()
    with pytest.raises(CorruptLogError, match="the next one begins at"):
        _read(tmp_path)


def test_retention(tmp_path: Path) -> None:
    with FileLogWriter(tmp_path, segment_bytes=1) as writer:
        for entry in _entries(10):
            writer.append_all(0, [entry])
        assert writer.trim(0, 4) == 4
        log = FileLog(tmp_path)
        assert (log.begin(0), log.end(0)) == (4, 10)
        assert [r.offset for r in log.read(0, 3, 3, 0.0).records] == [4, 5, 6]
        with pytest.raises(LogTruncatedError, match="offset 3, but it begins"):
            log.read(0, 2, 3, 0.0)
        # The newest segment stays, so that the offsets do.
        assert writer.trim(0, 99) == 9
        writer.roll(0)
        assert writer.trim(0, 99) == 10
        assert (log.begin(0), log.end(0)) == (10, 10)
        assert log.read(0, 9, 3, 0.0).records == []
        assert writer.append(b"1", None).offset == 10
    assert [r.offset for r in _read(tmp_path, 9)] == [10]


def test_retention_by_age(tmp_path: Path) -> None:
    with FileLogWriter(tmp_path, segment_bytes=1) as writer:
        for entry in _entries(6):
            writer.append_all(0, [entry])
        paths = sorted(Path(partition_dir(tmp_path, 0)).glob("*.log"))
        for path in paths[:3]:
            os.utime(path, (1e9, 1e9))
        assert writer.trim_older(0, 3600.0) == 3
    assert FileLog(tmp_path).begin(0) == 3


def test_an_index_ahead_of_the_log(tmp_path: Path) -> None:
    _fill(tmp_path, 5)
    log = FileLog(tmp_path)
    assert log.read(0, 4, 5, 0.0).records == []
    with pytest.raises(LogTooShortError, match="up to offset 5, .* at 4"):
        log.read(0, 5, 5, 0.0)


def test_one_writer_many_readers(tmp_path: Path) -> None:
    with FileLogWriter(tmp_path) as writer:
        with pytest.raises(LogLockedError, match="one writer at a time"):
            FileLogWriter(tmp_path)
        writer.append(b"1", b"x")
        # A reader in a process of its own.
        code = (
            "import sys; from lintf.ingest.file_log import FileLog; "
            "print(FileLog(sys.argv[1]).read(0, -1, 5, 0.0).records[0].value)"
        )
        output = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        assert output == "b'x'\n"
    FileLogWriter(tmp_path).close()


def test_a_killed_writer_leaves_its_log_open_to_the_next(
    tmp_path: Path,
) -> None:
    code = (
        "import os, sys; "
        "from lintf.ingest.file_log_writer import FileLogWriter; "
        "w = FileLogWriter(sys.argv[1], fsync_interval_s=None); "
        "[w.append(b'k', b'v' * i) for i in range(9)]; os.kill(os.getpid(), 9)"
    )
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert process.returncode == -9
    with FileLogWriter(tmp_path) as writer:
        assert writer.append(b"k", b"").offset == 9


def test_a_full_disk_appends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileLogWriter(tmp_path) as writer:
        written = writer.append_all(0, _entries(3))
        pwrite = os.pwrite

        def full(file: int, data: bytes, position: int) -> int:
            pwrite(file, data[:7], position)
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", full)
            with pytest.raises(OSError, match="No space left"):
                writer.append_all(0, _entries(2))
        written += writer.append_all(0, _entries(1, 3))
    assert _read(tmp_path) == written


@pytest.mark.parametrize(
    ("interval_s", "expected"), [(0.0, 4), (2.0, 2), (None, 0)]
)
def test_flushes_as_asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interval_s: float | None,
    expected: int,
) -> None:
    now = [0.0]
    with FileLogWriter(
        tmp_path, fsync_interval_s=interval_s, clock=lambda: now[0]
    ) as writer:
        flushed: list[int] = []
        monkeypatch.setattr(os, "fsync", flushed.append)
        for _ in range(4):
            now[0] += 1.0
            writer.append(b"1", b"x")
        assert len(flushed) == expected


def test_waits_for_records(tmp_path: Path) -> None:
    _fill(tmp_path, 2)
    now = [0.0]
    writer = FileLogWriter(tmp_path)

    def sleep(seconds: float) -> None:
        now[0] += seconds
        writer.append(b"3", b"x")

    log = FileLog(tmp_path, clock=lambda: now[0], sleep=sleep)
    assert len(log.read(0, 1, 3, 10.0).records) == 3
    assert now[0] < 0.1
    assert log.read(0, -1, 1000, 0.5).next_offset > 10
    assert 0.5 < now[0] < 0.7
    writer.close()


def test_no_log(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no change log .* log append"):
        FileLog(tmp_path / "none")
    (tmp_path / "log.json").write_text('{"format": 9, "partitions": 1}')
    with pytest.raises(SourceError, match="format 1, got 9"):
        FileLog(tmp_path)
    (tmp_path / "log.json").write_text("[")
    with pytest.raises(CorruptLogError, match="log.json is damaged"):
        FileLog(tmp_path)
