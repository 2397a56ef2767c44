# SPDX-License-Identifier: Apache-2.0
"""A picture of each experiment, by matplotlib."""

from __future__ import annotations

import pathlib
from typing import Any


def quality(result: dict[str, Any], path: pathlib.Path) -> None:
    """How much more each model reaches than the inner product."""
    figure, axes = _figure(len(result["compared"]))
    figure.suptitle(
        "MovieLens-100K, served: difference from the inner product, 95 % "
        "over seeds"
    )
    rows = [row for row in result["models"] if row.get("differences")]
    for axis, metric in zip(axes, result["compared"], strict=True):
        for place, row in enumerate(reversed(rows)):
            each = row["differences"][metric]
            low, high = each["seeds"]
            axis.plot([low, high], [place, place], color="tab:blue")
            axis.plot(each["mean"], place, "o", color="tab:blue")
        axis.axvline(0, color="grey", linewidth=1)
        axis.set_yticks(range(len(rows)), [r["model"] for r in reversed(rows)])
        axis.set_title(metric)
        if axis is not axes[0]:
            axis.set_yticklabels([])
    _save(figure, path)


def cold_start(result: dict[str, Any], path: pathlib.Path) -> None:
    """How often new films are found, by how far down the list."""
    figure, (axis,) = _figure(1)
    figure.suptitle("New films found for the users who rated them")
    for row in result["models"]:
        axis.errorbar(
            result["ks"],
            [m for m, _ in row["hit_rate"]],
            [sd for _, sd in row["hit_rate"]],
            marker="o",
            capsize=3,
            label=row["model"],
        )
    axis.set_xlabel("results a query")
    axis.set_ylabel("hit rate")
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)


def cost(result: dict[str, Any], path: pathlib.Path) -> None:
    """CPU time of each search beside the inner product's."""
    figure, (axis,) = _figure(1)
    figure.suptitle(
        f"Mixture of Logits, {result['rows']:,} items: CPU time of a query"
    )
    rows = sorted(result["searches"], key=lambda row: -row["ratio"])
    bars = axis.barh(
        [row["search"].replace("_", " ") for row in rows],
        [row["ratio"] for row in rows],
    )
    axis.bar_label(bars, [f"{row['ratio']:.2f}" for row in rows], padding=3)
    axis.axvline(2, color="grey", linewidth=1, linestyle="--")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    # Between the powers of ten, what there is room for.
    axis.xaxis.set_minor_formatter(
        lambda x, _: f"{x:g}" if f"{x:e}"[0] in "25" else ""
    )
    # Room for the last bar's label.
    axis.margins(x=0.1)
    axis.set_xlabel("times the inner product's")
    _save(figure, path)


def recall(result: dict[str, Any], path: pathlib.Path) -> None:
    """What two-stage searches find of the exact results, by budget."""
    figure, (axis,) = _figure(1)
    figure.suptitle(
        f"{result['model']}: recall@{result['k']} of two-stage searches"
    )
    for row in result["candidates"]:
        axis.plot(
            [budget for budget, _ in row["recall"]],
            [found for _, found in row["recall"]],
            marker="o",
            label=row["candidates"],
        )
    axis.axhline(0.99, color="grey", linewidth=1, linestyle="--")
    axis.set_xlabel("candidates")
    axis.set_ylabel("recall")
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)


def _figure(count: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure((5.5 * count + 2, 4.5))
    axes = figure.subplots(1, count, squeeze=False)[0]
    figure.set_layout_engine("constrained")
    return figure, list(axes)


def _save(figure: Any, path: pathlib.Path) -> None:
    figure.savefig(path, dpi=90, metadata={"Software": None})
