# SPDX-License-Identifier: Apache-2.0
"""Runs compiled filters with stock TensorFlow operations.

The same programs as custom_ops/core/filter_program.h describes, interpreted by
a `tf.while_loop`, for servers that cannot load lintf's operations. Much slower
(every predicate is a pass over a whole column), and independent of the C++
code, so the tests use it as a second opinion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

# custom_ops/core/filter_program.h
_TRUE, _FALSE, _RANGE, _FLOAT_RANGE = 1, 2, 3, 4
_IN_SET, _IN_TABLE, _BITS_ANY, _BITS_ALL = 5, 6, 7, 8
_AND, _OR, _NOT = 16, 17, 18
_MAX_STACK = 64
_ID_COLUMN = 0xFFFF


def filter_masks(
    programs: tf.Tensor, columns: Sequence[tf.Tensor], ids: tf.Tensor
) -> tf.Tensor:
    """Which rows each program lets through.

    Args:
        programs: `[B, L]` int64, as `lintf.ops.compile_filter` makes them; a
            program of zeros passes every row.
        columns: The attribute columns in schema order, each `[n]` or
            `[n, width]`.
        ids: `[n]` int64.

    Returns:
        `[B, n]` bool.

    Raises:
        tf.errors.InvalidArgumentError: A program is malformed.
    """
    return tf.map_fn(
        lambda program: _filter_mask(program, columns, ids),
        programs,
        fn_output_signature=tf.TensorSpec([None], tf.bool),
    )


def _filter_mask(
    program: tf.Tensor, columns: Sequence[tf.Tensor], ids: tf.Tensor
) -> tf.Tensor:
    num_rows = tf.shape(ids, tf.int64)[0]
    num_words = tf.bitwise.bitwise_and(program[0], 0xFFFFFFFF)
    length = tf.shape(program, tf.int64)[0]
    tf.debugging.Assert(
        (num_words >= 0) & (num_words <= length),
        ["a filter program claims more words than it has:", num_words],
    )
    stack = tf.TensorArray(
        tf.bool,
        size=_MAX_STACK,
        clear_after_read=False,
        element_shape=[None],
    )
    # An empty program leaves what lies here: everything passes.
    stack = stack.write(0, tf.ones([num_rows], tf.bool))

    def step(
        position: tf.Tensor, depth: tf.Tensor, stack: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray]:
        header = program[position]
        op = tf.cast(tf.bitwise.bitwise_and(header, 0xFF), tf.int32)
        column = tf.cast(
            tf.bitwise.bitwise_and(tf.bitwise.right_shift(header, 8), 0xFFFF),
            tf.int32,
        )
        count = tf.bitwise.right_shift(header, 32)
        end = position + 1 + count
        pops = tf.where(
            (op == _AND) | (op == _OR), 2, tf.where(op == _NOT, 1, 0)
        )
        tf.debugging.Assert(
            (count >= 0)
            & (end <= num_words)
            & (depth >= pops)
            & (depth - pops < _MAX_STACK),
            ["malformed filter program at word", position],
        )
        payload = program[position + 1 : end]
        top = stack.read(tf.maximum(depth - 1, 0))
        below = stack.read(tf.maximum(depth - 2, 0))
        branches: dict[int, Callable[[], tf.Tensor]] = {
            _AND: lambda: top & below,
            _OR: lambda: top | below,
            _NOT: lambda: ~top,
            _TRUE: lambda: tf.ones([num_rows], tf.bool),
            _FALSE: lambda: tf.zeros([num_rows], tf.bool),
        }
        leaf = lambda: _leaf(op, column, payload, columns, ids)  # noqa: E731
        result = _switch(op, branches, leaf)
        depth = depth - pops + 1
        return end, depth, stack.write(depth - 1, result)

    _, _, stack = tf.while_loop(
        lambda position, *_: position < num_words,
        step,
        (tf.constant(1, tf.int64), tf.constant(0), stack),
        parallel_iterations=1,
    )
    return stack.read(0)


def _leaf(
    op: tf.Tensor,
    column: tf.Tensor,
    payload: tf.Tensor,
    columns: Sequence[tf.Tensor],
    ids: tf.Tensor,
) -> tf.Tensor:
    all_columns = [*columns, ids]
    index = tf.where(column == _ID_COLUMN, len(columns), column)
    tf.debugging.Assert(
        index < len(all_columns), ["a filter program reads column", column]
    )
    return tf.switch_case(
        index,
        [
            lambda values=values: _column_leaf(op, payload, values)
            for values in all_columns
        ],
    )


def _column_leaf(
    op: tf.Tensor, payload: tf.Tensor, values: tf.Tensor
) -> tf.Tensor:
    if values.dtype == tf.float32:
        bounds = _float_keys(tf.bitcast(payload, tf.int32)[:, 0])
        keys = _float_keys(tf.bitcast(values, tf.int32))
        branches = {
            _FLOAT_RANGE: lambda: (keys >= bounds[0]) & (keys <= bounds[1])
        }
    else:
        if values.dtype == tf.uint64:
            numbers = tf.bitcast(values, tf.int64)
        else:
            numbers = tf.cast(values, tf.int64)
        branches = {
            _RANGE: lambda: (numbers >= payload[0]) & (numbers <= payload[1]),
            _IN_SET: lambda: _in_set(numbers, payload),
            _IN_TABLE: lambda: _in_table(numbers, payload),
            _BITS_ANY: lambda: tf.bitwise.bitwise_and(numbers, payload[0]) != 0,
            _BITS_ALL: lambda: (
                tf.bitwise.bitwise_and(numbers, payload[0]) == payload[0]
            ),
        }

    def unknown() -> tf.Tensor:
        tf.debugging.Assert(False, ["malformed filter program: operation", op])
        return tf.zeros_like(values, tf.bool)

    matches = _switch(op, branches, unknown)
    return tf.reduce_any(matches, axis=1) if values.shape.rank == 2 else matches


def _float_keys(bits: tf.Tensor) -> tf.Tensor:
    """Integers that order as the floats with these bits; -0 equals 0.

    TensorFlow's threads take denormal floats for 0, and a filter like x > 0
    begins at the smallest of them.
    """
    keys = tf.where(bits < 0, tf.bitwise.bitwise_xor(bits, 0x7FFFFFFF), bits)
    return tf.where(keys == -1, 0, keys)


def _switch(
    op: tf.Tensor,
    branches: dict[int, Callable[[], tf.Tensor]],
    default: Callable[[], tf.Tensor],
) -> tf.Tensor:
    """`tf.switch_case` for keys that are not contiguous.

    Every branch is traced, so each comes once, whatever the gaps.
    """
    choice = tf.constant(len(branches))
    for position, key in enumerate(branches):
        choice = tf.where(op == key, position, choice)
    return tf.switch_case(choice, [*branches.values(), default])


def _in_set(numbers: tf.Tensor, ascending: tf.Tensor) -> tf.Tensor:
    flat = tf.reshape(numbers, [-1])
    place = tf.searchsorted(ascending, flat)
    last = tf.shape(ascending)[0] - 1
    found = tf.gather(ascending, tf.minimum(place, last)) == flat
    return tf.reshape(found, tf.shape(numbers))


def _in_table(numbers: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    word = tf.gather(table, tf.bitwise.right_shift(numbers, 6))
    shift = tf.bitwise.bitwise_and(numbers, 63)
    return tf.bitwise.bitwise_and(tf.bitwise.right_shift(word, shift), 1) == 1
