# SPDX-License-Identifier: Apache-2.0
"""What the export job may expect of a tower."""

import abc
from collections.abc import Mapping
from typing import Any

import tensorflow as tf


class Tower(tf.keras.Model):
    """A model from raw features to an embedding.

    Called on a dict of tensors `{feature: [B, ...]}`, it returns `[B, dim]`
    float32. The score of a query and an item is the inner product of the two
    towers' outputs: an item's bias is one dimension of its embedding, and the
    query's embedding is 1 there. Features that the tower does not know are
    ignored, so that one dict may serve several towers. A tower makes its
    weights when it is constructed, and sets `built` at the end of that.
    """

    def __init__(self, dim: int, **kwargs: Any):
        """Sets the width of the embedding.

        Args:
          dim: width of the output, the dimension of the bias included.
          **kwargs: as for every Keras model.
        """
        super().__init__(**kwargs)
        self._dim = dim

    @property
    def dim(self) -> int:
        """Width of the embedding."""
        return self._dim

    @property
    @abc.abstractmethod
    def feature_specs(self) -> dict[str, tf.TensorSpec]:
        """The features by name; their leading dimension is None."""

    @abc.abstractmethod
    def embed(
        self, features: Mapping[str, tf.Tensor], training: bool
    ) -> tf.Tensor:
        """Returns `[B, dim]` float32 for features that are there."""

    def call(
        self, inputs: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Checks the features' names and embeds them."""
        missing = sorted(set(self.feature_specs) - set(inputs))
        if missing:
            raise ValueError(
                f"the {self.name} needs the features "
                f"{sorted(self.feature_specs)}, got {sorted(inputs)}; "
                f"missing: {missing}"
            )
        return self.embed(inputs, training)


def placeholders(tower: Tower, batch: int = 1) -> dict[str, tf.Tensor]:
    """Returns features of a batch of unknown entities: zeros and "".

    Args:
      tower: whose features.
      batch: the leading dimension.

    Returns:
      Feature name -> tensor `[batch, ...]`.
    """
    return {
        name: tf.zeros([batch, *spec.shape[1:]], spec.dtype)
        for name, spec in tower.feature_specs.items()
    }
