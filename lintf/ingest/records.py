# SPDX-License-Identifier: Apache-2.0
"""Records of the change log as changes of an index.

A record's key is the item's id as text, and its value is what the item is now:

    null                                       the item is deleted
    {"embedding": [...], "attributes": {...}}  its embedding is given
    {"features": {...}, "attributes": {...}}   the item tower makes it
    {"attributes": {...}}                      it stays, the attributes change

An upsert sets all attributes: those that are not given become missing. An Avro
value has the same fields, each of which may be null.
"""

from __future__ import annotations

import abc
import io
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from lintf.ingest.source import Record, SourceError
from lintf.serving.changes import Change

_FIELDS = ("embedding", "features", "attributes")
_MAX_SHOWN = 80


class Decoder(abc.ABC):
    """Reads the values of records."""

    @abc.abstractmethod
    def fields(self, value: bytes) -> Any:
        """The value's fields by name.

        Raises:
          ValueError: it is malformed, and why.
          SourceError: this decoder can't say; a person has to do something.
        """


class JsonDecoder(Decoder):
    """Values that are JSON objects."""

    def __init__(self) -> None:
        # One for all: making it takes a tenth of the time of a record.
        self._decode = json.JSONDecoder(parse_constant=_no_constant).decode

    def fields(self, value: bytes) -> Any:
        try:
            return self._decode(value.decode())
        except UnicodeDecodeError as error:
            raise ValueError(f"the value must be UTF-8: {error}") from error
        except json.JSONDecodeError as error:
            raise ValueError(f"the value must be JSON: {error}") from error
        except RecursionError as error:
            raise ValueError("the value is nested too deeply") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"the value must be JSON, which has no {name}")


class AvroDecoder(Decoder):
    """Values in Avro's binary encoding, all written with one schema."""

    def __init__(self, schema: Any) -> None:
        """Makes a decoder.

        Args:
          schema: the writer's, as `json.load` reads it from an .avsc file.

        Raises:
          ValueError: it is no Avro schema.
          ImportError: fastavro is not installed.
        """
        try:
            import fastavro
            from fastavro import schema as fastavro_schema
        except ImportError as error:
            raise ImportError(
                "Avro values need fastavro: pip install 'lintf[ingest]'"
            ) from error

        try:
            self._schema = fastavro.parse_schema(schema)
        except (
            fastavro_schema.SchemaParseException,
            fastavro_schema.UnknownType,
        ) as error:
            raise ValueError(f"this is no Avro schema: {error!r}") from error
        self._read = fastavro.schemaless_reader

    def fields(self, value: bytes) -> Any:
        stream = io.BytesIO(value)
        try:
            fields = self._read(stream, self._schema, None)
        except Exception as error:
            # It raises whatever its parts do on bytes that are not its.
            raise ValueError(
                f"the value must be Avro of the given schema: {error!r}"
            ) from error
        if stream.tell() != len(value):
            raise ValueError(
                "the value must be Avro of the given schema, but "
                f"{len(value) - stream.tell()} bytes are left over"
            )
        return fields


class RegistryAvroDecoder(Decoder):
    """Avro values behind the id of their schema in a schema registry.

    The framing is Confluent's: a zero byte, then the id as 4 bytes. The schemas
    are given, so that no registry need be asked.
    """

    _FRAME = struct.Struct(">bI")

    def __init__(self, schemas: Mapping[int, Any]) -> None:
        """Makes a decoder from the writers' schemas by their ids."""
        self._decoders = {
            number: AvroDecoder(schema) for number, schema in schemas.items()
        }

    def fields(self, value: bytes) -> Any:
        if len(value) < self._FRAME.size or value[0] != 0:
            raise ValueError(
                "the value must start with a zero byte and the id of its "
                f"schema, got {value[:5].hex(' ') or 'nothing'}"
            )
        _, number = self._FRAME.unpack_from(value)
        if number not in self._decoders:
            # The record may be sound: it must not go to the dead letters.
            raise SourceError(
                f"a value has the Avro schema {number}, but only "
                f"{', '.join(map(str, sorted(self._decoders)))} "
                "are given; add it"
            )
        return self._decoders[number].fields(value[self._FRAME.size :])


def to_change(
    record: Record,
    previous_offset: int,
    decoder: Decoder,
    id_from_text: Callable[[str], int | str],
) -> Change:
    """The change that a record makes.

    Args:
      record: the record.
      previous_offset: the offset that it follows.
      decoder: of its value.
      id_from_text: reads ids: `ChangeEncoder.id_from_text`.

    Raises:
      ValueError: the record is poison, and why.
      SourceError: the decoder's.

    >>> change = to_change(Record(0, 5, b"7", None), 4, JsonDecoder(), int)
    >>> change.id, change.delete, change.previous_offset, change.offset
    (7, True, 4, 5)
    """
    position: dict[str, Any] = {
        "partition": record.partition,
        "previous_offset": previous_offset,
        "offset": record.offset,
    }
    if record.key is None:
        raise ValueError("the key must be the item's id, got none")
    try:
        text = record.key.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"the key must be UTF-8: {error}") from error
    id = id_from_text(text)
    if record.value is None:
        return Change(id, delete=True, **position)
    fields = decoder.fields(record.value)
    if fields is None:
        return Change(id, delete=True, **position)
    if not isinstance(fields, Mapping):
        raise ValueError(f"the value must be an object, got {_short(fields)}")
    unknown = sorted(set(fields) - set(_FIELDS))
    if unknown:
        raise ValueError(
            f"the value's fields must be of {', '.join(_FIELDS)}, got "
            f"{_short(unknown[0])}"
        )
    for name in ("features", "attributes"):
        if not isinstance(fields.get(name), Mapping | None):
            raise ValueError(
                f"`{name}` must be an object, got {_short(fields[name])}"
            )
    embedding = fields.get("embedding")
    return Change(
        id,
        embedding=None if embedding is None else _numbers(embedding),
        features=fields.get("features"),
        attributes=fields.get("attributes"),
        **position,
    )


def skip(record: Record, previous_offset: int) -> Change:
    """The change that only advances the offset over a record."""
    return Change(
        None,
        partition=record.partition,
        previous_offset=previous_offset,
        offset=record.offset,
    )


def _numbers(value: Any) -> np.ndarray:
    """An embedding as an array, which is quicker to check than a list."""
    if isinstance(value, list):
        try:
            array = np.array(value)
        except ValueError:
            array = np.empty(0, object)
        if array.ndim == 1 and array.dtype.kind in "iuf":
            return array
    raise ValueError(
        f"`embedding` must be a list of numbers, got {_short(value)}"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
