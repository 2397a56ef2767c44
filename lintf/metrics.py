# SPDX-License-Identifier: Apache-2.0
"""Rank metrics for one relevant item a query, in numpy.

A rank is 1 for the best; half ranks stand for ties; infinity stands for an item
that was not retrieved.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Ranks = npt.NDArray[np.float64]


def ranks(scores: npt.ArrayLike, target: npt.NDArray[np.integer]) -> Ranks:
    """Ranks each query's target among all items, a tie counting half.

    The rank is 1 + the number of better items + half the number of other items
    with the same score: what random tie-breaking gives on average, so constant
    scores gain nothing from the items' order.

    Args:
      scores: `[num_queries, num_items]`; -inf for an excluded item.
      target: `[num_queries]` int, the column of the relevant item.

    Returns:
      `[num_queries]` float64.

    Raises:
      ValueError: a score is NaN, or the shapes do not fit.

    Example:
      >>> ranks([[3.0, 1.0, 2.0], [5.0, 5.0, 1.0]], np.array([2, 0]))
      array([2. , 1.5])
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or target.shape != table.shape[:1]:
        raise ValueError(
            "scores must be [num_queries, num_items] and target [num_queries], "
            f"got {table.shape} and {target.shape}"
        )
    if np.isnan(table).any():
        raise ValueError("scores must not be NaN: such items have no rank")
    own = np.take_along_axis(table, target[:, np.newaxis], axis=1)
    better = (table > own).sum(axis=1)
    same = (table == own).sum(axis=1) - 1
    return 1.0 + better + same / 2


def ranks_of_retrieved(
    ids: npt.NDArray[np.generic], target: npt.NDArray[np.generic]
) -> Ranks:
    """Ranks each query's target in a retrieved list, best first.

    Args:
      ids: `[num_queries, k]`.
      target: `[num_queries]`, the id of the relevant item.

    Returns:
      `[num_queries]` float64; infinity where the target is not in the list.

    Example:
      >>> ranks_of_retrieved(np.array([[7, 8], [7, 8]]), np.array([8, 9]))
      array([ 2., inf])
    """
    hits = ids == target[:, np.newaxis]
    first = np.argmax(hits, axis=1) + 1.0
    return np.where(hits.any(axis=1), first, np.inf)


def hit_rate(rank: Ranks, k: int) -> float:
    """HR@k: the share of queries whose target is among the first k.

    Example:
      >>> hit_rate(np.array([1.0, 3.0, np.inf, 2.0]), k=2)
      0.5
    """
    return float(np.mean(rank <= k))


def ndcg(rank: Ranks, k: int) -> float:
    """NDCG@k for one relevant item: the mean of `1 / log2(rank + 1)`.

    Targets beyond k count 0; the ideal gain is 1.

    Example:
      >>> ndcg(np.array([1.0, 3.0, 11.0]), k=10)
      0.5
    """
    return float(np.mean(np.where(rank <= k, 1 / np.log2(rank + 1), 0.0)))


def mean_reciprocal_rank(rank: Ranks) -> float:
    """MRR: the mean of `1 / rank`.

    Example:
      >>> mean_reciprocal_rank(np.array([1.0, 2.0, np.inf]))
      0.5
    """
    return float(np.mean(1 / rank))


def summary(
    rank: Ranks, ks: Iterable[int] = (1, 10, 50, 100)
) -> dict[str, float]:
    """Returns the metrics that lintf's benchmarks report, by name.

    Example:
      >>> summary(np.array([1.0, 4.0]), ks=[1])
      {'HR@1': 0.5, 'NDCG@10': 0.7153..., 'MRR': 0.625}
    """
    return {
        **{f"HR@{k}": hit_rate(rank, k) for k in ks},
        "NDCG@10": ndcg(rank, 10),
        "MRR": mean_reciprocal_rank(rank),
    }
