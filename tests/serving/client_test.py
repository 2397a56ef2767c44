# SPDX-License-Identifier: Apache-2.0
"""The client against a server: Python values, errors, versions."""

import grpc
import numpy as np
import pytest

from lintf.serving.client import Client
from tests.serving import toy_models
from tests.serving.conftest import publish
from tests.serving.servers import State, fails_with, free_port

FEATURES = {"user_id": 3, "history": [1, 2], "gender": "F"}


@pytest.fixture(scope="module")
def client(server):
    with Client(server.target, "toy", timeout_s=30) as client:
        yield client


def _expected(user_id, history, gender, filter=""):
    items = toy_models.ToyIndex(1).items.numpy()
    query = np.array(
        [user_id, sum(history), gender == "F", len(filter)], np.float32
    )
    order = np.argsort(-(items @ query), kind="stable")[: toy_models.K]
    return (order + 1000).tolist()


def test_single_query_gets_a_batch_of_one(client):
    result = client.retrieve(FEATURES)
    # The third slot of the history is padded with -1.
    assert result.ids.tolist() == [_expected(3, [1, 2, -1], "F")]
    assert result.ids.dtype == np.int64
    assert result.scores.dtype == np.float32
    assert result.num_results.tolist() == [toy_models.K]
    assert result.version == 1


def test_rows_are_python_values(client):
    rows = list(client.retrieve(FEATURES).rows())
    assert len(rows) == toy_models.K
    for row in rows:
        assert isinstance(row["id"], int)
        assert isinstance(row["score"], float)
        assert row["title"] == f"film {row['id']}"


def test_batch_with_a_filter_for_each(client):
    filters = ["", "xx", "year"]
    result = client.retrieve(
        {
            "user_id": [1, 2, 3],
            "history": np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
            "gender": ["F", "M", "F"],
        },
        filters,
    )
    assert result.ids.tolist() == [
        _expected(1, [1, 2, 3], "F", ""),
        _expected(2, [4, 5, 6], "M", "xx"),
        _expected(3, [7, 8, 9], "F", "year"),
    ]


def test_values_without_batch_are_repeated(client):
    result = client.retrieve(
        {"user_id": [1, 2], "history": [9], "gender": "M"}, "x"
    )
    assert result.ids.tolist() == [
        _expected(user, [9, -1, -1], "M", "x") for user in (1, 2)
    ]
    result = client.retrieve(FEATURES, ["", "x"])
    assert result.ids.tolist() == [
        _expected(3, [1, 2, -1], "F", filter) for filter in ("", "x")
    ]


def test_by_embedding(client):
    one = client.retrieve_by_embedding([1, 0, 0, 0])
    many = client.retrieve_by_embedding(np.eye(4, dtype=np.float32))
    assert one.ids.shape == (1, toy_models.K)
    assert many.ids.shape == (4, toy_models.K)
    np.testing.assert_array_equal(one.ids[0], many.ids[0])
    np.testing.assert_array_equal(one.scores[0], many.scores[0])


def test_feature_names(client):
    assert client.feature_names() == ["gender", "history", "user_id"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"user_id": 1.5}, "'user_id' must be int64"),
        ({"user_id": "7"}, "'user_id' must be int64"),
        ({"user_id": True}, "'user_id' must be int64"),
        ({"user_id": 2**63}, "'user_id' must be int64"),
        ({"user_id": [[1]]}, "got 2 dimensions"),
        ({"history": 5}, "got 0 dimensions"),
        ({"history": [1, 2, 3, 4]}, "got 4 values where 3 fit"),
        ({"gender": 5}, "'gender' must be string"),
        ({"gender": None}, "'gender' must be string"),
        ({"user_id": [1, 2], "gender": ["F"] * 3}, "one batch size"),
        ({"user": 3}, "no feature 'user'. Did you mean 'user_id'?"),
    ],
)
def test_values_that_do_not_fit(client, change, text):
    with pytest.raises(ValueError) as caught:
        client.retrieve({**FEATURES, **change})
    assert text in str(caught.value)


def test_missing_feature(client):
    with pytest.raises(ValueError, match=r"also needs .* history \(\[3\]"):
        client.retrieve({"user_id": 3, "gender": "F"})


def test_wrong_number_of_filters(client):
    with pytest.raises(ValueError, match="one for each of the 4 queries"):
        client.retrieve_by_embedding(np.eye(4), ["", ""])


def test_model_that_is_no_index(client):
    with pytest.raises(ValueError, match="no signature 'lookup'"):
        client.lookup([1])


def test_server_errors_stay_grpc(client):
    with fails_with(
        grpc.StatusCode.INVALID_ARGUMENT, "got fail at", whole=False
    ):
        client.retrieve_by_embedding([1, 2, 3, 4], "fail")


def test_unknown_model(server):
    with Client(server.target, "zzz") as client:
        with fails_with(grpc.StatusCode.NOT_FOUND):
            client.retrieve_by_embedding([1, 2, 3, 4])


def test_no_server():
    with Client(f"127.0.0.1:{free_port()}", "toy", timeout_s=20) as client:
        with fails_with(grpc.StatusCode.UNAVAILABLE):
            client.stats()


def test_version_and_label_exclude_each_other():
    with pytest.raises(ValueError, match="at most one"):
        Client("localhost:1", "toy", version=1, label="stable")


def test_follows_a_swap(server, toy_versions, tmp_path):
    base_path = tmp_path / "followed"
    publish(toy_versions[1], base_path, 1)
    server.add_model("followed", base_path)
    with (
        Client(server.target, "followed", timeout_s=30) as newest,
        Client(server.target, "followed", version=1) as first,
    ):
        assert newest.retrieve_by_embedding([1, 0, 0, 0]).version == 1
        assert first.retrieve_by_embedding([1, 0, 0, 0]).version == 1
        publish(toy_versions[2], base_path, 2)
        server.wait_for_state("followed", 1, State.END)
        result = newest.retrieve_by_embedding([1, 0, 0, 0])
        assert result.version == 2
        assert min(result.ids[0]) >= 2000
        with fails_with(grpc.StatusCode.NOT_FOUND):
            first.retrieve_by_embedding([1, 0, 0, 0])
