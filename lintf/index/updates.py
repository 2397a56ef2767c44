# SPDX-License-Identifier: Apache-2.0
"""Live updates: what is behind the signatures that change an index.

Attributes are encoded and raw features embedded in the graph, so that a
client needs neither vocabularies nor towers. Every input is checked before
anything changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from lintf import ops
from lintf.index import columns, requests, towers
from lintf.index.encoder import AttributeEncoder
from lintf.index.index import NO_ID
from lintf.index.inputs import input_spec
from lintf.index.schema import IndexSchema
from lintf.index.sharded import AnyIndex
from lintf.index.sharded_update import apply_update
from lintf.index.signatures import (
    DELETE,
    EMBEDDING,
    ID,
    LOG_OFFSET,
    LOG_PARTITION,
    LOG_PREVIOUS_OFFSET,
    RESERVED_INPUTS,
    UPDATE,
    UPDATE_ATTRIBUTES,
    UPDATE_BY_EMBEDDING,
    attribute_key,
)

Tensors = dict[str, tf.Tensor]
Specs = dict[str, tf.TensorSpec]


class Updates:
    """Makes the signatures that change an index.

    Attributes:
        encoders: One for each attribute, to be tracked by what is saved.
    """

    def __init__(self, index: AnyIndex, item_tower: Any, max_rows: int):
        """Prepares the signatures.

        Args:
            index: That changes.
            item_tower: As `ServedIndex` takes it, or None.
            max_rows: Most rows of a request; more is INVALID_ARGUMENT.
        """
        self._index = index
        self._tower = item_tower
        self._max_rows = max_rows
        self.encoders = [AttributeEncoder(a) for a in index.schema.attributes]

    def signatures(self) -> dict[str, Any]:
        """The concrete functions by signature name; two may be the same."""
        schema = self._index.schema
        attributes = {
            ID: id_spec(schema),
            **{attribute_key(a.name): input_spec(a) for a in schema.attributes},
            **{
                name: tf.TensorSpec([None], tf.int64)
                for name in (LOG_PARTITION, LOG_PREVIOUS_OFFSET, LOG_OFFSET)
            },
        }
        rows = {**attributes, DELETE: tf.TensorSpec([None], tf.bool)}
        by_embedding = self._signature(
            lambda inputs: inputs[EMBEDDING],
            {**rows, EMBEDDING: tf.TensorSpec([None, schema.dim], tf.float32)},
        )
        update = by_embedding
        if self._tower is not None:
            update = self._signature(
                self._embed, {**self._tower.feature_specs, **rows}
            )
        return {
            UPDATE: update,
            UPDATE_BY_EMBEDDING: by_embedding,
            UPDATE_ATTRIBUTES: self._signature(lambda inputs: None, attributes),
        }

    def _embed(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        features = {name: inputs[name] for name in self._tower.feature_specs}
        return tf.cast(self._tower(features), tf.float32)

    def _signature(
        self,
        embed: Callable[[Mapping[str, tf.Tensor]], tf.Tensor | None],
        specs: Specs,
    ) -> Any:
        def update(**inputs: tf.Tensor) -> Tensors:
            checked = requests.checked(inputs, specs, self._max_rows)
            return self._update(checked, embed(checked))

        return requests.concrete(update, specs)

    def _update(self, inputs: Tensors, embedding: tf.Tensor | None) -> Tensors:
        index = self._index
        texts = inputs[ID]
        strings = index.id_text is not None
        skipped = texts == ("" if strings else NO_ID)
        no_id = tf.constant(NO_ID, tf.int64)
        ids = texts
        if strings:
            ids = tf.where(skipped, no_id, columns.fingerprint_tensor(texts))
        # Of a skip nothing counts but its position in the log.
        delete = inputs.get(DELETE, tf.zeros_like(skipped)) | skipped
        values = [
            encoder(inputs[attribute_key(encoder.attribute.name)], delete)
            for encoder in self.encoders
        ]
        needed = values if embedding is None else [*values, embedding]
        with tf.control_dependencies(needed):
            texts = tf.identity(texts)
        if strings:
            inserted = self._keep_texts(
                ids, texts, ~delete if embedding is not None else None
            )
            # A row is found by searches only once its id has a text.
            with tf.control_dependencies(inserted):
                ids = tf.identity(ids)
        updated = apply_update(
            index,
            ids,
            # New attributes alone delete nothing.
            delete if embedding is not None else tf.zeros_like(delete),
            embedding,
            values,
            ops.LogPosition(
                inputs[LOG_PARTITION],
                inputs[LOG_PREVIOUS_OFFSET],
                inputs[LOG_OFFSET],
            ),
        )
        return {"status": updated.status, "num_rows": updated.num_rows}

    def _keep_texts(
        self, ids: tf.Tensor, texts: tf.Tensor, upserts: tf.Tensor | None
    ) -> list[Any]:
        """Checks ids against the texts of their fingerprints; adds new ones.

        Args:
            ids: `[batch]` int64 fingerprints, -1 for none.
            texts: `[batch]` string.
            upserts: `[batch]` bool, the rows whose text is added; None for
                none of them.

        Returns:
            What must have run before the rows change.

        Raises:
            tf.errors.InvalidArgumentError: When it runs: two different texts
                have the same fingerprint. The message names a row.
        """
        table = self._index.id_text
        assert table is not None
        known = tf.ensure_shape(table.lookup(ids), texts.shape)
        clashes = tf.where((known != "") & (known != texts))[:, 0]
        # Two rows of the request may clash, too.
        order = tf.argsort(ids)
        ordered, words = tf.gather(ids, order), tf.gather(texts, order)
        twins = (ordered[1:] == ordered[:-1]) & (words[1:] != words[:-1])
        twins = tf.gather(order, tf.where(twins)[:, 0] + 1)
        rows = tf.concat([clashes, tf.cast(twins, tf.int64)], 0)[:1]
        check = tf.debugging.Assert(
            tf.equal(tf.size(rows), 0),
            [
                "item ids must have different 64-bit fingerprints, but "
                "another id has that of row",
                rows,
                tf.gather(texts, rows),
                "; rename one",
            ],
        )
        checks = [] if check is None else [check]
        if upserts is None:
            return checks
        with tf.control_dependencies(checks):
            added = tf.where(upserts & (known == ""))[:, 0]
        insert = table.insert(tf.gather(ids, added), tf.gather(texts, added))
        return [] if insert is None else [insert]


def id_spec(schema: IndexSchema) -> tf.TensorSpec:
    """The input that item ids come by."""
    string = schema.id_dtype == "string"
    return tf.TensorSpec([None], tf.string if string else tf.int64)


def check_item_tower(tower: Any, schema: IndexSchema) -> None:
    """Checks that a tower fits an index and `update` can take its features.

    Args:
        tower: As `ServedIndex` takes it.
        schema: Of the index.

    Raises:
        ValueError: It does not.
    """
    keys = {attribute_key(a.name) for a in schema.attributes}
    towers.check(tower, "item", schema.dim, keys | RESERVED_INPUTS)
    spec, wanted = tower.feature_specs.get(ID), id_spec(schema)
    if spec is not None and (spec.shape, spec.dtype) != (
        wanted.shape,
        wanted.dtype,
    ):
        raise ValueError(
            f"the item tower's feature {ID!r} must be the item's id, "
            f"{wanted.dtype.name} [batch], got {spec}"
        )
