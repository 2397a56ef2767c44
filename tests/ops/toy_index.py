# SPDX-License-Identifier: Apache-2.0
"""An index of a few rows with a column of every type, for the op tests."""

import os

import numpy as np
import tensorflow as tf

from lintf import ops
from lintf.ops import library

# Whether the kernels of GPU ops, run by the CPU, are what is tested.
EMULATED = "emulated" in os.path.basename(library.library_path())

COLUMN_DTYPES = (
    "int8",
    "int16",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
)

# Opcodes and the header of custom_ops/core/filter_program.h.
TRUE, FALSE, RANGE, FLOAT_RANGE, IN_SET, IN_TABLE = 1, 2, 3, 4, 5, 6
BITS_ANY, BITS_ALL, AND, OR, NOT = 7, 8, 16, 17, 18
ID_COLUMN = 0xFFFF


def exact_vectors(rng, shape):
    """Random vectors whose inner products float32 holds without rounding."""
    return (rng.integers(-16, 17, shape) / 8).astype(np.float32)


def program(*instructions, words=0):
    """A program of `(opcode, column, payload...)`, padded to `words`."""
    body = []
    for opcode, column, *payload in instructions:
        body += [opcode | column << 8 | len(payload) << 32, *payload]
    out = [(1 << 32) | (len(body) + 1), *body] if body else [0]
    return np.array(out + [0] * (words - len(out)), np.int64)


class ToyIndex(tf.Module):
    """Variables of an index, their values, and calls with all of them."""

    def __init__(self, rows, capacity, dim, dead=(), seed=0, widths=None):
        super().__init__()
        rng = np.random.default_rng(seed)
        # Distinct ids in no order; what lies past the rows must not matter.
        ids = rng.permutation(10 * capacity)[:capacity].astype(np.int64)
        ids[list(dead)] = -1
        self.id_values = ids
        self.rows = rows
        self.dim = dim
        self.vectors = exact_vectors(rng, (capacity, dim))
        self.column_values = [
            self._column(rng, dtype, capacity, (widths or {}).get(dtype))
            for dtype in COLUMN_DTYPES
        ]
        self.ids = tf.Variable(ids, name="ids")
        self.embeddings = tf.Variable(self.vectors, name="embeddings")
        self.num_rows = tf.Variable(rows, dtype=tf.int64, name="num_rows")
        self.columns = [
            tf.Variable(values, name=f"column_{values.dtype.name}")
            for values in self.column_values
        ]
        self.log_offsets = tf.Variable([-1, 41], dtype=tf.int64, name="log")
        self.resource = ops.IndexResource()

    @property
    def live(self):
        """`[rows]` bool."""
        return self.id_values[: self.rows] != -1

    def column(self, dtype):
        """The position of the column of this dtype."""
        return COLUMN_DTYPES.index(dtype)

    def retrieve(self, queries, programs, **kwargs):
        return ops.retrieve(
            queries,
            programs,
            self.resource,
            self.ids,
            self.embeddings,
            self.num_rows,
            self.columns,
            **kwargs,
        )

    def lookup(self, id, **kwargs):
        return ops.lookup(
            id,
            self.resource,
            self.ids,
            self.embeddings,
            self.num_rows,
            self.columns,
            **kwargs,
        )

    def update(self, id, delete, embedding, values, log=None, **kwargs):
        return ops.update(
            id,
            delete,
            embedding,
            values,
            log,
            self.resource,
            self.ids,
            self.embeddings,
            self.num_rows,
            self.log_offsets,
            self.columns,
            **kwargs,
        )

    def offsets(self):
        return ops.log_offsets(
            self.resource, self.ids, self.num_rows, self.log_offsets
        )

    def mask(self, programs):
        """`[batch, rows]` bool, and the number of rows that pass."""
        found = ops.filter_mask(
            programs, self.resource, self.ids, self.num_rows, self.columns
        )
        bits = np.unpackbits(
            found.bits.numpy().view(np.uint8), axis=1, bitorder="little"
        )
        assert not bits[:, self.rows :].any()
        return bits[:, : self.rows].astype(bool), found.num_passing.numpy()

    def stats(self):
        return ops.index_stats(self.resource, self.ids, self.num_rows)

    @staticmethod
    def _column(rng, dtype, capacity, width):
        shape = (capacity,) if width is None else (capacity, width)
        if dtype == "float32":
            values = rng.integers(-4, 5, shape).astype(np.float32) / 2
            values[rng.random(shape) < 0.1] = np.nan
            return values
        limits = np.iinfo(dtype)
        values = rng.integers(0, 8, shape).astype(dtype)
        values[rng.random(shape) < 0.1] = limits.min
        values[rng.random(shape) < 0.1] = limits.max
        return values
