# SPDX-License-Identifier: Apache-2.0
"""Filter programs, built word by word (custom_ops/core/filter_program.h)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_VERSION = 1
_ID_COLUMN = 0xFFFF
_OPCODES = {
    "true": 1,
    "false": 2,
    "range": 3,
    "float_range": 4,
    "in_set": 5,
    "in_table": 6,
    "bits_any": 7,
    "bits_all": 8,
    "and": 16,
    "or": 17,
    "not": 18,
}

Words = list[int]


def _instruction(op: str, column: int, payload: Sequence[int] = ()) -> Words:
    words = [_OPCODES[op] | column << 8 | len(payload) << 32]
    for value in payload:
        # Words are signed.
        words.append(value - (1 << 64) if value >= 1 << 63 else value)
    return words


def in_range(column: int, low: int, high: int) -> Words:
    """low <= value <= high on an integer column."""
    return _instruction("range", column, [low, high])


def in_float_range(column: int, low: float, high: float) -> Words:
    """low <= value <= high on a float column."""
    bits = np.array([low, high], np.float32).view(np.uint32)
    return _instruction("float_range", column, [int(b) for b in bits])


def in_set(column: int, values: Sequence[int]) -> Words:
    """One of `values`, on an integer column other than uint64."""
    return _instruction("in_set", column, sorted(values))


def id_in(values: Sequence[int]) -> Words:
    """The item id is one of `values`."""
    return _instruction("in_set", _ID_COLUMN, sorted(values))


def in_table(column: int, values: Sequence[int]) -> Words:
    """One of `values`, on a uint8 column."""
    table = [0, 0, 0, 0]
    for value in values:
        table[value // 64] |= 1 << value % 64
    return _instruction("in_table", column, table)


def bits_any(column: int, bits: int) -> Words:
    """Shares a bit, on an unsigned column."""
    return _instruction("bits_any", column, [bits])


def bits_all(column: int, bits: int) -> Words:
    """Has all bits, on an unsigned column."""
    return _instruction("bits_all", column, [bits])


def all_of(*parts: Words) -> Words:
    """All of some masks; postfix, so operands come first."""
    return _chain("and", parts)


def any_of(*parts: Words) -> Words:
    """Any of some masks."""
    return _chain("or", parts)


def negated(part: Words) -> Words:
    """All other rows."""
    return [*part, *_instruction("not", 0)]


def _chain(op: str, parts: Sequence[Words]) -> Words:
    if not parts:
        raise ValueError(f"`{op}` needs at least one mask, got none")
    words = list(parts[0])
    for part in parts[1:]:
        words += [*part, *_instruction(op, 0)]
    return words


def pack(bodies: Sequence[Words]) -> np.ndarray:
    """Makes a batch of programs of some bodies; an empty one passes all rows.

    Returns:
      int64 [len(bodies), words]: each begins with its length and the version.
    """
    width = 1 + max((len(body) for body in bodies), default=0)
    programs = np.zeros([len(bodies), width], np.int64)
    for row, body in zip(programs, bodies, strict=True):
        if body:
            row[0] = 1 + len(body) | _VERSION << 32
            row[1 : 1 + len(body)] = body
    return programs
