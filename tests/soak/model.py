# SPDX-License-Identifier: Apache-2.0
"""The index of the soak, and how it is served."""

from __future__ import annotations

import pathlib
from typing import Any

from google.protobuf import text_format
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.config import model_server_config_pb2

from export.warmup import write_warmup
from lintf.index.index import Index
from lintf.index.schema import Attribute, IndexSchema
from lintf.index.served import ServedIndex
from tests.soak.changes import DIM, PARITIES

NAME = "soak"
LABEL = "current"
K = 20

SCHEMA = IndexSchema(
    dim=DIM,
    attributes=(
        Attribute("embedded", "int"),
        Attribute("attributed", "int"),
        Attribute("check", "int"),
        Attribute("parity", "category", "vocabulary", "uint8", 1, PARITIES),
    ),
)


def empty_index(capacity: int, partitions: int) -> Index:
    """An index without items."""
    return Index(SCHEMA, capacity, log_partitions=partitions)


def served(index: Index) -> ServedIndex:
    """The index behind its signatures."""
    return ServedIndex(
        index,
        k=K,
        return_attributes=[a.name for a in SCHEMA.attributes],
        build_id="soak",
    )


def publish_first(base: pathlib.Path, capacity: int, partitions: int) -> None:
    """Writes version 1, which is empty."""
    base.mkdir(parents=True)
    unfinished = base / "unfinished"
    served(empty_index(capacity, partitions)).save(unfinished)
    write_warmup(unfinished, NAME)
    unfinished.rename(base / "1")


def write_config(path: pathlib.Path, base: pathlib.Path, current: int) -> None:
    """Writes a models.config that has the label on a version."""
    config = model_server_config_pb2.ModelServerConfig()
    model = config.model_config_list.config.add(
        name=NAME, base_path=str(base), model_platform="tensorflow"
    )
    # The current version, and one that is being caught up.
    model.model_version_policy.latest.num_versions = 2
    model.version_labels[LABEL] = current
    partial = path.with_suffix(".part")
    partial.write_text(text_format.MessageToString(config), encoding="utf-8")
    partial.rename(path)


def signature_defs(served: ServedIndex) -> dict[str, Any]:
    """The inputs of the signatures, as a SavedModel states them."""
    signatures = {}
    for name, function in served.signatures().items():
        signatures[name] = meta_graph_pb2.SignatureDef()
        for key, spec in function.structured_input_signature[1].items():
            info = signatures[name].inputs[key]
            info.dtype = spec.dtype.as_datatype_enum
            info.tensor_shape.CopyFrom(spec.shape.as_proto())
    return signatures
