# SPDX-License-Identifier: Apache-2.0
"""Towers of learned similarities; runs under Keras 3 and under Keras 2."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from lintf import towers
from lintf.similarity import reference
from lintf.similarity.layers import weight_values
from tests.towers.toy_data import NUM_FILMS, toy_data

CONFIG = towers.TowerConfig(
    dim=9,
    hidden=8,
    history_length=5,
    num_newest=2,
    similarity="mixture_of_logits",
    mixture=towers.MixtureOptions(
        query_components=2,
        item_components=2,
        component_dim=4,
        start="random",
    ),
)
_CENTRES = np.eye(8, dtype=np.float32)[:3]
_CLUSTERS = towers.ClusterOptions(count=3)


def _towers(**changes):
    config = dataclasses.replace(CONFIG, **changes)
    return towers.learned_towers(
        config,
        *towers.movielens_towers(config, toy_data()),
        centres=_CENTRES if config.clusters.count else None,
        item_ids=toy_data().films.id,
        num_ratings=np.arange(NUM_FILMS),
    )


def _items(ids):
    count = len(ids)
    return {
        "id": tf.constant(ids, tf.int64),
        "genres": tf.constant([["Noir", "Farce"]] * count),
        "year": tf.constant([1983] * count, tf.int64),
    }


@pytest.mark.parametrize(
    ("changes", "pairs"),
    [
        ({"similarity": "hadamard_mlp"}, 1),
        ({"similarity": "hadamard_mlp", "clusters": _CLUSTERS}, 1),
        ({}, 4),
        ({"clusters": _CLUSTERS}, 9),
        ({"clusters": towers.ClusterOptions(count=3, mode="learned")}, 9),
        (
            {
                "mixture": towers.MixtureOptions(
                    query_components=1,
                    item_components=1,
                    newest_components=2,
                    user_component=True,
                    traits_component=True,
                    component_dim=4,
                    start="random",
                )
            },
            8,
        ),
    ],
)
def test_outputs_are_vectors_of_the_similarity(changes, pairs):
    trained = _towers(**changes)
    query, item = trained
    spec = trained.similarity.spec
    assert spec.pairs == pairs
    queries = query(towers.placeholders(query, batch=3))
    items = item(_items([103, 104]))
    assert (query.dim, item.dim) == (spec.query_dim, spec.item_dim)
    assert queries.shape == (3, spec.query_dim)
    assert items.shape == (2, spec.item_dim)
    np.testing.assert_allclose(
        trained.similarity(queries, items),
        reference.scores(
            spec,
            weight_values(trained.similarity.scoring_weights()),
            queries.numpy(),
            items.numpy(),
        ),
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_mixture_may_start_from_the_inner_product():
    trained = _towers(mixture=towers.MixtureOptions())
    query, item = trained
    random = np.random.default_rng(2)
    for tower in (query._base, item._base):
        for weight in tower.weights:
            if "float" in str(weight.dtype):
                value = np.asarray(weight)
                weight.assign(value + random.normal(0, 0.3, value.shape))
    asked = towers.placeholders(query, batch=3)
    films = _items([103, 104, 107])
    found = trained.similarity(query(asked), item(films)).numpy()
    expected = query._base(asked).numpy() @ item._base(films).numpy().T
    # The noise keeps components from being copies of each other.
    np.testing.assert_allclose(found, expected, atol=0.3 * np.ptp(expected))
    assert np.abs(found - expected).max() > 0
    correlation = np.corrcoef(found.ravel(), expected.ravel())[0, 1]
    assert correlation > 0.97


def test_dot_is_the_base_itself():
    config = dataclasses.replace(CONFIG, similarity="dot", pretrain_epochs=0)
    base = towers.movielens_towers(config, toy_data())
    trained = towers.learned_towers(config, *base)
    assert (trained.query, trained.item) == base
    assert trained.similarity is None


def test_a_new_film_has_what_traits_and_cluster_say():
    _, item = _towers(
        clusters=dataclasses.replace(
            _CLUSTERS, residual_ids=True, least_ratings=10
        )
    )
    new, other_new, few, many = item(_items([9999, 8888, 103, 115])).numpy()
    np.testing.assert_array_equal(new, other_new)
    assert np.abs(new).max() > 0
    spec = item._similarity.spec
    # The last component is the cluster's; a film with ratings adds its own.
    for film, is_alone in ((few, True), (many, False)):
        base = item._base.parts(_items([103 if is_alone else 115]), False)
        cluster = item._clusters(base.vector)
        alone = item._similarity.item_side(base.embedding, [cluster])[0]
        part = slice(2 * spec.component_dim, 3 * spec.component_dim)
        same = np.allclose(alone[part], film[part], rtol=1e-5, atol=1e-7)
        assert same == is_alone


def test_without_ids_films_of_the_same_traits_are_alike():
    _, item = _towers(item_ids=False)
    one, two = item(_items([103, 104])).numpy()
    np.testing.assert_array_equal(one, two)


def test_without_traits_new_films_are_nothing():
    config = dataclasses.replace(
        CONFIG, similarity="dot", pretrain_epochs=0, item_traits=False
    )
    _, item = towers.movielens_towers(config, toy_data())
    np.testing.assert_array_equal(item(_items([9999])), np.zeros((1, 9)))


def test_forgotten_ids_are_those_of_new_films():
    config = dataclasses.replace(
        CONFIG, similarity="dot", pretrain_epochs=0, item_id_dropout=0.5
    )
    _, item = towers.movielens_towers(config, toy_data())
    bias = next(w for w in item.weights if w.shape == (NUM_FILMS, 1))
    bias.assign(tf.ones_like(bias))
    known = item(_items([103]))[0].numpy()
    new = item(_items([9999]))[0].numpy()
    found = item(_items([103] * 200), training=True).numpy()
    is_new = (found == new).all(axis=1)
    np.testing.assert_array_equal(
        found[~is_new], np.repeat([known], (~is_new).sum(), axis=0)
    )
    # Five standard deviations of 200 fair coins.
    assert abs(is_new.mean() - 0.5) < 5 * 0.5 / np.sqrt(200)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"similarity": "cosine"}, "dot, hadamard_mlp, mixture_of_logits"),
        ({"similarity": "dot", "clusters": _CLUSTERS}, "a learned similarity"),
        ({"similarity": "dot"}, "`pretrain_epochs` train the inner product"),
        ({"pretrain_epochs": -1}, "`pretrain_epochs` must be at least 0"),
        ({"pretrain_epochs": 0, "clusters": _CLUSTERS}, "must be at least 1"),
        ({"clusters": {"number": 3}}, "no option 'number'; there are: count"),
        ({"clusters": {"residual_ids": True}}, "set `count`"),
        ({"mixture": {"newest_components": 3}}, "must not exceed `num_newest`"),
        ({"item_ids": False, "item_traits": False}, "tell films apart"),
        ({"negatives": {"easy_share": 1.0}}, r"in \[0, 1\)"),
        ({"negatives": {"hard_epochs": 99}}, "must not exceed `epochs`"),
        ({"mixture": {"gate": "none"}}, "`gate` must not be"),
        ({"mixture": {"gate": "tanh"}}, "`gate` must be one of"),
        ({"mixture": {"hidden": 4}}, "`hidden` must be positive with"),
        ({"mixture": {"query_components": 65}}, "`query_components` must be"),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_options_may_be_mappings():
    options = {"newest_components": 1, "temperature": 0.3}
    config = dataclasses.replace(CONFIG, mixture=options)
    assert config.mixture == towers.MixtureOptions(**options)
