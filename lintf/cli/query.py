# SPDX-License-Identifier: Apache-2.0
"""Asks a server for the best items of one query.

Give the query tower's inputs as a JSON object, or an embedding as a JSON list;
--lookup and --stats read the index instead. Lists may be shorter than the model
takes: they are padded.

Examples:
  lintf query --model films --features '{"user_id": 42, "history": [50]}' \\
      --filter 'year >= 1990 and genres == "Comedy"'
  lintf query --model films --embedding '[0.1, 0.9]' --json
  lintf query --model films --lookup '[50, 181]'
  lintf query --model films --stats
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from lintf.cli import quiet, table

if TYPE_CHECKING:
    from lintf.serving.client import Client

FLAGS = flags.FlagValues()  # type: ignore[no-untyped-call]

flags.DEFINE_string(
    "target",
    "localhost:8500",
    "Address of the server.",
    flag_values=FLAGS,
)
flags.DEFINE_string("model", "default", "Name of the model.", flag_values=FLAGS)
flags.DEFINE_integer(
    "version",
    None,
    "Version to ask; the newest if not given.",
    flag_values=FLAGS,
)
flags.DEFINE_string("label", None, "Version label to ask.", flag_values=FLAGS)
flags.DEFINE_string(
    "features",
    None,
    "Query features as a JSON object.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "embedding",
    None,
    "Query embedding as a JSON list.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "lookup",
    None,
    "Item ids as a JSON list: prints what is stored.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "stats", False, "Prints the state of the index.", flag_values=FLAGS
)
flags.DEFINE_string(
    "filter", "", "Filter expression; empty for none.", flag_values=FLAGS
)
flags.DEFINE_boolean(
    "json", False, "Print JSON, one result a line.", flag_values=FLAGS
)
flags.DEFINE_boolean(
    "tls", False, "Speak TLS with the server.", flag_values=FLAGS
)
flags.DEFINE_string(
    "tls_ca_file",
    None,
    "PEM file of the authorities that the server's certificate may be from; "
    "those that gRPC knows if not given. Implies --tls.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "tls_cert_file",
    None,
    "PEM file of the client's certificate, if the server asks for one. "
    "Implies --tls.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "tls_key_file",
    None,
    "PEM file of the key to --tls_cert_file.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "timeout_s",
    10.0,
    "Deadline in seconds.",
    lower_bound=0.0,
    flag_values=FLAGS,
)

_FILTERED = ("features", "embedding")
_MODES = ("features", "embedding", "lookup", "stats")


def _parse(flag: str) -> Any:
    """The JSON value of a flag."""
    try:
        return json.loads(str(FLAGS[flag].value))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"--{flag} must be JSON, but at position {error.pos}: {error.msg}. "
            'Strings take double quotes, as in \'{"gender": "F"}\'.'
        ) from error


def _mode() -> str:
    """Which of the questions the flags ask."""
    given = [mode for mode in _MODES if FLAGS[mode].value]
    if len(given) != 1:
        raise ValueError(
            "exactly one of --features, --embedding, --lookup and --stats "
            f"must be given, got {' and '.join(given) or 'none'}."
        )
    if FLAGS.filter and given[0] not in _FILTERED:
        raise ValueError(
            f"--filter goes with --features or --embedding, got it with "
            f"--{given[0]}, which searches nothing."
        )
    return given[0]


def _is_embedding(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(number, int | float) and not isinstance(number, bool)
        for number in value
    )


def _value(mode: str) -> Any:
    """The question's JSON value, of the form that the mode takes."""
    value = _parse(mode)
    if mode == "features" and not isinstance(value, Mapping):
        expected = "a JSON object"
    elif mode == "embedding" and not _is_embedding(value):
        expected = "a JSON list of numbers"
    else:
        return value
    raise ValueError(f"--{mode} must be {expected}, got {json.dumps(value)}.")


def _ask(client: Client, mode: str) -> list[dict[str, Any]]:
    """Sends the question; returns the answer's rows."""
    if mode == "stats":
        stats = client.stats()
        return [
            {
                "version": stats.version,
                "live_rows": stats.live_rows,
                "num_rows": stats.num_rows,
                "capacity": stats.capacity,
                "index_bytes": stats.index_bytes,
                **{f"searches_{n}": c for n, c in stats.searches.items()},
                "log_offsets": list(stats.log_offsets),
                "build_id": stats.build_id,
            }
        ]
    value = _value(mode)
    if mode == "lookup":
        ids = value if isinstance(value, list) else [value]
        found = client.lookup(ids)

        def embedding(row: int) -> Any:
            if found.embedding is None or not found.found[row]:
                return None
            return found.embedding[row].tolist()

        return [
            {
                "id": ids[i],
                "found": bool(found.found[i]),
                **found.attributes_of(i),
                # Too long for a table.
                **({"embedding": embedding(i)} if FLAGS.json else {}),
            }
            for i in range(len(ids))
        ]
    if mode == "embedding":
        return list(client.retrieve_by_embedding(value, FLAGS.filter).rows())
    return list(client.retrieve(value, FLAGS.filter).rows())


def _json(value: Any) -> Any:
    """The value with null for the numbers that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _json(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_json(part) for part in value]
    return value


def main(argv: Sequence[str]) -> int:
    """Asks one question and prints the answer; returns the exit status."""
    del argv  # All flags.
    # Wrong flags show before TensorFlow, which the client imports, has loaded.
    try:
        mode = _mode()
        if mode != "stats":
            _value(mode)
    except ValueError as error:
        print(f"lintf query: {error}", file=sys.stderr)
        return 2
    quiet.import_tensorflow()
    import grpc

    from lintf.serving.client import Client, tls_credentials

    files = (FLAGS.tls_ca_file, FLAGS.tls_cert_file, FLAGS.tls_key_file)
    try:
        with Client(
            FLAGS.target,
            FLAGS.model,
            version=FLAGS.version,
            label=FLAGS.label,
            timeout_s=FLAGS.timeout_s,
            credentials=(
                tls_credentials(*files) if FLAGS.tls or any(files) else None
            ),
        ) as client:
            rows = _ask(client, mode)
    except ValueError as error:
        print(f"lintf query: {error}", file=sys.stderr)
        return 2
    except grpc.RpcError as error:
        print(
            f"lintf query: {FLAGS.target} answered {error.code().name}: "
            f"{error.details()}",
            file=sys.stderr,
        )
        return 1
    if FLAGS.json:
        for row in rows:
            print(json.dumps(_json(row), allow_nan=False))
    elif rows:
        print(table.render(rows))
    else:
        print("No item passes the filter.")
    return 0
