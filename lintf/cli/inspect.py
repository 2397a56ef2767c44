# SPDX-License-Identifier: Apache-2.0
"""saved_model_cli with lintf's ops registered.

Examples:
  lintf inspect show --dir models/films/1 --all
  lintf inspect run --dir models/films/1 --tag_set serve \\
      --signature_def lookup --input_exprs 'id=[1, 2]'
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import Any

from lintf.cli import quiet

_HELP_FLAGS = ("-h", "-help", "--help", "--helpshort", "--helpfull")

# Lines that TensorFlow puts before what went wrong in a graph.
_PREAMBLE = (
    "Graph execution error",
    "Detected at node",
    "Node: ",
    "[[{{node",
)


def main(argv: Sequence[str]) -> int:
    """Runs saved_model_cli on the arguments; returns the exit status."""
    if not argv or argv[0] in _HELP_FLAGS:
        print(f"lintf inspect: {(__doc__ or '').strip()}")
        print("\n`lintf inspect COMMAND --help` describes a command.")
        return 0 if argv else 2
    quiet.import_tensorflow()
    import tensorflow as tf
    from absl import app, flags
    from tensorflow.python.tools import saved_model_cli as tool

    from lintf import saved_model_cli

    commands = list(tool.command_required_flags)
    if argv[0] not in commands:
        near = difflib.get_close_matches(argv[0], commands, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return _fail(
            f"the first argument must be one of {', '.join(commands)}, got "
            f"'{argv[0]}'.{hint}",
            2,
        )
    sys.argv = ["lintf inspect", *argv]
    try:
        if any(argument in _HELP_FLAGS for argument in argv):
            _print_help(tool, argv[0])
            return 0
        # It would parse them itself, and exit with 1 if they are wrong.
        app.define_help_flags()
        flags.FLAGS(sys.argv)
        saved_model_cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except flags.Error as error:
        return _fail(str(error), 2)
    except AttributeError as error:
        # `run` without any input; every other one is a bug.
        if "--input_exprs" not in str(error):
            raise
        return _fail(str(error), 2)
    except tf.errors.OpError as error:
        return _fail(_essence(error.message), 1)
    except (OSError, ValueError, RuntimeError) as error:
        return _fail(str(error), 1)
    except KeyError as error:
        return _fail(f"there is no {error}", 1)
    return 0


def _fail(text: str, status: int) -> int:
    print(f"lintf inspect: {text}", file=sys.stderr)
    return status


def _print_help(tool: Any, command: str) -> None:
    """Prints a command's examples, and the flags of all commands."""
    from absl import flags

    try:
        tool.create_parser().parse_args([command, "--help"])
    except SystemExit:
        pass
    print("\nflags of all commands:")
    print(flags.FLAGS.module_help(tool))


def _essence(message: str) -> str:
    """The line of a graph's error message that says what is wrong.

    >>> _essence("Graph execution error:\\n\\nfilter[0]: oops\\n [[{{node}}]]")
    'filter[0]: oops'
    """
    for line in message.splitlines():
        line = line.strip()
        if line and not line.startswith(_PREAMBLE):
            return line
    return message.strip()
