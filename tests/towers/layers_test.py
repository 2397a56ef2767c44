# SPDX-License-Identifier: Apache-2.0
"""The towers' layers; this file runs under Keras 3 and under Keras 2."""

import numpy as np
import pytest
import tensorflow as tf

from lintf.towers import layers


def test_lookup_of_integers():
    lookup = layers.VocabularyLookup([30, -5, 7])
    rows = lookup(tf.constant([[7, 30], [-5, 8], [-9, 31]], tf.int64))
    np.testing.assert_array_equal(rows, [[3, 1], [2, 0], [0, 0]])
    assert rows.dtype == tf.int32


def test_lookup_of_strings():
    vocabulary = [f"word {n}" for n in range(500)]
    lookup = layers.VocabularyLookup(vocabulary)
    rows = lookup(tf.constant([*vocabulary, "", "word", "word 500"]))
    np.testing.assert_array_equal(rows, [*range(1, 501), 0, 0, 0])
    assert lookup.vocabulary_size == 500


def test_lookup_keeps_a_static_shape():
    lookup = layers.VocabularyLookup([1, 2])
    function = tf.function(lookup, autograph=False).get_concrete_function(
        tf.TensorSpec([None, 3], tf.int64)
    )
    assert function.structured_outputs.shape.as_list() == [None, 3]


@pytest.mark.parametrize("vocabulary", [[1, 2, 1], ["a", "b", "a"], []])
def test_lookup_refuses_a_vocabulary(vocabulary):
    with pytest.raises(ValueError, match="no value twice"):
        layers.VocabularyLookup(vocabulary)


def test_embedding_of_row_0_is_zero_and_learns_nothing():
    layer = layers.OptionalEmbedding(3, 4, seed=1)
    rows = tf.constant([[0, 1], [3, 0]])
    with tf.GradientTape() as tape:
        output = layer(rows)
        loss = tf.reduce_sum(output)
    table = layer.trainable_variables[0]
    np.testing.assert_array_equal(output[0, 0], np.zeros(4))
    np.testing.assert_array_equal(output[0, 1], table[0])
    np.testing.assert_array_equal(output[1, 0], table[2])
    gradient = tf.convert_to_tensor(tape.gradient(loss, table))
    np.testing.assert_array_equal(gradient[:, 0], [1, 0, 1])


def test_embedding_forgets_whole_ids_at_training_only():
    layer = layers.OptionalEmbedding(1, 2, drop_rate=0.5, seed=1)
    rows = tf.ones([1000], tf.int32)
    kept = layer(rows, training=True).numpy() != 0
    np.testing.assert_array_equal(kept[:, 0], kept[:, 1])
    # Five standard deviations of 1,000 fair coins.
    assert abs(kept[:, 0].mean() - 0.5) < 5 * 0.5 / np.sqrt(1000)
    assert (layer(rows).numpy() != 0).all()


def test_dropout_scales_and_is_off_when_serving():
    layer = layers.StatelessDropout(0.25, seed=3)
    inputs = tf.ones([2000])
    output = layer(inputs, training=True).numpy()
    np.testing.assert_allclose(output[output != 0], 1 / 0.75, rtol=1e-6)
    assert abs((output != 0).mean() - 0.75) < 5 * 0.5 / np.sqrt(2000)
    np.testing.assert_array_equal(layer(inputs), inputs)


def test_dropout_goes_on_from_its_counter():
    inputs = tf.ones([100])
    first = layers.StatelessDropout(0.5, seed=3)
    draws = [first(inputs, training=True).numpy() for _ in range(4)]
    assert any((draws[0] != draw).any() for draw in draws[1:])
    second = layers.StatelessDropout(0.5, seed=3)
    second(inputs, training=True)
    second(inputs, training=True)
    third = layers.StatelessDropout(0.5, seed=3)
    third.set_weights(second.get_weights())
    np.testing.assert_array_equal(third(inputs, training=True), draws[2])


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_dropout_refuses_a_rate(rate):
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        layers.StatelessDropout(rate, seed=0)


def test_recent_items_by_hand():
    layer = layers.RecentItems(length=4, num_newest=2, decay=0.5)
    embeddings = tf.constant([[[1.0], [2.0], [4.0], [9.0]]])
    present = tf.constant([[True, True, True, False]])
    pooled, newest = layer(embeddings, present)
    # Newest first: 4, 2, 1 with the weights 1, 1/2, 1/4.
    np.testing.assert_allclose(pooled, [[(4 + 1 + 0.25) / 1.75]], rtol=1e-6)
    np.testing.assert_array_equal(newest, [[[4.0], [2.0]]])


def test_recent_items_skip_absent_ones_wherever_they_stand():
    layer = layers.RecentItems(length=6, num_newest=3)
    rng = np.random.default_rng(0)
    items = rng.normal(size=(3, 2)).astype(np.float32)
    outputs = []
    for slots in ([0, 1, 2], [3, 4, 5], [0, 2, 5]):
        embeddings = rng.normal(size=(1, 6, 2)).astype(np.float32)
        embeddings[0, slots] = items
        present = np.zeros((1, 6), np.bool_)
        present[0, slots] = True
        outputs.append(layer(tf.constant(embeddings), tf.constant(present)))
    for pooled, newest in outputs:
        np.testing.assert_allclose(pooled, outputs[0][0], rtol=1e-6)
        np.testing.assert_array_equal(newest[0], items[::-1])


def test_recent_items_of_an_empty_history_are_zero():
    layer = layers.RecentItems(length=3, num_newest=2)
    pooled, newest = layer(tf.ones([1, 3, 2]), tf.zeros([1, 3], tf.bool))
    np.testing.assert_array_equal(pooled, [[0.0, 0.0]])
    np.testing.assert_array_equal(newest, np.zeros((1, 2, 2)))
