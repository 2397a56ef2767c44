# SPDX-License-Identifier: Apache-2.0
"""Clauses from tensors against a plain reading of the paper's rule."""

import json

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.filters.clauses import Clause, and_programs, clause_program
from lintf.index.schema import Attribute, IndexSchema
from tests.filters.language_test import Rows
from tests.references import filter_cases, filter_reference

BATCH = 9


def random_values(rng, schema, rows, name):
    """`[BATCH, 4]` values for a clause, with padding anywhere."""
    if name == "id":
        kind = "category" if schema.id_dtype == "string" else "int"
        unknown = ["nobody"] if kind == "category" else [4, -(1 << 63), -1]
    else:
        attribute = schema.attribute(name)
        kind = attribute.kind
        is_text = kind in ("category", "tags")
        unknown = ["unknown", "€"] if is_text else [3, 300, 1 << 62, -128]
    pad = "" if kind in ("category", "tags") else -9
    pool = [pad, pad, *unknown]
    for row in rows:
        value = row[name]
        if value is not None:
            pool += value if kind == "tags" else [value]
    pool = [int(v) if isinstance(v, bool) else v for v in pool]
    table = [
        [pool[rng.integers(len(pool))] for _ in range(4)] for _ in range(BATCH)
    ]
    table[0] = [pad] * 4
    table[1] = [unknown[0]] + [pad] * 3
    dtype = tf.string if isinstance(pad, str) else tf.int64
    return table, tf.constant(table, dtype), pad


def satisfies(row, name, values, pad, reverse):
    """The rule, on Python values."""
    values = [v for v in values if v != pad]
    if not values:
        return True
    has = row[name]
    has = [] if has is None else has if isinstance(has, list) else [has]
    return any(v in values for v in has) != reverse


def expected(table_of_clause, schema, rows):
    known = {
        a.name: set(a.vocabulary)
        for a in schema.attributes
        if a.encoding in ("vocabulary", "bits")
    }
    out = np.ones((BATCH, len(rows)), bool)
    for clause, table, pad in table_of_clause:
        name = clause.attribute
        for b, values in enumerate(table):
            for r, row in enumerate(rows):
                value = row[name]
                if name in known and value is not None:
                    # What is outside the vocabulary can't be named.
                    tags = value if isinstance(value, list) else [value]
                    row = {name: [t for t in tags if t in known[name]]}
                out[b, r] &= satisfies(row, name, values, pad, clause.reverse)
    return out


def masks(rows, programs):
    bits = ops.filter_mask(
        programs, rows.resource, rows.ids, rows.num_rows, rows.columns
    ).bits.numpy()
    flat = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")
    return flat[:, : len(rows.rows)].astype(bool)


@pytest.mark.parametrize("seed", range(25))
def test_random_clauses(seed):
    rng = np.random.default_rng(seed)
    schema = filter_cases.random_schema(rng)
    rows = Rows(schema, filter_cases.random_rows(rng, schema, 70))
    names = [a.name for a in schema.attributes if a.kind != "float"] + ["id"]
    clauses = []
    for name in rng.permutation(names)[: rng.integers(1, 4)]:
        table, values, pad = random_values(rng, schema, rows.rows, str(name))
        reverse = bool(rng.integers(2))
        padding = pad if isinstance(pad, int) else -1
        clauses.append(
            (Clause(str(name), values, reverse, padding), table, pad)
        )
    got = masks(rows, clause_program([c for c, *_ in clauses], schema))
    np.testing.assert_array_equal(got, expected(clauses, schema, rows.rows))


def _schema():
    return IndexSchema(
        dim=1,
        attributes=(
            Attribute("genre", "tags", "bits", "uint8", 1, ("a", "b")),
            Attribute("year", "int", dtype="int16"),
            Attribute("price", "float", dtype="float32"),
        ),
    )


def _rows(schema):
    return Rows(
        schema,
        [
            {"id": 5, "genre": ["a"], "year": 1990, "price": 1.0},
            {"id": 6, "genre": ["a", "b"], "year": 1991, "price": None},
            {"id": 7, "genre": None, "year": None, "price": 3.0},
        ],
    )


def test_clauses_join_written_filters():
    schema = _schema()
    rows = _rows(schema)
    filters = ["", "year >= 1991", "not genre == 'b'", ""]
    seen = tf.constant([[5, -1], [7, 6], [-1, -1], [-1, 6]])
    derived = clause_program([Clause("id", seen, reverse=True)], schema)
    written = ops.compile_filter(filters, schema)
    both = and_programs(written, derived)
    want = masks(rows, written) & masks(rows, derived)
    np.testing.assert_array_equal(masks(rows, both), want)
    np.testing.assert_array_equal(
        want, [[0, 1, 1], [0, 0, 0], [1, 0, 1], [1, 0, 1]]
    )
    nothing = tf.zeros([4, 3], tf.int64)
    np.testing.assert_array_equal(
        masks(rows, and_programs(nothing, derived)), masks(rows, derived)
    )
    assert not and_programs(nothing, nothing).numpy().any()


def test_unknown_shapes_in_a_function():
    schema = _schema()
    rows = _rows(schema)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.string),
            tf.TensorSpec([None, None], tf.int32),
        ]
    )
    def build(genres, years):
        return clause_program(
            [Clause("genre", genres), Clause("year", years, padding=0)], schema
        )

    programs = build([["b", ""], ["", ""]], [[1990, 1991, 0], [1990, 0, 0]])
    np.testing.assert_array_equal(masks(rows, programs), [[0, 1, 0], [1, 0, 0]])
    no_values = build(tf.zeros([2, 0], tf.string), tf.zeros([2, 0], tf.int32))
    assert masks(rows, no_values).all()


def test_clauses_agree_with_the_language():
    schema = _schema()
    rows = _rows(schema)
    genres = [["a", "b"], ["b", "b"], ["nowhere", ""]]
    programs = clause_program([Clause("genre", tf.constant(genres))], schema)
    for values, got in zip(genres, masks(rows, programs), strict=True):
        listed = json.dumps([v for v in values if v])
        want = [
            filter_reference.passes(f"genre in {listed}", row, schema)
            for row in rows.rows
        ]
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("clause", "message"),
    [
        (("genres", [["a"]]), "no attribute 'genres'; there are: id, genre"),
        (("price", [[1.0]]), "'price' is a float"),
        (("genre", [[1]]), "must be strings, got int32"),
        (("year", [["1990"]]), "must be integers, got string"),
        (("year", [1990]), r"must be \[batch, values\], got the shape \(1,\)"),
    ],
)
def test_wrong_clauses(clause, message):
    name, values = clause
    with pytest.raises(ValueError, match=message):
        clause_program([Clause(name, tf.constant(values))], _schema())


def test_no_clause():
    with pytest.raises(ValueError, match="at least one clause"):
        clause_program([], _schema())
