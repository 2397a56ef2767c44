# SPDX-License-Identifier: Apache-2.0
"""SavedModels of every released index format load and answer as they did."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

import lintf.ops  # noqa: F401  (registers what the models need)
from lintf.index.schema import (
    FORMAT_VERSION,
    SIMILARITY_FORMAT,
    IndexSchema,
)

FOLDER = pathlib.Path(__file__).parent.parent / "testdata"
GOLDENS = sorted(FOLDER.glob("format_*"))


def test_the_present_formats_have_goldens():
    names = [g.name for g in GOLDENS]
    assert f"format_{FORMAT_VERSION}" in names
    assert f"format_{SIMILARITY_FORMAT}" in names


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda g: g.name)
def test_answers_as_when_it_was_written(golden):
    expected = json.loads((golden / "expected.json").read_text("utf-8"))
    model = tf.saved_model.load(str(golden / "model"))
    # Format 1 was written before there were several retrieve signatures.
    answers = expected.get("answers") or {"retrieve_by_embedding": expected}
    for signature, right in answers.items():
        answer = model.signatures[signature](
            query_embedding=tf.constant(expected["queries"], tf.float32),
            filter=tf.constant(expected["filters"]),
        )
        ids = [[i.decode() for i in row] for row in answer["ids"].numpy()]
        assert ids == right["ids"]
        np.testing.assert_array_equal(
            answer["num_results"], right["num_results"]
        )


def test_formats_say_what_they_hold():
    schemas = {}
    for golden in GOLDENS:
        model = tf.saved_model.load(str(golden / "model"))
        stats = model.signatures["index_stats"](
            probe=tf.constant([0], tf.int64)
        )
        text = stats["schema"].numpy()[0]
        schemas[golden.name] = IndexSchema.from_json(text)
        counted = sorted(n for n in stats if n.startswith("searches_"))
        assert len(counted) == (0 if golden.name == "format_1" else 3)
    assert schemas["format_1"].format_version == 1
    assert schemas["format_1"].dtype == "float32"
    assert schemas["format_1"].quantization is None
    assert schemas["format_2"].dtype == "int8"
    assert schemas["format_2"].quantization.bits == 64
    assert schemas["format_2"].similarity is None
    assert schemas["format_3"].similarity.gate_hidden == 4
    assert schemas["format_3"].format_version == 3
