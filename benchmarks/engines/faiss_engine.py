# SPDX-License-Identifier: Apache-2.0
"""FAISS's exact index, with BLAS used where it is faster."""

from __future__ import annotations

import faiss
import numpy as np

# As shipped, FAISS 1.15 takes its slower loop below 1,000 queries of 128
# dimensions; this is the batch from which BLAS won. Below it the loop does.
_BLAS_FROM = 8
_ALWAYS, _NEVER = 1, 1 << 30


class FaissEngine:
    """`IndexFlatIP` with `distance_compute_blas_threshold` set."""

    name = "FAISS IndexFlatIP"

    def __init__(self, items: np.ndarray):
        faiss.omp_set_num_threads(1)
        self._index = faiss.IndexFlatIP(items.shape[1])
        self._index.add(items)

    def prepare(self, queries: np.ndarray, k: int) -> None:
        self._queries, self._k = queries, k
        faiss.cvar.distance_compute_blas_threshold = (
            _ALWAYS if len(queries) >= _BLAS_FROM else _NEVER
        )

    def search(self) -> np.ndarray:
        return self._index.search(self._queries, self._k)[1]
