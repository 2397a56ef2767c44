# SPDX-License-Identifier: Apache-2.0
"""What positives are compared with: all items, sampled or hard negatives.

Section 5 of arXiv 2402.13435: a softmax over in-batch negatives and uniform
easy ones, then over the hardest. All functions work on logits, whatever the
similarity that made them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

# Far below any logit, but finite: minus infinity has no gradient.
_LEFT_OUT = -1e9


class Candidates(NamedTuple):
    """Negatives that a batch of queries shares.

    Attributes:
      rows: `[C]` int32 rows of items; an item may occur several times.
      log_q: `[num_items]` float32: log of how often each item is expected
        among them.
    """

    rows: tf.Tensor
    log_q: tf.Tensor


class Sampler:
    """Draws candidates: positives of the batch, and uniform items."""

    def __init__(
        self,
        frequency: np.ndarray,
        in_batch: int,
        easy_share: float,
        *,
        seed: int,
    ):
        """Sets the sizes.

        Args:
          frequency: `[num_items]` how often each item is a positive.
          in_batch: how many positives of the batch are candidates.
          easy_share: of the candidates, drawn uniformly.
          seed: of the draws.
        """
        self._num_items = len(frequency)
        self._in_batch = in_batch
        self._easy = round(self._in_batch * easy_share / (1 - easy_share))
        self._seed = seed
        share = frequency / frequency.sum()
        expected = self._in_batch * share + self._easy / self._num_items
        # Without easy negatives an item that is never a positive never comes.
        self._log_q = np.log(np.maximum(expected, 1e-12)).astype(np.float32)

    def draw(self, positive: tf.Tensor, step: tf.Tensor) -> Candidates:
        """Draws the candidates of a step.

        Args:
          positive: `[B]` int32 rows, in random order.
          step: int64 scalar; the same step draws the same.
        """
        easy = tf.random.stateless_uniform(
            [self._easy],
            tf.stack([tf.cast(self._seed, tf.int64), tf.cast(step, tf.int64)]),
            maxval=self._num_items,
            dtype=tf.int32,
        )
        rows = tf.concat([positive[: self._in_batch], easy], axis=0)
        return Candidates(rows, tf.constant(self._log_q))


def left_out(positive: tf.Tensor, history: tf.Tensor | None) -> tf.Tensor:
    """The items that may not be a query's negatives: `[B, 1 + L]` int32.

    Its own positive (what is called an accidental hit where it is drawn), and
    what its history holds.

    Args:
      positive: `[B]` int32 rows.
      history: `[B, L]` int32 rows, -1 for none; None allows these.
    """
    own = positive[:, tf.newaxis]
    return own if history is None else tf.concat([own, history], axis=1)


def all_but(rows: tf.Tensor, num_items: int) -> tf.Tensor:
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


def softmax_loss(
    own: tf.Tensor,
    others: tf.Tensor,
    may_be: tf.Tensor,
    log_q: tf.Tensor | None = None,
) -> tf.Tensor:
    """The softmax cross-entropy of positives among negatives, a mean.

    With `log_q` it estimates the softmax over all items: a negative that is
    expected c times counts 1/c. Without, frequent candidates count more.

    Args:
      own: `[B]` logits of the positives.
      others: `[B, C]` logits of negatives.
      may_be: `[B, C]` bool: those that count.
      log_q: `[C]` logs of how often each is expected.
    """
    if log_q is not None:
        others -= log_q
    others = tf.where(may_be, others, _LEFT_OUT)
    everything = tf.concat([own[:, tf.newaxis], others], axis=1)
    return tf.reduce_mean(tf.reduce_logsumexp(everything, axis=1) - own)
