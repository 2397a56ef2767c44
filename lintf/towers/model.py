# SPDX-License-Identifier: Apache-2.0
"""The model that trains two towers: a `tfrs.Model` with its loss.

The inner product over the whole catalogue goes through `tfrs.tasks.Retrieval`,
given the batch's positive candidates, then all films, and a mask that leaves
every film in once. That task multiplies its two inputs; what is scored
otherwise, or compared with fewer items, takes `lintf.towers.objective`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from lintf.index.plan import Plan
from lintf.similarity.retrieval import SearchedRows
from lintf.towers import objective
from lintf.towers.learned import TrainedTowers
from lintf.towers.movielens import TowerConfig

# Of the hardest negatives, for each that is wanted.
_CANDIDATES = 4

# Features, rows of the histories' films, row of the positive candidate.
Batch = tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]


def retrieval_model(
    tfrs: Any,
    towers: TrainedTowers,
    items: Mapping[str, np.ndarray],
    config: TowerConfig,
    frequency: np.ndarray,
    batch_size: int,
) -> Any:
    """Returns a `tfrs.Model` of two towers.

    The class is made here because its base is known only once TensorFlow
    Recommenders could be imported.

    Args:
      tfrs: the module.
      towers: what is trained.
      items: the item tower's features of all films.
      config: how it is trained.
      frequency: `[num_items]` how often each film is a positive.
      batch_size: examples a step.
    """
    num_items = len(items["id"])
    similarity = towers.similarity
    negatives = config.negatives
    sampler = objective.Sampler(
        frequency,
        min(negatives.in_batch, batch_size),
        negatives.easy_share,
        seed=config.seed,
    )

    class TwoTowers(tfrs.Model):  # type: ignore[name-defined,misc]
        """Two towers, their similarity and their loss."""

        def __init__(self) -> None:
            super().__init__(name="two_towers")
            self.towers = towers
            self.config = config
            self.catalogue = {n: tf.constant(c) for n, c in items.items()}
            # Tracked one by one, since a dataclass is not.
            self.query_tower, self.item_tower = towers
            self.similarity = similarity
            self.hard: SearchedRows | None = None
            self.mean_loss = tf.keras.metrics.Mean(name="mean_loss")
            self.task = tfrs.tasks.Retrieval(
                loss=tf.keras.losses.CategoricalCrossentropy(
                    from_logits=True,
                    reduction=tf.keras.losses.Reduction.SUM_OVER_BATCH_SIZE,
                ),
                loss_metrics=[self.mean_loss],
            )

        def start_hard(self) -> None:
            """Makes the negatives the hardest ones from now on.

            An inner product is searched exactly, a learned similarity among
            candidates.
            """
            k = min(negatives.hard_k, num_items)
            plan = Plan(k, "masked")
            spec = None
            if similarity is not None:
                spec = similarity.spec
                plan = Plan(k, "two_stage", budget=_CANDIDATES * k)
            self.hard = SearchedRows(num_items, self.item_tower.dim, plan, spec)
            # The step that was compiled has other negatives.
            self.train_function = None

        def refresh_hard(self) -> None:
            """Brings the items that are searched for them up to date."""
            assert self.hard is not None
            self.hard.refresh(
                self.item_tower(self.catalogue, training=False),
                similarity.scoring_weights() if similarity else None,
            )

        def compute_loss(
            self, inputs: Batch, training: bool = False
        ) -> tf.Tensor:
            features, history, positive = inputs
            if not config.mask_seen:
                history = None
            queries = self.query_tower(features, training=training)
            everything = self.item_tower(self.catalogue, training=training)
            left_out = objective.left_out(positive, history)
            whole = negatives.kind == "all" and self.hard is None
            if whole and similarity is None:
                may_be = objective.all_but(left_out, num_items)
                return self._task_loss(queries, everything, positive, may_be)
            loss = self._loss(queries, everything, positive, left_out, training)
            self.mean_loss.update_state(loss)
            return loss

        def _task_loss(
            self,
            queries: tf.Tensor,
            everything: tf.Tensor,
            positive: tf.Tensor,
            may_be: tf.Tensor,
        ) -> tf.Tensor:
            """Leaves in a query's own positive, and all films but that one.

            The other queries' positives stand among all films already: with
            them, frequent films would count several times.
            """
            own = tf.eye(tf.shape(positive)[0], dtype=tf.bool)
            return self.task(
                queries,
                tf.concat([tf.gather(everything, positive), everything], 0),
                score_mask=tf.concat([own, may_be], axis=1),
                compute_metrics=False,
            )

        def _loss(
            self,
            queries: tf.Tensor,
            everything: tf.Tensor,
            positive: tf.Tensor,
            left_out: tf.Tensor,
            training: bool,
        ) -> tf.Tensor:
            kept = None
            if training and similarity is not None:
                kept = similarity.kept_pairs(tf.shape(queries)[0])

            def score(items: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                if similarity is not None:
                    return similarity.mix(queries, items, training, kept)
                equation = (
                    "nd,nmd->nm" if items.shape.rank == 3 else "nd,md->nm"
                )
                return tf.einsum(equation, queries, items), tf.zeros([])

            own, _ = score(tf.gather(everything, positive)[:, tf.newaxis])
            log_q = None
            may_be = objective.all_but(left_out, num_items)
            if self.hard is not None:
                rows = self.hard.find(queries, left_out)
                may_be = rows >= 0
                items = tf.gather(everything, tf.maximum(rows, 0))
            elif negatives.kind == "sampled":
                rows, log_q = sampler.draw(positive, self.optimizer.iterations)
                may_be = tf.gather(may_be, rows, axis=1)
                items = tf.gather(everything, rows)
                log_q = tf.gather(log_q, rows) if negatives.log_q else None
            else:
                items = everything
            others, balance = score(items)
            loss = objective.softmax_loss(own[:, 0], others, may_be, log_q)
            if similarity is not None:
                loss += similarity.balance_weight * balance
            return loss

    return TwoTowers()
