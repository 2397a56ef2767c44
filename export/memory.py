# SPDX-License-Identifier: Apache-2.0
"""Whether an index fits into this machine, asked before it is allocated."""

from __future__ import annotations

import pathlib

import numpy as np

from export.errors import JobError
from lintf.index.schema import IndexSchema
from lintf.index.shards import Shards

_MEMINFO = pathlib.Path("/proc/meminfo")
_GB = 10**9
_ID_BYTES = 8
_IN_ONE_PIECE = Shards()
_NUMBER_BYTES = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int8": 1,
    "none": 0,
}


def row_bytes(schema: IndexSchema) -> int:
    """Bytes of one row: its id, embedding, code and attributes.

    >>> row_bytes(IndexSchema(dim=4)), row_bytes(IndexSchema(4, dtype="int8"))
    (24, 16)
    """
    attributes = sum(
        np.dtype(a.dtype).itemsize * a.width for a in schema.attributes
    )
    embedding = _NUMBER_BYTES[schema.dtype] * schema.dim
    scale = 4 if schema.dtype == "int8" else 0
    code = 8 * schema.quantization.words if schema.quantization else 0
    return _ID_BYTES + embedding + scale + code + attributes


def available_bytes() -> int | None:
    """Memory that can be taken without swapping; None if nobody tells."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def check(
    schema: IndexSchema, capacity: int, sharding: Shards = _IN_ONE_PIECE
) -> None:
    """Refuses an index that is larger than the available memory.

    Args:
        schema: Of the index.
        capacity: Items that it is for.
        sharding: How it is divided; shards have some rows more.

    Raises:
        JobError: It is; the message has the sizes.
    """
    rows, available = sharding.rows(capacity), available_bytes()
    needed = rows * row_bytes(schema)
    if available is not None and needed > available:
        what = f"{rows:,} rows"
        if sharding.count > 1:
            what += f" in {sharding.count} shards"
        raise JobError(
            f"index.capacity: {what} of {row_bytes(schema)} bytes "
            f"take {needed / _GB:,.1f} GB, but {available / _GB:,.1f} GB of "
            "memory are available; lower it, or use a larger machine"
        )
