# SPDX-License-Identifier: Apache-2.0
"""Towers of a learned similarity, on top of those of the inner product.

The base towers' embeddings go into the similarity's two sides, together with
what the options name: the newest films, what is known about the user, the
film's traits, and clusters. A film with an unknown id has a component from its
traits, and the cluster that these bring it to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from lintf.similarity.clusters import ClusterEmbeddings, ResidualIdEmbeddings
from lintf.similarity.layers import (
    HadamardMlp,
    LearnedSimilarity,
    MixtureOfLogits,
)
from lintf.towers.movielens import (
    ItemParts,
    ItemTower,
    QueryParts,
    QueryTower,
    TowerConfig,
)
from lintf.towers.options import MixtureOptions
from lintf.towers.tower import Tower


@dataclasses.dataclass(frozen=True)
class TrainedTowers:
    """Two towers, and what compares their outputs.

    Unpacks into the query tower and the item tower.

    Attributes:
        query: Makes query vectors.
        item: Makes item vectors.
        similarity: What scores them; None for the inner product.
        clusters: The similarity's clusters, if it has any.
    """

    query: Tower
    item: Tower
    similarity: LearnedSimilarity | None = None
    clusters: ClusterEmbeddings | None = None

    def __iter__(self) -> Iterator[Tower]:
        return iter((self.query, self.item))


class _LearnedTower(Tower):
    """One side of a similarity on a base tower, whose features it takes."""

    def __init__(
        self,
        base: QueryTower | ItemTower,
        similarity: LearnedSimilarity,
        clusters: ClusterEmbeddings | None,
        dim: int,
        name: str,
    ):
        super().__init__(dim, name=name)
        self._base: Any = base
        self._similarity = similarity
        self._clusters = clusters

    @property
    def feature_specs(self) -> dict[str, tf.TensorSpec]:
        """Features by name: those of the base tower."""
        specs: dict[str, tf.TensorSpec] = self._base.feature_specs
        return specs

    def base_vector(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """What the clusters are chosen by: `[B, width]`."""
        return self._base.parts(features, False).vector


class LearnedQueryTower(_LearnedTower):
    """The query tower's features, as query vectors of a similarity."""

    def __init__(
        self,
        base: QueryTower,
        similarity: LearnedSimilarity,
        options: MixtureOptions | None,
        clusters: ClusterEmbeddings | None,
    ):
        """Puts the similarity on the base tower.

        Args:
          base: the query tower of the inner product.
          similarity: whose query side makes the vectors.
          options: which components there are; None for the embedding alone.
          clusters: whose embeddings are a component more.
        """
        dim = similarity.spec.query_dim
        super().__init__(base, similarity, clusters, dim, "query_tower")
        self._is_mixture = options is not None
        self._num_newest = options.newest_components if options else 0
        self._has_user = options.user_component if options else False
        self.built = True

    def embed(
        self, features: Mapping[str, tf.Tensor], training: bool
    ) -> tf.Tensor:
        """Makes query vectors."""
        parts = self._base.parts(features, training)
        vector = parts.vector
        if self._is_mixture:
            # The vector with its 1 for the items' bias: what the inner
            # product takes. Components that are projections of that alone
            # would be of no higher rank together than it is.
            ones = tf.ones_like(vector[:, :1])
            vector = tf.concat([vector, ones, parts.inputs], axis=1)
        return self._similarity.query_side(
            vector, self._extra(parts), training=training
        )

    def _extra(self, parts: QueryParts) -> list[tf.Tensor]:
        extra = [parts.newest[:, n] for n in range(self._num_newest)]
        if self._has_user:
            extra.append(parts.user)
        if self._clusters is not None:
            extra.append(self._clusters(parts.vector))
        return extra


class LearnedItemTower(_LearnedTower):
    """The item tower's features, as item vectors of a similarity."""

    def __init__(
        self,
        base: ItemTower,
        similarity: LearnedSimilarity,
        options: MixtureOptions | None,
        clusters: ClusterEmbeddings | None,
        residual: ResidualIdEmbeddings | None,
    ):
        """Puts the similarity on the base tower.

        Args:
          base: the item tower of the inner product.
          similarity: whose item side makes the vectors.
          options: which components there are; None for the embedding alone.
          clusters: whose embeddings are a component more.
          residual: what known ids add to that.
        """
        dim = similarity.spec.item_dim
        super().__init__(base, similarity, clusters, dim, "item_tower")
        self._has_traits = options.traits_component if options else False
        self._residual = residual
        self.built = True

    def embed(
        self, features: Mapping[str, tf.Tensor], training: bool
    ) -> tf.Tensor:
        """Makes item vectors."""
        parts = self._base.parts(features, training)
        extra = self._extra(parts, features["id"], training)
        return self._similarity.item_side(
            parts.embedding, extra, training=training
        )

    def _extra(
        self, parts: ItemParts, ids: tf.Tensor, training: bool
    ) -> list[tf.Tensor]:
        extra = []
        if self._has_traits:
            extra.append(parts.traits)
        if self._clusters is not None:
            cluster = self._clusters(parts.vector)
            if self._residual is not None:
                cluster = self._residual(ids, cluster, training=training)
            extra.append(cluster)
        return extra


def learned_towers(
    config: TowerConfig,
    query_tower: QueryTower,
    item_tower: ItemTower,
    *,
    centres: np.ndarray | None = None,
    item_ids: np.ndarray | None = None,
    num_ratings: np.ndarray | None = None,
) -> TrainedTowers:
    """Makes the towers that the config's similarity asks for, untrained.

    Args:
      config: of the base towers too.
      query_tower: the base, which may be trained.
      item_tower: the base.
      centres: `[count, dim - 1]` of the clusters, if the config has some.
      item_ids: for residual ids: the films' ids.
      num_ratings: for residual ids: how often each was rated.

    Returns:
      The base towers themselves for "dot".

    Raises:
      ValueError: clusters without centres, or residual ids without ratings.
    """
    if config.similarity == "dot":
        return TrainedTowers(query_tower, item_tower)
    clusters, residual = _clusters(config, centres, item_ids, num_ratings)
    options = None
    if config.similarity == "mixture_of_logits":
        options = config.mixture
    similarity = _similarity(
        config, query_tower.num_inputs, item_tower.num_traits
    )
    return TrainedTowers(
        LearnedQueryTower(query_tower, similarity, options, clusters),
        LearnedItemTower(item_tower, similarity, options, clusters, residual),
        similarity,
        clusters,
    )


def _similarity(
    config: TowerConfig, num_inputs: int, num_traits: int
) -> LearnedSimilarity:
    width = config.dim - 1
    seed = similarity_seed(config)
    of_clusters = [width] if config.clusters.count else []
    if config.similarity == "hadamard_mlp":
        return HadamardMlp(
            width + sum(of_clusters),
            config.dim + sum(of_clusters),
            component_dim=config.hadamard.component_dim,
            hidden=config.hadamard.hidden,
            dropout=config.hadamard.dropout,
            seed=seed,
            name="similarity",
        )
    shape = dataclasses.asdict(config.mixture)
    newest = shape.pop("newest_components")
    user = shape.pop("user_component")
    traits = shape.pop("traits_component")
    shape["component_dim"] = shape["component_dim"] or config.dim
    return MixtureOfLogits(
        config.dim + num_inputs,
        config.dim,
        query_gate_width=config.dim,
        query_extra=[*[width] * (newest + user), *of_clusters],
        item_extra=[*([num_traits] if traits else []), *of_clusters],
        seed=seed,
        name="similarity",
        **shape,
    )


def similarity_seed(config: TowerConfig, restart: int = 0) -> int:
    """The seed of a similarity's weights, another one for each restart."""
    return 1000 * config.seed + 700 + restart


def _clusters(
    config: TowerConfig,
    centres: np.ndarray | None,
    item_ids: np.ndarray | None,
    num_ratings: np.ndarray | None,
) -> tuple[Any, Any]:
    options = config.clusters
    if not options.count:
        return None, None
    if centres is None:
        raise ValueError("a config with clusters needs their centres")
    learned = options.mode == "learned"
    clusters = ClusterEmbeddings(
        centres,
        trained=options.mode != "fixed",
        top=min(options.top, options.count) if learned else 0,
        name="clusters",
    )
    if not options.residual_ids:
        return clusters, None
    if item_ids is None or num_ratings is None:
        raise ValueError("residual ids need the films' ids and their ratings")
    residual = ResidualIdEmbeddings(
        item_ids.tolist(),
        num_ratings,
        config.dim - 1,
        least_interactions=options.least_ratings,
        seed=similarity_seed(config) + 90,
        name="residual_ids",
    )
    return clusters, residual
