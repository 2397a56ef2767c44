# SPDX-License-Identifier: Apache-2.0
"""What LANGUAGE.md shows is what happens."""

import pathlib
import re

import pytest
import tensorflow as tf

import lintf
from lintf import ops
from lintf.index.schema import _RESERVED, Attribute, FilterLimits, IndexSchema

PAGE = (
    pathlib.Path(lintf.__file__).parent / "filters" / "LANGUAGE.md"
).read_text()
SCHEMA = IndexSchema(
    dim=1,
    attributes=(
        Attribute("genre", "category", "vocabulary", "uint8", 1, ("War",)),
        Attribute("year", "int"),
    ),
)
ERRORS = re.findall(r"^\| `(.+)` \| (column \d+: .+) \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_errors(text, message):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        ops.compile_filter([text], SCHEMA)
    assert message in error.value.message


def test_there_are_errors():
    assert len(ERRORS) == 6


def test_limits():
    for name in ("max_length", "max_depth", "max_words"):
        row = re.search(rf"\| `{name}` \| ([0-9,]+)", PAGE)
        assert row is not None
        assert int(row.group(1).replace(",", "")) == getattr(
            FilterLimits(), name
        )


def test_reserved_names():
    listed = re.search(r"These names are taken: `([^`]+)`", PAGE)
    assert listed is not None
    assert set(listed.group(1).split()) == set(_RESERVED)
