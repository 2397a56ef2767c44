# SPDX-License-Identifier: Apache-2.0
"""Reads columns of items from files, in batches, without guessing.

A source hands out what a column holds as numpy arrays or lists, one entry a
row, None where there is no value. What the values must be is checked by
`export.items`; here only the file's own form is.
"""

from __future__ import annotations

import abc
import csv
import dataclasses
import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

Kind = Literal[
    "id_int64",
    "id_string",
    "vector",
    "category",
    "tags",
    "int",
    "float",
    "timestamp",
    "bool",
    "ints",
]
Values = Any  # np.ndarray or list, one entry a row


class ItemsError(ValueError):
    """The items cannot be used; the message names file, column and row."""


@dataclasses.dataclass(frozen=True)
class Want:
    """A column, and what its values should be (text files need to know)."""

    column: str
    kind: Kind


class Source(abc.ABC):
    """Columns of equal length.

    Attributes:
        name: For messages: the file, or the data set.
        columns: What there is.
        num_rows: Entries a column; None if only reading all of it can tell.
    """

    name: str
    columns: list[str]
    num_rows: int | None

    @abc.abstractmethod
    def batches(
        self, wants: Sequence[Want], batch_size: int, start: int = 0
    ) -> Iterator[list[Values]]:
        """Yields one entry a want, `batch_size` rows each but for the last."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """The same for the same content, wherever it lies."""


def open_source(path: pathlib.Path, separator: str = "|") -> Source:
    """Opens a file (or a folder of `.npy` files) by its ending.

    Args:
        path: `.parquet`, `.csv`, `.npz`, `.npy` (vectors) or a folder.
        separator: CSV: between the values of one cell.

    Raises:
        ItemsError: There is no such file, or it is none of these.
    """
    if not path.exists():
        raise ItemsError(f"items: no such file or folder: {path}")
    if path.is_dir():
        arrays = {p.stem: p for p in sorted(path.glob("*.npy"))}
        if not arrays:
            raise ItemsError(
                f"items: the folder {path} holds no .npy files; expected one "
                "file a column, named after the column"
            )
        return ArraySource(
            str(path), {n: load_npy(p) for n, p in arrays.items()}
        )
    ending = path.suffix.lower()
    if ending in (".parquet", ".pq"):
        return ParquetSource(path)
    if ending == ".csv":
        return CsvSource(path, separator)
    if ending == ".npz":
        return ArraySource(str(path), _load_npz(path))
    if ending == ".npy":
        return ArraySource(str(path), {"embedding": load_npy(path)})
    raise ItemsError(
        f"items: {path} ends in {ending or 'nothing'!r}; expected .parquet, "
        ".csv, .npz, .npy or a folder of .npy files"
    )


def load_npy(path: pathlib.Path) -> np.ndarray:
    """Maps a `.npy` file into memory, read-only."""
    if not path.is_file():
        raise ItemsError(f"no such file: {path}")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ItemsError(
            f"{path} is not a plain NumPy array ({error}); arrays of Python "
            "objects are not read: use fixed-width strings, or Parquet"
        ) from error


def file_digest(path: pathlib.Path) -> str:
    """SHA-256 of a file's bytes, or of a folder's names and bytes."""
    if path.is_dir():
        digest = hashlib.sha256()
        for part in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(str(part.relative_to(path)).encode() + b"\0")
            digest.update(file_digest(part).encode())
        return digest.hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class ArraySource(Source):
    """Arrays in memory (or mapped into it), `[rows]` or `[rows, width]`.

    A string array of rank 2 holds tags padded with "".
    """

    def __init__(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        self.name = name
        self.columns = list(arrays)
        self._arrays = dict(arrays)
        lengths = {n: a.shape[0] if a.ndim else -1 for n, a in arrays.items()}
        if len(set(lengths.values())) != 1 or -1 in lengths.values():
            listed = ", ".join(f"{n}: {a.shape}" for n, a in arrays.items())
            raise ItemsError(
                f"{name}: the arrays must have one entry a row and the same "
                f"number of rows, got {listed}"
            )
        self.num_rows = next(iter(lengths.values()))

    def batches(
        self, wants: Sequence[Want], batch_size: int, start: int = 0
    ) -> Iterator[list[Values]]:
        check_columns(self, wants)
        assert self.num_rows is not None
        for begin in range(start, self.num_rows, batch_size):
            end = min(begin + batch_size, self.num_rows)
            yield [
                _plain(self._arrays[w.column][begin:end], w.kind) for w in wants
            ]

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(self._arrays):
            array = self._arrays[name]
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            for begin in range(0, max(len(array), 1), 1 << 16):
                part = np.ascontiguousarray(array[begin : begin + (1 << 16)])
                digest.update(part.tobytes())
        return digest.hexdigest()


def _plain(array: np.ndarray, kind: Kind) -> Values:
    if array.dtype.kind not in "US":
        return np.asarray(array)
    values = array.tolist()
    if array.dtype.kind == "S":
        values = _decode(values)
    if kind == "tags" and array.ndim == 2:
        return [[word for word in row if word] for row in values]
    return values


def _decode(values: Any) -> Any:
    if isinstance(values, bytes):
        return values.decode()
    return [_decode(v) for v in values]


def _load_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError) as error:
        raise ItemsError(
            f"{path} is not an .npz of plain arrays ({error}); arrays of "
            "Python objects are not read: use fixed-width strings, or Parquet"
        ) from error


class ParquetSource(Source):
    """A Parquet file, read row group by row group."""

    def __init__(self, path: pathlib.Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError as error:
            raise ItemsError(
                f"{path} is a Parquet file, which needs pyarrow; install it "
                'with: pip install "lintf[parquet]"'
            ) from error
        self._arrow = pyarrow
        self._path = path
        self.name = str(path)
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise ItemsError(
                f"{path} is not a Parquet file: {error}"
            ) from error
        self.columns = list(self._file.schema_arrow.names)
        self.num_rows = self._file.metadata.num_rows

    def batches(
        self, wants: Sequence[Want], batch_size: int, start: int = 0
    ) -> Iterator[list[Values]]:
        check_columns(self, wants)
        names = sorted({w.column for w in wants})
        if not names:  # only row numbers are wanted
            assert self.num_rows is not None
            for _ in range(start, self.num_rows, batch_size):
                yield []
            return
        position = start
        for table in self._tables(names, batch_size, start):
            yield [
                self._values(table.column(w.column), w, position) for w in wants
            ]
            position += table.num_rows

    def _tables(
        self, names: list[str], batch_size: int, start: int
    ) -> Iterator[Any]:
        """Tables of exactly `batch_size` rows: batches end at row groups."""
        metadata = self._file.metadata
        first, skip = 0, start
        while (
            first < metadata.num_row_groups
            and skip >= metadata.row_group(first).num_rows
        ):
            skip -= metadata.row_group(first).num_rows
            first += 1
        groups = list(range(first, metadata.num_row_groups))
        held: list[Any] = []
        rows = 0
        for batch in self._file.iter_batches(
            batch_size=batch_size, row_groups=groups, columns=names
        ):
            if skip:
                dropped = min(skip, batch.num_rows)
                batch, skip = batch.slice(dropped), skip - dropped
            if not batch.num_rows:
                continue
            held.append(batch)
            rows += batch.num_rows
            while rows >= batch_size:
                table = self._arrow.Table.from_batches(held)
                yield table.slice(0, batch_size)
                held = table.slice(batch_size).to_batches()
                rows -= batch_size
        if rows:
            yield self._arrow.Table.from_batches(held)

    def _values(self, column: Any, want: Want, position: int) -> Values:
        arrow = self._arrow
        column = column.combine_chunks()
        if isinstance(column, arrow.ChunkedArray):
            column = arrow.concat_arrays(column.chunks)
        if arrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        types = arrow.types
        if want.kind == "vector" and (
            types.is_list(column.type)
            or types.is_large_list(column.type)
            or types.is_fixed_size_list(column.type)
        ):
            return self._vectors(column, want, position)
        if types.is_date(column.type):
            column = column.cast(arrow.timestamp("s"))
        if types.is_timestamp(column.type):
            import pyarrow.compute

            column = pyarrow.compute.floor_temporal(column, unit="second")
            column = column.cast(arrow.timestamp("s")).cast(arrow.int64())
        number = types.is_integer(column.type) or types.is_floating(column.type)
        if number and not column.null_count:
            return column.to_numpy(zero_copy_only=False)
        return column.to_pylist()

    def _vectors(self, column: Any, want: Want, position: int) -> Values:
        import pyarrow.compute

        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise ItemsError(
                f"{self.name}: column {want.column!r}, row {position + row}: "
                "expected an embedding, got nothing"
            )
        lengths = pyarrow.compute.list_value_length(column).to_numpy(
            zero_copy_only=False
        )
        if lengths.size and (lengths != lengths[0]).any():
            row = int(np.argmax(lengths != lengths[0]))
            raise ItemsError(
                f"{self.name}: column {want.column!r}, row {position + row}: "
                f"expected {lengths[0]} numbers as in row {position}, got "
                f"{lengths[row]}"
            )
        flat = column.flatten()
        types = self._arrow.types
        if not (types.is_integer(flat.type) or types.is_floating(flat.type)):
            raise ItemsError(
                f"{self.name}: column {want.column!r}: expected lists of "
                f"numbers, got lists of {flat.type}"
            )
        # A null inside becomes NaN, which the check of the values reports.
        values = flat.to_numpy(zero_copy_only=False)
        return values.reshape(len(column), -1)

    def fingerprint(self) -> str:
        return file_digest(self._path)


class CsvSource(Source):
    """A CSV file with a header line; UTF-8; an empty cell is no value."""

    def __init__(self, path: pathlib.Path, separator: str) -> None:
        self._path = path
        self._separator = separator
        self.name = str(path)
        self.num_rows = None
        with path.open(encoding="utf-8-sig", newline="") as file:
            try:
                self.columns = next(csv.reader(file), [])
            except (UnicodeDecodeError, csv.Error) as error:
                raise ItemsError(
                    f"{path} is not a CSV file: {error}"
                ) from error
        repeated = {c for c in self.columns if self.columns.count(c) > 1}
        if not self.columns or repeated:
            raise ItemsError(
                f"{path}: expected a header line with distinct column names, "
                f"got {self.columns}"
            )

    def batches(
        self, wants: Sequence[Want], batch_size: int, start: int = 0
    ) -> Iterator[list[Values]]:
        check_columns(self, wants)
        places = [self.columns.index(w.column) for w in wants]
        rows = self._rows()
        # Text has to be read to be skipped; converting it is what costs.
        position = sum(1 for _ in itertools.islice(rows, start))
        while batch := list(itertools.islice(rows, batch_size)):
            yield [
                self._convert(want, [row[place] for row in batch], position)
                for want, place in zip(wants, places, strict=True)
            ]
            position += len(batch)

    def _rows(self) -> Iterator[list[str]]:
        with self._path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                next(reader)
                for row in reader:
                    if not row:  # an empty line
                        continue
                    if len(row) != len(self.columns):
                        raise ItemsError(
                            f"{self.name}, line {reader.line_num}: expected "
                            f"{len(self.columns)} cells, got {len(row)}"
                        )
                    yield row
            except (UnicodeDecodeError, csv.Error) as error:
                raise ItemsError(
                    f"{self.name}, line {reader.line_num}: {error}"
                ) from error

    def _convert(self, want: Want, cells: list[str], position: int) -> Values:
        convert = self._converter(want.kind)
        values: list[Any] = []
        for row, cell in enumerate(cells):
            try:
                values.append(convert(cell) if cell != "" else None)
            except ValueError:
                raise ItemsError(
                    f"{self.name}: column {want.column!r}, row "
                    f"{position + row}: expected {_EXPECTED[want.kind]}, got "
                    f"{cell[:60]!r}"
                ) from None
        return values

    def _converter(self, kind: Kind) -> Callable[[str], Any]:
        def split(cell: str) -> list[str]:
            return [part.strip() for part in cell.split(self._separator)]

        converters: dict[Kind, Callable[[str], Any]] = {
            "id_int64": int,
            "id_string": str,
            "category": str,
            "int": int,
            "float": float,
            "timestamp": _to_timestamp,
            "bool": _to_bool,
            "tags": lambda cell: [part for part in split(cell) if part],
            "vector": lambda cell: [float(part) for part in split(cell)],
            "ints": lambda cell: [int(part) for part in split(cell)],
        }
        return converters[kind]

    def fingerprint(self) -> str:
        return file_digest(self._path)


_EXPECTED: dict[Kind, str] = {
    "id_int64": "an integer id",
    "id_string": "an id",
    "category": "text",
    "tags": "tags",
    "int": "an integer",
    "float": "a number",
    "timestamp": "seconds since 1970 or an ISO 8601 time",
    "bool": "true or false",
    "vector": "numbers",
    "ints": "integers",
}


def _to_bool(cell: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if cell.strip().lower() not in known:
        raise ValueError(cell)
    return known[cell.strip().lower()]


def _to_timestamp(cell: str) -> int | str:
    try:
        return int(cell)
    except ValueError:
        import datetime

        # Refuses what is not ISO 8601; encoding parses it again.
        datetime.datetime.fromisoformat(cell.replace("Z", "+00:00"))
        return cell


def check_columns(source: Source, wants: Sequence[Want]) -> None:
    """Raises ItemsError unless the source has every wanted column."""
    import difflib

    for want in wants:
        if want.column not in source.columns:
            close = difflib.get_close_matches(want.column, source.columns, 1)
            near = f"; did you mean {close[0]!r}?" if close else ""
            raise ItemsError(
                f"{source.name}: no column {want.column!r}{near}; there are: "
                f"{', '.join(source.columns)}"
            )
