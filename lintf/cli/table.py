# SPDX-License-Identifier: Apache-2.0
"""Plain-text tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(v) for v in value)
    if value is None:
        return ""
    return str(value)


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """Aligned columns, one for each key of the first row.

    Args:
      rows: dicts with the same keys.

    >>> print(render([{"id": 5, "title": "Copycat"}, {"id": 50, "title": ""}]))
    id  title
     5  Copycat
    50
    """
    names = list(rows[0])
    cells = [[_text(row[name]) for name in names] for row in rows]
    lines = [names, *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    # Numbers align at the right.
    right = [
        all(
            isinstance(row[name], (int, float))
            and not isinstance(row[name], bool)
            for row in rows
        )
        for name in names
    ]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )
