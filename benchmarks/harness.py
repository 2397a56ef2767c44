# SPDX-License-Identifier: Apache-2.0
"""What every workload does: measure engines on a case, keep records."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import machine, synthetic, timing, truth
from benchmarks.engines import Engine, Request, Work
from benchmarks.settings import Settings


class Run:
    """One workload's measurements.

    Attributes:
        settings: What the run was told.
    """

    def __init__(
        self, workload: str, title: str, settings: Settings, clock: str = "cpu"
    ):
        """Starts with no records.

        Args:
            workload: Its name.
            title: What it measures, a line.
            settings: What the run was told.
            clock: Whose ratios count: "cpu" or "wall".
        """
        self.settings = settings
        self._start = time.perf_counter()
        self._probes = machine.probes(settings.quick)
        self._rates: dict[str, list[float]] = {machine.READ: []}
        self._rates[machine.SGEMM] = []
        self._result: dict[str, Any] = {
            "workload": workload,
            "title": title,
            "clock": clock,
            "rows": settings.rows,
            "dim": settings.dim,
            "threads": settings.threads,
            "quick": settings.quick,
            "machine": machine.describe(),
            "skipped": [],
            "records": [],
        }
        self._clock = clock
        self.say(title)

    def say(self, text: str) -> None:
        """A line of progress."""
        seconds = time.perf_counter() - self._start
        name = self._result["workload"]
        print(f"[{name} {seconds:5.0f} s] {text}", file=sys.stderr, flush=True)

    def skip(self, name: str, reason: str) -> None:
        """Notes what is left out, and why."""
        line = f"{name}: {reason}"
        if line not in self._result["skipped"]:
            self._result["skipped"].append(line)
            self.say(f"left out: {line}")

    def measure(
        self,
        engines: Sequence[Engine],
        case: dict[str, Any],
        request: Request,
        right: truth.Truth,
        *,
        shortlist: int = 0,
        column_bytes: int = 0,
        recalls: dict[str, float] | None = None,
    ) -> list[dict[str, Any]]:
        """Times engines on one request and checks what they find.

        Args:
            engines: Those of one case, or of several that differ by their
                labels.
            case: Names the case, in every record.
            request: What they are asked.
            right: What they should find, for all queries or the first few.
            shortlist: Rows a query that engines by codes rescore.
            column_bytes: Bytes a row that the filters read.
            recalls: By engine, from `recalls` on more queries than are
                timed; by default this request's.

        Returns:
            The records, one an engine, which are kept too.
        """
        work = work_of(request, len(right.items), shortlist, column_bytes)
        own = self.recalls(engines, request, right)
        return self.time(engines, case, work, {**own, **(recalls or {})})

    def recalls(
        self, engines: Sequence[Engine], request: Request, right: truth.Truth
    ) -> dict[str, float]:
        """The recall of each engine, by name; all are then prepared."""
        found = {}
        for engine in engines:
            engine.prepare(request)
            rows = engine.rows(engine.search())
            found[engine.name] = right.recall(rows[: len(right.queries)])
        return found

    def time(
        self,
        engines: Sequence[Engine],
        case: dict[str, Any],
        work: Work,
        recalls: dict[str, float],
    ) -> list[dict[str, Any]]:
        """Times engines that have been called; `recalls` is by their names."""
        names = [engine.name for engine in engines]
        assert len(set(names)) == len(names), names
        settings = self.settings
        for probe in self._probes:
            probe.measure()
        times = timing.measure(
            {e.name: e.measure for e in [*engines, *self._probes]},
            seconds=settings.seconds,
            min_rounds=settings.min_rounds,
            max_rounds=settings.max_rounds,
            pause=0.02 if self._clock == "wall" else 0.0,
        )
        for probe in self._probes:
            rates = [
                probe.amount / s for s in times[probe.name].seconds(self._clock)
            ]
            self._rates[probe.name] += rates
        baselines: dict[str, Engine] = {}
        for engine in engines:
            if engine.is_lintf:
                baselines.setdefault(str(engine.labels), engine)
        first = next((e for e in engines if e.is_lintf), None)
        records = []
        for engine in engines:
            base = baselines.get(str(engine.labels), first)
            records.append(
                {
                    "engine": engine.name,
                    "is_lintf": engine.is_lintf,
                    **case,
                    **engine.labels,
                    "recall": recalls[engine.name],
                    **self._figures(engine, work, times, base),
                }
            )
        self._result["records"] += records
        fastest = min(records, key=lambda r: r[f"{self._clock}_ms"])
        labels = ", ".join(f"{k} {v}" for k, v in case.items())
        self.say(
            f"{labels}: {fastest['rounds']} rounds, fastest "
            f"{fastest['engine']} {fastest[f'{self._clock}_ms']:.2f} ms"
        )
        return records

    def _figures(
        self,
        engine: Engine,
        work: Work,
        times: dict[str, timing.Timing],
        base: Engine | None,
    ) -> dict[str, Any]:
        own, clock = times[engine.name], self._clock
        amounts = {
            machine.READ: engine.bytes(work),
            machine.SGEMM: engine.operations(work),
        }
        shares = {}
        for probe in self._probes:
            # Both per second, within a round.
            slower = times[probe.name].ratio_to(own, clock)
            shares[probe.name] = amounts[probe.name] / probe.amount * slower
        seconds = own.median(clock)
        return {
            "cpu_ms": 1e3 * own.median("cpu"),
            "wall_ms": 1e3 * own.median("wall"),
            "ratio_to_lintf": (
                own.ratio_to(times[base.name], clock) if base else None
            ),
            "bytes": amounts[machine.READ],
            "read_gb_per_s": amounts[machine.READ] / seconds / 1e9,
            "read_share": shares[machine.READ],
            "gflop_per_s": amounts[machine.SGEMM] / seconds / 1e9,
            "fma_share": shares[machine.SGEMM],
            "rounds": len(own.costs),
        }

    def time_call(self, engine: Engine, request: Request) -> None:
        """Notes what a call costs on an index that is next to empty.

        Of a time below a millisecond this is a good part; a server's calls
        do not come from Python.
        """
        engine.prepare(request)
        times = sorted(engine.measure().cpu for _ in range(50))
        self.add("call_ms", 1e3 * times[len(times) // 2])

    def add(self, key: str, value: Any) -> None:
        """Puts more into the result."""
        self._result[key] = value

    def result(self) -> dict[str, Any]:
        """All of it, as it is written to JSON."""
        limits = self._result["machine"]
        for name, key in (
            (machine.READ, "read_gb_per_s"),
            (machine.SGEMM, "sgemm_gflop_per_s"),
        ):
            rates = self._rates[name]
            if rates:
                limits[key] = float(np.median(rates)) / 1e9
                limits[f"best_{key}"] = max(rates) / 1e9
        self._result["seconds"] = time.perf_counter() - self._start
        return self._result


def work_of(
    request: Request, rows: int, shortlist: int = 0, column_bytes: int = 0
) -> Work:
    """What a request asks, from its masks."""
    pairs = request.batch * shortlist
    if request.masks is None:
        return Work(rows, rows * request.batch, pairs)
    shared = len(request.masks) == 1
    return Work(
        rows=int(request.masks.any(axis=0).sum()),
        scores=int(request.masks.sum()) * (request.batch if shared else 1),
        shortlist=pairs,
        column_bytes=rows * column_bytes,
    )


class WithPredicate(Engine):
    """An engine that is given no masks but has numpy evaluate the filters."""

    def __init__(self, inner: Engine, items: synthetic.Items):
        super().__init__(
            f"{inner.name}, numpy predicate", inner.row_bytes, inner.exact_dim
        )
        self.labels = inner.labels
        self.reads_columns = True
        self._inner = inner
        self._items = items
        self._clauses: Sequence[synthetic.Clauses] = ()

    def filter_by(self, clauses: Sequence[synthetic.Clauses]) -> None:
        """Takes the filters: one, or one a query."""
        self._clauses = clauses

    def prepare(self, request: Request) -> None:
        self._request = request

    def search(self) -> Any:
        request = self._request
        masks = np.stack([c.mask(self._items) for c in self._clauses])
        self._inner.prepare(
            Request(request.queries, request.k, request.filters, masks)
        )
        return self._inner.search()

    def rows(self, answer: Any) -> np.ndarray:
        return self._inner.rows(answer)


class Masks(Engine):
    """A way to evaluate predicates alone: `evaluate` gives masks."""

    reads_columns = True

    def __init__(self, name: str, evaluate: Any, is_lintf: bool = False):
        super().__init__(name, 0, 0)
        self.is_lintf = is_lintf
        self._evaluate = evaluate

    def prepare(self, request: Request) -> None:
        pass

    def search(self) -> Any:
        return self._evaluate()
