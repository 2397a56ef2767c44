# SPDX-License-Identifier: Apache-2.0
"""Measures the table: python -m benchmarks.gpu.run LIBRARY --out FOLDER."""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
import traceback
from typing import Any

from benchmarks.gpu import report
from benchmarks.gpu.card import HostCard, TorchCard
from benchmarks.gpu.cases import CASES, Bench
from tests.gpu import library as lib


def measure(
    bench: Bench,
    out: pathlib.Path,
    names: list[str],
    deadline: float,
) -> tuple[list[report.Row], dict[str, Any]]:
    """Runs cases; writes the table after each, so that none is lost.

    Args:
      bench: What they share.
      out: Folder of the table.
      names: Of the cases.
      deadline: By time.monotonic(); what comes after is left out.

    Returns:
      The rows, and what they were measured on.
    """
    card = {
        "name": bench.card.name,
        "copy_bandwidth": bench.bandwidth,
        "free_bytes": bench.card.free_bytes(),
        "scale": bench.scale,
    }
    rows: list[report.Row] = []
    for name in names:
        if time.monotonic() > deadline:
            rows.append(report.Row(name, error="no time was left"))
            continue
        begin = time.monotonic()
        try:
            rows += CASES[name](bench)
        except Exception as error:
            traceback.print_exc()
            rows.append(
                report.Row(name, error=f"{type(error).__name__}: {error}")
            )
        bench.library.release()
        report.write(out, rows, card)
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
    return rows, card


def main(arguments: list[str]) -> int:
    """Measures; returns 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--emulator", action="store_true")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--limit", type=float, default=180, help="seconds")
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + options.limit
    card = HostCard() if options.emulator else TorchCard()
    bench = Bench(
        card, lib.Library(options.library, card.device), options.scale
    )
    rows, about = measure(bench, options.out, options.cases, deadline)
    print(report.markdown(rows, about))
    return 1 if any(row.error for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
