# SPDX-License-Identifier: Apache-2.0
"""Plots of the results, by matplotlib, beside the tables.

python -m benchmarks.plots     draws those of the JSON files again
"""

from __future__ import annotations

import importlib
import json
import pathlib
import sys
from typing import Any

from benchmarks.report import case_of

_RESULTS = pathlib.Path(__file__).parent / "results"
_SIZE = (7.5, 4.5)


def draw(
    result: dict[str, Any], names: tuple[str, ...], folder: pathlib.Path
) -> list[pathlib.Path]:
    """Draws the plots called `names`; returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    drawn = []
    for name in names:
        plots = {
            "recall_time": _recall_time,
            "pass_rate": _pass_rate,
            "planner": _planner,
            "growth": _growth,
        }
        figure = plots[name](result) if result["records"] else None
        if figure is None:
            continue
        path = folder / f"{result['workload']}_{name}.png"
        figure.savefig(path, dpi=90, metadata={"Software": None})
        drawn.append(path)
    return drawn


def _axes(result: dict[str, Any], count: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    width, height = _SIZE
    figure = Figure((width * min(count, 2), height * -(-count // 2)))
    axes = figure.subplots(-(-count // 2), min(count, 2), squeeze=False)
    figure.suptitle(
        f"{result['title']}: {result['rows']:,} x {result['dim']}, "
        f"{result['threads']} thread(s)"
    )
    figure.set_layout_engine("constrained")
    for extra in axes.flat[count:]:
        extra.set_visible(False)
    return figure, list(axes.flat)


def _log(axis: Any, set_scale: Any) -> None:
    """A logarithmic axis with plain numbers."""
    set_scale("log")
    axis.set_major_formatter("{x:g}")
    # Between the powers of ten, what there is room for.
    axis.set_minor_formatter(
        lambda x, _: f"{x:g}" if f"{x:e}"[0] in "25" else ""
    )


def _by(records: list[dict[str, Any]], key: str) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for record in records:
        groups.setdefault(record.get(key), []).append(record)
    return groups


def _style(record: dict[str, Any]) -> dict[str, Any]:
    own = record["is_lintf"]
    return {
        "marker": "o" if own else "x",
        "linewidth": 2.0 if own else 1.0,
        "linestyle": "-" if own else "--",
    }


def _recall_time(result: dict[str, Any]) -> Any:
    """Recall against time, a panel a batch and k, a line an engine."""
    time = f"{result['clock']}_ms"
    records = [r for r in result["records"] if not r.get("filter")]
    panels: dict[str, list[Any]] = {}
    for record in records:
        panel = f"batch {record['batch']}, k = {record['k']}"
        panels.setdefault(panel, []).append(record)
    figure, axes = _axes(result, len(panels))
    for axis, (panel, own) in zip(axes, panels.items(), strict=False):
        for engine, points in _by(own, "engine").items():
            points = sorted(points, key=lambda r: r[time])
            axis.plot(
                [r[time] for r in points],
                [r["recall"] for r in points],
                label=engine,
                **_style(points[0]),
            )
        axis.set(title=panel, xlabel=f"{time[:-3]} ms", ylabel="recall")
        _log(axis.xaxis, axis.set_xscale)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return figure


def _pass_rate(result: dict[str, Any]) -> Any:
    """Time against pass rate, a panel a batch."""
    panels = _by(result["records"], "batch")
    figure, axes = _axes(result, len(panels))
    for axis, (batch, own) in zip(axes, panels.items(), strict=False):
        _time_by_rate(axis, own)
        axis.set_title(f"batch {batch}")
    return figure


def _planner(result: dict[str, Any]) -> Any:
    """Time against pass rate, a panel a store and batch."""
    panels: dict[str, list[Any]] = {}
    for record in result["records"]:
        panel = f"{record['store']}, batch {record['batch']}"
        panels.setdefault(panel, []).append(record)
    figure, axes = _axes(result, len(panels))
    for axis, (panel, own) in zip(axes, panels.items(), strict=False):
        _time_by_rate(axis, own)
        axis.set_title(panel)
    return figure


def _time_by_rate(axis: Any, records: list[dict[str, Any]]) -> None:
    for engine, points in _by(records, "engine").items():
        points = sorted(points, key=lambda r: r["pass_rate"])
        axis.plot(
            [100 * r["pass_rate"] for r in points],
            [r["cpu_ms"] for r in points],
            label=engine,
            **_style(points[0]),
        )
    axis.set(xlabel="% of rows that pass", ylabel="CPU ms a batch")
    _log(axis.xaxis, axis.set_xscale)
    _log(axis.yaxis, axis.set_yscale)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


def _growth(result: dict[str, Any]) -> Any:
    """Time a multiply-add, a panel a sweep; by pass rate the time itself."""
    panels = _by(result["records"], "sweep")
    figure, axes = _axes(result, len(panels))
    for axis, (sweep, own) in zip(axes, panels.items(), strict=False):
        lines = {None: own} if sweep == "batch" else _by(own, "batch")
        value, unit = "unit_ps", "ps a multiply-add"
        if sweep == "pass_rate":
            value, unit = "cpu_ms", "CPU ms a batch"
        for batch, points in lines.items():
            points = sorted(points, key=lambda r: r[sweep])
            axis.plot(
                [case_of(r)[sweep] for r in points],
                [r[value] for r in points],
                marker="o",
                label=None if batch is None else f"batch {batch}",
            )
        axis.set(xlabel=sweep, ylabel=unit, title=sweep)
        _log(axis.xaxis, axis.set_xscale)
        _log(axis.yaxis, axis.set_yscale)
        axis.grid(alpha=0.3)
        if sweep != "batch":
            axis.legend(fontsize=7)
    return figure


def main() -> None:
    """Draws the plots of the JSON files in the folder that is given."""
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else _RESULTS
    from benchmarks.workloads import NAMES

    for name in NAMES:
        path = folder / f"{name}.json"
        if path.exists():
            module = importlib.import_module(f"benchmarks.workloads.{name}")
            for drawn in draw(
                json.loads(path.read_text()), module.PLOTS, folder
            ):
                print(drawn)


if __name__ == "__main__":
    main()
