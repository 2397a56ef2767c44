# SPDX-License-Identifier: Apache-2.0
"""The two towers; this file runs under Keras 3 and under Keras 2."""

import numpy as np
import pytest
import tensorflow as tf

from lintf import towers
from tests.towers.toy_data import NUM_FILMS, toy_data

CONFIG = towers.TowerConfig(dim=9, hidden=8, history_length=5, num_newest=2)


@pytest.fixture(scope="module")
def pair():
    return towers.movielens_towers(CONFIG, toy_data())


def _query(**changes):
    features = {
        "user_id": [3],
        "history": [[105, 106, 107, -1, -1]],
        "age": [33],
        "gender": ["F"],
        "occupation": ["smith"],
        **changes,
    }
    dtypes = {"gender": tf.string, "occupation": tf.string}
    return {
        name: tf.constant(value, dtypes.get(name, tf.int64))
        for name, value in features.items()
    }


def _item(**changes):
    features = {"id": [104], "genres": [["Noir", "Farce"]], "year": [1983]}
    features.update(changes)
    return {
        name: tf.constant(value, tf.string if name == "genres" else tf.int64)
        for name, value in features.items()
    }


def test_contract(pair):
    for tower in pair:
        output = tower(towers.placeholders(tower, batch=3))
        assert output.shape == (3, CONFIG.dim)
        assert output.dtype == tf.float32
        assert tower.dim == CONFIG.dim
        for name, spec in tower.feature_specs.items():
            assert spec.name == name
            assert spec.shape[0] is None
            assert spec.shape[1:].is_fully_defined()


def test_feature_names_and_dtypes(pair):
    query, item = pair
    assert {n: s.dtype for n, s in query.feature_specs.items()} == {
        "user_id": tf.int64,
        "history": tf.int64,
        "age": tf.int64,
        "gender": tf.string,
        "occupation": tf.string,
    }
    assert {n: s.dtype for n, s in item.feature_specs.items()} == {
        "id": tf.int64,
        "genres": tf.string,
        "year": tf.int64,
    }
    assert query.feature_specs["history"].shape.as_list() == [None, 5]


def test_item_features_fit_the_item_tower(pair):
    features = towers.item_features(toy_data())
    output = pair[1]({n: tf.constant(v) for n, v in features.items()})
    assert output.shape == (NUM_FILMS, CONFIG.dim)


def test_bias_is_folded_in(pair):
    query, item = pair
    np.testing.assert_array_equal(query(_query())[:, -1], [1.0])
    bias = next(w for w in item.weights if w.shape == (NUM_FILMS, 1))
    value = bias.numpy().copy()
    value[3] = 0.5
    bias.assign(value)
    np.testing.assert_array_equal(item(_item())[:, -1], [0.5])
    np.testing.assert_array_equal(item(_item(id=[105]))[:, -1], [0.0])


def test_order_of_the_history_matters(pair):
    query, _ = pair
    forth = query(_query(history=[[105, 106, 107, -1, -1]]))
    back = query(_query(history=[[107, 106, 105, -1, -1]]))
    assert np.abs(forth - back).max() > 1e-3


def test_padding_and_unknown_films_in_a_history_are_skipped(pair):
    query, _ = pair
    expected = query(_query())
    for history in ([105, 106, 107, 999, 5], [-1, -1, 105, 106, 107]):
        np.testing.assert_allclose(
            query(_query(history=[history])), expected, rtol=1e-5, atol=1e-7
        )


def test_unknown_values_are_all_alike(pair):
    query, item = pair
    one = query(_query(user_id=[999], gender=[""], occupation=["pirate"]))
    two = query(_query(user_id=[-1], gender=["?"], occupation=[""]))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(
        query(_query(age=[0])), query(_query(age=[-1]))
    )
    np.testing.assert_array_equal(
        item(_item(id=[1], year=[0], genres=[["", "Western"]])),
        np.zeros((1, CONFIG.dim)),
    )


def test_a_new_film_has_what_its_traits_say(pair):
    _, item = pair
    new = item(_item(id=[7777]))[0].numpy()
    assert np.abs(new).max() > 0
    only_genre = item(_item(id=[7777], year=[0]))[0].numpy()
    only_year = item(_item(id=[7777], genres=[["", ""]]))[0].numpy()
    np.testing.assert_allclose(only_genre + only_year, new, rtol=1e-5)


def test_year_bands(pair):
    _, item = pair
    same = item(_item(year=[1983])), item(_item(year=[1985]))
    np.testing.assert_array_equal(*same)
    other = item(_item(year=[1986]))
    assert np.abs(other - same[0]).max() > 0
    np.testing.assert_array_equal(item(_item(year=[-1])), item(_item(year=[0])))
    # Later than any band's beginning: the last band.
    np.testing.assert_array_equal(
        item(_item(year=[1998])), item(_item(year=[2050]))
    )


def test_a_query_is_the_same_alone_and_in_a_batch(pair):
    query, _ = pair
    rng = np.random.default_rng(0)
    batch = _query(
        user_id=rng.integers(1, 30, 16),
        history=rng.integers(100, 125, (16, 5)),
        age=rng.integers(0, 80, 16),
        gender=rng.choice(["F", "M", ""], 16),
        occupation=rng.choice(["baker", "smith", "x"], 16),
    )
    whole = query(batch)
    for row in range(16):
        single = query({n: v[row : row + 1] for n, v in batch.items()})
        np.testing.assert_allclose(single[0], whole[row], rtol=1e-5, atol=1e-6)


def test_missing_feature_is_named(pair):
    features = _query()
    del features["age"]
    with pytest.raises(ValueError, match=r"missing: \['age'\]"):
        pair[0](features)


def test_other_features_are_ignored(pair):
    features = {**_query(), "filter": tf.constant(["year > 1990"])}
    np.testing.assert_array_equal(pair[0](features), pair[0](_query()))


def test_same_seed_same_weights(pair):
    again = towers.movielens_towers(CONFIG, toy_data())
    for one, two in zip(pair, again, strict=True):
        for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
            if a.shape != (NUM_FILMS, 1):
                np.testing.assert_array_equal(a, b)


def test_saved_model_round_trip(pair, tmp_path):
    query, _ = pair

    def embed(**features):
        return {"embedding": query(features)}

    module = tf.Module()
    module.tower = query
    tf.saved_model.save(
        module,
        str(tmp_path),
        signatures=tf.function(embed, autograph=False).get_concrete_function(
            **query.feature_specs
        ),
    )
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(
        loaded.signatures["serving_default"](**_query())["embedding"],
        query(_query()),
        rtol=1e-5,
        atol=1e-7,
    )


def test_pad_history():
    pad = towers.pad_history
    np.testing.assert_array_equal(pad(np.array([1, 2, 3]), 2), [2, 3])
    np.testing.assert_array_equal(pad(np.array([1, 2, 3]), 3), [1, 2, 3])
    np.testing.assert_array_equal(pad(np.array([1]), 3), [1, -1, -1])
    np.testing.assert_array_equal(pad(np.array([], np.int64), 2), [-1, -1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 1}, "one dimension is the bias"),
        ({"epochs": -1}, "`epochs` at least 0"),
        ({"hidden": 0}, "`hidden` must be at least 1"),
        ({"num_newest": 6, "history_length": 5}, "must not exceed"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        towers.TowerConfig(**change)
