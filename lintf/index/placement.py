# SPDX-License-Identifier: Apache-2.0
"""Where a saved index puts its variables when it is loaded.

What TensorFlow does with devices (2.21, tried with virtual CPU devices):

- An operation on an index runs where its variables are: of a function's
  arguments the handles decide. So only the nodes that make the handles of
  variables and index resources need a device, and no operation on an index in
  a function has one.
- An operation that is given handles of several devices cannot be placed, unless
  it is a plain function call. That of batches is none, so each shard has one.
- `tf.saved_model.save` leaves variables' devices out, or takes those that they
  have on the exporting machine, which may have other ones. So they are written
  into the saved graph afterwards.
- A session, as TensorFlow Serving and `lintf serve` run the model in, keeps to
  them. If a device is not there, a session that allows soft placement takes
  another one of the machine, GPU 0 before the CPU, and any other session
  refuses to load the model. `lintf serve` allows it. TensorFlow Serving does if
  told to, by `--tensorflow_session_config_file` with `allow_soft_placement:
  true` (serving_configs/session.config).
- `tf.saved_model.load` asks for no device: all shards come to lie on the
  default one, which gives the same results.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model import fingerprinting_utils

from lintf.index.sharded import device_of
from lintf.index.shards import Shards

_MODEL_FILE = "saved_model.pb"
# Operations that make the handles of a shard.
_HANDLES = ("VarHandleOp", "Lintf>IndexHandle")
# What restores variables; files are read on the CPU anyway.
_RESTORE = "__inference__traced_restore"
_ASSIGNMENTS = ("AssignVariableOp", "Identity")


def place(path: str | os.PathLike[str], sharding: Shards | None) -> None:
    """Makes the devices in a SavedModel those of the shards, and no others.

    Without shards whoever loads it chooses: a GPU, if TensorFlow has one. The
    function that restores the variables is saved with the devices that they
    have where it is saved; it would keep them there.

    Args:
        path: Its directory.
        sharding: Of the index that it holds; None for one in one piece.
    """
    file = pathlib.Path(path, _MODEL_FILE)
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for meta_graph in model.meta_graphs:
        graph = meta_graph.graph_def
        if sharding is not None:
            for node in graph.node:
                device = _device(node, sharding)
                if device is not None:
                    node.device = f"/device:{device}"
        for function in graph.library.function:
            if function.signature.name.startswith(_RESTORE):
                for node in function.node_def:
                    if node.op in _ASSIGNMENTS:
                        node.device = ""
    file.write_bytes(model.SerializeToString(deterministic=True))
    # Of the file as it is now.
    fingerprinting_utils.write_fingerprint(os.fspath(path))


def _device(node: Any, sharding: Shards) -> str | None:
    if node.op not in _HANDLES:
        return None
    return device_of(node.attr["shared_name"].s.decode(), sharding)
