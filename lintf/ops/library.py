# SPDX-License-Identifier: Apache-2.0
"""Finds, checks and loads the library of lintf's TensorFlow operations."""

from __future__ import annotations

import functools
import importlib.resources
import os
import types
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.python.framework import op_def_registry

# Names another library file, for those who build it elsewhere. Tests set it to
# _lintf_ops_emulated.so (the CMake target lintf_ops_emulated), in which the
# kernels of GPU ops run on the CPU, in place of the CPU's own.
LIBRARY_VARIABLE = "LINTF_OPS_LIBRARY"

_LIBRARY = "_lintf_ops.so"
_OPS = (
    "Lintf>AssignCodes",
    "Lintf>AssignRows",
    "Lintf>CheckUpdate",
    "Lintf>CompileFilter",
    "Lintf>FilterMask",
    "Lintf>IndexHandle",
    "Lintf>IndexStats",
    "Lintf>InvalidateIndex",
    "Lintf>LogOffsets",
    "Lintf>Lookup",
    "Lintf>MaskedKnn",
    "Lintf>PlannerCosts",
    "Lintf>PrefilteredKnn",
    "Lintf>QuantizedKnn",
    "Lintf>Retrieve",
    "Lintf>RetrieveSimilar",
    "Lintf>SearchCounts",
    "Lintf>SignOporp",
    "Lintf>SimilarityCosts",
    "Lintf>Update",
)
_HOW_TO_BUILD = (
    "build and install it with `pip install .` in a checkout of lintf"
)


def library_path() -> str:
    """The canonical path of the op library.

    TensorFlow tells libraries apart by the text of their paths, so there must
    be only one.

    Raises:
        ImportError: There is no such file; the message says how to build it.
    """
    path = os.environ.get(LIBRARY_VARIABLE)
    if path:
        if not os.path.isfile(path):
            raise ImportError(
                f"the environment variable {LIBRARY_VARIABLE} must name "
                f"lintf's op library, but there is no file {path!r}; correct "
                "it or unset it"
            )
        return os.path.realpath(path)
    resource = importlib.resources.files("lintf.ops").joinpath(_LIBRARY)
    if not resource.is_file():
        raise ImportError(
            f"lintf's op library {_LIBRARY} is missing; {_HOW_TO_BUILD}, or "
            f"name it in the environment variable {LIBRARY_VARIABLE}"
        )
    return os.path.realpath(str(resource))


def check_tensorflow_version() -> None:
    """Checks that the library was built for the TensorFlow that is running.

    TensorFlow's C++ interface changes with every minor version; a library of
    another one may fail in any way, crashes included.

    Raises:
        ImportError: It was built for another minor version, or never.
    """
    try:
        from lintf.ops import _build_info
    except ImportError as error:
        raise ImportError(
            f"lintf's op library has not been built; {_HOW_TO_BUILD}"
        ) from error
    built = _build_info.TENSORFLOW_VERSION
    if _minor(built) == _minor(tf.__version__):
        return
    raise ImportError(
        f"lintf's op library was built for TensorFlow {_minor(built)} (it "
        f"found {built}), but TensorFlow {tf.__version__} is running. Build "
        "it again with `pip install --force-reinstall --no-deps "
        "--no-build-isolation .` in a checkout of lintf, or go back with "
        f"`pip install 'tensorflow=={_minor(built)}.*'`"
    )


@functools.cache
def load() -> Any:
    """Loads the library, once a process.

    Returns:
        A module with a function for each op: `lintf_retrieve` and so on.

    Raises:
        ImportError: The library is missing or of another TensorFlow version.
    """
    # The ops may be there already: the library was preloaded, or loaded
    # under another path. A second copy of their kernels would make every op
    # ambiguous.
    if op_def_registry.get(_OPS[0]) is None:
        check_tensorflow_version()
        module = tf.load_op_library(library_path())
        if hasattr(module, "lintf_retrieve"):
            return module
    return _wrappers_of_registered_ops()


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _wrappers_of_registered_ops() -> types.ModuleType:
    """What `tf.load_op_library` makes, for ops that are registered already."""
    from tensorflow.python.framework import _pywrap_python_op_gen

    definitions = op_def_pb2.OpList()
    for name in _OPS:
        definition = op_def_registry.get(name)
        if definition is None:
            raise ImportError(
                f"another version of lintf's ops is in this process already: "
                f"it lacks {name}; load only one"
            )
        definitions.op.append(definition)
    source = _pywrap_python_op_gen.GetPythonWrappers(
        definitions.SerializeToString()
    )
    module = types.ModuleType("lintf_ops_wrappers")
    exec(source, module.__dict__)
    return module
