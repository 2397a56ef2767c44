# SPDX-License-Identifier: Apache-2.0
"""Schemas: what is refused, what is chosen, and JSON both ways."""

import dataclasses
import json

import pytest

from lintf.index.schema import (
    Attribute,
    FilterLimits,
    IndexSchema,
    Quantization,
    infer_attribute,
)
from lintf.similarity.spec import SimilaritySpec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("1st", "int"), "not starting with a digit"),
        (("id", "int"), "a meaning of its own"),
        (("NOT", "int"), "a meaning of its own"),
        (("x", "text"), "`kind` must be one of"),
        (("x", "int", "hash"), "can be encoded as number"),
        (("x", "int", "number", "int32"), "is stored as int64"),
        (("x", "category", "vocabulary", "uint8", 2), "`width` must be 1"),
        (("x", "int", "number", "int64", 1, ("a",)), "takes no vocabulary"),
        (
            ("x", "tags", "bits", "uint8", 1, tuple("abcdefgh")),
            "has room for 7 values",
        ),
        (
            ("x", "category", "vocabulary", "uint8", 1, ("a", "a")),
            "distinct values",
        ),
    ],
)
def test_attribute_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Attribute(*arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "`dim` must be"),
        ({"metric": "dot"}, "`metric` must be one of"),
        ({"id_dtype": "int32"}, "`id_dtype` must be one of"),
        (
            {"attributes": (Attribute("a", "int"), Attribute("a", "int"))},
            "a more than once",
        ),
        ({"format_version": 99}, "got format 99"),
        ({"dtype": "float64"}, "`dtype` must be one of float32, bfloat16"),
        ({"dtype": "none"}, '"none" stores codes alone, so there must be'),
        ({"dtype": "int8", "dim": 70_000}, "`dim` must be at most 65536"),
    ],
)
def test_schema_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        IndexSchema(**{"dim": 4, **changes})


def test_limits_refuse():
    with pytest.raises(ValueError, match="`max_depth` must be a positive"):
        FilterLimits(max_depth=0)


def test_json_round_trip_keeps_everything():
    schema = IndexSchema(
        dim=7,
        metric="cosine",
        id_dtype="string",
        attributes=(
            infer_attribute("genre", "tags", [["ü", "b"], None, ["c"]]),
            infer_attribute("year", "int", [], dtype="int16"),
            infer_attribute("who", "category", ["x"], encoding="hash"),
        ),
        limits=FilterLimits(max_words=100),
    )
    assert IndexSchema.from_json(schema.to_json()) == schema
    coded = dataclasses.replace(
        schema,
        dtype="int8",
        quantization=Quantization(2, 32, seed=5, scoring="symmetric"),
    )
    assert IndexSchema.from_json(coded.to_json()) == coded
    text = schema.to_json()
    text = text.replace('"format_version": 2', '"format_version": 4')
    with pytest.raises(ValueError, match="got format 4; export the index"):
        IndexSchema.from_json(text)


def test_a_similarity_travels_with_its_schema():
    spec = SimilaritySpec(2, 3, 4, gate="relu", gate_hidden=7)
    plain = IndexSchema(dim=spec.item_dim)
    assert "similarity" not in json.loads(plain.to_json())
    assert (plain.query_dim, plain.coded_dim) == (18, 18)
    schema = dataclasses.replace(
        plain, similarity=spec, quantization=Quantization(2, 32)
    )
    assert schema.format_version == 3
    assert (schema.query_dim, schema.coded_dim) == (14, 12)
    assert IndexSchema.from_json(schema.to_json()) == schema
    without = dataclasses.replace(schema, similarity=None, quantization=None)
    assert without == plain and without.to_json() == plain.to_json()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "l2"}, '`metric` must be "inner_product" with a learned'),
        ({"dim": 17}, "`dim` must be 18, the length of the similarity's item"),
        ({"format_version": 1}, "index format 1 has no similarity"),
        (
            {"dtype": "none", "quantization": Quantization(2, 32)},
            "must store its item vectors",
        ),
        ({"quantization": Quantization(16, 4)}, "`bins` must be at most 12"),
    ],
)
def test_a_similarity_must_fit_its_schema(arguments, message):
    spec = SimilaritySpec(2, 3, 4, gate="relu")
    with pytest.raises(ValueError, match=message):
        IndexSchema(**{"dim": 18, "similarity": spec, **arguments})


def test_format_1_has_float32_embeddings_and_no_codes():
    text = (
        '{"attributes": [], "dim": 4, "format_version": 1, "id_dtype": "int64",'
        ' "limits": {"max_depth": 32, "max_length": 262144, "max_words": 9},'
        ' "metric": "l2"}'
    )
    schema = IndexSchema.from_json(text)
    assert (schema.dtype, schema.quantization) == ("float32", None)
    assert schema.limits.max_words == 9
    assert schema.to_json() == text
    for changes in ({"dtype": "int8"}, {"quantization": Quantization(1, 64)}):
        with pytest.raises(ValueError, match="index format 1 has float32"):
            dataclasses.replace(schema, **changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": 0}, "`bins` must be an integer of at least 1, got 0"),
        ({"repeats": True}, "`repeats` must be an integer of at least 1"),
        ({"seed": -1}, "`seed` must be an integer of at least 0"),
        ({"seed": 1 << 63}, "`seed` must fit int64"),
        ({"shortlist": 0}, "`shortlist` must be an integer of at least 1"),
        (
            {"bins": 10, "repeats": 33},
            r"must be a multiple of 64.*got 10 \* 33 = 330",
        ),
        ({"repeats": 1024}, "must be at most 4096, got 8 .* 1024 = 8192"),
        ({"scoring": "both"}, "`scoring` must be one of symmetric, asymmetric"),
    ],
)
def test_quantization_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"quantization: .*{message}"):
        Quantization(**{"bins": 8, "repeats": 32, **arguments})


@pytest.mark.parametrize(
    ("dim", "bins", "repeats", "message"),
    [
        (16, 32, 2, "`bins` must be at most 16.*got 32; use fewer bins"),
        (64, 64, 2, "2 repeats of 64 bins on embeddings of length 64 are the"),
        (64, 64, 1, None),
        (65, 64, 2, None),
        (8, 1, 64, None),
    ],
)
def test_codes_must_fit_the_embeddings(dim, bins, repeats, message):
    codes = Quantization(bins, repeats)
    if message is None:
        schema = IndexSchema(dim=dim, dtype="none", quantization=codes)
        assert schema.quantization.words == bins * repeats // 64
        return
    with pytest.raises(ValueError, match=message):
        IndexSchema(dim=dim, quantization=codes)


@pytest.mark.parametrize(
    ("kind", "num_values", "encoding", "dtype"),
    [
        ("category", 254, "vocabulary", "uint8"),
        ("category", 255, "vocabulary", "uint16"),
        ("category", 65_535, "vocabulary", "uint32"),
        ("category", (1 << 20) + 1, "hash", "int64"),
        ("tags", 7, "bits", "uint8"),
        ("tags", 8, "bits", "uint16"),
        ("tags", 63, "bits", "uint64"),
        ("tags", 64, "vocabulary", "uint8"),
    ],
)
def test_inference_takes_the_cheapest(kind, num_values, encoding, dtype):
    values = [str(i) for i in range(num_values)]
    if kind == "tags":
        values = [[v] for v in values]
    attribute = infer_attribute("x", kind, values)
    assert (attribute.encoding, attribute.dtype) == (encoding, dtype)


def test_inferred_width_is_the_most_distinct_tags_of_a_row():
    rows = [[str(i)] for i in range(80)] + [["1", "2", "2", "3", ""], None]
    assert infer_attribute("x", "tags", rows).width == 3


def test_unknown_attribute_lists_the_known():
    schema = IndexSchema(dim=1, attributes=(Attribute("year", "int"),))
    with pytest.raises(KeyError, match="the index has: year"):
        schema.attribute("yaer")
