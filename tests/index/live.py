# SPDX-License-Identifier: Apache-2.0
"""A saved and loaded index, called through its signatures."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from export import warmup
from lintf.index.schema import IndexSchema
from lintf.index.served import ServedIndex
from lintf.serving.changes import Change, ChangeEncoder


class LiveIndex:
    """What a server would load, in this process.

    Attributes:
        schema: Of the index.
        signatures: The SignatureDefs by name.
        encoder: For changes.
    """

    def __init__(self, served: ServedIndex, path: pathlib.Path):
        """Saves an index to a new directory and loads it."""
        served.save(path)
        self.signatures = warmup.signatures(path)
        self._model = tf.saved_model.load(str(path))
        self.schema = IndexSchema.from_json(self.stats()["schema"])
        self.encoder = ChangeEncoder(self.schema, self.signatures)

    def call(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        """Runs a signature on arrays."""
        tensors = {
            name: tf.constant(
                value,
                tf.dtypes.as_dtype(
                    self.signatures[signature].inputs[name].dtype
                ),
            )
            for name, value in inputs.items()
        }
        outputs = self._model.signatures[signature](**tensors)
        return {name: value.numpy() for name, value in outputs.items()}

    def stats(self) -> dict[str, Any]:
        """The state of the index."""
        outputs = self.call("index_stats", probe=[0])
        return {name: value[0] for name, value in outputs.items()}

    def offsets(self) -> list[int]:
        """How far the log is applied."""
        return self.stats()["log_offsets"].tolist()

    def update(self, *changes: Change) -> list[int]:
        """Applies changes in one request; returns what became of each."""
        (request,) = self.encoder.runs(changes, max(len(changes), 1))
        signature, run = request
        inputs = self.encoder.inputs(signature, run)
        return self.call(signature, **inputs)["status"].tolist()
