# SPDX-License-Identifier: Apache-2.0
"""lintf and its peers behind one small interface."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Engine(Protocol):
    """An exact search over fixed items.

    Attributes:
        name: What tables call it.
    """

    name: str

    def prepare(self, queries: np.ndarray, k: int) -> None:
        """Takes the queries `[batch, dim]` of the calls to come."""

    def search(self) -> np.ndarray:
        """Item positions `[batch, k]`, best first."""
