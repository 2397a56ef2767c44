# SPDX-License-Identifier: Apache-2.0
"""The progress line."""

import io

from export.progress import Progress, seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_lines():
    stream = io.StringIO()
    progress = Progress(2, 20, stream=stream)
    progress.update(1, 10)
    progress.update(2, 20)
    first, last = stream.getvalue().splitlines()
    assert first.startswith("1/2 [============>...........] 10/20 rows, ")
    assert "rows/s, ETA " in first
    assert last.startswith("2/2 [========================] 20/20 rows, ")
    assert last.endswith(" in all")


def test_a_terminal_gets_one_line():
    stream = Terminal()
    progress = Progress(1, 5, stream=stream)
    progress.update(1, 5)
    assert stream.getvalue().startswith("\r1/1 [")
    assert stream.getvalue().endswith("\n")


def test_rate_counts_this_run_alone():
    progress = Progress(10, 100, first_row=90, stream=io.StringIO())
    elapsed_bound = progress.update(10, 100)
    assert elapsed_bound > 0
    assert Progress(1, 5, first_row=5, stream=io.StringIO()).update(1, 5) == 0


def test_seconds():
    assert [seconds(s) for s in (0, 59.4, 60, 3599, 3600)] == [
        "0s",
        "59s",
        "1m00s",
        "59m59s",
        "1h00m",
    ]
