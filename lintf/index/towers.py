# SPDX-License-Identifier: Apache-2.0
"""Towers as they are saved with an index, and taken out of it again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf

# Types of variables that TensorFlow keeps off GPUs.
_ON_CPU_ALONE = (tf.int32, tf.string)


class RestoredTower(tf.Module):
    """A tower of a loaded SavedModel: called like the one that was saved.

    It may be saved with another index, any number of times in a row, without
    the code that made it.

    Attributes:
        feature_specs: Input name -> `tf.TensorSpec` with a leading None.
    """

    feature_specs: dict[str, tf.TensorSpec]

    def __init__(self, state: Any, function: Any):
        """Takes a tower out of a loaded SavedModel.

        Args:
            state: What was the tower, of which variables and tables are left.
            function: What `function` made of it.
        """
        super().__init__()
        # What is tracked as before keeps its place in the checkpoint.
        for name, child in state._trackable_children().items():
            self._track_trackable(child, name)
        # Calling the saved function itself would wrap it in another one.
        (concrete,) = function.concrete_functions
        (specs,), _ = concrete.structured_input_signature
        self.__dict__["feature_specs"] = {
            name: tf.TensorSpec(spec.shape, spec.dtype, name=name)
            for name, spec in sorted(specs.items())
        }
        # Not found by whoever looks for functions to save.
        self.__dict__["_functions"] = lambda: (function, concrete)

    @property
    def saved_function(self) -> Any:
        """The function that was saved, to be saved again as it is."""
        return self._functions()[0]

    def __call__(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """`{feature: [batch, ...]}` -> `[batch, dim]` float32."""
        concrete = self._functions()[1]
        return concrete({name: features[name] for name in self.feature_specs})


def function(tower: Any) -> Any:
    """A tower as a `tf.function` on a dict of features, to be saved.

    Args:
        tower: Called with a dict of tensors; has `feature_specs`.
    """
    if isinstance(tower, RestoredTower):
        return tower.saved_function

    def embed(features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return tf.cast(tower(dict(features)), tf.float32)

    return tf.function(
        embed, input_signature=[dict(tower.feature_specs)], autograph=False
    )


def captures_only_variables(saved_function: Any) -> bool:
    """Whether a tower can run wherever an index does, on a GPU too.

    It can if all that it holds are variables of types that TensorFlow has on
    GPUs: no lookup tables, whose place is the CPU.

    Args:
        saved_function: From `function`.
    """
    if isinstance(saved_function, tf.types.experimental.GenericFunction):
        concrete = saved_function.get_concrete_function()
    else:
        (concrete,) = saved_function.concrete_functions
    handles = {
        id(variable.handle)
        for variable in concrete.variables
        if variable.dtype not in _ON_CPU_ALONE
    }
    return all(
        id(captured) in handles
        for captured in concrete.captured_inputs
        if captured.dtype == tf.resource
    )


def check(tower: Any, side: str, dim: int, reserved: Collection[str]) -> None:
    """Checks that a tower fits an index.

    Args:
        tower: Called with a dict of tensors; has `feature_specs`.
        side: "query" or "item".
        dim: Length of the embeddings that it must return.
        reserved: Names that no feature may have.

    Raises:
        ValueError: It does not.
    """
    specs = dict(tower.feature_specs)
    for name, spec in specs.items():
        if name in reserved:
            raise ValueError(
                f"the {side} tower must not have a feature {name!r}: the "
                "signatures have an input of that name"
            )
        if spec.shape.rank is None or spec.shape.rank < 1:
            raise ValueError(
                f"{side} feature {name!r} must have a known rank and the "
                f"batch as leading dimension, got {spec}"
            )
    example = {
        n: tf.zeros([1, *s.shape[1:]], s.dtype)
        if s.dtype != tf.string
        else tf.fill([1, *s.shape[1:]], "")
        for n, s in specs.items()
    }
    shape = tf.cast(tower(example), tf.float32).shape
    if shape != [1, dim]:
        raise ValueError(
            f"the {side} tower must return [batch, {dim}] embeddings for this "
            f"index, got {shape} for one {side}"
        )
