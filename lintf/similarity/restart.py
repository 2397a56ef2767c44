# SPDX-License-Identifier: Apache-2.0
"""Starts over where training starts badly.

Section 5.1 of arXiv 2407.13218 on the Hadamard MLP: neither Glorot's nor He's
initialisation makes its training stable, so the weights are drawn again if
the first 100 steps go badly. The paper does not say what "badly" is. Here: the
mean loss of the last tenth of the steps is not below `(1 - least_gain)` times
that of the first tenth, or a loss is not finite. The losses are those of the
logs: a model that Keras compiled with a loss logs the mean of the epoch so far,
a TFRS model that of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf


class RestartUnluckyStart(tf.keras.callbacks.Callback):
    """A Keras callback that draws weights again after a bad start.

    Its state is in variables (`state`): put into a checkpoint, a training that
    was cut off goes on as if it had not been.

    Example:
      model.fit(batches, callbacks=[
          RestartUnluckyStart(lambda n: similarity.reinitialize(seed + n)),
      ])
    """

    def __init__(
        self,
        reinitialize: Callable[[int], Any],
        *,
        steps: int = 100,
        least_gain: float = 0.02,
        most_restarts: int = 5,
        loss: str = "loss",
    ):
        """Sets the rule.

        Args:
          reinitialize: draws the weights again; called with 1 the first time,
            then 2, and so on.
          steps: how many steps a start is given, at least 2.
          least_gain: share of the loss that they must gain.
          most_restarts: after as many the start is left as it is.
          loss: name of the loss in the logs.

        Raises:
          ValueError: a setting is out of range.
        """
        super().__init__()
        if steps < 2 or most_restarts < 0 or not least_gain < 1:
            raise ValueError(
                "`steps` must be at least 2, `most_restarts` at least 0 and "
                f"`least_gain` below 1, got {steps}, {most_restarts} and "
                f"{least_gain}"
            )
        self._reinitialize = reinitialize
        self._steps = steps
        self._tenth = max(1, steps // 10)
        self._least_gain = least_gain
        self._most_restarts = most_restarts
        self._loss = loss
        self.state = _State()

    @property
    def restarts(self) -> int:
        """How often the weights were drawn again."""
        return int(self.state.restarts)

    @property
    def is_over(self) -> bool:
        """Whether the start was accepted; nothing happens from then on."""
        return bool(self.state.is_over)

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Watches the loss, and judges after the last of the steps."""
        if self.is_over:
            return
        state, loss = self.state, float((logs or {})[self._loss])
        step = int(state.step.assign_add(1))
        if step <= self._tenth:
            state.first.assign_add(loss / self._tenth)
        if step > self._steps - self._tenth:
            state.last.assign_add(loss / self._tenth)
        finite = bool(tf.math.is_finite(loss))
        if step < self._steps and finite:
            return
        first, last = float(state.first), float(state.last)
        gained = last <= first - self._least_gain * abs(first)
        if (gained and finite) or self.restarts >= self._most_restarts:
            state.is_over.assign(True)
            return
        restarts = int(state.restarts.assign_add(1))
        print(
            f"Restart {restarts}: the loss went from {first:.4f} to {loss:.4f} "
            f"in {step} steps; the weights are drawn again",
            flush=True,
        )
        for variable in (state.step, state.first, state.last):
            variable.assign(tf.zeros_like(variable))
        self._reinitialize(restarts)
        # Keras' loss in the logs is the mean since these were reset.
        self.model.reset_metrics()
        _forget(self.model.optimizer)


class _State(tf.Module):
    """What a checkpoint has to hold."""

    def __init__(self) -> None:
        super().__init__(name="restart")

        def variable(value: Any, dtype: tf.DType) -> tf.Variable:
            return tf.Variable(value, dtype=dtype, trainable=False)

        self.step = variable(0, tf.int64)
        self.restarts = variable(0, tf.int64)
        self.first = variable(0.0, tf.float64)
        self.last = variable(0.0, tf.float64)
        self.is_over = variable(False, tf.bool)


def _forget(optimizer: Any) -> None:
    """Sets an optimizer's moments to 0; its step count goes on."""
    variables: Iterable[Any] = optimizer.variables
    if callable(variables):
        variables = variables()
    for variable in variables:
        if len(variable.shape) or "iteration" not in _name(variable):
            if "learning_rate" not in _name(variable):
                variable.assign(tf.zeros_like(tf.convert_to_tensor(variable)))


def _name(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))
