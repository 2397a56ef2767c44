# SPDX-License-Identifier: Apache-2.0
"""The workloads, in the order that `make bench` runs them.

Each module has `run(settings)`, which returns a result as `harness.Run` makes
it, and `PLOTS`, the plots that `benchmarks.plots` draws of it.
"""

NAMES = (
    "exact",
    "storage",
    "filters_shared",
    "filters_own",
    "predicate",
    "codes",
    "planner",
    "threads",
    "growth",
    "glove_50d",
)
