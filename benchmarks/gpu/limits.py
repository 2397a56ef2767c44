# SPDX-License-Identifier: Apache-2.0
"""The bytes that a search cannot do without."""

from __future__ import annotations

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


def row_bytes(dim: int, element_type: str) -> int:
    """Bytes of one row, its scale included.

    >>> row_bytes(128, "int8")
    132
    """
    scale = 4 if element_type == "int8" else 0
    return dim * ELEMENT_BYTES[element_type] + scale


def scan_bytes(rows: int, dim: int, element_type: str) -> int:
    """Bytes that a search reads without a filter: each row once.

    >>> scan_bytes(1000, 128, "bfloat16")
    256000
    """
    return rows * row_bytes(dim, element_type)


def filtered_bytes(
    rows: int,
    dim: int,
    element_type: str,
    union_rate: float,
    column_bytes: int,
) -> int:
    """Bytes with filters: columns once, and rows that pass for any query.

    >>> filtered_bytes(1000, 128, "float16", 0.1, 2)
    27600
    """
    passing = round(rows * union_rate)
    return rows * column_bytes + passing * row_bytes(dim, element_type)


def union_rate(rate: float, queries: int) -> float:
    """The part of the rows that passes any of some independent filters.

    >>> union_rate(0.5, 2)
    0.75
    """
    return 1 - (1 - rate) ** queries


def code_bytes(rows: int, words: int, keep: int) -> int:
    """Bytes of a scan of codes: each once, and the rows that are kept.

    >>> code_bytes(1000, 2, 10)
    16080
    """
    return rows * words * 8 + keep * 8


def mixture_operations(pairs: int, dim: int, units: int) -> int:
    """Operations of one score by a mixture of logits with a softmax of SiLU.

    A fused multiply-add is one; an exponential with its division counts as 30
    (custom_ops/core/gpu_learned_knn.cu.cc).

    >>> mixture_operations(pairs=32, dim=32, units=128)
    14976
    """
    return pairs * dim + 2 * pairs * units + 30 * (units + 2 * pairs)
