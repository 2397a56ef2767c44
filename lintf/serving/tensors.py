# SPDX-License-Identifier: Apache-2.0
"""`TensorProto` to NumPy and back, as strict as TF Serving's own parser.

`tf.make_ndarray` trusts its input: it takes a `tensor_content` of the wrong
length for some dtypes, does not read string tensors stored that way, and
allocates whatever a shape asks for. A server reads protos that anybody made,
so this module checks them, with the rules of `tensorflow::Tensor::FromProto`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

# A proto may state a large shape and carry a single value, which then fills
# the tensor. This bounds what such a proto of a few bytes can make a server
# allocate; tensors whose values are all in the proto are not limited.
MAX_FILLED_BYTES = 256 << 20

# The C++ limit on the rank of a tensor.
_MAX_RANK = 254

_REPEATED_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int32: "int_val",
    tf.int16: "int_val",
    tf.int8: "int_val",
    tf.uint16: "int_val",
    tf.uint8: "int_val",
    tf.int64: "int64_val",
    tf.bool: "bool_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
    tf.string: "string_val",
    tf.float16: "half_val",
    tf.bfloat16: "half_val",
    tf.complex64: "scomplex_val",
    tf.complex128: "dcomplex_val",
}


def _shape(proto: Any) -> tuple[int, ...]:
    """The proto's shape; raises ValueError where no tensor can have it.

    `unknown_rank` is not looked at, as in C++.
    """
    shape = tuple(dim.size for dim in proto.dim)
    if len(shape) > _MAX_RANK:
        raise ValueError(
            f"The rank must be at most {_MAX_RANK}, got {len(shape)}."
        )
    if any(size < 0 for size in shape):
        raise ValueError(f"Dimensions must not be negative, got {shape}.")
    # Zero-sized tensors are judged by their other dimensions too, as NumPy
    # multiplies those when it makes one.
    if math.prod(max(size, 1) for size in shape) >= 1 << 62:
        raise ValueError(f"The shape {shape} has too many elements.")
    return shape


def _read_varint(content: bytes, start: int) -> tuple[int, int]:
    """Reads a base-128 number of 32 bits; returns it and where it ends."""
    value = 0
    for position in range(start, min(start + 5, len(content))):
        byte = content[position]
        value |= (byte & 0x7F) << 7 * (position - start)
        if byte < 0x80:
            return value, position + 1
    raise ValueError("A string length in tensor_content is cut off.")


def _strings_from_content(content: bytes, size: int) -> list[bytes]:
    """Splits a string tensor's content: all lengths first, then the bytes."""
    position = 0
    lengths = []
    for _ in range(size):
        length, position = _read_varint(content, position)
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise ValueError(
            f"tensor_content must hold {position + sum(lengths)} bytes, got "
            f"{len(content)}."
        )
    values = []
    for length in lengths:
        values.append(content[position : position + length])
        position += length
    return values


def _values_of(proto: Any, dtype: tf.DType, numpy_dtype: np.dtype) -> Any:
    """The values in the proto's typed repeated field, as a flat array."""
    field = getattr(proto, _REPEATED_FIELDS[dtype])
    if dtype == tf.string:
        values = np.empty([len(field)], dtype=object)
        values[:] = list(field)
        return values
    if dtype in (tf.float16, tf.bfloat16):
        # The 16 bits of each value travel in the low half of an int32.
        bits = np.asarray(field, dtype=np.int32).astype(np.uint16)
        return bits.view(numpy_dtype)
    if dtype.is_complex:
        parts = np.asarray(field, dtype=dtype.real_dtype.as_numpy_dtype)
        return parts[: len(parts) // 2 * 2].view(numpy_dtype)
    if dtype.is_integer and dtype.size < 4:
        # Values beyond the dtype wrap as they do in C++.
        return np.asarray(field, dtype=np.int64).astype(numpy_dtype)
    return np.asarray(field, dtype=numpy_dtype)


def to_array(proto: Any) -> np.ndarray:
    """Reads a tensor that may be malformed.

    As in C++, fewer values than the shape has elements are completed with the
    last one (with zero where there is none), and values beyond it are dropped.

    Args:
      proto: a `tensorflow.TensorProto`.

    Returns:
      The array; its dtype is object, holding `bytes`, for string tensors. It
      may be read-only.

    Raises:
      ValueError: the proto is not a valid tensor.
    """
    try:
        dtype = tf.as_dtype(proto.dtype)
    except (TypeError, KeyError) as error:
        raise ValueError(f"Unknown dtype number {proto.dtype}.") from error
    if dtype not in _REPEATED_FIELDS:
        raise ValueError(f"Tensors of dtype {dtype.name} are not supported.")
    shape = _shape(proto.tensor_shape)
    size = math.prod(shape)
    numpy_dtype = np.dtype(dtype.as_numpy_dtype)
    if size == 0:
        return np.empty(shape, dtype=numpy_dtype)

    content = proto.tensor_content
    if content:
        if dtype == tf.string:
            # Each string takes a byte at least: bounds the work below.
            if size > len(content):
                raise ValueError(
                    f"tensor_content must hold {size} strings, got "
                    f"{len(content)} bytes."
                )
            strings = np.empty([size], dtype=object)
            strings[:] = _strings_from_content(content, size)
            return strings.reshape(shape)
        expected = size * numpy_dtype.itemsize
        if len(content) != expected:
            raise ValueError(
                f"tensor_content must hold {expected} bytes for the shape "
                f"{shape}, got {len(content)}."
            )
        if dtype == tf.bool and content.translate(None, b"\x00\x01"):
            raise ValueError("Every byte of a bool tensor must be 0 or 1.")
        return np.frombuffer(content, dtype=numpy_dtype).reshape(shape)

    values = _values_of(proto, dtype, numpy_dtype)[:size]
    if len(values) < size:
        if size * numpy_dtype.itemsize > MAX_FILLED_BYTES:
            raise ValueError(
                f"A tensor of shape {shape} must carry its values: only "
                f"{len(values)} of {size} are there."
            )
        if len(values):
            fill = values[-1]
        else:
            fill = b"" if dtype == tf.string else numpy_dtype.type(0)
        completed = np.full([size], fill, dtype=numpy_dtype)
        completed[: len(values)] = values
        values = completed
    return values.reshape(shape)


def to_proto(array: np.ndarray) -> Any:
    """The `tensorflow.TensorProto` of an array; objects are strings."""
    return tf.make_tensor_proto(array)
