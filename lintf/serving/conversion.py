# SPDX-License-Identifier: Apache-2.0
"""Python values to the arrays that a signature takes, and strings back.

NumPy alone would turn 1.9 into 1 and "7" into 7 without a word, so the kinds
are checked: a value either fits its input or raises a ValueError naming it.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# What an input's NumPy kind may be made from; a bool is no number here.
_SOURCE_KINDS = {"i": "iu", "u": "iu", "f": "iuf", "b": "b"}

# Numbers that are missing come back as this.
_MISSING_INT = np.iinfo(np.int64).min


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """One input of a signature.

    Attributes:
      name: the input's name.
      dtype: of the array; object for strings.
      inner_shape: the shape without the batch dimension; None where a
        dimension is not known.
    """

    name: str
    dtype: np.dtype
    inner_shape: tuple[int | None, ...]

    @classmethod
    def from_tensor_info(cls, name: str, info: Any) -> InputSpec:
        """Makes the spec from a `TensorInfo` of the signature."""
        dims = [dim.size for dim in info.tensor_shape.dim]
        return cls(
            name=name,
            dtype=np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype),
            inner_shape=tuple(None if d < 0 else d for d in dims[1:]),
        )

    def describe(self) -> str:
        """The shape and dtype, for error texts."""
        dims = ", ".join("?" if d is None else str(d) for d in self.inner_shape)
        dtype = "string" if self.dtype == object else self.dtype.name
        return f"[{dims}] {dtype}" if dims else dtype


def _unfit(spec: InputSpec, why: str) -> ValueError:
    return ValueError(
        f"{spec.name!r} must be {spec.describe()} for one query, or have a "
        f"batch dimension before it: {why}"
    )


def _to_bytes(spec: InputSpec, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise _unfit(spec, f"got {value!r}, which is not a string")


def _padding(spec: InputSpec) -> Any:
    """The value of unused slots in a list; None where there is none."""
    if spec.dtype == object:
        return b""
    return -1 if spec.dtype.kind == "i" else None


def _depth(value: Any) -> int:
    """How deep lists are nested, counting arrays' dimensions."""
    if isinstance(value, np.ndarray):
        return value.ndim
    if isinstance(value, (list, tuple)):
        return 1 + max((_depth(v) for v in value), default=0)
    return 0


def _pad(spec: InputSpec, value: Any) -> Any:
    """Completes lists that are shorter than the input's last dimension."""
    length = spec.inner_shape[-1] if spec.inner_shape else None
    padding = _padding(spec)
    if length is None or padding is None:
        return value
    if _depth(value) > 1:
        return [_pad(spec, row) for row in value]
    row = list(value)
    if len(row) > length:
        raise _unfit(
            spec,
            f"got {len(row)} values where {length} fit; leave out the least "
            "important ones",
        )
    return row + [padding] * (length - len(row))


def _as_array(spec: InputSpec, value: Any) -> np.ndarray:
    """Converts the values, whatever their shape."""
    if spec.dtype == object:
        source = np.asarray(value, dtype=object)
        flat = [_to_bytes(spec, v) for v in source.ravel()]
        array = np.empty([len(flat)], dtype=object)
        array[:] = flat
        return array.reshape(source.shape)
    try:
        source = np.asarray(value)
    except ValueError as error:
        raise _unfit(spec, "got rows of different lengths") from error
    if source.size == 0:
        return source.astype(spec.dtype)
    allowed = _SOURCE_KINDS.get(spec.dtype.kind)
    if allowed is not None and source.dtype.kind not in allowed:
        raise _unfit(spec, f"got {value!r} ({source.dtype.name})")
    if spec.dtype.kind in "iu":
        limits = np.iinfo(spec.dtype)
        if source.min() < limits.min or source.max() > limits.max:
            raise _unfit(spec, f"got {value!r}, which is out of range")
    return source.astype(spec.dtype)


def _to_input(spec: InputSpec, value: Any) -> tuple[np.ndarray, bool]:
    """The value with a batch dimension, and whether it came without one."""
    rank = len(spec.inner_shape)
    depth = _depth(value)
    if depth not in (rank, rank + 1):
        raise _unfit(spec, f"got {depth} dimensions")
    if rank and isinstance(value, (list, tuple)):
        value = _pad(spec, value)
    array = _as_array(spec, value)
    single = depth == rank
    if single:
        array = array[np.newaxis]
    if array.ndim != rank + 1 or any(
        expected not in (None, got)
        for expected, got in zip(spec.inner_shape, array.shape[1:], strict=True)
    ):
        raise _unfit(spec, f"got the shape {list(array.shape)}")
    return array, single


def to_batch(
    features: Mapping[str, Any], specs: Mapping[str, InputSpec]
) -> tuple[dict[str, np.ndarray], int | None]:
    """Converts named values to the inputs of a signature.

    Args:
      features: values by name, each with or without a batch dimension. Those
        without are repeated for every row of those with.
      specs: the inputs, all of which must be given.

    Returns:
      Arrays by name, each [batch, ...], and the batch size; None where every
      value came without a batch dimension, in which case it is 1.

    Raises:
      ValueError: a name is unknown or missing, or a value does not fit.
    """
    for name in features:
        if name not in specs:
            near = difflib.get_close_matches(name, specs, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"the model has no feature {name!r}.{hint} It takes "
                f"{', '.join(sorted(specs))}."
            )
    missing = sorted(set(specs) - set(features))
    if missing:
        wanted = ", ".join(f"{n} ({specs[n].describe()})" for n in missing)
        raise ValueError(f"the model also needs the feature(s) {wanted}")
    arrays: dict[str, np.ndarray] = {}
    singles = set()
    batch: int | None = None
    for name, value in features.items():
        arrays[name], single = _to_input(specs[name], value)
        if single:
            singles.add(name)
            continue
        size = len(arrays[name])
        if batch is not None and size != batch:
            raise ValueError(
                f"all features must have one batch size, got {size} rows of "
                f"{name!r} after {batch}"
            )
        batch = size
    if batch is not None:
        for name in singles:
            arrays[name] = np.repeat(arrays[name], batch, axis=0)
    return arrays, batch


def to_filters(filter: str | Sequence[str], batch: int | None) -> list[str]:
    """One filter for each query.

    Args:
      filter: one filter for all, or a sequence with one for each.
      batch: the number of queries; None for a single one, which may be asked
        with several filters.

    Raises:
      ValueError: there are not as many filters as queries.
    """
    if isinstance(filter, str):
        return [filter] * (1 if batch is None else batch)
    filters = list(filter)
    if any(not isinstance(f, str) for f in filters):
        raise ValueError("every filter must be a str")
    if batch is not None and len(filters) != batch:
        raise ValueError(
            f"there must be one filter, or one for each of the {batch} "
            f"queries, got {len(filters)}"
        )
    return filters


def repeat(
    arrays: Mapping[str, np.ndarray], batch: int
) -> dict[str, np.ndarray]:
    """Repeats arrays of batch 1 for every row of a batch."""
    return {n: np.repeat(a, batch, axis=0) for n, a in arrays.items()}


def decode_strings(array: np.ndarray) -> np.ndarray:
    """Turns an object array of bytes into one of str; others stay."""
    if array.dtype != object:
        return array
    decoded = np.empty(array.shape, dtype=object)
    for index, value in np.ndenumerate(array):
        decoded[index] = value.decode(errors="replace")
    return decoded


def plain_attribute(value: Any) -> Any:
    """One item's stored attribute as a Python value.

    Args:
      value: an element of an `attribute_*` output: a str or a number, or an
        array of str for tags.

    Returns:
      The value; None where the item has none. Tags are a list without padding.

    >>> plain_attribute(np.array(["Drama", "War", ""], object))
    ['Drama', 'War']
    >>> plain_attribute(np.int64(1995)), plain_attribute(np.float32("nan"))
    (1995, None)
    """
    if isinstance(value, np.ndarray):
        return [item for item in value.tolist() if item != ""]
    if isinstance(value, str):
        return value or None
    if isinstance(value, np.int8):
        # Booleans, with a third value for a missing one.
        return None if value < 0 else bool(value)
    if isinstance(value, np.int64) and value == _MISSING_INT:
        return None
    if isinstance(value, np.floating) and np.isnan(value):
        return None
    return value.item()
