# SPDX-License-Identifier: Apache-2.0
"""Options of the recipe's towers beyond their own shape."""

import dataclasses
from typing import Any, Literal

from lintf.similarity.spec import SimilaritySpec

SimilarityKind = Literal["dot", "hadamard_mlp", "mixture_of_logits"]
ClusterMode = Literal["fixed", "trained", "learned"]


def _positive(options: Any, *names: str) -> None:
    for name in names:
        if getattr(options, name) < 1:
            raise ValueError(
                f"`{name}` must be at least 1, got {getattr(options, name)}"
            )


def _share(options: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(options, name) < 1:
            raise ValueError(
                f"`{name}` must be in [0, 1), got {getattr(options, name)}"
            )


@dataclasses.dataclass(frozen=True)
class MixtureOptions:
    """Shape and training of a mixture of logits.

    The defaults are the best of what was tried on the validation items of
    MovieLens-100K: pre-trained towers (`TowerConfig.pretrain_epochs`), whose
    inner product the mixture starts from.

    Attributes:
        query_components: Projections of the query tower's embedding and of
            what that is made from.
        item_components: Projections of the item tower's.
        newest_components: The newest items of the history, each a query
            component of its own.
        user_component: Whether what is known about the user, without the
            history, is a query component.
        traits_component: Whether genres and year, without the id, are an item
            component.
        component_dim: Numbers a component; 0 takes the towers' `dim`.
        component: How a pair is compared: "inner_product", "weighted" or
            "hadamard".
        hidden: With "hadamard": units of the joint MLP.
        temperature: Logits are divided by it.
        gate: "softmax", "silu_softmax", "relu" or "sigmoid".
        gate_hidden: Units of the pair gate; 0 leaves it out.
        side_gate_hidden: Units of the gates of one side.
        projection: Of the query's embedding: "linear", "swiglu", "geglu".
        projection_hidden: Units of the latter two.
        normalized: Whether components have length 1.
        start: "inner_product" starts from that of the towers, "random" does
            not.
        item_dropout: Share of the item side's inputs dropped at training.
        gate_dropout: Share of the gate's weights dropped at training.
        component_dropout: Share of components dropped at training.
        balance_weight: Of the load-balancing loss.
    """

    query_components: int = 4
    item_components: int = 1
    newest_components: int = 0
    user_component: bool = False
    traits_component: bool = False
    component_dim: int = 0
    component: str = "inner_product"
    hidden: int = 0
    temperature: float = 1.0
    gate: str = "softmax"
    gate_hidden: int = 16
    side_gate_hidden: int = 32
    projection: str = "linear"
    projection_hidden: int = 128
    normalized: bool = False
    start: str = "inner_product"
    item_dropout: float = 0.0
    gate_dropout: float = 0.0
    component_dropout: float = 0.0
    balance_weight: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "query_components", "item_components")
        _share(self, "item_dropout", "gate_dropout", "component_dropout")
        if self.newest_components < 0:
            raise ValueError(
                "`newest_components` must be at least 0, got "
                f"{self.newest_components}"
            )
        if self.gate == "none":
            raise ValueError(
                '`gate` must not be "none": a mixture weighs its logits'
            )
        # Before the towers that clusters are found by are trained. Clusters
        # are a component more of each side.
        SimilaritySpec(
            self.query_components
            + self.newest_components
            + self.user_component,
            self.item_components + self.traits_component,
            self.component_dim or 1,
            self.component,
            self.hidden,
            self.temperature,
            self.gate,
            self.gate_hidden,
        )


@dataclasses.dataclass(frozen=True)
class HadamardOptions:
    """Shape and training of a Hadamard MLP.

    Attributes:
        component_dim: Units of each tower's last layer.
        hidden: Units of the joint MLP's hidden layer.
        dropout: Share of each side's inputs dropped at training.
        restart_steps: Steps after which a bad start is drawn again.
    """

    component_dim: int = 50
    hidden: int = 10
    dropout: float = 0.0
    restart_steps: int = 100

    def __post_init__(self) -> None:
        _positive(self, "component_dim", "hidden")
        _share(self, "dropout")


@dataclasses.dataclass(frozen=True)
class ClusterOptions:
    """Clusters of items as components of a learned similarity.

    Attributes:
        count: How many; 0 does without.
        mode: Whether the clusters' embeddings are fixed, trained, or the
            clusters themselves are learned too.
        top: With "learned": clusters of a soft choice.
        residual_ids: Add embeddings of items with enough ratings to those of
            their clusters.
        least_ratings: That a residual id takes.
    """

    count: int = 0
    mode: ClusterMode = "fixed"
    top: int = 4
    residual_ids: bool = False
    least_ratings: int = 5

    def __post_init__(self) -> None:
        _positive(self, "top", "least_ratings")
        if self.count < 0:
            raise ValueError(f"`count` must be at least 0, got {self.count}")
        if self.residual_ids and not self.count:
            raise ValueError(
                "`residual_ids` are added to clusters: set `count`"
            )


@dataclasses.dataclass(frozen=True)
class NegativeOptions:
    """What a positive item is compared with at training.

    Section 5 of arXiv 2402.13435: in-batch negatives, a share of uniform easy
    ones (best a share of 0.4 to 0.6), and a last stage on the hardest. With
    `log_q`, 256 and 256 were as good on the validation items of MovieLens-100K
    as the softmax over all films, by one seed.

    Attributes:
        kind: "all" is the softmax over the whole catalogue; "sampled" takes
            the batch's other positives, and uniform ones.
        in_batch: With "sampled": how many of the batch's positives. More
            repeat the frequent items.
        easy_share: With "sampled": share of uniform negatives.
        log_q: With "sampled": subtract the log of how often an item is
            sampled (not in the paper, which takes frequent items as
            frequent).
        hard_epochs: The last epochs, trained on the hardest negatives.
        hard_k: How many of these, found by lintf's search.
        hard_refresh_steps: Steps between renewals of the searched items.
    """

    kind: Literal["all", "sampled"] = "sampled"
    in_batch: int = 256
    easy_share: float = 0.5
    log_q: bool = True
    hard_epochs: int = 0
    hard_k: int = 256
    hard_refresh_steps: int = 50

    def __post_init__(self) -> None:
        _positive(self, "in_batch", "hard_k", "hard_refresh_steps")
        _share(self, "easy_share")
        if self.hard_epochs < 0:
            raise ValueError(
                f"`hard_epochs` must be at least 0, got {self.hard_epochs}"
            )
