# SPDX-License-Identifier: Apache-2.0
"""Search by hand in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.engines import Engine, Request


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k greatest of each row, greatest first."""
    count = scores.shape[1]
    if count > k:
        found = np.argpartition(scores, count - k, axis=1)[:, count - k :]
    else:
        found = np.broadcast_to(np.arange(count), scores.shape)
    own = np.take_along_axis(scores, found, axis=1)
    return np.take_along_axis(found, np.argsort(-own, axis=1), axis=1)


class NumpyEngine(Engine):
    """`queries @ items.T`, then `argpartition`."""

    def __init__(self, items: np.ndarray):
        super().__init__("numpy", 4.0 * items.shape[1], items.shape[1])
        self._items = items

    def prepare(self, request: Request) -> None:
        self._request = request

    def search(self) -> Any:
        return _best(self._request.queries @ self._items.T, self._request.k)


class NumpyGatherEngine(Engine):
    """Filtered: takes the rows that pass, then searches those.

    The positions of the passing rows are ready-made.
    """

    def __init__(self, items: np.ndarray):
        super().__init__("numpy gather", 4.0 * items.shape[1], items.shape[1])
        self._items = items

    def prepare(self, request: Request) -> None:
        assert request.masks is not None
        self._request = request
        self._passing = [np.flatnonzero(mask) for mask in request.masks]

    def search(self) -> Any:
        request = self._request
        if len(self._passing) == 1:
            return self._search(self._passing[0], request.queries)
        return np.concatenate(
            [
                self._search(passing, query[np.newaxis])
                for passing, query in zip(
                    self._passing, request.queries, strict=True
                )
            ]
        )

    def _search(self, passing: np.ndarray, queries: np.ndarray) -> np.ndarray:
        k = self._request.k
        found = passing[_best(queries @ self._items[passing].T, k)]
        return np.pad(
            found, ((0, 0), (0, k - found.shape[1])), constant_values=-1
        )
