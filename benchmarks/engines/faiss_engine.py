# SPDX-License-Identifier: Apache-2.0
"""FAISS's indexes that scan everything."""

from __future__ import annotations

import copy
from typing import Any

import faiss
import numpy as np

from benchmarks.engines import Engine, Request, Work

# As shipped, FAISS 1.15 takes its slower loop below 1,000 queries of 128
# dimensions; this is the batch from which BLAS won. Below it the loop does.
_BLAS_FROM = 8
_ALWAYS, _NEVER = 1, 1 << 30
# Rows that quantisers are trained on.
_TRAINED_ON = 65_536
# From so many results on, FAISS's heaps are slower than its counting.
_COUNT_FROM = 1_000


def set_threads(threads: int) -> None:
    faiss.omp_set_num_threads(threads)


class FaissEngine(Engine):
    """An index that takes float vectors."""

    def __init__(
        self,
        name: str,
        index: Any,
        items: np.ndarray,
        row_bytes: float,
        exact_dim: int,
        shortlist: int = 0,
    ):
        super().__init__(name, row_bytes, exact_dim)
        self._index = index
        self._shortlist = shortlist
        self._item_bytes = 4 * items.shape[1]
        if not index.is_trained:
            index.train(items[:: max(1, len(items) // _TRAINED_ON)])
        index.add(items)

    def prepare(self, request: Request) -> None:
        self._request = request
        faiss.cvar.distance_compute_blas_threshold = (
            _ALWAYS if request.batch >= _BLAS_FROM else _NEVER
        )
        if self._shortlist:
            self._index.k_factor = self._shortlist / request.k

    def with_shortlist(self, shortlist: int) -> FaissEngine:
        """The same index, rescoring so many rows a query."""
        other = copy.copy(self)
        other._shortlist = shortlist
        return other

    def search(self) -> Any:
        return self._index.search(self._request.queries, self._request.k)[1]

    def bytes(self, work: Work) -> float:
        rescored = work.shortlist * self._item_bytes
        return super().bytes(work) + (rescored if self._shortlist else 0)


def flat(items: np.ndarray) -> FaissEngine:
    """`IndexFlatIP`, with BLAS where it is faster."""
    dim = items.shape[1]
    index = faiss.IndexFlatIP(dim)
    return FaissEngine("FAISS IndexFlatIP", index, items, 4.0 * dim, dim)


def scalar(items: np.ndarray, dtype: str) -> FaissEngine:
    """`IndexScalarQuantizer`: dtype is "bfloat16", "float16" or "int8"."""
    dim = items.shape[1]
    kind, size = {
        "bfloat16": (faiss.ScalarQuantizer.QT_bf16, 2),
        "float16": (faiss.ScalarQuantizer.QT_fp16, 2),
        "int8": (faiss.ScalarQuantizer.QT_8bit, 1),
    }[dtype]
    metric = faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexScalarQuantizer(dim, kind, metric)
    engine = FaissEngine(
        f"FAISS SQ {dtype}", index, items, float(size * dim), dim
    )
    engine.labels = {"dtype": dtype}
    return engine


def fast_scan(items: np.ndarray, bits: int, shortlist: int = 0) -> FaissEngine:
    """`IndexPQFastScan` of 4-bit codes; a shortlist is rescored exactly."""
    dim = items.shape[1]
    index = faiss.IndexPQFastScan(dim, bits // 4, 4, faiss.METRIC_INNER_PRODUCT)
    name = f"FAISS PQFastScan {bits // 4}x4b"
    if shortlist:
        index = faiss.IndexRefineFlat(index)
        name += " + Refine"
    return FaissEngine(name, index, items, bits / 8, 0, shortlist)


def rabitq(items: np.ndarray) -> FaissEngine:
    """`IndexRaBitQFastScan`: a bit a dimension and two factors a row."""
    dim = items.shape[1]
    index = faiss.IndexRaBitQFastScan(dim, faiss.METRIC_INNER_PRODUCT)
    return FaissEngine("FAISS RaBitQFastScan", index, items, dim / 8 + 8, 0)


class FaissSelectorEngine(Engine):
    """`IndexFlatIP` with a selector; the selectors are ready-made.

    A search takes one selector, so that queries with filters of their own are
    searched one by one.
    """

    def __init__(self, flat: FaissEngine, kind: str):
        """`kind` is "Bitmap" or "Array"."""
        super().__init__(
            f"FAISS flat, IDSelector{kind}", flat.row_bytes, flat.exact_dim
        )
        self._index = flat._index
        self._kind = kind

    def prepare(self, request: Request) -> None:
        assert request.masks is not None
        self._request = request
        # The selectors refer to these arrays.
        self._kept: list[np.ndarray] = []
        self._parameters = [
            faiss.SearchParameters(sel=self._selector(mask))
            for mask in request.masks
        ]

    def _selector(self, mask: np.ndarray) -> Any:
        if self._kind == "Bitmap":
            bits = np.packbits(mask, bitorder="little")
            self._kept.append(bits)
            return faiss.IDSelectorBitmap(len(mask), faiss.swig_ptr(bits))
        rows = np.flatnonzero(mask)
        self._kept.append(rows)
        return faiss.IDSelectorArray(len(rows), faiss.swig_ptr(rows))

    def search(self) -> Any:
        queries, k = self._request.queries, self._request.k
        if len(self._parameters) == 1:
            return self._index.search(queries, k, params=self._parameters[0])[1]
        return np.concatenate(
            [
                self._index.search(queries[i : i + 1], k, params=parameters)[1]
                for i, parameters in enumerate(self._parameters)
            ]
        )


class FaissBinaryEngine(Engine):
    """`IndexBinaryFlat` on the signs of the coordinates.

    With a shortlist, numpy rescores it exactly.
    """

    def __init__(self, items: np.ndarray, shortlist: int = 0):
        dim = items.shape[1]
        name = "FAISS IndexBinaryFlat"
        super().__init__(name + " + numpy" * bool(shortlist), dim / 8, 0)
        self._items = items
        self._shortlist = shortlist
        self._index = faiss.IndexBinaryFlat(dim)
        self._index.add(_signs(items))

    def with_shortlist(self, shortlist: int) -> FaissBinaryEngine:
        """The same index, rescoring so many rows a query."""
        other = copy.copy(self)
        other._shortlist = shortlist
        return other

    def prepare(self, request: Request) -> None:
        self._request = request
        self._index.use_heap = request.k < _COUNT_FROM

    def search(self) -> Any:
        request = self._request
        keep = max(self._shortlist, request.k)
        # The signs of the queries are part of the search.
        _, rows = self._index.search(_signs(request.queries), keep)
        if not self._shortlist:
            return rows
        scores = np.matmul(
            self._items[rows], request.queries[:, :, np.newaxis]
        )[..., 0]
        count = scores.shape[1] - request.k
        best = np.argpartition(scores, count, axis=1)[:, count:]
        return np.take_along_axis(rows, best, axis=1)

    def bytes(self, work: Work) -> float:
        rescored = work.shortlist * 4 * self._items.shape[1]
        return super().bytes(work) + (rescored if self._shortlist else 0)


def _signs(vectors: np.ndarray) -> np.ndarray:
    return np.packbits(vectors >= 0, axis=1, bitorder="little")
