# SPDX-License-Identifier: Apache-2.0
"""Files for TensorBoard's embedding projector: items as points in space."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from lintf.index import columns, oporp
from lintf.index.index import Index, code_rows
from lintf.index.sharded import AnyIndex, shards_of

CONFIG = "projector_config.pbtxt"
VECTORS = "embeddings.tsv"
LABELS = "metadata.tsv"


def write_projector(
    index: AnyIndex, folder: pathlib.Path, max_rows: int
) -> int:
    """Writes vectors and labels of items spread evenly over the index.

    Args:
        index: Filled. Without embeddings, the bits of the codes stand for
            them, as 1 and -1.
        folder: A TensorBoard run's.
        max_rows: The browser draws every one of them.

    Returns:
        How many items were written.
    """
    total = int(index.num_rows)
    rows = np.unique(np.linspace(0, total - 1, min(max_rows, total), dtype=int))
    folder.mkdir(parents=True, exist_ok=True)
    vectors = _vectors(index, rows)
    labels: dict[str, Iterable[Any]] = {"id": _ids(index, rows)}
    for attribute in index.schema.attributes:
        if attribute.decodable:
            column = _rows_of(index, rows, _attribute(attribute.name))
            labels[attribute.name] = columns.decode(attribute, column)
    np.savetxt(folder / VECTORS, vectors, fmt="%.6g", delimiter="\t")
    lines = ["\t".join(labels)]
    lines += [
        "\t".join(_cell(value) for value in row)
        for row in zip(*labels.values(), strict=True)
    ]
    if len(labels) == 1:
        # A single column has no header in the projector's format.
        del lines[0]
    (folder / LABELS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / CONFIG).write_text(
        "embeddings {\n"
        '  tensor_name: "items"\n'
        f'  tensor_path: "{VECTORS}"\n'
        f'  metadata_path: "{LABELS}"\n'
        "}\n",
        encoding="utf-8",
    )
    return len(rows)


def _vectors(index: AnyIndex, rows: np.ndarray) -> np.ndarray:
    if index.schema.dtype != "none":
        return index.vectors(rows)
    codes = [
        code_rows(shard.codes.read_value().numpy(), int(shard.num_rows))
        for shard in shards_of(index)
    ]
    return 2.0 * oporp.unpack(np.concatenate(codes)[rows]) - 1.0


def _rows_of(
    index: AnyIndex, rows: np.ndarray, variable: Callable[[Index], Any]
) -> np.ndarray:
    """What a variable of each shard holds in some rows."""
    parts = [
        variable(shard).read_value().numpy()[: int(shard.num_rows)]
        for shard in shards_of(index)
    ]
    return np.concatenate(parts)[rows]


def _attribute(name: str) -> Callable[[Index], Any]:
    return lambda shard: shard.attributes[name]


def _ids(index: AnyIndex, rows: np.ndarray) -> list[Any]:
    ids = _rows_of(index, rows, lambda shard: shard.ids)
    if index.id_text is None:
        return list(ids.tolist())
    return [text.decode() for text in index.id_text.lookup(ids).numpy()]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return text.replace("\t", " ").replace("\n", " ")
