# SPDX-License-Identifier: Apache-2.0
"""Runs the examples in the docstrings of `lintf.ops`."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "filters",
        "index",
        "knn",
        "lookup",
        "retrieve",
        "retrieve_similar",
        "update_check",
    ],
)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(f"lintf.ops.{name}"))
    assert result.attempted > 0 and result.failed == 0
