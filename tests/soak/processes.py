# SPDX-License-Identifier: Apache-2.0
"""The processes of the soak: started, killed, started again."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

Value = TypeVar("Value")

# Generous: what it waits for takes seconds, on a busy machine minutes.
TIMEOUT_S = 300.0


def wait_until(
    probe: Callable[[], Value], what: str, timeout_s: float = TIMEOUT_S
) -> Value:
    """Calls `probe` until it returns something true, and returns that.

    Raises:
      TimeoutError: the deadline has passed.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not in {timeout_s:.0f} s")
        # Leaves the processor to what is waited for.
        time.sleep(0.05)


class Process:
    """A `lintf` command that may be started many times."""

    def __init__(
        self, name: str, folder: pathlib.Path, arguments: Sequence[str]
    ) -> None:
        """Prepares a command; `start` runs it.

        Args:
          name: of its output file in `folder`.
          folder: where that is.
          arguments: of `lintf`.
        """
        self.output = folder / f"{name}.log"
        self._arguments = [sys.executable, "-m", "lintf.cli", *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it."""
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                self._arguments,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def check(self) -> bool:
        """True; raises RuntimeError if it has ended by itself."""
        assert self._process is not None
        status = self._process.poll()
        if status is not None:
            raise RuntimeError(
                f"{' '.join(self._arguments[2:5])} ended with status {status}:"
                f"\n{self.tail()}"
            )
        return True

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        assert self._process is not None
        self.check()
        self._process.kill()
        self._process.wait()

    def run(self) -> None:
        """Starts it and waits for its end, which must be a good one."""
        self.start()
        self._expect(0)

    def stop(self) -> None:
        """Ends it with SIGTERM, which must be a good end."""
        assert self._process is not None
        self.check()
        self._process.send_signal(signal.SIGTERM)
        self._expect(0)

    def abandon(self) -> None:
        """Makes sure that it does not outlive the soak."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def tail(self) -> str:
        """The end of what it has printed."""
        return self.output.read_text("utf-8", errors="replace")[-3000:]

    def _expect(self, status: int) -> None:
        assert self._process is not None
        found = self._process.wait(TIMEOUT_S)
        if found != status:
            raise RuntimeError(
                f"{' '.join(self._arguments[2:5])} must end with status "
                f"{status}, got {found}:\n{self.tail()}"
            )


class Downtime:
    """When a server was away. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._down = True
        self._until = clock()

    def begin(self) -> None:
        """The server is about to go."""
        with self._lock:
            self._down = True

    def end(self) -> None:
        """The server is back."""
        with self._lock:
            self._down = False
            self._until = self._clock()

    def since(self, moment: float) -> bool:
        """Whether the server has been away at or after a moment."""
        with self._lock:
            return self._down or self._until >= moment
