# SPDX-License-Identifier: Apache-2.0
"""Rows of several strings as one padded array."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

StringArray = npt.NDArray[np.str_]


def pad_strings(rows: Sequence[Sequence[str]]) -> StringArray:
    """Packs rows of strings into an array, padded with "" at the end.

    Args:
      rows: one sequence of strings a row.

    Returns:
      `[len(rows), width]` of `str`; width is that of the longest row, or 1.

    Example:
      >>> pad_strings([["a"], ["b", "c"], []]).tolist()
      [['a', ''], ['b', 'c'], ['', '']]
    """
    width = max([1, *(len(row) for row in rows)])
    padded = [[*row, *[""] * (width - len(row))] for row in rows]
    return np.array(padded, dtype=np.str_).reshape(len(rows), width)


def split_names(text: str | None) -> list[str]:
    """Splits "A, B" into names, dropping repeats and empty parts.

    Example:
      >>> split_names("French, English, French")
      ['French', 'English']
    """
    names = (name.strip() for name in (text or "").split(","))
    return list(dict.fromkeys(name for name in names if name))
