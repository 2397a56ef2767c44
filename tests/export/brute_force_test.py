# SPDX-License-Identifier: Apache-2.0
"""The check itself is checked: it passes right answers, and no others."""

import numpy as np
import pytest

from export import brute_force
from lintf.index import columns, oporp, storage
from lintf.index.schema import IndexSchema, Quantization, infer_attribute

ROWS, DIM, K = 50, 6, 5


def make_table(
    metric: str = "inner_product",
    dtype: str = "float32",
    codes: Quantization | None = None,
) -> brute_force.Table:
    random = np.random.default_rng(2)
    tags = [[w for w in "abc" if random.random() < 0.5] for _ in range(ROWS)]
    colours = [random.choice(["red", "blue", ""]) for _ in range(ROWS)]
    years = [None if i % 9 == 0 else 1990 + i for i in range(ROWS)]
    prices = random.random(ROWS)
    sold = [None, True, False] * ROWS
    values = {
        "tags": ("tags", tags, None),
        "codes": ("tags", tags, "vocabulary"),
        "colour": ("category", colours, None),
        "year": ("int", years, None),
        "price": ("float", prices, None),
        "sold": ("bool", sold[:ROWS], None),
    }
    attributes = tuple(
        infer_attribute(name, kind, list(data), encoding=encoding)
        for name, (kind, data, encoding) in values.items()
    )
    embeddings = random.standard_normal((ROWS, DIM)).astype(np.float32)
    if metric == "cosine":
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = None
    if codes is not None:
        rows = oporp.pack(embeddings @ oporp.projection(codes, DIM) >= 0)
    stored = None
    if dtype != "none":
        stored = storage.decode(*storage.encode(embeddings, dtype))
    return brute_force.Table(
        IndexSchema(
            dim=DIM,
            metric=metric,
            attributes=attributes,
            dtype=dtype,
            quantization=codes,
        ),
        np.arange(ROWS) * 3,
        stored,
        {a.name: columns.encode(a, values[a.name][1]) for a in attributes},
        codes=rows,
    )


def answer(table, query, passing):
    exact = brute_force.scores(table, query)
    order = [r for r in np.argsort(-exact, kind="stable") if passing[r]][:K]
    rows = np.array(order + [-1] * (K - len(order)))
    found = np.where(rows < 0, -np.inf, exact[rows]).astype(np.float32)
    return rows, found, len(order)


QUERY = np.linspace(-1, 1, DIM).astype(np.float32)
ALL = np.ones(ROWS, bool)


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
@pytest.mark.parametrize("passing", [ALL, np.arange(ROWS) < 3, ~ALL])
def test_right_answers_pass(metric, passing):
    table = make_table(metric)
    result = answer(table, QUERY, passing)
    assert brute_force.check_result(table, QUERY, passing, *result) is None


def test_scores_by_hand():
    table = make_table("l2")
    difference = table.embeddings[7].astype(float) - QUERY
    assert brute_force.scores(table, QUERY)[7] == pytest.approx(
        -(difference @ difference)
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows, found: (rows, found, 4), "expected 5 results, got 4"),
        (lambda rows, found: (rows[[0, 0, 2, 3, 4]], found, 5), "twice"),
        (lambda rows, found: (rows[::-1], found[::-1], 5), "must not ascend"),
        (lambda rows, found: (rows, found + 0.01, 5), "brute force gives"),
        (
            lambda rows, found: (np.array([*rows[:4], -1]), found, 5),
            "not in the index",
        ),
    ],
)
def test_wrong_answers_do_not(spoil, message):
    table = make_table()
    rows, found, _ = answer(table, QUERY, ALL)
    wrong = brute_force.check_result(table, QUERY, ALL, *spoil(rows, found))
    assert wrong is not None
    assert message in wrong


def test_a_missing_item_and_a_filtered_one_are_found_out():
    table = make_table()
    rows, found, count = answer(table, QUERY, ALL)
    without_best = ALL.copy()
    without_best[rows[0]] = False
    other = answer(table, QUERY, without_best)
    wrong = brute_force.check_result(table, QUERY, ALL, *other)
    assert wrong is not None
    assert "is missing" in wrong
    wrong = brute_force.check_result(
        table, QUERY, without_best, rows, found, count
    )
    assert wrong is not None
    assert "does not pass the filter" in wrong
    none = brute_force.check_result(
        table, QUERY, ~ALL, np.full(K, -1), np.zeros(K), 0
    )
    assert none is not None
    assert "unused slots" in none


SYMMETRIC = Quantization(2, 32, scoring="symmetric")
ASYMMETRIC = Quantization(2, 32)


def test_code_scores_by_hand():
    table = make_table(dtype="none", codes=SYMMETRIC)
    samples = QUERY @ oporp.projection(SYMMETRIC, DIM).astype(float)
    signs = np.where(oporp.unpack(table.codes[7:8])[0], 1, -1)
    matched = int((signs == np.where(samples >= 0, 1, -1)).sum())
    assert brute_force.scores(table, QUERY)[7] == matched
    table = make_table(dtype="none", codes=ASYMMETRIC)
    assert brute_force.scores(table, QUERY)[7] == pytest.approx(signs @ samples)


@pytest.mark.parametrize("codes", [SYMMETRIC, ASYMMETRIC])
def test_answers_by_codes(codes):
    table = make_table(dtype="none", codes=codes)
    rows, found, count = answer(table, QUERY, ALL)
    assert (
        brute_force.check_result(table, QUERY, ALL, rows, found, count) is None
    )
    off = found + 2 * brute_force.tolerance(table, QUERY) + 0.5
    wrong = brute_force.check_result(table, QUERY, ALL, rows, off, count)
    assert wrong is not None
    assert "brute force gives" in wrong
    # What scores no bit of a code may not stand in for the best.
    worst = np.argsort(brute_force.scores(table, QUERY))[:K][::-1]
    found = brute_force.scores(table, QUERY)[worst]
    wrong = brute_force.check_result(table, QUERY, ALL, worst, found, K)
    assert wrong is not None
    assert "is missing" in wrong


def test_an_approximate_answer_may_leave_items_out_and_nothing_else():
    table = make_table(codes=ASYMMETRIC)
    without_best = ALL.copy()
    without_best[answer(table, QUERY, ALL)[0][0]] = False
    rows, found, count = answer(table, QUERY, without_best)
    for passing, values, message in [
        (ALL, found, None),
        (np.arange(ROWS) != rows[1], found, "does not pass the filter"),
        (ALL, found + 0.01, "brute force gives"),
        (ALL, found[::-1], "must not ascend"),
    ]:
        wrong = brute_force.check_result(
            table, QUERY, passing, rows, values, count, exact=False
        )
        assert (wrong is None) == (message is None)
        assert message is None or message in wrong


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
def test_int8_scores_may_be_off_by_the_rounding_of_the_query(metric):
    exact, compact = make_table(metric), make_table(metric, "int8")
    more = brute_force.tolerance(compact, QUERY)
    assert more > brute_force.tolerance(exact, QUERY)
    assert more < 1e-3 * np.abs(brute_force.scores(exact, QUERY)).max()


def test_a_code_that_is_not_its_vectors_is_found_out():
    for dtype in ("float32", "float16", "int8"):
        table = make_table(dtype=dtype, codes=ASYMMETRIC)
        off = 2 * storage.error_bound(table.embeddings, dtype)
        here = slice(10, 40)

        def mismatch(table=table, off=off, here=here):
            return brute_force.code_mismatch(
                table, here, table.embeddings[here], off[here]
            )

        assert mismatch() is None
        table.codes[17] = ~table.codes[17]
        assert mismatch() == 7


def test_the_filter_that_leaves_one_item_out():
    table = make_table()
    assert brute_force.all_but(table, 4) == "id not in [12]"
    texts = np.array(["plain", 'a "quoted" one'], object)
    named = brute_force.Table(table.schema, table.ids, None, {}, texts)
    assert brute_force.all_but(named, 0) == 'id not in ["plain"]'
    assert brute_force.all_but(named, 1) == ""


def expected_rows(decoded, text):
    """Evaluates the single clauses that the test looks at."""
    name, operator, value = (text.split(" ", 2) + ["", ""])[:3]
    if text == "exists(tags)":
        return [bool(t) for t in decoded["tags"]]
    if text == "sold == true":
        return [v is True for v in decoded["sold"]]
    if (name, operator) == ("year", ">=") and value.isdigit():
        return [y is not None and y >= int(value) for y in decoded["year"]]
    if (name, operator) == ("colour", "!=") and value[1:-1].isalpha():
        return [f'"{c}"' != value for c in decoded["colour"]]
    return None


def test_filters_know_their_rows():
    table = make_table()
    decoded = {
        a.name: columns.decode(a, table.attributes[a.name])
        for a in table.schema.attributes
    }
    seen = set()
    for seed in range(10):
        random = np.random.default_rng(seed)
        filters = brute_force.random_filters(table, 200, random)
        assert len(filters) == 200
        assert filters[0].text == ""
        assert filters[0].passing.all()
        for one in filters:
            expected = expected_rows(decoded, one.text)
            if expected is not None:
                assert one.passing.tolist() == expected, one.text
                seen.add(one.text.split(" ")[0])
    assert seen == {"exists(tags)", "sold", "year", "colour"}


def test_rows_of_ids():
    rows = brute_force.row_finder(np.array([30, 10, 20]))
    assert rows(np.array([10, 20, 30, 5, 99, -1])).tolist() == [
        1,
        2,
        0,
        -1,
        -1,
        -1,
    ]
