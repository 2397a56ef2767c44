# SPDX-License-Identifier: Apache-2.0
"""Waits for what another thread or process does."""

import time
from collections.abc import Callable

# Generous: test machines are busy, and a deadline that is met costs nothing.
TIMEOUT_S = 90.0


def wait_until(
    probe: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S
) -> None:
    """Calls `probe` until it returns something true.

    Raises:
      AssertionError: the deadline has passed.
    """
    deadline = time.monotonic() + timeout_s
    while not probe():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        # Leaves the processor to what is waited for.
        time.sleep(0.005)
