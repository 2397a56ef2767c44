# SPDX-License-Identifier: Apache-2.0
"""A progress line in the manner of Keras: done, rate, time to go."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_WIDTH = 24
# A log file gets a line now and then, not one a step.
_LOG_INTERVAL_S = 10.0
_TERMINAL_INTERVAL_S = 0.1


class Progress:
    """Shows steps of a known number on one line.

    `12/49 [=====>..................] 98,304/400,000 rows, 31,210 rows/s,
    ETA 9s`
    """

    def __init__(
        self,
        total_steps: int,
        total_rows: int,
        first_row: int = 0,
        stream: TextIO | None = None,
    ) -> None:
        self._steps = total_steps
        self._rows = total_rows
        self._first_row = first_row
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._began = time.monotonic()
        self._shown = -float("inf")

    def update(self, step: int, rows: int) -> float:
        """Shows that `step` steps and `rows` rows are done.

        Returns:
            Rows a second in this run.
        """
        now = time.monotonic()
        elapsed = max(now - self._began, 1e-9)
        rate = (rows - self._first_row) / elapsed
        last = step >= self._steps
        interval = _TERMINAL_INTERVAL_S if self._terminal else _LOG_INTERVAL_S
        if last or now - self._shown >= interval:
            self._shown = now
            self._show(step, rows, rate, elapsed, last)
        return rate

    def _show(
        self, step: int, rows: int, rate: float, elapsed: float, last: bool
    ) -> None:
        filled = _WIDTH * step // max(self._steps, 1)
        bar = "=" * filled + ("" if last else ">")
        bar = bar[:_WIDTH].ljust(_WIDTH, ".")
        if last:
            left = f"{seconds(elapsed)} in all"
        else:
            left = f"ETA {seconds((self._rows - rows) / max(rate, 1e-9))}"
        line = (
            f"{step}/{self._steps} [{bar}] {rows:,}/{self._rows:,} rows, "
            f"{rate:,.0f} rows/s, {left}"
        )
        if self._terminal:
            # Over the last line; blanks cover what was longer.
            line = "\r" + line.ljust(100) + ("\n" if last else "")
        else:
            line += "\n"
        self._stream.write(line)
        self._stream.flush()


def seconds(value: float) -> str:
    """Seconds for people.

    >>> seconds(7.2), seconds(75), seconds(7300)
    ('7s', '1m15s', '2h01m')
    """
    whole = round(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"
