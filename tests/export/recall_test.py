# SPDX-License-Identifier: Apache-2.0
"""The recall of codes: what is measured, and what is refused."""

import dataclasses
import re

import numpy as np
import pytest

from export import queries, recall
from export.errors import JobError
from lintf.index.index import Index
from lintf.index.plan import Plan
from lintf.index.schema import IndexSchema, Quantization

ROWS, DIM, K = 400, 16, 5
CODES = Quantization(bins=4, repeats=32, shortlist=20)
ITEMS = np.random.default_rng(3).standard_normal((ROWS, DIM)).astype("float32")


def make_index(dtype="float32", codes=CODES, metric="inner_product"):
    schema = IndexSchema(
        dim=DIM, metric=metric, dtype=dtype, quantization=codes
    )
    index = Index(schema, ROWS + 100)
    index.append(np.arange(ROWS), ITEMS)
    return index


def by_items(count=30):
    rows = queries.sample(ROWS, count, seed=1)
    return queries.of_items(ITEMS[rows], rows)


def by_tower(count=30):
    vectors = np.random.default_rng(9).standard_normal((count, DIM))
    return queries.of_tower(vectors)


def exact(asked, metric="inner_product", k=K):
    scores = asked.vectors.astype(np.float64) @ ITEMS.T.astype(np.float64)
    if metric == "cosine":
        scores = scores / np.linalg.norm(ITEMS, axis=1)
    for i, own in enumerate(asked.own):
        if own >= 0:
            scores[i, own] = -np.inf
    return np.argsort(-scores, axis=1)[:, :k]


def measure(index, asked, plans=None, floor=0.0):
    batches = None
    if index.embeddings is None:
        parts = np.split(np.arange(ROWS), [64, 70, 300])
        batches = [index.checked_embeddings(ITEMS[p]) for p in parts]
    plans = plans or {"retrieve": Plan(K, "quantized")}
    return recall.measure(index, plans, asked, floor, batches)


@pytest.mark.parametrize("asked", [by_items(), by_tower()], ids=["i", "t"])
@pytest.mark.parametrize("metric", ["inner_product", "cosine"])
def test_recall_of_codes_alone_is_that_of_numpy(asked, metric):
    codes = dataclasses.replace(CODES, scoring="symmetric")
    index = make_index("none", codes, metric)
    (report,) = measure(index, asked)
    assert report.shortlist == K
    assert not report.rescored
    assert [size for size, _ in report.table] == [5, 20, 50, 200]
    from lintf.index import oporp

    matrix = oporp.projection(codes, DIM).astype(np.float64)
    items, own = ITEMS @ matrix >= 0, asked.vectors @ matrix >= 0
    matched = (own[:, None] == items[None]).sum(axis=2)
    for i, row in enumerate(asked.own):
        if row >= 0:
            matched[i, row] = -1
    order = np.argsort(-matched, axis=1, kind="stable")
    truth = exact(asked, metric)
    for size, got in report.table:
        shares = [
            np.isin(t, o[:size]).mean()
            for t, o in zip(truth, order, strict=True)
        ]
        assert got == pytest.approx(np.mean(shares)), size


@pytest.mark.parametrize("asked", [by_items(), by_tower()], ids=["i", "t"])
@pytest.mark.parametrize("dtype", ["float32", "none"])
def test_few_results_are_held_at_once(asked, dtype, monkeypatch):
    index = make_index(dtype)
    (together,) = measure(index, asked)
    # The longest list of the table, 40 times `k`, and the query's own item.
    most, held = 40 * K + 1, []
    counted = recall.shares

    def count(exact, found):
        held.append(found.size)
        return counted(exact, found)

    monkeypatch.setattr(recall, "_MAX_RESULTS", most)
    monkeypatch.setattr(recall, "shares", count)
    (apart,) = measure(index, asked)
    assert apart == together
    assert max(held) <= most


def test_recall_grows_with_the_shortlist_and_ends_at_1():
    index = make_index()
    plans = {
        "retrieve": Plan(K, "auto"),
        "wide": Plan(50, "quantized", shortlist=60),
        "exact": Plan(50, "masked"),
    }
    narrow, wide = measure(index, by_items(), plans)
    assert (narrow.signature, wide.signature) == ("retrieve", "wide")
    assert [s for s, _ in narrow.table] == [5, 20, 50, 200]
    assert [s for s, _ in wide.table] == [50, 60, 200, 400]
    assert (narrow.shortlist, wide.shortlist) == (20, 60)
    for report in (narrow, wide):
        shares = [share for _, share in report.table]
        assert shares == sorted(shares)
        assert 0 < shares[0] < shares[-1]
        assert dict(report.table)[report.shortlist] == report.recall
    assert wide.table[-1][1] == 1


def test_a_shortlist_longer_than_the_index_is_the_index():
    codes = dataclasses.replace(CODES, shortlist=10_000)
    (report,) = measure(make_index("float32", codes), by_items())
    assert (report.shortlist, report.recall) == (10_000, 1.0)
    assert report.to_text().splitlines()[-1].endswith("400  1.0000  <- chosen")


def test_the_table_is_for_people():
    (report,) = measure(make_index(), by_items())
    lines = report.to_text().splitlines()
    assert lines[0] == (
        "retrieve: codes of 128 bits (bins 4, repeats 32, asymmetric)"
    )
    assert lines[1].strip() == "shortlist  recall@5 (30 items as queries)"
    assert re.fullmatch(r" +20  0\.\d{4}  <- chosen", lines[3])


def test_below_the_floor_is_refused_with_the_table():
    codes = dataclasses.replace(CODES, scoring="symmetric")
    reports = measure(make_index("float32", codes), by_items(), floor=1.0)
    message = (
        r"recall_floor: the recall@5 of 'retrieve' must be at least 1, got 0\."
        r"\d{4}; nothing was published. What helps: a larger shortlist, more "
        r"bits, scoring: asymmetric; or a lower floor.\n(.|\n)*<- chosen"
    )
    with pytest.raises(JobError, match=message):
        recall.check(reports)
    alone = measure(make_index("none"), by_items(), floor=1.0)
    with pytest.raises(JobError, match="more bits, stored embeddings to resc"):
        recall.check(alone)
    recall.check(measure(make_index(), by_items(), floor=0.0))


def test_exact_rows_of_batches_are_those_of_the_whole():
    asked = by_tower()
    for sizes in ([400], [1, 2, 397], [3] * 133 + [1]):
        parts = np.split(ITEMS, np.cumsum(sizes)[:-1])
        rows = recall.exact_rows(parts, asked.vectors, 12, "inner_product")
        np.testing.assert_array_equal(rows, exact(asked, k=12))
    few = recall.exact_rows([ITEMS[:3]], asked.vectors, 5, "l2")
    assert (few[:, 3:] == -1).all()
    assert (np.sort(few[:, :3]) == [0, 1, 2]).all()


def test_samples_are_of_distinct_rows_by_seed():
    rows = queries.sample(100, 30, seed=4)
    assert len(set(rows.tolist())) == 30
    assert rows.tolist() == queries.sample(100, 30, seed=4).tolist()
    assert rows.tolist() != queries.sample(100, 30, seed=5).tolist()
    assert queries.sample(7, 30, seed=0).tolist() == list(range(7))


@pytest.mark.data
def test_users_of_the_recipe_ask_with_what_training_saw_of_them():
    import tensorflow as tf

    from export.config import JobConfig
    from export.parse import to_dataclass
    from lintf import datasets

    config = to_dataclass(
        JobConfig,
        {
            "name": "films",
            "towers": {"recipe": "movielens_100k"},
            "items": {"dataset": "movielens_100k"},
        },
    )
    specs = {"history": tf.TensorSpec([None, 6], tf.int64)}
    features = queries.recipe_features(config, specs, 20, seed=4)
    assert features is not None
    data = datasets.movielens_100k()
    for i, user in enumerate(features["user_id"]):
        row = int(np.flatnonzero(data.users.id == user)[0])
        assert features["age"][i] == data.users.age[row]
        assert features["occupation"][i] == data.users.occupation[row]
        mine = data.ratings.user_id == user
        items = data.ratings.item_id[mine]
        order = np.argsort(data.ratings.timestamp[mine], kind="stable")
        # The last item is held out.
        newest = items[order][:-1][-6:]
        assert features["history"][i].tolist() == (
            newest.tolist() + [-1] * (6 - len(newest))
        )
    given = to_dataclass(
        JobConfig,
        {"name": "x", "items": {"path": "x", "embedding": {"column": "v"}}},
    )
    assert queries.recipe_features(given, specs, 20, seed=4) is None
