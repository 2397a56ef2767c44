# SPDX-License-Identifier: Apache-2.0
"""Means over seeds, and paired differences with their intervals."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Two-sided 95 % points of Student's t, by degrees of freedom.
_T_95 = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
}


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much more one model reaches than another.

    Attributes:
        mean: Over users and seeds.
        seeds: 95 % interval over the seeds of the training (Student's t), the
            users fixed.
        users: 95 % interval over users (bootstrap), each user's difference
            averaged over the seeds: what other users would have given.
    """

    mean: float
    seeds: tuple[float, float]
    users: tuple[float, float]

    @property
    def is_positive(self) -> bool:
        """Whether both intervals lie above 0."""
        return min(self.seeds[0], self.users[0]) > 0


def difference(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]
) -> Difference:
    """The paired difference of two models.

    Args:
        ours: For each seed, `[num_users]` the metric of every user.
        theirs: The same of the other model: seed by seed the same users, and
            the same random start where the models share weights.

    Raises:
        ValueError: There are not as many seeds, or fewer than two.

    >>> a = [np.array([1.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0])]
    >>> b = [np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])]
    >>> round(difference(a, b).mean, 3)
    0.5
    """
    if len(ours) != len(theirs) or len(ours) < 2:
        raise ValueError(
            "a paired difference needs the same seeds of both models, at "
            f"least two, got {len(ours)} and {len(theirs)}"
        )
    each = np.stack(ours) - np.stack(theirs)
    by_seed = each.mean(axis=1)
    half = t_95(len(ours) - 1) * float(by_seed.std(ddof=1))
    half /= math.sqrt(len(ours))
    mean = float(by_seed.mean())
    by_user = each.mean(axis=0)
    random = np.random.default_rng(0)
    picks = random.integers(0, len(by_user), (2_000, len(by_user)))
    low, high = np.percentile(by_user[picks].mean(axis=1), [2.5, 97.5])
    return Difference(
        mean, (mean - half, mean + half), (float(low), float(high))
    )


def tables(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[str]:
    """Models and their differences from the inner product, as Markdown lines.

    Args:
        rows: With `what`, `metrics`: mean and deviation by metric, and, but
            for the inner product, `differences`: a `Difference` as a dict.
        names: Of the metrics.
    """
    lines = _head(names)
    for row in rows:
        cells = [
            f"{mean:.3f} ({sd:.3f})"
            for mean, sd in (row["metrics"][name] for name in names)
        ]
        lines.append(f"| {row['what']} | " + " | ".join(cells) + " |")
    return [*lines, "", *_differences(rows, names)]


def _head(names: Sequence[str]) -> list[str]:
    return [
        "| model | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]


def _differences(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[str]:
    rows = [row for row in rows if row.get("differences")]
    if not rows:
        return []
    lines = [
        "Difference from the inner product, the same seeds: mean, 95 % "
        "interval over seeds (Student's t) and, in brackets, over users "
        "(bootstrap).",
        "",
        *_head(names),
    ]
    for row in rows:
        cells = [
            f"{each['mean']:+.3f}, {each['seeds'][0]:+.3f} to "
            f"{each['seeds'][1]:+.3f} ({each['users'][0]:+.3f} to "
            f"{each['users'][1]:+.3f})"
            for each in (row["differences"][name] for name in names)
        ]
        lines.append(f"| {row['what']} | " + " | ".join(cells) + " |")
    return lines


def t_95(degrees: int) -> float:
    """The two-sided 95 % point of Student's t.

    >>> t_95(4)
    2.776
    """
    if degrees not in _T_95:
        raise ValueError(
            f"there must be 2 to {max(_T_95) + 1} seeds, got {degrees + 1}"
        )
    return _T_95[degrees]


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the standard deviation, 0 for a single value."""
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.mean(values), sd
