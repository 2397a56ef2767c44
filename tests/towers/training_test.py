# SPDX-License-Identifier: Apache-2.0
"""Training with TFRS; `keras_versions_test.py` runs this file under Keras 2."""

import dataclasses
import json
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
from lintf.datasets import leave_one_out
from lintf.towers import training
from lintf.towers.model import retrieval_model
from tests.towers.toy_data import toy_data

CONFIG = towers.TowerConfig(
    dim=17,
    hidden=16,
    negatives=towers.NegativeOptions(in_batch=16),
    history_length=6,
    epochs=4,
    batch_size=32,
    dropout=0.2,
)


class Killed(BaseException):
    """Stands for a signal: nothing may catch it."""


def _train(workdir, config=CONFIG, data=None, **options):
    return towers.train(
        config, data or toy_data(), workdir, verbose=0, **options
    )


def _weights(pair):
    return [weight for tower in pair for weight in tower.get_weights()]


def _assert_same(one, two):
    for a, b in zip(_weights(one), _weights(two), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    return workdir, _train(workdir)


@pytest.mark.parametrize(
    ("epoch", "steps"), [(2, 2), (1, None)], ids=["in an epoch", "at its end"]
)
def test_a_killed_run_resumes_to_the_same_weights(
    trained, tmp_path, monkeypatch, epoch, steps
):
    # Dies in the epoch after `steps`, or after all, before the checkpoint.
    whole_dataset = training.Epochs.dataset
    whole_save = tf.train.CheckpointManager.save

    def dataset(self, number):
        batches = whole_dataset(self, number)
        return batches.take(steps) if number == epoch and steps else batches

    def save(self, checkpoint_number):
        if checkpoint_number == epoch + 1:
            raise Killed
        return whole_save(self, checkpoint_number=checkpoint_number)

    with monkeypatch.context() as patch:
        patch.setattr(training.Epochs, "dataset", dataset)
        patch.setattr(tf.train.CheckpointManager, "save", save)
        with pytest.raises(Killed):
            _train(tmp_path)
    latest = tf.train.latest_checkpoint(tmp_path / "checkpoints")
    assert latest.endswith(f"-{epoch}")
    _assert_same(_train(tmp_path), trained[1])


def test_a_finished_run_is_loaded(trained, monkeypatch, capsys):
    workdir, towers_before = trained

    def no_training(*args):
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr(training, "_fit", no_training)
    _assert_same(_train(workdir), towers_before)
    assert "4 of 4 epochs" in capsys.readouterr().out


def test_the_seed_decides_weights_and_order():
    data = toy_data()
    examples = training.make_examples(data, "test")
    runs = []
    for seed in (0, 0, 1):
        config = towers.TowerConfig(**{**vars(CONFIG), "seed": seed})
        epochs = training.Epochs(examples, config, 32)
        runs.append(
            [
                *_weights(towers.movielens_towers(config, data)),
                *(rows for _, _, rows in epochs.dataset(3)),
            ]
        )
    for one, two in zip(runs[0], runs[1], strict=True):
        np.testing.assert_array_equal(one, two)
    for other in (runs[2][0], runs[2][-1]):
        same = runs[0][0] if other is runs[2][0] else runs[0][-1]
        assert (np.asarray(other) != np.asarray(same)).any()


def test_the_order_differs_from_epoch_to_epoch():
    examples = training.make_examples(toy_data(), "test")
    epochs = training.Epochs(examples, CONFIG, 32)
    first, second = (
        np.concatenate([rows for _, _, rows in epochs.dataset(epoch)])
        for epoch in (0, 1)
    )
    assert (first != second).any()


def test_the_pattern_is_learned(tmp_path):
    data = toy_data()
    config = towers.TowerConfig(
        **{**vars(CONFIG), "epochs": 40, "learning_rate": 1e-2}
    )
    query_tower, item_tower = _train(tmp_path, config, data)
    ratings = data.ratings
    split = leave_one_out(ratings.user_id, ratings.item_id, ratings.timestamp)
    features = {
        "user_id": data.users.id,
        "history": np.stack(
            [towers.pad_history(s, 6) for s in split.sequences("test")]
        ),
        "age": data.users.age,
        "gender": data.users.gender,
        "occupation": data.users.occupation,
    }
    queries = query_tower({n: tf.constant(v) for n, v in features.items()})
    items = item_tower(
        {n: tf.constant(v) for n, v in towers.item_features(data).items()}
    )
    best = np.argmax(queries @ tf.transpose(items), axis=1)
    hits = data.films.id[best] == split.target("test")
    # By chance 1 of 20 films; the newest one tells all.
    assert hits.mean() > 0.5


def test_other_settings_are_refused(trained):
    workdir, _ = trained
    other = towers.TowerConfig(**{**vars(CONFIG), "dropout": 0.5})
    with pytest.raises(ValueError, match="`dropout` is 0.2 there and 0.5 now"):
        _train(workdir, other)
    with pytest.raises(ValueError, match="`part` is 'test' there"):
        _train(workdir, part="validation")
    with pytest.raises(ValueError, match="`data_sha256` is"):
        _train(workdir, data=toy_data(seed=1))


def test_working_directory(trained):
    workdir, _ = trained
    settings = json.loads((workdir / "settings.json").read_text())
    assert settings["config"] == dataclasses.asdict(CONFIG)
    assert settings["part"] == "test"
    assert list((workdir / "logs").glob("events.out.tfevents.*"))
    scalars = {}
    for path in sorted((workdir / "logs").iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                number = tf.make_ndarray(value.tensor).item()
                scalars.setdefault(value.tag, {})[event.step] = number
                assert value.metadata.plugin_data.plugin_name == "scalars"
    assert set(scalars) == {"loss", "learning_rate", "examples_per_second"}
    assert list(scalars["loss"]) == [1, 2, 3, 4]
    assert scalars["loss"][4] < scalars["loss"][1]
    # The last step's: all but decayed.
    assert 0 <= scalars["learning_rate"][4] < 0.05 * CONFIG.learning_rate


def test_examples_are_what_came_before_each_position():
    data = toy_data()
    examples = training.make_examples(data, "test")
    ratings = data.ratings
    split = leave_one_out(ratings.user_id, ratings.item_id, ratings.timestamp)
    epochs = training.Epochs(examples, CONFIG, 7)
    found = set()
    for epoch in range(2):
        for features, _, positive in epochs.dataset(epoch):
            for row in range(7):
                history = features["history"][row].numpy()
                user = int(features["user_id"][row])
                item = int(data.films.id[positive[row]])
                seen = split.seen(user - 1, "test")
                at = seen.tolist().index(item)
                assert at > 0
                np.testing.assert_array_equal(
                    history, towers.pad_history(seen[:at], 6)
                )
                assert features["age"][row] == data.users.age[user - 1]
                found.add((user, item))
    wanted = {
        (user + 1, int(item))
        for user in range(split.num_users)
        for item in split.seen(user, "test")[1:]
    }
    assert found <= wanted
    # An epoch leaves out less than a batch.
    assert len(found) > len(wanted) - 7


def test_held_out_items_are_not_trained_on():
    data = toy_data()
    ratings = data.ratings
    split = leave_one_out(ratings.user_id, ratings.item_id, ratings.timestamp)
    for part, left_out in (("test", 1), ("validation", 2)):
        examples = training.make_examples(data, part)
        assert len(examples.items) == len(ratings) - left_out * split.num_users
        assert len(examples) == len(examples.items) - split.num_users


@pytest.mark.parametrize("mask_seen", [False, True])
def test_loss_is_the_softmax_over_all_films(mask_seen):
    data = toy_data()
    query_tower, item_tower = towers.movielens_towers(CONFIG, data)
    items = towers.item_features(data)
    model = retrieval_model(
        towers.import_tfrs(),
        towers.TrainedTowers(query_tower, item_tower),
        items,
        dataclasses.replace(
            CONFIG,
            mask_seen=mask_seen,
            negatives=towers.NegativeOptions(kind="all"),
        ),
        np.ones(20),
        16,
    )
    examples = training.make_examples(data, "test")
    batches = training.Epochs(examples, CONFIG, 16).dataset(0)
    features, history_rows, positive = next(iter(batches))
    # Repeats among the positives are the rule: 16 of 20 films.
    assert len(set(positive.numpy())) < 16
    scores = (
        query_tower(features)
        @ tf.transpose(
            item_tower({n: tf.constant(v) for n, v in items.items()})
        )
    ).numpy()
    if mask_seen:
        history = features["history"].numpy()
        seen = (history[:, :, np.newaxis] == items["id"]).any(axis=1)
        seen[np.arange(16), positive] = False
        scores[seen] = -np.inf
    log_sum = np.log(np.exp(scores).sum(axis=1))
    expected = (log_sum - scores[np.arange(16), positive]).mean()
    loss = model.compute_loss(
        (features, history_rows, positive), training=False
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_a_rating_of_an_unlisted_film_is_refused(tmp_path):
    data = toy_data()
    data.ratings.item_id[0] = 999
    with pytest.raises(ValueError, match="film 999 is not"):
        _train(tmp_path, data=data)
