# SPDX-License-Identifier: Apache-2.0
"""Clusters of items: what a new item has in common with known ones.

Section 3.3 of arXiv 2407.13218: k-means over item embeddings; each query and
each item gets the embedding of the cluster that is nearest by cosine to its
two-tower embedding. `ResidualIdEmbeddings` adds what is particular to an id,
from nothing on: an id without history has its cluster and its attributes.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lintf.towers.layers import OptionalEmbedding, VocabularyLookup

_EPSILON = 1e-6


class ScikitLearnUnavailableError(ImportError):
    """scikit-learn, which finds the clusters, is not installed."""


def k_means(embeddings: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """Finds clusters of directions: spherical k-means, by mini-batches.

    scikit-learn's `MiniBatchKMeans` on rows of length 1, whose nearest centre
    by distance is the nearest by cosine once centres have length 1 too.

    Args:
      embeddings: `[n, dim]`; rows of zeros are left out.
      count: how many clusters.
      seed: of the random draws.

    Returns:
      `[count, dim]` float32 centres of length 1.

    Raises:
      ScikitLearnUnavailableError: scikit-learn is not installed.
      ValueError: there are fewer embeddings than clusters.
    """
    length = np.linalg.norm(embeddings, axis=1)
    used = embeddings[length > _EPSILON].astype(np.float64)
    if not 1 <= count <= len(used):
        raise ValueError(
            "the number of clusters must be from 1 to the number of items "
            f"with an embedding, {len(used)}, got {count}"
        )
    try:
        cluster = importlib.import_module("sklearn.cluster")
    except ImportError as error:
        raise ScikitLearnUnavailableError(
            "finding clusters needs scikit-learn, which is not installed; "
            "install it with: pip install 'lintf[clusters]'"
        ) from error
    used /= np.linalg.norm(used, axis=1, keepdims=True)
    found = cluster.MiniBatchKMeans(
        count, random_state=seed, n_init=3, batch_size=1024
    ).fit(used)
    centres = np.asarray(found.cluster_centers_)
    length = np.linalg.norm(centres, axis=1, keepdims=True)
    return (centres / np.maximum(length, _EPSILON)).astype(np.float32)


class ClusterEmbeddings(tf.keras.layers.Layer):
    """The embedding of the cluster that is nearest to an embedding.

        c(e) = argmax_c <e, m_c> / |m_c|,   output t[c(e)]

    with centres m from `k_means`; the same layer serves queries and items.
    The table t starts as m and stays it unless `trained` (fixed tables won in
    all cases of the paper). No gradient reaches e or m: clusters are ids.

    Learned clusters (`top`): the centres are trained too, and the output is a
    soft choice of the `top` best by dot product, `sum softmax(<e, m_c>) t_c`
    over those. They are in a draft that the paper's LaTeX source keeps as a
    comment, not in the published text.

    Input: `[n, dim]` float32. Output: `[n, dim]` float32.
    """

    def __init__(
        self,
        centres: np.ndarray,
        *,
        trained: bool = False,
        top: int = 0,
        **kwargs: Any,
    ):
        """Keeps the centres.

        Args:
          centres: `[count, dim]`, from `k_means` or drawn at random.
          trained: whether the table is trained.
          top: clusters of a soft choice; 0 chooses the nearest.
          **kwargs: as for every Keras layer.

        Raises:
          ValueError: `top` is out of range, or not trained.
        """
        super().__init__(**kwargs)
        centres = np.asarray(centres, np.float32)
        if not 0 <= top <= len(centres):
            raise ValueError(
                f"`top` must be from 0 to the {len(centres)} clusters, got "
                f"{top}"
            )
        if top and not trained:
            raise ValueError(
                "learned clusters (`top`) are trained: set `trained`"
            )
        self._top = top

        def weight(name: str, trainable: bool) -> Any:
            return self.add_weight(
                shape=centres.shape,
                initializer=lambda shape, dtype=None: tf.constant(centres),
                trainable=trainable,
                name=name,
            )

        self._centres = weight("centres", top > 0)
        self._table = weight("table", trained)
        self.built = True

    @property
    def count(self) -> int:
        """How many clusters there are."""
        return int(self._centres.shape[0])

    def assign(self, embedding: Any) -> tf.Tensor:
        """The nearest cluster: `[n]` int32."""
        scores = self._scores(embedding)
        return tf.argmax(scores, axis=-1, output_type=tf.int32)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Looks up the nearest cluster, or mixes the best."""
        table = tf.convert_to_tensor(self._table)
        if not self._top:
            return tf.gather(table, self.assign(inputs))
        scores, best = tf.math.top_k(self._scores(inputs), k=self._top)
        share = tf.nn.softmax(scores, axis=-1)
        return tf.einsum("nk,nkd->nd", share, tf.gather(table, best))

    def occupancy(self, embedding: Any) -> tf.Tensor:
        """The share of embeddings that each cluster has: `[count]`."""
        marks = tf.one_hot(self.assign(embedding), self.count)
        return tf.reduce_mean(marks, axis=0)

    def _scores(self, embedding: Any) -> tf.Tensor:
        centres = tf.convert_to_tensor(self._centres)
        if not self._top:
            # An embedding's own length changes no order.
            centres = tf.math.l2_normalize(centres, axis=1, epsilon=1e-12)
        return tf.matmul(embedding, centres, transpose_b=True)


class ResidualIdEmbeddings(tf.keras.layers.Layer):
    """What an id adds to its cluster: near zero at first, for known ids only.

    Output: `base + t[id]`, and `base` alone for an id that is unknown or had
    fewer than `least_interactions`: the cluster is the prior, from which
    engagement moves an id away. Like learned clusters they are in the paper's
    draft alone, which sums both and starts the ids' part close to zero.

    Input: ids `[n]` int64 (or string) and base embeddings `[n, dim]`.
    Output: `[n, dim]` float32.
    """

    def __init__(
        self,
        ids: Sequence[int] | Sequence[str],
        interactions: Sequence[int] | np.ndarray,
        dim: int,
        *,
        least_interactions: int = 5,
        stddev: float = 1e-3,
        drop_rate: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ):
        """Makes a row for each id with enough history.

        Args:
          ids: distinct ids.
          interactions: how many each had.
          dim: width of the embeddings.
          least_interactions: that an id needs for a row of its own.
          stddev: of the normal distribution that rows start from.
          drop_rate: share of ids forgotten at training.
          seed: of the rows and of the dropout.
          **kwargs: as for every Keras layer.

        Raises:
          ValueError: no id has enough history, or the lengths differ.
        """
        super().__init__(**kwargs)
        kept: list[Any] = [
            key
            for key, count in zip(ids, interactions, strict=True)
            if count >= least_interactions
        ]
        if not kept:
            raise ValueError(
                f"none of the {len(ids)} ids has {least_interactions} "
                "interactions; lower `least_interactions`"
            )
        self._lookup = VocabularyLookup(kept, name="ids")
        self._embedding = OptionalEmbedding(
            len(kept),
            dim,
            stddev=stddev,
            drop_rate=drop_rate,
            seed=seed,
            name="residual",
        )
        self.built = True

    def call(
        self, ids: tf.Tensor, base: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Adds the rows of known ids."""
        rows = self._lookup(ids)
        return base + self._embedding(rows, training=training)
