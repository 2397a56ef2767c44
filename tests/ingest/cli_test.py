# SPDX-License-Identifier: Apache-2.0
"""`lintf log` and `lintf ingest` as a person runs them."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import pytest

from lintf.cli import log as log_command
from lintf.cli.main import main
from lintf.ingest.file_log import FileLog
from lintf.ingest.file_log_writer import FileLogWriter
from tests.ingest import fake_index, fake_server
from tests.ingest.fake_index import FakeIndex
from tests.ingest.fake_server import MODEL, FakeServer
from tests.ingest.waiting import wait_until


def _line(key: object, value: object) -> bytes:
    return json.dumps({"key": key, "value": value}).encode() + b"\n"


def _upserts(count: int) -> list[tuple[bytes, bytes]]:
    return [
        (b"%d" % i, json.dumps({"embedding": [float(i)] * 3}).encode())
        for i in range(count)
    ]


# lintf log.


def test_log_append_and_inspect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "changes")
    lines = io.BytesIO(
        _line("a", {"embedding": [1.0]}) + b"\n" + _line(7, None)
    )
    arguments = ["append", path, "--partitions", "1"]
    assert log_command.main(arguments, lines) == 0
    assert log_command.main(["append", path], io.BytesIO(b"")) == 0
    assert "2 records appended" in capsys.readouterr().out
    records = FileLog(path).read(0, -1, 9, 0.0).records
    assert [(r.key, r.value) for r in records] == [
        (b"a", b'{"embedding": [1.0]}'),
        (b"7", None),
    ]
    assert main(["log", "inspect", path]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "partition  first_offset  next_offset  records",
        "        0             0            2        2",
    ]
    assert main(["log", "inspect", path, "--records=5", "--after=0"]) == 0
    (shown,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (shown["offset"], shown["key"], shown["value"]) == (1, "7", None)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"{", "line 2: a line must be JSON: Expecting"),
        (b"\xff\xfe", "line 2: a line must be UTF-8"),
        (b'{"key": 1, "value": 5}', "must be an object or null, got 5"),
        (b"[]", "line 2: a line must be"),
        (b'{"key": 1}', "line 2: a line must be"),
        (b'{"key": 1.5, "value": null}', "must be an id, got 1.5"),
        (b'{"key": true, "value": null}', "must be an id, got True"),
    ],
)
def test_log_append_of_bad_lines(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: bytes,
    text: str,
) -> None:
    lines = io.BytesIO(_line(1, None) + line + b"\n" + _line(2, None))
    assert log_command.main(["append", str(tmp_path)], lines) == 1
    error = capsys.readouterr().err
    assert text in error and "1 records before it" in error
    assert FileLog(tmp_path).end(0) == 1


def test_log_trim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLogWriter(tmp_path, segment_bytes=1) as writer:
        for _ in range(3):
            writer.append(b"1", None)
    assert main(["log", "trim", str(tmp_path), "--older_than_s=0"]) == 0
    assert "partition 0 begins at offset 2." in capsys.readouterr().out
    assert main(["log", "trim", str(tmp_path), "--older_than_s=9999"]) == 0
    assert FileLog(tmp_path).begin(0) == 2


def test_log_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "inspect", str(tmp_path / "none")]) == 1
    assert "there is no change log" in capsys.readouterr().err
    assert main(["log", "--help"]) == 0
    assert "lintf log append changes" in capsys.readouterr().out
    assert main(["log", "shred"]) == 2
    absent = tmp_path / "absent"
    assert main(["log", "trim", str(absent), "--older_than_s=5"]) == 1
    assert "there is no change log" in capsys.readouterr().err
    assert not absent.exists()
    FileLogWriter(tmp_path).close()
    for flags, text in [
        (["trim", "--older_than_s=-1"], "must not be negative, got -1"),
        (["inspect", "--records=-1"], "must not be negative, got -1"),
        (["inspect", "--partition=1"], "--partition must be from 0 to 0"),
        (["inspect", "--partition=-1"], "--partition must be from 0 to 0"),
    ]:
        assert main(["log", *flags, str(tmp_path)]) == 1
        assert text in capsys.readouterr().err
    with FileLogWriter(tmp_path):
        assert log_command.main(["append", str(tmp_path)], io.BytesIO()) == 1
    assert "one writer at a time" in capsys.readouterr().err


# lintf ingest.


class Process:
    """`lintf ingest` in a process of its own."""

    def __init__(self, address: str, folder: Path, *flags: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "lintf.cli", "ingest"),
                f"--source=file:{folder / 'changes'}",
                f"--server={address}",
                f"--model_name={MODEL}",
                f"--dead_letter_file={folder / 'dead.jsonl'}",
                "--max_latency_ms=20",
                *flags,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def end(self) -> tuple[int, str]:
        """Waits for the end; the exit status and what was said."""
        _, error = self.process.communicate(timeout=120)
        return self.process.returncode, error


def _applied(index: FakeIndex) -> list[int]:
    return [offset for _, offset in index.applied]


def test_ingest_until_caught_up(tmp_path: Path) -> None:
    with FileLogWriter(tmp_path / "changes") as writer:
        writer.append_all(0, [*_upserts(2500), (b"x", None)])
    fake = FakeServer(FakeIndex())
    with fake_server.running(fake) as address:
        status, text = Process(address, tmp_path, "--until_caught_up").end()
    assert status == 0, text
    assert _applied(fake.indexes[1]) == list(range(2501))
    assert fake.rows == [1000, 1000, 501]
    assert "offset 2500 is poison" in text
    assert "2,500 applied" in text and "1 dead letter" in text
    letter = json.loads((tmp_path / "dead.jsonl").read_text())
    assert (letter["offset"], letter["key"]) == (2500, "x")


def test_ingest_ends_with_an_error_where_it_halts(tmp_path: Path) -> None:
    with FileLogWriter(tmp_path / "changes") as writer:
        writer.append_all(0, _upserts(5))
    with fake_server.running(FakeServer(FakeIndex(capacity=3))) as address:
        status, text = Process(address, tmp_path, "--until_caught_up").end()
    assert status == 1
    assert "HALTED: the index is full" in text


def test_sigterm_finishes_the_request_in_flight(tmp_path: Path) -> None:
    with FileLogWriter(tmp_path / "changes") as writer:
        writer.append_all(0, _upserts(50))
    fake = FakeServer(FakeIndex())
    process: list[Process] = []

    def terminate(call: object) -> object:
        """The signal comes while the server works."""
        process[0].process.send_signal(signal.SIGTERM)
        return call()  # type: ignore[operator]

    fake.faults = [terminate]
    with fake_server.running(fake) as address:
        process.append(Process(address, tmp_path, "--batch_rows=10"))
        status, text = process[0].end()
    assert status == 0, text
    # That request, and at most what was sent before the signal was seen.
    applied = _applied(fake.indexes[1])
    assert applied == list(range(sum(fake.rows))) and applied
    assert "Traceback" not in text


def test_the_endpoint_of_the_metrics(tmp_path: Path) -> None:
    with FileLogWriter(tmp_path / "changes") as writer:
        writer.append_all(0, _upserts(7))
    fake = FakeServer(FakeIndex())
    with fake_server.running(fake) as address:
        process = Process(address, tmp_path, "--metrics_port=0")
        assert process.process.stdout is not None
        found = re.search(r"http\S+", process.process.stdout.readline())
        assert found is not None
        wait_until(lambda: fake.indexes[1].offsets == [6], "applied")
        samples: list[str] = []

        def counted() -> bool:
            with urllib.request.urlopen(found[0]) as response:
                samples[:] = response.read().decode().splitlines()
            return any(
                line.startswith("lintf_ingest_applied_total")
                and line.endswith(" 7.0")
                for line in samples
            )

        wait_until(counted, "counted")
        process.process.send_signal(signal.SIGTERM)
        assert process.end()[0] == 0


def test_a_killed_ingester_goes_on(tmp_path: Path) -> None:
    with FileLogWriter(tmp_path / "changes") as writer:
        writer.append_all(0, _upserts(300))
    fake = FakeServer(FakeIndex())
    running: list[Process] = []

    def kill(call: object) -> object:
        running[-1].process.kill()
        return call()  # type: ignore[operator]

    with fake_server.running(fake) as address:
        for _ in range(2):
            ordinary = fake_index.refused(grpc.StatusCode.UNAVAILABLE)
            fake.faults = [ordinary, lambda call: call(), kill]
            running.append(Process(address, tmp_path, "--batch_rows=30"))
            assert running[-1].end()[0] == -signal.SIGKILL
        status, text = Process(address, tmp_path, "--until_caught_up").end()
    assert status == 0, text
    assert _applied(fake.indexes[1]) == list(range(300))


@pytest.mark.parametrize(
    ("flags", "status", "text"),
    [
        ([], 2, "--source must be file:DIRECTORY or kafka:TOPIC"),
        (["--source=http:x"], 2, "--source must be file:DIRECTORY"),
        (["--source=kafka:t"], 2, "--kafka_config goes with"),
        (["--source=file:x", "--set_label=a"], 2, "must be given together"),
        (["--source=file:x", "--server="], 2, "--server must be an address"),
        (["--source=file:x", "--model_name="], 2, "--model_name must be"),
        (["--source=file:x", "--batch_rows=0"], 2, "batch_rows"),
        (["--source=file:none"], 1, "there is no change log at none"),
        (
            ["--source=file:x", "--avro_schema=1=a,b"],
            1,
            "one FILE, or ID=FILE with commas between them, got 'b'",
        ),
        (
            [
                "--source=file:x",
                "--set_label=a",
                "--model_config_file=none.config",
            ],
            1,
            "none.config can't be read",
        ),
        (
            ["--source=file:x", "--avro_schema=none"],
            1,
            "the Avro schema none can't be read",
        ),
        (["--source=file:x", "--token_file=none"], 1, "none can't be read"),
        (["--source=file:x", "--tls_cert_file=none"], 1, "given together"),
    ],
)
def test_ingest_usage(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    flags: list[str],
    status: int,
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text('"null"')
    assert main(["ingest", *flags]) == status
    assert text in capsys.readouterr().err
