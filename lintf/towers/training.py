# SPDX-License-Identifier: Apache-2.0
"""Trains the two towers with TensorFlow Recommenders, and resumes.

Each position of a user's sequence is an example: the film at the position is
the positive candidate, and the history is what came before it. The loss is the
softmax over all films, which `tfrs.tasks.Retrieval` computes when it is given
the batch's positive candidates, then all films, and a mask that leaves every
film in once.

A working directory holds `settings.json` (what the weights depend on),
`checkpoints/` (towers, optimizer, finished epochs; one after each epoch) and
`logs/` (TensorBoard scalars).
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
from lintf.towers import tfrs_compat
from lintf.towers.movielens import (
    ItemTower,
    QueryTower,
    TowerConfig,
    item_features,
    movielens_towers,
)
from lintf.towers.tower import Tower

# Features, rows of the histories' films, row of the positive candidate.
Batch = tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]


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
) -> tuple[QueryTower, ItemTower]:
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
      The query tower and the item tower.

    Raises:
      TfrsUnavailableError: TensorFlow Recommenders cannot be imported.
      ValueError: `workdir` holds a training of other settings or data.
    """
    tfrs = tfrs_compat.import_tfrs()
    workdir = pathlib.Path(workdir)
    examples = make_examples(data, part)
    _claim(workdir, _settings(config, data, part))

    query_tower, item_tower = movielens_towers(config, data)
    batch_size = min(config.batch_size, len(examples))
    steps = len(examples) // batch_size
    optimizer = tf.keras.optimizers.AdamW(
        tf.keras.optimizers.schedules.CosineDecay(
            config.learning_rate, max(1, steps * config.epochs)
        ),
        weight_decay=config.weight_decay,
    )
    model = _retrieval_model(
        tfrs, query_tower, item_tower, item_features(data), config.mask_seen
    )
    model.compile(optimizer=optimizer)
    # Only a built optimizer has the variables that a checkpoint restores.
    optimizer.build(model.trainable_variables)

    finished = tf.Variable(0, dtype=tf.int64, name="finished_epochs")
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(
            query_tower=query_tower,
            item_tower=item_tower,
            optimizer=optimizer,
            finished_epochs=finished,
        ),
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
    if int(finished) < config.epochs:
        if verbose is None:
            verbose = 1 if sys.stdout.isatty() else 2
        _fit(
            model,
            _Epochs(examples, config, batch_size),
            finished,
            manager,
            workdir / "logs",
            verbose,
        )
    return query_tower, item_tower


class _Epochs:
    """Makes the batches of an epoch; their order depends on seed and epoch."""

    def __init__(self, examples: Examples, config: TowerConfig, batch: int):
        self.steps = len(examples) // batch
        self.examples_per_epoch = self.steps * batch
        self.num_epochs = config.epochs
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
        generator = np.random.default_rng([self._config.seed, epoch])
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


def _retrieval_model(
    tfrs: Any,
    query_tower: Tower,
    item_tower: Tower,
    items: Mapping[str, np.ndarray],
    mask_seen: bool,
) -> Any:
    """Returns a `tfrs.Model` of the two towers.

    The class is made here because its base is known only once TensorFlow
    Recommenders could be imported.
    """
    catalogue = {name: tf.constant(column) for name, column in items.items()}
    num_items = len(items["id"])

    class TwoTowers(tfrs.Model):  # type: ignore[name-defined,misc]
        """The softmax over the whole catalogue, through the TFRS task."""

        def __init__(self) -> None:
            super().__init__(name="two_towers")
            self.query_tower = query_tower
            self.item_tower = item_tower
            self.task = tfrs.tasks.Retrieval(
                loss=tf.keras.losses.CategoricalCrossentropy(
                    from_logits=True,
                    reduction=tf.keras.losses.Reduction.SUM_OVER_BATCH_SIZE,
                ),
                loss_metrics=[tf.keras.metrics.Mean(name="mean_loss")],
            )

        def compute_loss(
            self, inputs: Batch, training: bool = False
        ) -> tf.Tensor:
            features, history_rows, positive = inputs
            queries = self.query_tower(features, training=training)
            everything = self.item_tower(catalogue, training=training)
            candidates = tf.concat(
                [tf.gather(everything, positive), everything], axis=0
            )
            return self.task(
                queries,
                candidates,
                score_mask=self._score_mask(history_rows, positive),
                compute_metrics=False,
            )

        def _score_mask(
            self, history_rows: tf.Tensor, positive: tf.Tensor
        ) -> tf.Tensor:
            """Leaves in a query's own positive, and all films but that one.

            The other queries' positives stand among all films already: with
            them, frequent films would count several times.
            """
            own = tf.eye(tf.shape(positive)[0], dtype=tf.bool)
            left_out = positive[:, tf.newaxis]
            if mask_seen:
                left_out = tf.concat([left_out, history_rows], axis=1)
            return tf.concat([own, _all_but(left_out, num_items)], axis=1)

    return TwoTowers()


def _all_but(rows: tf.Tensor, num_items: int) -> tf.Tensor:
    """Marks all items but some of each query: `[B, n]` -> `[B, num_items]`.

    Args:
      rows: int32 rows of items; -1 is none. Repeats are allowed.
      num_items: width of the result.
    """
    queries = tf.range(tf.shape(rows)[0])[:, tf.newaxis]
    # A column more than there are items takes the -1s.
    columns = tf.where(rows >= 0, rows, num_items)
    cells = tf.stack([tf.broadcast_to(queries, tf.shape(rows)), columns], -1)
    marks = tf.tensor_scatter_nd_update(
        tf.fill([tf.shape(rows)[0], num_items + 1], True),
        cells,
        tf.zeros(tf.shape(rows), tf.bool),
    )
    return marks[:, :num_items]


def _fit(
    model: Any,
    epochs: _Epochs,
    finished: tf.Variable,
    manager: tf.train.CheckpointManager,
    logs: pathlib.Path,
    verbose: int,
) -> None:
    """Runs the epochs that are left, with a checkpoint after each."""
    writer = tf.summary.create_file_writer(str(logs))
    for epoch in range(int(finished), epochs.num_epochs):
        start = time.monotonic()
        history = model.fit(
            epochs.dataset(epoch),
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=verbose,
        )
        seconds = time.monotonic() - start
        finished.assign(epoch + 1)
        with writer.as_default(step=epoch + 1):
            _scalar("loss", history.history["mean_loss"][-1])
            _scalar("learning_rate", _learning_rate(model.optimizer))
            _scalar("examples_per_second", epochs.examples_per_epoch / seconds)
        writer.flush()
        manager.save(checkpoint_number=epoch + 1)
    writer.close()


def _scalar(tag: str, value: float | tf.Tensor) -> None:
    """Writes a scalar that TensorBoard shows, without TensorBoard installed.

    `tf.summary.scalar` is a part of TensorBoard, which TensorFlow does not
    depend on any more.
    """
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data={"plugin_name": "scalars"}
    )
    tf.summary.write(tag, tf.cast(value, tf.float32), metadata=metadata)


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
