# SPDX-License-Identifier: Apache-2.0
"""Tables of rows for checks, and comparisons of results."""

from __future__ import annotations

import dataclasses

import numpy as np

from tests.gpu import library as lib


@dataclasses.dataclass(frozen=True)
class Items:
    """Rows of one element type, in host memory.

    Attributes:
      data: [rows, dim] as stored; uint16 patterns of bfloat16.
      scales: float32 [rows] for int8.
      exact: float64 [rows, dim], the same numbers.
    """

    element_type: str
    data: np.ndarray
    scales: np.ndarray | None
    exact: np.ndarray


def make_items(
    random: np.random.Generator, element_type: str, rows: int, dim: int
) -> Items:
    """Draws rows, one in eight of them twice: equal scores test the order."""
    values = random.standard_normal([rows, dim]).astype(np.float32)
    twins = random.random(rows) < 0.125
    values[twins] = values[random.integers(0, max(rows, 1), int(twins.sum()))]
    return store_items(values, element_type)


def store_items(values: np.ndarray, element_type: str) -> Items:
    """Stores float32 rows as an element type."""
    if element_type == "float32":
        return Items(element_type, values, None, values.astype(np.float64))
    if element_type == "bfloat16":
        data = lib.to_bfloat16(values)
        exact = lib.from_bfloat16(data).astype(np.float64)
        return Items(element_type, data, None, exact)
    if element_type == "float16":
        data = values.astype(np.float16)
        return Items(element_type, data, None, data.astype(np.float64))
    scales = (np.abs(values).max(axis=1) / 127).astype(np.float32)
    divisors = np.where(scales > 0, scales, 1)[:, None]
    data = np.clip(np.rint(values / divisors), -127, 127).astype(np.int8)
    exact = data.astype(np.float64) * scales[:, None]
    return Items(element_type, data, scales, exact)


def same(what: str, got: np.ndarray, expected: np.ndarray) -> None:
    """Raises an AssertionError that names the first difference."""
    if got.shape != expected.shape:
        raise AssertionError(
            f"{what}: shape {got.shape}, expected {expected.shape}"
        )
    # Bits, so that NaN equals NaN and -0 is not 0.
    width = f"u{got.dtype.itemsize}"
    different = got.view(width) != expected.view(width)
    if not different.any():
        return
    place = tuple(int(i) for i in np.argwhere(different)[0])
    raise AssertionError(
        f"{what}: {int(different.sum())} of {got.size} differ, the first at "
        f"{place}: {got[place]}, expected {expected[place]}"
    )


def same_results(
    what: str, got: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> None:
    """Compares the results of two searches, bit for bit."""
    for name in ("counts", "rows", "scores"):
        same(f"{what}, {name}", got[name], expected[name])


def good_results(
    what: str,
    got: dict[str, np.ndarray],
    scores: np.ndarray,
    passes: np.ndarray,
    tolerance: float,
) -> None:
    """Checks results whose scores may be off by a little.

    Args:
      what: Names the case.
      got: Results of a search.
      scores: float64 [num_queries, rows], exact.
      passes: bool [num_queries, rows].
      tolerance: How far a score may be off.
    """
    k = got["rows"].shape[1]
    for b, (exact, passing) in enumerate(zip(scores, passes, strict=True)):
        count = min(k, int(passing.sum()))
        where = f"{what}, query {b}"
        assert got["counts"][b] == count, (
            f"{where}: {got['counts'][b]} results, expected {count}"
        )
        rows = got["rows"][b]
        assert (rows[count:] == -1).all(), f"{where}: rows past the results"
        assert np.isneginf(got["scores"][b, count:]).all(), (
            f"{where}: scores past the results"
        )
        rows = rows[:count]
        assert len(set(rows.tolist())) == count, f"{where}: a row comes twice"
        assert passing[rows].all(), f"{where}: a row was filtered"
        reported = got["scores"][b, :count].astype(np.float64)
        error = np.abs(reported - exact[rows]).max(initial=0.0)
        assert error <= tolerance, (
            f"{where}: a score is off by {error:.3g}, more than {tolerance:.3g}"
        )
        # Best first; equal scores by lower row.
        after = np.lexsort((rows, -reported))
        assert (after == np.arange(count)).all(), f"{where}: wrong order"
        if count:
            best = np.sort(exact[passing])[::-1][:count]
            missed = (best - np.sort(exact[rows])[::-1]).max()
            assert missed <= 2 * tolerance, (
                f"{where}: a better row was missed by {missed:.3g}"
            )


def exact_scores(queries: np.ndarray, items: Items, metric: str) -> np.ndarray:
    """Returns float64 scores [num_queries, rows]."""
    queries = queries.astype(np.float64)
    products = queries @ items.exact.T
    if metric == "inner_product":
        return products
    return (
        2 * products
        - (queries**2).sum(axis=1)[:, None]
        - (items.exact**2).sum(axis=1)[None, :]
    )
