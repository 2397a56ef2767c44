# SPDX-License-Identifier: Apache-2.0
"""Reading tensor protos: against TensorFlow's own parser."""

import random

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from lintf.serving import tensors

DTYPES = [
    tf.float32,
    tf.float64,
    tf.float16,
    tf.bfloat16,
    tf.int8,
    tf.int16,
    tf.int32,
    tf.int64,
    tf.uint8,
    tf.uint16,
    tf.uint32,
    tf.uint64,
    tf.bool,
    tf.complex64,
    tf.complex128,
]


def _values(dtype, shape, seed):
    rng = np.random.default_rng(seed)
    if dtype == tf.bool:
        return rng.integers(0, 2, shape).astype(bool)
    return rng.integers(0, 100, shape).astype(dtype.as_numpy_dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0,), (2, 0)])
def test_round_trip(dtype, shape):
    values = _values(dtype, shape, seed=len(shape))
    got = tensors.to_array(tensors.to_proto(values))
    assert got.dtype == values.dtype
    np.testing.assert_array_equal(got, values)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("num_values", [0, 1, 2, 6, 8])
def test_typed_fields_as_tensorflow_reads_them(dtype, num_values):
    # Fewer values than elements repeat the last one, more are dropped.
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    for size in (2, 3):
        proto.tensor_shape.dim.add(size=size)
    values = _values(dtype, (num_values,), seed=3)
    field = getattr(proto, tensors._REPEATED_FIELDS[dtype])
    if dtype in (tf.float16, tf.bfloat16):
        field.extend(values.view(np.uint16).tolist())
    elif dtype.is_complex:
        field.extend(values.view(dtype.real_dtype.as_numpy_dtype).tolist())
    else:
        field.extend(values.tolist())
    expected = tf.io.parse_tensor(proto.SerializeToString(), dtype).numpy()
    np.testing.assert_array_equal(tensors.to_array(proto), expected)


def test_strings():
    values = np.array([[b"a", b""], [b"\x00\xff", b"abc" * 100]], object)
    got = tensors.to_array(tensors.to_proto(values))
    assert got.tolist() == values.tolist()


def test_strings_in_tensor_content():
    proto = tensor_pb2.TensorProto(dtype=tf.string.as_datatype_enum)
    proto.tensor_shape.dim.add(size=3)
    long = b"x" * 200
    proto.tensor_content = b"\x02\x00\xc8\x01" + b"ab" + long
    assert tensors.to_array(proto).tolist() == [b"ab", b"", long]
    expected = tf.io.parse_tensor(proto.SerializeToString(), tf.string)
    assert tensors.to_array(proto).tolist() == expected.numpy().tolist()


def _malformed(rng):
    dtype = rng.choice([*DTYPES, tf.string, tf.resource, tf.variant])
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    for _ in range(rng.randrange(4)):
        proto.tensor_shape.dim.add(size=rng.choice([-1, 0, 1, 2, 3, 7]))
    proto.tensor_shape.unknown_rank = rng.random() < 0.1
    if rng.random() < 0.7:
        proto.tensor_content = rng.randbytes(rng.randrange(24))
    if rng.random() < 0.5:
        proto.float_val.extend([1.0, 2.0])
        proto.string_val.extend([b"x"])
        proto.int_val.extend([300, -1])
    return dtype, proto


def test_refuses_what_tensorflow_refuses():
    rng = random.Random(4)
    accepted = 0
    for _ in range(1500):
        dtype, proto = _malformed(rng)
        if dtype in (tf.resource, tf.variant):
            # Handles of another process mean nothing here.
            with pytest.raises(ValueError):
                tensors.to_array(proto)
            continue
        try:
            parsed = tf.io.parse_tensor(proto.SerializeToString(), dtype)
        except tf.errors.InvalidArgumentError:
            with pytest.raises(ValueError):
                tensors.to_array(proto)
            continue
        got = tensors.to_array(proto)
        assert got.shape == tuple(parsed.shape)
        if dtype == tf.string:
            expected = np.asarray(parsed.numpy(), object)
            assert got.tolist() == expected.tolist()
        else:
            # Bytes, because random ones are often NaN.
            assert got.tobytes() == parsed.numpy().tobytes(), proto
        accepted += 1
    assert accepted > 300


def test_small_proto_can_not_ask_for_much_memory():
    proto = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum)
    proto.tensor_shape.dim.add(size=tensors.MAX_FILLED_BYTES // 4 + 1)
    proto.float_val.append(1.0)
    with pytest.raises(ValueError, match="must carry its values"):
        tensors.to_array(proto)
