# SPDX-License-Identifier: Apache-2.0
"""A last stage of training, through the index that will be served.

The rows of the index are trained themselves, together with the query tower and
the similarity: each step retrieves, and the softmax over a positive and what
was retrieved for its query has gradients to all three. LiNR calls building an
index a form of model training (section 1 of arXiv 2407.13218) and leaves the
procedure open; the negatives are those of the curriculum's last stage in its
sibling paper (section 5 of arXiv 2402.13435).
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from lintf.datasets.movielens import MovieLens
from lintf.datasets.splits import Part
from lintf.similarity.retrieval import TrainableIndex
from lintf.towers import summaries
from lintf.towers.layers import VocabularyLookup
from lintf.towers.learned import TrainedTowers
from lintf.towers.movielens import TowerConfig, item_features
from lintf.towers.tower import Tower
from lintf.towers.training import Epochs, make_examples

_REFRESH_STEPS = 25


class TunedItemTower(Tower):
    """An item tower, and what the rows of known ids have learned beside it.

    The vector of an item is the base tower's, plus that of its id, zero for
    other ids. So an update of a known item keeps what its row has learned.
    """

    def __init__(self, base: Tower, ids: np.ndarray, learned: np.ndarray):
        """Keeps what was learned.

        Args:
            base: With a feature `id`.
            ids: `[n]` known ids.
            learned: `[n, dim]` what is added to their vectors.
        """
        super().__init__(base.dim, name="item_tower")
        self._base = base
        self._lookup = VocabularyLookup(ids.tolist(), name="tuned_ids")
        table = np.concatenate([np.zeros_like(learned[:1]), learned])
        self._learned = self.add_weight(
            shape=table.shape,
            initializer=lambda shape, dtype=None: tf.constant(
                table, tf.float32
            ),
            trainable=False,
            name="learned",
        )
        self.built = True

    @property
    def feature_specs(self) -> dict[str, tf.TensorSpec]:
        """Features by name: those of the base tower."""
        return self._base.feature_specs

    def embed(
        self, features: Mapping[str, tf.Tensor], training: bool
    ) -> tf.Tensor:
        """Adds up both."""
        table = tf.convert_to_tensor(self._learned)
        learned = tf.gather(table, self._lookup(features["id"]))
        return self._base.embed(features, training) + learned


def fine_tune(
    towers: TrainedTowers,
    config: TowerConfig,
    data: MovieLens,
    logs: str | pathlib.Path,
    *,
    part: Part = "test",
    epochs: int = 1,
    learning_rate: float = 1e-4,
    k: int = 128,
) -> TrainedTowers:
    """Trains the rows of an index, the query tower and the similarity.

    A batch's histories are left out of what is retrieved, and so is the
    positive itself. The draws and their order depend on the config's seed.

    Args:
        towers: Trained ones; the query tower and the similarity are changed.
        config: What they were trained with.
        data: Users, films and ratings.
        logs: Folder of TensorBoard's event files.
        part: The held-out item that the towers will be judged by.
        epochs: Passes over the training examples.
        learning_rate: Adam's.
        k: Rows to retrieve for each query.

    Returns:
        Towers with an item tower that makes the rows' trained vectors.
    """
    features = {n: tf.constant(c) for n, c in item_features(data).items()}
    spec, weights, variables = None, None, []
    if towers.similarity is not None:
        spec = towers.similarity.spec
        weights = towers.similarity.scoring_weights()
        variables = list(weights.values())
    index = TrainableIndex(towers.item(features), k, spec, weights)
    examples = make_examples(data, part)
    batches = Epochs(examples, config, min(config.batch_size, len(examples)))
    known = {id(v) for v in variables}
    variables += [
        v for v in towers.query.trainable_variables if id(v) not in known
    ]
    variables.append(index.rows)
    optimizer = tf.keras.optimizers.Adam(learning_rate)
    optimizer.build(variables)
    step = tf.function(
        lambda *batch: _step(towers.query, index, optimizer, variables, batch),
        autograph=False,
    )
    writer = tf.summary.create_file_writer(str(logs))
    count = 0
    for epoch in range(epochs):
        total = 0.0
        # Other orders than those of the training before.
        for batch in batches.dataset(config.num_epochs + epoch):
            if count % _REFRESH_STEPS == 0:
                index.refresh()
            total += float(step(*batch))
            count += 1
        with writer.as_default(step=epoch + 1):
            summaries.scalar("fine_tune_loss", total / batches.steps)
        print(
            f"Fine-tuning: epoch {epoch + 1}/{epochs}, loss "
            f"{total / batches.steps:.4f}",
            file=sys.stderr,
            flush=True,
        )
    writer.close()
    # The query tower shares weights with the item tower, which has moved too.
    learned = index.rows.numpy() - towers.item(features).numpy()
    tuned = TunedItemTower(towers.item, data.films.id, learned)
    return dataclasses.replace(towers, item=tuned)


def _step(
    query_tower: Tower,
    index: TrainableIndex,
    optimizer: Any,
    variables: list[Any],
    batch: tuple[Mapping[str, tf.Tensor], tf.Tensor, tf.Tensor],
) -> tf.Tensor:
    """One step; returns the loss."""
    features, history, positive = batch
    with tf.GradientTape() as tape:
        queries = query_tower(features, training=True)
        seen = tf.concat([positive[:, tf.newaxis], history], axis=1)
        found = index.retrieve(queries, seen)
        # Finite: a query may have fewer negatives than slots.
        negatives = tf.maximum(found.scores, -1e9)
        own = index.score(queries, positive[:, tf.newaxis])
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(
                tf.zeros_like(positive), tf.concat([own, negatives], axis=1)
            )
        )
    gradients = tape.gradient(loss, variables)
    optimizer.apply_gradients(
        [
            (g, v)
            for g, v in zip(gradients, variables, strict=True)
            if g is not None
        ]
    )
    return loss
