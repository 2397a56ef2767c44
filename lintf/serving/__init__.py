# SPDX-License-Identifier: Apache-2.0
"""Serving a SavedModel and asking it: the embedded server and the client.

Names are imported on first use, because the server and TF Serving's protos both
import TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lintf.serving.changes import Change
    from lintf.serving.client import Client
    from lintf.serving.results import IndexStats, LookupResult, RetrieveResult
    from lintf.serving.server import Server, ServerOptions

_MODULES = {
    "Change": "changes",
    "Client": "client",
    "IndexStats": "results",
    "LookupResult": "results",
    "RetrieveResult": "results",
    "Server": "server",
    "ServerOptions": "server",
}

__all__ = [
    "Change",
    "Client",
    "IndexStats",
    "LookupResult",
    "RetrieveResult",
    "Server",
    "ServerOptions",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return getattr(module, name)
