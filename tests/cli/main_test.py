# SPDX-License-Identifier: Apache-2.0
"""The command line: commands, flags and their errors."""

import subprocess
import sys

import pytest

from lintf.cli import main


def _run(*arguments):
    """Runs the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "lintf.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_help_lists_every_command_with_an_example(capsys):
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, command in main.COMMANDS.items():
        assert f"  {name} " in text
        assert command.summary in text
        assert f"  {command.example}" in text
        assert command.example.startswith(f"lintf {name}")


def test_no_command_prints_the_help_and_fails(capsys):
    assert main.main([]) == 2
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("sevre", "serve"), ("build_index", "build-index"), ("qury", "query")],
)
def test_unknown_command_suggests_the_nearest(capsys, typed, meant):
    assert main.main([typed]) == 2
    assert f"Did you mean '{meant}'?" in capsys.readouterr().err


def test_unknown_command_without_a_near_one(capsys):
    assert main.main(["xyzzy"]) == 2
    text = capsys.readouterr().err
    assert "Did you mean" not in text
    assert "lintf --help" in text


@pytest.mark.parametrize("command", ["serve", "query", "demo"])
def test_help_of_a_command(capsys, command):
    assert main.main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"lintf {command}: ")
    assert "Flags:\n  --" in text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["serve", "--prot=1"], "Did you mean: port"),
        (["serve", "--port=x"], "flag --port=x"),
        (["serve", "--port=70000"], "not an integer in the range"),
        (["serve", "models"], "unexpected argument 'models'"),
        (["query", "--features={}", "--stats"], "features and stats"),
        (["query"], "got none"),
        (["serve"], "got none"),
        (["serve", "--model_base_path=a", "--model_config_file=b"], "got both"),
        (["query", "--lookup=[1]", "--filter=a == 1"], "got it with --lookup"),
        (["query", "--stats", "--filter=a == 1"], "got it with --stats"),
        (["query", '--embedding="abc"'], "must be a JSON list of numbers"),
        (["query", "--embedding=[[1.0]]"], "must be a JSON list of numbers"),
        (["query", "--embedding=[1, true]"], "must be a JSON list of numbers"),
        (["query", "--features=[1]"], "must be a JSON object, got [1]"),
        (["build-index"], "--config is required"),
        (
            ["build-index", "--config=/nowhere.yaml", "--output_dir=m"],
            "cannot read the config",
        ),
        (["query", "--features={'a': 1}"], "--features must be JSON"),
    ],
)
def test_wrong_flags(capsys, arguments, text):
    assert main.main(arguments) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.startswith((f"lintf {arguments[0]}: ", f"{arguments[0]}: "))


def test_a_directory_that_is_not_there_is_a_failure(capsys):
    assert main.main(["serve", "--model_base_path=/nowhere"]) == 1
    assert "must be a directory" in capsys.readouterr().err


def test_help_does_not_import_tensorflow():
    code = (
        "import sys; from lintf.cli import main; main.main(['--help']); "
        "main.main(['serve', '--help']); main.main(['query', '--help']); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_exit_status_of_the_process():
    assert _run("--help").returncode == 0
    done = _run("nonsense")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
