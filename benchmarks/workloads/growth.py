# SPDX-License-Identifier: Apache-2.0
"""How lintf's time grows with rows, batch, dimensions and pass rate."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
from typing import Any

import numpy as np

from benchmarks import harness, synthetic, truth
from benchmarks.engines import Request
from benchmarks.settings import Settings

PLOTS = ("growth",)
_K = 100
# Queries whose results are checked: a check takes longer than a search.
_CHECKED = 2


def run(settings: Settings) -> dict[str, Any]:
    """Four sweeps from one middle; `unit_ps` is time a multiply-add."""
    settings = dataclasses.replace(settings, seconds=settings.seconds / 4)
    out = harness.Run("growth", "Time by size, float32", settings)
    rows, dim = settings.rows, settings.dim
    sweep = _Sweep(out)
    base = synthetic.load(rows, dim, settings.cache)
    for count in (rows // 10, rows // 3, rows, 3 * rows, 10 * rows):
        if _fits(out, count, dim):
            sweep.add("rows", count, _repeated(base, count), (1, 32))
    batches = [1 << i for i in range(3 if settings.quick else 9)]
    sweep.add("batch", None, base, batches)
    rates = (1.0, 0.5, 0.1, 0.01, 1e-3, 1e-4, 1e-5)
    if settings.quick:
        rates = (1.0, 0.1, 1e-5)
    sweep.add("pass_rate", None, base, (1, 32), rates)
    del base
    dims = (32, 64) if settings.quick else (32, 64, 128, 256, 512, 1024)
    for other in dims:
        # As many numbers in each.
        size = max(64, rows * 64 // other)
        items = synthetic.load(size, other, settings.cache)
        sweep.add("dim", other, items, (1, 32))
    out.add("codes", _codes(out))
    return out.result()


def _codes(out: harness.Run) -> list[dict[str, Any]]:
    """Codes of 128 bits, to more rows than vectors fit the memory."""
    program = out.settings.code_bench
    if not program:
        out.skip("codes", "no --code_bench; `make bench` builds the program")
        return []
    cells = []
    for rows in (10**4,) if out.settings.quick else (10**6, 10**7, 10**8):
        if not _fits(out, rows, 4):
            continue
        for batch in (1, 32):
            # Which of its cells: pass rate 1, this batch, keep 100.
            only = f"{1:9} {batch:5} {_K:9}"
            printed = subprocess.run(
                [program, str(rows), "128", "1", "3", only],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            cells += [c for c in map(_cell, printed.splitlines()) if c]
            for cell in cells:
                cell.setdefault("rows", rows)
        out.say(f"codes of {rows:,} rows")
    return cells


def _cell(line: str) -> dict[str, Any] | None:
    """A line of figures of the program; None for its headings."""
    words = line.split()
    if len(words) != 10 or words[0] not in ("symmetric", "asymmetric"):
        return None
    names = "scoring filter pass_rate batch keep cpu_ms wall_ms unit_ps".split()
    values: list[Any] = [*words[:2], *map(float, words[2:8])]
    cell = dict(zip(names, values, strict=True))
    return {**cell, "batch": int(cell["batch"]), "keep": int(cell["keep"])}


class _Sweep:
    def __init__(self, out: harness.Run):
        self._out = out

    def add(
        self,
        sweep: str,
        value: Any,
        items: synthetic.Items,
        batches: Any,
        rates: tuple[float, ...] = (1.0,),
    ) -> None:
        from benchmarks.engines.lintf_engine import (
            LintfEngine,
            attributes_of,
            make_index,
        )

        filtered = sweep == "pass_rate"
        attributes = attributes_of(items) if filtered else ()
        engine = LintfEngine(make_index(items.vectors, *attributes))
        rows, dim = items.vectors.shape
        k = min(_K, rows)
        for batch in batches:
            batch = min(batch, 3) if self._out.settings.quick else batch
            queries = items.queries[:batch]
            for rate in rates:
                request, masks = Request(queries, k), None
                if filtered:
                    (own,) = synthetic.clauses(rate, 1)
                    masks = own.mask(items)[np.newaxis]
                    texts = (own.text,) * batch
                    request = Request(queries, k, texts, masks)
                by = {"rows": rows, "batch": batch, "dim": dim}
                case = {"sweep": sweep, **by, "pass_rate": rate}
                (record,) = self._out.measure(
                    [engine],
                    case,
                    request,
                    truth.exact(items.vectors, queries[:_CHECKED], k, masks),
                    column_bytes=synthetic.Clauses.COLUMN_BYTES * filtered,
                )
                work = harness.work_of(request, rows)
                adds = max(1, work.scores * dim)
                record["unit_ps"] = 1e9 * record["cpu_ms"] / adds


def _repeated(base: synthetic.Items, rows: int) -> synthetic.Items:
    """The first rows of `base`, or all with their coordinates rotated."""
    vectors = base.vectors[:rows]
    if rows > len(base.vectors):
        parts = -(-rows // len(base.vectors))
        vectors = np.empty((rows, vectors.shape[1]), np.float32)
        for i in range(parts):
            part = vectors[i * len(base.vectors) :][: len(base.vectors)]
            part[:] = np.roll(base.vectors[: len(part)], i, axis=1)
    return dataclasses.replace(base, vectors=vectors)


def _fits(out: harness.Run, rows: int, dim: int) -> bool:
    """Whether the memory that is free holds an index of this size."""
    # The vectors here, the index, and once more while it is allocated.
    need = 3 * 4 * rows * dim
    free = _free_bytes()
    if need <= 0.8 * free:
        return True
    out.skip(
        f"{rows:,} rows",
        f"needs {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free",
    )
    return False


def _free_bytes() -> int:
    info = pathlib.Path("/proc/meminfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
