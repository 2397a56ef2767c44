# SPDX-License-Identifier: Apache-2.0
"""Towers from disk: SavedModels and `.keras` files, and what is refused."""

import numpy as np
import pytest
import tensorflow as tf

from export import towers
from export.config import SavedTower
from export.errors import JobError

WORDS = ["comedy", "drama", "war"]


class Plain(tf.Module):
    """A tower without Keras: a looked-up row times a weight."""

    def __init__(self):
        super().__init__()
        self.table = tf.Variable(
            np.arange(12, dtype=np.float32).reshape(4, 3), name="ids"
        )

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64, name="key"),
            tf.TensorSpec([None], tf.float32, name="weight"),
        ]
    )
    def embed(self, key, weight):
        rows = tf.gather(self.table, key % 4)
        return {
            "vector": rows * weight[:, tf.newaxis],
            "norm": tf.norm(rows, axis=1),
        }


def keras_model(as_dict):
    """Words and a number -> 5 numbers, through a string lookup."""
    words = tf.keras.Input([2], dtype="string", name="words")
    number = tf.keras.Input([1], dtype="float32", name="number")
    codes = tf.keras.layers.StringLookup(vocabulary=WORDS)(words)
    vectors = tf.keras.layers.Embedding(4, 3)(codes)
    flat = tf.keras.layers.Flatten()(vectors)
    joined = tf.keras.layers.Concatenate()([flat, number])
    inputs = [words, number]
    if as_dict:
        inputs = {"words": words, "number": number}
    return tf.keras.Model(inputs, tf.keras.layers.Dense(5)(joined))


def test_saved_model_with_a_named_output(tmp_path):
    module = Plain()
    tf.saved_model.save(
        module, str(tmp_path / "t"), signatures={"embed": module.embed}
    )
    tower = towers.load(SavedTower(str(tmp_path / "t"), "embed", "vector"))
    assert tower.dim == 3
    assert sorted(tower.feature_specs) == ["key", "weight"]
    features = {
        "key": np.array([1, 2]),
        "weight": np.array([1.0, 0.5]),
        "ignored": np.zeros(2),
    }
    assert tower(features).numpy().tolist() == [[3, 4, 5], [3, 3.5, 4]]


def test_saved_model_faults(tmp_path):
    module = Plain()
    path = str(tmp_path / "t")
    tf.saved_model.save(module, path, signatures={"embed": module.embed})
    for tower, message in [
        (SavedTower(path), "no signature 'serving_default'; there are: embed"),
        (SavedTower(path, "embed"), "has the outputs norm, vector; say"),
        (SavedTower(path, "embed", "vec"), "has no output 'vec'"),
        (
            SavedTower(path, "embed", "norm"),
            r"expected an output \[batch, dim\]",
        ),
        (SavedTower(str(tmp_path / "no")), "no tower at"),
    ]:
        with pytest.raises(JobError, match=message):
            towers.load(tower)
    (tmp_path / "bad.keras").write_text("no model")
    with pytest.raises(JobError, match="cannot load the Keras model"):
        towers.load(SavedTower(str(tmp_path / "bad.keras")))


@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.parametrize("form", ["keras", "saved_model"])
def test_keras_models(tmp_path, as_dict, form):
    model = keras_model(as_dict)
    path = tmp_path / ("t.keras" if form == "keras" else "t")
    if form == "keras":
        model.save(path)
    else:
        model.export(path)
    features = {
        "words": np.array([["war", ""], ["drama", "??"]], object),
        "number": np.array([[0.5], [2.0]]),
    }
    inputs = {
        "words": tf.constant(features["words"]),
        "number": tf.constant(features["number"], tf.float32),
    }
    expected = model(inputs if as_dict else list(inputs.values())).numpy()
    tower = towers.load(SavedTower(str(path)))
    assert tower.dim == 5
    assert set(tower.feature_specs) == {"words", "number"}
    np.testing.assert_allclose(tower(features).numpy(), expected, rtol=1e-6)
    # What is served is the tower saved again, inside another model.
    outer = tf.Module()
    outer.tower = tower
    function = tf.function(lambda **f: {"e": tower(f)}, autograph=False)
    signature = function.get_concrete_function(**tower.feature_specs)
    tf.saved_model.save(
        outer, str(tmp_path / "outer"), signatures={"s": signature}
    )
    again = tf.saved_model.load(str(tmp_path / "outer")).signatures["s"]
    np.testing.assert_allclose(again(**inputs)["e"], expected, rtol=1e-6)


def test_fingerprint_follows_the_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").write_text("same")
    prints = [
        towers.Towers(SavedTower(str(tmp_path / n))).fingerprint() for n in "ab"
    ]
    assert prints[0] == prints[1]
    (tmp_path / "b" / "saved_model.pb").write_text("other")
    other = towers.Towers(SavedTower(str(tmp_path / "b"))).fingerprint()
    assert other != prints[0] != towers.Towers().fingerprint()
