# SPDX-License-Identifier: Apache-2.0
"""lintf through its served signature, filter compilation included."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from lintf import Index, IndexSchema, ServedIndex


class LintfEngine:
    """`retrieve_by_embedding` of a `ServedIndex` without attributes."""

    name = "lintf Retrieve"

    def __init__(self, items: np.ndarray):
        self._index = Index(IndexSchema(dim=items.shape[1]), len(items))
        self._index.append(np.arange(len(items)), items)

    def prepare(self, queries: np.ndarray, k: int) -> None:
        served = ServedIndex(self._index, k=k)
        self._call = served.signatures()["retrieve_by_embedding"]
        self._inputs = {
            "query_embedding": tf.constant(queries),
            "filter": tf.fill([len(queries)], ""),
        }

    def search(self) -> np.ndarray:
        return self._call(**self._inputs)["ids"].numpy()
