# SPDX-License-Identifier: Apache-2.0
"""Filters by the op against the reference in plain Python."""

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.filters import portable
from lintf.index import columns
from lintf.index.schema import Attribute, FilterLimits, IndexSchema
from tests.references import filter_cases, filter_reference


class Rows:
    """Rows of values and, encoded, as an index holds them."""

    def __init__(self, schema, rows):
        self.schema = schema
        self.rows = rows
        ids = [row["id"] for row in rows]
        if schema.id_dtype == "string":
            ids = columns.fingerprints(ids)
        self.ids = tf.Variable(np.array(ids, np.int64))
        self.columns = [
            tf.Variable(columns.encode(a, [row[a.name] for row in rows]))
            for a in schema.attributes
        ]
        self.num_rows = tf.Variable(len(rows), dtype=tf.int64)
        self.resource = ops.IndexResource()

    def expected(self, filters):
        """`[filters, rows]` bool, by the reference."""
        return np.array(
            [
                [
                    filter_reference.passes(f, row, self.schema)
                    for row in self.rows
                ]
                for f in filters
            ]
        )

    def passing(self, filters):
        """`[filters, rows]` bool, by the ops."""
        programs = ops.compile_filter(filters, self.schema)
        bits = ops.filter_mask(
            programs, self.resource, self.ids, self.num_rows, self.columns
        ).bits.numpy()
        flat = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")
        return flat[:, : len(self.rows)].astype(bool)

    def passing_portably(self, filters):
        """The same, by stock operations."""
        programs = ops.compile_filter(filters, self.schema)
        masks = tf.function(portable.filter_masks)
        values = [c.value() for c in self.columns]
        return masks(programs, values, self.ids.value()).numpy()


def random_case(seed, num_rows, num_filters):
    rng = np.random.default_rng(seed)
    schema = filter_cases.random_schema(rng)
    rows = filter_cases.random_rows(rng, schema, num_rows)
    filters = [
        filter_cases.random_filter(rng, schema, rows)
        for _ in range(num_filters)
    ]
    return rng, Rows(schema, rows), filters


def check(rows, filters, passing):
    expected = rows.expected(filters)
    for text, got, wanted in zip(filters, passing, expected, strict=True):
        wrong = np.flatnonzero(got != wanted)
        assert not wrong.size, (text, rows.rows[wrong[0]], wanted[wrong[0]])


@pytest.mark.parametrize("seed", range(20))
def test_random_filters(seed):
    _, rows, filters = random_case(seed, num_rows=67, num_filters=50)
    check(rows, filters, rows.passing(filters))


@pytest.mark.parametrize("seed", range(2))
def test_random_filters_portably(seed):
    _, rows, filters = random_case(100 + seed, num_rows=40, num_filters=25)
    check(rows, filters, rows.passing_portably(filters))


@pytest.mark.parametrize("seed", range(10))
def test_spoiled_filters(seed):
    rng, rows, filters = random_case(200 + seed, num_rows=5, num_filters=80)
    num_bad = 0
    for text in filters:
        spoiled = filter_cases.spoiled_filter(rng, text)
        try:
            filter_reference.parse(spoiled, rows.schema)
        except filter_reference.FilterError:
            num_bad += 1
            with pytest.raises(
                tf.errors.InvalidArgumentError, match=r"column \d+: "
            ):
                ops.compile_filter([spoiled], rows.schema)
        else:
            check(rows, [spoiled], rows.passing([spoiled]))
    assert num_bad > 20


@pytest.mark.slow
def test_many_random_filters():
    for seed in range(200):
        _, rows, filters = random_case(1000 + seed, num_rows=67, num_filters=50)
        check(rows, filters, rows.passing(filters))


def test_words_of_the_language_name_no_attribute():
    for word in ("id", "AND", "exists", "Contains_All", "true"):
        with pytest.raises(ValueError, match="cannot name an attribute"):
            Attribute(word, "int")


def test_limits_come_from_the_schema():
    schema = IndexSchema(
        dim=1,
        attributes=(Attribute("free", "bool", dtype="int8"),),
        limits=FilterLimits(max_length=20, max_depth=2, max_words=8),
    )
    ops.compile_filter(["not (free)"], schema)
    for text, message in (
        ("free and free and free", "too long: 22 bytes, at most 20"),
        ("not ((free))", "too deep: at most 2 levels"),
        ("free or not free or free", "too long"),
        ("free or free or free", "program has 12 words, at most 8"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            ops.compile_filter([text], schema)
