# SPDX-License-Identifier: Apache-2.0
"""The examples in the ingester's docstrings."""

import doctest

import pytest

from lintf.ingest import records


@pytest.mark.parametrize("module", [records])
def test_examples(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
