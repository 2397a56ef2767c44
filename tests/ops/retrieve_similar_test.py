# SPDX-License-Identifier: Apache-2.0
"""Lintf>RetrieveSimilar against numpy, and what it refuses."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from lintf import ops
from lintf.index.schema import Attribute, IndexSchema, Quantization
from lintf.similarity import reference, rounding
from lintf.similarity.spec import SimilaritySpec
from tests.references.similarities import SPECS, drawn

ROWS, K = 150, 7
MOL = SimilaritySpec(4, 2, 16, gate="silu_softmax", gate_hidden=8)
CODES = Quantization(bins=16, repeats=4, seed=3)


class Learned:
    """An index with a column and a learned similarity, as plain arrays."""

    def __init__(self, spec, dtype="float32", rows=ROWS, seed=0):
        rng = np.random.default_rng(seed)
        self.spec, self.rows = spec, rows
        self.weights, self.queries, vectors = drawn(spec, 6, rows, seed)
        self.stored = vectors
        self.scales = None
        if dtype == "int8":
            scales = np.abs(vectors).max(axis=1) / np.float32(127)
            levels = np.rint(vectors / scales[:, None]).astype(np.int8)
            self.stored = levels
            self.scales = tf.Variable(scales)
            self.vectors = levels.astype(np.float32) * scales[:, None]
        else:
            self.stored = vectors.astype(
                tf.dtypes.as_dtype(dtype).as_numpy_dtype
            )
            self.vectors = self.stored.astype(np.float32)
        self.ids = rng.permutation(10 * rows)[:rows].astype(np.int64)
        self.ids[::13] = -1
        self.year = rng.integers(1990, 2000, rows)
        self.schema = IndexSchema(
            dim=spec.item_dim,
            attributes=(Attribute("year", "int"),),
            similarity=spec,
        )
        self.variables = {
            "resource": ops.IndexResource(),
            "ids": tf.Variable(self.ids),
            "embeddings": tf.Variable(self.stored),
            "num_rows": tf.Variable(rows, dtype=tf.int64),
            "columns": [tf.Variable(self.year)],
        }
        self.codes = None
        if spec.components_dim >= CODES.bins:
            words = CODES.words
            codes = tf.Variable(tf.zeros([-(-rows // 64), words, 64], tf.int64))
            ops.assign_codes(
                self.variables["resource"],
                codes,
                0,
                ops.sign_oporp(
                    vectors[:, : spec.components_dim],
                    bins=CODES.bins,
                    repeats=CODES.repeats,
                    seed=CODES.seed,
                ),
            )
            self.codes = codes

    def search(self, queries, filters, **kwargs):
        kwargs = {
            "k": K,
            "weights": list(self.weights.values()),
            "algorithm": "exact",
            **kwargs,
        }
        with_codes = {}
        if self.codes is not None:
            with_codes = {"codes": self.codes, "quantization": CODES}
        return ops.retrieve_similar(
            queries,
            ops.compile_filter(filters, self.schema),
            **self.variables,
            scales=self.scales,
            spec=self.spec,
            **with_codes,
            **kwargs,
        )

    def check(self, found, queries, passing):
        """Compares results with the reference's, but for near ties."""
        right = reference.scores(self.spec, self.weights, queries, self.vectors)
        close = rounding.error_bounds(
            self.spec, self.weights, queries, self.vectors
        )
        for i, passes in enumerate(passing & (self.ids != -1)):
            count = min(found.ids.shape[1], passes.sum())
            assert int(found.num_results[i]) == count
            rows = found.rows.numpy()[i, :count]
            scores = found.scores.numpy()[i, :count]
            assert len(set(rows)) == count and passes[rows].all()
            assert (np.diff(scores) <= 0).all()
            assert (np.abs(scores - right[i, rows]) <= close[i, rows]).all()
            out = passes.copy()
            out[rows] = False
            if out.any():
                bound = (right[i] - close[i])[out].max()
                assert bound <= scores.min()
            np.testing.assert_array_equal(
                found.ids.numpy()[i, :count], self.ids[rows]
            )
            assert (found.ids.numpy()[i, count:] == -1).all()
            assert np.isneginf(found.scores.numpy()[i, count:]).all()


def _same(first, second):
    for name in ("ids", "scores", "num_results", "rows"):
        a, b = getattr(first, name).numpy(), getattr(second, name).numpy()
        assert a.tobytes() == b.tobytes(), name


@pytest.mark.parametrize("spec", [*SPECS, MOL], ids=str)
def test_exact_is_the_references(spec):
    index = Learned(spec)
    filters = ["", "year >= 1995", "year == 1991", "not (year < 1999)", "", ""]
    years = index.year
    passing = np.ones([6, ROWS], bool)
    passing[1:4] = [years >= 1995, years == 1991, years >= 1999]
    found = index.search(index.queries, filters, return_columns=[0])
    index.check(found, index.queries, passing)
    live = index.ids != -1
    np.testing.assert_array_equal(
        found.num_scored, (passing & live).sum(axis=1)
    )
    rows = found.rows.numpy()
    np.testing.assert_array_equal(
        found.values[0].numpy()[rows >= 0], years[rows[rows >= 0]]
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_stored_dtypes_are_scored_as_they_are_stored(dtype):
    index = Learned(MOL, dtype)
    found = index.search(index.queries, [""] * 6)
    index.check(found, index.queries, np.ones([6, ROWS], bool))


@pytest.mark.parametrize(
    "spec",
    [s for s in [*SPECS, MOL] if s.is_convex],
    ids=str,
)
def test_bounded_gives_the_same_bits(spec):
    index = Learned(spec, rows=400)
    filters = ["", "year > 1993"] * 3
    exact = index.search(index.queries, filters)
    bounded = index.search(index.queries, filters, algorithm="bounded")
    _same(exact, bounded)
    assert (bounded.num_scored.numpy() <= exact.num_scored.numpy()).all()
    assert (bounded.num_scored.numpy() >= K).all()


@pytest.mark.parametrize("candidates", ["averaged", "components", "codes"])
def test_two_stages_score_candidates_exactly(candidates):
    index = Learned(MOL)
    filters = ["", "year > 1994", "year == 1992"] * 2
    exact = index.search(index.queries, filters)
    options = {"algorithm": "two_stage", "candidates": candidates}
    # Large enough for all of them to be candidates.
    _same(exact, index.search(index.queries, filters, budget=ROWS, **options))
    found = index.search(index.queries, filters, budget=40, **options)
    passing = exact.num_scored.numpy()
    scored = found.num_scored.numpy()
    assert (scored <= np.minimum(passing, 40)).all()
    assert (scored >= np.minimum(passing, K)).all()
    right = reference.scores(MOL, index.weights, index.queries, index.vectors)
    rows = found.rows.numpy()
    for i in range(6):
        used = rows[i][rows[i] >= 0]
        assert len(used) == min(K, passing[i])
        np.testing.assert_allclose(
            found.scores.numpy()[i, : len(used)], right[i, used], rtol=1e-4
        )
    years = index.year[rows[1][rows[1] >= 0]]
    assert (years > 1994).all()


@pytest.mark.parametrize(
    ("algorithm", "candidates"),
    [
        ("auto", "averaged"),
        ("exact", "averaged"),
        ("bounded", "averaged"),
        ("two_stage", "averaged"),
        ("two_stage", "components"),
        ("two_stage", "codes"),
        ("auto", "codes"),
    ],
)
def test_a_query_is_answered_alone_as_in_a_batch(algorithm, candidates):
    index = Learned(MOL, rows=300)
    filters = ["", "year > 1994", "year == 1992", "", "year < 1993", ""]
    options = {"algorithm": algorithm, "candidates": candidates, "budget": 20}
    whole = index.search(index.queries, filters, **options)
    for i in (0, 2, 4):
        alone = index.search(index.queries[i : i + 1], [filters[i]], **options)
        for name in ("ids", "scores", "num_results", "rows"):
            a = getattr(whole, name).numpy()[i : i + 1]
            assert a.tobytes() == getattr(alone, name).numpy().tobytes(), name


def test_empty_batches_and_empty_indexes():
    index = Learned(MOL)
    found = index.search(index.queries[:0], tf.zeros([0], tf.string))
    assert found.ids.shape == (0, K) and found.num_scored.shape == (0,)
    index.variables["num_rows"].assign(0)
    index.variables["resource"].invalidate()
    found = index.search(index.queries[:2], ["", "year > 1990"])
    assert found.num_results.numpy().tolist() == [0, 0]
    assert found.num_scored.numpy().tolist() == [0, 0]
    assert (found.ids.numpy() == -1).all()


def test_searches_are_counted_by_algorithm():
    index = Learned(MOL)

    def counts(learned):
        return ops.index_stats(
            index.variables["resource"],
            index.variables["ids"],
            index.variables["num_rows"],
            learned=learned,
        ).searches.numpy()

    index.search(index.queries, [""] * 6)
    index.search(index.queries[:2], [""] * 2, algorithm="bounded")
    index.search(index.queries[:1], [""], algorithm="two_stage", budget=10)
    assert counts(True).tolist() == [6, 2, 1]
    assert counts(False).tolist() == [0, 0, 0]


@pytest.mark.parametrize("spec", [SPECS[1], MOL], ids=str)
def test_measured_costs_are_taken(spec):
    index = Learned(spec)
    variables = {n: v for n, v in index.variables.items() if n != "columns"}
    coded = index.codes is not None
    costs = ops.similarity_costs(
        **variables,
        spec=spec,
        weights=list(index.weights.values()),
        codes=index.codes,
        quantization=CODES if coded else None,
    ).numpy()
    assert costs.shape == (9,)
    assert (costs > 0).all() and costs[8] <= 1
    found = index.search(
        index.queries, [""] * 6, algorithm="auto", costs=costs.tolist()
    )
    assert (found.num_results.numpy() == K).all()
    with pytest.raises(tf.errors.InvalidArgumentError, match="costs"):
        index.search(index.queries, [""] * 6, costs=costs.tolist()[:7])


@pytest.mark.parametrize("gate", ["relu", "sigmoid"])
def test_bounded_needs_a_convex_gate(gate):
    index = Learned(dataclasses.replace(MOL, gate=gate))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="bounded needs a convex `gate`"
    ):
        index.search(index.queries, [""] * 6, algorithm="bounded")


def _without(weights, position, value=None):
    return [
        value if i == position else w
        for i, w in enumerate(weights)
        if i != position or value is not None
    ]


def test_what_does_not_fit_is_refused():
    index = Learned(MOL)
    weights = list(index.weights.values())
    nan = weights[2].copy()
    nan[3, 1] = np.nan
    cases = [
        (_without(weights, 1), "there must be 4 `weights`"),
        (_without(weights, 1, weights[0]), "the weight gate_bias must have"),
        (_without(weights, 2, nan), "gate_output must be finite, got nan"),
    ]
    for bad, message in cases:
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            index.search(index.queries, [""] * 6, weights=bad)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"`queries` must have shape"
    ):
        index.search(index.queries[:, 1:], [""] * 6)
    bad = index.queries.copy()
    bad[4, 2] = np.inf
    with pytest.raises(tf.errors.InvalidArgumentError, match="query 4 holds"):
        index.search(bad, [""] * 6)
    for spec, message in (
        ({"temperature": -1.0}, "`temperature` must be a positive number"),
        ({"query_components": 33}, "must be at most 64"),
        ({"hidden": 4}, "`hidden` must be positive with"),
    ):
        index.spec = _Fields(MOL, **spec)
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            index.search(index.queries, [""] * 6)
    index.spec = dataclasses.replace(MOL, component_dim=17)
    index.codes = None
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="`embeddings` must have shape"
    ):
        index.search(np.zeros([1, index.spec.query_dim]), [""])
    index.spec = MOL
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="`candidates` must not be codes"
    ):
        index.search(index.queries, [""] * 6, candidates="codes")


class _Fields:
    """A spec that checks nothing."""

    def __init__(self, spec, **changes):
        self._fields = {**spec.to_dict(), **changes}
        self.components_dim = spec.components_dim

    def to_dict(self):
        return self._fields


def test_shapes_are_known_in_a_graph():
    index = Learned(MOL)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, MOL.query_dim]),
            *[tf.TensorSpec([None], tf.string)],
        ]
    )
    def search(queries, filters):
        found = index.search(queries, filters, return_columns=[0])
        return tuple(found[:5]), found.values

    (ids, scores, counts, rows, scored), (years,) = (
        search.get_concrete_function().structured_outputs
    )
    for found in (ids, scores, rows, years):
        assert found.shape.as_list() == [None, K]
    assert counts.shape.as_list() == scored.shape.as_list() == [None]

    with tf.Graph().as_default():
        for change, message in (
            ({"weights": [tf.zeros([2])] * 4}, "Shapes must be equal rank|"),
            ({"queries": tf.zeros([1, 3])}, "Dimensions must be equal"),
        ):
            arguments = {
                "queries": tf.zeros([1, MOL.query_dim]),
                "weights": [tf.zeros(s) for s in MOL.weight_shapes().values()],
                **change,
            }
            handles = [
                tf.raw_ops.VarHandleOp(dtype=dtype, shape=shape)
                for dtype, shape in (
                    (tf.int64, [9]),
                    (tf.float32, [9, MOL.item_dim]),
                    (tf.int64, []),
                )
            ]
            resource = ops.IndexResource("shapes")
            with pytest.raises(ValueError, match=message):
                ops.retrieve_similar(
                    arguments["queries"],
                    tf.zeros([1, 1], tf.int64),
                    resource,
                    *handles,
                    [],
                    spec=MOL,
                    weights=arguments["weights"],
                    k=1,
                )
