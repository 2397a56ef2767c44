# SPDX-License-Identifier: Apache-2.0
"""Synthetic items that look a little like real ones, with attributes.

Unit vectors around cluster centres with a decaying spectrum plus noise,
queries from the same law; attributes independent of the vectors. For timing:
recall on them says little about real data (`glove_50d` has that).
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

_CLUSTERS = 300
_RANK = 24
# Of a coordinate. With these, codes of a bit a dimension find 0.5 (symmetric)
# and 0.65 (asymmetric) of the best 100 of 100,000 items of 128 dimensions.
_CLUSTER_STRENGTH, _NOISE = 0.17, 0.1
# Changes with the law, so that no older file is taken for a newer one.
_VERSION = 2

CATEGORIES = tuple(f"c{i:02d}" for i in range(100))
REGIONS = tuple(f"r{i:02d}" for i in range(20))
PRICES = 10_000

# Pass rate -> categories of CATEGORIES, prices of PRICES that pass.
_PASSING = {
    1.0: (100, 10_000),
    0.5: (80, 6_250),
    0.1: (25, 4_000),
    0.01: (5, 2_000),
    0.001: (1, 1_000),
    1e-4: (1, 100),
    1e-5: (1, 10),
}


def embeddings(
    rows: int, dim: int, num_queries: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Items `[rows, dim]` and queries `[num_queries, dim]`, float32, unit."""
    rng = np.random.default_rng(seed)
    rank = min(_RANK, dim)
    spectrum = (1.0 / np.sqrt(1 + np.arange(rank))).astype(np.float32)
    basis, _ = np.linalg.qr(rng.standard_normal((dim, rank)))
    directions = (basis * spectrum).T.astype(np.float32)
    centres = rng.standard_normal((_CLUSTERS, dim), np.float32)
    centres *= _CLUSTER_STRENGTH

    def draw(count: int) -> np.ndarray:
        out = rng.standard_normal((count, rank), np.float32) @ directions
        out += centres[rng.integers(0, _CLUSTERS, count)]
        out += _NOISE * rng.standard_normal((count, dim), np.float32)
        out /= np.linalg.norm(out, axis=1, keepdims=True)
        return out

    queries = draw(num_queries)
    return draw(rows), queries


@dataclasses.dataclass(frozen=True)
class Items:
    """Items with attributes, and queries.

    Attributes:
        vectors: `[rows, dim]` float32.
        queries: `[256, dim]` float32.
        path: Where `vectors` lie as a .npy file.
        category: `[rows]` uint8, positions in `CATEGORIES`.
        region: `[rows]` uint8, positions in `REGIONS`.
        price: `[rows]` int16, from 0 to `PRICES` - 1.
    """

    vectors: np.ndarray
    queries: np.ndarray
    path: pathlib.Path
    category: np.ndarray
    region: np.ndarray
    price: np.ndarray


def load(rows: int, dim: int, cache: pathlib.Path) -> Items:
    """The items of this size, made once and kept in `cache`."""
    path = cache / f"synthetic_{_VERSION}_{rows}_{dim}.npy"
    queries_path = path.with_suffix(".queries.npy")
    if not (path.exists() and queries_path.exists()):
        cache.mkdir(parents=True, exist_ok=True)
        vectors, queries = embeddings(rows, dim, 256)
        np.save(queries_path, queries)
        # Whole or not at all, should it be interrupted.
        part = path.with_suffix(".part.npy")
        np.save(part, vectors)
        part.rename(path)
    rng = np.random.default_rng(1)
    return Items(
        vectors=np.load(path),
        queries=np.load(queries_path),
        path=path,
        category=rng.integers(0, len(CATEGORIES), rows, np.uint8),
        region=rng.integers(0, len(REGIONS), rows, np.uint8),
        price=rng.integers(0, PRICES, rows, np.int16),
    )


@dataclasses.dataclass(frozen=True)
class Clauses:
    """A filter of two clauses: a set of categories and a range of prices.

    Attributes:
        categories: Positions in `CATEGORIES`.
        low: Least price.
        high: One more than the highest price.
    """

    categories: tuple[int, ...]
    low: int
    high: int

    # Bytes of the columns a row: uint8 and int16.
    COLUMN_BYTES = 3

    @property
    def text(self) -> str:
        """In lintf's filter language."""
        names = ", ".join(f'"{CATEGORIES[c]}"' for c in self.categories)
        if self.low == 0:
            price = f"price < {self.high}"
        else:
            price = f"price >= {self.low}"
        return f"category in [{names}] and {price}"

    def mask(self, columns: Mapping[str, np.ndarray] | Items) -> np.ndarray:
        """`[rows]` bool, by numpy the fast way: a table of the categories."""
        if isinstance(columns, Items):
            columns = {"category": columns.category, "price": columns.price}
        wanted = np.zeros(256, bool)
        wanted[list(self.categories)] = True
        passing = wanted[columns["category"]]
        price = columns["price"]
        if self.low == 0:
            passing &= price < self.high
        else:
            passing &= price >= self.low
        return passing


def clauses(pass_rate: float, count: int, seed: int = 2) -> list[Clauses]:
    """`count` different filters of two clauses, each with this pass rate.

    Raises:
        ValueError: The pass rate is not one of those that there are.
    """
    if pass_rate not in _PASSING:
        raise ValueError(
            f"`pass_rate` must be one of {sorted(_PASSING)}, got {pass_rate}"
        )
    categories, prices = _PASSING[pass_rate]
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        chosen = rng.choice(len(CATEGORIES), categories, replace=False)
        low = PRICES - prices if i % 2 else 0
        high = PRICES if i % 2 else prices
        out.append(Clauses(tuple(sorted(chosen.tolist())), low, high))
    return out
