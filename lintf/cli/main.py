# SPDX-License-Identifier: Apache-2.0
"""The console script `lintf`: finds the command and hands over.

Nothing here imports TensorFlow, which takes seconds: `lintf --help`, a mistyped
command and a wrong flag answer at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import sys
import textwrap
from collections.abc import Sequence
from types import ModuleType

from absl import flags

_HELP_FLAGS = ("--help", "-help", "-h", "--helpfull", "--helpshort")


@dataclasses.dataclass(frozen=True)
class Command:
    """An entry of the command table.

    Attributes:
      module: the module with `main(argv) -> int | None`; where it has `FLAGS`
        (an absl `FlagValues`), those are parsed first.
      summary: one line for the list.
      example: a command line to copy.
    """

    module: str
    summary: str
    example: str


COMMANDS = {
    "build-index": Command(
        "lintf.cli.build_index",
        "build an index from a config and write it as a SavedModel",
        "lintf build-index --config index.yaml --output_dir models/films",
    ),
    "serve": Command(
        "lintf.cli.serve",
        "serve SavedModels on TF Serving's gRPC API (development server)",
        "lintf serve --model_base_path models/films --model_name films",
    ),
    "query": Command(
        "lintf.cli.query",
        "ask a server for the best items, with a filter",
        "lintf query --model films --features '{\"user_id\": 42}' "
        "--filter 'year >= 1990'",
    ),
    "inspect": Command(
        "lintf.cli.inspect",
        "saved_model_cli with lintf's ops loaded",
        "lintf inspect show --dir models/films/1 --all",
    ),
    "log": Command(
        "lintf.cli.log",
        "append to a change log in files, show and trim it",
        "lintf log append changes < changes.jsonl",
    ),
    "ingest": Command(
        "lintf.cli.ingest",
        "keep served indexes at the end of a change log",
        "lintf ingest --source file:changes --server localhost:8500 "
        "--model_name films",
    ),
    "snapshot": Command(
        "lintf.cli.snapshot",
        "write the next version from the last one and the change log",
        "lintf snapshot --model_base_path models/films --source file:changes",
    ),
    "bootstrap": Command(
        "lintf.cli.bootstrap",
        "make an index from a config and the whole change log",
        "lintf bootstrap --model_base_path models/films --config films.yaml "
        "--source file:changes",
    ),
    "demo": Command(
        "lintf.cli.demo",
        "build, serve and query MovieLens-100K from start to end",
        "lintf demo",
    ),
}


def usage() -> str:
    """The text of `lintf --help`."""
    lines = [
        "lintf: filtered exact retrieval inside TensorFlow.",
        "",
        "Usage: lintf COMMAND [FLAGS]    (lintf COMMAND --help for its flags)",
        "",
        "Commands:",
    ]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:<12}  {command.summary}")
    lines += ["", "Examples:"]
    lines += [f"  {command.example}" for command in COMMANDS.values()]
    return "\n".join(lines)


def _unknown(name: str) -> str:
    text = f"lintf: there is no command '{name}'."
    near = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, n=1)
    if near:
        text += f" Did you mean '{near[0]}'?"
    return text + " `lintf --help` lists the commands."


def _print_help(name: str, module: ModuleType) -> None:
    print(f"lintf {name}: {(module.__doc__ or '').strip()}")
    print("\nFlags:")
    values: flags.FlagValues = module.FLAGS
    for flag_name in sorted(values):
        flag = values[flag_name]
        if flag.name != flag_name:
            continue  # An alias or a short name.
        text = f"{flag.help} (default: {flag.default!r})"
        print(f"  --{flag_name}")
        print(textwrap.indent(textwrap.fill(text, 72), "      "))


def _run(name: str, argv: Sequence[str]) -> int:
    module = importlib.import_module(COMMANDS[name].module)
    arguments = list(argv)
    if hasattr(module, "FLAGS"):
        if any(argument in _HELP_FLAGS for argument in arguments):
            _print_help(name, module)
            return 0
        # A process may run several commands, as tests do.
        for flag in module.FLAGS:
            module.FLAGS[flag].unparse()
        try:
            rest = module.FLAGS([f"lintf {name}", *arguments])[1:]
        except flags.Error as error:
            print(f"lintf {name}: {error}", file=sys.stderr)
            print(f"`lintf {name} --help` lists the flags.", file=sys.stderr)
            return 2
        if rest:
            print(
                f"lintf {name}: unexpected argument '{rest[0]}': every value "
                "belongs to a flag, as in --port 8500.",
                file=sys.stderr,
            )
            return 2
        arguments = []
    return int(module.main(arguments) or 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      argv: the arguments without the program's name; None for `sys.argv`'s.

    Returns:
      The exit status: 0, 1 for a failure, 2 for wrong usage, 130 when
      interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in (*_HELP_FLAGS, "help"):
        print(usage())
        return 0 if arguments else 2
    name = arguments[0]
    if name not in COMMANDS:
        print(_unknown(name), file=sys.stderr)
        return 2
    try:
        return _run(name, arguments[1:])
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe, such as head, has had enough.
        return 0


if __name__ == "__main__":
    sys.exit(main())
