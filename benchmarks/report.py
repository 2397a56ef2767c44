# SPDX-License-Identifier: Apache-2.0
"""A workload's result as JSON and as Markdown."""

from __future__ import annotations

import json
import pathlib
from typing import Any

# Of a record, what is measured; the rest names the case.
_FIGURES = (
    "engine",
    "is_lintf",
    "cpu_ms",
    "wall_ms",
    "ratio_to_lintf",
    "bytes",
    "read_gb_per_s",
    "read_share",
    "gflop_per_s",
    "fma_share",
    "recall",
    "rounds",
    "unit_ps",
)
# A peer that finds this much less does not do the same work.
_RECALL_SLACK = 0.02


def case_of(record: dict[str, Any]) -> dict[str, Any]:
    """What of a record names its case."""
    return {k: v for k, v in record.items() if k not in _FIGURES}


def write(result: dict[str, Any], folder: pathlib.Path) -> None:
    """Writes `<workload>.json` and `<workload>.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    name = result["workload"]
    text = json.dumps(result, indent=1)
    (folder / f"{name}.json").write_text(text + "\n")
    (folder / f"{name}.md").write_text(markdown(result))


def markdown(result: dict[str, Any]) -> str:
    """Everything a reader wants: the machine, a summary, all records."""
    machine = result["machine"]
    clock = result["clock"]
    lines = [
        f"# {result['title']}",
        "",
        f"{result['rows']:,} x {result['dim']}, "
        f"{result['threads']} thread(s), {clock} time, median of interleaved "
        "rounds.",
        f"{machine['processor']}, {machine['cores']} cores; in the rounds it "
        + " and ".join(
            f"{what} {machine.get(key, 0):.{digits}f} {unit} (best "
            f"{machine.get('best_' + key, 0):.{digits}f})"
            for what, key, digits, unit in (
                ("read", "read_gb_per_s", 1, "GB/s"),
                ("did", "sgemm_gflop_per_s", 0, "GFLOP/s by sgemm"),
            )
        )
        + ".",
    ]
    if "call_ms" in result:
        lines.append(
            "A call of lintf's signature from Python on 64 rows takes "
            f"{result['call_ms']:.2f} ms, a part of all its times."
        )
    lines += [f"Left out: {line}" for line in result["skipped"]]
    if result["quick"]:
        lines.append("A quick run: its times mean nothing.")
    for title, table in (
        ("lintf and its best peer", _summary(result)),
        ("auto against the best fixed algorithm", _cells(result)),
        ("lintf's stores against its float32", _stores(result)),
        ("Codes of 128 bits", _codes(result)),
        ("All engines", _records(result)),
    ):
        if table:
            lines += ["", f"## {title}", "", *table]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{100 * value:g} %" if value <= 1 else f"{value:g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _case_keys(records: list[dict[str, Any]]) -> list[str]:
    keys: list[str] = []
    for record in records:
        keys += [key for key in case_of(record) if key not in keys]
    return keys


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
    """lintf's first engine of each case, and the fastest peer's time.

    A peer counts if its recall is not lower by more than 0.02.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in result["records"]:
        groups.setdefault(json.dumps(case_of(record)), []).append(record)
    out = []
    time = f"{result['clock']}_ms"
    for records in groups.values():
        own = next((r for r in records if r["is_lintf"]), None)
        if own is None:
            continue
        peers = [
            r
            for r in records
            if not r["is_lintf"]
            and r["recall"] >= own["recall"] - _RECALL_SLACK
        ]
        if not peers:
            continue
        best = min(peers, key=lambda r: r["ratio_to_lintf"])
        out.append(
            {
                **case_of(own),
                "engine": own["engine"],
                "ms": own[time],
                "recall": own["recall"],
                "peer": best["engine"],
                "peer_ms": best[time],
                "lintf_to_peer": 1 / best["ratio_to_lintf"],
            }
        )
    return out


def _summary(result: dict[str, Any]) -> list[str]:
    cells = summary(result)
    if not cells:
        return []
    keys = _case_keys(result["records"])
    head = [*keys, "lintf ms", "best peer", "its ms", "lintf / peer"]
    rows = [
        [
            *(_value(cell.get(key, "")) for key in keys),
            _ms(cell["ms"]),
            cell["peer"],
            _ms(cell["peer_ms"]),
            f"{cell['lintf_to_peer']:.2f}",
        ]
        for cell in cells
    ]
    return _table(head, rows)


def _cells(result: dict[str, Any]) -> list[str]:
    if "cells" not in result:
        return []
    rows = [
        [
            cell["store"],
            _value(cell["batch"]),
            _value(cell["pass_rate"]),
            cell["best"],
            f"{cell['auto_to_best']:.2f}",
        ]
        for cell in result["cells"]
    ]
    mean = result["auto_to_best"]
    return [
        f"Geometric mean {mean['geometric_mean']:.3f}, worst cell "
        f"{mean['worst']:.2f}, {mean['cells']} cells.",
        "",
        *_table(["store", "batch", "pass rate", "best", "auto / best"], rows),
    ]


def _stores(result: dict[str, Any]) -> list[str]:
    rows = [
        [_value(cell["batch"]), cell["dtype"], f"{cell['ratio']:.2f}"]
        for cell in result.get("to_float32", ())
    ]
    return _table(["batch", "dtype", "x float32"], rows) if rows else []


def _codes(result: dict[str, Any]) -> list[str]:
    if not result.get("codes"):
        return []
    rows = [
        [
            cell["scoring"],
            _value(cell["rows"]),
            _value(cell["batch"]),
            _ms(cell["cpu_ms"]),
            f"{cell['unit_ps']:.1f}",
        ]
        for cell in result["codes"]
    ]
    head = ["scoring", "rows", "batch", "cpu ms", "ps a row, word and query"]
    return _table(head, rows)


def _records(result: dict[str, Any]) -> list[str]:
    records = result["records"]
    if not records:
        return []
    keys = _case_keys(records)
    clock = result["clock"]
    head = [*keys, "engine", f"{clock} ms", "x lintf", "MB", "GB/s"]
    head += ["% of read", "GFLOP/s", "% of sgemm", "recall", "rounds"]
    units = any("unit_ps" in r for r in records)
    if units:
        head.append("ps a multiply-add")
    rows = []
    for r in records:
        dense = r["gflop_per_s"] > 0
        ratio = r["ratio_to_lintf"]
        row = [_value(r.get(key, "")) for key in keys]
        row += [
            r["engine"],
            _ms(r[f"{clock}_ms"]),
            f"{ratio:.2f}" if ratio is not None else "",
            f"{r['bytes'] / 1e6:.1f}",
            f"{r['read_gb_per_s']:.1f}",
            f"{100 * r['read_share']:.0f}",
            f"{r['gflop_per_s']:.1f}" if dense else "",
            f"{100 * r['fma_share']:.0f}" if dense else "",
            f"{r['recall']:.4f}",
            str(r["rounds"]),
        ]
        if units:
            row.append(f"{r['unit_ps']:.1f}")
        rows.append(row)
    return _table(head, rows)
