# SPDX-License-Identifier: Apache-2.0
"""The shape of a learned similarity: what its vectors and weights hold.

A learned similarity scores a query vector `q` and an item vector `x` that the
two towers make. Both are flat, so that an index stores, updates and returns an
item vector as it does any embedding:

    q = [f_1 | ... | f_P | A]     P query components, then the query's gate
    x = [g_1 | ... | g_R | B]     R item components, then the item's gate

Each component has `component_dim` numbers, each gate one number for each of
the L = P R pairs; pair l = p R + r. With a gate the score is Mixture of Logits
(sections 3.3 of arXiv 2407.13218 and 3 of arXiv 2306.04039):

    l_pr  = s(f_p, g_r) / temperature
    z     = A * B + C(l)                C: MLP, L -> gate_hidden (SiLU) -> L
    pi    = gate(z)
    score = sum_l pi_l l_l

and s is, by `component`,

    inner_product   sum_j f_j g_j
    weighted        sum_j w_lj f_j g_j                     w: pair_weights
    hadamard        v . relu(W (f * g) + b) + c            one for all pairs

Without a gate there is one pair, and the score is l_11: with `hadamard` the
paper's Hadamard MLP, whose towers' last layers make f and g.
"""

from __future__ import annotations

import dataclasses
from typing import Any

COMPONENTS = ("inner_product", "weighted", "hadamard")
GATES = ("none", "softmax", "silu_softmax", "relu", "sigmoid")
# Their weights are not negative and sum to 1, so that no score exceeds the
# largest of its logits.
CONVEX_GATES = ("softmax", "silu_softmax")

# What the operations have room for on a stack or in a GPU's shared memory.
MAX_PAIRS = 64
MAX_GATE_HIDDEN = 256
MAX_HIDDEN = 64
MAX_COMPONENT_DIM = 1024
# Beyond these float32 has no room for logits.
LEAST_TEMPERATURE = 1e-30
MOST_TEMPERATURE = 1e30


@dataclasses.dataclass(frozen=True)
class SimilaritySpec:
    """A learned similarity, without its weights.

    Attributes:
        query_components: P, of the query vector.
        item_components: R, of the item vector.
        component_dim: Length of each component.
        component: How a pair of components is compared, one of `COMPONENTS`.
        hidden: Units of the joint MLP's hidden layer; with `hadamard`, else 0.
        temperature: Logits are divided by it.
        gate: One of `GATES`; "none" needs a single pair, and has no gate
            numbers in the vectors.
        gate_hidden: Units of the pair gate's hidden layer; 0 leaves the pair
            gate C out.

    >>> SimilaritySpec(8, 4, 32, gate="silu_softmax", gate_hidden=128).item_dim
    160
    """

    query_components: int = 1
    item_components: int = 1
    component_dim: int = 32
    component: str = "inner_product"
    hidden: int = 0
    temperature: float = 1.0
    gate: str = "none"
    gate_hidden: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("query_components", 1, MAX_PAIRS),
            ("item_components", 1, MAX_PAIRS),
            ("component_dim", 1, MAX_COMPONENT_DIM),
            ("hidden", 0, MAX_HIDDEN),
            ("gate_hidden", 0, MAX_GATE_HIDDEN),
        ):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not least <= value <= most:
                raise ValueError(
                    f"similarity: `{name}` must be an integer from {least} to "
                    f"{most}, got {value!r}"
                )
        if self.pairs > MAX_PAIRS:
            raise ValueError(
                "similarity: `query_components` * `item_components` must be at "
                f"most {MAX_PAIRS}, got {self.query_components} * "
                f"{self.item_components} = {self.pairs}"
            )
        for name, known in (("component", COMPONENTS), ("gate", GATES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"similarity: `{name}` must be one of {', '.join(known)}, "
                    f"got {getattr(self, name)!r}"
                )
        temperature = self.temperature
        if (
            not isinstance(temperature, int | float)
            or isinstance(temperature, bool)
            or not LEAST_TEMPERATURE <= temperature <= MOST_TEMPERATURE
        ):
            raise ValueError(
                "similarity: `temperature` must be a positive number from "
                f"{LEAST_TEMPERATURE:g} to {MOST_TEMPERATURE:g}, got "
                f"{temperature!r}"
            )
        if (self.component == "hadamard") != (self.hidden > 0):
            raise ValueError(
                "similarity: `hidden` must be positive with the component "
                f'similarity "hadamard" and 0 with others, got {self.hidden} '
                f"with {self.component!r}"
            )
        if self.gate == "none" and (self.pairs > 1 or self.gate_hidden):
            raise ValueError(
                'similarity: without a gate ("none") there must be one pair of '
                "components and no pair gate, got "
                f"{self.pairs} pairs and `gate_hidden` {self.gate_hidden}; "
                "choose a gate"
            )

    @property
    def pairs(self) -> int:
        """L: pairs of components."""
        return self.query_components * self.item_components

    @property
    def gate_dim(self) -> int:
        """Numbers of a vector's gate."""
        return 0 if self.gate == "none" else self.pairs

    @property
    def query_dim(self) -> int:
        """Length of a query vector."""
        return self.query_components * self.component_dim + self.gate_dim

    @property
    def item_dim(self) -> int:
        """Length of an item vector."""
        return self.components_dim + self.gate_dim

    @property
    def components_dim(self) -> int:
        """Length of an item vector's components, which come first."""
        return self.item_components * self.component_dim

    @property
    def is_convex(self) -> bool:
        """Whether no score exceeds the largest of its logits."""
        return self.gate == "none" or self.gate in CONVEX_GATES

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights of scoring, float32, in the operations' order.

        >>> SimilaritySpec(component="hadamard", hidden=10).weight_shapes()
        {'joint_kernel': (10, 32), 'joint_bias': (10,), 'joint_output': (10,), \
'joint_offset': (1,)}
        """
        shapes: dict[str, tuple[int, ...]] = {}
        if self.component == "weighted":
            shapes["pair_weights"] = (self.pairs, self.component_dim)
        if self.component == "hadamard":
            shapes["joint_kernel"] = (self.hidden, self.component_dim)
            shapes["joint_bias"] = (self.hidden,)
            shapes["joint_output"] = (self.hidden,)
            shapes["joint_offset"] = (1,)
        if self.gate_hidden:
            shapes["gate_kernel"] = (self.pairs, self.gate_hidden)
            shapes["gate_bias"] = (self.gate_hidden,)
            shapes["gate_output"] = (self.gate_hidden, self.pairs)
            shapes["gate_offset"] = (self.pairs,)
        return shapes

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return dataclasses.asdict(self)
