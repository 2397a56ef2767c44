# SPDX-License-Identifier: Apache-2.0
"""The flags that say which change log an offline job applies."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from absl import flags

if TYPE_CHECKING:
    from export.snapshot import Log
    from lintf.ingest.source import Source

_KINDS = ("file", "kafka")


def define_source(values: flags.FlagValues) -> None:
    """Defines the flags that `open_source` reads."""
    flags.DEFINE_string(
        "source",
        "",
        "The change log: file:DIRECTORY or kafka:TOPIC.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "kafka_config",
        "",
        "File of librdkafka properties, one key=value a line; "
        "bootstrap.servers at least.",
        flag_values=values,
    )


def define(values: flags.FlagValues) -> None:
    """Defines the flags."""
    define_source(values)
    flags.DEFINE_string(
        "avro_schema",
        "",
        "File with the Avro schema (.avsc) of the log's values; JSON if not "
        "given.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "until",
        [],
        "The last offset to apply of each partition; all that is there when "
        "the job starts if not given.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "dead_letter_file",
        "",
        "File that records which no index can apply are appended to; they are "
        "printed if not given. The ingester may share it: what a new version "
        "has passed, the ingester does not read.",
        flag_values=values,
    )


def check(values: Any) -> None:
    """Checks what needs no look at the log.

    Raises:
      ValueError: a flag is wrong.
    """
    check_source(values)
    _until(values)


def check_source(values: Any) -> None:
    """Checks the flags of `define_source`.

    Raises:
      ValueError: a flag is wrong.
    """
    kind, _, place = values.source.partition(":")
    if kind not in _KINDS or not place:
        raise ValueError(
            "--source must be file:DIRECTORY or kafka:TOPIC, got "
            f"{values.source!r}."
        )
    if (kind == "kafka") != bool(values.kafka_config):
        raise ValueError(
            "--kafka_config goes with --source kafka:TOPIC, which needs it."
        )


@contextlib.contextmanager
def open_log(values: Any) -> Iterator[Log]:
    """The log that the flags name.

    Raises:
      SourceError: it is not there.
      ValueError, OSError: a file that a flag names is wrong.
    """
    from export.snapshot import Log
    from lintf.ingest.dead_letters import DeadLetters
    from lintf.ingest.records import AvroDecoder, JsonDecoder

    decoder: Any = JsonDecoder()
    if values.avro_schema:
        with open(values.avro_schema, encoding="utf-8") as file:
            decoder = AvroDecoder(json.load(file))
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_source(values))
        log = Log(source, decoder, _until(values))
        if values.dead_letter_file:
            letters = DeadLetters(values.dead_letter_file)
            stack.callback(letters.close)

            def write(record: Any, reason: str) -> None:
                letters.write(record, reason)

            log = Log(source, decoder, _until(values), write)
        yield log


def open_source(values: Any) -> Source:
    """The change log that `--source` names.

    Raises:
      SourceError: it is not there.
      ValueError, OSError: the Kafka config is wrong.
    """
    kind, _, place = values.source.partition(":")
    if kind == "file":
        from lintf.ingest.file_log import FileLog

        return FileLog(place)
    from lintf.ingest.kafka import KafkaSource

    return KafkaSource(place, _properties(values.kafka_config))


def _properties(path: str) -> dict[str, str]:
    """The properties of a file, without comments and empty lines."""
    properties = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            key, equals, value = line.partition("=")
            if not equals or not key.strip():
                raise ValueError(
                    f"{path}, line {number}: expected key=value, got {line!r}"
                )
            properties[key.strip()] = value.strip()
    return properties


def _until(values: Any) -> list[int] | None:
    if not values.until:
        return None
    try:
        return [int(text) for text in values.until]
    except ValueError:
        raise ValueError(
            "--until must be offsets with commas between them, one for each "
            f"partition, got {','.join(values.until)!r}."
        ) from None
