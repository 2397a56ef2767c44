# SPDX-License-Identifier: Apache-2.0
"""TensorBoard scalars without the tensorboard package.

`tf.summary.scalar` is TensorBoard's own and needs it installed; the event
files need only TensorFlow.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import tensorflow as tf


class ScalarWriter:
    """Writes numbers by step to an event file, for `tensorboard --logdir`."""

    def __init__(self, folder: pathlib.Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = tf.summary.create_file_writer(str(folder))
        self._metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(
                plugin_name="scalars"
            ),
            data_class="DATA_CLASS_SCALAR",
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one number a name."""
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.write(
                    name,
                    tf.constant(value, tf.float32),
                    step=step,
                    metadata=self._metadata,
                )

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()
