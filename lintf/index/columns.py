# SPDX-License-Identifier: Apache-2.0
"""Attribute values <-> the numbers that columns hold.

Encoding happens in numpy (an index is built from host data); decoding also in
the graph, where retrieved rows come back to the client. The layout is that of
custom_ops/core/filter_schema.h.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lintf.index.schema import (
    FIRST_BIT,
    FIRST_CODE,
    MISSING_CODE,
    OTHER_BIT,
    OTHER_CODE,
    Attribute,
)

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def missing_value(attribute: Attribute) -> Any:
    """What the column of `attribute` holds where an item has no value."""
    if attribute.encoding != "number":
        return np.dtype(attribute.dtype).type(MISSING_CODE)
    if attribute.dtype == "float32":
        return np.float32(np.nan)
    limits = np.iinfo(attribute.dtype)
    value = limits.max if limits.min == 0 else limits.min
    return np.dtype(attribute.dtype).type(value)


def fingerprints(texts: Sequence[str]) -> np.ndarray:
    """64-bit fingerprints of strings, as columns and ids store them.

    FarmHash Fingerprint64, with 0 (missing) and -1 (no item) moved out of the
    way.

    Args:
        texts: `[n]` strings.

    Returns:
        `[n]` int64.

    >>> len(set(fingerprints(["a", "b", "a"]).tolist()))
    2
    """
    return fingerprint_tensor(tf.constant(list(texts), tf.string)).numpy()


def fingerprint_tensor(texts: tf.Tensor) -> tf.Tensor:
    """`fingerprints` in the graph: string `[n]` -> int64 `[n]`."""
    bytes_ = tf.fingerprint(texts, method="farmhash64")
    value = tf.bitcast(bytes_, tf.int64)
    value = tf.where(value == 0, tf.constant(1, tf.int64), value)
    return tf.where(value == -1, tf.constant(-2, tf.int64), value)


def encode(attribute: Attribute, values: Iterable[Any]) -> np.ndarray:
    """Encodes one value an item into the attribute's column.

    Args:
        attribute: The attribute.
        values: `n` values by kind. category: a string. tags: a sequence of
            strings. int: an integer. float: a number. timestamp: seconds
            since 1970 UTC, a `datetime` or an ISO 8601 string. bool: a bool.
            None, "" (strings), an empty sequence (tags) and NaN (numbers) mean
            missing.

    Returns:
        `[n]`, or `[n, width]` if the width is above 1, of the column's dtype.

    Raises:
        ValueError: A value is of the wrong type, out of the column's range, or
            has more tags than the column has room for. The message names the
            attribute and the position.

    >>> encode(Attribute("year", "int", dtype="int16"), [1995, None]).tolist()
    [1995, -32768]
    """
    encoder = {
        "number": _encode_numbers,
        "vocabulary": _encode_codes,
        "hash": _encode_codes,
        "bits": _encode_bits,
    }[attribute.encoding]
    return encoder(attribute, values)


def decode(attribute: Attribute, column: np.ndarray) -> list[Any]:
    """The values that `encode` was given, as far as the column kept them.

    Tags come back sorted and without repeats; values outside the vocabulary
    are lost (category: "", tags: left out); missing is None, for tags [].
    Timestamps come back as seconds.

    Raises:
        ValueError: The attribute is stored as hashes.
    """
    _check_decodable(attribute)
    words = attribute.vocabulary
    if attribute.encoding == "bits":
        return [
            [w for i, w in enumerate(words) if bits >> (i + FIRST_BIT) & 1]
            for bits in (int(b) for b in column)
        ]
    if attribute.encoding == "vocabulary":
        if attribute.kind == "tags":
            rows = np.asarray(column).reshape(len(column), -1).tolist()
            return [
                sorted(words[c - FIRST_CODE] for c in row if c >= FIRST_CODE)
                for row in rows
            ]
        text = [None, "", *words]
        return [text[code] for code in column.tolist()]
    missing = missing_value(attribute)
    convert = bool if attribute.kind == "bool" else lambda v: v
    return [
        None if v == missing or v != v else convert(v) for v in column.tolist()
    ]


def decode_tensor(attribute: Attribute, column: tf.Tensor) -> tf.Tensor:
    """Decodes retrieved column values in the graph, with stock operations.

    Args:
        attribute: The attribute.
        column: `[...]` of the column's dtype, with a further `[width]` axis
            if the width is above 1.

    Returns:
        category: string `[...]`, "" where missing or outside the vocabulary.
        tags: string `[..., t]`, sorted, padded with "". int, timestamp: int64,
        the lowest int64 where missing. float: float32, NaN where missing.
        bool: int8 1 or 0, -1 where missing.

    Raises:
        ValueError: The attribute is stored as hashes.
    """
    _check_decodable(attribute)
    if attribute.encoding == "number":
        return _decode_numbers(attribute, column)
    if attribute.encoding == "bits":
        return _decode_bits(attribute, column)
    codes = tf.cast(column, tf.int64)
    if attribute.kind == "tags":
        if attribute.width == 1:
            codes = codes[..., tf.newaxis]
        # Tags sort by code; unused and unknown slots go last.
        unused = codes < FIRST_CODE
        last = len(attribute.vocabulary) + FIRST_CODE
        codes = tf.where(unused, tf.constant(last, tf.int64), codes)
        codes = tf.sort(codes, axis=-1)
    text = tf.constant(["", "", *attribute.vocabulary, ""])
    return tf.gather(text, codes)


def _check_decodable(attribute: Attribute) -> None:
    if not attribute.decodable:
        raise ValueError(
            f"attribute {attribute.name!r} is stored as hashes, which cannot "
            "be turned back into text; give it a vocabulary to return it"
        )


def _decode_numbers(attribute: Attribute, column: tf.Tensor) -> tf.Tensor:
    if attribute.dtype == "float32":
        return column
    missing = int(missing_value(attribute))
    value = tf.cast(column, tf.int64)
    if attribute.kind == "bool":
        return tf.cast(
            tf.where(value == missing, tf.constant(-1, tf.int64), value),
            tf.int8,
        )
    lowest = tf.constant(np.iinfo(np.int64).min, tf.int64)
    return tf.where(value == missing, lowest, value)


def _decode_bits(attribute: Attribute, column: tf.Tensor) -> tf.Tensor:
    size = len(attribute.vocabulary)
    bits = tf.bitcast(tf.cast(column, tf.uint64), tf.int64)[..., tf.newaxis]
    shifts = tf.range(size, dtype=tf.int64) + FIRST_BIT
    set_ = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, shifts), 1) > 0
    position = tf.where(
        set_, tf.range(size, dtype=tf.int64), tf.constant(size, tf.int64)
    )
    position = tf.sort(position, axis=-1)
    return tf.gather(tf.constant([*attribute.vocabulary, ""]), position)


def _encode_numbers(attribute: Attribute, values: Iterable[Any]) -> np.ndarray:
    fast = _encode_number_array(attribute, values)
    if fast is not None:
        return fast
    missing = missing_value(attribute)
    convert = {
        "int": _to_int,
        "float": _to_float,
        "timestamp": _to_seconds,
        "bool": _to_bool,
    }[attribute.kind]
    out = []
    for position, value in enumerate(values):
        if is_missing(value):
            out.append(missing)
            continue
        try:
            number = convert(value)
        except (TypeError, ValueError):
            raise _bad(attribute, position, value, attribute.kind) from None
        _check_range(attribute, position, number, missing)
        out.append(number)
    return np.array(out, attribute.dtype)


def _encode_number_array(
    attribute: Attribute, values: Iterable[Any]
) -> np.ndarray | None:
    """The quick way for arrays whose dtype says that nothing can be wrong."""
    if not isinstance(values, np.ndarray) or values.ndim != 1:
        return None
    if attribute.kind == "float" and values.dtype.kind in "fiu":
        with np.errstate(over="ignore"):
            out = values.astype(np.float32)
        if np.isinf(out).any():
            return None
        return out
    if attribute.kind in ("int", "timestamp") and values.dtype.kind in "iu":
        limits = np.iinfo(attribute.dtype)
        low, high = limits.min, limits.max
        low, high = (low, high - 1) if low == 0 else (low + 1, high)
        if values.size and (values.min() < low or values.max() > high):
            return None
        return values.astype(attribute.dtype)
    return None


def _check_range(
    attribute: Attribute, position: int, number: Any, missing: Any
) -> None:
    if attribute.dtype == "float32":
        if abs(number) > float(np.finfo(np.float32).max):
            raise _bad(attribute, position, number, "finite float32")
        return
    limits = np.iinfo(attribute.dtype)
    if not limits.min <= number <= limits.max or number == missing:
        raise ValueError(
            f"attribute {attribute.name!r}, value {position}: {number} does "
            f"not fit {attribute.dtype} ({int(missing)} stands for missing); "
            "declare a wider dtype"
        )


def _encode_codes(attribute: Attribute, values: Iterable[Any]) -> np.ndarray:
    rows: list[tuple[str, ...]]
    if attribute.kind == "category":
        rows = [
            () if is_missing(value) else (value,)
            for value in checked_strings(attribute, values)
        ]
    else:
        rows = list(checked_tags(attribute, values))
    out = np.zeros((len(rows), attribute.width), attribute.dtype)
    if attribute.encoding == "hash":
        distinct = sorted({w for row in rows for w in row})
        code_of = dict(zip(distinct, fingerprints(distinct), strict=True))
    else:
        code_of = {
            w: i + FIRST_CODE for i, w in enumerate(attribute.vocabulary)
        }
    for position, row in enumerate(rows):
        check_width(attribute, position, len(row), attribute.width)
        for slot, word in enumerate(row):
            out[position, slot] = code_of.get(word, OTHER_CODE)
    return out[:, 0] if attribute.width == 1 else out


def _encode_bits(attribute: Attribute, values: Iterable[Any]) -> np.ndarray:
    bit_of = {
        w: 1 << (i + FIRST_BIT) for i, w in enumerate(attribute.vocabulary)
    }
    other = 1 << OTHER_BIT
    out = []
    for row in checked_tags(attribute, values):
        bits = 0
        for word in row:
            bits |= bit_of.get(word, other)
        out.append(bits)
    return np.array(out, attribute.dtype)


def checked_strings(
    attribute: Attribute, values: Iterable[Any]
) -> Iterable[Any]:
    """The values of a category as `encode` takes them, bytes as str.

    Raises:
        ValueError: A value is neither a string nor missing.
    """
    for position, value in enumerate(values):
        if isinstance(value, bytes):
            value = value.decode()
        if not is_missing(value) and not isinstance(value, str):
            raise _bad(attribute, position, value, "string")
        yield value


def checked_tags(
    attribute: Attribute, values: Iterable[Any]
) -> Iterable[tuple[str, ...]]:
    """The distinct tags of each value, in the order that they came in.

    Raises:
        ValueError: A value is neither a sequence of strings nor missing.
    """
    for position, value in enumerate(values):
        if value is None or (isinstance(value, float) and value != value):
            yield ()
            continue
        if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
            raise _bad(attribute, position, value, "list of strings")
        words = [w.decode() if isinstance(w, bytes) else w for w in value]
        if any(w is not None and not isinstance(w, str) for w in words):
            raise _bad(attribute, position, value, "list of strings")
        yield tuple(dict.fromkeys(w for w in words if w))


def check_width(
    attribute: Attribute, position: int, count: int, width: int
) -> None:
    """Raises ValueError unless `count` tags fit."""
    if count > width:
        raise ValueError(
            f"attribute {attribute.name!r}, value {position}: {count} tags, "
            f"but the column has room for {width}; declare a larger `width`"
        )


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: None, "", NaN or a masked element."""
    if value is None or value is np.ma.masked:
        return True
    if isinstance(value, str):
        return value == ""
    return bool(isinstance(value, float | np.floating) and value != value)


def _to_int(value: Any) -> int:
    if isinstance(value, bool | np.bool_ | str | bytes):
        raise TypeError
    if isinstance(value, float | np.floating) and not float(value).is_integer():
        raise ValueError
    return int(value)


def _to_float(value: Any) -> float:
    if isinstance(value, bool | np.bool_ | str | bytes):
        raise TypeError
    return float(value)


def _to_bool(value: Any) -> int:
    if not isinstance(value, bool | np.bool_):
        raise TypeError
    return int(value)


def _to_seconds(value: Any) -> int:
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    elif isinstance(value, datetime.date) and not isinstance(
        value, datetime.datetime
    ):
        value = datetime.datetime(value.year, value.month, value.day)
    elif isinstance(value, np.datetime64):
        return int(value.astype("datetime64[s]").astype(np.int64))
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=datetime.timezone.utc)
        return math.floor((value - _EPOCH).total_seconds())
    return _to_int(value)


def _bad(
    attribute: Attribute, position: int, value: Any, expected: str
) -> ValueError:
    return ValueError(
        f"attribute {attribute.name!r}, value {position}: expected a "
        f"{expected} or nothing, got {value!r}"
    )
