# SPDX-License-Identifier: Apache-2.0
"""The items of an export job, checked before anything is built from them."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from export.config import ROW_NUMBERS, AttributeConfig, JobConfig
from export.sources import (
    ArraySource,
    ItemsError,
    Kind,
    Source,
    Values,
    Want,
    check_columns,
    load_npy,
    open_source,
)
from lintf.index import columns
from lintf.index.schema import Attribute, infer_attribute


@dataclasses.dataclass(frozen=True)
class ItemBatch:
    """Consecutive items.

    Attributes:
        start: Row of the first.
        ids: `[n]` int64, or a list of strings.
        embeddings: `[n, dim]` float32, or None if a tower computes them.
        attributes: Name -> `n` values, None where there is none.
        features: Item tower's input -> array with `n` leading entries.
    """

    start: int
    ids: Any
    embeddings: np.ndarray | None
    attributes: Mapping[str, Values]
    features: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Scan:
    """What reading all items once has shown.

    Attributes:
        num_rows: How many there are.
        dim: Of the given embeddings; None if a tower computes them.
        attributes: How each attribute is to be stored.
        fingerprint: Of everything that the job reads.
    """

    num_rows: int
    dim: int | None
    attributes: tuple[Attribute, ...]
    fingerprint: str


class Items:
    """Reads the items that a config names."""

    def __init__(self, config: JobConfig) -> None:
        """Opens the files.

        Raises:
            ItemsError: A file or a column is not there, or of the wrong form.
        """
        self._config = config
        self.source = _open(config)
        self._string_ids = config.index.id_dtype == "string"
        if config.items.id == ROW_NUMBERS and self._string_ids:
            raise ItemsError(
                f"items.id: {ROW_NUMBERS!r} numbers the rows, which needs "
                "index.id_dtype int64, got string"
            )
        self._embedding_file: np.ndarray | None = None
        given = config.items.embedding
        if given is not None and given.path is not None:
            self._embedding_file = _open_embeddings(
                pathlib.Path(given.path), self.source
            )
        self.feature_specs: Mapping[str, Any] = {}
        check_columns(self.source, self._wants())

    def take_features(self, specs: Mapping[str, Any]) -> None:
        """Lets batches carry the item tower's inputs, by `feature_specs`."""
        self.feature_specs = dict(specs)
        check_columns(self.source, self._wants())

    def _wants(self) -> list[Want]:
        config = self._config
        wants = []
        if config.items.id != ROW_NUMBERS:
            kind: Kind = "id_string" if self._string_ids else "id_int64"
            wants.append(Want(config.items.id, kind))
        given = config.items.embedding
        if given is not None and given.column is not None:
            wants.append(Want(given.column, "vector"))
        wants += [Want(a.source, a.kind) for a in config.attributes]
        wants += [
            Want(self._feature_column(name), _feature_kind(name, spec))
            for name, spec in self.feature_specs.items()
        ]
        return wants

    def _feature_column(self, name: str) -> str:
        return self._config.items.features.get(name, name)

    def batches(self, batch_size: int, start: int = 0) -> Iterator[ItemBatch]:
        """Yields the items from row `start` on.

        Raises:
            ItemsError: A value is not what it must be.
        """
        wants = self._wants()
        position = start
        for values in self.source.batches(wants, batch_size, start):
            rest = iter(zip(wants, values, strict=True))
            count = (
                len(values[0]) if values else self._count(position, batch_size)
            )
            if self._config.items.id == ROW_NUMBERS:
                ids: Any = np.arange(position, position + count)
            else:
                ids = self._ids(*next(rest), position)
            embeddings = self._embeddings(rest, position, count)
            attributes = {
                a.name: _without_missing(a, next(rest)[1])
                for a in self._config.attributes
            }
            features = {
                name: self._feature(name, spec, *next(rest), position)
                for name, spec in self.feature_specs.items()
            }
            yield ItemBatch(position, ids, embeddings, attributes, features)
            position += count
        if position == 0:
            raise _no_items(self.source)
        if self._embedding_file is not None and position < len(
            self._embedding_file
        ):
            raise ItemsError(
                f"{self._config.items.embedding.path}: expected one row an "  # type: ignore[union-attr]
                f"item, got {len(self._embedding_file)} rows for {position} "
                f"items of {self.source.name}"
            )

    def _count(self, position: int, batch_size: int) -> int:
        assert self.source.num_rows is not None
        return min(batch_size, self.source.num_rows - position)

    def _ids(self, want: Want, values: Values, position: int) -> Any:
        if self._string_ids:
            for row, value in enumerate(values):
                if not isinstance(value, str) or value == "":
                    raise self._bad(
                        want, position + row, "a text that is not empty", value
                    )
            return list(values)
        array = np.asarray(values)
        if array.ndim == 1 and array.dtype.kind in "iu":
            wrong = (array == -1) | (array > np.iinfo(np.int64).max)
            if not wrong.any():
                return array.astype(np.int64)
        for row, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(
                value, int | np.integer
            ):
                raise self._bad(want, position + row, "an integer id", value)
            if value == -1 or not -(2**63) <= value < 2**63:
                raise self._bad(
                    want,
                    position + row,
                    "an int64 id other than -1 (which stands for no item)",
                    value,
                )
        return np.array(values, np.int64)

    def _embeddings(
        self, rest: Iterator[tuple[Want, Values]], position: int, count: int
    ) -> np.ndarray | None:
        given = self._config.items.embedding
        if given is None:
            return None
        if self._embedding_file is not None:
            name, column = str(given.path), "embedding"
            if position + count > len(self._embedding_file):
                raise ItemsError(
                    f"{name}: expected one row an item, got "
                    f"{len(self._embedding_file)} rows, but "
                    f"{self.source.name} has more items"
                )
            array = self._embedding_file[position : position + count]
        else:
            want, values = next(rest)
            name, column = self.source.name, want.column
            array = self._matrix(want, values, position)
        with np.errstate(over="ignore"):
            out = np.array(array, np.float32)
        finite = np.isfinite(out).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            place = int(np.argmin(np.isfinite(out[row])))
            raise ItemsError(
                f"{name}: column {column!r}, row {position + row}: expected "
                f"finite float32 numbers, got {array[row][place]} at "
                f"dimension {place}"
            )
        return out

    def _matrix(self, want: Want, values: Values, position: int) -> np.ndarray:
        if isinstance(values, list):
            width = next((len(v) for v in values if _is_list(v)), None)
            for row, value in enumerate(values):
                if not _is_list(value):
                    raise self._bad(
                        want, position + row, "a list of numbers", value
                    )
                if len(value) != width:
                    raise ItemsError(
                        f"{self.source.name}: column {want.column!r}, row "
                        f"{position + row}: expected {width} numbers, got "
                        f"{len(value)}"
                    )
        array = np.asarray(values)
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise ItemsError(
                f"{self.source.name}: column {want.column!r}: expected "
                f"embeddings, [rows, dim] numbers, got shape "
                f"{list(array.shape)}, dtype {array.dtype}"
            )
        return array

    def _feature(
        self, name: str, spec: Any, want: Want, values: Values, position: int
    ) -> np.ndarray:
        dtype = np.dtype(spec.dtype.as_numpy_dtype)
        if spec.shape.rank == 2:
            width = spec.shape[1]
            if width is None:
                width = max([1, *(len(v) for v in values if v is not None)])
            padding = "" if dtype.kind == "O" else -1
            out = np.full((len(values), width), padding, dtype)
            for row, value in enumerate(values):
                given = [] if value is None else list(value)
                if len(given) > width:
                    raise self._bad(
                        want,
                        position + row,
                        f"at most {width} values, as the item tower takes",
                        value,
                    )
                out[row, : len(given)] = given
            return out
        if dtype.kind == "O":
            return np.array(
                ["" if v is None else v for v in values], dtype=object
            )
        for row, value in enumerate(values):
            if value is None:
                raise self._bad(
                    want,
                    position + row,
                    f"a number (the item tower's input {name!r} needs one)",
                    value,
                )
        return np.asarray(values).astype(dtype)

    def _bad(
        self, want: Want, row: int, expected: str, value: Any
    ) -> ItemsError:
        got = "nothing" if value is None else repr(value)[:80]
        return ItemsError(
            f"{self.source.name}: column {want.column!r}, row {row}: expected "
            f"{expected}, got {got}"
        )

    def fingerprint(self) -> str:
        """The same for the same items, wherever the files lie."""
        digest = hashlib.sha256(self.source.fingerprint().encode())
        if self._embedding_file is not None:
            source = ArraySource("", {"embedding": self._embedding_file})
            digest.update(source.fingerprint().encode())
        return digest.hexdigest()


def scan(items: Items, config: JobConfig) -> Scan:
    """Reads and checks all items once, before time is spent on them.

    Raises:
        ItemsError: Something is wrong with the items; see `Items.batches`.
            Also: an id occurs twice, the embeddings' length changes, a value
            does not fit its attribute.
    """
    seen = _Ids(items, config)
    gathered = [_Gathered(a, items.source.name) for a in config.attributes]
    dim: int | None = None
    rows = 0
    for batch in items.batches(config.fill.batch_size):
        seen.add(batch)
        if batch.embeddings is not None:
            found = batch.embeddings.shape[1]
            if dim is not None and found != dim:
                raise ItemsError(
                    f"{items.source.name}: row {batch.start}: expected "
                    f"embeddings of {dim} numbers as before, got {found}"
                )
            dim = found
        for one in gathered:
            one.add(batch.attributes[one.config.name], batch.start)
        rows += len(batch)
    seen.finish()
    if dim == 0:
        raise ItemsError(
            f"{items.source.name}: expected embeddings of at least 1 number, "
            "got 0"
        )
    return Scan(
        rows,
        dim,
        tuple(one.attribute() for one in gathered),
        items.fingerprint(),
    )


class _Ids:
    """Finds ids that occur twice."""

    def __init__(self, items: Items, config: JobConfig) -> None:
        self._name = items.source.name
        self._column = config.items.id
        self._arrays: list[np.ndarray] = []
        self._rows: dict[str, int] = {}
        self._none_twice = config.items.id == ROW_NUMBERS

    def add(self, batch: ItemBatch) -> None:
        if self._none_twice:
            return
        if isinstance(batch.ids, np.ndarray):
            self._arrays.append(batch.ids)
            return
        for row, text in enumerate(batch.ids, start=batch.start):
            first = self._rows.setdefault(text, row)
            if first != row:
                raise self._twice(text, first, row)

    def finish(self) -> None:
        if not self._arrays:
            return
        ids = np.concatenate(self._arrays)
        order = np.argsort(ids, kind="stable")
        same = ids[order][1:] == ids[order][:-1]
        if same.any():
            # Of all repeats, the one that comes first in the file.
            repeats = order[1:][same]
            row = int(repeats.min())
            first = int(np.argmax(ids == ids[row]))
            raise self._twice(int(ids[row]), first, row)

    def _twice(self, value: Any, first: int, row: int) -> ItemsError:
        return ItemsError(
            f"{self._name}: column {self._column!r}, row {row}: expected "
            f"distinct ids, got {value!r} again (first in row {first})"
        )


class _Gathered:
    """What one attribute's values are, to choose how to store them."""

    def __init__(self, config: AttributeConfig, name: str) -> None:
        self.config = config
        self._name = name
        self._words: set[str] = set()
        self._most = 1
        self._numeric: Attribute | None = None
        if config.kind not in ("category", "tags"):
            self._numeric = infer_attribute(
                config.name, config.kind, (), dtype=config.dtype
            )

    def add(self, values: Values, start: int) -> None:
        if self._numeric is not None:
            self._check_numbers(self._numeric, values, start)
        elif self.config.kind == "category":
            for row, value in enumerate(values, start=start):
                if value is not None and not isinstance(value, str):
                    raise self._bad(row, "text or nothing", value)
            self._words.update(v for v in values if v)
        else:
            for row, value in enumerate(values, start=start):
                self._add_tags(value, row)

    def _add_tags(self, value: Any, row: int) -> None:
        if value is None:
            return
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise self._bad(row, "a list of texts or nothing", value)
        words = {w for w in value if w}
        if not all(isinstance(w, str) for w in words):
            raise self._bad(row, "a list of texts or nothing", value)
        width = self.config.width
        if width is not None and len(words) > width:
            raise self._bad(row, f"at most {width} tags (`width`)", value)
        self._words |= words
        self._most = max(self._most, len(words))

    def _check_numbers(
        self, attribute: Attribute, values: Values, start: int
    ) -> None:
        try:
            columns.encode(attribute, values)
        except ValueError:
            # Encoding one by one finds the row; it is slow, but the end.
            for row, value in enumerate(values, start=start):
                try:
                    columns.encode(attribute, [value])
                except ValueError:
                    raise self._bad(
                        row,
                        f"{_A_VALUE[self.config.kind]} that {attribute.dtype} "
                        "holds, or nothing",
                        value,
                    ) from None
            raise

    def _bad(self, row: int, expected: str, value: Any) -> ItemsError:
        return ItemsError(
            f"{self._name}: column {self.config.source!r}, row {row}: "
            f"expected {expected} (attribute {self.config.name!r}), got "
            f"{value!r}"[:400]
        )

    def attribute(self) -> Attribute:
        if self._numeric is not None:
            return self._numeric
        config = self.config
        words = sorted(self._words)
        width = (config.width or self._most) if config.kind == "tags" else None
        values: Sequence[Any] = words if config.kind == "category" else [words]
        try:
            return infer_attribute(
                config.name,
                config.kind,
                values,
                encoding=config.encoding,
                dtype=config.dtype,
                width=width,
            )
        except ValueError as error:
            raise ItemsError(
                f"{self._name}: column {config.source!r}: {error}"
            ) from error


_A_VALUE = {
    "int": "an integer",
    "float": "a number",
    "timestamp": "a time",
    "bool": "true or false",
}


def _open(config: JobConfig) -> Source:
    if config.items.path is not None:
        return open_source(
            pathlib.Path(config.items.path), config.items.separator
        )
    from lintf import datasets

    films = datasets.movielens_100k().films
    return ArraySource("the films of MovieLens-100K", films.attributes())


def _open_embeddings(path: pathlib.Path, source: Source) -> np.ndarray:
    array = load_npy(path)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ItemsError(
            f"{path}: expected embeddings, [rows, dim] numbers, got shape "
            f"{list(array.shape)}, dtype {array.dtype}"
        )
    rows = source.num_rows
    if rows == 0:
        raise _no_items(source)
    if rows is not None and rows != len(array):
        raise ItemsError(
            f"{path}: expected one row an item, got {len(array)} rows for "
            f"{rows} items of {source.name}"
        )
    return array


def _no_items(source: Source) -> ItemsError:
    return ItemsError(f"{source.name} holds no items, expected at least one")


def _without_missing(config: AttributeConfig, values: Values) -> Values:
    """Puts None where the column has the config's mark for "no value"."""
    mark = config.missing
    if mark is None:
        return values
    if isinstance(values, np.ndarray) and not (values == mark).any():
        return values
    return [
        None if not _is_list(value) and value == mark else value
        for value in (
            values.tolist() if isinstance(values, np.ndarray) else values
        )
    ]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray)


def _feature_kind(name: str, spec: Any) -> Kind:
    dtype = np.dtype(spec.dtype.as_numpy_dtype)
    rank = spec.shape.rank
    kinds: dict[tuple[str, int], Kind] = {
        ("O", 1): "category",
        ("O", 2): "tags",
        ("i", 1): "int",
        ("i", 2): "ints",
        ("f", 1): "float",
        ("f", 2): "vector",
        ("b", 1): "bool",
    }
    kind = kinds.get((dtype.kind, rank))
    if kind is None:
        raise ItemsError(
            f"the item tower's input {name!r} is {spec}; expected [batch] or "
            "[batch, width] of int, float or string"
        )
    return kind
