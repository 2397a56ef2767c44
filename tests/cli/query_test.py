# SPDX-License-Identifier: Apache-2.0
"""`lintf query` and `lintf inspect` against real processes."""

import json
import subprocess
import sys

from lintf.cli import main, table
from lintf.serving.client import Client
from tests.serving.servers import free_port

FEATURES = '{"user_id": 3, "history": [1, 2], "gender": "F"}'


def _query(capsys, server, *arguments):
    status = main.main(
        ["query", f"--target={server.target}", "--model=toy", *arguments]
    )
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_table(capsys, server):
    status, text, _ = _query(capsys, server, f"--features={FEATURES}")
    assert status == 0
    header, *rows = text.splitlines()
    assert header.split() == ["id", "score", "title"]
    assert len(rows) == 3
    assert all(" film 100" in row for row in rows)


def test_json(capsys, server):
    status, text, _ = _query(
        capsys, server, "--embedding=[1, 0, 0, 0]", "--json"
    )
    assert status == 0
    rows = [json.loads(line) for line in text.splitlines()]
    with Client(server.target, "toy", timeout_s=30) as client:
        expected = list(client.retrieve_by_embedding([1, 0, 0, 0]).rows())
    assert rows == expected


def test_server_error(capsys, server):
    status, _, text = _query(
        capsys, server, "--embedding=[1, 0, 0, 0]", "--filter=fail"
    )
    assert status == 1
    assert f"{server.target} answered INVALID_ARGUMENT: " in text
    assert "got fail at position 0" in text


def test_values_that_do_not_fit(capsys, server):
    status, _, text = _query(capsys, server, '--features={"user_id": 3}')
    assert status == 2
    assert "the model also needs the feature(s) gender" in text


def test_no_server(capsys):
    status = main.main(
        ["query", f"--target=localhost:{free_port()}", "--stats"]
    )
    assert status == 1
    assert "answered UNAVAILABLE" in capsys.readouterr().err


def test_inspect(toy_base_path):
    def inspect(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "lintf.cli", "inspect", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
        )

    directory = str(toy_base_path / "1")
    shown = inspect("show", "--dir", directory, "--all")
    assert shown.returncode == 0, shown.stderr
    assert "signature_def['retrieve_by_embedding']" in shown.stdout
    ran = inspect(
        "run",
        "--dir",
        directory,
        "--tag_set=serve",
        "--signature_def=one_input",
        "--input_exprs=query=[2.0]",
    )
    assert ran.returncode == 0, ran.stderr
    assert "[1002]" in ran.stdout
    # The module is the same program.
    module = subprocess.run(
        [
            sys.executable,
            "-m",
            "lintf.saved_model_cli",
            "show",
            "--dir",
            directory,
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert module.returncode == 0, module.stderr
    assert "serve" in module.stdout


def test_table_alignment():
    rows = [
        {"id": 5, "score": 1.25, "tags": ["a", "b"], "ok": True},
        {"id": 181, "score": -10.0, "tags": None, "ok": False},
    ]
    assert table.render(rows) == (
        " id     score  tags  ok\n"
        "  5    1.2500  a, b  True\n"
        "181  -10.0000        False"
    )
