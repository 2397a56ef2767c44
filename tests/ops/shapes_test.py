# SPDX-License-Identifier: Apache-2.0
"""The shape functions: known and unknown dimensions, wrong ranks."""

import pytest
import tensorflow as tf

from lintf import ops
from lintf.index.schema import Attribute, FilterLimits, IndexSchema
from lintf.ops import library
from tests.ops.toy_index import ToyIndex

RAW = library.load()
SCHEMA = IndexSchema(
    dim=3,
    attributes=(
        Attribute("year", "int"),
        Attribute("price", "float", dtype="float32"),
    ),
    limits=FilterLimits(max_words=50),
)
RESOURCE = tf.TensorSpec([], tf.resource)


def _shapes(function, *specs):
    """Static shapes of a function's outputs; `()` marks an unknown rank."""
    concrete = tf.function(function, autograph=False).get_concrete_function(
        *(
            s if isinstance(s, tf.TensorSpec) else tf.TensorSpec(s, tf.float32)
            for s in specs
        )
    )
    outputs = tf.nest.flatten(concrete.structured_outputs)
    return [
        o.shape.as_list() if o.shape.rank is not None else None for o in outputs
    ]


def _spec(shape, dtype):
    return tf.TensorSpec(shape, dtype)


@pytest.mark.parametrize(
    "queries,items,mask,batch",
    [
        ([2, 3], [5, 3], [1, 5], 2),
        ([2, 3], [5, 3], [2, 5], 2),
        ([None, 3], [None, 3], [None, None], None),
        ([2, None], [None, None], [1, None], 2),
        (None, None, None, None),
    ],
)
def test_knn(queries, items, mask, batch):
    for search in (RAW.lintf_masked_knn, RAW.lintf_prefiltered_knn):
        shapes = _shapes(
            lambda *inputs: search(*inputs, k=4),  # noqa: B023
            queries,
            items,
            _spec(mask, tf.bool),
        )
        assert shapes == [[batch, 4], [batch, 4], [batch]]


@pytest.mark.parametrize(
    "queries,items,mask,message",
    [
        ([3], [5, 3], [1, 5], "must be rank 2 but is rank 1"),
        ([2, 3], [5, 3, 1], [1, 5], "must be rank 2 but is rank 3"),
        ([2, 3], [5, 3], [], "must be rank 2 but is rank 0"),
        ([2, 3], [5, 4], [1, 5], "must be equal, but are 3 and 4"),
        ([2, 3], [5, 3], [1, 6], "must be equal, but are 5 and 6"),
        ([2, 3], [5, 3], [3, 5], "1 row, or one for each of the 2 queries"),
    ],
)
def test_masked_knn_refuses(queries, items, mask, message):
    def search(queries, items, mask):
        return RAW.lintf_masked_knn(queries, items, mask, k=4)

    with pytest.raises(ValueError, match=message):
        _shapes(search, queries, items, _spec(mask, tf.bool))


def _quantized(queries, items, codes, mask):
    return RAW.lintf_quantized_knn(
        queries, items, codes, mask, k=4, bins=16, repeats=8
    )


def test_quantized_knn():
    for batch, count in ((2, 5), (None, None)):
        shapes = _shapes(
            _quantized,
            [batch, 32],
            [count, 32],
            _spec([count, 2], tf.int64),
            _spec([1, count], tf.bool),
        )
        assert shapes == [[batch, 4], [batch, 4], [batch]]
    for codes, message in (
        ([5, 3], "must be equal, but are 3 and 2"),
        ([6, 2], "must be equal, but are 6 and 5"),
        ([2], "must be rank 2 but is rank 1"),
    ):
        with pytest.raises(ValueError, match=message):
            _shapes(
                _quantized,
                [2, 32],
                [5, 32],
                _spec(codes, tf.int64),
                _spec([1, 5], tf.bool),
            )


def test_sign_oporp():
    def encode(vectors, bins=16):
        return RAW.lintf_sign_oporp(vectors, bins=bins, repeats=8)

    assert _shapes(encode, [3, 20]) == [[3, 2], [3, 128]]
    assert _shapes(encode, None) == [[None, 2], [None, 128]]
    with pytest.raises(ValueError, match="must be rank 2 but is rank 1"):
        _shapes(encode, [3])
    with pytest.raises(ValueError, match="multiple of 64"):
        _shapes(lambda v: encode(v, bins=3), [3, 20])


@pytest.mark.parametrize(
    "start,codes,message",
    [
        ([], [2, 4], "must be equal, but are 2 and 4"),
        ([], [2], "must be rank 2 but is rank 1"),
        ([1], [2, 2], "must be rank 0 but is rank 1"),
    ],
)
def test_assign_codes_refuses(start, codes, message):
    variable = tf.Variable(tf.zeros([1, 2, 64], tf.int64))
    index = ops.IndexResource()

    def assign(start, codes):
        RAW.lintf_assign_codes(
            index.resource_handle, variable.handle, start, codes
        )
        return codes

    with pytest.raises(ValueError, match=message):
        _shapes(assign, _spec(start, tf.int64), _spec(codes, tf.int64))
    assert _shapes(assign, _spec([], tf.int64), _spec([None, 2], tf.int64)) == [
        [None, 2]
    ]


def test_k_must_be_positive():
    with pytest.raises(ValueError, match="passed 0 less than minimum 1"):
        _shapes(
            lambda q, i, m: RAW.lintf_masked_knn(q, i, m, k=0),
            [2, 3],
            [5, 3],
            _spec([1, 5], tf.bool),
        )


def test_compile_filter():
    def compile_filter(filters):
        return ops.compile_filter(filters, SCHEMA)

    assert _shapes(compile_filter, _spec([7], tf.string)) == [[7, None]]
    assert _shapes(compile_filter, _spec([None], tf.string)) == [[None, None]]
    assert _shapes(compile_filter, _spec(None, tf.string)) == [[None, None]]
    with pytest.raises(ValueError, match="must be rank 1 but is rank 2"):
        _shapes(compile_filter, _spec([7, 1], tf.string))
    padded = _shapes(
        lambda f: ops.compile_filter(f, SCHEMA, pad_words=50),
        _spec([None], tf.string),
    )
    assert padded == [[None, 50]]


@pytest.mark.parametrize(
    "attr", ["kinds", "encodings", "types", "widths", "vocabulary_sizes"]
)
def test_compile_filter_wants_lists_of_one_length(attr):
    attrs = ops.filters.schema_attrs(SCHEMA)
    attrs[attr] = attrs[attr][:1]
    with pytest.raises(ValueError, match=f"`{attr}` must have one entry"):
        _shapes(
            lambda f: RAW.lintf_compile_filter(f, **attrs),
            _spec([1], tf.string),
        )


def test_filter_mask():
    index = ToyIndex(rows=5, capacity=8, dim=3)

    def mask(programs):
        return ops.filter_mask(
            programs, index.resource, index.ids, index.num_rows, index.columns
        )

    assert _shapes(mask, _spec([4, 9], tf.int64)) == [[4, None], [4]]
    assert _shapes(mask, _spec(None, tf.int64)) == [[None, None], [None]]
    with pytest.raises(ValueError, match="must be rank 2 but is rank 1"):
        _shapes(mask, _spec([4], tf.int64))


def test_retrieve():
    index = ToyIndex(rows=5, capacity=8, dim=3, widths={"uint8": 6})

    def retrieve(queries, programs):
        return index.retrieve(
            queries, programs, k=2, return_columns=[index.column("uint8"), 0]
        )

    programs = _spec([None, 7], tf.int64)
    assert _shapes(retrieve, [4, 3], programs) == [
        [4, 2],
        [4, 2],
        [4],
        [4, 2],
        [4, 2, 6],
        [4, 2],
    ]
    assert _shapes(retrieve, [None, None], programs)[4] == [None, 2, 6]
    # The batch is known from either input.
    assert _shapes(retrieve, [None, 3], _spec([9, 7], tf.int64))[0] == [9, 2]
    for queries, programs, message in [
        ([3], [1, 7], "must be rank 2 but is rank 1"),
        ([4, 3], [4], "must be rank 2 but is rank 1"),
        ([4, 3], [5, 7], "must be equal, but are 4 and 5"),
        ([4, 2], [4, 7], "must be equal, but are 2 and 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            _shapes(retrieve, queries, _spec(programs, tf.int64))


def _raw_retrieve(handles, **attrs):
    attrs = {"k": 2, "return_types": [], **attrs}
    return RAW.lintf_retrieve(
        tf.zeros([4, 3]),
        tf.zeros([4, 7], tf.int64),
        *handles[:4],
        handles[4:],
        [],
        [],
        **attrs,
    )


def test_retrieve_from_handles_of_unknown_variables():
    found = _shapes(
        lambda *handles: _raw_retrieve(
            handles, return_columns=[1], return_types=[tf.int8]
        ),
        *[RESOURCE] * 6,
    )
    assert found == [[4, 2], [4, 2], [4], [4, 2], None]


@pytest.mark.parametrize(
    "attrs,message",
    [
        (
            {"return_columns": [2], "return_types": [tf.int8]},
            r"`return_columns` must be in \[0, 2\)",
        ),
        (
            {"return_columns": [-1], "return_types": [tf.int8]},
            r"`return_columns` must be in \[0, 2\)",
        ),
        ({"return_columns": [0]}, "`return_types` must have one entry"),
        (
            {
                "return_columns": [0],
                "return_types": [tf.int8],
                "return_missing": [1, 2],
            },
            "`return_missing` must have 1 entries or none, got 2",
        ),
        ({"metric": "dot"}, "dot"),
        ({"algorithm": "ann"}, "ann"),
        ({"dim": 4}, "must be equal, but are 3 and 4"),
    ],
)
def test_retrieve_checks_its_attributes(attrs, message):
    with pytest.raises(ValueError, match=message):
        _shapes(
            lambda *handles: _raw_retrieve(handles, **attrs), *[RESOURCE] * 6
        )


def test_returned_types_must_be_those_of_the_columns():
    index = ToyIndex(rows=5, capacity=8, dim=3)

    def retrieve():
        handles = [
            index.resource.resource_handle,
            index.ids.handle,
            index.embeddings.handle,
            index.num_rows.handle,
            index.columns[0].handle,
        ]
        return _raw_retrieve(
            handles, return_columns=[0], return_types=[tf.int64]
        )

    with pytest.raises(ValueError, match="dtype of their column, int8"):
        _shapes(retrieve)


def test_handles_must_be_scalars():
    with pytest.raises(ValueError, match="must be rank 0 but is rank 1"):
        _shapes(
            lambda *handles: _raw_retrieve(handles),
            *[RESOURCE] * 5,
            _spec([2], tf.resource),
        )


def test_lookup():
    index = ToyIndex(rows=5, capacity=8, dim=3, widths={"int64": 2})
    shapes = _shapes(index.lookup, _spec([9], tf.int64))
    assert shapes[0] == [9, 3]
    assert shapes[1 + index.column("int64")] == [9, 2]
    assert shapes[1 + index.column("int8")] == [9]
    assert shapes[-2:] == [[9], [9]]
    assert _shapes(index.lookup, _spec(None, tf.int64))[0] == [None, 3]
    with pytest.raises(ValueError, match="must be rank 1 but is rank 0"):
        _shapes(index.lookup, _spec([], tf.int64))


def test_index_handle_and_stats():
    assert _shapes(RAW.lintf_index_handle) == [[]]
    index = ToyIndex(rows=5, capacity=8, dim=3)
    assert _shapes(index.stats) == [[], [], [3]]
    with pytest.raises(ValueError, match="must be rank 0 but is rank 1"):
        _shapes(
            lambda i: RAW.lintf_index_stats(
                i, index.ids.handle, index.num_rows.handle
            ),
            _spec([1], tf.resource),
        )


@pytest.mark.parametrize(
    "start,values,message",
    [
        ([], [2, 4], "must be equal, but are 3 and 4"),
        ([], [2], "must be equal rank, but are 1 and 0"),
        ([], [], "must be at least rank 1 but is rank 0"),
        ([1], [2, 3], "must be rank 0 but is rank 1"),
    ],
)
def test_assign_rows_refuses(start, values, message):
    index = ToyIndex(rows=5, capacity=8, dim=3)

    def assign(start, values):
        RAW.lintf_assign_rows(
            index.resource.resource_handle,
            index.embeddings.handle,
            start,
            values,
        )
        return start

    with pytest.raises(ValueError, match=message):
        _shapes(assign, _spec(start, tf.int64), values)
    assert _shapes(assign, _spec([], tf.int64), [None, 3]) == [[]]
    assert _shapes(assign, _spec(None, tf.int64), None) == [None]


def test_assign_rows_wants_the_dtype_of_the_variable():
    index = ToyIndex(rows=5, capacity=8, dim=3)

    def assign(values):
        RAW.lintf_assign_rows(
            index.resource.resource_handle,
            index.ids.handle,
            tf.constant(0, tf.int64),
            values,
        )
        return values

    with pytest.raises(ValueError, match="dtype of `variable`, int64"):
        _shapes(assign, [2])


def _update(index, **shapes):
    """Static shapes of an update of 9 rows, but for the given inputs."""
    names = ("id", "delete", "embedding", "partition", "previous", "offset")
    dtypes = (tf.int64, tf.bool, tf.float32) + (tf.int64,) * 3
    known = {name: [9] for name in names} | {"embedding": [9, 3]} | shapes
    values = [
        _spec(shapes.get(c.dtype.name, [9, *c.shape[1:]]), c.dtype)
        for c in index.columns
    ]

    def update(id, delete, embedding, partition, previous, offset, *values):
        log = ops.LogPosition(partition, previous, offset)
        return index.update(id, delete, embedding, list(values), log)

    specs = [_spec(known[n], d) for n, d in zip(names, dtypes, strict=True)]
    return _shapes(update, *specs, *values)


def test_update():
    index = ToyIndex(rows=5, capacity=8, dim=3, widths={"int64": 2})
    assert _update(index) == [[9], [9]]
    unknown = dict.fromkeys(("id", "delete", "embedding", "offset"))
    assert _update(index, **unknown) == [[9], [9]]
    assert _shapes(index.offsets) == [[2]]


@pytest.mark.parametrize(
    "shapes,message",
    [
        ({"id": []}, "must be rank 1 but is rank 0"),
        ({"delete": [8]}, "must be equal, but are 9 and 8"),
        ({"offset": [8]}, "must be equal, but are 9 and 8"),
        ({"embedding": [9, 4]}, "must be equal, but are 3 and 4"),
        ({"embedding": [8, 3]}, "must be equal, but are 9 and 8"),
        ({"int8": [8]}, "must be equal, but are 8 and 9"),
        ({"int8": [9, 1]}, "must be equal rank"),
        ({"int64": [9, 3]}, "must be equal, but are 3 and 2"),
    ],
)
def test_update_refuses(shapes, message):
    index = ToyIndex(rows=5, capacity=8, dim=3, widths={"int64": 2})
    with pytest.raises(ValueError, match=message):
        _update(index, **shapes)
