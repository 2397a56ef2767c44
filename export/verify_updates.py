# SPDX-License-Identifier: Apache-2.0
"""Checks the signatures that change an index, on a copy that is thrown away.

An item is deleted and put back as it was, through each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from export import brute_force
from export.brute_force import Table
from export.mismatch import expect
from lintf.index import columns, storage
from lintf.index.inputs import input_values
from lintf.index.signatures import (
    DELETED,
    INSERTED,
    MUTATING_SIGNATURES,
    REPLACED,
    UPDATE,
    UPDATE_ATTRIBUTES,
    UPDATE_BY_EMBEDDING,
    attribute_key,
)
from lintf.serving.changes import Change, ChangeEncoder

Call = Callable[..., dict[str, np.ndarray]]


def check_signatures(
    definitions: Mapping[str, Any], build: Mapping[str, Any]
) -> None:
    """Checks that an index takes updates if the build's record says so."""
    config = build.get("config", {}).get("update")
    if config is None:
        return
    there = MUTATING_SIGNATURES & set(definitions)
    wanted: frozenset[str] = frozenset()
    if config["enabled"] and build.get("ops") != "portable":
        wanted = MUTATING_SIGNATURES
    expect(
        there == wanted,
        "of the signatures that change an index there must be "
        f"{sorted(wanted) or 'none'}, got {sorted(there)}",
    )


def check_updates(
    call: Call,
    table: Table,
    definitions: Mapping[str, Any],
    features: Mapping[str, Any] | None,
    row: int = 0,
) -> str:
    """Deletes an item and puts it back.

    Args:
        call: Runs a signature, by name, on named arrays.
        table: What the index held before.
        definitions: The SignatureDefs by name.
        features: The item tower's features of the item, `[1, ...]` each, if
            they can be read.
        row: Where the item is in the table.

    Returns:
        What was checked; "" for an index that takes no updates.

    Raises:
        MismatchError: A change does not do what it must.
    """
    if UPDATE_BY_EMBEDDING not in definitions or not len(table.ids):
        return ""
    return _Check(call, table, definitions, row).run(features)


class _Check:
    """An item of a loaded index, as it was stored."""

    def __init__(
        self,
        call: Call,
        table: Table,
        definitions: Mapping[str, Any],
        row: int,
    ) -> None:
        self._call = call
        self._table = table
        self._row = row
        self._schema = table.schema
        self._encoder = ChangeEncoder(table.schema, definitions)
        self._id: Any = int(table.ids[row])
        if table.texts is not None:
            self._id = str(table.texts[row])
        self._vector = np.ones(self._schema.dim, np.float32)
        if table.embeddings is not None:
            self._vector = table.embeddings[row]
        self._attributes = {
            a.name: columns.decode(a, table.attributes[a.name][row : row + 1])[
                0
            ]
            for a in self._schema.attributes
            if a.decodable
        }

    def run(self, features: Mapping[str, Any] | None) -> str:
        """Makes all checks."""
        offsets = self._stats()["log_offsets"].tolist()
        self._change(UPDATE_BY_EMBEDDING, DELETED, delete=True)
        expect(not self._looked()["found"][0], "a deleted item must be gone")
        self._check_rows(len(self._table.ids) - 1)
        self._change(
            UPDATE_BY_EMBEDDING,
            INSERTED,
            embedding=self._vector,
            attributes=self._attributes,
        )
        self._check_item()
        self._check_rows(len(self._table.ids))
        self._check_found()
        expect(
            self._stats()["log_offsets"].tolist() == offsets,
            "changes that are not from the log must leave its offsets, "
            f"{offsets}, got {self._stats()['log_offsets'].tolist()}",
        )
        self._change(
            UPDATE_ATTRIBUTES,
            REPLACED,
            attributes=self._attributes,
            partition=0,
            previous_offset=offsets[0],
            offset=offsets[0] + 1,
        )
        self._check_item()
        offsets[0] += 1
        got = self._stats()["log_offsets"].tolist()
        expect(
            got == offsets,
            f"a change from the log must make its offsets {offsets}, got {got}",
        )
        if features is None or not self._encoder.has_item_tower:
            return "updates"
        self._check_features(features)
        return "updates by embedding and by features"

    def _check_features(self, features: Mapping[str, Any]) -> None:
        change = Change(self._id, delete=True)
        inputs = self._encoder.inputs(UPDATE, [change])
        # The form that items are read in is the tower's own.
        for name, value in features.items():
            inputs[name] = np.asarray(value)
        inputs["delete"] = np.array([False])
        for attribute in self._schema.attributes:
            key = attribute_key(attribute.name)
            if attribute.decodable:
                value = [self._attributes[attribute.name]]
                inputs[key] = input_values(attribute, value)
        status = self._call(UPDATE, **inputs)["status"].tolist()
        expect(
            status == [REPLACED],
            f"{UPDATE} must replace the item ({REPLACED}), got {status}",
        )
        self._check_item()

    def _change(self, signature: str, status: int, **fields: Any) -> None:
        inputs = self._encoder.inputs(signature, [Change(self._id, **fields)])
        got = self._call(signature, **inputs)["status"].tolist()
        expect(
            got == [status],
            f"{signature}: the status of {', '.join(fields)} must be "
            f"{status}, got {got}",
        )

    def _looked(self) -> dict[str, np.ndarray]:
        return self._call("lookup", id=[self._id])

    def _stats(self) -> dict[str, np.ndarray]:
        stats = self._call("index_stats", probe=np.zeros(1, np.int64))
        return {name: value[0] for name, value in stats.items()}

    def _check_rows(self, count: int) -> None:
        rows = int(self._stats()["live_rows"])
        expect(rows == count, f"there must be {count} items now, got {rows}")

    def _check_item(self) -> None:
        """The item must be as it was."""
        looked = self._looked()
        expect(bool(looked["found"][0]), "an item must be there once it is put")
        for attribute in self._schema.attributes:
            if not attribute.decodable:
                continue
            column = self._table.attributes[attribute.name]
            column = column[self._row : self._row + 1]
            stored = columns.decode_tensor(
                attribute, tf.constant(column)
            ).numpy()
            got = looked[attribute_key(attribute.name)]
            floats = stored.dtype.kind == "f"
            expect(
                np.array_equal(got, stored, equal_nan=floats),
                f"attribute {attribute.name!r} must be {stored[0]!r} after an "
                f"update, got {got[0]!r}",
            )
        if self._table.embeddings is None:
            return
        given = self._vector[np.newaxis]
        # A tower may round differently from one process to the next; twice,
        # because what is given has been rounded already.
        off = 2 * storage.error_bound(given, self._schema.dtype)
        off = off + 1e-5 * max(float(np.abs(given).max()), 1e-30)
        expect(
            bool((np.abs(looked["embedding"] - given) <= off).all()),
            "the embedding must be the item's after an update",
        )

    def _check_found(self) -> None:
        others = brute_force.all_but(self._table, self._row)
        if not others:
            return
        found = self._call(
            "retrieve_by_embedding",
            query_embedding=np.ones([1, self._schema.query_dim], np.float32),
            filter=[f"not ({others})"],
        )
        ids = found["ids"][0, : found["num_results"][0]].tolist()
        ids = [i.decode() if isinstance(i, bytes) else i for i in ids]
        expect(
            ids == [self._id],
            f"a search for the item {self._id!r} alone must find it after an "
            f"update, got {ids}",
        )
