# SPDX-License-Identifier: Apache-2.0
"""Batches of concurrent requests inside the graph."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable

import tensorflow as tf

Tensors = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Batching:
    """Batching of concurrent `retrieve` requests inside the graph.

    Each request's inputs are checked and its filter compiled before it joins
    a batch, so a bad request fails alone.

    Attributes:
        max_batch_size: Most queries in one batch; a larger request is split.
            A request that has more queries than all that may wait is refused.
        timeout_micros: How long the first request waits for others.
        num_threads: Batches that may run at once.
        max_enqueued_batches: Batches that may wait; more is UNAVAILABLE.
    """

    max_batch_size: int = 64
    timeout_micros: int = 500
    num_threads: int = 2
    max_enqueued_batches: int = 100

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "timeout_micros" else 1
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"batching: `{field.name}` must be an integer of at least "
                    f"{least}, got {value!r}"
                )

    @property
    def max_rows(self) -> int:
        """Most queries of a request."""
        return self.max_batch_size * self.max_enqueued_batches


def batched(
    function: Callable[[Tensors], Tensors],
    inputs: Tensors,
    options: Batching,
    max_rows: int,
) -> Tensors:
    """Runs a function in a batch with other requests' inputs.

    Args:
        function: Takes and returns named tensors, the batch leading. It must
            not fail because of one row: the others are other people's.
        inputs: Of this request.
        options: How batches are made.
        max_rows: Most rows of a request.

    Returns:
        This request's rows of the result.
    """
    names = sorted(inputs)
    keys: list[str] = []
    shapes: list[tf.TensorShape] = []

    def run(*values: tf.Tensor) -> list[tf.Tensor]:
        results = function(dict(zip(names, values, strict=True)))
        keys[:] = sorted(results)
        shapes[:] = [results[key].shape for key in keys]
        return [results[key] for key in keys]

    batch = tf.nondifferentiable_batch_function(
        num_batch_threads=options.num_threads,
        # With splitting, this limits a request, and the last allowed size
        # a batch; all sizes are allowed, so that nothing is padded.
        max_batch_size=max(max_rows, options.max_batch_size),
        allowed_batch_sizes=list(range(1, options.max_batch_size + 1)),
        batch_timeout_micros=options.timeout_micros,
        max_enqueued_batches=options.max_enqueued_batches,
        enable_large_batch_splitting=True,
        autograph=False,
    )(run)
    # The scope's name becomes that of the queue, which the signatures of a
    # model and all models of a process would share otherwise.
    with tf.name_scope(f"queue_{uuid.uuid4().hex}"):
        values = batch(*(inputs[name] for name in names))
    # What comes out of a batch has lost its static shape, which clients
    # are to see in the signature, and of an empty one its rank.
    rows = tf.shape(inputs[names[0]])[:1]
    return {
        key: tf.ensure_shape(
            tf.reshape(value, tf.concat([rows, shape[1:]], 0)), shape
        )
        for key, shape, value in zip(keys, shapes, values, strict=True)
    }
