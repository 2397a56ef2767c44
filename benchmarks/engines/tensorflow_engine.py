# SPDX-License-Identifier: Apache-2.0
"""What TensorFlow users write by hand, and what TFRS gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.engines import Engine, Request


class TensorFlowEngine(Engine):
    """`tf.matmul` on a table stored `[dim, rows]`, then `tf.math.top_k`.

    Stored this way because the product is up to twice as fast as with
    `transpose_b` on `[rows, dim]`. Filters are ready-made masks, applied to
    the scores.
    """

    def __init__(self, items: np.ndarray):
        dim = items.shape[1]
        super().__init__("tf.matmul + top_k", 4.0 * dim, dim)
        self._items = tf.Variable(np.ascontiguousarray(items.T))

    def prepare(self, request: Request) -> None:
        queries = tf.constant(request.queries)
        if request.masks is None:

            @tf.function
            def search() -> tf.Tensor:
                scores = tf.matmul(queries, self._items)
                return tf.math.top_k(scores, request.k).indices
        else:
            masks = tf.constant(request.masks)

            @tf.function
            def search() -> tf.Tensor:
                scores = tf.matmul(queries, self._items)
                scores = tf.where(masks, scores, -np.inf)
                best, rows = tf.math.top_k(scores, request.k)
                return tf.where(best > -np.inf, rows, -1)

        self._search = search

    def search(self) -> Any:
        return self._search()

    def rows(self, answer: Any) -> np.ndarray:
        return answer.numpy()


class TfrsEngine(Engine):
    """`tfrs.layers.factorized_top_k.BruteForce`."""

    def __init__(self, items: np.ndarray):
        dim = items.shape[1]
        super().__init__("TFRS BruteForce", 4.0 * dim, dim)
        self._items = tf.constant(items)

    def prepare(self, request: Request) -> None:
        import tensorflow_recommenders as tfrs

        layer = tfrs.layers.factorized_top_k.BruteForce(k=request.k)
        layer.index(self._items)
        queries = tf.constant(request.queries)
        self._search = tf.function(lambda: layer(queries)[1])

    def search(self) -> Any:
        return self._search()

    def rows(self, answer: Any) -> np.ndarray:
        return answer.numpy()
