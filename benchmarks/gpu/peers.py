# SPDX-License-Identifier: Apache-2.0
"""What a user would run instead: torch, and what else is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.gpu.card import Card, TorchCard

Call = Callable[[], Any]


def torch_search(
    queries: Any, items: Any, k: int, passes: Call | None = None
) -> Call:
    """torch's matmul and topk; what does not pass becomes -inf by where.

    Args:
      queries: float32 [num_queries, dim]; rounded to the type of the items.
      items: [rows, dim].
      k: Results of a query.
      passes: Returns bool [num_queries, rows], from the attributes.
    """
    import torch

    rounded = queries.to(items.dtype)

    def call() -> Any:
        scores = rounded @ items.T
        if passes is not None:
            scores = torch.where(passes(), scores, float("-inf"))
        return torch.topk(scores, k, dim=1)

    return call


def cupy_search(queries: Any, items: Any, k: int) -> Call:
    """cupy's matmul and argpartition, then a sort of what is left."""
    cupy = importlib.import_module("cupy")
    queries, items = cupy.from_dlpack(queries), cupy.from_dlpack(items)

    def call() -> Any:
        scores = queries @ items.T
        best = cupy.argpartition(-scores, k, axis=1)[:, :k]
        values = cupy.take_along_axis(scores, best, axis=1)
        return cupy.take_along_axis(best, cupy.argsort(-values, axis=1), axis=1)

    return call


def faiss_search(queries: Any, items: Any, k: int) -> Call:
    """FAISS's brute force on the GPU."""
    faiss = importlib.import_module("faiss")
    # Lets FAISS take torch's arrays.
    importlib.import_module("faiss.contrib.torch_utils")
    resources = faiss.StandardGpuResources()

    def call() -> Any:
        return faiss.knn_gpu(
            resources, queries, items, k, metric=faiss.METRIC_INNER_PRODUCT
        )

    return call


def cuvs_search(queries: Any, items: Any, k: int) -> Call:
    """cuVS's brute force."""
    brute_force = importlib.import_module("cuvs.neighbors.brute_force")
    index = brute_force.build(items, metric="inner_product")
    return lambda: brute_force.search(index, queries, k)


def time_peers(
    card: Card,
    calls: Mapping[str, Callable[[], Call]],
    seconds: float = 0.5,
) -> tuple[dict[str, float], str]:
    """Times what works.

    Args:
      card: Nothing is timed on the emulator.
      calls: Makes the call of each peer.
      seconds: About how long to time each.

    Returns:
      Seconds by name; and what is not there, or failed, in a few words.
    """
    times: dict[str, float] = {}
    missing = []
    if not isinstance(card, TorchCard):
        return times, ""
    for name, make in calls.items():
        try:
            times[name] = card.time(make(), seconds=seconds, max_runs=50).gpu
        except ImportError:
            missing.append(f"{name} is not installed")
        except Exception as error:  # Say, too little memory for the peer.
            text = str(error).splitlines() or [""]
            missing.append(f"{name}: {type(error).__name__} {text[0][:60]}")
    return times, "; ".join(missing)
