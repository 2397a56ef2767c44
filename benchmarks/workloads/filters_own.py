# SPDX-License-Identifier: Apache-2.0
"""A filter of two clauses for every query, different for each.

lintf is given texts and evaluates them; its peers are given masks in the form
that they take, ready-made, and where so named evaluate them by numpy first.
"""

from __future__ import annotations

from typing import Any

from benchmarks import harness, synthetic
from benchmarks.settings import Settings
from benchmarks.workloads import filtered

PLOTS = ("pass_rate",)


def run(settings: Settings) -> dict[str, Any]:
    """Every pass rate at a batch of 32."""
    out = harness.Run(
        "filters_own", "A filter of two clauses for each query", settings
    )
    batch, rates = 32, (0.5, 0.1, 0.01)
    if settings.quick:
        batch, rates = 3, (0.5, 0.01)
    with filtered.Engines(out) as engines:
        for rate in rates:
            engines.measure(batch, rate, synthetic.clauses(rate, batch))
    return out.result()
