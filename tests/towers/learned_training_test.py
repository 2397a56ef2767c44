# SPDX-License-Identifier: Apache-2.0
"""Training of learned similarities; `keras_versions_test.py` runs this file."""

import dataclasses
import os

import numpy as np
import pytest

if os.environ.get("TF_USE_LEGACY_KERAS") != "1":
    pytest.skip(
        "TFRS needs TF_USE_LEGACY_KERAS=1: keras_versions_test.py sets it",
        allow_module_level=True,
    )
pytest.importorskip("sklearn")

import tensorflow as tf

from lintf import towers
from tests.towers.toy_data import toy_data

_MIXTURE = towers.TowerConfig(
    dim=9,
    hidden=8,
    history_length=6,
    epochs=3,
    pretrain_epochs=2,
    batch_size=32,
    learning_rate=1e-2,
    similarity="mixture_of_logits",
    mixture=towers.MixtureOptions(
        query_components=2,
        item_components=1,
        newest_components=2,
        gate_hidden=4,
        component_dropout=0.1,
        gate_dropout=0.1,
        balance_weight=0.01,
    ),
    clusters=towers.ClusterOptions(count=4, mode="trained", residual_ids=True),
    negatives=towers.NegativeOptions(
        in_batch=8, hard_epochs=1, hard_k=4, hard_refresh_steps=3
    ),
)
_HADAMARD = dataclasses.replace(
    _MIXTURE,
    similarity="hadamard_mlp",
    clusters=towers.ClusterOptions(),
    negatives=towers.NegativeOptions(kind="all"),
    epochs=2,
)


def _train(workdir, config):
    return towers.train(config, toy_data(), workdir, verbose=0)


def _scalars(logs):
    found = {}
    for path in sorted(logs.iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(
                    tf.make_ndarray(value.tensor)
                )
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("mixture")
    return workdir, _train(workdir, _MIXTURE)


def test_a_mixture_learns_and_says_how_it_is_used(trained):
    workdir, found = trained
    scalars = _scalars(workdir / "logs")
    losses = np.ravel(scalars["loss"])
    # The last epoch's are of the hardest negatives, and so no smaller.
    assert len(losses) == 3 and losses[1] < losses[0]
    spec = found.similarity.spec
    assert (spec.query_components, spec.item_components) == (5, 2)
    usage = [
        scalars[f"gate/query_{p}_item_{r}"][-1]
        for p in range(5)
        for r in range(2)
    ]
    np.testing.assert_allclose(np.sum(usage), 1, rtol=1e-4)
    for side in ("queries", "items"):
        assert 1 <= scalars[f"clusters/{side}_used"][-1] <= 4
        histogram = scalars[f"clusters/{side}"][-1]
        assert histogram.shape == (30, 3) and histogram[:, 2].sum() == 4


def test_a_killed_training_resumes_to_the_same_weights(
    trained, tmp_path, monkeypatch
):
    save = tf.train.CheckpointManager.save
    saved = []

    class Killed(BaseException):
        pass

    def kill(self, checkpoint_number):
        saved.append(checkpoint_number)
        # Two epochs of the base, then the second of the mixture.
        if len(saved) == 4:
            raise Killed
        return save(self, checkpoint_number=checkpoint_number)

    with monkeypatch.context() as patch:
        patch.setattr(tf.train.CheckpointManager, "save", kill)
        with pytest.raises(Killed):
            _train(tmp_path, _MIXTURE)
    assert saved == [1, 2, 1, 2]
    again = _train(tmp_path, _MIXTURE)
    for one, two in zip(again, trained[1], strict=True):
        for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_hadamard_mlp_learns(tmp_path):
    found = _train(tmp_path, _HADAMARD)
    losses = np.ravel(_scalars(tmp_path / "logs")["loss"])
    assert losses[-1] < losses[0]
    assert found.similarity.spec.component == "hadamard"
    assert found.query.dim == found.item.dim == 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 21}, "`clusters.count` must be at most the 20 films"),
        ({"least_ratings": 10_000}, "`clusters.least_ratings` must be at most"),
    ],
)
def test_what_cannot_be_is_refused_before_training(tmp_path, changes, message):
    clusters = dataclasses.replace(_MIXTURE.clusters, **changes)
    config = dataclasses.replace(_MIXTURE, clusters=clusters)
    with pytest.raises(ValueError, match=message):
        _train(tmp_path, config)
    assert not (tmp_path / "base").exists()
