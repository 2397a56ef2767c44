# SPDX-License-Identifier: Apache-2.0
"""The query tower and the item tower, and their training with TFRS.

Training needs Keras 2: call `use_legacy_keras()` before TensorFlow is imported.
So nothing here is imported before it is used.
"""

import importlib
from typing import Any

from lintf.towers.tfrs_compat import (
    TfrsUnavailableError,
    import_tfrs,
    use_legacy_keras,
)

_MODULE_OF_NAME = {
    "ClusterOptions": "lintf.towers.options",
    "HadamardOptions": "lintf.towers.options",
    "ItemTower": "lintf.towers.movielens",
    "MixtureOptions": "lintf.towers.options",
    "NegativeOptions": "lintf.towers.options",
    "QueryTower": "lintf.towers.movielens",
    "Tower": "lintf.towers.tower",
    "TowerConfig": "lintf.towers.movielens",
    "TrainedTowers": "lintf.towers.learned",
    "fine_tune": "lintf.towers.fine_tuning",
    "item_features": "lintf.towers.movielens",
    "learned_towers": "lintf.towers.learned",
    "movielens_towers": "lintf.towers.movielens",
    "pad_history": "lintf.towers.movielens",
    "placeholders": "lintf.towers.tower",
    "train": "lintf.towers.training",
}

__all__ = [
    "TfrsUnavailableError",
    "import_tfrs",
    "use_legacy_keras",
    *sorted(_MODULE_OF_NAME),
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
