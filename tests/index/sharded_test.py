# SPDX-License-Identifier: Apache-2.0
"""An index in several shards answers as one in one piece."""

import concurrent.futures
import dataclasses
import itertools
import threading

import numpy as np
import pytest
import tensorflow as tf

from lintf.index.index import Index
from lintf.index.schema import IndexSchema, Quantization, infer_attribute
from lintf.index.served import Batching, ServedIndex
from lintf.index.sharded import (
    ShardedIndex,
    new_index,
    rows_in_order,
    shards_of,
)
from lintf.index.sharded_search import best_first
from lintf.index.shards import Shards, shard_of
from lintf.serving.changes import Change
from tests.index.live import LiveIndex
from tests.references import filter_cases

DIM, K, ITEMS = 6, 12, 40
CODES = Quantization(bins=2, repeats=32, seed=1, shortlist=ITEMS)
YEAR = infer_attribute("year", "int", [], dtype="int16")


def _filled(sharding, schema, columns, ids, vectors, capacity=ITEMS):
    index = new_index(schema, capacity, sharding, log_partitions=2)
    index.append(ids, vectors, columns)
    return index


def _ids_of_shard(shard, count, shards):
    """The first ids that belong to a shard."""
    numbers = shard_of(range(100 * count), shards).numpy()
    return np.flatnonzero(numbers == shard)[:count].tolist()


def _same(found, expected):
    assert set(expected) <= set(found)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, name)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("id_dtype", "dtype", "metric", "algorithm"),
    [
        ("int64", "float32", "inner_product", "auto"),
        ("string", "int8", "cosine", "quantized"),
        ("int64", "bfloat16", "l2", "prefiltered"),
    ],
)
def test_answers_are_those_of_one_piece(
    tmp_path, count, id_dtype, dtype, metric, algorithm
):
    rng = np.random.default_rng(count)
    schema = dataclasses.replace(
        filter_cases.random_schema(
            rng, dim=DIM, string_ids=id_dtype == "string"
        ),
        dtype=dtype,
        metric=metric,
        # A shortlist as long as a shard, so that codes find what is best.
        quantization=CODES if algorithm == "quantized" else None,
    )
    rows = filter_cases.random_rows(rng, schema, ITEMS)
    ids = [f"item {i}" if id_dtype == "string" else 7 * i for i in range(ITEMS)]
    for row, id in zip(rows, ids, strict=True):
        row["id"] = id
    columns = {a.name: [r[a.name] for r in rows] for a in schema.attributes}
    vectors = rng.standard_normal((ITEMS, DIM)).astype(np.float32)
    filters = [""] + [
        filter_cases.random_filter(rng, schema, rows) for _ in range(11)
    ]
    queries = rng.standard_normal((len(filters), DIM)).astype(np.float32)
    answers = []
    for sharding in (Shards(), Shards(count)):
        served = ServedIndex(
            _filled(sharding, schema, columns, ids, vectors),
            k=K,
            algorithm=algorithm,
            return_attributes=[
                a.name for a in schema.attributes if a.decodable
            ],
            batching=Batching() if count == 2 else None,
        )
        live = LiveIndex(served, tmp_path / f"{sharding.count}-{len(answers)}")
        unknown = "no item" if id_dtype == "string" else -77
        answers.append(
            {
                "found": live.call(
                    "retrieve_by_embedding",
                    query_embedding=queries,
                    filter=filters,
                ),
                "none": live.call(
                    "retrieve_by_embedding",
                    query_embedding=queries[:0],
                    filter=filters[:0],
                ),
                "looked": live.call("lookup", id=[unknown, *ids, unknown]),
                "nothing": live.call("lookup", id=ids[:0]),
            }
        )
        stats = live.stats()
        assert stats["num_rows"] == stats["live_rows"] == ITEMS
        assert stats["capacity"] == ITEMS
    whole, sharded = answers
    for name in whole:
        _same(sharded[name], whole[name])
    assert (whole["found"]["num_results"] > 0).any()


@pytest.mark.parametrize("items", [0, 1, 3])
def test_shards_may_be_empty_and_shorter_than_k(tmp_path, items):
    schema = IndexSchema(dim=2, attributes=(YEAR,))
    index = _filled(
        Shards(5),
        schema,
        {"year": list(range(items))},
        list(range(items)),
        np.arange(2 * items).reshape(items, 2),
    )
    assert min(int(shard.num_rows) for shard in index.shards) == 0
    live = LiveIndex(
        ServedIndex(index, k=8, return_attributes=["year"]), tmp_path / "m"
    )
    found = live.call(
        "retrieve_by_embedding", query_embedding=[[1, 0]], filter=[""]
    )
    best = list(range(items))[::-1]
    unused = 8 - items
    assert found["num_results"].tolist() == [items]
    assert found["ids"].tolist() == [best + [-1] * unused]
    assert found["scores"].tolist() == [
        [2.0 * i for i in best] + [-np.inf] * unused
    ]
    missing = int(np.iinfo(np.int64).min)
    assert found["attribute_year"].tolist() == [best + [missing] * unused]


def test_equal_scores_come_by_shard_then_by_row(tmp_path):
    index = ShardedIndex(IndexSchema(dim=1), 60, Shards(3))
    ids = np.random.default_rng(1).permutation(30)
    index.append(ids, np.ones([30, 1]))
    live = LiveIndex(ServedIndex(index, k=30), tmp_path / "m")
    found = live.call(
        "retrieve_by_embedding", query_embedding=[[1]], filter=[""]
    )
    by_row = [i for s in index.shards for i in s.ids.numpy()[: int(s.num_rows)]]
    assert found["ids"][0].tolist() == by_row
    assert sorted(by_row) == list(range(30))
    # The rows of the whole are in this order, too.
    assert np.array(by_row)[rows_in_order(index, ids)].tolist() == ids.tolist()


def test_a_score_of_minus_infinity_goes_before_unused_slots():
    inf = np.inf
    order = best_first(
        [[-inf, -inf, 0.0, -inf, -3.4e38, 0.0]], [[7, -1, 8, 9, 5, 6]], 6
    )
    assert order.numpy().tolist() == [[2, 5, 4, 0, 3, 1]]


def test_where_an_item_is_never_changes():
    # A SavedModel holds its items where another version of this wrote them.
    ids = [0, 1, 2, 3, -2, 1 << 62, -(1 << 63), -1]
    assert shard_of(ids, 4).numpy().tolist() == [3, 1, 3, 1, 1, 3, 0, 0]
    assert shard_of(ids, 1).numpy().tolist() == [0] * len(ids)


def test_items_are_spread_evenly_and_capacities_have_room():
    for count, capacity in itertools.product((2, 3, 5, 8), (1, 10, 20_000)):
        sharding = Shards(count)
        sizes = np.bincount(
            shard_of(range(capacity), count).numpy(), minlength=count
        )
        assert sizes.max() <= sharding.capacity_of_each(capacity)
        assert sharding.capacity_of_each(capacity) <= capacity
        assert sharding.rows(capacity) >= capacity
    # The head-room of a large index is small.
    assert Shards(8).rows(10**8) < 1.002 * 10**8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "`count` must be an integer of at least 1, got 0"),
        ((True,), "`count`"),
        ((2, ("TPU:0",)), "`devices` must be such as"),
        ((2, ("GPU:0", "GPU:1", "GPU:2")), "at most 2"),
        ((1, ("GPU:0",)), "give more shards"),
    ],
)
def test_bad_shards_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Shards(*arguments)


def test_append_writes_all_or_nothing():
    index = ShardedIndex(IndexSchema(dim=1), 30, Shards(3))
    room = index.shards[1].capacity
    full = _ids_of_shard(1, room + 1, 3)
    with pytest.raises(ValueError, match="shard 1: the index is full"):
        index.append(full, np.ones([len(full), 1]))
    with pytest.raises(ValueError, match="exceed its capacity of 30"):
        index.append(range(31), np.ones([31, 1]))
    with pytest.raises(ValueError, match="must be finite"):
        index.append([0, 1, 2], [[1], [1], [np.nan]])
    assert [int(shard.num_rows) for shard in index.shards] == [0, 0, 0]
    index.append(full[:-1], np.ones([room, 1]))
    assert [int(shard.num_rows) for shard in index.shards] == [0, room, 0]


def test_repeated_ids_are_found():
    index = ShardedIndex(IndexSchema(dim=1, id_dtype="string"), 9, Shards(2))
    index.append(["a", "b", "c"], np.ones([3, 1]))
    index.check()
    index.append(["b"], np.ones([1, 1]))
    with pytest.raises(ValueError, match=r"must be distinct.*'b'"):
        index.check()


def test_one_shard_is_an_index_as_before():
    assert isinstance(new_index(IndexSchema(dim=1), 5, Shards()), Index)


def test_portable_indexes_are_in_one_piece():
    index = ShardedIndex(IndexSchema(dim=1), 5, Shards(2))
    with pytest.raises(ValueError, match="in one piece, got one of 2 shards"):
        ServedIndex(index, k=1, portable=True)


def _live(path, sharding, capacity=60, **fields):
    schema = IndexSchema(dim=DIM, attributes=(YEAR,), **fields)
    index = new_index(schema, capacity, sharding, log_partitions=2)
    return LiveIndex(ServedIndex(index, k=K), path)


def _vector(seed):
    return np.random.default_rng(seed).standard_normal(DIM).astype("float32")


def _put(id, **fields):
    return Change(
        id, embedding=_vector(id), attributes={"year": id % 100}, **fields
    )


def _state(live, ids):
    stats = live.stats()
    del stats["searches_masked"], stats["searches_prefiltered"]
    return {
        **live.call("lookup", id=ids),
        **{name: np.array(value) for name, value in stats.items()},
    }


def _log(partition, previous, offset):
    return {
        "partition": partition,
        "previous_offset": previous,
        "offset": offset,
    }


# Of the requests of these names; clients do not let all of them pass.
LAST_EMBEDDING = {"infinite": np.inf, "zero": 0.0, "large": 1e6}


def _refused_requests():
    """Requests that no index takes, the mistake in the last row."""
    good = [_put(i) for i in range(20, 30)]
    return {
        "infinite": [*good, _put(30)],
        "zero": [*good, _put(30)],
        "large": [*good, _put(30)],
        "partition": [*good, _put(30, **_log(2, 4, 5))],
        "backwards": [*good, _put(30, **_log(1, 5, 5))],
        "gap": [*good, _put(30, **_log(0, 0, 1)), _put(31, **_log(0, 2, 3))],
        "stale": [*good, _put(30, **_log(0, 7, 8))],
        "full": [_put(i) for i in range(100, 160)],
    }


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_a_refused_request_changes_no_shard(tmp_path, metric):
    lives = [
        _live(
            tmp_path / f"{count}",
            Shards(count),
            dtype="float16",
            metric=metric,
        )
        for count in (1, 4)
    ]
    ids = list(range(200))
    for live in lives:
        first = [_put(i) for i in range(8)]
        assert live.update(*first, _put(8, **_log(0, -1, 0))) == [1] * 9
    refused = set()
    for name, request in _refused_requests().items():
        messages = []
        for live in lives:
            before = _state(live, ids)
            try:
                inputs = live.encoder.inputs("update", request)
                if name in LAST_EMBEDDING:
                    inputs["embedding"][-1] = LAST_EMBEDDING[name]
                live.call("update", **inputs)
            except tf.errors.OpError as error:
                refused.add(name)
                messages.append((type(error), _essence(error.message)))
                _same(_state(live, ids), before)
        if messages:
            assert len(messages) == 2, name
            assert messages[0] == messages[1], name
    accepted = {"large"} if metric == "cosine" else {"zero"}
    assert refused == set(_refused_requests()) - accepted


def _essence(message):
    """What the operation says, without where in the graph it is."""
    for line in message.splitlines():
        for start in ("row ", "the index is full"):
            if start in line:
                return line[line.index(start) :].split(" [Op:")[0]
    raise AssertionError(message)


def test_a_full_shard_refuses_the_whole_request(tmp_path):
    live = _live(tmp_path / "m", Shards(3), capacity=30)
    (room,) = set(live.stats()["shard_capacity"].tolist())
    mine = _ids_of_shard(2, room + 1, 3)
    others = _ids_of_shard(0, 2, 3)
    assert live.update(*(_put(i) for i in mine[:-1])) == [1] * room
    before = _state(live, [*mine, *others])
    with pytest.raises(
        tf.errors.ResourceExhaustedError,
        match=f"shard 2 of the index is full: the batch needs 1 more rows "
        f"than the capacity of {room} leaves",
    ):
        live.update(*(_put(i) for i in [*others, mine[-1]]))
    _same(_state(live, [*mine, *others]), before)
    # What it holds may still change, and a delete makes room.
    status = live.update(
        _put(mine[0]), Change(mine[1], delete=True), _put(mine[-1])
    )
    assert status == [2, 3, 1]
    assert live.stats()["shard_live_rows"].tolist() == [0, 0, room]


def test_skips_and_rows_beside_the_log_move_only_their_offsets(tmp_path):
    live = _live(tmp_path / "m", Shards(3))
    status = live.update(
        Change(None, **_log(0, -1, 3)),
        *(_put(i) for i in range(10)),
        _put(10, **_log(0, 3, 4)),
        Change(None, **_log(1, -1, 7)),
        Change(99, delete=True, **_log(0, 4, 9)),
    )
    assert status == [0, *[1] * 11, 0, 0]
    stats = live.stats()
    assert stats["log_offsets"].tolist() == [9, 7]
    assert stats["live_rows"] == stats["shard_live_rows"].sum() == 11
    with pytest.raises(tf.errors.InvalidArgumentError, match="only moves"):
        live.call(
            "update",
            **{
                **live.encoder.inputs("update", [_put(1)]),
                "id": [-1],
            },
        )


def test_updates_at_once_apply_each_batch_of_the_log_once(tmp_path):
    live = _live(tmp_path / "m", Shards(3))
    lost: list[int] = []

    def send(partition):
        """Sends a partition's batches, as often as two others do."""
        for number in range(12):
            batch = [
                _put(
                    2 * ((3 * number + i) % 14) + partition,
                    **_log(partition, 3 * number + i - 1, 3 * number + i),
                )
                for i in range(3)
            ]
            try:
                live.update(*batch)
            except tf.errors.FailedPreconditionError:
                lost.append(partition)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(send, i % 2) for i in range(6)]:
            done.result()
    # Each batch was applied by the first that sent it, if it came in turn.
    assert live.offsets() == [35, 35]
    stats = live.stats()
    assert stats["live_rows"] == stats["shard_live_rows"].sum() == 28
    assert sorted(lost) == [0] * 24 + [1] * 24


def test_searches_see_rows_as_a_whole(tmp_path):
    schema = IndexSchema(dim=1, attributes=(YEAR,))
    index = ShardedIndex(schema, 40, Shards(3))
    live = LiveIndex(
        ServedIndex(index, k=10, return_attributes=["year"]), tmp_path / "m"
    )

    def batch(year):
        return [
            Change(i, embedding=[year], attributes={"year": year})
            for i in range(10)
        ]

    live.update(*batch(0))
    stop = threading.Event()

    def change():
        for year in range(1, 60):
            live.update(*batch(year))
        stop.set()

    seen = set()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        writer = pool.submit(change)
        while not stop.is_set() and not writer.done():
            found = live.call(
                "retrieve_by_embedding", query_embedding=[[1]], filter=[""]
            )
            assert found["num_results"].tolist() == [10]
            assert sorted(found["ids"][0].tolist()) == list(range(10))
            years = found["attribute_year"][0]
            np.testing.assert_array_equal(years, found["scores"][0])
            seen.update(years.tolist())
        writer.result()
    assert seen


def test_vectors_are_those_of_the_rows():
    index = ShardedIndex(IndexSchema(dim=DIM, dtype="int8"), 50, Shards(4))
    vectors = np.stack([_vector(i) for i in range(30)])
    index.append(range(30), vectors)
    rows = rows_in_order(index, np.arange(30))
    step = np.abs(vectors).max(axis=1, keepdims=True) / 127
    assert (np.abs(index.vectors(rows) - vectors) <= step).all()
    assert len(shards_of(index)) == 4
