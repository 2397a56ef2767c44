# SPDX-License-Identifier: Apache-2.0
"""A SavedModel leaves it to whoever loads it where its variables lie."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from lintf.index.index import Index
from lintf.index.schema import IndexSchema, infer_attribute
from lintf.index.served import ServedIndex

# Types of variables that TensorFlow keeps off GPUs, and with them every
# operation on an index.
ON_CPU_ALONE = {tf.int32, tf.string}


def _saved(path):
    schema = IndexSchema(
        dim=3,
        id_dtype="string",
        attributes=(
            infer_attribute("genre", "category", ["a", "b"] * 5),
            infer_attribute("year", "int", []),
            infer_attribute("new", "bool", []),
        ),
    )
    index = Index(schema, 4)
    index.append(
        ["x", "y"],
        np.eye(2, 3),
        {"genre": ["a", "b"], "year": [1, 2], "new": [True, None]},
    )
    ServedIndex(index, k=2).save(path)
    file = path / "saved_model.pb"
    return saved_model_pb2.SavedModel.FromString(file.read_bytes())


def test_nothing_that_touches_a_variable_has_a_device(tmp_path):
    graph = _saved(tmp_path / "model").meta_graphs[0].graph_def
    assigned = 0
    for function in graph.library.function:
        restores = "traced_restore" in function.signature.name
        for node in function.node_def:
            if node.op == "AssignVariableOp":
                assigned += restores
                assert not node.device, (function.signature.name, node.name)
            if node.op == "ReadVariableOp" or node.op.startswith("Lintf>"):
                assert not node.device, (function.signature.name, node.name)
    assert assigned >= 7
    for node in graph.node:
        if node.op in ("VarHandleOp", "Lintf>IndexHandle"):
            assert not node.device, node.name
            if node.op == "VarHandleOp":
                dtype = tf.as_dtype(node.attr["dtype"].type)
                assert dtype not in ON_CPU_ALONE, node.name


def test_it_loads_where_it_is_told_to(tmp_path):
    _saved(tmp_path / "model")
    with tf.device("/CPU:0"):
        model = tf.saved_model.load(str(tmp_path / "model"))
    found = model.signatures["lookup"](id=tf.constant(["y", "z"]))
    assert found["found"].numpy().tolist() == [True, False]
    assert found["attribute_year"].numpy()[0] == 2
