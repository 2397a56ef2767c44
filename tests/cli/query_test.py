# SPDX-License-Identifier: Apache-2.0
"""`lintf query` and `lintf inspect` against real processes."""

import json
import subprocess
import sys

import numpy as np

from lintf.cli import main, table
from lintf.serving.client import Client
from lintf.serving.results import LookupResult, RetrieveResult
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


class FakeClient:
    """Answers with values that JSON has no number for."""

    def __init__(self, *arguments, **options):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def retrieve_by_embedding(self, embedding, filter):
        return RetrieveResult(
            ids=np.array([[3, 4, 5, -1]]),
            scores=np.array([[np.inf, 1.5, -np.inf, -np.inf]], np.float32),
            num_results=np.array([3], np.int32),
            attributes={"price": np.array([[2.5, np.inf, np.nan, np.nan]])},
            version=1,
        )

    def lookup(self, ids):
        return LookupResult(
            found=np.array([True, False]),
            embedding=np.array([[0.5, -2], [0, 0]], np.float32),
            attributes={"price": np.array([2.5, np.nan])},
            version=1,
        )


def _refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


def _fake_json(capsys, monkeypatch, *arguments):
    monkeypatch.setattr("lintf.serving.client.Client", FakeClient)
    assert main.main(["query", *arguments, "--json"]) == 0
    return [
        json.loads(line, parse_constant=_refuse_constant)
        for line in capsys.readouterr().out.splitlines()
    ]


def test_json_has_null_for_infinities(capsys, monkeypatch):
    assert _fake_json(capsys, monkeypatch, "--embedding=[1e30]") == [
        {"id": 3, "score": None, "price": 2.5},
        {"id": 4, "score": 1.5, "price": None},
        {"id": 5, "score": None, "price": None},
    ]


def test_json_of_a_lookup_has_the_embedding(capsys, monkeypatch):
    assert _fake_json(capsys, monkeypatch, "--lookup=[7, 8]") == [
        {"id": 7, "found": True, "price": 2.5, "embedding": [0.5, -2.0]},
        {"id": 8, "found": False, "price": None, "embedding": None},
    ]
    assert main.main(["query", "--lookup=[7, 8]", "--nojson"]) == 0
    assert "embedding" not in capsys.readouterr().out


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
