# SPDX-License-Identifier: Apache-2.0
"""One filter of two clauses for the whole batch.

lintf is given text and evaluates it; its peers are given masks in the form
that they take, ready-made, and where so named evaluate them by numpy first.
"""

from __future__ import annotations

from typing import Any

from benchmarks import harness, synthetic
from benchmarks.settings import Settings
from benchmarks.workloads import filtered

PLOTS = ("pass_rate",)


def run(settings: Settings) -> dict[str, Any]:
    """Every pass rate at batches of 1 and 32."""
    out = harness.Run(
        "filters_shared", "One filter of two clauses a batch", settings
    )
    batches, rates = (1, 32), (1.0, 0.5, 0.1, 0.01, 0.001)
    if settings.quick:
        batches, rates = (1, 3), (0.5, 0.01)
    with filtered.Engines(out) as engines:
        for batch in batches:
            for rate in rates:
                own = synthetic.clauses(rate, 1)
                engines.measure(batch, rate, own)
    return out.result()
