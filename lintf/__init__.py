# SPDX-License-Identifier: Apache-2.0
"""lintf: LiNR's model-based retrieval as TensorFlow software.

Public names load on first use, so that `import lintf` and `lintf --help` do
not pay for importing TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULE_OF_NAME = {
    "Attribute": "lintf.index.schema",
    "FilterLimits": "lintf.index.schema",
    "Index": "lintf.index.index",
    "IndexSchema": "lintf.index.schema",
    "Quantization": "lintf.index.schema",
    "ServedIndex": "lintf.index.served",
    "Variant": "lintf.index.plan",
    "Change": "lintf.serving.changes",
    "Client": "lintf.serving.client",
}

__all__ = ["__version__", *sorted(_MODULE_OF_NAME)]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module 'lintf' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
