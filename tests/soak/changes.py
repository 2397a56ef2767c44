# SPDX-License-Identifier: Apache-2.0
"""Changes whose rows tell whether they are torn, and what they make.

All of a row is made of three numbers: the item's `id`, the number of the change
that wrote its embedding, and that of the change that wrote its attributes. The
attributes say both, with a checksum, so that a row that mixes two states shows.
"""

from __future__ import annotations

import dataclasses
import json
import random
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

DIM = 8
PARITIES = ("even", "odd")

# New attributes come so many in a row, once in so many other changes.
_RUN, _EVERY = 100, 300

# Finds the rows that were written last: their score is their number.
NEWEST_FIRST = [1.0] + [0.0] * (DIM - 1)

# What every source refuses, and why.
MALFORMED: tuple[tuple[bytes | None, bytes | None], ...] = (
    (b"1", b'{"embedding": [1, 2'),
    (b"1", b'{"embedding": [1.0, 2.0]}'),
    (b"1", b'{"embedding": "none"}'),
    (b"1", b'{"no_such_field": 1}'),
    (b"1", b'{"attributes": {"no_such_attribute": 1}}'),
    (b"1", b'{"attributes": {"check": "seven"}}'),
    (b"1", b"{}"),
    (b"1", b"\xff\xfe"),
    (b"one", b'{"attributes": {}}'),
    (b"-1", None),
    (None, b'{"attributes": {}}'),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """What an item is after its last change.

    Attributes:
      id: the item's.
      embedded: number of the change that gave its embedding.
      attributed: number of the change that gave its attributes.
    """

    id: int
    embedded: int
    attributed: int

    def embedding(self) -> list[float]:
        """[DIM] floats; all are whole numbers that float32 holds."""
        rest = [float((self.embedded * f + self.id) % 4093) for f in (3, 5, 7)]
        head = [float(self.embedded), float(self.id), *rest]
        return head + [1.0] * (DIM - len(head))

    def attributes(self) -> dict[str, Any]:
        """Values of the index's attributes."""
        text = f"{self.id} {self.embedded} {self.attributed}"
        return {
            "embedded": self.embedded,
            "attributed": self.attributed,
            "check": zlib.crc32(text.encode()),
            "parity": PARITIES[self.attributed % 2],
        }


def row_of(id: int, attributes: Mapping[str, Any]) -> Row | None:
    """The row that has these attributes; None if they are none's."""
    row = Row(id, attributes["embedded"], attributes["attributed"])
    return row if row.attributes() == dict(attributes) else None


class Model:
    """What an index must hold, by applying the log with plain Python."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}

    def apply(self, key: bytes | None, value: bytes | None) -> None:
        """Applies one record; a malformed one changes nothing."""
        if (key, value) in MALFORMED:
            return
        assert key is not None
        id = int(key)
        if value is None:
            self.rows.pop(id, None)
            return
        fields = json.loads(value)
        attributes = fields["attributes"]
        number = attributes["attributed"]
        if "embedding" in fields:
            self.rows[id] = Row(id, number, number)
        elif id in self.rows:
            self.rows[id] = Row(id, attributes["embedded"], number)


class Generator:
    """Makes changes of a fixed set of items."""

    def __init__(self, items: int, seed: int) -> None:
        """Makes a generator.

        Args:
          items: ids are 1 to this.
          seed: of the choice of changes.
        """
        self._model = Model()
        self._random = random.Random(seed)
        self._items = items
        self._number = 0
        self._attributes_left = 0

    def change(self) -> tuple[bytes, bytes | None]:
        """The next change: mostly upserts, some deletes and attributes."""
        # Few items change often.
        id = int(self._random.expovariate(4.0 / self._items)) % self._items + 1
        # New attributes travel in requests of their own, so they come in runs.
        if self._attributes_left or self._random.random() < 1 / _EVERY:
            self._attributes_left = (self._attributes_left or _RUN) - 1
            known = self._model.rows.get(id)
            self._number += 1
            row = Row(id, known.embedded if known else 0, self._number)
            return self._record(id, {"attributes": row.attributes()})
        if self._random.random() < 0.25:
            return self._record(id, None)
        return self.insert(id)

    def insert(self, id: int) -> tuple[bytes, bytes | None]:
        """An upsert of an item, which may be none of the fixed set."""
        self._number += 1
        row = Row(id, self._number, self._number)
        fields = {"embedding": row.embedding(), "attributes": row.attributes()}
        return self._record(id, fields)

    def delete(self, id: int) -> tuple[bytes, bytes | None]:
        """A delete of an item."""
        return self._record(id, None)

    def malformed(self) -> tuple[bytes | None, bytes | None]:
        """A record that no index can apply."""
        return self._random.choice(MALFORMED)

    def _record(
        self, id: int, fields: Mapping[str, Any] | None
    ) -> tuple[bytes, bytes | None]:
        key = str(id).encode()
        value = None if fields is None else json.dumps(fields).encode()
        self._model.apply(key, value)
        return key, value


@dataclasses.dataclass
class Difference:
    """How an index differs from what its log says.

    Attributes:
      lost: items whose last change it does not show.
      twice: items that came back after they were deleted, and rows that an
        item has beside its own.
      torn: rows that mix two states.
    """

    lost: int = 0
    twice: int = 0
    torn: int = 0

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            self.lost + other.lost,
            self.twice + other.twice,
            self.torn + other.torn,
        )

    def __str__(self) -> str:
        return f"lost {self.lost} twice {self.twice} torn {self.torn}"


def compare(
    wanted: Mapping[int, Row],
    ids: Sequence[int],
    stored: Sequence[tuple[Sequence[float], Mapping[str, Any]] | None],
    live_rows: int,
) -> Difference:
    """Compares an index with a model, id by id.

    Args:
      wanted: what it must hold.
      ids: that may be in the index.
      stored: for each of them its embedding and its attributes; None where
        it is not in the index.
      live_rows: how many rows the index says it has.
    """
    found = Difference()
    for id, row in zip(ids, stored, strict=True):
        if row is None:
            found.lost += id in wanted
            continue
        embedding, attributes = row
        known = row_of(id, attributes)
        if known is None or list(embedding) != known.embedding():
            found.torn += 1
        elif id not in wanted:
            found.twice += 1
        elif known != wanted[id]:
            found.lost += 1
    found.twice += abs(live_rows - sum(row is not None for row in stored))
    return found
