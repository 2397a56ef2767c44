# SPDX-License-Identifier: Apache-2.0
"""Files for TensorBoard's embedding projector: items as points in space."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from lintf.index import columns, oporp
from lintf.index.index import Index, code_rows

CONFIG = "projector_config.pbtxt"
VECTORS = "embeddings.tsv"
LABELS = "metadata.tsv"


def write_projector(index: Index, folder: pathlib.Path, max_rows: int) -> int:
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
            column = index.attributes[attribute.name].read_value().numpy()
            labels[attribute.name] = columns.decode(attribute, column[rows])
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


def _vectors(index: Index, rows: np.ndarray) -> np.ndarray:
    if index.embeddings is not None:
        return index.vectors(rows)
    codes = code_rows(index.codes.read_value().numpy(), index.capacity)
    return 2.0 * oporp.unpack(codes[rows]) - 1.0


def _ids(index: Index, rows: np.ndarray) -> list[Any]:
    ids = index.ids.read_value().numpy()[rows]
    if index.id_text is None:
        return list(ids.tolist())
    return [text.decode() for text in index.id_text.lookup(ids).numpy()]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return text.replace("\t", " ").replace("\n", " ")
