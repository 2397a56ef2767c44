# SPDX-License-Identifier: Apache-2.0
"""An index as a dict: what changes must lead to, one after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from lintf.index.schema import IndexSchema
from lintf.index.signatures import (
    DELETED,
    INSERTED,
    NOT_FOUND,
    REPLACED,
    UNCHANGED,
)
from lintf.serving.changes import Change
from tests.references import filter_cases, filter_reference


class ModelError(Exception):
    """A batch is refused; `code` is the gRPC status."""

    def __init__(self, code: str):
        super().__init__(code)
        self.code = code


@dataclasses.dataclass
class Item:
    """What an item holds.

    Attributes:
        embedding: `[dim]` float32, as it was given.
        row: Attributes and "id", as `filter_reference` reads them.
    """

    embedding: np.ndarray
    row: dict[str, Any]


class IndexModel:
    """Applies batches of changes like an index, without one.

    Attributes:
        items: By id.
        offsets: By partition of the change log.
    """

    def __init__(self, schema: IndexSchema, capacity: int, partitions: int = 1):
        self._schema = schema
        self._capacity = capacity
        self.items: dict[Any, Item] = {}
        self.offsets = [-1] * partitions

    def apply(self, changes: Sequence[Change]) -> list[int]:
        """Applies a batch whole or, raising ModelError, not at all."""
        items, offsets = dict(self.items), list(self.offsets)
        statuses = []
        for change in changes:
            if change.offset >= 0:
                if offsets[change.partition] != change.previous_offset:
                    raise ModelError("FAILED_PRECONDITION")
                offsets[change.partition] = change.offset
            statuses.append(self._apply_one(change, items))
        if len(items) > self._capacity:
            raise ModelError("RESOURCE_EXHAUSTED")
        self.items, self.offsets = items, offsets
        return statuses

    def passing(self, filter: str) -> list[Any]:
        """The ids that a filter lets through, sorted."""
        passes = filter_reference.parse(filter, self._schema)
        return sorted(i for i, item in self.items.items() if passes(item.row))

    def _apply_one(self, change: Change, items: dict[Any, Item]) -> int:
        if change.id is None:
            return UNCHANGED
        known = change.id in items
        if change.delete:
            items.pop(change.id, None)
            return DELETED if known else UNCHANGED
        row = {
            a.name: (change.attributes or {}).get(a.name)
            for a in self._schema.attributes
        }
        row["id"] = change.id
        if change.embedding is not None:
            vector = np.asarray(change.embedding, np.float32)
            items[change.id] = Item(vector, row)
            return REPLACED if known else INSERTED
        if not known:
            return NOT_FOUND
        items[change.id] = Item(items[change.id].embedding, row)
        return REPLACED


class History:
    """Random batches of changes from a seeded generator.

    Attributes:
        ids: All that changes may be of; few, so that they meet again.
    """

    def __init__(
        self, rng: np.random.Generator, schema: IndexSchema, num_ids: int
    ):
        self._rng = rng
        self._schema = schema
        text = schema.id_dtype == "string"
        self.ids = [f"item {i}" if text else i * 7 for i in range(num_ids)]

    def batch(
        self,
        size: int,
        offsets: Sequence[int] = (),
        *,
        attributes_only: bool = False,
    ) -> list[Change]:
        """Changes of a request.

        Args:
            size: Their number.
            offsets: Stored ones by partition; empty for changes that are not
                from the log.
            attributes_only: Of new attributes, and skips.
        """
        rng, last = self._rng, list(offsets)
        rows = filter_cases.random_rows(rng, self._schema, max(size, 1))
        changes = []
        for row in rows[:size]:
            log = {}
            if last and rng.integers(8):
                partition = int(rng.integers(len(last)))
                offset = last[partition] + int(rng.integers(1, 4))
                log = dict(
                    partition=partition,
                    previous_offset=last[partition],
                    offset=offset,
                )
                last[partition] = offset
            kind = int(rng.integers(8))
            if kind == 0 and log:
                changes.append(Change(None, **log))
                continue
            id = self.ids[int(rng.integers(len(self.ids)))]
            if kind < 3 and not attributes_only:
                changes.append(Change(id, delete=True, **log))
                continue
            del row["id"]
            vector = None
            if not attributes_only:
                vector = self.vector()
            changes.append(Change(id, embedding=vector, attributes=row, **log))
        return changes

    def vector(self) -> np.ndarray:
        """A random embedding or query: `[dim]` float32."""
        return self._rng.standard_normal(self._schema.dim).astype(np.float32)
