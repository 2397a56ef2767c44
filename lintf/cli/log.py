# SPDX-License-Identifier: Apache-2.0
"""Appends to a change log in files, shows what is in it and trims it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

from lintf.cli import table

_EPILOG = """
A line of `append` is a JSON object with the item's id as "key" and what the
item is now as "value"; null deletes it:

  {"key": "42", "value": {"embedding": [0.6, 0.8], "attributes": {"year": 1}}}
  {"key": "42", "value": {"attributes": {"year": 2}}}
  {"key": "42", "value": null}

Examples:
  lintf log append changes --partitions 4 < changes.jsonl
  lintf log inspect changes
  lintf log inspect changes --partition 0 --records 10
  lintf log trim changes --older_than_s 604800
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "lintf log",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    append = actions.add_parser(
        "append", help="append JSON lines from standard input"
    )
    append.add_argument(
        "--partitions",
        type=int,
        help="partitions of a new log (default: 1)",
    )
    append.add_argument(
        "--fsync_interval_s",
        type=float,
        default=0.5,
        help="seconds between flushes to the disk (default: 0.5); 0 flushes "
        "each record",
    )
    inspect = actions.add_parser("inspect", help="show what is in the log")
    inspect.add_argument(
        "--partition", type=int, default=0, help="of --records (default: 0)"
    )
    inspect.add_argument(
        "--after", type=int, default=-1, help="offset before --records"
    )
    inspect.add_argument(
        "--records", type=int, default=0, help="print so many as JSON lines"
    )
    trim = actions.add_parser(
        "trim", help="delete old segments, whole ones only"
    )
    trim.add_argument(
        "--older_than_s",
        type=float,
        required=True,
        help="seconds since the segment was last written",
    )
    for action in (append, inspect, trim):
        action.add_argument("path", help="directory of the log")
    return parser


def _entry(line: bytes) -> tuple[bytes, bytes | None]:
    """The key and the value of a line."""
    try:
        fields = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"a line must be UTF-8: {error}") from error
    except ValueError as error:
        raise ValueError(f"a line must be JSON: {error}") from error
    if not isinstance(fields, dict) or set(fields) != {"key", "value"}:
        raise ValueError('a line must be {"key": ID, "value": OBJECT or null}')
    key, value = fields["key"], fields["value"]
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"the value must be an object or null, got {value!r}")
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise ValueError(f"the key must be an id, got {key!r}")
    if value is None:
        return str(key).encode(), None
    return str(key).encode(), json.dumps(value).encode()


def _append(options: argparse.Namespace, lines: Iterable[bytes]) -> int:
    from lintf.ingest.file_log_writer import FileLogWriter

    count = 0
    with FileLogWriter(
        options.path,
        options.partitions,
        fsync_interval_s=options.fsync_interval_s,
    ) as log:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                key, value = _entry(line)
            except ValueError as error:
                raise ValueError(
                    f"line {number}: {error}; {count} records before it have "
                    "been appended"
                ) from error
            log.append(key, value)
            count += 1
        log.flush()
    print(f"{count} records appended to {options.path}.")
    return 0


def _shown(record: Any) -> dict[str, Any]:
    def text(data: bytes | None) -> str | None:
        return None if data is None else data.decode(errors="replace")

    return {
        "offset": record.offset,
        "key": text(record.key),
        "value": text(record.value),
        "timestamp_ms": record.timestamp_ms,
    }


def _inspect(options: argparse.Namespace) -> int:
    from lintf.ingest.file_log import FileLog

    log = FileLog(options.path)
    if options.records < 0:
        raise ValueError(
            f"--records must not be negative, got {options.records}"
        )
    if options.partition not in log.partitions():
        raise ValueError(
            f"--partition must be from 0 to {len(log.partitions()) - 1}, got "
            f"{options.partition}"
        )
    if options.records:
        batch = log.read(options.partition, options.after, options.records, 0.0)
        for record in batch.records:
            print(json.dumps(_shown(record)))
        return 0
    rows = []
    for partition in log.partitions():
        begin, end = log.begin(partition), log.end(partition)
        rows.append(
            {
                "partition": partition,
                "first_offset": begin,
                "next_offset": end,
                "records": end - begin,
            }
        )
    print(table.render(rows))
    return 0


def _trim(options: argparse.Namespace) -> int:
    from lintf.ingest.file_log import FileLog
    from lintf.ingest.file_log_writer import FileLogWriter

    if options.older_than_s < 0:
        raise ValueError(
            f"--older_than_s must not be negative, got {options.older_than_s}"
        )
    FileLog(options.path)  # The writer would make a log that is not there.
    with FileLogWriter(options.path) as log:
        for partition in range(log.partitions):
            first = log.trim_older(partition, options.older_than_s)
            print(f"partition {partition} begins at offset {first}.")
    return 0


def main(argv: Sequence[str], stdin: IO[bytes] | None = None) -> int:
    """Runs an action; returns the exit status."""
    from lintf.ingest.source import SourceError

    try:
        options = _parser().parse_args(list(argv))
    except SystemExit as exit:
        return int(exit.code or 0)
    try:
        if options.action == "append":
            return _append(options, stdin or sys.stdin.buffer)
        if options.action == "inspect":
            return _inspect(options)
        return _trim(options)
    except (SourceError, OSError, ValueError) as error:
        print(f"lintf log: {error}", file=sys.stderr)
        return 1
