# SPDX-License-Identifier: Apache-2.0
"""The command lines of `lintf snapshot` and `lintf bootstrap`."""

import json

import pytest

from lintf.cli import main
from lintf.ingest.file_log_writer import FileLogWriter
from tests.export import live

BASE = "--model_base_path=models"
SOURCE = "--source=file:log"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["snapshot", SOURCE], "--model_base_path must be given"),
        (["snapshot", BASE], "--source must be file:DIRECTORY or kafka:TOPIC"),
        (["snapshot", BASE, "--source=log"], "got 'log'"),
        (["snapshot", BASE, "--source=kafka:t"], "--kafka_config goes with"),
        (["snapshot", BASE, SOURCE, "--until=1,x"], "got '1,x'"),
        (["snapshot", BASE, SOURCE, "--capacity=0"], "capacity"),
        (["bootstrap", BASE, SOURCE], "--config, --like or both must be given"),
    ],
)
def test_wrong_flags(arguments, text, capsys):
    assert main.main(arguments) == 2
    assert text in capsys.readouterr().err


def test_no_log(tmp_path, capsys):
    (tmp_path / "models").mkdir()
    status = main.main(
        [
            "snapshot",
            f"--model_base_path={tmp_path / 'models'}",
            f"--source=file:{tmp_path / 'log'}",
        ]
    )
    assert status == 1
    assert "there is no change log at" in capsys.readouterr().err


def test_bootstrap_and_snapshot(tmp_path, capsys):
    models, letters = tmp_path / "models", tmp_path / "letters"
    config = tmp_path / "index.yaml"
    config.write_text("dim: 2\nindex: {capacity: 3}\n", encoding="utf-8")
    flags = [
        f"--model_base_path={models}",
        f"--source=file:{tmp_path / 'log'}",
        f"--dead_letter_file={letters}",
    ]
    with FileLogWriter(tmp_path / "log", 2) as writer:
        writer.append(b"7", b'{"embedding": [1, 2]}', partition=0)
        writer.append(b"7", b'{"embedding": [1]}', partition=0)
        writer.append(b"8", b'{"embedding": [3, 4]}', partition=1)
    assert main.main(["bootstrap", *flags, f"--config={config}"]) == 0
    assert capsys.readouterr().out == f"{models / '1'}\n"
    (letter,) = map(json.loads, letters.read_text().splitlines())
    assert (letter["partition"], letter["offset"]) == (0, 1)
    with FileLogWriter(tmp_path / "log") as writer:
        writer.append(b"7", None, partition=0)
        writer.append(b"9", b'{"embedding": [5, 6]}', partition=1)
    assert main.main(["snapshot", *flags, "--until=2,0", "--capacity=9"]) == 0
    with live.Served(models / "2") as served:
        assert served.offsets() == [2, 0]
        found = served.ask("lookup", id=[7, 8, 9])["found"].tolist()
        assert found == [False, True, False]
        assert served.stats()["capacity"] == 9
