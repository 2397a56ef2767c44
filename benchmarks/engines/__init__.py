# SPDX-License-Identifier: Apache-2.0
"""lintf and its peers behind one small interface.

No import of a numeric library but numpy's here: an engine may run in a Python
that has nothing else (`benchmarks.engines.remote`).
"""

from __future__ import annotations

import abc
import dataclasses
import time
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Request:
    """A batch of queries, in every form that an engine may take it.

    Attributes:
        queries: `[batch, dim]` float32.
        k: Results a query.
        filters: Text of each query's filter, "" for none; what lintf gets.
        masks: `[1, rows]` (shared) or `[batch, rows]` bool, the same filters
            evaluated; what peers get. None without a filter.
    """

    queries: np.ndarray
    k: int
    filters: tuple[str, ...] = ()
    masks: np.ndarray | None = None

    @property
    def batch(self) -> int:
        return len(self.queries)

    @property
    def texts(self) -> tuple[str, ...]:
        return self.filters or ("",) * self.batch


@dataclasses.dataclass(frozen=True)
class Work:
    """What a request asks of any engine, whatever its method.

    Attributes:
        rows: Rows that pass for at least one query.
        scores: Pairs of a query and a row that passes for it.
        shortlist: Pairs that are scored a second time, exactly.
        column_bytes: Bytes of the attributes that the filters read.
    """

    rows: int
    scores: int
    shortlist: int = 0
    column_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds of one call: of processor time, and on the clock."""

    cpu: float
    wall: float


class Engine(abc.ABC):
    """A search over fixed items.

    Attributes:
        name: What tables call it.
        is_lintf: Ratios are to the first engine of a case that is lintf's.
        labels: What of the case is fixed by the engine, such as its dtype.
        row_bytes: Bytes that it stores a row, the part that a scan reads.
        exact_dim: Multiply-adds a score; 0 for codes.
        reads_columns: Whether it evaluates filters itself.
    """

    name: str
    is_lintf = False
    labels: dict[str, Any]
    row_bytes: float
    exact_dim: int
    reads_columns = False

    def __init__(self, name: str, row_bytes: float, exact_dim: int):
        self.name = name
        self.labels = {}
        self.row_bytes = row_bytes
        self.exact_dim = exact_dim

    @abc.abstractmethod
    def prepare(self, request: Request) -> None:
        """Takes the request of the calls to come; its time does not count."""

    @abc.abstractmethod
    def search(self) -> Any:
        """Answers the request; what comes back, `rows` understands."""

    def rows(self, answer: Any) -> np.ndarray:
        """`[batch, k]` rows of an answer, in any order, -1 in unused slots."""
        return np.asarray(answer)

    def measure(self) -> Cost:
        """The cost of one call in this process."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.search()
        cpu = time.process_time() - cpu
        return Cost(cpu, time.perf_counter() - wall)

    def bytes(self, work: Work) -> float:
        """Least bytes that its kind of store must be read of."""
        columns = work.column_bytes if self.reads_columns else 0
        return float(work.rows * self.row_bytes + columns)

    def operations(self, work: Work) -> float:
        """Floating-point operations of the scores; 0: it has no such."""
        return 2.0 * self.exact_dim * work.scores

    def close(self) -> None:  # noqa: B027
        """Ends what runs elsewhere, if anything does."""
