# SPDX-License-Identifier: Apache-2.0
"""A small live index with towers, and a change log for it."""

import json
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from lintf.index.schema import IndexSchema, infer_attribute
from lintf.index.served import ServedIndex
from lintf.index.sharded import new_index
from lintf.index.shards import Shards
from lintf.ingest.file_log import FileLog
from lintf.ingest.file_log_writer import FileLogWriter
from lintf.ingest.records import JsonDecoder, skip, to_change
from lintf.serving.changes import ChangeEncoder
from lintf.serving.servable import Servable
from tests.serving.servers import predict_request

DIM, PARTITIONS, ROWS = 6, 2, 30
GENRES = ["drama", "noir", "war"]
IN_ONE_PIECE = Shards()


class Tower(tf.Module):
    """Words and a weight to a vector; the query tower and the item tower."""

    feature_specs = {
        "word": tf.TensorSpec([None], tf.string, name="word"),
        "weight": tf.TensorSpec([None], tf.float32, name="weight"),
    }

    def __init__(self, seed: int) -> None:
        super().__init__()
        values = np.random.default_rng(seed).standard_normal((50, DIM))
        self.matrix = tf.Variable(values.astype(np.float32))

    def __call__(self, features: Any) -> tf.Tensor:
        rows = tf.strings.to_hash_bucket_fast(features["word"], 50)
        vectors = tf.gather(self.matrix, rows)
        return vectors * features["weight"][:, tf.newaxis]


def schema(**fields: Any) -> IndexSchema:
    """The index's schema."""
    return IndexSchema(
        dim=DIM,
        attributes=(
            infer_attribute("genres", "tags", [GENRES]),
            infer_attribute("year", "int", [], dtype="int16"),
        ),
        **fields,
    )


def served(
    capacity: int = ROWS + 10,
    offsets: tuple[int, ...] = (-1, -1),
    sharding: Shards = IN_ONE_PIECE,
    **fields: Any,
) -> ServedIndex:
    """An index of `ROWS` items that has seen the log up to some offsets."""
    rng = np.random.default_rng(2)
    index = new_index(
        schema(**fields), capacity, sharding, log_partitions=PARTITIONS
    )
    index.append(
        item_ids(index.schema, range(ROWS)),
        rng.standard_normal((ROWS, DIM)).astype(np.float32),
        {
            "genres": [[GENRES[i % 3]] for i in range(ROWS)],
            "year": [1990 + i for i in range(ROWS)],
        },
    )
    index.log_offsets.assign(offsets)
    return ServedIndex(
        index,
        Tower(1),
        item_tower=Tower(4),
        k=8,
        return_attributes=["genres", "year"],
        build_id="first",
    )


def item_ids(schema: IndexSchema, numbers: Any) -> list[Any]:
    """Ids of the schema's dtype."""
    if schema.id_dtype == "string":
        return [f"item {n}" for n in numbers]
    return list(numbers)


def publish_first(base: pathlib.Path, **fields: Any) -> None:
    """Writes version 1."""
    base.mkdir(parents=True)
    served(**fields).save(base / "1")


def random_entry(
    rng: np.random.Generator, string_ids: bool, items: int
) -> tuple[bytes, bytes | None]:
    """Key and value of a change that any index takes."""
    (item,) = rng.integers(items, size=1)
    key = f"item {item}" if string_ids else f"{item}"
    attributes = {
        "genres": rng.choice(GENRES, rng.integers(3)).tolist(),
        "year": None if rng.random() < 0.2 else int(rng.integers(1900, 2030)),
    }
    fields: dict[str, Any] = {"attributes": attributes}
    kind = rng.integers(4)
    if kind == 0:
        return key.encode(), None
    if kind == 1:
        fields["embedding"] = rng.standard_normal(DIM).tolist()
    if kind == 2:
        fields["features"] = {
            "word": f"word {rng.integers(50)}",
            "weight": float(rng.random() + 0.1),
        }
    return key.encode(), json.dumps(fields).encode()


def append_random(
    writer: FileLogWriter,
    count: int,
    *,
    seed: int = 3,
    string_ids: bool = False,
    items: int = ROWS + 8,
) -> None:
    """Appends changes of `items` items to a log."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        writer.append(*random_entry(rng, string_ids, items))


class Served:
    """A version in memory, asked and changed as by a server's clients."""

    def __init__(self, path: pathlib.Path) -> None:
        self.servable = Servable(str(path))
        stats = self.stats()
        self.schema = IndexSchema.from_json(stats["schema"][0].decode())
        self._encoder = ChangeEncoder(self.schema, self.servable.signatures)

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *exception: object) -> None:
        self.servable.close()

    def ask(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        return self.servable.predict(predict_request("", signature, **inputs))

    def stats(self) -> dict[str, np.ndarray]:
        return self.ask("index_stats", probe=[0])

    def offsets(self) -> list[int]:
        return self.stats()["log_offsets"][0].tolist()

    def apply(self, log: FileLog) -> None:
        """Applies the log one record at a time; poison is skipped."""
        stored = self.offsets()
        for partition in log.partitions():
            previous = stored[partition]
            count = log.end(partition) - 1 - previous
            for record in log.read(partition, previous, count, 0.0).records:
                try:
                    change = to_change(
                        record,
                        previous,
                        JsonDecoder(),
                        self._encoder.id_from_text,
                    )
                    self._encoder.check(change)
                except ValueError:
                    change = skip(record, previous)
                ((name, run),) = self._encoder.runs([change], 1)
                self.ask(name, **self._encoder.inputs(name, run))
                previous = record.offset

    def answers(self, items: int = ROWS + 20) -> dict[str, Any]:
        """What it holds of some items, and answers to some queries."""
        ids = item_ids(self.schema, range(items))
        words = np.array([b"word 1", b"other"], object)
        weights = np.float32([1, 2])
        filters = np.array([b"", b'genres == "noir" and year > 1950'], object)
        queries = np.random.default_rng(6).standard_normal((2, DIM))
        return {
            "lookup": self.ask(
                "lookup",
                id=np.array(ids, object if isinstance(ids[0], str) else "i8"),
            ),
            "retrieve": self.ask(
                "retrieve", word=words, weight=weights, filter=filters
            ),
            "by_embedding": self.ask(
                "retrieve_by_embedding",
                query_embedding=queries.astype(np.float32),
                filter=filters,
            ),
        }


def assert_same(some: dict[str, Any], others: dict[str, Any]) -> None:
    """Compares `answers`, bit for bit."""
    assert some.keys() == others.keys()
    for name, outputs in some.items():
        assert outputs.keys() == others[name].keys()
        for key, value in outputs.items():
            np.testing.assert_array_equal(
                value, others[name][key], f"{name} {key}"
            )
