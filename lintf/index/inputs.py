# SPDX-License-Identifier: Apache-2.0
"""Attribute values as requests carry them.

The form is the one in which `lookup` and `retrieve` return them: text for
strings, int64 for numbers and times, with one value that says "missing".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from lintf.index import columns
from lintf.index.schema import Attribute

# Missing numbers and times, and missing booleans.
MISSING_INT = int(np.iinfo(np.int64).min)
MISSING_BOOL = -1


def input_width(attribute: Attribute) -> int | None:
    """Strings a row of a tags attribute's input; None for the other kinds.

    A bit set has room for all known tags and one that stands for the others.
    """
    if attribute.kind != "tags":
        return None
    if attribute.encoding == "bits":
        return len(attribute.vocabulary) + 1
    return attribute.width


def input_spec(attribute: Attribute) -> tf.TensorSpec:
    """The input of an attribute in the signatures that update it."""
    if attribute.kind in ("category", "tags"):
        width = input_width(attribute)
        return tf.TensorSpec(
            [None] if width is None else [None, width], "string"
        )
    dtype = {"float": tf.float32, "bool": tf.int8}.get(attribute.kind, tf.int64)
    return tf.TensorSpec([None], dtype)


def input_values(attribute: Attribute, values: Iterable[Any]) -> np.ndarray:
    """Python values of an attribute as its input takes them.

    Args:
        attribute: The attribute.
        values: `n` values, as `lintf.index.columns.encode` takes them.

    Returns:
        category: `[n]` bytes, b"" where missing. tags: `[n, t]` bytes, padded
        with b"". int, timestamp: `[n]` int64, the lowest where missing.
        float: `[n]` float32, NaN where missing. bool: `[n]` int8 1 or 0, -1
        where missing.

    Raises:
        ValueError: As `encode`.

    >>> input_values(Attribute("year", "int", dtype="int16"), [1995, None])
    array([                1995, -9223372036854775808])
    """
    if attribute.kind == "category":
        texts = list(columns.checked_strings(attribute, values))
        out = np.empty([len(texts)], object)
        out[:] = [
            b"" if columns.is_missing(text) else _utf8(attribute, row, text)
            for row, text in enumerate(texts)
        ]
        return out
    if attribute.kind == "tags":
        return _tag_values(attribute, values)
    column = columns.encode(attribute, values)
    if attribute.kind == "float":
        return column
    missing = column == columns.missing_value(attribute)
    if attribute.kind == "bool":
        return np.where(missing, np.int8(MISSING_BOOL), column)
    return np.where(missing, MISSING_INT, column.astype(np.int64))


def _tag_values(attribute: Attribute, values: Iterable[Any]) -> np.ndarray:
    width = input_width(attribute)
    assert width is not None
    rows = list(columns.checked_tags(attribute, values))
    out = np.full([len(rows), width], b"", object)
    for position, words in enumerate(rows):
        if len(words) > width and attribute.encoding == "bits":
            # All unknown ones share a bit.
            known = [w for w in words if w in attribute.vocabulary]
            unknown = (w for w in words if w not in attribute.vocabulary)
            words = (*known, next(unknown))
        columns.check_width(attribute, position, len(words), width)
        for slot, word in enumerate(words):
            out[position, slot] = _utf8(attribute, position, word)
    return out


def _utf8(attribute: Attribute, position: int, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"attribute {attribute.name!r}, value {position}: expected text "
            f"that UTF-8 can hold, got {text!r}"
        ) from None
