# SPDX-License-Identifier: Apache-2.0
"""Trains the two towers with TensorFlow Recommenders, and resumes.

Each position of a user's sequence is an example: the film at the position is
the positive candidate, and the history is what came before it. The loss is the
softmax over all films or over sampled ones (`lintf.towers.model`), and in the
last epochs, if the config says so, over the hardest.

A working directory holds `settings.json` (what the weights depend on),
`checkpoints/` (towers, optimizer, finished epochs; one after each epoch) and
`logs/` (what TensorBoard shows). `base/` is the same of the pre-training, by
the towers' inner product.
"""

import dataclasses
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lintf.datasets.movielens import MovieLens
from lintf.datasets.splits import Part, leave_one_out
from lintf.similarity.clusters import k_means
from lintf.similarity.restart import RestartUnluckyStart
from lintf.towers import summaries, tfrs_compat
from lintf.towers.hard_negatives import Refresh
from lintf.towers.learned import (
    TrainedTowers,
    learned_towers,
    similarity_seed,
)
from lintf.towers.model import Batch, retrieval_model
from lintf.towers.movielens import (
    TowerConfig,
    item_features,
    movielens_towers,
)
from lintf.towers.options import (
    ClusterOptions,
    HadamardOptions,
    MixtureOptions,
)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Training examples, kept as sequences: windows are cut when needed.

    Attributes:
        items: `[num_interactions]` int64 item ids: the users' sequences one
            after the other, oldest first.
        item_rows: `[num_interactions]` int32 rows of these in the catalogue.
        begin: `[num_examples]` int64: where the example's sequence begins.
        position: `[num_examples]` int64: where its positive candidate is.
        user: `[num_examples]` int32 rows of `user_features`.
        user_features: Feature name -> `[num_users, ...]`.
    """

    items: np.ndarray
    item_rows: np.ndarray
    begin: np.ndarray
    position: np.ndarray
    user: np.ndarray
    user_features: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.position)


def make_examples(data: MovieLens, part: Part) -> Examples:
    """Makes the examples that may be trained on when `part` is predicted.

    Args:
      data: users, films and ratings.
      part: "validation" trains without each user's last two items, "test"
        without the last one.

    Returns:
      One example for each position of each sequence but the first.

    Raises:
      ValueError: a rating names a user or film that is not in the data.
    """
    ratings = data.ratings
    split = leave_one_out(ratings.user_id, ratings.item_id, ratings.timestamp)
    sequences = split.sequences(part)
    lengths = np.array([len(sequence) for sequence in sequences])
    begin = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    items = np.concatenate(sequences)
    row_of_user = _rows(data.users.id, split.user_id, "user")
    position = np.concatenate(
        [np.arange(b + 1, b + n) for b, n in zip(begin, lengths, strict=True)]
    )
    return Examples(
        items=items,
        item_rows=_rows(data.films.id, items, "film"),
        begin=np.repeat(begin, lengths - 1),
        position=position.astype(np.int64),
        user=np.repeat(row_of_user, lengths - 1),
        user_features={
            "user_id": data.users.id,
            "age": data.users.age,
            "gender": data.users.gender,
            "occupation": data.users.occupation,
        },
    )


def train(
    config: TowerConfig,
    data: MovieLens,
    workdir: str | pathlib.Path,
    *,
    part: Part = "test",
    verbose: int | None = None,
) -> TrainedTowers:
    """Trains the towers, or goes on with the training that `workdir` holds.

    After a kill the same call resumes from the last finished epoch and ends
    with the weights of an uninterrupted run. When the training in `workdir` is
    finished, its towers are loaded and nothing is trained.

    Args:
      config: shape, training and seed.
      data: users, films and ratings.
      workdir: made where it is absent; belongs to one config and one data set.
      part: the held-out item that the towers will be judged by.
      verbose: as Keras' `fit` takes it; where not given, a progress bar on a
        terminal and a line an epoch elsewhere.

    Returns:
      The towers, and their similarity if the config has a learned one.

    Raises:
      TfrsUnavailableError: TensorFlow Recommenders cannot be imported.
      ScikitLearnUnavailableError: the config has clusters, and scikit-learn
        is not installed.
      ValueError: `workdir` holds a training of other settings or data.
    """
    tfrs = tfrs_compat.import_tfrs()
    workdir = pathlib.Path(workdir)
    examples = make_examples(data, part)
    _claim(workdir, _settings(config, data, part))
    if verbose is None:
        verbose = 1 if sys.stdout.isatty() else 2

    towers = _towers(config, data, examples, workdir, part, verbose)
    batch_size = min(config.batch_size, len(examples))
    steps = len(examples) // batch_size
    optimizer = tf.keras.optimizers.AdamW(
        tf.keras.optimizers.schedules.CosineDecay(
            config.learning_rate, max(1, steps * config.num_epochs)
        ),
        weight_decay=config.weight_decay,
    )
    frequency = np.bincount(
        examples.item_rows[examples.position], minlength=len(data.films)
    )
    model = retrieval_model(
        tfrs, towers, item_features(data), config, frequency, batch_size
    )
    model.compile(optimizer=optimizer)
    # Only a built optimizer has the variables that a checkpoint restores.
    optimizer.build(model.trainable_variables)
    restart = _restart(config, towers)

    finished = tf.Variable(0, dtype=tf.int64, name="finished_epochs")
    held: dict[str, Any] = {
        "query_tower": towers.query,
        "item_tower": towers.item,
        "optimizer": optimizer,
        "finished_epochs": finished,
    }
    if restart is not None:
        held["restart"] = restart.state
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(**held),
        str(workdir / "checkpoints"),
        max_to_keep=2,
    )
    if manager.latest_checkpoint:
        manager.checkpoint.restore(
            manager.latest_checkpoint
        ).assert_existing_objects_matched()
        print(
            f"Towers: {int(finished)} of {config.epochs} epochs are in "
            f"{manager.latest_checkpoint}",
            flush=True,
        )
    if int(finished) < config.num_epochs:
        _fit(
            model,
            Epochs(examples, config, batch_size),
            finished,
            manager,
            workdir / "logs",
            verbose,
            [] if restart is None else [restart],
        )
    return towers


def _towers(
    config: TowerConfig,
    data: MovieLens,
    examples: Examples,
    workdir: pathlib.Path,
    part: Part,
    verbose: int,
) -> TrainedTowers:
    """Makes the towers, pre-trained by their inner product or not at all."""
    base = movielens_towers(config, data)
    if config.num_pretrain_epochs:
        _check_clusters(config, data, examples)
        first = train(
            dataclasses.replace(
                config,
                similarity="dot",
                mixture=MixtureOptions(),
                hadamard=HadamardOptions(),
                clusters=ClusterOptions(),
                epochs=config.pretrain_epochs,
                pretrain_epochs=0,
                learning_rate=None,
                dropout=None,
                negatives=dataclasses.replace(config.negatives, hard_epochs=0),
            ),
            data,
            workdir / "base",
            part=part,
            verbose=verbose,
        )
        for made, trained in zip(base, first, strict=True):
            made.set_weights(trained.get_weights())
    if not config.clusters.count:
        return learned_towers(config, *base)
    items = _tensors(item_features(data))
    vectors = base[1].parts(items, False).vector.numpy()
    return learned_towers(
        config,
        *base,
        centres=k_means(
            vectors, config.clusters.count, seed=similarity_seed(config)
        ),
        item_ids=data.films.id,
        num_ratings=_num_ratings(examples, data),
    )


def _check_clusters(
    config: TowerConfig, data: MovieLens, examples: Examples
) -> None:
    """Raises ValueError before a training that could not go on."""
    options = config.clusters
    if options.count > len(data.films):
        raise ValueError(
            f"`clusters.count` must be at most the {len(data.films)} films "
            f"there are, got {options.count}"
        )
    most = int(_num_ratings(examples, data).max())
    if options.residual_ids and options.least_ratings > most:
        raise ValueError(
            f"`clusters.least_ratings` must be at most {most}, the most that "
            f"a film has, got {options.least_ratings}"
        )


def _num_ratings(examples: Examples, data: MovieLens) -> np.ndarray:
    return np.bincount(examples.item_rows, minlength=len(data.films))


def _tensors(features: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
    return {name: tf.constant(column) for name, column in features.items()}


def _restart(
    config: TowerConfig, towers: TrainedTowers
) -> RestartUnluckyStart | None:
    """The rule for unlucky starts, which a Hadamard MLP needs."""
    if config.similarity != "hadamard_mlp" or towers.similarity is None:
        return None
    similarity = towers.similarity
    return RestartUnluckyStart(
        lambda number: similarity.reinitialize(similarity_seed(config, number)),
        steps=config.hadamard.restart_steps,
    )


class Epochs:
    """Makes the batches of an epoch; their order depends on seed and epoch."""

    def __init__(self, examples: Examples, config: TowerConfig, batch: int):
        self.steps = len(examples) // batch
        self.examples_per_epoch = self.steps * batch
        self.num_epochs = config.num_epochs
        self.hard_epochs = config.negatives.hard_epochs
        self._examples = examples
        self._config = config
        self._batch = batch
        self._tensors = {
            field.name: tf.nest.map_structure(
                tf.constant, getattr(examples, field.name)
            )
            for field in dataclasses.fields(examples)
        }

    def dataset(self, epoch: int) -> tf.data.Dataset:
        """Returns the batches of an epoch."""
        # Other orders than those of the pre-training.
        number = self._config.num_pretrain_epochs + epoch
        generator = np.random.default_rng([self._config.seed, number])
        order = generator.permutation(len(self._examples))
        return (
            tf.data.Dataset.from_tensor_slices(order)
            .batch(self._batch, drop_remainder=True)
            .map(self._make, num_parallel_calls=1)
            .prefetch(2)
        )

    def _make(self, numbers: tf.Tensor) -> Batch:
        """Cuts the windows of a batch of examples."""
        tensors = self._tensors
        length = self._config.history_length
        end = tf.gather(tensors["position"], numbers)
        begin = tf.maximum(tf.gather(tensors["begin"], numbers), end - length)
        slots = begin[:, tf.newaxis] + tf.range(length, dtype=tf.int64)
        inside = slots < end[:, tf.newaxis]
        slots = tf.where(inside, slots, 0)
        user = tf.gather(tensors["user"], numbers)
        features = {
            name: tf.gather(column, user)
            for name, column in tensors["user_features"].items()
        }
        features["history"] = tf.where(
            inside, tf.gather(tensors["items"], slots), -1
        )
        rows = tf.where(inside, tf.gather(tensors["item_rows"], slots), -1)
        return features, rows, tf.gather(tensors["item_rows"], end)


def _fit(
    model: Any,
    epochs: Epochs,
    finished: tf.Variable,
    manager: tf.train.CheckpointManager,
    logs: pathlib.Path,
    verbose: int,
    callbacks: Sequence[tf.keras.callbacks.Callback],
) -> None:
    """Runs the epochs that are left, with a checkpoint after each."""
    writer = tf.summary.create_file_writer(str(logs))
    for epoch in range(int(finished), epochs.num_epochs):
        extra = list(callbacks)
        if epoch >= epochs.num_epochs - epochs.hard_epochs:
            extra.append(_hard_stage(model))
        start = time.monotonic()
        history = model.fit(
            epochs.dataset(epoch),
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=verbose,
            callbacks=extra,
        )
        seconds = time.monotonic() - start
        finished.assign(epoch + 1)
        with writer.as_default(step=epoch + 1):
            summaries.scalar("loss", history.history["mean_loss"][-1])
            summaries.scalar("learning_rate", _learning_rate(model.optimizer))
            summaries.scalar(
                "examples_per_second", epochs.examples_per_epoch / seconds
            )
            features, _, _ = next(iter(epochs.dataset(0)))
            summaries.similarity(model.towers, features, model.catalogue)
        writer.flush()
        manager.save(checkpoint_number=epoch + 1)
    writer.close()


def _hard_stage(model: Any) -> Refresh:
    """Makes a model train on the hardest negatives from now on."""
    if model.hard is None:
        model.start_hard()
    return Refresh(
        model.refresh_hard, model.config.negatives.hard_refresh_steps
    )


def _learning_rate(optimizer: Any) -> tf.Tensor:
    """Returns what the schedule has come to."""
    return tf.convert_to_tensor(optimizer.learning_rate)


def _settings(
    config: TowerConfig, data: MovieLens, part: Part
) -> dict[str, Any]:
    """Returns all that the trained weights depend on."""
    digest = hashlib.sha256()
    for table in (data.users, data.ratings, data.films):
        for field in dataclasses.fields(table):
            column = getattr(table, field.name)
            digest.update(
                f"{field.name} {column.dtype} {column.shape}".encode()
            )
            digest.update(np.ascontiguousarray(column).tobytes())
    return {
        "config": dataclasses.asdict(config),
        "data_sha256": digest.hexdigest(),
        "part": part,
    }


def _claim(workdir: pathlib.Path, settings: dict[str, Any]) -> None:
    """Writes the settings into a new working directory, or compares them."""
    path = workdir / "settings.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != settings:
            raise ValueError(
                f"{workdir} holds a training of other settings or data; "
                f"{_difference(found, settings)}; give another working "
                "directory, or remove this one"
            )
        return
    workdir.mkdir(parents=True, exist_ok=True)
    # Renamed into place, so that a kill leaves no half of a file.
    part = path.with_suffix(".part")
    part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Describes where two settings differ."""
    flat = [{**each, **each.get("config", {})} for each in (found, wanted)]
    names = sorted((flat[0].keys() | flat[1].keys()) - {"config"})
    return ", ".join(
        f"`{name}` is {flat[0].get(name)!r} there and {flat[1].get(name)!r} now"
        for name in names
        if flat[0].get(name) != flat[1].get(name)
    )


def _rows(known: np.ndarray, wanted: np.ndarray, what: str) -> np.ndarray:
    """Returns the row of each wanted id among the known ones, int32."""
    order = np.argsort(known, kind="stable")
    slots = np.searchsorted(known[order], wanted)
    rows = order[np.minimum(slots, len(known) - 1)]
    absent: Sequence[int] = wanted[known[rows] != wanted].tolist()
    if absent:
        raise ValueError(
            f"every rated {what} must be listed, but {what} {absent[0]} is not"
        )
    return rows.astype(np.int32)
