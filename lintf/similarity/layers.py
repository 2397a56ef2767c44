# SPDX-License-Identifier: Apache-2.0
"""Keras layers of the learned similarities: both sides, and the scores.

A layer makes query vectors and item vectors of the form that
`lintf.similarity.spec` defines, and scores them with
`lintf.similarity.scoring`. Each side is a function of that side alone, so an
index stores item vectors and a tower makes query vectors. They work under
Keras 3 and under the legacy Keras 2.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lintf.similarity import scoring
from lintf.similarity.spec import SimilaritySpec
from lintf.towers.layers import StatelessDropout

PROJECTIONS = ("linear", "swiglu", "geglu")
STARTS = ("random", "inner_product")

# Below this length a component is divided by it, not by its own (RAILS).
_EPSILON = 1e-6

# A start from the inner product: what makes components differ, and where the
# gate of other features' pairs starts from, so that these add little at first.
_NOISE = 0.02
_EXTRA_OFFSET = -2.0


class LearnedSimilarity(tf.keras.layers.Layer, abc.ABC):
    """What a learned similarity is to towers, training and export.

    Input of a call: query vectors `[n, query_dim]` and item vectors
    `[m, item_dim]`, or `[n, m, item_dim]` for items of each query's own.
    Output: scores `[n, m]` float32.
    """

    def __init__(
        self,
        spec: SimilaritySpec,
        *,
        seed: int,
        gate_offset: np.ndarray | None = None,
        **kwargs: Any,
    ):
        """Makes the weights of scoring.

        Args:
          spec: the similarity's shape.
          seed: of the weights and of every dropout.
          gate_offset: `[pairs]` what the pair gate's offset starts as, where
            there is one.
          **kwargs: as for every Keras layer.
        """
        super().__init__(**kwargs)
        self._spec = spec
        self._maker = _WeightMaker(self, seed)
        starts = {name: _start(name, spec) for name in spec.weight_shapes()}
        if gate_offset is not None and "gate_offset" in starts:
            starts["gate_offset"] = lambda seed: _Values(gate_offset)
        self._scoring_weights = {
            name: self._maker.make(name, shape, starts[name])
            for name, shape in spec.weight_shapes().items()
        }

    @property
    def spec(self) -> SimilaritySpec:
        """The similarity's shape."""
        return self._spec

    def scoring_weights(self) -> dict[str, Any]:
        """The variables by the names of `spec.weight_shapes()`, in order."""
        return {n: self._scoring_weights[n] for n in self.spec.weight_shapes()}

    def reinitialize(self, seed: int) -> None:
        """Draws all weights of the layer again, as if made with this seed."""
        self._maker.redraw(seed)

    @abc.abstractmethod
    def query_side(
        self, embedding: Any, extra: Sequence[Any] = (), training: bool = False
    ) -> tf.Tensor:
        """Makes query vectors `[n, query_dim]` float32.

        Args:
          embedding: `[n, width]` float32, of the query tower.
          extra: further features, `[n, width_i]` each.
          training: whether dropout applies.
        """

    @abc.abstractmethod
    def item_side(
        self, embedding: Any, extra: Sequence[Any] = (), training: bool = False
    ) -> tf.Tensor:
        """Makes item vectors `[m, item_dim]` float32.

        Args:
          embedding: `[m, width]` float32, of the item tower.
          extra: further features, `[m, width_i]` each.
          training: whether dropout applies.
        """

    def kept_pairs(self, num_queries: Any) -> tf.Tensor | None:
        """Draws which pairs of components each query keeps at training.

        Args:
          num_queries: how many queries.

        Returns:
          `[n, pairs]`, for `mix`: 0 for what is left out, of the rest what
          their weights grow by; None where all are kept.
        """
        return None

    @property
    def balance_weight(self) -> float:
        """What `call` multiplies the load-balancing loss by."""
        return 0.0

    def mix(
        self,
        queries: tf.Tensor,
        items: tf.Tensor,
        training: bool = False,
        kept: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores, and says how unevenly the gate uses the components.

        Args:
          queries: as `call` takes them, and so are the next two.
          items: as there.
          training: as there.
          kept: from `kept_pairs`, so that several calls for the same queries
            drop the same; without it a call draws its own.

        Returns:
          `[n, m]` scores, and the load-balancing loss (a scalar; 0 for a
          similarity without a gate).
        """
        found = scoring.scores(
            self.spec, self.scoring_weights(), queries, items
        )
        return found, tf.zeros([])

    def call(
        self, queries: tf.Tensor, items: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Scores every query with every item (or with its own items)."""
        return self.mix(queries, items, training)[0]


class HadamardMlp(LearnedSimilarity):
    """The Hadamard MLP of section 3.3 of arXiv 2407.13218.

        f = W_q q + b_q,  g = W_x x + b_x            50 numbers each
        score = v . relu(W (f * g) + b) + c          10 hidden units

    The paper gives sizes ("[50] + [10, 1]") and no more. What is chosen here:
    the towers' layers are linear, since what they stand on is not; the hidden
    layer is a ReLU's; neither side is normalised. Training may start badly:
    `lintf.similarity.restart` tries again.
    """

    def __init__(
        self,
        query_width: int,
        item_width: int,
        *,
        component_dim: int = 50,
        hidden: int = 10,
        dropout: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ):
        """Makes the weights.

        Args:
          query_width: of the query tower's embedding, extra features included.
          item_width: of the item tower's.
          component_dim: numbers that are multiplied with each other.
          hidden: units of the joint MLP's hidden layer.
          dropout: share of each side's inputs dropped at training.
          seed: of the weights and of dropout.
          **kwargs: as for every Keras layer.
        """
        spec = SimilaritySpec(
            component_dim=component_dim, component="hadamard", hidden=hidden
        )
        super().__init__(spec, seed=seed, **kwargs)
        make = self._maker
        self._query = make.linear("query", query_width, component_dim)
        self._item = make.linear("item", item_width, component_dim)
        self._drop_query = StatelessDropout(
            dropout, seed=seed + 1, name="drop_query"
        )
        self._drop_item = StatelessDropout(
            dropout, seed=seed + 2, name="drop_item"
        )
        self.built = True

    def query_side(
        self, embedding: Any, extra: Sequence[Any] = (), training: bool = False
    ) -> tf.Tensor:
        """Makes f: `[n, component_dim]`."""
        inputs = tf.concat([embedding, *extra], axis=-1)
        return self._query(self._drop_query(inputs, training=training))

    def item_side(
        self, embedding: Any, extra: Sequence[Any] = (), training: bool = False
    ) -> tf.Tensor:
        """Makes g: `[m, component_dim]`."""
        inputs = tf.concat([embedding, *extra], axis=-1)
        return self._item(self._drop_item(inputs, training=training))


class MixtureOfLogits(LearnedSimilarity):
    """Mixture of Logits: several dot products and a gate over them.

    Sections 3.3 of arXiv 2407.13218 (LiNR), 3 of arXiv 2306.04039, and RAILS:

        f_p, g_r   components, divided by max(length, 1e-6)
        l_pr     = s(f_p, g_r) / temperature
        z        = A(q) * B(x) + C(l)         A, B, C: MLPs, one SiLU layer
        pi       = softmax(z * sigmoid(z))    the gate "silu_softmax"
        score    = sum_pr pi_pr l_pr

    The first query components are projections of the query tower's embedding,
    by a linear layer or by SwiGLU/GeGLU and one; each extra feature (a newest
    item, a cluster, ...) is projected to one component more; items likewise,
    by linear layers. A and B see embedding and extra features together. With
    `normalized=False` components keep their lengths.

    With `start="inner_product"` training starts from that of the embeddings
    that the layer is given: every projection of them starts as their first
    numbers, but for a little noise, and the gate nearly leaves out the pairs
    of extra features. That is not in the papers, whose similarities take
    trained two-tower embeddings as they are.

    Load balancing: `-H(mean pi) + mean H(pi)`, the negative mutual information
    of pair and component, times `balance_weight` (0.001 in RAILS); `call` adds
    it to the layer's losses at training. What differs from RAILS: other gates
    (spec.GATES), and per-component dropout, which takes pairs of components
    from a query altogether before pi is normalised again, so that each learns
    to score without the others. Where dropout would leave nothing of pi, it
    keeps all.
    """

    def __init__(
        self,
        query_width: int,
        item_width: int,
        *,
        query_components: int = 4,
        item_components: int = 2,
        component_dim: int = 32,
        query_gate_width: int | None = None,
        query_extra: Sequence[int] = (),
        item_extra: Sequence[int] = (),
        component: str = "inner_product",
        hidden: int = 0,
        temperature: float = 0.05,
        gate: str = "silu_softmax",
        gate_hidden: int = 128,
        side_gate_hidden: int = 128,
        projection: str = "linear",
        projection_hidden: int = 512,
        normalized: bool = True,
        start: str = "random",
        item_dropout: float = 0.1,
        gate_dropout: float = 0.2,
        component_dropout: float = 0.0,
        balance_weight: float = 0.001,
        seed: int = 0,
        **kwargs: Any,
    ):
        """Makes the weights.

        Args:
          query_width: of the query tower's embedding.
          item_width: of the item tower's.
          query_components: projections of the query's embedding.
          item_components: projections of the item's.
          component_dim: numbers a component.
          query_gate_width: how many of the embedding's first numbers A sees;
            by default all.
          query_extra: widths of the query's extra features; each is one
            component more.
          item_extra: of the item's.
          component: one of `spec.COMPONENTS`.
          hidden: with "hadamard", units of the joint MLP.
          temperature: logits are divided by it.
          gate: one of `spec.GATES`, but "none".
          gate_hidden: units of the pair gate C; 0 leaves it out.
          side_gate_hidden: units of A and of B.
          projection: of the query's embedding, one of `PROJECTIONS`.
          projection_hidden: units of SwiGLU or GeGLU.
          normalized: whether components are divided by their lengths.
          start: one of `STARTS`; "inner_product" needs linear projections that
            are not normalised and have room for the item's embedding, with
            which the query's begins too.
          item_dropout: share of the item side's inputs dropped at training.
          gate_dropout: share of pi set to 0 at training.
          component_dropout: share of a query's pairs of components that are
            left out at training, for all items.
          balance_weight: of the load-balancing loss.
          seed: of the weights and of dropout.
          **kwargs: as for every Keras layer.

        Raises:
          ValueError: a setting is out of range.
        """
        if gate == "none":
            raise ValueError(
                'a mixture of logits needs a gate, got "none"; without a gate '
                "there is one pair of components: use HadamardMlp, or the "
                "inner product of the towers"
            )
        if projection not in PROJECTIONS:
            raise ValueError(
                f"`projection` must be one of {', '.join(PROJECTIONS)}, got "
                f"{projection!r}"
            )
        if start not in STARTS:
            raise ValueError(
                f"`start` must be one of {', '.join(STARTS)}, got {start!r}"
            )
        spec = SimilaritySpec(
            query_components=query_components + len(query_extra),
            item_components=item_components + len(item_extra),
            component_dim=component_dim,
            component=component,
            hidden=hidden,
            temperature=temperature,
            gate=gate,
            gate_hidden=gate_hidden,
        )
        offset: np.ndarray | None = None
        kernel: Callable[[int], Any] = _glorot
        if start == "inner_product":
            plain = projection == "linear" and component != "hadamard"
            if normalized or not plain or component_dim < item_width:
                raise ValueError(
                    '`start` "inner_product" needs `normalized` false, linear '
                    "projections, no Hadamard components and a `component_dim` "
                    f"of at least the item embedding's {item_width}, got "
                    f"{normalized}, {projection}, {component} and "
                    f'{component_dim}; or take the start "random"'
                )
            kernel = _near_identity(component_dim)
            of_extra = np.ones([spec.query_components, spec.item_components])
            of_extra[:query_components, :item_components] = 0
            offset = _EXTRA_OFFSET * of_extra.reshape(-1)
        super().__init__(spec, seed=seed, gate_offset=offset, **kwargs)
        make, pairs = self._maker, spec.pairs
        self._balance_weight = balance_weight
        self._normalized = normalized
        self._query = (
            make.linear(
                "query",
                query_width,
                query_components * component_dim,
                start=kernel,
            )
            if projection == "linear"
            else make.gated(
                "query",
                query_width,
                projection_hidden,
                query_components * component_dim,
                tf.nn.silu if projection == "swiglu" else _gelu,
            )
        )
        self._item = make.linear(
            "item", item_width, item_components * component_dim, start=kernel
        )
        self._query_extra = tuple(
            make.linear(f"query_extra_{n}", width, component_dim)
            for n, width in enumerate(query_extra)
        )
        self._item_extra = tuple(
            make.linear(f"item_extra_{n}", width, component_dim)
            for n, width in enumerate(item_extra)
        )
        self._query_gate_width = (
            query_width if query_gate_width is None else query_gate_width
        )
        if not 1 <= self._query_gate_width <= query_width:
            raise ValueError(
                f"`query_gate_width` must be from 1 to {query_width}, got "
                f"{query_gate_width}"
            )
        self._gate_a = make.mlp(
            "gate_a",
            self._query_gate_width + sum(query_extra),
            side_gate_hidden,
            pairs,
        )
        self._gate_b = make.mlp(
            "gate_b", item_width + sum(item_extra), side_gate_hidden, pairs
        )

        def dropout(rate: float, number: int, name: str) -> StatelessDropout:
            return StatelessDropout(rate, seed=seed + number, name=name)

        self._drop_item = dropout(item_dropout, 1, "drop_item")
        self._drop_gate = dropout(gate_dropout, 2, "drop_gate")
        self._drop_pairs = dropout(component_dropout, 3, "drop_pairs")
        self._drops_pairs = component_dropout > 0
        self._drops_gate = gate_dropout > 0
        self.built = True

    def query_side(
        self, embedding: Any, extra: Sequence[Any] = (), training: bool = False
    ) -> tf.Tensor:
        """Makes `[f_1 | ... | A]`."""
        _check_extra("query", extra, self._query_extra)
        projected = [
            self._query(embedding),
            *(f(x) for f, x in zip(self._query_extra, extra, strict=True)),
        ]
        seen = [embedding[:, : self._query_gate_width], *extra]
        return self._vector(projected, self._gate_a(tf.concat(seen, axis=-1)))

    def item_side(
        self, embedding: Any, extra: Sequence[Any] = (), training: bool = False
    ) -> tf.Tensor:
        """Makes `[g_1 | ... | B]`."""
        _check_extra("item", extra, self._item_extra)
        gate = self._gate_b(tf.concat([embedding, *extra], axis=-1))
        embedding, *extra = (
            self._drop_item(x, training=training) for x in (embedding, *extra)
        )
        projected = [
            self._item(embedding),
            *(f(x) for f, x in zip(self._item_extra, extra, strict=True)),
        ]
        return self._vector(projected, gate)

    def _vector(self, projected: Sequence[Any], gate: Any) -> tf.Tensor:
        """Puts components and the gate's numbers into one vector."""
        flat = tf.concat(projected, axis=-1)
        if self._normalized:
            d = self.spec.component_dim
            parts = tf.reshape(flat, [-1, flat.shape[-1] // d, d])
            # The root's gradient at 0 is infinite: a zero vector stays one.
            square = tf.reduce_sum(parts * parts, axis=-1, keepdims=True)
            parts *= tf.math.rsqrt(tf.maximum(square, _EPSILON**2))
            flat = tf.reshape(parts, [-1, flat.shape[-1]])
        return tf.concat([flat, gate], axis=-1)

    def kept_pairs(self, num_queries: Any) -> tf.Tensor | None:
        """Draws what per-component dropout leaves of each query."""
        if not self._drops_pairs:
            return None
        ones = tf.ones([num_queries, self.spec.pairs])
        return self._drop_pairs(ones, training=True)

    def mix(
        self,
        queries: tf.Tensor,
        items: tf.Tensor,
        training: bool = False,
        kept: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores, and the load-balancing loss, not weighted."""
        weights = self.scoring_weights()
        logits = scoring.pair_logits(self.spec, weights, queries, items)
        pi = scoring.gate_weights(self.spec, weights, queries, items, logits)
        # Costs as much as the gate itself.
        balance = _balance(pi) if self._balance_weight else tf.zeros([])
        if training:
            if kept is None:
                kept = self.kept_pairs(tf.shape(queries)[0])
            pi = self._dropped(pi, kept)
        return tf.reduce_sum(pi * logits, axis=-1), balance

    def call(
        self, queries: tf.Tensor, items: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Scores; at training also adds the load-balancing loss."""
        found, balance = self.mix(queries, items, training)
        if training and self._balance_weight:
            self.add_loss(self._balance_weight * balance)
        return found

    @property
    def balance_weight(self) -> float:
        """What `call` multiplies the load-balancing loss by."""
        return self._balance_weight

    def gate_usage(self, queries: Any, items: Any) -> tf.Tensor:
        """The mean of pi over all pairs: `[pairs]`."""
        weights = self.scoring_weights()
        logits = scoring.pair_logits(self.spec, weights, queries, items)
        pi = scoring.gate_weights(self.spec, weights, queries, items, logits)
        return tf.reduce_mean(pi, axis=[0, 1])

    def _dropped(self, pi: tf.Tensor, pairs: tf.Tensor | None) -> tf.Tensor:
        """Sets some of pi to 0; a convex gate's pi sums to 1 again."""
        spec, kept = self.spec, pi
        if pairs is None and not self._drops_gate:
            return pi
        if pairs is not None:
            kept *= pairs[:, tf.newaxis]
        if self._drops_gate:
            kept = self._drop_gate(kept, training=True)
        if not spec.is_convex:
            return kept
        total = tf.reduce_sum(kept, axis=-1, keepdims=True)
        return tf.where(total > 0, kept / tf.where(total > 0, total, 1.0), pi)


class _WeightMaker:
    """Makes a layer's weights, and draws them again.

    Not a Keras layer itself, so that the weights stand in the layer's own
    order.
    """

    def __init__(self, layer: tf.keras.layers.Layer, seed: int):
        self._layer = layer
        self._seed = seed
        self._made: list[tuple[Any, Callable[[int], Any]]] = []

    def make(
        self, name: str, shape: Sequence[int], start: Callable[[int], Any]
    ) -> Any:
        """Makes a weight; `start` maps a seed to an initialiser."""
        weight = self._layer.add_weight(
            shape=tuple(shape),
            initializer=start(self._number(len(self._made), self._seed)),
            name=name,
        )
        self._made.append((weight, start))
        return weight

    def redraw(self, seed: int) -> None:
        for number, (weight, start) in enumerate(self._made):
            draw = start(self._number(number, seed))
            weight.assign(draw(tuple(weight.shape), dtype="float32"))

    @staticmethod
    def _number(position: int, seed: int) -> int:
        return 100 * seed + position

    def linear(
        self,
        name: str,
        inputs: int,
        units: int,
        *,
        bias: bool = True,
        start: Callable[[int], Any] | None = None,
    ) -> Callable[[Any], tf.Tensor]:
        """x W + b."""
        kernel = self.make(f"{name}_kernel", [inputs, units], start or _glorot)
        if not bias:
            return lambda x: tf.matmul(x, tf.convert_to_tensor(kernel))
        offset = self.make(f"{name}_bias", [units], _zeros)
        return lambda x: (
            tf.matmul(x, tf.convert_to_tensor(kernel))
            + tf.convert_to_tensor(offset)
        )

    def mlp(
        self, name: str, inputs: int, hidden: int, units: int
    ) -> Callable[[Any], tf.Tensor]:
        """One hidden layer with SiLU; the output has no bias."""
        first = self.linear(f"{name}_hidden", inputs, hidden)
        second = self.linear(f"{name}_output", hidden, units, bias=False)
        return lambda x: second(tf.nn.silu(first(x)))

    def gated(
        self,
        name: str,
        inputs: int,
        hidden: int,
        units: int,
        activation: Callable[[tf.Tensor], tf.Tensor],
    ) -> Callable[[Any], tf.Tensor]:
        """A gated linear unit, then a linear layer."""
        gate = self.linear(f"{name}_gate", inputs, hidden, start=_small)
        value = self.linear(f"{name}_value", inputs, hidden, start=_small)
        output = self.linear(name, hidden, units)
        return lambda x: output(activation(gate(x)) * value(x))


def _start(name: str, spec: SimilaritySpec) -> Callable[[int], Any]:
    """Where a weight of scoring starts from."""
    if name == "pair_weights":
        return lambda seed: tf.keras.initializers.Ones()
    if name == "gate_offset" and spec.gate == "relu":
        # Without it half of the components would start without a gradient.
        return lambda seed: tf.keras.initializers.Constant(1 / spec.pairs)
    if name.endswith(("bias", "offset")):
        return _zeros
    if name == "joint_output":
        # A vector; Glorot's fans are a matrix's.
        deviation = float(np.sqrt(2 / (spec.hidden + 1)))
        return lambda seed: tf.keras.initializers.RandomNormal(
            stddev=deviation, seed=seed
        )
    return _glorot


def _glorot(seed: int) -> Any:
    return tf.keras.initializers.GlorotUniform(seed=seed)


class _Values(tf.keras.initializers.Initializer):
    """Given values."""

    def __init__(self, values: np.ndarray):
        self._values = values

    def __call__(self, shape: Any, dtype: Any = None, **_: Any) -> tf.Tensor:
        return tf.reshape(tf.constant(self._values, tf.float32), shape)


class _NearIdentity(tf.keras.initializers.Initializer):
    """Kernels that copy the first inputs to every component, and noise."""

    def __init__(self, width: int, seed: int):
        self._width = width
        self._noise = tf.keras.initializers.RandomNormal(0.0, _NOISE, seed)

    def __call__(self, shape: Any, dtype: Any = None, **_: Any) -> tf.Tensor:
        inputs, units = shape
        copies = [1, units // self._width]
        eye = tf.tile(tf.eye(inputs, self._width), copies)
        return tf.convert_to_tensor(self._noise(shape, dtype="float32")) + eye


def _near_identity(width: int) -> Callable[[int], Any]:
    return lambda seed: _NearIdentity(width, seed)


def _small(seed: int) -> Any:
    return tf.keras.initializers.RandomNormal(stddev=0.02, seed=seed)


def _zeros(seed: int) -> Any:
    return tf.keras.initializers.Zeros()


def _gelu(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.gelu(x)


def _balance(pi: tf.Tensor) -> tf.Tensor:
    """`-H(mean pi) + mean H(pi)`, of pi made to sum to 1.

    Where all of a pair's pi are 0 (a ReLU gate) the pair counts nothing.
    """
    share = tf.math.divide_no_nan(pi, tf.reduce_sum(pi, axis=-1, keepdims=True))
    mean = tf.reduce_mean(share, axis=[0, 1])
    return tf.reduce_mean(_entropy(share)) - _entropy(mean)


def _entropy(share: tf.Tensor) -> tf.Tensor:
    return -tf.reduce_sum(share * tf.math.log(share + 1e-12), axis=-1)


def _check_extra(side: str, extra: Sequence[Any], known: Sequence[Any]) -> None:
    if len(extra) != len(known):
        raise ValueError(
            f"the {side} side has {len(known)} extra features, got "
            f"{len(extra)}; they are given when the layer is made "
            f"(`{side}_extra`)"
        )


def weight_values(weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Reads weights of scoring as float32 arrays."""
    return {
        name: np.asarray(tf.convert_to_tensor(weight), np.float32)
        for name, weight in weights.items()
    }
