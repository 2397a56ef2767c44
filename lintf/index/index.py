# SPDX-License-Identifier: Apache-2.0
"""The state of an index: plain TensorFlow variables on one module.

The checkpoint inside the SavedModel *is* the index (LiNR, section 3.1: item
vectors and model weights live in the same binary), and standard tools can
inspect it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lintf import ops
from lintf.index import columns, oporp, storage
from lintf.index.schema import IndexSchema
from lintf.similarity.spec import SimilaritySpec

NO_ID = -1
# Codes are stored in blocks of this many rows, word by word.
CODE_BLOCK = 64


@dataclasses.dataclass(frozen=True)
class Shard:
    """What makes an index a part of a larger one.

    Attributes:
        device: Where its variables lie.
        prefix: Of their names.
        id_text: The table of all shards, if ids are strings.
        similarity: The weights of all shards, if there is a similarity.
    """

    device: str
    prefix: str
    id_text: Any = None
    similarity: Any = None


@dataclasses.dataclass(frozen=True)
class Batch:
    """Items as the variables of an index hold them.

    Attributes:
        ids: `[n]` int64.
        texts: `[n]` ids as text; empty if they are integers.
        stored: Embeddings; None if the index has codes alone.
        codes: `[n, words]` int64, or None.
        columns: `[n, ...]` for each attribute in schema order.
    """

    ids: np.ndarray
    texts: np.ndarray
    stored: storage.StoredRows | None
    codes: np.ndarray | None
    columns: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> Batch:
        """Some of the items.

        Args:
            rows: `[m]` which.
        """

        def some(values: np.ndarray | None) -> Any:
            return None if values is None else values[rows]

        return Batch(
            self.ids[rows],
            self.texts[rows] if len(self.texts) else self.texts,
            self.stored and storage.StoredRows(*map(some, self.stored)),
            some(self.codes),
            [column[rows] for column in self.columns],
        )


class Index(tf.Module):
    """Items, attributes and ids, with capacity allocated in advance.

    Rows `[0, num_rows)` are the working set (the paper's high-water mark,
    section 4).

    Attributes:
        schema: What the index holds.
        capacity: Rows allocated.
        ids: `[capacity]` int64 variable; fingerprints if ids are strings;
            -1 where a row holds no item.
        embeddings: `[capacity, dim]` variable of the schema's dtype; None if
            only codes are stored.
        scales: `[capacity]` float32 variable for int8 embeddings: what each
            row is multiplied by; else None.
        codes: `[ceil(capacity / 64), words, 64]` int64 variable: word w of
            row r is `codes[r // 64, w, r % 64]`; None without a quantization.
        attributes: A variable `[capacity]` or `[capacity, width]` for each
            attribute, by name.
        num_rows: int64 scalar variable.
        log_offsets: `[log_partitions]` int64 variable: how far the change log
            has been applied; -1 before its first record.
        id_text: The text of string ids by fingerprint, else None.
        similarity: The weights of the schema's similarity, float32 variables
            by name; None without one. 0 until they are set or restored.

    >>> from lintf.index.schema import infer_attribute
    >>> year = infer_attribute("year", "int", [])
    >>> index = Index(IndexSchema(dim=2, attributes=(year,)), capacity=10)
    >>> index.append([7, 8], [[1, 0], [0, 1]], {"year": [1995, None]})
    >>> int(index.num_rows)
    2
    """

    def __init__(
        self,
        schema: IndexSchema,
        capacity: int,
        *,
        log_partitions: int = 1,
        name: str | None = None,
        shard: Shard | None = None,
    ):
        """Allocates an empty index.

        Args:
            schema: What the index holds.
            capacity: Rows to allocate, at least 1.
            log_partitions: Partitions of the change log, at least 1.
            name: The module's name.
            shard: What is different in a part of a larger index.

        Raises:
            ValueError: `capacity` or `log_partitions` is below 1.
        """
        super().__init__(name=name)
        for label, value in (
            ("capacity", capacity),
            ("log_partitions", log_partitions),
        ):
            if value < 1:
                raise ValueError(f"`{label}` must be at least 1, got {value}")
        self.schema = schema
        self.capacity = capacity
        self.id_text: Any = None
        if schema.id_dtype == "string":
            self.id_text = new_id_text() if shard is None else shard.id_text
        self.similarity: Any = None
        if schema.similarity is not None:
            self.similarity = (
                new_similarity_weights(schema.similarity)
                if shard is None
                else shard.similarity
            )
        if shard is None:
            self._allocate(log_partitions, "")
            self.resource = ops.IndexResource()
            return
        with tf.device(shard.device):
            self._allocate(log_partitions, shard.prefix)
            # The name tells resources of a session apart.
            self.resource = ops.IndexResource(f"{shard.prefix}index")

    def _allocate(self, log_partitions: int, prefix: str) -> None:
        schema, capacity = self.schema, self.capacity

        def variable(
            name: str, shape: list[int], dtype: tf.DType, value: Any
        ) -> tf.Variable:
            fill = tf.fill(shape, tf.constant(value, dtype))
            return tf.Variable(fill, trainable=False, name=prefix + name)

        self.ids = variable("ids", [capacity], tf.int64, NO_ID)
        self.embeddings: Any = None
        self.scales: Any = None
        self.codes: Any = None
        if schema.dtype != "none":
            self.embeddings = variable(
                "embeddings",
                [capacity, schema.dim],
                tf.dtypes.as_dtype(schema.dtype),
                0,
            )
        if schema.dtype == "int8":
            self.scales = variable("scales", [capacity], tf.float32, 0)
        if schema.quantization is not None:
            blocks = -(-capacity // CODE_BLOCK)
            shape = [blocks, schema.quantization.words, CODE_BLOCK]
            self.codes = variable("codes", shape, tf.int64, 0)
        self.attributes = {
            a.name: variable(
                f"attributes/{a.name}",
                [capacity] if a.width == 1 else [capacity, a.width],
                tf.dtypes.as_dtype(a.dtype),
                columns.missing_value(a),
            )
            for a in schema.attributes
        }
        self.num_rows = variable("num_rows", [], tf.int64, 0)
        self.log_offsets = variable(
            "log_offsets", [log_partitions], tf.int64, -1
        )

    @property
    def columns(self) -> list[tf.Variable]:
        """The attribute variables in schema order."""
        return [self.attributes[a.name] for a in self.schema.attributes]

    @property
    def index_bytes(self) -> int:
        """Bytes of all allocated rows."""
        return _row_bytes(self)

    @property
    def similarity_weights(self) -> list[tf.Variable]:
        """The similarity's weights in the operations' order; none without."""
        return weights_in_order(self.schema, self.similarity)

    def set_similarity_weights(self, weights: Mapping[str, Any]) -> None:
        """Sets the weights that searches score with.

        Args:
            weights: An array or tensor for each of the names of
                `schema.similarity.weight_shapes()`.

        Raises:
            ValueError: They are not those, not of their shapes or not finite,
                or the index has no similarity; nothing has changed.
        """
        assign_similarity_weights(self.schema, self.similarity, weights)

    def append(
        self,
        ids: Sequence[int] | Sequence[str] | np.ndarray,
        embeddings: Any,
        attributes: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Writes new items after the last row, all of them or none.

        Args:
            ids: `[n]` item ids: integers but -1, or non-empty strings.
            embeddings: `[n, dim]` finite numbers; normalised here if the
                metric is cosine, then rounded to the schema's dtype. Codes
                are made from what has not been rounded.
            attributes: `n` values for each attribute of the schema, as
                `lintf.index.columns.encode` takes them.

        Raises:
            ValueError: The items do not fit the schema or the capacity;
                nothing was written.
        """
        batch = self.encoded(ids, embeddings, attributes)
        self.check_room(len(batch))
        self.write(batch)

    def encoded(
        self,
        ids: Sequence[int] | Sequence[str] | np.ndarray,
        embeddings: Any,
        attributes: Mapping[str, Sequence[Any]] | None = None,
    ) -> Batch:
        """Items as the variables hold them.

        Args:
            ids: As `append` takes them, and so are the others.
            embeddings: As there.
            attributes: As there.

        Raises:
            ValueError: The items do not fit the schema.
        """
        vectors = self.checked_embeddings(embeddings)
        id_column, texts = self._checked_ids(ids)
        count = len(vectors)
        if len(id_column) != count:
            raise ValueError(
                f"`ids` and `embeddings` must have the same length, got "
                f"{len(id_column)} and {count}"
            )
        encoded = self._checked_attributes(attributes or {}, count)
        stored = None
        if self.embeddings is not None:
            stored = storage.encode(vectors, self.schema.dtype)
        return Batch(
            id_column,
            np.array(texts, object),
            stored,
            self._codes(vectors),
            encoded,
        )

    def check_room(self, count: int) -> None:
        """Raises ValueError unless that many items may be appended."""
        first = int(self.num_rows)
        if first + count > self.capacity:
            raise ValueError(
                f"the index is full: {count} items after {first} rows exceed "
                f"its capacity of {self.capacity}; build it with a larger one"
            )

    def write(self, batch: Batch) -> None:
        """Writes items, for which there is room, after the last row."""
        first = int(self.num_rows)
        writes: list[tuple[Any, Any]] = [(self.ids, batch.ids)]
        writes += zip(self.columns, batch.columns, strict=True)
        if batch.stored is not None:
            writes.append((self.embeddings, batch.stored.values))
            if self.scales is not None:
                writes.append((self.scales, batch.stored.scales))
        for variable, values in writes:
            ops.assign_rows(self.resource, variable, first, values)
        if batch.codes is not None:
            ops.assign_codes(self.resource, self.codes, first, batch.codes)
        if self.id_text is not None:
            self.id_text.insert(batch.ids, tf.constant(batch.texts, tf.string))
        self.num_rows.assign(first + len(batch))
        self.resource.invalidate()

    def invalidate(self) -> None:
        """Says that variables were restored or assigned."""
        self.resource.invalidate()

    def vectors(self, rows: Any) -> np.ndarray:
        """The stored embeddings of rows, decoded: `[n, dim]` float32.

        Args:
            rows: `[n]` row numbers.

        Raises:
            ValueError: The index has codes alone.
        """
        if self.embeddings is None:
            raise ValueError("there are no embeddings: the index has codes")
        # Dense reads: gathering from a variable makes every later read copy it.
        values = self.embeddings.read_value().numpy()[rows]
        if self.scales is None:
            return storage.decode(values)
        return storage.decode(values, self.scales.read_value().numpy()[rows])

    def check(self) -> None:
        """Checks what no single batch can: that ids are distinct.

        Raises:
            ValueError: Two items share an id, or two string ids share a
                fingerprint.
        """
        ids = self.ids.numpy()[: int(self.num_rows)]
        distinct, counts = np.unique(ids, return_counts=True)
        repeated = distinct[counts > 1]
        if repeated.size:
            names = repeated[:5].tolist()
            if self.id_text is not None:
                names = [t.decode() for t in self.id_text.lookup(names).numpy()]
            raise ValueError(
                f"item ids must be distinct, but {repeated.size} of them "
                f"occur more than once, such as {names}"
            )

    def checked_embeddings(self, embeddings: Any) -> np.ndarray:
        """Embeddings before they are rounded and encoded: `[n, dim]` float32.

        Args:
            embeddings: As `append` takes them.

        Raises:
            ValueError: They are not such.
        """
        vectors = np.ascontiguousarray(embeddings, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.schema.dim:
            raise ValueError(
                f"`embeddings` must be [n, {self.schema.dim}], got "
                f"{list(vectors.shape)}"
            )
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise ValueError(
                "embeddings must be finite, but that of item "
                f"{int(np.argmin(finite))} is not"
            )
        if self.schema.metric != "cosine":
            return vectors
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
        if (norms == 0).any():
            raise ValueError(
                "the metric is cosine, so embeddings must not be zero, but "
                f"that of item {int(np.argmin(norms))} is"
            )
        return (vectors / norms[:, np.newaxis]).astype(np.float32)

    def _codes(self, vectors: np.ndarray) -> np.ndarray | None:
        quantization = self.schema.quantization
        if quantization is None:
            return None
        codes: np.ndarray = ops.sign_oporp(
            vectors[:, : self.schema.coded_dim],
            bins=quantization.bins,
            repeats=quantization.repeats,
            seed=quantization.seed,
        ).numpy()
        return codes

    def _checked_ids(self, ids: Any) -> tuple[np.ndarray, list[str]]:
        if self.schema.id_dtype == "string":
            texts = [t.decode() if isinstance(t, bytes) else t for t in ids]
            if not all(isinstance(t, str) and t for t in texts):
                raise ValueError("item ids must be non-empty strings")
            column = columns.fingerprints(texts)
            assert self.id_text is not None
            known = self.id_text.lookup(column).numpy()
            for text, other in zip(texts, known, strict=True):
                if other and other.decode() != text:
                    raise ValueError(
                        f"the ids {text!r} and {other.decode()!r} have the "
                        "same 64-bit fingerprint; rename one"
                    )
            return column, texts
        column = np.asarray(ids)
        if column.ndim != 1 or (column.size and column.dtype.kind not in "iu"):
            raise ValueError(
                "item ids must be a vector of integers, got "
                f"{column.dtype} {list(column.shape)}"
            )
        if column.dtype.kind == "u" and (column > np.iinfo(np.int64).max).any():
            raise ValueError("item ids must fit int64")
        column = column.astype(np.int64)
        if (column == NO_ID).any():
            raise ValueError("item id -1 is reserved: it means no item")
        return column, []

    def _checked_attributes(
        self, attributes: Mapping[str, Sequence[Any]], count: int
    ) -> list[np.ndarray]:
        names = {a.name for a in self.schema.attributes}
        if set(attributes) != names:
            raise ValueError(
                "`attributes` must hold exactly those of the schema; missing: "
                f"{sorted(names - set(attributes)) or 'none'}, unknown: "
                f"{sorted(set(attributes) - names) or 'none'}"
            )
        encoded = [
            columns.encode(a, attributes[a.name])
            for a in self.schema.attributes
        ]
        for attribute, column in zip(
            self.schema.attributes, encoded, strict=True
        ):
            if len(column) != count:
                raise ValueError(
                    f"attribute {attribute.name!r} must have {count} values, "
                    f"got {len(column)}"
                )
        return encoded


class IndexState(tf.Module):
    """The variables of an index without its resource.

    What a portable export saves: the resource is one of lintf's own
    operations, which a stock server does not have. Codes beside embeddings
    are left out, because nothing there reads them.

    Attributes:
        projection: `[dim, bits]` float32 variable that makes the codes of
            queries, if codes are all that is stored; else None.
    """

    def __init__(self, index: Index):
        super().__init__()
        self.projection: Any = None
        self.codes: Any = None
        quantization = index.schema.quantization
        if index.embeddings is None:
            assert quantization is not None
            self.codes = index.codes
            # A variable and no constant, so that it is not in the graph.
            matrix = oporp.projection(quantization, index.schema.dim)
            self.projection = tf.Variable(
                matrix.astype(np.float32), trainable=False, name="projection"
            )
        self.ids = index.ids
        self.embeddings = index.embeddings
        self.scales = index.scales
        self.attributes = dict(index.attributes)
        self.num_rows = index.num_rows
        self.log_offsets = index.log_offsets
        self.id_text = index.id_text
        self.similarity = index.similarity

    @property
    def index_bytes(self) -> int:
        """Bytes of all rows, without what is left out."""
        return _row_bytes(self)


def new_id_text() -> Any:
    """An empty table of texts by fingerprint."""
    return tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, "")


def new_similarity_weights(spec: SimilaritySpec) -> dict[str, tf.Variable]:
    """Variables for the weights of a similarity, 0."""
    return {
        name: tf.Variable(
            tf.zeros(shape), trainable=False, name=f"similarity/{name}"
        )
        for name, shape in spec.weight_shapes().items()
    }


def weights_in_order(schema: IndexSchema, weights: Any) -> list[tf.Variable]:
    """The weights of a schema's similarity in the operations' order.

    Args:
        schema: Of the index.
        weights: By name; None if the schema has no similarity.
    """
    if schema.similarity is None:
        return []
    return [weights[name] for name in schema.similarity.weight_shapes()]


def assign_similarity_weights(
    schema: IndexSchema, variables: Any, weights: Mapping[str, Any]
) -> None:
    """Checks weights and assigns them; see `Index.set_similarity_weights`."""
    if schema.similarity is None:
        raise ValueError(
            "similarity weights must be given to an index with a learned "
            "similarity, but its schema has none"
        )
    shapes = schema.similarity.weight_shapes()
    if set(weights) != set(shapes):
        raise ValueError(
            "the similarity's weights must be exactly those of its spec; "
            f"missing: {sorted(set(shapes) - set(weights)) or 'none'}, "
            f"unknown: {sorted(set(weights) - set(shapes)) or 'none'}"
        )
    checked = {}
    for name, shape in shapes.items():
        value = np.asarray(weights[name], np.float32)
        if value.shape != shape:
            raise ValueError(
                f"the similarity's weight {name!r} must have shape "
                f"{list(shape)}, got {list(value.shape)}"
            )
        if not np.isfinite(value).all():
            raise ValueError(
                f"the similarity's weight {name!r} must be finite, got NaN or "
                "an infinity"
            )
        checked[name] = value
    for name, value in checked.items():
        variables[name].assign(value)


def code_rows(codes: Any, count: int) -> Any:
    """Codes row by row, from the blocks that they are stored in.

    Args:
        codes: `[blocks, words, 64]` int64, an array or a tensor.
        count: How many rows to take.

    Returns:
        `[count, words]`, of the same kind.
    """
    words = codes.shape[1]
    if isinstance(codes, np.ndarray):
        return codes.transpose(0, 2, 1).reshape(-1, words)[:count]
    by_row = tf.reshape(tf.transpose(codes, [0, 2, 1]), [-1, words])
    return by_row[:count]


def _row_bytes(state: Index | IndexState) -> int:
    variables = [
        state.ids,
        state.embeddings,
        state.scales,
        state.codes,
        *state.attributes.values(),
    ]
    return sum(
        v.shape.num_elements() * v.dtype.size
        for v in variables
        if v is not None
    )
