# SPDX-License-Identifier: Apache-2.0
"""Items from every kind of file, and what is refused where."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from export.config import JobConfig
from export.items import Items, scan
from export.parse import to_dataclass
from export.sources import ItemsError, Want, open_source

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = 23
IDS = [100 + 7 * i for i in range(ROWS)]
VECTORS = np.random.default_rng(0).standard_normal((ROWS, 3)).astype("float32")
YEARS = [None if i == 4 else 1990 + i for i in range(ROWS)]
TAGS = [
    sorted({f"t{i % 5}", f"t{i % 3}"}) if i % 4 else [] for i in range(ROWS)
]
COLOURS = [None if i == 2 else ["red", "blue"][i % 2] for i in range(ROWS)]
ROW_9 = np.arange(ROWS)[:, np.newaxis] == 9
PRICES = [0.5 * i for i in range(ROWS)]
IN_STOCK = [i % 3 == 0 for i in range(ROWS)]
TIMES = [1_000_000_000 + i for i in range(ROWS)]

ATTRIBUTES = [
    {"name": "tags", "kind": "tags"},
    {"name": "colour", "kind": "category"},
    {"name": "year", "kind": "int", "dtype": "int16"},
    {"name": "price", "kind": "float"},
    {"name": "in_stock", "kind": "bool"},
    {"name": "added", "kind": "timestamp"},
]


def make_config(path: pathlib.Path, **changes: Any) -> JobConfig:
    data: dict[str, Any] = {
        "name": "toys",
        "items": {
            "path": str(path),
            "id": "key",
            "embedding": {"column": "vector"},
        },
        "attributes": ATTRIBUTES,
        "fill": {"batch_size": 5},
    }
    data.update(changes)
    return to_dataclass(JobConfig, data)


def columns(**changes: Any) -> dict[str, Any]:
    return {
        "key": IDS,
        "vector": VECTORS.tolist(),
        "tags": TAGS,
        "colour": COLOURS,
        "year": YEARS,
        "price": PRICES,
        "in_stock": IN_STOCK,
        "added": TIMES,
        **changes,
    }


def parquet(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
    path = folder / "toys.parquet"
    # Row groups that no batch size divides.
    pq.write_table(pa.table(columns(**changes)), path, row_group_size=7)
    return path


def csv_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return "|".join(str(v) for v in value)
    return str(value)


def csv(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
    path = folder / "toys.csv"
    data = columns(**changes)
    lines = [",".join(data)]
    lines += [
        ",".join(csv_cell(v) for v in row)
        for row in zip(*data.values(), strict=True)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def npz(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
    path = folder / "toys.npz"
    width = max(len(t) for t in TAGS)
    arrays = {
        "key": np.array(IDS),
        "vector": VECTORS,
        "tags": np.array([t + [""] * (width - len(t)) for t in TAGS]),
        "colour": np.array([c or "" for c in COLOURS]),
        "year": np.array([-1 if y is None else y for y in YEARS]),
        "price": np.array(PRICES),
        "in_stock": np.array(IN_STOCK),
        "added": np.array(TIMES),
        **changes,
    }
    np.savez(path, **arrays)
    return path


def npy_folder(folder: pathlib.Path) -> pathlib.Path:
    with np.load(npz(folder)) as arrays:
        path = folder / "arrays"
        path.mkdir()
        for name in arrays.files:
            np.save(path / f"{name}.npy", arrays[name])
    return path


def with_missing_year() -> list[dict[str, Any]]:
    return [
        {**a, "missing": -1} if a["name"] == "year" else a for a in ATTRIBUTES
    ]


def read_all(config: JobConfig, batch_size: int = 5, start: int = 0):
    items = Items(config)
    return list(items.batches(batch_size, start))


def plain(values: Any) -> list[Any]:
    values = values.tolist() if isinstance(values, np.ndarray) else values
    return [v or None if isinstance(v, list | str) else v for v in values]


@pytest.mark.parametrize("make", [parquet, csv, npz, npy_folder])
@pytest.mark.parametrize(("batch_size", "start"), [(5, 0), (5, 10), (100, 0)])
def test_every_format_gives_the_same_items(tmp_path, make, batch_size, start):
    config = make_config(make(tmp_path), attributes=with_missing_year())
    batches = read_all(config, batch_size, start)
    sizes = [len(b) for b in batches]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert sum(sizes) == ROWS - start
    assert [b.start for b in batches] == list(range(start, ROWS, batch_size))
    assert np.concatenate([b.ids for b in batches]).tolist() == IDS[start:]
    vectors = np.concatenate([b.embeddings for b in batches])
    np.testing.assert_array_equal(vectors, VECTORS[start:])
    expected = {
        "tags": [t or None for t in TAGS],
        "colour": COLOURS,
        "year": YEARS,
        "price": PRICES,
        "in_stock": IN_STOCK,
        "added": TIMES,
    }
    for name, values in expected.items():
        got = [v for b in batches for v in plain(b.attributes[name])]
        assert got == values[start:], name


@pytest.mark.parametrize("make", [parquet, csv, npz])
def test_scan_chooses_how_to_store(tmp_path, make):
    config = make_config(make(tmp_path), attributes=with_missing_year())
    found = scan(Items(config), config)
    assert (found.num_rows, found.dim) == (ROWS, 3)
    tags, colour, year, *_ = found.attributes
    assert tags.encoding == "bits"
    assert tags.vocabulary == tuple(f"t{i}" for i in range(5))
    assert (colour.encoding, colour.dtype) == ("vocabulary", "uint8")
    assert year.dtype == "int16"


def test_tags_as_codes_get_the_width_that_occurs(tmp_path):
    attributes = [{"name": "tags", "kind": "tags", "encoding": "vocabulary"}]
    config = make_config(parquet(tmp_path), attributes=attributes)
    assert scan(Items(config), config).attributes[0].width == 2
    attributes[0]["width"] = 1
    config = make_config(parquet(tmp_path), attributes=attributes)
    with pytest.raises(ItemsError, match=r"row 3: expected at most 1 tags"):
        scan(Items(config), config)


def test_fingerprint_follows_the_content_alone(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    prints = []
    for path in paths:
        path.mkdir()
        config = make_config(parquet(path))
        prints.append(Items(config).fingerprint())
    config = make_config(parquet(paths[1], price=PRICES[::-1]))
    assert prints[0] == prints[1] != Items(config).fingerprint()


def test_embeddings_from_an_npy_file(tmp_path):
    file = tmp_path / "vectors.npy"
    np.save(file, VECTORS)
    items = {
        "path": str(parquet(tmp_path)),
        "id": "key",
        "embedding": {"path": str(file)},
    }
    config = make_config(tmp_path, items=items)
    batches = read_all(config, 6, 6)
    vectors = np.concatenate([b.embeddings for b in batches])
    np.testing.assert_array_equal(vectors, VECTORS[6:])
    assert scan(Items(config), config).dim == 3
    np.save(file, VECTORS[:-1])
    with pytest.raises(ItemsError, match="got 22 rows for 23 items"):
        Items(config)
    np.save(file, VECTORS[:, 0])
    with pytest.raises(ItemsError, match=r"vectors.npy: expected embeddings"):
        Items(config)


def test_csv_with_too_few_and_too_many_vectors(tmp_path):
    # A CSV file's length shows only when it has been read.
    file = tmp_path / "vectors.npy"
    items = {
        "path": str(csv(tmp_path)),
        "id": "key",
        "embedding": {"path": str(file)},
    }
    config = make_config(tmp_path, items=items)
    for rows in (ROWS - 1, ROWS + 1):
        np.save(file, np.zeros((rows, 2), np.float32))
        with pytest.raises(ItemsError, match=f"got {rows} rows"):
            scan(Items(config), config)


def test_row_numbers_as_ids(tmp_path):
    items = {
        "path": str(parquet(tmp_path)),
        "id": "@row",
        "embedding": {"column": "vector"},
    }
    config = make_config(tmp_path, items=items)
    batches = read_all(config, 9)
    assert np.concatenate([b.ids for b in batches]).tolist() == list(
        range(ROWS)
    )
    assert scan(Items(config), config).num_rows == ROWS
    with pytest.raises(ItemsError, match="needs index.id_dtype int64"):
        Items(make_config(tmp_path, items=items, index={"id_dtype": "string"}))


def test_vectors_alone(tmp_path):
    file = tmp_path / "vectors.npy"
    np.save(file, VECTORS)
    items = {
        "path": str(file),
        "id": "@row",
        "embedding": {"column": "embedding"},
    }
    config = make_config(tmp_path, items=items, attributes=[])
    found = scan(Items(config), config)
    assert (found.num_rows, found.dim) == (ROWS, 3)


@pytest.mark.parametrize("make", [parquet, csv])
def test_string_ids(tmp_path, make):
    path = make(tmp_path, key=[f"toy {i}" for i in range(ROWS)])
    config = make_config(path, index={"id_dtype": "string"})
    assert read_all(config)[1].ids == [f"toy {i}" for i in range(5, 10)]
    assert scan(Items(config), config).num_rows == ROWS


def test_parquet_times_and_dictionaries(tmp_path):
    times = pa.array(TIMES, pa.timestamp("s")).cast(pa.timestamp("ms"))
    before = pa.array([-1500] * ROWS, pa.timestamp("ms", tz="UTC"))
    path = parquet(
        tmp_path,
        added=times,
        before=before,
        day=pa.array([19_000] * ROWS, pa.date32()),
        colour=pa.array(COLOURS).dictionary_encode(),
    )
    attributes = [
        {"name": n, "kind": "timestamp"} for n in ("added", "before", "day")
    ]
    attributes.append({"name": "colour", "kind": "category"})
    batch = read_all(make_config(path, attributes=attributes), ROWS)[0]
    assert batch.attributes["added"].tolist() == TIMES
    assert set(batch.attributes["before"].tolist()) == {-2}
    assert set(batch.attributes["day"].tolist()) == {19_000 * 86_400}
    assert batch.attributes["colour"] == COLOURS


def replaced(values: list[Any], row: int, value: Any) -> list[Any]:
    return [*values[:row], value, *values[row + 1 :]]


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (
            parquet,
            {"key": replaced(IDS, 20, IDS[3])},
            "column 'key', row 20: expected distinct ids, got 121 again "
            r"\(first in row 3\)",
        ),
        (parquet, {"key": replaced(IDS, 8, -1)}, "'key', row 8: .* other than"),
        (
            parquet,
            {"key": replaced(IDS, 8, None)},
            "'key', row 8: expected an integer id, got nothing",
        ),
        (
            parquet,
            {"key": [str(i) for i in IDS]},
            "'key', row 0: expected an integer id, got '100'",
        ),
        (
            csv,
            {"key": replaced(IDS, 8, "x7")},
            "'key', row 8: expected an integer id, got 'x7'",
        ),
        (
            csv,
            {"key": replaced(IDS, 8, 2**63)},
            "'key', row 8: expected an int64 id",
        ),
        (
            parquet,
            {"vector": replaced(VECTORS.tolist(), 9, [1.0, np.nan, 2.0])},
            "'vector', row 9: expected finite .* got nan at dimension 1",
        ),
        (
            npz,
            {"vector": np.where(ROW_9, np.inf, VECTORS)},
            "'vector', row 9: expected finite .* got inf at dimension 0",
        ),
        (
            npz,
            {"vector": np.where(ROW_9, 1e300, VECTORS.astype("float64"))},
            r"'vector', row 9: expected finite .* got 1e\+300",
        ),
        (
            parquet,
            {"vector": replaced(VECTORS.tolist(), 9, [1.0, 2.0])},
            "'vector', row 9: expected 3 numbers .* got 2",
        ),
        (
            parquet,
            {"vector": [[1.0] * (3 if i < 5 else 2) for i in range(ROWS)]},
            "row 5: expected embeddings of 3 numbers as before, got 2",
        ),
        (
            parquet,
            {"vector": replaced(VECTORS.tolist(), 9, None)},
            "'vector', row 9: expected an embedding, got nothing",
        ),
        (parquet, {"vector": PRICES}, "'vector': expected embeddings"),
        (
            parquet,
            {"vector": [["a"]] * ROWS},
            "'vector': expected lists of numbers",
        ),
        (
            csv,
            {"vector": replaced(VECTORS.tolist(), 9, ["a", "b", "c"])},
            r"'vector', row 9: expected numbers, got 'a\|b\|c'",
        ),
        (
            csv,
            {"vector": replaced(VECTORS.tolist(), 9, None)},
            "'vector', row 9: expected a list of numbers, got nothing",
        ),
        (
            parquet,
            {"year": replaced(YEARS, 7, 40_000)},
            "'year', row 7: expected an integer that int16 holds",
        ),
        (
            parquet,
            {"year": [str(y) for y in YEARS]},
            r"'year', row 0: .*\(attribute 'year'\), got '1990'",
        ),
        (
            csv,
            {"year": replaced(YEARS, 7, "MCM")},
            "'year', row 7: expected an integer, got 'MCM'",
        ),
        (
            parquet,
            {"tags": ["one"] * ROWS},
            "'tags', row 0: expected a list of texts",
        ),
        (parquet, {"tags": [[1]] * ROWS}, "'tags', row 0: expected a list of"),
        (parquet, {"colour": PRICES}, "'colour', row 0: expected text"),
        (parquet, {"in_stock": YEARS}, "'in_stock', row 0: expected true or"),
        (
            csv,
            {"in_stock": replaced(IN_STOCK, 1, "maybe")},
            "'in_stock', row 1: expected true or false, got 'maybe'",
        ),
        (
            csv,
            {"added": replaced(TIMES, 1, "noon")},
            "'added', row 1: expected seconds since 1970",
        ),
    ],
)
def test_wrong_values_are_refused(tmp_path, make, changes, message):
    attributes = with_missing_year() if make is npz else ATTRIBUTES
    path = make(tmp_path, **changes)
    config = make_config(path, attributes=attributes)
    with pytest.raises(ItemsError, match=message) as error:
        scan(Items(config), config)
    assert str(path) in str(error.value)


def test_duplicate_string_id(tmp_path):
    path = parquet(tmp_path, key=["a", "b", "a"] + [str(i) for i in range(20)])
    config = make_config(path, index={"id_dtype": "string"})
    with pytest.raises(
        ItemsError, match=r"row 2: .* 'a' again \(first in row 0"
    ):
        scan(Items(config), config)
    path = parquet(tmp_path, key=["a", ""] + [str(i) for i in range(21)])
    with pytest.raises(ItemsError, match="row 1: expected a text"):
        scan(Items(config), config)


def test_files_and_columns_that_are_not_there(tmp_path):
    with pytest.raises(ItemsError, match="no such file"):
        Items(make_config(tmp_path / "nope.parquet"))
    with pytest.raises(ItemsError, match="ends in '.txt'; expected .parquet"):
        (tmp_path / "a.txt").write_text("x")
        Items(make_config(tmp_path / "a.txt"))
    with pytest.raises(ItemsError, match=r"holds no .npy files"):
        (tmp_path / "empty").mkdir()
        Items(make_config(tmp_path / "empty"))
    with pytest.raises(ItemsError, match="is not a Parquet file"):
        (tmp_path / "b.parquet").write_text("x")
        Items(make_config(tmp_path / "b.parquet"))
    config = make_config(
        parquet(tmp_path), attributes=[{"name": "yaer", "kind": "int"}]
    )
    with pytest.raises(
        ItemsError, match="no column 'yaer'; did you mean 'year'"
    ):
        Items(config)


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("given", ["column", "path"])
def test_no_items(tmp_path, form, given):
    path = tmp_path / f"none.{form}"
    if form == "csv":
        path.write_text("key,vector\n")
    else:
        empty = pa.array([], pa.list_(pa.float32()))
        key = pa.array([], pa.int64())
        pq.write_table(pa.table({"key": key, "vector": empty}), path)
    np.save(tmp_path / "vectors.npy", VECTORS[:4])
    where = {"column": "vector", "path": str(tmp_path / "vectors.npy")}
    config = make_config(
        path,
        attributes=[],
        items={
            "path": str(path),
            "id": "key",
            "embedding": {given: where[given]},
        },
    )
    with pytest.raises(ItemsError, match=f"{path} holds no items"):
        scan(Items(config), config)


def test_ragged_and_unfinished_csv(tmp_path):
    path = tmp_path / "bad.csv"
    config = make_config(path, attributes=[])
    path.write_text("key,vector\n1,1|2\n2\n")
    with pytest.raises(ItemsError, match="line 3: expected 2 cells, got 1"):
        scan(Items(config), config)
    path.write_text('key,vector\n1,"1|2\n')
    with pytest.raises(ItemsError, match="line 2: unexpected end"):
        scan(Items(config), config)
    path.write_text("key,key\n")
    with pytest.raises(ItemsError, match="distinct column names"):
        Items(config)


def test_pickles_are_not_read(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, key=np.array([{}], object))
    with pytest.raises(ItemsError, match="Python objects are not read"):
        Items(make_config(path, attributes=[]))


def test_arrays_of_unequal_length(tmp_path):
    path = npz(tmp_path, price=np.zeros(3))
    with pytest.raises(ItemsError, match="the same number of rows"):
        Items(make_config(path))


def test_features_of_an_item_tower(tmp_path):
    source = {
        "path": str(parquet(tmp_path)),
        "id": "key",
        "features": {"kinds": "tags", "item": "key"},
    }
    config = make_config(
        tmp_path, items=source, towers={"item": {"path": "tower"}}
    )
    items = Items(config)
    items.take_features(
        {
            "kinds": tf.TensorSpec([None, 3], tf.string),
            "item": tf.TensorSpec([None], tf.int32),
            "price": tf.TensorSpec([None], tf.float32),
        }
    )
    batch = next(items.batches(4))
    assert batch.embeddings is None
    assert batch.features["kinds"].tolist() == [
        t + [""] * (3 - len(t)) for t in TAGS[:4]
    ]
    assert batch.features["item"].tolist() == IDS[:4]
    assert batch.features["item"].dtype == np.int32
    assert batch.features["price"].dtype == np.float32
    items.take_features({"kinds": tf.TensorSpec([None, 1], tf.string)})
    with pytest.raises(ItemsError, match="row 3: expected at most 1 values"):
        next(items.batches(4))
    items.take_features({"year": tf.TensorSpec([None], tf.int64)})
    with pytest.raises(ItemsError, match="'year', row 4: expected a number"):
        list(items.batches(5))
    with pytest.raises(ItemsError, match="no column 'size'"):
        items.take_features({"size": tf.TensorSpec([None], tf.int64)})


def test_wanting_nothing_but_row_numbers(tmp_path):
    source = open_source(parquet(tmp_path))
    assert len(list(source.batches([], 5))) == 5
    first, second = (
        next(source.batches([Want("price", "float")] * 2, 5, start))
        for start in (0, 5)
    )
    assert first[0].tolist() == first[1].tolist() == PRICES[:5]
    assert second[0].tolist() == PRICES[5:10]


def test_config_is_frozen(tmp_path):
    config = make_config(parquet(tmp_path))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "other"
