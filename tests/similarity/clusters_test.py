# SPDX-License-Identifier: Apache-2.0
"""Clusters and residual ids; runs under Keras 3 and under Keras 2."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from lintf.similarity.clusters import (
    ClusterEmbeddings,
    ResidualIdEmbeddings,
    ScikitLearnUnavailableError,
    k_means,
)

_CENTRES = np.array([[2.0, 0.0], [0.0, 0.5], [-1.0, 0.0]], np.float32)


def test_k_means_finds_directions_whatever_the_lengths():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    true = np.linalg.qr(rng.normal(size=(6, 6)))[0][:4]
    which = rng.integers(0, 4, 400)
    length = rng.uniform(0.1, 10, (400, 1))
    rows = length * (true[which] + rng.normal(0, 0.05, (400, 6)))
    rows[0] = 0
    centres = k_means(rows, 4, seed=1)
    assert centres.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, rtol=1e-6)
    assert (np.abs(centres @ true.T).max(axis=0) > 0.99).all()
    np.testing.assert_array_equal(k_means(rows, 4, seed=1), centres)
    with pytest.raises(ValueError, match="from 1 to .* 399, got 400"):
        k_means(rows, 400)


def test_without_scikit_learn_the_pip_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(
        ScikitLearnUnavailableError, match=r"pip install 'lintf\[clusters\]'"
    ):
        k_means(np.ones((5, 2)), 2)


def test_the_nearest_cluster_is_by_cosine():
    layer = ClusterEmbeddings(_CENTRES)
    inputs = tf.constant([[1.0, 1.2], [5.0, 4.0], [-3.0, 0.1]])
    # By dot product the first would go to the long centre.
    np.testing.assert_array_equal(layer.assign(inputs), [1, 0, 2])
    np.testing.assert_array_equal(layer(inputs), _CENTRES[[1, 0, 2]])
    np.testing.assert_allclose(layer.occupancy(inputs), [1 / 3] * 3)
    assert layer.count == 3
    assert not layer.trainable_variables


def test_a_trained_table_learns_and_the_centres_do_not():
    layer = ClusterEmbeddings(_CENTRES, trained=True)
    inputs = tf.constant([[1.0, 0.0], [0.9, 0.1]])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(layer(inputs))
    (table,) = layer.trainable_variables
    gradient, into_inputs = tape.gradient(loss, [table, inputs])
    np.testing.assert_array_equal(
        tf.convert_to_tensor(gradient), [[2, 2], [0, 0], [0, 0]]
    )
    assert into_inputs is None


def test_learned_clusters_are_a_soft_choice_of_the_best():
    layer = ClusterEmbeddings(_CENTRES, trained=True, top=2)
    inputs = tf.constant([[0.3, 0.8]])
    scores = np.array([0.6, 0.4])
    share = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(
        layer(inputs)[0], share @ _CENTRES[:2], rtol=1e-6
    )
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(inputs) ** 2)
    assert len(layer.trainable_variables) == 2
    for gradient in tape.gradient(loss, layer.trainable_variables):
        value = tf.convert_to_tensor(gradient).numpy()
        assert np.abs(value[:2]).max() > 0
        np.testing.assert_array_equal(value[2], [0, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 4, "trained": True}, "from 0 to the 3 clusters"),
        ({"top": 2}, "set `trained`"),
    ],
)
def test_clusters_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        ClusterEmbeddings(_CENTRES, **options)


def test_residual_of_known_ids_with_history_only():
    layer = ResidualIdEmbeddings(
        [7, 8, 9], [5, 4, 60], 3, least_interactions=5, seed=2
    )
    base = tf.constant(np.arange(12).reshape(4, 3), tf.float32)
    ids = tf.constant([9, 8, 1000, 7], tf.int64)
    found = layer(ids, base).numpy()
    # Too little history, and unknown.
    np.testing.assert_array_equal(found[1:3], base[1:3])
    moved = np.abs(found - base)[[0, 3]]
    assert (moved > 0).all() and (moved < 0.01).all()
    with pytest.raises(ValueError, match="none of the 1 ids has 5"):
        ResidualIdEmbeddings([1], [4], 3)
