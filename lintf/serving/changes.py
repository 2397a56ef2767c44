# SPDX-License-Identifier: Apache-2.0
"""Changes of items, and the requests that carry them to a served index."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lintf.index import inputs as attribute_inputs
from lintf.index import storage
from lintf.index.index import NO_ID
from lintf.index.schema import IndexSchema
from lintf.index.signatures import (
    DELETE,
    EMBEDDING,
    ID,
    LOG_OFFSET,
    LOG_PARTITION,
    LOG_PREVIOUS_OFFSET,
    UPDATE,
    UPDATE_ATTRIBUTES,
    UPDATE_BY_EMBEDDING,
    attribute_key,
)
from lintf.serving import conversion

_INT64 = np.iinfo(np.int64)


@dataclasses.dataclass(frozen=True)
class Change:
    """One change of one item: an upsert, a delete or new attributes.

    An upsert has an `embedding` or `features`, and sets all attributes; those
    that are not given become missing. With neither, `attributes` alone are
    replaced.

    Attributes:
      id: the item's; None for a skip, which only advances the offset.
      delete: whether the item goes; the fields below are then ignored.
      embedding: `dim` finite numbers.
      features: the item tower's raw features, without its `id`.
      attributes: values as `lintf.index.columns.encode` takes them.
      partition: of the change log; -1 for a change that is not from it.
      previous_offset: the offset that this change follows in its partition.
      offset: the change's own; -1 for a change that is not from the log.
    """

    id: int | str | None
    delete: bool = False
    embedding: Sequence[float] | np.ndarray | None = None
    features: Mapping[str, Any] | None = None
    attributes: Mapping[str, Any] | None = None
    partition: int = -1
    previous_offset: int = -1
    offset: int = -1


class ChangeEncoder:
    """Turns changes into the inputs of one version's update signatures.

    Attributes:
      schema: the version's.
      has_item_tower: whether it takes `features`.
    """

    def __init__(
        self, schema: IndexSchema, signatures: Mapping[str, Any]
    ) -> None:
        """Makes an encoder.

        Args:
          schema: of the version, from its `index_stats`.
          signatures: its SignatureDefs by name, from GetModelMetadata.

        Raises:
          ValueError: the version takes no updates.
        """
        if UPDATE_BY_EMBEDDING not in signatures:
            raise ValueError(
                f"the index must have a signature {UPDATE_BY_EMBEDDING!r} to "
                "take changes, got one without: a read-only or portable "
                "export; export it with `update.enabled: true`"
            )
        self.schema = schema
        self._specs = {
            name: {
                key: conversion.InputSpec.from_tensor_info(key, info)
                for key, info in signatures[name].inputs.items()
            }
            for name in (UPDATE, UPDATE_BY_EMBEDDING, UPDATE_ATTRIBUTES)
            if name in signatures
        }
        update = self._specs.get(UPDATE, {})
        others = self._specs[UPDATE_BY_EMBEDDING]
        self.has_item_tower = EMBEDDING not in update
        # Whether the tower has a feature `id`: that of the item, see `update`.
        self._features = {
            key: spec for key, spec in update.items() if key not in others
        }

    def id_from_text(self, text: str) -> int | str:
        """An item's id from its text, as keys of the change log have it.

        Raises:
          ValueError: it is none; -1 and "" are reserved.
        """
        if self.schema.id_dtype == "string":
            self._check_id(text)
            return text
        digits = text.removeprefix("-")
        # More digits than int64 has cost time to read.
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
            raise ValueError(
                f"an id must be an integer that fits int64, got {text[:99]!r}"
            )
        number = int(text)
        if str(number) != text:
            # Two keys of one item may be in different partitions.
            raise ValueError(
                "an id must be written without leading zeros, got "
                f"{text!r}, not '{number}'"
            )
        self._check_id(number)
        return number

    def check(self, change: Change) -> None:
        """Says whether an index could ever apply a change.

        Raises:
          ValueError: it could not, and why.
        """
        self._check_log(change)
        if change.id is None:
            if change.offset < 0:
                raise ValueError(
                    "a change without an id must have an offset to advance, "
                    f"got {change.offset}"
                )
            return
        self._check_id(change.id)
        if change.delete:
            return
        signature = self.signature(change)
        self._check_attributes(change.attributes)
        if signature == UPDATE_BY_EMBEDDING:
            self._embedding(change)
        elif signature == UPDATE:
            self._feature_arrays(change)

    def signature(self, change: Change) -> str:
        """The signature that takes a change.

        A delete or a skip goes to `update_by_embedding`, and into a request
        of another one as `takes` says.

        Raises:
          ValueError: no signature of this index does.
        """
        if change.id is None or change.delete:
            return UPDATE_BY_EMBEDDING
        if change.embedding is not None:
            if change.features is not None:
                raise ValueError(
                    "a change must have an `embedding` or `features`, got both"
                )
            return UPDATE_BY_EMBEDDING
        if change.features is not None:
            if not self.has_item_tower:
                raise ValueError(
                    "a change has `features`, but the index has no item "
                    "tower; give the `embedding`"
                )
            return UPDATE
        if change.attributes is None:
            raise ValueError(
                "a change must have an `embedding`, `features` or "
                "`attributes`, or be a `delete`; got none of them"
            )
        return UPDATE_ATTRIBUTES

    def takes(self, signature: str, change: Change) -> bool:
        """Whether a request of a signature may carry a change."""
        if change.id is None:
            return True
        if change.delete:
            return signature != UPDATE_ATTRIBUTES
        if signature == UPDATE and not self.has_item_tower:
            signature = UPDATE_BY_EMBEDDING
        return self.signature(change) == signature

    def runs(
        self, changes: Sequence[Change], max_rows: int
    ) -> Iterator[tuple[str, Sequence[Change]]]:
        """Cuts a stream of changes into requests, in order.

        Args:
          changes: all of which `check` lets through.
          max_rows: most changes of a request.

        Yields:
          Signatures and the changes for them.

        Raises:
          ValueError: a change is none for this index.
        """
        run: list[Change] = []
        possible = set(self._specs)
        for change in changes:
            left = {s for s in possible if self.takes(s, change)}
            if not left or len(run) == max_rows:
                yield _preferred(possible), run
                run = []
                left = {s for s in self._specs if self.takes(s, change)}
            run.append(change)
            possible = left
        if run:
            yield _preferred(possible), run

    def inputs(
        self, signature: str, changes: Sequence[Change]
    ) -> dict[str, np.ndarray]:
        """The inputs of a request.

        Args:
          signature: one that takes every change.
          changes: one row each, in order.

        Returns:
          Arrays by input, `[len(changes), ...]`.

        Raises:
          ValueError: a change is none for this signature or this index.
        """
        for change in changes:
            if not self.takes(signature, change):
                raise ValueError(
                    f"signature {signature!r} does not take {change}"
                )
        arrays = {
            LOG_PARTITION: _int64(c.partition for c in changes),
            LOG_PREVIOUS_OFFSET: _int64(c.previous_offset for c in changes),
            LOG_OFFSET: _int64(c.offset for c in changes),
            ID: self._ids(changes),
        }
        empty = [c.id is None or c.delete for c in changes]
        if signature != UPDATE_ATTRIBUTES:
            arrays[DELETE] = np.array(empty, bool)
        for attribute in self.schema.attributes:
            arrays[attribute_key(attribute.name)] = (
                attribute_inputs.input_values(
                    attribute,
                    [
                        None if e else (c.attributes or {}).get(attribute.name)
                        for c, e in zip(changes, empty, strict=True)
                    ],
                )
            )
        if EMBEDDING in self._specs[signature]:
            zeros = np.zeros(self.schema.dim, np.float32)
            rows = [
                zeros if e else self._embedding(c)
                for c, e in zip(changes, empty, strict=True)
            ]
            arrays[EMBEDDING] = np.reshape(
                np.array(rows, np.float32), [len(rows), self.schema.dim]
            )
        elif signature == UPDATE:
            arrays |= self._all_features(changes, empty)
        return arrays

    def _check_log(self, change: Change) -> None:
        if change.offset < 0:
            return
        if change.partition < 0:
            raise ValueError(
                "a change with an offset must have a partition of at least 0, "
                f"got {change.partition}"
            )
        if not -1 <= change.previous_offset < change.offset:
            raise ValueError(
                f"`previous_offset` must be from -1 to below the offset "
                f"{change.offset}, got {change.previous_offset}"
            )

    def _check_id(self, id: Any) -> None:
        if self.schema.id_dtype == "string":
            if not isinstance(id, str) or not id:
                raise ValueError(
                    f"an id must be a non-empty string, got {id!r}"
                )
            try:
                id.encode()
            except UnicodeEncodeError:
                raise ValueError(
                    f"an id must be text that UTF-8 can hold, got {id!r}"
                ) from None
            return
        if isinstance(id, bool) or not isinstance(id, int | np.integer):
            raise ValueError(f"an id must be an integer, got {id!r}")
        if not _INT64.min <= id <= _INT64.max or id == NO_ID:
            raise ValueError(
                f"an id must fit int64 and not be {NO_ID}, got {id}"
            )

    def _check_attributes(self, attributes: Mapping[str, Any] | None) -> None:
        if not attributes:
            return
        known = {a.name for a in self.schema.attributes}
        unknown = sorted(set(attributes) - known)
        if unknown:
            raise ValueError(
                f"no attribute {unknown[0]!r}; the index has: "
                f"{', '.join(sorted(known)) or 'none'}"
            )
        for attribute in self.schema.attributes:
            if attribute.name not in attributes:
                continue
            try:
                attribute_inputs.input_values(
                    attribute, [attributes[attribute.name]]
                )
            except ValueError as error:
                # It is the only value.
                raise ValueError(
                    str(error).replace(", value 0:", ":")
                ) from error
            except (TypeError, OverflowError) as error:
                raise ValueError(
                    f"attribute {attribute.name!r}: {error}"
                ) from error

    def _embedding(self, change: Change) -> np.ndarray:
        dim, given = self.schema.dim, change.embedding
        try:
            raw = np.asarray(given)
            if raw.dtype.kind not in "iuf":
                raise TypeError
            with np.errstate(over="ignore"):
                vector = raw.astype(np.float32)
        except (ValueError, TypeError):
            raise ValueError(
                f"an embedding must be {dim} numbers, got {_short(given)}"
            ) from None
        if vector.shape != (dim,):
            raise ValueError(
                f"an embedding must be {dim} numbers, got the shape "
                f"{list(vector.shape)}"
            )
        if not np.isfinite(vector).all():
            raise ValueError(
                "an embedding must be finite in float32, got "
                f"{raw[~np.isfinite(vector)][0]} at dimension "
                f"{int(np.argmin(np.isfinite(vector)))}"
            )
        if self.schema.metric == "cosine":
            if not vector.any():
                raise ValueError(
                    "the metric is cosine, so an embedding must not be zero"
                )
            return vector
        if self.schema.dtype not in ("none", "int8"):
            # Raises where rounding makes a number infinite.
            storage.encode(vector[np.newaxis], self.schema.dtype)
        return vector

    def _feature_arrays(self, change: Change) -> dict[str, np.ndarray]:
        features = dict(change.features or {})
        # A tower may know items by their ids.
        if ID in features and ID not in self._features:
            if features.pop(ID) != change.id:
                raise ValueError(
                    f"the feature {ID!r} must be the item's id {change.id!r}, "
                    f"got {(change.features or {})[ID]!r}"
                )
        try:
            arrays, batch = conversion.to_batch(features, self._features)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"`features` do not fit: {error}") from error
        if batch is not None:
            raise ValueError(
                "`features` must be those of one item, got a batch dimension"
            )
        return arrays

    def _all_features(
        self, changes: Sequence[Change], empty: Sequence[bool]
    ) -> dict[str, np.ndarray]:
        nothing = {
            name: np.full(
                [1, *(d or 0 for d in spec.inner_shape)],
                b"" if spec.dtype == object else 0,
                spec.dtype,
            )
            for name, spec in self._features.items()
        }
        rows = [
            nothing if e else self._feature_arrays(c)
            for c, e in zip(changes, empty, strict=True)
        ]
        return {
            name: np.concatenate([nothing[name][:0], *(r[name] for r in rows)])
            for name in self._features
        }

    def _ids(self, changes: Sequence[Change]) -> np.ndarray:
        if self.schema.id_dtype == "int64":
            return _int64(NO_ID if c.id is None else c.id for c in changes)
        out = np.empty([len(changes)], object)
        out[:] = [str(c.id or "").encode() for c in changes]
        return out


def _preferred(signatures: set[str]) -> str:
    """Of those that take all of a run, the one with the least work."""
    if UPDATE_BY_EMBEDDING in signatures:
        return UPDATE_BY_EMBEDDING
    return min(signatures)


def _int64(values: Iterator[Any]) -> np.ndarray:
    return np.fromiter(values, np.int64)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else text[:97] + "..."
