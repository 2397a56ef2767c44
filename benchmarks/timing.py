# SPDX-License-Identifier: Apache-2.0
"""Paired timing of several engines on a machine that is not quiet.

Every round calls each engine once, so that what disturbs the machine disturbs
all alike; ratios are taken within a round. CPU time of the whole process is
what counts: wall time on a shared machine measures its neighbours.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Timing:
    """CPU seconds of one engine, a value a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def ratio_to(self, other: Timing) -> float:
        """Median over the rounds of this engine's time by the other's."""
        return statistics.median(
            a / b for a, b in zip(self.seconds, other.seconds, strict=True)
        )


def measure(
    calls: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, Timing]:
    """Times each call once a round, after one round that is thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            elapsed = time.process_time() - start
            if round_:
                seconds[name].append(elapsed)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}
