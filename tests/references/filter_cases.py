# SPDX-License-Identifier: Apache-2.0
"""Random schemas, rows and filters for tests, from a seeded generator."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from lintf.index.schema import Attribute, IndexSchema

Rng = np.random.Generator

# Words with what upsets a quoting rule, and three that no vocabulary holds.
WORDS = (
    "Comedy",
    "Drama",
    "a",
    "b",
    "it's",
    'say "hi"',
    "back\\slash",
    "tab\tnew\n",
    "été",
    "emoji 😀",
    "and",
    "true",
    "1990",
    " ",
)
OTHER_WORDS = ("unknown", "€", "x]")

_EPOCH = datetime.datetime(1970, 1, 1)
_BASE_TIME = 1_700_000_000


def random_schema(rng: Rng, *, dim: int = 4, string_ids: bool | None = None):
    """A schema with an attribute of most kinds, in random encodings.

    Args:
        rng: The generator.
        dim: Of the embeddings.
        string_ids: Whether ids are strings; None: at random.

    Returns:
        An `IndexSchema`.
    """
    if string_ids is None:
        string_ids = bool(rng.integers(3) == 0)
    choices = [
        lambda n: _category(rng, n),
        lambda n: _category(rng, n),
        lambda n: _tags(rng, n),
        lambda n: _tags(rng, n),
        lambda n: Attribute(
            n,
            "int",
            dtype=_pick(rng, ("int8", "int16", "int64", "uint32")),
        ),
        lambda n: Attribute(n, "float", dtype="float32"),
        lambda n: Attribute(
            n, "timestamp", dtype=_pick(rng, ("int64", "uint32"))
        ),
        lambda n: Attribute(n, "bool", dtype="int8"),
    ]
    order = rng.permutation(len(choices))[: rng.integers(1, len(choices) + 1)]
    attributes = tuple(
        choices[choice](f"{'abcdefgh'[i]}_{choice}")
        for i, choice in enumerate(order)
    )
    return IndexSchema(
        dim=dim,
        id_dtype="string" if string_ids else "int64",
        attributes=attributes,
    )


def random_rows(
    rng: Rng, schema: IndexSchema, num_rows: int
) -> list[dict[str, Any]]:
    """Rows as `filter_reference` reads them, with distinct ids.

    Returns:
        `num_rows` dicts with "id" and each attribute's name; values that
        `lintf.index.columns.encode` takes, None where there is none.
    """
    numbers = rng.permutation(num_rows) * 3 + 5
    rows = []
    for number in numbers.tolist():
        is_string = schema.id_dtype == "string"
        row: dict[str, Any] = {"id": f"item {number}" if is_string else number}
        for attribute in schema.attributes:
            row[attribute.name] = _value(rng, attribute)
        rows.append(row)
    return rows


def random_filter(
    rng: Rng,
    schema: IndexSchema,
    rows: Sequence[dict[str, Any]] = (),
    *,
    depth: int = 3,
) -> str:
    """A valid filter; its literals are often values that `rows` have.

    Args:
        rng: The generator.
        schema: What the filter may name.
        rows: Where to take values from.
        depth: Most nested `and`, `or` and `not`.
    """
    return _expression(rng, schema, rows, depth, 0)


def spoiled_filter(rng: Rng, text: str) -> str:
    """`text` with a few random changes: mostly, but not always, no filter."""
    pieces = ["==", "=", "not", "(", ")", "[", "]", ",", "'", '"', "\\", "1.5"]
    pieces += ["nothing", "in", "and", "or", "!", "<", "\x00", "é", "9" * 20]
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(text) + 1))
        change = rng.integers(4)
        if change == 0:
            text = text[:at] + _pick(rng, pieces) + text[at:]
        elif change == 1:
            text = text[:at] + text[at + int(rng.integers(1, 4)) :]
        elif change == 2:
            text = text[:at] + chr(rng.integers(32, 127)) + text[at + 1 :]
        else:
            text = f"{text} {_pick(rng, pieces)}"
    return text


def _pick(rng: Rng, values: Sequence[Any]) -> Any:
    return values[int(rng.integers(len(values)))]


def _category(rng: Rng, name: str) -> Attribute:
    dtype = _pick(rng, ("uint8", "uint16", "uint32", "int64"))
    if dtype == "int64":
        return Attribute(name, "category", "hash", dtype)
    return Attribute(name, "category", "vocabulary", dtype, 1, WORDS)


def _tags(rng: Rng, name: str) -> Attribute:
    encoding = _pick(rng, ("bits", "vocabulary", "hash"))
    width = int(rng.integers(1, 6))
    if encoding == "hash":
        return Attribute(name, "tags", "hash", "int64", width)
    if encoding == "vocabulary":
        dtype = _pick(rng, ("uint8", "uint16", "uint32"))
        return Attribute(name, "tags", "vocabulary", dtype, width, WORDS)
    dtype = _pick(rng, ("uint8", "uint16", "uint32", "uint64"))
    words = WORDS[:7] if dtype == "uint8" else WORDS
    return Attribute(name, "tags", "bits", dtype, 1, words)


def _word(rng: Rng) -> str:
    return _pick(rng, OTHER_WORDS if rng.integers(6) == 0 else WORDS)


def _number(rng: Rng, dtype: str) -> int:
    limits = np.iinfo(dtype)
    low, high = int(limits.min), int(limits.max)
    # One end stands for missing.
    low, high = (low, high - 1) if low == 0 else (low + 1, high)
    choice = rng.integers(8)
    if choice == 0:
        return low + int(rng.integers(3))
    if choice == 1:
        return high - int(rng.integers(3))
    return int(rng.integers(12)) - (4 if low < 0 else 0)


def _value(rng: Rng, attribute: Attribute) -> Any:
    if rng.integers(5) == 0:
        return None
    if attribute.kind == "category":
        return _word(rng)
    if attribute.kind == "tags":
        room = 6 if attribute.encoding == "bits" else attribute.width
        count = int(rng.integers(1, room + 1))
        return list(dict.fromkeys(_word(rng) for _ in range(count)))
    if attribute.kind == "float":
        return _pick(
            rng, (0.0, -0.0, 0.1, 1e-45, -1e-45, 3.4028234e38, 1.5, -2.0, 7.0)
        )
    if attribute.kind == "bool":
        return bool(rng.integers(2))
    if attribute.kind == "timestamp" and rng.integers(4):
        return _BASE_TIME + 43200 * int(rng.integers(6))
    return _number(rng, attribute.dtype)


def _expression(
    rng: Rng,
    schema: IndexSchema,
    rows: Sequence[dict[str, Any]],
    depth: int,
    binding: int,
) -> str:
    choice = int(rng.integers(5)) if depth and rng.integers(3) else 5
    if choice < 4:  # and: binds with 1; or: with 0
        own = 1 if choice < 2 else 0
        joints = ("&&", " and ", " AND ") if own else ("||", " or ", "\nOr ")
        parts = [
            _expression(rng, schema, rows, depth - 1, own + 1)
            for _ in range(rng.integers(2, 4))
        ]
        text = parts[0]
        for part in parts[1:]:
            text += _pick(rng, joints) + part
    elif choice == 4:
        own = 2
        text = _pick(rng, ("not ", "!", "NOT ")) + _expression(
            rng, schema, rows, depth - 1, own
        )
    else:
        own = 3
        text = _predicate(rng, schema, rows)
    if own < binding or rng.integers(8) == 0:
        text = f"({text})"
    return text


def _predicate(
    rng: Rng, schema: IndexSchema, rows: Sequence[dict[str, Any]]
) -> str:
    index = int(rng.integers(len(schema.attributes) + 1))
    if index < len(schema.attributes):
        attribute = schema.attributes[index]
        name, kind = attribute.name, attribute.kind
    else:
        attribute = None
        name = "id"
        kind = "category" if schema.id_dtype == "string" else "int"
    if rng.integers(12) == 0:
        return f"exists({name})"
    if kind == "bool":
        value = _pick(rng, ("true", "false", "True"))
        return _pick(rng, (name, f"{name} == {value}", f"{name}!={value}"))

    def literals(low: int, high: int) -> str:
        count = int(rng.integers(low, high))
        if attribute is None and rows and rng.integers(8) == 0:
            count = min(300, len(rows))
        return ", ".join(
            _literal(rng, attribute, name, kind, rows) for _ in range(count)
        )

    shapes = ["==", "!=", "in", "not in"]
    if kind == "tags":
        shapes += ["contains_any", "contains_all"]
    elif kind != "category":
        shapes += ["<", "<=", ">", ">="]
    shape = _pick(rng, shapes)
    if shape.startswith("contains"):
        return f"{shape}({name}, [{literals(0, 4)}])"
    if shape.endswith("in"):
        return f"{name} {shape} [{literals(0, 5)}]"
    value = _literal(rng, attribute, name, kind, rows)
    return f"{name} {shape} {value}"


def _literal(
    rng: Rng,
    attribute: Attribute | None,
    name: str,
    kind: str,
    rows: Sequence[dict[str, Any]],
) -> str:
    value = None
    if rows and rng.integers(2):
        value = _pick(rng, rows)[name]
        if kind == "tags" and value:
            value = _pick(rng, value)
    if value is None:
        if kind in ("category", "tags"):
            value = "" if rng.integers(12) == 0 else _word(rng)
        elif attribute is None:
            value = int(rng.integers(40))
        else:
            while value is None:
                value = _value(rng, attribute)
    if kind == "int" and rng.integers(8) == 0:
        # Often more than the column holds.
        value = _pick(rng, (-(1 << 63), (1 << 63) - 1, 1000, -1000, -128, 255))
    if kind in ("category", "tags"):
        return _quoted(rng, value)
    if kind == "timestamp" and rng.integers(2) and abs(value) < 1 << 36:
        return _quoted(rng, _iso(rng, value))
    return repr(value)


def _quoted(rng: Rng, text: str) -> str:
    if rng.integers(2):
        return json.dumps(text, ensure_ascii=bool(rng.integers(2)))
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _iso(rng: Rng, seconds: int) -> str:
    minutes = int(rng.integers(-1439, 1440)) if rng.integers(2) else 0
    moment = _EPOCH + datetime.timedelta(seconds=seconds, minutes=minutes)
    text = moment.isoformat(sep=_pick(rng, ("T", " ")))
    if minutes == 0:
        return text + _pick(rng, ("", "Z"))
    sign = "-" if minutes < 0 else "+"
    return f"{text}{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
