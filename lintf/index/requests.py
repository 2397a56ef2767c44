# SPDX-License-Identifier: Apache-2.0
"""What a request must look like, checked in the graph.

Neither TensorFlow Serving nor a session holds a request to its signature's
shapes, and a few bytes can state a tensor of millions of rows. So every
signature checks its inputs before it does any work, with stock operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf


def checked(
    inputs: Mapping[str, tf.Tensor],
    specs: Mapping[str, tf.TensorSpec],
    max_rows: int,
) -> dict[str, tf.Tensor]:
    """The inputs of one request, once it is known to keep the contract.

    Args:
        inputs: Tensors by name, as they came.
        specs: What the signature says of each; the batch is the leading
            dimension.
        max_rows: Most rows of a request.

    Returns:
        The tensors of `specs`, usable only when all checks have passed.

    Raises:
        tf.errors.InvalidArgumentError: When it runs: an input has another
            shape, inputs differ in their number of rows, or there are more
            than `max_rows`.
    """
    shaped = {
        # The operation's name is what the error message shows.
        name: tf.ensure_shape(inputs[name], spec.shape, f"shape_of_{name}")
        for name, spec in specs.items()
    }
    rows = {name: tf.shape(tensor)[0] for name, tensor in shaped.items()}
    first, *others = rows
    checks = [
        tf.debugging.Assert(
            rows[first] <= max_rows,
            [f"a request may have {max_rows} rows; `{first}` has", rows[first]],
        )
    ]
    for name in others:
        checks.append(
            tf.debugging.Assert(
                rows[name] == rows[first],
                [
                    f"`{name}` must have as many rows as `{first}`, got",
                    rows[name],
                    "and",
                    rows[first],
                ],
            )
        )
    with tf.control_dependencies(checks):
        return {name: tf.identity(tensor) for name, tensor in shaped.items()}


def concrete(
    function: Callable[..., dict[str, tf.Tensor]],
    specs: Mapping[str, tf.TensorSpec],
) -> Any:
    """A signature: a function of named tensors, traced.

    Args:
        function: Takes each input by its name.
        specs: What they are.
    """
    named = {
        name: tf.TensorSpec(spec.shape, spec.dtype, name=name)
        for name, spec in specs.items()
    }
    return tf.function(function, autograph=False).get_concrete_function(**named)
