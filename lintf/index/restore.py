# SPDX-License-Identifier: Apache-2.0
"""A served index from a SavedModel on disk, with room to grow.

The rows are those of the SavedModel as they are stored, so an item keeps its
bits. Rows that hold no item are left out; the others keep their order, which
breaks ties between scores.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from lintf.index.batching import Batching
from lintf.index.index import CODE_BLOCK, NO_ID, Index, code_rows
from lintf.index.plan import Variant
from lintf.index.schema import IndexSchema
from lintf.index.served import SETTINGS_FILE
from lintf.index.sharded import AnyIndex, ShardedIndex, new_index, shards_of
from lintf.index.shards import Shards
from lintf.index.towers import RestoredTower

# Where the index is in the checkpoint of a SavedModel.
_STATE = "state"


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a SavedModel was made from.

    Attributes:
        index: The index.
        towers: `query_tower` and `item_tower`, those that there are.
        settings: The other arguments of `ServedIndex`, but for its build id.
        saved_capacity: Rows that it had.
    """

    index: AnyIndex
    towers: Mapping[str, RestoredTower]
    settings: Mapping[str, Any]
    saved_capacity: int

    @property
    def arguments(self) -> dict[str, Any]:
        """All but the index and the build id, for `ServedIndex`."""
        return {**self.settings, **self.towers}


def restore(
    path: str | os.PathLike[str],
    capacity: int | None = None,
    *,
    at_least: int | None = None,
) -> Restored:
    """Reads a SavedModel that `ServedIndex.save` wrote.

    Args:
        path: Its directory.
        capacity: Rows to allocate; None for as many as it had.
        at_least: In place of `capacity`: this many, or as many as it had.

    Raises:
        ValueError: It is no such SavedModel, or its items do not fit.
    """
    path = pathlib.Path(path)
    loaded, settings = load(path)
    shape = shape_of(loaded)
    if capacity is None:
        capacity = max(shape.capacity, at_least or 0)
    texts = _Texts(path) if shape.schema.id_dtype == "string" else None
    rows = _rows_of(loaded.state, shape.schema, texts)
    index = _made_of(rows, shape.schema, capacity, sharding_of(path))
    if shape.schema.similarity is not None:
        index.set_similarity_weights(_weights_of(loaded.state, shape.schema))
    return Restored(index, towers(loaded), settings, shape.capacity)


class Shape(NamedTuple):
    """What an empty index is made with."""

    schema: IndexSchema
    capacity: int
    log_partitions: int


def shape_of(loaded: Any) -> Shape:
    """The shape of a loaded index."""
    stats = loaded.signatures["index_stats"](probe=tf.constant([0], tf.int64))
    return Shape(
        IndexSchema.from_json(stats["schema"].numpy()[0]),
        int(stats["capacity"].numpy()[0]),
        stats["log_offsets"].shape[1],
    )


def sharding_of(path: pathlib.Path) -> Shards:
    """How the index of a SavedModel that `load` takes is divided."""
    data = json.loads((path / SETTINGS_FILE).read_text("utf-8"))
    shards = data.get("shards")
    if shards is None:
        return Shards()
    return Shards(shards["count"], tuple(shards["devices"]))


def log_offsets_of(path: pathlib.Path) -> list[int]:
    """The log offsets of a SavedModel, without loading it.

    Raises:
        ValueError: It is not that of an index.
    """
    try:
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        key = f"{_STATE}/log_offsets/.ATTRIBUTES/VARIABLE_VALUE"
        return reader.get_tensor(key).tolist()
    except (ValueError, tf.errors.OpError) as error:
        raise ValueError(
            f"{path} must be the SavedModel of an index: {error}"
        ) from error


def load(path: pathlib.Path) -> tuple[Any, dict[str, Any]]:
    """Loads a SavedModel of `ServedIndex`.

    Returns:
        What TensorFlow makes of it, and `Restored.settings`.

    Raises:
        ValueError: It is no such SavedModel, or one without settings.
    """
    try:
        data = json.loads((path / SETTINGS_FILE).read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path} must be a SavedModel that holds {SETTINGS_FILE}, and has "
            "none: it is another model, or was exported before indexes could "
            "be restored; export it again"
        ) from None
    if data["portable"]:
        raise ValueError(
            f"{path} is a portable index, which takes no updates; export it "
            "with lintf's operations"
        )
    try:
        loaded = tf.saved_model.load(os.fspath(path))
    except (OSError, tf.errors.OpError) as error:
        raise ValueError(f"cannot load the SavedModel {path}: {error}") from (
            error
        )
    return loaded, _settings(data)


def towers(loaded: Any) -> dict[str, RestoredTower]:
    """The towers of a loaded SavedModel, by their argument of `ServedIndex`."""
    found = {}
    for side in ("query", "item"):
        function = getattr(loaded, f"{side}_function", None)
        if function is not None:
            state = getattr(loaded, f"{side}_tower")
            found[f"{side}_tower"] = RestoredTower(state, function)
    return found


def compact(index: AnyIndex) -> None:
    """Moves items to the front, in their order, so that no row is a hole."""
    rows = _rows_of(index, index.schema, index.id_text)
    _fill(index, rows)


def resized(index: AnyIndex, capacity: int) -> AnyIndex:
    """A copy of an index with another capacity, and without holes.

    Raises:
        ValueError: The items do not fit.
    """
    rows = _rows_of(index, index.schema, index.id_text)
    sharding = Shards()
    if isinstance(index, ShardedIndex):
        sharding = index.sharding
    copy = _made_of(rows, index.schema, capacity, sharding)
    if index.schema.similarity is not None:
        copy.set_similarity_weights(_weights_of(index, index.schema))
    return copy


def similarity_weights(loaded: Any) -> dict[str, np.ndarray]:
    """The weights of a loaded index's similarity by name; none without one."""
    return _weights_of(loaded.state, shape_of(loaded).schema)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """All items of an index, as they are stored.

    Attributes:
        by_variable: Rows by variable name, `[items, ...]`; codes by row.
        texts: `[items]` the ids as text, where they are strings.
        log_offsets: `[partitions]`.
    """

    by_variable: dict[str, np.ndarray]
    texts: np.ndarray | None
    log_offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.by_variable["ids"])

    def take(self, rows: np.ndarray) -> _Rows:
        """Some of the items, without their texts."""
        some = {name: values[rows] for name, values in self.by_variable.items()}
        return dataclasses.replace(self, by_variable=some, texts=None)


def _weights_of(state: Any, schema: IndexSchema) -> dict[str, np.ndarray]:
    """The similarity's weights of an index, or of a loaded one."""
    if schema.similarity is None:
        return {}
    return {
        name: state.similarity[name].read_value().numpy()
        for name in schema.similarity.weight_shapes()
    }


def _settings(data: dict[str, Any]) -> dict[str, Any]:
    batching = data["batching"]
    arguments = {name: v for name, v in data.items() if name != "shards"}
    return {
        **arguments,
        "variants": [Variant(**v) for v in data["variants"]],
        "batching": batching and Batching(**batching),
    }


def _made_of(
    rows: _Rows, schema: IndexSchema, capacity: int, sharding: Shards
) -> AnyIndex:
    if len(rows) > capacity:
        raise ValueError(
            f"the capacity must be at least {len(rows)}, the number of items, "
            f"got {capacity}"
        )
    index = new_index(
        schema, capacity, sharding, log_partitions=len(rows.log_offsets)
    )
    _fill(index, rows)
    return index


class _Texts:
    """The text of string ids from a checkpoint.

    A loaded table can be looked up too, but only inside its own graph.
    """

    def __init__(self, path: pathlib.Path) -> None:
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        key = f"{_STATE}/id_text/.ATTRIBUTES/table"
        keys = reader.get_tensor(f"{key}-keys").tolist()
        values = reader.get_tensor(f"{key}-values").tolist()
        self._texts = dict(zip(keys, values, strict=True))

    def lookup(self, ids: np.ndarray) -> tf.Tensor:
        return tf.constant([self._texts[i] for i in ids.tolist()], tf.string)


def _rows_of(state: Any, schema: IndexSchema, id_text: Any) -> _Rows:
    """The rows of an index, of its variables alone, or of a loaded one."""
    shards = getattr(state, "shards", [state])
    parts = [_rows_of_shard(shard, schema) for shard in shards]
    rows = {
        name: np.concatenate([part[name] for part in parts])
        for name in parts[0]
    }
    texts = None
    if schema.id_dtype == "string":
        texts = id_text.lookup(rows["ids"]).numpy()
    return _Rows(rows, texts, state.log_offsets.read_value().numpy())


def _rows_of_shard(state: Any, schema: IndexSchema) -> dict[str, np.ndarray]:
    count = int(state.num_rows.read_value())
    ids = state.ids.read_value().numpy()[:count]
    live = np.flatnonzero(ids != NO_ID)
    rows = {
        name: variable.read_value().numpy()[:count][live]
        for name, variable in _variables(state, schema).items()
    }
    if schema.quantization is not None:
        codes = code_rows(state.codes.read_value().numpy(), count)
        rows["codes"] = codes[live]
    return rows


def _variables(state: Any, schema: IndexSchema) -> dict[str, Any]:
    """The variables whose rows are items, but for codes."""
    named = {"ids": state.ids}
    if schema.dtype != "none":
        named["embeddings"] = state.embeddings
    if schema.dtype == "int8":
        named["scales"] = state.scales
    for attribute in schema.attributes:
        named[f"attributes/{attribute.name}"] = state.attributes[attribute.name]
    return named


def _fill(index: AnyIndex, rows: _Rows) -> None:
    """Makes rows all that an index holds.

    Raises:
        ValueError: One of its shards is too small.
    """
    if isinstance(index, ShardedIndex):
        numbers = index.shard_of(rows.by_variable["ids"])
        parts = [
            rows.take(np.flatnonzero(numbers == i))
            for i in range(len(index.shards))
        ]
    else:
        parts = [rows]
    for i, (shard, part) in enumerate(
        zip(shards_of(index), parts, strict=True)
    ):
        if len(part) > shard.capacity:
            raise ValueError(
                f"shard {i} has room for {shard.capacity} items, but "
                f"{len(part)} belong into it; take a larger capacity"
            )
    for shard, part in zip(shards_of(index), parts, strict=True):
        _fill_shard(shard, part)
    if index.id_text is not None:
        index.id_text.remove(index.id_text.export()[0])
        index.id_text.insert(rows.by_variable["ids"], rows.texts)
    index.log_offsets.assign(rows.log_offsets)
    index.invalidate()


def _fill_shard(index: Index, rows: _Rows) -> None:
    count = len(rows)
    empty = Index(index.schema, 1)
    for name, variable in _variables(index, index.schema).items():
        missing = _variables(empty, index.schema)[name].read_value().numpy()
        values = np.repeat(missing, index.capacity, axis=0)
        values[:count] = rows.by_variable[name]
        variable.assign(values)
    if index.codes is not None:
        blocks, words, _ = index.codes.shape
        codes = np.zeros([blocks * CODE_BLOCK, words], np.int64)
        codes[:count] = rows.by_variable["codes"]
        codes = codes.reshape(blocks, CODE_BLOCK, words).transpose(0, 2, 1)
        index.codes.assign(codes)
    index.num_rows.assign(count)
