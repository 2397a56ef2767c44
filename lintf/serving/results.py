# SPDX-License-Identifier: Apache-2.0
"""What a served index answers, as arrays and as Python values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lintf.index.schema import IndexSchema
from lintf.serving import conversion

_ATTRIBUTE_PREFIX = "attribute_"


@dataclasses.dataclass(frozen=True)
class RetrieveResult:
    """The best items of each query, best first.

    Slots beyond a query's `num_results` hold id -1 (or "") and score -inf.

    Attributes:
      ids: [batch, k] int64, or object holding str.
      scores: [batch, k] float32.
      num_results: [batch] int32, how many slots of each row are real.
      attributes: the stored attributes that the index returns, by name, each
        [batch, k] or [batch, k, width]; strings are str.
      version: the model version that answered.
      num_scored: [batch] int64, items whose full score was computed; None if
        the index has no learned similarity.
    """

    ids: np.ndarray
    scores: np.ndarray
    num_results: np.ndarray
    attributes: dict[str, np.ndarray]
    version: int
    num_scored: np.ndarray | None = None

    def rows(self, query: int = 0) -> Iterator[dict[str, Any]]:
        """The real results of one query, as dicts of Python values.

        Args:
          query: the query's index in the batch.

        Yields:
          `{"id": ..., "score": ..., <attribute>: ...}`, best first. A missing
          attribute is None, tags are a list.
        """
        for slot in range(int(self.num_results[query])):
            item = self.ids[query, slot]
            yield {
                "id": item if isinstance(item, str) else int(item),
                "score": float(self.scores[query, slot]),
                **_plain_attributes(self.attributes, (query, slot)),
            }


@dataclasses.dataclass(frozen=True)
class LookupResult:
    """Stored items.

    Attributes:
      found: [batch] bool; where it is False the rest of the row is empty.
      embedding: [batch, dim] float32; None if the index has codes alone.
      attributes: stored attributes by name, each [batch] or [batch, width].
      version: the model version that answered.
    """

    found: np.ndarray
    embedding: np.ndarray | None
    attributes: dict[str, np.ndarray]
    version: int

    def attributes_of(self, position: int) -> dict[str, Any]:
        """The attributes of one of the items, as Python values."""
        return _plain_attributes(self.attributes, (position,))


@dataclasses.dataclass(frozen=True)
class IndexStats:
    """The state of a served index.

    Attributes:
      num_rows: rows in use, holes of deleted items included.
      capacity: rows allocated.
      live_rows: items that can be found.
      log_offsets: how far each partition of the change log is applied.
      index_bytes: bytes of the index's variables.
      build_id: names the export that wrote the index.
      schema_json: the `IndexSchema` as JSON.
      searches: queries answered since the version was loaded, by algorithm;
        empty for a portable index.
      version: the model version that answered.
    """

    num_rows: int
    capacity: int
    live_rows: int
    log_offsets: tuple[int, ...]
    index_bytes: int
    build_id: str
    schema_json: str
    searches: Mapping[str, int]
    version: int

    @property
    def schema(self) -> IndexSchema:
        """The index's schema."""
        return IndexSchema.from_json(self.schema_json)


def attributes(outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The attributes among a signature's outputs, by name."""
    return {
        name.removeprefix(_ATTRIBUTE_PREFIX): value
        for name, value in sorted(outputs.items())
        if name.startswith(_ATTRIBUTE_PREFIX)
    }


def _plain_attributes(
    attributes: Mapping[str, np.ndarray], index: tuple[int, ...]
) -> dict[str, Any]:
    return {
        name: conversion.plain_attribute(values[index])
        for name, values in attributes.items()
    }
