# SPDX-License-Identifier: Apache-2.0
"""Renews what the hardest negatives are searched in.

The last stage of arXiv 2402.13435, section 5: training goes on with those
items that score best and are not the positive. An index finds them, whose rows
are renewed every so often, since all of them change with every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class Refresh(tf.keras.callbacks.Callback):
    """Calls a function at the first step of an epoch, and every so often."""

    def __init__(self, refresh: Callable[[], None], steps: int):
        """Sets how often.

        Args:
          refresh: brings the searched items up to date.
          steps: between renewals.
        """
        super().__init__()
        self._refresh = refresh
        self._steps = steps

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Renews at the first step of an epoch, and so on."""
        if batch % self._steps == 0:
            self._refresh()
