# SPDX-License-Identifier: Apache-2.0
"""What requests may ask: the limits hold in native and portable models."""

import numpy as np
import pytest
import tensorflow as tf

from lintf.index.index import Index
from lintf.index.schema import FilterLimits, IndexSchema, infer_attribute
from lintf.index.served import Batching, ServedIndex

DIM, ROWS, WORDS = 4, 30, 16


class AddingTower(tf.Module):
    """Broadcasts where the numbers of rows differ, as towers may."""

    feature_specs = {
        "left": tf.TensorSpec([None, DIM], tf.float32),
        "right": tf.TensorSpec([None, DIM], tf.float32),
    }

    def __call__(self, features):
        return features["left"] + features["right"]


def _served(kind, metric="inner_product", **arguments):
    schema = IndexSchema(
        dim=DIM,
        metric=metric,
        attributes=(infer_attribute("year", "int", []),),
        limits=FilterLimits(max_words=WORDS),
    )
    index = Index(schema, ROWS)
    rng = np.random.default_rng(2)
    index.append(
        np.arange(ROWS),
        rng.standard_normal((ROWS, DIM)),
        {"year": np.arange(2000, 2000 + ROWS)},
    )
    return ServedIndex(
        index,
        AddingTower(),
        k=5,
        batching=Batching(4, 0, 1, 5) if kind == "batched" else None,
        portable=kind == "portable",
        **arguments,
    )


@pytest.fixture(scope="module", params=["native", "batched", "portable"])
def model(request):
    served = _served(request.param, max_request_rows=50)
    return request.param, served.signatures()


def _filters(kind, count):
    if kind == "portable":
        return {"filter_program": tf.zeros([count, WORDS], tf.int64)}
    return {"filter": tf.fill([count], "")}


def test_rows_must_agree(model):
    kind, call = model
    for left, right, filters in [(1, 3, 3), (3, 1, 3), (3, 3, 1), (1, 1, 2)]:
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="must have as many rows"
        ):
            call["retrieve"](
                left=tf.ones([left, DIM]),
                right=tf.ones([right, DIM]),
                **_filters(kind, filters),
            )
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="`right` must have as many rows"
    ):
        call["embed_query"](left=tf.ones([1, DIM]), right=tf.ones([3, DIM]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="as many rows"):
        call["retrieve_by_embedding"](
            query_embedding=tf.ones([2, DIM]), **_filters(kind, 1)
        )


def test_rows_are_limited(model):
    kind, call = model
    limit = 20 if kind == "batched" else 50
    fits = {"query_embedding": tf.ones([limit, DIM]), **_filters(kind, limit)}
    assert call["retrieve_by_embedding"](**fits)["ids"].shape == [limit, 5]
    for name, inputs in [
        (
            "retrieve_by_embedding",
            {
                "query_embedding": tf.ones([limit + 1, DIM]),
                **_filters(kind, limit + 1),
            },
        ),
        ("lookup", {"id": tf.zeros([limit + 1], tf.int64)}),
        ("index_stats", {"probe": tf.zeros([1000], tf.int64)}),
    ]:
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="a request may have"
        ):
            call[name](**inputs)


def test_no_rows_are_fine(model):
    kind, call = model
    results = call["retrieve_by_embedding"](
        query_embedding=tf.ones([0, DIM]), **_filters(kind, 0)
    )
    assert results["ids"].shape == [0, 5]
    assert results["num_results"].shape == [0]
    assert call["lookup"](id=tf.zeros([0], tf.int64))["found"].shape == [0]


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_scores_that_overflow_let_nothing_through(metric):
    queries = np.array([[3e38] * DIM, [-3e38] * DIM], np.float32)
    for kind in ("native", "portable"):
        served = _served(kind, metric)
        program = np.zeros([2, WORDS], np.int64)
        # year >= 2027
        highest = np.iinfo(np.int64).max
        program[:, :4] = [(1 << 32) | 4, 3 | (2 << 32), 2027, highest]
        inputs = {"filter_program": tf.constant(program)}
        if kind == "native":
            inputs = {"filter": tf.constant(["year >= 2027"] * 2)}
        results = served.signatures()["retrieve_by_embedding"](
            query_embedding=tf.constant(queries), **inputs
        )
        assert results["num_results"].numpy().tolist() == [3, 3]
        for row in results["ids"].numpy():
            assert set(row[:3]) == {27, 28, 29}
            assert row[3:].tolist() == [-1, -1]


def test_the_limit_must_be_positive():
    with pytest.raises(ValueError, match="`max_request_rows` must be"):
        _served("native", max_request_rows=0)
