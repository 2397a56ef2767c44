# SPDX-License-Identifier: Apache-2.0
"""Records become changes, or say why they can't."""

import io
import json
import struct
from typing import Any

import numpy as np
import pytest

from lintf.ingest.records import (
    AvroDecoder,
    Decoder,
    JsonDecoder,
    RegistryAvroDecoder,
    skip,
    to_change,
)
from lintf.ingest.source import Record, SourceError
from lintf.serving.changes import Change

AVRO_SCHEMA = {
    "type": "record",
    "name": "Item",
    "fields": [
        {
            "name": "embedding",
            "type": ["null", {"type": "array", "items": "float"}],
        },
        {
            "name": "features",
            "type": ["null", {"type": "map", "values": "string"}],
        },
        {
            "name": "attributes",
            "type": [
                "null",
                {
                    "type": "record",
                    "name": "Attributes",
                    "fields": [
                        {"name": "year", "type": ["null", "int"]},
                        {
                            "name": "genres",
                            "type": {"type": "array", "items": "string"},
                        },
                    ],
                },
            ],
        },
    ],
}


def _change(
    value: Any,
    key: bytes | None = b"7",
    decoder: Decoder | None = None,
) -> Change:
    if value is not None and not isinstance(value, bytes):
        value = json.dumps(value).encode()
    record = Record(2, 11, key, value, 0)
    return to_change(record, 9, decoder or JsonDecoder(), int)


def test_every_kind_of_change() -> None:
    position = {"partition": 2, "previous_offset": 9, "offset": 11}
    assert _change(None) == Change(7, delete=True, **position)
    assert _change(b"null") == Change(7, delete=True, **position)
    assert _change({"attributes": {"year": 1995}}) == Change(
        7, attributes={"year": 1995}, **position
    )
    assert _change(
        {"features": {"genre": "War"}, "attributes": None}
    ) == Change(7, features={"genre": "War"}, **position)
    change = _change({"embedding": [1, 2.5], "attributes": {"year": None}})
    assert np.array_equal(change.embedding, [1.0, 2.5])
    assert change.attributes == {"year": None}
    assert skip(Record(2, 11, b"7", b"?"), 9) == Change(None, **position)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"", "must be JSON"),
        (b'{"embedding": [1, ', "must be JSON"),
        (b'{"embedding": [NaN]}', "has no NaN"),
        (b'{"embedding": [-Infinity]}', "has no -Infinity"),
        (b"\xff", "must be UTF-8"),
        (b"[" * 100_000, "must be JSON|nested too deeply"),
        ([1.0], "must be an object, got"),
        ("x", "must be an object, got 'x'"),
        ({"embeding": [1.0]}, "fields must be of .*, got 'embeding'"),
        ({"embedding": "1.0"}, "`embedding` must be a list of numbers"),
        ({"embedding": ["1.0"]}, "`embedding` must be a list of numbers"),
        ({"embedding": [[1.0]]}, "`embedding` must be a list of numbers"),
        ({"embedding": [[1.0], 2.0]}, "`embedding` must be a list of numb"),
        ({"embedding": [None, 1.0]}, "`embedding` must be a list of numbers"),
        ({"embedding": [True]}, "`embedding` must be a list of numbers"),
        ({"embedding": 10**400}, "`embedding` must be a list of numbers"),
        ({"embedding": [10**400]}, "`embedding` must be a list of numbers"),
        ({"attributes": [1]}, "`attributes` must be an object, got"),
        ({"features": 3}, "`features` must be an object, got 3"),
    ],
)
def test_poison_values(value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text) as raised:
        _change(value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("key", "text"),
    [(None, "must be the item's id"), (b"\xff", "UTF-8"), (b"x", "invalid")],
)
def test_poison_keys(key: bytes | None, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        _change(None, key)


def _avro(fields: dict[str, Any]) -> bytes:
    import fastavro

    stream = io.BytesIO()
    fastavro.schemaless_writer(
        stream,
        AVRO_SCHEMA,
        {"embedding": None, "features": None, "attributes": None, **fields},
    )
    return stream.getvalue()


def test_avro() -> None:
    decoder = AvroDecoder(AVRO_SCHEMA)
    change = _change(
        _avro(
            {
                "embedding": [0.5, -1.0],
                "attributes": {"year": None, "genres": ["War"]},
            }
        ),
        decoder=decoder,
    )
    assert np.array_equal(change.embedding, [0.5, -1.0])
    assert change.attributes == {"year": None, "genres": ["War"]}
    assert change.features is None
    features = _change(_avro({"features": {"a": "b"}}), decoder=decoder)
    assert (features.features, features.embedding) == ({"a": "b"}, None)


def test_poison_avro() -> None:
    decoder = AvroDecoder(AVRO_SCHEMA)
    whole = _avro({"embedding": [0.5, -1.0]})
    for size in range(len(whole)):
        with pytest.raises(ValueError, match="must be Avro"):
            _change(whole[:size], decoder=decoder)
    with pytest.raises(ValueError, match="1 bytes are left over"):
        _change(whole + b"\0", decoder=decoder)
    with pytest.raises(ValueError, match="no Avro schema"):
        AvroDecoder({"type": "recrod"})


def test_avro_with_schema_ids() -> None:
    decoder = RegistryAvroDecoder({17: AVRO_SCHEMA})
    value = _avro({"embedding": [0.5]})
    change = _change(struct.pack(">bI", 0, 17) + value, decoder=decoder)
    assert np.array_equal(change.embedding, [0.5])
    with pytest.raises(ValueError, match="start with a zero byte"):
        _change(b"\1\0\0\0\x11" + value, decoder=decoder)
    with pytest.raises(ValueError, match="got nothing"):
        _change(b"", decoder=decoder)
    # Not poison: the value may be sound.
    with pytest.raises(SourceError, match="schema 18, but only 17"):
        _change(struct.pack(">bI", 0, 18) + value, decoder=decoder)
