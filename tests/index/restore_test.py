# SPDX-License-Identifier: Apache-2.0
"""An index made again from its SavedModel answers as before."""

import dataclasses
import inspect
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.index import restore
from lintf.index.index import Index
from lintf.index.plan import Variant
from lintf.index.schema import IndexSchema, Quantization, infer_attribute
from lintf.index.served import Batching, ServedIndex

ROWS, DIM = 90, 8
HOLES = [0, 1, 40, 89]
CODES = Quantization(bins=4, repeats=16, seed=3, shortlist=20)


class Tower(tf.Module):
    """Words to vectors, by a table and a matrix."""

    feature_specs = {
        "word": tf.TensorSpec([None], tf.string, name="word"),
        "weight": tf.TensorSpec([None], tf.float32, name="weight"),
    }

    def __init__(self):
        super().__init__()
        values = np.random.default_rng(3).standard_normal((4, DIM))
        self.matrix = tf.Variable(values.astype(np.float32))
        self.words = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                ["a", "b", "c"], tf.constant([1, 2, 3], tf.int64)
            ),
            0,
        )

    def __call__(self, features):
        rows = tf.gather(self.matrix, self.words.lookup(features["word"]))
        return rows * features["weight"][:, tf.newaxis]


def _served(**fields):
    rng = np.random.default_rng(7)
    genres = [[["x"], ["y", "z"], None][i % 3] for i in range(ROWS)]
    schema = IndexSchema(
        dim=DIM,
        attributes=(
            infer_attribute("genres", "tags", genres),
            infer_attribute("year", "int", [], dtype="int16"),
        ),
        **fields,
    )
    index = Index(schema, ROWS + 5, log_partitions=3)
    ids = list(range(10, 10 + ROWS))
    if schema.id_dtype == "string":
        ids = [f"item {i}" for i in ids]
    # Few distinct vectors, so that scores tie.
    vectors = rng.standard_normal((6, DIM)).astype(np.float32)
    index.append(
        ids,
        vectors[rng.integers(6, size=ROWS)],
        {"genres": genres, "year": [i % 7 or None for i in range(ROWS)]},
    )
    for row in HOLES:
        ops.assign_rows(index.resource, index.ids, row, np.int64([-1]))
    index.resource.invalidate()
    index.log_offsets.assign([4, -1, 9])
    return ServedIndex(
        index,
        Tower(),
        k=7,
        variants=[Variant("more", 30)],
        return_attributes=["genres", "year"],
        batching=Batching(max_batch_size=8),
        max_request_rows=5,
        build_id="built",
    )


def _answers(path):
    """What a SavedModel answers to some requests."""
    model = tf.saved_model.load(str(path))
    ask = model.signatures
    words = tf.constant(["a", "b", "unknown"])
    features = {"word": words, "weight": tf.constant([1.0, -2.0, 0.5])}
    filters = tf.constant(["", 'contains_any(genres, ["x"])', "year >= 3"])
    queries = tf.random.stateless_normal([3, DIM], [1, 2])
    spec = ask["lookup"].structured_input_signature[1]["id"]
    ids = tf.range(9, 20, dtype=tf.int64)
    parts = [ids[:5], ids[5:10]]
    if spec.dtype == tf.string:
        parts = ["item " + tf.strings.as_string(part) for part in parts]
    return {
        "embed": ask["embed_query"](**features),
        **{
            name: ask[name](**features, filter=filters)
            for name in ("serving_default", "retrieve", "more")
        },
        "by_embedding": ask["retrieve_by_embedding"](
            query_embedding=queries, filter=filters
        ),
        **{f"lookup {i}": ask["lookup"](id=p) for i, p in enumerate(parts)},
    }


def _stats(path):
    model = tf.saved_model.load(str(path))
    stats = model.signatures["index_stats"](probe=tf.constant([0], tf.int64))
    return {name: value.numpy()[0] for name, value in stats.items()}


def _assert_same(some, others):
    assert some.keys() == others.keys()
    for name, outputs in some.items():
        assert outputs.keys() == others[name].keys()
        for key, value in outputs.items():
            np.testing.assert_array_equal(
                value.numpy(), others[name][key].numpy(), f"{name} {key}"
            )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"id_dtype": "string", "metric": "cosine"},
        {"dtype": "bfloat16", "metric": "l2"},
        {"dtype": "int8", "quantization": CODES},
        {"dtype": "none", "quantization": CODES, "id_dtype": "string"},
    ],
    ids=["plain", "strings", "bfloat16", "int8", "codes"],
)
def test_generations(tmp_path, fields):
    served = _served(**fields)
    served.save(tmp_path / "0")
    before = _answers(tmp_path / "0")
    for number in (1, 2):
        made = restore.restore(tmp_path / f"{number - 1}", ROWS + 70 * number)
        again = ServedIndex(made.index, build_id="again", **made.arguments)
        again.save(tmp_path / f"{number}")
        _assert_same(before, _answers(tmp_path / f"{number}"))
    stats = _stats(tmp_path / "2")
    assert stats["num_rows"] == stats["live_rows"] == ROWS - len(HOLES)
    assert stats["capacity"] == ROWS + 140
    assert stats["log_offsets"].tolist() == [4, -1, 9]
    assert stats["build_id"] == b"again"
    assert stats["schema"] == _stats(tmp_path / "0")["schema"]
    # Nothing is carried along that a checkpoint did not hold before.
    names = [
        {name for name, _ in tf.train.list_variables(str(path))}
        for path in (tmp_path / f"{n}" / "variables/variables" for n in (0, 2))
    ]
    assert names[0] == names[1]


def test_order_of_rows(tmp_path):
    served = _served()
    served.save(tmp_path / "model")
    kept = np.delete(np.arange(10, 10 + ROWS), HOLES)
    index = restore.restore(tmp_path / "model").index
    assert index.capacity == ROWS + 5
    ids = index.ids.numpy()
    np.testing.assert_array_equal(ids[: len(kept)], kept)
    assert (ids[len(kept) :] == -1).all()


def test_compact():
    index = _served(id_dtype="string", quantization=CODES).index
    kept = np.delete(np.arange(ROWS), HOLES)
    ids, vectors = index.ids.numpy()[kept], index.vectors(kept)
    restore.compact(index)
    assert int(index.num_rows) == len(kept)
    np.testing.assert_array_equal(index.ids.numpy()[: len(kept)], ids)
    np.testing.assert_array_equal(index.vectors(range(len(kept))), vectors)
    assert (index.vectors(range(len(kept), index.capacity)) == 0).all()
    assert int(index.id_text.size()) == len(kept)


def test_resized():
    index = _served(dtype="int8", quantization=CODES).index
    index.log_offsets.assign([4, -1, 9])
    kept = np.delete(np.arange(ROWS), HOLES)
    smaller = restore.resized(index, len(kept))
    assert smaller.capacity == int(smaller.num_rows) == len(kept)
    np.testing.assert_array_equal(smaller.ids.numpy(), index.ids.numpy()[kept])
    np.testing.assert_array_equal(
        smaller.vectors(range(len(kept))), index.vectors(kept)
    )
    assert smaller.log_offsets.numpy().tolist() == [4, -1, 9]
    with pytest.raises(ValueError, match="at least 86, .* got 85"):
        restore.resized(index, 85)


def test_capacity_below_the_items(tmp_path):
    _served().save(tmp_path / "model")
    with pytest.raises(ValueError, match="at least 86, .* got 85"):
        restore.restore(tmp_path / "model", 85)


def test_models_that_cannot_be_restored(tmp_path):
    _served().save(tmp_path / "model")
    older = tmp_path / "older"
    shutil.copytree(tmp_path / "model", older)
    (older / "assets.extra/lintf_serving.json").unlink()
    with pytest.raises(ValueError, match="export it again"):
        restore.restore(older)
    portable = pathlib.Path(tmp_path, "portable")
    index = Index(IndexSchema(2), 1)
    index.append([1], [[1, 0]])
    ServedIndex(index, k=1, portable=True).save(portable)
    with pytest.raises(ValueError, match="portable index, which takes no up"):
        restore.restore(portable)


def test_every_argument_is_restored(tmp_path):
    served = _served()
    served.save(tmp_path / "model")
    arguments = restore.restore(tmp_path / "model").arguments
    known = dict(inspect.signature(ServedIndex).parameters)
    for name in ("index", "build_id"):
        known.pop(name)
    missing = {
        name
        for name in known
        if name not in arguments and not name.endswith("_tower")
    }
    assert not missing
    assert set(arguments) <= set(known)
    assert arguments["batching"] == Batching(max_batch_size=8)
    assert arguments["variants"] == [Variant("more", 30)]
    assert dataclasses.asdict(arguments["variants"][0])["k"] == 30
