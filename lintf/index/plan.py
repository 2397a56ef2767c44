# SPDX-License-Identifier: Apache-2.0
"""How the signatures of an index search: algorithm, k, and what selects."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from typing import Literal

from lintf.index.schema import IndexSchema, is_int
from lintf.similarity.spec import SimilaritySpec

Algorithm = Literal[
    "auto",
    "masked",
    "prefiltered",
    "quantized",
    "exact",
    "bounded",
    "two_stage",
]
ALGORITHMS = typing.get_args(Algorithm)
# Beside "auto", of an index without and with a learned similarity, in the order
# in which an index counts its searches.
PLAIN_ALGORITHMS = ("masked", "prefiltered", "quantized")
LEARNED_ALGORITHMS = ("exact", "bounded", "two_stage")

Candidates = Literal["averaged", "components", "codes"]
CANDIDATES = typing.get_args(Candidates)
# Candidates of a two-stage search, unless a plan says otherwise: this many
# times k, and at least so many.
_BUDGET_TIMES_K = 10
_LEAST_BUDGET = 1000

# What signatures mean is fixed for these names.
RESERVED_SIGNATURES = frozenset(
    "serving_default retrieve retrieve_by_embedding embed_query lookup "
    "index_stats update update_attributes".split()
)
BY_EMBEDDING = "_by_embedding"
_SIGNATURE = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one signature searches.

    Attributes:
        k: Results a query, at least 1; may exceed the number of items.
        algorithm: One of `ALGORITHMS`. "masked" scores all rows for a batch,
            "prefiltered" those that pass, with the same result; "quantized"
            selects by codes and rescores a shortlist. With a learned
            similarity: "exact" scores all rows that pass; "bounded" gives the
            same, and leaves out the gate of rows whose largest logit is too
            low; "two_stage" selects candidates and scores these. "auto" takes
            what costs least.
        shortlist: Rows that codes select for rescoring; None takes the
            schema's. Not for learned similarities.
        candidates: What selects those of "two_stage", one of `CANDIDATES`:
            an inner product with the averaged component, that of each pair of
            components (an equal share of the budget each, so fewer candidates
            where pairs agree), or codes. None for "averaged".
        budget: How many candidates, raised to k; None for 10 k, at least
            1,000.
    """

    k: int
    algorithm: Algorithm = "auto"
    shortlist: int | None = None
    candidates: Candidates | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        if not is_int(self.k) or self.k < 1:
            raise ValueError(
                f"`k` must be an integer of at least 1, got {self.k!r}"
            )
        if self.algorithm not in ALGORITHMS:
            raise ValueError(
                f"`algorithm` must be one of {', '.join(ALGORITHMS)}, got "
                f"{self.algorithm!r}"
            )
        for name in ("shortlist", "budget"):
            value = getattr(self, name)
            if value is not None and not (is_int(value) and value > 0):
                raise ValueError(
                    f"`{name}` must be an integer of at least 1, got {value!r}"
                )
        if self.candidates is not None and self.candidates not in CANDIDATES:
            raise ValueError(
                f"`candidates` must be one of {', '.join(CANDIDATES)}, got "
                f"{self.candidates!r}"
            )

    @property
    def candidates_or_default(self) -> Candidates:
        """What selects candidates."""
        return self.candidates or "averaged"

    @property
    def budget_or_default(self) -> int:
        """How many candidates, at least k."""
        if self.budget is None:
            return max(_BUDGET_TIMES_K * self.k, _LEAST_BUDGET)
        return max(self.budget, self.k)

    def check(self, schema: IndexSchema) -> None:
        """Raises ValueError unless an index of this schema can search so."""
        if schema.similarity is not None:
            self._check_learned(schema, schema.similarity)
            return
        if self.algorithm in LEARNED_ALGORITHMS:
            raise ValueError(
                f"`algorithm` {self.algorithm!r} needs a learned similarity, "
                "but the index has none; take auto, masked, prefiltered or "
                "quantized, or give it a `similarity`"
            )
        for name in ("candidates", "budget"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"`{name}` must only be given for an index with a learned "
                    f"similarity, got {getattr(self, name)!r}; leave it out"
                )
        if self.algorithm == "quantized" and schema.quantization is None:
            raise ValueError(
                '`algorithm` "quantized" needs codes, but the index has none; '
                "give it a `quantization`"
            )
        exact = self.algorithm in ("masked", "prefiltered")
        if exact and schema.dtype == "none":
            raise ValueError(
                f"`algorithm` {self.algorithm!r} needs the embeddings, but "
                'the index stores codes alone (dtype "none"); take "auto" or '
                '"quantized", or store embeddings'
            )

    def _check_learned(
        self, schema: IndexSchema, similarity: SimilaritySpec
    ) -> None:
        if self.algorithm not in ("auto", *LEARNED_ALGORITHMS):
            raise ValueError(
                "`algorithm` must be auto, exact, bounded or two_stage for an "
                "index with a learned similarity, got "
                f"{self.algorithm!r}, which searches by inner products"
            )
        if self.algorithm == "bounded" and not similarity.is_convex:
            raise ValueError(
                '`algorithm` "bounded" needs a convex gate (none, softmax or '
                "silu_softmax), because a score may exceed its largest logit "
                f"otherwise, got the gate {similarity.gate!r}; take exact or "
                "two_stage"
            )
        if self.shortlist is not None:
            raise ValueError(
                "`shortlist` must be left out for an index with a learned "
                f"similarity, got {self.shortlist}; give a `budget`"
            )
        if self.candidates == "codes" and schema.quantization is None:
            raise ValueError(
                '`candidates` "codes" needs codes, but the index has none; '
                "give it a `quantization`, or take averaged or components"
            )


@dataclasses.dataclass(frozen=True)
class Variant:
    """Another pair of retrieve signatures, `<name>` and `<name>_by_embedding`.

    Attributes:
        name: Of the signature.
        k: Results a query.
        algorithm: One of `ALGORITHMS`.
        shortlist: Rows that codes select for rescoring; by default as many
            times `k` as in `retrieve`.
        candidates: As in a `Plan`; by default as in `retrieve`.
        budget: As in a `Plan`; by default as many times `k` as in `retrieve`,
            where that names one.
    """

    name: str
    k: int
    algorithm: Algorithm = "auto"
    shortlist: int | None = None
    candidates: Candidates | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _SIGNATURE.match(self.name):
            raise ValueError(
                "a variant's name must be letters, digits and _, starting "
                f"with a letter, got {self.name!r}"
            )
        try:
            self.plan()
        except ValueError as error:
            raise ValueError(f"variant {self.name!r}: {error}") from error

    def plan(self) -> Plan:
        """How it searches, but for what it leaves to `retrieve`."""
        return Plan(
            self.k,
            self.algorithm,
            self.shortlist,
            self.candidates,
            self.budget,
        )

    def plan_beside(self, main: Plan, schema: IndexSchema) -> Plan:
        """How it searches, where `retrieve` does as `main` says."""
        if schema.similarity is not None:
            budget = self.budget
            if budget is None and main.budget is not None:
                budget = -(-main.budget * self.k // main.k)
            return dataclasses.replace(
                self.plan(),
                candidates=self.candidates or main.candidates,
                budget=budget,
            )
        if self.shortlist is not None or schema.quantization is None:
            return self.plan()
        shortlist = main.shortlist or schema.quantization.shortlist
        return dataclasses.replace(
            self.plan(), shortlist=-(-shortlist * self.k // main.k)
        )

    @property
    def signatures(self) -> tuple[str, str]:
        """The names of its signatures."""
        return self.name, self.name + BY_EMBEDDING


def check_variants(variants: Sequence[Variant]) -> None:
    """Raises ValueError unless all signatures have names of their own."""
    taken = dict.fromkeys(RESERVED_SIGNATURES, "a signature of every index")
    for variant in variants:
        for name in variant.signatures:
            if name in taken:
                raise ValueError(
                    f"variant {variant.name!r}: its signature {name!r} has "
                    f"the name of {taken[name]}; choose another name"
                )
        for name in variant.signatures:
            taken[name] = f"a signature of variant {variant.name!r}"


def check_portable(schema: IndexSchema) -> None:
    """Raises ValueError unless stock operations can search such an index."""
    codes = schema.quantization
    if schema.dtype != "none" or codes is None:
        return
    if codes.scoring != "symmetric":
        raise ValueError(
            "a portable index of codes alone must have the scoring "
            f'"symmetric", because stock operations have no tables for '
            f"{codes.scoring!r}; change it, or store the embeddings"
        )
