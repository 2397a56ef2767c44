# SPDX-License-Identifier: Apache-2.0
"""Starting over; this file runs under Keras 3 and under Keras 2."""

import numpy as np
import pytest
import tensorflow as tf

from lintf.similarity.layers import HadamardMlp
from lintf.similarity.restart import RestartUnluckyStart

_NUM = 64


class ToyModel(tf.keras.Model):
    """Which of a few items goes with a query: learned by a Hadamard MLP."""

    def __init__(self, seed, hidden=10):
        super().__init__()
        self.similarity = HadamardMlp(
            4, 4, component_dim=8, hidden=hidden, seed=seed
        )
        rng = np.random.default_rng(0)
        self.items = tf.constant(rng.normal(size=(6, 4)), tf.float32)
        self.built = True

    def call(self, inputs, training=False):
        return self.similarity(
            self.similarity.query_side(inputs, training=training),
            self.similarity.item_side(self.items, training=training),
            training=training,
        )


def _data(model):
    rng = np.random.default_rng(1)
    queries = tf.constant(rng.normal(size=(_NUM, 4)), tf.float32)
    best = tf.argmax(queries @ tf.transpose(model.items), axis=1)
    return tf.data.Dataset.from_tensors((queries, best)).repeat(60)


def _kill(model):
    """Makes a dead start: no hidden unit is ever on, so nothing moves."""
    weights = model.similarity.scoring_weights()
    weights["joint_bias"].assign(tf.fill([10], -1e3))


def _fit(model, callback, epochs=1, optimizer=None):
    model.compile(
        optimizer=optimizer or tf.keras.optimizers.Adam(0.02),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    history = model.fit(
        _data(model), epochs=epochs, verbose=0, callbacks=[callback]
    )
    return history.history["loss"]


def test_a_dead_start_is_rescued():
    model, again = ToyModel(seed=5), ToyModel(seed=5)
    _kill(model), _kill(again)
    nothing = RestartUnluckyStart(lambda n: None, steps=20, most_restarts=0)
    stuck = _fit(again, nothing, epochs=3)[-1]
    # Equal scores of 6 items; the dead units let only the offset move.
    assert stuck > 1.5
    callback = RestartUnluckyStart(
        lambda n: model.similarity.reinitialize(5 + n), steps=20
    )
    rescued = _fit(model, callback, epochs=3)[-1]
    assert callback.restarts == 1 and callback.is_over
    assert rescued < 0.5 * stuck


def test_a_bad_seed_is_rescued():
    # One hidden unit, found by trying seeds: this one stays where it is for
    # the first steps, with nothing done to it.
    seed, steps = 28, 20

    def train(most_restarts):
        model = ToyModel(seed, hidden=1)
        callback = RestartUnluckyStart(
            lambda n: model.similarity.reinitialize(seed + n),
            steps=steps,
            most_restarts=most_restarts,
        )
        losses = _fit(
            model, callback, epochs=3, optimizer=tf.keras.optimizers.SGD(0.1)
        )
        return losses[-1], callback.restarts

    stuck, _ = train(most_restarts=0)
    rescued, restarts = train(most_restarts=5)
    # As many steps in all, those of the bad start included.
    assert restarts == 1
    assert rescued < 0.5 * stuck


def test_several_bad_starts_in_a_row():
    model = ToyModel(seed=5)
    _kill(model)
    drawn = []

    def draw(number):
        drawn.append(number)
        model.similarity.reinitialize(5 + number)
        if number < 3:
            _kill(model)

    callback = RestartUnluckyStart(draw, steps=10)
    _fit(model, callback)
    assert drawn == [1, 2, 3] and callback.is_over


def test_a_good_start_is_left_alone():
    model, plain = ToyModel(seed=6), ToyModel(seed=6)

    def never(number):
        raise AssertionError("a good start was drawn again")

    callback = RestartUnluckyStart(never, steps=20)
    _fit(model, callback)
    assert callback.restarts == 0 and callback.is_over
    idle = RestartUnluckyStart(never, steps=1000)
    _fit(plain, idle)
    assert not idle.is_over
    for one, two in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_it_gives_up_after_some_restarts():
    model = ToyModel(seed=5)
    _kill(model)
    callback = RestartUnluckyStart(
        lambda n: _kill(model), steps=5, most_restarts=2
    )
    _fit(model, callback)
    assert callback.restarts == 2 and callback.is_over


def test_a_loss_that_is_not_finite_is_a_bad_start():
    model = ToyModel(seed=5)
    weights = model.similarity.scoring_weights()
    weights["joint_offset"].assign([np.nan])
    callback = RestartUnluckyStart(
        lambda n: model.similarity.reinitialize(n), steps=30
    )
    _fit(model, callback)
    assert callback.restarts == 1
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_the_state_goes_on_in_a_checkpoint(tmp_path):
    drawn = []
    one = RestartUnluckyStart(drawn.append, steps=4)
    model = ToyModel(seed=5)
    model.compile(optimizer=tf.keras.optimizers.Adam(0.02), loss="mse")
    one.set_model(model)
    for loss in (3.0, 2.99, 2.99):
        one.on_train_batch_end(0, {"loss": loss})
    path = tf.train.Checkpoint(state=one.state).save(str(tmp_path / "c"))
    two = RestartUnluckyStart(drawn.append, steps=4)
    two.set_model(model)
    tf.train.Checkpoint(state=two.state).restore(path)
    two.on_train_batch_end(0, {"loss": 2.99})
    assert drawn == [1]


@pytest.mark.parametrize(
    "change", [{"steps": 1}, {"most_restarts": -1}, {"least_gain": 1.0}]
)
def test_refuses(change):
    with pytest.raises(ValueError, match="`steps` must be at least 2"):
        RestartUnluckyStart(lambda n: None, **change)
