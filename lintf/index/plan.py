# SPDX-License-Identifier: Apache-2.0
"""How the signatures of an index search: algorithm, k and shortlist."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from typing import Literal

from lintf.index.schema import IndexSchema, is_int

Algorithm = Literal["auto", "masked", "prefiltered", "quantized"]
ALGORITHMS = typing.get_args(Algorithm)

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
            selects by codes and rescores a shortlist; "auto" takes what costs
            least.
        shortlist: Rows that codes select for rescoring; None takes the
            schema's.
    """

    k: int
    algorithm: Algorithm = "auto"
    shortlist: int | None = None

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
        shortlist = self.shortlist
        if shortlist is not None and not (is_int(shortlist) and shortlist > 0):
            raise ValueError(
                f"`shortlist` must be an integer of at least 1, got "
                f"{shortlist!r}"
            )

    def check(self, schema: IndexSchema) -> None:
        """Raises ValueError unless an index of this schema can search so."""
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


@dataclasses.dataclass(frozen=True)
class Variant:
    """Another pair of retrieve signatures, `<name>` and `<name>_by_embedding`.

    Attributes:
        name: Of the signature.
        k: Results a query.
        algorithm: One of `ALGORITHMS`.
        shortlist: Rows that codes select for rescoring; by default as many
            times `k` as in `retrieve`.
    """

    name: str
    k: int
    algorithm: Algorithm = "auto"
    shortlist: int | None = None

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
        """How it searches, but for a shortlist that it does not name."""
        return Plan(self.k, self.algorithm, self.shortlist)

    def plan_beside(self, main: Plan, schema: IndexSchema) -> Plan:
        """How it searches, where `retrieve` does as `main` says."""
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
