# SPDX-License-Identifier: Apache-2.0
"""SavedModels of every released index format load and answer as they did."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

import lintf.ops  # noqa: F401  (registers what the models need)
from lintf.index.schema import FORMAT_VERSION

FOLDER = pathlib.Path(__file__).parent.parent / "testdata"
GOLDENS = sorted(FOLDER.glob("format_*"))


def test_the_present_format_has_a_golden():
    assert f"format_{FORMAT_VERSION}" in [g.name for g in GOLDENS]


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda g: g.name)
def test_answers_as_when_it_was_written(golden):
    expected = json.loads((golden / "expected.json").read_text("utf-8"))
    model = tf.saved_model.load(str(golden / "model"))
    answer = model.signatures["retrieve_by_embedding"](
        query_embedding=tf.constant(expected["queries"], tf.float32),
        filter=tf.constant(expected["filters"]),
    )
    ids = [[i.decode() for i in row] for row in answer["ids"].numpy()]
    assert ids == expected["ids"]
    np.testing.assert_array_equal(
        answer["num_results"], expected["num_results"]
    )
