# SPDX-License-Identifier: Apache-2.0
"""What the soak checks with must itself find every kind of fault."""

import json

import numpy as np
import pytest

from lintf.index.schema import IndexSchema
from lintf.ingest.records import JsonDecoder, to_change
from lintf.ingest.source import Record
from lintf.serving.changes import ChangeEncoder
from tests.soak import changes, model
from tests.soak.changes import Difference, Generator, Model, Row


def _stored(row):
    return row.embedding(), row.attributes()


def test_numbers_survive_float32():
    row = Row(4000, (1 << 24) - 1, 7)
    vector = np.float32(row.embedding())
    assert vector.tolist() == row.embedding()
    assert len(row.embedding()) == changes.DIM


def test_row_of():
    row = Row(5, 8, 9)
    assert changes.row_of(5, row.attributes()) == row
    assert changes.row_of(6, row.attributes()) is None
    for name, value in Row(5, 10, 9).attributes().items():
        mixed = {**row.attributes(), name: value}
        same = mixed == row.attributes()
        assert (changes.row_of(5, mixed) == row) == same


def test_model_follows_the_generator():
    generator = Generator(items=20, seed=1)
    log = [generator.change() for _ in range(2000)]
    by_hand = Model()
    for key, value in log:
        by_hand.apply(key, value)
    assert by_hand.rows == generator._model.rows
    kinds = {
        "delete" if v is None else "/".join(sorted(json.loads(v)))
        for _, v in log
    }
    assert kinds == {"delete", "attributes", "attributes/embedding"}
    assert 0 < len(by_hand.rows) < 20


def test_model_replays_attributes_of_unknown_items():
    attributes = json.dumps({"attributes": Row(3, 1, 2).attributes()}).encode()
    rows = Model()
    rows.apply(b"3", attributes)
    assert not rows.rows


def test_generator_is_seeded():
    some, same, other = (Generator(50, seed) for seed in (1, 1, 2))
    assert [some.change() for _ in range(50)] == [
        same.change() for _ in range(50)
    ]
    assert some.change() != other.change()


def _encoder():
    index = model.empty_index(capacity=1, partitions=1)
    served = model.served(index)
    return ChangeEncoder(
        IndexSchema.from_json(index.schema.to_json()),
        model.signature_defs(served),
    )


def test_records_are_what_they_claim():
    encoder = _encoder()

    def check(key, value):
        record = Record(0, 5, key, value)
        encoder.check(to_change(record, 4, JsonDecoder(), encoder.id_from_text))

    generator = Generator(20, seed=3)
    for _ in range(100):
        check(*generator.change())
    for key, value in changes.MALFORMED:
        with pytest.raises(ValueError):
            check(key, value)
    rows = Model()
    for key, value in changes.MALFORMED:
        rows.apply(key, value)
    assert not rows.rows


ONE, TWO = Row(1, 4, 4), Row(2, 5, 7)


@pytest.mark.parametrize(
    ("stored", "live", "wanted"),
    [
        ([_stored(ONE), _stored(TWO), None], 2, Difference()),
        ([_stored(ONE), None, None], 1, Difference(lost=1)),
        ([_stored(ONE), _stored(Row(2, 5, 6)), None], 2, Difference(lost=1)),
        (
            [_stored(ONE), _stored(TWO), _stored(Row(3, 1, 1))],
            3,
            Difference(twice=1),
        ),
        ([_stored(ONE), _stored(TWO), None], 3, Difference(twice=1)),
        (
            [_stored(ONE), (TWO.embedding(), Row(2, 6, 7).attributes()), None],
            2,
            Difference(torn=1),
        ),
        (
            [_stored(ONE), (ONE.embedding(), TWO.attributes()), None],
            2,
            Difference(torn=1),
        ),
    ],
)
def test_compare(stored, live, wanted):
    rows = {1: ONE, 2: TWO}
    assert changes.compare(rows, [1, 2, 3], stored, live) == wanted


def test_tally_text():
    both = Difference(lost=1, torn=2) + Difference(twice=3)
    assert str(both) == "lost 1 twice 3 torn 2"
