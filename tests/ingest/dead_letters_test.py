# SPDX-License-Identifier: Apache-2.0
"""The dead-letter file."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lintf.ingest.dead_letters import DeadLetters
from lintf.ingest.source import Record

_RECORD = Record(1, 5, b"7", b'{"x": "\xc3\xa4"}', 0)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    letters = DeadLetters(path, now=lambda: 1_700_000_000.25)
    assert letters.write(_RECORD, "no good")
    assert letters.write(Record(1, 6, None, b"\xff\0"), "no key")
    letters.close()
    assert _lines(path) == [
        {
            "partition": 1,
            "offset": 5,
            "key": "7",
            "value": '{"x": "ä"}',
            "reason": "no good",
            "time": "2023-11-14T22:13:20.250Z",
        },
        {
            "partition": 1,
            "offset": 6,
            "key": None,
            "value_base64": "/wA=",
            "reason": "no key",
            "time": "2023-11-14T22:13:20.250Z",
        },
    ]


def test_is_on_the_disk_when_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dead.jsonl"
    letters = DeadLetters(path)
    sizes: list[int] = []
    monkeypatch.setattr(
        os, "fsync", lambda file: sizes.append(os.fstat(file).st_size)
    )
    letters.write(_RECORD, "no good")
    assert sizes == [path.stat().st_size]


def test_a_record_is_written_once_for_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    first, other = DeadLetters(path), DeadLetters(path)
    assert first.write(_RECORD, "no good")
    assert not first.write(_RECORD, "no good")
    assert not other.write(_RECORD, "no good")
    assert other.write(_RECORD, "still no good")
    assert not first.write(_RECORD, "still no good")
    assert not DeadLetters(path).write(_RECORD, "no good")
    assert [line["reason"] for line in _lines(path)] == [
        "no good",
        "still no good",
    ]
    path.write_text("")
    assert first.write(_RECORD, "no good")
    assert len(_lines(path)) == 1


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    DeadLetters(path).write(_RECORD, "no good")
    whole = path.read_bytes()
    for size in range(1, len(whole)):
        path.write_bytes(whole + whole[:size])
        letters = DeadLetters(path)
        assert path.read_bytes() == whole
        assert letters.write(_RECORD, f"{size}")
        assert len(_lines(path)) == 2


def test_lines_of_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    path.write_text("# notes\n[]\n")
    assert DeadLetters(path).write(_RECORD, "no good")
    assert path.read_text().startswith("# notes\n[]\n{")


def test_a_failed_write_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dead.jsonl"
    letters = DeadLetters(path)
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda f, data: write(f, data[:9]))
        with pytest.raises(OSError, match="full"):
            letters.write(_RECORD, "no good")
    assert path.read_bytes() == b""
    assert letters.write(_RECORD, "no good")


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        DeadLetters(tmp_path / "none" / "dead.jsonl")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="dead-letter file .* can't be written"):
        DeadLetters(tmp_path / "absent" / "dead.jsonl")
