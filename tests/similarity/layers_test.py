# SPDX-License-Identifier: Apache-2.0
"""The similarities' layers; this file runs under Keras 3 and under Keras 2."""

import numpy as np
import pytest
import tensorflow as tf

from lintf.similarity import reference, saved
from lintf.similarity.layers import (
    HadamardMlp,
    MixtureOfLogits,
    weight_values,
)
from lintf.similarity.spec import SimilaritySpec

_SMALL = {
    "query_components": 2,
    "item_components": 2,
    "component_dim": 4,
    "gate_hidden": 5,
    "side_gate_hidden": 6,
    "temperature": 0.5,
    "seed": 3,
}


def _mixture(**changes):
    return MixtureOfLogits(7, 6, **{**_SMALL, **changes})


def _inputs(layer, num_queries=5, num_items=8, widths=((7,), (6,))):
    rng = np.random.default_rng(0)
    sides = []
    for count, side in zip((num_queries, num_items), widths, strict=True):
        first, *extra = (
            tf.constant(rng.normal(size=(count, w)), tf.float32) for w in side
        )
        sides.append((first, extra))
    (q, q_extra), (x, x_extra) = sides
    return layer.query_side(q, q_extra), layer.item_side(x, x_extra)


def _nudge(layer):
    """Moves every weight off its start: zeros would hide mistakes."""
    rng = np.random.default_rng(1)
    for weight in layer.trainable_variables:
        value = weight.numpy()
        weight.assign(value + rng.normal(0, 0.3, value.shape))


@pytest.mark.parametrize("gate", ["softmax", "silu_softmax", "relu", "sigmoid"])
@pytest.mark.parametrize(
    ("component", "hidden"),
    [("inner_product", 0), ("weighted", 0), ("hadamard", 3)],
)
def test_mixture_is_the_reference(gate, component, hidden):
    layer = _mixture(gate=gate, component=component, hidden=hidden)
    _nudge(layer)
    queries, items = _inputs(layer)
    assert queries.shape == (5, layer.spec.query_dim)
    assert items.shape == (8, layer.spec.item_dim)
    weights = weight_values(layer.scoring_weights())
    assert {n: w.shape for n, w in weights.items()} == (
        layer.spec.weight_shapes()
    )
    expected = reference.scores(
        layer.spec, weights, queries.numpy(), items.numpy()
    )
    np.testing.assert_allclose(
        layer(queries, items), expected, rtol=1e-4, atol=1e-5
    )


def test_a_start_from_the_inner_product():
    layer = MixtureOfLogits(
        7,
        4,
        **{**_SMALL, "temperature": 1.0, "component_dim": 5},
        query_extra=[3],
        normalized=False,
        start="inner_product",
    )
    rng = np.random.default_rng(0)
    q, x, e = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((40, 7), (30, 4), (40, 3))
    )
    found = layer(layer.query_side(q, [e]), layer.item_side(x)).numpy()
    expected = q[:, :4] @ x.T
    # All but the pairs of the extra feature, which the gate nearly leaves out.
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9
    offset = layer.scoring_weights()["gate_offset"]
    np.testing.assert_array_equal(offset, [0, 0, 0, 0, -2, -2])
    before = layer.get_weights()
    layer.reinitialize(_SMALL["seed"])
    for one, two in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "changes",
    [
        {"component_dim": 5},
        {"normalized": True},
        {"projection": "swiglu"},
        {"component": "hadamard", "hidden": 3},
    ],
)
def test_a_start_from_the_inner_product_refuses(changes):
    settings = {
        **_SMALL,
        "component_dim": 6,
        "normalized": False,
        "start": "inner_product",
    }
    with pytest.raises(ValueError, match="needs `normalized` false, linear"):
        _mixture(**{**settings, **changes})
    with pytest.raises(ValueError, match="must be one of random, inner_pr"):
        _mixture(**{**settings, "start": "dot"})


@pytest.mark.parametrize("projection", ["linear", "swiglu", "geglu"])
def test_components_have_length_1(projection):
    layer = _mixture(projection=projection, projection_hidden=9)
    _nudge(layer)
    for vectors in _inputs(layer):
        parts = tf.reshape(vectors[:, :8], [-1, 2, 4])
        np.testing.assert_allclose(
            tf.norm(parts, axis=-1), np.ones(parts.shape[:2]), rtol=1e-5
        )


def test_a_zero_component_stays_zero_and_has_a_gradient():
    layer = _mixture()
    x = tf.Variable(tf.zeros([1, 6]))
    with tf.GradientTape() as tape:
        vector = layer.item_side(x)
        loss = tf.reduce_sum(vector)
    np.testing.assert_array_equal(vector[:, :8], np.zeros((1, 8)))
    assert np.isfinite(tape.gradient(loss, x).numpy()).all()


def test_extra_features_are_components():
    layer = _mixture(query_extra=[3], item_extra=[2, 5])
    assert layer.spec.query_components == 3
    assert layer.spec.item_components == 4
    queries, items = _inputs(layer, widths=((7, 3), (6, 2, 5)))
    assert queries.shape[1] == 3 * 4 + 12
    assert items.shape[1] == 4 * 4 + 12
    with pytest.raises(ValueError, match="1 extra features, got 0"):
        layer.query_side(tf.ones([1, 7]))


def test_hadamard_is_the_reference():
    layer = HadamardMlp(7, 6, component_dim=5, hidden=4)
    _nudge(layer)
    queries, items = _inputs(layer)
    expected = reference.scores(
        layer.spec,
        weight_values(layer.scoring_weights()),
        queries.numpy(),
        items.numpy(),
    )
    np.testing.assert_allclose(
        layer(queries, items, training=True), expected, rtol=1e-4, atol=1e-5
    )


def test_hadamard_has_the_papers_shape():
    layer = HadamardMlp(20, 30)
    assert layer.spec == SimilaritySpec(
        component_dim=50, component="hadamard", hidden=10
    )


def test_scores_of_own_items_are_those_of_all_pairs():
    layer = _mixture(component_dropout=0.5)
    _nudge(layer)
    queries, items = _inputs(layer)
    rows = np.random.default_rng(2).integers(0, 8, (5, 3))
    own = tf.gather(items, rows)
    np.testing.assert_allclose(
        layer(queries, own),
        np.take_along_axis(layer(queries, items).numpy(), rows, axis=1),
        rtol=1e-5,
        atol=1e-6,
    )
    assert layer(queries, own, training=True).shape == (5, 3)


def test_dropped_gate_is_normalised_and_off_when_serving():
    layer = _mixture(gate_dropout=0.5, component_dropout=0.3, gate="softmax")
    pi = tf.fill([200, 50, 4], 0.25)
    dropped = layer._dropped(pi, layer.kept_pairs(200)).numpy()
    np.testing.assert_allclose(dropped.sum(-1), np.ones((200, 50)), rtol=1e-5)
    assert (dropped == 0).any() and (dropped == 1).any()
    # What would have nothing left is kept whole: 0.65 ** 4 of all.
    assert (dropped == 0.25).all(-1).mean() > 0.1
    queries, items = _inputs(layer)
    np.testing.assert_array_equal(
        layer(queries, items), layer(queries, items, training=False)
    )


def test_a_dropped_pair_is_dropped_for_all_items_of_a_query():
    layer = _mixture(gate_dropout=0.0, component_dropout=0.4, gate="sigmoid")
    _nudge(layer)
    queries, items = _inputs(layer, num_queries=100)
    kept = layer.kept_pairs(100)
    # Five standard deviations of 400 coins.
    share = (kept.numpy() > 0).mean()
    assert abs(share - 0.6) < 5 * np.sqrt(0.24 / 400)
    found, _ = layer.mix(queries, items, training=True, kept=kept)
    weights = weight_values(layer.scoring_weights())
    arrays = (queries.numpy(), items.numpy())
    logits = reference.pair_logits(layer.spec, weights, *arrays)
    pi = reference.gate_weights(layer.spec, weights, *arrays, logits)
    expected = (pi * kept.numpy()[:, None] * logits).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_balance_loss_by_hand():
    layer = _mixture(balance_weight=0.1, gate="softmax")
    # Fresh side gates are far from even; the loss is what `mix` says.
    queries, items = _inputs(layer)
    layer(queries, items)
    assert not layer.losses
    _, balance = layer.mix(queries, items)
    logits = reference.pair_logits(layer.spec, {}, queries, items)
    pi = reference.gate_weights(
        layer.spec,
        weight_values(layer.scoring_weights()),
        queries.numpy(),
        items.numpy(),
        logits,
    )
    mean = pi.mean((0, 1))
    expected = (mean * np.log(mean)).sum() - (pi * np.log(pi)).sum(-1).mean()
    np.testing.assert_allclose(balance, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        layer.gate_usage(queries, items), mean, rtol=1e-4
    )
    layer(queries, items, training=True)
    np.testing.assert_allclose(layer.losses, [0.1 * balance], rtol=1e-5)


def test_reinitialize_is_a_fresh_layer():
    layer = _mixture(component="hadamard", hidden=3, gate="relu")
    _nudge(layer)
    layer.reinitialize(11)
    fresh = _mixture(component="hadamard", hidden=3, gate="relu")
    before = [w.numpy() for w in fresh.trainable_variables]
    fresh.reinitialize(11)
    for one, two, old in zip(
        layer.trainable_variables,
        fresh.trainable_variables,
        before,
        strict=True,
    ):
        np.testing.assert_array_equal(one.numpy(), two.numpy())
        if old.ndim > 1:
            assert (two.numpy() != old).any()


def test_the_seed_decides_all():
    one, two, other = _mixture(), _mixture(), _mixture(seed=4)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(
        (a != b).any()
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gate": "none"}, "use HadamardMlp"),
        ({"projection": "cubic"}, "linear, swiglu, geglu"),
        ({"query_components": 60, "item_components": 2}, "at most 64"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        _mixture(**change)


def test_saved_and_loaded(tmp_path):
    layer = _mixture(component="weighted")
    _nudge(layer)
    weights = layer.scoring_weights()
    saved.save(layer.spec, weights, tmp_path / "new" / "similarity")
    spec, found = saved.load(tmp_path / "new" / "similarity")
    assert spec == layer.spec
    assert list(found) == list(spec.weight_shapes())
    for name, value in weight_values(weights).items():
        np.testing.assert_array_equal(found[name], value)


def test_a_plain_product_is_saved_without_weights(tmp_path):
    saved.save(SimilaritySpec(), {}, tmp_path)
    assert saved.load(tmp_path) == (SimilaritySpec(), {})


def test_a_broken_directory_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no spec.json"):
        saved.load(tmp_path)
    spec = SimilaritySpec(component="hadamard", hidden=2, component_dim=3)
    weights = {
        name: np.ones(shape, np.float32)
        for name, shape in spec.weight_shapes().items()
    }
    with pytest.raises(ValueError, match="expected .*joint_kernel"):
        saved.save(spec, {}, tmp_path)
    with pytest.raises(ValueError, match="`joint_bias` must be float32"):
        saved.save(spec, {**weights, "joint_bias": np.ones(2)}, tmp_path)
    bad = {**weights, "joint_bias": np.full(2, np.nan, np.float32)}
    with pytest.raises(ValueError, match="NaN"):
        saved.save(spec, bad, tmp_path)
    saved.save(spec, weights, tmp_path)
    text = (tmp_path / "spec.json").read_text()
    for wrong, message in (
        (text[:-5], "not JSON"),
        ("[]", "expected an object"),
        (text.replace("hidden", "width"), "with the fields"),
        (text.replace('"hadamard"', '"cosine"'), "must be one of"),
        (text.replace('"hidden": 2', '"hidden": 4'), "must be float32"),
    ):
        (tmp_path / "spec.json").write_text(wrong)
        with pytest.raises(ValueError, match=message):
            saved.load(tmp_path)
    (tmp_path / "spec.json").write_text(text)
    content = (tmp_path / "weights.npz").read_bytes()
    (tmp_path / "weights.npz").write_bytes(content[:40])
    with pytest.raises(ValueError, match="cannot read"):
        saved.load(tmp_path)
    with (tmp_path / "weights.npz").open("wb") as file:
        np.save(file, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="one array, without a name"):
        saved.load(tmp_path)
