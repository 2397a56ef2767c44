# SPDX-License-Identifier: Apache-2.0
"""How signatures search: what is refused, and what follows from what."""

import dataclasses

import pytest

from lintf.index.plan import Plan, Variant, check_portable, check_variants
from lintf.index.schema import IndexSchema, Quantization
from lintf.similarity.spec import SimilaritySpec

CODES = Quantization(2, 32, shortlist=300)
SPEC = SimilaritySpec(2, 2, 8, gate="softmax")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "`k` must be an integer of at least 1, got 0"),
        ({"algorithm": "ivf"}, "`algorithm` must be one of auto, masked"),
        ({"k": 2.5}, "`k` must be an integer of at least 1, got 2.5"),
        ({"k": True}, "`k` must be an integer of at least 1, got True"),
        ({"shortlist": 0}, "`shortlist` must be an integer of at least 1"),
        ({"budget": 0}, "`budget` must be an integer of at least 1, got 0"),
        ({"candidates": "best"}, "`candidates` must be one of averaged, comp"),
        ({"name": "1st"}, "a variant's name must be letters"),
        ({"name": "a-b"}, "a variant's name must be letters"),
    ],
)
def test_variant_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Variant(**{"name": "wide", "k": 3, **arguments})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["retrieve"], "'retrieve' has the name of a signature of every"),
        (["update"], "'update' has the name of a signature of every"),
        (["a", "b", "a"], "'a' has the name of a signature of variant 'a'"),
        (
            ["a", "a_by_embedding"],
            "'a_by_embedding' has the name of a signature of variant 'a'",
        ),
        (["x_by_embedding", "x"], "'x_by_embedding' has the name of"),
    ],
)
def test_signatures_have_names_of_their_own(names, message):
    with pytest.raises(ValueError, match=message):
        check_variants([Variant(name, 1) for name in names])
    check_variants([Variant("a", 1), Variant("b", 1)])


def test_a_shortlist_keeps_its_proportion_to_k():
    schema = IndexSchema(dim=4, quantization=CODES)
    wide = Variant("wide", k=25)
    assert wide.plan_beside(Plan(10), schema).shortlist == 750
    assert wide.plan_beside(Plan(10, shortlist=15), schema).shortlist == 38
    own = Variant("own", k=25, shortlist=26)
    assert own.plan_beside(Plan(10), schema).shortlist == 26
    assert wide.plan_beside(Plan(10), IndexSchema(dim=4)).shortlist is None


def test_algorithms_need_what_they_read():
    plain, coded = IndexSchema(dim=4), IndexSchema(dim=4, quantization=CODES)
    alone = IndexSchema(dim=4, dtype="none", quantization=CODES)
    with pytest.raises(ValueError, match='"quantized" needs codes'):
        Plan(1, "quantized").check(plain)
    for algorithm in ("masked", "prefiltered"):
        with pytest.raises(ValueError, match="stores codes alone"):
            Plan(1, algorithm).check(alone)
        Plan(1, algorithm).check(coded)
    for schema in (coded, alone):
        Plan(1, "quantized").check(schema)
        Plan(1).check(schema)


def test_portable_codes_must_be_symmetric():
    with pytest.raises(ValueError, match='have the scoring "symmetric"'):
        check_portable(IndexSchema(dim=4, dtype="none", quantization=CODES))
    same = Quantization(2, 32, scoring="symmetric")
    check_portable(IndexSchema(dim=4, dtype="none", quantization=same))
    check_portable(IndexSchema(dim=4, quantization=CODES))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"algorithm": "masked"}, "must be auto, exact, bounded or two_stage"),
        ({"algorithm": "quantized"}, "got 'quantized', which searches by inn"),
        ({"shortlist": 9}, "`shortlist` must be left out .* give a `budget`"),
        ({"candidates": "codes"}, '`candidates` "codes" needs codes'),
    ],
)
def test_learned_similarities_have_algorithms_of_their_own(plan, message):
    learned = IndexSchema(dim=SPEC.item_dim, similarity=SPEC)
    with pytest.raises(ValueError, match=message):
        Plan(3, **plan).check(learned)
    for algorithm in ("auto", "exact", "bounded", "two_stage"):
        Plan(3, algorithm, budget=9).check(learned)
    coded = dataclasses.replace(learned, quantization=CODES)
    Plan(3, "two_stage", candidates="codes").check(coded)


@pytest.mark.parametrize("gate", ["relu", "sigmoid"])
def test_a_bound_needs_a_convex_gate(gate):
    spec = dataclasses.replace(SPEC, gate=gate)
    learned = IndexSchema(dim=spec.item_dim, similarity=spec)
    with pytest.raises(
        ValueError, match=f"convex gate .* got the gate '{gate}"
    ):
        Plan(3, "bounded").check(learned)
    Plan(3, "exact").check(learned)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"algorithm": "exact"}, "'exact' needs a learned similarity, but"),
        ({"candidates": "averaged"}, "`candidates` must only be given for an"),
        ({"budget": 5}, "`budget` must only be given for an index with a le"),
    ],
)
def test_other_indexes_have_no_candidates(plan, message):
    with pytest.raises(ValueError, match=message):
        Plan(3, **plan).check(IndexSchema(dim=4, quantization=CODES))


def test_a_budget_keeps_its_proportion_to_k():
    schema = IndexSchema(dim=SPEC.item_dim, similarity=SPEC)
    wide = Variant("wide", k=25)
    assert Plan(10).budget_or_default == 1000
    assert Plan(200).budget_or_default == 2000
    assert Plan(10, budget=3).budget_or_default == 10
    assert wide.plan_beside(Plan(10), schema).budget is None
    main = Plan(10, budget=15, candidates="components")
    beside = wide.plan_beside(main, schema)
    assert (beside.budget, beside.candidates) == (38, "components")
    own = Variant("own", 25, "two_stage", None, "averaged", 26)
    beside = own.plan_beside(main, schema)
    assert (beside.budget, beside.candidates) == (26, "averaged")
