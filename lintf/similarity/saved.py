# SPDX-License-Identifier: Apache-2.0
"""A similarity on disk: `spec.json` and `weights.npz`, nothing executable."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from lintf.similarity.spec import SimilaritySpec

_SPEC = "spec.json"
_WEIGHTS = "weights.npz"


def save(
    spec: SimilaritySpec,
    weights: Mapping[str, Any],
    path: str | os.PathLike[str],
) -> None:
    """Writes a similarity into a directory, which is made where absent.

    Args:
        spec: Its shape.
        weights: By the names of `spec.weight_shapes()`; arrays or variables.
        path: The directory.

    Raises:
        ValueError: The weights are not those of the spec.
    """
    arrays = {name: np.asarray(value) for name, value in weights.items()}
    checked = _checked(spec, arrays, "the weights")
    folder = pathlib.Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / _WEIGHTS, **checked)  # type: ignore[arg-type]
    text = json.dumps(spec.to_dict(), indent=2) + "\n"
    (folder / _SPEC).write_text(text, encoding="utf-8")


def load(
    path: str | os.PathLike[str],
) -> tuple[SimilaritySpec, dict[str, np.ndarray]]:
    """Reads what `save` wrote.

    Returns:
        The spec, and float32 weights by name, in the spec's order.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is not what it should be.
    """
    folder = pathlib.Path(path)
    for name in (_SPEC, _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no similarity at {folder}: there is no {name}; expected a "
                "directory that lintf.similarity.saved.save wrote"
            )
    spec = _spec(folder / _SPEC)
    arrays = read_arrays(folder / _WEIGHTS)
    return spec, _checked(spec, arrays, str(folder / _WEIGHTS))


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a `.npz` file without executing what it may hold.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not one of plain arrays.
    """
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("it holds one array, without a name")
        with file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"cannot read {path}: expected an .npz of arrays by name, without "
            f"Python objects: {error}"
        ) from error


def _spec(path: pathlib.Path) -> SimilaritySpec:
    known = [field.name for field in dataclasses.fields(SimilaritySpec)]
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(fields, dict) or set(fields) - set(known):
        raise ValueError(
            f"{path}: expected an object with the fields {', '.join(known)}, "
            f"got {sorted(fields) if isinstance(fields, dict) else fields!r}"
        )
    try:
        return SimilaritySpec(**fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _checked(
    spec: SimilaritySpec, arrays: Mapping[str, np.ndarray], what: str
) -> dict[str, np.ndarray]:
    """Returns the arrays in the spec's order, or says what is wrong."""
    shapes = spec.weight_shapes()
    if set(arrays) != set(shapes):
        raise ValueError(
            f"{what}: expected {sorted(shapes) or 'no weights'} for this spec, "
            f"got {sorted(arrays) or 'none'}"
        )
    for name, shape in shapes.items():
        found = arrays[name]
        if found.dtype != np.float32 or found.shape != shape:
            raise ValueError(
                f"{what}: `{name}` must be float32 {shape}, got "
                f"{found.dtype} {found.shape}"
            )
        if not np.isfinite(found).all():
            raise ValueError(f"{what}: `{name}` holds NaN or infinity")
    return {name: arrays[name] for name in shapes}
