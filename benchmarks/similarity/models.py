# SPDX-License-Identifier: Apache-2.0
"""The models that are compared: what each sets beside the recipe's own."""

from __future__ import annotations

import dataclasses

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
