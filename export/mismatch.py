# SPDX-License-Identifier: Apache-2.0
"""What verification raises."""

from __future__ import annotations


class MismatchError(RuntimeError):
    """The index does not hold, or does not answer, what it must."""


def expect(holds: bool, otherwise: str) -> None:
    """Raises MismatchError unless something holds."""
    if not holds:
        raise MismatchError(otherwise)
