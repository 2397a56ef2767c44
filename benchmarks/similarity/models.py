# SPDX-License-Identifier: Apache-2.0
"""The models that are compared: what each sets beside the recipe's own."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import shutil
from typing import Any

import yaml

BASE = "dot"
# Of k-means over the items; the paper's choice depends on the data.
CLUSTER_COUNTS = (20, 50, 120)


@dataclasses.dataclass(frozen=True)
class Model:
    """One row of the tables.

    Attributes:
        what: For people.
        overrides: `key.path=value` of the export job's config.
    """

    what: str
    overrides: tuple[str, ...] = ()

    def options(self) -> dict[str, Any]:
        """The same as arguments of `lintf.towers.TowerConfig`.

        >>> Model("", ("towers.options.clusters.count=5",)).options()
        {'clusters': {'count': 5}}
        """
        found: dict[str, Any] = {}
        for override in self.overrides:
            path, _, value = override.partition("=")
            *parents, name = path.removeprefix("towers.").split(".")
            node = found
            for parent in parents:
                if parent != "options":
                    node = node.setdefault(parent, {})
            node[name] = yaml.safe_load(value)
        return found


def folder(root: str | pathlib.Path, name: str, model: Model) -> pathlib.Path:
    """Where the runs of a model are kept: of these settings, and no others.

    Args:
        root: Of all models.
        name: The model's.
        model: Whose settings count, and the recipe's defaults with them.
    """
    from lintf.towers import TowerConfig

    settings = repr((model.overrides, TowerConfig(**model.options())))
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    return pathlib.Path(root) / f"{name}-{digest}"


def share(training: pathlib.Path, base: pathlib.Path) -> None:
    """Puts a finished training where another's pre-training would be.

    Args:
        training: Of towers with the settings that the pre-training has;
            others are refused when it is taken up.
        base: What the other training calls its `base/`.
    """
    if training.is_dir() and not base.exists():
        part = base.with_name(base.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(training, part)
        part.rename(base)


_MIXTURE = ("towers.similarity=mixture_of_logits",)


def _clusters(count: int, mode: str, *more: str) -> tuple[str, ...]:
    return (
        *_MIXTURE,
        f"towers.options.clusters.count={count}",
        f"towers.options.clusters.mode={mode}",
        *more,
    )


MODELS = {
    BASE: Model("inner product"),
    # What of a mixture's gain is the longer training.
    "one_component": Model(
        "inner product, trained on as MoL is",
        (
            *_MIXTURE,
            "towers.options.mixture.query_components=1",
            "towers.options.mixture.gate_hidden=0",
        ),
    ),
    "hadamard": Model("Hadamard MLP", ("towers.similarity=hadamard_mlp",)),
    "mol": Model("Mixture of Logits (MoL)", _MIXTURE),
    **{
        f"mol_{count}_{mode}": Model(
            f"MoL, {count} clusters, {mode}", _clusters(count, mode)
        )
        for count in CLUSTER_COUNTS
        for mode in ("fixed", "trained")
    },
    "mol_residual": Model(
        f"MoL, {CLUSTER_COUNTS[1]} clusters, fixed, residual ids",
        _clusters(
            CLUSTER_COUNTS[1],
            "fixed",
            "towers.options.clusters.residual_ids=true",
        ),
    ),
}

# What a new film's vector is made from. Ids are forgotten now and then, so
# that what else there is learns to do without.
_FORGET = "towers.options.item_id_dropout=0.2"
COLD_START = {
    "ids": Model("its id alone", ("towers.options.item_traits=false",)),
    "attributes": Model("genres and year", (_FORGET,)),
    "mol_attributes": Model("genres and year, MoL", (*_MIXTURE, _FORGET)),
    "mol_clusters": Model(
        "and clusters, MoL", _clusters(CLUSTER_COUNTS[1], "fixed", _FORGET)
    ),
    "mol_residual": Model(
        "and clusters with residual ids, MoL",
        _clusters(
            CLUSTER_COUNTS[1],
            "fixed",
            "towers.options.clusters.residual_ids=true",
            _FORGET,
        ),
    ),
}

# On narrow towers, which a mixture overfits less.
_TRAINED_ON = (
    *_MIXTURE,
    "towers.epochs=3",
    "towers.options.learning_rate=0.001",
    "towers.options.dropout=0.3",
)
WIDTHS = {
    BASE: Model("inner product"),
    "one_component": Model(
        "inner product, trained on",
        (
            *_TRAINED_ON,
            "towers.options.mixture.query_components=1",
            "towers.options.mixture.gate_hidden=0",
        ),
    ),
    "mol": Model(
        "MoL, 4 x 2 components",
        (*_TRAINED_ON, "towers.options.mixture.item_components=2"),
    ),
}
