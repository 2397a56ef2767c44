# SPDX-License-Identifier: Apache-2.0
"""Paired timing of several engines on a machine that is not quiet.

Every round calls each engine once, in an order drawn anew, so that what
disturbs the machine disturbs all alike; ratios are taken within a round. CPU
time is what counts with one thread: wall time on a shared machine measures
its neighbours.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Mapping

from benchmarks.engines import Cost


@dataclasses.dataclass(frozen=True)
class Timing:
    """Costs of one engine, one a round."""

    costs: tuple[Cost, ...]

    def seconds(self, clock: str = "cpu") -> list[float]:
        """A value a round, by the clock "cpu" or "wall"."""
        # A call may be shorter than the clock's step.
        return [max(getattr(cost, clock), 1e-9) for cost in self.costs]

    def median(self, clock: str = "cpu") -> float:
        return statistics.median(self.seconds(clock))

    def ratio_to(self, other: Timing, clock: str = "cpu") -> float:
        """Median over the rounds of this engine's time by the other's."""
        pairs = zip(self.seconds(clock), other.seconds(clock), strict=True)
        return statistics.median(a / b for a, b in pairs)


def measure(
    calls: Mapping[str, Callable[[], Cost]],
    *,
    seconds: float,
    min_rounds: int,
    max_rounds: int,
    pause: float = 0.0,
    seed: int = 0,
) -> dict[str, Timing]:
    """Times each call once a round. Each should have been called before.

    Args:
        calls: Each returns what it cost.
        seconds: No round begins after so many, `min_rounds` aside.
        min_rounds: Least rounds.
        max_rounds: Most rounds.
        pause: Seconds between two calls: threads of one library may go on
            spinning for some time after a call and would slow the next one.
        seed: Of the order of the calls.
    """
    order = list(calls)
    shuffle = random.Random(seed).shuffle
    costs: dict[str, list[Cost]] = {name: [] for name in order}
    start = time.perf_counter()
    for round_ in range(max_rounds):
        if round_ >= min_rounds and time.perf_counter() - start > seconds:
            break
        shuffle(order)
        for name in order:
            if pause:
                time.sleep(pause)
            costs[name].append(calls[name]())
    return {name: Timing(tuple(costs[name])) for name in calls}
