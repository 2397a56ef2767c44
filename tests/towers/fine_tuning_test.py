# SPDX-License-Identifier: Apache-2.0
"""Training through the index; `keras_versions_test.py` runs this file."""

import dataclasses
import os

import numpy as np
import pytest

if os.environ.get("TF_USE_LEGACY_KERAS") != "1":
    pytest.skip(
        "TFRS needs TF_USE_LEGACY_KERAS=1: keras_versions_test.py sets it",
        allow_module_level=True,
    )

import tensorflow as tf

from lintf import towers
from lintf.similarity import scoring
from lintf.towers.fine_tuning import TunedItemTower, fine_tune
from lintf.towers.movielens import item_features
from lintf.towers.training import Epochs, make_examples
from tests.towers.toy_data import toy_data

CONFIG = towers.TowerConfig(
    dim=9, hidden=8, history_length=6, epochs=2, batch_size=32, dropout=0.0
)


def _features(data):
    return {n: tf.constant(c) for n, c in item_features(data).items()}


def _loss(trained, data, config) -> float:
    """The softmax over all films, without dropout."""
    examples = make_examples(data, "test")
    batch, _, positive = next(iter(Epochs(examples, config, 128).dataset(0)))
    queries = trained.query(batch)
    items = trained.item(_features(data))
    if trained.similarity is None:
        scores = tf.matmul(queries, items, transpose_b=True)
    else:
        similarity = trained.similarity
        scores = scoring.scores(
            similarity.spec, similarity.scoring_weights(), queries, items
        )
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(positive, scores)
    return float(tf.reduce_mean(losses))


@pytest.mark.parametrize("similarity", ["dot", "mixture_of_logits"])
def test_lowers_the_loss_and_keeps_new_items_at_the_base(similarity, tmp_path):
    data = toy_data()
    config = dataclasses.replace(CONFIG, similarity=similarity)
    trained = towers.train(config, data, tmp_path / "w", verbose=0)
    before = _loss(trained, data, config)

    tuned = fine_tune(
        trained,
        config,
        data,
        tmp_path / "logs",
        epochs=6,
        learning_rate=3e-3,
        k=8,
    )

    assert _loss(tuned, data, config) < before - 0.2
    features = _features(data)
    moved = tuned.item(features) - trained.item(features)
    assert (tf.reduce_max(tf.abs(moved), axis=1) > 1e-4).numpy().all()
    # An id that no row has is what the base tower makes of it.
    features["id"] = tf.constant(item_features(data)["id"] + 1000)
    np.testing.assert_array_equal(
        tuned.item(features).numpy(), trained.item(features).numpy()
    )


def test_the_same_seed_gives_the_same_rows(tmp_path):
    data = toy_data()
    rows = []
    for name in ("one", "two"):
        trained = towers.train(CONFIG, data, tmp_path / name, verbose=0)
        tuned = fine_tune(trained, CONFIG, data, tmp_path / name / "logs", k=5)
        rows.append(tuned.item(_features(data)).numpy())
    np.testing.assert_array_equal(*rows)


def test_a_tuned_tower_adds_what_was_learned(tmp_path):
    data = toy_data()
    base = towers.train(CONFIG, data, tmp_path, verbose=0).item
    learned = np.arange(20 * 9, dtype=np.float32).reshape(20, 9)
    tuned = TunedItemTower(base, data.films.id, learned)
    features = _features(data)
    np.testing.assert_allclose(
        tuned(features).numpy(), base(features).numpy() + learned
    )
    assert tuned.dim == base.dim
